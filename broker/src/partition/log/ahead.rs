//! What is visible before the bucket has it, where the local WAL is enough for records to count: the
//! high watermark of such a log, and reads between the durable end and there.
//!
//! Such batches are in no slot and in no cache: their bytes are held here until they are durable,
//! within what the WAL gives permits for.

use bytes::Bytes;
use firn_storage::read::ReadOutcome;
use firn_storage::state::RunRef;
use firn_storage::wal::Acks;

use super::{InFlight, PartitionLog};

/// Where a look for a time goes on: the run, or the batches behind all runs.
#[derive(Debug)]
pub struct TimePlace {
    /// The first durable run that may hold it.
    pub run: Option<RunRef>,
    /// What is visible behind all runs.
    pub ahead: Vec<Bytes>,
}

impl<W> PartitionLog<W> {
    /// Whether the local WAL is enough from now on for records to be visible, and for acks=all.
    /// False if it was so.
    ///
    /// Once it is not enough any more, those who were to be answered by it still are, and what it has
    /// made visible stays so: the coordinator has the next epoch wait for this disk until the epoch is
    /// released, whatever the topic wants by then.
    pub fn set_local(&mut self, is_local: bool) -> bool {
        if is_local == self.held_from.is_some() {
            return false;
        }
        // what is in flight has bytes that nobody holds
        self.held_from = is_local.then_some(self.next_offset);
        self.raise_visible();
        true
    }

    /// What a producer that asks for `acks` waits for.
    pub fn acks(&self, acks: Acks) -> Acks {
        match acks {
            Acks::Bucket if self.held_from.is_some() => Acks::Local,
            acks => acks,
        }
    }

    /// Moves the high watermark as far as it may be.
    pub(super) fn raise_visible(&mut self) {
        let durable = self.durable.end_offset;
        self.visible = self.visible.max(durable);
        if self.held_from.is_some_and(|from| from <= durable) {
            self.visible = self.visible.max(self.local_end);
        }
        assert!(
            self.visible <= self.next_offset,
            "I5: {} is visible up to {}, but only {} was assigned",
            self.durable.tp,
            self.visible,
            self.next_offset
        );
    }

    pub(super) fn last_stable_offset(&self) -> i64 {
        let stable = self.durable.last_stable_offset();
        if stable < self.durable.end_offset {
            return stable;
        }
        // whether a transaction that is in no slot will end is not known
        let mut ahead = self.visible_ahead();
        let open = ahead.find(|batch| batch.is_transactional);
        open.map_or(self.visible, |batch| batch.answer.base_offset)
    }

    /// Visible batches that are not durable.
    fn visible_ahead(&self) -> impl Iterator<Item = &InFlight<W>> {
        let visible = self.visible;
        let batches = self.in_flight.iter();
        batches.take_while(move |batch| batch.answer.last_offset < visible)
    }

    /// Batches that are visible and not durable, from the one that holds `offset` up to those that
    /// end before `end`: as many as fit `bytes_max`, the first in any case if `first_in_any_case`.
    /// `None` if the offset is durable: then it is in a run, and was in the tail first.
    pub fn read_ahead(
        &self,
        (offset, end): (i64, i64),
        bytes_max: usize,
        first_in_any_case: bool,
    ) -> Option<ReadOutcome> {
        if offset < self.durable.end_offset {
            return None;
        }
        let mut read = ReadOutcome {
            next_offset: offset,
            ..ReadOutcome::default()
        };
        for (batch, records) in self.held(offset, end) {
            let is_first = first_in_any_case && read.batches.is_empty();
            if !is_first && read.bytes + records.len() > bytes_max {
                break;
            }
            read.bytes += records.len();
            read.next_offset = batch.answer.last_offset + 1;
            read.batches.push(records.clone());
        }
        Some(read)
    }

    /// Bytes of the batches that are visible and not durable, in `offset .. end`, and of the first.
    pub fn bytes_ahead(&self, offset: i64, end: i64) -> (usize, usize) {
        let mut held = self.held(offset, end).map(|(_, records)| records.len());
        let first = held.next().unwrap_or(0);
        (held.sum::<usize>() + first, first)
    }

    /// The bytes of visible batches that are not durable, in `offset .. end`.
    fn held(&self, offset: i64, end: i64) -> impl Iterator<Item = (&InFlight<W>, &Bytes)> {
        let from = self
            .in_flight
            .partition_point(|batch| batch.answer.last_offset < offset);
        let end = end.min(self.visible);
        let batches = self.in_flight.range(from..);
        let batches = batches.take_while(move |batch| batch.answer.last_offset < end);
        // all have them: only those that have become visible were not durable when they did
        batches.map_while(|batch| Some((batch, batch.records.as_ref()?)))
    }

    /// The first durable run that may hold a record with a timestamp of at least `timestamp` at or
    /// behind `offset`, and what is visible behind all runs, before `end`.
    pub fn place_of_time(&self, offset: i64, end: i64, timestamp: i64) -> TimePlace {
        let (tp, log_start) = (self.durable.tp, self.durable.log_start);
        let from = offset.max(log_start);
        let run = self.durable.runs.with_timestamp(tp, from, timestamp).next();
        TimePlace {
            run,
            ahead: self.records_ahead(from, end),
        }
    }

    /// The first durable run with the largest timestamp, and what is visible behind all runs.
    pub fn place_of_newest(&self) -> TimePlace {
        let durable = &self.durable;
        TimePlace {
            run: durable
                .runs
                .with_max_timestamp(durable.tp, durable.log_start),
            ahead: self.records_ahead(durable.log_start, self.visible),
        }
    }

    fn records_ahead(&self, from: i64, end: i64) -> Vec<Bytes> {
        let from = from.max(self.durable.end_offset);
        let held = self.held(from, end);
        held.map(|(_, records)| records.clone()).collect()
    }
}
