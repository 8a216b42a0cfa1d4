//! DeleteGroups (key 42): deletes groups.
//!
//! v2: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Groups to delete.
    struct DeleteGroupsRequest {
        groups_names: Vec<String>, ..;
    }

    /// What became of each group.
    struct DeleteGroupsResponse {
        throttle_time_ms: i32, ..;
        results: Vec<DeletableGroupResult>, ..;
    }

    /// What became of one group.
    struct DeletableGroupResult {
        group_id: String, ..;
        error_code: ErrorCode, ..;
    }
}
