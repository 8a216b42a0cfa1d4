//! What a leader keeps of its journal for standbys, and how far each of them is: the last slots, all
//! of which are durable, and, once a standby has asked for it, the state after some slot from which
//! on all are there. Bounded: a standby that is further behind gets the state again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::cluster::{JournalAsk, JournalPart, Part};
use firn_proto::env::Mono;
use firn_proto::ids::Fingerprint;
use firn_proto::journal::JournalPosition;
use firn_proto::limits::{
    LINK_PART_BYTES_MAX, STANDBY_AHEAD_BYTES_MAX, STANDBY_LOG_BYTES_MAX, STANDBY_STATE_BYTES_MAX,
    STANDBY_STATE_PAUSE,
};
use tokio::sync::watch;

use crate::standby::Piece;

/// Shared by the leader, which fills it, and all who send to standbys.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    log: watch::Sender<Log>,
    /// A standby wants the state.
    wanted: AtomicBool,
    /// When processes were sent the state, over whichever link; not for long.
    states: Mutex<BTreeMap<Fingerprint, Mono>>,
}

/// The last slots of the journal.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The last durable position; `None`: this process does not lead.
    end: Option<JournalPosition>,
    slots: VecDeque<Logged>,
    /// What they hold together.
    bytes: usize,
    /// The state after a position, all slots after which are here.
    state: Option<(JournalPosition, Bytes)>,
    /// The state is longer than standbys are sent.
    is_too_long: bool,
}

#[derive(Debug)]
struct Logged {
    after: JournalPosition,
    at: JournalPosition,
    body: Bytes,
}

/// What one standby is sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Send(Piece, Bytes),
    /// It has everything, or can have nothing.
    Nothing,
    /// The state, which is not here.
    State,
}

impl Feed {
    /// This process leads, and the journal ends there.
    pub(crate) fn begin(&self, end: JournalPosition) {
        self.wanted.store(false, Ordering::Relaxed);
        let end = Some(end);
        self.log.send_replace(Log {
            end,
            ..Log::default()
        });
    }

    /// This process leads no more.
    pub(crate) fn end(&self) {
        self.log.send_replace(Log::default());
    }

    /// A slot is durable.
    pub(crate) fn push(&self, at: JournalPosition, body: Bytes) {
        self.log.send_modify(|log| log.push(at, body));
    }

    /// Whether a standby waits for [`Self::show_state`].
    pub(crate) fn wants_state(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// That is the state after all slots that are durable.
    pub(crate) fn show_state(&self, state: Bytes) {
        self.wanted.store(false, Ordering::Relaxed);
        self.log.send_modify(|log| log.show_state(state));
    }

    /// There is no state to show.
    pub(crate) fn show_none(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        self.log.send_modify(|log| log.is_too_long = true);
    }

    pub(crate) fn want_state(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn log(&self) -> watch::Receiver<Log> {
        self.log.subscribe()
    }

    /// Whether that process may be sent the state: not again so soon, for its link may have broken
    /// under just that.
    pub(crate) fn may_have_state(&self, process: Fingerprint, now: Mono) -> bool {
        let states = self.states();
        let sent = states.get(&process);
        sent.is_none_or(|at| now.since(*at) >= STANDBY_STATE_PAUSE)
    }

    /// It is sent the state.
    pub(crate) fn on_state(&self, process: Fingerprint, now: Mono) {
        let mut states = self.states();
        // No more are left than processes that could link within the pause.
        states.retain(|_, at| now.since(*at) < STANDBY_STATE_PAUSE);
        states.insert(process, now);
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Fingerprint, Mono>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn push(&mut self, at: JournalPosition, body: Bytes) {
        let Some(after) = self.end.replace(at) else {
            self.end = None;
            return;
        };
        self.bytes += body.len();
        self.slots.push_back(Logged { after, at, body });
        while self.bytes > STANDBY_LOG_BYTES_MAX {
            let Some(oldest) = self.slots.pop_front() else {
                return;
            };
            self.bytes -= oldest.body.len();
            self.state.take_if(|(covers, _)| *covers < oldest.at);
        }
    }

    fn show_state(&mut self, state: Bytes) {
        self.is_too_long = state.len() > STANDBY_STATE_BYTES_MAX;
        let fits = !self.is_too_long;
        self.state = self.end.filter(|_| fits).map(|end| (end, state));
    }

    /// What comes after that position.
    fn next_after(&self, after: Option<JournalPosition>) -> Next {
        if self.end.is_none() || after == self.end {
            return Next::Nothing;
        }
        let slot = after.and_then(|after| {
            let found = self.slots.binary_search_by(|slot| slot.after.cmp(&after));
            self.slots.get(found.ok()?)
        });
        if let Some(Logged { after, at, body }) = slot {
            let (after, at) = (*after, *at);
            return Next::Send(Piece::Slot { after, at }, body.clone());
        }
        match &self.state {
            Some((covers, state)) => {
                let covers = *covers;
                Next::Send(Piece::State { covers }, state.clone())
            }
            None if self.is_too_long => Next::Nothing,
            None => Next::State,
        }
    }
}

/// How far one standby is.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// Which time it was when it asked last.
    number: Option<u32>,
    /// What was sent leads to there.
    after: Option<JournalPosition>,
    sending: Option<Sending>,
    /// How many bytes were sent over the link, and how many of them have come.
    sent: u64,
    taken: u64,
}

/// What a standby is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// What it was before, if anything.
    AsBefore,
    /// The state, from its beginning.
    State,
    /// The state, which is not there.
    NoState,
}

#[derive(Debug)]
struct Sending {
    piece: Piece,
    bytes: Bytes,
    sent: usize,
}

impl Cursor {
    /// Finds what is to be sent next, for it wants that.
    pub(crate) fn fill(&mut self, ask: JournalAsk, log: &Log, may_have_state: bool) -> Filled {
        self.taken = ask.taken;
        if self.number != Some(ask.number) {
            self.number = Some(ask.number);
            self.after = ask.after;
            self.sending = None;
        }
        if self.sending.is_some() {
            return Filled::AsBefore;
        }
        let (piece, bytes) = match log.next_after(self.after) {
            Next::Send(piece, bytes) => (piece, bytes),
            Next::State if may_have_state => return Filled::NoState,
            Next::State | Next::Nothing => return Filled::AsBefore,
        };
        let is_state = matches!(piece, Piece::State { .. });
        if is_state && !may_have_state {
            return Filled::AsBefore;
        }
        self.sending = Some(Sending {
            piece,
            bytes,
            sent: 0,
        });
        match is_state {
            true => Filled::State,
            false => Filled::AsBefore,
        }
    }

    /// Whether there is something to send, and the link has room for it.
    pub(crate) fn has_part(&self) -> bool {
        let ahead = self.sent.saturating_sub(self.taken);
        let has_room = ahead <= (STANDBY_AHEAD_BYTES_MAX - LINK_PART_BYTES_MAX) as u64;
        has_room && self.sending.is_some()
    }

    /// The next part of it.
    pub(crate) fn cut(&mut self) -> Option<JournalPart> {
        let sending = self.sending.as_mut()?;
        let part = Part::from_whole(&sending.bytes, sending.sent);
        sending.sent += part.bytes.len();
        self.sent += part.bytes.len() as u64;
        let piece = sending.piece;
        if part.is_last() {
            self.after = Some(piece.ends_at());
            self.sending = None;
        }
        Some(piece.part(part))
    }
}

#[cfg(test)]
mod tests;
