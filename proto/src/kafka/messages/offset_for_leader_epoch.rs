//! OffsetForLeaderEpoch (key 23): where a leader epoch ends.
//!
//! v2: the epoch the client believes in, throttle time (KIP-320). v3: replica id. v4: flexible.

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Which epochs to look up.
    struct OffsetForLeaderEpochRequest {
        /// −1 from consumers, −2 before v3.
        replica_id: i32, 3.., default -2;
        topics: Vec<OffsetForLeaderTopic>, ..;
    }

    /// Epochs to look up in one topic.
    struct OffsetForLeaderTopic {
        topic: String, ..;
        partitions: Vec<OffsetForLeaderPartition>, ..;
    }

    /// The epoch to look up in one partition.
    struct OffsetForLeaderPartition {
        partition: i32, ..;
        current_leader_epoch: i32, .., default -1;
        leader_epoch: i32, ..;
    }

    /// Where the epochs end.
    struct OffsetForLeaderEpochResponse {
        throttle_time_ms: i32, ..;
        topics: Vec<OffsetForLeaderTopicResult>, ..;
    }

    /// Where the epochs of one topic end.
    struct OffsetForLeaderTopicResult {
        topic: String, ..;
        partitions: Vec<EpochEndOffset>, ..;
    }

    /// Where the epoch of one partition ends; −1 if unknown.
    struct EpochEndOffset {
        error_code: ErrorCode, ..;
        partition: i32, ..;
        leader_epoch: i32, .., default -1;
        end_offset: i64, .., default -1;
    }
}
