//! How a link begins: each side says who it is, and the one that is asked may refuse.
//!
//! May not touch: what is said over it later.

use std::sync::Arc;

use firn_coordinator::{PeerError, ProcessCard};
use firn_proto::cluster::LinkAddress;
use firn_proto::codec::{self, CodecError};
use firn_proto::ids::ClusterId;
use firn_proto::limits::{LINK_ACCEPT_MAX, LINK_HELLO_BYTES_MAX};
use firn_proto::link::{Hello, Message, RefusalReason};
use tokio::time::timeout;

use super::transport::{ConnectError, LinkWriter, Transport};
use super::wire::{LinkFault, MessageReader, write};

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
    pub(super) writer: LinkWriter,
}

/// Opens a link to the process at `to`. Bounded in time.
pub(super) async fn open(
    transport: Arc<dyn Transport>,
    me: Introduction,
    to: LinkAddress,
) -> Result<Opened, PeerError> {
    let (reader, mut writer) = transport.connect(to).await.map_err(|error| match error {
        ConnectError::Refused => PeerError::Refused,
        ConnectError::NoAnswer(_) => PeerError::NoAnswer,
        ConnectError::Rejected(reason) => PeerError::Rejected(reason),
    })?;
    let card = encode_card(&me.card).map_err(|e| PeerError::Rejected(e.to_string()))?;
    let hello = Message::Hello(Hello {
        cluster: me.cluster,
        card,
    });
    let mut reader = MessageReader::new(reader);
    // Why it does not take the link may be there though it takes nothing any more.
    let sent = write(&mut writer, &hello).await;
    match (next(&mut reader).await?, sent) {
        (Message::Welcome(_), Ok(())) => Ok(Opened { reader, writer }),
        (Message::Welcome(_), Err(fault)) => Err(peer_error(&fault)),
        (message, _) => Err(unexpected(&message)),
    }
}

impl Opened {
    /// Says something, and waits for what the other side says to it. Bounded in time.
    pub(super) async fn ask(&mut self, question: &Message) -> Result<Message, PeerError> {
        let sent = write(&mut self.writer, question).await;
        sent.map_err(|fault| peer_error(&fault))?;
        next(&mut self.reader).await
    }
}

async fn next(reader: &mut MessageReader) -> Result<Message, PeerError> {
    match timeout(LINK_ACCEPT_MAX, reader.next()).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(fault)) => Err(peer_error(&fault)),
        Err(_) => Err(PeerError::NoAnswer),
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
        | LinkFault::Crowded
        | LinkFault::Dropped => PeerError::NoAnswer,
        LinkFault::Refused(refusal) | LinkFault::Refusing(refusal) => match refusal.reason {
            RefusalReason::NotLeading => PeerError::NotLeading,
            RefusalReason::Busy | RefusalReason::Stopping => PeerError::NoAnswer,
            RefusalReason::Cluster
            | RefusalReason::Unregistered
            | RefusalReason::Version
            | RefusalReason::Malformed => PeerError::Rejected(refusal.to_string()),
        },
        LinkFault::Frame(_)
        | LinkFault::Message(_)
        | LinkFault::Unexpected(_)
        | LinkFault::Call(_) => PeerError::Rejected(fault.to_string()),
    }
}
