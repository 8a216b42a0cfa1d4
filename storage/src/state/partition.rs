//! The state row: the exact state of a partition after a slot (FORMAT.md §5).
//!
//! The owner's durable state and a fold move it by the same rule, [`StateRow::apply_slot`], so that
//! what a new owner learns from the log is what the old one knew (I8). Nothing in it may come from
//! the owner's memory, which is ahead of the log.

use firn_proto::ids::{LeaderEpoch, ProducerId, SlotPosition, TopicPartition};
use thiserror::Error;

use super::producers::ProducerTable;
use super::row::{ProducerBatch, Run};
use super::runs::RunTable;

/// The state of one partition after exactly the rows of all slots up to `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// The partition.
    pub tp: TopicPartition,
    /// Its latest epoch. Rows of another one are not applied (I6).
    pub epoch: LeaderEpoch,
    /// The slot that the row is the state after. `None`: before every slot.
    pub after: Option<SlotPosition>,
    /// The first offset that readers may ask for. Never goes back (I5).
    pub log_start: i64,
    /// The offset after the last record. Never goes back (I5).
    pub end_offset: i64,
    /// The producers with state.
    pub producers: ProducerTable,
    /// Transactions that have begun here and are not finished, by first offset.
    pub open_txns: Vec<OpenTxn>,
    /// Transactions that were aborted and are not archived, by last offset.
    pub aborted: Vec<AbortedTxn>,
    /// Where the unarchived records lie.
    pub runs: RunTable,
}

/// A transaction that is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTxn {
    /// Its producer.
    pub producer: ProducerId,
    /// Offset of its first record.
    pub first_offset: i64,
}

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Its producer.
    pub producer: ProducerId,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of its marker.
    pub last_offset: i64,
}

/// Rows that cannot be applied: they contradict the state, so that a slot is missing or foreign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// The run does not begin where the partition ends.
    #[error("run of {tp} in slot {at} begins at offset {found}, but the log ends at {expected}")]
    NotNext {
        /// The partition.
        tp: TopicPartition,
        /// The slot.
        at: SlotPosition,
        /// Base offset of the run.
        found: i64,
        /// The partition's end.
        expected: i64,
    },
}

/// What the rows of a slot did to a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Runs taken in.
    pub runs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl StateRow {
    /// A partition without records whose first epoch is `epoch`.
    pub fn new(tp: TopicPartition, epoch: LeaderEpoch) -> Self {
        Self {
            tp,
            epoch,
            after: None,
            log_start: 0,
            end_offset: 0,
            producers: ProducerTable::default(),
            open_txns: Vec::new(),
            aborted: Vec::new(),
            runs: RunTable::default(),
        }
    }

    /// Applies the rows of the next slot. `runs` and `producers` are those of the slot, sorted as
    /// its index is; what is of other partitions or epochs is passed by. `now_ms` is wall time
    /// and only says when producers were seen.
    ///
    /// # Errors
    /// [`StateError`]; the state is then as after the last run that fitted and must not be used.
    pub fn apply_slot(
        &mut self,
        at: SlotPosition,
        runs: &[Run],
        producers: &[ProducerBatch],
        now_ms: i64,
    ) -> Result<Applied, StateError> {
        let mut applied = Applied::default();
        let mut batches = rows_of(producers, self.tp, |batch| batch.tp)
            .iter()
            .peekable();
        for run in rows_of(runs, self.tp, |run| run.tp) {
            if run.epoch != self.epoch {
                continue;
            }
            if run.base_offset != self.end_offset {
                return Err(StateError::NotNext {
                    tp: self.tp,
                    at,
                    found: run.base_offset,
                    expected: self.end_offset,
                });
            }
            self.runs.push(at, run);
            self.end_offset = run.last_offset + 1;
            applied.runs += 1;
            applied.bytes += u64::from(run.byte_len);
            // batches in front of the run lie in one of another epoch
            while let Some(batch) = batches.next_if(|batch| batch.base_offset <= run.last_offset) {
                if batch.base_offset >= run.base_offset {
                    self.producers.apply(batch, now_ms);
                }
            }
        }
        self.after = Some(at);
        assert!(
            self.log_start <= self.end_offset,
            "I5: log start {} of {} is behind its end {}",
            self.log_start,
            self.tp,
            self.end_offset
        );
        Ok(applied)
    }

    /// Begins a later epoch at the end of the log so far (I4).
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        assert!(
            epoch >= self.epoch,
            "I4: epoch {epoch} of {} begins after epoch {}",
            self.tp,
            self.epoch
        );
        self.epoch = epoch;
    }

    /// Moves the log start up to `offset`; a lower one changes nothing (I5).
    pub fn raise_log_start(&mut self, offset: i64) {
        assert!(
            offset <= self.end_offset,
            "I5: log start {offset} of {} would lie behind its end {}",
            self.tp,
            self.end_offset
        );
        if offset > self.log_start {
            self.log_start = offset;
            self.runs.drop_below(offset);
        }
    }

    /// Records below this offset are in segments or deleted; their runs are not needed.
    pub fn archived_to(&self) -> i64 {
        self.runs.start().max(self.log_start)
    }

    /// Records below `offset` are in segments: drops their runs. A lower offset changes nothing.
    pub fn on_archived(&mut self, offset: i64) {
        assert!(
            offset <= self.end_offset,
            "I9: {} would be archived to {offset}, behind its end {}",
            self.tp,
            self.end_offset
        );
        if offset > self.runs.start() {
            self.runs.drop_below(offset);
        }
    }

    /// The offset below which every transaction is finished.
    pub fn last_stable_offset(&self) -> i64 {
        self.open_txns
            .first()
            .map_or(self.end_offset, |txn| txn.first_offset)
    }
}

/// The rows of `tp` among rows that are sorted by partition.
fn rows_of<T>(rows: &[T], tp: TopicPartition, key: impl Fn(&T) -> TopicPartition) -> &[T] {
    let start = rows.partition_point(|row| key(row) < tp);
    let len = rows
        .get(start..)
        .unwrap_or_default()
        .partition_point(|row| key(row) == tp);
    rows.get(start..start + len).unwrap_or_default()
}

#[cfg(test)]
mod tests;
