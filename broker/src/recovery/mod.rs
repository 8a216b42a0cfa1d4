//! Takes over from processes that have ended: their streams are sealed, their partitions folded, and
//! the next epochs begin at brokers that live (I4).
//!
//! - `driver.rs`: does it, in the process that holds the coordinator
//! - `disks.rs`: which streams wait for the local disk of their writer (pure)
//! - `folds.rs`: many partitions at once, the damaged ones told apart
//! - `begin.rs`: the next epochs
//! - `waiting.rs`: partitions that wait for a disk, and an operator who gives it up
//! - `known.rs`: what was learnt on the way and saves the new owner a fold
//!
//! Every step may be repeated, by this process or the next leader, after a crash at any point: what
//! is done is found in the journal. What a process that comes back does about its own local WAL is
//! in `node/recovery.rs`.

mod begin;
mod disks;
mod driver;
mod folds;
mod known;
mod waiting;

use firn_proto::cluster::CoordinatorError;
use firn_storage::fold::FoldError;
use firn_storage::stream::SealError;
use thiserror::Error;

pub use begin::{Beginner, Folded};
pub use disks::{DiskWaits, Wait};
pub use driver::{RecoveryDriver, seal_and_report};
pub use folds::{Folds, PARTITIONS_PER_REQUEST, chunks, fold_each};
pub use known::KnownStates;
pub use waiting::{DiskWaiters, GoesOn, InBucket, Waiting, by_disk, count as waiting_partitions};

use crate::error::FirnError;

/// Why something of a dead process could not be taken over. Trying again is safe.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// A stream could not be ended.
    #[error("cannot take over from the last process: {0}")]
    Seal(#[from] SealError),
    /// It is not known where partitions ended.
    #[error("cannot learn where partitions ended: {0}")]
    Fold(#[from] FoldError),
    /// The journal and the bucket say different things.
    #[error("the journal contradicts the bucket: {0}")]
    Contradiction(String),
    /// The coordinator does not answer.
    #[error("the coordinator does not answer: {0}")]
    Coordinator(#[from] CoordinatorError),
}

impl RecoveryError {
    /// The coordinator answered another question.
    pub fn wrong_reply(request: &str) -> Self {
        Self::Contradiction(format!(
            "{request} has the wrong reply; this is a bug, please report it"
        ))
    }
}

impl From<RecoveryError> for FirnError {
    fn from(error: RecoveryError) -> Self {
        let (what, reason) = match error {
            RecoveryError::Seal(error) => {
                ("cannot take over from the last process", error.to_string())
            }
            RecoveryError::Fold(error) => {
                ("cannot learn where partitions ended", error.to_string())
            }
            RecoveryError::Contradiction(reason) => ("the journal contradicts the bucket", reason),
            RecoveryError::Coordinator(error) => {
                ("the coordinator does not answer", error.to_string())
            }
        };
        Self::failed(what, reason)
    }
}
