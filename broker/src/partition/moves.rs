//! Partitions that come from other brokers and go to them: opened and closed many at a time, and the
//! states with which they go.
//!
//! May not touch: who owns what (`node/ownership.rs` follows the picture of the cluster).

use std::sync::{Arc, PoisonError};

use firn_proto::ids::TopicPartition;
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
    }
}
