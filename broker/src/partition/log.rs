//! The log of one partition as its owner sees it. Pure.
//!
//! Two states side by side. What is *durable* is a [`StateRow`], moved only by durable slots, by
//! the same rule as a fold (I8). What is *assigned* runs ahead of it: offsets given to batches
//! that are in no slot yet, and the sequence numbers of their producers. Readers see the durable
//! one; appends are judged by the assigned one, so that a batch that a client repeats while its
//! first copy is in flight is recognised and waits for that copy.
//!
//! Where the local WAL is enough for records to count (`firn.durability=local`), readers see a third
//! end between the two: `ahead.rs`.
//!
//! A log that was closed takes nothing any more and forgets nothing: it is dropped.

mod ahead;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId, SlotPosition, TopicPartition};
use firn_proto::limits::{BATCH_REPEATS_MAX, PRODUCER_RETRY_WINDOW, PRODUCERS_PER_PARTITION_MAX};
use firn_proto::record::BatchHeader;
use firn_storage::state::{
    BatchFlags, Claim, PagePlace, ProducerBatch, ProducerState, Remembered, Run, StateRow, Verdict,
};
use firn_storage::wal::{Acks, ProducerFields};
use thiserror::Error;

pub use ahead::TimePlace;

/// The log of one partition. `W` is whatever waits for an answer.
#[derive(Debug)]
pub struct PartitionLog<W> {
    /// The state after the durable slots.
    durable: StateRow,
    /// The offset of the next batch, ahead of the durable end by what is in flight.
    next_offset: i64,
    /// Every batch of this process below is on the local disk, if there is a local WAL.
    local_end: i64,
    /// Readers see records below. Never goes back (I5), and is never behind the durable end.
    visible: i64,
    /// The local disk is enough for batches from this offset on to be visible, and their bytes are
    /// held until they are durable.
    held_from: Option<i64>,
    /// Batches that have an offset and are not durable, in the order of their offsets.
    in_flight: VecDeque<InFlight<W>>,
    /// Producers with batches in flight, as they are after those.
    ahead: BTreeMap<ProducerId, Box<Ahead>>,
    /// Bytes of the durable runs that are not archived.
    unarchived_bytes: u64,
    /// There is no room for one more producer until those that wrote last at this wall time may be
    /// forgotten.
    full_until_ms: i64,
    /// Nothing is appended any more; what is in flight still becomes durable and is answered.
    stopped: bool,
    closed: bool,
}

#[derive(Debug)]
struct InFlight<W> {
    answer: Answer,
    producer: Option<ProducerId>,
    /// Whether it belongs to a transaction.
    is_transactional: bool,
    /// The batch, if readers may see it before it is durable.
    records: Option<Bytes>,
    /// Who waits for the first copy of the batch, and for how much.
    waiter: Option<(Acks, W)>,
    /// Who waits for repeated copies, oldest first.
    repeats: Vec<(Acks, W)>,
}

#[derive(Debug)]
struct Ahead {
    state: ProducerState,
    in_flight: usize,
}

/// What a producer is told about its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// Its largest timestamp, the append time with LogAppendTime.
    pub max_timestamp: i64,
}

/// What a checked batch may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is to be appended with these offsets.
    Append(Planned),
    /// It was appended before, and is durable as far as its producer wants to know.
    Done(Answer),
    /// It was appended before and is in flight; see [`PartitionLog::wait_for`].
    InFlight(Answer),
}

/// An append that was allowed and has not happened. Void once anything else was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// The epoch to be set in the batch.
    pub epoch: LeaderEpoch,
    /// The producer's fields, if it has state.
    pub producer: Option<ProducerFields>,
    /// The row flags of the batch.
    pub flags: BatchFlags,
}

/// Who wrote last after this time may send it again at `now_ms`, and must be remembered.
pub(super) fn horizon_ms(now_ms: i64) -> i64 {
    let window_ms = i64::try_from(PRODUCER_RETRY_WINDOW.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_sub(window_ms)
}

/// Why a batch may not be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// This broker does not own the partition (any more). NOT_LEADER_OR_FOLLOWER.
    #[error("this broker does not own the partition: refresh the metadata")]
    NotOwner,
    /// OUT_OF_ORDER_SEQUENCE_NUMBER.
    #[error("producer {producer} sent sequence number {found}, {expected} expected")]
    OutOfOrder {
        /// The producer.
        producer: ProducerId,
        /// What it sent.
        found: i32,
        /// What would have been taken.
        expected: i32,
    },
    /// INVALID_PRODUCER_EPOCH.
    #[error("producer {producer} has epoch {found}, a newer session has epoch {current}")]
    ProducerFenced {
        /// The producer.
        producer: ProducerId,
        /// Its session.
        found: ProducerEpoch,
        /// The newest session.
        current: ProducerEpoch,
    },
    /// There is no room for one more producer that wrote lately, and none of those may be forgotten.
    /// NOT_ENOUGH_REPLICAS, which every client takes to mean that nothing was appended, and answers
    /// by sending the batch again.
    #[error(
        "producer {producer} is new or was silent for long, and as many as can be remembered wrote \
         within {window_s} seconds; nothing was appended, so send it again",
        window_s = PRODUCER_RETRY_WINDOW.as_secs()
    )]
    TooManyProducers {
        /// The producer.
        producer: ProducerId,
    },
    /// Nothing is known of the producer, and an earlier batch of it may have been refused, which
    /// would be lost then. NOT_ENOUGH_REPLICAS as well.
    #[error(
        "nothing is known of producer {producer}, and more batches were refused lately than can be \
         remembered; one of its may have been among them, so send all again, the first one first"
    )]
    OrderUnknown {
        /// The producer.
        producer: ProducerId,
    },
}

impl Refusal {
    /// The code for the client.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotOwner => ErrorCode::NotLeaderOrFollower,
            Self::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::ProducerFenced { .. } => ErrorCode::InvalidProducerEpoch,
            Self::TooManyProducers { .. } | Self::OrderUnknown { .. } => {
                ErrorCode::NotEnoughReplicas
            }
        }
    }
}

/// What a partition remembers of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: its next batch would be taken whatever its sequence number.
    Unknown,
    /// Its newest batches, which may be forgotten once they are old.
    Known,
    /// It has batches in flight, and is forgotten only long after they are durable.
    InFlight,
}

/// Where a partition's log begins and ends for readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The owner's epoch.
    pub epoch: LeaderEpoch,
    /// The first offset there is.
    pub log_start: i64,
    /// Records below are in segments, those from here on in the WAL.
    pub archived_to: i64,
    /// Records below are in the bucket.
    pub durable_end: i64,
    /// Records below are visible: durable, in the bucket or as the topic wants it.
    pub high_watermark: i64,
    /// Records below belong to no unfinished transaction.
    pub last_stable_offset: i64,
    /// The offset of the next batch, which is ahead of what is visible.
    pub log_end: i64,
}

impl Bounds {
    /// Whether the bucket has all that is visible. While it has not, whoever has nothing but the bucket
    /// cannot serve the partition: its high watermark would be behind one that readers have seen (I5).
    pub fn bucket_has_all(&self) -> bool {
        self.high_watermark <= self.durable_end
    }
}

/// Who is to be answered now, in the order of offsets.
pub type Released<W> = Vec<(W, Answer)>;

impl<W> PartitionLog<W> {
    /// A log that goes on after `durable`, in the epoch that is set there.
    pub fn open(durable: StateRow) -> Self {
        Self {
            next_offset: durable.end_offset,
            local_end: durable.end_offset,
            visible: durable.end_offset,
            held_from: None,
            unarchived_bytes: durable.runs.bytes(),
            durable,
            in_flight: VecDeque::new(),
            ahead: BTreeMap::new(),
            full_until_ms: i64::MIN,
            stopped: false,
            closed: false,
        }
    }

    /// The partition.
    pub fn tp(&self) -> TopicPartition {
        self.durable.tp
    }

    /// The durable state.
    pub fn durable(&self) -> &StateRow {
        &self.durable
    }

    /// Where the log begins and ends for readers.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            epoch: self.durable.epoch,
            log_start: self.durable.log_start,
            archived_to: self.durable.archived_to(),
            durable_end: self.durable.end_offset,
            high_watermark: self.visible,
            last_stable_offset: self.last_stable_offset(),
            log_end: self.next_offset,
        }
    }

    /// The offset that the next batch gets.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Whether nothing is in flight.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// What is remembered of a producer.
    pub fn standing(&self, producer: ProducerId) -> Standing {
        if self.ahead.contains_key(&producer) {
            Standing::InFlight
        } else if self.durable.producers.find(producer).is_some() {
            Standing::Known
        } else {
            Standing::Unknown
        }
    }

    /// Judges a batch whose header was checked. Changes nothing: an append is made with
    /// [`Self::commit`] once the batch is in the WAL.
    ///
    /// # Errors
    /// [`Refusal`]: the batch must not be stored.
    pub fn plan(&self, header: &BatchHeader, acks: Acks) -> Result<Plan, Refusal> {
        if self.closed || self.stopped {
            return Err(Refusal::NotOwner);
        }
        if let Some(known) = self.check_sequence(header)? {
            let answer = Answer {
                base_offset: known.base_offset,
                last_offset: known.last_offset(),
                max_timestamp: known.max_timestamp,
            };
            return Ok(if self.is_done(&answer, acks) {
                Plan::Done(answer)
            } else {
                Plan::InFlight(answer)
            });
        }
        let mut flags = 0;
        if header.attributes.is_transactional() {
            flags |= BatchFlags::TRANSACTIONAL;
        }
        if header.attributes.is_control() {
            flags |= BatchFlags::CONTROL;
        }
        Ok(Plan::Append(Planned {
            base_offset: self.next_offset,
            last_offset: self.next_offset + i64::from(header.last_offset_delta),
            epoch: self.durable.epoch,
            producer: header.has_producer().then_some(ProducerFields {
                id: header.producer_id,
                epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
            }),
            flags: BatchFlags(flags),
        }))
    }

    /// A planned batch is in the WAL, as `records`. `waiter` is who is told when it is as durable as
    /// `acks` says; `max_timestamp` that of the batch as stored; `now_ms` wall time.
    pub fn commit(
        &mut self,
        planned: &Planned,
        (records, max_timestamp): (Bytes, i64),
        waiter: Option<(Acks, W)>,
        now_ms: i64,
    ) {
        assert!(
            !self.closed && !self.stopped && planned.base_offset == self.next_offset,
            "I4: a batch of {} at offset {} is appended behind offset {}",
            self.durable.tp,
            planned.base_offset,
            self.next_offset
        );
        assert!(
            planned.last_offset >= planned.base_offset,
            "I4: a batch of {} at offset {} has no record",
            self.durable.tp,
            planned.base_offset
        );
        self.next_offset = planned.last_offset + 1;
        if let Some(producer) = planned.producer {
            self.run_ahead(planned, &producer, max_timestamp, now_ms);
        }
        self.in_flight.push_back(InFlight {
            answer: Answer {
                base_offset: planned.base_offset,
                last_offset: planned.last_offset,
                max_timestamp,
            },
            producer: planned.producer.map(|producer| producer.id),
            is_transactional: planned.flags.has(BatchFlags::TRANSACTIONAL),
            records: self.held_from.map(|_| records),
            waiter,
            repeats: Vec::new(),
        });
    }

    /// Lets somebody wait for a batch that [`Plan::InFlight`] named. Gives the waiter back if the
    /// batch is not in flight (any more). Those of whom `has_gone` is true are let go of, and the
    /// oldest if there are too many: an outage lasts longer than a client waits before it repeats.
    pub fn wait_for(
        &mut self,
        answer: &Answer,
        acks: Acks,
        waiter: W,
        has_gone: impl Fn(&W) -> bool,
    ) -> Option<W> {
        let at = self
            .in_flight
            .partition_point(|batch| batch.answer.base_offset < answer.base_offset);
        match self.in_flight.get_mut(at) {
            Some(batch) if batch.answer == *answer => {
                batch.repeats.retain(|(_, waiter)| !has_gone(waiter));
                if batch.repeats.len() == BATCH_REPEATS_MAX {
                    batch.repeats.remove(0);
                }
                batch.repeats.push((acks, waiter));
                None
            }
            _ => Some(waiter),
        }
    }

    /// Every batch up to `last_offset` is on the local disk. Answers those who asked for that, and
    /// moves the high watermark where that is enough.
    pub fn on_local(&mut self, epoch: LeaderEpoch, last_offset: i64) -> Released<W> {
        if self.closed || epoch != self.durable.epoch || last_offset < self.local_end {
            return Vec::new();
        }
        let from = self
            .in_flight
            .partition_point(|batch| batch.answer.last_offset < self.local_end);
        self.local_end = last_offset + 1;
        let mut released = Vec::new();
        for batch in self.in_flight.range_mut(from..) {
            if batch.answer.last_offset > last_offset {
                break;
            }
            let answer = batch.answer;
            let is_local = |acks: Acks| acks == Acks::Local;
            if let Some((_, waiter)) = batch.waiter.take_if(|(acks, _)| is_local(*acks)) {
                released.push((waiter, answer));
            }
            let local = batch.repeats.extract_if(.., |(acks, _)| is_local(*acks));
            released.extend(local.map(|(_, waiter)| (waiter, answer)));
        }
        self.raise_visible();
        released
    }

    /// The next durable slot with rows of this partition. Moves the high watermark and answers
    /// everybody whose batch it holds. `now_ms` is wall time.
    ///
    /// # Panics
    /// I5, I8: the rows are not what was appended. Nothing about the partition is certain then.
    pub fn on_durable(
        &mut self,
        at: SlotPosition,
        runs: &[Run],
        producers: &[ProducerBatch],
        now_ms: i64,
    ) -> Released<W> {
        let before = self.bounds();
        match self.durable.apply_slot(at, runs, producers, now_ms) {
            Ok(applied) => self.unarchived_bytes += applied.bytes,
            Err(error) => panic!("I8: the owner's own slot does not fit its state: {error}"),
        }
        let end = self.durable.end_offset;
        assert!(
            end <= self.next_offset,
            "I5: {} is durable up to {end}, but only {} was assigned",
            self.durable.tp,
            self.next_offset
        );
        let mut released = Vec::new();
        while let Some(batch) = self
            .in_flight
            .pop_front_if(|batch| batch.answer.base_offset < end)
        {
            assert!(
                batch.answer.last_offset < end,
                "I5: slot {at} ends at {end}, inside a batch of {}",
                self.durable.tp
            );
            self.settle_producer(batch.producer);
            let waiters = batch.waiter.into_iter().chain(batch.repeats);
            released.extend(waiters.map(|(_, waiter)| (waiter, batch.answer)));
        }
        self.raise_visible();
        let after = self.bounds();
        assert!(
            after.high_watermark >= before.high_watermark
                && after.last_stable_offset >= before.last_stable_offset
                && after.last_stable_offset <= after.high_watermark,
            "I5: the bounds of {} went from {before:?} to {after:?}",
            self.durable.tp
        );
        released
    }

    /// What the durable runs take that are not archived, in bytes.
    pub fn unarchived_bytes(&self) -> u64 {
        self.unarchived_bytes
    }

    /// Records below `offset` are in segments that the map names: they are read from there.
    pub fn on_archived(&mut self, offset: i64) {
        self.durable.on_archived(offset);
        self.unarchived_bytes = self.durable.runs.bytes();
    }

    /// The log starts at `offset`, which the journal holds. Never goes back (I5).
    pub fn on_log_start(&mut self, offset: i64) {
        self.durable.raise_log_start(offset);
        self.unarchived_bytes = self.durable.runs.bytes();
    }

    /// The slot with the first run that ends at or behind `bound`; if there is none, the one behind
    /// `applied`, a slot up to which all were applied before this call. `None` if there is neither.
    pub fn next_slot(&self, bound: i64, applied: Option<SlotPosition>) -> Option<SlotPosition> {
        let found = self.durable.runs.from(self.durable.tp, bound).next();
        let behind = |at: SlotPosition| SlotPosition {
            slot: at.slot.next(),
            ..at
        };
        let applied = applied.or(self.durable.after);
        found.map(|found| found.at).or_else(|| applied.map(behind))
    }

    /// Takes nothing any more, for good: the epoch is about to end by RELEASE (I4). What is in flight
    /// becomes durable and is answered, and readers are served until the log is closed.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Takes nothing any more: the epoch is over. Everybody who waits is to be told so; their
    /// batches may still become durable, and then belong to the log.
    pub fn close(&mut self) -> Vec<W> {
        self.closed = true;
        let mut waiters = Vec::new();
        for batch in &mut self.in_flight {
            waiters.extend(batch.waiter.take().map(|(_, waiter)| waiter));
            waiters.extend(batch.repeats.drain(..).map(|(_, waiter)| waiter));
        }
        waiters
    }

    /// Whether the epoch is over.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Forgets producers that have not written for `expiry_ms`.
    pub fn expire_producers(&mut self, now_ms: i64, expiry_ms: i64) {
        self.durable.producers.expire(now_ms, expiry_ms);
    }

    /// How many producers are remembered; none any more once the log is closed and about to go.
    pub fn remembered_producers(&self) -> usize {
        if self.closed {
            return 0;
        }
        self.durable.producers.len()
    }

    /// Whether an append of `producer` would, once it is durable, leave more producers that may still
    /// repeat a batch at `now_ms` than there is room for, so that one of them is pushed out. Those
    /// in flight are counted as if they were durable; so a producer that is remembered and was
    /// silent for longer needs room as well as one that is new.
    ///
    /// Who is put off asks again and again: while there is no room, all are looked at only when the
    /// first of them may have made some.
    pub fn has_no_room(&mut self, producer: ProducerId, now_ms: i64) -> bool {
        let known = &self.durable.producers;
        if known.len() + self.ahead.len() < PRODUCERS_PER_PARTITION_MAX {
            return false;
        }
        let horizon_ms = horizon_ms(now_ms);
        // those at work are not pushed out, however old what is durable of them
        let has_place = self.ahead.contains_key(&producer)
            || known
                .find(producer)
                .is_some_and(|state| state.seen_ms() > horizon_ms);
        if has_place {
            return false;
        }
        // the clock may have been set back since
        if horizon_ms < self.full_until_ms && self.full_until_ms <= now_ms {
            return true;
        }
        let (mut young, mut oldest_ms) = (self.ahead.len(), now_ms);
        for (id, state) in known.iter() {
            if state.seen_ms() > horizon_ms && !self.ahead.contains_key(&id) {
                young += 1;
                oldest_ms = oldest_ms.min(state.seen_ms());
            }
        }
        let is_full = young >= PRODUCERS_PER_PARTITION_MAX;
        if is_full {
            self.full_until_ms = oldest_ms;
        }
        is_full
    }

    /// When each remembered producer wrote last, in milliseconds of wall time.
    pub fn producers_seen(&self) -> impl Iterator<Item = i64> {
        let producers = self.durable.producers.iter();
        producers.map(|(_, state)| state.seen_ms())
    }

    /// Forgets the producers that [`ProducerTable::forget`](firn_storage::state::ProducerTable::forget)
    /// names.
    pub fn forget_producers(&mut self, horizon_ms: i64, of_that_time: &mut usize) -> usize {
        self.durable.producers.forget(horizon_ms, of_that_time)
    }

    /// The state after every slot up to `after`, which all have been taken in, or up to a later one
    /// that had rows of this partition.
    pub fn state_row(&self, after: SlotPosition) -> StateRow {
        let applied = self.durable.after.filter(|at| at.stream == after.stream);
        let later = applied.filter(|at| at.slot > after.slot);
        StateRow {
            after: Some(later.unwrap_or(after)),
            ..self.durable.clone()
        }
    }

    /// A page of runs was written with a checkpoint.
    pub fn on_page_stored(&mut self, base_offset: i64, place: PagePlace) {
        self.durable.runs.on_stored(base_offset, place);
    }

    fn producer(&self, id: ProducerId) -> Option<&ProducerState> {
        let ahead = self.ahead.get(&id).map(|ahead| &ahead.state);
        ahead.or_else(|| self.durable.producers.find(id))
    }

    fn check_sequence(&self, header: &BatchHeader) -> Result<Option<Remembered>, Refusal> {
        if !header.has_producer() || header.attributes.is_control() {
            return Ok(None);
        }
        let claim = Claim {
            producer: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            count: u32::try_from(header.record_count).unwrap_or(0),
        };
        let verdict = self
            .producer(claim.producer)
            .map_or(Verdict::Accept, |state| state.check(&claim));
        match verdict {
            Verdict::Accept => Ok(None),
            Verdict::Duplicate(known) => Ok(Some(known)),
            Verdict::OutOfOrder { expected } => Err(Refusal::OutOfOrder {
                producer: claim.producer,
                found: claim.base_sequence,
                expected,
            }),
            Verdict::Fenced { current } => Err(Refusal::ProducerFenced {
                producer: claim.producer,
                found: claim.epoch,
                current,
            }),
        }
    }

    fn is_done(&self, answer: &Answer, acks: Acks) -> bool {
        let end = match acks {
            Acks::Bucket => self.durable.end_offset,
            Acks::Local => self.durable.end_offset.max(self.local_end),
            Acks::None => self.next_offset,
        };
        answer.last_offset < end
    }

    /// Moves what is assumed of a producer beyond what is durable of it.
    fn run_ahead(
        &mut self,
        planned: &Planned,
        producer: &ProducerFields,
        max_timestamp: i64,
        now_ms: i64,
    ) {
        let durable = self.durable.producers.find(producer.id);
        let ahead = self.ahead.entry(producer.id).or_insert_with(|| {
            let state = durable
                .copied()
                .unwrap_or_else(|| ProducerState::new(producer.epoch, now_ms));
            Box::new(Ahead {
                state,
                in_flight: 0,
            })
        });
        let count = planned.last_offset - planned.base_offset + 1;
        let row = ProducerBatch {
            tp: self.durable.tp,
            producer: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            // the header has 31 bits for it
            count: u32::try_from(count).unwrap_or(u32::MAX),
            base_offset: planned.base_offset,
            max_timestamp,
            flags: planned.flags,
        };
        ahead.state.apply(&row, now_ms);
        ahead.in_flight += 1;
    }

    fn settle_producer(&mut self, producer: Option<ProducerId>) {
        let Some(id) = producer else { return };
        let Some(ahead) = self.ahead.get_mut(&id) else {
            return;
        };
        ahead.in_flight -= 1;
        if ahead.in_flight == 0 {
            let newest = ahead.state.batches().last().copied();
            self.ahead.remove(&id);
            // a full table may have forgotten the producer and begun with it anew
            let durable = self.durable.producers.find(id);
            assert!(
                durable.is_none_or(|durable| durable.batches().last().copied() == newest),
                "I8: the log of {} says something else of producer {id} than was appended",
                self.durable.tp
            );
        }
    }
}

#[cfg(test)]
mod tests;
