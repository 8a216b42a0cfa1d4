//! When a leader looks whether another one has claimed a later epoch, and what it concludes
//!. Pure; the loop in `task.rs` does the looking.
//!
//! A leader that has something to put is fenced by its put. One that is idle is not, and would
//! answer reads for ever; so it looks. A bucket that does not answer changes nothing: whoever
//! claims an epoch needs it as well, and what is in memory stays readable in an outage.

use firn_proto::env::Mono;
use firn_proto::ids::CoordinatorEpoch;
use firn_proto::limits::FENCE_LOOK_INTERVAL;

/// The looks of one leader.
#[derive(Debug)]
pub(crate) struct FenceWatch {
    /// When the next look is due, if none is under way.
    due: Option<Mono>,
    /// When the look that is under way was sent, or the last one.
    sent: Mono,
    unanswered: bool,
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
}

/// What the leader does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It leads on, and what it knew when the look was sent may be read.
    LeadOn {
        /// When that was.
        looked_at: Mono,
        /// Whether the bucket answers no longer, or answers again.
        changed: Option<Answering>,
    },
    /// It resigns.
    Resign(CoordinatorEpoch),
}

/// Whether the bucket answers looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    /// Not any more.
    No,
    /// Again.
    Again,
}

impl FenceWatch {
    /// The watch of a leader whose own claim was the newest at `now`.
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            due: Some(now.after(FENCE_LOOK_INTERVAL)),
            sent: now,
            unanswered: false,
        }
    }

    /// When the next look is due; none while one is under way.
    pub(crate) fn due(&self) -> Option<Mono> {
        self.due
    }

    /// Somebody waits for a look: the next one is due at once.
    pub(crate) fn hurry(&mut self, now: Mono) {
        self.due = self.due.map(|due| due.min(now));
    }

    /// A look is sent.
    pub(crate) fn on_sent(&mut self, now: Mono) {
        assert!(self.due.is_some(), "one look at a time");
        self.due = None;
        self.sent = now;
    }

    /// The look that was sent is over.
    pub(crate) fn on_seen(&mut self, seen: Seen) -> Verdict {
        let unanswered = match seen {
            Seen::Newer(newer) => return Verdict::Resign(newer),
            Seen::Nothing => false,
            Seen::NoAnswer => true,
        };
        let changed = match (self.unanswered, unanswered) {
            (false, true) => Some(Answering::No),
            (true, false) => Some(Answering::Again),
            _ => None,
        };
        self.unanswered = unanswered;
        self.due = Some(self.sent.after(FENCE_LOOK_INTERVAL));
        Verdict::LeadOn {
            looked_at: self.sent,
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
                looked_at: second(105),
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
            let Verdict::LeadOn { looked_at, changed } = watch.on_seen(seen) else {
                panic!("{seen:?} ends nothing")
            };
            assert_eq!(looked_at, second(at));
            told.push(changed);
        }
        assert_eq!(
            told,
            [Some(Answering::No), None, Some(Answering::Again), None]
        );
    }
}
