//! Reading runs from objects: loads the pieces of a plan side by side and walks them, within the
//! memory of cold reads.

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{COLD_GET_BYTES_MAX, COLD_GETS_MAX};
use futures::{StreamExt, TryStreamExt};

use super::cursors::Cursor;
use super::memory::HeldMemory;
use super::plan::{self, Piece, Plan, Want};
use super::walk::{RunFault, RunWalk, Step};
use super::{ReadError, ReadOutcome, ReadRequest, Reader};
use crate::cache::ObjectError;
use crate::layout::{Key, Place};

/// Bytes of one piece and the batches taken from them.
struct Taken {
    outcome: ReadOutcome,
    /// Where the walk stopped inside the run, if it did.
    cursor: Option<Cursor>,
    /// The budget or the end was reached: later pieces are not wanted.
    full: bool,
}

/// The first bytes of a piece.
struct Fetched {
    window: Bytes,
    /// Past the cache, and so are those that follow.
    again: bool,
}

enum PieceError {
    Fault(RunFault),
    Take(TakeError),
}

enum TakeError {
    Read(ReadError),
    /// The first batch needs so many bytes more than are held, and others hold them.
    NoMemory(u64),
}

impl From<ReadError> for TakeError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Reader {
    /// Reads what the tail cache has not, as far as it does.
    pub(super) async fn read_cold(
        &self,
        request: &ReadRequest<'_>,
    ) -> Result<(ReadOutcome, HeldMemory<'_>), ReadError> {
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
        let windows = plan.pieces.iter().map(|piece| piece.window(max_bytes));
        let bytes = windows.map(|window| window.end - window.start).sum();
        let mut spare = 0;
        let (mut outcome, full, memory) = loop {
            let mut memory = self.0.memory.take(bytes, spare).await;
            match self.take_plan(request, &plan, &mut memory).await {
                Ok((outcome, full)) => break (outcome, full, memory),
                // Once more with all that it needs, after letting go of what it has.
                Err(TakeError::NoMemory(bytes)) => spare = bytes.max(spare),
                Err(TakeError::Read(error)) => return Err(error),
            }
        };
        for piece in plan.ahead.iter().filter(|_| full && plan.sequential) {
            self.0.objects.read_ahead(&key_of(piece), piece.range());
        }
        if !full && tail_start == Some(outcome.next_offset) {
            self.append_tail(request, &mut outcome);
        }
        Ok((outcome, memory))
    }

    /// Takes batches from the pieces of a plan, and says whether the budget or the end was reached.
    async fn take_plan(
        &self,
        request: &ReadRequest<'_>,
        plan: &Plan,
        memory: &mut HeldMemory<'_>,
    ) -> Result<(ReadOutcome, bool), TakeError> {
        let tp = request.tp;
        let windows = self.load(tp, plan, request.max_bytes).await?;
        let mut outcome = ReadOutcome {
            next_offset: request.offset,
            ..ReadOutcome::default()
        };
        let mut full = false;
        for (piece, window) in plan.pieces.iter().zip(windows) {
            let taken = self
                .take_checked(request, piece, window, &outcome, memory)
                .await?;
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
        Ok((outcome, full))
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
        memory: &mut HeldMemory<'_>,
    ) -> Result<Taken, TakeError> {
        let used = memory.used();
        let from = Fetched {
            window,
            again: false,
        };
        let first = match self.take(request, piece, from, before, memory).await {
            Err(PieceError::Fault(fault)) => fault,
            Err(PieceError::Take(error)) => return Err(error),
            Ok(taken) => return Ok(taken),
        };
        memory.shrink_to(used);
        self.0.refetched.fetch_add(1, Ordering::Relaxed);
        let (tp, key) = (request.tp, key_of(piece));
        tracing::warn!(%tp, %key, reason = first.reason, "bytes of a run are wrong, fetching anew");
        // From the start of the run: a wrong cursor is a reason, too.
        let whole = piece.whole();
        let window = whole.window(request.max_bytes);
        let before_it = piece.window(request.max_bytes);
        let more = (window.end - window.start).saturating_sub(before_it.end - before_it.start);
        if !memory.grow(more) {
            return Err(TakeError::NoMemory(more));
        }
        let window = self.0.objects.read_again(&key, window).await;
        let from = Fetched {
            window: window.map_err(|error| from_object(tp, error))?,
            again: true,
        };
        match self.take(request, &whole, from, before, memory).await {
            Ok(taken) => Ok(taken),
            Err(PieceError::Take(TakeError::NoMemory(bytes))) => {
                Err(TakeError::NoMemory(more + bytes))
            }
            Err(PieceError::Take(error)) => Err(error),
            Err(PieceError::Fault(fault)) => {
                self.0.corrupt.fetch_add(1, Ordering::Relaxed);
                let RunFault { offset, reason } = fault;
                tracing::error!(%tp, %key, offset, reason, "an object of the log is corrupt");
                Err(TakeError::Read(ReadError::Corrupt {
                    key,
                    tp,
                    offset,
                    reason,
                }))
            }
        }
    }

    /// Walks one piece from its start and takes what the request wants, fetching further bytes of
    /// the run as they are needed.
    async fn take(
        &self,
        request: &ReadRequest<'_>,
        piece: &Piece,
        from: Fetched,
        before: &ReadOutcome,
        memory: &mut HeldMemory<'_>,
    ) -> Result<Taken, PieceError> {
        let Fetched { window, again } = from;
        let mut fetched = window.len();
        let mut here = window.len() as u64;
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
                    let bytes = range.end - range.start;
                    let has_some = !before.batches.is_empty() || !outcome.batches.is_empty();
                    match memory.grow(bytes) {
                        true => {}
                        // The rest is for the next read.
                        false if has_some => break true,
                        false => return Err(PieceError::Take(TakeError::NoMemory(here + bytes))),
                    }
                    let more = self.more(&key_of(piece), range, again).await;
                    let more = more.map_err(|error| from_object(request.tp, error));
                    let more = more.map_err(|error| PieceError::Take(error.into()))?;
                    fetched += more.len();
                    walk.refill(more, needed).map_err(PieceError::Fault)?;
                    if outcome.batches.is_empty() {
                        // What was here led the way only, and is gone.
                        memory.shrink(here);
                    }
                    here = bytes;
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

    /// A range of an object, which may be that of a very large batch: put together as its parts
    /// come, since all parts beside the whole would take twice the memory.
    async fn more(&self, key: &Key, range: Range<u64>, again: bool) -> Result<Bytes, ObjectError> {
        let length = range.end - range.start;
        if length <= COLD_GET_BYTES_MAX as u64 {
            return self.part(key, range, again).await;
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
        let mut from = range.start;
        while from < range.end {
            let grid = from - from % COLD_GET_BYTES_MAX as u64;
            let to = range.end.min(grid + COLD_GET_BYTES_MAX as u64);
            let bytes = self.part(key, from..to, again).await?;
            whole.extend_from_slice(&bytes);
            if (bytes.len() as u64) < to - from {
                break;
            }
            from = to;
        }
        Ok(whole.freeze())
    }

    async fn part(&self, key: &Key, range: Range<u64>, again: bool) -> Result<Bytes, ObjectError> {
        match again {
            false => self.0.objects.read(key, range).await,
            true => self.0.objects.read_again(key, range).await,
        }
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

pub(super) fn from_object(tp: TopicPartition, error: ObjectError) -> ReadError {
    match error {
        ObjectError::Gone(key) => ReadError::Gone { tp, key },
        ObjectError::Bucket(error) => ReadError::Bucket(error),
    }
}
