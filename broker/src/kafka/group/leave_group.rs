//! LeaveGroup (13), versions 0 to 5: members leave a classic group.
//!
//! - up to v2: one member, whose refusal is that of the request.
//! - v3: several members, also by static id alone (KIP-345), each with a result of its own.

use firn_proto::cluster::{LeaveGroup, LeavingMember, LeftGroup, Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};

use super::{ask, code, code_of, optional, optional_string};
use crate::kafka::context::{Call, Context};

/// Answers when the members are out.
pub async fn handle(ctx: &Context, call: &Call, request: LeaveGroupRequest) -> LeaveGroupResponse {
    match ask(ctx, Request::LeaveGroup(translate(call, request))).await {
        Ok(Reply::LeaveGroup(Ok(left))) => answer(call, left),
        Ok(Reply::LeaveGroup(Err(error))) => refuse(code(&error)),
        Ok(_) => refuse(ErrorCode::UnknownServerError),
        Err(error) => refuse(error),
    }
}

pub(super) fn translate(call: &Call, request: LeaveGroupRequest) -> LeaveGroup {
    let members = if call.version <= 2 {
        vec![LeavingMember {
            member: request.member_id.into(),
            instance: None,
            reason: None,
        }]
    } else {
        let leaving = request.members.into_iter().map(|member| LeavingMember {
            member: member.member_id.into(),
            instance: optional(member.group_instance_id),
            reason: optional(member.reason),
        });
        leaving.collect()
    };
    LeaveGroup {
        group: request.group_id.into(),
        members,
    }
}

pub(super) fn answer(call: &Call, left: LeftGroup) -> LeaveGroupResponse {
    if call.version <= 2 {
        let only = left.members.first();
        return refuse(only.map_or(ErrorCode::None, |member| code_of(&member.result)));
    }
    let members = left.members.into_iter().map(|member| MemberResponse {
        member_id: member.member.to_string(),
        group_instance_id: optional_string(member.instance.as_ref()),
        error_code: code_of(&member.result),
    });
    LeaveGroupResponse {
        members: members.collect(),
        ..LeaveGroupResponse::default()
    }
}

fn refuse(error_code: ErrorCode) -> LeaveGroupResponse {
    LeaveGroupResponse {
        error_code,
        ..LeaveGroupResponse::default()
    }
}
