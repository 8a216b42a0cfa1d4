//! DescribeCluster (key 60): brokers and the cluster's id.
//!
//! v1: endpoint types (KIP-919). v2: fenced brokers (KIP-1073).

use crate::error_code::ErrorCode;
use crate::kafka::message::messages;

messages! {
    /// Asks about the cluster.
    struct DescribeClusterRequest {
        include_cluster_authorized_operations: bool, ..;
        /// 1: brokers, 2: controllers.
        endpoint_type: i8, 1.., default 1;
        include_fenced_brokers: bool, 2..;
    }

    /// The cluster.
    struct DescribeClusterResponse {
        throttle_time_ms: i32, ..;
        error_code: ErrorCode, ..;
        error_message: Option<String>, ..;
        endpoint_type: i8, 1.., default 1;
        cluster_id: String, ..;
        controller_id: i32, .., default -1;
        brokers: Vec<DescribeClusterBroker>, ..;
        /// A bit set, `i32::MIN` if not asked for.
        cluster_authorized_operations: i32, .., default -2147483648;
    }

    /// A broker and its address on the listener the client came in on.
    struct DescribeClusterBroker {
        broker_id: i32, ..;
        host: String, ..;
        port: i32, ..;
        rack: Option<String>, ..;
        is_fenced: bool, 2..;
    }
}
