//! The bytes that all connections together may hold: permits that a request takes before its frame
//! is read and an answer to Fetch before its batches are. Waiting is the back-pressure: a
//! connection that waits does not read its socket.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes shared by everybody who asks.
///
/// Long requests draw from one half, the rest from the other, so that a few clients that announce
/// long frames and are slow to send them cannot hold everybody up. One call takes all that a
/// request needs, so nobody waits while holding a part.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    long: Half,
    short: Half,
}

#[derive(Clone, Debug)]
struct Half {
    bytes: usize,
    permits: Arc<Semaphore>,
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ByteBudget {
    /// A budget of `bytes` in total.
    pub fn new(bytes: usize) -> Self {
        Self {
            long: Half::new(bytes / 2),
            short: Half::new(bytes - bytes / 2),
        }
    }

    /// Waits for `bytes`, first come, first served. A wish beyond a whole half waits for that half.
    ///
    /// Cancellation safe: a dropped wait takes nothing.
    pub async fn reserve(&self, bytes: usize) -> Reserved {
        let half = if bytes > LONG_BYTES {
            &self.long
        } else {
            &self.short
        };
        let wanted = u32::try_from(bytes.min(half.bytes)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&half.permits).acquire_many_owned(wanted).await;
        // Nobody closes these semaphores, so there is always a permit.
        Reserved {
            _permit: permit.ok(),
        }
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> usize {
        self.long.permits.available_permits() + self.short.permits.available_permits()
    }
}

impl Half {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            bytes,
            permits: Arc::new(Semaphore::new(bytes)),
        }
    }
}

/// Longer wishes draw from the half for long ones.
const LONG_BYTES: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let budget = ByteBudget::new(1000);
        let held = budget.reserve(300).now_or_never().unwrap();
        assert_eq!(budget.free(), 700);
        drop(held);
        assert_eq!(budget.free(), 1000);
    }

    #[test]
    fn a_wish_beyond_the_whole_is_met_with_the_whole() {
        let budget = ByteBudget::new(8 << 20);
        let held = budget.reserve(100 << 20).now_or_never().unwrap();
        assert!(budget.reserve(3 << 20).now_or_never().is_none());
        drop(held);
        assert!(budget.reserve(3 << 20).now_or_never().is_some());
    }

    #[test]
    fn long_wishes_do_not_hold_up_short_ones() {
        let budget = ByteBudget::new(8 << 20);
        let _held = budget.reserve(4 << 20).now_or_never().unwrap();
        assert!(budget.reserve(4 << 20).now_or_never().is_none());
        assert!(budget.reserve(64 << 10).now_or_never().is_some());
    }
}
