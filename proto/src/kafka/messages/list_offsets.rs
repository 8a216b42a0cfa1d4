//! ListOffsets (key 2): finds offsets by timestamp.
//!
//! v1: one offset per partition. v2: isolation level. v4: leader epochs. v6: flexible. v7:
//! offset of the largest timestamp (KIP-734). v8: earliest local offset (KIP-405). v9: latest
//! tiered offset (KIP-1005). v10: timeout (KIP-1075).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Which timestamps to look up.
    struct ListOffsetsRequest {
        /// −1 from consumers.
        replica_id: i32, ..;
        /// What bounds the latest offset: 0 the high watermark, 1 the last stable offset.
        isolation_level: i8, 2..;
        topics: Vec<ListOffsetsTopic>, ..;
        timeout_ms: i32, 10..;
    }

    /// Timestamps to look up in one topic.
    struct ListOffsetsTopic {
        name: String, ..;
        partitions: Vec<ListOffsetsPartition>, ..;
    }

    /// A timestamp to look up in one partition.
    struct ListOffsetsPartition {
        partition_index: i32, ..;
        current_leader_epoch: i32, 4.., default -1;
        /// Milliseconds, or below 0 a special one: −1 latest, −2 earliest, −3 the largest
        /// timestamp, −4 earliest local, −5 latest tiered.
        timestamp: i64, ..;
    }

    /// Offsets found.
    struct ListOffsetsResponse {
        throttle_time_ms: i32, 2..;
        topics: Vec<ListOffsetsTopicResponse>, ..;
    }

    /// Offsets found in one topic.
    struct ListOffsetsTopicResponse {
        name: String, ..;
        partitions: Vec<ListOffsetsPartitionResponse>, ..;
    }

    /// The offset found in one partition.
    struct ListOffsetsPartitionResponse {
        partition_index: i32, ..;
        error_code: ErrorCode, ..;
        /// Of the record found, or −1.
        timestamp: i64, .., default -1;
        /// Of the record found, or −1.
        offset: i64, .., default -1;
        leader_epoch: i32, 4.., default -1;
    }
}
