//! DeleteRecords (key 21): moves the first offset of partitions up (KIP-107).
//!
//! v2: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose first records to delete.
    struct DeleteRecordsRequest {
        topics: Vec<DeleteRecordsTopic>, ..;
        timeout_ms: i32, ..;
    }

    /// Those of one topic.
    struct DeleteRecordsTopic {
        name: String, ..;
        partitions: Vec<DeleteRecordsPartition>, ..;
    }

    /// Those of one partition.
    struct DeleteRecordsPartition {
        partition_index: i32, ..;
        /// The first offset to keep; −1: the high watermark.
        offset: i64, ..;
    }

    /// Where each partition begins now.
    struct DeleteRecordsResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<DeleteRecordsTopicResult>, ..;
    }

    /// Where those of one topic begin.
    struct DeleteRecordsTopicResult {
        name: String, ..;
        partitions: Vec<DeleteRecordsPartitionResult>, ..;
    }

    /// Where one partition begins.
    struct DeleteRecordsPartitionResult {
        partition_index: i32, ..;
        /// The first offset that is kept on every replica; −1 with an error.
        low_watermark: i64, ..;
        error_code: ErrorCode, ..;
    }
}
