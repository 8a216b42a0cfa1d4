//! Partitions that come from other brokers and go to them: opened and closed many at a time, and the
//! states with which they go.
//!
//! May not touch: who owns what (`node/ownership.rs` follows the picture of the cluster).

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, MutexGuard, PoisonError};

use firn_proto::ids::{LeaderEpoch, TopicPartition};
use firn_storage::state::StateRow;

use super::{Partition, Partitions};

impl Partitions {
    /// The states of partitions that take nothing any more and are settled: each is the state after
    /// its last record, and after a slot of this process if any is durable.
    pub fn settled_rows(&self, partitions: &[Arc<Partition>]) -> Vec<StateRow> {
        // First: whatever is applied meanwhile has no rows of these.
        let applied = self.shared.applied();
        let row = |partition: &Arc<Partition>| match applied {
            Some(applied) => partition.state_row(applied),
            None => partition.opened_row(),
        };
        partitions.iter().map(row).collect()
    }

    /// Leaves of these rows those of partitions that are owned here in the epoch of the row.
    pub fn keep_owned(&self, rows: &mut Vec<StateRow>) {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let is_owned = |row: &StateRow| {
            let partition = open.get(&row.tp);
            partition.is_some_and(|partition| partition.epoch() == row.epoch)
        };
        rows.retain(is_owned);
    }

    /// Owns these partitions no longer. Whoever waits for them is told NOT_LEADER_OR_FOLLOWER.
    pub fn close(&self, tps: &[TopicPartition]) {
        let closed: Vec<_> = {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            tps.iter().filter_map(|tp| open.remove(tp)).collect()
        };
        self.let_go(&closed);
        for partition in &closed {
            self.tail.remove(partition.tp());
        }
        let mut unopened = self.unopened();
        for tp in tps {
            unopened.remove(tp);
        }
    }

    /// Waits until the partition is open in that epoch. `None` if it was opened in a later one, or
    /// could not be, or not at first: that may take long.
    ///
    /// Cancel safe.
    pub async fn opened(&self, tp: TopicPartition, epoch: LeaderEpoch) -> Option<Arc<Partition>> {
        loop {
            let mut opens = pin!(self.opens.notified());
            opens.as_mut().enable();
            let open = self.find_tp(tp).filter(|open| open.epoch() >= epoch);
            if let Some(open) = open {
                return (open.epoch() == epoch).then_some(open);
            }
            if self.unopened().get(&tp).is_some_and(|last| *last >= epoch) {
                return None;
            }
            opens.await;
        }
    }

    /// These could not be opened in their epochs. Nobody waits for them.
    pub fn on_unopened(&self, failed: &[(TopicPartition, LeaderEpoch)]) {
        self.unopened().extend(failed.iter().copied());
        self.opens.notify_waiters();
    }

    /// The partition is open.
    pub(super) fn on_open(&self, tp: TopicPartition) {
        self.unopened().remove(&tp);
        self.opens.notify_waiters();
    }

    /// Short: no IO and no await under it.
    fn unopened(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, LeaderEpoch>> {
        self.unopened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
