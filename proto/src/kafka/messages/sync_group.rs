//! SyncGroup (key 14): hands out the assignments of a classic group.
//!
//! v1: throttle time. v3: static members (KIP-345). v4: flexible. v5: protocol type and name
//! (KIP-559).

use bytes::Bytes;

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// A member that asks for its assignment.
    struct SyncGroupRequest {
        group_id: String, ..;
        generation_id: i32, ..;
        member_id: String, ..;
        group_instance_id: Option<String>, 3..;
        protocol_type: Option<String>, 5..;
        protocol_name: Option<String>, 5..;
        /// From the leader alone.
        assignments: Vec<SyncGroupRequestAssignment>, ..;
    }

    /// The assignment of one member.
    struct SyncGroupRequestAssignment {
        member_id: String, ..;
        assignment: Bytes, ..;
    }

    /// The member's assignment.
    struct SyncGroupResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
        protocol_type: Option<String>, 5..;
        protocol_name: Option<String>, 5..;
        assignment: Bytes, ..;
    }
}
