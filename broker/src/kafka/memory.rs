//! The bytes that all connections together may hold: permits that a request takes before its frame
//! is read and an answer to Fetch before its batches are. Waiting is the back-pressure: a
//! connection that waits does not read its socket.
//!
//! Produce has memory of its own, and so has what waits for the journal: while the bucket is away
//! they must not keep a consumer from its answer, or a member from its heartbeat. For as long as this
//! process may be read (`FENCE_LOOK_LASTS` after the last look for another leader that the bucket
//! answered) that is what is in memory, and from then on the code to try again with. What else waits
//! long gives its memory back once somebody else has what it said.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use firn_proto::limits::{
    FETCH_ASKING_PART, FETCH_PARKED_PART, FETCH_PARTITION_BYTES, JOURNAL_REQUEST_BYTES_MAX,
    JOURNAL_REQUESTS_PART, PENDING_PRODUCE_BYTES_MAX, SMALL_REQUEST_BYTES, SMALL_REQUESTS_PART,
    decode_bytes,
};
use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::FrameKind;

/// The memory of all requests in progress.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    produce: ByteBudget,
    /// For what is kept of Produce until its answer is written.
    pending: ByteBudget,
    /// For what waits for the journal.
    journal: Lane,
    /// For what is neither of the two, nor small.
    other: ByteBudget,
    small: Lane,
}

impl RequestMemory {
    /// Memory for `produce_bytes` of Produce (`queued.max.produce.bytes`) and for `other_bytes` of
    /// everything else (`queued.max.request.bytes`).
    pub fn new(produce_bytes: usize, other_bytes: usize) -> Self {
        let small = other_bytes / SMALL_REQUESTS_PART;
        let journal = other_bytes / JOURNAL_REQUESTS_PART;
        Self {
            produce: ByteBudget::new(produce_bytes),
            pending: ByteBudget::new(PENDING_PRODUCE_BYTES_MAX),
            journal: Lane::new(journal),
            other: ByteBudget::new(other_bytes - small - journal),
            small: Lane::new(small),
        }
    }

    /// Bytes held by Produce, and by everything else.
    pub fn held(&self) -> (usize, usize) {
        let other = self.other.held() + self.small.held() + self.journal.held();
        (self.produce.held() + self.pending.held(), other)
    }

    /// Waits for the memory of a frame of `len` bytes, and of what decoding it may allocate. The
    /// records of Produce, which are nearly all of it, stay where they are.
    ///
    /// Cancellation safe: a dropped wait takes nothing.
    pub async fn reserve(&self, kind: FrameKind, len: usize) -> Reserved {
        match kind {
            FrameKind::Produce => self.produce.reserve(len).await,
            FrameKind::Journal if len <= JOURNAL_REQUEST_BYTES_MAX => {
                self.journal.reserve(len + decode_bytes(len)).await
            }
            FrameKind::Other if len <= SMALL_REQUEST_BYTES => {
                self.small.reserve(len + decode_bytes(len)).await
            }
            FrameKind::Journal | FrameKind::Other => {
                self.other.reserve(len + decode_bytes(len)).await
            }
        }
    }

    /// Waits for what is kept of a Produce besides its batches: `bytes` that its frame does not
    /// stand for. Who has them waits for nothing but the WAL, so that they come back.
    pub async fn reserve_pending(&self, bytes: usize) -> Reserved {
        self.pending.reserve(bytes).await
    }
}

/// The memory of all Fetch requests.
#[derive(Clone, Debug)]
pub struct FetchMemory {
    answers: ByteBudget,
    /// For requests that are looked at or have records to wait for.
    asking: Lane,
    /// For requests that wait until there are records: were that of the others, they would keep
    /// those from being looked at whose records are there.
    parked: Lane,
}

impl FetchMemory {
    /// Memory of `bytes` in all (`queued.max.fetch.bytes`).
    pub fn new(bytes: usize) -> Self {
        let asking = bytes / FETCH_ASKING_PART;
        let parked = bytes / FETCH_PARKED_PART;
        Self {
            answers: ByteBudget::new(bytes - asking - parked),
            asking: Lane::new(asking),
            parked: Lane::new(parked),
        }
    }

    /// The largest answer that is counted in full.
    pub fn answer_bytes_max(&self) -> usize {
        self.answers.long.bytes
    }

    /// The memory of an answer of `bytes`, and how long it may be. Long answers are taken slowly by
    /// some, and two of them may be all that there is room for: who would have to wait for those
    /// gets a shorter one (KIP-74 leaves it to the broker), of at least `least`.
    pub async fn reserve_answer_up_to(&self, bytes: usize, least: usize) -> (Reserved, usize) {
        if let Some(room) = self.try_reserve_answer(bytes) {
            return (room, bytes);
        }
        let shorter = bytes.min(LONG_BYTES).max(least);
        (self.answers.reserve(shorter).await, shorter)
    }

    /// Waits for the memory of an answer of `bytes`.
    pub async fn reserve_answer(&self, bytes: usize) -> Reserved {
        self.answers.reserve(bytes).await
    }

    /// The memory of an answer of `bytes`, if it is there.
    pub fn try_reserve_answer(&self, bytes: usize) -> Option<Reserved> {
        self.answers.reserve(bytes).now_or_never()
    }

    /// Waits for the memory of a request for `partitions`, until it has its answer or is parked.
    pub async fn reserve_asking(&self, partitions: usize) -> Reserved {
        let bytes = partitions.saturating_mul(FETCH_PARTITION_BYTES);
        self.asking.reserve(bytes).await
    }

    /// Waits for the memory of a request for `partitions` that waits for records.
    pub async fn reserve_parked(&self, partitions: usize) -> Reserved {
        let bytes = partitions.saturating_mul(FETCH_PARTITION_BYTES);
        self.parked.reserve(bytes).await
    }
}

/// A number of bytes shared by everybody who asks.
///
/// Long requests draw from one half, the rest from the other, so that a few clients that announce
/// long frames and are slow to send them cannot hold everybody up. One call takes all that a
/// request needs, so nobody waits while holding a part.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    long: Lane,
    short: Lane,
}

#[derive(Clone, Debug)]
struct Lane {
    bytes: usize,
    permits: Arc<Semaphore>,
    /// How many wait for them.
    waiting: Arc<AtomicUsize>,
}

/// One who waits, until dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    permit: Option<OwnedSemaphorePermit>,
    waiting: Arc<AtomicUsize>,
}

impl Reserved {
    /// Whether somebody waits for bytes like these.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Gives back what is held beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }
}

impl ByteBudget {
    /// A budget of `bytes` in total.
    pub fn new(bytes: usize) -> Self {
        Self {
            long: Lane::new(bytes / 2),
            short: Lane::new(bytes - bytes / 2),
        }
    }

    /// Waits for `bytes`, first come, first served. A wish beyond a whole half waits for that half.
    ///
    /// Cancellation safe: a dropped wait takes nothing.
    pub async fn reserve(&self, bytes: usize) -> Reserved {
        let lane = if bytes > LONG_BYTES {
            &self.long
        } else {
            &self.short
        };
        lane.reserve(bytes).await
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.long.held() + self.short.held()
    }
}

impl Lane {
    fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self {
            bytes,
            permits: Arc::new(Semaphore::new(bytes)),
            waiting: Arc::default(),
        }
    }

    fn held(&self) -> usize {
        self.bytes - self.permits.available_permits()
    }

    async fn reserve(&self, bytes: usize) -> Reserved {
        let wanted = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        let waits = Waits::begin(&self.waiting);
        let permit = Arc::clone(&self.permits).acquire_many_owned(wanted).await;
        drop(waits);
        // Nobody closes these semaphores, so there is always a permit.
        Reserved {
            permit: permit.ok(),
            waiting: Arc::clone(&self.waiting),
        }
    }
}

/// Longer wishes draw from the half for long ones.
const LONG_BYTES: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use firn_proto::kafka::ApiKey;

    use super::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let budget = ByteBudget::new(1000);
        let held = budget.reserve(300).now_or_never().unwrap();
        assert_eq!(budget.held(), 300);
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn what_is_not_needed_any_more_is_free_before_the_rest() {
        let budget = ByteBudget::new(1000);
        let mut held = budget.reserve(300).now_or_never().unwrap();
        held.shrink_to(100);
        assert_eq!(budget.held(), 100);
        held.shrink_to(200);
        assert_eq!(budget.held(), 100, "it does not grow");
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn produce_does_not_hold_up_anything_else() {
        let memory = RequestMemory::new(8 << 20, 128 << 20);
        let _short = memory.reserve(FrameKind::Produce, 2 << 20).now_or_never();
        let _more = memory.reserve(FrameKind::Produce, 2 << 20).now_or_never();
        let _long = memory.reserve(FrameKind::Produce, 4 << 20).now_or_never();
        for len in [100, 4 << 20] {
            let produce = memory.reserve(FrameKind::Produce, len).now_or_never();
            assert!(produce.is_none(), "{len}");
        }
        for len in [100, 100 << 10, 4 << 20] {
            let other = memory.reserve(FrameKind::Other, len).now_or_never();
            assert!(other.is_some(), "{len}");
        }
    }

    #[test]
    fn what_waits_for_the_journal_does_not_hold_up_anything_else() {
        let kind = |api: ApiKey| FrameKind::of(&api.code().to_be_bytes());
        for waits in [
            ApiKey::DeleteGroups,
            ApiKey::DescribeGroups,
            ApiKey::OffsetCommit,
            ApiKey::OffsetFetch,
        ] {
            for len in [100, 9_600] {
                let memory = RequestMemory::new(8 << 20, 128 << 20);
                let wait = || memory.reserve(kind(waits), len).now_or_never();
                let held: Vec<_> = std::iter::from_fn(wait).collect();
                assert!(held.len() > 100, "{}", held.len());
                for len in [100, 100 << 10, 4 << 20] {
                    let other = memory.reserve(kind(ApiKey::Heartbeat), len).now_or_never();
                    assert!(other.is_some(), "{len} bytes behind {}", waits.name());
                }
            }
        }
    }

    #[test]
    fn what_is_kept_of_long_lists_of_names_does_not_hold_up_other_producers() {
        let memory = RequestMemory::new(8 << 20, 128 << 20);
        let bytes = PENDING_PRODUCE_BYTES_MAX;
        let names = || memory.reserve_pending(bytes).now_or_never();
        let held: Vec<_> = std::iter::from_fn(names).collect();
        assert_eq!(held.len(), 1, "no more are kept at a time");
        assert!(memory.reserve_pending(1000).now_or_never().is_some());
    }

    #[test]
    fn small_requests_do_not_wait_for_larger_ones() {
        let memory = RequestMemory::new(8 << 20, 128 << 20);
        let large = || memory.reserve(FrameKind::Other, 100 << 10).now_or_never();
        let _held: Vec<_> = std::iter::from_fn(large).collect();
        let small = memory.reserve(FrameKind::Other, SMALL_REQUEST_BYTES);
        assert!(small.now_or_never().is_some());
    }

    #[test]
    fn requests_that_wait_for_records_leave_the_memory_of_answers_alone() {
        let memory = FetchMemory::new(64 << 20);
        let asking = || memory.reserve_asking(1000).now_or_never();
        let held: Vec<_> = std::iter::from_fn(asking).collect();
        assert_eq!(held.len(), (8 << 20) / (1000 * FETCH_PARTITION_BYTES));
        let parked = || memory.reserve_parked(1000).now_or_never();
        let parked: Vec<_> = std::iter::from_fn(parked).collect();
        assert_eq!(parked.len(), held.len());
        let whole = memory.try_reserve_answer(memory.answer_bytes_max());
        assert!(whole.is_some());
        assert!(memory.try_reserve_answer(3 << 20).is_none());
        assert!(memory.try_reserve_answer(1 << 20).is_some());
    }

    #[test]
    fn requests_that_are_parked_do_not_keep_others_from_being_looked_at() {
        let memory = FetchMemory::new(64 << 20);
        let parked = || memory.reserve_parked(1000).now_or_never();
        let _held: Vec<_> = std::iter::from_fn(parked).collect();
        assert!(memory.reserve_asking(1000).now_or_never().is_some());
    }

    #[test]
    fn an_answer_that_finds_no_room_is_a_shorter_one() {
        let memory = FetchMemory::new(64 << 20);
        let wanted = memory.answer_bytes_max();
        let answer = |least| memory.reserve_answer_up_to(wanted, least).now_or_never();
        let (_slowly_taken, bytes) = answer(1).unwrap();
        assert_eq!(bytes, wanted);
        let (_shorter, bytes) = answer(1).unwrap();
        assert_eq!(bytes, LONG_BYTES);
        assert!(answer(LONG_BYTES + 1).is_none(), "a batch is not cut");
    }

    #[test]
    fn who_holds_bytes_learns_that_others_wait_for_them() {
        let budget = ByteBudget::new(2_000);
        let held = budget.reserve(1_000).now_or_never().unwrap();
        assert!(!held.is_wanted());
        let mut wait = Box::pin(budget.reserve(1));
        assert!(wait.as_mut().now_or_never().is_none());
        assert!(held.is_wanted());
        drop(wait);
        assert!(!held.is_wanted());
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
