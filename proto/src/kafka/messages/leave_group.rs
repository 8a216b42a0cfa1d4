//! LeaveGroup (key 13): members leave a classic group.
//!
//! v1: throttle time. v3: several members (KIP-345). v4: flexible. v5: reason (KIP-800).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Members that leave.
    struct LeaveGroupRequest {
        group_id: String, ..;
        /// Up to v2.
        member_id: String, ..=2;
        members: Vec<MemberIdentity>, 3..;
    }

    /// A member that leaves.
    struct MemberIdentity {
        member_id: String, 3..;
        group_instance_id: Option<String>, 3..;
        reason: Option<String>, 5..;
    }

    /// What became of each.
    struct LeaveGroupResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
        members: Vec<MemberResponse>, 3..;
    }

    /// What became of one member that leaves.
    struct MemberResponse {
        member_id: String, 3..;
        group_instance_id: Option<String>, 3..;
        error_code: ErrorCode, 3..;
    }
}
