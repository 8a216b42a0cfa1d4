//! A journal in memory whose puts complete by themselves or by hand, a clock that follows tokio's,
//! and members that join groups.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use firn_proto::cluster::{Assignment, ConsumerHeartbeat, JoinGroup, Protocol};
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Slot};
use firn_proto::journal::{
    Claimed, Journal, JournalError, JournalOpener, JournalPosition, KnownSlot, OpenedJournal,
    Taking,
};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{oneshot, watch};

use crate::handle::Environment;

/// How long a bucket that is slow takes for each thing, unless it is told.
const STEP: Duration = Duration::from_secs(1);

type Outcome = oneshot::Sender<Result<(), JournalError>>;

/// What the bucket holds, and the puts that wait for the test.
#[derive(Default)]
struct Held {
    /// Who claimed each epoch, from 1 on.
    claims: Vec<Bytes>,
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
    step_lasts: Option<Duration>,
    is_stuck: bool,
    looking_lasts: Duration,
    /// Slots that the last opener read.
    replayed: usize,
}

impl Held {
    fn fits(&self, known: &KnownSlot) -> bool {
        let covered = self.snapshot.as_ref().map(|(covers, _)| *covers);
        let mut slots = self.slots.iter();
        let found = slots.find(|(position, _)| *position == known.at);
        let is_same = |body: &Bytes| known.body.as_ref().is_none_or(|known| known == body);
        Some(known.at) >= covered && found.is_some_and(|(_, body)| is_same(body))
    }
}

/// A bucket in memory, reduced to its journal.
#[derive(Clone, Default)]
pub(crate) struct MemoryBucket {
    held: Arc<Mutex<Held>>,
    /// Nothing that is asked over this handle has an answer.
    is_cut: watch::Sender<bool>,
    /// Of the process.
    clock: Option<Arc<dyn Clock>>,
}

/// The journal of one epoch.
struct MemoryJournal {
    bucket: MemoryBucket,
    epoch: CoordinatorEpoch,
}

impl MemoryBucket {
    /// A bucket whose puts wait for [`MemoryBucket::complete_next`].
    pub(crate) fn by_hand() -> Self {
        let bucket = Self::default();
        bucket.held().by_hand = true;
        bucket
    }

    /// The same bucket, for another process.
    pub(crate) fn for_another(&self, clock: Arc<dyn Clock>) -> Self {
        Self {
            held: Arc::clone(&self.held),
            is_cut: watch::Sender::default(),
            clock: Some(clock),
        }
    }

    /// Nothing that this process asks has an answer from now on, until that is over.
    pub(crate) fn set_cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }

    /// Waits until the bucket can be reached.
    fn reached(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut is_cut = self.is_cut.subscribe();
        async move {
            if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
                std::future::pending().await
            }
        }
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

    /// The last slot holds something else from now on.
    pub(crate) fn replace_last(&self, body: Bytes) {
        self.held().slots.last_mut().unwrap().1 = body;
    }

    /// How many of them the last opener read.
    pub(crate) fn replayed(&self) -> usize {
        self.held().replayed
    }

    /// How many of them come after that position.
    pub(crate) fn slots_after(&self, covered: Option<JournalPosition>) -> usize {
        let held = self.held();
        let after = |(position, _): &&(JournalPosition, Bytes)| Some(*position) > covered;
        held.slots.iter().filter(after).count()
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

    /// Each step of an opening takes so long from now on.
    pub(crate) fn set_step_lasts(&self, step_lasts: Duration) {
        self.held().step_lasts = Some(step_lasts);
    }

    /// Each request of a look, or of who made the newest claim, takes so long from now on.
    pub(crate) fn set_looking_lasts(&self, looking_lasts: Duration) {
        self.held().looking_lasts = looking_lasts;
    }

    /// Whoever claims an epoch from now on is not served any more.
    pub(crate) fn set_stuck(&self, is_stuck: bool) {
        self.held().is_stuck = is_stuck;
    }

    /// How many epochs were claimed.
    pub(crate) fn claims(&self) -> usize {
        self.held().claims.len()
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
        self.held.lock().unwrap()
    }
}

impl MemoryBucket {
    pub(crate) fn claimed(&self, epoch: CoordinatorEpoch) -> Option<Claimed> {
        let held = self.held();
        let index = usize::try_from(epoch.0).unwrap().checked_sub(1)?;
        let identity = held.claims.get(index)?.clone();
        Some(Claimed { epoch, identity })
    }

    fn open_now(&self, taking: Taking, claimed_at: Mono) -> Result<OpenedJournal, JournalError> {
        let Taking {
            identity,
            after,
            known,
            ..
        } = taking;
        let mut held = self.held();
        if held.is_refusing {
            return Err(refused());
        }
        let newest = CoordinatorEpoch(held.claims.len() as u64);
        if let Some(after) = after.filter(|after| *after != newest) {
            return Err(JournalError::Superseded {
                epoch: after,
                newer: newest,
            });
        }
        held.claims.push(identity);
        held.next_slot = 0;
        held.waiting.clear();
        let epoch = CoordinatorEpoch(newest.0 + 1);
        let covered = held.snapshot.as_ref().map(|(position, _)| *position);
        let known = known.filter(|known| held.fits(known));
        let read_from = known.as_ref().map(|known| known.at).or(covered);
        let after = |(position, _): &&(JournalPosition, Bytes)| Some(*position) > read_from;
        let entries: Vec<_> = held.slots.iter().filter(after).cloned().collect();
        held.replayed = entries.len();
        let left = |(position, _): &&(JournalPosition, Bytes)| Some(*position) > covered;
        let log_slots = held.slots.iter().filter(left).count() as u64;
        Ok(OpenedJournal {
            cluster: ClusterId([7; 16]),
            epoch,
            claimed_at,
            snapshot: held.snapshot.clone().filter(|_| known.is_none()),
            follows_known: known.is_some(),
            log_slots,
            entries,
            journal: Box::new(MemoryJournal {
                bucket: self.clone(),
                epoch,
            }),
        })
    }
}

impl JournalOpener for MemoryBucket {
    fn newest(&self) -> BoxFuture<'_, Result<Option<Claimed>, JournalError>> {
        async move {
            self.reached().await;
            // It lists twice and reads once.
            let lasts = 3 * self.held().looking_lasts;
            if !lasts.is_zero() {
                tokio::time::sleep(lasts).await;
            }
            let newest = self.held().claims.len() as u64;
            Ok(self.claimed(CoordinatorEpoch(newest)))
        }
        .boxed()
    }

    fn claim(
        &self,
        epoch: CoordinatorEpoch,
    ) -> BoxFuture<'_, Result<Option<Claimed>, JournalError>> {
        async move {
            self.reached().await;
            Ok(self.claimed(epoch))
        }
        .boxed()
    }

    fn open(&self, taking: Taking) -> BoxFuture<'_, Result<OpenedJournal, JournalError>> {
        async move {
            let on_step = Arc::clone(&taking.on_step);
            self.reached().await;
            let (is_away, lasts, step_lasts) = {
                let held = self.held();
                let is_away = held.is_away && !held.is_refusing;
                (is_away, held.opening_lasts, held.step_lasts.unwrap_or(STEP))
            };
            if is_away {
                return std::future::pending().await;
            }
            let claimed_at = self.clock.as_ref().map_or(Mono(0), |clock| clock.mono());
            let opened = self.open_now(taking, claimed_at)?;
            on_step();
            if self.held().is_stuck {
                return std::future::pending().await;
            }
            let mut left = lasts;
            while !left.is_zero() {
                let step = left.min(step_lasts);
                tokio::time::sleep(step).await;
                left -= step;
                on_step();
            }
            Ok(opened)
        }
        .boxed()
    }
}

impl Journal for MemoryJournal {
    fn append(&self, body: Bytes) -> BoxFuture<'static, Result<JournalPosition, JournalError>> {
        let (bucket, epoch) = (self.bucket.clone(), self.epoch);
        let fenced = move || JournalError::Fenced { epoch };
        let mut held = bucket.held();
        if *bucket.is_cut.borrow() {
            drop(held);
            return async move {
                bucket.reached().await;
                Err(fenced())
            }
            .boxed();
        }
        if held.claims.len() as u64 != epoch.0 {
            return async move { Err(fenced()) }.boxed();
        }
        let slot = Slot(held.next_slot);
        let position = JournalPosition { epoch, slot };
        held.next_slot += 1;
        if !held.by_hand {
            held.slots.push((position, body));
            return async move { Ok(position) }.boxed();
        }
        let (done, outcome) = oneshot::channel();
        held.waiting.push_back((position, body, done));
        async move {
            outcome.await.map_err(|_| fenced())??;
            Ok(position)
        }
        .boxed()
    }

    fn put_snapshot(
        &self,
        covers: JournalPosition,
        body: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        self.bucket.held().snapshot = Some((covers, body));
        async { Ok(()) }.boxed()
    }

    fn look_for_newer(&self) -> BoxFuture<'static, Result<Option<CoordinatorEpoch>, JournalError>> {
        let (bucket, next) = (self.bucket.clone(), CoordinatorEpoch(self.epoch.0 + 1));
        bucket.held().looks += 1;
        async move {
            bucket.reached().await;
            let lasts = bucket.held().looking_lasts;
            if !lasts.is_zero() {
                tokio::time::sleep(lasts).await;
            }
            let (newer, is_away, is_refusing) = {
                let held = bucket.held();
                let is_claimed = held.claims.len() as u64 >= next.0;
                let newer = held.newer.or_else(|| is_claimed.then_some(next));
                (newer, held.is_away, held.is_refusing)
            };
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

/// A join of a classic group by name, to be varied.
pub(crate) fn classic_join(member: &str) -> JoinGroup {
    JoinGroup {
        group: "g".into(),
        member: member.into(),
        instance: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol {
            name: "range".into(),
            metadata: Arc::from([]),
        }],
        require_known_member: false,
        supports_skip_assignment: false,
        reason: None,
    }
}

/// A join of a consumer group by name, to be varied.
pub(crate) fn consumer_join(member: &str, topics: &[&str]) -> ConsumerHeartbeat {
    ConsumerHeartbeat {
        group: "g".into(),
        member: member.into(),
        requires_member: true,
        epoch: 0,
        instance: None,
        rack: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: CONSUMER_REBALANCE_MS,
        topics: Some(topics.iter().map(|name| Arc::from(*name)).collect()),
        regex: None,
        assignor: None,
        owned: Some(Assignment::default()),
    }
}

/// How long members of [`consumer_join`] may take for a rebalance.
pub(crate) const CONSUMER_REBALANCE_MS: i32 = 30_000;
