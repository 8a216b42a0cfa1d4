//! JoinGroup (key 11): a member joins a classic group.
//!
//! v1: rebalance timeout. v2: throttle time. v4: a new member joins twice (KIP-394). v5: static
//! members (KIP-345). v6: flexible. v7: protocol type (KIP-559). v8: reason (KIP-800). v9: the
//! leader may skip the assignment (KIP-814).

use bytes::Bytes;

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// A member that joins.
    struct JoinGroupRequest {
        group_id: String, ..;
        session_timeout_ms: i32, ..;
        /// −1 in v0: the session timeout counts.
        rebalance_timeout_ms: i32, 1.., default -1;
        /// Empty from a new member.
        member_id: String, ..;
        group_instance_id: Option<String>, 5..;
        protocol_type: String, ..;
        /// Best first.
        protocols: Vec<JoinGroupRequestProtocol>, ..;
        reason: Option<String>, 8..;
    }

    /// A protocol the member speaks.
    struct JoinGroupRequestProtocol {
        name: String, ..;
        metadata: Bytes, ..;
    }

    /// The group joined.
    struct JoinGroupResponse {
        throttle_time_ms: i32, 2..;
        error_code: ErrorCode, ..;
        generation_id: i32, .., default -1;
        protocol_type: Option<String>, 7..;
        protocol_name: Option<String>, .., null 7..;
        leader: String, ..;
        skip_assignment: bool, 9..;
        member_id: String, ..;
        /// Every member, for the leader alone.
        members: Vec<JoinGroupResponseMember>, ..;
    }

    /// A member of the group joined.
    struct JoinGroupResponseMember {
        member_id: String, ..;
        group_instance_id: Option<String>, 5..;
        metadata: Bytes, ..;
    }
}
