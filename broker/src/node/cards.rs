//! The cards of other processes in the bucket: whoever leads deletes those of processes that have left
//! the cluster or were taken for dead, so that nobody takes their links or waits for their answers in
//! an election. Some died before any broker was theirs.
//!
//! May not touch: the card of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_coordinator::{Coordinator, Peers, Probed, ProcessCard};
use firn_proto::cluster::ClusterImage;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::limits::{CARD_SWEEP_SOON, CARD_SWEEPS_APART, LINK_ASKED_AT_ONCE};
use futures::{StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

use crate::link::{LinkPeers, Registry};

/// See the module.
pub(super) struct Cards {
    pub(super) registry: Arc<Registry>,
    pub(super) peers: LinkPeers,
    /// Of this process.
    pub(super) own: Arc<ProcessCard>,
    pub(super) coordinator: Coordinator,
}

impl Cards {
    /// Looks after them until the coordinator has stopped, or the future is dropped.
    pub(super) async fn run(self) {
        let mut image = self.coordinator.image();
        let mut known = links(&image.borrow_and_update());
        let mut orphans = Orphans::default();
        let mut sweeps = Sweeps::default();
        let mut ticks = interval(CARD_SWEEP_SOON);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.look_for_namesakes().await;
        loop {
            tokio::select! {
                changed = image.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let live = links(&image.borrow_and_update());
                    let gone: Vec<Fingerprint> = known.difference(&live).copied().collect();
                    known = live;
                    self.forget(&gone).await;
                }
                _ = ticks.tick() => match sweeps.on_tick(self.coordinator.leads()) {
                    Sweep::First => {
                        orphans = Orphans::default();
                        self.sweep(&mut orphans).await;
                    }
                    Sweep::Next => self.sweep(&mut orphans).await,
                    Sweep::None => {}
                },
            }
        }
    }

    /// Deletes the cards that no broker has for long, and whose processes are gone or do not answer.
    async fn sweep(&self, orphans: &mut Orphans) {
        let registered = match self.registry.registered().await {
            Ok(registered) => registered,
            Err(error) => {
                tracing::debug!(%error, "cards of dead processes are looked for later");
                return;
            }
        };
        let mut others: BTreeSet<_> = registered.into_iter().collect();
        let live = self.live();
        others.retain(|card| *card != self.own.link.fingerprint && !live.contains(card));
        let asked = others.into_iter().map(|process| async move {
            let said = self.peers.look_after(process).await;
            (process, said)
        });
        let asked = stream::iter(asked).buffer_unordered(LINK_ASKED_AT_ONCE);
        let dead = orphans.next(asked.collect().await);
        self.forget(&dead).await;
    }

    /// Says so if another process is to be reached where this one is: links lead to one of the two,
    /// and the other may be taken for dead.
    async fn look_for_namesakes(&self) {
        let registered = match self.registry.registered().await {
            Ok(registered) => registered,
            Err(error) => {
                tracing::debug!(%error, "it is not known whether others have the address of this one");
                return;
            }
        };
        let cards = registered
            .into_iter()
            .map(|process| self.registry.card(process));
        let cards = stream::iter(cards).buffer_unordered(LINK_ASKED_AT_ONCE);
        let cards: Vec<_> = cards.collect().await;
        for card in cards.into_iter().flatten().flatten() {
            if is_namesake(&self.own, &card) && !self.peers.is_gone(&card.process) {
                tracing::warn!(
                    other = %card.shown,
                    host = %card.link.host,
                    port = card.link.port,
                    "another process says that its broker link is where that of this one is: set \
                     link.advertise of each to an address that leads to it alone"
                );
            }
        }
    }

    /// By what the live processes are known, as far as is known now.
    fn live(&self) -> BTreeSet<Fingerprint> {
        links(&self.coordinator.image().borrow())
    }

    /// Deletes cards, unless it is known by now that this would be wrong: to ask others takes time.
    async fn forget(&self, gone: &[Fingerprint]) {
        let leads = self.coordinator.leads().is_some();
        let gone = still_gone(gone, leads, &self.live());
        if gone.is_empty() {
            return;
        }
        match self.registry.forget(&gone).await {
            Ok(()) => tracing::info!(
                cards = gone.len(),
                "cards of processes are deleted that have ended"
            ),
            Err(error) => {
                tracing::warn!(%error, "cards of dead processes stay in the bucket for now");
            }
        }
    }
}

/// Those of `gone` whose cards this process may delete, if it `leads` and these have brokers.
fn still_gone(gone: &[Fingerprint], leads: bool, live: &BTreeSet<Fingerprint>) -> Vec<Fingerprint> {
    let gone = gone.iter().filter(|card| leads && !live.contains(*card));
    gone.copied().collect()
}

/// Whether `other` takes links where this process does, and clients elsewhere: else it is the process
/// that was here before.
fn is_namesake(own: &ProcessCard, other: &ProcessCard) -> bool {
    let (link, others) = (&own.link, &other.link);
    let is_there = (&link.host, link.port) == (&others.host, others.port);
    let is_other = link.fingerprint != others.fingerprint;
    is_there && is_other && own.listeners != other.listeners
}

/// By what the live processes are known.
fn links(image: &ClusterImage) -> BTreeSet<Fingerprint> {
    let brokers = image.brokers.values();
    let links = brokers.filter_map(|broker| broker.link.as_ref());
    links.map(|link| link.fingerprint).collect()
}

/// When a leader sweeps: as soon as it leads and once more soon, for the leader before may have been
/// about to delete the card of a process that waits to take its place; then now and then. Pure.
#[derive(Debug, Default)]
struct Sweeps {
    leads: Option<CoordinatorEpoch>,
    /// Ticks since it does.
    ticks: u32,
}

/// What to do at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Sweep, and forget what was found before.
    First,
    /// Sweep.
    Next,
    /// Nothing.
    None,
}

impl Sweeps {
    fn on_tick(&mut self, leads: Option<CoordinatorEpoch>) -> Sweep {
        if self.leads != leads {
            *self = Self { leads, ticks: 0 };
        }
        let tick = self.ticks;
        self.ticks = tick.wrapping_add(1);
        match tick {
            _ if leads.is_none() => Sweep::None,
            0 => Sweep::First,
            tick if (tick - 1).is_multiple_of(CARD_SWEEPS_APART) => Sweep::Next,
            _ => Sweep::None,
        }
    }
}

/// Cards that no broker has. A process that starts has one for a while. Pure.
#[derive(Debug, Default)]
struct Orphans {
    /// Those of the last look, and what their processes said.
    before: BTreeMap<Fingerprint, Probed>,
}

impl Orphans {
    /// What the processes of all such cards say in this look. Whose cards are to go: of processes
    /// that are gone, and were orphans in the last look too; and of those that have said nothing in
    /// both. One that stands still, or is out of reach for a moment, lives.
    fn next(&mut self, now: BTreeMap<Fingerprint, Probed>) -> Vec<Fingerprint> {
        let is_dead = |(card, said): &(&Fingerprint, &Probed)| match said {
            Probed::Answers => false,
            Probed::Refused => self.before.contains_key(*card),
            Probed::Silent => {
                let before = self.before.get(*card);
                before.is_some_and(|before| *before != Probed::Answers)
            }
        };
        let dead = now.iter().filter(is_dead).map(|(card, _)| *card).collect();
        self.before = now;
        dead
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::cluster::{LinkAddress, Listener, SecurityProtocol};

    use super::*;
    use crate::link::own_proof;

    fn card(card: u8) -> Fingerprint {
        Fingerprint([card; 32])
    }

    fn said<const N: usize>(said: [(u8, Probed); N]) -> BTreeMap<Fingerprint, Probed> {
        said.into_iter()
            .map(|(of, said)| (card(of), said))
            .collect()
    }

    #[test]
    fn a_leader_sweeps_at_once_and_again_soon_and_then_now_and_then() {
        let mut sweeps = Sweeps::default();
        assert_eq!(sweeps.on_tick(None), Sweep::None);
        for epoch in [3, 5] {
            let leads = Some(CoordinatorEpoch(epoch));
            let ticks: Vec<_> = (0..8).map(|_| sweeps.on_tick(leads)).collect();
            let swept: Vec<_> = (0..8).filter(|at| ticks[*at] != Sweep::None).collect();
            assert_eq!(swept, [0, 1, 4, 7]);
            let first = ticks.iter().filter(|tick| **tick == Sweep::First);
            assert_eq!((ticks[0], first.count()), (Sweep::First, 1));
        }
    }

    #[test]
    fn a_process_with_the_address_of_this_one_is_told_from_the_one_before_it() {
        let process = |certificate, port| ProcessCard {
            broker: None,
            link: LinkAddress {
                host: "lb".to_owned(),
                port: 9092,
                fingerprint: card(certificate),
            },
            listeners: vec![Listener {
                name: "KAFKA".to_owned(),
                security: SecurityProtocol::Plaintext,
                host: "broker".to_owned(),
                port,
            }],
            process: own_proof(),
            shown: String::new(),
        };
        let own = process(1, 9092);
        assert!(!is_namesake(&own, &own));
        assert!(!is_namesake(&own, &process(2, 9092)), "it was here before");
        assert!(is_namesake(&own, &process(2, 9093)));
        let mut elsewhere = process(2, 9093);
        elsewhere.link.port = 9093;
        assert!(!is_namesake(&own, &elsewhere));
    }

    #[test]
    fn a_card_goes_whose_process_is_gone_and_had_no_broker_in_two_looks() {
        let mut orphans = Orphans::default();
        assert_eq!(orphans.next(said([(2, Probed::Refused)])), []);
        let now = said([(2, Probed::Refused), (3, Probed::Refused)]);
        assert_eq!(orphans.next(now), [card(2)]);
        // Now it has a broker.
        assert_eq!(orphans.next(said([])), []);
        assert_eq!(orphans.next(said([(3, Probed::Refused)])), []);
    }

    #[test]
    fn a_card_goes_whose_process_says_nothing_in_two_looks_one_after_the_other() {
        let mut orphans = Orphans::default();
        for said_now in [Probed::Answers, Probed::Silent, Probed::Answers] {
            assert_eq!(orphans.next(said([(2, said_now)])), [], "{said_now:?}");
        }
        assert_eq!(orphans.next(said([(2, Probed::Silent)])), []);
        assert_eq!(orphans.next(said([(2, Probed::Silent)])), [card(2)]);
    }

    #[test]
    fn a_card_stays_whose_process_has_got_a_broker_or_if_another_process_leads() {
        let (gone, live) = ([card(2), card(3)], BTreeSet::from([card(3)]));
        assert_eq!(still_gone(&gone, true, &live), [card(2)]);
        assert_eq!(still_gone(&gone, false, &live), []);
    }
}
