//! How the coordinator reaches its journal: the trait that `storage` implements over fenced
//! streams and `node.rs` hands over. The coordinator never sees a bucket.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;

use crate::env::Mono;
use crate::ids::{ClusterId, CoordinatorEpoch, Slot};

/// One slot of one coordinator epoch's journal stream. Ordered: a later position holds later
/// commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct JournalPosition {
    /// The term whose stream this is.
    pub epoch: CoordinatorEpoch,
    /// The slot in it.
    pub slot: Slot,
}

impl JournalPosition {
    /// Before everything that was ever journalled: epochs begin with 1.
    pub const START: Self = Self {
        epoch: CoordinatorEpoch(0),
        slot: Slot(0),
    };
}

impl fmt::Display for JournalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{:016x}", self.epoch.0, self.slot.0)
    }
}

/// Why a journal operation did not succeed, sorted by what the coordinator must do.
#[derive(Clone, Debug, Error)]
pub enum JournalError {
    /// A later epoch has been taken or this stream has been sealed: resign at once, drop the state.
    #[error("the journal of epoch {epoch} is fenced: another process leads the cluster")]
    Fenced {
        /// The epoch that lost.
        epoch: CoordinatorEpoch,
    },
    /// A later epoch has been claimed, though nothing was refused yet: resign at once.
    #[error("another process has claimed epoch {newer} of the journal; this one has epoch {epoch}")]
    Superseded {
        /// The epoch that lost.
        epoch: CoordinatorEpoch,
        /// The one that was claimed after it.
        newer: CoordinatorEpoch,
    },
    /// Bytes of the journal contradict themselves. Nothing may be served from them.
    #[error("the journal is corrupt at {at}: {reason}")]
    Corrupt {
        /// The object, by its key.
        at: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bucket did not answer for good (retries are inside): an outage, as far as anybody can
    /// tell.
    #[error("the bucket does not serve the journal: {0}")]
    Unavailable(String),
    /// The bucket answers, but not to this process: no right, no such bucket. Others may be served.
    #[error("the bucket refuses the journal: {0}")]
    Refused(String),
}

/// A journal that has been taken over: what it held, and the right to append.
pub struct OpenedJournal {
    /// The cluster this bucket belongs to (made by the first opener).
    pub cluster: ClusterId,
    /// The epoch that was taken.
    pub epoch: CoordinatorEpoch,
    /// When it was known that it was: whoever led before may be read for the length of a read lease
    /// from then on, and no longer.
    pub claimed_at: Mono,
    /// The newest valid snapshot and the last position it covers, unless the entries follow what was
    /// known.
    pub snapshot: Option<(JournalPosition, Bytes)>,
    /// Every slot body after that, oldest first.
    pub entries: Vec<(JournalPosition, Bytes)>,
    /// The entries come after the position that the opener knew, and there is no snapshot: what it
    /// knew fits the journal.
    pub follows_known: bool,
    /// How many slots the newest snapshot leaves to be read, those of openings too.
    pub log_slots: u64,
    /// The writer of the new epoch.
    pub journal: Box<dyn Journal>,
}

/// The writer of one epoch's journal stream.
pub trait Journal: Send + Sync + 'static {
    /// Puts `body` into the next slot. The call fixes the order; the future resolves once this
    /// slot and all before it are durable, and futures resolve in order. Several may be in flight.
    ///
    /// Dropping the future does not take the slot back.
    fn append(&self, body: Bytes) -> BoxFuture<'static, Result<JournalPosition, JournalError>>;

    /// Puts a snapshot of the state after `covers`, which must be durable, and then lets go of the
    /// slots it covers. Safe to drop at any point: a snapshot counts only when it is whole.
    fn put_snapshot(
        &self,
        covers: JournalPosition,
        body: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>>;

    /// Looks whether somebody has claimed the next epoch, which ends this one: a writer that has
    /// nothing to put would not notice otherwise. One request.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`], [`JournalError::Refused`]: nothing is known.
    fn look_for_newer(&self) -> BoxFuture<'static, Result<Option<CoordinatorEpoch>, JournalError>>;
}

/// A slot that was durable, as whoever follows a leader has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownSlot {
    /// Which.
    pub at: JournalPosition,
    /// What is in it, if that was heard too.
    pub body: Option<Bytes>,
}

/// How an epoch is to be taken.
#[derive(Clone)]
pub struct Taking {
    /// Who takes it, how to reach it: kept in the epoch's object for others to read.
    pub identity: Bytes,
    /// The epoch after this one is wanted; `None`: the next one that is free.
    pub after: Option<CoordinatorEpoch>,
    /// The last slot that the opener knows, if it has the state after that.
    pub known: Option<KnownSlot>,
    /// Called when the epoch is claimed, and again with each thing that the bucket has answered
    /// since: who takes over goes on.
    pub on_step: Arc<dyn Fn() + Send + Sync>,
}

impl Taking {
    /// Takes the next epoch that is free, and tells nobody how it goes.
    pub fn next_free(identity: Bytes) -> Self {
        Self {
            identity,
            after: None,
            known: None,
            on_step: Arc::new(|| ()),
        }
    }
}

/// A claim to an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The epoch.
    pub epoch: CoordinatorEpoch,
    /// Who claimed it, how to reach it.
    pub identity: Bytes,
}

/// Takes the next coordinator epoch and with it the journal.
pub trait JournalOpener: Send + Sync + 'static {
    /// The newest claim to an epoch; `None` if there is none yet.
    ///
    /// # Errors
    /// [`JournalError`], but for those about an epoch that is lost.
    fn newest(&self) -> BoxFuture<'_, Result<Option<Claimed>, JournalError>>;

    /// Who claimed that epoch; `None` if nobody did.
    ///
    /// # Errors
    /// As [`Self::newest`].
    fn claim(
        &self,
        epoch: CoordinatorEpoch,
    ) -> BoxFuture<'_, Result<Option<Claimed>, JournalError>>;

    /// Takes an epoch, seals the streams of all earlier ones, and reads what they hold.
    ///
    /// # Errors
    /// [`JournalError::Superseded`]: somebody else has claimed the epoch that is wanted.
    fn open(&self, taking: Taking) -> BoxFuture<'_, Result<OpenedJournal, JournalError>>;
}
