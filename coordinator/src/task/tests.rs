mod archive;
mod consumer_groups;
mod moves;
mod turns;

use firn_proto::cluster::{
    CommitTopic, CommittedOffset, ConfirmDeleted, FetchOffsets, GroupError, Heartbeat, JoinedGroup,
    LeaveGroup, LeavingMember, ListGroups, NewTopic, OffsetCommit, OffsetToCommit, RegisterBroker,
    RegisteredBroker, SyncGroup, TopicError, TopicKey,
};
use firn_proto::env::Clock;
use firn_proto::ids::{BrokerId, CoordinatorEpoch, LeaderEpoch, PartitionIndex};
use firn_proto::limits::{
    COORDINATOR_HELD_BYTES_MAX, COORDINATOR_HELD_READ_BYTES_MAX, COORDINATOR_READ_LEASE,
    FENCE_LOOK_AGAIN, FENCE_LOOK_LASTS,
};
use tokio::task::JoinHandle;

use super::*;
use crate::handle::{Coordinator, CoordinatorTask};
use crate::peers::Alone;
use crate::testing::{MemoryBucket, TestClock, classic_join, environment, environment_and_clock};

async fn start(bucket: &MemoryBucket) -> (Coordinator, CoordinatorTask) {
    let mut config = CoordinatorConfig::default();
    config.groups.initial_rebalance_delay = Duration::ZERO;
    Coordinator::start(bucket.opener(), config, environment(), Arc::new(Alone))
        .await
        .unwrap()
}

async fn start_with_clock(bucket: &MemoryBucket) -> (Coordinator, CoordinatorTask, Arc<TestClock>) {
    let (environment, clock) = environment_and_clock();
    let config = CoordinatorConfig::default();
    let started = Coordinator::start(bucket.opener(), config, environment, Arc::new(Alone));
    let (coordinator, task) = started.await.unwrap();
    (coordinator, task, clock)
}

fn ask(coordinator: &Coordinator, request: Request) -> JoinHandle<Result<Reply, CoordinatorError>> {
    let coordinator = coordinator.clone();
    tokio::spawn(async move { coordinator.call(request).await })
}

/// Lets every task run until all of them wait.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn register() -> Request {
    Request::RegisterBroker(RegisterBroker {
        broker: Some(BrokerId(1)),
        listeners: Vec::new(),
        rack: None,
        disk: None,
        link: None,
    })
}

fn create(name: &str, partitions: i32) -> Request {
    Request::CreateTopics {
        topics: vec![NewTopic {
            name: name.to_owned(),
            partitions,
            replication_factor: 1,
            owners: Vec::new(),
            configs: Vec::new(),
        }],
        validate_only: false,
    }
}

fn commit(topic: &str, offset: i64) -> Request {
    Request::OffsetCommit(OffsetCommit {
        group: "g".into(),
        generation: -1,
        member: "".into(),
        instance: None,
        knows_epochs: false,
        retention_ms: Some(-1),
        topics: vec![CommitTopic {
            topic: TopicKey::Name(topic.into()),
            partitions: vec![OffsetToCommit {
                partition: PartitionIndex(0),
                offset: committed(offset),
            }],
        }],
    })
}

fn committed(offset: i64) -> CommittedOffset {
    CommittedOffset {
        offset,
        leader_epoch: LeaderEpoch(0),
        metadata: "note".into(),
    }
}

fn fetch_all() -> Request {
    Request::OffsetFetch(vec![FetchOffsets {
        group: "g".into(),
        member: None,
        topics: None,
        require_stable: false,
    }])
}

async fn registered(coordinator: &Coordinator) -> RegisteredBroker {
    match coordinator.call(register()).await {
        Ok(Reply::RegisterBroker(registered)) => registered,
        other => panic!("{other:?}"),
    }
}

async fn fetched_offset(coordinator: &Coordinator) -> i64 {
    let reply = coordinator.call(fetch_all()).await.unwrap();
    let Reply::OffsetFetch(groups) = reply else {
        panic!("{reply:?}")
    };
    let topics = groups[0].result.as_ref().unwrap();
    let (_, offset) = &topics[0].partitions[0];
    offset.as_ref().unwrap().as_ref().unwrap().offset
}

#[tokio::test(start_paused = true)]
async fn answers_and_pictures_wait_for_the_journal_reads_too() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    let image = coordinator.image();
    let registered = ask(&coordinator, register());
    settle().await;
    let created = ask(&coordinator, create("a", 1));
    let read = ask(&coordinator, fetch_all());
    settle().await;
    assert_eq!(bucket.waiting(), 2, "two slots are in flight");
    assert!(!registered.is_finished() && !created.is_finished() && !read.is_finished());
    assert!(image.borrow().brokers.is_empty());

    bucket.complete_next();
    settle().await;
    assert!(registered.is_finished());
    assert!(!created.is_finished(), "its own slot is not durable");
    assert!(!read.is_finished(), "it saw what is not durable");
    assert_eq!(image.borrow().brokers.len(), 1);
    assert!(image.borrow().topic_named("a").is_none());

    bucket.complete_next();
    settle().await;
    assert!(created.is_finished() && read.is_finished());
    let topic = Arc::clone(image.borrow().topic_named("a").unwrap());
    assert_eq!(topic.partitions[0].owner.unwrap().broker, BrokerId(1));
    assert_eq!(topic.partitions[0].epoch, LeaderEpoch(0));
}

/// Completes puts until all calls are answered.
async fn completed<T>(bucket: &MemoryBucket, calls: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for call in calls {
        while !call.is_finished() {
            settle().await;
            if bucket.waiting() > 0 {
                bucket.complete_next();
            }
        }
        results.push(call.await.unwrap());
    }
    results
}

/// With all flights in the air nothing leaves the open slot: consumers that commit, lose patience and
/// come again would fill it without end.
#[tokio::test(start_paused = true)]
async fn commits_that_wait_for_the_journal_are_bounded_in_bytes() {
    const PARTITIONS: i32 = 1_000;
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    completed(&bucket, vec![ask(&coordinator, create("a", PARTITIONS))]).await;
    let commit_all = |offset| {
        let Request::OffsetCommit(mut request) = commit("a", offset) else {
            unreachable!()
        };
        request.topics[0].partitions = (0..PARTITIONS)
            .map(|partition| OffsetToCommit {
                partition: PartitionIndex(partition),
                offset: CommittedOffset {
                    metadata: "n".repeat(1_000).into(),
                    ..committed(offset)
                },
            })
            .collect();
        Request::OffsetCommit(request)
    };
    let mut held = Vec::new();
    let refused = loop {
        let offset = held.len() as i64;
        let commit = ask(&coordinator, commit_all(offset));
        settle().await;
        if commit.is_finished() {
            break commit.await.unwrap();
        }
        held.push(commit);
        assert!(held.len() < 200, "all of them wait");
    };
    assert_eq!(refused, Err(CoordinatorError::Busy));
    assert!(
        held.len() * 1_000 * PARTITIONS as usize <= COORDINATOR_HELD_BYTES_MAX,
        "{} commits wait",
        held.len()
    );
    let last = held.len() as i64 - 1;
    for committed in completed(&bucket, held).await {
        assert!(committed.is_ok(), "who was let in is answered");
    }
    assert_eq!(fetched_offset(&coordinator).await, last);
}

/// Gives the group more than 10 MB of notes at its offsets.
async fn commit_notes(bucket: &MemoryBucket, coordinator: &Coordinator) {
    const PARTITIONS: i32 = 10_000;
    let with_notes = CommitTopic {
        topic: TopicKey::Name("a".into()),
        partitions: (0..PARTITIONS)
            .map(|partition| OffsetToCommit {
                partition: PartitionIndex(partition),
                offset: CommittedOffset {
                    metadata: "n".repeat(1_000).into(),
                    ..committed(1)
                },
            })
            .collect(),
    };
    let mut commits = commit("a", 0);
    if let Request::OffsetCommit(commits) = &mut commits {
        commits.topics = vec![with_notes];
    }
    for request in [create("a", PARTITIONS), commits] {
        completed(bucket, vec![ask(coordinator, request)]).await;
    }
}

/// Asks for every offset of the group until that is refused; those that wait.
async fn read_until_busy(
    coordinator: &Coordinator,
) -> Vec<JoinHandle<Result<Reply, CoordinatorError>>> {
    let mut held = Vec::new();
    let refused = loop {
        let read = ask(coordinator, fetch_all());
        settle().await;
        if read.is_finished() {
            break read.await.unwrap();
        }
        held.push(read);
        assert!(held.len() < 100, "all of them wait");
    };
    assert_eq!(refused, Err(CoordinatorError::Busy));
    held
}

/// Who reads over and over must not keep groups from their work.
#[tokio::test(start_paused = true)]
async fn while_reads_are_refused_members_commit_and_join() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    commit_notes(&bucket, &coordinator).await;
    let pending = ask(&coordinator, create("b", 1));
    settle().await;
    let mut held = read_until_busy(&coordinator).await;
    for read in [
        Request::DescribeGroups(vec!["g".to_owned()]),
        Request::ListGroups(ListGroups::default()),
    ] {
        assert_eq!(coordinator.call(read).await, Err(CoordinatorError::Busy));
    }
    held.extend([
        pending,
        ask(&coordinator, commit("a", 2)),
        ask(&coordinator, join_request("")),
    ]);
    for answer in completed(&bucket, held).await {
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(fetched_offset(&coordinator).await, 2);
}

/// Anybody may ask for every offset of a group, in a few bytes. While the bucket is away no answer
/// leaves; were they bounded by their number alone, they would take all the memory there is.
#[tokio::test(start_paused = true)]
async fn answers_that_wait_for_the_journal_are_bounded_in_bytes() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    commit_notes(&bucket, &coordinator).await;
    let pending = ask(&coordinator, create("b", 1));
    settle().await;
    let held = read_until_busy(&coordinator).await;
    let heartbeat = Request::Heartbeat(Heartbeat {
        group: "g".into(),
        generation: 0,
        member: "nobody".into(),
        instance: None,
    });
    let beaten = coordinator.call(heartbeat).await;
    assert!(matches!(beaten, Ok(Reply::Heartbeat(_))), "{beaten:?}");

    completed(&bucket, vec![pending]).await;
    let answers = completed(&bucket, held).await;
    let bytes = answers.iter().map(|reply| {
        let reply = reply.as_ref().unwrap();
        held::bytes_of(reply)
    });
    let bytes: Vec<_> = bytes.collect();
    assert!(bytes[0] > 10_000_000, "notes are counted: {}", bytes[0]);
    let before_last: usize = bytes[1..].iter().sum();
    assert!(before_last <= COORDINATOR_HELD_READ_BYTES_MAX, "{bytes:?}");
    assert_eq!(fetched_offset(&coordinator).await, 1, "and none is held on");
}

#[tokio::test(start_paused = true)]
async fn a_read_of_durable_state_puts_nothing() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    coordinator.call(fetch_all()).await.unwrap();
    assert_eq!(bucket.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_journalled() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let reply = coordinator.call(create("a/b", 1)).await.unwrap();
    let Reply::CreateTopics(results) = reply else {
        panic!("{reply:?}")
    };
    let error = &results[0].as_ref().unwrap_err().error;
    assert!(matches!(error, TopicError::InvalidName(_)));
    assert_eq!(bucket.slots(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_commits_share_a_slot() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    let before = bucket.slots();
    let commits: Vec<_> = (0..100)
        .map(|offset| ask(&coordinator, commit("a", offset)))
        .collect();
    for committed in commits {
        let reply = committed.await.unwrap().unwrap();
        let Reply::OffsetCommit(Ok(results)) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(results[0].partitions[0].1, Ok(()));
    }
    assert!(bucket.slots() - before <= 2, "{} slots", bucket.slots());
}

#[tokio::test(start_paused = true)]
async fn a_failed_put_drops_the_memory_and_nothing_of_it_was_told() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    let registered = ask(&coordinator, register());
    settle().await;
    bucket.complete_next();
    registered.await.unwrap().unwrap();
    let lost = ask(&coordinator, create("lost", 1));
    let read = ask(&coordinator, fetch_all());
    settle().await;
    bucket.fail_next(JournalError::Unavailable("test".to_owned()));
    for call in [lost, read] {
        assert!(matches!(
            call.await.unwrap(),
            Err(CoordinatorError::NotLeader(_))
        ));
    }
    tokio::time::sleep(2 * FENCE_LOOK_AGAIN).await;
    let image = coordinator.image();
    assert_eq!(image.borrow().brokers.len(), 1, "what was durable is back");
    let again = ask(&coordinator, create("lost", 1));
    settle().await;
    bucket.complete_next();
    let reply = again.await.unwrap().unwrap();
    let Reply::CreateTopics(results) = reply else {
        panic!("{reply:?}")
    };
    assert!(results[0].is_ok(), "the lost topic never was: {results:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_leader_ends() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, mut task) = start(&bucket).await;
    let call = ask(&coordinator, register());
    settle().await;
    let epoch = CoordinatorEpoch(1);
    bucket.fail_next(JournalError::Fenced { epoch });
    assert!(matches!(
        call.await.unwrap(),
        Err(CoordinatorError::NotLeader(_))
    ));
    assert!(matches!(
        task.ended().await,
        Err(EndReason::Journal(JournalError::Fenced { .. }))
    ));
    assert_eq!(
        coordinator.call(register()).await,
        Err(CoordinatorError::Stopped)
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_leader_ends_by_itself_when_another_process_claims_an_epoch() {
    let bucket = MemoryBucket::default();
    let (coordinator, mut task, clock) = start_with_clock(&bucket).await;
    registered(&coordinator).await;
    bucket.claim(CoordinatorEpoch(2));
    let claimed_at = clock.mono();
    let ended = task.ended().await.unwrap_err();
    assert!(
        ended.to_string().contains("claimed epoch 2"),
        "the line names the later epoch: {ended}"
    );
    assert!(clock.mono().since(claimed_at) <= FENCE_LOOK_LASTS);
    assert_eq!(
        coordinator.may_read(clock.mono()).await,
        Err(CoordinatorError::Stopped)
    );
}

#[tokio::test(start_paused = true)]
async fn looking_for_another_leader_costs_an_idle_one_1440_requests_an_hour() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, _) = start_with_clock(&bucket).await;
    registered(&coordinator).await;
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    assert!(
        (1439..=1440).contains(&bucket.looks()),
        "{}",
        bucket.looks()
    );
}

/// Asks each second whether it may be read. Nobody is held up; who may read at first, may not any
/// more from some second on.
async fn reads_end_and_nobody_waits(coordinator: &Coordinator, clock: &TestClock) {
    let away_from = clock.mono();
    let mut may_read = true;
    for second in 0..30 * 60 {
        let asked_at = clock.mono();
        let read = coordinator.may_read(asked_at).await;
        assert_eq!(clock.mono(), asked_at, "it waited in second {second}");
        may_read = match read {
            Ok(()) => {
                assert!(may_read, "read again in second {second} of the outage");
                assert!(asked_at.since(away_from) <= FENCE_LOOK_LASTS);
                true
            }
            Err(CoordinatorError::NotLeader(_)) => {
                assert!(second > 0, "an outage of a moment ends nothing");
                false
            }
            Err(other) => panic!("{other}"),
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!may_read);
}

/// Members of groups come every few seconds each: a look for all of them would be one a moment.
#[tokio::test(start_paused = true)]
async fn a_read_waits_for_a_look_and_a_heartbeat_does_not() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, _) = start_with_clock(&bucket).await;
    let member = join(&coordinator, "").await;
    sync(&coordinator, &member).await;
    tokio::time::sleep(COORDINATOR_READ_LEASE + Duration::from_millis(1)).await;
    let before = bucket.looks();
    assert_eq!(heartbeat(&coordinator, &member).await, Ok(()));
    assert_eq!(bucket.looks(), before);
    coordinator.call(fetch_all()).await.unwrap();
    coordinator.call(fetch_all()).await.unwrap();
    assert_eq!(
        bucket.looks(),
        before + 1,
        "one look does for all reads under its lease"
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_bucket_holds_no_reader_up_and_ends_reads() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    registered(&coordinator).await;
    bucket.set_away(true);
    reads_end_and_nobody_waits(&coordinator, &clock).await;
    bucket.set_away(false);
    tokio::time::sleep(FENCE_LOOK_LASTS).await;
    assert_eq!(coordinator.may_read(clock.mono()).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn sessions_do_not_end_while_the_bucket_is_away() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    let member = join(&coordinator, "").await;
    sync(&coordinator, &member).await;
    bucket.set_away(true);
    while coordinator.may_read(clock.mono()).await.is_ok() {
        assert_eq!(heartbeat(&coordinator, &member).await, Ok(()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    bucket.set_away(false);
    while coordinator.may_read(clock.mono()).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let alive = heartbeat(&coordinator, &member).await;
    assert_eq!(alive, Ok(()), "it could not be heard all that time");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_looks_before_it_is_read() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    registered(&coordinator).await;
    clock.stand_still(Duration::from_secs(60));
    assert_eq!(coordinator.may_read(clock.mono()).await, Ok(()));
    assert_eq!(bucket.looks(), 1, "the bucket was asked first");
    clock.stand_still(Duration::from_secs(60));
    bucket.claim(CoordinatorEpoch(2));
    assert_eq!(
        coordinator.may_read(clock.mono()).await,
        Err(CoordinatorError::Stopped),
        "another process led meanwhile"
    );
}

/// An opening says that nobody had sealed the epoch when its slot was sent, and no more: its answer
/// may have been on its way for long.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_opening_took_long_looks_before_it_is_read() {
    let bucket = MemoryBucket::default();
    bucket.set_opening_lasts(FENCE_LOOK_LASTS + Duration::from_secs(1));
    bucket.claim(CoordinatorEpoch(2));
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    assert_eq!(
        coordinator.may_read(clock.mono()).await,
        Err(CoordinatorError::Stopped),
        "another process leads since"
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_is_not_read_until_the_bucket_answers() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    registered(&coordinator).await;
    bucket.set_away(true);
    clock.stand_still(Duration::from_secs(60 * 60));
    for _ in 0..20 {
        let read = coordinator.may_read(clock.mono()).await;
        assert!(
            matches!(read, Err(CoordinatorError::NotLeader(_))),
            "{read:?}"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    bucket.set_away(false);
    tokio::time::sleep(FENCE_LOOK_LASTS).await;
    assert_eq!(coordinator.may_read(clock.mono()).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_the_bucket_refuses_is_not_read() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task, clock) = start_with_clock(&bucket).await;
    registered(&coordinator).await;
    bucket.set_refusing(true);
    tokio::time::sleep(2 * FENCE_LOOK_LASTS).await;
    let read = coordinator.may_read(clock.mono()).await;
    assert!(
        matches!(read, Err(CoordinatorError::NotLeader(_))),
        "{read:?}"
    );
}

/// A leader whose put failed, and that opens its journal anew.
async fn reopening(bucket: &MemoryBucket) -> (Coordinator, CoordinatorTask, Arc<TestClock>) {
    let (coordinator, task, clock) = start_with_clock(bucket).await;
    let lost = ask(&coordinator, register());
    settle().await;
    bucket.set_away(true);
    bucket.fail_next(JournalError::Unavailable("test".to_owned()));
    assert!(lost.await.unwrap().is_err());
    (coordinator, task, clock)
}

#[tokio::test(start_paused = true)]
async fn an_outage_holds_no_reader_up_while_the_journal_is_reopened_and_ends_reads() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task, clock) = reopening(&bucket).await;
    reads_end_and_nobody_waits(&coordinator, &clock).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_is_not_read_while_the_journal_is_reopened() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task, clock) = reopening(&bucket).await;
    clock.stand_still(Duration::from_secs(60 * 60));
    let read = coordinator.may_read(clock.mono()).await;
    assert!(
        matches!(read, Err(CoordinatorError::NotLeader(_))),
        "{read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_refused_the_journal_is_not_read_while_it_is_reopened() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task, clock) = reopening(&bucket).await;
    bucket.set_refusing(true);
    bucket.set_away(false);
    tokio::time::sleep(2 * FENCE_LOOK_LASTS).await;
    let read = coordinator.may_read(clock.mono()).await;
    assert!(
        matches!(read, Err(CoordinatorError::NotLeader(_))),
        "{read:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_brings_topics_offsets_and_groups_back() {
    let bucket = MemoryBucket::default();
    let (coordinator, mut task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 3)).await.unwrap();
    coordinator.call(commit("a", 1 << 40)).await.unwrap();
    let member = join(&coordinator, "").await;
    sync(&coordinator, &member).await;
    coordinator.close().await;
    task.ended().await.unwrap();

    let (coordinator, _task) = start(&bucket).await;
    let image = coordinator.image();
    assert_eq!(image.borrow().topic_named("a").unwrap().partitions.len(), 3);
    assert_eq!(fetched_offset(&coordinator).await, 1 << 40);
    assert_eq!(heartbeat(&coordinator, &member).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_takes_the_place_of_the_log() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    let mut offset = 0;
    while bucket.snapshot().is_none() {
        offset += 1;
        for _ in 0..20 {
            let Request::OffsetCommit(mut request) = commit("a", offset) else {
                unreachable!()
            };
            request.topics[0].partitions[0].offset.metadata = "x".repeat(4096).into();
            let request = Request::OffsetCommit(request);
            coordinator.call(request).await.unwrap();
        }
        assert!(offset < 100, "a snapshot is due after 1 MiB");
    }
    let covered = bucket.snapshot().unwrap();
    coordinator.call(commit("a", 1 << 40)).await.unwrap();
    coordinator.close().await;
    let (coordinator, _task) = start(&bucket).await;
    assert_eq!(fetched_offset(&coordinator).await, 1 << 40);
    assert!(covered.slot.0 > 0);
}

/// Whoever takes over reads every slot since the last snapshot, by a request each.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_due_after_many_slots_however_short_they_are() {
    let bucket = MemoryBucket::default();
    let (mut coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    let mut last = None;
    for offset in 0..3 * JOURNAL_SNAPSHOT_SLOTS_MIN {
        if offset % 100 == 0 {
            coordinator.close().await;
            coordinator = start(&bucket).await.0;
        }
        coordinator.call(commit("a", offset as i64)).await.unwrap();
        let left = bucket.slots_after(bucket.snapshot());
        assert!(
            left as u64 <= JOURNAL_SNAPSHOT_SLOTS_MIN,
            "{left} slots are to be read"
        );
        last = bucket.snapshot();
    }
    assert!(last.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_sends_others_to_the_next_one() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    coordinator.close().await;
    let answered = coordinator.call_here(fetch_all()).await;
    assert!(
        matches!(answered, Err(CoordinatorError::NotLeader(_))),
        "{answered:?}"
    );
    assert_eq!(
        coordinator.call(fetch_all()).await,
        Err(CoordinatorError::Stopped),
        "in this process there is none any more"
    );
}

#[tokio::test(start_paused = true)]
async fn sessions_do_not_end_while_the_journal_stands_still() {
    let bucket = MemoryBucket::by_hand();
    let (coordinator, _task) = start(&bucket).await;
    let member = join(&coordinator, "").await;
    let synced = ask(&coordinator, sync_request(&member));
    settle().await;
    bucket.complete_next();
    synced.await.unwrap().unwrap();
    let call = ask(&coordinator, register());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(
        heartbeat(&coordinator, &member).await,
        Ok(()),
        "it was not put out in two minutes without a put"
    );
    bucket.complete_next();
    call.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(
        heartbeat(&coordinator, &member).await,
        Err(GroupError::UnknownMemberId)
    );
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_answered_when_the_owner_has_confirmed() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let broker = registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    let id = coordinator.image().borrow().topic_named("a").unwrap().id;
    let delete = Request::DeleteTopics {
        topics: vec![
            TopicKey::Name("a".into()),
            TopicKey::Id(id),
            TopicKey::Name("b".into()),
        ],
        timeout_ms: 5_000,
    };
    let deleted = ask(&coordinator, delete);
    settle().await;
    assert!(!deleted.is_finished());
    assert!(coordinator.image().borrow().topic(id).is_none());
    let confirm = Request::ConfirmDeleted(ConfirmDeleted {
        incarnation: broker.incarnation,
        topics: vec![id],
    });
    coordinator.call(confirm).await.unwrap();
    let reply = deleted.await.unwrap().unwrap();
    let Reply::DeleteTopics(results) = reply else {
        panic!("{reply:?}")
    };
    assert!(results[0].as_ref().unwrap().name_free);
    let error = |index: usize| results[index].as_ref().unwrap_err().error.clone();
    assert_eq!(error(1), TopicError::NamedTwice);
    assert_eq!(error(2), TopicError::Unknown);
}

#[tokio::test(start_paused = true)]
async fn two_members_share_a_group_and_one_takes_over_when_the_other_leaves() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    let one = join(&coordinator, "").await;
    sync(&coordinator, &one).await;
    let two = ask(&coordinator, join_request(""));
    settle().await;
    assert_eq!(
        heartbeat(&coordinator, &one).await,
        Err(GroupError::RebalanceInProgress)
    );
    let one = join(&coordinator, &one.member).await;
    assert_eq!(one.members.len(), 2);
    let Ok(Reply::JoinGroup(Ok(two))) = two.await.unwrap() else {
        panic!("the second member joins")
    };
    assert_eq!(two.generation, one.generation);
    let leave = LeaveGroup {
        group: "g".into(),
        members: vec![LeavingMember {
            member: Arc::clone(&two.member),
            instance: None,
            reason: None,
        }],
    };
    coordinator.call(Request::LeaveGroup(leave)).await.unwrap();
    let one = join(&coordinator, &one.member).await;
    assert_eq!(one.members.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn puts_keep_to_their_rate() {
    let bucket = MemoryBucket::default();
    let config = CoordinatorConfig {
        puts_per_second: Some(10),
        ..CoordinatorConfig::default()
    };
    let (coordinator, _task) =
        Coordinator::start(bucket.opener(), config, environment(), Arc::new(Alone))
            .await
            .unwrap();
    let start = tokio::time::Instant::now();
    for _ in 0..24 {
        coordinator
            .call(Request::AllocateProducerIds)
            .await
            .unwrap();
    }
    let waited = start.elapsed();
    assert_eq!(bucket.slots(), 24);
    assert!(
        waited >= Duration::from_secs(2),
        "a burst of 4, then 10 a second: {waited:?}"
    );
}

fn join_request(member: &str) -> Request {
    Request::JoinGroup(classic_join(member))
}

async fn join(coordinator: &Coordinator, member: &str) -> JoinedGroup {
    match coordinator.call(join_request(member)).await {
        Ok(Reply::JoinGroup(Ok(joined))) => joined,
        other => panic!("{other:?}"),
    }
}

fn sync_request(joined: &JoinedGroup) -> Request {
    Request::SyncGroup(SyncGroup {
        group: "g".into(),
        generation: joined.generation,
        member: Arc::clone(&joined.member),
        instance: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(Arc::clone(&joined.member), Arc::from(*b"all"))],
    })
}

async fn sync(coordinator: &Coordinator, joined: &JoinedGroup) {
    match coordinator.call(sync_request(joined)).await {
        Ok(Reply::SyncGroup(Ok(synced))) => assert_eq!(*synced.assignment, *b"all"),
        other => panic!("{other:?}"),
    }
}

async fn heartbeat(coordinator: &Coordinator, joined: &JoinedGroup) -> Result<(), GroupError> {
    let request = Request::Heartbeat(Heartbeat {
        group: "g".into(),
        generation: joined.generation,
        member: Arc::clone(&joined.member),
        instance: None,
    });
    match coordinator.call(request).await {
        Ok(Reply::Heartbeat(result)) => result,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_of_a_group_without_members_are_forgotten_after_their_retention() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    coordinator.call(commit("a", 5)).await.unwrap();
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    tokio::time::sleep(days(6)).await;
    assert_eq!(fetched_offset(&coordinator).await, 5);
    tokio::time::sleep(days(2)).await;
    let described = Request::DescribeGroups(vec!["g".to_owned()]);
    let reply = coordinator.call(described).await.unwrap();
    assert_eq!(
        reply,
        Reply::DescribeGroups(vec![Err(GroupError::GroupIdNotFound)])
    );
}
