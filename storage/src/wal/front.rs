//! The front of the WAL: what partitions and the node see. The work is done by the task in
//! `driver.rs` and by the thread of the local WAL.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::ids::{ClusterId, Slot, SlotPosition, StreamId, TopicPartition};
use firn_proto::limits;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::buffer::{FlushPolicy, WalBuffer};
use super::driver::Driver;
use super::entry::WalEntry;
use super::error::WalError;
use super::gather::GatherPolicy;
use super::latency::{Latency, LatencyFigures};
use super::local::{LocalAck, LocalEvents, LocalQueue, LocalWal};
use super::permits::{FairKey, Permits, WalPermit};
use super::sink::WalSink;
use super::slab::Slab;
use crate::bucket::{Bucket, BucketKind};
use crate::checkpoint::{self, EncodedCheckpoint};
use crate::state::{PagePlace, StateRow, WrittenPage};
use crate::stream::{Nonce, StreamEnv, StreamHandle, StreamName, StreamSpec};

/// Checkpoints that may wait for a slot. More callers wait outside.
const CHECKPOINTS_WAITING_MAX: usize = 4;

/// What a WAL is started with.
#[derive(Debug)]
pub struct WalSpec {
    /// The cluster.
    pub cluster: ClusterId,
    /// The stream of this incarnation, new: its first slot is 0.
    pub stream: StreamId,
    /// When slots are put.
    pub policy: FlushPolicy,
    /// Bytes that may be in the WAL and not durable.
    pub bytes_in_flight: usize,
    /// The local WAL, if there is one.
    pub local: Option<LocalWal>,
}

/// The write-ahead log of this broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wal {
    shared: Arc<Shared>,
}

/// Figures of the WAL, for metrics and for decisions that need no precision.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalStatus {
    /// The end of the durable prefix: every slot below it is durable and ours.
    pub durable_end: Slot,
    /// Bytes that wait for a slot.
    pub buffered_bytes: usize,
    /// Slots that are put and not durable.
    pub slots_in_flight: usize,
    /// Bytes held by permits: in the WAL and not durable, or about to come.
    pub permit_bytes: usize,
    /// Bytes of durable objects.
    pub durable_bytes: u64,
    /// From the close of a slot until it is durable.
    pub put: LatencyFigures,
    /// Group commits of the local WAL, where there is one.
    pub fsync: Option<LatencyFigures>,
    /// Entries that wait for the local disk.
    pub local_waiting: usize,
    /// The local disk has no room.
    pub local_full: bool,
}

pub(super) struct Shared {
    pub(super) name: StreamName,
    pub(super) sink: Arc<dyn WalSink>,
    pub(super) permits: Arc<Permits>,
    state: Mutex<State>,
    /// Wakes the driver.
    pub(super) wake: Notify,
    pub(super) local: Option<LocalQueue>,
    pub(super) put: Latency,
    pub(super) progress: watch::Sender<Progress>,
    ended: Ended,
    checkpoint_room: Semaphore,
}

/// How far the WAL has come, to be waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Every entry with a lower sequence is durable.
    pub(super) low: u64,
    pub(super) durable_end: Slot,
    pub(super) durable_bytes: u64,
    /// The driver is done.
    pub(super) finished: bool,
}

/// Why nothing is taken any more. Apart from [`Progress`], which moves with every slot, since the
/// node waits for nothing but this.
type Ended = watch::Sender<Option<WalError>>;

pub(super) struct State {
    pub(super) buffer: WalBuffer<Held>,
    pub(super) checkpoints: VecDeque<PendingCheckpoint>,
    pub(super) closing: bool,
    slab: Slab,
    next_sequence: u64,
    refuses: Option<WalError>,
}

/// What is held with an entry until it is durable.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sequence: u64,
    /// Given back when this is dropped.
    _permit: WalPermit,
}

/// A checkpoint that waits for a slot.
#[derive(Debug)]
pub(super) struct PendingCheckpoint {
    pub(super) rows: Bytes,
    /// Whether it must become an object.
    pub(super) as_object: bool,
    /// Whoever waits for it holds up others: it goes without put tokens, and so do those before it.
    pub(super) at_once: bool,
    pub(super) done: oneshot::Sender<CheckpointAt>,
}

/// Where a checkpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckpointAt {
    /// The slot that holds or names it.
    pub(super) slot: SlotPosition,
    /// The slot in the key of its object, if it became one.
    pub(super) object: Option<Slot>,
}

/// A checkpoint that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableCheckpoint {
    /// The slot that holds or names it.
    pub at: SlotPosition,
    /// The pages of runs that it was the first to hold, by partition and first offset.
    pub pages: Vec<(TopicPartition, i64, PagePlace)>,
    /// The slot in the key of its object, if it became one: the object is there until it is
    /// collected ([`crate::collect::OwnCheckpoints`]).
    pub object: Option<Slot>,
}

impl FlushPolicy {
    /// The policy that suits what stands behind the bucket: put tokens where requests
    /// cost money, and on a local disk one put at a time, so that each fsync serves all who came
    /// during the one before, and under load a short wait for more.
    pub fn for_bucket(kind: BucketKind) -> Self {
        let shared = Self {
            slot_bytes: limits::SLOT_BYTES_TARGET,
            slots_in_flight: limits::SLOTS_IN_FLIGHT_MAX,
            partial_slots_in_flight: limits::SLOTS_IN_FLIGHT_MAX,
            puts_per_second: None,
            gather: None,
        };
        match kind {
            BucketKind::S3 => Self {
                puts_per_second: Some(limits::WAL_PUTS_PER_SECOND_DEFAULT),
                ..shared
            },
            BucketKind::File => Self {
                partial_slots_in_flight: 1,
                gather: Some(GatherPolicy {
                    bytes: limits::WAL_GATHER_BYTES,
                    time: limits::WAL_GATHER_TIME,
                    least_per_second: limits::WAL_GATHER_BYTES_PER_SECOND_LEAST,
                }),
                ..shared
            },
            BucketKind::Memory | BucketKind::Given => shared,
        }
    }
}

impl Wal {
    /// Starts the WAL on its stream. Needs a tokio runtime. What is durable goes to `sink`.
    ///
    /// # Errors
    ///
    /// [`WalError::Local`] if the thread of the local WAL cannot be started.
    pub fn start(
        bucket: Bucket,
        spec: WalSpec,
        sink: Arc<dyn WalSink>,
        env: StreamEnv,
    ) -> Result<Self, WalError> {
        let name = StreamName::wal(spec.cluster, spec.stream);
        let policy = FlushPolicy {
            slots_in_flight: spec.policy.slots_in_flight.min(limits::SLOTS_IN_FLIGHT_MAX),
            ..spec.policy
        };
        let first_sequence = spec.local.as_ref().map_or(1, LocalWal::next_sequence);
        let progress = watch::Sender::new(Progress {
            low: first_sequence,
            ..Progress::default()
        });
        let ended = Ended::default();
        let permits = Arc::new(Permits::new(spec.bytes_in_flight));
        let mut thread = None;
        let mut local = None;
        if let Some(wal) = spec.local {
            let events = ToSink {
                sink: Arc::clone(&sink),
                permits: Arc::clone(&permits),
                ended: ended.clone(),
            };
            let log = wal.into_log(spec.stream);
            let (queue, joined) = LocalQueue::start(log, events, Arc::clone(&env.clock))
                .map_err(|error| WalError::DeviceFailed(Arc::new(error)))?;
            local = Some(queue);
            thread = Some(joined);
        }
        let shared = Arc::new(Shared {
            name,
            sink,
            permits,
            state: Mutex::new(State {
                buffer: WalBuffer::new(policy, env.clock.mono()),
                checkpoints: VecDeque::new(),
                closing: false,
                slab: Slab::default(),
                next_sequence: first_sequence,
                refuses: None,
            }),
            wake: Notify::new(),
            local,
            put: Latency::default(),
            progress,
            ended,
            checkpoint_room: Semaphore::new(CHECKPOINTS_WAITING_MAX),
        });
        let stream = StreamSpec {
            stream: name,
            first_slot: Slot(0),
            prev_nonce: Nonce::NONE,
        };
        let (handle, events) = StreamHandle::start(bucket.clone(), stream, env.clone());
        let driver = Driver::new(
            Arc::clone(&shared),
            bucket,
            handle,
            events,
            env,
            first_sequence,
        );
        tokio::spawn(driver.run(thread));
        Ok(Self { shared })
    }

    /// Waits until `bytes` more fit into the WAL. Callers with different keys are served fairly:
    /// who holds least goes first.
    ///
    /// Cancel safe: dropping the future gives its place up.
    ///
    /// # Errors
    ///
    /// Why nothing is taken any more.
    pub async fn reserve(&self, bytes: usize, who: FairKey) -> Result<WalPermit, WalError> {
        match self.shared.permits.reserve(bytes, who).await {
            Some(permit) => Ok(permit),
            None => Err(self.shared.refusal()),
        }
    }

    /// Adds an entry, and gives its records as they are kept until they are durable. Entries of a
    /// partition become durable in the order of these calls, so they are made under the partition's
    /// lock. Short: no IO, no wait.
    ///
    /// # Errors
    ///
    /// Why nothing is taken any more; the entry will never be durable then.
    pub fn push(&self, mut entry: WalEntry, permit: WalPermit) -> Result<Bytes, WalError> {
        let mut state = self.shared.lock();
        if let Some(error) = &state.refuses {
            return Err(error.clone());
        }
        entry.records = state.slab.keep(entry.records);
        let records = entry.records.clone();
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        if let Some(local) = &self.shared.local {
            local.push(sequence, entry.clone());
        }
        let (was_empty, marks) = (state.buffer.is_empty(), state.buffer.marks());
        let held = Held {
            sequence,
            _permit: permit,
        };
        state.buffer.push(entry, held);
        let wake = was_empty || marks != state.buffer.marks();
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(records)
    }

    /// Writes state rows: into the next slot, or into an object that the slot names. Resolves once
    /// that slot is durable. Each row is the state after exactly the slots up to its `after`; to
    /// keep folds short, the caller sets that to the latest durable slot.
    ///
    /// Dropping the future does not take the checkpoint back once it waits for its slot.
    ///
    /// # Errors
    ///
    /// Why nothing is taken any more, or [`WalError::Closed`] if this checkpoint failed.
    pub async fn push_checkpoint(&self, rows: &[StateRow]) -> Result<DurableCheckpoint, WalError> {
        self.push_rows(rows, false).await
    }

    /// [`Self::push_checkpoint`] without waiting for put tokens: until it is durable nobody serves
    /// the partitions of the rows.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn push_checkpoint_at_once(
        &self,
        rows: &[StateRow],
    ) -> Result<DurableCheckpoint, WalError> {
        self.push_rows(rows, true).await
    }

    async fn push_rows(
        &self,
        rows: &[StateRow],
        at_once: bool,
    ) -> Result<DurableCheckpoint, WalError> {
        let next = self.next_durable();
        for after in rows.iter().filter_map(|row| row.after) {
            assert!(
                after.stream != next.stream || after.slot < next.slot,
                "I8: a state row after {after} was taken from memory: the log ends before {next}"
            );
        }
        let EncodedCheckpoint { bytes, pages } = checkpoint::encode(next.stream, rows);
        let as_object = !pages.is_empty();
        let at = (self.push_checkpoint_bytes(bytes, as_object, at_once)).await?;
        let place = |page: WrittenPage| {
            let place = PagePlace {
                stream: next.stream,
                slot: at.object?,
                start: page.start,
                len: page.len,
            };
            Some((page.tp, page.base_offset, place))
        };
        Ok(DurableCheckpoint {
            at: at.slot,
            pages: pages.into_iter().filter_map(place).collect(),
            object: at.object,
        })
    }

    /// Puts an encoded checkpoint into the next slot, or into an object that the slot names.
    /// Resolves with that slot once it is durable.
    ///
    /// Dropping the future does not take the checkpoint back once it waits for its slot.
    async fn push_checkpoint_bytes(
        &self,
        rows: Bytes,
        as_object: bool,
        at_once: bool,
    ) -> Result<CheckpointAt, WalError> {
        let Ok(_room) = self.shared.checkpoint_room.acquire().await else {
            return Err(WalError::Closed);
        };
        let (done, position) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(error) = &state.refuses {
                return Err(error.clone());
            }
            state.checkpoints.push_back(PendingCheckpoint {
                rows,
                as_object,
                at_once,
                done,
            });
        }
        self.shared.wake.notify_one();
        position.await.map_err(|_| self.shared.refusal())
    }

    /// Waits until everything that was pushed before this call is durable, without waiting for
    /// put tokens. Returns early if the WAL ends.
    pub async fn flush(&self) {
        let target = {
            let mut state = self.shared.lock();
            state.buffer.force();
            state.next_sequence
        };
        self.shared.wake.notify_one();
        let mut progress = self.shared.progress.subscribe();
        // the sender lives in `shared`
        let _ = progress
            .wait_for(|progress| progress.low >= target || progress.finished)
            .await;
    }

    /// Takes nothing any more, waits until everything is durable, and ends. The answer is the end
    /// of the durable prefix. May be called more than once.
    ///
    /// # Errors
    ///
    /// [`WalError::Fenced`] if the stream ended first.
    pub async fn close(&self) -> Result<Slot, WalError> {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            state.refuses.get_or_insert(WalError::Closed);
            state.buffer.force();
        }
        self.shared.permits.close();
        self.shared.wake.notify_one();
        let mut progress = self.shared.progress.subscribe();
        let _ = progress.wait_for(|progress| progress.finished).await;
        let ended = self.shared.ended.borrow();
        match &*ended {
            None | Some(WalError::Closed) => Ok(progress.borrow().durable_end),
            Some(error) => Err(error.clone()),
        }
    }

    /// Resolves when the WAL has ended by itself, with the reason: the node has to stop.
    pub fn failed(&self) -> impl Future<Output = WalError> + Send + 'static {
        let mut ended = self.shared.ended.subscribe();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(ended) => ended.clone().unwrap_or(WalError::Closed),
                Err(_) => WalError::Closed,
            }
        }
    }

    /// Figures of this moment.
    pub fn status(&self) -> WalStatus {
        let (buffered_bytes, slots_in_flight) = {
            let state = self.shared.lock();
            (state.buffer.bytes(), state.buffer.in_flight())
        };
        let local = self.shared.local.as_ref();
        let progress = self.shared.progress.borrow();
        WalStatus {
            durable_end: progress.durable_end,
            buffered_bytes,
            slots_in_flight,
            permit_bytes: self.shared.permits.held(),
            durable_bytes: progress.durable_bytes,
            put: self.shared.put.figures(),
            fsync: local.map(|local| local.latency().figures()),
            local_waiting: local.map_or(0, LocalQueue::len),
            local_full: local.is_some_and(LocalQueue::is_full),
        }
    }

    /// The position of the slot that becomes durable next: the first that a state row written
    /// now does not cover.
    pub fn next_durable(&self) -> SlotPosition {
        SlotPosition {
            stream: self.shared.name.stream,
            slot: self.shared.progress.borrow().durable_end,
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns everybody away from now on, for this reason.
    pub(super) fn refuse(&self, error: &WalError) {
        self.lock().refuses = Some(error.clone());
        self.checkpoint_room.close();
        end(&self.permits, &self.ended, error);
    }

    /// Lets go of all that waits for a slot which will not come, and takes nothing any more.
    pub(super) fn turn_away(&self, error: &WalError) {
        self.refuse(error);
        let mut state = self.lock();
        state.buffer.clear();
        state.checkpoints.clear();
    }

    fn refusal(&self) -> WalError {
        let ended = self.ended.borrow().clone();
        ended
            .or_else(|| self.lock().refuses.clone())
            .unwrap_or(WalError::Closed)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

fn end(permits: &Permits, ended: &Ended, error: &WalError) {
    permits.close();
    ended.send_modify(|ended| {
        ended.get_or_insert_with(|| error.clone());
    });
}

/// Takes the events of the local WAL's thread to the sink.
struct ToSink {
    sink: Arc<dyn WalSink>,
    permits: Arc<Permits>,
    ended: Ended,
}

impl LocalEvents for ToSink {
    fn on_fsynced(&self, acked: &[LocalAck]) {
        // what is on the disk of a fenced broker is missing in the bucket and not acknowledged
        if self.ended.borrow().is_none() {
            self.sink.on_local(acked);
        }
    }

    fn on_device_failed(&self, error: std::io::Error) {
        let error = WalError::DeviceFailed(Arc::new(error));
        end(&self.permits, &self.ended, &error);
    }
}

#[cfg(test)]
mod tests;
