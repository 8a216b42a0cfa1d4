//! Topics: names, partitions, configs, creation and deletion.
//!
//! What clients see of a topic sits in an `Arc<TopicImage>` that the published image shares; what
//! only the coordinator needs sits beside it. A deleted topic keeps its name until every owner has
//! confirmed or its stream is sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bincode::{Decode, Encode};
use firn_proto::cluster::{
    AlterConfigs, CreatedTopic, DeletedTopic, GrowTopic, NewTopic, PartitionImage, TopicError,
    TopicImage, TopicKey, TopicRefusal,
};
use firn_proto::ids::{
    BrokerId, LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
};
use firn_proto::limits::{
    CLUSTER_PARTITIONS_MAX, TOPIC_CONFIG_BYTES_MAX, TOPIC_CONFIGS_MAX, TOPIC_PARTITIONS_MAX,
};
use firn_proto::topic_name::{check_topic_name, collision_key};

use crate::groups::TopicSource;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Topic {
    /// What the published image shares.
    pub image: Arc<TopicImage>,
    /// What it does not, one per partition.
    pub marks: Vec<PartitionMarks>,
}

/// What the coordinator alone keeps of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PartitionMarks {
    /// Its last durable state row.
    pub row: Option<SlotPosition>,
    /// Where the current epoch ended, if its owner released it (I4).
    pub released_end: Option<i64>,
    /// The first offset that is kept. Only rises (I5).
    pub log_start: i64,
    /// Its records below this offset are in segments or deleted. Only rises, and is never below the
    /// log start.
    pub archived_to: i64,
    /// The latest window begins at or above this slot of its stream, so that a state row below is
    /// not one of it: the partition may have been in that stream before.
    pub rows_from: Slot,
    /// The next epoch may begin although a disk may hold more of the latest one.
    pub is_forced: bool,
}

/// A deleted topic that owners may still hold.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Deleting {
    /// Its name, not free yet.
    pub name: Arc<str>,
    /// The streams of the owners that have not confirmed.
    pub held_by: BTreeSet<StreamId>,
}

/// All topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    by_id: BTreeMap<TopicId, Topic>,
    names: BTreeMap<Arc<str>, TopicId>,
    /// Names in use, in the form in which they collide.
    collisions: BTreeMap<String, TopicId>,
    deleting: BTreeMap<TopicId, Deleting>,
    partitions: usize,
}

impl Topics {
    /// The topics of a snapshot.
    pub(crate) fn from_rows(topics: Vec<Topic>, deleting: Vec<(TopicId, Deleting)>) -> Self {
        let mut all = Self::default();
        for topic in topics {
            all.insert(topic);
        }
        for (id, gone) in deleting {
            all.collisions.insert(collision_key(&gone.name), id);
            all.deleting.insert(id, gone);
        }
        all
    }

    /// All topics, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, &Topic)> {
        self.by_id.iter().map(|(id, topic)| (*id, topic))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (TopicId, &mut Topic)> {
        self.by_id.iter_mut().map(|(id, topic)| (*id, topic))
    }

    /// Deleted topics whose names are not free yet.
    pub fn deleting(&self) -> impl Iterator<Item = (TopicId, &Deleting)> {
        self.deleting.iter().map(|(id, gone)| (*id, gone))
    }

    /// The topic of that id.
    pub fn find(&self, id: TopicId) -> Option<&Topic> {
        self.by_id.get(&id)
    }

    pub(super) fn find_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.by_id.get_mut(&id)
    }

    /// The id of the topic that a request names.
    pub fn resolve(&self, key: &TopicKey) -> Option<TopicId> {
        match key {
            TopicKey::Id(id) => self.by_id.contains_key(id).then_some(*id),
            TopicKey::Name(name) => self.names.get(name).copied(),
        }
    }

    /// The partition, if it exists.
    pub fn partition(&self, tp: TopicPartition) -> Option<(&PartitionImage, &PartitionMarks)> {
        let topic = self.by_id.get(&tp.topic)?;
        let index = usize::try_from(tp.partition.0).ok()?;
        Some((topic.image.partitions.get(index)?, topic.marks.get(index)?))
    }

    /// Whether a deleted topic still holds its name.
    pub fn is_deleting(&self, id: TopicId) -> bool {
        self.deleting.contains_key(&id)
    }

    /// Says what is wrong with a topic to be created; `batch` holds the names that the same
    /// request has created already, in the form in which they collide.
    pub(super) fn check_new(
        &self,
        topic: &NewTopic,
        batch: &BTreeSet<String>,
    ) -> Result<(), TopicError> {
        check_topic_name(&topic.name).map_err(|e| TopicError::InvalidName(e.to_string()))?;
        let key = collision_key(&topic.name);
        if batch.contains(&key) {
            return Err(TopicError::NamedTwice);
        }
        if let Some(id) = self.collisions.get(&key) {
            let other = self.by_id.get(id).map(|other| &other.image.name);
            return Err(match other {
                Some(other) if **other != *topic.name => TopicError::InvalidName(format!(
                    "topic name collides with {other:?}: '.' and '_' count as the same"
                )),
                _ => TopicError::AlreadyExists,
            });
        }
        if topic.replication_factor < 1 {
            return Err(TopicError::InvalidReplicationFactor(
                topic.replication_factor,
            ));
        }
        self.check_partitions(0, topic.partitions)?;
        check_configs(&topic.configs)
    }

    /// Says whether a topic of `now` partitions may get `wanted`.
    fn check_partitions(&self, now: usize, wanted: i32) -> Result<(), TopicError> {
        let wanted_len = usize::try_from(wanted).unwrap_or(0);
        if wanted_len <= now {
            return Err(TopicError::InvalidPartitions(match now {
                0 => format!("{wanted} partitions are too few; a topic has at least 1"),
                _ => format!("the topic has {now} partitions already, {wanted} is not more"),
            }));
        }
        if wanted > TOPIC_PARTITIONS_MAX {
            return Err(TopicError::InvalidPartitions(format!(
                "{wanted} partitions are too many; a topic has at most {TOPIC_PARTITIONS_MAX}"
            )));
        }
        if self.partitions + wanted_len - now > CLUSTER_PARTITIONS_MAX {
            return Err(TopicError::LimitReached(format!(
                "the cluster has {} partitions; at most {CLUSTER_PARTITIONS_MAX} are allowed",
                self.partitions
            )));
        }
        Ok(())
    }

    /// Says what is wrong with a growth.
    pub(super) fn check_growth(&self, grow: &GrowTopic) -> Result<TopicId, TopicError> {
        let id = *self
            .names
            .get(grow.name.as_str())
            .ok_or(TopicError::Unknown)?;
        let now = self.by_id.get(&id).map_or(0, |topic| topic.marks.len());
        self.check_partitions(now, grow.partitions)?;
        Ok(id)
    }

    /// The configs of the topic after the change, or what is wrong with it.
    pub(super) fn check_alter(
        &self,
        alter: &AlterConfigs,
    ) -> Result<(TopicId, BTreeMap<String, String>), TopicError> {
        let id = *self
            .names
            .get(alter.name.as_str())
            .ok_or(TopicError::Unknown)?;
        let mut configs = match self.by_id.get(&id) {
            Some(topic) if !alter.replace_all => topic.image.configs.clone(),
            _ => BTreeMap::new(),
        };
        for change in &alter.changes {
            match &change.value {
                Some(value) => configs.insert(change.name.clone(), value.clone()),
                None => configs.remove(&change.name),
            };
        }
        let pairs: Vec<_> = configs.clone().into_iter().collect();
        check_configs(&pairs)?;
        Ok((id, configs))
    }

    /// Adds a topic that [`Topics::check_new`] has passed, its partitions without owner or epoch.
    pub(super) fn create(&mut self, id: TopicId, topic: &NewTopic, at_ms: i64) -> CreatedTopic {
        let partitions = usize::try_from(topic.partitions).unwrap_or(0);
        self.insert(Topic {
            image: Arc::new(TopicImage {
                id,
                name: topic.name.as_str().into(),
                created_ms: at_ms,
                replication_factor: topic.replication_factor,
                configs: topic.configs.iter().cloned().collect(),
                partitions: vec![unowned(); partitions],
            }),
            marks: vec![PartitionMarks::default(); partitions],
        });
        CreatedTopic {
            id,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
        }
    }

    /// Adds partitions without owner or epoch, and says which.
    pub(super) fn grow(&mut self, id: TopicId, partitions: i32) -> Vec<TopicPartition> {
        let Some(topic) = self.by_id.get_mut(&id) else {
            return Vec::new();
        };
        let now = topic.marks.len();
        let wanted = usize::try_from(partitions).unwrap_or(0).max(now);
        topic.marks.resize(wanted, PartitionMarks::default());
        Arc::make_mut(&mut topic.image)
            .partitions
            .resize(wanted, unowned());
        self.partitions += wanted - now;
        (now..wanted).map(|index| partition_at(id, index)).collect()
    }

    pub(super) fn set_configs(&mut self, id: TopicId, configs: BTreeMap<String, String>) {
        if let Some(topic) = self.by_id.get_mut(&id) {
            let image = Arc::make_mut(&mut topic.image);
            image.configs = configs;
            // what counted by a disk alone goes on to: a change back is not known to its owner yet
            if image.is_local() {
                let partitions = image.partitions.iter_mut();
                partitions.for_each(|partition| partition.counts_locally = true);
            }
        }
    }

    /// Takes a topic out. Its name stays taken while `held_by` names a stream.
    pub(super) fn delete(&mut self, id: TopicId, held_by: BTreeSet<StreamId>) -> Option<Topic> {
        let topic = self.by_id.remove(&id)?;
        let name = Arc::clone(&topic.image.name);
        self.names.remove(&name);
        self.partitions -= topic.marks.len();
        if held_by.is_empty() {
            self.collisions.remove(&collision_key(&name));
        } else {
            self.deleting.insert(id, Deleting { name, held_by });
        }
        Some(topic)
    }

    /// The writer of the stream holds none of these deleted topics any more (all, if `None`).
    /// True if that is news.
    pub(super) fn let_go(&mut self, stream: StreamId, topics: Option<&[TopicId]>) -> bool {
        let mut news = false;
        let collisions = &mut self.collisions;
        self.deleting.retain(|id, gone| {
            if topics.is_none_or(|topics| topics.contains(id)) {
                news |= gone.held_by.remove(&stream);
            }
            if gone.held_by.is_empty() {
                collisions.remove(&collision_key(&gone.name));
            }
            !gone.held_by.is_empty()
        });
        news
    }

    fn insert(&mut self, topic: Topic) {
        let name = &topic.image.name;
        self.names.insert(Arc::clone(name), topic.image.id);
        self.collisions.insert(collision_key(name), topic.image.id);
        self.partitions += topic.marks.len();
        self.by_id.insert(topic.image.id, topic);
    }

    /// What a deletion of the topic that `key` names would answer.
    pub fn describe_deletion(&self, key: &TopicKey) -> Result<DeletedTopic, TopicRefusal> {
        let topic = self.resolve(key).and_then(|id| self.by_id.get(&id));
        let Some(topic) = topic else {
            return Err(TopicRefusal {
                topic: key.clone(),
                error: TopicError::Unknown,
            });
        };
        Ok(DeletedTopic {
            name: Arc::clone(&topic.image.name),
            id: topic.image.id,
            name_free: true,
        })
    }
}

/// The partition of that topic at a place of its list.
pub(crate) fn partition_at(topic: TopicId, index: usize) -> TopicPartition {
    TopicPartition {
        topic,
        partition: PartitionIndex(i32::try_from(index).unwrap_or(i32::MAX)),
    }
}

/// A partition that never had an owner.
fn unowned() -> PartitionImage {
    PartitionImage {
        epoch: LeaderEpoch(-1),
        owner: None,
        preferred: BrokerId(-1),
        moving_to: None,
        epochs: Vec::new(),
        windows: Vec::new(),
        counts_locally: false,
    }
}

fn check_configs(configs: &[(String, String)]) -> Result<(), TopicError> {
    let bytes: usize = configs.iter().map(|(k, v)| k.len() + v.len()).sum();
    if configs.len() > TOPIC_CONFIGS_MAX || bytes > TOPIC_CONFIG_BYTES_MAX {
        return Err(TopicError::LimitReached(format!(
            "{} configs of {bytes} bytes are too many; a topic has at most {TOPIC_CONFIGS_MAX} \
             of {TOPIC_CONFIG_BYTES_MAX} bytes",
            configs.len()
        )));
    }
    Ok(())
}

impl TopicSource for Topics {
    fn named(&self, name: &str) -> Option<(TopicId, i32)> {
        let id = *self.names.get(name)?;
        Some((id, partition_count(self.find(id)?)))
    }

    fn name_of(&self, topic: TopicId) -> Option<Arc<str>> {
        Some(Arc::clone(&self.find(topic)?.image.name))
    }

    fn all(&self) -> Box<dyn Iterator<Item = (&Arc<str>, TopicId, i32)> + '_> {
        let all = self.by_id.iter();
        Box::new(all.map(|(id, topic)| (&topic.image.name, *id, partition_count(topic))))
    }
}

fn partition_count(topic: &Topic) -> i32 {
    i32::try_from(topic.image.partitions.len()).unwrap_or(i32::MAX)
}
