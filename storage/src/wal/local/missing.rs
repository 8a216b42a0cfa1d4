//! Which entries of an earlier process are missing in the bucket (I4). Pure.
//!
//! An entry is missing iff its stream is folded and its base offset is at or above the folded end
//! of its epoch. Missing entries are put again, with the same offsets, epoch and bytes, up to the
//! first gap. What lies behind a gap can only be reported.

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

/// What a restarted broker owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// To be put again before the partitions are served.
    pub put_again: Vec<MissingEpoch>,
    /// Behind a gap: cannot be put again.
    pub lost: Vec<LocalRow>,
}

impl Missing {
    /// Compares `rows` with what the bucket holds. `folded_end` answers for a stream, a partition
    /// and an epoch in it with the folded end of that epoch, or with `None` where the stream is
    /// not folded or the epoch is not to be resumed (it is not the latest one, or another disk's).
    pub fn of<'a>(
        rows: impl IntoIterator<Item = &'a LocalRow>,
        folded_end: impl Fn(StreamId, TopicPartition, LeaderEpoch) -> Option<i64>,
    ) -> Self {
        let mut epochs: BTreeMap<_, (i64, BTreeMap<i64, &LocalRow>)> = BTreeMap::new();
        for row in rows {
            let (tp, epoch) = (row.entry.tp, row.entry.epoch);
            let Some(end) = folded_end(row.stream, tp, epoch) else {
                continue;
            };
            if row.entry.base_offset < end {
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
        for ((tp, epoch), (from, by_base)) in epochs {
            let mut end = from;
            let mut entries = Vec::new();
            for (base, row) in by_base {
                if base == end {
                    end = row.entry.last_offset + 1;
                    entries.push(row.clone());
                } else {
                    missing.lost.push(row.clone());
                }
            }
            if !entries.is_empty() {
                missing.put_again.push(MissingEpoch {
                    tp,
                    epoch,
                    from,
                    end,
                    entries,
                });
            }
        }
        missing
    }

    /// How many lost entries had been acknowledged: those of `acks=1`, and of `acks=all` where the
    /// topic is durable locally, which the caller knows.
    pub fn lost_acknowledged(&self, locally_durable: impl Fn(TopicPartition) -> bool) -> usize {
        self.lost
            .iter()
            .filter(|row| match row.entry.acks {
                Acks::None => false,
                Acks::Local => true,
                Acks::Bucket => locally_durable(row.entry.tp),
            })
            .count()
    }
}

#[cfg(test)]
mod tests;
