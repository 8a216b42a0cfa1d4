//! Takes partitions over and gives them up, many at a time: a job names up to
//! [`PARTITIONS_PER_REQUEST`](crate::recovery::PARTITIONS_PER_REQUEST) of them and makes one request,
//! one fold and one checkpoint of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{
    AssignmentError, CoordinatorError, PartitionEnd, PartitionImage, ReleasePartition,
    ReleasePartitions, Reply, Request, TopicImage,
};
use firn_proto::ids::{
    ClusterId, Incarnation, LeaderEpoch, PartitionIndex, Slot, StreamId, TopicPartition,
};
use firn_storage::bucket::{Bucket, backoff};
use firn_storage::state::StateRow;
use firn_storage::stream::StreamEnv;
use firn_storage::wal::{Wal, WalError};
use futures::FutureExt;

use crate::insist::insist;
use crate::node::rows::StateRows;
use crate::partition::{Partition, Partitions};
use crate::recovery::{KnownStates, fold_each};

/// A partition that is ours from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) tp: TopicPartition,
    /// The epoch to open it in.
    pub(super) epoch: LeaderEpoch,
    /// Where that begins.
    pub(super) start_offset: i64,
}

impl Wanted {
    /// A partition as the picture shows it.
    pub(super) fn of(tp: TopicPartition, image: &PartitionImage) -> Self {
        let start = image.windows.last();
        Self {
            tp,
            epoch: image.epoch,
            start_offset: start.map_or(0, |window| window.first_offset),
        }
    }
}

/// What jobs work with.
pub(in crate::node) struct Movers {
    pub(in crate::node) bucket: Bucket,
    pub(in crate::node) cluster: ClusterId,
    pub(in crate::node) incarnation: Incarnation,
    pub(in crate::node) stream: StreamId,
    pub(in crate::node) coordinator: Coordinator,
    pub(in crate::node) partitions: Arc<Partitions>,
    pub(in crate::node) rows: Arc<StateRows>,
    pub(in crate::node) wal: Wal,
    pub(in crate::node) known: Arc<KnownStates>,
    pub(in crate::node) env: StreamEnv,
    /// Whether records can count by a local WAL.
    pub(in crate::node) has_local_wal: bool,
}

impl Movers {
    /// Tells the partitions of a topic that are open here what makes their records count.
    pub(super) fn tell_durability(&self, topic: &TopicImage) {
        let is_local = topic.is_local();
        let mut changed = 0;
        for partition in (0..).map(PartitionIndex).take(topic.partitions.len()) {
            let open = self.partitions.find(topic.id, partition);
            changed += usize::from(open.is_some_and(|open| open.set_local(is_local)));
        }
        if changed > 0 && is_local && !self.has_local_wal {
            tracing::warn!(
                topic = %topic.name,
                partitions = changed,
                "the topic has firn.durability=local, and this broker has no local wal: it acknowledges \
                 records of its partitions when the bucket has them"
            );
        }
    }

    /// Opens partitions with the states in which their last epochs ended (I8). Those that are not
    /// open then are to be tried again later, unless they are gone.
    pub(super) async fn acquire(&self, wanted: Vec<Wanted>) {
        let (mut rows, unknown) = self.known_rows(wanted);
        rows.extend(self.fold(unknown).await);
        let partitions = rows.len();
        if partitions == 0 {
            return;
        }
        match self.rows.write_first(rows).await {
            Ok(()) => tracing::info!(partitions, "partitions taken over"),
            Err(error) => {
                tracing::warn!(%error, partitions, "partitions wait: their states were not written");
            }
        }
    }

    /// The states that are known already, and what has to be folded.
    fn known_rows(&self, wanted: Vec<Wanted>) -> (Vec<StateRow>, BTreeMap<TopicPartition, Wanted>) {
        let mut rows = Vec::new();
        let mut unknown = BTreeMap::new();
        for wanted in wanted {
            match self.known.take(wanted.tp, wanted.epoch) {
                Some(row) if row.end_offset == wanted.start_offset => rows.push(row),
                _ => {
                    unknown.insert(wanted.tp, wanted);
                }
            }
        }
        (rows, unknown)
    }

    /// Folds partitions, as many as can be.
    async fn fold(&self, wanted: BTreeMap<TopicPartition, Wanted>) -> Vec<StateRow> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let asked = Request::FoldsOf(wanted.keys().copied().collect());
        let folds = match insist(&self.coordinator, &self.env.entropy, asked).await {
            Ok(Reply::Folds(folds)) => folds,
            Ok(_) => {
                tracing::error!("FoldsOf has the wrong reply: this is a bug, please report it");
                return Vec::new();
            }
            Err(error) => {
                tracing::warn!(%error, "partitions wait for the coordinator");
                return Vec::new();
            }
        };
        let folds: Vec<_> = folds.into_iter().flatten().collect();
        let now_ms = self.env.clock.wall_ms();
        let folds = match fold_each(&self.bucket, self.cluster, folds, now_ms).await {
            Ok(folds) => folds,
            Err(error) => {
                let partitions = wanted.len();
                tracing::warn!(%error, partitions, "partitions wait for the bucket");
                return Vec::new();
            }
        };
        for (tp, error) in folds.damaged {
            tracing::error!(partition = %tp, %error, "a partition cannot be served");
        }
        let rows = folds.rows.into_iter();
        rows.filter_map(|(_, row)| begun(wanted.get(&row.tp)?, row))
            .collect()
    }

    /// Gives partitions up for good (I4, RELEASE). What is still open then could not be given up.
    pub(super) async fn release(&self, tps: &[TopicPartition]) {
        let partitions: Vec<Arc<Partition>> = tps
            .iter()
            .filter_map(|tp| self.partitions.find_tp(*tp))
            .collect();
        for partition in &partitions {
            partition.stop();
        }
        self.wal.flush().await;
        if !partitions.iter().all(|partition| partition.is_settled()) {
            // the stream has ended, and this process with it
            return;
        }
        if let Some((rows, at)) = self.write_last(&partitions).await {
            let end = |row: &StateRow| self.end(row.tp, row.epoch, row.end_offset);
            let released = rows.iter().map(|row| ReleasePartition {
                end: end(row),
                row: Some(at),
            });
            self.tell_released(released.collect()).await;
        }
    }

    /// Gives partitions up that were never open here in these epochs: they end where they began.
    pub(super) async fn give_back(&self, wanted: &[Wanted]) {
        let end = |wanted: &Wanted| self.end(wanted.tp, wanted.epoch, wanted.start_offset);
        let released = wanted.iter().map(|wanted| ReleasePartition {
            end: end(wanted),
            row: None,
        });
        self.tell_released(released.collect()).await;
    }

    fn end(&self, tp: TopicPartition, epoch: LeaderEpoch, end_offset: i64) -> PartitionEnd {
        PartitionEnd {
            tp,
            epoch,
            stream: self.stream,
            end_offset,
        }
    }

    /// Writes the last states, again if a checkpoint object was not put; none if the WAL has ended.
    async fn write_last(&self, partitions: &[Arc<Partition>]) -> Option<(Vec<StateRow>, Slot)> {
        let mut attempt = 0;
        loop {
            match self.rows.write_last(partitions).await {
                Ok(written) => return Some(written),
                Err(WalError::Closed) if self.wal.failed().now_or_never().is_none() => {}
                Err(_) => return None,
            }
            attempt += 1;
            let pause = backoff(attempt, self.env.entropy.next_u64());
            tokio::time::sleep(pause).await;
        }
    }

    /// Tells the journal where epochs ended, until it has taken note.
    async fn tell_released(&self, released: Vec<ReleasePartition>) {
        let tps: Vec<_> = released.iter().map(|released| released.end.tp).collect();
        let request = Request::ReleasePartitions(ReleasePartitions {
            incarnation: self.incarnation,
            released,
        });
        let results = match insist(&self.coordinator, &self.env.entropy, request).await {
            Ok(Reply::Released(results)) => results,
            Ok(_) => return tracing::error!("RELEASE has the wrong reply: please report it"),
            Err(CoordinatorError::Stopped) => return,
            Err(error) => return tracing::error!(%error, "partitions were not released"),
        };
        let mut given_up = 0;
        for (tp, result) in tps.into_iter().zip(results) {
            match result {
                // said before, and the answer was lost; or the topic is gone
                Ok(()) | Err(AssignmentError::NotCurrent | AssignmentError::Unknown) => {
                    given_up += 1;
                }
                Err(error) => {
                    tracing::error!(partition = %tp, %error, "a partition was not released");
                }
            }
        }
        tracing::info!(partitions = given_up, "partitions given up");
    }
}

/// The state with which the epoch begins that is wanted, if the log ends where the journal says that
/// it does.
fn begun(wanted: &Wanted, mut row: StateRow) -> Option<StateRow> {
    if row.epoch >= wanted.epoch {
        // the journal is ahead of the picture, which comes
        return None;
    }
    if row.end_offset != wanted.start_offset {
        tracing::error!(
            partition = %row.tp,
            end = row.end_offset,
            journal = wanted.start_offset,
            "a partition cannot be served: its log does not end where the journal says"
        );
        return None;
    }
    row.begin_epoch(wanted.epoch);
    Some(row)
}
