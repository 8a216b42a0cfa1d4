//! DescribeGroups (key 15): describes groups.
//!
//! v1: throttle time. v3: authorized operations (KIP-430). v4: static members (KIP-345). v5:
//! flexible. v6: error message; GROUP_ID_NOT_FOUND (KIP-1043).

use bytes::Bytes;

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Which groups to describe.
    struct DescribeGroupsRequest {
        groups: Vec<String>, ..;
        include_authorized_operations: bool, 3..;
    }

    /// The groups described.
    struct DescribeGroupsResponse {
        throttle_time_ms: i32, 1..;
        groups: Vec<DescribedGroup>, ..;
    }

    /// A group.
    struct DescribedGroup {
        error_code: ErrorCode, ..;
        error_message: Option<String>, 6..;
        group_id: String, ..;
        group_state: String, ..;
        protocol_type: String, ..;
        /// The protocol chosen.
        protocol_data: String, ..;
        members: Vec<DescribedGroupMember>, ..;
        /// A bit set, `i32::MIN` if not asked for.
        authorized_operations: i32, 3.., default -2147483648;
    }

    /// A member of a group.
    struct DescribedGroupMember {
        member_id: String, ..;
        group_instance_id: Option<String>, 4..;
        client_id: String, ..;
        client_host: String, ..;
        member_metadata: Bytes, ..;
        member_assignment: Bytes, ..;
    }
}
