//! When a leader looks whether another one has claimed a later epoch, and what it concludes: the
//! read lease. Pure; the loop in `task.rs` does the looking.
//!
//! A leader that has something to put is fenced by its put. One that is idle, or cut off from the
//! bucket, is not, and would answer reads for ever; so it looks, and answers reads of its own state
//! for [`COORDINATOR_READ_LEASE`] after the sending of the last look that said that nobody else
//! leads. Its successor waits for as long before it answers anything. Records, and all that followers
//! tell from what the leader told them, is read for [`FENCE_LOOK_LASTS`]: less than the session of a
//! broker, which begins anew with each leader, so that a broker that lost its partitions has
//! stopped before another one serves them.
//! Whatever else a look brings, no answer or a refusal, draws that out no further: the bucket may
//! be away for this process alone, and serve its successor.
//!
//! In an outage that hits everybody this ends reads that would do no harm. Little is lost by that,
//! for no new record becomes visible then and no offset can be committed; and it cannot be told
//! from a successor that has put members out and moves on, whose partitions and groups would be
//! seen here as they were for as long as this process runs.

use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::CoordinatorEpoch;
use firn_proto::limits::{
    COORDINATOR_READ_LEASE, FENCE_LOOK_AGAIN, FENCE_LOOK_INTERVAL, FENCE_LOOK_LASTS,
    FENCE_LOOK_PAUSE,
};

/// What the looks of this process say, whichever leader sent them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// When the last look was sent that is over.
    sent: Mono,
    /// When the last one was sent that said that nobody else leads.
    alone: Mono,
}

impl Looked {
    /// Nobody else led at `now`.
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            sent: now,
            alone: now,
        }
    }

    /// The look that was sent at `sent` is over.
    pub(crate) fn on_seen(&mut self, sent: Mono, seen: Seen) {
        self.sent = self.sent.max(sent);
        if seen == Seen::Nothing {
            self.alone = self.alone.max(sent);
        }
    }

    /// How long ago the last look was sent that said that nobody else leads.
    pub(crate) fn alone_age(&self, now: Mono) -> Duration {
        now.since(self.alone)
    }

    /// Whether the bucket has not said for long that nobody else leads, though it was asked: a process
    /// that stood still asks first.
    pub(crate) fn is_blind(&self, now: Mono) -> bool {
        self.sent > self.alone && self.alone_age(now) > FENCE_LOOK_LASTS
    }

    /// Whether the leader may answer at `now` from what it has in memory.
    pub(crate) fn is_leased(&self, now: Mono) -> bool {
        self.alone_age(now) <= COORDINATOR_READ_LEASE
    }

    /// Whether what this process knows may be read at `now`; `None`: it must look first.
    pub(crate) fn may_read(&self, now: Mono) -> Option<bool> {
        if is_recent(self.alone, now) {
            return Some(true);
        }
        is_recent(self.sent, now).then_some(false)
    }
}

fn is_recent(look: Mono, now: Mono) -> bool {
    now.since(look) <= FENCE_LOOK_LASTS
}

/// The looks of one leader.
#[derive(Debug)]
pub(crate) struct FenceWatch {
    /// When the next look is due, if none is under way.
    due: Option<Mono>,
    /// When the look that is under way was sent, or the last one.
    sent: Mono,
    answering: Answering,
}

/// What a look brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nobody has claimed the next epoch.
    Nothing,
    /// Somebody has.
    Newer(CoordinatorEpoch),
    /// The bucket did not say.
    NoAnswer,
    /// The bucket answers, but will not tell this process.
    Refused,
}

/// What the leader does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It leads on.
    LeadOn {
        /// When the look was sent.
        sent: Mono,
        /// How the bucket answers now, if that is new.
        changed: Option<Answering>,
    },
    /// It resigns.
    Resign(CoordinatorEpoch),
}

/// Whether the bucket answers looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It refuses them.
    Refused,
}

impl FenceWatch {
    /// The watch of a leader whose own claim was the newest at `now`.
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            due: Some(now.after(FENCE_LOOK_INTERVAL)),
            sent: now,
            answering: Answering::Yes,
        }
    }

    /// When the next look is due; none while one is under way.
    pub(crate) fn due(&self) -> Option<Mono> {
        self.due
    }

    /// Somebody waits for a look: the next one is due at once, but for a pause after the last.
    pub(crate) fn hurry(&mut self, now: Mono) {
        let soon = self.sent.after(FENCE_LOOK_PAUSE).max(now);
        self.due = self.due.map(|due| due.min(soon));
    }

    /// A look is sent.
    pub(crate) fn on_sent(&mut self, now: Mono) {
        assert!(self.due.is_some(), "one look at a time");
        self.due = None;
        self.sent = now;
    }

    /// The look that was sent is over.
    pub(crate) fn on_seen(&mut self, seen: Seen) -> Verdict {
        let answering = match seen {
            Seen::Newer(newer) => return Verdict::Resign(newer),
            Seen::Nothing => Answering::Yes,
            Seen::NoAnswer => Answering::No,
            Seen::Refused => Answering::Refused,
        };
        let changed = (self.answering != answering).then_some(answering);
        self.answering = answering;
        let next = match answering {
            Answering::Yes => FENCE_LOOK_INTERVAL,
            Answering::No | Answering::Refused => FENCE_LOOK_AGAIN,
        };
        self.due = Some(self.sent.after(next));
        Verdict::LeadOn {
            sent: self.sent,
            changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(s: u64) -> Mono {
        Mono(s * 1_000_000)
    }

    #[test]
    fn one_look_is_under_way_at_a_time_and_the_next_counts_from_its_sending() {
        let mut watch = FenceWatch::new(second(100));
        assert_eq!(watch.due(), Some(second(100).after(FENCE_LOOK_INTERVAL)));
        watch.on_sent(second(105));
        assert_eq!(watch.due(), None);
        watch.hurry(second(106));
        assert_eq!(watch.due(), None, "the one under way will do");
        assert_eq!(
            watch.on_seen(Seen::Nothing),
            Verdict::LeadOn {
                sent: second(105),
                changed: None
            }
        );
        assert_eq!(watch.due(), Some(second(105).after(FENCE_LOOK_INTERVAL)));
    }

    #[test]
    fn whoever_waits_for_a_look_gets_one_at_once() {
        let mut watch = FenceWatch::new(second(0));
        watch.hurry(second(1));
        assert_eq!(watch.due(), Some(second(1)));
        watch.on_sent(second(1));
        watch.on_seen(Seen::Nothing);
        watch.hurry(second(1));
        let pause = second(1).after(FENCE_LOOK_PAUSE);
        assert_eq!(watch.due(), Some(pause), "but not without end");
    }

    #[test]
    fn a_later_epoch_ends_this_one() {
        let mut watch = FenceWatch::new(second(0));
        watch.on_sent(second(5));
        let newer = CoordinatorEpoch(9);
        assert_eq!(watch.on_seen(Seen::Newer(newer)), Verdict::Resign(newer));
    }

    #[test]
    fn a_bucket_that_does_not_answer_ends_nothing_and_is_told_of_once() {
        let mut watch = FenceWatch::new(second(0));
        let mut told = Vec::new();
        let looks = [Seen::NoAnswer, Seen::NoAnswer, Seen::Nothing, Seen::Nothing];
        for (seen, at) in looks.into_iter().zip(1..) {
            watch.on_sent(second(at));
            let Verdict::LeadOn { sent, changed } = watch.on_seen(seen) else {
                panic!("{seen:?} ends nothing")
            };
            assert_eq!(sent, second(at));
            let next = match seen {
                Seen::Nothing => FENCE_LOOK_INTERVAL,
                _ => FENCE_LOOK_AGAIN,
            };
            assert_eq!(watch.due(), Some(second(at).after(next)));
            told.push(changed);
        }
        assert_eq!(
            told,
            [Some(Answering::No), None, Some(Answering::Yes), None]
        );
    }

    #[test]
    fn reads_end_some_seconds_after_the_last_look_that_was_answered() {
        for unanswered in [Seen::NoAnswer, Seen::Refused] {
            let mut looked = Looked::new(second(0));
            looked.on_seen(second(5), Seen::Nothing);
            for at in (10..3600).step_by(5) {
                let may_read = second(at).since(second(5)) <= FENCE_LOOK_LASTS;
                assert_eq!(looked.may_read(second(at)), Some(may_read), "{at} s");
                looked.on_seen(second(at), unanswered);
            }
            looked.on_seen(second(3600), Seen::Nothing);
            assert_eq!(looked.may_read(second(3600)), Some(true));
        }
    }

    #[test]
    fn only_whoever_has_asked_in_vain_is_blind() {
        let mut looked = Looked::new(second(0));
        assert!(!looked.is_blind(second(60)), "it has stood still");
        looked.on_seen(second(60), Seen::NoAnswer);
        assert!(looked.is_blind(second(61)));
        looked.on_seen(second(61), Seen::Nothing);
        assert!(!looked.is_blind(second(66)));
        looked.on_seen(second(66), Seen::Refused);
        assert!(!looked.is_blind(second(66)), "not for long");
        assert!(looked.is_blind(second(67)));
    }

    #[test]
    fn no_answer_says_nothing_to_a_process_that_stood_still() {
        let mut looked = Looked::new(second(0));
        assert_eq!(looked.may_read(second(60)), None, "it must look first");
        looked.on_seen(second(5), Seen::NoAnswer);
        assert_eq!(looked.may_read(second(60)), None, "that one is old");
        for at in [60, 65, 70] {
            looked.on_seen(second(at), Seen::NoAnswer);
            assert_eq!(looked.may_read(second(at)), Some(false));
        }
        looked.on_seen(second(75), Seen::Nothing);
        assert_eq!(looked.may_read(second(75)), Some(true));
    }
}
