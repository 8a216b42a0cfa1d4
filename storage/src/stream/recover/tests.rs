use std::sync::Arc;

use firn_proto::env::{Clock, Entropy};

use super::super::slot::{SlotBody, seal_object};
use super::super::testing::{TokioClock, data_object, name, nonce};
use super::*;
use crate::bucket::Purpose;
use crate::bucket::testing::FaultStore;

fn bucket() -> Bucket {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
    let entropy = Arc::new(Entropy::from_seed(1));
    Bucket::from_store(Arc::new(FaultStore::in_memory()), clock, entropy)
}

async fn put(bucket: &Bucket, slot: u64, object: impl Into<Bytes>) {
    let key = name().key(Slot(slot));
    bucket
        .create_once(Purpose::Wal, &key, vec![object.into()])
        .await;
}

async fn put_data(bucket: &Bucket, slots: Range<u64>) {
    for slot in slots {
        let before = if slot == 0 {
            Nonce::NONE
        } else {
            nonce(slot - 1)
        };
        put(bucket, slot, data_object(slot, nonce(slot), before)).await;
    }
}

async fn walk(bucket: &Bucket, slots: Range<u64>) -> Vec<Result<Slot, ReadError>> {
    let name = name();
    let slots = Slot(slots.start)..Slot(slots.end);
    read_indexes(bucket, &name, slots, Some(Nonce::NONE), 8)
        .map(|view| view.map(|view| view.header.slot))
        .collect()
        .await
}

#[tokio::test(start_paused = true)]
async fn a_free_slot_is_none() {
    let bucket = bucket();
    let name = name();
    assert!(
        read_header(&bucket, &name, Slot(0))
            .await
            .unwrap()
            .is_none()
    );
    assert!(read_index(&bucket, &name, Slot(0)).await.unwrap().is_none());
    assert!(
        read_object(&bucket, &name, Slot(0))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn indexes_come_in_the_order_of_slots() {
    let bucket = bucket();
    put_data(&bucket, 0..40).await;
    let slots: Vec<_> = walk(&bucket, 0..40)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(slots, (0..40).map(Slot).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_index_longer_than_the_guess_takes_a_second_request() {
    let bucket = bucket();
    for (slot, len) in [
        (0, INDEX_GUESS - 128),
        (1, INDEX_GUESS - 127),
        (2, 3 * INDEX_GUESS),
    ] {
        let index = Bytes::from(vec![7; usize::try_from(len).unwrap()]);
        let object = SlotBody::new(index.clone(), vec![Bytes::from_static(b"body")]);
        let object = object.into_object(&name(), Slot(slot), nonce(slot), Nonce::NONE);
        put(&bucket, slot, object.concat()).await;
        let view = read_index(&bucket, &name(), Slot(slot))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(view.index, index);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hole_or_a_seal_in_the_durable_part_ends_the_walk_loudly() {
    let bucket = bucket();
    put_data(&bucket, 0..3).await;
    put(&bucket, 3, seal_object(&name(), Slot(3), nonce(90))).await;
    let with_seal = walk(&bucket, 0..6).await;
    assert_eq!(with_seal.len(), 4);
    assert!(matches!(
        with_seal[3],
        Err(ReadError::Missing {
            found: "a seal",
            ..
        })
    ));
    let with_hole = walk(&bucket, 4..8).await;
    assert_eq!(with_hole.len(), 1);
    assert!(matches!(
        with_hole[0],
        Err(ReadError::Missing {
            found: "absent",
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_replaced_slot_breaks_the_walk() {
    let bucket = bucket();
    put_data(&bucket, 0..2).await;
    put(&bucket, 2, data_object(2, nonce(2), nonce(70))).await;
    let slots = walk(&bucket, 0..3).await;
    let broken = &slots[2];
    assert!(
        matches!(
            broken,
            Err(ReadError::Corrupt {
                fault: SlotFault::Chain { .. },
                ..
            })
        ),
        "{broken:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_index_is_told_with_its_key() {
    let bucket = bucket();
    let mut object = data_object(0, nonce(0), Nonce::NONE).to_vec();
    object[HEADER_LEN] ^= 1;
    put(&bucket, 0, object).await;
    let error = read_index(&bucket, &name(), Slot(0)).await.unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Corrupt {
                fault: SlotFault::IndexCrc,
                ..
            }
        ),
        "{error}"
    );
}
