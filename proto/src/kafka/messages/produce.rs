//! Produce (key 0): appends record batches.
//!
//! v0–v2 carried message formats 0 and 1 and are refused. v3: exactly one record batch v2 per
//! partition. v4: storage errors. v5: log start offset. v7: zstd. v8: the records at fault
//! (KIP-467). v9: flexible. v10: the new leader and where it is (KIP-951). v11, v12:
//! transactions without AddPartitionsToTxn (KIP-890). v13: topics by id (KIP-516).

use bytes::Bytes;

use super::leaders::{LeaderIdAndEpoch, NodeEndpoint};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::messages;

messages! {
    /// Record batches to append.
    struct ProduceRequest {
        /// The transaction they belong to.
        transactional_id: Option<String>, 3..;
        /// 0: no response; 1: once the owner has them; −1: once they are durable.
        acks: i16, ..;
        /// How long to wait for `acks`, in milliseconds.
        timeout_ms: i32, ..;
        topic_data: Vec<TopicProduceData>, ..;
    }

    /// Batches for one topic.
    struct TopicProduceData {
        name: String, ..=12;
        topic_id: TopicId, 13..;
        partition_data: Vec<PartitionProduceData>, ..;
    }

    /// Batches for one partition.
    struct PartitionProduceData {
        index: i32, ..;
        /// A slice of the frame: exactly one record batch.
        records: Option<Bytes>, ..;
    }

    /// What became of each batch.
    struct ProduceResponse {
        responses: Vec<TopicProduceResponse>, ..;
        throttle_time_ms: i32, 1..;
        /// Where the leaders named in `current_leader` are.
        node_endpoints: Vec<NodeEndpoint>, 10.., tag 0;
    }

    /// What became of the batches for one topic.
    struct TopicProduceResponse {
        name: String, ..=12;
        topic_id: TopicId, 13..;
        partition_responses: Vec<PartitionProduceResponse>, ..;
    }

    /// What became of the batch for one partition.
    struct PartitionProduceResponse {
        index: i32, ..;
        error_code: ErrorCode, ..;
        base_offset: i64, ..;
        /// The broker's timestamp if the topic has them, else −1.
        log_append_time_ms: i64, 2.., default -1;
        log_start_offset: i64, 5.., default -1;
        /// The records at fault, if the batch was refused for some of them.
        record_errors: Vec<BatchIndexAndErrorMessage>, 8..;
        error_message: Option<String>, 8..;
        current_leader: LeaderIdAndEpoch, 10.., tag 0;
    }

    /// A record that is at fault.
    struct BatchIndexAndErrorMessage {
        /// Its place in the batch, from 0.
        batch_index: i32, 8..;
        batch_index_error_message: Option<String>, 8..;
    }
}
