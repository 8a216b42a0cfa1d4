//! The steps of an election, as `election.rs` asks for them.

use std::sync::Arc;

use firn_proto::cluster::LinkAddress;
use firn_proto::env::Mono;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::journal::{Claimed, JournalError};
use firn_proto::limits::{
    ASK_WAIT_MAX, CLAIM_LOOK_MAX, ELECTION_GONE_LOOK, FENCE_LOOK_MAX, FOLLOW_WAIT_MAX,
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Elected, Sitter, decode_card};
use crate::election::{Election, Holder, Step};
use crate::handle::EndReason;
use crate::peers::{PeerError, ProcessCard};
use crate::task::{may_pass, seen_by};

/// Who claimed the newest epoch, if that can be read.
type Claimant = Option<(CoordinatorEpoch, ProcessCard)>;

impl Sitter {
    /// Finds a leader, or becomes one.
    pub(super) async fn elect(&mut self, mut election: Election) -> Result<Elected, EndReason> {
        let mut claimant: Claimant = None;
        loop {
            let elected = match election.step() {
                Step::Look => self.look(&mut election, &mut claimant).await?,
                Step::Follow => self.link_to(claimant.clone(), &mut election).await,
                Step::AskAll => self.ask_all(&mut election).await,
                Step::LookForCard => self.look_for_card(&mut election).await?,
                Step::Campaign { .. } if self.config.never_leads => {
                    self.leave_to_others(&mut election)?;
                    None
                }
                Step::Campaign { after } => {
                    self.gone = self.gone_process(claimant.as_ref());
                    self.campaign(after, &mut election).await?
                }
                Step::Wait { until } => self.pause(until, &claimant, &mut election).await,
            };
            if let Some(elected) = elected {
                return Ok(elected);
            }
        }
    }

    async fn look(
        &mut self,
        election: &mut Election,
        claimant: &mut Claimant,
    ) -> Result<Option<Elected>, EndReason> {
        if self.peers.is_alone() {
            election.on_claim(None);
            return Ok(None);
        }
        let opener = Arc::clone(&self.opener);
        let look = async move { timeout(CLAIM_LOOK_MAX, opener.newest()).await };
        match self.wait_for(look).await {
            None => return Ok(Some(Elected::Stopped)),
            Some(Ok(Ok(found))) => *claimant = self.note_claim(found, election),
            Some(Ok(Err(error))) => self.on_no_bucket(error.into(), election)?,
            Some(Err(_)) => {
                let silent = "it did not say in time who leads the cluster".to_owned();
                self.on_no_bucket(JournalError::Unavailable(silent).into(), election)?;
            }
        }
        Ok(None)
    }

    async fn link_to(&mut self, to: Claimant, election: &mut Election) -> Option<Elected> {
        let Some((epoch, leader)) = to else {
            election.on_no_link(&PeerError::NotLeading);
            return None;
        };
        let link = self.peers.follow(leader.clone(), epoch);
        let linked = timeout(FOLLOW_WAIT_MAX, link);
        let Some(linked) = self.wait_for(linked).await else {
            return Some(Elected::Stopped);
        };
        match linked.unwrap_or(Err(PeerError::NoAnswer)) {
            Ok(link) => {
                return Some(Elected::Follows {
                    link,
                    leader,
                    epoch,
                });
            }
            Err(PeerError::Rejected(reason)) => {
                warn!(leader = %leader.shown, reason, "the leader refuses this process");
                election.on_no_link(&PeerError::Rejected(reason));
            }
            Err(error) => {
                info!(leader = %leader.shown, %error, "the leader cannot be reached");
                election.on_no_link(&error);
            }
        }
        None
    }

    async fn ask_all(&mut self, election: &mut Election) -> Option<Elected> {
        let asked = timeout(ASK_WAIT_MAX, self.peers.ask_all(self.known()));
        let Some(answers) = self.wait_for(asked).await else {
            return Some(Elected::Stopped);
        };
        let now = self.environment.clock.mono();
        let random = self.environment.entropy.next_u64();
        match answers {
            Ok(answers) => election.on_answers(&answers, now, random),
            Err(_) => election.on_no_bucket(now, random),
        }
        None
    }

    /// Ends this process if its card is gone: whoever leads has taken it for dead.
    async fn look_for_card(
        &mut self,
        election: &mut Election,
    ) -> Result<Option<Elected>, EndReason> {
        let look = timeout(FENCE_LOOK_MAX, self.peers.own_card());
        let Some(found) = self.wait_for(look).await else {
            return Ok(Some(Elected::Stopped));
        };
        let found = found.unwrap_or_default();
        if found == Some(false) {
            return Err(EndReason::Forgotten);
        }
        let now = self.environment.clock.mono();
        let random = self.environment.entropy.next_u64();
        election.on_card(found == Some(true), now, random);
        Ok(None)
    }

    /// Waits for another process to lead: after a start only for a bounded time.
    fn leave_to_others(&self, election: &mut Election) -> Result<(), EndReason> {
        let now = self.environment.clock.mono();
        if !self.started && now.since(self.began) >= self.config.start_timeout {
            return Err(EndReason::NoLeader);
        }
        election.on_left_to_others(now, self.environment.entropy.next_u64());
        Ok(())
    }

    async fn campaign(
        &mut self,
        after: CoordinatorEpoch,
        election: &mut Election,
    ) -> Result<Option<Elected>, EndReason> {
        match self.take_next(after, election.patience()).await {
            None => return Ok(Some(Elected::Stopped)),
            Some(Ok(leader)) => return Ok(Some(Elected::Leads(leader))),
            Some(Err(error)) => self.on_beaten(error, election)?,
        }
        Ok(None)
    }

    /// Waits, but no longer than until the process that made the newest claim is seen to die.
    async fn pause(
        &mut self,
        until: Mono,
        claimant: &Claimant,
        election: &mut Election,
    ) -> Option<Elected> {
        let (clock, peers) = (Arc::clone(&self.environment.clock), Arc::clone(&self.peers));
        let process = claimant.as_ref().map(|(_, card)| card.process.clone());
        // One that is gone already was not what is waited for.
        let alive = process.filter(|process| !peers.is_gone(process));
        let over = async move {
            loop {
                let left = until.since(clock.mono());
                let died = alive.as_ref().is_some_and(|process| peers.is_gone(process));
                if left.is_zero() || died {
                    return;
                }
                sleep(left.min(ELECTION_GONE_LOOK)).await;
            }
        };
        if self.wait_for(over).await.is_none() {
            return Some(Elected::Stopped);
        }
        election.on_waited();
        None
    }

    /// The process that led last, if it is gone for certain.
    fn gone_process(
        &self,
        claimant: Option<&(CoordinatorEpoch, ProcessCard)>,
    ) -> Option<Fingerprint> {
        let (_, card) = claimant?;
        let is_gone = !self.peers.is_alone() && self.peers.is_gone(&card.process);
        is_gone.then_some(card.link.fingerprint)
    }

    fn note_claim(
        &self,
        found: Option<Claimed>,
        election: &mut Election,
    ) -> Option<(CoordinatorEpoch, ProcessCard)> {
        let Some(found) = found else {
            election.on_claim(None);
            return None;
        };
        let card = decode_card(&found.identity);
        let holder = match &card {
            _ if self.is_own(&found) => Holder::Own,
            None => Holder::Unknown,
            Some(card) if self.peers.is_gone(&card.process) => Holder::Gone,
            Some(_) => Holder::Other,
        };
        election.on_claim(Some((found.epoch, holder)));
        card.map(|card| (found.epoch, card))
    }

    fn is_own(&self, claimed: &Claimed) -> bool {
        let identity = &self.config.identity;
        claimed.epoch == self.last_claimed
            || (!identity.is_empty() && claimed.identity == *identity)
    }

    /// The link addresses of the brokers in the last picture, without this one's.
    fn known(&self) -> Vec<LinkAddress> {
        let image = self.publish.image.borrow();
        let links = image
            .brokers
            .values()
            .filter_map(|broker| broker.link.as_ref());
        let others = links.filter(|link| Some(link.fingerprint) != self.own);
        others.cloned().collect()
    }

    /// The bucket does not serve the journal: the reason, if that is for good.
    fn on_no_bucket(&self, error: EndReason, election: &mut Election) -> Result<(), EndReason> {
        let now = self.environment.clock.mono();
        let EndReason::Journal(failed) = &error else {
            return Err(error);
        };
        let is_over = !self.started && now.since(self.began) >= self.config.start_timeout;
        if !may_pass(failed) || is_over {
            return Err(error);
        }
        if self.started {
            self.publish.note_look(now, seen_by(failed));
        }
        warn!(error = %failed, "the journal cannot be opened yet");
        election.on_no_bucket(now, self.environment.entropy.next_u64());
        Ok(())
    }

    /// It did not become the leader: the reason to end, if that is for good.
    fn on_beaten(&self, error: EndReason, election: &mut Election) -> Result<(), EndReason> {
        match &error {
            EndReason::Journal(JournalError::Fenced { .. } | JournalError::Superseded { .. })
                if !self.peers.is_alone() =>
            {
                info!(%error, "another process takes the lead");
                election.on_beaten();
                Ok(())
            }
            _ => self.on_no_bucket(error, election),
        }
    }
}
