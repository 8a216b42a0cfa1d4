//! Where the records of a partition lie that are not archived yet: its runs in WAL slots, in the
//! order of offsets. Kept small, since an owner holds thousands of partitions.

use std::collections::VecDeque;

use firn_proto::ids::{LeaderEpoch, Slot, SlotPosition, StreamId, TopicPartition};

use super::row::{BatchFlags, Run, RunRef};

/// The unarchived runs of one partition: contiguous and disjoint, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunTable {
    /// Streams and epochs that runs name by their place here.
    eras: Vec<Era>,
    entries: VecDeque<Entry>,
}

/// A stretch of the partition's life: one epoch in one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era {
    pub(super) stream: StreamId,
    pub(super) epoch: LeaderEpoch,
}

/// A [`RunRef`] without what all runs of a partition or era share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    pub(super) base_offset: i64,
    pub(super) last_offset: i64,
    pub(super) max_timestamp: i64,
    pub(super) byte_start: u32,
    pub(super) byte_len: u32,
    pub(super) era: u32,
    pub(super) flags: BatchFlags,
}

impl RunTable {
    /// Adds a run behind the others.
    ///
    /// # Panics
    /// I9: the run overlaps the one before it. The caller has compared it with its end offset.
    pub fn push(&mut self, at: SlotPosition, run: &Run) {
        if let Some(last) = self.entries.back() {
            assert!(
                run.base_offset > last.last_offset,
                "I9: run at offset {} of {} overlaps the one that ends at {}",
                run.base_offset,
                run.tp,
                last.last_offset
            );
        }
        let era = Era {
            stream: at.stream,
            epoch: run.epoch,
        };
        if self.eras.last() != Some(&era) {
            self.eras.push(era);
        }
        self.entries.push_back(Entry {
            slot: at.slot,
            base_offset: run.base_offset,
            last_offset: run.last_offset,
            max_timestamp: run.max_timestamp,
            byte_start: run.byte_start,
            byte_len: run.byte_len,
            // eras are epochs and streams that came one after the other: far below 2^32
            era: u32::try_from(self.eras.len() - 1).unwrap_or(u32::MAX),
            flags: run.flags,
        });
    }

    /// The run that holds `offset` or, if none does, the next one, and those behind it.
    pub fn from(&self, tp: TopicPartition, offset: i64) -> impl Iterator<Item = RunRef> {
        let at = self
            .entries
            .partition_point(|entry| entry.last_offset < offset);
        self.entries
            .range(at..)
            .filter_map(move |entry| self.run_ref(tp, entry))
    }

    /// The runs that hold `offset .. end`, until they have `bytes_max` bytes together; at least
    /// one if there is any.
    pub fn span(&self, tp: TopicPartition, offset: i64, end: i64, bytes_max: usize) -> Vec<RunRef> {
        let mut bytes = 0_usize;
        self.from(tp, offset)
            .take_while(|found| {
                let wanted = found.run.base_offset < end && (bytes == 0 || bytes < bytes_max);
                bytes += usize::try_from(found.run.byte_len).unwrap_or(usize::MAX);
                wanted
            })
            .collect()
    }

    /// The first run at or behind `offset` that holds a record with a timestamp of at least
    /// `timestamp` (though perhaps none at or behind `offset`), and those like it behind it.
    pub fn with_timestamp(
        &self,
        tp: TopicPartition,
        offset: i64,
        timestamp: i64,
    ) -> impl Iterator<Item = RunRef> {
        self.from(tp, offset)
            .filter(move |found| found.run.max_timestamp >= timestamp)
    }

    /// The first of the runs that holds the largest timestamp.
    pub fn with_max_timestamp(&self, tp: TopicPartition, offset: i64) -> Option<RunRef> {
        let mut best: Option<RunRef> = None;
        for found in self.from(tp, offset) {
            if best.is_none_or(|best| found.run.max_timestamp > best.run.max_timestamp) {
                best = Some(found);
            }
        }
        best
    }

    /// Drops the runs that end below `offset`: they are archived or deleted.
    pub fn drop_below(&mut self, offset: i64) {
        let keep_from = self
            .entries
            .partition_point(|entry| entry.last_offset < offset);
        self.entries.drain(..keep_from);
        let unused = match self.entries.front() {
            Some(entry) => entry.era,
            None => u32::try_from(self.eras.len()).unwrap_or(u32::MAX),
        };
        if unused > 0 {
            self.eras.drain(..usize::try_from(unused).unwrap_or(0));
            for entry in &mut self.entries {
                entry.era -= unused;
            }
        }
    }

    /// The lowest slot of `stream` that holds one of the runs.
    pub fn lowest_slot(&self, stream: StreamId) -> Option<Slot> {
        let mut of_stream = self
            .entries
            .iter()
            .filter(|entry| self.era(entry).is_some_and(|era| era.stream == stream));
        of_stream.next().map(|entry| entry.slot)
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn era(&self, entry: &Entry) -> Option<&Era> {
        self.eras.get(usize::try_from(entry.era).ok()?)
    }

    fn run_ref(&self, tp: TopicPartition, entry: &Entry) -> Option<RunRef> {
        let era = self.era(entry)?;
        Some(RunRef {
            at: SlotPosition {
                stream: era.stream,
                slot: entry.slot,
            },
            run: Run {
                tp,
                epoch: era.epoch,
                base_offset: entry.base_offset,
                last_offset: entry.last_offset,
                byte_start: entry.byte_start,
                byte_len: entry.byte_len,
                max_timestamp: entry.max_timestamp,
                flags: entry.flags,
            },
        })
    }
}

#[cfg(test)]
mod tests;
