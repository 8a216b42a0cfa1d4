//! The writer of one coordinator epoch's journal stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Slot};
use firn_proto::journal::{Journal, JournalError, JournalPosition};
use firn_proto::limits::JOURNAL_APPENDS_MAX;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::collect::Collection;
use super::is_claimed;
use super::record::{JournalIndex, Opening};
use crate::bucket::Bucket;
use crate::stream::{
    Nonce, SlotBody, StreamEnv, StreamEvent, StreamEvents, StreamHandle, StreamName, StreamSpec,
};

type Waiter = oneshot::Sender<Result<JournalPosition, JournalError>>;

/// Appends to one epoch's stream, puts its snapshots.
pub(super) struct JournalWriter {
    bucket: Bucket,
    epoch: CoordinatorEpoch,
    appends: mpsc::Sender<(Bytes, Waiter)>,
    durable: Arc<Durable>,
    collection: Collection,
    task: JoinHandle<()>,
}

/// Who waits for which slot, in order.
struct Durable {
    epoch: CoordinatorEpoch,
    state: Mutex<State>,
}

struct State {
    /// Every slot below is durable.
    end: Slot,
    /// Waiters for the slots from `end` on.
    waiters: VecDeque<Waiter>,
    fenced: bool,
}

/// Whose journal is to be written, and what its first slot says.
pub(super) struct WriterSpec {
    pub(super) cluster: ClusterId,
    pub(super) epoch: CoordinatorEpoch,
    pub(super) opening: Opening,
    /// The newest snapshot that is known to be whole.
    pub(super) whole: Option<JournalPosition>,
}

impl JournalWriter {
    /// Starts the stream of an epoch and waits until its slot 0 is durable.
    pub(super) async fn start(
        bucket: Bucket,
        env: StreamEnv,
        spec: WriterSpec,
    ) -> Result<Self, JournalError> {
        let WriterSpec {
            cluster,
            epoch,
            opening,
            whole,
        } = spec;
        let spec = StreamSpec {
            stream: StreamName::journal(cluster, epoch),
            first_slot: Slot(0),
            prev_nonce: Nonce::NONE,
        };
        let collection = Collection::new(bucket.clone(), env.clone(), cluster, whole);
        let (stream, mut events) = StreamHandle::start(bucket.clone(), spec, env);
        let first = SlotBody::new(JournalIndex::Open(opening).encode(), Vec::new());
        let fenced = JournalError::Fenced { epoch };
        stream.submit(first).await.map_err(|_| fenced.clone())?;
        match events.recv().await {
            Some(StreamEvent::Durable { slot: Slot(0), .. }) => {}
            _ => return Err(fenced),
        }
        let durable = Arc::new(Durable {
            epoch,
            state: Mutex::new(State {
                end: Slot(1),
                waiters: VecDeque::new(),
                fenced: false,
            }),
        });
        let (appends, queue) = mpsc::channel(JOURNAL_APPENDS_MAX);
        let shared = Arc::clone(&durable);
        let task = tokio::spawn(async move {
            let told = tell(&shared, events);
            let put = put(&shared, stream, queue);
            futures::join!(told, put);
        });
        Ok(Self {
            bucket,
            epoch,
            appends,
            durable,
            collection,
            task,
        })
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts what is appended, in order.
async fn put(durable: &Durable, stream: StreamHandle, mut queue: mpsc::Receiver<(Bytes, Waiter)>) {
    while let Some((body, waiter)) = queue.recv().await {
        // The waiter stands in line before its slot can become durable.
        if let Err(waiter) = durable.wait(waiter) {
            durable.refuse(waiter);
            continue;
        }
        let body = SlotBody::new(JournalIndex::Entry.encode(), vec![body]);
        if stream.submit(body).await.is_err() {
            durable.fence();
        }
    }
}

/// Tells the waiters, in order.
async fn tell(durable: &Durable, mut events: StreamEvents) {
    while let Some(event) = events.recv().await {
        match event {
            StreamEvent::Durable { slot, .. } => durable.advance(slot),
            StreamEvent::Fenced { .. } => durable.fence(),
        }
    }
    durable.fence();
}

impl Durable {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, waiter: Waiter) -> Result<(), Waiter> {
        let mut state = self.state();
        if state.fenced {
            return Err(waiter);
        }
        state.waiters.push_back(waiter);
        Ok(())
    }

    fn refuse(&self, waiter: Waiter) {
        // Whoever no longer waits does not mind.
        let _ = waiter.send(Err(JournalError::Fenced { epoch: self.epoch }));
    }

    fn advance(&self, slot: Slot) {
        let mut state = self.state();
        assert!(
            slot == state.end,
            "I2: the journal becomes durable slot by slot"
        );
        state.end = slot.next();
        let waiter = state.waiters.pop_front();
        drop(state);
        if let Some(waiter) = waiter {
            let epoch = self.epoch;
            let _ = waiter.send(Ok(JournalPosition { epoch, slot }));
        }
    }

    fn fence(&self) {
        let mut state = self.state();
        state.fenced = true;
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        waiters.into_iter().for_each(|waiter| self.refuse(waiter));
    }
}

impl Journal for JournalWriter {
    fn append(&self, body: Bytes) -> BoxFuture<'static, Result<JournalPosition, JournalError>> {
        let fenced = JournalError::Fenced { epoch: self.epoch };
        let (sender, receiver) = oneshot::channel();
        match self.appends.try_send((body, sender)) {
            Ok(()) => async move { receiver.await.unwrap_or(Err(fenced)) }.boxed(),
            Err(mpsc::error::TrySendError::Closed(_)) => std::future::ready(Err(fenced)).boxed(),
            Err(mpsc::error::TrySendError::Full(_)) => {
                let full = format!("{JOURNAL_APPENDS_MAX} appends wait for the bucket already");
                std::future::ready(Err(JournalError::Unavailable(full))).boxed()
            }
        }
    }

    fn put_snapshot(
        &self,
        covers: JournalPosition,
        body: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>> {
        let end = self.durable.state().end;
        assert!(
            covers.epoch < self.epoch || (covers.epoch == self.epoch && covers.slot < end),
            "I10: a snapshot of {covers} covers more than the durable prefix, which ends at {end}"
        );
        let collection = self.collection.clone();
        async move { collection.put_snapshot(covers, body).await }.boxed()
    }

    fn look_for_newer(&self) -> BoxFuture<'static, Result<Option<CoordinatorEpoch>, JournalError>> {
        let bucket = self.bucket.clone();
        let next = CoordinatorEpoch(self.epoch.0 + 1);
        async move { Ok(is_claimed(&bucket, next).await?.then_some(next)) }.boxed()
    }
}
