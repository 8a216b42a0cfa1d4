//! The producer table of a partition: which batches of an idempotent producer are new, repeated,
//! out of order or from an older session (Kafka's `ProducerStateManager`, KIP-98, KIP-360).
//!
//! A pure function of the producer rows of the log (I8), but for the time at which a producer was
//! seen last, which only decides when it may be forgotten. Forgetting breaks no order: from a
//! producer's next batch on, tables that had forgotten it and tables that had not expect the same
//! of it. But a repeat of what it wrote before is then taken for a new batch, so whoever forgets
//! must not do so while the producer may still repeat it (`PRODUCER_RETRY_WINDOW`); a full table
//! pushes out the oldest whatever its age, and its owner has to refuse what would have it do so.

use std::collections::BTreeMap;

use firn_proto::ids::{ProducerEpoch, ProducerId};
use firn_proto::limits::{PRODUCER_BATCHES_KEPT, PRODUCER_BYTES, PRODUCERS_PER_PARTITION_MAX};

use super::row::{BatchFlags, ProducerBatch};

/// What a batch says about itself before it has an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its producer.
    pub producer: ProducerId,
    /// The producer's session.
    pub epoch: ProducerEpoch,
    /// Sequence number of its first record.
    pub base_sequence: i32,
    /// Number of its records.
    pub count: u32,
}

/// What the table says to a [`Claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    Accept,
    /// It was appended before, as this batch.
    Duplicate(Remembered),
    /// A batch before it is missing, or it is older than what is remembered.
    /// OUT_OF_ORDER_SEQUENCE_NUMBER.
    OutOfOrder {
        /// The sequence number that would be taken.
        expected: i32,
    },
    /// A newer session of the producer has written. INVALID_PRODUCER_EPOCH.
    Fenced {
        /// The newest session.
        current: ProducerEpoch,
    },
}

/// A batch that was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Sequence number of its first record.
    pub base_sequence: i32,
    /// Number of its records.
    pub count: u32,
    /// Offset of its first record.
    pub base_offset: i64,
    /// Its largest timestamp in milliseconds, which is the append time with LogAppendTime.
    pub max_timestamp: i64,
}

impl Remembered {
    /// Offset of its last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.count) - 1
    }

    /// The sequence number after its last record; numbers wrap from 2^31 − 1 to 0.
    fn next_sequence(&self) -> i32 {
        let next = i64::from(self.base_sequence) + i64::from(self.count);
        i32::try_from(next & i64::from(i32::MAX)).unwrap_or(0)
    }
}

/// One producer in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    epoch: ProducerEpoch,
    /// The newest batches of this session, oldest first; the first `kept_len` count.
    kept: [Remembered; PRODUCER_BATCHES_KEPT],
    kept_len: u8,
    /// Offset of its newest batch, of any session.
    last_offset: i64,
    seen_ms: i64,
    finished_ordinal: Option<u64>,
}

/// A node of the table is at least half full, and memory is given out in pieces of 16 bytes.
const ENTRY_BYTES: usize = 2 * (size_of::<ProducerId>() + size_of::<usize>());
const _: () = assert!(
    size_of::<ProducerState>() + ENTRY_BYTES + 2 * 16 <= PRODUCER_BYTES,
    "what a producer takes must be counted in full"
);

impl ProducerState {
    /// A producer that is known to have reached `epoch`, without batches. `seen_ms` is wall time.
    pub fn new(epoch: ProducerEpoch, seen_ms: i64) -> Self {
        Self {
            epoch,
            kept: [Remembered::default(); PRODUCER_BATCHES_KEPT],
            kept_len: 0,
            last_offset: -1,
            seen_ms,
            finished_ordinal: None,
        }
    }

    /// Its newest session.
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// Its newest batches, oldest first.
    pub fn batches(&self) -> &[Remembered] {
        self.kept
            .get(..usize::from(self.kept_len))
            .unwrap_or_default()
    }

    /// When it wrote last, in milliseconds of wall time.
    pub fn seen_ms(&self) -> i64 {
        self.seen_ms
    }

    /// The ordinal of its last finished transaction, so that a second marker is known as such.
    pub fn finished_ordinal(&self) -> Option<u64> {
        self.finished_ordinal
    }

    /// Judges a batch of this producer.
    pub fn check(&self, claim: &Claim) -> Verdict {
        if claim.epoch < self.epoch {
            return Verdict::Fenced {
                current: self.epoch,
            };
        }
        let expected = match self.batches().last() {
            Some(last) if claim.epoch == self.epoch => {
                let same = |kept: &&Remembered| {
                    kept.base_sequence == claim.base_sequence && kept.count == claim.count
                };
                if let Some(kept) = self.batches().iter().find(same) {
                    return Verdict::Duplicate(*kept);
                }
                last.next_sequence()
            }
            // a new session starts over
            _ => 0,
        };
        if claim.base_sequence == expected {
            Verdict::Accept
        } else {
            Verdict::OutOfOrder { expected }
        }
    }

    /// Takes in a batch that was appended. The log is right whatever [`Self::check`] would say.
    pub fn apply(&mut self, batch: &ProducerBatch, now_ms: i64) {
        if batch.producer_epoch != self.epoch {
            self.epoch = batch.producer_epoch;
            self.kept_len = 0;
        }
        self.seen_ms = self.seen_ms.max(now_ms);
        self.last_offset = batch.base_offset + i64::from(batch.count) - 1;
        // a marker ends a transaction; it has no sequence number of its own
        if !batch.flags.has(BatchFlags::CONTROL) {
            self.keep(Remembered {
                base_sequence: batch.base_sequence,
                count: batch.count,
                base_offset: batch.base_offset,
                max_timestamp: batch.max_timestamp,
            });
        }
    }

    pub(super) fn keep(&mut self, batch: Remembered) {
        if usize::from(self.kept_len) == PRODUCER_BATCHES_KEPT {
            self.kept.rotate_left(1);
            self.kept_len -= 1;
        }
        if let Some(place) = self.kept.get_mut(usize::from(self.kept_len)) {
            *place = batch;
            self.kept_len += 1;
        }
    }

    pub(super) fn last_offset(&self) -> i64 {
        self.last_offset
    }

    pub(super) fn restore(&mut self, last_offset: i64, finished_ordinal: Option<u64>) {
        self.last_offset = last_offset;
        self.finished_ordinal = finished_ordinal;
    }
}

/// The producers of one partition. Bounded; costs nothing while it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Box<ProducerState>>,
}

impl ProducerTable {
    /// Judges a batch. A producer of which nothing is known may start anywhere (KIP-360; Kafka has
    /// not answered UNKNOWN_PRODUCER_ID since).
    pub fn check(&self, claim: &Claim) -> Verdict {
        self.find(claim.producer)
            .map_or(Verdict::Accept, |state| state.check(claim))
    }

    /// What is known about a producer.
    pub fn find(&self, producer: ProducerId) -> Option<&ProducerState> {
        self.producers.get(&producer).map(|state| &**state)
    }

    /// Takes in a batch that was appended. `now_ms` is wall time.
    pub fn apply(&mut self, batch: &ProducerBatch, now_ms: i64) {
        let state = self
            .producers
            .entry(batch.producer)
            .or_insert_with(|| Box::new(ProducerState::new(batch.producer_epoch, now_ms)));
        state.apply(batch, now_ms);
        if self.producers.len() > PRODUCERS_PER_PARTITION_MAX {
            self.evict_oldest();
        }
        assert!(
            self.producers.len() <= PRODUCERS_PER_PARTITION_MAX,
            "I8: the producer table has outgrown its bound"
        );
    }

    /// Forgets producers that have not written for `expiry_ms`.
    pub fn expire(&mut self, now_ms: i64, expiry_ms: i64) {
        let horizon = now_ms.saturating_sub(expiry_ms);
        self.producers.retain(|_, state| state.seen_ms > horizon);
    }

    /// Forgets those that wrote last before `horizon_ms`, and up to `of_that_time`, which is counted
    /// down, of those that did so at that very time. Says how many they were.
    pub fn forget(&mut self, horizon_ms: i64, of_that_time: &mut usize) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, state| {
            if state.seen_ms == horizon_ms && *of_that_time > 0 {
                *of_that_time -= 1;
                return false;
            }
            state.seen_ms >= horizon_ms
        });
        before - self.producers.len()
    }

    /// All producers, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ProducerId, &ProducerState)> {
        self.producers.iter().map(|(id, state)| (*id, &**state))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub(super) fn restore(&mut self, producer: ProducerId, state: ProducerState) {
        self.producers.insert(producer, Box::new(state));
    }

    /// The one whose newest batch is oldest in the log, so that every replay forgets the same one.
    fn evict_oldest(&mut self) {
        let oldest = self
            .producers
            .iter()
            .min_by_key(|(_, state)| state.last_offset)
            .map(|(id, _)| *id);
        if let Some(oldest) = oldest {
            self.producers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
