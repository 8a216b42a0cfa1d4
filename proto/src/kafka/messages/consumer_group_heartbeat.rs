//! ConsumerGroupHeartbeat (key 68): a member of a consumer group joins, is alive, reports what it
//! owns, leaves (KIP-848).
//!
//! v1: the client makes the member's id (KIP-1082); regular expressions.

use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::{messages, nullable};

messages! {
    /// A member, and what has changed about it since it was last heard.
    struct ConsumerGroupHeartbeatRequest {
        group_id: String, ..;
        /// Stays the same for the life of the process.
        member_id: String, ..;
        /// 0 to join, −1 to leave, −2 to leave for a while (static members).
        member_epoch: i32, ..;
        /// Null: not static, or unchanged.
        instance_id: Option<String>, ..;
        /// Null: none, or unchanged.
        rack_id: Option<String>, ..;
        /// −1: unchanged.
        rebalance_timeout_ms: i32, .., default -1;
        /// Null: unchanged.
        subscribed_topic_names: Option<Vec<String>>, ..;
        /// Null: unchanged.
        subscribed_topic_regex: Option<String>, 1..;
        /// Null: the group's, or unchanged.
        server_assignor: Option<String>, ..;
        /// What the member owns; null: unchanged.
        topic_partitions: Option<Vec<ConsumerGroupHeartbeatTopicPartitions>>, ..;
    }

    /// Partitions of one topic.
    struct ConsumerGroupHeartbeatTopicPartitions {
        topic_id: TopicId, ..;
        partitions: Vec<i32>, ..;
    }

    /// Where the member stands.
    struct ConsumerGroupHeartbeatResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        member_id: Option<String>, ..;
        member_epoch: i32, ..;
        heartbeat_interval_ms: i32, ..;
        /// Null: unchanged.
        assignment: Option<ConsumerGroupHeartbeatAssignment>, ..;
    }

    /// What the member may own from now on.
    struct ConsumerGroupHeartbeatAssignment {
        topic_partitions: Vec<ConsumerGroupHeartbeatTopicPartitions>, ..;
    }
}

nullable!(ConsumerGroupHeartbeatAssignment);
