//! The writer of a stream as a pure state machine: which object goes into which slot, what an
//! answer of the store means, and up to where the stream is durable (I1, I2).
//!
//! No IO, clock, lock or randomness: `now`, nonces and `luck` (random bits for jitter) come in as
//! arguments; [`StreamWriter::poll`] hands out what is to be done. `driver.rs` does it.
//!
//! The rule (FORMAT.md §3; I1, I2): a slot gets one body for ever. An unclear answer is resolved at
//! the slot by reading its header back: ours means written, a seal or another nonce means fenced,
//! absent means that the same bytes are put again, without end. No slot is ever skipped.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::env::Mono;
use firn_proto::ids::Slot;
use firn_proto::limits::SLOTS_IN_FLIGHT_MAX;

use super::StreamName;
use super::slot::{Nonce, SlotBody, SlotHeader, SlotKind};
use super::window::Window;
use crate::bucket::backoff;

/// Reads of one slot that found undecodable bytes before the writer takes it for lost.
const UNREADABLE_MAX: u32 = 8;

/// Where a writer starts.
#[derive(Clone, Copy, Debug)]
pub struct StreamSpec {
    /// The stream.
    pub stream: StreamName,
    /// The first slot to write; everything below is durable. 0 for a new stream.
    pub first_slot: Slot,
    /// The nonce of the slot before the first, [`Nonce::NONE`] for a new stream.
    pub prev_nonce: Nonce,
}

/// What a put was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutAnswer {
    /// The object was created by this attempt.
    Created,
    /// 412 or 409: something may be there, ours or not, or nothing.
    Exists,
    /// No answer in time, or the store asks for less. The object may have been created, or may be
    /// later.
    Congested,
    /// Any other failure after which the object may have been created.
    Unclear,
    /// The store says no (no permission, no bucket). Retried slowly, since it can heal.
    Refused,
}

/// What the header of a slot was when it was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// A whole header.
    Found(SlotHeader),
    /// Nothing is there.
    Absent,
    /// Something is there, but not a header of this slot.
    Unreadable,
    /// The store did not answer.
    Failed,
}

/// Who ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FencedBy {
    /// A seal: the ordinary way to be fenced.
    Seal(Nonce),
    /// Data of another writer: a stream id was given out twice, or the store breaks I1.
    Writer(Nonce),
    /// Bytes that are no slot of this stream.
    Unreadable,
}

/// What the driver has to do, or to tell.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make one attempt to create the object of `slot`, then call [`StreamWriter::on_put`].
    Put {
        /// The slot.
        slot: Slot,
        /// Its bytes: the same at every attempt (I1).
        object: Vec<Bytes>,
    },
    /// Read the header of `slot`, then call [`StreamWriter::on_read_back`].
    ReadBack {
        /// The slot.
        slot: Slot,
    },
    /// Tell the user of the stream.
    Tell(StreamEvent),
}

/// What a stream tells its user, in the order of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// Every slot up to this one is durable and ours (I2). Told once for each slot, in order.
    Durable {
        /// The slot.
        slot: Slot,
        /// Size of its object in bytes.
        size: u64,
        /// Time since it was submitted.
        took: Duration,
    },
    /// The stream ended at `at`; nothing at or after it counts (I3). The last event.
    Fenced {
        /// The first slot that is lost.
        at: Slot,
        /// By whom.
        by: FencedBy,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put,
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be done as soon as the window has room.
    Ready(Step),
    /// To be done at that time.
    Later(Step, Mono),
    /// Being done.
    Busy(Step),
    /// Durable as far as this slot alone goes.
    Written,
}

/// One slot between its submission and the moment when it is durable.
#[derive(Debug)]
struct Pending {
    slot: Slot,
    nonce: Nonce,
    object: Vec<Bytes>,
    size: u64,
    submitted: Mono,
    state: State,
    failures: u32,
    unreadable: u32,
}

/// The writer is fenced: no slot is given out any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterFenced {
    /// The first slot that is lost, as far as known.
    pub at: Slot,
    /// By whom.
    pub by: FencedBy,
}

/// The writer of one stream.
#[derive(Debug)]
pub struct StreamWriter {
    stream: StreamName,
    /// Every slot below is durable.
    durable: Slot,
    /// The slots from `durable` on, in order, without a gap.
    pending: VecDeque<Pending>,
    last_nonce: Nonce,
    fence: Option<WriterFenced>,
    fence_told: bool,
    window: Window,
}

impl StreamWriter {
    /// A writer that starts at the first slot of `spec`.
    pub fn new(spec: StreamSpec) -> Self {
        Self {
            stream: spec.stream,
            durable: spec.first_slot,
            pending: VecDeque::with_capacity(SLOTS_IN_FLIGHT_MAX),
            last_nonce: spec.prev_nonce,
            fence: None,
            fence_told: false,
            window: Window::new(),
        }
    }

    /// Whether another slot may be submitted now.
    pub fn has_room(&self) -> bool {
        self.pending.len() < SLOTS_IN_FLIGHT_MAX
    }

    /// Whether nothing is left to be resolved.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && (self.fence.is_none() || self.fence_told)
    }

    /// Whether the end of the stream has been told: nothing more will ever happen.
    pub fn is_fenced_for_good(&self) -> bool {
        self.fence_told
    }

    /// Where the stream ended, once that has been seen.
    pub fn fence(&self) -> Option<WriterFenced> {
        self.fence
    }

    /// The end of the durable prefix: every slot below it is durable and ours.
    pub fn durable_end(&self) -> Slot {
        self.durable
    }

    /// Gives `body` the next slot. `nonce` is fresh and random.
    ///
    /// # Errors
    /// [`WriterFenced`] once the stream has been seen to end.
    pub fn submit(
        &mut self,
        body: SlotBody,
        nonce: Nonce,
        now: Mono,
    ) -> Result<Slot, WriterFenced> {
        if let Some(fence) = self.fence {
            return Err(fence);
        }
        assert!(
            self.has_room(),
            "the driver waits for room before it submits"
        );
        assert!(
            nonce != Nonce::NONE,
            "I1: a slot without a nonce cannot be told from others"
        );
        let slot = Slot(self.durable.0 + self.pending.len() as u64);
        let size = body.object_len();
        let object = body.into_object(&self.stream, slot, nonce, self.last_nonce);
        self.last_nonce = nonce;
        self.pending.push_back(Pending {
            slot,
            nonce,
            object,
            size,
            submitted: now,
            state: State::Ready(Step::Put),
            failures: 0,
            unreadable: 0,
        });
        Ok(slot)
    }

    /// The answer to [`Action::Put`].
    pub fn on_put(&mut self, slot: Slot, answer: PutAnswer, now: Mono, luck: u64) {
        let newest = self.newest_on_the_wire(slot);
        let Some(index) = self.index_of(slot) else {
            return;
        };
        let pending = &mut self.pending[index];
        assert!(
            pending.state == State::Busy(Step::Put),
            "I1: slot {slot} was answered without an attempt: {:?}",
            pending.state
        );
        self.window.release(pending.size);
        match answer {
            PutAnswer::Created => {
                pending.state = State::Written;
                self.window.on_created(pending.size);
            }
            PutAnswer::Exists => pending.state = State::Ready(Step::Read),
            PutAnswer::Congested | PutAnswer::Unclear | PutAnswer::Refused => {
                pending.failures = pending.failures.saturating_add(1);
                if answer == PutAnswer::Congested {
                    self.window.on_congestion(slot, newest);
                }
                if answer == PutAnswer::Refused {
                    pending.failures = pending.failures.saturating_add(3);
                }
                let at = now.after(backoff(pending.failures, luck));
                pending.state = State::Later(Step::Read, at);
            }
        }
    }

    /// The answer to [`Action::ReadBack`].
    pub fn on_read_back(&mut self, slot: Slot, found: ReadBack, now: Mono, luck: u64) {
        let Some(index) = self.index_of(slot) else {
            return;
        };
        let pending = &mut self.pending[index];
        assert!(
            matches!(pending.state, State::Busy(Step::Read)),
            "I1: slot {slot} was read back unasked: {:?}",
            pending.state
        );
        let retry = match found {
            ReadBack::Found(header) if header.check_place(&self.stream, slot).is_err() => {
                return self.on_unreadable(index, now, luck);
            }
            ReadBack::Found(header) if header.kind == SlotKind::Seal => {
                return self.fence_at(slot, FencedBy::Seal(header.nonce));
            }
            ReadBack::Found(header) if header.nonce != pending.nonce => {
                return self.fence_at(slot, FencedBy::Writer(header.nonce));
            }
            ReadBack::Found(_) => {
                pending.state = State::Written;
                return;
            }
            ReadBack::Unreadable => return self.on_unreadable(index, now, luck),
            ReadBack::Absent => Step::Put,
            ReadBack::Failed => Step::Read,
        };
        // The first put after an absence goes at once: the pause was before the read.
        let again = pending.failures == 0 || retry == Step::Read;
        pending.failures = pending.failures.saturating_add(1);
        pending.state = if again {
            State::Later(retry, now.after(backoff(pending.failures, luck)))
        } else {
            State::Ready(retry)
        };
    }

    fn on_unreadable(&mut self, index: usize, now: Mono, luck: u64) {
        let pending = &mut self.pending[index];
        pending.unreadable += 1;
        pending.failures = pending.failures.saturating_add(1);
        if pending.unreadable >= UNREADABLE_MAX {
            let slot = pending.slot;
            return self.fence_at(slot, FencedBy::Unreadable);
        }
        pending.state = State::Later(Step::Read, now.after(backoff(pending.failures, luck)));
    }

    /// The stream ends at `at` or below it. What lies below is still resolved: a wall decides
    /// nothing until every slot below it is filled.
    fn fence_at(&mut self, at: Slot, by: FencedBy) {
        assert!(
            at >= self.durable,
            "I1: slot {at} was durable and is now {by:?}"
        );
        if self.fence.is_none_or(|fence| at < fence.at) {
            self.fence = Some(WriterFenced { at, by });
        }
        while self.pending.back().is_some_and(|last| last.slot >= at) {
            if let Some(lost) = self.pending.pop_back()
                && matches!(lost.state, State::Busy(Step::Put))
            {
                self.window.release(lost.size);
            }
        }
    }

    /// The next thing to do or to tell, until there is none.
    pub fn poll(&mut self, now: Mono) -> Option<Action> {
        if let Some(front) = self.pending.front()
            && front.state == State::Written
        {
            let (slot, size, took) = (front.slot, front.size, now.since(front.submitted));
            return Some(self.advance(slot, size, took));
        }
        if let Some(fence) = self.fence
            && self.pending.is_empty()
            && !self.fence_told
        {
            assert!(
                fence.at == self.durable,
                "I2: the fence ends the durable prefix"
            );
            self.fence_told = true;
            let (at, by) = (fence.at, fence.by);
            return Some(Action::Tell(StreamEvent::Fenced { at, by }));
        }
        self.poll_steps()
    }

    fn advance(&mut self, slot: Slot, size: u64, took: Duration) -> Action {
        assert!(
            slot == self.durable,
            "I2: the durable prefix grows slot by slot"
        );
        assert!(
            self.fence.is_none_or(|fence| slot < fence.at),
            "I3: slot {slot} lies at or after the end of the stream"
        );
        self.pending.pop_front();
        self.durable = slot.next();
        Action::Tell(StreamEvent::Durable { slot, size, took })
    }

    fn poll_steps(&mut self) -> Option<Action> {
        let window = &mut self.window;
        let mut puts_blocked = false;
        for pending in &mut self.pending {
            match pending.state {
                State::Ready(Step::Read) => {
                    pending.state = State::Busy(Step::Read);
                    return Some(Action::ReadBack { slot: pending.slot });
                }
                // The lowest slot goes first: everything above waits for it anyway.
                State::Ready(Step::Put) if !puts_blocked => {
                    if window.admit(pending.size) {
                        pending.state = State::Busy(Step::Put);
                        return Some(Action::Put {
                            slot: pending.slot,
                            object: pending.object.clone(),
                        });
                    }
                    puts_blocked = true;
                }
                _ => {}
            }
        }
        None
    }

    /// When [`StreamWriter::on_timeout`] has something to do, if ever.
    pub fn next_timeout(&self) -> Option<Mono> {
        let due = |pending: &Pending| match pending.state {
            State::Later(_, at) => Some(at),
            _ => None,
        };
        self.pending.iter().filter_map(due).min()
    }

    /// Makes every pause that is over into something to do.
    pub fn on_timeout(&mut self, now: Mono) {
        for pending in &mut self.pending {
            if let State::Later(step, at) = pending.state
                && at <= now
            {
                pending.state = State::Ready(step);
            }
        }
    }

    /// Where `slot` stands in `pending`; `None` once it has been given up after a fence.
    fn index_of(&self, slot: Slot) -> Option<usize> {
        assert!(
            slot >= self.durable,
            "I1: slot {slot} was durable and is answered again"
        );
        let index = usize::try_from(slot.0 - self.durable.0).ok()?;
        assert!(
            index < self.pending.len() || self.fence.is_some(),
            "I1: slot {slot} was never submitted"
        );
        (index < self.pending.len()).then_some(index)
    }

    fn newest_on_the_wire(&self, slot: Slot) -> Slot {
        let busy = |pending: &&Pending| matches!(pending.state, State::Busy(Step::Put));
        let newest = self.pending.iter().rev().find(busy);
        newest.map_or(slot, |pending| pending.slot)
    }
}

#[cfg(test)]
mod tests;
