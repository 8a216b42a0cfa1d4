//! From "somebody joined" to "everybody knows the generation": the barrier and its timers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{GroupError, Reply};
use firn_proto::env::Mono;

use super::classic::{ClassicGroup, ClassicState, PhaseTimer};
use super::{GroupConfig, Out, millis};

/// How long a rebalance that nobody joined waits at least before it looks again.
const RETRY_MIN: Duration = Duration::from_secs(1);

impl ClassicGroup {
    /// Something about the members changed: starts a rebalance, or ends the one under way if that
    /// was what it waited for.
    pub(super) fn rebalance(&mut self, now: Mono, config: &GroupConfig, out: &mut Out) {
        match self.state {
            ClassicState::PreparingRebalance => self.try_complete_join(now, out),
            ClassicState::CompletingRebalance | ClassicState::Empty | ClassicState::Stable => {
                self.prepare(now, config, out);
            }
        }
    }

    fn prepare(&mut self, now: Mono, config: &GroupConfig, out: &mut Out) {
        let was_empty = self.state == ClassicState::Empty;
        self.state = ClassicState::PreparingRebalance;
        self.unsynced.clear();
        for member in self.members.values_mut() {
            if let Some(call) = member.syncing.take() {
                let error = GroupError::RebalanceInProgress;
                out.reply(call, Reply::SyncGroup(Err(error)));
                member.deadline = Some(now.after(member.session()));
            }
        }
        let patience = self.rebalance_timeout();
        if was_empty {
            let delay = config.initial_rebalance_delay.min(patience);
            if delay.is_zero() {
                self.complete_join(now, out);
            } else {
                self.start(PhaseTimer::Gather {
                    until: now.after(delay),
                    left: patience.saturating_sub(delay),
                    grown: false,
                });
            }
        } else {
            self.start(PhaseTimer::Join {
                until: now.after(patience),
            });
            self.try_complete_join(now, out);
        }
        self.rearm();
    }

    fn try_complete_join(&mut self, now: Mono, out: &mut Out) {
        let gathering = matches!(self.phase, Some(PhaseTimer::Gather { .. }));
        let everybody = self.members.values().all(|m| m.joining.is_some());
        if !gathering && everybody && self.pending.is_empty() {
            self.complete_join(now, out);
        }
    }

    /// The barrier falls: who is not here is out (static members stay until their session ends),
    /// and the next generation begins.
    fn complete_join(&mut self, now: Mono, out: &mut Out) {
        let absent: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance.is_none())
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in absent {
            self.remove_member(&id, &GroupError::UnknownMemberId, out);
        }
        if !self.members.is_empty() && !self.elect() {
            // Only static members, and none of them has come back: wait for one.
            self.start(PhaseTimer::Join {
                until: now.after(self.rebalance_timeout().max(RETRY_MIN)),
            });
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.unsynced.clear();
        if self.members.is_empty() {
            self.state = ClassicState::Empty;
            self.protocol = "".into();
            self.leader = "".into();
            self.phase = None;
            self.assigned_bytes = 0;
            self.save();
            self.start_idle(now);
            return;
        }
        self.protocol = self.choose_protocol();
        self.state = ClassicState::CompletingRebalance;
        self.tell_generation(now, out);
        self.start(PhaseTimer::Sync {
            until: now.after(self.rebalance_timeout()),
        });
        self.rearm();
    }

    fn tell_generation(&mut self, now: Mono, out: &mut Out) {
        self.assigned_bytes = 0;
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let told = self.joined(&id, id == self.leader);
            if let Some(member) = self.members.get_mut(&id) {
                member.deadline = Some(now.after(member.session()));
                member.assignment = Arc::from([]);
                if let Some(call) = member.joining.take() {
                    out.reply(call, Reply::JoinGroup(Ok(told)));
                }
            }
            self.unsynced.insert(id);
        }
    }

    /// Sees to it that a member that has joined leads. False if none has.
    fn elect(&mut self) -> bool {
        let joined = |id: &str| self.members.get(id).is_some_and(|m| m.joining.is_some());
        if joined(&self.leader) {
            return true;
        }
        let first = self.members.iter().find(|(_, m)| m.joining.is_some());
        match first.map(|(id, _)| Arc::clone(id)) {
            Some(id) => {
                self.leader = id;
                true
            }
            None => false,
        }
    }

    /// Every member votes for the first of its protocols that all can speak.
    fn choose_protocol(&self) -> Arc<str> {
        let everybody = self.members.len();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let mut offers = member.protocols.iter();
            let vote = offers.find(|offer| self.offered.get(&offer.name) == Some(&everybody));
            if let Some(vote) = vote {
                *votes.entry(&vote.name).or_default() += 1;
            }
        }
        let winner = votes.into_iter().max_by_key(|(_, count)| *count);
        winner.map_or_else(|| "".into(), |(name, _)| Arc::clone(name))
    }

    fn rebalance_timeout(&self) -> Duration {
        let timeouts = self.members.values().map(|m| m.rebalance_timeout_ms);
        millis(timeouts.max().unwrap_or(0))
    }

    fn start(&mut self, timer: PhaseTimer) {
        self.phase = Some(timer);
        self.arm(timer.until());
    }

    pub(super) fn on_timeout(&mut self, now: Mono, config: &GroupConfig, out: &mut Out) {
        self.drop_silent(now, config, out);
        match self.phase {
            Some(PhaseTimer::Gather { until, left, grown }) if until <= now => {
                if grown && !left.is_zero() {
                    let delay = config.initial_rebalance_delay.min(left);
                    self.start(PhaseTimer::Gather {
                        until: now.after(delay),
                        left: left.saturating_sub(delay),
                        grown: false,
                    });
                } else {
                    self.complete_join(now, out);
                }
            }
            Some(PhaseTimer::Join { until }) if until <= now => self.complete_join(now, out),
            Some(PhaseTimer::Sync { until }) if until <= now => {
                self.phase = None;
                let unsynced = std::mem::take(&mut self.unsynced);
                for id in &unsynced {
                    self.remove_member(id, &GroupError::UnknownMemberId, out);
                }
                if !unsynced.is_empty() {
                    self.rebalance(now, config, out);
                }
            }
            _ => {}
        }
        out.idle.extend(self.take_idle(now));
        self.rearm();
    }

    /// Members and promised members that were silent for too long are out.
    fn drop_silent(&mut self, now: Mono, config: &GroupConfig, out: &mut Out) {
        let pending = self.pending.len();
        self.pending.drop_silent(now);
        let silent: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        for id in &silent {
            self.remove_member(id, &GroupError::UnknownMemberId, out);
        }
        if !silent.is_empty() || pending != self.pending.len() {
            self.member_gone(!silent.is_empty(), now, config, out);
        }
    }

    /// Somebody that a rebalance may have waited for is gone; a member's going starts one.
    pub(super) fn member_gone(
        &mut self,
        was_member: bool,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) {
        match self.state {
            ClassicState::CompletingRebalance | ClassicState::Stable if was_member => {
                self.prepare(now, config, out);
            }
            ClassicState::PreparingRebalance => self.try_complete_join(now, out),
            _ => {}
        }
    }
}
