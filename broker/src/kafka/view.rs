//! What clients are shown of brokers, partitions and the coordinator's refusals: the translations
//! that several handlers share. Reads the published picture only.

use std::collections::BTreeSet;

use firn_proto::cluster::{
    BrokerImage, ClusterImage, CoordinatorError, PartitionImage, TopicError, TopicImage, TopicKey,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{PartitionIndex, TopicId};
use firn_proto::kafka::leaders::NodeEndpoint;

use super::context::{ConnectionState, Context};
use crate::read_replica::choice;

/// "Not asked for", in the bit sets of authorized operations.
pub const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Every operation on a topic (READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS,
/// ALTER_CONFIGS), by Kafka's `AclOperation` codes: there is no authorizer that takes any away.
pub const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// Every operation on a cluster (CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS,
/// ALTER_CONFIGS, IDEMPOTENT_WRITE).
pub const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);

const fn bits(codes: &[u32]) -> i32 {
    let mut set = 0;
    let mut at = 0;
    while at < codes.len() {
        set |= 1 << codes[at];
        at += 1;
    }
    set
}

/// A broker as a client of one listener reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The broker.
    pub node_id: i32,
    /// Host name or address literal.
    pub host: String,
    /// Port.
    pub port: i32,
    /// The broker's rack.
    pub rack: Option<String>,
}

/// The live brokers that have a listener of the name the client came in on, by id. This broker is
/// among them as the connection sees it, also in the moments before it is published.
pub fn endpoints(ctx: &Context, conn: &ConnectionState, image: &ClusterImage) -> Vec<Endpoint> {
    let mut endpoints: Vec<_> = image
        .brokers
        .values()
        .filter(|broker| broker.broker != ctx.broker)
        .filter_map(|broker| endpoint(broker, &conn.listener.name))
        .collect();
    endpoints.push(own_endpoint(ctx, conn));
    endpoints.sort_by_key(|endpoint| endpoint.node_id);
    endpoints
}

/// The broker that a client is told to send group calls to: any does, as all pass them on. It is
/// this one, unless it is about to leave.
pub fn group_endpoint(ctx: &Context, conn: &ConnectionState) -> Endpoint {
    let image = ctx.image.borrow().clone();
    let leaves = |broker: &BrokerImage| broker.incarnation == ctx.incarnation && broker.draining;
    let stays = || {
        let others = image.brokers.values().filter(|broker| !broker.draining);
        others
            .filter_map(|broker| endpoint(broker, &conn.listener.name))
            .next()
    };
    let own = image.brokers.get(&ctx.broker);
    let other = own.filter(|own| leaves(own)).and_then(|_| stays());
    other.unwrap_or_else(|| own_endpoint(ctx, conn))
}

/// This broker, as a client of this connection reaches it.
pub fn own_endpoint(ctx: &Context, conn: &ConnectionState) -> Endpoint {
    let advertised = &conn.listener.advertised;
    Endpoint {
        node_id: ctx.broker.0,
        host: advertised.host.clone(),
        port: i32::from(advertised.port),
        rack: ctx.config.rack.clone(),
    }
}

fn endpoint(broker: &BrokerImage, listener: &str) -> Option<Endpoint> {
    let listener = broker.listeners.iter().find(|l| l.name == listener)?;
    Some(Endpoint {
        node_id: broker.broker.0,
        host: listener.host.clone(),
        port: i32::from(listener.port),
        rack: broker.rack.clone(),
    })
}

/// Where the brokers are that lead, as Fetch and Produce tell it (KIP-951).
pub fn endpoints_of(leaders: &BTreeSet<i32>, endpoints: Vec<Endpoint>) -> Vec<NodeEndpoint> {
    let named = endpoints
        .into_iter()
        .filter(|endpoint| leaders.contains(&endpoint.node_id));
    named
        .map(|endpoint| NodeEndpoint {
            node_id: endpoint.node_id,
            host: endpoint.host,
            port: endpoint.port,
            rack: endpoint.rack,
        })
        .collect()
}

/// The controller that clients are told: the broker that holds the coordinator, or this one, which
/// passes on what it is asked.
pub fn controller(ctx: &Context, image: &ClusterImage) -> i32 {
    image.controller.unwrap_or(ctx.broker).0
}

/// The leader of a partition, or −1 while it has none.
pub fn leader(partition: &PartitionImage) -> i32 {
    partition.owner.map_or(-1, |owner| owner.broker.0)
}

/// The replicas that clients are told: as many distinct brokers as the topic asked for and the
/// cluster has, the leader first, and those that read the partition for clients of their racks
/// (KIP-392), since a client is sent to none but these. The bucket replicates; the others are for
/// tools that count them.
pub fn replicas(
    image: &ClusterImage,
    topic: &TopicImage,
    index: PartitionIndex,
    partition: &PartitionImage,
) -> Vec<i32> {
    let first = partition
        .owner
        .map_or(partition.preferred, |owner| owner.broker);
    let wanted = usize::try_from(topic.replication_factor)
        .unwrap_or(1)
        .max(1);
    let after = image
        .brokers
        .range(first..)
        .chain(image.brokers.range(..first));
    let others = after.map(|(id, _)| *id).filter(|id| *id != first);
    let mut replicas: Vec<_> = std::iter::once(first).chain(others).take(wanted).collect();
    for reader in choice::readers(image, topic, index, partition) {
        if !replicas.contains(&reader) {
            replicas.push(reader);
        }
    }
    replicas.into_iter().map(|id| id.0).collect()
}

/// The topic of that key.
pub fn topic<'a>(image: &'a ClusterImage, key: &TopicKey) -> Option<&'a TopicImage> {
    match key {
        TopicKey::Id(id) => image.topic(*id),
        TopicKey::Name(name) => image.topic_named(name),
    }
    .map(AsRef::as_ref)
}

/// The name of a topic, or an empty one.
pub fn name_of(image: &ClusterImage, id: TopicId) -> String {
    image
        .topic(id)
        .map(|topic| topic.name.to_string())
        .unwrap_or_default()
}

/// The code of a refusal that concerns a topic. `key` is how the request named it.
pub fn topic_error(error: &TopicError, key: &TopicKey) -> ErrorCode {
    match error {
        TopicError::AlreadyExists => ErrorCode::TopicAlreadyExists,
        TopicError::InvalidConfig(_) => ErrorCode::InvalidConfig,
        TopicError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        TopicError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        TopicError::InvalidReplicaAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        TopicError::NamedTwice => ErrorCode::InvalidRequest,
        TopicError::InvalidName(_) => ErrorCode::InvalidTopicException,
        TopicError::LimitReached(_) => ErrorCode::PolicyViolation,
        TopicError::Unknown => match key {
            TopicKey::Id(_) => ErrorCode::UnknownTopicId,
            TopicKey::Name(_) => ErrorCode::UnknownTopicOrPartition,
        },
    }
}

/// The code of an administrative call that had no reply: one that clients retry, unless what was
/// asked is too much at once.
pub fn coordinator_error(error: &CoordinatorError) -> ErrorCode {
    match error {
        CoordinatorError::NotLeader(_) => ErrorCode::NotController,
        CoordinatorError::Busy => ErrorCode::RequestTimedOut,
        CoordinatorError::Refused(_) => ErrorCode::InvalidRequest,
        CoordinatorError::Stopped => ErrorCode::BrokerNotAvailable,
    }
}
