//! The cards of other processes in the bucket: whoever leads deletes those of processes that have left
//! the cluster or were taken for dead, so that nobody takes their links or waits for their answers in
//! an election. Some died before any broker was theirs.
//!
//! May not touch: the card of this process.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_coordinator::Coordinator;
use firn_proto::cluster::ClusterImage;
use firn_proto::ids::Fingerprint;
use firn_proto::limits::{CARD_SWEEP_INTERVAL, LINK_ASKED_AT_ONCE};
use futures::{StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

use crate::link::{LinkPeers, Registry};

/// See the module.
pub(super) struct Cards {
    pub(super) registry: Arc<Registry>,
    pub(super) peers: LinkPeers,
    /// Of this process.
    pub(super) own: Fingerprint,
    pub(super) coordinator: Coordinator,
}

impl Cards {
    /// Looks after them until the coordinator has stopped, or the future is dropped.
    pub(super) async fn run(self) {
        let mut image = self.coordinator.image();
        let mut known = links(&image.borrow_and_update());
        let mut orphans = Orphans::default();
        let mut ticks = interval(CARD_SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = image.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let live = links(&image.borrow_and_update());
                    let gone: Vec<Fingerprint> = known.difference(&live).copied().collect();
                    known = live;
                    if self.coordinator.leads().is_some() {
                        self.forget(&gone).await;
                    }
                }
                _ = ticks.tick() => match self.coordinator.leads() {
                    Some(_) => self.sweep(&known, &mut orphans).await,
                    None => orphans = Orphans::default(),
                },
            }
        }
    }

    /// Deletes the cards that no broker has for long, and whose processes do not answer.
    async fn sweep(&self, live: &BTreeSet<Fingerprint>, orphans: &mut Orphans) {
        let registered = match self.registry.registered().await {
            Ok(registered) => registered,
            Err(error) => {
                tracing::debug!(%error, "cards of dead processes are looked for later");
                return;
            }
        };
        let others = registered.into_iter().filter(|card| *card != self.own);
        let due = orphans.next(others.collect(), live);
        let asked = due.into_iter().map(|process| async move {
            let answers = self.peers.answers(process).await;
            (!answers).then_some(process)
        });
        let dead = stream::iter(asked).buffer_unordered(LINK_ASKED_AT_ONCE);
        let dead: Vec<Fingerprint> = dead.filter_map(std::future::ready).collect().await;
        if !dead.is_empty() {
            tracing::info!(
                cards = dead.len(),
                "cards of processes are deleted that have ended"
            );
        }
        self.forget(&dead).await;
    }

    async fn forget(&self, gone: &[Fingerprint]) {
        if !gone.is_empty()
            && let Err(error) = self.registry.forget(gone).await
        {
            tracing::warn!(%error, "cards of dead processes stay in the bucket for now");
        }
    }
}

/// By what the live processes are known.
fn links(image: &ClusterImage) -> BTreeSet<Fingerprint> {
    let brokers = image.brokers.values();
    let links = brokers.filter_map(|broker| broker.link.as_ref());
    links.map(|link| link.fingerprint).collect()
}

/// Cards that no broker has. A process that starts has one for a while. Pure.
#[derive(Debug, Default)]
struct Orphans {
    /// Those of the last look.
    before: BTreeSet<Fingerprint>,
}

impl Orphans {
    /// Those of this look that were there in the last one too.
    fn next(
        &mut self,
        registered: BTreeSet<Fingerprint>,
        live: &BTreeSet<Fingerprint>,
    ) -> Vec<Fingerprint> {
        let now: BTreeSet<_> = registered.difference(live).copied().collect();
        let due = now.intersection(&self.before).copied().collect();
        self.before = now;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cards: &[u8]) -> BTreeSet<Fingerprint> {
        let cards = cards.iter().map(|card| Fingerprint([*card; 32]));
        cards.collect()
    }

    #[test]
    fn a_card_is_an_orphan_once_two_looks_have_found_it_without_a_broker() {
        let mut orphans = Orphans::default();
        let live = set(&[1]);
        assert_eq!(orphans.next(set(&[1, 2, 3]), &live), []);
        // The third has a broker by now, and the fourth has just come.
        let live = set(&[1, 3]);
        let due = orphans.next(set(&[1, 2, 3, 4]), &live);
        assert_eq!(due, [Fingerprint([2; 32])]);
        // It answered, and is asked again.
        let due = orphans.next(set(&[1, 2, 3, 4]), &live);
        assert_eq!(due, [Fingerprint([2; 32]), Fingerprint([4; 32])]);
        assert_eq!(orphans.next(set(&[1]), &live), []);
    }
}
