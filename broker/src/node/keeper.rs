//! What a node does about its state while it runs: checkpoints when they are due, progress to the
//! coordinator, and a word when the bucket takes nothing more.

use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::Coordinator;
use firn_proto::cluster::{CoordinatorError, ProgressReport, Reply, Request};
use firn_proto::env::{Clock, Mono};
use firn_proto::ids::{Incarnation, Slot, SlotPosition, StreamId};
use firn_storage::wal::{Wal, WalError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{MissedTickBehavior, interval};

use super::parts::wal_ended;
use super::rows::StateRows;
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
    log_starts: LogStarts,
    has_local_wal: bool,
    /// What was archived leaves the WAL with the next report: rows behind it are durable.
    lets_go: bool,
    rows: Arc<StateRows>,
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

/// What was reported, and when. Each report is an object of the journal, whatever it says: one in a
/// second cost a tenth of what a busy broker puts.
#[derive(Debug, Default)]
struct Reported {
    durable_end: Slot,
    holds_local: bool,
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

type Checkpoint = BoxFuture<'static, (bool, Result<(), WalError>)>;

/// A report on its way.
struct Report {
    told: ProgressReport,
    /// Slots are to be let go of when it was taken.
    lets_go: bool,
    reply: BoxFuture<'static, Result<Reply, CoordinatorError>>,
}

impl Keeper {
    /// A keeper of these parts.
    pub(super) fn new(parts: &Parts, archive: &Archive, starting: &Starting) -> Self {
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
            log_starts: archive.log_starts.clone(),
            has_local_wal: starting.config.wal_dir().is_some(),
            lets_go: false,
            rows: Arc::clone(&parts.rows),
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
        let mut report: Option<Report> = None;
        let mut letting_go: Option<BoxFuture<'static, ()>> = None;
        let mut tick = interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0u64;
        loop {
            tokio::select! {
                rows = self.partitions.rows_due(), if checkpoint.is_none() => {
                    checkpoint = Some(self.checkpoint(rows));
                }
                (is_wanted, written) = poll(checkpoint.as_mut()) => {
                    checkpoint = None;
                    match written {
                        Ok(()) => self.lets_go |= is_wanted,
                        Err(error) => tracing::warn!(%error, "a checkpoint was not written"),
                    }
                }
                reply = poll(report.as_mut().map(|report| &mut report.reply)) => {
                    if let Some(Report { told, lets_go, .. }) = report.take() {
                        let is_taken = self.on_reported(&told, reply);
                        if lets_go && is_taken && letting_go.is_none() {
                            letting_go = Some(self.let_go_of_slots());
                        } else {
                            self.lets_go |= lets_go;
                        }
                    }
                }
                () = poll(letting_go.as_mut()) => letting_go = None,
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
        let rows = Arc::clone(&self.rows);
        async move { (due.is_wanted, rows.write_due(due).await) }.boxed()
    }

    /// Tells the coordinator what is new: the durable end and the last rows.
    fn report(&mut self) -> Option<Report> {
        let (rows, rows_end) = self.rows.reports();
        // asked for behind the rows, so that it lies behind each
        let durable_end = self.wal.status().durable_end;
        let now = self.clock.mono();
        let holds_local = self.has_local_wal && self.partitions.has_acked_local();
        // whoever takes over waits for the disk only if this is known
        let is_urgent = holds_local && !self.reported.holds_local;
        if !is_urgent && !self.reported.is_due(durable_end, !rows.is_empty(), now) {
            return None;
        }
        self.reported.at = Some(now);
        let told = ProgressReport {
            incarnation: self.incarnation,
            stream: self.stream,
            durable_end,
            rows,
            rows_end,
            holds_local,
        };
        let coordinator = self.coordinator.clone();
        let request = Request::ReportProgress(told.clone());
        Some(Report {
            told,
            lets_go: std::mem::take(&mut self.lets_go),
            reply: async move { coordinator.call(request).await }.boxed(),
        })
    }

    /// Tells the coordinator that partitions which are archived to their ends need none of their
    /// slots: behind a report, since no slot is let go of that is not known to be durable, and beside
    /// those that follow, since there may be many partitions.
    fn let_go_of_slots(&self) -> BoxFuture<'static, ()> {
        let (log_starts, partitions) = (self.log_starts.clone(), Arc::clone(&self.partitions));
        async move { log_starts.let_go_of_slots(&partitions.all()).await }.boxed()
    }

    /// Whether the coordinator took it; what it did not take is told again.
    fn on_reported(
        &mut self,
        told: &ProgressReport,
        reply: Result<Reply, CoordinatorError>,
    ) -> bool {
        match reply {
            Ok(Reply::Stream(Ok(()))) => {
                self.reported.durable_end = told.durable_end;
                self.log_starts.on_reported(told.durable_end);
                self.reported.holds_local = told.holds_local;
                self.rows.on_told(&told.rows);
                true
            }
            Ok(other) => {
                tracing::error!(
                    ?other,
                    "the coordinator refuses the progress of this broker"
                );
                false
            }
            Err(error) => {
                self.reported.at = None;
                tracing::warn!(%error, "progress was not reported");
                false
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
    let mut end = Slot(0);
    let next = parts.wal.next_durable();
    let last = next.slot.0.checked_sub(1).map(|slot| SlotPosition {
        slot: Slot(slot),
        ..next
    });
    let states = last
        .map(|last| parts.partitions.rows_after(last))
        .unwrap_or_default();
    if !states.is_empty() {
        let written = parts.rows.write_closed(&states).await;
        written.map_err(|e| wal_ended(&e))?;
        end = next.slot;
    }
    // with those of partitions that have left and may not have been released yet
    let (rows, rows_end) = parts.rows.reports();
    Ok(ProgressReport {
        incarnation: parts.registered.incarnation,
        stream: parts.registered.stream,
        durable_end: parts.wal.status().durable_end,
        rows,
        rows_end: rows_end.max(end),
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
}
