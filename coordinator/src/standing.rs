//! What other tasks of this process, and through them other processes, may learn of the seat at any
//! moment without waiting for it: whether it leads, what it has heard, what standbys are told, and the
//! beats that it has yet to see to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::{CoordinatorEpoch, Incarnation};
use firn_proto::journal::JournalPosition;
use firn_proto::limits::{BEATS_KEPT_MAX, LEADER_STALL_MAX};
use tokio::sync::watch;

use crate::feed::Feed;

/// Shared by the seat and all its handles.
#[derive(Debug)]
pub(crate) struct Standing {
    leads: watch::Sender<Option<CoordinatorEpoch>>,
    /// When the leader's loop came round last.
    turned: AtomicU64,
    feed: Feed,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The leader that was followed last, and when it was heard.
    heard: Option<(CoordinatorEpoch, Mono)>,
    takes: Option<Takes>,
    /// How far the journal of the leader is followed.
    followed: Option<FollowedTo>,
    /// Since the leader last looked at them.
    beats: BTreeMap<Incarnation, Mono>,
    /// Somebody waits for a look.
    reads: bool,
}

/// A take-over that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takes {
    /// The epoch that this process is taking.
    pub(crate) epoch: CoordinatorEpoch,
    /// When it got on with that last.
    pub(crate) step: Mono,
    /// How long one step may take.
    pub(crate) patience: Duration,
}

/// How far a process follows the journal of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowedTo {
    /// It has the state after this position.
    pub at: JournalPosition,
    /// What it was sent for that, in bytes: the state as a snapshot has it, and slots since.
    pub bytes: usize,
}

impl Standing {
    /// Of a process that has just started.
    pub(crate) fn new() -> Self {
        Self {
            leads: watch::channel(None).0,
            turned: AtomicU64::new(0),
            feed: Feed::default(),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch that this process leads, to be followed by others.
    pub(crate) fn leads(&self) -> watch::Receiver<Option<CoordinatorEpoch>> {
        self.leads.subscribe()
    }

    /// What standbys are told of the journal.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The epoch that this process leads at `now`: none while its loop is stuck, for nobody is to
    /// follow it then.
    pub(crate) fn leads_at(&self, now: Mono) -> Option<CoordinatorEpoch> {
        let leads = *self.leads.borrow();
        leads.filter(|_| self.stalled(now).is_none())
    }

    /// This process leads that epoch, or does not lead.
    pub(crate) fn set_leads(&self, epoch: Option<CoordinatorEpoch>) {
        self.leads.send_if_modified(|leads| {
            let is_new = *leads != epoch;
            *leads = epoch;
            is_new
        });
    }

    /// The loop of this process, which leads, has come round.
    pub(crate) fn on_turn(&self, now: Mono) {
        self.turned.fetch_max(now.0, Ordering::Relaxed);
    }

    /// For how long the leader's loop has not come round, if that is long: nobody leads there.
    pub(crate) fn stalled(&self, now: Mono) -> Option<Duration> {
        let since = now.since(Mono(self.turned.load(Ordering::Relaxed)));
        (since > LEADER_STALL_MAX).then_some(since)
    }

    /// This process has claimed that epoch and goes on to take it over, or is done with that.
    pub(crate) fn set_takes(&self, takes: Option<Takes>) {
        self.held().takes = takes;
    }

    /// It gets on with that.
    pub(crate) fn on_step(&self, now: Mono) {
        if let Some(takes) = &mut self.held().takes {
            takes.step = now;
        }
    }

    /// The leader of that epoch lives.
    pub(crate) fn on_heard(&self, epoch: CoordinatorEpoch, at: Mono) {
        self.held().heard = Some((epoch, at));
    }

    /// The journal is followed to there.
    pub(crate) fn set_followed(&self, followed: Option<FollowedTo>) {
        self.held().followed = followed;
    }

    /// How far the journal is followed.
    pub(crate) fn followed(&self) -> Option<FollowedTo> {
        self.held().followed
    }

    /// The leader that this process knows of, and how long ago that was heard. Itself, if it leads or
    /// is about to.
    pub(crate) fn heard(&self, now: Mono) -> Option<(CoordinatorEpoch, Duration)> {
        let leads = *self.leads.borrow();
        let held = self.held();
        let takes = held
            .takes
            .filter(|takes| now.since(takes.step) < takes.patience);
        let takes = takes.map(|takes| takes.epoch);
        let heard = held.heard.map(|(epoch, at)| (epoch, now.since(at)));
        let leads = leads.map(|epoch| (epoch, self.stalled(now).unwrap_or_default()));
        let takes = takes.map(|epoch| (epoch, Duration::ZERO));
        leads.or(takes).or(heard)
    }

    /// A follower lives. Kept for the leader's loop, which takes them many times a second.
    pub(crate) fn on_beat(&self, broker: Option<Incarnation>, reads: bool, now: Mono) {
        let mut held = self.held();
        held.reads |= reads;
        if let Some(broker) = broker
            && held.beats.len() < BEATS_KEPT_MAX
        {
            held.beats.insert(broker, now);
        }
    }

    /// Beats since the last call, and whether somebody waits for a look.
    pub(crate) fn take_beats(&self) -> (BTreeMap<Incarnation, Mono>, bool) {
        let mut held = self.held();
        let reads = std::mem::take(&mut held.reads);
        (std::mem::take(&mut held.beats), reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_over_is_waited_for_as_long_as_it_gets_on_with_it() {
        let standing = Standing::new();
        let epoch = CoordinatorEpoch(3);
        let patience = Duration::from_secs(20);
        let (begun, on) = (Mono(1_000_000), Mono(15_000_000));
        let takes = |step| Takes {
            epoch,
            step,
            patience,
        };
        standing.set_takes(Some(takes(begun)));
        standing.on_step(on);
        let last = on.after(patience - Duration::from_millis(1));
        assert_eq!(standing.heard(last), Some((epoch, Duration::ZERO)));
        assert_eq!(standing.heard(on.after(patience)), None);
        standing.set_takes(None);
        standing.on_step(on);
        assert_eq!(standing.heard(on), None);
    }

    #[test]
    fn a_leader_whose_loop_is_stuck_says_for_how_long_nobody_has_heard_it() {
        let standing = Standing::new();
        let epoch = CoordinatorEpoch(3);
        let turned = Mono(1_000_000);
        standing.on_turn(turned);
        standing.set_leads(Some(epoch));
        let late = turned.after(LEADER_STALL_MAX);
        assert_eq!(standing.heard(late), Some((epoch, Duration::ZERO)));
        let stuck = LEADER_STALL_MAX + Duration::from_millis(1);
        let heard = standing.heard(turned.after(stuck));
        assert_eq!(heard, Some((epoch, stuck)));
        assert_eq!(standing.leads_at(late), Some(epoch));
        assert_eq!(standing.leads_at(turned.after(stuck)), None);
        standing.on_turn(late);
        let heard = standing.heard(turned.after(stuck));
        assert_eq!(heard, Some((epoch, Duration::ZERO)));
    }
}
