//! Longer ranges of objects, such as row groups, through the cache of blocks: each takes one GET at
//! most, however long it is.
//!
//! A range is fetched once, however many readers wait for it. The GET belongs to nobody: once
//! started it ends in the cache, if there is one, even if every reader has left. What was fetched ahead of a reader
//! is kept here until it is asked for, since a cache that is small beside a range would have dropped
//! its first blocks when the last ones come.
//!
//! A range of a local directory passes the cache by: it is read as it is, and neither looked for
//! there nor put there. What is read again is in the page cache of the kernel, which needs no second
//! one here; `bucket/file/reading.rs` decides what goes there.
//!
//! The memory of GETs under way and of what was fetched ahead is bounded, each on its own.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::limits::{RANGE_GETS_BYTES_MAX, RANGES_AHEAD_BYTES_MAX};
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::objects::{Answer, BLOCK, CachedObjects, Flight, ObjectError, assemble, keys, slice};
use crate::bucket::{BucketKind, Purpose};
use crate::layout::Key;

const KIB: usize = 1024;
/// In KiB, since a semaphore counts no further than 32 bits.
const GETS_KIB: usize = RANGE_GETS_BYTES_MAX / KIB;

/// Reads ranges that take one GET each. Cheap to clone.
#[derive(Clone)]
pub struct WholeRanges(Arc<Inner>);

struct Inner {
    objects: CachedObjects,
    purpose: Purpose,
    flights: Mutex<Flights>,
    /// Memory of GETs under way. Never closed, so that there is always a permit in the end.
    free_kib: Arc<Semaphore>,
    gets: AtomicU64,
    hits: AtomicU64,
    ahead: AtomicU64,
}

/// What reading whole ranges has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WholeReads {
    /// Ranges that the cache had all of.
    pub hits: u64,
    /// GETs sent.
    pub gets: u64,
    /// Ranges that were asked for after they had been fetched ahead.
    pub ahead: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    object: Key,
    start: u64,
    end: u64,
}

/// Ranges on their way, and those that were fetched ahead and not asked for yet.
#[derive(Default)]
struct Flights {
    by_span: BTreeMap<Span, Flying>,
    /// Those fetched ahead, oldest first.
    ahead: VecDeque<Span>,
    ahead_bytes: u64,
    next_id: u64,
}

struct Flying {
    id: u64,
    flight: Flight,
    /// Nobody has asked for it yet.
    is_ahead: bool,
    /// Its answer is there, and it was kept because nobody had asked.
    has_landed: bool,
}

impl WholeRanges {
    /// Reads what `objects` reads, for one purpose.
    pub fn new(objects: CachedObjects, purpose: Purpose) -> Self {
        Self(Arc::new(Inner {
            objects,
            purpose,
            flights: Mutex::default(),
            free_kib: Arc::new(Semaphore::new(GETS_KIB)),
            gets: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
        }))
    }

    /// The bytes of `range` that the object has. Dropping the future cancels nothing: what was
    /// asked of the bucket still reaches the cache, if there is one.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read(&self, object: &Key, range: Range<u64>) -> Answer {
        let span = Span::new(object, &range);
        let flight = match self.join(&span) {
            Some(flight) => flight,
            None => match self.permit(&span).await {
                Some(permit) => match self.join(&span) {
                    Some(flight) => flight,
                    None => self.start(&span, permit, false),
                },
                None => return self.0.load(&span, false).await,
            },
        };
        match flight.await {
            Ok(answer) => answer,
            // The task that fetched died with its runtime or panicked: ask on our own.
            Err(_) => self.0.load(&span, false).await,
        }
    }

    /// As [`Self::read`], but from the bucket: what the cache has of the range turned out wrong.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read_again(&self, object: &Key, range: Range<u64>) -> Answer {
        let span = Span::new(object, &range);
        let _permit = self.permit(&span).await;
        self.0.load(&span, true).await
    }

    /// Starts to fetch the range, if there is memory for it, and does not wait.
    pub fn read_ahead(&self, object: &Key, range: Range<u64>) {
        let span = Span::new(object, &range);
        let fits = span.len() <= RANGES_AHEAD_BYTES_MAX as u64;
        let permit = Arc::clone(&self.0.free_kib).try_acquire_many_owned(span.kib());
        if let Ok(permit) = permit
            && fits
            && !self.0.flights().by_span.contains_key(&span)
        {
            drop(self.start(&span, permit, true));
        }
    }

    /// What reading has cost.
    pub fn reads(&self) -> WholeReads {
        WholeReads {
            hits: self.0.hits.load(Ordering::Relaxed),
            gets: self.0.gets.load(Ordering::Relaxed),
            ahead: self.0.ahead.load(Ordering::Relaxed),
        }
    }

    async fn permit(&self, span: &Span) -> Option<OwnedSemaphorePermit> {
        let free = Arc::clone(&self.0.free_kib);
        free.acquire_many_owned(span.kib()).await.ok()
    }

    /// The flight of the range, if it is on its way or was fetched ahead.
    fn join(&self, span: &Span) -> Option<Flight> {
        let mut flights = self.0.flights();
        let flying = flights.by_span.get_mut(span)?;
        let flight = flying.flight.clone();
        if std::mem::take(&mut flying.is_ahead) {
            self.0.ahead.fetch_add(1, Ordering::Relaxed);
            let has_landed = flying.has_landed;
            flights.forget_ahead(span);
            if has_landed {
                flights.by_span.remove(span);
            }
        }
        Some(flight)
    }

    /// Joins the flight of the range or starts one.
    fn start(&self, span: &Span, permit: OwnedSemaphorePermit, is_ahead: bool) -> Flight {
        let mut flights = self.0.flights();
        if let Some(flying) = flights.by_span.get(span) {
            return flying.flight.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let flight = receiver.shared();
        let id = flights.take_off(span, flight.clone(), is_ahead);
        drop(flights);
        let (inner, span) = (Arc::clone(&self.0), span.clone());
        tokio::spawn(async move {
            let mut landing = Landing {
                inner: &inner,
                span: &span,
                id,
                is_whole: false,
            };
            let answer = inner.load(&span, false).await;
            landing.is_whole = answer.is_ok();
            // Whoever asks after nobody waited finds it in the cache, and reads it once more where
            // there is none.
            let _ = sender.send(answer);
            // Behind the answer: who finds no flight finds the cache, who finds this one its bytes.
            drop(landing);
            drop(permit);
        });
        flight
    }
}

impl Span {
    fn new(object: &Key, range: &Range<u64>) -> Self {
        Self {
            object: object.clone(),
            start: range.start,
            end: range.end.max(range.start),
        }
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Who wants more than there is waits until it is alone.
    fn kib(&self) -> u32 {
        let kib = self.len().div_ceil(KIB as u64).min(GETS_KIB as u64);
        u32::try_from(kib).unwrap_or(u32::MAX)
    }
}

impl Flights {
    /// Adds a flight; what was fetched ahead before it makes room if it is one of those.
    fn take_off(&mut self, span: &Span, flight: Flight, is_ahead: bool) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if is_ahead {
            self.ahead.push_back(span.clone());
            self.ahead_bytes += span.len();
            while self.ahead_bytes > RANGES_AHEAD_BYTES_MAX as u64
                && let Some(oldest) = self.ahead.pop_front()
            {
                self.ahead_bytes -= oldest.len();
                self.by_span.remove(&oldest);
            }
        }
        let flying = Flying {
            id,
            flight,
            is_ahead,
            has_landed: false,
        };
        self.by_span.insert(span.clone(), flying);
        id
    }

    fn forget_ahead(&mut self, span: &Span) {
        if let Some(at) = self.ahead.iter().position(|other| other == span) {
            self.ahead.remove(at);
            self.ahead_bytes -= span.len();
        }
    }
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The range from the cache, and in one GET from the first block to the last that it has not.
    async fn load(&self, span: &Span, past_cache: bool) -> Answer {
        let range = span.start..span.end;
        if self.objects.0.bucket.kind() == BucketKind::File {
            return self.get(&span.object, range).await;
        }
        let cache = &self.objects.0.cache;
        let keys = keys(&span.object, &range);
        let mut blocks = match past_cache {
            true => vec![None; keys.len()],
            false => join_all(keys.iter().map(|key| cache.find(key))).await,
        };
        let is_missing = |block: &Option<Bytes>| block.is_none();
        let (Some(first), Some(last)) = (
            blocks.iter().position(is_missing),
            blocks.iter().rposition(is_missing),
        ) else {
            self.hits.fetch_add(1, Ordering::Relaxed);
            let blocks: Vec<Bytes> = blocks.into_iter().flatten().collect();
            return Ok(assemble(&blocks, &range));
        };
        let missing = keys.get(first..=last).unwrap_or_default();
        let first_block = missing.first().map_or(0, |key| u64::from(key.block));
        let stretch = first_block * BLOCK..(first_block + missing.len() as u64) * BLOCK;
        let body = self.get(&span.object, stretch).await?;
        for (at, key) in missing.iter().enumerate() {
            let bytes = slice(&body, at as u64 * BLOCK, BLOCK);
            if !bytes.is_empty() {
                cache.insert(key.clone(), bytes);
                // A block is copied; whoever is served on this thread waits for one of them.
                tokio::task::yield_now().await;
            }
        }
        if missing.len() == keys.len() {
            return Ok(slice(&body, range.start % BLOCK, span.len()));
        }
        for (at, block) in blocks
            .iter_mut()
            .skip(first)
            .take(missing.len())
            .enumerate()
        {
            *block = Some(slice(&body, at as u64 * BLOCK, BLOCK));
        }
        let blocks: Vec<Bytes> = blocks.into_iter().flatten().collect();
        Ok(assemble(&blocks, &range))
    }

    async fn get(&self, object: &Key, range: Range<u64>) -> Answer {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let bucket = &self.objects.0.bucket;
        let got = bucket.get_range(self.purpose, object, range);
        got.await?.ok_or_else(|| ObjectError::Gone(object.clone()))
    }
}

/// Takes a flight off the map, also when the task that flies it dies. One that was fetched ahead
/// stays until it is asked for.
struct Landing<'a> {
    inner: &'a Inner,
    span: &'a Span,
    id: u64,
    is_whole: bool,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.inner.flights();
        let flying = flights.by_span.get_mut(self.span);
        let Some(flying) = flying.filter(|flying| flying.id == self.id) else {
            return;
        };
        flying.has_landed = true;
        if !(flying.is_ahead && self.is_whole) {
            flights.by_span.remove(self.span);
            flights.forget_ahead(self.span);
        }
    }
}

#[cfg(test)]
mod tests;
