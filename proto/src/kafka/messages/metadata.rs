//! Metadata (key 3): brokers, topics, and who leads which partition.
//!
//! v0: an empty list of topics means all. v1: null means all; racks and controller. v2: cluster
//! id. v3: throttle time. v4: auto-creation on request. v5: offline replicas. v7: leader
//! epochs. v8: authorized operations (KIP-430). v9: flexible. v10: topic ids (KIP-516). v11: no
//! more operations of the cluster. v12: topics by id alone. v13: top-level error code
//! (KIP-1102).

use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::kafka::message::messages;

messages! {
    /// Which topics to describe.
    struct MetadataRequest {
        /// Null: all of them (in v0: empty).
        topics: Option<Vec<MetadataRequestTopic>>, .., null 1..;
        allow_auto_topic_creation: bool, 4.., default true;
        include_cluster_authorized_operations: bool, 8..=10;
        include_topic_authorized_operations: bool, 8..;
    }

    /// A topic to describe, by id or name.
    struct MetadataRequestTopic {
        topic_id: TopicId, 10..;
        name: Option<String>, .., null 10..;
    }

    /// Brokers and topics.
    struct MetadataResponse {
        throttle_time_ms: i32, 3..;
        brokers: Vec<MetadataResponseBroker>, ..;
        cluster_id: Option<String>, 2..;
        /// Where to send what only the controller does, or −1.
        controller_id: i32, 1.., default -1;
        topics: Vec<MetadataResponseTopic>, ..;
        /// A bit set, `i32::MIN` if not asked for.
        cluster_authorized_operations: i32, 8..=10, default -2147483648;
        error_code: ErrorCode, 13..;
    }

    /// A broker and its address on the listener the client came in on.
    struct MetadataResponseBroker {
        node_id: i32, ..;
        host: String, ..;
        port: i32, ..;
        rack: Option<String>, 1..;
    }

    /// A topic.
    struct MetadataResponseTopic {
        error_code: ErrorCode, ..;
        name: Option<String>, .., null 12..;
        topic_id: TopicId, 10..;
        is_internal: bool, 1..;
        partitions: Vec<MetadataResponsePartition>, ..;
        /// A bit set, `i32::MIN` if not asked for.
        topic_authorized_operations: i32, 8.., default -2147483648;
    }

    /// A partition and who leads it.
    struct MetadataResponsePartition {
        error_code: ErrorCode, ..;
        partition_index: i32, ..;
        leader_id: i32, ..;
        leader_epoch: i32, 7.., default -1;
        replica_nodes: Vec<i32>, ..;
        isr_nodes: Vec<i32>, ..;
        offline_replicas: Vec<i32>, 5..;
    }
}
