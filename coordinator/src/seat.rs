//! The seat of this process in its cluster: it leads, or follows whoever does, or looks for a leader.
//!
//! All that the process asks of the coordinator comes in here, and waits while there is no leader.
//! Pictures go out here, wherever they were made.
//!
//! - `elect.rs`, `take_over.rs`: the way to a leader
//! - `follow.rs`: while another process leads
//! - `wait.rs`: what happens to callers while something else is waited for

mod elect;
mod follow;
mod take_over;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use firn_proto::codec;
use firn_proto::env::Mono;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::journal::{JournalError, JournalOpener};
use firn_proto::limits::PROCESS_CARD_BYTES_MAX;
use tokio::sync::mpsc;
use tracing::warn;

use crate::election::Election;
use crate::handle::{CoordinatorConfig, CoordinatorTask, EndReason, Environment};
use crate::peers::{LeaderLink, Peers, ProcessCard};
use crate::standby::Standby;
use crate::standing::Standing;
use crate::task::{Call, Leader, Left, Message, Publish, may_pass, seen_by};

/// A seat that nobody has taken.
pub struct Seat {
    environment: Environment,
    publish: Publish,
    inbox: mpsc::Receiver<Message>,
    standing: Arc<Standing>,
}

impl Seat {
    pub(crate) fn new(
        environment: Environment,
        publish: Publish,
        inbox: mpsc::Receiver<Message>,
        standing: Arc<Standing>,
    ) -> Self {
        Self {
            environment,
            publish,
            inbox,
            standing,
        }
    }

    /// Finds the cluster's leader or becomes it, and goes on doing so from then on. Returns once
    /// there is a picture of the cluster.
    ///
    /// # Errors
    /// [`EndReason`]: the bucket does not serve the journal (after `start_timeout`), or that cannot
    /// be used.
    pub async fn take(
        self,
        opener: Arc<dyn JournalOpener>,
        config: CoordinatorConfig,
        peers: Arc<dyn Peers>,
    ) -> Result<CoordinatorTask, EndReason> {
        let mut image = self.publish.image.subscribe();
        let mut task = self.take_now(opener, config, peers);
        let shown = image.wait_for(|image| image.version > 0);
        tokio::select! {
            biased;
            Ok(_) = shown => Ok(task),
            ended = task.ended() => match ended {
                Ok(()) => Ok(task),
                Err(reason) => Err(reason),
            },
        }
    }

    /// [`Self::take`], which does not wait for anything.
    pub(crate) fn take_now(
        self,
        opener: Arc<dyn JournalOpener>,
        config: CoordinatorConfig,
        peers: Arc<dyn Peers>,
    ) -> CoordinatorTask {
        CoordinatorTask::new(tokio::spawn(self.sit(opener, config, peers).run()))
    }

    fn sit(
        self,
        opener: Arc<dyn JournalOpener>,
        config: CoordinatorConfig,
        peers: Arc<dyn Peers>,
    ) -> Sitter {
        let card = decode_card(&config.identity);
        let may_lead = !peers.is_alone() && !config.never_leads;
        let standby = may_lead.then(Standby::default);
        Sitter {
            began: self.environment.clock.mono(),
            own: card.map(|card| card.link.fingerprint),
            opener,
            config,
            environment: self.environment,
            peers,
            publish: self.publish,
            inbox: self.inbox,
            standing: self.standing,
            standby,
            parked: VecDeque::new(),
            leaderless_since: None,
            started: false,
            gone: None,
            last_claimed: CoordinatorEpoch(0),
        }
    }
}

/// Who a claim says it is; `None` if that cannot be read.
fn decode_card(identity: &[u8]) -> Option<ProcessCard> {
    codec::decode::<PROCESS_CARD_BYTES_MAX, _>(identity).ok()
}

/// A call that waits for a leader.
struct Parked {
    call: Call,
    /// It is refused then.
    deadline: Mono,
}

/// Whoever sits there.
struct Sitter {
    opener: Arc<dyn JournalOpener>,
    config: CoordinatorConfig,
    environment: Environment,
    peers: Arc<dyn Peers>,
    publish: Publish,
    inbox: mpsc::Receiver<Message>,
    standing: Arc<Standing>,
    /// What it knows of the journal of the leader that it follows, or followed last.
    standby: Option<Standby>,
    /// Of this process's certificate; `None` in tests and where there is one process only.
    own: Option<Fingerprint>,
    parked: VecDeque<Parked>,
    /// When it took the seat.
    began: Mono,
    leaderless_since: Option<Mono>,
    /// It has led or followed before.
    started: bool,
    /// The process that led before, if it is gone for certain.
    gone: Option<Fingerprint>,
    /// The last epoch that this process took.
    last_claimed: CoordinatorEpoch,
}

/// How an election ended for this process.
enum Elected {
    Leads(Box<Leader>),
    Follows {
        link: Box<dyn LeaderLink>,
        leader: ProcessCard,
        epoch: CoordinatorEpoch,
    },
    Stopped,
}

/// Whether it goes on.
enum Next {
    Elect,
    ElectLater,
    Stop,
}

impl Sitter {
    async fn run(mut self) -> Result<(), EndReason> {
        let mut next = Next::Elect;
        loop {
            let now = self.environment.clock.mono();
            let mut election = Election::new(now, self.config.broker_session);
            match next {
                Next::Stop => return Ok(()),
                Next::ElectLater => election.on_no_bucket(now, self.environment.entropy.next_u64()),
                Next::Elect => {}
            }
            self.leaderless_since.get_or_insert(now);
            next = match Box::pin(self.elect(election)).await? {
                Elected::Leads(leader) => Box::pin(self.lead(leader)).await?,
                Elected::Follows {
                    link,
                    leader,
                    epoch,
                } => {
                    self.begin();
                    Box::pin(self.follow(link, &leader, epoch)).await
                }
                Elected::Stopped => Next::Stop,
            };
        }
    }

    /// There is a leader again.
    fn begin(&mut self) {
        self.leaderless_since = None;
        self.started = true;
    }

    /// Leads until it is stopped or another process does.
    async fn lead(&mut self, mut leader: Box<Leader>) -> Result<Next, EndReason> {
        self.begin();
        for parked in std::mem::take(&mut self.parked) {
            leader.take_call(parked.call);
        }
        let left = leader.serve(&mut self.inbox, &self.publish).await;
        self.standing.set_leads(None);
        self.standing.feed().end();
        let Left::Journal(error) = left else {
            return Ok(Next::Stop);
        };
        leader.resign(&error);
        match error {
            JournalError::Fenced { .. } | JournalError::Superseded { .. }
                if !self.peers.is_alone() =>
            {
                warn!(%error, "another process leads; this one follows it");
                Ok(Next::Elect)
            }
            error if may_pass(&error) => {
                let now = self.environment.clock.mono();
                self.publish.note_look(now, seen_by(&error));
                warn!(%error, "the journal does not answer; its memory is dropped and read anew");
                Ok(Next::ElectLater)
            }
            error => Err(error.into()),
        }
    }
}

/// How often a process without a leader sees to those who wait for one.
const WAIT_TICK: Duration = Duration::from_millis(500);
