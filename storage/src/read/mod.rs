//! Serving offsets: from the tail cache, or from runs in objects through the block cache.
//!
//! - `plan.rs`: which runs, from which byte on (pure)
//! - `cold.rs`: taking batches from objects, as planned
//! - `walk.rs`: from the bytes of a run to its batches, each checked (pure)
//! - `memory.rs`: what all cold reads together may hold
//! - `decoding.rs`: looking into batches, in bounded memory
//! - `search.rs`: the first record at a time, the newest record
//! - `segments.rs`: all of that from segments, once records are archived
//!
//! Every batch that comes out of an object is checked against the run that names it: base offset,
//! leader epoch, bounds, CRC. What does not fit is fetched once more past the cache; what then still
//! does not fit is a loud error, never a wrong byte and never a gap.
//!
//! Architecture invariant: knows no API key and no group. The caller brings the runs, which is the
//! durable state of its partition, and the end up to which records are visible.

mod cold;
mod cursors;
mod decoding;
mod memory;
mod plan;
mod search;
mod segments;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{ARCHIVE_GETS_MAX, SEARCHES_MAX};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::bucket::{BucketError, Purpose};
use crate::cache::{CacheHits, CachedObjects, ObjectReads, TailCache};
use crate::layout::Key;
use crate::state::RunRef;
use cursors::Cursors;
use memory::{ColdMemory, HeldMemory};
use segments::Segments;

pub use decoding::{Decodings, Stopped};
pub use search::FoundOffset;
pub use segments::{SegmentRead, SegmentSearch, SegmentUsage};

/// What to read of a partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest<'a> {
    /// The partition.
    pub tp: TopicPartition,
    /// The first offset wanted.
    pub offset: i64,
    /// Nothing at or behind this offset is served: the high watermark, or the last stable offset.
    pub end: i64,
    /// Bytes wanted at most.
    pub max_bytes: usize,
    /// Whether the first batch is served even if it alone is larger than `max_bytes` (KIP-74).
    pub first_in_any_case: bool,
    /// The durable runs of the partition in the order of their offsets. Runs that lie wholly before
    /// `offset` do no harm.
    pub runs: &'a [RunRef],
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Whole batches in the order of their offsets; the first holds the offset asked for, and may
    /// begin before it.
    pub batches: Vec<Bytes>,
    /// Their bytes.
    pub bytes: usize,
    /// The offset behind the last of them, or the one asked for.
    pub next_offset: i64,
}

/// Why offsets could not be served.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// No run holds the offset: below the log start, or the runs are older than the request.
    #[error("no run of {tp} holds offset {offset}: take the runs anew and plan again")]
    NotCovered {
        /// The partition.
        tp: TopicPartition,
        /// The offset.
        offset: i64,
    },
    /// A run's object is not there. Under runs that are up to date this is corruption.
    #[error("the object {key} of {tp} is gone: take the runs anew and plan again")]
    Gone {
        /// The partition.
        tp: TopicPartition,
        /// The object.
        key: Key,
    },
    /// The bytes of an object contradict what the log says about them.
    #[error("{key} is corrupt: {tp} at offset {offset}: {reason}: restore it from a copy")]
    Corrupt {
        /// The object.
        key: Key,
        /// The partition.
        tp: TopicPartition,
        /// The offset that was expected.
        offset: i64,
        /// The contradiction.
        reason: String,
    },
    /// The records of a batch could not be looked at.
    #[error("the records of {tp} at offset {offset} cannot be decoded: {reason}")]
    Undecodable {
        /// The partition.
        tp: TopicPartition,
        /// First offset of the batch.
        offset: i64,
        /// What is wrong with them.
        reason: String,
    },
    /// The thread that looked at records is gone, which says nothing about them: the process ends, or
    /// the thread has panicked and said so.
    #[error("{tp} cannot be read at offset {offset}: the decoder has stopped: ask again")]
    Stopped {
        /// The partition.
        tp: TopicPartition,
        /// The offset that was looked for.
        offset: i64,
    },
    /// The bucket does not answer.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// What reading has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadUsage {
    /// Reads served from the tail cache alone.
    pub hot: u64,
    /// Reads that needed objects.
    pub cold: u64,
    /// Stretches that were fetched again because their bytes were wrong.
    pub refetched: u64,
    /// Stretches that were wrong in the bucket itself.
    pub corrupt: u64,
    /// Blocks and GETs behind the cold reads.
    pub objects: ObjectReads,
    /// Reads of segments.
    pub segments: SegmentUsage,
    /// Blocks that the cache of objects had, for the archiver as well.
    pub cache: CacheHits,
    /// Bytes of blocks that it has in memory.
    pub cache_bytes: usize,
}

/// Reads partitions. Cheap to clone.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

struct Inner {
    tail: Arc<TailCache>,
    objects: CachedObjects,
    cursors: Cursors,
    decodings: Decodings,
    /// Look-ups by time, each of which holds the batches that it looks into.
    searches: Semaphore,
    memory: ColdMemory,
    segments: Segments,
    hot: AtomicU64,
    cold: AtomicU64,
    refetched: AtomicU64,
    corrupt: AtomicU64,
}

impl Reader {
    /// Reads from `tail` and from `objects`.
    pub fn new(tail: Arc<TailCache>, objects: CachedObjects) -> Self {
        Self(Arc::new(Inner {
            tail,
            segments: Segments::new(objects.clone()),
            objects,
            cursors: Cursors::default(),
            decodings: Decodings::default(),
            searches: Semaphore::new(SEARCHES_MAX),
            memory: ColdMemory::default(),
            hot: AtomicU64::new(0),
            cold: AtomicU64::new(0),
            refetched: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
        }))
    }

    /// Reads the same partitions for the archiver, with memory and GETs of its own, so that neither
    /// consumers nor the archiver wait for each other.
    #[must_use]
    pub fn for_archive(&self) -> Self {
        let objects = &self.0.objects;
        Self::new(
            Arc::clone(&self.0.tail),
            objects.beside(Purpose::Archive, ARCHIVE_GETS_MAX),
        )
    }

    /// The tail cache that it reads from.
    pub fn tail(&self) -> &TailCache {
        &self.0.tail
    }

    /// The memory in which batches are looked into, by this reader and by who writes them.
    pub fn decodings(&self) -> &Decodings {
        &self.0.decodings
    }

    /// What the tail cache has for the request, without waiting; `None` if objects are needed.
    pub fn read_hot(&self, request: &ReadRequest<'_>) -> Option<ReadOutcome> {
        if request.offset >= request.end {
            return Some(ReadOutcome {
                next_offset: request.offset,
                ..ReadOutcome::default()
            });
        }
        let &ReadRequest {
            tp,
            offset,
            end,
            max_bytes,
            first_in_any_case,
            ..
        } = request;
        let read = self
            .0
            .tail
            .read(tp, offset, end, max_bytes, first_in_any_case)?;
        // A tail that ends below the offset lags behind the log: objects have it.
        let lags = read.batches.is_empty() && self.0.tail.end(tp).is_some_and(|e| e <= offset);
        if lags {
            return None;
        }
        self.0.hot.fetch_add(1, Ordering::Relaxed);
        Some(ReadOutcome {
            batches: read.batches,
            bytes: read.bytes,
            next_offset: read.next_offset,
        })
    }

    /// Whole batches from the one that holds the offset on.
    ///
    /// Dropping the future loses nothing: what was asked of the bucket still reaches the cache.
    ///
    /// # Errors
    /// [`ReadError`]; nothing is served then.
    pub async fn read(&self, request: &ReadRequest<'_>) -> Result<ReadOutcome, ReadError> {
        Ok(self.read_held(request).await?.0)
    }

    /// As [`Self::read`], with the memory that goes with what was read, if that came from objects.
    async fn read_held(
        &self,
        request: &ReadRequest<'_>,
    ) -> Result<(ReadOutcome, Option<HeldMemory<'_>>), ReadError> {
        match self.read_hot(request) {
            Some(outcome) => Ok((outcome, None)),
            None => {
                let (outcome, memory) = Box::pin(self.read_cold(request)).await?;
                Ok((outcome, Some(memory)))
            }
        }
    }

    /// What reading has cost.
    pub fn usage(&self) -> ReadUsage {
        ReadUsage {
            hot: self.0.hot.load(Ordering::Relaxed),
            cold: self.0.cold.load(Ordering::Relaxed),
            refetched: self.0.refetched.load(Ordering::Relaxed),
            corrupt: self.0.corrupt.load(Ordering::Relaxed),
            objects: self.0.objects.reads(),
            segments: self.0.segments.usage(),
            cache: self.0.objects.cache_hits(),
            cache_bytes: self.0.objects.memory_bytes(),
        }
    }

    /// Closes the caches. Nothing may be read afterwards.
    pub async fn close(&self) {
        self.0.objects.close().await;
    }
}

#[cfg(test)]
mod tests;
