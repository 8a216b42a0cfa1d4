//! Which brokers live, as far as the leader hears. Pure; `task/brokers.rs` hears and probes.
//!
//! A broker that is silent for a few beats is probed at once: if nobody listens at its address it is
//! dead now. If that does not answer either, or answers and stays silent, it is dead after a bounded
//! time. Time in which the leader itself stood still counts for nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::Incarnation;
use firn_proto::limits::{BEAT_SILENCE, BROKER_SESSION_TIMEOUT_MIN};

use crate::peers::Probed;

/// What the leader is to do about a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is silent: see whether it lives.
    Probe(Incarnation),
    /// It is dead.
    Dead(Incarnation),
}

/// The brokers that the leader listens to.
#[derive(Debug)]
pub(crate) struct Members {
    members: BTreeMap<Incarnation, Member>,
    session: Duration,
    ticked: Mono,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// When its last beat came; before the first one, since when it is listened to.
    heard: Mono,
    has_beaten: bool,
    /// When the last probe was sent, and whether it is under way.
    probed: Option<(Mono, bool)>,
}

impl Member {
    fn is_heard(&self, now: Mono) -> bool {
        self.has_beaten && now.since(self.heard) <= BEAT_SILENCE
    }
}

impl Members {
    /// Nobody yet. Whoever stays silent for `session` is dead.
    pub(crate) fn new(session: Duration, now: Mono) -> Self {
        Self {
            members: BTreeMap::new(),
            session: session.max(BROKER_SESSION_TIMEOUT_MIN),
            ticked: now,
        }
    }

    /// Listens to these from now on, and to no others. Who is new counts as heard.
    pub(crate) fn listen_to(&mut self, live: impl Iterator<Item = Incarnation>, now: Mono) {
        let mut known = std::mem::take(&mut self.members);
        let new = Member {
            heard: now,
            has_beaten: false,
            probed: None,
        };
        self.members.extend(
            live.map(|incarnation| (incarnation, known.remove(&incarnation).unwrap_or(new))),
        );
    }

    /// A beat came at `at`.
    pub(crate) fn on_beat(&mut self, incarnation: Incarnation, at: Mono) {
        if let Some(member) = self.members.get_mut(&incarnation) {
            member.heard = member.heard.max(at);
            member.has_beaten = true;
        }
    }

    /// Whether it was heard within the last beats.
    pub(crate) fn is_heard(&self, incarnation: Incarnation, now: Mono) -> bool {
        let member = self.members.get(&incarnation);
        member.is_some_and(|member| member.is_heard(now))
    }

    /// Whether all of them were: some may be dead that are not known to be.
    pub(crate) fn are_all_heard(&self, now: Mono) -> bool {
        self.members.values().all(|member| member.is_heard(now))
    }

    /// Some time has passed; called several times a second.
    pub(crate) fn on_time(&mut self, now: Mono) -> Vec<Finding> {
        let passed = now.since(self.ticked);
        self.ticked = self.ticked.max(now);
        let stood_still = passed.checked_sub(BEAT_SILENCE).unwrap_or_default();
        let mut findings = Vec::new();
        for (incarnation, member) in &mut self.members {
            if !stood_still.is_zero() {
                member.heard = member.heard.after(stood_still).min(now);
            }
            let silent = now.since(member.heard);
            let may_probe = match member.probed {
                None => true,
                Some((at, under_way)) => !under_way && now.since(at) >= BEAT_SILENCE,
            };
            if silent >= self.session {
                findings.push(Finding::Dead(*incarnation));
            } else if silent > BEAT_SILENCE && may_probe {
                member.probed = Some((now, true));
                findings.push(Finding::Probe(*incarnation));
            }
        }
        findings
    }

    /// A probe is over. Some: it is dead.
    pub(crate) fn on_probed(
        &mut self,
        incarnation: Incarnation,
        probed: Probed,
    ) -> Option<Finding> {
        let member = self.members.get_mut(&incarnation)?;
        let (at, _) = member.probed?;
        member.probed = Some((at, false));
        // Who has been heard since, was slow to open its doors.
        let is_dead = probed == Probed::Refused && member.heard <= at;
        is_dead.then_some(Finding::Dead(incarnation))
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::limits::BEAT_INTERVAL;

    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    fn millis(ms: u64) -> Mono {
        Mono(ms * 1000)
    }

    fn both() -> Members {
        let mut members = Members::new(Duration::ZERO, millis(0));
        members.listen_to([A, B].into_iter(), millis(0));
        members
    }

    /// Beats of A until then, ticks for both.
    fn run(members: &mut Members, from_ms: u64, to_ms: u64) -> Vec<(u64, Finding)> {
        let mut found = Vec::new();
        for ms in (from_ms..=to_ms).step_by(BEAT_INTERVAL.as_millis() as usize) {
            members.on_beat(A, millis(ms));
            let findings = members.on_time(millis(ms));
            found.extend(findings.into_iter().map(|finding| (ms, finding)));
        }
        found
    }

    #[test]
    fn whoever_is_silent_is_probed_and_dead_if_nobody_listens_there() {
        let mut members = both();
        assert_eq!(run(&mut members, 200, 1000), [(800, Finding::Probe(B))]);
        let dead = members.on_probed(B, Probed::Refused);
        assert_eq!(dead, Some(Finding::Dead(B)));
        members.listen_to([A].into_iter(), millis(1000));
        assert_eq!(run(&mut members, 1200, 60_000), []);
    }

    #[test]
    fn whoever_stays_silent_is_dead_after_its_session_and_probed_on_until_then() {
        for probed in [Probed::Silent, Probed::Answers] {
            let mut members = both();
            let mut now = 200;
            let mut probes = 0;
            let dead_at = loop {
                match run(&mut members, now, now)[..] {
                    [] => {}
                    [(_, Finding::Probe(B))] => {
                        probes += 1;
                        assert_eq!(members.on_probed(B, probed), None);
                    }
                    [(at, Finding::Dead(B))] => break at,
                    ref other => panic!("{other:?}"),
                }
                now += 200;
            };
            assert_eq!(dead_at, BROKER_SESSION_TIMEOUT_MIN.as_millis() as u64);
            assert!((7..=10).contains(&probes), "{probes} probes");
        }
    }

    #[test]
    fn whoever_is_heard_while_it_is_probed_lives() {
        let mut members = both();
        assert_eq!(run(&mut members, 200, 800), [(800, Finding::Probe(B))]);
        members.on_beat(B, millis(900));
        assert_eq!(members.on_probed(B, Probed::Refused), None);
        assert!(members.is_heard(B, millis(1000)));
        assert!(members.are_all_heard(millis(1000)));
        assert!(!members.are_all_heard(millis(1600)));
    }

    #[test]
    fn a_leader_that_stood_still_takes_nobody_for_dead() {
        let mut members = both();
        assert_eq!(run(&mut members, 200, 400), []);
        let woken = 3_600_000;
        for finding in run(&mut members, woken, woken + 400) {
            assert_eq!(finding.1, Finding::Probe(B));
        }
        members.on_beat(B, millis(woken + 500));
        assert_eq!(run(&mut members, woken + 600, woken + 1000), []);
    }

    #[test]
    fn what_strangers_say_is_not_kept() {
        let mut members = both();
        members.on_beat(Incarnation(77), millis(1));
        assert!(!members.is_heard(Incarnation(77), millis(1)));
        assert!(
            !members.is_heard(A, millis(1)),
            "nor is it heard that is only known"
        );
    }
}
