//! A cache of blocks in a plain map: no threads, no disk, the same every time. The twin of the real
//! one for the simulation, and enough where memory alone is cached.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::block::{BlockKey, SealedBlock};
use super::{CacheHits, ObjectCache};

/// Blocks in memory; the one that was not asked for for the longest time goes first.
#[derive(Debug)]
pub struct MapCache {
    bytes_max: usize,
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    by_key: BTreeMap<BlockKey, (u64, SealedBlock)>,
    by_use: BTreeMap<u64, BlockKey>,
    next_use: u64,
    bytes: usize,
    hits: u64,
}

impl MapCache {
    /// A cache that holds up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            blocks: Mutex::default(),
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    fn touch(&mut self, key: &BlockKey) -> Option<SealedBlock> {
        let next = self.next_use;
        let (used, block) = self.by_key.get_mut(key)?;
        let last = std::mem::replace(used, next);
        let block = block.clone();
        self.by_use.remove(&last);
        self.by_use.insert(next, key.clone());
        self.next_use += 1;
        Some(block)
    }

    fn remove(&mut self, key: &BlockKey) {
        if let Some((used, block)) = self.by_key.remove(key) {
            self.by_use.remove(&used);
            self.bytes -= block.weight(key);
        }
    }

    fn insert(&mut self, key: BlockKey, block: SealedBlock, bytes_max: usize) {
        self.remove(&key);
        self.bytes += block.weight(&key);
        self.by_use.insert(self.next_use, key.clone());
        self.by_key.insert(key, (self.next_use, block));
        self.next_use += 1;
        while self.bytes > bytes_max
            && let Some((_, oldest)) = self.by_use.first_key_value()
        {
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }
}

impl ObjectCache for MapCache {
    fn find<'a>(&'a self, key: &'a BlockKey) -> BoxFuture<'a, Option<Bytes>> {
        let mut blocks = self.blocks();
        let found = blocks.touch(key).and_then(|block| block.open(key));
        blocks.hits += u64::from(found.is_some());
        drop(blocks);
        async move { found }.boxed()
    }

    fn insert(&self, key: BlockKey, bytes: Bytes) {
        let block = SealedBlock::seal(&key, &bytes);
        self.blocks().insert(key, block, self.bytes_max);
    }

    fn remove(&self, key: &BlockKey) {
        self.blocks().remove(key);
    }

    fn memory_bytes(&self) -> usize {
        self.blocks().bytes
    }

    fn hits(&self) -> CacheHits {
        CacheHits {
            memory: self.blocks().hits,
            disk: 0,
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}
