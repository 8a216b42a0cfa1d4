//! DescribeConfigs (key 32): shows configs of topics and brokers.
//!
//! v1: sources and synonyms (KIP-226). v3: types and documentation (KIP-569). v4: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose configs to show.
    struct DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource>, ..;
        include_synonyms: bool, ..;
        include_documentation: bool, 3..;
    }

    /// A topic or broker whose configs to show.
    struct DescribeConfigsResource {
        /// 2: a topic, 4: a broker, 8: the log levels of a broker, 16: client metrics, 32: a group.
        resource_type: i8, ..;
        resource_name: String, ..;
        /// Null: all of them.
        configuration_keys: Option<Vec<String>>, ..;
    }

    /// Configs.
    struct DescribeConfigsResponse {
        throttle_time_ms: i32, ..;
        results: Vec<DescribeConfigsResult>, ..;
    }

    /// Configs of one topic or broker.
    struct DescribeConfigsResult {
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        resource_type: i8, ..;
        resource_name: String, ..;
        configs: Vec<DescribeConfigsResourceResult>, ..;
    }

    /// A config.
    struct DescribeConfigsResourceResult {
        name: String, ..;
        value: Option<String>, ..;
        read_only: bool, ..;
        /// 1: the topic, 2: one broker, 3: all brokers, 4: the file of the broker, 5: the
        /// default, 6: log levels, 7: client metrics, 8: a group.
        config_source: i8, .., default -1;
        is_sensitive: bool, ..;
        synonyms: Vec<DescribeConfigsSynonym>, ..;
        /// 0: unknown, 1: boolean, 2: text, 3: int, 4: short, 5: long, 6: double, 7: list, 8:
        /// class, 9: password.
        config_type: i8, 3..;
        documentation: Option<String>, 3..;
    }

    /// A setting that the config falls back to.
    struct DescribeConfigsSynonym {
        name: String, ..;
        value: Option<String>, ..;
        source: i8, ..;
    }
}
