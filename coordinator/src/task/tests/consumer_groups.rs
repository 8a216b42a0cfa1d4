//! Consumer groups (KIP-848) through the coordinator's loop: what the journal keeps of them, and
//! their offsets.

use std::collections::BTreeSet;

use firn_proto::cluster::{
    Assignment, ConsumerHeartbeat, ConsumerStanding, DescribedConsumerGroup, FetchTopicResult,
    GrowTopic,
};

use super::*;
use crate::testing::consumer_join as join;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn start(bucket: &MemoryBucket) -> (Coordinator, CoordinatorTask) {
    let mut config = CoordinatorConfig::default();
    config.groups.consumer_session_timeout = 30 * DAY;
    Coordinator::start(bucket.opener(), config, environment(), Arc::new(Alone))
        .await
        .unwrap()
}

fn beat(member: &str, epoch: i32) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        epoch,
        rebalance_timeout_ms: -1,
        topics: None,
        owned: None,
        ..join(member, &[])
    }
}

async fn heard(coordinator: &Coordinator, request: ConsumerHeartbeat) -> ConsumerStanding {
    let request = Request::ConsumerHeartbeat(Box::new(request));
    match coordinator.call(request).await {
        Ok(Reply::ConsumerHeartbeat(Ok(standing))) => standing,
        other => panic!("{other:?}"),
    }
}

async fn described(coordinator: &Coordinator) -> DescribedConsumerGroup {
    let request = Request::DescribeConsumerGroups(vec!["g".to_owned()]);
    match coordinator.call(request).await {
        Ok(Reply::DescribeConsumerGroups(mut groups)) => groups.remove(0).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn fetched(
    coordinator: &Coordinator,
    member: Option<(&str, i32)>,
) -> Result<Vec<FetchTopicResult>, GroupError> {
    let request = FetchOffsets {
        group: "g".into(),
        member: member.map(|(member, epoch)| (member.into(), epoch)),
        topics: None,
        require_stable: false,
    };
    match coordinator.call(Request::OffsetFetch(vec![request])).await {
        Ok(Reply::OffsetFetch(mut groups)) => groups.remove(0).result,
        other => panic!("{other:?}"),
    }
}

/// A commit of a member in its epoch.
fn member_commit(topic: &str, member: &str, epoch: i32) -> Request {
    let Request::OffsetCommit(request) = commit(topic, 7) else {
        unreachable!()
    };
    Request::OffsetCommit(OffsetCommit {
        generation: epoch,
        member: member.into(),
        knows_epochs: true,
        ..request
    })
}

#[tokio::test(start_paused = true)]
async fn another_leader_goes_on_with_the_same_epochs_and_assignments() {
    let bucket = MemoryBucket::default();
    let (coordinator, mut task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 4)).await.unwrap();
    heard(&coordinator, join("m", &["a"])).await;
    heard(&coordinator, join("n", &["a"])).await;
    let revoking = heard(&coordinator, beat("m", 1)).await;
    assert_eq!(revoking.assignment.map(|kept| kept.len()), Some(2));
    let before = described(&coordinator).await;
    coordinator.close().await;
    task.ended().await.unwrap();

    let (coordinator, _task) = start(&bucket).await;
    assert_eq!(described(&coordinator).await, before);
    let told = heard(&coordinator, beat("n", 2)).await;
    assert_eq!((told.epoch, told.assignment), (2, None), "m has not let go");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_changes_nothing_puts_nothing() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    let before = bucket.slots();
    heard(&coordinator, join("m", &["a"])).await;
    assert_eq!(bucket.slots(), before + 1);
    for _ in 0..5 {
        heard(&coordinator, beat("m", 1)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(bucket.slots(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn topics_that_come_grow_and_go_are_assigned_anew() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    let told = heard(&coordinator, join("m", &["a"])).await;
    assert_eq!(told.assignment, Some(Assignment::default()));
    coordinator.call(create("a", 1)).await.unwrap();
    let told = heard(&coordinator, beat("m", 1)).await;
    assert_eq!(told.assignment.map(|all| all.len()), Some(1));
    let grow = Request::CreatePartitions {
        topics: vec![GrowTopic {
            name: "a".to_owned(),
            partitions: 3,
            owners: Vec::new(),
        }],
        validate_only: false,
    };
    coordinator.call(grow).await.unwrap();
    let told = heard(&coordinator, beat("m", 2)).await;
    assert_eq!(told.assignment.map(|all| all.len()), Some(3));
    let delete = Request::DeleteTopics {
        topics: vec![TopicKey::Name("a".into())],
        timeout_ms: 0,
    };
    coordinator.call(delete).await.unwrap();
    let told = heard(&coordinator, beat("m", 3)).await;
    assert_eq!(told.assignment, Some(Assignment::default()));
}

#[tokio::test(start_paused = true)]
async fn members_commit_and_look_up_in_their_epoch() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    coordinator.call(create("a", 1)).await.unwrap();
    let unknown = coordinator.call(member_commit("a", "m", 1)).await.unwrap();
    assert_eq!(
        unknown,
        Reply::OffsetCommit(Err(GroupError::GroupIdNotFound))
    );
    heard(&coordinator, join("m", &["a"])).await;
    let stale = coordinator.call(member_commit("a", "m", 2)).await.unwrap();
    assert_eq!(
        stale,
        Reply::OffsetCommit(Err(GroupError::StaleMemberEpoch))
    );
    coordinator.call(member_commit("a", "m", 1)).await.unwrap();
    assert_eq!(
        fetched(&coordinator, Some(("m", 1))).await.unwrap().len(),
        1
    );
    let stale = fetched(&coordinator, Some(("m", 2))).await;
    assert_eq!(stale, Err(GroupError::StaleMemberEpoch));
    assert_eq!(fetched(&coordinator, None).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn members_keep_the_offsets_of_what_they_read_and_no_others() {
    let bucket = MemoryBucket::default();
    let (coordinator, _task) = start(&bucket).await;
    registered(&coordinator).await;
    for topic in ["read", "left"] {
        coordinator.call(create(topic, 1)).await.unwrap();
    }
    heard(&coordinator, join("m", &["read"])).await;
    for topic in ["read", "left"] {
        let committed = coordinator.call(member_commit(topic, "m", 1)).await;
        assert!(matches!(committed, Ok(Reply::OffsetCommit(Ok(_)))));
    }
    tokio::time::sleep(6 * DAY).await;
    assert_eq!(fetched(&coordinator, None).await.unwrap().len(), 2);
    tokio::time::sleep(2 * DAY).await;
    let left = fetched(&coordinator, None).await.unwrap();
    let left: BTreeSet<_> = left.into_iter().map(|topic| topic.topic).collect();
    assert_eq!(left, BTreeSet::from([TopicKey::Name("read".into())]));
}
