use std::sync::Arc;

use firn_proto::env::{Clock, Entropy};
use proptest::prelude::*;

use super::super::testing::{TokioClock, body, data_object, name, nonce};
use super::super::{StreamEvent, StreamHandle, StreamSpec};
use super::*;
use crate::bucket::Purpose;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};

struct World {
    store: FaultStore,
    bucket: Bucket,
    env: StreamEnv,
}

fn world(seed: u64) -> World {
    let store = FaultStore::in_memory();
    let env = StreamEnv {
        clock: Arc::new(TokioClock::new()) as Arc<dyn Clock>,
        entropy: Arc::new(Entropy::from_seed(seed)),
    };
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&env.clock),
        Arc::clone(&env.entropy),
    );
    World { store, bucket, env }
}

fn spec(from: u64) -> SealSpec {
    SealSpec {
        stream: name(),
        floor: Slot(0),
        from: Slot(from),
    }
}

impl World {
    /// A stream with data in `slots`, as its writer left them.
    async fn fill(&self, slots: impl IntoIterator<Item = u64>) {
        for slot in slots {
            let before = if slot == 0 {
                Nonce::NONE
            } else {
                nonce(slot - 1)
            };
            let object = data_object(slot, nonce(slot), before);
            let key = name().key(Slot(slot));
            self.bucket
                .create_once(Purpose::Wal, &key, vec![object])
                .await;
        }
    }

    async fn seal(&self, from: u64) -> Result<Sealed, SealError> {
        seal(&self.bucket, spec(from), &self.env).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_the_first_gap_and_stays_it() {
    let world = world(1);
    world.fill([0, 1, 2, 4, 5]).await;
    let first = world.seal(2).await.unwrap();
    assert_eq!(first.end, Slot(3));
    assert_eq!(first.last_nonce, Some(nonce(2)));
    world.fill([3]).await;
    assert_eq!(
        world.seal(2).await.unwrap(),
        first,
        "a late put changes nothing"
    );
    assert_eq!(
        world.seal(0).await.unwrap(),
        first,
        "wherever the walk begins"
    );
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_seal_put_heals() {
    let faults = [
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::AppliedLater,
        Fault::Conflict,
        Fault::Throttled,
        Fault::FailedAfter,
        Fault::HangAfter,
        Fault::Denied,
    ];
    for fault in faults {
        let world = world(1);
        world.fill([0, 1]).await;
        world.store.inject(Rule::new(On::Put, fault).times(3));
        assert_eq!(world.seal(0).await.unwrap().end, Slot(2), "{fault:?}");
        while world.store.deliver().await.is_some() {}
        assert_eq!(world.seal(0).await.unwrap().end, Slot(2), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_an_acknowledged_slot_is_told_by_name_and_nothing_is_sealed() {
    let world = world(1);
    world.fill([0, 1]).await;
    let error = world.seal(4).await.unwrap_err();
    assert!(matches!(error, SealError::PrefixLost { .. }), "{error}");
    assert!(
        world
            .bucket
            .get(Purpose::Wal, &name().key(Slot(4)))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_slot_stops_the_walk() {
    let world = world(1);
    world.fill([0]).await;
    let key = name().key(Slot(1));
    world
        .bucket
        .create_once(Purpose::Wal, &key, vec!["not a slot".into()])
        .await;
    let error = world.seal(0).await.unwrap_err();
    assert!(
        matches!(&error, SealError::Corrupt { key: at, .. } if *at == key),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_down_is_given_up_after_a_while() {
    let world = world(1);
    world.store.set_outage(true);
    let error = world.seal(0).await.unwrap_err();
    assert!(matches!(error, SealError::Unavailable { .. }), "{error}");
}

/// A live writer and two sealers over a store with faults: all must come to one end, and what the
/// writer was told is durable lies below it.
async fn race(seed: u64) {
    let world = world(seed);
    let roll = |of: u64| world.env.entropy.next_u64() % of;
    let faults = [
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::Conflict,
        Fault::FailedAfter,
        Fault::Throttled,
    ];
    for _ in 0..roll(12) {
        let fault = faults[usize::try_from(roll(5)).unwrap()];
        world
            .store
            .inject(Rule::new(On::Put, fault).after(roll(30)));
    }
    let stream = StreamSpec {
        stream: name(),
        first_slot: Slot(0),
        prev_nonce: Nonce::NONE,
    };
    let (stream, mut events) = StreamHandle::start(world.bucket.clone(), stream, world.env.clone());
    let writer = async {
        let mut written = 0;
        while stream.submit(body(&written.to_string())).await.is_ok() {
            written += 1;
            assert!(written < 500, "seed {seed}: the writer is never fenced");
            tokio::task::yield_now().await;
        }
    };
    let durable = async {
        let mut end = Slot(0);
        while let Some(event) = events.recv().await {
            match event {
                StreamEvent::Durable { slot, .. } => end = slot.next(),
                StreamEvent::Fenced { at, .. } => assert_eq!(at, end, "seed {seed}"),
            }
        }
        end
    };
    let sealer = async |turns: u64| {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        world.seal(0).await.unwrap().end
    };
    let (turns_a, turns_b) = (roll(60), roll(60));
    let ((), told, a, b) = tokio::join!(writer, durable, sealer(turns_a), sealer(turns_b));
    assert_eq!(a, b, "seed {seed}: two sealers, one end");
    assert_eq!(told, a, "seed {seed}: I2 and I3");
}

#[tokio::test(start_paused = true)]
async fn a_live_writer_and_two_sealers_agree_on_one_end() {
    for seed in 0..300 {
        race(seed).await;
    }
}

proptest! {
    #[test]
    fn the_end_is_the_first_gap_whatever_lies_behind_it(
        present in proptest::collection::vec(any::<bool>(), 1..40),
        hint in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let world = world(1);
            let slots = present.iter().enumerate().filter(|(_, there)| **there);
            world.fill(slots.map(|(slot, _)| slot as u64)).await;
            let gap = present.iter().take_while(|there| **there).count() as u64;
            let from = hint.index(usize::try_from(gap).unwrap() + 1) as u64;
            let end = world.seal(from).await.unwrap().end;
            prop_assert_eq!(end, Slot(gap));
            Ok(())
        })?;
    }
}
