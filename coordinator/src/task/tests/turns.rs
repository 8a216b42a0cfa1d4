//! How long the loop is busy with one thing.

use std::sync::atomic::{AtomicU64, Ordering};

use firn_proto::journal::Taking;
use firn_proto::limits::STANDBY_STATE_BYTES_MAX;

use super::*;

/// Each look at it takes a millisecond.
struct BusyClock(AtomicU64);

impl Clock for BusyClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn mono(&self) -> Mono {
        Mono(self.0.fetch_add(1000, Ordering::Relaxed))
    }
}

#[tokio::test(start_paused = true)]
async fn the_loop_comes_round_though_many_messages_take_long() {
    let bucket = MemoryBucket::default();
    let environment = Environment {
        clock: Arc::new(BusyClock(AtomicU64::new(0))),
        ..environment()
    };
    let config = CoordinatorConfig::default();
    let started = Coordinator::start(bucket.opener(), config, environment, Arc::new(Alone));
    let (coordinator, _task) = started.await.unwrap();
    let before = bucket.slots();
    let created = (0..200).map(|n| ask(&coordinator, create(&format!("t{n}"), 1)));
    for created in created.collect::<Vec<_>>() {
        created.await.unwrap().unwrap();
    }
    // One at the end of each turn.
    let slots = bucket.slots() - before;
    assert!(slots > 3, "{slots} turns");
}

#[tokio::test]
async fn a_state_that_is_known_to_be_too_long_is_not_encoded_for_standbys() {
    let bucket = MemoryBucket::default();
    let taking = Taking::next_free(Bytes::new());
    let opened = bucket.opener().open(taking).await.unwrap();
    let (config, environment) = (CoordinatorConfig::default(), environment());
    let peers: Arc<dyn Peers> = Arc::new(Alone);
    let standing = Arc::new(Standing::new());
    let seated = Seated {
        config: &config,
        environment: &environment,
        peers: &peers,
        standing: &standing,
        own: None,
        gone: None,
        known: None,
        led_at: Mono(0),
        above: 0,
    };
    let mut leader = Leader::new(opened, seated).unwrap();
    standing.feed().want_state();
    leader.snapshot_bytes = STANDBY_STATE_BYTES_MAX;
    assert!(leader.wanted_state().is_some());
    leader.snapshot_bytes += 1;
    assert_eq!(leader.wanted_state(), None);
    assert!(!standing.feed().wants_state(), "they are told so");
}
