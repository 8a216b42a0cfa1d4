//! The row groups that are open: what one fetch has not taken waits here for the next, and several
//! readers at the same place share it. Bounded by number and by memory; the one that was not used
//! for longest goes first, and at once if a reader waits for memory.
//!
//! Whoever takes one out holds it alone. It goes back when it is let go of, also from a thread that
//! decodes for a reader who has left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_proto::cluster::SegmentKey;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{OPEN_ROW_GROUPS_BYTES_MAX, OPEN_ROW_GROUPS_MAX};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::open::OpenGroup;
use crate::segment::TargetCodec;

const KIB: u64 = 1024;
/// In KiB, since a semaphore counts no further than 32 bits.
const ALL_KIB: u64 = OPEN_ROW_GROUPS_BYTES_MAX as u64 / KIB;

/// Which row group is open, and what batches are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupName {
    pub(super) tp: TopicPartition,
    pub(super) segment: SegmentKey,
    pub(super) base_offset: i64,
    pub(super) codec: TargetCodec,
}

/// A row group, if it is open, and the memory for it.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) open: Option<OpenGroup>,
    memory: Option<OwnedSemaphorePermit>,
}

/// All that are open.
pub(super) struct Remainders {
    index: Mutex<Index>,
    /// Never closed, so that there is always a permit in the end.
    free_kib: Arc<Semaphore>,
}

#[derive(Default)]
struct Index {
    /// The one that was used last is last.
    entries: Vec<Entry>,
    next_id: u64,
    /// Readers that wait for memory: nothing is kept meanwhile.
    waiting: usize,
}

struct Entry {
    id: u64,
    name: GroupName,
    /// Where readers may go on in it, when nobody held it last.
    span: (i64, i64),
    slot: Arc<AsyncMutex<Slot>>,
}

/// An open row group, or room for one, in one pair of hands.
pub(super) struct Held {
    remainders: Arc<Remainders>,
    id: u64,
    pub(super) slot: OwnedMutexGuard<Slot>,
}

/// A reader that waits for memory.
struct Waiting<'a>(&'a Remainders);

impl Default for Remainders {
    fn default() -> Self {
        let all = usize::try_from(ALL_KIB).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            index: Mutex::default(),
            free_kib: Arc::new(Semaphore::new(all)),
        }
    }
}

impl Remainders {
    /// The open row group in which a reader at `offset` may go on, once nobody else holds it, or
    /// room for one.
    pub(super) async fn hold(self: &Arc<Self>, name: GroupName, offset: i64) -> Held {
        if let Some((id, slot)) = self.find(&name, offset) {
            let slot = slot.lock_owned().await;
            if slot.open.as_ref().is_none_or(|open| open.holds(offset)) {
                let remainders = Arc::clone(self);
                return Held {
                    remainders,
                    id,
                    slot,
                };
            }
            // Whoever held it has gone on too far.
        }
        let slot: Arc<AsyncMutex<Slot>> = Arc::default();
        let held = Arc::clone(&slot).lock_owned().await;
        Held {
            remainders: Arc::clone(self),
            id: self.index().add(name, offset, slot),
            slot: held,
        }
    }

    /// Waits for memory for `bytes`. Who wants more than there is waits until it is alone.
    pub(super) async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = bytes.div_ceil(KIB).min(ALL_KIB);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let _waiting = {
            let mut index = self.index();
            loop {
                let free = Arc::clone(&self.free_kib);
                if let Ok(permit) = free.try_acquire_many_owned(kib) {
                    return Some(permit);
                }
                if !index.drop_oldest() {
                    break;
                }
            }
            index.waiting += 1;
            Waiting(self)
        };
        let free = Arc::clone(&self.free_kib);
        free.acquire_many_owned(kib).await.ok()
    }

    fn find(&self, name: &GroupName, offset: i64) -> Option<(u64, Arc<AsyncMutex<Slot>>)> {
        let index = self.index();
        let entry = index.entries.iter().rev().find(|entry| {
            let (from, next) = entry.span;
            entry.name == *name && (from..=next).contains(&offset)
        })?;
        Some((entry.id, Arc::clone(&entry.slot)))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open, and the memory that is left, in bytes.
    #[cfg(test)]
    pub(super) fn open_and_free(&self) -> (usize, u64) {
        let free = self.free_kib.available_permits() as u64 * KIB;
        (self.index().entries.len(), free)
    }
}

impl Index {
    /// Adds a slot, unless there are too many and all are in use: then it is gone after this use.
    fn add(&mut self, name: GroupName, offset: i64, slot: Arc<AsyncMutex<Slot>>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if self.entries.len() < OPEN_ROW_GROUPS_MAX || self.drop_oldest() {
            self.entries.push(Entry {
                id,
                name,
                span: (offset, offset),
                slot,
            });
        }
        id
    }

    /// Drops the oldest that nobody holds or waits for.
    fn drop_oldest(&mut self) -> bool {
        // More hands reach for a slot only under the lock that is held here.
        let is_idle = |entry: &Entry| Arc::strong_count(&entry.slot) == 1;
        let oldest = self.entries.iter().position(is_idle);
        oldest.map(|at| self.entries.remove(at)).is_some()
    }
}

impl Held {
    /// Waits for memory for `bytes`, unless it is there.
    pub(super) async fn reserve(&mut self, bytes: u64) {
        if self.slot.memory.is_none() {
            self.slot.memory = self.remainders.room(bytes).await;
        }
    }
}

impl Slot {
    /// Whether there is memory for all that is kept. Does not wait. Of a row group that was read to
    /// its end it gives back what is too much.
    fn has_memory(&mut self, free_kib: &Arc<Semaphore>) -> bool {
        let (Some(open), Some(memory)) = (&self.open, &mut self.memory) else {
            return false;
        };
        let wanted = open.memory_bytes().div_ceil(KIB);
        let held = memory.num_permits() as u64;
        if open.has_ended()
            && let Ok(surplus) = usize::try_from(held.saturating_sub(wanted))
        {
            drop(memory.split(surplus));
        }
        let lacking = wanted.saturating_sub(memory.num_permits() as u64);
        let Ok(lacking) = u32::try_from(lacking) else {
            return false;
        };
        if lacking > 0 {
            match Arc::clone(free_kib).try_acquire_many_owned(lacking) {
                Ok(more) => memory.merge(more),
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut index = self.remainders.index();
        let is_sound = !std::thread::panicking();
        let is_kept = is_sound && index.waiting == 0;
        let is_kept = is_kept && self.slot.has_memory(&self.remainders.free_kib);
        if !is_sound {
            *self.slot = Slot::default();
        }
        let Some(at) = index.entries.iter().position(|entry| entry.id == self.id) else {
            return;
        };
        let mut entry = index.entries.remove(at);
        if is_kept && let Some(open) = &self.slot.open {
            entry.span = open.span();
            index.entries.push(entry);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.index().waiting -= 1;
    }
}
