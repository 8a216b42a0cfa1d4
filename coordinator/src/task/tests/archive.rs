//! The archive through the coordinator's loop.

use firn_proto::cluster::{
    Collected, CommitRun, CommitSegment, Doomed, FindRuns, Garbage, MapPart, PagedRelease,
    RaiseLogStart, RaiseLogStarts, RunsFrom, SegmentKey,
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
        segment: key(broker),
        runs: vec![run; runs],
    })
}

fn key(broker: &RegisteredBroker) -> SegmentKey {
    SegmentKey {
        incarnation: broker.incarnation,
        number: 0,
    }
}

fn raise(
    broker: &RegisteredBroker,
    tp: TopicPartition,
    log_start: i64,
    paged: Option<PagedRelease>,
) -> Request {
    let start = RaiseLogStart {
        tp,
        epoch: LeaderEpoch(0),
        log_start,
        next: start_of(broker),
        paged,
    };
    Request::RaiseLogStarts(RaiseLogStarts {
        incarnation: broker.incarnation,
        starts: vec![start],
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

    let reply = coordinator.call(raise(&broker, tp, 10, None)).await;
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

/// The clock of the first process was a day ahead. In the next one, whose clock is right, time goes
/// on from there at its own pace: what left the map is deleted after its delay, neither at once nor
/// a day late, and no command is stamped with an earlier time than the one before.
#[tokio::test(start_paused = true)]
async fn time_goes_on_from_where_it_was_after_a_restart_with_an_earlier_clock() {
    let bucket = MemoryBucket::default();
    let (ahead, mut task, clock_ahead) = start_with_clock(&bucket).await;
    tokio::time::advance(Duration::from_secs(86_400)).await;
    let broker = registered(&ahead).await;
    let tp = created(&ahead).await;
    let entered = ahead.call(segment(&broker, tp.topic, 1)).await;
    assert_eq!(entered, Ok(Reply::Archive(Ok(()))));
    let raised = ahead.call(raise(&broker, tp, 10, None)).await;
    assert_eq!(raised, Ok(Reply::LogStarts(vec![Ok(())])));
    let left_at_ms = clock_ahead.wall_ms();
    let due_ms = garbage(&ahead).await.next_due_ms.unwrap();
    ahead.close().await;
    task.ended().await.unwrap();

    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    assert!(clock.wall_ms() < left_at_ms - 86_000_000, "it is earlier");
    let delay = Duration::from_millis((due_ms - left_at_ms) as u64);
    tokio::time::advance(delay - Duration::from_secs(1)).await;
    let listed = garbage(&coordinator).await;
    assert_eq!((listed.doomed.len(), listed.queued), (0, 1), "too early");
    coordinator.call(create("b", 1)).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let listed = garbage(&coordinator).await;
    assert_eq!(listed.doomed.len(), 1, "a day late");

    let bodies = bucket.bodies();
    let stamped = bodies.iter().flat_map(|body| decode_slot(body).unwrap());
    let stamps: Vec<i64> = stamped.map(|stamped| stamped.at_ms).collect();
    assert!(stamps.is_sorted(), "{stamps:?}");
    assert!(*stamps.last().unwrap() > left_at_ms);
}

/// A leader whose clock was a day ahead has left its mark on the time of the commands, for ever; how
/// old records are is told without it, or all of them would go a day early.
#[tokio::test(start_paused = true)]
async fn what_is_said_of_runs_is_said_by_the_leaders_clock_as_it_is() {
    let bucket = MemoryBucket::default();
    let (ahead, mut task, _) = start_with_clock(&bucket).await;
    tokio::time::advance(Duration::from_secs(86_400)).await;
    let tp = created(&ahead).await;
    ahead.close().await;
    task.ended().await.unwrap();

    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    let from = RunsFrom::Offset(0);
    let reply = coordinator
        .call(Request::FindRuns(FindRuns { tp, from }))
        .await;
    let Ok(Reply::Runs(Some(found))) = reply else {
        panic!("{reply:?}")
    };
    let behind_ms = clock.wall_ms() - found.leader_ms;
    assert!((0..60_000).contains(&behind_ms), "{behind_ms}");
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
    let paged = PagedRelease {
        pages: Vec::new(),
        released_to: 0,
        segments: vec![(key(&broker), 1); ARCHIVE_REQUEST_ITEMS_MAX],
        run_bytes: 0,
        next_released_to: 1,
    };
    for request in [
        segment(&broker, tp.topic, ARCHIVE_REQUEST_ITEMS_MAX + 1),
        raise(&broker, tp, 1, Some(paged)),
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
