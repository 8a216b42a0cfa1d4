//! What is kept near: the newest durable batches of every partition, and blocks of objects.
//!
//! - `tail.rs`: [`TailCache`], the newest batches, fair between partitions
//! - `block.rs`: a block of an object, with a checksum bound to its name
//! - `map.rs`: a cache of blocks in a plain map, for the simulation and small machines
//! - `disk.rs`: a cache of blocks in memory and on disk, over foyer
//! - `objects.rs`: [`CachedObjects`], ranges of objects through a cache of blocks
//! - `whole.rs`: [`WholeRanges`], longer ranges that take one GET each
//!
//! Architecture invariant: a cache may lose anything at any time and may never give wrong bytes.
//! Nothing here is a log: what is only in a cache does not exist.

mod block;
mod disk;
mod map;
mod objects;
mod tail;
mod whole;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use block::BlockKey;
pub use disk::{CacheError, DiskSpace, FoyerCache};
pub use map::MapCache;
pub use objects::{CachedObjects, ObjectError, ObjectReads};
pub use tail::{TailBatch, TailCache, TailRead, TailUsage};
pub use whole::{WholeRanges, WholeReads};

/// Blocks that a cache had, by where it had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheHits {
    /// In memory.
    pub memory: u64,
    /// On disk.
    pub disk: u64,
}

/// A cache of blocks of immutable objects.
pub trait ObjectCache: Send + Sync + 'static {
    /// The bytes of a block; `None` if they are not here or not what was put in.
    fn find<'a>(&'a self, key: &'a BlockKey) -> BoxFuture<'a, Option<Bytes>>;

    /// Keeps the bytes of a block, for a while. They are copied if they are part of something
    /// larger, so that a small block never keeps a large answer alive.
    fn insert(&self, key: BlockKey, bytes: Bytes);

    /// Forgets a block.
    fn remove(&self, key: &BlockKey);

    /// Bytes of blocks in memory.
    fn memory_bytes(&self) -> usize;

    /// Blocks it had, whoever asked.
    fn hits(&self) -> CacheHits;

    /// Writes out what has to be written. Nothing may be asked of the cache afterwards.
    fn close(&self) -> BoxFuture<'_, ()>;
}
