use std::sync::Arc;
use std::time::Duration;

use super::super::testing::{TokioClock, body, name};
use super::super::{SealSpec, read_objects, seal};
use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};

struct World {
    store: FaultStore,
    bucket: Bucket,
    env: StreamEnv,
}

fn world() -> World {
    let store = FaultStore::in_memory();
    let env = StreamEnv {
        clock: Arc::new(TokioClock::new()),
        entropy: Arc::new(Entropy::from_seed(1)),
    };
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&env.clock),
        Arc::clone(&env.entropy),
    );
    World { store, bucket, env }
}

impl World {
    fn start(&self) -> (StreamHandle, StreamEvents) {
        let spec = StreamSpec {
            stream: name(),
            first_slot: Slot(0),
            prev_nonce: Nonce::NONE,
        };
        StreamHandle::start(self.bucket.clone(), spec, self.env.clone())
    }

    async fn seal(&self, from: u64) -> Slot {
        let spec = SealSpec {
            stream: name(),
            floor: Slot(0),
            from: Slot(from),
        };
        seal(&self.bucket, spec, &self.env).await.unwrap().end
    }

    async fn bodies(&self, end: Slot) -> Vec<String> {
        let name = name();
        let mut objects = std::pin::pin!(read_objects(
            &self.bucket,
            &name,
            Slot(0)..end,
            Some(Nonce::NONE),
            4
        ));
        let mut bodies = Vec::new();
        while let Some(object) = objects.next().await {
            bodies.push(String::from_utf8(object.unwrap().body.to_vec()).unwrap());
        }
        bodies
    }
}

async fn durable_slots(events: &mut StreamEvents, count: usize) -> Vec<Slot> {
    let mut slots = Vec::new();
    while slots.len() < count {
        match events.recv().await {
            Some(StreamEvent::Durable { slot, .. }) => slots.push(slot),
            other => panic!("{other:?} after {slots:?}"),
        }
    }
    slots
}

fn numbered(count: u64) -> Vec<Slot> {
    (0..count).map(Slot).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_submitted_is_durable_in_order_and_reads_back() {
    let world = world();
    let (stream, mut events) = world.start();
    let received = tokio::spawn(async move { durable_slots(&mut events, 20).await });
    for number in 0..20 {
        let slot = stream.submit(body(&number.to_string())).await;
        assert_eq!(slot, Ok(Slot(number)));
    }
    assert_eq!(stream.close().await, Ok(Slot(20)));
    assert_eq!(received.await.unwrap(), numbered(20));
    let expected: Vec<_> = (0..20).map(|number| format!("{number}!")).collect();
    assert_eq!(world.bodies(Slot(20)).await, expected);
}

#[tokio::test(start_paused = true)]
async fn every_passing_fault_of_a_put_heals_with_one_body_per_slot() {
    let faults = [
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::AppliedLater,
        Fault::Conflict,
        Fault::Throttled,
        Fault::FailedBefore,
        Fault::FailedAfter,
        Fault::Hang,
        Fault::HangAfter,
        Fault::Denied,
    ];
    for fault in faults {
        let world = world();
        world
            .store
            .inject(Rule::new(On::Put, fault).after(1).times(3));
        let (stream, mut events) = world.start();
        for number in 0..4 {
            stream.submit(body(&number.to_string())).await.unwrap();
        }
        assert_eq!(
            durable_slots(&mut events, 4).await,
            numbered(4),
            "{fault:?}"
        );
        while world.store.deliver().await.is_some() {}
        assert_eq!(
            world.bodies(Slot(4)).await,
            ["0!", "1!", "2!", "3!"],
            "{fault:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_read_back_heal_too() {
    for fault in [
        Fault::BitFlip,
        Fault::Truncated,
        Fault::Unseen,
        Fault::Throttled,
        Fault::Hang,
    ] {
        let world = world();
        world.store.inject(Rule::new(On::Put, Fault::AnswerLost));
        world.store.inject(Rule::new(On::Get, fault).times(2));
        let (stream, mut events) = world.start();
        stream.submit(body("0")).await.unwrap();
        assert_eq!(
            durable_slots(&mut events, 1).await,
            numbered(1),
            "{fault:?}"
        );
        assert_eq!(world.bodies(Slot(1)).await, ["0!"], "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sealed_stream_tells_its_writer_once_and_takes_nothing_more() {
    let world = world();
    let (stream, mut events) = world.start();
    stream.submit(body("0")).await.unwrap();
    durable_slots(&mut events, 1).await;
    assert_eq!(world.seal(1).await, Slot(1));
    stream.submit(body("1")).await.unwrap();
    let fenced = events.recv().await;
    assert!(
        matches!(
            fenced,
            Some(StreamEvent::Fenced {
                at: Slot(1),
                by: FencedBy::Seal(_)
            })
        ),
        "{fenced:?}"
    );
    assert_eq!(events.recv().await, None);
    let late = stream.submit(body("2")).await;
    assert!(
        matches!(late, Err(StreamError::Fenced { at: Slot(1), .. })),
        "{late:?}"
    );
    assert!(stream.close().await.is_err());
    assert_eq!(world.bodies(Slot(1)).await, ["0!"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_grows_while_the_store_is_down() {
    let world = world();
    world.store.set_outage(true);
    let (stream, mut events) = world.start();
    for number in 0..SLOTS_IN_FLIGHT_MAX {
        stream.submit(body(&number.to_string())).await.unwrap();
    }
    let more = tokio::time::timeout(Duration::from_secs(1800), stream.submit(body("more"))).await;
    assert!(more.is_err(), "a place was free without an answer");
    world.store.set_outage(false);
    let count = SLOTS_IN_FLIGHT_MAX;
    assert_eq!(
        durable_slots(&mut events, count).await,
        numbered(count as u64)
    );
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_receive_holds_the_writer_back() {
    let world = world();
    let (stream, mut events) = world.start();
    for number in 0..SLOTS_IN_FLIGHT_MAX {
        stream.submit(body(&number.to_string())).await.unwrap();
    }
    let more = tokio::time::timeout(Duration::from_secs(60), stream.submit(body("more"))).await;
    assert!(
        more.is_err(),
        "all places are taken until their events are received"
    );
    durable_slots(&mut events, 1).await;
    stream.submit(body("more")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_receiver_the_stream_is_closed() {
    let world = world();
    let (stream, events) = world.start();
    drop(events);
    assert_eq!(stream.submit(body("0")).await, Err(StreamError::Closed));
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_in_flight() {
    let world = world();
    world
        .store
        .inject(Rule::new(On::Put, Fault::Throttled).times(5));
    let (stream, _events) = world.start();
    stream.submit(body("0")).await.unwrap();
    assert_eq!(stream.close().await, Ok(Slot(1)));
    assert_eq!(world.bodies(Slot(1)).await, ["0!"]);
}
