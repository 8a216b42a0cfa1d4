//! CreateTopics (key 19): creates topics.
//!
//! v2: throttle time. v4: defaults for partitions and replication factor (KIP-464). v5:
//! flexible, configs in the response (KIP-525). v6: quota errors (KIP-599). v7: topic ids
//! (KIP-516).

use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::messages;

messages! {
    /// Topics to create.
    struct CreateTopicsRequest {
        topics: Vec<CreatableTopic>, ..;
        timeout_ms: i32, .., default 60000;
        validate_only: bool, ..;
    }

    /// A topic to create.
    struct CreatableTopic {
        name: String, ..;
        /// −1: the broker's default, or as the assignments say.
        num_partitions: i32, ..;
        /// −1: the broker's default, or as the assignments say.
        replication_factor: i16, ..;
        assignments: Vec<CreatableReplicaAssignment>, ..;
        configs: Vec<CreatableTopicConfig>, ..;
    }

    /// Where one partition of a topic shall be.
    struct CreatableReplicaAssignment {
        partition_index: i32, ..;
        broker_ids: Vec<i32>, ..;
    }

    /// A config to set.
    struct CreatableTopicConfig {
        name: String, ..;
        value: Option<String>, ..;
    }

    /// What became of each topic.
    struct CreateTopicsResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<CreatableTopicResult>, ..;
    }

    /// What became of one topic.
    struct CreatableTopicResult {
        name: String, ..;
        topic_id: TopicId, 7..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        topic_config_error_code: ErrorCode, 5.., tag 0;
        num_partitions: i32, 5.., default -1;
        replication_factor: i16, 5.., default -1;
        /// Null if the client may not see them, which `topic_config_error_code` says.
        configs: Option<Vec<CreatableTopicConfigs>>, 5..;
    }

    /// A config of the topic created.
    struct CreatableTopicConfigs {
        name: String, 5..;
        value: Option<String>, 5..;
        read_only: bool, 5..;
        config_source: i8, 5.., default -1;
        is_sensitive: bool, 5..;
    }
}
