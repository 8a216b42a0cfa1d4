//! Which entries of an earlier process are missing in the bucket (I4). Pure.
//!
//! An entry is missing iff its stream is folded and its base offset is at or above the end of its
//! epoch in the bucket. While that epoch is the latest one, missing entries are put again, with the
//! same offsets, epoch and bytes, up to the first gap. What lies behind a gap, and whatever is
//! missing of an epoch that is over, can only be reported.

use std::collections::BTreeMap;

use firn_proto::ids::{LeaderEpoch, StreamId, TopicPartition};

use super::recovery::LocalRow;
use crate::wal::Acks;

/// The entries of one epoch of a partition that are to be put again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingEpoch {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch they were appended in, and in which they are put again.
    pub epoch: LeaderEpoch,
    /// The folded end, where the first of them begins.
    pub from: i64,
    /// Where the last of them ends: the start of the next epoch.
    pub end: i64,
    /// The entries, without gap or overlap.
    pub entries: Vec<LocalRow>,
}

/// Where an epoch of a partition ended in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochEnd {
    /// It is the latest one and has no next one yet: entries from this offset on may be put again.
    Folded(i64),
    /// The next one began at this offset: nothing more can be put into it.
    Over(i64),
}

/// What a restarted broker owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// To be put again before the partitions are served.
    pub put_again: Vec<MissingEpoch>,
    /// Behind a gap, or of an epoch that is over: cannot be put again.
    pub lost: Vec<LocalRow>,
}

/// Offsets of one epoch of a partition that had been acknowledged and are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostRange {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch they were appended in.
    pub epoch: LeaderEpoch,
    /// The first offset.
    pub first: i64,
    /// The last offset.
    pub last: i64,
}

impl Missing {
    /// Compares `rows` with what the bucket holds. `end_of` answers for a stream, a partition and
    /// an epoch in it with the end of that epoch, or with `None` where nothing is owed: the topic
    /// is deleted, or the stream is not folded.
    pub fn of<'a>(
        rows: impl IntoIterator<Item = &'a LocalRow>,
        end_of: impl Fn(StreamId, TopicPartition, LeaderEpoch) -> Option<EpochEnd>,
    ) -> Self {
        let mut epochs: BTreeMap<_, (EpochEnd, BTreeMap<i64, &LocalRow>)> = BTreeMap::new();
        for row in rows {
            let (tp, epoch) = (row.entry.tp, row.entry.epoch);
            let Some(end) = end_of(row.stream, tp, epoch) else {
                continue;
            };
            let (EpochEnd::Folded(offset) | EpochEnd::Over(offset)) = end;
            if row.entry.base_offset < offset {
                continue;
            }
            // put again once already, by a process that did not live to see it durable: the bytes
            // are the same, so either will do
            let (_, by_base) = epochs
                .entry((tp, epoch))
                .or_insert_with(|| (end, BTreeMap::new()));
            by_base.insert(row.entry.base_offset, row);
        }
        let mut missing = Self::default();
        for ((tp, epoch), (end, by_base)) in epochs {
            match end {
                EpochEnd::Folded(from) => missing.add_epoch(tp, epoch, from, by_base),
                EpochEnd::Over(_) => missing.lost.extend(by_base.into_values().cloned()),
            }
        }
        missing
    }

    /// Adds the entries of an epoch that may go on from `from`.
    fn add_epoch(
        &mut self,
        tp: TopicPartition,
        epoch: LeaderEpoch,
        from: i64,
        by_base: BTreeMap<i64, &LocalRow>,
    ) {
        let mut end = from;
        let mut entries = Vec::new();
        for (base, row) in by_base {
            if base == end {
                end = row.entry.last_offset + 1;
                entries.push(row.clone());
            } else {
                self.lost.push(row.clone());
            }
        }
        if !entries.is_empty() {
            self.put_again.push(MissingEpoch {
                tp,
                epoch,
                from,
                end,
                entries,
            });
        }
    }

    /// The lost entries that had been acknowledged: those of `acks=1`, and of `acks=all` where the
    /// topic is durable locally, which the caller knows.
    pub fn lost_acknowledged(
        &self,
        locally_durable: impl Fn(TopicPartition) -> bool,
    ) -> Vec<LocalRow> {
        let acknowledged = |row: &&LocalRow| match row.entry.acks {
            Acks::None => false,
            Acks::Local => true,
            Acks::Bucket => locally_durable(row.entry.tp),
        };
        self.lost.iter().filter(acknowledged).cloned().collect()
    }
}

impl LostRange {
    /// The offsets of `rows`, those that follow each other as one range.
    pub fn of(rows: &[LocalRow]) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        let single = rows.iter().map(|row| Self {
            tp: row.entry.tp,
            epoch: row.entry.epoch,
            first: row.entry.base_offset,
            last: row.entry.last_offset,
        });
        let mut single: Vec<_> = single.collect();
        single.sort_unstable();
        for next in single {
            match ranges.last_mut() {
                Some(range)
                    if (range.tp, range.epoch) == (next.tp, next.epoch)
                        && range.last + 1 == next.first =>
                {
                    range.last = next.last;
                }
                _ => ranges.push(next),
            }
        }
        ranges
    }

    /// How many offsets it has.
    pub fn records(&self) -> u64 {
        u64::try_from(self.last - self.first + 1).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
