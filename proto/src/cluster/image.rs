//! The published picture of the cluster: what handlers, owners and readers look things up in.
//!
//! Immutable and shared: a new picture reuses every part that did not change. It never shows
//! anything that is not durable in the journal.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::ownership::LinkAddress;
use crate::ids::{
    BrokerId, ClusterId, DiskId, Incarnation, LeaderEpoch, PartitionIndex, Slot, StreamId, TopicId,
};

/// The cluster at one durable position of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterImage {
    /// The cluster.
    pub cluster: ClusterId,
    /// Rises with each picture.
    pub version: u64,
    /// The broker whose process holds the coordinator, if it has registered.
    pub controller: Option<BrokerId>,
    /// The live brokers.
    pub brokers: Arc<BTreeMap<BrokerId, Arc<BrokerImage>>>,
    /// The topics, without deleted ones.
    pub topics: Arc<BTreeMap<TopicId, Arc<TopicImage>>>,
    /// Their ids by name.
    pub names: Arc<BTreeMap<Arc<str>, TopicId>>,
}

impl ClusterImage {
    /// The topic of that name.
    pub fn topic_named(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.names.get(name)?)
    }

    /// The topic of that id.
    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id)
    }

    /// The live process of that incarnation.
    pub fn broker_of(&self, incarnation: Incarnation) -> Option<&Arc<BrokerImage>> {
        self.brokers
            .values()
            .find(|broker| broker.incarnation == incarnation)
    }
}

/// A live broker process.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BrokerImage {
    /// Its id.
    pub broker: BrokerId,
    /// This start of it.
    pub incarnation: Incarnation,
    /// Its stream.
    pub stream: StreamId,
    /// Where clients reach it.
    pub listeners: Vec<Listener>,
    /// Its rack.
    pub rack: Option<String>,
    /// Its local WAL directory.
    pub disk: Option<DiskId>,
    /// Where other brokers reach it, if it can be reached by them.
    pub link: Option<LinkAddress>,
    /// Its partitions are to go elsewhere, and it gets no others.
    pub draining: bool,
}

/// An advertised address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Listener {
    /// The listener's name; a client is told the address of the listener it came in on.
    pub name: String,
    /// How to speak to it.
    pub security: SecurityProtocol,
    /// Host name or address literal, without brackets.
    pub host: String,
    /// TCP (and UDP) port.
    pub port: u16,
}

/// Kafka's security protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SecurityProtocol {
    /// PLAINTEXT.
    Plaintext,
    /// SASL_PLAINTEXT.
    SaslPlaintext,
    /// SASL_SSL.
    SaslSsl,
    /// SSL.
    Ssl,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TopicImage {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// When it was created, in milliseconds since 1970 by the coordinator's clock.
    pub created_ms: i64,
    /// As asked for at creation.
    pub replication_factor: i16,
    /// Configs that differ from the defaults.
    pub configs: BTreeMap<String, String>,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionImage>,
}

impl TopicImage {
    /// The config that says when records are acknowledged and visible: `bucket` or `local`.
    pub const DURABILITY: &str = "firn.durability";

    /// The value of [`Self::DURABILITY`] with which the local WAL of the owner is enough.
    pub const LOCAL: &str = "local";

    /// Whether its records are acknowledged and visible once its owner's local WAL has them.
    pub fn is_local(&self) -> bool {
        let value = self.configs.get(Self::DURABILITY);
        value.is_some_and(|value| value == Self::LOCAL)
    }

    /// The partition of that index.
    pub fn partition(&self, index: PartitionIndex) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }
}

/// A partition: who owns it and where its epochs are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PartitionImage {
    /// The latest epoch.
    pub epoch: LeaderEpoch,
    /// The process that owns it in that epoch, or none: it never had an owner, its owner has
    /// ended, or it was released.
    pub owner: Option<Ownership>,
    /// The broker that owns it or did last; ownership returns there if it can.
    pub preferred: BrokerId,
    /// The owner is asked to release it, so that this broker may own it next. Only while it has an
    /// owner.
    pub moving_to: Option<BrokerId>,
    /// Where each epoch began, ascending in both (OffsetForLeaderEpoch).
    pub epochs: Vec<EpochStart>,
    /// The parts of streams that hold its rows, ascending by first offset.
    pub windows: Vec<Window>,
    /// Records of the latest epoch may count by a local WAL alone: at some time of it the topic had
    /// [`TopicImage::DURABILITY`] [`TopicImage::LOCAL`], whatever it has now. Not once that epoch was
    /// released.
    pub counts_locally: bool,
}

/// The owner of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ownership {
    /// Its broker.
    pub broker: BrokerId,
    /// Its process.
    pub incarnation: Incarnation,
    /// The stream that takes the partition's batches.
    pub stream: StreamId,
}

/// The first offset of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset, which is the end of the one before.
    pub start_offset: i64,
}

/// The part of a stream that holds rows of one partition and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Window {
    /// The epoch. Rows of another one in this stream do not count (I6).
    pub epoch: LeaderEpoch,
    /// The stream.
    pub stream: StreamId,
    /// The first offset in it.
    pub first_offset: i64,
    /// The lowest slot that may hold a run of it which is neither archived nor deleted.
    pub lowest_slot: Slot,
    /// The first slot that does not belong to it: the slot after the RELEASE, or the end of the
    /// sealed stream. None while it is open.
    pub end_slot: Option<Slot>,
}
