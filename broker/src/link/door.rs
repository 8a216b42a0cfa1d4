//! Takes the links of other processes, and serves the coordinator of this one over them.
//!
//! Who is not of this cluster is refused, and told why. Whoever breaks the protocol, says nothing or
//! reads nothing is cut off. All of that is a line in the log, unless there are many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_coordinator::{FromLeader, ProcessCard};
use firn_proto::cluster::Beat;
use firn_proto::env::Clock;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::limits::{
    CONNECTION_LINES_MAX, LINK_ACCEPT_MAX, LINK_CONNECT_MAX, LINK_HANDSHAKES_MAX, LINK_SILENCE_MAX,
    LINK_TURNED_AWAY_MAX, LINKS_MAX, LINKS_PER_PEER_MAX,
};
use firn_proto::link::{Heard, Hello, Message, Refusal, RefusalReason, Welcome};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::figures::{LinkFigures, Linked};
use super::leading::{Leading, Pictures};
use super::opening::{Introduction, decode_card, encode_card};
use super::outbox::Calls;
use super::registry::Registry;
use super::shown::{Owned, Shown};
use super::transport::{Accepted, Transport};
use super::wire::{LinkFault, MessageReader, MessageWriter, Sender, refusal};
use crate::kafka::seldom::Seldom;

/// See the module.
pub struct LinkDoor {
    transport: Arc<dyn Transport>,
    registry: Arc<Registry>,
    leading: Arc<dyn Leading>,
    owned: Owned,
    me: Introduction,
    clock: Arc<dyn Clock>,
    places: Arc<Mutex<Places>>,
    lines: Mutex<Seldom>,
    figures: Arc<LinkFigures>,
    /// Cancelled when the process stops.
    stopping: CancellationToken,
}

/// Another process that has opened a link.
struct Met {
    peer: Fingerprint,
    from: String,
    reader: MessageReader,
    writer: MessageWriter,
}

impl Met {
    fn new(accepted: Accepted, figures: &LinkFigures) -> Self {
        let Accepted {
            peer,
            from,
            reader,
            writer,
        } = accepted;
        Self {
            peer,
            from,
            reader: MessageReader::new(reader, figures.others()),
            writer: MessageWriter::new(writer, figures.others()),
        }
    }

    /// Says why the link ends, unless that was said, and waits until the other side has read it: what
    /// is not sent yet would be lost with the link. Bounded in time.
    async fn tell(mut self, refusal: Option<Refusal>) -> Result<(), LinkFault> {
        let tell = async {
            if let Some(refusal) = refusal {
                self.writer.write(&Message::Refused(refusal)).await?;
            }
            self.writer.shutdown().await?;
            self.reader.drain().await;
            Ok(())
        };
        let told = timeout(LINK_ACCEPT_MAX, tell).await;
        told.unwrap_or(Err(LinkFault::Slow))
    }
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
        figures: Arc<LinkFigures>,
    ) -> Self {
        let second = Duration::from_secs(1);
        Self {
            transport,
            registry,
            leading,
            owned: Owned::default(),
            me,
            clock,
            places: Arc::default(),
            lines: Mutex::new(Seldom::new(CONNECTION_LINES_MAX, second)),
            figures,
            stopping: CancellationToken::new(),
        }
    }

    /// Shows other brokers what this process owns, too.
    #[must_use]
    pub fn with_owned(self, owned: Owned) -> Self {
        Self { owned, ..self }
    }

    /// Takes links and serves them, until the process stops. All are told that it does.
    pub async fn serve(self: Arc<Self>, stop: CancellationToken) {
        let mut links = JoinSet::new();
        let mut turned_away = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = links.join_next() => continue,
                Some(_) = turned_away.join_next() => continue,
                accepted = self.transport.accept() => accepted,
            };
            let Some(accepted) = accepted else { break };
            let peer = accepted.peer;
            // Strangers do not keep those out who are known to belong to the cluster.
            let is_member = self.registry.known(peer).is_some();
            let met = Met::new(accepted, &self.figures);
            match Place::take(&self.places, peer, is_member) {
                Some(place) => {
                    links.spawn(Arc::clone(&self).serve_one(met, place));
                }
                None => {
                    self.log(&met, &LinkFault::Crowded);
                    if let Some(refusal) = LinkFault::Crowded.refusal()
                        && turned_away.len() < LINK_TURNED_AWAY_MAX
                    {
                        self.figures.on_refusing(refusal.reason);
                        turned_away.spawn(async move { drop(met.tell(Some(refusal)).await) });
                    }
                }
            }
        }
        self.stopping.cancel();
        let all_told = async { while links.join_next().await.is_some() {} };
        if timeout(LINK_CONNECT_MAX, all_told).await.is_err() {
            tracing::debug!("some links end without a word");
        }
        links.shutdown().await;
    }

    async fn serve_one(self: Arc<Self>, mut met: Met, mut place: Place) {
        let Cut { fault, is_told } = match self.talk(&mut met, &mut place).await {
            Ok(never) => match never {},
            Err(cut) => cut,
        };
        self.log(&met, &fault);
        let Some(refusal) = fault.refusal() else {
            return;
        };
        self.figures.on_refusing(refusal.reason);
        let from = met.from.clone();
        if let Err(error) = met.tell((!is_told).then_some(refusal)).await {
            tracing::debug!(from, %error, "who was refused does not hear why");
        }
    }

    async fn talk(&self, met: &mut Met, place: &mut Place) -> Result<Never, Cut> {
        let card = match self.soon(&mut met.reader).await? {
            Message::Hello(hello) => self.check(hello, met.peer).await?,
            message => return Err(LinkFault::Unexpected(message.kind()).into()),
        };
        place.is_known();
        let linked = self.figures.link(&card.link);
        met.reader.count_for(linked.peer());
        met.writer.count_for(linked.peer());
        let card = encode_card(&self.me.card).map_err(|e| LinkFault::Call(e.to_string()))?;
        met.writer
            .write(&Message::Welcome(Welcome { card }))
            .await?;
        loop {
            match self.soon(&mut met.reader).await? {
                Message::AskHeard => {
                    let heard = self.leading.heard_leader(self.clock.mono());
                    let heard = heard.map(|(epoch, ago)| Heard { epoch, ago });
                    met.writer.write(&Message::Heard(heard)).await?;
                }
                Message::Follow(epoch) => {
                    let pictures = self.leading.followed(met.peer);
                    let led = self.leading.leads();
                    let Some(pictures) = pictures.filter(|_| led == Some(epoch)) else {
                        return Err(not_leading(epoch).into());
                    };
                    met.writer.write(&Message::Following(epoch)).await?;
                    return Err(self.lead(epoch, met, &linked, pictures).await);
                }
                Message::Look(first) => {
                    let sender = Sender::new(Calls::Sights, linked.peer());
                    let mut shown = Shown::new(&self.owned, &sender);
                    let Met { reader, writer, .. } = met;
                    let served = async {
                        tokio::select! {
                            () = self.stopping.cancelled() => stopping(),
                            fault = shown.run(first, reader) => fault,
                        }
                    };
                    return Err(send_beside(served, &sender, writer).await);
                }
                message => return Err(LinkFault::Unexpected(message.kind()).into()),
            }
        }
    }

    /// The next message of whoever has yet to say what the link is for.
    async fn soon(&self, reader: &mut MessageReader) -> Result<Message, LinkFault> {
        tokio::select! {
            () = self.stopping.cancelled() => Err(stopping()),
            next = timeout(LINK_ACCEPT_MAX, reader.next()) => {
                next.map_err(|_| LinkFault::Silent)?
            }
        }
    }

    /// Whether the process that opened a link belongs to this cluster.
    async fn check(&self, hello: Hello, peer: Fingerprint) -> Result<Arc<ProcessCard>, LinkFault> {
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
            Ok(Some(card)) => Ok(card),
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
        met: &mut Met,
        linked: &Linked,
        mut pictures: Box<dyn Pictures>,
    ) -> Cut {
        let sender = Sender::new(Calls::Answered, linked.peer());
        let beaten = Notify::new();
        let beats = pictures.beats();
        let on_beat = |beat: Beat| {
            linked.on_beat();
            beats(beat);
            beaten.notify_one();
        };
        let mut answers = Answers::new(&*self.leading, &sender);
        let Met { reader, writer, .. } = met;
        let served = async {
            tokio::select! {
                () = self.stopping.cancelled() => stopping(),
                fault = answers.run(reader, on_beat) => fault,
                fault = show(&mut *pictures, &sender, epoch) => fault,
                fault = hear(&beaten) => fault,
            }
        };
        send_beside(served, &sender, writer).await
    }

    fn log(&self, met: &Met, fault: &LinkFault) {
        let (from, peer) = (&met.from, met.peer);
        match fault {
            LinkFault::Ended | LinkFault::Transport(_) | LinkFault::Dropped => {
                tracing::debug!(%from, %peer, reason = %fault, "broker link closed");
            }
            LinkFault::Refusing(Refusal {
                reason: RefusalReason::NotLeading | RefusalReason::Stopping,
                ..
            }) => {
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

/// Sends what is put into `sender` until what is `served` beside it ends, and then says why.
async fn send_beside(
    served: impl Future<Output = LinkFault>,
    sender: &Sender,
    writer: &mut MessageWriter,
) -> Cut {
    let sending = sender.run(writer);
    tokio::pin!(sending);
    let fault = tokio::select! {
        fault = &mut sending => return fault.into(),
        fault = served => fault,
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

/// What a talk that goes on until something is wrong has as its result.
enum Never {}

fn stopping() -> LinkFault {
    LinkFault::Refusing(refusal(RefusalReason::Stopping, "this process stops"))
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
    fn take(places: &Arc<Mutex<Places>>, peer: Fingerprint, is_member: bool) -> Option<Self> {
        let mut taken = places.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = taken.by_peer.get(&peer).copied().unwrap_or_default();
        if taken.all >= LINKS_MAX
            || (!is_member && taken.strangers >= LINK_HANDSHAKES_MAX)
            || of_peer >= LINKS_PER_PEER_MAX
        {
            return None;
        }
        taken.all += 1;
        taken.strangers += usize::from(!is_member);
        taken.by_peer.insert(peer, of_peer + 1);
        Some(Self {
            places: Arc::clone(places),
            peer,
            is_stranger: !is_member,
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
        while let Some(place) = Place::take(&places, peer(strangers.len()), false) {
            strangers.push(place);
        }
        assert_eq!(strangers.len(), LINK_HANDSHAKES_MAX);
        // Who was met before is known by its certificate, and is no stranger.
        assert!(Place::take(&places, peer(usize::MAX - 1), true).is_some());
        strangers[0].is_known();
        strangers[0].is_known();
        let mut member = Place::take(&places, peer(usize::MAX), false).unwrap();
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
            while let Some(mut place) = Place::take(&places, peer, false) {
                place.is_known();
                taken.push(place);
                of_peer += 1;
            }
            assert!(of_peer <= LINKS_PER_PEER_MAX);
        }
        assert_eq!(taken.len(), LINKS_MAX);
    }
}
