//! How the coordinator of this process reaches those of others: over links, and for what the kernel
//! knows better, over TCP and in `/proc`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use firn_coordinator::{
    LeaderLink, PeerAnswer, PeerError, Peers, Probed, ProcessCard, ProcessProof,
};
use firn_proto::cluster::{BrokerImage, LinkAddress, Listener};
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::limits::{LINK_ASK_MAX, LINK_ASKED_AT_ONCE, LINK_PROBE_MAX};
use firn_proto::link::Message;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::timeout;

use super::figures::LinkFigures;
use super::follower::FollowerLink;
use super::opening::{Introduction, open, unexpected};
use super::registry::Registry;
use super::transport::Transport;
use super::{probe, process};
use crate::kafka::seldom::Seldom;

/// The other processes of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct LinkPeers {
    transport: Arc<dyn Transport>,
    registry: Arc<Registry>,
    me: Introduction,
    figures: Arc<LinkFigures>,
    lines: Arc<Mutex<Seldom>>,
}

impl LinkPeers {
    /// As `me`, whose card is registered.
    pub fn new(
        transport: Arc<dyn Transport>,
        registry: Arc<Registry>,
        me: Introduction,
        figures: Arc<LinkFigures>,
    ) -> Self {
        Self {
            transport,
            registry,
            me,
            figures,
            lines: Arc::default(),
        }
    }

    /// Says, but not often, that a process lives and will have nothing to do with this one.
    fn log_refusal(&self, process: Fingerprint, reason: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left_out) = lines.due(self.figures.now()) {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::warn!(%process, reason, left_out, "another process refuses the links of this one");
        }
    }

    async fn link(
        self,
        leader: LinkAddress,
        epoch: CoordinatorEpoch,
    ) -> Result<Box<dyn LeaderLink>, PeerError> {
        let mut opened = open(self.transport, self.me, leader, self.figures).await?;
        match opened.ask(&Message::Follow(epoch)).await? {
            Message::Following(led) if led == epoch => Ok(Box::new(FollowerLink::start(opened))),
            message => Err(unexpected(&message)),
        }
    }

    /// Asks a process for the leader.
    async fn ask(self, to: LinkAddress) -> Result<PeerAnswer, PeerError> {
        let mut opened = open(self.transport, self.me, to, self.figures).await?;
        match opened.ask(&Message::AskHeard).await? {
            Message::Heard(Some(heard)) => Ok(PeerAnswer::Heard {
                epoch: heard.epoch,
                ago: heard.ago,
            }),
            Message::Heard(None) => Ok(PeerAnswer::NotHeard),
            message => Err(unexpected(&message)),
        }
    }

    /// Asks one of those who may be there.
    async fn ask_one(self, process: Fingerprint, known: Option<LinkAddress>) -> PeerAnswer {
        let asked = async {
            // A slow bucket is not to take all the time there is.
            let card = timeout(LINK_ASK_MAX / 2, self.registry.card(process)).await;
            let card = match card {
                Ok(Ok(None)) => return PeerAnswer::Refused,
                Ok(Ok(card)) => card,
                Ok(Err(error)) => {
                    tracing::debug!(%process, %error, "a peer is asked without its card");
                    self.registry.known(process)
                }
                Err(_) => self.registry.known(process),
            };
            let listener = card.as_ref().and_then(|card| card.listeners.first());
            let listener = listener.cloned();
            if let Some(card) = &card
                && process::is_gone(&card.process)
            {
                return PeerAnswer::Refused;
            }
            let Some(to) = card.map(|card| card.link.clone()).or(known) else {
                return PeerAnswer::NoAnswer;
            };
            match unless_refused(self.clone().ask(to), listener.clone()).await {
                Ok(answer) => answer,
                Err(PeerError::Refused) => PeerAnswer::Refused,
                Err(PeerError::Another) => match in_its_place(over_tcp(listener.as_ref()).await) {
                    Probed::Refused => PeerAnswer::Refused,
                    Probed::Silent | Probed::Answers => PeerAnswer::NoAnswer,
                },
                Err(PeerError::Unregistered) => PeerAnswer::Unregistered,
                Err(PeerError::Rejected(reason)) => {
                    self.log_refusal(process, &reason);
                    PeerAnswer::Refuses
                }
                Err(error @ (PeerError::Busy | PeerError::NotLeading)) => {
                    tracing::debug!(%process, %error, "a peer does not say whom it has heard");
                    PeerAnswer::Refuses
                }
                Err(PeerError::NoAnswer) => PeerAnswer::NoAnswer,
            }
        };
        let answer = timeout(LINK_ASK_MAX, asked).await;
        answer.unwrap_or(PeerAnswer::NoAnswer)
    }

    /// Whether a process lives that is registered: it answers, whatever it says.
    pub async fn look_after(&self, process: Fingerprint) -> Probed {
        match self.clone().ask_one(process, None).await {
            PeerAnswer::Heard { .. }
            | PeerAnswer::NotHeard
            | PeerAnswer::Refuses
            | PeerAnswer::Unregistered => Probed::Answers,
            PeerAnswer::Refused => Probed::Refused,
            PeerAnswer::NoAnswer => Probed::Silent,
        }
    }

    /// All that may be there, but for this process itself.
    async fn others(&self, known: Vec<LinkAddress>) -> BTreeMap<Fingerprint, Option<LinkAddress>> {
        let registered = match timeout(LINK_ASK_MAX, self.registry.registered()).await {
            Ok(Ok(registered)) => registered,
            Ok(Err(error)) => {
                tracing::debug!(%error, "only peers that are known are asked");
                Vec::new()
            }
            Err(_) => {
                tracing::debug!("only peers that are known are asked: the bucket is slow");
                Vec::new()
            }
        };
        let registered = registered.into_iter().map(|process| (process, None));
        let known = known.into_iter().map(|at| (at.fingerprint, Some(at)));
        let mut others: BTreeMap<_, _> = registered.chain(known).collect();
        others.remove(&self.me.card.link.fingerprint);
        others
    }
}

impl Peers for LinkPeers {
    fn follow(
        &self,
        leader: ProcessCard,
        epoch: CoordinatorEpoch,
    ) -> BoxFuture<'static, Result<Box<dyn LeaderLink>, PeerError>> {
        let peers = self.clone();
        async move {
            if process::is_gone(&leader.process) {
                return Err(PeerError::Refused);
            }
            let listener = leader.listeners.first().cloned();
            unless_refused(peers.link(leader.link, epoch), listener).await
        }
        .boxed()
    }

    fn ask_all(&self, known: Vec<LinkAddress>) -> BoxFuture<'static, Vec<PeerAnswer>> {
        let peers = self.clone();
        async move {
            let others = peers.others(known).await;
            let asked = others.into_iter();
            let asked = asked.map(|(process, known)| peers.clone().ask_one(process, known));
            let answers = stream::iter(asked).buffer_unordered(LINK_ASKED_AT_ONCE);
            answers.collect().await
        }
        .boxed()
    }

    fn probe(&self, broker: Arc<BrokerImage>) -> BoxFuture<'static, Probed> {
        let peers = self.clone();
        async move {
            let link = broker.link.clone();
            let card = link
                .as_ref()
                .and_then(|at| peers.registry.known(at.fingerprint));
            if card.is_some_and(|card| process::is_gone(&card.process)) {
                return Probed::Refused;
            }
            let over_link = async {
                let Some(to) = link else {
                    return OverLink::Says(Probed::Silent);
                };
                match timeout(LINK_PROBE_MAX, peers.ask(to)).await {
                    Ok(Ok(_) | Err(PeerError::Busy)) => OverLink::Says(Probed::Answers),
                    Ok(Err(PeerError::Refused)) => OverLink::Says(Probed::Refused),
                    Ok(Err(PeerError::Another)) => OverLink::Another,
                    Ok(Err(_)) | Err(_) => OverLink::Says(Probed::Silent),
                }
            };
            both_say(over_tcp(broker.listeners.first()), over_link).await
        }
        .boxed()
    }

    fn is_gone(&self, process: &ProcessProof) -> bool {
        process::is_gone(process)
    }

    fn own_card(&self) -> BoxFuture<'static, Option<bool>> {
        let (registry, own) = (Arc::clone(&self.registry), self.me.card.link.fingerprint);
        async move {
            match registry.look(own).await {
                Ok(card) => Some(card.is_some()),
                Err(error) => {
                    tracing::debug!(%error, "whether this process is still registered is not known");
                    None
                }
            }
        }
        .boxed()
    }
}

/// What a probe over the link brought.
enum OverLink {
    Says(Probed),
    /// Another process answers there.
    Another,
}

/// What both say together. Over TCP another process may answer that has taken the place of the one
/// that is meant; over the link nobody else can.
async fn both_say(
    over_tcp: impl Future<Output = Probed>,
    over_link: impl Future<Output = OverLink>,
) -> Probed {
    tokio::pin!(over_tcp, over_link);
    tokio::select! {
        linked = &mut over_link => match linked {
            OverLink::Says(Probed::Silent) => over_tcp.await,
            OverLink::Says(said) => said,
            OverLink::Another => in_its_place(over_tcp.await),
        },
        said = &mut over_tcp => match said {
            Probed::Refused => Probed::Refused,
            said => match over_link.await {
                OverLink::Says(Probed::Silent) => said,
                OverLink::Says(linked) => linked,
                OverLink::Another => in_its_place(said),
            },
        },
    }
}

/// What it means that another process answers the links of one: that has ended. If somebody answers
/// its clients, that may be it all the same: several may have been told one address for their links.
fn in_its_place(over_tcp: Probed) -> Probed {
    match over_tcp {
        Probed::Answers => Probed::Silent,
        Probed::Refused | Probed::Silent => Probed::Refused,
    }
}

/// What whoever listens there says to clients.
async fn over_tcp(listener: Option<&Listener>) -> Probed {
    match listener {
        Some(listener) => probe::probe(listener).await,
        None => Probed::Silent,
    }
}

/// Waits for a link, unless the kernel says that nobody listens where the process takes clients.
async fn unless_refused<T>(
    linked: impl Future<Output = Result<T, PeerError>>,
    listener: Option<Listener>,
) -> Result<T, PeerError> {
    tokio::select! {
        linked = linked => linked,
        true = probe::is_refused(listener.as_ref()) => Err(PeerError::Refused),
    }
}
