//! DescribeGroups (15), versions 0 to 6: groups with their members.
//!
//! - v3: authorized operations, if asked for (KIP-430). v4: static members.
//! - up to v5: an unknown group is described as Dead, without an error; v6 answers
//!   GROUP_ID_NOT_FOUND (KIP-1043).

use std::collections::BTreeSet;

use firn_proto::cluster::{
    DescribedGroup as Described, DescribedMember, GroupError, GroupState, Reply, Request,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use firn_proto::limits::GROUP_BYTES_MAX;

use super::{code, look_up, optional_string, shared};
use crate::kafka::context::{Call, Context};
use crate::kafka::view::OPERATIONS_NOT_ASKED;

/// What members say and are assigned, of all groups in one answer: that of one group always fits.
pub(super) const DESCRIBED_BYTES_MAX: usize = 2 * GROUP_BYTES_MAX;
/// READ, DELETE and DESCRIBE, by Kafka's `AclOperation` codes: there is no authorizer.
pub(super) const GROUP_OPERATIONS: i32 = (1 << 3) | (1 << 6) | (1 << 8);

/// Describes each group, once however often it is named.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    mut request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut seen = BTreeSet::new();
    request.groups.retain(|name| seen.insert(name.clone()));
    let names = request.groups.clone();
    let operations = match request.include_authorized_operations {
        true => GROUP_OPERATIONS,
        false => OPERATIONS_NOT_ASKED,
    };
    let described = match look_up(ctx, Request::DescribeGroups(request.groups)).await {
        Ok(Reply::DescribeGroups(results)) => {
            let mut room = DESCRIBED_BYTES_MAX;
            let results = results.into_iter().map(|result| within(&mut room, result?));
            names
                .into_iter()
                .zip(results)
                .map(|(name, result)| describe(call, name, result, operations))
                .collect()
        }
        Ok(_) => refuse(names, ErrorCode::UnknownServerError),
        Err(error) => refuse(names, error),
    };
    DescribeGroupsResponse {
        groups: described,
        ..DescribeGroupsResponse::default()
    }
}

/// A group that still fits the answer. The first one always does.
pub(super) fn within(room: &mut usize, group: Described) -> Result<Described, GroupError> {
    let said = |member: &DescribedMember| member.metadata.len() + member.assignment.len();
    let bytes: usize = group.members.iter().map(said).sum();
    match room.checked_sub(bytes) {
        Some(left) => *room = left,
        None => {
            return Err(GroupError::InvalidRequest(
                "the groups before it fill the answer: describe fewer at a time".to_owned(),
            ));
        }
    }
    Ok(group)
}

pub(super) fn describe(
    call: &Call,
    group_id: String,
    result: Result<Described, GroupError>,
    authorized_operations: i32,
) -> DescribedGroup {
    match result {
        Ok(group) => DescribedGroup {
            group_id,
            group_state: group.state.name().to_owned(),
            protocol_type: group.protocol_type.to_string(),
            protocol_data: group.protocol.to_string(),
            members: group.members.into_iter().map(member).collect(),
            authorized_operations,
            ..DescribedGroup::default()
        },
        Err(error) => {
            let unknown_is_dead = error == GroupError::GroupIdNotFound && call.version < 6;
            DescribedGroup {
                error_code: match unknown_is_dead {
                    true => ErrorCode::None,
                    false => code(&error),
                },
                error_message: Some(format!("group {group_id:?}: {error}")),
                group_id,
                group_state: GroupState::Dead.name().to_owned(),
                authorized_operations,
                ..DescribedGroup::default()
            }
        }
    }
}

fn member(member: DescribedMember) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: member.member.to_string(),
        group_instance_id: optional_string(member.instance.as_ref()),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        member_metadata: shared(member.metadata),
        member_assignment: shared(member.assignment),
    }
}

fn refuse(groups: Vec<String>, error_code: ErrorCode) -> Vec<DescribedGroup> {
    let refused = groups.into_iter().map(|group_id| DescribedGroup {
        error_code,
        group_id,
        ..DescribedGroup::default()
    });
    refused.collect()
}
