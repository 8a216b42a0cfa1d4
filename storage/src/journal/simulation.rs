//! Processes that open, append, snapshot, stall and die at random over one store that fails at
//! random: whoever opens later sees everything that was acknowledged, in one order. A failure
//! prints its seed.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::CoordinatorEpoch;
use firn_proto::journal::{JournalError, JournalOpener, JournalPosition, OpenedJournal, Taking};

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

    /// The whole log as an opener found it: what the snapshot holds, then the entries.
    fn on_open(&self, opened: &OpenedJournal) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let mut view: Vec<String> = opened
            .snapshot
            .iter()
            .flat_map(|(_, body)| {
                text(body)
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
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
        let opened =
            tokio::time::timeout(patience, opener.open(Taking::next_free(Bytes::new()))).await;
        let Ok(Ok(opened)) = opened else {
            if let Ok(Err(error @ JournalError::Corrupt { .. })) = opened {
                panic!("seed {}: {error}", self.seed);
            }
            return;
        };
        let mut state = self.on_open(&opened);
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
            state.push(text);
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

async fn run(seed: u64) -> usize {
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
    world.on_open(&opened.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    world.check();
    world.history.borrow().acknowledged.len()
}

#[tokio::test(start_paused = true)]
async fn whoever_opens_later_sees_everything_acknowledged_in_one_order() {
    let mut acknowledged = 0;
    for seed in 0..400 {
        acknowledged += run(seed).await;
    }
    assert!(
        acknowledged > 1_000,
        "most processes get somewhere: {acknowledged}"
    );
}
