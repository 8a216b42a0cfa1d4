//! Between the partitions and the WAL: what is pushed into it, and what it tells of it.

use bytes::Bytes;
use firn_proto::ids::Slot;
use firn_storage::wal::local::LocalAck;
use firn_storage::wal::{DurableSlot, Wal, WalEntry, WalPermit, WalSink};

use super::Partitions;
use super::log::Refusal;
use super::set::BatchLog;

impl BatchLog for Wal {
    fn push(&self, entry: WalEntry, permit: WalPermit) -> Result<Bytes, Refusal> {
        let tp = entry.tp;
        Self::push(self, entry, permit).map_err(|error| {
            tracing::debug!(partition = %tp, %error, "the wal does not take a batch");
            Refusal::NotOwner
        })
    }
}

impl WalSink for Partitions {
    fn on_local(&self, acked: &[LocalAck]) {
        if self.shared.may_ack_local() {
            self.take_local(acked);
        }
    }

    fn on_durable(&self, slot: DurableSlot) {
        self.take_slot(slot.at, &slot.runs, &slot.producers, slot.entries);
    }

    fn on_fenced(&self, at: Slot) {
        tracing::warn!(slot = %at, partitions = self.len(), "the stream has ended: nothing more is acknowledged");
        self.close_all();
    }
}

#[cfg(test)]
mod tests;
