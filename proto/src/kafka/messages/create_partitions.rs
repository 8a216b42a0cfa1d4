//! CreatePartitions (key 37): adds partitions to topics.
//!
//! v2: flexible. v3: quota errors (KIP-599).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Topics to give more partitions.
    struct CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic>, ..;
        timeout_ms: i32, ..;
        validate_only: bool, ..;
    }

    /// A topic to give more partitions.
    struct CreatePartitionsTopic {
        name: String, ..;
        /// How many it shall have in all.
        count: i32, ..;
        assignments: Option<Vec<CreatePartitionsAssignment>>, ..;
    }

    /// Where one new partition shall be.
    struct CreatePartitionsAssignment {
        broker_ids: Vec<i32>, ..;
    }

    /// What became of each topic.
    struct CreatePartitionsResponse {
        throttle_time_ms: i32, ..;
        results: Vec<CreatePartitionsTopicResult>, ..;
    }

    /// What became of one topic.
    struct CreatePartitionsTopicResult {
        name: String, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
    }
}
