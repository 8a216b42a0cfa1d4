//! What a node does about its state while it runs: checkpoints when they are due, progress to the
//! coordinator, and a word when the bucket takes nothing more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{CoordinatorError, ProgressReport, Reply, Request, RowReport};
use firn_proto::env::{Clock, Mono};
use firn_proto::ids::{Incarnation, Slot, SlotPosition, StreamId, TopicPartition};
use firn_storage::collect::OwnCheckpoints;
use firn_storage::wal::{DurableCheckpoint, Wal, WalError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{MissedTickBehavior, interval};

use super::parts::wal_ended;
use super::{Archive, Parts, Starting};
use crate::error::FirnError;
use crate::http::Health;
use crate::kafka::seldom::Seldom;
use crate::log_starts::LogStarts;
use crate::partition::{Partitions, RowsDue};

/// Writes checkpoints when they are due, reports progress every few seconds while there is any,
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
    /// The checkpoint objects of this process.
    checkpoints: Arc<Mutex<OwnCheckpoints>>,
    log_starts: LogStarts,
    /// What was archived leaves the WAL with the next report: rows behind it are durable.
    lets_go: bool,
    /// Rows that are durable and not reported.
    rows: UnreportedRows,
    /// Rows hold everything in slots below.
    rows_end: Slot,
    /// What was reported last.
    reported: Reported,
    /// When the durable prefix moved last, or there was nothing to move.
    moved: (Slot, Mono),
    /// Why not everybody is served, if so.
    hampered: Option<&'static str>,
    /// How many batches of producers without a place had been refused when that was last said.
    producers_refused: u64,
    /// The line on those.
    producers_line: Seldom,
}

/// The last durable row of each partition whose place the coordinator has not been told. A journal
/// that takes nothing for hours leaves one entry per partition here, not one per checkpoint.
#[derive(Debug, Default)]
struct UnreportedRows(BTreeMap<TopicPartition, Slot>);

impl UnreportedRows {
    fn add(&mut self, row: RowReport) {
        let rows = row.partitions.into_iter().map(|tp| (tp, row.slot));
        self.0.extend(rows);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn reports(&self) -> Vec<RowReport> {
        let mut by_slot: BTreeMap<Slot, Vec<TopicPartition>> = BTreeMap::new();
        for (tp, slot) in &self.0 {
            by_slot.entry(*slot).or_default().push(*tp);
        }
        let reports = by_slot.into_iter();
        reports
            .map(|(slot, partitions)| RowReport { slot, partitions })
            .collect()
    }

    /// Forgets what was told, unless a newer row has come meanwhile.
    fn remove(&mut self, told: &[RowReport]) {
        for RowReport { slot, partitions } in told {
            for tp in partitions {
                if self.0.get(tp) == Some(slot) {
                    self.0.remove(tp);
                }
            }
        }
    }
}

/// What was reported, and when. Each report is an object of the journal, whatever it says: one in a
/// second cost a tenth of what a busy broker puts.
#[derive(Debug, Default)]
struct Reported {
    durable_end: Slot,
    at: Option<Mono>,
}

impl Reported {
    /// Whether there is something to tell, and enough of it, or for long enough: whoever takes over
    /// looks for the end of the stream from what was told.
    fn is_due(&self, durable_end: Slot, has_rows: bool, now: Mono) -> bool {
        let slots = durable_end.0.saturating_sub(self.durable_end.0);
        let is_news = slots > 0 || has_rows;
        let has_waited = |at| now.since(at) >= REPORT_INTERVAL;
        is_news && (slots >= REPORT_SLOTS || self.at.is_none_or(has_waited))
    }
}

type Checkpoint = BoxFuture<'static, (Written, Result<DurableCheckpoint, WalError>)>;
type Report = BoxFuture<'static, Result<Reply, CoordinatorError>>;

/// What a checkpoint holds.
struct Written {
    partitions: Vec<TopicPartition>,
    through: SlotPosition,
    is_wanted: bool,
}

impl Keeper {
    /// A keeper that begins with `rows` to report.
    pub(super) fn new(
        parts: &Parts,
        archive: &Archive,
        starting: &Starting,
        rows: Vec<RowReport>,
    ) -> Self {
        let clock = Arc::clone(&starting.world.clock);
        let moved = (Slot(0), clock.mono());
        let mut unreported = UnreportedRows::default();
        rows.into_iter().for_each(|row| unreported.add(row));
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
            checkpoints: Arc::clone(&archive.checkpoints),
            log_starts: archive.log_starts.clone(),
            lets_go: false,
            rows: unreported,
            rows_end: Slot(0),
            reported: Reported::default(),
            moved,
            hampered: None,
            producers_refused: 0,
            producers_line: Seldom::default(),
        }
    }

    /// Keeps until the future is dropped. Nothing here waits for the bucket, so that an outage is
    /// noticed while a checkpoint or a report hangs in it.
    pub(super) async fn run(mut self) {
        let mut checkpoint: Option<Checkpoint> = None;
        let mut report: Option<(ProgressReport, Report)> = None;
        let mut tick = interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            tokio::select! {
                rows = self.partitions.rows_due(), if checkpoint.is_none() => {
                    checkpoint = Some(self.checkpoint(rows));
                }
                (written, durable) = poll(checkpoint.as_mut()) => {
                    checkpoint = None;
                    self.on_checkpoint(written, durable);
                }
                reply = poll(report.as_mut().map(|(_, reply)| reply)) => {
                    if let Some((told, _)) = report.take() {
                        self.on_reported(&told, reply);
                    }
                }
                _ = tick.tick() => {
                    ticks += 1;
                    self.watch_bucket();
                    self.watch_producers();
                    if report.is_none() {
                        report = self.report();
                    }
                    if ticks.is_multiple_of(EXPIRY_TICKS) {
                        self.partitions.expire_producers(self.producer_expiry_ms);
                    }
                }
            }
        }
    }

    fn checkpoint(&self, due: RowsDue) -> Checkpoint {
        let wal = self.wal.clone();
        async move {
            let written = Written {
                partitions: due.rows.iter().map(|row| row.tp).collect(),
                through: due.through,
                is_wanted: due.is_wanted,
            };
            (written, wal.push_checkpoint(&due.rows).await)
        }
        .boxed()
    }

    fn on_checkpoint(&mut self, written: Written, durable: Result<DurableCheckpoint, WalError>) {
        match durable {
            Ok(checkpoint) => {
                self.partitions.on_pages_stored(&checkpoint.pages);
                if let Some(object) = checkpoint.object {
                    let own = self.checkpoints.lock();
                    own.unwrap_or_else(PoisonError::into_inner).add(object);
                }
                self.rows.add(RowReport {
                    slot: checkpoint.at.slot,
                    partitions: written.partitions,
                });
                self.rows_end = written.through.slot.next();
                self.lets_go |= written.is_wanted;
            }
            Err(error) => {
                self.partitions.rows_failed(written.partitions);
                tracing::warn!(%error, "a checkpoint was not written");
            }
        }
    }

    /// Tells the coordinator what is new: the durable end and the last rows; and behind that, since
    /// no slot is let go of that is not known to be durable, that partitions which are archived to
    /// their ends need none of these slots.
    fn report(&mut self) -> Option<(ProgressReport, Report)> {
        let durable_end = self.wal.status().durable_end;
        let now = self.clock.mono();
        if !self
            .reported
            .is_due(durable_end, !self.rows.is_empty(), now)
        {
            return None;
        }
        self.reported.at = Some(now);
        let report = ProgressReport {
            incarnation: self.incarnation,
            stream: self.stream,
            durable_end,
            rows: self.rows.reports(),
            rows_end: self.rows_end,
            holds_local: false,
        };
        let coordinator = self.coordinator.clone();
        let request = Request::ReportProgress(report.clone());
        let (log_starts, partitions) = (self.log_starts.clone(), Arc::clone(&self.partitions));
        let lets_go = std::mem::take(&mut self.lets_go);
        let reply = async move {
            let let_go = async {
                if lets_go {
                    log_starts.let_go_of_slots(&partitions.all()).await;
                }
            };
            // polled in this order, and so asked in this order: one slot of the journal takes both
            futures::join!(coordinator.call(request), let_go).0
        };
        Some((report, reply.boxed()))
    }

    /// What the coordinator did not take is told again.
    fn on_reported(&mut self, told: &ProgressReport, reply: Result<Reply, CoordinatorError>) {
        match reply {
            Ok(Reply::Stream(Ok(()))) => {
                self.reported.durable_end = told.durable_end;
                self.rows.remove(&told.rows);
            }
            Ok(other) => tracing::error!(
                ?other,
                "the coordinator refuses the progress of this broker"
            ),
            Err(error) => {
                self.reported.at = None;
                tracing::warn!(%error, "progress was not reported");
            }
        }
    }

    /// Makes room for producers, and says so while batches are refused for want of it.
    fn watch_producers(&mut self) {
        self.partitions.bound_producers();
        let usage = self.partitions.producers();
        if usage.refused == self.producers_refused {
            return;
        }
        if self.producers_line.due(self.clock.mono()).is_some() {
            tracing::warn!(
                batches = usage.refused - self.producers_refused,
                producers = usage.count,
                "batches of idempotent producers that are new or were silent for long are refused \
                 until others have been silent for three minutes: raise producer.memory.bytes, \
                 spread them over more partitions, or keep producers open for longer"
            );
            self.producers_refused = usage.refused;
        }
    }

    /// Says so when slots are in flight and none has become durable for a while, and when nothing
    /// may be read from here.
    fn watch_bucket(&mut self) {
        let status = self.wal.status();
        let now = self.clock.mono();
        if status.durable_end != self.moved.0 || status.slots_in_flight == 0 {
            self.moved = (status.durable_end, now);
        }
        let stands = now.since(self.moved.1);
        let hampered = if !self.coordinator.is_read(now) {
            Some("the bucket does not say whether another process leads: nothing is read")
        } else if stands >= STANDS_STILL {
            Some("the bucket takes no slots: producers wait")
        } else {
            None
        };
        if hampered == self.hampered {
            return;
        }
        self.hampered = hampered;
        let Some(why) = hampered else {
            tracing::info!("the bucket answers, and takes slots");
            self.health.serving();
            return;
        };
        tracing::warn!(
            slots_in_flight = status.slots_in_flight,
            waiting_bytes = status.permit_bytes,
            stands_still_s = stands.as_secs(),
            "{why}"
        );
        self.health.hampered(why);
    }
}

/// Writes the state of every partition as it is now, when nothing more is appended and everything
/// is durable, and says what is to be told of it: the next start then has nothing to fold. All of
/// them, for what the keeper had not reported when it stopped is not known any more.
///
/// # Errors
/// The WAL has ended.
pub(super) async fn last_report(parts: &Parts) -> Result<ProgressReport, FirnError> {
    let mut rows = Vec::new();
    let mut rows_end = Slot(0);
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
        let pushed = parts.wal.push_checkpoint(&states).await;
        rows.push(RowReport {
            slot: pushed.map_err(|e| wal_ended(&e))?.at.slot,
            partitions,
        });
        rows_end = next.slot;
    }
    Ok(ProgressReport {
        incarnation: parts.registered.incarnation,
        stream: parts.registered.stream,
        durable_end: parts.wal.status().durable_end,
        rows,
        rows_end,
        holds_local: false,
    })
}

/// The result of what is in flight; never, if nothing is.
async fn poll<T>(in_flight: Option<&mut BoxFuture<'static, T>>) -> T {
    match in_flight {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// How often it looks at the bucket, at producers and at what there is to report.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often progress is reported while there is any,
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// unless it is this many slots: a seal looks through these with two rounds of GETs.
const REPORT_SLOTS: u64 = 64;
/// Producers are looked through for expired ones every so many looks.
const EXPIRY_TICKS: u64 = 600;
/// In flight for this long without any becoming durable is worth saying.
const STANDS_STILL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use firn_proto::ids::{PartitionIndex, TopicId};

    fn tp(partition: i32) -> TopicPartition {
        TopicPartition {
            topic: TopicId::ZERO,
            partition: PartitionIndex(partition),
        }
    }

    fn row(slot: u64, partitions: &[i32]) -> RowReport {
        RowReport {
            slot: Slot(slot),
            partitions: partitions.iter().map(|partition| tp(*partition)).collect(),
        }
    }

    #[test]
    fn progress_is_told_at_once_then_every_few_seconds_or_after_many_slots() {
        let at = |seconds: u64| Mono(seconds * 1_000_000);
        let mut reported = Reported::default();
        assert!(!reported.is_due(Slot(0), false, at(0)), "there is none");
        assert!(reported.is_due(Slot(1), false, at(0)));
        reported.durable_end = Slot(1);
        reported.at = Some(at(10));
        assert!(!reported.is_due(Slot(1), false, at(99)), "nothing is new");
        for (durable_end, has_rows) in [(Slot(2), false), (Slot(1), true)] {
            assert!(!reported.is_due(durable_end, has_rows, at(14)));
            assert!(reported.is_due(durable_end, has_rows, at(15)));
        }
        assert!(!reported.is_due(Slot(REPORT_SLOTS), false, at(11)));
        assert!(reported.is_due(Slot(1 + REPORT_SLOTS), false, at(11)));
    }

    #[test]
    fn while_nobody_hears_of_rows_only_the_last_of_each_partition_is_kept() {
        let mut rows = UnreportedRows::default();
        for slot in 0..10_000 {
            rows.add(row(slot, &[0, 1]));
        }
        rows.add(row(10_000, &[1]));
        assert_eq!(rows.0.len(), 2);
        assert_eq!(rows.reports(), [row(9_999, &[0]), row(10_000, &[1])]);
    }

    #[test]
    fn a_row_that_came_while_older_ones_were_told_is_told_next() {
        let mut rows = UnreportedRows::default();
        rows.add(row(4, &[0, 1]));
        let told = rows.reports();
        rows.add(row(5, &[1]));
        rows.remove(&told);
        assert_eq!(rows.reports(), [row(5, &[1])]);
        rows.remove(&[row(5, &[1])]);
        assert!(rows.is_empty());
    }
}
