//! AlterConfigs (key 33): gives topics and brokers their configs anew; what is not named falls back
//! to its default.
//!
//! v2: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose configs to replace.
    struct AlterConfigsRequest {
        resources: Vec<AlterConfigsResource>, ..;
        /// Only say what would happen.
        validate_only: bool, ..;
    }

    /// A topic or broker, with all the configs it shall have.
    struct AlterConfigsResource {
        /// 2: a topic, 4: a broker, 16: client metrics, 32: a group.
        resource_type: i8, ..;
        resource_name: String, ..;
        configs: Vec<AlterableConfig>, ..;
    }

    /// A config to set.
    struct AlterableConfig {
        name: String, ..;
        value: Option<String>, ..;
    }

    /// What became of each resource.
    struct AlterConfigsResponse {
        throttle_time_ms: i32, ..;
        responses: Vec<AlterConfigsResourceResponse>, ..;
    }

    /// What became of one resource.
    struct AlterConfigsResourceResponse {
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        resource_type: i8, ..;
        resource_name: String, ..;
    }
}
