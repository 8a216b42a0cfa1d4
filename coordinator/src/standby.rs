//! The state of the cluster as the leader's journal has it, in a process that may have to take that
//! over: then it reads only the last moments from the bucket, which has the last word. Pure.
//!
//! The state after some slot, and each slot after that, come in parts. What does not fit is dropped
//! with all the rest, and the leader is asked anew. So it is when much has come since the state did,
//! for what this takes in memory can be told from a snapshot alone; but what is known stays until then.

use bytes::Bytes;
use firn_proto::cluster::{JournalAsk, JournalPart, Part, PartFault, Parts};
use firn_proto::journal::{JournalPosition, KnownSlot};
use firn_proto::limits::{LINK_PARTS_BYTES_MAX, STANDBY_BYTES_MAX, STANDBY_STATE_BYTES_MAX};
use thiserror::Error;

use crate::command::{CommandError, decode_slot};
use crate::snapshot::{SnapshotError, decode_snapshot};
use crate::standing::FollowedTo;
use crate::state::State;

/// What is followed of the journal.
#[derive(Debug, Default)]
pub(crate) struct Standby {
    /// How often it has asked for it.
    number: u32,
    /// How many bytes of it have come over the link.
    taken: u64,
    gathering: Option<Gathering>,
    known: Option<Known>,
    /// It wants the state anew, and keeps the one that it has until that has come.
    renews: bool,
}

/// The state after a position.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) state: State,
    pub(crate) at: JournalPosition,
    /// What is in that slot, if it has come.
    body: Option<Bytes>,
    /// The length of the snapshot that came, and of the slots since.
    pub(crate) state_bytes: usize,
    pub(crate) log_bytes: usize,
}

/// A piece of the journal that goes in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The state after a position.
    State {
        /// Which.
        covers: JournalPosition,
    },
    /// A slot.
    Slot {
        /// The position before it.
        after: JournalPosition,
        /// Which.
        at: JournalPosition,
    },
}

/// One of which some parts have come.
#[derive(Debug)]
struct Gathering {
    piece: Piece,
    parts: Parts,
}

/// Why what has come is of no use.
#[derive(Debug, Error)]
pub(crate) enum Misfit {
    #[error("slot {at} follows {after}, and the state here is that after {known:?}")]
    Gap {
        at: JournalPosition,
        after: JournalPosition,
        known: Option<JournalPosition>,
    },
    #[error("a part of {came:?} comes where one of {begun:?} should")]
    Mixed { begun: Piece, came: Piece },
    #[error("time goes back in slot {at}, from {from_ms} to {to_ms}")]
    Time {
        at: JournalPosition,
        from_ms: i64,
        to_ms: i64,
    },
    #[error("{piece:?} has {len} bytes, more than are taken")]
    TooLong { piece: Piece, len: u64 },
    #[error(transparent)]
    Part(#[from] PartFault),
    #[error(transparent)]
    State(#[from] SnapshotError),
    #[error(transparent)]
    Slot(#[from] CommandError),
}

impl Piece {
    fn of(told: &JournalPart) -> (Self, &Part) {
        match told {
            JournalPart::State { covers, part } => (Self::State { covers: *covers }, part),
            JournalPart::Slot { after, at, part } => {
                let (after, at) = (*after, *at);
                (Self::Slot { after, at }, part)
            }
        }
    }

    /// A part of it.
    pub(crate) fn part(self, part: Part) -> JournalPart {
        match self {
            Self::State { covers } => JournalPart::State { covers, part },
            Self::Slot { after, at } => JournalPart::Slot { after, at, part },
        }
    }

    /// The state that there is with it is that after this position.
    pub(crate) fn ends_at(self) -> JournalPosition {
        match self {
            Self::State { covers } => covers,
            Self::Slot { at, .. } => at,
        }
    }

    fn bytes_max(self) -> usize {
        match self {
            Self::State { .. } => STANDBY_STATE_BYTES_MAX,
            Self::Slot { .. } => LINK_PARTS_BYTES_MAX,
        }
    }
}

impl Standby {
    /// What the leader is asked for, again and again: it need not have heard it.
    pub(crate) fn ask(&self) -> JournalAsk {
        JournalAsk {
            number: self.number,
            after: self.followed_to().filter(|_| !self.renews).map(|to| to.at),
            taken: self.taken,
        }
    }

    /// There is a link to a leader, which knows nothing of what came over others.
    pub(crate) fn on_link(&mut self) {
        self.taken = 0;
        self.ask_anew();
    }

    fn ask_anew(&mut self) {
        self.gathering = None;
        self.number = self.number.wrapping_add(1);
    }

    /// The last slot that is known.
    pub(crate) fn known_slot(&self) -> Option<KnownSlot> {
        let known = self.known.as_ref()?;
        let (at, body) = (known.at, known.body.clone());
        (at > JournalPosition::START).then_some(KnownSlot { at, body })
    }

    /// How far it follows.
    pub(crate) fn followed_to(&self) -> Option<FollowedTo> {
        let known = self.known.as_ref()?;
        let (at, bytes) = (known.at, known.bytes());
        Some(FollowedTo { at, bytes })
    }

    /// Gives away what is known.
    pub(crate) fn take_known(&mut self) -> Option<Known> {
        self.gathering = None;
        self.renews = false;
        self.known.take()
    }

    /// The next part.
    ///
    /// # Errors
    /// [`Misfit`]: everything is asked for anew.
    pub(crate) fn take(&mut self, told: &JournalPart) -> Result<(), Misfit> {
        let taken = self.take_part(told);
        let bytes = self.followed_to().map_or(0, |followed| followed.bytes);
        if taken.is_err() {
            self.known = None;
            self.renews = false;
            self.ask_anew();
        } else if bytes > STANDBY_BYTES_MAX && !self.renews {
            // All standbys come to that at about the same time: none of them is to be without a state.
            self.renews = true;
            self.ask_anew();
        }
        taken
    }

    fn take_part(&mut self, told: &JournalPart) -> Result<(), Misfit> {
        let (piece, part) = Piece::of(told);
        self.taken += part.bytes.len() as u64;
        if part.at == 0 && !self.begin(piece)? {
            return Ok(());
        }
        let Some(gathering) = &mut self.gathering else {
            // Was on its way when something else was asked for.
            return Ok(());
        };
        if gathering.piece != piece {
            let begun = gathering.piece;
            return Err(Misfit::Mixed { begun, came: piece });
        }
        if part.len > piece.bytes_max() as u64 {
            let len = part.len;
            return Err(Misfit::TooLong { piece, len });
        }
        let Some(whole) = gathering.parts.take(part)? else {
            return Ok(());
        };
        self.gathering = None;
        match piece {
            Piece::State { covers } => {
                self.known = Some(Known {
                    state: decode_snapshot(&whole)?,
                    at: covers,
                    body: None,
                    state_bytes: whole.len(),
                    log_bytes: 0,
                });
                self.renews = false;
            }
            Piece::Slot { at, .. } => {
                if let Some(known) = &mut self.known {
                    known.apply(at, whole.into())?;
                }
            }
        }
        Ok(())
    }

    /// Whether the piece whose first part has come is taken.
    fn begin(&mut self, piece: Piece) -> Result<bool, Misfit> {
        let known = self.known.as_ref().map(|known| known.at);
        if let Piece::Slot { after, at } = piece {
            if known.is_none_or(|known| at <= known) {
                return Ok(false);
            }
            if known != Some(after) {
                return Err(Misfit::Gap { at, after, known });
            }
        }
        let parts = Parts::default();
        self.gathering = Some(Gathering { piece, parts });
        Ok(true)
    }
}

impl Known {
    fn apply(&mut self, at: JournalPosition, body: Bytes) -> Result<(), Misfit> {
        for stamped in &decode_slot(&body)? {
            let (from_ms, to_ms) = (self.state.at_ms(), stamped.at_ms);
            if to_ms < from_ms {
                return Err(Misfit::Time { at, from_ms, to_ms });
            }
            self.state.apply(stamped);
        }
        self.at = at;
        self.log_bytes += body.len();
        self.body = Some(body);
        Ok(())
    }

    /// What has come of it.
    fn bytes(&self) -> usize {
        self.state_bytes + self.log_bytes
    }
}

#[cfg(test)]
mod tests;
