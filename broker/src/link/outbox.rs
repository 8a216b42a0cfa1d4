//! What waits to be sent over one link, and what goes next. Pure.
//!
//! A beat goes first. Then whole requests or replies, the parts of one that is long, and pictures or
//! pieces of the journal take turns, frame by frame, so that none of them keeps the others.

use std::collections::VecDeque;

use bytes::Bytes;
use firn_proto::limits::{
    LINK_CALLS_MAX, LINK_PART_BYTES_MAX, LINK_QUEUE_BYTES_MAX, LINK_QUEUE_MAX,
};
use firn_proto::link::{CallPart, Message};

/// Which side's calls go out here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// Requests.
    Asked,
    /// Replies.
    Answered,
    /// Questions to an owner.
    Looks,
    /// Its answers.
    Sights,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    calls: Calls,
    beat: Option<Message>,
    short: VecDeque<Waiting>,
    long: VecDeque<Waiting>,
    update: Option<Message>,
    /// Questions that have gone and whose answers nobody wants any more: each under way once at most.
    forgotten: VecDeque<u64>,
    turn: Turn,
    /// What goes last.
    end: Option<Message>,
    /// Of all calls that wait.
    bytes: usize,
}

/// A request or a reply, or what is left of it.
#[derive(Debug)]
struct Waiting {
    call: u64,
    bytes: Bytes,
}

/// Who went last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Short,
    Long,
    Update,
}

/// So much waits already that a call has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Outbox {
    /// With nothing in it.
    pub(super) fn new(calls: Calls) -> Self {
        Self {
            calls,
            beat: None,
            short: VecDeque::new(),
            long: VecDeque::new(),
            update: None,
            forgotten: VecDeque::new(),
            turn: Turn::Update,
            end: None,
            bytes: 0,
        }
    }

    /// Takes a beat; one that has not gone yet says nothing more.
    pub(super) fn beat(&mut self, beat: Message) {
        self.beat = Some(beat);
    }

    /// Takes a request or a reply. One always fits.
    pub(super) fn call(&mut self, call: u64, bytes: Bytes) -> Result<(), Full> {
        let has_room = bytes.len() <= LINK_QUEUE_BYTES_MAX.saturating_sub(self.bytes);
        if self.waiting() > 0 && (!has_room || self.waiting() >= LINK_CALLS_MAX) {
            return Err(Full);
        }
        self.bytes += bytes.len();
        let queue = match bytes.len() > LINK_PART_BYTES_MAX {
            true => &mut self.long,
            false => &mut self.short,
        };
        queue.push_back(Waiting { call, bytes });
        Ok(())
    }

    /// Takes a short reply, for which there is room as long as the other side reads some of them.
    pub(super) fn refuse(&mut self, call: u64, bytes: Bytes) -> Result<(), Full> {
        if self.waiting() >= LINK_QUEUE_MAX {
            return Err(Full);
        }
        self.bytes += bytes.len();
        self.short.push_back(Waiting { call, bytes });
        Ok(())
    }

    /// Nobody wants the answer to a question any more. Whether it has not gone yet, and never will; else
    /// the other side is told. Questions go in one part.
    pub(super) fn forget(&mut self, call: u64) -> bool {
        let at = self.short.iter().position(|waiting| waiting.call == call);
        let withdrawn = at.and_then(|at| self.short.remove(at));
        match &withdrawn {
            Some(question) => self.bytes -= question.bytes.len(),
            None => self.forgotten.push_back(call),
        }
        withdrawn.is_some()
    }

    /// Requests or replies that wait.
    pub(super) fn waiting(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Whether the last picture, or piece of the journal, has gone.
    pub(super) fn wants_update(&self) -> bool {
        self.update.is_none()
    }

    /// Takes one.
    pub(super) fn update(&mut self, update: Message) {
        debug_assert!(self.wants_update(), "one waits at a time");
        self.update = Some(update);
    }

    /// Takes the last word: nothing that waits goes before it.
    pub(super) fn end(&mut self, word: Message) {
        self.end = Some(word);
    }

    /// Whether a message is the last word, after which nothing goes.
    pub(super) fn is_end(message: &Message) -> bool {
        matches!(message, Message::Refused(_))
    }

    /// What goes next.
    pub(super) fn next(&mut self) -> Option<Message> {
        if let Some(end) = self.end.take() {
            return Some(end);
        }
        if let Some(beat) = self.beat.take() {
            return Some(beat);
        }
        if let Some(call) = self.forgotten.pop_front() {
            return Some(Message::Forget(call));
        }
        for _ in 0..3 {
            self.turn = match self.turn {
                Turn::Update => Turn::Short,
                Turn::Short => Turn::Long,
                Turn::Long => Turn::Update,
            };
            let next = match self.turn {
                Turn::Short => self.next_short(),
                Turn::Long => self.next_part(),
                Turn::Update => self.update.take(),
            };
            if next.is_some() {
                return next;
            }
        }
        None
    }

    fn next_short(&mut self) -> Option<Message> {
        let Waiting { call, mut bytes } = self.short.pop_front()?;
        Some(self.part(CallPart::split_from(call, &mut bytes)))
    }

    fn next_part(&mut self) -> Option<Message> {
        let long = self.long.front_mut()?;
        let part = CallPart::split_from(long.call, &mut long.bytes);
        if !part.more {
            self.long.pop_front();
        }
        Some(self.part(part))
    }

    fn part(&mut self, part: CallPart) -> Message {
        self.bytes -= part.bytes.len();
        match self.calls {
            Calls::Asked => Message::Call(part),
            Calls::Answered => Message::Answer(part),
            Calls::Looks => Message::Look(part),
            Calls::Sights => Message::Seen(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::cluster::{Beat, ImageUpdate, Part};
    use firn_proto::env::Mono;
    use firn_proto::limits::LINK_MESSAGE_BYTES_MAX;
    use firn_proto::link::Kind;

    use super::*;

    fn beat(sent: u64) -> Message {
        Message::Beat(Beat {
            broker: None,
            sent: Mono(sent),
            reads: false,
            journal: None,
        })
    }

    fn update() -> Message {
        let part = Part {
            at: 0,
            len: 0,
            bytes: Vec::new(),
        };
        Message::Image(ImageUpdate { base: None, part })
    }

    /// What goes out: kinds, and of calls which.
    fn sent(outbox: &mut Outbox) -> Option<(Kind, Option<u64>)> {
        let message = outbox.next()?;
        let call = match &message {
            Message::Call(part) | Message::Answer(part) => Some(part.call),
            _ => None,
        };
        Some((message.kind(), call))
    }

    #[test]
    fn a_beat_waits_for_no_more_than_the_frame_that_is_being_sent() {
        let mut outbox = Outbox::new(Calls::Answered);
        outbox
            .call(1, vec![0; 10 * LINK_PART_BYTES_MAX].into())
            .unwrap();
        outbox.update(update());
        assert!(outbox.next().is_some());
        outbox.beat(beat(1));
        outbox.beat(beat(2));
        assert_eq!(outbox.next(), Some(beat(2)), "and of two the later goes");
        assert_ne!(sent(&mut outbox).unwrap().0, Kind::Beat);
    }

    #[test]
    fn short_calls_long_ones_and_pictures_take_turns() {
        let mut outbox = Outbox::new(Calls::Answered);
        outbox
            .call(1, vec![0; 2 * LINK_PART_BYTES_MAX].into())
            .unwrap();
        outbox
            .call(2, vec![0; 2 * LINK_PART_BYTES_MAX].into())
            .unwrap();
        outbox.call(3, Bytes::new()).unwrap();
        outbox.call(4, Bytes::from_static(b"short")).unwrap();
        outbox.update(update());
        assert!(!outbox.wants_update());
        let order: Vec<_> = std::iter::from_fn(|| sent(&mut outbox)).collect();
        let answer = |call| (Kind::Answer, Some(call));
        let expected = [
            answer(3),
            answer(1),
            (Kind::Image, None),
            answer(4),
            answer(1),
            answer(2),
            answer(2),
        ];
        assert_eq!(order, expected);
        assert!(outbox.wants_update());
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn whoever_reads_no_answers_is_not_answered_for_ever() {
        let mut outbox = Outbox::new(Calls::Answered);
        let mut calls = 0..;
        let answers = calls.by_ref().take_while(|call| {
            let taken = outbox.call(*call, Bytes::from_static(b"yes"));
            taken.is_ok()
        });
        assert_eq!(answers.count(), LINK_CALLS_MAX);
        let refusals = calls.by_ref().take_while(|call| {
            let taken = outbox.refuse(*call, Bytes::from_static(b"no"));
            taken.is_ok()
        });
        assert_eq!(refusals.count(), LINK_QUEUE_MAX - LINK_CALLS_MAX);
        assert!(matches!(outbox.next(), Some(Message::Answer(_))));
        assert_eq!(outbox.refuse(0, Bytes::new()), Ok(()));
        assert_eq!(outbox.refuse(0, Bytes::new()), Err(Full));
    }

    #[test]
    fn a_question_that_nobody_wants_answered_does_not_go_or_is_taken_back() {
        let mut outbox = Outbox::new(Calls::Looks);
        outbox.call(1, Bytes::from_static(b"one")).unwrap();
        outbox.call(2, Bytes::from_static(b"two")).unwrap();
        outbox.call(3, Bytes::from_static(b"three")).unwrap();
        assert!(matches!(outbox.next(), Some(Message::Look(part)) if part.call == 1));
        assert!(outbox.forget(2), "it waits still");
        assert!(!outbox.forget(1), "it has gone");
        assert_eq!(outbox.next(), Some(Message::Forget(1)));
        assert!(matches!(outbox.next(), Some(Message::Look(part)) if part.call == 3));
        assert_eq!((outbox.next(), outbox.bytes), (None, 0));
    }

    #[test]
    fn no_more_waits_than_is_allowed() {
        let mut outbox = Outbox::new(Calls::Asked);
        let longest = Bytes::from(vec![0; LINK_MESSAGE_BYTES_MAX]);
        let mut taken = 0;
        while outbox.call(taken, longest.clone()).is_ok() {
            taken += 1;
        }
        assert_eq!(
            taken as usize,
            LINK_QUEUE_BYTES_MAX / LINK_MESSAGE_BYTES_MAX
        );
        assert_eq!(outbox.call(taken, Bytes::from_static(b"x")), Err(Full));
        assert!(matches!(outbox.next(), Some(Message::Call(_))));
        assert_eq!(outbox.call(taken, Bytes::from_static(b"x")), Ok(()));
    }
}
