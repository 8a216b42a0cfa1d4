//! OffsetCommit (key 8): commits offsets of a group.
//!
//! v3: throttle time. v5: no more retention time. v6: leader epochs. v7: static members
//! (KIP-345). v8: flexible. v9: member epochs (KIP-848).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Offsets to commit.
    struct OffsetCommitRequest {
        group_id: String, ..;
        /// −1 from a client that is no member.
        generation_id_or_member_epoch: i32, .., default -1;
        member_id: String, ..;
        group_instance_id: Option<String>, 7..;
        /// −1: the broker's setting.
        retention_time_ms: i64, ..=4, default -1;
        topics: Vec<OffsetCommitRequestTopic>, ..;
    }

    /// Offsets to commit for one topic.
    struct OffsetCommitRequestTopic {
        name: String, ..;
        partitions: Vec<OffsetCommitRequestPartition>, ..;
    }

    /// The offset to commit for one partition.
    struct OffsetCommitRequestPartition {
        partition_index: i32, ..;
        committed_offset: i64, ..;
        committed_leader_epoch: i32, 6.., default -1;
        committed_metadata: Option<String>, ..;
    }

    /// What became of each commit.
    struct OffsetCommitResponse {
        throttle_time_ms: i32, 3..;
        topics: Vec<OffsetCommitResponseTopic>, ..;
    }

    /// What became of the commits for one topic.
    struct OffsetCommitResponseTopic {
        name: String, ..;
        partitions: Vec<OffsetCommitResponsePartition>, ..;
    }

    /// What became of the commit for one partition.
    struct OffsetCommitResponsePartition {
        partition_index: i32, ..;
        error_code: ErrorCode, ..;
    }
}
