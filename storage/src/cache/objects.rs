//! Ranges of objects, read through a cache of aligned blocks.
//!
//! A block that is missing is fetched once, however many readers wait for it, together with its
//! missing neighbours in one GET. The GET belongs to nobody: once started it ends in the cache, even
//! if every reader has left. GETs for consumers have their own permits, so that cold reads hold
//! bounded memory and leave the bucket to the WAL.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use firn_proto::limits::{CACHE_BLOCK_BYTES, COLD_GET_BYTES_MAX, COLD_GETS_MAX};
use futures::FutureExt;
use futures::future::{Shared, join_all};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::block::BlockKey;
use super::{CacheHits, ObjectCache};
use crate::bucket::{Bucket, BucketError, Purpose};
use crate::layout::Key;

pub(super) const BLOCK: u64 = CACHE_BLOCK_BYTES as u64;
const BLOCKS_PER_GET: usize = COLD_GET_BYTES_MAX / CACHE_BLOCK_BYTES;

/// Why a range of an object could not be read. Shared by all that waited for it.
#[derive(Clone, Debug, Error)]
pub enum ObjectError {
    /// There is no such object. The reader's map of runs is old, or something is very wrong: it
    /// takes the map anew to find out.
    #[error("there is no object {0}")]
    Gone(Key),
    /// The bucket does not answer.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

pub(super) type Answer = Result<Bytes, ObjectError>;
pub(super) type Flight = Shared<oneshot::Receiver<Answer>>;

/// A block that was fetched.
#[derive(Clone, Debug)]
struct Flown {
    block: Bytes,
    /// It, and what the same GET has brought behind it: without a copy, since all are slices of
    /// what came.
    onward: Bytes,
}

type BlockAnswer = Result<Flown, ObjectError>;
type BlockFlight = Shared<oneshot::Receiver<BlockAnswer>>;

/// Reads objects through a cache. Cheap to clone.
#[derive(Clone)]
pub struct CachedObjects(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) bucket: Bucket,
    pub(super) cache: Arc<dyn ObjectCache>,
    flights: Mutex<BTreeMap<BlockKey, BlockFlight>>,
    permits: Arc<Semaphore>,
    purpose: Purpose,
    hits: AtomicU64,
    misses: AtomicU64,
    gets: AtomicU64,
}

/// What reading objects has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectReads {
    /// Blocks the cache had.
    pub hits: u64,
    /// Blocks it had not.
    pub misses: u64,
    /// GETs sent.
    pub gets: u64,
}

impl CachedObjects {
    /// Reads objects of `bucket` through `cache`.
    pub fn new(bucket: Bucket, cache: Arc<dyn ObjectCache>) -> Self {
        Self::with(bucket, cache, Purpose::Read, COLD_GETS_MAX)
    }

    /// Reads the same objects through the same cache, for another purpose and with `gets` GETs of
    /// its own, so that neither waits for the other.
    #[must_use]
    pub fn beside(&self, purpose: Purpose, gets: usize) -> Self {
        let (bucket, cache) = (self.0.bucket.clone(), Arc::clone(&self.0.cache));
        Self::with(bucket, cache, purpose, gets)
    }

    fn with(bucket: Bucket, cache: Arc<dyn ObjectCache>, purpose: Purpose, gets: usize) -> Self {
        Self(Arc::new(Inner {
            bucket,
            cache,
            flights: Mutex::default(),
            permits: Arc::new(Semaphore::new(gets)),
            purpose,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            gets: AtomicU64::new(0),
        }))
    }

    /// The bytes of `range` that the object has. Dropping the future loses nothing: what was asked
    /// of the bucket still reaches the cache.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read(&self, object: &Key, range: Range<u64>) -> Answer {
        let keys = keys(object, &range);
        let found = join_all(keys.iter().map(|key| self.0.cache.find(key))).await;
        let missing: Vec<BlockKey> = keys
            .iter()
            .zip(&found)
            .filter(|(_, f)| f.is_none())
            .map(|(k, _)| k.clone())
            .collect();
        self.0
            .hits
            .fetch_add((keys.len() - missing.len()) as u64, Ordering::Relaxed);
        self.0
            .misses
            .fetch_add(missing.len() as u64, Ordering::Relaxed);
        let fetched = self.fetch(&missing).await?;
        if missing.len() == keys.len()
            && let Some(bytes) = fetched.first().and_then(|first| of_one_get(first, &range))
        {
            return Ok(bytes);
        }
        let mut fetched = fetched.into_iter().map(|flown| flown.block);
        let blocks: Vec<Bytes> = found
            .into_iter()
            .map(|f| f.or_else(|| fetched.next()).unwrap_or_default())
            .collect();
        Ok(assemble(&blocks, &range))
    }

    /// As [`Self::read`], but from the bucket: what the cache has of the range turned out wrong.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read_again(&self, object: &Key, range: Range<u64>) -> Answer {
        for key in keys(object, &range) {
            self.0.cache.remove(&key);
        }
        self.read(object, range).await
    }

    /// Starts to fetch what the cache has not, if a permit is free, and does not wait.
    pub fn read_ahead(&self, object: &Key, range: Range<u64>) {
        let Ok(permit) = Arc::clone(&self.0.permits).try_acquire_owned() else {
            return;
        };
        let this = self.clone();
        let keys = keys(object, &range);
        tokio::spawn(async move {
            let found = join_all(keys.iter().map(|key| this.0.cache.find(key))).await;
            let missing = keys.into_iter().zip(found).filter(|(_, f)| f.is_none());
            let missing: Vec<BlockKey> = missing.map(|(k, _)| k).collect();
            if let Some(first) = gets(&missing).next() {
                this.start(first, permit);
            }
        });
    }

    /// What reading has cost.
    pub fn reads(&self) -> ObjectReads {
        ObjectReads {
            hits: self.0.hits.load(Ordering::Relaxed),
            misses: self.0.misses.load(Ordering::Relaxed),
            gets: self.0.gets.load(Ordering::Relaxed),
        }
    }

    /// Blocks in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.0.cache.memory_bytes()
    }

    /// Blocks that the cache had, for all who read through it.
    pub fn cache_hits(&self) -> CacheHits {
        self.0.cache.hits()
    }

    /// Closes the cache. Nothing may be read afterwards.
    pub async fn close(&self) {
        self.0.cache.close().await;
    }

    /// The bytes of blocks of one object, which are in order, from the bucket.
    async fn fetch(&self, missing: &[BlockKey]) -> Result<Vec<Flown>, ObjectError> {
        let mut flights = Vec::with_capacity(missing.len());
        for blocks in gets(missing) {
            let all_flying = self.joined(blocks);
            let joined = match all_flying {
                Some(joined) => joined,
                None => {
                    // Waited for outside of the task: a reader that leaves here leaves nothing
                    // behind. The semaphore is never closed.
                    let permit = Arc::clone(&self.0.permits).acquire_owned().await;
                    match permit {
                        Ok(permit) => self.start(blocks, permit),
                        Err(_) => Vec::new(),
                    }
                }
            };
            flights.extend(joined);
        }
        let mut fetched = Vec::with_capacity(flights.len());
        for (key, answer) in missing.iter().zip(join_all(flights).await) {
            fetched.push(match answer {
                Ok(answer) => answer?,
                // The task that fetched died with its runtime or panicked: ask on our own.
                Err(_) => {
                    let block = self.0.get(&key.object, key.block, 1).await?;
                    let onward = block.clone();
                    Flown { block, onward }
                }
            });
        }
        Ok(fetched)
    }

    /// The flights of `blocks`, if all of them are being fetched already.
    fn joined(&self, blocks: &[BlockKey]) -> Option<Vec<BlockFlight>> {
        let flights = self.0.flights();
        blocks.iter().map(|key| flights.get(key).cloned()).collect()
    }

    /// Joins the flights of `blocks` (neighbours) that are on their way, and starts one for the
    /// stretch of the others.
    fn start(&self, blocks: &[BlockKey], permit: OwnedSemaphorePermit) -> Vec<BlockFlight> {
        let mut flights = self.0.flights();
        let mut senders: Vec<(BlockKey, oneshot::Sender<BlockAnswer>)> = Vec::new();
        let mut joined = Vec::with_capacity(blocks.len());
        for key in blocks {
            if let Some(flight) = flights.get(key) {
                joined.push(flight.clone());
                continue;
            }
            let (sender, receiver) = oneshot::channel();
            let flight = receiver.shared();
            flights.insert(key.clone(), flight.clone());
            senders.push((key.clone(), sender));
            joined.push(flight);
        }
        drop(flights);
        if !senders.is_empty() {
            let inner = Arc::clone(&self.0);
            tokio::spawn(async move {
                inner.fly(senders).await;
                drop(permit);
            });
        }
        joined
    }
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, BTreeMap<BlockKey, BlockFlight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the stretch from the first to the last of `blocks`, keeps it, and tells who waits.
    async fn fly(&self, blocks: Vec<(BlockKey, oneshot::Sender<BlockAnswer>)>) {
        let landing = Landing {
            inner: self,
            keys: blocks.iter().map(|(k, _)| k.clone()).collect(),
        };
        let (Some((first, _)), Some((last, _))) = (blocks.first(), blocks.last()) else {
            return;
        };
        let (object, first, last) = (first.object.clone(), first.block, last.block);
        let answer = self.get(&object, first, last - first + 1).await;
        let answers: Vec<BlockAnswer> = blocks
            .iter()
            .map(|(key, _)| {
                let body = answer.clone()?;
                let onward = slice(&body, u64::from(key.block - first) * BLOCK, u64::MAX);
                let block = slice(&onward, 0, BLOCK);
                if !block.is_empty() {
                    self.cache.insert(key.clone(), block.clone());
                }
                Ok(Flown { block, onward })
            })
            .collect();
        // First out of the map, then the answers: who finds no flight finds the cache.
        drop(landing);
        for ((_, sender), answer) in blocks.into_iter().zip(answers) {
            // Nobody waits any more: the cache has it.
            let _ = sender.send(answer);
        }
    }

    async fn get(&self, object: &Key, first: u32, count: u32) -> Answer {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let start = u64::from(first) * BLOCK;
        let range = start..start + u64::from(count) * BLOCK;
        match self.bucket.get_range(self.purpose, object, range).await? {
            Some(bytes) => Ok(bytes),
            None => Err(ObjectError::Gone(object.clone())),
        }
    }
}

/// Takes flights off the map, also when the task that flies them dies.
struct Landing<'a> {
    inner: &'a Inner,
    keys: Vec<BlockKey>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut flights = self.inner.flights();
        for key in &self.keys {
            flights.remove(key);
        }
    }
}

/// The blocks that `range` touches.
pub(super) fn keys(object: &Key, range: &Range<u64>) -> Vec<BlockKey> {
    if range.is_empty() {
        return Vec::new();
    }
    let numbers = range.start / BLOCK..=(range.end - 1) / BLOCK;
    let keys = numbers.map_while(|n| u32::try_from(n).ok());
    keys.map(|block| BlockKey {
        object: object.clone(),
        block,
    })
    .collect()
}

/// Splits blocks, which are in order, into stretches that one GET takes each.
fn gets(missing: &[BlockKey]) -> impl Iterator<Item = &[BlockKey]> {
    missing
        .chunk_by(|a, b| b.block == a.block + 1)
        .flat_map(|stretch| stretch.chunks(BLOCKS_PER_GET))
}

/// The bytes of `range`, if the GET that brought the first of its blocks has brought all of them.
fn of_one_get(first: &Flown, range: &Range<u64>) -> Option<Bytes> {
    let bytes = slice(&first.onward, range.start % BLOCK, range.end - range.start);
    (bytes.len() as u64 == range.end - range.start).then_some(bytes)
}

/// The bytes of `range` out of the blocks it touches. One block is sliced, several are copied.
pub(super) fn assemble(blocks: &[Bytes], range: &Range<u64>) -> Bytes {
    let skip = range.start % BLOCK;
    let length = range.end.saturating_sub(range.start);
    if let [block] = blocks {
        return slice(block, skip, length);
    }
    let mut joined = BytesMut::with_capacity(blocks.iter().map(Bytes::len).sum());
    for block in blocks {
        joined.extend_from_slice(block);
        if (block.len() as u64) < BLOCK {
            break;
        }
    }
    slice(&joined.freeze(), skip, length)
}

/// Up to `length` bytes of `bytes` behind the first `skip`.
pub(super) fn slice(bytes: &Bytes, skip: u64, length: u64) -> Bytes {
    let start = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.slice(start..start.saturating_add(length).min(bytes.len()))
}

#[cfg(test)]
mod tests;
