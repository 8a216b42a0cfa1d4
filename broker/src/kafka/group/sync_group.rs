//! SyncGroup (14), versions 0 to 5: a member waits for its part, the leader brings all of them.
//!
//! - v5: protocol type and name, which both must be there and be the group's (KIP-559).

use std::sync::Arc;

use firn_proto::cluster::{Reply, Request, SyncGroup, SyncedGroup};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::sync_group::{SyncGroupRequest, SyncGroupResponse};

use super::{ask_parked, code, optional, shared};
use crate::kafka::context::{Call, Context};
use crate::kafka::memory::Reserved;

/// Answers when the leader's assignment is durable.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    request: SyncGroupRequest,
    memory: &mut Reserved,
) -> SyncGroupResponse {
    let named = request.protocol_type.is_some() && request.protocol_name.is_some();
    if call.version >= 5 && !named {
        return refuse(ErrorCode::InconsistentGroupProtocol);
    }
    let sync = Request::SyncGroup(translate(request));
    match ask_parked(ctx, call, sync, 0, memory).await {
        Ok(Reply::SyncGroup(Ok(synced))) => answer(synced),
        Ok(Reply::SyncGroup(Err(error))) => refuse(code(&error)),
        Ok(_) => refuse(ErrorCode::UnknownServerError),
        Err(error) => refuse(error),
    }
}

fn translate(request: SyncGroupRequest) -> SyncGroup {
    let assignments = request.assignments.into_iter().map(|part| {
        let bytes: Arc<[u8]> = Arc::from(&part.assignment[..]);
        (Arc::from(part.member_id), bytes)
    });
    SyncGroup {
        group: request.group_id.into(),
        generation: request.generation_id,
        member: request.member_id.into(),
        instance: optional(request.group_instance_id),
        protocol_type: optional(request.protocol_type),
        protocol: optional(request.protocol_name),
        assignments: assignments.collect(),
    }
}

fn answer(synced: SyncedGroup) -> SyncGroupResponse {
    SyncGroupResponse {
        protocol_type: Some(synced.protocol_type.to_string()),
        protocol_name: Some(synced.protocol.to_string()),
        assignment: shared(synced.assignment),
        ..SyncGroupResponse::default()
    }
}

fn refuse(error_code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse {
        error_code,
        ..SyncGroupResponse::default()
    }
}
