//! Committed offsets of groups, keyed by topic id: they go with the topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};
use firn_proto::cluster::CommittedOffset;
use firn_proto::ids::{PartitionIndex, TopicId};

/// A committed offset as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OffsetRow {
    /// The commit.
    pub offset: CommittedOffset,
    /// When it was committed, in milliseconds since 1970.
    pub committed_ms: i64,
    /// When it is to be forgotten, if the client said.
    pub expires_ms: Option<i64>,
}

/// The offsets of one group.
pub type GroupOffsets = BTreeMap<TopicId, BTreeMap<PartitionIndex, OffsetRow>>;

/// The offsets of all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Offsets {
    by_group: BTreeMap<Arc<str>, GroupOffsets>,
}

impl Offsets {
    /// The offsets of a group.
    pub fn of_group(&self, group: &str) -> Option<&GroupOffsets> {
        self.by_group.get(group)
    }

    /// The groups that have any.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_group.keys()
    }

    pub(super) fn put(
        &mut self,
        group: &Arc<str>,
        topic: TopicId,
        partition: PartitionIndex,
        row: OffsetRow,
    ) {
        if !self.by_group.contains_key(group) {
            self.by_group.insert(Arc::clone(group), BTreeMap::new());
        }
        if let Some(topics) = self.by_group.get_mut(group) {
            topics.entry(topic).or_default().insert(partition, row);
        }
    }

    /// Forgets one offset. True if there was one.
    pub(super) fn remove(
        &mut self,
        group: &str,
        topic: TopicId,
        partition: PartitionIndex,
    ) -> bool {
        let Some(topics) = self.by_group.get_mut(group) else {
            return false;
        };
        let Some(partitions) = topics.get_mut(&topic) else {
            return false;
        };
        let removed = partitions.remove(&partition).is_some();
        if partitions.is_empty() {
            topics.remove(&topic);
        }
        if topics.is_empty() {
            self.by_group.remove(group);
        }
        removed
    }

    /// Forgets every offset of a group. True if there was one.
    pub(super) fn remove_group(&mut self, group: &str) -> bool {
        self.by_group.remove(group).is_some()
    }

    /// Forgets every offset in a topic.
    pub(super) fn remove_topic(&mut self, topic: TopicId) {
        self.by_group.retain(|_, topics| {
            topics.remove(&topic);
            !topics.is_empty()
        });
    }
}
