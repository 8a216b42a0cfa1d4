//! The write-ahead log of a broker: batches of many partitions, put into the slots of one fenced
//! stream, and written to the local disk where there is one.
//!
//! - `entry.rs`: what goes in
//! - `buffer.rs`, `tokens.rs`, `gather.rs`: the flush policy; pure
//! - `permits.rs`: byte back-pressure, fair between producers
//! - `front.rs`, `driver.rs`: the [`Wal`] and its task
//! - `slab.rs`: small batches, copied out of socket buffers
//! - `local/`: the local WAL
//! - `latency.rs`: figures for metrics
//!
//! Knows no partition state: offsets are given before a batch comes here, and what is durable goes
//! to a [`WalSink`], strictly in slot order (I2).

mod buffer;
mod driver;
mod entry;
mod error;
mod front;
mod gather;
mod latency;
pub mod local;
mod low_water;
mod permits;
mod sink;
mod slab;
mod tokens;

pub use buffer::{ClosedSlot, FlushPolicy, WalBuffer};
pub use entry::{Acks, ProducerFields, WalEntry};
pub use error::WalError;
pub use front::{DurableCheckpoint, Wal, WalSpec, WalStatus};
pub use gather::GatherPolicy;
pub use latency::{LATENCY_CLASSES, Latency, LatencyFigures};
pub use permits::{FairKey, Granted, PermitQueue, Permits, Requested, WalPermit};
pub use sink::{DurableSlot, WalSink};
pub use tokens::PutTokens;

#[cfg(test)]
pub(crate) mod testing;
