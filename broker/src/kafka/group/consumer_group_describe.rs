//! ConsumerGroupDescribe (69), versions 0 and 1: consumer groups with their members (KIP-848).
//!
//! - v1: the kind of each member (KIP-1099). A classic group is GROUP_ID_NOT_FOUND here, as a
//!   consumer group is in DescribeGroups.

use std::collections::BTreeSet;

use firn_proto::cluster::{
    DescribedConsumerGroup, DescribedConsumerMember, GroupError, NamedPartitions, Reply, Request,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupDescribed,
    ConsumerGroupDescribedAssignment, ConsumerGroupDescribedMember,
    ConsumerGroupDescribedTopicPartitions,
};

use super::describe_groups::{DESCRIBED_BYTES_MAX, GROUP_OPERATIONS};
use super::{code, look_up, optional_string};
use crate::kafka::context::Context;
use crate::kafka::view::OPERATIONS_NOT_ASKED;

/// The kind of a member that speaks the protocol of consumer groups.
const CONSUMER_MEMBER: i8 = 1;

/// Describes each group, once however often it is named.
pub async fn handle(
    ctx: &Context,
    mut request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let mut seen = BTreeSet::new();
    request.group_ids.retain(|name| seen.insert(name.clone()));
    let names = request.group_ids.clone();
    let operations = match request.include_authorized_operations {
        true => GROUP_OPERATIONS,
        false => OPERATIONS_NOT_ASKED,
    };
    let asked = Request::DescribeConsumerGroups(request.group_ids);
    let groups = match look_up(ctx, asked).await {
        Ok(Reply::DescribeConsumerGroups(results)) => {
            let mut room = DESCRIBED_BYTES_MAX;
            let results = results.into_iter().map(|result| within(&mut room, result?));
            let named = names.into_iter().zip(results);
            named
                .map(|(name, result)| describe(name, result, operations))
                .collect()
        }
        Ok(_) => refuse(names, ErrorCode::UnknownServerError),
        Err(error) => refuse(names, error),
    };
    ConsumerGroupDescribeResponse {
        groups,
        ..ConsumerGroupDescribeResponse::default()
    }
}

/// A group that still fits the answer. The first one always does.
pub(super) fn within(
    room: &mut usize,
    group: DescribedConsumerGroup,
) -> Result<DescribedConsumerGroup, GroupError> {
    let partitions = |topics: &[NamedPartitions]| {
        let topics = topics.iter();
        let bytes = topics.map(|named| named.name.len() + size_of_val(&named.partitions[..]));
        bytes.sum::<usize>()
    };
    let bytes = group.members.iter().map(|member| {
        let read = member.topics.iter().map(|name| name.len()).sum::<usize>();
        size_of_val(member) + read + partitions(&member.assigned) + partitions(&member.target)
    });
    // Those that come after one that does not fit are not described either.
    match room.checked_sub(bytes.sum()) {
        Some(left) => *room = left,
        None if *room < DESCRIBED_BYTES_MAX => {
            *room = 0;
            return Err(GroupError::InvalidRequest(
                "the groups before it fill the answer: describe fewer at a time".to_owned(),
            ));
        }
        None => *room = 0,
    }
    Ok(group)
}

pub(super) fn describe(
    group_id: String,
    result: Result<DescribedConsumerGroup, GroupError>,
    authorized_operations: i32,
) -> ConsumerGroupDescribed {
    match result {
        Ok(group) => ConsumerGroupDescribed {
            group_id,
            group_state: group.state.name().to_owned(),
            group_epoch: group.epoch,
            assignment_epoch: group.assignment_epoch,
            assignor_name: group.assignor.to_string(),
            members: group.members.into_iter().map(member).collect(),
            authorized_operations,
            ..ConsumerGroupDescribed::default()
        },
        Err(error) => ConsumerGroupDescribed {
            error_code: code(&error),
            error_message: Some(format!("consumer group {group_id:?}: {error}")),
            group_id,
            authorized_operations,
            ..ConsumerGroupDescribed::default()
        },
    }
}

fn member(member: DescribedConsumerMember) -> ConsumerGroupDescribedMember {
    let topics = member.topics.iter().map(ToString::to_string);
    ConsumerGroupDescribedMember {
        member_id: member.member.to_string(),
        instance_id: optional_string(member.instance.as_ref()),
        rack_id: optional_string(member.rack.as_ref()),
        member_epoch: member.epoch,
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        subscribed_topic_names: topics.collect(),
        subscribed_topic_regex: optional_string(member.regex.as_ref()),
        assignment: assignment(member.assigned),
        target_assignment: assignment(member.target),
        member_type: CONSUMER_MEMBER,
    }
}

fn assignment(topics: Vec<NamedPartitions>) -> ConsumerGroupDescribedAssignment {
    let topics = topics
        .into_iter()
        .map(|named| ConsumerGroupDescribedTopicPartitions {
            topic_id: named.topic,
            topic_name: named.name.to_string(),
            partitions: named.partitions.iter().map(|index| index.0).collect(),
        });
    ConsumerGroupDescribedAssignment {
        topic_partitions: topics.collect(),
    }
}

fn refuse(groups: Vec<String>, error_code: ErrorCode) -> Vec<ConsumerGroupDescribed> {
    let refused = groups.into_iter().map(|group_id| ConsumerGroupDescribed {
        error_code,
        group_id,
        ..ConsumerGroupDescribed::default()
    });
    refused.collect()
}
