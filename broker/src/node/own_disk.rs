//! Partitions that come to wait for the disk of this process once it serves: the process that showed
//! the disk before was taken for dead only then. What the disk held at the start was put again then,
//! or is held back; where it held nothing of an epoch, that one ends where the bucket says.
//!
//! May not touch: epochs that the disk holds something of (`recovery.rs`), and what waits for the
//! disks of others.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    ClusterImage, PartitionFold, PartitionImage, RegisteredBroker, Reply, Request,
};
use firn_proto::ids::{DiskId, PartitionIndex, StreamId, TopicPartition};
use firn_storage::bucket::{Bucket, backoff};
use firn_storage::stream::StreamEnv;

use super::recovery::Epoch;
use crate::recovery::{Beginner, KnownStates, RecoveryError, chunks, fold_each};

/// The disk of this process, taken up and whole.
#[derive(Debug)]
pub(super) struct OwnDisk {
    /// Its id.
    pub(super) disk: DiskId,
    /// The epochs that it held something of at the start.
    pub(super) held: BTreeSet<Epoch>,
}

/// Begins what waits for the disk of this process.
pub(super) struct OwnDiskWatch {
    pub(super) bucket: Bucket,
    pub(super) coordinator: Coordinator,
    pub(super) registered: RegisteredBroker,
    pub(super) env: StreamEnv,
    pub(super) known: Arc<KnownStates>,
    pub(super) own: OwnDisk,
}

impl OwnDiskWatch {
    /// Looks at each picture of the cluster until there will be none any more.
    pub(super) async fn run(self) {
        let mut images = self.coordinator.image();
        let mut looked = BTreeSet::new();
        let mut attempt = 0;
        loop {
            let image = Arc::clone(&images.borrow_and_update());
            let waiting = self.own.may_wait(&image, self.registered.stream);
            let is_news = !waiting.is_subset(&looked);
            let begun = match is_news {
                true => self.begin().await,
                false => Ok(()),
            };
            if let Err(error) = begun {
                attempt += 1;
                tracing::warn!(%error, attempt, "partitions may wait for the disk of this process");
                let pause = backoff(attempt, self.env.entropy.next_u64());
                tokio::time::sleep(pause).await;
                continue;
            }
            attempt = 0;
            looked = waiting;
            if images.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins what waits now. What is damaged waits on, and is told of.
    async fn begin(&self) -> Result<(), RecoveryError> {
        let pending = self.coordinator.call(Request::PendingRecovery).await?;
        let Reply::PendingRecovery { mut folds, .. } = pending else {
            return Err(RecoveryError::wrong_reply("PendingRecovery"));
        };
        folds.retain(|fold| self.own.ends(fold, self.registered.stream));
        let beginner = Beginner {
            coordinator: &self.coordinator,
            entropy: &self.env.entropy,
            incarnation: self.registered.incarnation,
            known: &self.known,
        };
        for some in chunks(folds) {
            let now_ms = self.env.clock.wall_ms();
            let cluster = self.registered.cluster;
            let folds = fold_each(&self.bucket, cluster, some, now_ms).await?;
            let (folded, damaged) = folds.ended();
            for (tp, error) in damaged {
                tracing::error!(partition = %tp, %error, "a partition cannot be served");
            }
            let begun = beginner.begin(folded, Some(self.registered.broker)).await?;
            tracing::info!(
                partitions = begun,
                "partitions that waited for the disk of this process, which held nothing of them, go on"
            );
        }
        Ok(())
    }
}

impl OwnDisk {
    /// Epochs that may wait for this disk: the picture does not say for which one.
    fn may_wait(&self, image: &ClusterImage, own: StreamId) -> BTreeSet<Epoch> {
        let topics = image.topics.values();
        let partitions = topics.flat_map(|topic| {
            let partitions = (0..).map(PartitionIndex).zip(&topic.partitions);
            partitions.map(move |(partition, image)| {
                let topic = topic.id;
                (TopicPartition { topic, partition }, image)
            })
        });
        let waiting = partitions.filter(|(_, image)| is_over_before(image, own));
        let epochs = waiting.map(|(tp, image)| (tp, image.epoch));
        epochs.filter(|epoch| !self.held.contains(epoch)).collect()
    }

    /// Whether the end of the fold is the end of the epoch: it waits for this disk, which held nothing
    /// of it. Whoever showed the disk after this process, which has it, had a copy.
    fn ends(&self, fold: &PartitionFold, own: StreamId) -> bool {
        fold.waits_for == Some(self.disk)
            && fold.stream < own
            && !self.held.contains(&(fold.tp, fold.epoch))
    }
}

/// Whether records of the latest epoch may count by a disk, and its last window is of an earlier
/// stream than `own` and has ended.
fn is_over_before(partition: &PartitionImage, own: StreamId) -> bool {
    let is_over = || {
        let last = partition.windows.last();
        last.is_some_and(|last| last.end_slot.is_some() && last.stream < own)
    };
    partition.counts_locally && partition.owner.is_none() && is_over()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use firn_proto::cluster::{TopicImage, Window};
    use firn_proto::ids::{BrokerId, LeaderEpoch, Slot, TopicId};

    use super::*;

    const OWN: StreamId = StreamId(9);
    const DISK: DiskId = DiskId([7; 16]);
    const TP: TopicPartition = TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(0),
    };

    fn over(stream: u64) -> PartitionImage {
        let epoch = LeaderEpoch(3);
        PartitionImage {
            epoch,
            owner: None,
            moving_to: None,
            preferred: BrokerId(1),
            epochs: Vec::new(),
            windows: vec![Window {
                epoch,
                stream: StreamId(stream),
                first_offset: 0,
                lowest_slot: Slot(0),
                end_slot: Some(Slot(4)),
            }],
            counts_locally: true,
        }
    }

    fn waiting(own: &OwnDisk, partition: PartitionImage) -> usize {
        let topic = TopicImage {
            id: TP.topic,
            name: "t".into(),
            created_ms: 0,
            replication_factor: 1,
            configs: BTreeMap::new(),
            partitions: vec![partition],
        };
        let image = ClusterImage {
            topics: Arc::new([(TP.topic, Arc::new(topic))].into()),
            ..ClusterImage::default()
        };
        own.may_wait(&image, OWN).len()
    }

    fn fold(stream: u64, waits_for: Option<DiskId>) -> PartitionFold {
        PartitionFold {
            tp: TP,
            epoch: LeaderEpoch(3),
            stream: StreamId(stream),
            row: None,
            ranges: Vec::new(),
            released_end: None,
            log_start: 0,
            archived_to: 0,
            waits_for,
            disk: None,
        }
    }

    #[test]
    fn what_waits_for_this_disk_and_is_not_on_it_ends_where_the_bucket_says() {
        let own = OwnDisk {
            disk: DISK,
            held: BTreeSet::new(),
        };
        assert_eq!(waiting(&own, over(4)), 1);
        assert!(own.ends(&fold(4, Some(DISK)), OWN));
        assert!(!own.ends(&fold(4, None), OWN), "the leader takes it over");
        assert!(!own.ends(&fold(4, Some(DiskId([8; 16]))), OWN));
    }

    /// What the disk held, and the start did not begin, is incomplete; what was written after the
    /// start under the id of this disk is on a copy of it.
    #[test]
    fn what_the_disk_held_and_what_a_copy_of_it_holds_waits_on() {
        let own = OwnDisk {
            disk: DISK,
            held: BTreeSet::from([(TP, LeaderEpoch(3))]),
        };
        assert_eq!(waiting(&own, over(4)), 0);
        assert!(!own.ends(&fold(4, Some(DISK)), OWN));
        let own = OwnDisk {
            held: BTreeSet::new(),
            ..own
        };
        assert_eq!(waiting(&own, over(10)), 0);
        assert!(!own.ends(&fold(10, Some(DISK)), OWN));
    }

    #[test]
    fn what_counts_by_the_bucket_or_is_not_sealed_is_not_asked_for() {
        let own = OwnDisk {
            disk: DISK,
            held: BTreeSet::new(),
        };
        let mut partition = over(4);
        partition.counts_locally = false;
        assert_eq!(waiting(&own, partition), 0);
        let mut partition = over(4);
        partition.windows[0].end_slot = None;
        assert_eq!(waiting(&own, partition), 0);
    }
}
