//! Topics, their configs, their deletion; blocks of producer ids.

use std::sync::Arc;

use bincode::{Decode, Encode};
use thiserror::Error;

use super::TopicKey;
use crate::ids::{BrokerId, Incarnation, ProducerId, TopicId};

/// A topic to create. The handler has validated the configs and filled in the defaults of the
/// broker; the coordinator checks name, counts and sizes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NewTopic {
    /// Its name; see [`crate::topic_name`].
    pub name: String,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// As asked for; only remembered, since replicas are virtual.
    pub replication_factor: i16,
    /// The owner wanted for each partition, first named replica of a manual assignment. Empty:
    /// the coordinator chooses.
    pub owners: Vec<BrokerId>,
    /// Configs that differ from the defaults, by name.
    pub configs: Vec<(String, String)>,
}

/// A topic that was created (or would be, with `validate_only`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CreatedTopic {
    /// Its id, zero with `validate_only`.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: i32,
    /// As asked for.
    pub replication_factor: i16,
}

/// A topic that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DeletedTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: TopicId,
    /// Whether every owner has let go of it, so that the name is free.
    pub name_free: bool,
}

/// More partitions for a topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GrowTopic {
    /// Its name.
    pub name: String,
    /// How many partitions it shall have, more than now.
    pub partitions: i32,
    /// The owner wanted for each new partition; empty: the coordinator chooses.
    pub owners: Vec<BrokerId>,
}

/// Changes to the configs of one topic; all or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AlterConfigs {
    /// Its name.
    pub name: String,
    /// First drop every config that is set (Kafka's AlterConfigs, against IncrementalAlterConfigs).
    pub replace_all: bool,
    /// What to set and remove, by the name of the config.
    pub changes: Vec<ConfigChange>,
}

/// One config to set, or with `None` to put back to its default.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfigChange {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<String>,
}

/// Producer ids `first .. first + len`, given out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProducerIdBlock {
    /// The first id.
    pub first: ProducerId,
    /// How many.
    pub len: i64,
}

/// Why a topic was refused, with the text for the client.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
#[error("topic {topic:?}: {error}")]
pub struct TopicRefusal {
    /// As the request named it.
    pub topic: TopicKey,
    /// Why.
    pub error: TopicError,
}

/// Deleted topics that their owner has dropped. Also a command of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfirmDeleted {
    /// The owner.
    pub incarnation: Incarnation,
    /// The ids of the topics.
    pub topics: Vec<TopicId>,
}

/// Why something could not be done to a topic. Named after Kafka's codes where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
pub enum TopicError {
    /// TOPIC_ALREADY_EXISTS. Also while owners still hold a deleted topic of that name.
    #[error("a topic of this name exists, or is still being deleted")]
    AlreadyExists,
    /// INVALID_CONFIG.
    #[error("{0}")]
    InvalidConfig(String),
    /// INVALID_PARTITIONS.
    #[error("{0}")]
    InvalidPartitions(String),
    /// INVALID_REPLICATION_FACTOR.
    #[error("replication factor {0} is not positive; use -1 for the default")]
    InvalidReplicationFactor(i16),
    /// INVALID_REPLICA_ASSIGNMENT.
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// INVALID_REQUEST: the same topic twice in one request.
    #[error("the request names this topic more than once")]
    NamedTwice,
    /// INVALID_TOPIC_EXCEPTION.
    #[error("{0}")]
    InvalidName(String),
    /// POLICY_VIOLATION: a limit of the product.
    #[error("{0}")]
    LimitReached(String),
    /// UNKNOWN_TOPIC_OR_PARTITION, or UNKNOWN_TOPIC_ID if the request named the topic by id.
    #[error("there is no such topic")]
    Unknown,
}
