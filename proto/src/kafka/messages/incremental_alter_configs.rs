//! IncrementalAlterConfigs (key 44): changes single configs of topics and brokers (KIP-339).
//!
//! v1: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose configs to change.
    struct IncrementalAlterConfigsRequest {
        resources: Vec<IncrementalAlterConfigsResource>, ..;
        /// Only say what would happen.
        validate_only: bool, ..;
    }

    /// A topic or broker, with what to change of it.
    struct IncrementalAlterConfigsResource {
        /// 2: a topic, 4: a broker, 8: the log levels of a broker, 16: client metrics, 32: a group.
        resource_type: i8, ..;
        resource_name: String, ..;
        configs: Vec<IncrementalAlterableConfig>, ..;
    }

    /// A change of a config.
    struct IncrementalAlterableConfig {
        name: String, ..;
        /// 0: set, 1: delete, 2: append to a list, 3: subtract from a list.
        config_operation: i8, ..;
        value: Option<String>, ..;
    }

    /// What became of each resource.
    struct IncrementalAlterConfigsResponse {
        throttle_time_ms: i32, ..;
        responses: Vec<IncrementalAlterConfigsResourceResponse>, ..;
    }

    /// What became of one resource.
    struct IncrementalAlterConfigsResourceResponse {
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        resource_type: i8, ..;
        resource_name: String, ..;
    }
}
