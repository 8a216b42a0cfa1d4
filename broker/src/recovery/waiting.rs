//! Partitions that wait for the disk of an owner that crashed (`firn.durability=local`), as an
//! operator sees them, and what it takes to give that disk up.
//!
//! May not touch: who begins the next epochs (`driver.rs`, in the process that leads).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    AssignmentError, ClusterImage, ForceMove, ForcedMove, PartitionFold, Reply, Request,
};
use firn_proto::env::Clock;
use firn_proto::ids::{BrokerId, ClusterId, DiskId, LeaderEpoch, TopicPartition};
use firn_storage::bucket::Bucket;
use firn_storage::state::StateRow;

use super::{RecoveryError, chunks, fold_each};

/// A partition that waits for a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The partition.
    pub tp: TopicPartition,
    /// The name of its topic.
    pub topic: Arc<str>,
    /// Its last epoch.
    pub epoch: LeaderEpoch,
    /// The broker that owned it then.
    pub broker: BrokerId,
    /// The disk of that broker's local WAL.
    pub disk: DiskId,
    fold: PartitionFold,
}

impl Waiting {
    /// What is to be folded of a topic of that name waits for `disk`, which `broker` had.
    pub fn of(fold: PartitionFold, topic: Arc<str>, broker: BrokerId, disk: DiskId) -> Self {
        Self {
            tp: fold.tp,
            topic,
            epoch: fold.epoch,
            broker,
            disk,
            fold,
        }
    }
}

/// What the bucket has of a partition that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InBucket {
    /// The offset behind its last record there.
    pub end: i64,
    /// How old the record with the largest timestamp is in the WAL; none if all are archived.
    pub newest_age: Option<Duration>,
}

/// Where a partition goes on whose disk was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoesOn {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its owner.
    pub owner: BrokerId,
    /// Its first offset: what the disk holds from there on is lost.
    pub start_offset: i64,
}

/// Sees partitions that wait, and ends their wait. Cheap to clone.
#[derive(Clone)]
pub struct DiskWaiters {
    bucket: Bucket,
    coordinator: Coordinator,
    cluster: ClusterId,
    clock: Arc<dyn Clock>,
}

impl DiskWaiters {
    /// Those of `cluster`.
    pub fn new(
        bucket: Bucket,
        coordinator: Coordinator,
        cluster: ClusterId,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            bucket,
            coordinator,
            cluster,
            clock,
        }
    }

    /// The partitions that wait, by id. One whose owner has only just crashed is not among them
    /// before its stream is sealed.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub async fn list(&self) -> Result<Vec<Waiting>, RecoveryError> {
        let image = Arc::clone(&self.coordinator.image().borrow());
        if count(&image) == 0 {
            return Ok(Vec::new());
        }
        let pending = self.coordinator.call(Request::PendingRecovery).await?;
        let Reply::PendingRecovery { folds, .. } = pending else {
            return Err(RecoveryError::wrong_reply("PendingRecovery"));
        };
        let waiting = folds.into_iter().filter_map(|fold| {
            let (disk, topic) = (fold.waits_for?, image.topic(fold.tp.topic)?);
            let broker = topic.partition(fold.tp.partition)?.preferred;
            Some(Waiting::of(fold, Arc::clone(&topic.name), broker, disk))
        });
        Ok(waiting.collect())
    }

    /// What the bucket has of them; nothing is known of one whose log is damaged.
    ///
    /// # Errors
    /// The bucket does not serve what is needed.
    pub async fn in_bucket(
        &self,
        waiting: &[Waiting],
    ) -> Result<BTreeMap<TopicPartition, InBucket>, RecoveryError> {
        let folds: Vec<_> = waiting.iter().map(|waiting| waiting.fold.clone()).collect();
        let mut found = BTreeMap::new();
        for some in chunks(folds) {
            let now_ms = self.clock.wall_ms();
            let folds = fold_each(&self.bucket, self.cluster, some, now_ms).await?;
            let rows = folds.rows.iter();
            found.extend(rows.map(|(_, row)| (row.tp, InBucket::of(row, now_ms))));
        }
        Ok(found)
    }

    /// Gives up what only a disk may hold of these partitions, as they were seen. One result for each,
    /// in order.
    ///
    /// # Errors
    /// The coordinator does not answer: what is named in requests before may be given up.
    pub async fn force(
        &self,
        seen: Vec<ForceMove>,
    ) -> Result<Vec<Result<ForcedMove, AssignmentError>>, RecoveryError> {
        let mut forced = Vec::with_capacity(seen.len());
        for some in chunks(seen) {
            match self.coordinator.call(Request::ForceMove(some)).await? {
                Reply::Forced(results) => forced.extend(results),
                _ => return Err(RecoveryError::wrong_reply("ForceMove")),
            }
        }
        for forced in forced.iter().flatten() {
            tracing::warn!(
                partition = %forced.tp,
                epoch = %forced.epoch,
                broker = %forced.broker,
                disk = %forced.disk,
                "an operator has given up what only that disk may hold of a partition: it goes on \
                 where the bucket ends"
            );
        }
        Ok(forced)
    }

    /// Waits until other epochs than the given ones have begun, and says where: of as many as have
    /// within `patience`.
    pub async fn wait_until_owned(
        &self,
        forced: &BTreeMap<TopicPartition, LeaderEpoch>,
        patience: Duration,
    ) -> BTreeMap<TopicPartition, GoesOn> {
        let mut images = self.coordinator.image();
        let mut begun = BTreeMap::new();
        let all = images.wait_for(|image| {
            begun = began(image, forced);
            begun.len() == forced.len()
        });
        // whoever has not begun yet is told of as such
        let _ = tokio::time::timeout(patience, all).await.map(drop);
        begun
    }
}

impl InBucket {
    fn of(row: &StateRow, now_ms: i64) -> Self {
        let newest = row.runs.with_max_timestamp(row.tp, row.log_start);
        Self {
            end: row.end_offset,
            newest_age: newest.map(|newest| {
                let age_ms = now_ms.saturating_sub(newest.run.max_timestamp);
                Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
            }),
        }
    }
}

/// How many partitions have no owner though they had one, and count on a disk: they wait for it, or
/// are about to be taken over.
pub fn count(image: &ClusterImage) -> usize {
    let partitions = image.topics.values().flat_map(|topic| &topic.partitions);
    let waits =
        partitions.filter(|p| p.counts_locally && p.owner.is_none() && !p.windows.is_empty());
    waits.count()
}

fn began(
    image: &ClusterImage,
    forced: &BTreeMap<TopicPartition, LeaderEpoch>,
) -> BTreeMap<TopicPartition, GoesOn> {
    let begun = forced.iter().filter_map(|(tp, epoch)| {
        let partition = image.topic(tp.topic)?.partition(tp.partition)?;
        let goes_on = GoesOn {
            epoch: partition.epoch,
            owner: partition.owner?.broker,
            start_offset: partition.epochs.last()?.start_offset,
        };
        (partition.epoch > *epoch).then_some((*tp, goes_on))
    });
    begun.collect()
}

/// The disks that are waited for, each with its broker and how many partitions wait for it.
pub fn by_disk(waiting: &[Waiting]) -> BTreeMap<(BrokerId, DiskId), usize> {
    let mut disks = BTreeMap::new();
    for waiting in waiting {
        *disks.entry((waiting.broker, waiting.disk)).or_default() += 1;
    }
    disks
}
