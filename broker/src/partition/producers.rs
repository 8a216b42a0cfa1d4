//! What all partitions together remember of idempotent producers, within one budget of bytes. Pure
//! but for its counters.
//!
//! Each partition bounds its own table, and there may be many partitions. Beyond the budget those
//! that have not written for longest are forgotten, wherever they wrote. As with producers that
//! expire, whom to forget is the broker's own choice, and not a function of the log; that is
//! harmless (I8): a producer of which nothing is known may start anywhere (KIP-360), its batches
//! carry their sequence numbers into the log, and from the first one on a table that had forgotten
//! it and a fold that had not expect the same next one and know the newer batches alike. What is
//! lost is that a repeat of an older batch is recognised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use firn_proto::ids::TopicPartition;
use firn_proto::limits::PRODUCER_BYTES;

use super::Partition;

/// The part of the budget that is freed at a time, so that few producers are looked at for each
/// that is forgotten.
const FREED_PART: usize = 16;

/// The producers that all partitions remember.
#[derive(Debug)]
pub(super) struct ProducerBudget {
    count_max: usize,
    count: AtomicUsize,
    evicted: AtomicU64,
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
}

impl ProducerBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            count_max: bytes / PRODUCER_BYTES,
            count: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
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
        }
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.count_max
    }

    /// Forgets those that have not written for longest until a part of the budget is free, and says
    /// in which partitions.
    pub(super) fn evict(&self, partitions: &[Arc<Partition>]) -> Vec<TopicPartition> {
        let mut seen = Vec::with_capacity(self.count.load(Ordering::Relaxed));
        for partition in partitions {
            partition.producers_seen(&mut seen);
        }
        let kept = self.count_max - self.count_max / FREED_PART;
        let excess = seen.len().saturating_sub(kept);
        let Some(last) = excess.checked_sub(1) else {
            return Vec::new();
        };
        let horizon_ms = *seen.select_nth_unstable(last).1;
        let silent_longer = seen.iter().filter(|seen_ms| **seen_ms < horizon_ms).count();
        let mut of_that_time = excess - silent_longer;
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
