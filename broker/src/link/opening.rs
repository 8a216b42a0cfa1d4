//! How a link begins: each side says who it is, and the one that is asked may refuse.
//!
//! May not touch: what is said over it later.

use std::sync::Arc;

use firn_coordinator::{PeerError, ProcessCard};
use firn_proto::cluster::LinkAddress;
use firn_proto::codec::{self, CodecError};
use firn_proto::ids::ClusterId;
use firn_proto::limits::{LINK_ACCEPT_MAX, LINK_HELLO_BYTES_MAX};
use firn_proto::link::{Hello, Message, PROTOCOL_VERSION, RefusalReason};
use tokio::time::timeout;

use super::figures::{LinkFigures, Linked};
use super::transport::{ConnectError, Transport};
use super::wire::{LinkFault, MessageReader, MessageWriter};

/// Who this process is, on every link.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Whose bucket it works on.
    pub cluster: ClusterId,
    /// What it says of itself.
    pub card: Arc<ProcessCard>,
}

/// The bytes of a card, in the bucket and on links.
///
/// # Errors
/// It cannot be written.
pub fn encode_card(card: &ProcessCard) -> Result<Vec<u8>, CodecError> {
    codec::encode(card)
}

/// Reads them.
///
/// # Errors
/// They are no card.
pub fn decode_card(bytes: &[u8]) -> Result<ProcessCard, CodecError> {
    codec::decode::<{ 2 * LINK_HELLO_BYTES_MAX }, _>(bytes)
}

/// A link that this process has opened and the other has taken.
pub(super) struct Opened {
    pub(super) reader: MessageReader,
    pub(super) writer: MessageWriter,
    pub(super) linked: Linked,
    pub(super) figures: Arc<LinkFigures>,
}

/// Opens a link to the process at `to`. Bounded in time.
pub(super) async fn open(
    transport: Arc<dyn Transport>,
    me: Introduction,
    to: LinkAddress,
    figures: Arc<LinkFigures>,
) -> Result<Opened, PeerError> {
    let connected = transport.connect(to.clone()).await;
    let (reader, writer) = connected.map_err(|error| match error {
        ConnectError::Refused => PeerError::Refused,
        ConnectError::Another(_) => PeerError::Another,
        ConnectError::NoAnswer(_) => PeerError::NoAnswer,
        ConnectError::Rejected(reason) => PeerError::Rejected(reason),
    })?;
    let card = encode_card(&me.card).map_err(|e| PeerError::Rejected(e.to_string()))?;
    let hello = Message::Hello(Hello {
        cluster: me.cluster,
        card,
    });
    let linked = figures.link(&to);
    let mut opened = Opened {
        reader: MessageReader::new(reader, linked.peer()),
        writer: MessageWriter::new(writer, linked.peer()),
        linked,
        figures,
    };
    // Why it does not take the link may be there though it takes nothing any more.
    let sent = opened.writer.write(&hello).await;
    match (opened.next().await?, sent) {
        (Message::Welcome(_), Ok(())) => Ok(opened),
        (Message::Welcome(_), Err(fault)) => Err(peer_error(&fault)),
        (message, _) => Err(unexpected(&message)),
    }
}

impl Opened {
    /// Says something, and waits for what the other side says to it. Bounded in time.
    pub(super) async fn ask(&mut self, question: &Message) -> Result<Message, PeerError> {
        let sent = self.writer.write(question).await;
        sent.map_err(|fault| peer_error(&fault))?;
        self.next().await
    }

    async fn next(&mut self) -> Result<Message, PeerError> {
        match timeout(LINK_ACCEPT_MAX, self.reader.next()).await {
            Ok(Ok(message)) => {
                if let Message::Refused(refusal) = &message {
                    self.figures.on_refused(refusal.reason);
                }
                Ok(message)
            }
            Ok(Err(fault)) => Err(peer_error(&fault)),
            Err(_) => Err(PeerError::NoAnswer),
        }
    }
}

/// What it means that the other side said this in place of what it was asked for.
pub(super) fn unexpected(message: &Message) -> PeerError {
    match message {
        Message::Refused(refusal) => peer_error(&LinkFault::Refused(refusal.clone())),
        message => peer_error(&LinkFault::Unexpected(message.kind())),
    }
}

/// What the end of a link says about the process at the other end.
pub(super) fn peer_error(fault: &LinkFault) -> PeerError {
    match fault {
        LinkFault::Ended
        | LinkFault::Transport(_)
        | LinkFault::Slow
        | LinkFault::Silent
        | LinkFault::Flooded
        | LinkFault::Crowded
        | LinkFault::Dropped => PeerError::NoAnswer,
        LinkFault::Refused(refusal) | LinkFault::Refusing(refusal) => match refusal.reason {
            RefusalReason::NotLeading => PeerError::NotLeading,
            RefusalReason::Busy | RefusalReason::Stopping => PeerError::Busy,
            RefusalReason::Unregistered => PeerError::Unregistered,
            RefusalReason::Version => PeerError::Rejected(format!(
                "it speaks version {} of the broker link, and this process version \
                 {PROTOCOL_VERSION}: run the same release of firn on all machines of the cluster",
                refusal.version
            )),
            RefusalReason::Cluster | RefusalReason::Malformed => {
                PeerError::Rejected(refusal.to_string())
            }
        },
        LinkFault::Frame(_)
        | LinkFault::Message(_)
        | LinkFault::Unexpected(_)
        | LinkFault::Call(_) => PeerError::Rejected(fault.to_string()),
    }
}
