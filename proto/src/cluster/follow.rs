//! What a leader and the processes that follow it tell each other beside requests: pictures of the
//! cluster as differences, beats, and pieces of the journal for standbys.
//!
//! What may be long is cut into [`Part`]s, so that beats pass between them. All of it is pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use thiserror::Error;

use super::image::{BrokerImage, ClusterImage, PartitionImage, TopicImage};
use crate::codec::{self, CodecError};
use crate::env::Mono;
use crate::ids::{BrokerId, ClusterId, CoordinatorEpoch, Incarnation, PartitionIndex, TopicId};
use crate::journal::JournalPosition;
use crate::limits::{IMAGE_MEMORY_BYTES_MAX, LINK_PART_BYTES_MAX, LINK_PARTS_BYTES_MAX};

/// What a follower says of itself, several times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Beat {
    /// Its broker, once that is registered.
    pub broker: Option<Incarnation>,
    /// When it was sent, by the follower's clock, for the leader to send back.
    pub sent: Mono,
    /// Somebody reads from it, and its right to be read ends soon: the leader is to look.
    pub reads: bool,
    /// What it wants of the journal; `None`: nothing, for it will never take that over.
    pub journal: Option<JournalAsk>,
}

/// What a process wants of the journal that may have to take it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JournalAsk {
    /// Counts how often it has asked: with each new number the leader begins anew.
    pub number: u32,
    /// It has the state after this position, so that what comes later will do; `None`: it has none.
    pub after: Option<JournalPosition>,
    /// How many bytes of the journal have come over this link, whatever became of them.
    pub taken: u64,
}

/// What a leader says of itself to one follower, several times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeaderBeat {
    /// Its epoch.
    pub epoch: CoordinatorEpoch,
    /// When the last beat was sent that it has of this follower, by the follower's clock.
    pub echo: Mono,
    /// How long before this was sent the last look was sent that said that nobody else leads; `None`:
    /// there is none, or the leader waits for the read lease of the one before it to end. What the
    /// follower knows may be read for the length of a read lease from (`echo` - `alone_age`), for
    /// that lies before the look on every clock.
    pub alone_age: Option<Duration>,
    /// The version of the newest picture that the leader had when it sent this: what the follower
    /// knows may be read for that long only once it has that picture, or a later one. Until then it
    /// may not know that it was taken for dead.
    pub picture: u64,
}

/// A part of something that was cut in order to go over the link. Parts go in order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Where it begins in the whole.
    pub at: u64,
    /// The length of the whole.
    pub len: u64,
    /// The bytes, at most [`LINK_PART_BYTES_MAX`]; none only if the whole is empty.
    pub bytes: Vec<u8>,
}

impl Part {
    /// Cuts `whole` into parts.
    pub fn cut(whole: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let starts = (0..whole.len().max(1)).step_by(LINK_PART_BYTES_MAX);
        starts.map(move |start| Self::from_whole(whole, start))
    }

    /// The part of `whole` that begins there, or at its end.
    pub fn from_whole(whole: &[u8], start: usize) -> Self {
        let start = start.min(whole.len());
        let end = whole.len().min(start + LINK_PART_BYTES_MAX);
        Self {
            at: start as u64,
            len: whole.len() as u64,
            bytes: whole[start..end].to_vec(),
        }
    }

    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        self.at + self.bytes.len() as u64 == self.len
    }
}

/// Why parts do not make a whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PartFault {
    /// The whole is too long.
    #[error("{len} bytes come in parts, at most {LINK_PARTS_BYTES_MAX} are taken")]
    TooLong {
        /// Its length.
        len: u64,
    },
    /// A part is missing, or does not lie in the whole.
    #[error("a part at byte {at} of {len} comes where that at byte {expected} should")]
    OutOfOrder {
        /// Where it begins.
        at: u64,
        /// The length of the whole.
        len: u64,
        /// Where it should begin.
        expected: u64,
    },
}

/// Puts parts together. Holds no more than has arrived.
#[derive(Debug, Default)]
pub struct Parts {
    len: u64,
    bytes: Vec<u8>,
}

impl Parts {
    /// The next part; the whole, if it is the last one. After a fault it begins anew.
    ///
    /// # Errors
    /// [`PartFault`].
    pub fn take(&mut self, part: &Part) -> Result<Option<Vec<u8>>, PartFault> {
        let mut gathered = std::mem::take(self);
        if part.len > LINK_PARTS_BYTES_MAX as u64 {
            return Err(PartFault::TooLong { len: part.len });
        }
        if part.at == 0 && gathered.bytes.is_empty() {
            gathered.len = part.len;
        }
        let expected = gathered.bytes.len() as u64;
        let end = part.at.checked_add(part.bytes.len() as u64);
        let lies_inside = end.is_some_and(|end| end <= gathered.len);
        let goes_on = !part.bytes.is_empty() || part.len == 0;
        if part.at != expected || part.len != gathered.len || !lies_inside || !goes_on {
            return Err(PartFault::OutOfOrder {
                at: part.at,
                len: part.len,
                expected,
            });
        }
        gathered.bytes.extend_from_slice(&part.bytes);
        if part.is_last() {
            return Ok(Some(gathered.bytes));
        }
        *self = gathered;
        Ok(None)
    }
}

/// A part of a new picture of the cluster: of its difference to the last one that was sent whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ImageUpdate {
    /// The version of the picture that it changes; `None`: that of nothing.
    pub base: Option<u64>,
    /// A part of an encoded [`ImageDiff`].
    pub part: Part,
}

impl ImageUpdate {
    /// What takes a follower from `old`, or from nothing, to `new`.
    ///
    /// # Errors
    /// [`CodecError`]: the difference cannot be written.
    pub fn between(
        old: Option<&ClusterImage>,
        new: &ClusterImage,
    ) -> Result<Vec<Self>, CodecError> {
        let base = old.map(|old| old.version);
        let nothing = ClusterImage::default();
        let diff = ImageDiff::between(old.unwrap_or(&nothing), new);
        let bytes = codec::encode(&diff)?;
        Ok(Part::cut(&bytes).map(|part| Self { base, part }).collect())
    }
}

/// How one picture differs from an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ImageDiff {
    /// The cluster.
    pub cluster: ClusterId,
    /// The version of the later one.
    pub version: u64,
    /// The broker whose process holds the coordinator.
    pub controller: Option<BrokerId>,
    /// All live brokers, if any of them changed.
    pub brokers: Option<BTreeMap<BrokerId, Arc<BrokerImage>>>,
    /// Topics that are not in it any more.
    pub gone: Vec<TopicId>,
    /// Topics that are new, or of which more changed than some partitions.
    pub topics: Vec<Arc<TopicImage>>,
    /// Partitions that changed of the others.
    pub partitions: Vec<(TopicId, Vec<(PartitionIndex, PartitionImage)>)>,
}

impl ImageDiff {
    /// How `new` differs from `old`. What both share is not looked at.
    pub fn between(old: &ClusterImage, new: &ClusterImage) -> Self {
        let brokers = !Arc::ptr_eq(&old.brokers, &new.brokers) && old.brokers != new.brokers;
        let mut diff = Self {
            cluster: new.cluster,
            version: new.version,
            controller: new.controller,
            brokers: brokers.then(|| BTreeMap::clone(&new.brokers)),
            gone: Vec::new(),
            topics: Vec::new(),
            partitions: Vec::new(),
        };
        if Arc::ptr_eq(&old.topics, &new.topics) {
            return diff;
        }
        let gone = old.topics.keys().filter(|id| new.topic(**id).is_none());
        diff.gone.extend(gone);
        for (id, topic) in new.topics.iter() {
            match old.topic(*id) {
                Some(known) if Arc::ptr_eq(known, topic) => {}
                Some(known) if same_but_for_partitions(known, topic) => {
                    let changed = changed_partitions(known, topic);
                    if !changed.is_empty() {
                        diff.partitions.push((*id, changed));
                    }
                }
                _ => diff.topics.push(Arc::clone(topic)),
            }
        }
        diff
    }

    /// The later picture, made from the earlier one. It shares with that what did not change.
    ///
    /// # Errors
    /// [`ImageFault::Unknown`]: it was made from another one.
    pub fn apply(self, old: &ClusterImage) -> Result<ClusterImage, ImageFault> {
        let mut image = old.clone();
        image.cluster = self.cluster;
        image.version = self.version;
        image.controller = self.controller;
        if let Some(brokers) = self.brokers {
            image.brokers = Arc::new(brokers);
        }
        if self.gone.is_empty() && self.topics.is_empty() && self.partitions.is_empty() {
            return Ok(image);
        }
        let topics = Arc::make_mut(&mut image.topics);
        let names = Arc::make_mut(&mut image.names);
        for id in self.gone {
            let gone = topics.remove(&id).ok_or(ImageFault::Unknown(id))?;
            names.remove(&gone.name);
        }
        for topic in self.topics {
            names.insert(Arc::clone(&topic.name), topic.id);
            topics.insert(topic.id, topic);
        }
        for (id, changed) in self.partitions {
            let topic = topics.get_mut(&id).ok_or(ImageFault::Unknown(id))?;
            let topic = Arc::make_mut(topic);
            for (index, partition) in changed {
                let index = usize::try_from(index.0).map_err(|_| ImageFault::Unknown(id))?;
                let place = topic.partitions.get_mut(index);
                *place.ok_or(ImageFault::Unknown(id))? = partition;
            }
        }
        Ok(image)
    }
}

fn same_but_for_partitions(old: &TopicImage, new: &TopicImage) -> bool {
    old.name == new.name
        && old.created_ms == new.created_ms
        && old.replication_factor == new.replication_factor
        && old.configs == new.configs
        && old.partitions.len() == new.partitions.len()
}

fn changed_partitions(old: &TopicImage, new: &TopicImage) -> Vec<(PartitionIndex, PartitionImage)> {
    let both = old.partitions.iter().zip(&new.partitions);
    both.zip(0..)
        .filter(|((old, new), _)| old != new)
        .map(|((_, new), index)| (PartitionIndex(index), new.clone()))
        .collect()
}

/// Why an update makes no picture. The link it came over is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageFault {
    /// Its parts make no whole.
    #[error("a picture of the cluster cannot be put together: {0}")]
    Part(#[from] PartFault),
    /// It cannot be read.
    #[error("a picture of the cluster cannot be read: {0}")]
    Codec(#[from] CodecError),
    /// It changes another picture than the last one.
    #[error("a picture was made from version {base:?}, and the last one here is {last:?}")]
    Base {
        /// The version that it changes.
        base: Option<u64>,
        /// The version of the last one.
        last: Option<u64>,
    },
    /// It changes a topic that the last one does not have.
    #[error(
        "a picture changes topic {0}, or a partition of it, which the one before does not have"
    )]
    Unknown(TopicId),
}

/// The picture that one follower has of the leader it follows, in the leader's versions.
#[derive(Debug, Default)]
pub struct FollowedImage {
    last: Option<ClusterImage>,
    parts: Parts,
}

impl FollowedImage {
    /// The next update; the picture after it, if it is whole now.
    ///
    /// # Errors
    /// [`ImageFault`].
    pub fn take(&mut self, update: &ImageUpdate) -> Result<Option<&ClusterImage>, ImageFault> {
        let last = self.last.as_ref().map(|image| image.version);
        if update.base.is_some() && update.base != last {
            let base = update.base;
            return Err(ImageFault::Base { base, last });
        }
        let Some(bytes) = self.parts.take(&update.part)? else {
            return Ok(None);
        };
        let diff: ImageDiff = codec::decode::<IMAGE_MEMORY_BYTES_MAX, _>(&bytes)?;
        let known = self.last.take().filter(|_| update.base.is_some());
        self.last = Some(diff.apply(&known.unwrap_or_default())?);
        Ok(self.last.as_ref())
    }
}

/// A part of a piece of the journal, for a process that may have to take it over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum JournalPart {
    /// Of the state after a position, as a snapshot has it.
    State {
        /// The last position it covers.
        covers: JournalPosition,
        /// The part.
        part: Part,
    },
    /// Of a slot that is durable.
    Slot {
        /// The position before it: the state after that one is what it changes.
        after: JournalPosition,
        /// Which.
        at: JournalPosition,
        /// The part.
        part: Part,
    },
}

#[cfg(test)]
mod tests;
