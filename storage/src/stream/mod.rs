//! The fenced stream (FORMAT.md §3), the one primitive under everything durable: numbered slots in
//! the bucket, each created once and for ever, with one writer and any number of sealers.
//!
//! - `slot.rs`: the object of a slot, byte for byte
//! - `wal_index.rs`: what the index of a WAL slot holds
//! - `writer.rs`, `window.rs`: the writer as a pure state machine; `driver.rs` runs it
//! - `seal.rs`: the sealer as a pure state machine; `take_over.rs` runs it
//! - `recover.rs`: reading slots back, in order and in parallel
//!
//! May not touch: `ObjectStore` (only `bucket/`), clocks and randomness other than those handed
//! in, what the bodies mean.

mod driver;
pub(crate) mod fields;
mod recover;
pub mod seal;
#[cfg(test)]
mod simulation;
pub mod slot;
mod take_over;
#[cfg(test)]
pub(crate) mod testing;
pub mod wal_index;
mod window;
pub mod writer;

use std::fmt;

use firn_proto::ids::{ClusterId, CoordinatorEpoch, Slot, StreamId};

use crate::bucket::Purpose;
use crate::layout::{Key, Place};

pub(crate) use fields::crc32c;

pub use driver::{StreamEnv, StreamError, StreamEvents, StreamHandle};
pub use recover::{
    INDEX_GUESS, ReadError, SlotObject, SlotView, read_header, read_index, read_indexes,
    read_object, read_objects,
};
pub use seal::{SealSpec, Sealed};
pub use slot::{Nonce, SlotBody, SlotHeader, SlotKind};
pub use take_over::{SealError, seal};
pub use wal_index::{CheckpointRef, IndexError, WalIndex};
pub use writer::{FencedBy, StreamEvent, StreamSpec};

/// Whose stream it is, which decides where its slots lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    /// The write-ahead log of one broker incarnation.
    Wal,
    /// The journal of one coordinator epoch; its stream id is the epoch.
    Journal,
}

/// One stream of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamName {
    /// WAL or journal.
    pub kind: StreamKind,
    /// The cluster, written into every slot.
    pub cluster: ClusterId,
    /// The stream.
    pub stream: StreamId,
}

impl StreamName {
    /// A broker's WAL stream.
    pub fn wal(cluster: ClusterId, stream: StreamId) -> Self {
        Self {
            kind: StreamKind::Wal,
            cluster,
            stream,
        }
    }

    /// The journal stream of a coordinator epoch.
    pub fn journal(cluster: ClusterId, epoch: CoordinatorEpoch) -> Self {
        Self {
            kind: StreamKind::Journal,
            cluster,
            stream: StreamId(epoch.0),
        }
    }

    /// What its requests are counted as.
    pub fn purpose(&self) -> Purpose {
        match self.kind {
            StreamKind::Wal => Purpose::Wal,
            StreamKind::Journal => Purpose::Journal,
        }
    }

    /// The key of a slot of this stream.
    pub fn key(&self, slot: Slot) -> Key {
        match self.kind {
            StreamKind::Wal => Place::WalSlot {
                stream: self.stream,
                slot,
            },
            StreamKind::Journal => Place::JournalSlot {
                epoch: CoordinatorEpoch(self.stream.0),
                slot,
            },
        }
        .key()
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            StreamKind::Wal => "wal",
            StreamKind::Journal => "journal",
        };
        write!(
            f,
            "{kind} stream {:016x} of {}",
            self.stream.0, self.cluster
        )
    }
}
