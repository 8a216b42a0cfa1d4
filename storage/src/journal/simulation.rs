//! Processes that open, append, snapshot, stall and die at random over one store that fails at
//! random: whoever opens later sees everything that was acknowledged, in one order. A failure
//! prints its seed.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::CoordinatorEpoch;
use firn_proto::journal::{
    JournalError, JournalOpener, JournalPosition, KnownSlot, OpenedJournal, Taking,
};

use super::BucketJournal;
use crate::bucket::Bucket;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::stream::StreamEnv;
use crate::stream::testing::TokioClock;

/// What everybody together has seen.
#[derive(Default)]
struct History {
    /// Acknowledged appends.
    acknowledged: Vec<(JournalPosition, String)>,
    /// What those who appended had read and appended by then.
    known: Vec<(KnownSlot, Vec<String>)>,
    /// Openings that began with what was known.
    followed: usize,
    /// What the openers of epochs found.
    views: Vec<(CoordinatorEpoch, Vec<String>)>,
}

struct World {
    seed: u64,
    store: FaultStore,
    bucket: Bucket,
    env: StreamEnv,
    history: RefCell<History>,
}

impl World {
    fn new(seed: u64) -> Self {
        let store = FaultStore::in_memory();
        let env = StreamEnv {
            clock: Arc::new(TokioClock::new()) as Arc<dyn Clock>,
            entropy: Arc::new(Entropy::from_seed(seed)),
        };
        let (clock, entropy) = (Arc::clone(&env.clock), Arc::clone(&env.entropy));
        Self {
            seed,
            bucket: Bucket::from_store(Arc::new(store.clone()), clock, entropy),
            store,
            env,
            history: RefCell::default(),
        }
    }

    fn roll(&self, of: u64) -> u64 {
        self.env.entropy.next_u64() % of
    }

    async fn stall(&self, milliseconds_max: u64) {
        tokio::time::sleep(Duration::from_millis(self.roll(milliseconds_max))).await;
    }

    /// What some process that appended knew at some time.
    fn some_known(&self) -> Option<(KnownSlot, Vec<String>)> {
        let history = self.history.borrow();
        let of = history.known.len() as u64;
        let which = self.roll(2 * of + 1);
        history.known.get(usize::try_from(which).unwrap()).cloned()
    }

    /// The whole log as an opener found it: what it knew or the snapshot holds, then the entries.
    fn on_open(&self, opened: &OpenedJournal, known: Vec<String>) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!opened.follows_known || opened.snapshot.is_none());
        self.history.borrow_mut().followed += usize::from(opened.follows_known);
        let known = if opened.follows_known {
            known
        } else {
            Vec::new()
        };
        let mut view = known;
        let covered: Vec<String> = opened
            .snapshot
            .iter()
            .flat_map(|(_, body)| {
                text(body)
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        view.extend(covered);
        view.extend(opened.entries.iter().map(|(_, body)| text(body)));
        self.history
            .borrow_mut()
            .views
            .push((opened.epoch, view.clone()));
        view
    }

    /// One process: opens, does something, and ends without a word.
    async fn process(&self) {
        self.stall(3_000).await;
        let opener = BucketJournal::new(self.bucket.clone(), self.env.clone());
        let patience = Duration::from_millis(self.roll(20_000) + 1);
        let (known, state) = self.some_known().unzip();
        let taking = Taking {
            known,
            ..Taking::next_free(Bytes::new())
        };
        let opened = tokio::time::timeout(patience, opener.open(taking)).await;
        let Ok(Ok(opened)) = opened else {
            if let Ok(Err(error @ JournalError::Corrupt { .. })) = opened {
                panic!("seed {}: {error}", self.seed);
            }
            return;
        };
        let mut state = self.on_open(&opened, state.unwrap_or_default());
        for number in 0..self.roll(8) {
            self.stall(600).await;
            let text = format!("{}.{number}", opened.epoch);
            let append = opened.journal.append(Bytes::from(text.clone()));
            let Ok(Ok(at)) = tokio::time::timeout(patience, append).await else {
                return;
            };
            self.history
                .borrow_mut()
                .acknowledged
                .push((at, text.clone()));
            state.push(text.clone());
            // Some have heard of the slot, and some only of the state after it.
            let body = (self.roll(2) == 0).then(|| Bytes::from(text));
            let known = KnownSlot { at, body };
            self.history.borrow_mut().known.push((known, state.clone()));
            if self.roll(3) == 0 {
                self.stall(600).await;
                let body = Bytes::from(state.join(" "));
                let put = opened.journal.put_snapshot(at, body);
                let _ = tokio::time::timeout(patience, put).await;
            }
        }
    }

    fn inject(&self) {
        const FAULTS: [(On, Fault); 11] = [
            (On::Put, Fault::AnswerLost),
            (On::Put, Fault::RequestLost),
            (On::Put, Fault::AppliedLater),
            (On::Put, Fault::Conflict),
            (On::Put, Fault::FailedAfter),
            (On::Put, Fault::HangAfter),
            (On::Put, Fault::Throttled),
            (On::Get, Fault::Throttled),
            (On::Get, Fault::Truncated),
            (On::List, Fault::Throttled),
            (On::Delete, Fault::AnswerLost),
        ];
        for _ in 0..self.roll(10) {
            let (on, fault) = FAULTS[usize::try_from(self.roll(11)).unwrap()];
            let rule = Rule::new(on, fault)
                .after(self.roll(40))
                .times(self.roll(3) + 1);
            self.store.inject(rule);
        }
    }

    /// Delivers puts that were held back, at some time.
    async fn deliver(&self) {
        for _ in 0..20 {
            self.stall(2_000).await;
            self.store.deliver().await;
        }
    }

    fn check(&self) {
        let seed = self.seed;
        let mut history = self.history.borrow_mut();
        history.views.sort();
        history.acknowledged.sort();
        for pair in history.views.windows(2) {
            let ((earlier, before), (later, after)) = (&pair[0], &pair[1]);
            assert!(
                earlier < later,
                "seed {seed}: epoch {later} was opened twice"
            );
            assert!(
                after.starts_with(before),
                "seed {seed}: epoch {earlier} found {before:?}, epoch {later} found {after:?}"
            );
        }
        let (_, last) = history.views.last().unwrap();
        let mut from = 0;
        for (at, text) in &history.acknowledged {
            let place = last[from..].iter().position(|entry| entry == text);
            let place =
                place.unwrap_or_else(|| panic!("seed {seed}: {text} at {at} is gone: {last:?}"));
            from += place + 1;
        }
    }
}

/// How much was acknowledged, and how many openings began with what was known.
async fn run(seed: u64) -> (usize, usize) {
    let world = World::new(seed);
    for _ in 0..3 {
        world.inject();
        tokio::join!(
            world.process(),
            world.process(),
            world.process(),
            world.deliver()
        );
    }
    world.store.clear();
    let opener = BucketJournal::new(world.bucket.clone(), world.env.clone());
    let opened = opener.open(Taking::next_free(Bytes::new())).await;
    let opened = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    world.on_open(&opened, Vec::new());
    world.check();
    let history = world.history.borrow();
    (history.acknowledged.len(), history.followed)
}

#[tokio::test(start_paused = true)]
async fn whoever_opens_later_sees_everything_acknowledged_in_one_order() {
    let (mut acknowledged, mut followed) = (0, 0);
    for seed in 0..400 {
        let (more, following) = run(seed).await;
        acknowledged += more;
        followed += following;
    }
    assert!(followed > 100, "what is known is used: {followed}");
    assert!(
        acknowledged > 1_000,
        "most processes get somewhere: {acknowledged}"
    );
}
