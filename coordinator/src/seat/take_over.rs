//! Taking the next epoch, and waiting until nobody is read any more who led before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::env::Mono;
use firn_proto::ids::CoordinatorEpoch;
use firn_proto::journal::{JournalError, JournalOpener, OpenedJournal, Taking};
use firn_proto::limits::{COORDINATOR_READ_LEASE, FENCE_LOOK_MAX, PREDECESSORS_MAX};
use tokio::time::timeout;

use super::{Sitter, decode_card};
use crate::fence::Seen;
use crate::handle::EndReason;
use crate::peers::Peers;
use crate::standby::Standby;
use crate::standing::Takes;
use crate::task::{Leader, Seated};

impl Sitter {
    /// Takes the epoch after that and with it the journal, and waits until nobody can be read any
    /// more who led before. Others wait as long as that for each step. `None`: it was told to stop.
    pub(super) async fn take_next(
        &mut self,
        after: CoordinatorEpoch,
        patience: Duration,
    ) -> Option<Result<Box<Leader>, EndReason>> {
        let taken = self.open_and_take_over(after, patience).await;
        // Not before it says that it leads: others that hear neither would depose it.
        self.standing.set_takes(None);
        taken
    }

    async fn open_and_take_over(
        &mut self,
        after: CoordinatorEpoch,
        patience: Duration,
    ) -> Option<Result<Box<Leader>, EndReason>> {
        // Its own first slot becomes durable, so nobody has sealed it before now. Somebody may have
        // since it was sent.
        let led_at = self.environment.clock.mono();
        let (opener, taking) = (Arc::clone(&self.opener), self.taking(after, patience));
        let opened = self.wait_for(async move { opener.open(taking).await });
        let opened = match opened.await? {
            Ok(opened) => opened,
            Err(error) => return Some(Err(error.into())),
        };
        self.last_claimed = opened.epoch;
        match self.look_again(&opened).await? {
            Ok(looked_at) => self.take_over(opened, looked_at.unwrap_or(led_at)).await,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// What it takes, and how others hear of it.
    fn taking(&self, after: CoordinatorEpoch, patience: Duration) -> Taking {
        let identity = self.config.identity.clone();
        if self.peers.is_alone() {
            return Taking::next_free(identity);
        }
        let wanted = CoordinatorEpoch(after.0 + 1);
        let (standing, clock) = (
            Arc::clone(&self.standing),
            Arc::clone(&self.environment.clock),
        );
        Taking {
            identity,
            after: Some(after),
            known: self.standby.as_ref().and_then(Standby::known_slot),
            on_step: Arc::new(move || {
                standing.set_takes(Some(Takes {
                    epoch: wanted,
                    step: clock.mono(),
                    patience,
                }));
            }),
        }
    }

    /// Looks whether another process has claimed a later epoch while this one opened the journal,
    /// which may have taken long. When that was sent, if it said that none has.
    async fn look_again(
        &mut self,
        opened: &OpenedJournal,
    ) -> Option<Result<Option<Mono>, JournalError>> {
        if self.peers.is_alone() {
            return Some(Ok(None));
        }
        let sent = self.environment.clock.mono();
        let look = timeout(FENCE_LOOK_MAX, opened.journal.look_for_newer());
        let epoch = opened.epoch;
        Some(match self.wait_for(look).await? {
            Ok(Ok(None)) => Ok(Some(sent)),
            Ok(Ok(Some(newer))) => Err(JournalError::Superseded { epoch, newer }),
            // The leader looks on.
            Ok(Err(_)) | Err(_) => Ok(None),
        })
    }

    async fn take_over(
        &mut self,
        opened: OpenedJournal,
        led_at: Mono,
    ) -> Option<Result<Box<Leader>, EndReason>> {
        let epoch = opened.epoch;
        let claimed_at = opened.claimed_at;
        let covered = opened.snapshot.as_ref().map(|(position, _)| position.epoch);
        let last = opened.entries.last().map(|(position, _)| position.epoch);
        // What is known of earlier epochs is of no use once this one is led.
        let known = self.standby.as_mut().and_then(Standby::take_known);
        let known = known.filter(|_| opened.follows_known);
        self.standing.set_followed(None);
        let followed = known.as_ref().map(|known| known.at.epoch);
        let last_served = last.or(followed).or(covered).unwrap_or_default();
        let seated = Seated {
            config: &self.config,
            environment: &self.environment,
            peers: &self.peers,
            standing: &self.standing,
            own: self.own,
            gone: self.gone,
            known,
            led_at,
            above: self.publish.image.borrow().version,
        };
        // Much of it may have to be decoded.
        self.standing.on_step(self.environment.clock.mono());
        let leader = match Leader::new(opened, seated) {
            Ok(leader) => leader,
            Err(reason) => return Some(Err(reason)),
        };
        let resigned = leader.resigned();
        self.publish.image.send_replace(leader.picture());
        self.publish.note_look(led_at, Seen::Nothing);
        self.standing.on_turn(self.environment.clock.mono());
        self.standing.set_leads(Some(epoch));
        self.wait_lease_out(epoch, claimed_at, last_served, resigned)
            .await?;
        Some(Ok(Box::new(leader)))
    }

    /// Waits until no earlier leader can be read, if one may be left. `None`: it was told to stop.
    async fn wait_lease_out(
        &mut self,
        epoch: CoordinatorEpoch,
        claimed_at: Mono,
        last_served: CoordinatorEpoch,
        resigned: Option<CoordinatorEpoch>,
    ) -> Option<()> {
        if self.peers.is_alone() {
            return Some(());
        }
        let lease_over = claimed_at.after(COORDINATOR_READ_LEASE);
        let wait = lease_over.since(self.environment.clock.mono());
        let before = self.predecessors();
        let free = async move { before.are_over(epoch, last_served, resigned).await };
        self.wait_for(async move {
            let over = tokio::time::sleep(wait);
            tokio::pin!(over, free);
            tokio::select! {
                biased;
                is_free = &mut free => if !is_free {
                    over.await;
                },
                () = &mut over => {}
            }
        })
        .await
    }

    fn predecessors(&self) -> Predecessors {
        Predecessors {
            opener: Arc::clone(&self.opener),
            peers: Arc::clone(&self.peers),
            identity: self.config.identity.clone(),
        }
    }
}

/// Who led before.
struct Predecessors {
    opener: Arc<dyn JournalOpener>,
    peers: Arc<dyn Peers>,
    identity: Bytes,
}

impl Predecessors {
    /// Whether none of them can be read any more. `last_served` is the last epoch that has entries:
    /// whoever put them had waited for those before. Those after it may have claimed their epochs one
    /// right after the other.
    async fn are_over(
        &self,
        epoch: CoordinatorEpoch,
        last_served: CoordinatorEpoch,
        resigned: Option<CoordinatorEpoch>,
    ) -> bool {
        let before = (0..epoch.0).rev().map(CoordinatorEpoch);
        for epoch in before.take(PREDECESSORS_MAX) {
            if epoch.0 == 0 || resigned == Some(epoch) {
                return true;
            }
            if !self.is_gone(epoch).await {
                return false;
            }
            if epoch <= last_served {
                return true;
            }
        }
        false
    }

    async fn is_gone(&self, epoch: CoordinatorEpoch) -> bool {
        let Ok(Some(claimed)) = self.opener.claim(epoch).await else {
            return false;
        };
        if !self.identity.is_empty() && claimed.identity == self.identity {
            return true;
        }
        let card = decode_card(&claimed.identity);
        card.is_some_and(|card| self.peers.is_gone(&card.process))
    }
}
