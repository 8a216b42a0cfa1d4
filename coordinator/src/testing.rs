//! A journal in memory whose puts complete by themselves or by hand, and a clock that follows
//! tokio's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Slot};
use firn_proto::journal::{Journal, JournalError, JournalOpener, JournalPosition, OpenedJournal};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use crate::handle::Environment;

type Outcome = oneshot::Sender<Result<(), JournalError>>;

/// What the bucket holds, and the puts that wait for the test.
#[derive(Default)]
struct Held {
    epoch: u64,
    by_hand: bool,
    slots: Vec<(JournalPosition, Bytes)>,
    next_slot: u64,
    waiting: VecDeque<(JournalPosition, Bytes, Outcome)>,
    snapshot: Option<(JournalPosition, Bytes)>,
    /// Looks for a later epoch so far, and what they find.
    looks: usize,
    newer: Option<CoordinatorEpoch>,
    is_away: bool,
    is_refusing: bool,
    opening_lasts: Duration,
}

/// A bucket in memory, reduced to its journal.
#[derive(Clone, Default)]
pub(crate) struct MemoryBucket(Arc<Mutex<Held>>);

impl MemoryBucket {
    /// A bucket whose puts wait for [`MemoryBucket::complete_next`].
    pub(crate) fn by_hand() -> Self {
        let bucket = Self::default();
        bucket.held().by_hand = true;
        bucket
    }

    pub(crate) fn complete_next(&self) {
        let (position, body, done) = self.next_waiting();
        self.held().slots.push((position, body));
        drop(done.send(Ok(())));
    }

    pub(crate) fn fail_next(&self, error: JournalError) {
        let (_, _, done) = self.next_waiting();
        drop(done.send(Err(error)));
    }

    pub(crate) fn waiting(&self) -> usize {
        self.held().waiting.len()
    }

    pub(crate) fn slots(&self) -> usize {
        self.held().slots.len()
    }

    /// What the slots hold, in their order.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        let held = self.held();
        held.slots.iter().map(|(_, body)| body.clone()).collect()
    }

    pub(crate) fn snapshot(&self) -> Option<JournalPosition> {
        self.held().snapshot.as_ref().map(|(position, _)| *position)
    }

    /// Another process claims an epoch.
    pub(crate) fn claim(&self, epoch: CoordinatorEpoch) {
        self.held().newer = Some(epoch);
    }

    /// Looks are not answered from now on, or again.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.held().is_away = is_away;
    }

    /// Looks and openings are refused from now on, or no longer.
    pub(crate) fn set_refusing(&self, is_refusing: bool) {
        self.held().is_refusing = is_refusing;
    }

    /// Openings take so long from now on.
    pub(crate) fn set_opening_lasts(&self, opening_lasts: Duration) {
        self.held().opening_lasts = opening_lasts;
    }

    pub(crate) fn looks(&self) -> usize {
        self.held().looks
    }

    pub(crate) fn opener(&self) -> Arc<dyn JournalOpener> {
        Arc::new(self.clone())
    }

    fn next_waiting(&self) -> (JournalPosition, Bytes, Outcome) {
        self.held().waiting.pop_front().expect("a put is under way")
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }
}

impl JournalOpener for MemoryBucket {
    fn open(&self, _identity: Bytes) -> BoxFuture<'_, Result<OpenedJournal, JournalError>> {
        let mut held = self.held();
        if held.is_refusing {
            return async { Err(refused()) }.boxed();
        }
        if held.is_away {
            return std::future::pending().boxed();
        }
        held.epoch += 1;
        held.next_slot = 0;
        held.waiting.clear();
        let covered = held.snapshot.as_ref().map(|(position, _)| *position);
        let after = |(position, _): &&(JournalPosition, Bytes)| Some(*position) > covered;
        let opened = OpenedJournal {
            cluster: ClusterId([7; 16]),
            epoch: CoordinatorEpoch(held.epoch),
            snapshot: held.snapshot.clone(),
            entries: held.slots.iter().filter(after).cloned().collect(),
            journal: Box::new(self.clone()),
        };
        let lasts = held.opening_lasts;
        async move {
            tokio::time::sleep(lasts).await;
            Ok(opened)
        }
        .boxed()
    }
}

impl Journal for MemoryBucket {
    fn append(&self, body: Bytes) -> BoxFuture<'static, Result<JournalPosition, JournalError>> {
        let mut held = self.held();
        let position = JournalPosition {
            epoch: CoordinatorEpoch(held.epoch),
            slot: Slot(held.next_slot),
        };
        held.next_slot += 1;
        if !held.by_hand {
            held.slots.push((position, body));
            return async move { Ok(position) }.boxed();
        }
        let (done, outcome) = oneshot::channel();
        held.waiting.push_back((position, body, done));
        async move {
            let gone = || JournalError::Unavailable("the epoch is over".to_owned());
            outcome.await.map_err(|_| gone())??;
            Ok(position)
        }
        .boxed()
    }

    fn put_snapshot(
        &self,
        covers: JournalPosition,
        body: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        self.held().snapshot = Some((covers, body));
        async { Ok(()) }.boxed()
    }

    fn look_for_newer(&self) -> BoxFuture<'static, Result<Option<CoordinatorEpoch>, JournalError>> {
        let mut held = self.held();
        held.looks += 1;
        let (newer, is_away, is_refusing) = (held.newer, held.is_away, held.is_refusing);
        async move {
            match (is_away, is_refusing) {
                (true, _) => std::future::pending().await,
                (false, true) => Err(refused()),
                (false, false) => Ok(newer),
            }
        }
        .boxed()
    }
}

fn refused() -> JournalError {
    JournalError::Refused("no right".to_owned())
}

/// Follows tokio's clock, which tests pause, and runs on where they say so.
pub(crate) struct TestClock {
    start: tokio::time::Instant,
    stood_still_micros: AtomicU64,
}

impl TestClock {
    fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
            stood_still_micros: AtomicU64::new(0),
        }
    }

    /// Time passes in which nothing of this process ran.
    pub(crate) fn stand_still(&self, for_: Duration) {
        let micros = for_.as_micros() as u64;
        self.stood_still_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        1_700_000_000_000 + (self.mono().0 / 1000) as i64
    }

    fn mono(&self) -> Mono {
        let stood_still = self.stood_still_micros.load(Ordering::Relaxed);
        Mono(self.start.elapsed().as_micros() as u64 + stood_still)
    }
}

/// A world of its own, with a fixed seed.
pub(crate) fn environment() -> Environment {
    environment_and_clock().0
}

/// The same, with its clock.
pub(crate) fn environment_and_clock() -> (Environment, Arc<TestClock>) {
    let clock = Arc::new(TestClock::new());
    let environment = Environment {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        entropy: Arc::new(Entropy::from_seed(1)),
    };
    (environment, clock)
}
