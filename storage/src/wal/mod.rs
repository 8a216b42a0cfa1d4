//! The write-ahead log of a broker: batches of many partitions, put into the slots of one fenced
//! stream, and written to the local disk where there is one (DESIGN §4, §5).
//!
//! - `entry.rs`: what goes in
//! - `buffer.rs`, `tokens.rs`: the flush policy; pure
//! - `permits.rs`: byte back-pressure, fair between producers
//!
//! Knows no partition state: offsets are given before a batch comes here, and what is durable goes
//! to a [`WalSink`], strictly in slot order (I2).

mod buffer;
mod entry;
mod permits;
mod tokens;

pub use buffer::{ClosedSlot, FlushPolicy, WalBuffer};
pub use entry::{Acks, ProducerFields, WalEntry};
pub use permits::{FairKey, Granted, PermitQueue, Permits, Requested, WalPermit};
pub use tokens::PutTokens;

#[cfg(test)]
pub(crate) mod testing;
