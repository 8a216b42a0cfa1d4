//! Committed offsets of groups, keyed by topic id: they go with the topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use firn_proto::cluster::CommittedOffset;
use firn_proto::ids::{PartitionIndex, TopicId};
use firn_proto::limits::OFFSET_ENTRY_BYTES;

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

/// The offsets of one group in one topic.
pub type TopicOffsets = BTreeMap<PartitionIndex, OffsetRow>;

/// The offsets of one group.
pub type GroupOffsets = BTreeMap<TopicId, TopicOffsets>;

/// The offsets of all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    by_group: BTreeMap<Arc<str>, GroupOffsets>,
    /// What they take; follows from them, so that no snapshot holds it.
    bytes: usize,
}

impl Encode for Offsets {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.by_group.encode(encoder)
    }
}

impl<C> Decode<C> for Offsets {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let by_group: BTreeMap<Arc<str>, GroupOffsets> = Decode::decode(decoder)?;
        let bytes = by_group.values().map(group_bytes).sum();
        Ok(Self { by_group, bytes })
    }
}

bincode::impl_borrow_decode!(Offsets);

/// What a committed offset takes.
pub fn offset_bytes(offset: &CommittedOffset) -> usize {
    OFFSET_ENTRY_BYTES + offset.metadata.len()
}

fn group_bytes(topics: &GroupOffsets) -> usize {
    topics.values().map(topic_bytes).sum()
}

fn topic_bytes(rows: &TopicOffsets) -> usize {
    rows.values().map(|row| offset_bytes(&row.offset)).sum()
}

impl Offsets {
    /// The offsets of a group.
    pub fn of_group(&self, group: &str) -> Option<&GroupOffsets> {
        self.by_group.get(group)
    }

    /// What all of them take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
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
            self.bytes += offset_bytes(&row.offset);
            let before = topics.entry(topic).or_default().insert(partition, row);
            self.bytes -= before.map_or(0, |before| offset_bytes(&before.offset));
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
        let removed = partitions.remove(&partition);
        self.bytes -= removed.as_ref().map_or(0, |row| offset_bytes(&row.offset));
        if partitions.is_empty() {
            topics.remove(&topic);
        }
        if topics.is_empty() {
            self.by_group.remove(group);
        }
        removed.is_some()
    }

    /// Forgets every offset of a group. True if there was one.
    pub(super) fn remove_group(&mut self, group: &str) -> bool {
        let removed = self.by_group.remove(group);
        self.bytes -= removed.as_ref().map_or(0, group_bytes);
        removed.is_some()
    }

    /// Forgets every offset in a topic.
    pub(super) fn remove_topic(&mut self, topic: TopicId) {
        let mut gone = 0;
        self.by_group.retain(|_, topics| {
            gone += topics.remove(&topic).as_ref().map_or(0, topic_bytes);
            !topics.is_empty()
        });
        self.bytes -= gone;
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::ids::LeaderEpoch;

    use super::*;

    fn row(note: &str) -> OffsetRow {
        OffsetRow {
            offset: CommittedOffset {
                offset: 5,
                leader_epoch: LeaderEpoch(1),
                metadata: note.into(),
            },
            committed_ms: 0,
            expires_ms: None,
        }
    }

    #[test]
    fn what_offsets_take_is_counted_and_follows_from_a_snapshot() {
        let group = |n: u8| Arc::<str>::from(format!("g{n}"));
        let (one, two) = (TopicId([1; 16]), TopicId([2; 16]));
        let mut offsets = Offsets::default();
        for n in 0..3 {
            offsets.put(&group(n), one, PartitionIndex(0), row("note"));
            offsets.put(&group(n), two, PartitionIndex(0), row("longer note"));
        }
        offsets.put(&group(0), one, PartitionIndex(0), row(""));
        let notes = 2 * "note".len() + 3 * "longer note".len();
        assert_eq!(offsets.bytes(), 6 * OFFSET_ENTRY_BYTES + notes);

        let config = bincode::config::standard();
        let bytes = bincode::encode_to_vec(&offsets, config).unwrap();
        let (read, _) = bincode::decode_from_slice::<Offsets, _>(&bytes, config).unwrap();
        assert_eq!(read, offsets);

        offsets.remove(&group(0), one, PartitionIndex(0));
        offsets.remove_group(&group(1));
        offsets.remove_topic(two);
        assert_eq!(offsets.bytes(), OFFSET_ENTRY_BYTES + "note".len());
        offsets.remove_group(&group(2));
        assert_eq!(offsets.bytes(), 0);
    }
}
