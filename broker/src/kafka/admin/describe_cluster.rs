//! DescribeCluster (60), versions 0 to 2: the brokers, the controller and the cluster's id.
//!
//! - v1: endpoint type (KIP-919). Only brokers are described: there is no controller quorum to
//!   talk to, so asking for controllers is UNSUPPORTED_ENDPOINT_TYPE, as on a Kafka broker.
//! - v2: fenced brokers (KIP-1073). There are none to add: a broker is live or gone.

use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

use crate::kafka::context::{ConnectionState, Context};
use crate::kafka::view::{self, CLUSTER_OPERATIONS, Endpoint, OPERATIONS_NOT_ASKED};

/// Brokers, in the numbering of the request's endpoint types.
const ENDPOINT_BROKERS: i8 = 1;

/// Describes the cluster.
pub fn handle(
    ctx: &Context,
    conn: &ConnectionState,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if request.endpoint_type != ENDPOINT_BROKERS {
        return DescribeClusterResponse {
            error_code: ErrorCode::UnsupportedEndpointType,
            error_message: Some("only brokers (endpoint type 1) can be described".to_owned()),
            endpoint_type: request.endpoint_type,
            ..DescribeClusterResponse::default()
        };
    }
    let image = ctx.image.borrow().clone();
    let operations = if request.include_cluster_authorized_operations {
        CLUSTER_OPERATIONS
    } else {
        OPERATIONS_NOT_ASKED
    };
    DescribeClusterResponse {
        endpoint_type: ENDPOINT_BROKERS,
        cluster_id: ctx.cluster.to_string(),
        controller_id: view::controller(ctx, &image),
        brokers: view::endpoints(ctx, conn, &image)
            .into_iter()
            .map(broker)
            .collect(),
        cluster_authorized_operations: operations,
        ..DescribeClusterResponse::default()
    }
}

fn broker(endpoint: Endpoint) -> DescribeClusterBroker {
    DescribeClusterBroker {
        broker_id: endpoint.node_id,
        host: endpoint.host,
        port: endpoint.port,
        rack: endpoint.rack,
        is_fenced: false,
    }
}
