//! Where the WAL of a node tells what has become durable: its partitions, and during a start the
//! rows of those that are only being put again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use firn_proto::env::Clock;
use firn_proto::ids::{Slot, TopicPartition};
use firn_storage::state::StateRow;
use firn_storage::wal::local::LocalAck;
use firn_storage::wal::{DurableSlot, WalSink};

use crate::partition::Partitions;

/// The sink of a node's WAL.
pub(super) struct NodeSink {
    partitions: Arc<Partitions>,
    clock: Arc<dyn Clock>,
    /// State rows of partitions that nobody may use yet, moved by the slots that hold what is put
    /// again (RESUME).
    resumed: Mutex<BTreeMap<TopicPartition, StateRow>>,
}

impl NodeSink {
    pub(super) fn new(partitions: Arc<Partitions>, clock: Arc<dyn Clock>) -> Self {
        Self {
            partitions,
            clock,
            resumed: Mutex::default(),
        }
    }

    /// Moves these rows with every slot from now on.
    pub(super) fn resume(&self, rows: impl IntoIterator<Item = StateRow>) {
        let rows = rows.into_iter().map(|row| (row.tp, row));
        self.resumed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(rows);
    }

    /// The rows as they are now, which move no more.
    pub(super) fn take_resumed(&self) -> Vec<StateRow> {
        let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *resumed).into_values().collect()
    }

    fn move_resumed(&self, slot: &DurableSlot) {
        let mut resumed = self.resumed.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.clock.wall_ms();
        for row in resumed.values_mut() {
            let applied = row.apply_slot(slot.at, &slot.runs, &slot.producers, now_ms);
            assert!(
                applied.is_ok(),
                "I8: what is put again of {} does not follow its log: {applied:?}",
                row.tp
            );
        }
    }
}

impl WalSink for NodeSink {
    fn on_local(&self, acked: &[LocalAck]) {
        self.partitions.on_local(acked);
    }

    fn on_durable(&self, slot: DurableSlot) {
        self.move_resumed(&slot);
        self.partitions.on_durable(slot);
    }

    fn on_fenced(&self, at: Slot) {
        self.partitions.on_fenced(at);
    }
}
