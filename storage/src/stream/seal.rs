//! Ending a stream, as a pure state machine: finds the first slot that is not data and puts a SEAL
//! there, whoever else writes or seals at the same time (FORMAT.md §3; I1, I3).
//!
//! No IO, clock, lock or randomness; `take_over.rs` runs it. Safe to run again and by several
//! processes at once: all of them come to the same end.
//!
//! - The walk goes up from the prefix that is known to be durable and never seals below it: the
//!   last slot of that prefix is looked at first, and if the store does not have it, the store has
//!   lost acknowledged data and nothing is decided.
//! - A slot decides only once every slot below it is data. Slots are looked at ahead of the walk,
//!   but a seal found there (a wall) ends nothing by itself.
//! - A live writer can outrun the walk. After two lost seals a wall is put [`WALL_DISTANCE`] slots
//!   ahead; the writer runs into it, and the walk comes to an end at the wall at the latest.

use std::collections::BTreeMap;

use bytes::Bytes;
use firn_proto::env::Mono;
use firn_proto::ids::Slot;
use firn_proto::limits::WALL_DISTANCE;

use super::StreamName;
use super::slot::{Nonce, SlotFault, SlotHeader, SlotKind, seal_object};
use super::writer::{PutAnswer, ReadBack};
use crate::bucket::backoff;

/// Lost seals after which the wall is put.
const LOSSES_BEFORE_WALL: u32 = 2;
/// Slots looked at ahead of the walk at first; doubles up to the maximum while all are data.
const AHEAD_MIN: u64 = 2;
const AHEAD_MAX: u64 = 32;
/// Failures at one slot after which the sealer gives up; the caller may start it again.
const FAILURES_MAX: u32 = 12;
/// Looks at a slot that stay undecodable, or at one of the known prefix that stay empty, before
/// that is taken for the truth.
const FAULTS_MAX: u32 = 3;

/// Which stream to end, and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct SealSpec {
    /// The stream.
    pub stream: StreamName,
    /// The journalled floor: slots below it may have been deleted.
    pub floor: Slot,
    /// Every slot in [floor, from) is known to be durable data.
    pub from: Slot,
}

/// A stream that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The end: every slot in [floor, end) is data, slot `end` holds a seal, and nothing at or
    /// after it counts (I3).
    pub end: Slot,
    /// The nonce of the slot before the end, if it was looked at.
    pub last_nonce: Option<Nonce>,
}

/// Why a stream could not be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealFault {
    /// A slot that was reported durable is not there, or is no data.
    PrefixLost {
        /// The slot.
        slot: Slot,
    },
    /// A slot holds bytes that are no slot of this stream, however often it is read.
    Unreadable {
        /// The slot.
        slot: Slot,
    },
    /// A slot follows another slot than the one before it.
    Chain {
        /// The slot.
        slot: Slot,
        /// How the chain breaks.
        fault: SlotFault,
    },
    /// The store does not answer.
    Unavailable {
        /// The slot that was asked for.
        slot: Slot,
    },
}

/// What the driver has to do, or to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealAction {
    /// Make one attempt to create `object` in `slot`, then call [`Sealer::on_put`].
    Put {
        /// The slot.
        slot: Slot,
        /// The seal.
        object: Bytes,
    },
    /// Read the header of `slot`, then call [`Sealer::on_read`].
    Read {
        /// The slot.
        slot: Slot,
    },
    /// Over, with this outcome.
    Done(Result<Sealed, SealFault>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready(Step),
    Later(Step, Mono),
    Busy(Step),
}

/// A slot that is being looked at or sealed.
#[derive(Clone, Copy, Debug)]
struct Probe {
    state: State,
    /// Whether it is to be sealed if nothing is there.
    sealing: bool,
    failures: u32,
    faults: u32,
}

impl Probe {
    fn new(step: Step) -> Self {
        Self {
            state: State::Ready(step),
            sealing: step == Step::Put,
            failures: 0,
            faults: 0,
        }
    }
}

/// What a slot turned out to be. Data and seals stay what they are (I1).
#[derive(Clone, Copy, Debug)]
enum Seen {
    Data(SlotHeader),
    Seal,
    Absent,
}

/// One attempt of one process to end a stream.
#[derive(Debug)]
pub struct Sealer {
    spec: SealSpec,
    nonce: Nonce,
    /// Every slot in [from, cursor) is data.
    cursor: Slot,
    last_nonce: Option<Nonce>,
    /// Whether the last slot of the known prefix has been found where it belongs.
    prefix_checked: bool,
    probes: BTreeMap<Slot, Probe>,
    seen: BTreeMap<Slot, Seen>,
    ahead: u64,
    losses: u32,
    wall: Option<Slot>,
    done: Option<Result<Sealed, SealFault>>,
}

impl Sealer {
    /// A sealer whose seals carry `nonce`, fresh and random.
    pub fn new(spec: SealSpec, nonce: Nonce) -> Self {
        assert!(
            spec.from >= spec.floor,
            "I7: the floor never passes what is resolved"
        );
        let prefix_checked = spec.from == spec.floor;
        let mut sealer = Self {
            spec,
            nonce,
            cursor: spec.from,
            last_nonce: None,
            prefix_checked,
            probes: BTreeMap::new(),
            seen: BTreeMap::new(),
            ahead: AHEAD_MIN,
            losses: 0,
            wall: None,
            done: None,
        };
        if !prefix_checked {
            let last = Slot(spec.from.0 - 1);
            sealer.probes.insert(last, Probe::new(Step::Read));
        }
        sealer.advance();
        sealer
    }

    /// The answer to [`SealAction::Put`].
    pub fn on_put(&mut self, slot: Slot, answer: PutAnswer, now: Mono, luck: u64) {
        let Some(probe) = self.answered(slot, Step::Put) else {
            return;
        };
        match answer {
            PutAnswer::Created => self.resolve(slot, Seen::Seal),
            PutAnswer::Exists => probe.state = State::Ready(Step::Read),
            PutAnswer::Congested | PutAnswer::Unclear | PutAnswer::Refused => {
                self.fail(slot, Step::Read, now, luck);
            }
        }
    }

    /// The answer to [`SealAction::Read`].
    pub fn on_read(&mut self, slot: Slot, found: ReadBack, now: Mono, luck: u64) {
        let Some(probe) = self.answered(slot, Step::Read) else {
            return;
        };
        match found {
            ReadBack::Found(header) if header.kind == SlotKind::Seal => {
                self.resolve(slot, Seen::Seal);
            }
            ReadBack::Found(header) => {
                if probe.sealing {
                    self.losses += 1;
                }
                self.resolve(slot, Seen::Data(header));
            }
            ReadBack::Absent if probe.sealing && probe.failures == 0 => {
                // A 409: nothing was written. The second time it gets a pause.
                probe.failures = 1;
                probe.state = State::Ready(Step::Put);
            }
            ReadBack::Absent if probe.sealing => self.fail(slot, Step::Put, now, luck),
            ReadBack::Absent if slot < self.spec.from => {
                self.fault(slot, SealFault::PrefixLost { slot }, now, luck);
            }
            ReadBack::Absent => self.resolve(slot, Seen::Absent),
            ReadBack::Unreadable => self.fault(slot, SealFault::Unreadable { slot }, now, luck),
            ReadBack::Failed => self.fail(slot, Step::Read, now, luck),
        }
    }

    /// The probe whose answer came; `None` once the outcome is known.
    fn answered(&mut self, slot: Slot, step: Step) -> Option<&mut Probe> {
        if self.done.is_some() {
            return None;
        }
        let probe = self.probes.get_mut(&slot)?;
        assert!(
            probe.state == State::Busy(step),
            "I1: slot {slot} was answered unasked: {:?}",
            probe.state
        );
        Some(probe)
    }

    /// Something passing went wrong at `slot`: `step` is next, after a pause.
    fn fail(&mut self, slot: Slot, step: Step, now: Mono, luck: u64) {
        let Some(probe) = self.probes.get_mut(&slot) else {
            return;
        };
        probe.failures += 1;
        probe.state = State::Later(step, now.after(backoff(probe.failures, luck)));
        if probe.failures > FAILURES_MAX {
            self.done = Some(Err(SealFault::Unavailable { slot }));
        }
    }

    /// What was read at `slot` cannot be; it is read again a few times before it is believed.
    fn fault(&mut self, slot: Slot, fault: SealFault, now: Mono, luck: u64) {
        let Some(probe) = self.probes.get_mut(&slot) else {
            return;
        };
        probe.faults += 1;
        probe.state = State::Later(Step::Read, now.after(backoff(probe.faults, luck)));
        if probe.faults > FAULTS_MAX {
            self.done = Some(Err(fault));
        }
    }

    fn resolve(&mut self, slot: Slot, seen: Seen) {
        self.probes.remove(&slot);
        if slot < self.spec.from {
            match seen {
                Seen::Data(header) => {
                    self.last_nonce = Some(header.nonce);
                    self.prefix_checked = true;
                }
                Seen::Seal | Seen::Absent => {
                    self.done = Some(Err(SealFault::PrefixLost { slot }));
                }
            }
        } else {
            if self.wall == Some(slot) && matches!(seen, Seen::Data(_)) {
                // The writer was past the place of the wall already.
                self.wall = None;
            }
            self.seen.insert(slot, seen);
        }
        self.advance();
    }

    /// Walks on as far as is known, and says what has to be looked at next.
    fn advance(&mut self) {
        while self.done.is_none() && self.prefix_checked {
            match self.seen.get(&self.cursor).copied() {
                Some(Seen::Data(header)) => self.pass(&header),
                Some(Seen::Seal) => {
                    self.done = Some(Ok(Sealed {
                        end: self.cursor,
                        last_nonce: self.last_nonce,
                    }));
                }
                Some(Seen::Absent) => {
                    self.seen.remove(&self.cursor);
                    self.put_seal(self.cursor);
                }
                None => break,
            }
        }
        self.look_ahead();
        self.put_wall();
    }

    fn pass(&mut self, header: &SlotHeader) {
        let slot = self.cursor;
        let before = self.last_nonce.unwrap_or(header.prev_nonce);
        // Slot 0 follows nothing; another first slot follows one that was not looked at.
        let before = if slot.0 == 0 { Nonce::NONE } else { before };
        if let Err(fault) = header.check_chain(before) {
            self.done = Some(Err(SealFault::Chain { slot, fault }));
            return;
        }
        self.seen.remove(&slot);
        self.last_nonce = Some(header.nonce);
        self.cursor = slot.next();
        self.ahead = (self.ahead * 2).min(AHEAD_MAX);
    }

    fn put_seal(&mut self, slot: Slot) {
        assert!(
            slot >= self.spec.from,
            "I1: slot {slot} was reported durable, never seal it"
        );
        self.probes.insert(slot, Probe::new(Step::Put));
    }

    fn look_ahead(&mut self) {
        if self.done.is_some() {
            return;
        }
        for slot in (self.cursor.0..self.cursor.0 + self.ahead).map(Slot) {
            if !self.seen.contains_key(&slot) {
                self.probes
                    .entry(slot)
                    .or_insert_with(|| Probe::new(Step::Read));
            }
        }
    }

    fn put_wall(&mut self) {
        if self.done.is_some() || self.wall.is_some() || self.losses < LOSSES_BEFORE_WALL {
            return;
        }
        let newest = self
            .seen
            .last_key_value()
            .map_or(self.cursor, |(slot, _)| *slot);
        let wall = Slot(newest.max(self.cursor).0 + WALL_DISTANCE);
        self.wall = Some(wall);
        self.put_seal(wall);
    }

    /// The next thing to do or to tell, until there is none.
    pub fn poll(&mut self) -> Option<SealAction> {
        if let Some(done) = &self.done {
            return Some(SealAction::Done(done.clone()));
        }
        let (slot, probe) = self
            .probes
            .iter_mut()
            .find(|(_, probe)| matches!(probe.state, State::Ready(_)))?;
        let State::Ready(step) = probe.state else {
            return None;
        };
        probe.state = State::Busy(step);
        let slot = *slot;
        Some(match step {
            Step::Read => SealAction::Read { slot },
            Step::Put => SealAction::Put {
                slot,
                object: seal_object(&self.spec.stream, slot, self.nonce),
            },
        })
    }

    /// When [`Sealer::on_timeout`] has something to do, if ever.
    pub fn next_timeout(&self) -> Option<Mono> {
        let due = |probe: &Probe| match probe.state {
            State::Later(_, at) => Some(at),
            _ => None,
        };
        self.probes.values().filter_map(due).min()
    }

    /// Makes every pause that is over into something to do.
    pub fn on_timeout(&mut self, now: Mono) {
        for probe in self.probes.values_mut() {
            if let State::Later(step, at) = probe.state
                && at <= now
            {
                probe.state = State::Ready(step);
            }
        }
    }
}

#[cfg(test)]
mod tests;
