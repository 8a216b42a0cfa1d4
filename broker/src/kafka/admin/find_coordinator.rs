//! FindCoordinator (10), versions 0 to 6: which broker to send group calls to.
//!
//! - v1: key types. For a transaction (1) this broker is named too: InitProducerId then says for
//!   good that there are none, where an error here would be asked again until the client gives up.
//!   A share group (2, v6) is INVALID_REQUEST.
//! - v4: several keys in one request (KIP-699).
//!
//! Every broker passes group calls on to the coordinator, so the answer is this broker itself, or
//! another one once it is about to leave, at the address of the listener the client came in on.

use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
};

use crate::kafka::context::{Call, ConnectionState, Context};
use crate::kafka::view;

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

/// Names the coordinator of each key.
pub fn handle(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let find = |key: String| coordinator(ctx, conn, request.key_type, key);
    if call.version >= 4 {
        return FindCoordinatorResponse {
            coordinators: request.coordinator_keys.into_iter().map(find).collect(),
            ..FindCoordinatorResponse::default()
        };
    }
    let found = find(request.key);
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..FindCoordinatorResponse::default()
    }
}

fn coordinator(ctx: &Context, conn: &ConnectionState, key_type: i8, key: String) -> Coordinator {
    let refusal = match key_type {
        KEY_TYPE_GROUP if key.is_empty() => {
            Some((ErrorCode::InvalidGroupId, "the group id is empty"))
        }
        KEY_TYPE_GROUP | KEY_TYPE_TRANSACTION => None,
        _ => Some((ErrorCode::InvalidRequest, "unknown coordinator key type")),
    };
    if let Some((error_code, message)) = refusal {
        return Coordinator {
            key,
            node_id: -1,
            port: -1,
            error_code,
            error_message: Some(message.to_owned()),
            ..Coordinator::default()
        };
    }
    let own = view::group_endpoint(ctx, conn);
    Coordinator {
        key,
        node_id: own.node_id,
        host: own.host,
        port: own.port,
        ..Coordinator::default()
    }
}
