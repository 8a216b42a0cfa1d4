//! The thread of the local WAL: adaptive group commit. The next fsync starts when the last one
//! has ended, with everything that came meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use firn_proto::env::Clock;
use firn_proto::ids::{LeaderEpoch, TopicPartition};

use super::directory::Device;
use super::log::{CommitError, LocalLog, Numbered};
use crate::wal::WalEntry;
use crate::wal::latency::Latency;

/// Most bytes of one commit: larger ones delay the acknowledgement of their first entry.
const COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a full disk is left alone before it is asked again.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// The last offset of a partition that one fsync of the local WAL covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAck {
    /// The partition.
    pub tp: TopicPartition,
    /// The epoch of the entry.
    pub epoch: LeaderEpoch,
    /// Every entry of this process up to here is on the local disk.
    pub last_offset: i64,
}

/// Where the thread tells what happened. Called on the thread of the local WAL.
pub(crate) trait LocalEvents: Send + 'static {
    /// These are fsynced.
    fn on_fsynced(&self, acked: &[LocalAck]);
    /// The device failed. Nothing is fsynced after this.
    fn on_device_failed(&self, error: io::Error);
}

/// The queue in front of the thread. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LocalQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    latency: Latency,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Numbered>,
    /// Everything below is durable in the bucket and needs no local copy.
    low: u64,
    closing: bool,
    full: bool,
    failed: bool,
}

impl LocalQueue {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the operating system has no thread left.
    pub(crate) fn start<D: Device>(
        mut log: LocalLog<D>,
        events: impl LocalEvents,
        clock: Arc<dyn Clock>,
    ) -> io::Result<(Self, JoinHandle<()>)>
    where
        D::File: Send,
    {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            latency: Latency::default(),
        });
        let queue = Self {
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("local-wal".to_owned())
            .spawn(move || {
                log.prepare();
                while shared.commit_next(&mut log, &events, &*clock) {}
                if shared.is_clean() {
                    log.remove_all();
                }
            })?;
        Ok((queue, thread))
    }

    /// Adds an entry. `sequence` rises from call to call.
    pub(crate) fn push(&self, sequence: u64, entry: WalEntry) {
        let mut state = self.shared.lock();
        if state.failed {
            return;
        }
        state.pending.push_back(Numbered { sequence, entry });
        if state.pending.len() == 1 {
            self.shared.wake.notify_one();
        }
    }

    /// Everything below `sequence` is durable in the bucket. Entries below it that are not written
    /// yet never will be: a disk that is slow or full does not hold back the bucket, and cannot
    /// make the queue grow.
    pub(crate) fn release(&self, sequence: u64) {
        let mut state = self.shared.lock();
        state.low = state.low.max(sequence);
        state.drop_released();
        self.shared.wake.notify_one();
    }

    /// Lets the thread end once it has written what is queued.
    pub(crate) fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
    }

    /// Whether the disk has no room at the moment.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.lock().full
    }

    /// Entries that are not written yet.
    pub(crate) fn len(&self) -> usize {
        self.shared.lock().pending.len()
    }

    /// How long commits take, write and fsync.
    pub(crate) fn latency(&self) -> &Latency {
        &self.shared.latency
    }
}

impl State {
    fn drop_released(&mut self) {
        while self
            .pending
            .front()
            .is_some_and(|numbered| numbered.sequence < self.low)
        {
            self.pending.pop_front();
        }
    }

    fn take_commit(&mut self) -> Vec<Numbered> {
        let mut bytes = 0;
        let count = self
            .pending
            .iter()
            .take_while(|numbered| {
                let fits = bytes < COMMIT_BYTES_MAX;
                bytes += numbered.entry.records.len();
                fits
            })
            .count();
        self.pending.drain(..count).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One turn of the thread. False when it is to end.
    fn commit_next<D: Device>(
        &self,
        log: &mut LocalLog<D>,
        events: &impl LocalEvents,
        clock: &dyn Clock,
    ) -> bool {
        let (commit, low) = {
            let mut state = self.lock();
            let seen = state.low;
            while state.pending.is_empty() && !state.closing && state.low == seen {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.pending.is_empty() && state.closing {
                return false;
            }
            (state.take_commit(), state.low)
        };
        log.release(low);
        if commit.is_empty() {
            return true;
        }
        let begun = clock.mono();
        let (done, outcome) = log.commit(&commit);
        if done > 0 {
            self.latency.record(clock.mono().since(begun));
            events.on_fsynced(&acks_of(&commit[..done]));
        }
        match outcome {
            Ok(()) => {
                self.lock().full = false;
                log.prepare();
                true
            }
            Err(CommitError::Full(error)) => self.wait_for_room(commit, done, &error),
            Err(CommitError::Device(error)) => {
                self.fail();
                tracing::error!(%error, "the local wal's device failed: nothing is acknowledged by it any more");
                events.on_device_failed(error);
                false
            }
        }
    }

    /// Puts back what found no room and waits a while. Acknowledgements that need this disk wait
    /// meanwhile, until the entries are durable in the bucket.
    fn wait_for_room(&self, commit: Vec<Numbered>, done: usize, error: &io::Error) -> bool {
        let mut state = self.lock();
        for numbered in commit.into_iter().skip(done).rev() {
            state.pending.push_front(numbered);
        }
        state.drop_released();
        if !state.full {
            state.full = true;
            tracing::warn!(%error, "no room for the local wal: acks=1 waits for the bucket until there is");
        }
        if state.closing {
            return false;
        }
        drop(
            self.wake
                .wait_timeout(state, FULL_RETRY)
                .unwrap_or_else(PoisonError::into_inner),
        );
        true
    }

    fn fail(&self) {
        let mut state = self.lock();
        state.failed = true;
        state.pending.clear();
    }

    /// Whether the directory holds nothing that the bucket lacks.
    fn is_clean(&self) -> bool {
        let state = self.lock();
        !state.failed && state.low == u64::MAX
    }
}

/// The last entry of each partition in a commit.
fn acks_of(commit: &[Numbered]) -> Vec<LocalAck> {
    let mut last = BTreeMap::new();
    for Numbered { entry, .. } in commit {
        last.insert(entry.tp, (entry.epoch, entry.last_offset));
    }
    last.into_iter()
        .map(|(tp, (epoch, last_offset))| LocalAck {
            tp,
            epoch,
            last_offset,
        })
        .collect()
}
