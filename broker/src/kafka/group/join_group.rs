//! JoinGroup (11), versions 0 to 9: a member joins a classic group and waits for the rebalance.
//!
//! - v0: no rebalance timeout; the session timeout counts for both.
//! - v4: a new member is sent back with its id, MEMBER_ID_REQUIRED (KIP-394).
//! - v7: protocol type; a protocol name that is null while there is none (KIP-559).
//! - v9: the leader may be told to skip the assignment (KIP-814).

use std::sync::Arc;

use firn_proto::cluster::{GroupError, JoinGroup, JoinedGroup, Protocol, Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};

use super::{ask_parked, code, optional, optional_string, shared};
use crate::kafka::context::{Call, ConnectionState, Context};
use crate::kafka::memory::Reserved;

/// Joins; answers when the generation has begun.
pub async fn handle(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    request: JoinGroupRequest,
    memory: &mut Reserved,
) -> JoinGroupResponse {
    let member = request.member_id.clone();
    let host = format!("/{}", conn.peer.ip());
    let join = Request::JoinGroup(translate(call, &host, request));
    match ask_parked(ctx, call, join, member.len(), memory).await {
        Ok(Reply::JoinGroup(Ok(joined))) => answer(joined),
        Ok(Reply::JoinGroup(Err(error))) => refuse(&error, member),
        Ok(_) => refuse_with(ErrorCode::UnknownServerError, member),
        Err(error) => refuse_with(error, member),
    }
}

pub(super) fn translate(call: &Call, host: &str, request: JoinGroupRequest) -> JoinGroup {
    let rebalance_timeout_ms = match call.version {
        0 => request.session_timeout_ms,
        _ => request.rebalance_timeout_ms,
    };
    let protocols = request.protocols.into_iter().map(|offer| Protocol {
        name: offer.name.into(),
        metadata: Arc::from(&offer.metadata[..]),
    });
    JoinGroup {
        group: request.group_id.into(),
        member: request.member_id.into(),
        instance: optional(request.group_instance_id),
        client_id: call.client_id.clone().unwrap_or_else(|| "".into()),
        client_host: host.into(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type.into(),
        protocols: protocols.collect(),
        require_known_member: call.version >= 4,
        supports_skip_assignment: call.version >= 9,
        reason: optional(request.reason),
    }
}

fn answer(joined: JoinedGroup) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        let instance = member.instance.as_ref();
        JoinGroupResponseMember {
            member_id: member.member.to_string(),
            group_instance_id: optional_string(instance),
            metadata: shared(member.metadata),
        }
    });
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: Some(joined.protocol_type.to_string()),
        protocol_name: Some(joined.protocol.to_string()),
        leader: joined.leader.to_string(),
        skip_assignment: joined.skip_assignment,
        member_id: joined.member.to_string(),
        members: members.collect(),
        ..JoinGroupResponse::default()
    }
}

pub(super) fn refuse(error: &GroupError, member: String) -> JoinGroupResponse {
    let member = match error {
        GroupError::MemberIdRequired(id) => id.to_string(),
        _ => member,
    };
    refuse_with(code(error), member)
}

fn refuse_with(error_code: ErrorCode, member_id: String) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code,
        member_id,
        ..JoinGroupResponse::default()
    }
}
