//! The driver of [`Waiters`]: parks the task of a long poll until there is enough to read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_proto::ids::TopicPartition;
use tokio::sync::Notify;

use super::waiters::{WaitId, Waiters};

/// All long polls of one broker.
#[derive(Debug, Default)]
pub(super) struct FetchWaits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiters: Waiters,
    tasks: BTreeMap<WaitId, Arc<Notify>>,
}

/// A place among the long polls; given up when this is dropped.
#[derive(Debug)]
pub struct FetchWait {
    waits: Arc<FetchWaits>,
    id: WaitId,
    ready: Arc<Notify>,
}

impl FetchWait {
    /// Resolves once, when enough has become visible or one of the partitions was closed. The
    /// caller then reads again, and may find less than it wanted.
    ///
    /// Cancel safe: to be put under a timeout of `max.wait`.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }
}

impl Drop for FetchWait {
    fn drop(&mut self) {
        let mut state = self.waits.lock();
        state.waiters.cancel(self.id);
        state.tasks.remove(&self.id);
    }
}

impl FetchWaits {
    pub(super) fn park(
        self: &Arc<Self>,
        partitions: Vec<TopicPartition>,
        missing: usize,
    ) -> FetchWait {
        let ready = Arc::new(Notify::new());
        let mut state = self.lock();
        let id = state.waiters.park(partitions, missing);
        state.tasks.insert(id, Arc::clone(&ready));
        drop(state);
        FetchWait {
            waits: Arc::clone(self),
            id,
            ready,
        }
    }

    /// Bytes of these partitions have become visible: one commit.
    pub(super) fn on_visible(&self, visible: &[(TopicPartition, usize)]) {
        let mut state = self.lock();
        for (tp, bytes) in visible {
            state.waiters.on_visible(*tp, *bytes);
        }
        state.wake();
    }

    /// These partitions have no owner here any more.
    pub(super) fn on_closed(&self, closed: &[TopicPartition]) {
        let mut state = self.lock();
        for tp in closed {
            state.waiters.on_closed(*tp);
        }
        state.wake();
    }

    pub(super) fn len(&self) -> usize {
        self.lock().waiters.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        for id in self.waiters.take_ready() {
            if let Some(task) = self.tasks.get(&id) {
                task.notify_one();
            }
        }
    }
}

impl FetchWait {
    /// For a caller that has found after parking that there is something new already.
    pub(super) fn ready_now(self) -> Self {
        self.ready.notify_one();
        self
    }
}
