//! What all partitions together remember of idempotent producers, within one budget of bytes. Pure
//! but for its counters.
//!
//! Each partition bounds its own table, and there may be many partitions. Beyond the budget those
//! that have not written for longest are forgotten, wherever they wrote. As with producers that
//! expire, whom to forget is the broker's own choice, and not a function of the log; that breaks
//! no order (I8): a producer of which nothing is known may start anywhere (KIP-360), its batches
//! carry their sequence numbers into the log, and from the first one on a table that had forgotten
//! it and a fold that had not expect the same next one and know the newer batches alike.
//!
//! What is lost is that a repeat of an older batch is recognised: it would be stored twice. So who
//! wrote within the window of retries ([`horizon_ms`]) is not forgotten. While there is nobody
//! else, batches of new producers, and in a full partition of those that were silent for longer,
//! are refused with a code that is tried again; what the budget is exceeded by is what was in flight
//! when it was reached, and what partitions bring along that are opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use firn_proto::ids::{ProducerId, TopicPartition};
use firn_proto::limits::PRODUCER_BYTES;

use super::Partition;
use super::log::{Refusal, horizon_ms};

/// The part of the budget that is freed at a time, so that few producers are looked at for each
/// that is forgotten.
const FREED_PART: usize = 16;
/// While too few are old enough to be forgotten, all are looked at again after this.
const EVICT_PAUSE_MS: i64 = 1000;

/// The producers that all partitions remember.
#[derive(Debug)]
pub(super) struct ProducerBudget {
    count_max: usize,
    count: AtomicUsize,
    evicted: AtomicU64,
    refused: AtomicU64,
    /// Before this wall time it is not looked again who is old enough to be forgotten.
    evict_from_ms: AtomicI64,
}

/// The producers that all partitions remember, as figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerUsage {
    /// How many there are; one that writes to many partitions counts in each.
    pub count: usize,
    /// What they take in memory, in bytes, rounded up.
    pub bytes: usize,
    /// How many were forgotten early, since there was no room for them.
    pub evicted: u64,
    /// How many batches of producers that were new or silent for long were refused, since nobody might
    /// be forgotten.
    pub refused: u64,
}

impl ProducerBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            count_max: bytes / PRODUCER_BYTES,
            count: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            evict_from_ms: AtomicI64::new(i64::MIN),
        }
    }

    /// A partition remembers `after` producers and no longer `before`.
    pub(super) fn on_change(&self, before: usize, after: usize) {
        self.count.fetch_add(after, Ordering::Relaxed);
        self.count.fetch_sub(before, Ordering::Relaxed);
    }

    pub(super) fn usage(&self) -> ProducerUsage {
        let count = self.count.load(Ordering::Relaxed);
        ProducerUsage {
            count,
            bytes: count * PRODUCER_BYTES,
            evicted: self.evicted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether a producer may write: one that `is_new`, or one that is remembered in any case.
    /// `has_room`: its partition has room for it. A budget that is exceeded is one that
    /// [`Self::evict`] could not mend.
    pub(super) fn admit(
        &self,
        is_new: bool,
        has_room: impl FnOnce() -> bool,
        producer: ProducerId,
    ) -> Result<(), Refusal> {
        let is_over = is_new && self.is_exceeded();
        if !is_over && has_room() {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::TooManyProducers { producer })
    }

    /// Whether producers are to be forgotten, and there may be some that can be.
    pub(super) fn must_evict(&self, now_ms: i64) -> bool {
        let evict_from_ms = self.evict_from_ms.load(Ordering::Relaxed);
        let pause_ms = evict_from_ms.saturating_sub(now_ms);
        // it is longer only if the clock was set back
        self.is_exceeded() && !(1..=EVICT_PAUSE_MS).contains(&pause_ms)
    }

    fn is_exceeded(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.count_max
    }

    /// Forgets those that have not written for longest until a part of the budget is free, or only
    /// those are left that wrote lately, and says in which partitions.
    pub(super) fn evict(&self, partitions: &[Arc<Partition>], now_ms: i64) -> Vec<TopicPartition> {
        let mut seen = Vec::with_capacity(self.count.load(Ordering::Relaxed));
        for partition in partitions {
            partition.producers_seen(&mut seen);
        }
        let kept = self.count_max - self.count_max / FREED_PART;
        let excess = seen.len().saturating_sub(kept);
        let Some(last) = excess.checked_sub(1) else {
            return Vec::new();
        };
        let excess_ms = *seen.select_nth_unstable(last).1;
        let youngest_ms = horizon_ms(now_ms);
        let (horizon_ms, mut of_that_time) = if excess_ms <= youngest_ms {
            let silent_longer = seen.iter().filter(|seen_ms| **seen_ms < excess_ms).count();
            (excess_ms, excess - silent_longer)
        } else {
            // They come of age one by one, and all are looked at for that: not with every slot.
            let again_ms = now_ms.saturating_add(EVICT_PAUSE_MS);
            self.evict_from_ms.store(again_ms, Ordering::Relaxed);
            (youngest_ms, usize::MAX)
        };
        let mut touched = Vec::new();
        for partition in partitions {
            let forgotten = partition.forget_producers(horizon_ms, &mut of_that_time);
            if forgotten > 0 {
                self.evicted.fetch_add(forgotten as u64, Ordering::Relaxed);
                touched.push(partition.tp());
            }
        }
        touched
    }
}
