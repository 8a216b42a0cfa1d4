//! Where the WAL tells what has become of its entries.

use std::time::Duration;

use firn_proto::ids::{Slot, SlotPosition};

use super::entry::WalEntry;
use super::local::LocalAck;
use crate::state::{ProducerBatch, Run};

/// A slot that is durable: it and every slot before it exist and are ours (I2).
#[derive(Debug)]
pub struct DurableSlot {
    /// Which one.
    pub at: SlotPosition,
    /// Size of its object in bytes.
    pub size: u64,
    /// From the moment it was closed until now.
    pub took: Duration,
    /// Its runs; byte ranges count from the start of the object.
    pub runs: Vec<Run>,
    /// One row per batch of a producer with state.
    pub producers: Vec<ProducerBatch>,
    /// Its batches, sorted as in the object.
    pub entries: Vec<WalEntry>,
}

/// Takes what has become of entries. Calls are short: they hold up the WAL.
pub trait WalSink: Send + Sync + 'static {
    /// These are fsynced on the local disk. Only where a local WAL is configured; on its thread.
    fn on_local(&self, acked: &[LocalAck]);

    /// A slot is durable. Called strictly in slot order (I2).
    fn on_durable(&self, slot: DurableSlot);

    /// The stream has ended at this slot: nothing that was not told to be durable by now is ever
    /// acknowledged (I3). The last call.
    fn on_fenced(&self, at: Slot);
}
