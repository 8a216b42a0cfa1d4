//! The right of a follower to be read, which each beat of the leader gives it: from when it has the
//! picture that the leader had then. Without that it may not know what the leader has told others,
//! for one that it was taken for dead and its partitions have other owners. Pure.

use std::collections::VecDeque;

use firn_proto::env::Mono;
use firn_proto::limits::{BEAT_INTERVAL, FENCE_LOOK_LASTS};

/// What one beat is worth, by the follower's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    /// The version of the picture without which it is worth nothing.
    pub(crate) picture: u64,
    /// When the beat was sent that the leader has answered.
    pub(crate) asked: Mono,
    /// Nobody else led then; `None`: the leader does not know.
    pub(crate) alone: Option<Mono>,
}

/// Credits whose pictures are still on their way, in the order of their beats.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    waiting: VecDeque<Credit>,
}

impl Credits {
    /// A beat came.
    pub(crate) fn on_beat(&mut self, credit: Credit) {
        if self.waiting.len() >= CREDITS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(credit);
    }

    /// The last one that is worth something now that the follower has the picture of that version.
    pub(crate) fn take(&mut self, picture: u64) -> Option<Credit> {
        let mut last = None;
        while let Some(credit) = self
            .waiting
            .pop_front_if(|credit| credit.picture <= picture)
        {
            last = Some(credit);
        }
        last
    }
}

/// As many as come while the oldest of them is of use.
const CREDITS_MAX: usize = 32;
const _: () = assert!(
    BEAT_INTERVAL.as_millis() * (CREDITS_MAX as u128) > FENCE_LOOK_LASTS.as_millis(),
    "a credit that is dropped has run out"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn credit(picture: u64) -> Credit {
        let at = Mono(picture * 10);
        Credit {
            picture,
            asked: at,
            alone: Some(at),
        }
    }

    #[test]
    fn a_beat_is_worth_nothing_before_its_picture_is_there() {
        let mut credits = Credits::default();
        credits.on_beat(credit(4));
        assert_eq!(credits.take(3), None);
        for beat in [5, 5, 7] {
            credits.on_beat(credit(beat));
        }
        assert_eq!(credits.take(6), Some(credit(5)), "the last that it reaches");
        assert_eq!(credits.take(6), None, "each counts once");
        assert_eq!(credits.take(9), Some(credit(7)));
    }

    #[test]
    fn no_more_are_kept_than_may_be_of_use() {
        let mut credits = Credits::default();
        for beat in 0..1000 {
            credits.on_beat(credit(beat));
        }
        assert_eq!(credits.waiting.len(), CREDITS_MAX);
        assert_eq!(credits.take(u64::MAX), Some(credit(999)));
    }
}
