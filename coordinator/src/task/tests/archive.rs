//! The archive through the coordinator's loop.

use firn_proto::cluster::{
    Collected, CommitRun, CommitSegment, Doomed, FindRuns, Garbage, MapPart, RaiseLogStart,
    RaiseLogStarts, RunsFrom, SegmentKey,
};
use firn_proto::ids::{Incarnation, Slot, SlotPosition, TopicId, TopicPartition};
use firn_proto::limits::ARCHIVE_REQUEST_ITEMS_MAX;

use super::*;

async fn created(coordinator: &Coordinator) -> TopicPartition {
    match coordinator.call(create("a", 1)).await {
        Ok(Reply::CreateTopics(mut results)) => TopicPartition {
            topic: results.remove(0).unwrap().id,
            partition: PartitionIndex(0),
        },
        other => panic!("{other:?}"),
    }
}

fn segment(broker: &RegisteredBroker, topic: TopicId, runs: usize) -> Request {
    let run = CommitRun {
        partition: PartitionIndex(0),
        epoch: LeaderEpoch(0),
        base_offset: 0,
        last_offset: 9,
        max_timestamp: 5,
        row_groups: Vec::new(),
        next: start_of(broker),
    };
    Request::CommitSegment(CommitSegment {
        topic,
        segment: SegmentKey {
            incarnation: broker.incarnation,
            number: 0,
        },
        runs: vec![run; runs],
    })
}

fn start_of(broker: &RegisteredBroker) -> SlotPosition {
    SlotPosition {
        stream: broker.stream,
        slot: Slot(0),
    }
}

async fn garbage(coordinator: &Coordinator) -> Garbage {
    match coordinator.call(Request::ListGarbage).await {
        Ok(Reply::Garbage(garbage)) => garbage,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_enters_is_found_leaves_and_may_be_deleted_after_its_delay() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    let broker = registered(&coordinator).await;
    let tp = created(&coordinator).await;
    let reply = coordinator.call(segment(&broker, tp.topic, 1)).await;
    assert_eq!(reply, Ok(Reply::Archive(Ok(()))));
    let from = RunsFrom::Offset(3);
    let reply = coordinator
        .call(Request::FindRuns(FindRuns { tp, from }))
        .await;
    let Ok(Reply::Runs(Some(found))) = reply else {
        panic!("{reply:?}")
    };
    assert!(matches!(found.part, MapPart::Runs(runs) if runs.len() == 1));
    let reply = coordinator.call(Request::DescribeArchive(None)).await;
    let Ok(Reply::Archives(described)) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((described[0].runs, described[0].archived_to), (1, 10));

    let start = RaiseLogStart {
        tp,
        epoch: LeaderEpoch(0),
        log_start: 10,
        next: start_of(&broker),
        paged: None,
    };
    let raise = RaiseLogStarts {
        incarnation: broker.incarnation,
        starts: vec![start],
    };
    let reply = coordinator.call(Request::RaiseLogStarts(raise)).await;
    assert_eq!(reply, Ok(Reply::LogStarts(vec![Ok(())])));
    let listed = garbage(&coordinator).await;
    assert_eq!((listed.doomed.len(), listed.queued), (0, 1));
    let wait = listed.next_due_ms.unwrap() - clock.wall_ms();
    tokio::time::advance(Duration::from_millis(wait as u64)).await;
    let listed = garbage(&coordinator).await;
    assert!(matches!(listed.doomed[0].what, Doomed::Segment { .. }));
    let collected = Request::ReportCollected(Collected {
        doomed: vec![listed.doomed[0].id],
        ..Collected::default()
    });
    assert_eq!(coordinator.call(collected).await, Ok(Reply::Done));
    assert_eq!(garbage(&coordinator).await.queued, 0);
}

/// What is written to the journal must be read back, and there a thing takes far more memory than
/// bytes.
#[tokio::test(start_paused = true)]
async fn a_request_that_names_too_much_is_refused_and_nothing_happens() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let broker = registered(&coordinator).await;
    let tp = created(&coordinator).await;
    let slots = bucket.slots();
    let report = Collected {
        writers: vec![Incarnation(0); ARCHIVE_REQUEST_ITEMS_MAX + 1],
        ..Collected::default()
    };
    for request in [
        segment(&broker, tp.topic, ARCHIVE_REQUEST_ITEMS_MAX + 1),
        Request::ReportCollected(report),
    ] {
        let refused = coordinator.call(request).await;
        assert!(
            matches!(refused, Err(CoordinatorError::Refused(_))),
            "{refused:?}"
        );
    }
    assert_eq!(bucket.slots(), slots);
}
