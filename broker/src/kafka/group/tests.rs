use firn_proto::cluster::{
    CommittedOffset, ConsumerStanding, DescribedConsumerGroup, DescribedConsumerMember,
    DescribedGroup, DescribedMember, FetchTopicResult, FetchedOffsets, GroupError, GroupState,
    LeftGroup, LeftMember, TopicKey,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId};
use firn_proto::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatTopicPartitions,
};
use firn_proto::kafka::join_group::JoinGroupRequest;
use firn_proto::kafka::leave_group::LeaveGroupRequest;
use firn_proto::kafka::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use firn_proto::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use firn_proto::limits::GROUP_BYTES_MAX;

use super::*;
use crate::kafka::context::Call;

fn call(version: i16) -> Call {
    Call {
        version,
        client_id: Some("client".into()),
    }
}

#[test]
fn each_version_of_a_join_says_what_its_client_can_do() {
    let request = JoinGroupRequest {
        session_timeout_ms: 10,
        rebalance_timeout_ms: 20,
        ..JoinGroupRequest::default()
    };
    for (version, timeout, known, skip) in [
        (0, 10, false, false),
        (1, 20, false, false),
        (3, 20, false, false),
        (4, 20, true, false),
        (9, 20, true, true),
    ] {
        let join = join_group::translate(&call(version), "/::1", request.clone());
        assert_eq!(join.rebalance_timeout_ms, timeout, "v{version}");
        assert_eq!(join.require_known_member, known, "v{version}");
        assert_eq!(join.supports_skip_assignment, skip, "v{version}");
        assert_eq!(&*join.client_host, "/::1");
    }
}

#[test]
fn a_new_member_is_told_the_id_to_come_back_with() {
    let error = GroupError::MemberIdRequired("client-1".into());
    let response = join_group::refuse(&error, String::new());
    assert_eq!(response.error_code, ErrorCode::MemberIdRequired);
    assert_eq!(response.member_id, "client-1");
    assert_eq!(response.generation_id, -1);
}

#[test]
fn a_single_member_that_leaves_gets_its_refusal_at_the_top() {
    let left = LeftGroup {
        members: vec![LeftMember {
            member: "m".into(),
            instance: None,
            result: Err(GroupError::UnknownMemberId),
        }],
    };
    let old = leave_group::answer(&call(2), left.clone());
    assert_eq!(old.error_code, ErrorCode::UnknownMemberId);
    let new = leave_group::answer(&call(3), left);
    assert_eq!(new.error_code, ErrorCode::None);
    assert_eq!(new.members[0].error_code, ErrorCode::UnknownMemberId);

    let request = LeaveGroupRequest {
        member_id: "m".to_owned(),
        ..LeaveGroupRequest::default()
    };
    let members = leave_group::translate(&call(0), request).members;
    assert_eq!(&*members[0].member, "m");
}

#[test]
fn a_refused_commit_is_refused_for_each_partition() {
    let topic = OffsetCommitRequestTopic {
        name: "t".to_owned(),
        partitions: vec![
            OffsetCommitRequestPartition::default(),
            OffsetCommitRequestPartition {
                partition_index: 7,
                ..OffsetCommitRequestPartition::default()
            },
        ],
    };
    let response = offset_commit::refusal(&[topic])(ErrorCode::NotCoordinator);
    let partitions = &response.topics[0].partitions;
    assert_eq!(partitions[1].partition_index, 7);
    assert!(
        partitions
            .iter()
            .all(|p| p.error_code == ErrorCode::NotCoordinator)
    );
}

#[test]
fn offsets_are_told_the_same_way_in_old_and_new_versions() {
    let fetched = FetchedOffsets {
        group: "g".into(),
        result: Ok(vec![FetchTopicResult {
            topic: TopicKey::Name("t".into()),
            id: TopicId::ZERO,
            partitions: vec![
                (
                    PartitionIndex(0),
                    Ok(Some(CommittedOffset {
                        offset: 1 << 40,
                        leader_epoch: LeaderEpoch(3),
                        metadata: "note".into(),
                    })),
                ),
                (PartitionIndex(1), Ok(None)),
            ],
        }]),
    };
    let old = offset_fetch::answer(&call(7), vec![fetched.clone()]);
    let partitions = &old.topics[0].partitions;
    assert_eq!(partitions[0].committed_offset, 1 << 40);
    assert_eq!(partitions[0].metadata.as_deref(), Some("note"));
    assert_eq!(partitions[1].committed_offset, -1);
    assert_eq!(partitions[1].metadata.as_deref(), Some(""));
    assert_eq!(partitions[1].error_code, ErrorCode::None);

    let new = offset_fetch::answer(&call(8), vec![fetched]);
    assert!(new.topics.is_empty());
    assert_eq!(
        new.groups[0].topics[0].partitions[0].committed_leader_epoch,
        3
    );
}

#[test]
fn null_topics_ask_for_all_of_them() {
    let none = offset_fetch::translate(&call(2), OffsetFetchRequest::default());
    assert_eq!(none[0].topics, None);
    let request = OffsetFetchRequest {
        topics: Some(Vec::new()),
        ..OffsetFetchRequest::default()
    };
    let empty = offset_fetch::translate(&call(2), request);
    assert_eq!(empty[0].topics, Some(Vec::new()));
}

#[test]
fn an_unknown_group_is_dead_until_version_6() {
    let describe = |version| {
        let unknown = Err(GroupError::GroupIdNotFound);
        describe_groups::describe(&call(version), "g".to_owned(), unknown, 0)
    };
    let old = describe(5);
    assert_eq!(
        (old.error_code, &*old.group_state),
        (ErrorCode::None, "Dead")
    );
    assert_eq!(describe(6).error_code, ErrorCode::GroupIdNotFound);
}

#[test]
fn an_offset_named_twice_is_told_once() {
    let topic = |name: &str, partition_indexes: &[i32]| OffsetFetchRequestTopic {
        name: name.to_owned(),
        partition_indexes: partition_indexes.to_vec(),
    };
    let request = OffsetFetchRequest {
        topics: Some(vec![
            topic("a", &[3, 1, 3]),
            topic("b", &[]),
            topic("a", &[1, 2]),
            topic("a", &[2]),
        ]),
        ..OffsetFetchRequest::default()
    };
    let wanted = offset_fetch::translate(&call(2), request).remove(0);
    let told: Vec<_> = wanted
        .topics
        .unwrap()
        .into_iter()
        .map(|topic| {
            let TopicKey::Name(name) = topic.topic else {
                panic!("topics have names here")
            };
            let partitions = topic.partitions.iter().map(|partition| partition.0);
            (name.to_string(), partitions.collect::<Vec<_>>())
        })
        .collect();
    let expected = [("a", vec![3, 1]), ("b", vec![]), ("a", vec![2])];
    assert_eq!(told, expected.map(|(name, told)| (name.to_owned(), told)));

    let group = |name: &str| OffsetFetchRequestGroup {
        group_id: name.to_owned(),
        topics: Some(vec![OffsetFetchRequestTopics {
            name: "a".to_owned(),
            partition_indexes: vec![0, 0],
        }]),
        ..OffsetFetchRequestGroup::default()
    };
    let request = OffsetFetchRequest {
        groups: vec![group("g"), group("h"), group("g")],
        ..OffsetFetchRequest::default()
    };
    let wanted = offset_fetch::translate(&call(8), request);
    let groups: Vec<_> = wanted.iter().map(|wanted| &*wanted.group).collect();
    assert_eq!(groups, ["g", "h"]);
    let topics = wanted[0].topics.as_ref().unwrap();
    assert_eq!(topics[0].partitions, [PartitionIndex(0)]);
}

#[test]
fn groups_that_no_longer_fit_the_answer_are_refused_one_by_one() {
    let group = |bytes: usize| DescribedGroup {
        group: "g".into(),
        state: GroupState::Stable,
        protocol_type: "consumer".into(),
        protocol: "range".into(),
        members: vec![DescribedMember {
            member: "m".into(),
            instance: None,
            client_id: "c".into(),
            client_host: "/::1".into(),
            metadata: vec![0; bytes].into(),
            assignment: vec![0; bytes].into(),
        }],
    };
    let mut room = 2 * GROUP_BYTES_MAX;
    assert!(describe_groups::within(&mut room, group(GROUP_BYTES_MAX)).is_ok());
    assert!(describe_groups::within(&mut room, group(1)).is_err());
    assert!(describe_groups::within(&mut room, group(0)).is_ok());
}

#[test]
fn a_heartbeat_of_a_consumer_group_tells_what_is_unchanged_from_what_is_nothing() {
    let beat = |request| consumer_group_heartbeat::translate(&call(1), "/::1", request);
    let unchanged = beat(ConsumerGroupHeartbeatRequest::default());
    assert!(unchanged.requires_member);
    assert_eq!(
        (unchanged.topics, unchanged.regex, unchanged.owned),
        (None, None, None)
    );
    let partitions = ConsumerGroupHeartbeatTopicPartitions {
        topic_id: TopicId([7; 16]),
        partitions: vec![2, 0],
    };
    let said = beat(ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: Some(Vec::new()),
        subscribed_topic_regex: Some(String::new()),
        topic_partitions: Some(vec![partitions]),
        ..ConsumerGroupHeartbeatRequest::default()
    });
    assert_eq!(said.topics, Some(Vec::new()));
    assert_eq!(said.regex.as_deref(), Some(""));
    let owned = said.owned.unwrap();
    assert_eq!(owned.len(), 2);
    let request = ConsumerGroupHeartbeatRequest::default();
    assert!(!consumer_group_heartbeat::translate(&call(0), "/::1", request).requires_member);

    let standing = |assignment| ConsumerStanding {
        member: "m".into(),
        epoch: 3,
        heartbeat_interval_ms: 5000,
        assignment,
    };
    let unchanged = consumer_group_heartbeat::answer(standing(None));
    assert_eq!((unchanged.member_epoch, unchanged.assignment), (3, None));
    let told = consumer_group_heartbeat::answer(standing(Some(owned)));
    let topics = told.assignment.unwrap().topic_partitions;
    assert_eq!(topics[0].partitions, [0, 2]);
}

#[test]
fn consumer_groups_that_no_longer_fit_the_answer_are_refused_one_by_one() {
    let group = |bytes: usize| DescribedConsumerGroup {
        group: "g".into(),
        state: GroupState::Stable,
        epoch: 1,
        assignment_epoch: 1,
        assignor: "uniform".into(),
        members: vec![DescribedConsumerMember {
            member: "m".into(),
            instance: None,
            rack: None,
            epoch: 1,
            client_id: "c".into(),
            client_host: "/::1".into(),
            topics: vec!["t".repeat(bytes).into()],
            regex: None,
            assigned: Vec::new(),
            target: Vec::new(),
        }],
    };
    let mut room = 2 * GROUP_BYTES_MAX;
    assert!(consumer_group_describe::within(&mut room, group(3 * GROUP_BYTES_MAX)).is_ok());
    assert!(consumer_group_describe::within(&mut room, group(1)).is_err());
}
