//! Drains and moves through the coordinator's loop.

use firn_proto::cluster::{
    AssignmentError, ForceMove, HoldEpochs, LinkAddress, MovePartition, SealStream,
};
use firn_proto::ids::{DiskId, Fingerprint, Slot, TopicPartition};

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

/// A process whose disk may have more of a partition than the bucket lets nobody go on with it, for as
/// long as it lives. Then its disk is waited for.
#[tokio::test(start_paused = true)]
async fn a_partition_that_a_live_process_holds_is_not_taken_over() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let first = registered(&coordinator).await;
    let reply = coordinator.call(create("a", 2)).await;
    let Ok(Reply::CreateTopics(created)) = reply else {
        panic!("{reply:?}")
    };
    let tp = |index| TopicPartition {
        topic: created[0].as_ref().unwrap().id,
        partition: PartitionIndex(index),
    };
    let come = async |disk: u8| {
        let Request::RegisterBroker(mut body) = register() else {
            unreachable!()
        };
        body.disk = Some(DiskId([disk; 16]));
        let reply = coordinator.call(Request::RegisterBroker(body)).await;
        let Ok(Reply::RegisterBroker(registered)) = reply else {
            panic!("{reply:?}")
        };
        registered
    };
    let second = come(2).await;
    let sealed = Request::StreamSealed(SealStream {
        stream: first.stream,
        end: Slot(0),
    });
    assert_eq!(coordinator.call(sealed).await, Ok(Reply::Stream(Ok(()))));
    let pending = async || {
        let reply = coordinator.call(Request::PendingRecovery).await;
        let Ok(Reply::PendingRecovery { folds, .. }) = reply else {
            panic!("{reply:?}")
        };
        let folds = folds.iter().map(|fold| (fold.tp.partition.0, fold.disk));
        folds.collect::<Vec<_>>()
    };
    let both: [(i32, Option<DiskId>); 2] = [(0, None), (1, None)];
    assert_eq!(pending().await, both);
    let hold = |incarnation, epoch| {
        coordinator.call(Request::HoldEpochs(HoldEpochs {
            incarnation,
            epochs: vec![(tp(1), LeaderEpoch(epoch))],
        }))
    };
    let slots = bucket.slots();
    assert_eq!(hold(second.incarnation, 7).await, Ok(Reply::Done));
    assert_eq!(pending().await, both, "that is another epoch");
    assert_eq!(hold(second.incarnation, 0).await, Ok(Reply::Done));
    assert_eq!(pending().await, both[..1]);
    let dead = hold(first.incarnation, 0).await;
    assert!(
        matches!(dead, Err(CoordinatorError::Refused(_))),
        "{dead:?}"
    );
    assert_eq!(bucket.slots(), slots, "this is not journalled");
    let third = come(3).await;
    let waits = [(0, None), (1, Some(DiskId([2; 16])))];
    assert_eq!(pending().await, waits, "who held it is gone");
    assert_eq!(hold(third.incarnation, 0).await, Ok(Reply::Done));
    assert_eq!(pending().await, both[..1]);
}

/// It may have to look after its own disk before it serves anybody.
#[tokio::test(start_paused = true)]
async fn a_process_that_starts_is_given_nothing_that_others_can_own_until_it_serves() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let image = coordinator.image();
    linked(&coordinator, 1).await;
    let second = linked(&coordinator, 2).await;
    let owners = |name: &str| {
        let image = image.borrow();
        let partitions = &image.topic_named(name).unwrap().partitions;
        let owners = partitions.iter().map(|p| p.owner.unwrap().broker.0);
        owners.collect::<Vec<_>>()
    };
    coordinator.call(create("before", 2)).await.unwrap();
    settle().await;
    assert_eq!(owners("before"), [1, 1]);
    assert_eq!(serves(&coordinator, &second).await, Ok(Reply::Done));
    coordinator.call(create("after", 2)).await.unwrap();
    settle().await;
    assert_eq!(owners("after"), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_order_to_drain_a_process_that_starts_stands_when_it_serves() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    linked(&coordinator, 1).await;
    let second = linked(&coordinator, 2).await;
    for (drain, drains) in [(true, true), (false, false)] {
        let broker = second.broker;
        let ordered = Request::DrainBroker { broker, drain };
        assert_eq!(coordinator.call(ordered).await, Ok(Reply::Done));
        assert_eq!(serves(&coordinator, &second).await, Ok(Reply::Done));
        settle().await;
        assert_eq!(does_drain(&coordinator, 2), drains);
    }
}

/// One that stood still says that it serves when another process has its id, which does not serve
/// yet.
#[tokio::test(start_paused = true)]
async fn a_process_speaks_for_none_that_came_after_it() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    linked(&coordinator, 1).await;
    let gone = linked(&coordinator, 2).await;
    let second = linked(&coordinator, 2).await;
    let slots = bucket.slots();
    let refused = serves(&coordinator, &gone).await;
    let Err(CoordinatorError::Refused(reason)) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("is not alive"), "{reason}");
    assert_eq!(bucket.slots(), slots);
    assert!(does_drain(&coordinator, 2));
    assert_eq!(serves(&coordinator, &second).await, Ok(Reply::Done));
    settle().await;
    assert!(!does_drain(&coordinator, 2));
}

/// Only the leader to which it came had in memory that it was just held back.
#[tokio::test(start_paused = true)]
async fn a_process_that_starts_under_one_leader_serves_under_the_next() {
    let bucket = MemoryBucket::default();
    let (coordinator, mut task) = start(&bucket).await;
    linked(&coordinator, 1).await;
    let second = linked(&coordinator, 2).await;
    coordinator.close().await;
    task.ended().await.unwrap();
    let (coordinator, _task) = start(&bucket).await;
    settle().await;
    assert!(does_drain(&coordinator, 2));
    assert_eq!(serves(&coordinator, &second).await, Ok(Reply::Done));
    settle().await;
    assert!(!does_drain(&coordinator, 2));
}

/// A process with a link comes as that broker.
async fn linked(coordinator: &Coordinator, id: u8) -> RegisteredBroker {
    let linked = RegisterBroker {
        broker: Some(BrokerId(id.into())),
        listeners: Vec::new(),
        rack: None,
        disk: None,
        link: Some(LinkAddress {
            host: "host".to_owned(),
            port: 9092,
            fingerprint: Fingerprint([id; 32]),
        }),
    };
    match coordinator.call(Request::RegisterBroker(linked)).await {
        Ok(Reply::RegisterBroker(registered)) => registered,
        other => panic!("{other:?}"),
    }
}

/// It says that it serves.
async fn serves(
    coordinator: &Coordinator,
    process: &RegisteredBroker,
) -> Result<Reply, CoordinatorError> {
    let serves = Request::TakePart {
        incarnation: process.incarnation,
        owns: true,
    };
    coordinator.call(serves).await
}

fn does_drain(coordinator: &Coordinator, id: i32) -> bool {
    coordinator.image().borrow().brokers[&BrokerId(id)].draining
}
