//! The partitions that this broker owns: from a checked batch to its offset and its answer, and
//! from a durable slot to the high watermark.
//!
//! - `log.rs`: offsets, duplicates, answers, bounds of one partition (pure); `log/ahead.rs`: what is
//!   visible of it before the bucket has it
//! - `producers.rs`: what all partitions together remember of producers
//! - `refusals.rs`: which refused batch of a producer has to come first (pure)
//! - `waiters.rs`: long polls (pure); `wait.rs` parks their tasks
//! - `set.rs`: all partitions of the broker; `sink.rs` connects them with the WAL
//! - `moves.rs`: partitions that come from other brokers and go to them, many at a time
//! - this file: one partition, its pure parts behind a short lock
//!
//! Architecture invariant: no lock here is held over an await, an idle partition has no task, and
//! nothing here reads the bucket or knows a Kafka message.

mod log;
mod moves;
mod producers;
mod refusals;
mod set;
mod sink;
mod wait;
mod waiters;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_proto::ids::{LeaderEpoch, SlotPosition, TopicPartition};
use firn_proto::record::{BatchHeader, BatchView, Stamp, TimestampType};
use firn_storage::read::ReadOutcome;
use firn_storage::state::{PagePlace, ProducerBatch, Run, RunRef, StateRow};
use firn_storage::wal::{Acks, WalEntry, WalPermit};
use tokio::sync::oneshot;

pub use log::{
    Answer, Bounds, PartitionLog, Plan, Planned, Refusal, Released, Standing, TimePlace,
};
pub use producers::ProducerUsage;
pub use refusals::{Behind, Refusals};
pub use set::{BatchLog, Partitions, RowsDue};
pub use wait::FetchWait;
pub use waiters::{WaitId, Waiters};

use set::Shared;

/// One partition, owned by this broker in one epoch.
#[derive(Debug)]
pub struct Partition {
    tp: TopicPartition,
    epoch: LeaderEpoch,
    shared: Arc<Shared>,
    log: Mutex<PartitionLog<Waiter>>,
}

/// Who waits for an answer.
type Waiter = oneshot::Sender<Result<Acked, Refusal>>;

/// An answer, with the log start of that moment.
#[derive(Clone, Copy, Debug)]
struct Acked {
    answer: Answer,
    log_start: i64,
}

/// What a producer is told when its batch is as durable as it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The time stamped into the batch, in a topic with LogAppendTime.
    pub log_append_ms: Option<i64>,
    /// The first offset of the partition.
    pub log_start: i64,
}

/// A batch that has its offset and is on its way.
#[derive(Debug)]
#[must_use = "the producer waits for the answer"]
pub struct AppendReceipt {
    has_append_time: bool,
    state: ReceiptState,
}

#[derive(Debug)]
enum ReceiptState {
    Acked(Acked),
    Waiting(oneshot::Receiver<Result<Acked, Refusal>>),
}

impl AppendReceipt {
    /// Waits until the batch is as durable as its producer wants. The batch stays on its way if
    /// the future is dropped; a repeated one then waits for it.
    ///
    /// # Errors
    /// [`Refusal::NotOwner`]: the epoch ended first. Whether the batch is in the log is unknown.
    pub async fn wait(self) -> Result<Appended, Refusal> {
        let acked = match self.state {
            ReceiptState::Acked(acked) => acked,
            ReceiptState::Waiting(receiver) => receiver.await.unwrap_or(Err(Refusal::NotOwner))?,
        };
        Ok(Appended {
            base_offset: acked.answer.base_offset,
            log_append_ms: self.has_append_time.then_some(acked.answer.max_timestamp),
            log_start: acked.log_start,
        })
    }

    /// Whether [`Self::wait`] resolves at once.
    pub fn is_done(&self) -> bool {
        matches!(self.state, ReceiptState::Acked(_))
    }
}

impl Partition {
    fn open(shared: Arc<Shared>, durable: StateRow) -> Self {
        shared.producers.on_change(0, durable.producers.len());
        Self {
            tp: durable.tp,
            epoch: durable.epoch,
            shared,
            log: Mutex::new(PartitionLog::open(durable)),
        }
    }

    /// Which partition this is.
    pub fn tp(&self) -> TopicPartition {
        self.tp
    }

    /// The epoch it is owned in.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Appends a batch that was checked. Returns once it has its offset and is in the WAL;
    /// `permit` is given back when it is durable.
    ///
    /// # Errors
    /// [`Refusal`]: the batch is not stored, and the later ones of its producer are not either until
    /// this one is, though the producer may be forgotten meanwhile.
    pub fn append(
        &self,
        batch: BatchView,
        timestamps: TimestampType,
        acks: Acks,
        permit: WalPermit,
    ) -> Result<AppendReceipt, Refusal> {
        let header = *batch.header();
        let appended = self.try_append(batch, timestamps, acks, permit);
        if appended.is_err() {
            self.on_refused(&header);
        }
        appended
    }

    /// A batch was refused, here or before it came here: it is remembered if its producer may be
    /// unknown when it sends it again.
    fn on_refused(&self, header: &BatchHeader) {
        if !header.has_producer() {
            return;
        }
        let standing = self.lock().standing(header.producer_id);
        match standing {
            Standing::Unknown => self.shared.on_refused(self.tp, header, false),
            Standing::Known => self.shared.on_refused(self.tp, header, true),
            Standing::InFlight => {}
        }
    }

    fn try_append(
        &self,
        batch: BatchView,
        timestamps: TimestampType,
        acks: Acks,
        permit: WalPermit,
    ) -> Result<AppendReceipt, Refusal> {
        let now_ms = self.shared.clock.wall_ms();
        let append_ms = (timestamps == TimestampType::LogAppendTime).then_some(now_ms);
        // makes the bytes our own and the checksum right, so that under the lock only twelve
        // bytes are left to set
        let batch = batch.stamp(Stamp {
            base_offset: 0,
            leader_epoch: self.epoch,
            log_append_ms: append_ms,
        });
        let header = *batch.header();
        let has_append_time = append_ms.is_some();
        let mut log = self.lock();
        let acks = log.acks(acks);
        let planned = match log.plan(&header, self.shared.acks_of_repeat(acks))? {
            Plan::Append(planned) => {
                self.admit(&mut log, &header, now_ms)?;
                planned
            }
            Plan::Done(answer) => {
                self.shared.on_repeated(self.tp, &header);
                let log_start = log.bounds().log_start;
                return Ok(AppendReceipt {
                    has_append_time,
                    state: ReceiptState::Acked(Acked { answer, log_start }),
                });
            }
            Plan::InFlight(answer) => {
                self.shared.on_repeated(self.tp, &header);
                let (sender, receiver) = oneshot::channel();
                let parked = log.wait_for(&answer, acks, sender, Waiter::is_closed);
                assert!(
                    parked.is_none(),
                    "I8: a batch of {} at offset {} is neither durable nor in flight",
                    self.tp,
                    answer.base_offset
                );
                return Ok(AppendReceipt {
                    has_append_time,
                    state: ReceiptState::Waiting(receiver),
                });
            }
        };
        let entry = self.entry(batch, &planned, acks);
        let records = self.shared.push(entry, permit)?;
        if acks == Acks::Local {
            self.shared.takes_local.store(true, Ordering::Relaxed);
        }
        let (waiter, state) = self.receipt(&log, &planned, header.max_timestamp, acks);
        let stored = (records, header.max_timestamp);
        log.commit(&planned, stored, waiter, now_ms);
        if let Some(producer) = planned.producer {
            self.shared.on_stored(self.tp, producer.id);
        }
        Ok(AppendReceipt {
            has_append_time,
            state,
        })
    }

    /// Whether a batch that could be appended may be, for all that is remembered of producers.
    fn admit(
        &self,
        log: &mut PartitionLog<Waiter>,
        header: &BatchHeader,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        if !header.has_producer() {
            return Ok(());
        }
        let id = header.producer_id;
        let is_new = log.standing(id) == Standing::Unknown;
        if is_new {
            self.shared.check_refusals(self.tp, header)?;
        }
        let has_room = || !log.has_no_room(id, now_ms);
        self.shared.producers.admit(is_new, has_room, id)
    }

    fn entry(&self, batch: BatchView, planned: &Planned, acks: Acks) -> WalEntry {
        let max_timestamp = batch.header().max_timestamp;
        let stored = batch.stamp(Stamp {
            base_offset: planned.base_offset,
            leader_epoch: planned.epoch,
            log_append_ms: None,
        });
        WalEntry {
            tp: self.tp,
            epoch: planned.epoch,
            base_offset: planned.base_offset,
            last_offset: planned.last_offset,
            max_timestamp,
            producer: planned.producer,
            flags: planned.flags,
            acks,
            records: stored.into_bytes(),
        }
    }

    fn receipt(
        &self,
        log: &PartitionLog<Waiter>,
        planned: &Planned,
        max_timestamp: i64,
        acks: Acks,
    ) -> (Option<(Acks, Waiter)>, ReceiptState) {
        if acks == Acks::None {
            let answer = Answer {
                base_offset: planned.base_offset,
                last_offset: planned.last_offset,
                max_timestamp,
            };
            let log_start = log.bounds().log_start;
            return (None, ReceiptState::Acked(Acked { answer, log_start }));
        }
        let (sender, receiver) = oneshot::channel();
        (Some((acks, sender)), ReceiptState::Waiting(receiver))
    }

    /// Where the log begins and ends for readers.
    pub fn bounds(&self) -> Bounds {
        self.lock().bounds()
    }

    /// Whether the local WAL is enough from now on for records to be visible, and for acks=all.
    /// False if it was so.
    pub fn set_local(&self, is_local: bool) -> bool {
        self.lock().set_local(is_local)
    }

    /// Takes no batch any more, for good: what is on its way becomes durable and is answered.
    pub fn stop(&self) {
        self.lock().stop();
    }

    /// Whether everything that was appended is durable.
    pub fn is_settled(&self) -> bool {
        self.lock().is_settled()
    }

    /// Whether this broker has stopped owning it in this epoch.
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    /// The durable runs that hold `offset .. end`, up to about `bytes_max` bytes and at least one:
    /// what a read of them needs.
    pub fn runs(&self, offset: i64, end: i64, bytes_max: usize) -> Vec<RunRef> {
        let log = self.lock();
        log.durable().runs.span(self.tp, offset, end, bytes_max)
    }

    /// How many bytes there are of `offset .. end`, durable in runs or visible ahead of them, as far
    /// as `bytes_max` goes, and in the first run or batch of them.
    pub fn bytes_there(&self, offset: i64, end: i64, bytes_max: usize) -> (usize, usize) {
        let log = self.lock();
        let runs = log.durable().runs.span(self.tp, offset, end, bytes_max);
        let (ahead, first_ahead) = log.bytes_ahead(offset, end);
        let there: usize = runs.iter().map(|run| run.run.byte_len as usize).sum();
        let first = runs
            .first()
            .map_or(first_ahead, |run| run.run.byte_len as usize);
        (there.saturating_add(ahead).min(bytes_max), first)
    }

    /// What is visible from `offset` on, up to `end`, and in no slot yet; `None` if the offset is in
    /// one ([`PartitionLog::read_ahead`]).
    pub fn read_ahead(
        &self,
        span: (i64, i64),
        bytes_max: usize,
        first_in_any_case: bool,
    ) -> Option<ReadOutcome> {
        self.lock().read_ahead(span, bytes_max, first_in_any_case)
    }

    /// Where to look for a record with a timestamp of at least `timestamp` in `offset .. end`, for
    /// ListOffsets. Where the records of the run disappoint, ask again behind it.
    pub fn place_of_time(&self, offset: i64, end: i64, timestamp: i64) -> TimePlace {
        self.lock().place_of_time(offset, end, timestamp)
    }

    /// Where to look for the record with the largest timestamp (ListOffsets, KIP-734).
    pub fn place_of_newest(&self) -> TimePlace {
        self.lock().place_of_newest()
    }

    /// Bytes of its records that are in no segment.
    pub fn unarchived_bytes(&self) -> u64 {
        self.lock().unarchived_bytes()
    }

    /// Up to about `bytes_max` bytes of runs that are in no segment and belong to no unfinished
    /// transaction; at least one, if there is any.
    pub fn unarchived_runs(&self, bytes_max: usize) -> Vec<RunRef> {
        let log = self.lock();
        let bounds = log.bounds();
        let runs = &log.durable().runs;
        runs.span(
            self.tp,
            bounds.archived_to,
            bounds.last_stable_offset,
            bytes_max,
        )
    }

    /// The slot below which nothing of this partition is needed for its records once those below
    /// `bound` are archived or deleted (I7); `None` before its first record.
    pub fn next_slot(&self, bound: i64) -> Option<SlotPosition> {
        // First: what is applied meanwhile lies behind it, or is found.
        let applied = self.shared.applied();
        self.lock().next_slot(bound, applied)
    }

    /// The journal holds the segments with the records below `offset`.
    pub fn on_archived(&self, offset: i64) {
        self.lock().on_archived(offset);
    }

    /// The journal holds the log start `offset`.
    pub fn on_log_start(&self, offset: i64) {
        self.lock().on_log_start(offset);
    }

    /// The state after every slot up to `after`, or up to a later one that has been applied.
    fn state_row(&self, after: SlotPosition) -> StateRow {
        self.lock().state_row(after)
    }

    /// The state as it was opened: no slot of this process has been applied.
    fn opened_row(&self) -> StateRow {
        self.lock().durable().clone()
    }

    fn on_page_stored(&self, base_offset: i64, place: PagePlace) {
        self.lock().on_page_stored(base_offset, place);
    }

    fn row_bytes_estimate(&self) -> usize {
        self.lock().durable().encoded_len_estimate()
    }

    fn expire_producers(&self, now_ms: i64, expiry_ms: i64) {
        self.counting_producers(|log| log.expire_producers(now_ms, expiry_ms));
    }

    /// Adds when each producer wrote last.
    fn producers_seen(&self, seen: &mut Vec<i64>) {
        seen.extend(self.lock().producers_seen());
    }

    fn forget_producers(&self, horizon_ms: i64, of_that_time: &mut usize) -> usize {
        self.counting_producers(|log| log.forget_producers(horizon_ms, of_that_time))
    }

    /// Changes the log, and tells the budget if there are more producers or fewer now.
    fn counting_producers<T>(&self, change: impl FnOnce(&mut PartitionLog<Waiter>) -> T) -> T {
        let mut log = self.lock();
        let before = log.remembered_producers();
        let changed = change(&mut log);
        self.shared
            .producers
            .on_change(before, log.remembered_producers());
        changed
    }

    /// Everything up to `last_offset` is on the local disk. Gives the bytes that are visible by that.
    fn on_local(&self, epoch: LeaderEpoch, last_offset: i64) -> usize {
        let (released, log_start, visible) = {
            let mut log = self.lock();
            let before = log.bounds().high_watermark;
            let released = log.on_local(epoch, last_offset);
            let (visible, _) = log.bytes_ahead(before, log.bounds().high_watermark);
            (released, log.durable().log_start, visible)
        };
        answer(released, log_start);
        visible
    }

    fn on_durable(&self, at: SlotPosition, runs: &[Run], producers: &[ProducerBatch], now_ms: i64) {
        let (released, log_start) = self.counting_producers(|log| {
            let released = log.on_durable(at, runs, producers, now_ms);
            (released, log.durable().log_start)
        });
        answer(released, log_start);
    }

    fn close(&self) {
        let waiters = self.counting_producers(PartitionLog::close);
        for waiter in waiters {
            // whoever has gone needs no answer
            let _ = waiter.send(Err(Refusal::NotOwner));
        }
    }

    /// The lock is short: no IO, no await, no decompression under it. A panic under it is an
    /// invariant that broke, after which the process ends.
    fn lock(&self) -> MutexGuard<'_, PartitionLog<Waiter>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(released: Released<Waiter>, log_start: i64) {
    for (waiter, answer) in released {
        // whoever has gone needs no answer
        let _ = waiter.send(Ok(Acked { answer, log_start }));
    }
}
