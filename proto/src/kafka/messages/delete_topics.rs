//! DeleteTopics (key 20): deletes topics.
//!
//! v1: throttle time. v4: flexible. v5: error message (KIP-599). v6: topics by id (KIP-516).

use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::messages;

messages! {
    /// Topics to delete.
    struct DeleteTopicsRequest {
        topics: Vec<DeleteTopicState>, 6..;
        /// Up to v5.
        topic_names: Vec<String>, ..=5;
        timeout_ms: i32, ..;
    }

    /// A topic to delete, by id or name.
    struct DeleteTopicState {
        name: Option<String>, 6..;
        topic_id: TopicId, 6..;
    }

    /// What became of each topic.
    struct DeleteTopicsResponse {
        throttle_time_ms: i32, ..;
        responses: Vec<DeletableTopicResult>, ..;
    }

    /// What became of one topic.
    struct DeletableTopicResult {
        name: Option<String>, .., null 6..;
        topic_id: TopicId, 6..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, 5..;
    }
}
