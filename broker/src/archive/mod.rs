//! The archive of this broker: when which topic is archived, how segments enter the map, and how far
//! everything is.
//!
//! - `pick.rs`: which topic is next (pure)
//! - `driver.rs`: the one task that archives, segment by segment
//! - `commit.rs`: a segment enters the map, or is abandoned and deleted (I9)
//! - `status.rs`: how far the archive is, for people
//! - this file: how the rest of the process reaches it
//!
//! Architecture invariant: never in the way of produce and fetch. One segment at a time; what it
//! costs is bounded by the archiver of storage; nothing here is waited for but by those who ask.

mod commit;
mod driver;
mod pick;
mod status;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ArchiveError, ClusterImage, CoordinatorError, Reply, Request, TopicImage,
};
use firn_proto::env::{Clock, Entropy};
use firn_proto::ids::{Incarnation, TopicId};
use firn_proto::limits::{ARCHIVE_FLUSHES_MAX, ARCHIVE_STATUS_MAX, ARCHIVE_STOP_MAX};
use firn_storage::archive::{ArchiveFault, ArchiveUsage, Archiver};
use firn_storage::bucket::Bucket;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::partition::Partitions;
use driver::Driver;
pub use pick::{Failed, Picker, Waiting};
pub use status::{ArchiveStatus, PartitionStatus, TopicStatus};

/// Why something was not archived.
#[derive(Debug, Error)]
pub enum NotArchived {
    /// There is no such topic.
    #[error("there is no such topic")]
    UnknownTopic,
    /// No segment could be made.
    #[error(transparent)]
    Fault(#[from] ArchiveFault),
    /// The coordinator refused the segment.
    #[error("the segment did not enter the map: {0}")]
    Refused(#[from] ArchiveError),
    /// The coordinator does not answer.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// The process stops.
    #[error("the broker stops")]
    Stopping,
    /// Others wait already.
    #[error("too many wait for the archiver already, ask again later")]
    Busy,
}

/// Why nothing is said of the archive.
#[derive(Debug, Error)]
pub enum NoStatus {
    /// The coordinator does not answer.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// What it knows is not in the bucket yet.
    #[error(
        "the bucket has not taken the latest changes for {} s, and nothing is told before it has: \
         it is slow or away, /readyz and the log of the broker say more",
        ARCHIVE_STATUS_MAX.as_secs()
    )]
    Late,
}

/// What was archived because somebody asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Segments that entered the map.
    pub segments: u64,
}

/// What the archive of this broker has done since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveFigures {
    /// Bytes of records that are in no segment.
    pub lag_bytes: u64,
    /// How long the oldest of them has waited.
    pub lag: Duration,
    /// Segments that entered the map.
    pub segments: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// What making segments has cost.
    pub usage: ArchiveUsage,
}

/// What the archive is made from.
pub struct ArchiveParts {
    /// Makes segments.
    pub archiver: Archiver,
    /// Where abandoned segments are deleted.
    pub bucket: Bucket,
    /// Whose records are archived.
    pub partitions: Arc<Partitions>,
    /// Keeps the map.
    pub coordinator: Coordinator,
    /// Who commits.
    pub incarnation: Incarnation,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<Entropy>,
    /// How long records wait in a topic that does not say.
    pub interval: Duration,
}

/// The archive of this broker. Cheap to clone.
#[derive(Clone)]
pub struct Archive(Arc<Inner>);

struct Inner {
    partitions: Arc<Partitions>,
    coordinator: Coordinator,
    image: watch::Receiver<Arc<ClusterImage>>,
    clock: Arc<dyn Clock>,
    archiver: Archiver,
    flushes: mpsc::Sender<Flush>,
    progress: Arc<Progress>,
}

/// The task that archives. It ends when this is dropped.
pub struct ArchiveTask {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

/// Somebody wants a topic, or everything, to be archived now.
struct Flush {
    topic: Option<TopicId>,
    answer: oneshot::Sender<Result<Flushed, NotArchived>>,
}

/// What the driver does, for others to see.
#[derive(Default)]
struct Progress {
    picker: Mutex<Picker>,
    segments: AtomicU64,
    failures: AtomicU64,
}

impl Progress {
    /// The lock is short: no IO and no await under it.
    fn picker(&self) -> MutexGuard<'_, Picker> {
        self.picker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Archive {
    /// Starts to archive.
    pub fn start(parts: ArchiveParts) -> (Self, ArchiveTask) {
        let (flushes, requests) = mpsc::channel(ARCHIVE_FLUSHES_MAX);
        let progress = Arc::new(Progress::default());
        let archive = Self(Arc::new(Inner {
            partitions: Arc::clone(&parts.partitions),
            coordinator: parts.coordinator.clone(),
            image: parts.coordinator.image(),
            clock: Arc::clone(&parts.clock),
            archiver: parts.archiver.clone(),
            flushes,
            progress: Arc::clone(&progress),
        }));
        let stop = CancellationToken::new();
        let driver = Driver::new(parts, progress, stop.clone());
        let task = tokio::spawn(driver.run(requests));
        (archive, ArchiveTask { task, stop })
    }

    /// The topic of that name.
    ///
    /// # Errors
    /// [`NotArchived::UnknownTopic`].
    pub fn topic(&self, name: &str) -> Result<Arc<TopicImage>, NotArchived> {
        let image = self.0.image.borrow();
        let found = image.topic_named(name).map(Arc::clone);
        found.ok_or(NotArchived::UnknownTopic)
    }

    /// Archives everything of a topic, or of all, that could be archived when this was called, and
    /// returns when that is done. It is done even if the future is dropped.
    ///
    /// # Errors
    /// [`NotArchived`]: some of it may be archived.
    pub async fn flush(&self, topic: Option<TopicId>) -> Result<Flushed, NotArchived> {
        let (answer, answered) = oneshot::channel();
        let flush = Flush { topic, answer };
        self.0
            .flushes
            .try_send(flush)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NotArchived::Busy,
                mpsc::error::TrySendError::Closed(_) => NotArchived::Stopping,
            })?;
        answered.await.unwrap_or(Err(NotArchived::Stopping))
    }

    /// How far the archive of a topic is, or of all.
    ///
    /// # Errors
    /// [`NoStatus`], in time for whoever waits.
    pub async fn status(&self, topic: Option<TopicId>) -> Result<ArchiveStatus, NoStatus> {
        let asked = self.0.coordinator.call(Request::DescribeArchive(topic));
        let answer = timeout(ARCHIVE_STATUS_MAX, asked).await;
        let Reply::Archives(archives) = answer.map_err(|_| NoStatus::Late)?? else {
            return Err(CoordinatorError::Stopped.into());
        };
        let image = Arc::clone(&self.0.image.borrow());
        let now = self.0.clock.mono();
        let picker = self.0.progress.picker();
        let partitions = &self.0.partitions;
        Ok(status::status(&archives, &image, partitions, &picker, now))
    }

    /// What has been done, and what waits.
    pub fn figures(&self) -> ArchiveFigures {
        let progress = &self.0.progress;
        let partitions = self.0.partitions.all();
        ArchiveFigures {
            lag_bytes: partitions.iter().map(|p| p.unarchived_bytes()).sum(),
            lag: progress.picker().oldest(self.0.clock.mono()),
            segments: progress.segments.load(Ordering::Relaxed),
            failures: progress.failures.load(Ordering::Relaxed),
            usage: self.0.archiver.usage(),
        }
    }
}

impl ArchiveTask {
    /// Archives no more. A segment that is being written is abandoned, if the bucket and the journal
    /// let that happen soon.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if timeout(ARCHIVE_STOP_MAX, &mut self.task).await.is_err() {
            tracing::warn!(
                "the archiver did not stop in time; the next start collects its segment"
            );
            self.task.abort();
        }
    }
}

impl Drop for ArchiveTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}
