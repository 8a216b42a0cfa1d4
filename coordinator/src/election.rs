//! What a process does that has no leader: looks for the newest claim, links to whoever made it, asks
//! the others, campaigns for the next epoch, or waits. Pure; `seat.rs` does it.
//!
//! That two lead at a time is for the bucket to prevent, which has one winner for each epoch. This is
//! about the rest: that somebody leads soon, and that nobody deposes a leader that is well because his
//! own link is not. So a process campaigns only if none of those that it reaches has heard the leader
//! lately, and if they are, with itself, a majority of those that are not known to be dead. Whoever
//! claimed an epoch and died is passed over in the same way. If all others refuse the connection,
//! there is nobody to ask.
//!
//! A process that refuses this one lives, whatever it leads. One that refuses it as unregistered may
//! be right: a leader deletes the card of whoever it has taken for dead. So a card that still lies in
//! the bucket after long shows the other way round that nobody leads, however many are silent that
//! may have been gone for long.

use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::CoordinatorEpoch;
use firn_proto::limits::{
    BEAT_SILENCE, ELECTION_LONE_WAIT, ELECTION_RETRY_LED_MAX, ELECTION_RETRY_MAX,
    ELECTION_RETRY_MIN, ELECTION_TIE_WAIT, FENCE_LOOK_AGAIN, TAKE_OVER_DOUBLED_MAX,
    TAKE_OVER_STEP_MAX,
};

use crate::peers::{PeerAnswer, PeerError};

/// Who made the newest claim, as far as this process knows without asking anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This process, which does not lead.
    Own,
    /// A process that is gone for certain.
    Gone,
    /// Another process.
    Other,
    /// It cannot be read who did.
    Unknown,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Look for the newest claim.
    Look,
    /// Link to the process that made it.
    Follow,
    /// Ask all other processes whether they have heard a leader lately.
    AskAll,
    /// See whether the card of this process still lies in the bucket. Without one it is to end.
    LookForCard,
    /// Claim the epoch after this one.
    Campaign {
        /// The newest one that is claimed; 0 if none.
        after: CoordinatorEpoch,
    },
    /// Do nothing for a while.
    Wait {
        /// Until then.
        until: Mono,
    },
}

/// The way of one process to its next leader.
#[derive(Debug)]
pub(crate) struct Election {
    step: Step,
    newest: CoordinatorEpoch,
    /// The newest claim when it began.
    first: Option<CoordinatorEpoch>,
    began: Mono,
    retries: u32,
    /// For how long a leader waits for a broker that it does not hear.
    session: Duration,
    /// Whoever made the newest claim lives, and refuses this process.
    is_refused: bool,
    /// Nobody has been heard for so long that a card in the bucket shows that nobody leads.
    is_lone: bool,
}

impl Election {
    /// There is no leader at `now`. One would wait for `session` before it takes a broker for dead.
    pub(crate) fn new(now: Mono, session: Duration) -> Self {
        Self {
            step: Step::Look,
            newest: CoordinatorEpoch(0),
            first: None,
            began: now,
            retries: 0,
            session,
            is_refused: false,
            is_lone: false,
        }
    }

    /// What to do next.
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// The newest claim is that one, or there is none.
    pub(crate) fn on_claim(&mut self, claim: Option<(CoordinatorEpoch, Holder)>) {
        let newest = claim.map_or(CoordinatorEpoch(0), |(epoch, _)| epoch);
        if newest != self.newest {
            // Another process to wait for, which may be there at once.
            self.retries = 0;
        }
        self.newest = newest;
        self.first.get_or_insert(newest);
        self.is_refused = false;
        self.step = match claim {
            None | Some((_, Holder::Own | Holder::Gone)) => self.campaign(),
            Some((_, Holder::Other)) => Step::Follow,
            Some((_, Holder::Unknown)) => Step::AskAll,
        };
    }

    /// How long others wait for each step of this process if it takes over: as often as one was given
    /// up that had claimed an epoch, twice as long. Else a bucket, or a journal, that takes longer for a
    /// step than anybody waits would have one winner after the other, and no leader.
    pub(crate) fn patience(&self) -> Duration {
        let first = self.first.unwrap_or(self.newest);
        let given_up = self.newest.0.saturating_sub(first.0);
        let doubled = u32::try_from(given_up).unwrap_or(u32::MAX);
        TAKE_OVER_STEP_MAX * (1 << doubled.min(TAKE_OVER_DOUBLED_MAX))
    }

    /// The bucket does not say what the newest claim is, or does not take one.
    pub(crate) fn on_no_bucket(&mut self, now: Mono, random: u64) {
        self.wait(FENCE_LOOK_AGAIN, now, random);
    }

    /// There is no link to whoever made the newest claim.
    pub(crate) fn on_no_link(&mut self, error: &PeerError) {
        self.is_refused = matches!(error, PeerError::Rejected(_));
        self.is_lone = false;
        self.step = match error {
            PeerError::Unregistered => Step::LookForCard,
            // It may be dead, cut off from this process alone, taking over just now, or another
            // process that has its place: the others know, and itself, if it lives.
            PeerError::Refused
            | PeerError::Another
            | PeerError::NoAnswer
            | PeerError::NotLeading
            | PeerError::Busy
            | PeerError::Rejected(_) => Step::AskAll,
        };
    }

    /// What all others have heard.
    pub(crate) fn on_answers(&mut self, answers: &[PeerAnswer], now: Mono, random: u64) {
        let mut heard = answers.iter().filter_map(|answer| match answer {
            PeerAnswer::Heard { epoch, ago } if *ago <= BEAT_SILENCE => Some(*epoch),
            _ => None,
        });
        let is_led = heard.any(|heard| heard >= self.newest);
        // Who leads, or is about to, has heard itself just now; who follows, a while ago.
        let follows = |answer: &PeerAnswer| match answer {
            PeerAnswer::Heard { epoch, ago } => {
                *epoch == self.newest && !ago.is_zero() && *ago <= BEAT_SILENCE
            }
            _ => false,
        };
        let is_followed = answers.iter().any(follows);
        let refuses = |answer: &PeerAnswer| matches!(answer, PeerAnswer::Refuses);
        let lone_at = self.began.after(ELECTION_LONE_WAIT + self.session);
        self.is_lone = now >= lone_at && !answers.iter().any(refuses);
        if answers.contains(&PeerAnswer::Unregistered) {
            self.is_lone = false;
            self.step = Step::LookForCard;
        } else if is_followed || self.is_refused {
            self.retry_within(ELECTION_RETRY_LED_MAX, now, random);
        } else if is_led {
            self.retry(now, random);
        } else if self.may_campaign(answers, now) {
            self.step = self.campaign();
        } else if self.is_lone {
            self.step = Step::LookForCard;
        } else {
            self.retry(now, random);
        }
    }

    /// The card of this process lies in the bucket, or it is not known whether it does.
    pub(crate) fn on_card(&mut self, is_there: bool, now: Mono, random: u64) {
        if is_there && self.is_lone {
            self.step = self.campaign();
        } else {
            self.retry(now, random);
        }
    }

    /// Whether those that are reached, with this process, are enough of those that may live.
    fn may_campaign(&self, answers: &[PeerAnswer], now: Mono) -> bool {
        let count = |counts: fn(&PeerAnswer) -> bool| answers.iter().filter(|a| counts(a)).count();
        let gone = count(|answer| matches!(answer, PeerAnswer::Refused));
        let heard = |answer: &PeerAnswer| match answer {
            PeerAnswer::Heard { .. } | PeerAnswer::NotHeard => true,
            PeerAnswer::Refused
            | PeerAnswer::NoAnswer
            | PeerAnswer::Refuses
            | PeerAnswer::Unregistered => false,
        };
        let told = count(heard);
        let (reached, unknown) = (1 + told, answers.len() - gone - told);
        let is_late = now.since(self.began) >= ELECTION_TIE_WAIT;
        reached > unknown || (reached == unknown && is_late)
    }

    /// It is for others to campaign.
    pub(crate) fn on_left_to_others(&mut self, now: Mono, random: u64) {
        self.retry(now, random);
    }

    /// Another process has claimed the epoch.
    pub(crate) fn on_beaten(&mut self) {
        self.step = Step::Look;
    }

    /// The wait is over.
    pub(crate) fn on_waited(&mut self) {
        self.step = Step::Look;
    }

    fn campaign(&self) -> Step {
        Step::Campaign { after: self.newest }
    }

    fn retry(&mut self, now: Mono, random: u64) {
        self.retry_within(ELECTION_RETRY_MAX, now, random);
    }

    fn retry_within(&mut self, longest: Duration, now: Mono, random: u64) {
        let wait = ELECTION_RETRY_MIN * (1 << self.retries.min(5));
        self.retries += 1;
        self.wait(wait.min(longest), now, random);
    }

    /// Waits for so long, or up to a third less.
    fn wait(&mut self, wait: Duration, now: Mono, random: u64) {
        let jitter = wait.mul_f64((random >> 32) as f64 / f64::from(u32::MAX));
        self.step = Step::Wait {
            until: now.after(wait - jitter / 3),
        };
    }
}

#[cfg(test)]
mod tests;
