//! OffsetDelete (key 47): deletes committed offsets of a group (KIP-496).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose offsets to delete.
    struct OffsetDeleteRequest {
        group_id: String, ..;
        topics: Vec<OffsetDeleteRequestTopic>, ..;
    }

    /// Which of one topic.
    struct OffsetDeleteRequestTopic {
        name: String, ..;
        partitions: Vec<OffsetDeleteRequestPartition>, ..;
    }

    /// One partition.
    struct OffsetDeleteRequestPartition {
        partition_index: i32, ..;
    }

    /// What became of each offset.
    struct OffsetDeleteResponse {
        /// Why nothing was deleted, if the request was refused as a whole.
        error_code: ErrorCode, ..;
        throttle_time_ms: i32, ..;
        topics: Vec<OffsetDeleteResponseTopic>, ..;
    }

    /// What became of the offsets of one topic.
    struct OffsetDeleteResponseTopic {
        name: String, ..;
        partitions: Vec<OffsetDeleteResponsePartition>, ..;
    }

    /// What became of the offset of one partition.
    struct OffsetDeleteResponsePartition {
        partition_index: i32, ..;
        error_code: ErrorCode, ..;
    }
}
