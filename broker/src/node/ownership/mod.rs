//! What a node does about the picture of the cluster: takes over partitions that it is given, gives
//! up those that another broker wants, closes those whose topic is gone.
//!
//! - `plan.rs`: what the picture asks for, partition by partition (pure)
//! - `jobs.rs`: how partitions come and go, many at a time
//! - `retries.rs`: when what did not work is tried again (pure)
//! - this file: follows the picture; no task per partition, a bounded number of jobs

mod jobs;
mod plan;
mod retries;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use firn_proto::cluster::{
    ClusterImage, ConfirmDeleted, CoordinatorError, PartitionImage, Reply, Request, TopicImage,
};
use firn_proto::env::Mono;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use firn_storage::state::StateRow;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::recovery::PARTITIONS_PER_REQUEST;
pub(super) use jobs::Movers;
use jobs::Wanted;
use plan::{Due, Here, due};
use retries::{PAUSE_FIRST, Retries};

/// Jobs at the same time.
const JOBS_MAX: usize = 4;

/// Opens and closes partitions as the picture of the cluster says.
pub(super) struct Follower {
    movers: Arc<Movers>,
    /// The topics that have been looked at.
    seen: BTreeMap<TopicId, Arc<TopicImage>>,
    /// Those of them that are to be looked at again, though they look as they did.
    stale: BTreeSet<TopicId>,
    /// Deleted topics that are closed here, which the coordinator has not taken note of.
    unconfirmed: Vec<TopicId>,
    confirming: Option<BoxFuture<'static, Confirmed>>,
    /// The last epoch of each partition that was opened here, or ended before it was.
    last: BTreeMap<TopicPartition, LeaderEpoch>,
    /// What waits for a job.
    to_acquire: BTreeMap<TopicPartition, Wanted>,
    to_release: BTreeSet<TopicPartition>,
    to_give_back: BTreeMap<TopicPartition, Wanted>,
    /// What jobs work on.
    busy: BTreeSet<TopicPartition>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// What did not work.
    retries: Retries,
    /// When pauses were looked at, and the end of the next one.
    retried: Mono,
    retry: Option<Pin<Box<Sleep>>>,
    /// The pause before a deletion is told again that the coordinator did not take note of.
    again: Option<Pin<Box<Sleep>>>,
    /// Whether this process was in the picture.
    was_there: bool,
    /// Cancelled when it is there no more: others have its partitions.
    fenced: CancellationToken,
}

/// What became of telling the coordinator that topics are closed here.
type Confirmed = (Vec<TopicId>, Result<Reply, CoordinatorError>);

/// A job that is over.
struct Done {
    /// What it worked on.
    tps: Vec<TopicPartition>,
    /// What of it did not work.
    failed: Vec<(TopicPartition, LeaderEpoch)>,
}

impl Follower {
    /// A follower of nothing so far, which says by `fenced` when this process has lost its place.
    pub(super) fn new(movers: Arc<Movers>, fenced: CancellationToken) -> Self {
        Self {
            movers,
            seen: BTreeMap::new(),
            stale: BTreeSet::new(),
            unconfirmed: Vec::new(),
            confirming: None,
            last: BTreeMap::new(),
            to_acquire: BTreeMap::new(),
            to_release: BTreeSet::new(),
            to_give_back: BTreeMap::new(),
            busy: BTreeSet::new(),
            jobs: FuturesUnordered::new(),
            retries: Retries::default(),
            retried: Mono::default(),
            retry: None,
            again: None,
            was_there: false,
            fenced,
        }
    }

    /// These epochs were taken up by this process and ended. A picture that is older than their ends
    /// opens none of them.
    pub(super) fn on_ended(&mut self, ended: Vec<(TopicPartition, LeaderEpoch)>) {
        self.last.extend(ended);
    }

    /// Follows the picture until the coordinator has stopped.
    pub(super) async fn run(mut self, mut image: watch::Receiver<Arc<ClusterImage>>) {
        loop {
            let latest = Arc::clone(&image.borrow_and_update());
            self.follow(&latest);
            tokio::select! {
                changed = image.changed() => if changed.is_err() {
                    return;
                },
                Some(done) = self.jobs.next() => self.on_done(done),
                confirmed = poll(self.confirming.as_mut()) => self.on_confirmed(confirmed),
                () = poll(self.retry.as_mut()) => self.look_again(),
                () = poll(self.again.as_mut()) => self.again = None,
            }
        }
    }

    /// Brings the open partitions to what the picture says now, and waits until they are.
    pub(super) async fn settle(&mut self, image: &watch::Receiver<Arc<ClusterImage>>) {
        loop {
            let latest = Arc::clone(&image.borrow());
            self.follow(&latest);
            match self.jobs.next().await {
                Some(done) => self.on_done(done),
                None => return,
            }
        }
    }

    /// Begins to bring the open partitions to what `image` says.
    fn follow(&mut self, image: &ClusterImage) {
        self.watch_own_place(image);
        for (id, topic) in image.topics.iter() {
            let known = self.seen.get(id);
            let is_known = known.is_some_and(|seen| Arc::ptr_eq(seen, topic));
            if !is_known || self.stale.contains(id) {
                self.look_at(topic);
                self.seen.insert(*id, Arc::clone(topic));
            }
        }
        self.stale.clear();
        let gone = |id: &TopicId| !image.topics.contains_key(id) && !self.is_busy(*id);
        let gone: Vec<TopicId> = self.seen.keys().copied().filter(gone).collect();
        self.close_gone(gone);
        self.start_jobs();
        self.confirm_deleted();
    }

    /// A process that is taken out of the picture has been taken for dead: its stream is sealed or
    /// soon will be.
    fn watch_own_place(&mut self, image: &ClusterImage) {
        let is_there = image.broker_of(self.movers.incarnation).is_some();
        if self.was_there && !is_there {
            self.movers.partitions.close_all();
            self.fenced.cancel();
        }
        self.was_there |= is_there;
    }

    fn look_at(&mut self, topic: &TopicImage) {
        let now = self.movers.env.clock.mono();
        let mut closed = Vec::new();
        for (index, partition) in (0..).map(PartitionIndex).zip(&topic.partitions) {
            let tp = TopicPartition {
                topic: topic.id,
                partition: index,
            };
            if self.busy.contains(&tp) {
                continue;
            }
            match self.due(tp, partition) {
                Due::Nothing => {
                    self.to_release.remove(&tp);
                }
                Due::Acquire | Due::Release if self.retries.waits(tp, partition.epoch, now) => {}
                Due::OpenNew => {
                    self.last.insert(tp, partition.epoch);
                    let row = StateRow::new(tp, partition.epoch);
                    self.movers.partitions.open(row);
                }
                Due::Acquire => {
                    self.to_acquire.insert(tp, Wanted::of(tp, partition));
                }
                Due::GiveBack => {
                    // whatever becomes of it, it is not opened in this epoch any more
                    self.last.insert(tp, partition.epoch);
                    self.to_acquire.remove(&tp);
                    self.to_give_back.insert(tp, Wanted::of(tp, partition));
                }
                Due::Release => {
                    self.to_release.insert(tp);
                }
                Due::Close => closed.push(tp),
            }
        }
        self.movers.partitions.close(&closed);
        self.movers.tell_durability(topic);
    }

    fn due(&self, tp: TopicPartition, partition: &PartitionImage) -> Due {
        let here = Here {
            incarnation: self.movers.incarnation,
            last: self.last.get(&tp).copied(),
            is_open: self.movers.partitions.find_tp(tp).is_some(),
            is_failing: self.retries.is_failing(tp, partition.epoch),
        };
        due(partition, here)
    }

    /// Starts what waits: what is given up first, since somebody waits for it.
    fn start_jobs(&mut self) {
        while self.jobs.len() < JOBS_MAX {
            let movers = Arc::clone(&self.movers);
            if !self.to_release.is_empty() {
                let tps = take(&mut self.to_release);
                self.busy.extend(&tps);
                let job = async move {
                    movers.release(&tps).await;
                    let open = |tp: &TopicPartition| movers.partitions.find_tp(*tp);
                    let failed = tps.iter().filter_map(|tp| Some((*tp, open(tp)?.epoch())));
                    let failed = failed.collect();
                    Done { tps, failed }
                };
                self.jobs.push(job.boxed());
                continue;
            }
            let given_back = take_wanted(&mut self.to_give_back);
            if !given_back.is_empty() {
                let tps: Vec<_> = given_back.iter().map(|wanted| wanted.tp).collect();
                self.busy.extend(&tps);
                let job = async move {
                    movers.give_back(&given_back).await;
                    let failed = Vec::new();
                    Done { tps, failed }
                };
                self.jobs.push(job.boxed());
                continue;
            }
            let wanted = take_wanted(&mut self.to_acquire);
            if wanted.is_empty() {
                return;
            }
            let epochs: Vec<_> = wanted.iter().map(|want| (want.tp, want.epoch)).collect();
            let tps: Vec<_> = epochs.iter().map(|(tp, _)| *tp).collect();
            self.busy.extend(&tps);
            let job = async move {
                movers.acquire(wanted).await;
                let is_closed = |(tp, _): &(TopicPartition, LeaderEpoch)| {
                    movers.partitions.find_tp(*tp).is_none()
                };
                let failed = epochs.into_iter().filter(is_closed).collect();
                Done { tps, failed }
            };
            self.jobs.push(job.boxed());
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = self.movers.env.clock.mono();
        self.retries.on_failed(&done.failed, now);
        self.movers.partitions.on_unopened(&done.failed);
        let failed: BTreeSet<_> = done.failed.iter().map(|(tp, _)| *tp).collect();
        for tp in &done.tps {
            self.busy.remove(tp);
            if !failed.contains(tp) {
                self.retries.forget(*tp);
            }
            if let Some(partition) = self.movers.partitions.find_tp(*tp) {
                self.last.insert(*tp, partition.epoch());
            }
            // the picture may have moved on meanwhile
            self.stale.insert(tp.topic);
        }
        self.wait_for_retry(now);
    }

    /// Looks again at what did not work and whose pause is over.
    fn look_again(&mut self) {
        let now = self.movers.env.clock.mono();
        let due = self.retries.due(self.retried, now).map(|tp| tp.topic);
        self.stale.extend(due);
        self.retried = now;
        self.wait_for_retry(now);
    }

    fn wait_for_retry(&mut self, now: Mono) {
        let next = self.retries.next(self.retried);
        self.retry = next.map(|next| Box::pin(sleep(next.since(now))));
    }

    /// Whether something of the topic is still on its way.
    fn is_busy(&self, topic: TopicId) -> bool {
        let of_topic = TopicPartition {
            topic,
            partition: PartitionIndex(i32::MIN),
        }..=TopicPartition {
            topic,
            partition: PartitionIndex(i32::MAX),
        };
        self.busy.range(of_topic).next().is_some()
    }

    fn close_gone(&mut self, gone: Vec<TopicId>) {
        for id in gone {
            let Some(topic) = self.seen.remove(&id) else {
                continue;
            };
            let indexes = (0..).map(PartitionIndex).zip(&topic.partitions);
            let tps = indexes.map(|(partition, _)| TopicPartition {
                topic: id,
                partition,
            });
            let tps: Vec<_> = tps.collect();
            self.movers.partitions.close(&tps);
            for tp in &tps {
                self.last.remove(tp);
                self.retries.forget(*tp);
                self.to_acquire.remove(tp);
                self.to_release.remove(tp);
                self.to_give_back.remove(tp);
            }
            self.movers.known.forget(id);
            tracing::info!(topic = %topic.name, %id, "topic deleted");
            self.unconfirmed.push(id);
        }
    }

    /// Says that nothing here touches those topics any more: their names stay taken until the
    /// coordinator knows, so it is told until it does.
    fn confirm_deleted(&mut self) {
        if self.unconfirmed.is_empty() || self.confirming.is_some() || self.again.is_some() {
            return;
        }
        let topics = self.unconfirmed.clone();
        let coordinator = self.movers.coordinator.clone();
        let confirm = Request::ConfirmDeleted(ConfirmDeleted {
            incarnation: self.movers.incarnation,
            topics: topics.clone(),
        });
        let confirming = async move { (topics, coordinator.call(confirm).await) };
        self.confirming = Some(confirming.boxed());
    }

    fn on_confirmed(&mut self, (topics, confirmed): Confirmed) {
        self.confirming = None;
        match confirmed {
            Ok(_) => self.unconfirmed.retain(|id| !topics.contains(id)),
            Err(error) => {
                tracing::warn!(%error, "the deletion of topics was not confirmed, telling it again");
                self.again = Some(Box::pin(sleep(PAUSE_FIRST)));
            }
        }
    }
}

/// As many as one job takes.
fn take_wanted(waiting: &mut BTreeMap<TopicPartition, Wanted>) -> Vec<Wanted> {
    let mut taken = Vec::new();
    while taken.len() < PARTITIONS_PER_REQUEST
        && let Some((_, next)) = waiting.pop_first()
    {
        taken.push(next);
    }
    taken
}

/// The same, of those whose names are enough.
fn take(waiting: &mut BTreeSet<TopicPartition>) -> Vec<TopicPartition> {
    let mut taken = Vec::new();
    while taken.len() < PARTITIONS_PER_REQUEST
        && let Some(next) = waiting.pop_first()
    {
        taken.push(next);
    }
    taken
}

/// The result of what is under way; never, if nothing is.
async fn poll<T>(under_way: Option<impl Future<Output = T>>) -> T {
    match under_way {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
