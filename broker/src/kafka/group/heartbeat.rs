//! Heartbeat (12), versions 0 to 4: a member is alive; REBALANCE_IN_PROGRESS tells it to join
//! again.

use firn_proto::cluster::{Heartbeat, Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use super::{ask_parked, code_of, optional};
use crate::kafka::context::{Call, Context};
use crate::kafka::memory::Reserved;

/// Answers at once, unless the journal has to catch up first.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    request: HeartbeatRequest,
    memory: &mut Reserved,
) -> HeartbeatResponse {
    let heartbeat = Heartbeat {
        group: request.group_id.into(),
        generation: request.generation_id,
        member: request.member_id.into(),
        instance: optional(request.group_instance_id),
    };
    let heartbeat = Request::Heartbeat(heartbeat);
    let error_code = match ask_parked(ctx, call, heartbeat, 0, memory).await {
        Ok(Reply::Heartbeat(result)) => code_of(&result),
        Ok(_) => ErrorCode::UnknownServerError,
        Err(error) => error,
    };
    HeartbeatResponse {
        error_code,
        ..HeartbeatResponse::default()
    }
}
