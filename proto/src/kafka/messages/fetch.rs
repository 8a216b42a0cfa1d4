//! Fetch (key 1): reads record batches.
//!
//! v4: isolation level, record batch v2. v5: log start offset. v7: sessions (KIP-227). v9:
//! leader epochs (KIP-320). v10: zstd. v11: rack (KIP-392). v12: flexible, diverging epochs
//! (KIP-595). v13: topics by id (KIP-516). v14: tiered storage error. v15: replica state
//! (KIP-903). v16: where the new leaders are (KIP-951). v17: directory ids (KIP-853). v18: the
//! follower's high watermark (KIP-1166).

use super::leaders::{LeaderIdAndEpoch, NodeEndpoint};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::messages;
use crate::kafka::wire::Records;

messages! {
    /// Which records to read.
    struct FetchRequest {
        /// For replicas only.
        cluster_id: Option<String>, 12.., tag 0;
        /// For replicas only; −1 from consumers.
        replica_id: i32, ..=14, default -1;
        /// For replicas only.
        replica_state: ReplicaState, 15.., tag 1;
        max_wait_ms: i32, ..;
        min_bytes: i32, ..;
        /// Most bytes of records to return; the first batch is returned whatever its size (KIP-74).
        max_bytes: i32, .., default i32::MAX;
        /// 0: up to the high watermark; 1: up to the last stable offset.
        isolation_level: i8, ..;
        session_id: i32, 7..;
        session_epoch: i32, 7.., default -1;
        topics: Vec<FetchTopic>, ..;
        /// What to leave out of the session from now on.
        forgotten_topics_data: Vec<ForgottenTopic>, 7..;
        rack_id: String, 11..;
    }

    /// A replica that fetches.
    struct ReplicaState {
        replica_id: i32, 15.., default -1;
        replica_epoch: i64, 15.., default -1;
    }

    /// What to read of one topic.
    struct FetchTopic {
        topic: String, ..=12;
        topic_id: TopicId, 13..;
        partitions: Vec<FetchPartition>, ..;
    }

    /// What to read of one partition.
    struct FetchPartition {
        partition: i32, ..;
        current_leader_epoch: i32, 9.., default -1;
        fetch_offset: i64, ..;
        /// The epoch of the last record the client has, or −1.
        last_fetched_epoch: i32, 12.., default -1;
        /// For replicas only.
        log_start_offset: i64, 5.., default -1;
        partition_max_bytes: i32, ..;
        /// For replicas only.
        replica_directory_id: [u8; 16], 17.., tag 0;
        /// For replicas only.
        high_watermark: i64, 18.., tag 1, default i64::MAX;
    }

    /// Partitions of one topic to leave out of the session.
    struct ForgottenTopic {
        topic: String, 7..=12;
        topic_id: TopicId, 13..;
        partitions: Vec<i32>, 7..;
    }

    /// Records read.
    struct FetchResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, 7..;
        /// 0: there is no session.
        session_id: i32, 7..;
        responses: Vec<FetchableTopicResponse>, ..;
        /// Where the leaders named in `current_leader` are.
        node_endpoints: Vec<NodeEndpoint>, 16.., tag 0;
    }

    /// Records of one topic.
    struct FetchableTopicResponse {
        topic: String, ..=12;
        topic_id: TopicId, 13..;
        partitions: Vec<PartitionData>, ..;
    }

    /// Records of one partition.
    struct PartitionData {
        partition_index: i32, ..;
        error_code: ErrorCode, ..;
        high_watermark: i64, ..;
        last_stable_offset: i64, .., default -1;
        log_start_offset: i64, 5.., default -1;
        /// Set if the client has records that the log has not: where they part.
        diverging_epoch: EpochEndOffset, 12.., tag 0;
        current_leader: LeaderIdAndEpoch, 12.., tag 1;
        /// For replicas only.
        snapshot_id: SnapshotId, 12.., tag 2;
        /// Null unless the last stable offset bounds the read.
        aborted_transactions: Option<Vec<AbortedTransaction>>, ..;
        /// Where the client had better read, or −1 (KIP-392).
        preferred_read_replica: i32, 11.., default -1;
        records: Option<Records>, ..;
    }

    /// Where an epoch ends.
    struct EpochEndOffset {
        epoch: i32, 12.., default -1;
        end_offset: i64, 12.., default -1;
    }

    /// A snapshot of a metadata log.
    struct SnapshotId {
        end_offset: i64, .., default -1;
        epoch: i32, .., default -1;
    }

    /// A transaction whose records a client must skip.
    struct AbortedTransaction {
        producer_id: i64, ..;
        first_offset: i64, ..;
    }
}
