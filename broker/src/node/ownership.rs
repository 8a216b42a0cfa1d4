//! What a node does about its partitions while it runs: opens those that it is given, closes those
//! whose topic is gone, writes checkpoints, and tells the coordinator how far it has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{ClusterImage, ProgressReport, Reply, Request, RowReport, TopicImage};
use firn_proto::env::{Clock, Mono};
use firn_proto::ids::{
    Incarnation, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
};
use firn_storage::state::StateRow;
use firn_storage::wal::{Wal, WalError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::parts::wal_ended;
use super::{Parts, Starting};
use crate::error::FirnError;
use crate::http::Health;
use crate::partition::Partitions;

/// Opens and closes partitions as the picture of the cluster says.
pub(super) struct Follower {
    pub(super) partitions: Arc<Partitions>,
    pub(super) coordinator: Coordinator,
    pub(super) incarnation: Incarnation,
    /// The topics that have been looked at.
    pub(super) seen: BTreeMap<TopicId, Arc<TopicImage>>,
}

impl Follower {
    /// Follows the picture until the coordinator has stopped.
    pub(super) async fn run(mut self, mut image: watch::Receiver<Arc<ClusterImage>>) {
        loop {
            let latest = Arc::clone(&image.borrow_and_update());
            self.follow(&latest).await;
            if image.changed().await.is_err() {
                return;
            }
        }
    }

    /// Brings the open partitions to what `image` says.
    pub(super) async fn follow(&mut self, image: &ClusterImage) {
        for (id, topic) in image.topics.iter() {
            let known = self
                .seen
                .get(id)
                .is_some_and(|seen| Arc::ptr_eq(seen, topic));
            if !known {
                self.open_new(topic);
                self.seen.insert(*id, Arc::clone(topic));
            }
        }
        let gone: Vec<TopicId> = self
            .seen
            .keys()
            .filter(|id| !image.topics.contains_key(id))
            .copied()
            .collect();
        if !gone.is_empty() {
            self.close_gone(gone).await;
        }
    }

    fn open_new(&self, topic: &TopicImage) {
        for (index, partition) in (0..).map(PartitionIndex).zip(&topic.partitions) {
            let tp = TopicPartition {
                topic: topic.id,
                partition: index,
            };
            let is_ours = partition
                .owner
                .is_some_and(|o| o.incarnation == self.incarnation);
            if !is_ours || self.partitions.find_tp(tp).is_some() {
                continue;
            }
            // Whatever has a past is opened by recovery, which knows its state.
            let is_new = partition.windows.len() == 1
                && partition
                    .windows
                    .first()
                    .is_some_and(|window| window.first_offset == 0)
                && partition.epochs.len() <= 1;
            if is_new {
                self.partitions.open(StateRow::new(tp, partition.epoch));
            } else {
                tracing::error!(partition = %tp, "a partition with a past came without its state");
            }
        }
    }

    async fn close_gone(&mut self, gone: Vec<TopicId>) {
        for id in &gone {
            let Some(topic) = self.seen.remove(id) else {
                continue;
            };
            for (index, _) in (0..).map(PartitionIndex).zip(&topic.partitions) {
                self.partitions.close(TopicPartition {
                    topic: *id,
                    partition: index,
                });
            }
            tracing::info!(topic = %topic.name, %id, "topic deleted");
        }
        let confirm = Request::ConfirmDeleted {
            incarnation: self.incarnation,
            topics: gone,
        };
        if let Err(error) = self.coordinator.call(confirm).await {
            // The names stay taken until this process has ended and its stream is sealed.
            tracing::warn!(%error, "the deletion of topics was not confirmed");
        }
    }
}

/// Writes checkpoints when they are due, reports progress about once a second while there is any,
/// and notices when the bucket takes nothing more.
pub(super) struct Keeper {
    partitions: Arc<Partitions>,
    wal: Wal,
    coordinator: Coordinator,
    incarnation: Incarnation,
    stream: StreamId,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    producer_expiry_ms: i64,
    /// Rows that are durable and not reported.
    rows: Vec<RowReport>,
    /// What was reported last.
    reported: Slot,
    /// When the durable prefix moved last, or there was nothing to move.
    moved: (Slot, Mono),
    is_hampered: bool,
}

type Checkpoint = BoxFuture<'static, (Vec<TopicPartition>, Result<SlotPosition, WalError>)>;

impl Keeper {
    /// A keeper that begins with `rows` to report.
    pub(super) fn new(parts: &Parts, starting: &Starting, rows: Vec<RowReport>) -> Self {
        let clock = Arc::clone(&starting.world.clock);
        let moved = (Slot(0), clock.mono());
        Self {
            partitions: Arc::clone(&parts.partitions),
            wal: parts.wal.clone(),
            coordinator: parts.coordinator.clone(),
            incarnation: parts.registered.incarnation,
            stream: parts.registered.stream,
            clock,
            health: Arc::clone(&starting.shown.health),
            producer_expiry_ms: i64::try_from(starting.config.producer_id_expiration.as_millis())
                .unwrap_or(i64::MAX),
            rows,
            reported: Slot(0),
            moved,
            is_hampered: false,
        }
    }

    /// Keeps until the future is dropped.
    pub(super) async fn run(mut self) {
        let mut checkpoint: Option<Checkpoint> = None;
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            let is_idle = checkpoint.is_none();
            tokio::select! {
                rows = self.partitions.rows_due(), if is_idle => {
                    checkpoint = Some(self.checkpoint(rows));
                }
                (partitions, durable) = poll(&mut checkpoint), if !is_idle => {
                    checkpoint = None;
                    self.on_checkpoint(partitions, durable);
                }
                _ = tick.tick() => {
                    ticks += 1;
                    self.watch_bucket();
                    self.report().await;
                    if ticks.is_multiple_of(EXPIRY_TICKS) {
                        self.partitions.expire_producers(self.producer_expiry_ms);
                    }
                }
            }
        }
    }

    fn checkpoint(&self, rows: Vec<StateRow>) -> Checkpoint {
        let wal = self.wal.clone();
        async move {
            let partitions = rows.iter().map(|row| row.tp).collect();
            (partitions, wal.push_checkpoint(&rows).await)
        }
        .boxed()
    }

    fn on_checkpoint(
        &mut self,
        partitions: Vec<TopicPartition>,
        durable: Result<SlotPosition, WalError>,
    ) {
        match durable {
            Ok(at) => self.rows.push(RowReport {
                slot: at.slot,
                partitions,
            }),
            Err(error) => tracing::warn!(%error, "a checkpoint was not written"),
        }
    }

    /// Tells the coordinator what is new. What it does not take is told again.
    async fn report(&mut self) {
        let durable_end = self.wal.status().durable_end;
        if durable_end == self.reported && self.rows.is_empty() {
            return;
        }
        let report = ProgressReport {
            incarnation: self.incarnation,
            stream: self.stream,
            durable_end,
            rows: self.rows.clone(),
        };
        match self.coordinator.call(Request::ReportProgress(report)).await {
            Ok(Reply::Stream(Ok(()))) => {
                self.reported = durable_end;
                self.rows.clear();
            }
            Ok(other) => tracing::error!(
                ?other,
                "the coordinator refuses the progress of this broker"
            ),
            Err(error) => tracing::warn!(%error, "progress was not reported"),
        }
    }

    /// Says so when slots are in flight and none has become durable for a while.
    fn watch_bucket(&mut self) {
        let status = self.wal.status();
        let now = self.clock.mono();
        if status.durable_end != self.moved.0 || status.slots_in_flight == 0 {
            self.moved = (status.durable_end, now);
            if std::mem::take(&mut self.is_hampered) {
                tracing::info!("the bucket takes slots again");
                self.health.serving();
            }
            return;
        }
        let stands = now.since(self.moved.1);
        if stands >= STANDS_STILL && !self.is_hampered {
            self.is_hampered = true;
            tracing::warn!(
                slots_in_flight = status.slots_in_flight,
                waiting_bytes = status.permit_bytes,
                stands_still_s = stands.as_secs(),
                "the bucket takes no slots: producers wait, reads go on"
            );
            self.health
                .hampered("the bucket takes no slots: producers wait, reads go on");
        }
    }
}

/// Writes the state of every partition as it is now, when nothing more is appended and everything
/// is durable, and says what is to be told of it: the next start then has nothing to fold.
///
/// # Errors
/// The WAL has ended.
pub(super) async fn last_report(parts: &Parts) -> Result<ProgressReport, FirnError> {
    let mut rows = Vec::new();
    let next = parts.wal.next_durable();
    let last = next.slot.0.checked_sub(1).map(|slot| SlotPosition {
        slot: Slot(slot),
        ..next
    });
    let states = last
        .map(|last| parts.partitions.rows_after(last))
        .unwrap_or_default();
    if !states.is_empty() {
        let partitions = states.iter().map(|row| row.tp).collect();
        let at = parts
            .wal
            .push_checkpoint(&states)
            .await
            .map_err(|e| wal_ended(&e))?;
        rows.push(RowReport {
            slot: at.slot,
            partitions,
        });
    }
    Ok(ProgressReport {
        incarnation: parts.registered.incarnation,
        stream: parts.registered.stream,
        durable_end: parts.wal.status().durable_end,
        rows,
    })
}

async fn poll(
    checkpoint: &mut Option<Checkpoint>,
) -> (Vec<TopicPartition>, Result<SlotPosition, WalError>) {
    match checkpoint {
        Some(checkpoint) => checkpoint.await,
        None => std::future::pending().await,
    }
}

/// How often progress is reported while there is any.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Producers are looked through for expired ones every so many reports.
const EXPIRY_TICKS: u64 = 600;
/// In flight for this long without any becoming durable is worth saying.
const STANDS_STILL: Duration = Duration::from_secs(10);
