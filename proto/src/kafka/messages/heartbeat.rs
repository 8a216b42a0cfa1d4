//! Heartbeat (key 12): a member of a classic group is alive.
//!
//! v1: throttle time. v3: static members (KIP-345). v4: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// A member that is alive.
    struct HeartbeatRequest {
        group_id: String, ..;
        generation_id: i32, ..;
        member_id: String, ..;
        group_instance_id: Option<String>, 3..;
    }

    /// Whether it may go on.
    struct HeartbeatResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
    }
}
