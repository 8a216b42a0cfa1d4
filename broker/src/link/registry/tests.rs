use firn_coordinator::ProcessProof;
use firn_proto::cluster::LinkAddress;
use firn_proto::limits::LINK_HELLO_BYTES_MAX;
use firn_storage::bucket::testing::FaultStore;
use firn_storage::bucket::{Operation, Purpose};

use super::*;
use crate::link::testing::TestClock;

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

fn card(byte: u8) -> ProcessCard {
    ProcessCard {
        broker: None,
        link: LinkAddress {
            host: "127.0.0.1".to_owned(),
            port: 1,
            fingerprint: Fingerprint([byte; 32]),
        },
        listeners: Vec::new(),
        process: ProcessProof {
            boot: String::new(),
            namespaces: String::new(),
            pid: 1,
            started: 0,
        },
        shown: "a test".to_owned(),
    }
}

fn registry() -> (Registry, Bucket, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    let entropy = Arc::new(Entropy::from_seed(1));
    let bucket = Bucket::memory(Arc::clone(&clock) as _, Arc::clone(&entropy));
    let registry = Registry::new(bucket.clone(), CLUSTER, Arc::clone(&clock) as _, entropy);
    (registry, bucket, clock)
}

/// GETs that the bucket has had.
fn gets(bucket: &Bucket) -> u64 {
    let usage = bucket.usage();
    let rows = usage.rows.iter();
    let gets = rows.filter(|r| r.purpose == Purpose::Meta && r.operation == Operation::Get);
    gets.map(|row| row.requests).sum()
}

#[tokio::test]
async fn a_card_is_read_once_and_again_when_it_is_old() {
    let (registry, bucket, clock) = registry();
    registry.register(&card(1)).await.unwrap();
    let one = Fingerprint([1; 32]);
    assert_eq!(registry.known(one), None, "nobody has asked yet");
    for _ in 0..3 {
        let found = registry.card(one).await.unwrap();
        assert_eq!(found.as_deref(), Some(&card(1)));
    }
    assert_eq!(gets(&bucket), 1);
    clock.advance(LINK_CARD_LASTS);
    registry.card(one).await.unwrap();
    assert_eq!(gets(&bucket), 2);
    registry.forget(&[one]).await.unwrap();
    assert_eq!(registry.card(one).await.unwrap(), None);
}

#[tokio::test]
async fn a_card_that_no_link_could_begin_with_is_not_registered() {
    let (registry, bucket, _clock) = registry();
    let long = ProcessCard {
        shown: "x".repeat(LINK_HELLO_BYTES_MAX),
        ..card(1)
    };
    let refused = registry.register(&long).await.unwrap_err();
    assert!(refused.to_string().contains("allowed"), "{refused}");
    let found = processes::registered(&bucket, 10).await.unwrap();
    assert!(found.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_was_registered_still_is_while_the_bucket_does_not_answer() {
    let clock = Arc::new(TestClock::default());
    let entropy = Arc::new(Entropy::from_seed(1));
    let store = FaultStore::in_memory();
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&clock) as _,
        Arc::clone(&entropy),
    );
    let registry = Registry::new(bucket, CLUSTER, Arc::clone(&clock) as _, entropy);
    registry.register(&card(1)).await.unwrap();
    let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    registry.card_of_stranger(one).await.unwrap();
    clock.advance(LINK_CARD_LASTS);
    store.set_outage(true);
    let found = registry.card_of_stranger(one).await.unwrap();
    assert_eq!(found.as_deref(), Some(&card(1)));
    let unknown = registry.card_of_stranger(two).await;
    assert!(
        matches!(unknown, Err(RegistryError::Bucket(_))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn who_is_not_registered_may_be_a_second_later() {
    let (registry, bucket, clock) = registry();
    let one = Fingerprint([1; 32]);
    for _ in 0..3 {
        assert_eq!(registry.card_of_stranger(one).await, Ok(None));
    }
    assert_eq!(gets(&bucket), 1);
    registry.register(&card(1)).await.unwrap();
    clock.advance(LINK_CARD_ABSENT_LASTS);
    assert!(registry.card_of_stranger(one).await.unwrap().is_some());
}

#[tokio::test]
async fn strangers_decide_neither_how_often_the_bucket_is_asked_nor_how_much_is_kept() {
    let (registry, bucket, clock) = registry();
    registry.register(&card(1)).await.unwrap();
    let one = Fingerprint([1; 32]);
    registry.card(one).await.unwrap();
    let mut refused = 0;
    for stranger in 0..2 * LINK_CARDS_MAX as u64 {
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&stranger.to_le_bytes());
        match registry.card_of_stranger(Fingerprint(bytes)).await {
            Ok(card) => assert_eq!(card, None),
            Err(RegistryError::Crowded) => {
                refused += 1;
                clock.advance(Duration::from_secs(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && gets(&bucket) > LINK_CARDS_MAX as u64);
    assert_eq!(registry.with(|known| known.cards.len()), LINK_CARDS_MAX);
    assert!(
        registry.known(one).is_some(),
        "members are kept before strangers"
    );
}
