//! ConsumerGroupDescribe (key 69): describes consumer groups (KIP-848).
//!
//! v1: whether a member speaks the classic protocol (KIP-1099).

use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::messages;

messages! {
    /// Which groups to describe.
    struct ConsumerGroupDescribeRequest {
        group_ids: Vec<String>, ..;
        include_authorized_operations: bool, ..;
    }

    /// The groups described.
    struct ConsumerGroupDescribeResponse {
        throttle_time_ms: i32, ..;
        groups: Vec<ConsumerGroupDescribed>, ..;
    }

    /// A group.
    struct ConsumerGroupDescribed {
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        group_id: String, ..;
        group_state: String, ..;
        group_epoch: i32, ..;
        assignment_epoch: i32, ..;
        assignor_name: String, ..;
        members: Vec<ConsumerGroupDescribedMember>, ..;
        /// A bit set, `i32::MIN` if not asked for.
        authorized_operations: i32, .., default -2147483648;
    }

    /// A member of a group.
    struct ConsumerGroupDescribedMember {
        member_id: String, ..;
        instance_id: Option<String>, ..;
        rack_id: Option<String>, ..;
        member_epoch: i32, ..;
        client_id: String, ..;
        client_host: String, ..;
        subscribed_topic_names: Vec<String>, ..;
        subscribed_topic_regex: Option<String>, ..;
        /// What it may own now.
        assignment: ConsumerGroupDescribedAssignment, ..;
        /// What it is to own.
        target_assignment: ConsumerGroupDescribedAssignment, ..;
        /// −1: unknown. 0: classic. 1: consumer.
        member_type: i8, 1.., default -1;
    }

    /// Partitions of several topics.
    struct ConsumerGroupDescribedAssignment {
        topic_partitions: Vec<ConsumerGroupDescribedTopicPartitions>, ..;
    }

    /// Partitions of one topic.
    struct ConsumerGroupDescribedTopicPartitions {
        topic_id: TopicId, ..;
        topic_name: String, ..;
        partitions: Vec<i32>, ..;
    }
}
