//! The memory of cold reads: what all of them together hold of objects until their answers are made.
//!
//! A read takes what it expects to need before it fetches anything. It may find that it needs more,
//! for a batch that is larger than what was fetched; it never waits for more while it holds some,
//! or two such reads would wait for each other.

use firn_proto::limits::COLD_READ_BYTES_MAX;
use tokio::sync::{Semaphore, SemaphorePermit};

const KIB: u64 = 1024;

/// The memory of all cold reads.
#[derive(Debug)]
pub(super) struct ColdMemory {
    free_kib: Semaphore,
    all_kib: u32,
}

/// What one cold read holds of it, until it is dropped.
#[derive(Debug)]
pub(super) struct HeldMemory<'a> {
    memory: &'a ColdMemory,
    /// Never closed, so that there is always a permit in the end.
    permit: Option<SemaphorePermit<'a>>,
    used_kib: u32,
}

impl Default for ColdMemory {
    fn default() -> Self {
        let all_kib = COLD_READ_BYTES_MAX as u64 / KIB;
        Self {
            free_kib: Semaphore::new(usize::try_from(all_kib).unwrap_or(Semaphore::MAX_PERMITS)),
            all_kib: u32::try_from(all_kib).unwrap_or(u32::MAX),
        }
    }
}

impl ColdMemory {
    /// Waits for `bytes` to be used now and `spare` to be used later. Who wants more than there is
    /// waits until it is alone.
    pub(super) async fn take(&self, bytes: u64, spare: u64) -> HeldMemory<'_> {
        let wanted = self.kib(bytes.saturating_add(spare));
        HeldMemory {
            memory: self,
            permit: self.free_kib.acquire_many(wanted).await.ok(),
            used_kib: self.kib(bytes),
        }
    }

    fn kib(&self, bytes: u64) -> u32 {
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        kib.min(self.all_kib)
    }

    /// What nobody holds, in bytes.
    #[cfg(test)]
    pub(super) fn free(&self) -> u64 {
        self.free_kib.available_permits() as u64 * KIB
    }
}

impl HeldMemory<'_> {
    /// Uses `bytes` more, if they are held already or nobody else wants them. Does not wait.
    pub(super) fn grow(&mut self, bytes: u64) -> bool {
        let wanted = self.used_kib.saturating_add(self.memory.kib(bytes));
        let wanted = wanted.min(self.memory.all_kib);
        let held = self.permit.as_ref().map_or(0, SemaphorePermit::num_permits);
        let lacking = wanted.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        if lacking > 0 {
            match (
                &mut self.permit,
                self.memory.free_kib.try_acquire_many(lacking),
            ) {
                (Some(permit), Ok(more)) => permit.merge(more),
                _ => return false,
            }
        }
        self.used_kib = wanted;
        true
    }

    /// How much is used, for [`Self::shrink_to`].
    pub(super) fn used(&self) -> u32 {
        self.used_kib
    }

    /// What has been used since is free again, and kept for what the read needs next.
    pub(super) fn shrink_to(&mut self, used: u32) {
        self.used_kib = self.used_kib.min(used);
    }

    /// Some of what was used is free again, and kept for what the read needs next.
    pub(super) fn shrink(&mut self, bytes: u64) {
        self.used_kib = self.used_kib.saturating_sub(self.memory.kib(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = COLD_READ_BYTES_MAX as u64;

    #[tokio::test]
    async fn a_read_grows_into_what_it_set_aside_and_then_into_what_is_free() {
        let memory = ColdMemory::default();
        let mut held = memory.take(10 * KIB, 5 * KIB).await;
        assert_eq!(memory.free(), ALL - 15 * KIB);
        assert!(held.grow(5 * KIB));
        assert_eq!(memory.free(), ALL - 15 * KIB);
        assert!(held.grow(1));
        assert_eq!(memory.free(), ALL - 16 * KIB);
        held.shrink(10 * KIB);
        assert!(held.grow(10 * KIB));
        assert_eq!(memory.free(), ALL - 16 * KIB);
        drop(held);
        assert_eq!(memory.free(), ALL);
    }

    #[tokio::test]
    async fn a_read_does_not_grow_into_what_others_hold() {
        let memory = ColdMemory::default();
        let mut held = memory.take(KIB, 0).await;
        let others = memory.take(ALL - 2 * KIB, 0).await;
        assert!(!held.grow(2 * KIB));
        drop(others);
        assert!(held.grow(2 * KIB));
    }

    #[tokio::test]
    async fn a_read_that_is_alone_may_be_larger_than_all_memory() {
        let memory = ColdMemory::default();
        let mut held = memory.take(ALL + KIB, ALL).await;
        assert_eq!(memory.free(), 0);
        assert!(held.grow(ALL));
        drop(held);
        assert_eq!(memory.free(), ALL);
    }
}
