//! All partitions that this broker owns. Takes what becomes durable from the WAL, hands it to each
//! partition, the tail cache and the long polls, and says which state rows are to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use bytes::Bytes;
use firn_proto::env::Clock;
use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, ProducerId, SlotPosition, TopicId, TopicPartition,
};
use firn_proto::limits::{CHECKPOINT_AGE_MAX, CHECKPOINT_IN_TURN};
use firn_proto::record::BatchHeader;
use firn_storage::cache::{TailBatch, TailCache};
use firn_storage::state::{CheckpointDue, PagePlace, ProducerBatch, Run, StateRow};
use firn_storage::wal::local::LocalAck;
use firn_storage::wal::{Acks, WalEntry, WalPermit};
use tokio::sync::Notify;

use super::Partition;
use super::log::Refusal;
use super::producers::{ProducerBudget, ProducerUsage};
use super::refusals::{Behind, Refusals};
use super::wait::{FetchWait, FetchWaits};

/// Where partitions put their batches: the WAL.
pub trait BatchLog: Send + Sync + 'static {
    /// Takes a batch, and gives its records as they are kept until they are durable. What one
    /// partition pushes becomes durable in the order of these calls.
    ///
    /// # Errors
    /// [`Refusal::NotOwner`]: nothing is taken any more, since the stream has ended.
    fn push(&self, entry: WalEntry, permit: WalPermit) -> Result<Bytes, Refusal>;
}

/// What all partitions of a broker share.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) producers: ProducerBudget,
    wal: RwLock<Option<Box<dyn BatchLog>>>,
    /// The last slot that every partition has taken in.
    applied: Mutex<Option<SlotPosition>>,
    refusals: Mutex<Refusals>,
    /// Whether a batch was taken that is acknowledged by the local WAL alone.
    pub(super) takes_local: AtomicBool,
    /// Whether the local WAL may acknowledge anything at the moment; it may if nobody said.
    may_ack_local: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Whether any are remembered, so that in good times nobody takes the lock. Who refuses a batch
    /// and who stores the next one of its producer follow each other.
    any_refused: AtomicBool,
}

/// The partitions that this broker owns.
pub struct Partitions {
    pub(super) shared: Arc<Shared>,
    pub(super) open: RwLock<BTreeMap<TopicPartition, Arc<Partition>>>,
    waits: Arc<FetchWaits>,
    pub(super) tail: Arc<TailCache>,
    due: Mutex<Due>,
    rows_wanted: Notify,
    /// Epochs in which partitions could not be opened so far.
    pub(super) unopened: Mutex<BTreeMap<TopicPartition, LeaderEpoch>>,
    /// Told whenever a partition is opened, or could not be.
    pub(super) opens: Notify,
}

#[derive(Debug, Default)]
struct Due {
    counted: CheckpointDue,
    /// Partitions with records in slots up to that one that are in no state row yet.
    dirty: BTreeSet<TopicPartition>,
    /// The last partition whose row was written again in its turn.
    renewed: Option<TopicPartition>,
    /// Somebody waits for rows, however few slots there were.
    is_wanted: bool,
}

/// State rows to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct RowsDue {
    /// The rows, as copies.
    pub rows: Vec<StateRow>,
    /// Once they are durable, rows hold everything in slots up to this one.
    pub through: SlotPosition,
    /// Somebody waits for them ([`Partitions::want_rows`]).
    pub is_wanted: bool,
}

impl Partitions {
    /// No partitions yet. Batches that become durable go to `tail` as well. What is remembered of
    /// idempotent producers takes up to `producer_bytes`, beyond which only those
    /// are remembered that may still repeat what they wrote.
    pub fn new(clock: Arc<dyn Clock>, tail: Arc<TailCache>, producer_bytes: usize) -> Self {
        let shared = Shared {
            clock,
            producers: ProducerBudget::new(producer_bytes),
            wal: RwLock::default(),
            applied: Mutex::default(),
            refusals: Mutex::default(),
            takes_local: AtomicBool::new(false),
            may_ack_local: OnceLock::new(),
            any_refused: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            open: RwLock::default(),
            waits: Arc::default(),
            tail,
            due: Mutex::default(),
            rows_wanted: Notify::new(),
            unopened: Mutex::default(),
            opens: Notify::new(),
        }
    }

    /// Says where batches go. Once, after the WAL was started with this set as its sink; until then
    /// appends are refused. [`Self::close_all`] lets go of it: the WAL holds its sink as well.
    pub fn attach(&self, wal: impl BatchLog) {
        let before = self.shared.wal_mut().replace(Box::new(wal));
        assert!(
            before.is_none(),
            "I4: a second wal would be a second stream, and offsets belong to one"
        );
    }

    /// Says when the local WAL acknowledges nothing by itself: whoever others may have taken for dead
    /// does not know whether they have its partitions. What is durable in the bucket is answered all
    /// the same. Once.
    pub fn gate_local(&self, may_ack: impl Fn() -> bool + Send + Sync + 'static) {
        let before = self.shared.may_ack_local.set(Box::new(may_ack));
        assert!(
            before.is_ok(),
            "there is one opinion on who lives, and it is asked from the start"
        );
    }

    /// Owns a partition from now on, in the epoch set in `row`, with the state it folded to. If the
    /// epoch is not the partition's first, the caller has pushed `row` to this stream as a
    /// checkpoint, so that it lies in front of the first append (I8).
    pub fn open(&self, row: StateRow) -> Arc<Partition> {
        let partition = Arc::new(Partition::open(Arc::clone(&self.shared), row));
        let before = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(partition.tp(), Arc::clone(&partition));
        if let Some(before) = before {
            assert!(
                before.epoch() < partition.epoch(),
                "I4: epoch {} of {} is opened after epoch {}",
                partition.epoch(),
                partition.tp(),
                before.epoch()
            );
            self.let_go(&[before]);
        }
        self.on_open(partition.tp());
        self.bound_producers();
        partition
    }

    /// Owns nothing any more: the stream was fenced, or the broker stops.
    pub fn close_all(&self) {
        let all: Vec<_> =
            std::mem::take(&mut *self.open.write().unwrap_or_else(PoisonError::into_inner))
                .into_values()
                .collect();
        self.let_go(&all);
        let wal = self.shared.wal_mut().take();
        drop(wal);
    }

    /// The partition, if this broker owns it.
    pub fn find(&self, topic: TopicId, partition: PartitionIndex) -> Option<Arc<Partition>> {
        self.find_tp(TopicPartition { topic, partition })
    }

    /// The partition, if this broker owns it.
    pub fn find_tp(&self, tp: TopicPartition) -> Option<Arc<Partition>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&tp)
            .cloned()
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// To be called when a produced batch is refused before it came to its partition, so that the
    /// batches of its producer that follow are not taken in its place.
    pub fn on_refused(&self, tp: TopicPartition, header: &BatchHeader) {
        match self.find_tp(tp) {
            Some(partition) => partition.on_refused(header),
            None => self.shared.on_refused(tp, header, false),
        }
    }

    /// Parks a fetch until `missing` more bytes of these partitions are visible. Each comes with
    /// the high watermark up to which the caller has looked, so that nothing is missed in between.
    pub fn wait(&self, seen: &[(Arc<Partition>, i64)], missing: usize) -> FetchWait {
        let tps = seen.iter().map(|(partition, _)| partition.tp()).collect();
        let wait = self.waits.park(tps, missing);
        let stale = seen.iter().any(|(partition, high_watermark)| {
            partition.bounds().high_watermark > *high_watermark || partition.is_closed()
        });
        if stale { wait.ready_now() } else { wait }
    }

    /// Fetches that are parked.
    pub fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// Waits until state rows are due and returns those of all partitions that have changed since
    /// their last one, and of some of the others in turn. The caller pushes them to the WAL as a checkpoint, and gives them back with
    /// [`Self::rows_failed`] if they do not become durable. They are copied here, on the caller's
    /// task, partition by partition: each is the state after a slot of its own, none of them
    /// earlier than the last one of this moment.
    ///
    /// Cancel safe.
    pub async fn rows_due(&self) -> RowsDue {
        loop {
            let wanted = self.rows_wanted.notified();
            if let Some(rows) = self.take_due() {
                return rows;
            }
            wanted.await;
        }
    }

    /// State rows are due now: what was archived can leave the WAL only once rows behind it are
    /// durable (I7).
    pub fn want_rows(&self) {
        self.due().is_wanted = true;
        self.rows_wanted.notify_one();
    }

    fn take_due(&self) -> Option<RowsDue> {
        if std::mem::take(&mut self.due().is_wanted) {
            let is_wanted = true;
            return self.rows().map(|rows| RowsDue { is_wanted, ..rows });
        }
        let mut tps = {
            let due = self.due();
            due.counted.may_be_due().then(|| due.dirty.clone())?
        };
        tps.extend(self.in_turn());
        let partitions = tps.into_iter().filter_map(|tp| self.find_tp(tp));
        let row_bytes: usize = partitions
            .map(|partition| partition.row_bytes_estimate())
            .sum();
        if !self.due().counted.is_due(row_bytes as u64) {
            return None;
        }
        self.rows()
    }

    /// Whether this process may have acknowledged a batch by its local WAL alone (acks=1).
    pub fn has_acked_local(&self) -> bool {
        self.shared.takes_local.load(Ordering::Relaxed)
    }

    /// The state rows of all partitions that have changed since their last one, and of those whose
    /// turn it is; none before the first durable slot.
    pub fn rows(&self) -> Option<RowsDue> {
        let in_turn = self.in_turn();
        let (through, mut tps) = {
            let mut due = self.due();
            due.counted.on_checkpoint();
            let through = self.shared.applied()?;
            due.renewed = in_turn.last().copied();
            (through, std::mem::take(&mut due.dirty))
        };
        tps.extend(in_turn);
        // one that is closed needs no row any more
        let partitions = tps.into_iter().filter_map(|tp| self.find_tp(tp));
        let rows = partitions
            .map(|partition| partition.state_row(through))
            .collect();
        Some(RowsDue {
            rows,
            through,
            is_wanted: false,
        })
    }

    /// The partitions whose rows the next checkpoint holds whether they have changed or not: so many
    /// that everyone's turn comes within [`CHECKPOINT_AGE_MAX`] checkpoints, and at each where they
    /// are few. Else each partition that fell silent would leave a checkpoint of its own behind for a
    /// start to read, and hold the floor of the stream.
    fn in_turn(&self) -> Vec<TopicPartition> {
        let last = self.due().renewed;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = open.range((behind, Bound::Unbounded));
        let around = behind.chain(open.iter()).map(|(tp, _)| *tp);
        let in_each = open
            .len()
            .div_ceil(CHECKPOINT_AGE_MAX)
            .max(CHECKPOINT_IN_TURN);
        around.take(in_each.min(open.len())).collect()
    }

    /// These state rows did not become durable: they are due again with the next ones.
    pub fn rows_failed(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.due().dirty.extend(partitions);
    }

    /// Pages of runs were written with a checkpoint; later rows refer to them.
    pub fn on_pages_stored(&self, pages: &[(TopicPartition, i64, PagePlace)]) {
        for (tp, base_offset, place) in pages {
            if let Some(partition) = self.find_tp(*tp) {
                partition.on_page_stored(*base_offset, *place);
            }
        }
    }

    /// The state row of every partition after `at`, the last durable slot. Only for a caller that
    /// knows that no slot becomes durable meanwhile: at a stop, when nothing is in flight.
    pub fn rows_after(&self, at: SlotPosition) -> Vec<StateRow> {
        self.all()
            .iter()
            .map(|partition| partition.state_row(at))
            .collect()
    }

    /// Forgets producers that have not written for `expiry_ms`. To be called every ten minutes.
    pub fn expire_producers(&self, expiry_ms: i64) {
        let now_ms = self.shared.clock.wall_ms();
        for partition in self.all() {
            partition.expire_producers(now_ms, expiry_ms);
        }
    }

    /// What is remembered of idempotent producers.
    pub fn producers(&self) -> ProducerUsage {
        self.shared.producers.usage()
    }

    /// Keeps the producers of all partitions within their budget, as far as they may be forgotten:
    /// after every slot, and each second, since time alone makes them old enough. Rows that hold
    /// those that were forgotten are written anew, so that the next start does not take more from
    /// them than this broker may remember.
    pub fn bound_producers(&self) {
        let now_ms = self.shared.clock.wall_ms();
        if self.shared.producers.must_evict(now_ms) {
            let touched = self.shared.producers.evict(&self.all(), now_ms);
            self.due().dirty.extend(touched);
        }
    }

    /// These are on the local disk: who asked for no more is answered, and where that is enough they
    /// are visible.
    pub(super) fn take_local(&self, acked: &[LocalAck]) {
        let mut visible = Vec::new();
        for ack in acked {
            if let Some(partition) = self.find_tp(ack.tp) {
                let bytes = partition.on_local(ack.epoch, ack.last_offset);
                visible.extend((bytes > 0).then_some((ack.tp, bytes)));
            }
        }
        if !visible.is_empty() {
            self.waits.on_visible(&visible);
        }
    }

    /// A slot is durable (I2): `runs`, `producers` and `entries` are sorted by partition, as in the
    /// object. Strictly in slot order.
    pub(super) fn take_slot(
        &self,
        at: SlotPosition,
        runs: &[Run],
        producers: &[ProducerBatch],
        entries: Vec<WalEntry>,
    ) {
        let now_ms = self.shared.clock.wall_ms();
        let mut visible = Vec::new();
        let mut bytes = 0;
        let mut entries = entries.into_iter().peekable();
        let mut producers = producers;
        for runs in runs.chunk_by(|a, b| a.tp == b.tp) {
            let Some(tp) = runs.first().map(|run| run.tp) else {
                continue;
            };
            let own = producers.partition_point(|batch| batch.tp <= tp);
            let (of_partition, rest) = producers.split_at(own);
            producers = rest;
            let partition = self.find_tp(tp);
            let mut batches = Vec::new();
            while let Some(entry) = entries.next_if(|entry| entry.tp <= tp) {
                bytes += entry.records.len() as u64;
                if partition
                    .as_ref()
                    .is_some_and(|partition| partition.epoch() == entry.epoch)
                {
                    batches.push(TailBatch {
                        base_offset: entry.base_offset,
                        last_offset: entry.last_offset,
                        bytes: entry.records,
                    });
                }
            }
            // a partition that was closed meanwhile has nobody left to tell
            let Some(partition) = partition else { continue };
            visible.push((tp, batches.iter().map(|batch| batch.bytes.len()).sum()));
            self.make_visible(&partition, batches, |partition| {
                partition.on_durable(at, runs, of_partition, now_ms);
            });
        }
        self.waits.on_visible(&visible);
        let touched = visible.into_iter().map(|(tp, _)| tp);
        self.count_slot(at, bytes, touched);
        self.bound_producers();
    }

    /// First the tail, so that whoever sees the high watermark, which `move_on` raises, finds the
    /// records.
    fn make_visible(
        &self,
        partition: &Partition,
        batches: Vec<TailBatch>,
        move_on: impl FnOnce(&Partition),
    ) {
        self.tail.push(partition.tp(), batches);
        move_on(partition);
        // closed since it was found, and its tail perhaps removed before the push: nobody would
        // remove it again
        if partition.is_closed() {
            self.tail.remove(partition.tp());
        }
    }

    /// Cheap: the WAL waits for it.
    fn count_slot(
        &self,
        at: SlotPosition,
        bytes: u64,
        touched: impl Iterator<Item = TopicPartition>,
    ) {
        let mut due = self.due();
        due.dirty.extend(touched);
        *self
            .shared
            .applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(at);
        due.counted.on_slot(bytes);
        if due.counted.may_be_due() {
            self.rows_wanted.notify_one();
        }
    }

    pub(super) fn let_go(&self, closed: &[Arc<Partition>]) {
        for partition in closed {
            partition.close();
        }
        let tps: Vec<_> = closed.iter().map(|partition| partition.tp()).collect();
        self.waits.on_closed(&tps);
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partitions")
            .field("open", &self.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn push(&self, entry: WalEntry, permit: WalPermit) -> Result<Bytes, Refusal> {
        match &*self.wal.read().unwrap_or_else(PoisonError::into_inner) {
            Some(wal) => wal.push(entry, permit),
            None => Err(Refusal::NotOwner),
        }
    }

    pub(super) fn may_ack_local(&self) -> bool {
        self.may_ack_local.get().is_none_or(|may_ack| may_ack())
    }

    /// What a batch that was appended before must be by now to be answered at once.
    pub(super) fn acks_of_repeat(&self, acks: Acks) -> Acks {
        match acks {
            Acks::Local if !self.may_ack_local() => Acks::Bucket,
            acks => acks,
        }
    }

    pub(super) fn applied(&self) -> Option<SlotPosition> {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wal_mut(&self) -> RwLockWriteGuard<'_, Option<Box<dyn BatchLog>>> {
        self.wal.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn on_refused(&self, tp: TopicPartition, header: &BatchHeader, is_known: bool) {
        let now = self.clock.mono();
        let mut refusals = self.refusals();
        refusals.on_refused(tp, header, is_known, now);
        self.any_refused
            .store(!refusals.is_empty(), Ordering::Release);
    }

    pub(super) fn check_refusals(
        &self,
        tp: TopicPartition,
        header: &BatchHeader,
    ) -> Result<(), Refusal> {
        let now = self.clock.mono();
        let producer = header.producer_id;
        let checked = self.refusals().check(tp, header, now);
        checked.map_err(|behind| match behind {
            Behind::Batch(expected) => Refusal::OutOfOrder {
                producer,
                found: header.base_sequence,
                expected,
            },
            Behind::PassedOver => Refusal::OrderUnknown { producer },
        })
    }

    pub(super) fn on_stored(&self, tp: TopicPartition, producer: ProducerId) {
        self.settle(|refusals| refusals.on_stored(tp, producer));
    }

    pub(super) fn on_repeated(&self, tp: TopicPartition, header: &BatchHeader) {
        self.settle(|refusals| refusals.on_repeated(tp, header));
    }

    fn settle(&self, settle: impl FnOnce(&mut Refusals)) {
        if self.any_refused.load(Ordering::Acquire) {
            let mut refusals = self.refusals();
            settle(&mut refusals);
            self.any_refused
                .store(!refusals.is_empty(), Ordering::Release);
        }
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
