//! The state of the cluster and the only way it changes: [`State::apply`].
//!
//! Pure: no clock, no randomness, no IO, ordered maps only, so that every replay of the journal
//! gives the same state. `apply` refuses what the invariants forbid; a refusal changes nothing and
//! is not journalled.
//!
//! - `topics.rs`: names, configs, creation and deletion
//! - `ownership.rs`: brokers, epochs, RELEASE, RESUME (I4)
//! - `moves.rs`: what owners are asked to give up, draining, who owns next
//! - `windows.rs`: windows and state rows
//! - `recovery.rs`: which streams wait for a seal and which partitions for a fold
//! - `streams.rs`: durable prefixes, ends, floors (I7)
//! - `archive/`: the segment map, log starts, what may be deleted (I9)
//! - `offsets.rs`: committed offsets
//! - `groups.rs`: the rows of groups as `crate::groups` made them

mod archive;
mod groups;
mod moves;
mod offsets;
mod ownership;
mod recovery;
mod streams;
mod topics;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::{
    AlterConfigs, BrokerImage, CreatedTopic, GrowTopic, NewTopic, ProducerIdBlock, Reply,
    TopicError, TopicKey, TopicRefusal,
};
use firn_proto::ids::{BrokerId, CoordinatorEpoch, Incarnation, ProducerId, StreamId, TopicId};
use firn_proto::topic_name::collision_key;

pub use archive::{Archive, DeleteQueue, PartitionMap, Writer};
pub use groups::{KeptConsumerGroup, KeptGroup};
pub use offsets::{GroupOffsets, OffsetRow, Offsets, TopicOffsets, offset_bytes};
pub use streams::{CollectedTo, Phase, Stream, Streams};
pub(crate) use topics::partition_at;
pub use topics::{Deleting, PartitionMarks, Topic, Topics};

use crate::command::{Command, CommitOffsets, DeleteOffsets, IdentifiedTopic, Stamped};

/// Feature level of a new cluster: which command kinds its journal may hold.
pub(crate) const FEATURE_LEVEL: u16 = 1;

/// Everything the journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(crate) at_ms: i64,
    pub(crate) feature_level: u16,
    pub(crate) next: NextIds,
    /// Live brokers.
    pub(crate) brokers: BTreeMap<BrokerId, Arc<BrokerImage>>,
    pub(crate) streams: Streams,
    pub(crate) topics: Topics,
    pub(crate) archive: Archive,
    pub(crate) groups: BTreeMap<Arc<str>, KeptGroup>,
    pub(crate) consumer_groups: BTreeMap<Arc<str>, KeptConsumerGroup>,
    pub(crate) offsets: Offsets,
    /// The last term of the coordinator whose leader has said that it answers no more.
    pub(crate) resigned: Option<CoordinatorEpoch>,
    /// How many partitions each live broker owns. Derived.
    pub(crate) owned: BTreeMap<BrokerId, usize>,
}

/// Ids that have not been given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextIds {
    pub(crate) incarnation: Incarnation,
    pub(crate) stream: StreamId,
    pub(crate) producer: ProducerId,
}

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The answer to whoever asked. It may go out once the journal holds the command.
    pub reply: Reply,
    /// What it changed.
    pub effects: Effects,
}

/// What a command changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Anything at all. Without it the command must not be journalled.
    pub changed: bool,
    /// Topics that look different now, or are gone.
    pub topics: BTreeSet<TopicId>,
    /// Whether the live brokers are others.
    pub brokers: bool,
}

impl Effects {
    fn topic(&mut self, id: TopicId) {
        self.changed = true;
        self.topics.insert(id);
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            at_ms: 0,
            feature_level: FEATURE_LEVEL,
            next: NextIds {
                incarnation: Incarnation(1),
                stream: StreamId(1),
                producer: ProducerId(0),
            },
            brokers: BTreeMap::new(),
            streams: Streams::default(),
            topics: Topics::default(),
            archive: Archive::default(),
            groups: BTreeMap::new(),
            consumer_groups: BTreeMap::new(),
            offsets: Offsets::default(),
            resigned: None,
            owned: BTreeMap::new(),
        }
    }
}

impl State {
    /// Changes the state by one command. The same commands in the same order give the same state
    /// and the same replies, always.
    pub fn apply(&mut self, stamped: &Stamped) -> Applied {
        assert!(
            stamped.at_ms >= self.at_ms,
            "I10: journal time went back from {} to {}",
            self.at_ms,
            stamped.at_ms
        );
        let mut effects = Effects::default();
        let reply = match &stamped.command {
            Command::RegisterBroker(body) => self.register_broker(body, &mut effects),
            Command::EndBroker(incarnation) => {
                self.leave(*incarnation, &mut effects);
                Reply::Done
            }
            Command::SealStream(body) => {
                Reply::Stream(self.seal_stream(body.stream, body.end, &mut effects))
            }
            Command::AssignPartitions(body) => self.assign(body, &mut effects),
            Command::ReleasePartitions(body) => self.release(body, &mut effects),
            Command::ResumePartitions(body) => self.resume(body, &mut effects),
            Command::ReportProgress(body) => {
                Reply::Stream(self.report_progress(body, &mut effects))
            }
            Command::ConfirmDeleted(body) => {
                if let Some(stream) = self.stream_of(body.incarnation) {
                    effects.changed |= self.topics.let_go(stream, Some(&body.topics));
                }
                Reply::Done
            }
            Command::CreateTopics(body) => self.create_topics(body, stamped.at_ms, &mut effects),
            Command::DeleteTopics(body) => self.delete_topics(body, stamped.at_ms, &mut effects),
            Command::CreatePartitions(body) => self.create_partitions(body, &mut effects),
            Command::AlterConfigs(body) => self.alter_configs(body, &mut effects),
            Command::AllocateProducerIds(body) => self.allocate(body.len, &mut effects),
            Command::PutGroup(body) => self.put_group(body, stamped.at_ms, &mut effects),
            Command::ChangeConsumerGroup(body) => {
                self.change_consumer_group(body, stamped.at_ms, &mut effects)
            }
            Command::DropGroups(body) => self.drop_groups(body, &mut effects),
            Command::CommitOffsets(body) => {
                self.commit_offsets(body, stamped.at_ms, &mut effects);
                Reply::Done
            }
            Command::DeleteOffsets(body) => self.delete_offsets(body, &mut effects),
            Command::CommitSegment(body) => Reply::Archive(self.commit_segment(body, &mut effects)),
            Command::AbandonSegment(key) => {
                Reply::Archive(self.abandon_segment(*key, &mut effects))
            }
            Command::RaiseLogStarts(body) => {
                self.raise_log_starts(body, stamped.at_ms, &mut effects)
            }
            Command::PageOutRuns(body) => Reply::Archive(self.page_out(body, &mut effects)),
            Command::ReportCollected(body) => {
                self.report_collected(body, &mut effects);
                Reply::Done
            }
            Command::FenceBroker(incarnation) => {
                self.end_incarnation(*incarnation, &mut effects);
                Reply::Done
            }
            Command::DrainBroker(body) => {
                self.drain(body, &mut effects);
                Reply::Done
            }
            Command::MovePartitions(moves) => self.ask_moves(moves, &mut effects),
            Command::ForceMove(moves) => self.force_moves(moves, &mut effects),
            Command::Resign(epoch) => {
                self.resign(*epoch, &mut effects);
                Reply::Done
            }
        };
        self.streams.settle();
        if effects.changed {
            self.at_ms = stamped.at_ms;
        }
        Applied { reply, effects }
    }

    /// The time of the last command, in milliseconds since 1970.
    pub fn at_ms(&self) -> i64 {
        self.at_ms
    }

    /// The topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// The streams.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The live brokers.
    pub fn brokers(&self) -> &BTreeMap<BrokerId, Arc<BrokerImage>> {
        &self.brokers
    }

    /// How many partitions a live broker owns.
    pub(crate) fn owned_by(&self, broker: BrokerId) -> usize {
        self.owned.get(&broker).copied().unwrap_or(0)
    }

    /// The last term of the coordinator whose leader has said that it answers no more.
    pub fn resigned(&self) -> Option<CoordinatorEpoch> {
        self.resigned
    }

    /// The committed offsets.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// What is kept of the groups.
    pub fn groups(&self) -> &BTreeMap<Arc<str>, KeptGroup> {
        &self.groups
    }

    /// What is kept of the consumer groups.
    pub fn consumer_groups(&self) -> &BTreeMap<Arc<str>, KeptConsumerGroup> {
        &self.consumer_groups
    }

    /// What creating these topics would answer, without creating them.
    pub fn check_create(&self, topics: &[NewTopic]) -> Vec<Result<CreatedTopic, TopicRefusal>> {
        let mut batch = BTreeSet::new();
        let checked = topics.iter().map(|topic| {
            let checked = self.check_create_one(topic, &batch);
            if checked.is_ok() {
                batch.insert(collision_key(&topic.name));
            }
            checked
                .map(|()| CreatedTopic {
                    id: TopicId::ZERO,
                    partitions: topic.partitions,
                    replication_factor: topic.replication_factor,
                })
                .map_err(|error| refusal(&topic.name, error))
        });
        checked.collect()
    }

    /// What adding these partitions would answer.
    pub fn check_grow(&self, topics: &[GrowTopic]) -> Vec<Result<(), TopicRefusal>> {
        let checked = topics.iter().map(|grow| {
            let checked = self.check_grow_one(grow).map(drop);
            checked.map_err(|error| refusal(&grow.name, error))
        });
        checked.collect()
    }

    /// What changing these configs would answer.
    pub fn check_alter(&self, topics: &[AlterConfigs]) -> Vec<Result<(), TopicRefusal>> {
        let checked = topics.iter().map(|alter| {
            let checked = self.topics.check_alter(alter).map(drop);
            checked.map_err(|error| refusal(&alter.name, error))
        });
        checked.collect()
    }

    fn check_create_one(
        &self,
        topic: &NewTopic,
        batch: &BTreeSet<String>,
    ) -> Result<(), TopicError> {
        self.topics.check_new(topic, batch)?;
        let partitions = usize::try_from(topic.partitions).unwrap_or(0);
        self.check_owners(&topic.owners, partitions)
    }

    fn check_grow_one(&self, grow: &GrowTopic) -> Result<TopicId, TopicError> {
        let id = self.topics.check_growth(grow)?;
        let now = self.topics.find(id).map_or(0, |topic| topic.marks.len());
        let wanted = usize::try_from(grow.partitions).unwrap_or(0);
        self.check_owners(&grow.owners, wanted.saturating_sub(now))?;
        Ok(id)
    }

    /// A manual assignment names a live broker for each new partition, or nothing at all.
    fn check_owners(&self, owners: &[BrokerId], partitions: usize) -> Result<(), TopicError> {
        if !owners.is_empty() && owners.len() != partitions {
            return Err(TopicError::InvalidReplicaAssignment(format!(
                "{} partitions are assigned, but {partitions} are to be created",
                owners.len()
            )));
        }
        match owners.iter().find(|id| !self.brokers.contains_key(id)) {
            Some(stranger) => Err(TopicError::InvalidReplicaAssignment(format!(
                "broker {stranger} is not alive"
            ))),
            None => Ok(()),
        }
    }

    fn create_topics(
        &mut self,
        topics: &[IdentifiedTopic],
        at_ms: i64,
        effects: &mut Effects,
    ) -> Reply {
        let mut batch = BTreeSet::new();
        let mut results = Vec::with_capacity(topics.len());
        for IdentifiedTopic { id, topic } in topics {
            if let Err(error) = self.check_create_one(topic, &batch) {
                results.push(Err(refusal(&topic.name, error)));
                continue;
            }
            batch.insert(collision_key(&topic.name));
            results.push(Ok(self.topics.create(*id, topic, at_ms)));
            let partitions = usize::try_from(topic.partitions).unwrap_or(0);
            for index in 0..partitions {
                let tp = partition_at(*id, index);
                self.begin_first_epoch(tp, topic.owners.get(index).copied());
            }
            effects.topic(*id);
        }
        Reply::CreateTopics(results)
    }

    fn create_partitions(&mut self, topics: &[GrowTopic], effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(topics.len());
        for grow in topics {
            let id = match self.check_grow_one(grow) {
                Ok(id) => id,
                Err(error) => {
                    results.push(Err(refusal(&grow.name, error)));
                    continue;
                }
            };
            for (index, tp) in self
                .topics
                .grow(id, grow.partitions)
                .into_iter()
                .enumerate()
            {
                self.begin_first_epoch(tp, grow.owners.get(index).copied());
            }
            effects.topic(id);
            results.push(Ok(()));
        }
        Reply::Topics(results)
    }

    fn alter_configs(&mut self, topics: &[AlterConfigs], effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(topics.len());
        for alter in topics {
            match self.topics.check_alter(alter) {
                Ok((id, configs)) => {
                    self.topics.set_configs(id, configs);
                    effects.topic(id);
                    results.push(Ok(()));
                }
                Err(error) => results.push(Err(refusal(&alter.name, error))),
            }
        }
        Reply::Topics(results)
    }

    /// All state of a topic goes in the one command that deletes it.
    fn delete_topics(&mut self, ids: &[TopicId], at_ms: i64, effects: &mut Effects) -> Reply {
        let mut results = Vec::with_capacity(ids.len());
        for id in ids {
            let key = TopicKey::Id(*id);
            let described = self.topics.describe_deletion(&key);
            if described.is_ok() {
                self.forget_topic(*id, at_ms);
                self.offsets.remove_topic(*id);
                effects.topic(*id);
            }
            results.push(described.map(|mut deleted| {
                deleted.name_free = !self.topics.is_deleting(*id);
                deleted
            }));
        }
        Reply::DeleteTopics(results)
    }

    fn allocate(&mut self, len: i64, effects: &mut Effects) -> Reply {
        let first = self.next.producer;
        let len = len.clamp(0, i64::MAX - first.0);
        self.next.producer = ProducerId(first.0 + len);
        effects.changed = len > 0;
        Reply::ProducerIds(ProducerIdBlock { first, len })
    }

    fn resign(&mut self, epoch: CoordinatorEpoch, effects: &mut Effects) {
        if self.resigned < Some(epoch) {
            self.resigned = Some(epoch);
            effects.changed = true;
        }
    }

    fn commit_offsets(&mut self, body: &CommitOffsets, at_ms: i64, effects: &mut Effects) {
        for (topic, partitions) in &body.topics {
            if self.topics.find(*topic).is_none() {
                continue;
            }
            for (partition, offset) in partitions {
                let row = OffsetRow {
                    offset: offset.clone(),
                    committed_ms: at_ms,
                    expires_ms: body.retention_ms.map(|keep| at_ms.saturating_add(keep)),
                };
                self.offsets.put(&body.group, *topic, *partition, row);
                effects.changed = true;
            }
        }
    }

    fn delete_offsets(&mut self, body: &DeleteOffsets, effects: &mut Effects) -> Reply {
        for (topic, partitions) in &body.topics {
            for partition in partitions {
                effects.changed |= self.offsets.remove(&body.group, *topic, *partition);
            }
        }
        Reply::Done
    }
}

fn refusal(name: &str, error: TopicError) -> TopicRefusal {
    TopicRefusal {
        topic: TopicKey::Name(name.into()),
        error,
    }
}
