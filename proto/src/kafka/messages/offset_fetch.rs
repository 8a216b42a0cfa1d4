//! OffsetFetch (key 9): reads committed offsets.
//!
//! v2: null means every topic; top-level error code. v3: throttle time. v5: leader epochs. v6:
//! flexible. v7: only stable offsets (KIP-447). v8: several groups (KIP-709). v9: member epochs
//! (KIP-848).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Whose offsets to read.
    struct OffsetFetchRequest {
        group_id: String, ..=7;
        /// Null: all of them.
        topics: Option<Vec<OffsetFetchRequestTopic>>, ..=7, null 2..=7;
        groups: Vec<OffsetFetchRequestGroup>, 8..;
        /// Refuse while a transactional commit is pending.
        require_stable: bool, 7..;
    }

    /// Partitions of one topic, up to v7.
    struct OffsetFetchRequestTopic {
        name: String, ..=7;
        partition_indexes: Vec<i32>, ..=7;
    }

    /// What to read of one group, from v8 on.
    struct OffsetFetchRequestGroup {
        group_id: String, 8..;
        member_id: Option<String>, 9..;
        member_epoch: i32, 9.., default -1;
        /// Null: all of them.
        topics: Option<Vec<OffsetFetchRequestTopics>>, 8..;
    }

    /// Partitions of one topic, from v8 on.
    struct OffsetFetchRequestTopics {
        name: String, 8..;
        partition_indexes: Vec<i32>, 8..;
    }

    /// Committed offsets.
    struct OffsetFetchResponse {
        throttle_time_ms: i32, 3..;
        topics: Vec<OffsetFetchResponseTopic>, ..=7;
        error_code: ErrorCode, 2..=7;
        groups: Vec<OffsetFetchResponseGroup>, 8..;
    }

    /// Offsets of one topic, up to v7.
    struct OffsetFetchResponseTopic {
        name: String, ..=7;
        partitions: Vec<OffsetFetchResponsePartition>, ..=7;
    }

    /// The offset of one partition, up to v7; −1 if none is committed.
    struct OffsetFetchResponsePartition {
        partition_index: i32, ..=7;
        committed_offset: i64, ..=7;
        committed_leader_epoch: i32, 5..=7, default -1;
        metadata: Option<String>, ..=7;
        error_code: ErrorCode, ..=7;
    }

    /// Offsets of one group, from v8 on.
    struct OffsetFetchResponseGroup {
        group_id: String, 8..;
        topics: Vec<OffsetFetchResponseTopics>, 8..;
        error_code: ErrorCode, 8..;
    }

    /// Offsets of one topic, from v8 on.
    struct OffsetFetchResponseTopics {
        name: String, 8..;
        partitions: Vec<OffsetFetchResponsePartitions>, 8..;
    }

    /// The offset of one partition, from v8 on; −1 if none is committed.
    struct OffsetFetchResponsePartitions {
        partition_index: i32, 8..;
        committed_offset: i64, 8..;
        committed_leader_epoch: i32, 8.., default -1;
        metadata: Option<String>, 8..;
        error_code: ErrorCode, 8..;
    }
}
