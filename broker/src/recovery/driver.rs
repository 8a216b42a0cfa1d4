//! The leader's part: looks what dead processes left whenever the picture of the cluster says that
//! there may be something, and takes it over, again and again until nothing is left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ClusterImage, HoldEpochs, PartitionFold, PartitionImage, Reply, Request, SealStream,
    StreamToSeal, TopicImage,
};
use firn_proto::env::Mono;
use firn_proto::ids::{ClusterId, DiskId, Incarnation, LeaderEpoch, StreamId, TopicPartition};
use firn_storage::bucket::{Bucket, backoff};
use firn_storage::stream::{SealSpec, StreamEnv, StreamName, seal};
use futures::StreamExt;
use tokio::sync::watch;

use super::{Beginner, DiskWaits, KnownStates, RecoveryError, Wait, chunks, fold_each};
use crate::insist::insist;

/// Streams that are sealed at the same time.
const SEALS_AT_ONCE: usize = 8;
/// Longest wait for the leader to take note of what is to wait. It is told again.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether this process has become the leader.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Takes over from dead processes while this one holds the coordinator.
pub struct RecoveryDriver {
    /// The bucket.
    pub bucket: Bucket,
    /// Says what is left to do, and takes note of what was done.
    pub coordinator: Coordinator,
    /// The cluster.
    pub cluster: ClusterId,
    /// This process.
    pub incarnation: Incarnation,
    /// Time and randomness.
    pub env: StreamEnv,
    /// Takes the states of what this process gets.
    pub known: Arc<KnownStates>,
    /// Streams that wait for a disk.
    pub disks: DiskWaits,
    /// Partitions of which it was said that they are damaged.
    pub damaged: BTreeSet<TopicPartition>,
    /// Epochs that no leader is to go on from while this process lives: its own disk has records of
    /// them, and it could not say which of those the bucket lacks.
    pub unplaced: Vec<(TopicPartition, LeaderEpoch)>,
}

/// What is left when a pass is over.
struct Left {
    seals: Vec<StreamToSeal>,
    folds: Vec<PartitionFold>,
}

impl RecoveryDriver {
    /// Takes over until the future is dropped.
    pub async fn run(mut self) {
        let mut image = self.coordinator.image();
        let mut seen: Option<Arc<ClusterImage>> = None;
        let mut attempt = 0;
        let mut due = None;
        loop {
            let latest = Arc::clone(&image.borrow_and_update());
            let now = self.env.clock.mono();
            let leads = self.coordinator.leads().is_some();
            let is_due = due.is_some_and(|due| due <= now)
                || !seen.is_some_and(|seen| is_settled(&seen, &latest));
            seen = leads.then_some(latest);
            if !leads {
                self.hold_at_leader().await;
            }
            if leads && is_due {
                due = match self.pass().await {
                    Ok(waits) => {
                        attempt = 0;
                        waits
                    }
                    Err(error) => {
                        attempt += 1;
                        tracing::warn!(%error, attempt, "partitions of ended processes wait");
                        let pause = backoff(attempt, self.env.entropy.next_u64());
                        Some(self.env.clock.mono().after(pause))
                    }
                };
            }
            let pause = due.map_or(LOOK_INTERVAL, |due: Mono| {
                due.since(self.env.clock.mono()).min(LOOK_INTERVAL)
            });
            if timeout_or_change(&mut image, pause).await.is_err() {
                return;
            }
        }
    }

    /// Takes over what can be taken over now. Says when what waits for a disk is to be looked at
    /// again.
    ///
    /// # Errors
    /// The first that stood in the way; everything else is done.
    pub async fn pass(&mut self) -> Result<Option<Mono>, RecoveryError> {
        let mut failed = None;
        self.hold_unplaced().await?;
        let left = self.left().await?;
        let pending: BTreeSet<StreamId> = left
            .seals
            .iter()
            .map(|ended| ended.stream)
            .chain(left.folds.iter().map(|fold| fold.stream))
            .collect();
        self.disks.retain(|stream| pending.contains(&stream));
        let (seals, mut waits) = self.due_seals(left.seals);
        let sealed = seals.len();
        failed = failed.or(self.seal_all(seals).await.err());
        let folds = match sealed {
            0 => left.folds,
            _ => self.left().await?.folds,
        };
        let (folds, more) = self.due_folds(folds);
        waits = earliest(waits, more);
        if !folds.is_empty() {
            tracing::info!(
                partitions = folds.len(),
                "folding partitions that have no owner"
            );
        }
        let pending: BTreeSet<_> = folds.iter().map(|fold| fold.tp).collect();
        self.damaged.retain(|tp| pending.contains(tp));
        for some in chunks(folds) {
            failed = self.take_over(some).await.err().or(failed);
        }
        failed.map_or(Ok(waits), Err)
    }

    /// Lets what is unplaced wait.
    async fn hold_unplaced(&self) -> Result<(), RecoveryError> {
        if self.unplaced.is_empty() {
            return Ok(());
        }
        let hold = Request::HoldEpochs(HoldEpochs {
            incarnation: self.incarnation,
            epochs: self.unplaced.clone(),
        });
        match self.coordinator.call(hold).await? {
            Reply::Done => Ok(()),
            _ => Err(RecoveryError::wrong_reply("HoldEpochs")),
        }
    }

    /// Lets another leader wait, which may be another one than before.
    pub async fn hold_at_leader(&self) {
        match tokio::time::timeout(HOLD_MAX, self.hold_unplaced()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the leader is told again to wait"),
            Err(_) => tracing::debug!("the leader did not answer, and is told again to wait"),
        }
    }

    async fn left(&self) -> Result<Left, RecoveryError> {
        match self.coordinator.call(Request::PendingRecovery).await? {
            Reply::PendingRecovery { seals, folds } => Ok(Left { seals, folds }),
            _ => Err(RecoveryError::wrong_reply("PendingRecovery")),
        }
    }

    /// The streams to seal now, and when the next of the others is due.
    fn due_seals(&mut self, seals: Vec<StreamToSeal>) -> (Vec<StreamToSeal>, Option<Mono>) {
        let mut next = None;
        let mut due = Vec::new();
        for ended in seals {
            let disk = ended.disk.filter(|_| ended.holds_local);
            match self.wait(ended.stream, disk) {
                Wait::Until(at) => next = earliest(next, Some(at)),
                Wait::Over => {
                    // What was acknowledged in its last second may not have been told of.
                    let absent = ended.disk.filter(|disk| self.holder_of(*disk).is_none());
                    if let Some(disk) = absent {
                        report_absent(&ended, disk);
                    }
                    due.push(ended);
                }
            }
        }
        (due, next)
    }

    fn due_folds(&mut self, folds: Vec<PartitionFold>) -> (Vec<PartitionFold>, Option<Mono>) {
        let mut next = None;
        let mut due = Vec::new();
        // those of local topics go on with their disk, or when an operator gives it up
        for fold in folds.into_iter().filter(|fold| fold.waits_for.is_none()) {
            match self.wait(fold.stream, fold.disk) {
                Wait::Until(at) => next = earliest(next, Some(at)),
                Wait::Over => due.push(fold),
            }
        }
        (due, next)
    }

    /// Whether a stream waits for a disk. This process has done with its own before it served.
    fn wait(&mut self, stream: StreamId, disk: Option<DiskId>) -> Wait {
        let holder = disk.and_then(|disk| self.holder_of(disk));
        if holder == Some(self.incarnation) {
            return Wait::Over;
        }
        let now = self.env.clock.mono();
        self.disks.ask(stream, disk, holder.is_some(), now)
    }

    /// The live process that shows a disk.
    fn holder_of(&self, disk: DiskId) -> Option<Incarnation> {
        let image = Arc::clone(&self.coordinator.image().borrow());
        let mut brokers = image.brokers.values();
        let holder = brokers.find(|broker| broker.disk == Some(disk));
        holder.map(|holder| holder.incarnation)
    }

    async fn seal_all(&self, seals: Vec<StreamToSeal>) -> Result<(), RecoveryError> {
        let sealed = futures::stream::iter(seals)
            .map(|ended| {
                seal_and_report(
                    &self.bucket,
                    &self.coordinator,
                    self.cluster,
                    ended,
                    &self.env,
                )
            })
            .buffer_unordered(SEALS_AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        sealed.into_iter().collect()
    }

    /// Folds partitions and begins their next epochs. What is damaged is left, and told of.
    async fn take_over(&mut self, folds: Vec<PartitionFold>) -> Result<(), RecoveryError> {
        let now_ms = self.env.clock.wall_ms();
        let folds = fold_each(&self.bucket, self.cluster, folds, now_ms).await?;
        let (folded, damaged) = folds.ended();
        let beginner = Beginner {
            coordinator: &self.coordinator,
            entropy: &self.env.entropy,
            incarnation: self.incarnation,
            known: &self.known,
        };
        let begun = beginner.begin(folded, None).await?;
        tracing::info!(partitions = begun, "partitions of ended processes go on");
        let mut failed = None;
        for (tp, error) in damaged {
            if self.damaged.insert(tp) {
                tracing::error!(partition = %tp, %error, "a partition cannot be served");
            }
            failed = Some(error);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Ends the stream of a dead process and tells the journal where it ended.
///
/// # Errors
/// The bucket does not answer, or contradicts the journal.
pub async fn seal_and_report(
    bucket: &Bucket,
    coordinator: &Coordinator,
    cluster: ClusterId,
    ended: StreamToSeal,
    env: &StreamEnv,
) -> Result<(), RecoveryError> {
    let name = StreamName::wal(cluster, ended.stream);
    let spec = SealSpec {
        stream: name,
        floor: ended.floor,
        from: ended.durable_end.max(ended.floor),
    };
    let end = seal(bucket, spec, env).await?.end;
    tracing::info!(stream = %name, end = end.0, "the stream of an ended process is sealed");
    let stream = ended.stream;
    let sealed = Request::StreamSealed(SealStream { stream, end });
    match insist(coordinator, &env.entropy, sealed).await? {
        Reply::Stream(Ok(())) => Ok(()),
        Reply::Stream(Err(error)) => Err(RecoveryError::Contradiction(error.to_string())),
        _ => Err(RecoveryError::wrong_reply("StreamSealed")),
    }
}

/// Says that records which only a local disk has are given up for now.
fn report_absent(ended: &StreamToSeal, disk: DiskId) {
    tracing::error!(
        broker = %ended.broker,
        stream = %ended.stream,
        %disk,
        "a process did not stop in order, and none that lives shows its local wal (it has another \
         directory, another disk, or none): whether it had acknowledged records with acks=1 that it \
         had not yet put into the bucket is not known here; its partitions go on without them, but those of topics with firn.durability=local, which \
         wait for it. The first start with its directory again says \
         whether there are any, and counts them by topic and offset"
    );
}

/// Whether nothing that came with `latest` can have left anything to take over.
fn is_settled(seen: &ClusterImage, latest: &ClusterImage) -> bool {
    let has_no_owner =
        |partition: &PartitionImage| partition.owner.is_none() && !partition.windows.is_empty();
    let is_known = |topic: &Arc<TopicImage>| {
        let known = seen.topics.get(&topic.id);
        known.is_some_and(|known| Arc::ptr_eq(known, topic))
    };
    Arc::ptr_eq(&seen.brokers, &latest.brokers)
        && (Arc::ptr_eq(&seen.topics, &latest.topics)
            || !latest
                .topics
                .values()
                .filter(|topic| !is_known(topic))
                .any(|topic| topic.partitions.iter().any(has_no_owner)))
}

fn earliest(one: Option<Mono>, other: Option<Mono>) -> Option<Mono> {
    one.into_iter().chain(other).min()
}

/// Waits for another picture, for so long. An error if there will be none any more.
async fn timeout_or_change(
    image: &mut watch::Receiver<Arc<ClusterImage>>,
    pause: Duration,
) -> Result<(), watch::error::RecvError> {
    match tokio::time::timeout(pause, image.changed()).await {
        Ok(changed) => changed,
        Err(_) => Ok(()),
    }
}
