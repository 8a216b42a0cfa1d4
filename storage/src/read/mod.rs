//! Serving offsets: from the tail cache, or from runs in objects through the block cache.
//!
//! - `plan.rs`: which runs, from which byte on (pure)
//! - `walk.rs`: from the bytes of a run to its batches, each checked (pure)
//! - `decoding.rs`: looking into batches, in bounded memory
//! - `search.rs`: the first record at a time, the newest record
//!
//! Every batch that comes out of an object is checked against the run that names it: base offset,
//! leader epoch, bounds, CRC. What does not fit is fetched once more past the cache; what then still
//! does not fit is a loud error, never a wrong byte and never a gap.
//!
//! Architecture invariant: knows no API key and no group. The caller brings the runs, which is the
//! durable state of its partition, and the end up to which records are visible.

mod cursors;
mod decoding;
mod plan;
mod search;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{COLD_GETS_MAX, COLD_READ_BYTES_MAX, SEARCHES_MAX};
use futures::{StreamExt, TryStreamExt};
use thiserror::Error;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use crate::bucket::BucketError;
use crate::cache::{CachedObjects, ObjectError, ObjectReads, TailCache};
use crate::layout::{Key, Place};
use crate::state::RunRef;
use cursors::{Cursor, Cursors};
use plan::{Piece, Plan, Want};
use walk::{RunFault, RunWalk, Step};

pub use decoding::{Decodings, Stopped};
pub use search::FoundOffset;

const KIB: usize = 1024;

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
    /// Memory for cold reads, in KiB.
    memory: Semaphore,
    hot: AtomicU64,
    cold: AtomicU64,
    refetched: AtomicU64,
    corrupt: AtomicU64,
}

/// Bytes of one piece and the batches taken from them.
struct Taken {
    outcome: ReadOutcome,
    /// Where the walk stopped inside the run, if it did.
    cursor: Option<Cursor>,
    /// The budget or the end was reached: later pieces are not wanted.
    full: bool,
}

enum PieceError {
    Fault(RunFault),
    Read(ReadError),
}

impl Reader {
    /// Reads from `tail` and from `objects`.
    pub fn new(tail: Arc<TailCache>, objects: CachedObjects) -> Self {
        Self(Arc::new(Inner {
            tail,
            objects,
            cursors: Cursors::default(),
            decodings: Decodings::default(),
            searches: Semaphore::new(SEARCHES_MAX),
            memory: Semaphore::new(COLD_READ_BYTES_MAX / KIB),
            hot: AtomicU64::new(0),
            cold: AtomicU64::new(0),
            refetched: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
        }))
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
        match self.read_hot(request) {
            Some(outcome) => Ok(outcome),
            None => Box::pin(self.read_cold(request)).await,
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
        }
    }

    /// Closes the caches. Nothing may be read afterwards.
    pub async fn close(&self) {
        self.0.objects.close().await;
    }

    async fn read_cold(&self, request: &ReadRequest<'_>) -> Result<ReadOutcome, ReadError> {
        self.0.cold.fetch_add(1, Ordering::Relaxed);
        let &ReadRequest {
            tp,
            offset,
            end,
            max_bytes,
            ..
        } = request;
        let tail_start = self.0.tail.start(tp).filter(|start| *start > offset);
        let want = Want {
            offset,
            end: tail_start.map_or(end, |start| start.min(end)),
            max_bytes,
        };
        let cursor = self.0.cursors.find(tp, offset);
        let plan =
            plan::plan(want, request.runs, cursor).ok_or(ReadError::NotCovered { tp, offset })?;
        // Never closed, so that there is always a permit in the end.
        let _memory = self.memory_for(&plan, max_bytes).await.ok();
        let windows = self.load(tp, &plan, max_bytes).await?;
        let mut outcome = ReadOutcome {
            next_offset: offset,
            ..ReadOutcome::default()
        };
        let mut full = false;
        for (piece, window) in plan.pieces.iter().zip(windows) {
            let taken = self.take_checked(request, piece, window, &outcome).await?;
            outcome.batches.extend(taken.outcome.batches);
            outcome.bytes += taken.outcome.bytes;
            outcome.next_offset = taken.outcome.next_offset;
            if let Some(cursor) = taken.cursor {
                self.0.cursors.remember(tp, outcome.next_offset, cursor);
            }
            full = taken.full;
            if full {
                break;
            }
        }
        for piece in plan.ahead.iter().filter(|_| full && plan.sequential) {
            self.0.objects.read_ahead(&key_of(piece), piece.range());
        }
        if !full && tail_start == Some(outcome.next_offset) {
            self.append_tail(request, &mut outcome);
        }
        Ok(outcome)
    }

    /// Goes on in the tail cache where the objects ended.
    fn append_tail(&self, request: &ReadRequest<'_>, outcome: &mut ReadOutcome) {
        let left = request.max_bytes.saturating_sub(outcome.bytes);
        let offset = outcome.next_offset;
        if let Some(more) = self
            .0
            .tail
            .read(request.tp, offset, request.end, left, false)
            && !more.batches.is_empty()
        {
            outcome.batches.extend(more.batches);
            outcome.bytes += more.bytes;
            outcome.next_offset = more.next_offset;
        }
    }

    /// Waits until the windows of `plan` fit the memory of cold reads; one that is larger than all
    /// of it waits until it is alone.
    async fn memory_for(
        &self,
        plan: &Plan,
        max_bytes: usize,
    ) -> Result<SemaphorePermit<'_>, AcquireError> {
        let windows = plan.pieces.iter().map(|piece| piece.window(max_bytes));
        let bytes: u64 = windows.map(|window| window.end - window.start).sum();
        let most = u32::try_from(COLD_READ_BYTES_MAX / KIB).unwrap_or(u32::MAX);
        let kib = u32::try_from(bytes.div_ceil(KIB as u64)).unwrap_or(u32::MAX);
        self.0.memory.acquire_many(kib.min(most)).await
    }

    /// The first bytes of every piece, fetched side by side.
    async fn load(
        &self,
        tp: TopicPartition,
        plan: &Plan,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let window = |piece: &Piece| {
            let objects = self.0.objects.clone();
            let (key, window) = (key_of(piece), piece.window(max_bytes));
            async move { objects.read(&key, window).await }
        };
        // Collected, since a stream over a borrowing closure cannot be sent between threads.
        let windows: Vec<_> = plan.pieces.iter().map(window).collect();
        futures::stream::iter(windows)
            .buffered(COLD_GETS_MAX)
            .try_collect()
            .await
            .map_err(|error| from_object(tp, error))
    }

    /// Takes batches from one piece; once more past the cache if its bytes are wrong.
    async fn take_checked(
        &self,
        request: &ReadRequest<'_>,
        piece: &Piece,
        window: Bytes,
        before: &ReadOutcome,
    ) -> Result<Taken, ReadError> {
        let first = match self.take(request, piece, window, before, false).await {
            Err(PieceError::Fault(fault)) => fault,
            Err(PieceError::Read(error)) => return Err(error),
            Ok(taken) => return Ok(taken),
        };
        self.0.refetched.fetch_add(1, Ordering::Relaxed);
        let (tp, key) = (request.tp, key_of(piece));
        tracing::warn!(%tp, %key, reason = first.reason, "bytes of a run are wrong, fetching anew");
        // From the start of the run: a wrong cursor is a reason, too.
        let whole = piece.whole();
        let window = self
            .0
            .objects
            .read_again(&key, whole.window(request.max_bytes))
            .await;
        let window = window.map_err(|error| from_object(tp, error))?;
        match self.take(request, &whole, window, before, true).await {
            Ok(taken) => Ok(taken),
            Err(PieceError::Read(error)) => Err(error),
            Err(PieceError::Fault(fault)) => {
                self.0.corrupt.fetch_add(1, Ordering::Relaxed);
                let RunFault { offset, reason } = fault;
                tracing::error!(%tp, %key, offset, reason, "an object of the log is corrupt");
                Err(ReadError::Corrupt {
                    key,
                    tp,
                    offset,
                    reason,
                })
            }
        }
    }

    /// Walks one piece from its start and takes what the request wants, fetching further bytes of
    /// the run as they are needed.
    async fn take(
        &self,
        request: &ReadRequest<'_>,
        piece: &Piece,
        window: Bytes,
        before: &ReadOutcome,
        again: bool,
    ) -> Result<Taken, PieceError> {
        let mut fetched = window.len();
        let mut walk = RunWalk::new(piece, window);
        let mut outcome = ReadOutcome {
            next_offset: before.next_offset,
            ..ReadOutcome::default()
        };
        let full = loop {
            match walk.step(request.offset).map_err(PieceError::Fault)? {
                Step::Skipped => {}
                Step::End => break false,
                Step::Short { needed } => {
                    let range = walk.rest(needed, request.max_bytes);
                    let more = self.more(request.tp, piece, range, again).await?;
                    fetched += more.len();
                    walk.refill(more, needed).map_err(PieceError::Fault)?;
                }
                Step::Batch(header) => {
                    let bytes = before.bytes + outcome.bytes + header.total_bytes();
                    let is_first = before.batches.is_empty() && outcome.batches.is_empty();
                    let fits = bytes <= request.max_bytes;
                    let wanted = fits || (is_first && request.first_in_any_case);
                    if header.last_offset() >= request.end || !wanted {
                        break true;
                    }
                    let batch = walk.take(&header).map_err(PieceError::Fault)?;
                    outcome.bytes += batch.len();
                    outcome.next_offset = header.last_offset() + 1;
                    outcome.batches.push(batch);
                }
            }
        };
        if outcome.bytes.saturating_mul(2) < fetched {
            // As slices they would keep all that was fetched until the client has taken them.
            let copy = |batch: &mut Bytes| *batch = Bytes::copy_from_slice(batch);
            outcome.batches.iter_mut().for_each(copy);
        }
        let cursor = walk.cursor();
        Ok(Taken {
            outcome,
            cursor,
            full,
        })
    }

    async fn more(
        &self,
        tp: TopicPartition,
        piece: &Piece,
        range: std::ops::Range<u64>,
        again: bool,
    ) -> Result<Bytes, PieceError> {
        let key = key_of(piece);
        let answer = match again {
            false => self.0.objects.read(&key, range).await,
            true => self.0.objects.read_again(&key, range).await,
        };
        answer.map_err(|error| PieceError::Read(from_object(tp, error)))
    }
}

fn key_of(piece: &Piece) -> Key {
    let at = piece.run.at;
    Place::WalSlot {
        stream: at.stream,
        slot: at.slot,
    }
    .key()
}

fn from_object(tp: TopicPartition, error: ObjectError) -> ReadError {
    match error {
        ObjectError::Gone(key) => ReadError::Gone { tp, key },
        ObjectError::Bucket(error) => ReadError::Bucket(error),
    }
}

#[cfg(test)]
mod tests;
