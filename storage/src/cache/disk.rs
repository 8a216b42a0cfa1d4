//! A cache of blocks in memory and, if wished, on disk, over foyer 0.22.
//!
//! The threads of foyer's psync engine do the IO: its io_uring engine has an open use-after-free
//! when futures are dropped. Its byte layout changes between versions, so the directory's name
//! carries the version and the cluster; directories of other versions and clusters are removed.
//! Blocks reach the disk when memory evicts them and when the cache is closed. A queue that is
//! full drops blocks, which costs a GET later and nothing else.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use firn_proto::ids::ClusterId;
use firn_proto::limits::CACHE_BLOCK_BYTES;
use foyer::{
    BlockEngineConfig, Code, DeviceBuilder, Error as FoyerError, ErrorKind, FsDeviceBuilder,
    HybridCache, HybridCacheBuilder, HybridCachePolicy, PsyncIoEngineConfig, RecoverMode,
    Result as FoyerResult, S3FifoConfig,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::fs::FlockOperation;
use thiserror::Error;

use super::block::{BlockKey, SealedBlock};
use super::{CacheHits, ObjectCache};
use crate::layout::{DISK_CACHE_PREFIX, Key, LOCK_FILE, disk_cache_dir};

/// Names the byte layout: foyer's version, and ours within it.
const LAYOUT_VERSION: &str = "foyer0.22-1";
/// Foyer's unit of eviction on disk, which also bounds the size of an entry.
const DISK_BLOCK_BYTES: usize = 16 * 1024 * 1024;
/// Less is no cache: foyer wants several units.
const DISK_BYTES_MIN: u64 = 4 * DISK_BLOCK_BYTES as u64;
/// Blocks that wait for the disk; more are dropped.
const DISK_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// Blocks that a shard of the memory part holds at least, or it would thrash.
const SHARD_BLOCKS_MIN: usize = 16;
const SHARDS_MAX: usize = 8;
const KEY_BYTES_MAX: u32 = 1024;

/// Why the disk part of a cache cannot be used.
#[derive(Clone, Debug, Error)]
pub enum CacheError {
    /// Another process uses the directory.
    #[error("the cache directory {0} is in use by another process: give each broker its own")]
    InUse(String),
    /// The directory is too small to be worth it.
    #[error("a disk cache of {given} bytes is too small: give at least {least}, or none")]
    TooSmall {
        /// Bytes configured.
        given: u64,
        /// Bytes needed.
        least: u64,
    },
    /// The file system refuses.
    #[error("the cache directory {directory} is not usable: {reason}")]
    Disk {
        /// The directory.
        directory: String,
        /// The operating system's or foyer's words.
        reason: String,
    },
}

/// The disk part of a cache.
#[derive(Clone, Debug)]
pub struct DiskSpace {
    /// The directory under which the cache makes its own.
    pub directory: PathBuf,
    /// Bytes it may take.
    pub bytes: u64,
    /// The cluster whose bytes it holds.
    pub cluster: ClusterId,
}

/// Blocks in memory and on disk.
pub struct FoyerCache {
    cache: HybridCache<BlockKey, SealedBlock>,
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    /// Held as long as the cache uses its directory.
    _lock: Option<File>,
}

impl FoyerCache {
    /// Opens a cache with `memory_bytes` of memory and perhaps a disk, whose blocks of an earlier
    /// run are found again.
    ///
    /// # Errors
    /// If the directory is in use or not usable.
    pub async fn open(memory_bytes: usize, disk: Option<&DiskSpace>) -> Result<Self, CacheError> {
        let shards = (memory_bytes / (SHARD_BLOCKS_MIN * CACHE_BLOCK_BYTES)).clamp(1, SHARDS_MAX);
        let builder = HybridCacheBuilder::new()
            .with_name("firn")
            .with_policy(HybridCachePolicy::WriteOnEviction)
            .memory(memory_bytes)
            .with_shards(shards)
            // one pass over old records does not push out what is read again and again
            .with_eviction_config(S3FifoConfig::default())
            .with_weighter(|key: &BlockKey, block: &SealedBlock| block.weight(key))
            .storage();
        let Some(disk) = disk else {
            let failed = |e: FoyerError| CacheError::Disk {
                directory: "memory".to_owned(),
                reason: e.to_string(),
            };
            let cache = builder.build().await.map_err(failed)?;
            return Ok(Self::of(cache, None));
        };
        if disk.bytes < DISK_BYTES_MIN {
            return Err(CacheError::TooSmall {
                given: disk.bytes,
                least: DISK_BYTES_MIN,
            });
        }
        let shown = disk.directory.display().to_string();
        let failed = |reason: String| CacheError::Disk {
            directory: shown.clone(),
            reason,
        };
        let (directory, lock) = prepare(disk)?;
        let device = FsDeviceBuilder::new(&directory)
            .with_capacity(usize::try_from(disk.bytes).unwrap_or(usize::MAX))
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let engine = BlockEngineConfig::new(device)
            .with_block_size(DISK_BLOCK_BYTES)
            .with_buffer_pool_size(DISK_QUEUE_BYTES)
            .with_submit_queue_size_threshold(DISK_QUEUE_BYTES);
        let cache = builder
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(engine)
            .with_recover_mode(RecoverMode::Quiet)
            .build()
            .await
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self::of(cache, Some(lock)))
    }

    fn of(cache: HybridCache<BlockKey, SealedBlock>, lock: Option<File>) -> Self {
        Self {
            cache,
            memory_hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            _lock: lock,
        }
    }
}

/// Makes this version's and cluster's directory, removes others, and takes the lock.
fn prepare(disk: &DiskSpace) -> Result<(PathBuf, File), CacheError> {
    let parent = &disk.directory;
    let failed = |error: io::Error| CacheError::Disk {
        directory: parent.display().to_string(),
        reason: error.to_string(),
    };
    fs::create_dir_all(parent).map_err(failed)?;
    let lock = File::create(parent.join(LOCK_FILE)).map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(CacheError::InUse(parent.display().to_string()));
        }
        Err(error) => return Err(failed(error.into())),
    }
    let own = disk_cache_dir(LAYOUT_VERSION, disk.cluster);
    remove_others(parent, &own).map_err(failed)?;
    let directory = parent.join(own);
    fs::create_dir_all(&directory).map_err(failed)?;
    Ok((directory, lock))
}

fn remove_others(parent: &Path, own: &str) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| n.starts_with(DISK_CACHE_PREFIX)) else {
            continue;
        };
        if name != own && entry.file_type()?.is_dir() {
            tracing::info!(
                directory = name,
                "removing the cache of another version or cluster"
            );
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

impl ObjectCache for FoyerCache {
    fn find<'a>(&'a self, key: &'a BlockKey) -> BoxFuture<'a, Option<Bytes>> {
        if let Some(entry) = self.cache.memory().get(key) {
            let found = entry.value().open(key);
            count(&self.memory_hits, found.is_some());
            return async move { found }.boxed();
        }
        async move {
            match self.cache.get(key).await {
                Ok(entry) => {
                    let found = entry?.value().open(key);
                    count(&self.disk_hits, found.is_some());
                    found
                }
                Err(error) => {
                    tracing::debug!(%error, object = %key.object, "the disk cache gave no answer");
                    None
                }
            }
        }
        .boxed()
    }

    fn insert(&self, key: BlockKey, bytes: Bytes) {
        let block = SealedBlock::seal(&key, &bytes);
        self.cache.insert(key, block);
    }

    fn remove(&self, key: &BlockKey) {
        self.cache.remove(key);
    }

    fn memory_bytes(&self) -> usize {
        self.cache.memory().usage()
    }

    fn hits(&self) -> CacheHits {
        CacheHits {
            memory: self.memory_hits.load(Ordering::Relaxed),
            disk: self.disk_hits.load(Ordering::Relaxed),
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.cache.close().await {
                tracing::warn!(%error, "the cache did not close cleanly, it will be colder");
            }
        }
        .boxed()
    }
}

fn count(hits: &AtomicU64, is_hit: bool) {
    hits.fetch_add(u64::from(is_hit), Ordering::Relaxed);
}

impl Code for BlockKey {
    fn encode(&self, writer: &mut impl Write) -> FoyerResult<()> {
        let object = self.object.as_str().as_bytes();
        let length = u32::try_from(object.len()).unwrap_or(u32::MAX);
        let mut write = |bytes: &[u8]| writer.write_all(bytes).map_err(FoyerError::io_error);
        write(&length.to_le_bytes())?;
        write(object)?;
        write(&self.block.to_le_bytes())
    }

    fn decode(reader: &mut impl Read) -> FoyerResult<Self> {
        let length = read_u32(reader)?;
        let object = read_bytes(reader, length, KEY_BYTES_MAX)?;
        let object = std::str::from_utf8(&object).map_err(|e| broken(&e.to_string()))?;
        Ok(Self {
            object: Key::listed(object),
            block: read_u32(reader)?,
        })
    }

    fn estimated_size(&self) -> usize {
        self.object.as_str().len() + 8
    }
}

impl Code for SealedBlock {
    fn encode(&self, writer: &mut impl Write) -> FoyerResult<()> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let mut write = |bytes: &[u8]| writer.write_all(bytes).map_err(FoyerError::io_error);
        write(&self.checksum.to_le_bytes())?;
        write(&length.to_le_bytes())?;
        write(&self.bytes)
    }

    fn decode(reader: &mut impl Read) -> FoyerResult<Self> {
        let checksum = read_u32(reader)?;
        let length = read_u32(reader)?;
        let longest = u32::try_from(CACHE_BLOCK_BYTES).unwrap_or(u32::MAX);
        let bytes = read_bytes(reader, length, longest)?.into();
        Ok(Self { checksum, bytes })
    }

    fn estimated_size(&self) -> usize {
        self.bytes.len() + 8
    }
}

fn read_u32(reader: &mut impl Read) -> FoyerResult<u32> {
    let mut bytes = [0; 4];
    reader
        .read_exact(&mut bytes)
        .map_err(FoyerError::io_error)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_bytes(reader: &mut impl Read, length: u32, longest: u32) -> FoyerResult<Vec<u8>> {
    if length > longest {
        return Err(broken(
            "an entry of the disk cache is longer than any can be",
        ));
    }
    let mut bytes = vec![0; length as usize];
    reader
        .read_exact(&mut bytes)
        .map_err(FoyerError::io_error)?;
    Ok(bytes)
}

fn broken(reason: &str) -> FoyerError {
    FoyerError::new(ErrorKind::Parse, reason.to_owned())
}

/// Shared by all that read objects.
impl FoyerCache {
    /// As the trait object that readers take.
    pub fn shared(self) -> Arc<dyn ObjectCache> {
        Arc::new(self)
    }
}

#[cfg(test)]
mod tests;
