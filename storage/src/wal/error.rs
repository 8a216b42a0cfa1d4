//! Why the WAL takes nothing any more.

use std::sync::Arc;

use firn_proto::ids::Slot;

use super::local::LocalWalError;
use crate::stream::IndexError;

/// Why an entry was not taken, or the WAL ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// [`super::Wal::close`] was called.
    #[error("the wal is closed: this broker is stopping")]
    Closed,
    /// Another process has taken over. What is not durable by now never will be.
    #[error("another process has sealed the stream of this one at slot {at}")]
    Fenced {
        /// The first slot that does not count.
        at: Slot,
    },
    /// The local WAL's disk did not take what it was given. The process has to end: what is on
    /// that disk is unknown.
    #[error("the local wal's device failed: {0}; replace the disk, or run without it (--wal none)")]
    DeviceFailed(Arc<std::io::Error>),
    /// The WAL's task ended by a panic: an invariant does not hold. Nothing is acknowledged.
    #[error("the wal's task has failed: see the panic in the log and restart this broker")]
    TaskFailed,
    /// The local WAL cannot be used.
    #[error(transparent)]
    Local(Arc<LocalWalError>),
    /// The rows of a slot contradict each other: a bug. Nothing of it was put.
    #[error("a slot's index cannot be written: {0}")]
    Index(#[from] IndexError),
}

/// `EX_IOERR` of sysexits: a device failed.
const EXIT_DEVICE_FAILED: u8 = 74;

impl WalError {
    /// The exit code that a process ends with because of this, if it has to end.
    pub fn exit_code(&self) -> Option<u8> {
        matches!(self, Self::DeviceFailed(_)).then_some(EXIT_DEVICE_FAILED)
    }
}
