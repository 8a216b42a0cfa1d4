//! ListGroups (key 16): lists groups.
//!
//! v1: throttle time. v3: flexible. v4: states (KIP-518). v5: types (KIP-848).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Which groups to list.
    struct ListGroupsRequest {
        /// Empty: all.
        states_filter: Vec<String>, 4..;
        /// Empty: all.
        types_filter: Vec<String>, 5..;
    }

    /// The groups listed.
    struct ListGroupsResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..;
        groups: Vec<ListedGroup>, ..;
    }

    /// A group in the list.
    struct ListedGroup {
        group_id: String, ..;
        protocol_type: String, ..;
        group_state: String, 4..;
        group_type: String, 5..;
    }
}
