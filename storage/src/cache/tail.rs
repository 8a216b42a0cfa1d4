//! The newest durable batches of every partition, in memory: what consumers at the tail are served
//! from, with no copy and no request.
//!
//! Bounded in bytes. When it is full, the partition that takes most gives up its oldest batches, so
//! that a busy partition cannot push out the tails of quiet ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::ids::TopicPartition;

/// A batch below this size is copied: as a slice it would keep the whole request alive that it came
/// in, and be counted as little.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// What a batch takes beside its bytes.
const BATCH_OVERHEAD: usize = 96;

/// A durable batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailBatch {
    /// First offset.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// The whole batch.
    pub bytes: Bytes,
}

impl TailBatch {
    /// The batch in memory of its own, if it is small.
    fn detached(mut self) -> Self {
        if self.bytes.len() < COPY_BYTES_MAX {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
        }
        self
    }
}

/// What the tail cache has for a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TailRead {
    /// Whole batches, the first of which holds the offset asked for.
    pub batches: Vec<Bytes>,
    /// Their bytes.
    pub bytes: usize,
    /// The offset behind the last of them.
    pub next_offset: i64,
}

/// How full the tail cache is and how well it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailUsage {
    /// Bytes held, with overhead.
    pub bytes: usize,
    /// Bytes it may hold.
    pub bytes_max: usize,
    /// Partitions with batches in it.
    pub partitions: usize,
    /// Reads it served.
    pub hits: u64,
    /// Reads it did not.
    pub misses: u64,
}

/// The newest durable batches of all partitions.
#[derive(Debug)]
pub struct TailCache(Mutex<Tails>);

#[derive(Debug)]
struct Tails {
    bytes_max: usize,
    bytes: usize,
    by_partition: BTreeMap<TopicPartition, Tail>,
    /// Partitions by the bytes they take.
    by_size: BTreeSet<(usize, TopicPartition)>,
    hits: u64,
    misses: u64,
}

/// Batches without a gap between their offsets.
#[derive(Debug, Default)]
struct Tail {
    batches: VecDeque<TailBatch>,
    bytes: usize,
}

impl TailCache {
    /// A cache that holds up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Mutex::new(Tails {
            bytes_max,
            bytes: 0,
            by_partition: BTreeMap::new(),
            by_size: BTreeSet::new(),
            hits: 0,
            misses: 0,
        }))
    }

    /// Adds batches that have become durable, in the order of their offsets. If they do not follow
    /// what is held, that is forgotten first.
    pub fn push(&self, tp: TopicPartition, batches: impl IntoIterator<Item = TailBatch>) {
        // Copied before the lock is taken.
        let batches: Vec<TailBatch> = batches.into_iter().map(TailBatch::detached).collect();
        let mut tails = self.tails();
        for batch in batches {
            tails.push(tp, batch);
        }
        tails.make_room();
    }

    /// Batches from the one that holds `offset` up to those that end before `end`: as many as fit
    /// `bytes_max`, the first in any case if `first_in_any_case`. `None` if `offset` lies before
    /// what is held, or nothing is.
    pub fn read(
        &self,
        tp: TopicPartition,
        offset: i64,
        end: i64,
        bytes_max: usize,
        first_in_any_case: bool,
    ) -> Option<TailRead> {
        let mut tails = self.tails();
        let tail = tails.by_partition.get(&tp);
        let read = tail.and_then(|t| t.read(offset, end, bytes_max, first_in_any_case));
        match read {
            Some(_) => tails.hits += 1,
            None => tails.misses += 1,
        }
        read
    }

    /// The first offset held of a partition.
    pub fn start(&self, tp: TopicPartition) -> Option<i64> {
        let tails = self.tails();
        tails
            .by_partition
            .get(&tp)?
            .batches
            .front()
            .map(|batch| batch.base_offset)
    }

    /// The offset behind the last one held of a partition.
    pub fn end(&self, tp: TopicPartition) -> Option<i64> {
        let tails = self.tails();
        tails
            .by_partition
            .get(&tp)?
            .batches
            .back()?
            .last_offset
            .checked_add(1)
    }

    /// Forgets a partition: it is deleted, or has another owner now.
    pub fn remove(&self, tp: TopicPartition) {
        self.tails().remove(tp);
    }

    /// Forgets what ends before `log_start`.
    pub fn truncate(&self, tp: TopicPartition, log_start: i64) {
        self.tails().resize(tp, |tail| {
            while tail
                .batches
                .front()
                .is_some_and(|batch| batch.last_offset < log_start)
            {
                tail.pop();
            }
        });
    }

    /// How full it is.
    pub fn usage(&self) -> TailUsage {
        let tails = self.tails();
        TailUsage {
            bytes: tails.bytes,
            bytes_max: tails.bytes_max,
            partitions: tails.by_partition.len(),
            hits: tails.hits,
            misses: tails.misses,
        }
    }

    fn tails(&self) -> MutexGuard<'_, Tails> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tails {
    fn push(&mut self, tp: TopicPartition, batch: TailBatch) {
        self.by_partition.entry(tp).or_default();
        self.resize(tp, |tail| {
            let follows =
                |last: &TailBatch| last.last_offset.checked_add(1) == Some(batch.base_offset);
            if !tail.batches.back().is_none_or(follows) {
                *tail = Tail::default();
            }
            tail.bytes += weight(&batch);
            tail.batches.push_back(batch);
        });
    }

    fn make_room(&mut self) {
        while self.bytes > self.bytes_max
            && let Some((_, largest)) = self.by_size.last().copied()
        {
            self.resize(largest, Tail::pop);
        }
    }

    fn remove(&mut self, tp: TopicPartition) {
        self.resize(tp, |tail| *tail = Tail::default());
    }

    /// Changes one tail and keeps the sums right; a tail that is empty then is dropped.
    fn resize(&mut self, tp: TopicPartition, change: impl FnOnce(&mut Tail)) {
        let Some(tail) = self.by_partition.get_mut(&tp) else {
            return;
        };
        let before = tail.bytes;
        change(tail);
        let after = tail.bytes;
        let empty = tail.batches.is_empty();
        self.bytes = self.bytes + after - before;
        self.by_size.remove(&(before, tp));
        if empty {
            self.by_partition.remove(&tp);
        } else {
            self.by_size.insert((after, tp));
        }
    }
}

impl Tail {
    fn pop(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= weight(&batch);
        }
    }

    fn read(&self, offset: i64, end: i64, bytes_max: usize, first: bool) -> Option<TailRead> {
        if offset < self.batches.front()?.base_offset {
            return None;
        }
        let from = self
            .batches
            .partition_point(|batch| batch.last_offset < offset);
        let mut read = TailRead {
            next_offset: offset,
            ..TailRead::default()
        };
        for batch in self.batches.range(from..) {
            let fits = read.bytes + batch.bytes.len() <= bytes_max;
            let wanted = fits || (first && read.batches.is_empty());
            if batch.last_offset >= end || !wanted {
                break;
            }
            read.bytes += batch.bytes.len();
            read.next_offset = batch.last_offset + 1;
            read.batches.push(batch.bytes.clone());
        }
        Some(read)
    }
}

fn weight(batch: &TailBatch) -> usize {
    batch.bytes.len() + BATCH_OVERHEAD
}

#[cfg(test)]
mod tests;
