//! Drains and moves through the coordinator's loop.

use firn_proto::cluster::{AssignmentError, ForceMove, LinkAddress, MovePartition};
use firn_proto::ids::{DiskId, Fingerprint, TopicPartition};

use super::*;

#[tokio::test(start_paused = true)]
async fn brokers_drain_and_partitions_are_asked_for_one_by_one() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let image = coordinator.image();
    registered(&coordinator).await;
    let reply = coordinator.call(create("a", 1)).await;
    let Ok(Reply::CreateTopics(created)) = reply else {
        panic!("{reply:?}")
    };
    let tp = TopicPartition {
        topic: created[0].as_ref().unwrap().id,
        partition: PartitionIndex(0),
    };
    let drain = |broker| {
        coordinator.call(Request::DrainBroker {
            broker: BrokerId(broker),
            drain: true,
        })
    };
    assert_eq!(drain(1).await, Ok(Reply::Done));
    settle().await;
    assert!(image.borrow().brokers[&BrokerId(1)].draining);
    let slots = bucket.slots();
    let Err(CoordinatorError::Refused(reason)) = drain(9).await else {
        panic!("nobody knows broker 9")
    };
    assert!(reason.contains("broker 9 is not alive"), "{reason}");
    let asked = MovePartition {
        tp,
        epoch: LeaderEpoch(0),
        to: BrokerId(9),
    };
    let moved = coordinator.call(Request::MovePartitions(vec![asked])).await;
    let refused = Err(AssignmentError::NoBroker);
    assert_eq!(moved, Ok(Reply::Moved(vec![refused])));
    let folds = coordinator.call(Request::FoldsOf(vec![tp])).await;
    assert_eq!(folds, Ok(Reply::Folds(vec![None])));
    let given_up = ForceMove {
        tp,
        epoch: LeaderEpoch(0),
        disk: DiskId([7; 16]),
    };
    let forced = coordinator.call(Request::ForceMove(vec![given_up])).await;
    let refused = Err(AssignmentError::NotCurrent);
    assert_eq!(forced, Ok(Reply::Forced(vec![refused])));
    assert_eq!(bucket.slots(), slots, "refusals are not journalled");
}

/// It may have to look after its own disk before it serves anybody.
#[tokio::test(start_paused = true)]
async fn a_process_that_starts_is_given_nothing_that_others_can_own_until_it_serves() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let image = coordinator.image();
    for id in [1, 2] {
        let linked = RegisterBroker {
            broker: Some(BrokerId(id)),
            listeners: Vec::new(),
            rack: None,
            disk: None,
            link: Some(LinkAddress {
                host: "host".to_owned(),
                port: 9092,
                fingerprint: Fingerprint([u8::try_from(id).unwrap(); 32]),
            }),
        };
        let reply = coordinator.call(Request::RegisterBroker(linked)).await;
        assert!(matches!(reply, Ok(Reply::RegisterBroker(_))), "{reply:?}");
    }
    let owners = |name: &str| {
        let image = image.borrow();
        let partitions = &image.topic_named(name).unwrap().partitions;
        let owners = partitions.iter().map(|p| p.owner.unwrap().broker.0);
        owners.collect::<Vec<_>>()
    };
    coordinator.call(create("before", 2)).await.unwrap();
    settle().await;
    assert_eq!(owners("before"), [1, 1]);
    let serves = Request::DrainBroker {
        broker: BrokerId(2),
        drain: false,
    };
    assert_eq!(coordinator.call(serves).await, Ok(Reply::Done));
    coordinator.call(create("after", 2)).await.unwrap();
    settle().await;
    assert_eq!(owners("after"), [2, 2]);
}
