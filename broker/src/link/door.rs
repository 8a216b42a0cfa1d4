//! Takes the links of other processes, and serves the coordinator of this one over them.
//!
//! Who is not of this cluster is refused, and told why. Whoever breaks the protocol, says nothing or
//! reads nothing is cut off. All of that is a line in the log, unless there are many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_coordinator::FromLeader;
use firn_proto::cluster::Beat;
use firn_proto::env::Clock;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::limits::{
    CONNECTION_LINES_MAX, LINK_ACCEPT_MAX, LINK_HANDSHAKES_MAX, LINK_SILENCE_MAX, LINKS_MAX,
    LINKS_PER_PEER_MAX,
};
use firn_proto::link::{Heard, Hello, Message, RefusalReason, Welcome};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::leading::{Leading, Pictures};
use super::opening::{Introduction, decode_card, encode_card};
use super::outbox::Calls;
use super::registry::Registry;
use super::transport::{Accepted, LinkWriter, Transport};
use super::wire::{LinkFault, MessageReader, Sender, refusal, write};
use crate::kafka::seldom::Seldom;

/// See the module.
pub struct LinkDoor {
    transport: Arc<dyn Transport>,
    registry: Arc<Registry>,
    leading: Arc<dyn Leading>,
    me: Introduction,
    clock: Arc<dyn Clock>,
    places: Arc<Mutex<Places>>,
    lines: Mutex<Seldom>,
}

/// Who has how many links.
#[derive(Debug, Default)]
struct Places {
    all: usize,
    /// Of those whose processes are not known to belong to the cluster.
    strangers: usize,
    by_peer: BTreeMap<Fingerprint, usize>,
}

/// The place of one link; free again when dropped.
struct Place {
    places: Arc<Mutex<Places>>,
    peer: Fingerprint,
    is_stranger: bool,
}

impl LinkDoor {
    /// A door that is still closed.
    pub fn new(
        transport: Arc<dyn Transport>,
        registry: Arc<Registry>,
        leading: Arc<dyn Leading>,
        me: Introduction,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let second = Duration::from_secs(1);
        Self {
            transport,
            registry,
            leading,
            me,
            clock,
            places: Arc::default(),
            lines: Mutex::new(Seldom::new(CONNECTION_LINES_MAX, second)),
        }
    }

    /// Takes links and serves them, until the process stops.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) {
        let mut links = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = links.join_next() => continue,
                accepted = self.transport.accept() => accepted,
            };
            let Some(accepted) = accepted else { break };
            match Place::take(&self.places, accepted.peer) {
                Some(place) => {
                    links.spawn(Arc::clone(&self).serve_one(accepted, place));
                }
                None => self.log(&accepted, &LinkFault::Crowded),
            }
        }
        links.shutdown().await;
    }

    async fn serve_one(self: Arc<Self>, mut accepted: Accepted, mut place: Place) {
        let reader = std::mem::replace(&mut accepted.reader, Box::new(tokio::io::empty()));
        let mut reader = MessageReader::new(reader);
        let Cut { fault, is_told } = match self.talk(&mut reader, &mut accepted, &mut place).await {
            Ok(never) => match never {},
            Err(cut) => cut,
        };
        self.log(&accepted, &fault);
        let Some(refusal) = fault.refusal() else {
            return;
        };
        let tell = async {
            if !is_told {
                write(&mut accepted.writer, &Message::Refused(refusal)).await?;
            }
            let shut = accepted.writer.shutdown().await;
            shut.map_err(|e| LinkFault::Transport(e.to_string()))?;
            // What is not sent yet would be lost with the link, so that it is kept until the other
            // side has read it.
            reader.drain().await;
            Ok::<(), LinkFault>(())
        };
        if let Ok(Err(error)) = timeout(LINK_ACCEPT_MAX, tell).await {
            tracing::debug!(from = accepted.from, %error, "who was refused does not hear why");
        }
    }

    async fn talk(
        &self,
        reader: &mut MessageReader,
        accepted: &mut Accepted,
        place: &mut Place,
    ) -> Result<Never, Cut> {
        match soon(reader).await? {
            Message::Hello(hello) => self.check(hello, accepted.peer).await?,
            message => return Err(LinkFault::Unexpected(message.kind()).into()),
        }
        place.is_known();
        let card = encode_card(&self.me.card).map_err(|e| LinkFault::Call(e.to_string()))?;
        let writer = &mut accepted.writer;
        write(writer, &Message::Welcome(Welcome { card })).await?;
        loop {
            match soon(reader).await? {
                Message::AskHeard => {
                    let heard = self.leading.heard_leader(self.clock.mono());
                    let heard = heard.map(|(epoch, ago)| Heard { epoch, ago });
                    write(writer, &Message::Heard(heard)).await?;
                }
                Message::Follow(epoch) => {
                    let pictures = self.leading.followed();
                    let led = self.leading.leads();
                    let Some(pictures) = pictures.filter(|_| led == Some(epoch)) else {
                        return Err(not_leading(epoch).into());
                    };
                    write(writer, &Message::Following(epoch)).await?;
                    return Err(self.lead(epoch, reader, writer, pictures).await);
                }
                message => return Err(LinkFault::Unexpected(message.kind()).into()),
            }
        }
    }

    /// Whether the process that opened a link belongs to this cluster.
    async fn check(&self, hello: Hello, peer: Fingerprint) -> Result<(), LinkFault> {
        let refused = |reason, text| LinkFault::Refusing(refusal(reason, text));
        if hello.cluster != self.me.cluster {
            let (theirs, ours) = (hello.cluster, self.me.cluster);
            let text = format!(
                "this process belongs to cluster {ours}, and not to {theirs}: its bucket is another one"
            );
            return Err(refused(RefusalReason::Cluster, text));
        }
        let card = decode_card(&hello.card).map_err(|e| LinkFault::Call(e.to_string()))?;
        if card.link.fingerprint != peer {
            let text = "the card names another certificate than the one that is shown".to_owned();
            return Err(refused(RefusalReason::Malformed, text));
        }
        match self.registry.card_of_stranger(peer).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let text = format!(
                    "certificate {peer} is not registered in the bucket of this cluster: its process \
                     has left it, or was declared dead"
                );
                Err(refused(RefusalReason::Unregistered, text))
            }
            Err(error) => {
                let text = format!("whether the certificate is registered is not known: {error}");
                Err(refused(RefusalReason::Busy, text))
            }
        }
    }

    /// Serves a follower until the link breaks or this process leads no more.
    async fn lead(
        &self,
        epoch: CoordinatorEpoch,
        reader: &mut MessageReader,
        writer: &mut LinkWriter,
        mut pictures: Box<dyn Pictures>,
    ) -> Cut {
        let sender = Sender::new(Calls::Answered);
        let beaten = Notify::new();
        let beats = pictures.beats();
        let on_beat = |beat: Beat| {
            beats(beat);
            beaten.notify_one();
        };
        let mut answers = Answers::new(&*self.leading, &sender);
        let sending = sender.run(writer);
        tokio::pin!(sending);
        let fault = tokio::select! {
            fault = &mut sending => return fault.into(),
            fault = answers.run(reader, on_beat) => fault,
            fault = show(&mut *pictures, &sender, epoch) => fault,
            fault = hear(&beaten) => fault,
        };
        let Some(refusal) = fault.refusal() else {
            return fault.into();
        };
        // Behind the frame that is being sent, which nothing may cut short.
        sender.with(|outbox| outbox.end(Message::Refused(refusal)));
        drop(timeout(LINK_ACCEPT_MAX, sending).await);
        let is_told = true;
        Cut { fault, is_told }
    }

    fn log(&self, accepted: &Accepted, fault: &LinkFault) {
        let (from, peer) = (&accepted.from, accepted.peer);
        match fault {
            LinkFault::Ended | LinkFault::Transport(_) | LinkFault::Dropped => {
                tracing::debug!(%from, %peer, reason = %fault, "broker link closed");
            }
            LinkFault::Refusing(refusal) if refusal.reason == RefusalReason::NotLeading => {
                tracing::debug!(%from, %peer, reason = %fault, "broker link closed");
            }
            fault => {
                let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
                let due = lines.due(self.clock.mono());
                drop(lines);
                if let Some(left_out) = due {
                    let left_out = (left_out > 0).then_some(left_out);
                    tracing::warn!(%from, %peer, reason = %fault, left_out, "broker link refused or cut");
                }
            }
        }
    }
}

/// Why a link is served no more.
struct Cut {
    fault: LinkFault,
    /// The other side has been told.
    is_told: bool,
}

impl From<LinkFault> for Cut {
    fn from(fault: LinkFault) -> Self {
        let is_told = false;
        Self { fault, is_told }
    }
}

/// What a talk that goes on until something is wrong has as its result.
enum Never {}

async fn soon(reader: &mut MessageReader) -> Result<Message, LinkFault> {
    let next = timeout(LINK_ACCEPT_MAX, reader.next()).await;
    next.map_err(|_| LinkFault::Silent)?
}

fn not_leading(epoch: CoordinatorEpoch) -> LinkFault {
    let text = format!("this process does not lead epoch {epoch}");
    LinkFault::Refusing(refusal(RefusalReason::NotLeading, text))
}

/// Hands pictures to the one who sends, one at a time.
async fn show(pictures: &mut dyn Pictures, sender: &Sender, epoch: CoordinatorEpoch) -> LinkFault {
    loop {
        sender.wants_update().await;
        let Some(update) = pictures.next().await else {
            return not_leading(epoch);
        };
        sender.with(|outbox| match update {
            FromLeader::Image(update) => outbox.update(Message::Image(update)),
            FromLeader::Journal(part) => outbox.update(Message::Journal(part)),
            FromLeader::Beat(beat) => outbox.beat(Message::LeaderBeat(beat)),
        });
    }
}

/// Waits until the follower says no more that it lives: half of a link may stay open for long.
async fn hear(beaten: &Notify) -> LinkFault {
    while timeout(LINK_SILENCE_MAX, beaten.notified()).await.is_ok() {}
    LinkFault::Silent
}

impl Place {
    fn take(places: &Arc<Mutex<Places>>, peer: Fingerprint) -> Option<Self> {
        let mut taken = places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = taken.by_peer.get(&peer).copied().unwrap_or_default();
        if taken.all >= LINKS_MAX
            || taken.strangers >= LINK_HANDSHAKES_MAX
            || of_peer >= LINKS_PER_PEER_MAX
        {
            return None;
        }
        taken.all += 1;
        taken.strangers += 1;
        taken.by_peer.insert(peer, of_peer + 1);
        Some(Self {
            places: Arc::clone(places),
            peer,
            is_stranger: true,
        })
    }

    /// Its process belongs to the cluster.
    fn is_known(&mut self) {
        if std::mem::take(&mut self.is_stranger) {
            let mut taken = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            taken.strangers -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        taken.strangers -= usize::from(self.is_stranger);
        if let Some(of_peer) = taken.by_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_leave_room_for_those_who_belong_to_the_cluster() {
        let places = Arc::new(Mutex::new(Places::default()));
        let peer = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            Fingerprint(bytes)
        };
        let mut strangers = Vec::new();
        while let Some(place) = Place::take(&places, peer(strangers.len())) {
            strangers.push(place);
        }
        assert_eq!(strangers.len(), LINK_HANDSHAKES_MAX);
        strangers[0].is_known();
        strangers[0].is_known();
        let mut member = Place::take(&places, peer(usize::MAX)).unwrap();
        member.is_known();
        assert_eq!(places.lock().unwrap().strangers, LINK_HANDSHAKES_MAX - 1);
        drop((strangers, member));
        let left = places.lock().unwrap();
        assert_eq!((left.all, left.strangers, left.by_peer.len()), (0, 0, 0));
    }

    #[test]
    fn one_process_has_a_few_places_and_all_have_so_many() {
        let places = Arc::new(Mutex::new(Places::default()));
        let mut taken = Vec::new();
        for peer in 0..=u8::MAX {
            let peer = Fingerprint([peer; 32]);
            let mut of_peer = 0;
            while let Some(mut place) = Place::take(&places, peer) {
                place.is_known();
                taken.push(place);
                of_peer += 1;
            }
            assert!(of_peer <= LINKS_PER_PEER_MAX);
        }
        assert_eq!(taken.len(), LINKS_MAX);
    }
}
