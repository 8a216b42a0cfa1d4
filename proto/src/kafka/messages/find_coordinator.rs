//! FindCoordinator (key 10): which broker coordinates a group or transaction.
//!
//! v1: key type, error message, throttle time. v3: flexible. v4: several keys (KIP-699). v5:
//! errors of KIP-890. v6: share groups (KIP-932).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose coordinator to find.
    struct FindCoordinatorRequest {
        /// Up to v3.
        key: String, ..=3;
        /// 0: groups, 1: transactions, 2: share groups.
        key_type: i8, 1..;
        coordinator_keys: Vec<String>, 4..;
    }

    /// The coordinators: up to v3 one, in the fields of the response itself.
    struct FindCoordinatorResponse {
        throttle_time_ms: i32, 1..;
        error_code: ErrorCode, ..=3;
        error_message: Option<String>, 1..=3;
        node_id: i32, ..=3;
        host: String, ..=3;
        port: i32, ..=3;
        coordinators: Vec<Coordinator>, 4..;
    }

    /// The coordinator of one key.
    struct Coordinator {
        key: String, 4..;
        node_id: i32, 4..;
        host: String, 4..;
        port: i32, 4..;
        error_code: ErrorCode, 4..;
        error_message: Option<String>, 4..;
    }
}
