//! Metadata (3), versions 0 to 13: brokers, topics, and who leads what.
//!
//! - v1: a null list asks for all topics, an empty one for none (v0: empty asks for all).
//! - v4: the client says whether an unknown topic may be made; before, it always may.
//! - v10: topics by id (KIP-516). An id that is unknown is UNKNOWN_TOPIC_ID, never auto-created.
//!
//! Choices: a topic that was just made is answered with its partitions at once; while the journal
//! does not answer, soon with LEADER_NOT_AVAILABLE, so that the client learns of its other topics.
//! Brokers are shown at the address of the listener the client came in on. A broker that has heard
//! too long of no leader does not say that it leads: whoever asks goes on to the others, which may
//! know better, and does not send it again what it cannot acknowledge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::{
    ClusterImage, NewTopic, PartitionImage, Reply, Request, TopicImage, TopicKey,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{BrokerId, PartitionIndex, TopicId};
use firn_proto::kafka::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use firn_proto::limits::CREATE_ON_DEMAND_WAIT_MAX;
use firn_proto::topic_name::check_topic_name;
use tokio::time::timeout;

use crate::kafka::context::{Call, ConnectionState, Context};
use crate::kafka::view::{self, CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS};

/// Describes the cluster and the topics asked for, making those that are missing if it may.
pub async fn handle(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    request: MetadataRequest,
) -> MetadataResponse {
    let all = match &request.topics {
        None => true,
        Some(topics) => topics.is_empty() && call.version == 0,
    };
    let mut image = ctx.image.borrow().clone();
    let mut refused = BTreeMap::new();
    let keys = if all { Vec::new() } else { keys_of(&request) };
    if ctx.config.topics.auto_create && request.allow_auto_topic_creation {
        let missing = missing_names(&image, &keys);
        if !missing.is_empty() {
            refused = create(ctx, missing).await;
            image = ctx.image.borrow().clone();
        }
    }
    let known = Known {
        image: &image,
        without: without(ctx, &image),
        operations: request.include_topic_authorized_operations,
    };
    let topics = if all {
        let all = image.topics.values();
        all.map(|topic| known.shown(topic)).collect()
    } else {
        let keys = keys.iter();
        keys.map(|key| known.answer(key, &refused)).collect()
    };
    MetadataResponse {
        brokers: view::endpoints(ctx, conn, &image)
            .into_iter()
            .map(broker)
            .collect(),
        cluster_id: Some(ctx.cluster.to_string()),
        controller_id: view::controller(ctx, &image),
        topics,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        },
        ..MetadataResponse::default()
    }
}

/// The topics asked for, each once: a short request that repeats a large topic must not be answered
/// with gigabytes (Kafka takes the list as a set, too).
fn keys_of(request: &MetadataRequest) -> Vec<TopicKey> {
    let mut seen = BTreeSet::new();
    let topics = request.topics.iter().flatten();
    topics
        .map(|topic| match &topic.name {
            // By id only if there is no name: v10 and v11 clients send both fields.
            None => TopicKey::Id(topic.topic_id),
            Some(name) => TopicKey::Name(Arc::from(name.as_str())),
        })
        .filter(|key| seen.insert(key.clone()))
        .collect()
}

fn missing_names(image: &ClusterImage, keys: &[TopicKey]) -> Vec<String> {
    let mut missing: Vec<_> = keys
        .iter()
        .filter_map(|key| match key {
            TopicKey::Name(name) if image.topic_named(name).is_none() => Some(name),
            _ => None,
        })
        .filter(|name| check_topic_name(name).is_ok())
        .map(|name| name.to_string())
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

/// Makes topics with the broker's defaults. Returns the code of each name that was refused; one
/// that somebody else made in the meantime is not. Those that are on their way still have no leader.
async fn create(ctx: &Context, names: Vec<String>) -> BTreeMap<String, ErrorCode> {
    let new = |name: &String| NewTopic {
        name: name.clone(),
        partitions: ctx.config.topics.partitions,
        replication_factor: 1,
        owners: Vec::new(),
        configs: Vec::new(),
    };
    let topics = names.iter().map(new).collect();
    let call = ctx.coordinator.call(Request::CreateTopics {
        topics,
        validate_only: false,
    });
    let has_no_leader = |names: Vec<String>| {
        let names = names.into_iter();
        names
            .map(|name| (name, ErrorCode::LeaderNotAvailable))
            .collect()
    };
    let results = match timeout(CREATE_ON_DEMAND_WAIT_MAX, call).await {
        Ok(Ok(Reply::CreateTopics(results))) => results,
        Ok(Ok(_)) => Vec::new(),
        Ok(Err(error)) => {
            tracing::warn!(%error, "topics were not made on demand");
            return has_no_leader(names);
        }
        Err(_) => return has_no_leader(names),
    };
    let refused = names.into_iter().zip(results).filter_map(|(name, result)| {
        let refusal = result.err()?;
        match view::topic_error(&refusal.error, &refusal.topic) {
            ErrorCode::TopicAlreadyExists => None,
            code => Some((name, code)),
        }
    });
    refused.collect()
}

/// This broker, if another may own by now what the picture says is its own. Of one that is alone
/// nobody knows better.
fn without(ctx: &Context, image: &ClusterImage) -> Option<BrokerId> {
    let others = image.brokers.keys().any(|broker| *broker != ctx.broker);
    let is_doubtful = others && !ctx.coordinator.is_read(ctx.clock.mono());
    is_doubtful.then_some(ctx.broker)
}

/// What is told of topics.
struct Known<'a> {
    image: &'a ClusterImage,
    /// Not told to lead anything.
    without: Option<BrokerId>,
    operations: bool,
}

impl Known<'_> {
    fn answer(
        &self,
        key: &TopicKey,
        refused: &BTreeMap<String, ErrorCode>,
    ) -> MetadataResponseTopic {
        if let Some(topic) = view::topic(self.image, key) {
            return self.shown(topic);
        }
        let (error_code, name, topic_id) = match key {
            TopicKey::Id(id) => (ErrorCode::UnknownTopicId, None, *id),
            TopicKey::Name(name) => {
                let code = match check_topic_name(name) {
                    Err(_) => ErrorCode::InvalidTopicException,
                    Ok(()) => *refused
                        .get(&**name)
                        .unwrap_or(&ErrorCode::UnknownTopicOrPartition),
                };
                (code, Some(name.to_string()), TopicId::ZERO)
            }
        };
        MetadataResponseTopic {
            error_code,
            name,
            topic_id,
            ..MetadataResponseTopic::default()
        }
    }

    fn shown(&self, topic: &TopicImage) -> MetadataResponseTopic {
        let partitions = (0..).zip(&topic.partitions);
        let partitions = partitions.map(|(index, partition)| {
            let replicas = view::replicas(self.image, topic, PartitionIndex(index), partition);
            let is_live = |id: &i32| self.image.brokers.contains_key(&BrokerId(*id));
            let (live, offline): (Vec<i32>, _) = replicas.iter().copied().partition(is_live);
            let leader_id = self.leader(partition);
            MetadataResponsePartition {
                error_code: if leader_id < 0 {
                    ErrorCode::LeaderNotAvailable
                } else {
                    ErrorCode::None
                },
                partition_index: index,
                leader_id,
                leader_epoch: partition.epoch.0,
                isr_nodes: live,
                offline_replicas: offline,
                replica_nodes: replicas,
            }
        });
        MetadataResponseTopic {
            name: Some(topic.name.to_string()),
            topic_id: topic.id,
            partitions: partitions.collect(),
            topic_authorized_operations: if self.operations {
                TOPIC_OPERATIONS
            } else {
                OPERATIONS_NOT_ASKED
            },
            ..MetadataResponseTopic::default()
        }
    }

    fn leader(&self, partition: &PartitionImage) -> i32 {
        match view::leader(partition) {
            leader if self.without == Some(BrokerId(leader)) => -1,
            leader => leader,
        }
    }
}

fn broker(endpoint: view::Endpoint) -> MetadataResponseBroker {
    MetadataResponseBroker {
        node_id: endpoint.node_id,
        host: endpoint.host,
        port: endpoint.port,
        rack: endpoint.rack,
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::kafka::metadata::MetadataRequestTopic;

    use super::*;

    #[test]
    fn a_topic_named_twice_is_described_once() {
        let named = |name: &str| MetadataRequestTopic {
            name: Some(name.to_owned()),
            ..MetadataRequestTopic::default()
        };
        let request = MetadataRequest {
            topics: Some(vec![named("a"), named("b"), named("a")]),
            ..MetadataRequest::default()
        };
        let keys = [TopicKey::Name("a".into()), TopicKey::Name("b".into())];
        assert_eq!(keys_of(&request), keys);
    }
}
