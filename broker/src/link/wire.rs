//! Messages over the two halves of a link: one reader, and one writer that sends what waits in an
//! outbox. Whatever goes wrong ends the link.

use std::sync::{Arc, Mutex, PoisonError};

use firn_proto::limits::{LINK_QUEUE_MAX, LINK_STALL_MAX};
use firn_proto::link::{
    AssemblyFault, FrameFault, FrameReader, Kind, Message, MessageFault, PROTOCOL_VERSION, Refusal,
    RefusalReason,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::timeout;

use super::figures::PeerFigures;
use super::outbox::{Calls, Outbox};
use super::transport::{LinkReader, LinkWriter};

/// Why a link has ended.
#[derive(Clone, Debug, Error)]
pub(super) enum LinkFault {
    /// The other side has closed it, or has gone.
    #[error("the other side has gone")]
    Ended,
    /// The transport has failed.
    #[error("the transport failed: {0}")]
    Transport(String),
    /// The other side takes nothing.
    #[error("the other side reads too slowly: nothing was taken for {} s", LINK_STALL_MAX.as_secs())]
    Slow,
    /// The other side says nothing.
    #[error("the other side has said nothing for too long")]
    Silent,
    /// It speaks something else.
    #[error(transparent)]
    Frame(#[from] FrameFault),
    /// It says what cannot be understood.
    #[error(transparent)]
    Message(#[from] MessageFault),
    /// It says what has no place there.
    #[error("a {0:?} frame has no place here")]
    Unexpected(Kind),
    /// It asks or answers what cannot be understood.
    #[error("{0}")]
    Call(String),
    /// It asks on and on, and reads no answers.
    #[error("it asks on and does not read the answers: {LINK_QUEUE_MAX} of them wait for it")]
    Flooded,
    /// There are too many links.
    #[error("too many links are open")]
    Crowded,
    /// This side does not want this link, or no longer, and says why.
    #[error("{0}")]
    Refusing(Refusal),
    /// It does not want this link, or no longer.
    #[error("it refuses the link: {0}")]
    Refused(Refusal),
    /// This side does not want it any more.
    #[error("this side gave the link up")]
    Dropped,
}

impl From<AssemblyFault> for LinkFault {
    fn from(fault: AssemblyFault) -> Self {
        Self::Call(fault.to_string())
    }
}

impl LinkFault {
    /// What the other side is told of it, if it is at fault.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let reason = match self {
            Self::Refusing(refusal) => return Some(refusal.clone()),
            Self::Frame(FrameFault::Version(_)) => RefusalReason::Version,
            Self::Frame(_) | Self::Message(_) | Self::Unexpected(_) | Self::Call(_) => {
                RefusalReason::Malformed
            }
            Self::Flooded | Self::Crowded => RefusalReason::Busy,
            Self::Ended
            | Self::Transport(_)
            | Self::Slow
            | Self::Silent
            | Self::Refused(_)
            | Self::Dropped => return None,
        };
        Some(refusal(reason, self.to_string()))
    }
}

/// A refusal by this process.
pub(super) fn refusal(reason: RefusalReason, text: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        version: PROTOCOL_VERSION,
        text: text.into(),
    }
}

/// What the other side says.
pub(super) struct MessageReader {
    reader: LinkReader,
    frames: FrameReader,
    figures: Arc<PeerFigures>,
}

impl MessageReader {
    /// From the beginning of a link.
    pub(super) fn new(reader: LinkReader, figures: Arc<PeerFigures>) -> Self {
        Self {
            reader,
            frames: FrameReader::default(),
            figures,
        }
    }

    /// Counts what comes from now on as that of another peer.
    pub(super) fn count_for(&mut self, figures: Arc<PeerFigures>) {
        self.figures = figures;
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Message, LinkFault> {
        loop {
            if let Some(frame) = self.frames.take()? {
                self.figures.on_read(frame.bytes());
                return Ok(Message::of(frame)?);
            }
            match self.reader.read_buf(self.frames.buffer()).await {
                Ok(0) => return Err(LinkFault::Ended),
                Ok(_) => {}
                Err(error) => return Err(LinkFault::Transport(error.to_string())),
            }
        }
    }

    /// Reads whatever comes until the other side ends the link.
    pub(super) async fn drain(&mut self) {
        let mut rest = [0; 1024];
        while !matches!(self.reader.read(&mut rest).await, Ok(0) | Err(_)) {}
    }
}

/// What this side says.
pub(super) struct MessageWriter {
    writer: LinkWriter,
    figures: Arc<PeerFigures>,
}

impl MessageWriter {
    /// From the beginning of a link.
    pub(super) fn new(writer: LinkWriter, figures: Arc<PeerFigures>) -> Self {
        Self { writer, figures }
    }

    /// Counts what goes from now on as that of another peer.
    pub(super) fn count_for(&mut self, figures: Arc<PeerFigures>) {
        self.figures = figures;
    }

    /// Sends one message. Fails if the other side does not take it.
    pub(super) async fn write(&mut self, message: &Message) -> Result<(), LinkFault> {
        let frame = message.to_frame()?;
        let writer = &mut self.writer;
        let write = async {
            writer.write_all(&frame.header()).await?;
            writer.write_all(&frame.body).await?;
            writer.flush().await
        };
        match timeout(LINK_STALL_MAX, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(LinkFault::Transport(error.to_string())),
            Err(_) => return Err(LinkFault::Slow),
        }
        self.figures.on_written(frame.bytes());
        Ok(())
    }

    /// Says that no more will come.
    pub(super) async fn shutdown(&mut self) -> Result<(), LinkFault> {
        let shut = self.writer.shutdown().await;
        shut.map_err(|e| LinkFault::Transport(e.to_string()))
    }
}

/// What waits to be sent, and the one who sends it.
#[derive(Debug)]
pub(super) struct Sender {
    outbox: Mutex<Outbox>,
    figures: Arc<PeerFigures>,
    /// Something waits.
    filled: Notify,
    /// Something has gone.
    emptied: Notify,
}

impl Sender {
    pub(super) fn new(calls: Calls, figures: Arc<PeerFigures>) -> Self {
        Self {
            outbox: Mutex::new(Outbox::new(calls)),
            figures,
            filled: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Puts something in, or looks.
    pub(super) fn with<T>(&self, put: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let done = put(&mut outbox);
        self.figures.set_queued(outbox.waiting());
        drop(outbox);
        self.filled.notify_one();
        done
    }

    /// Nobody wants the answer to a question any more ([`Outbox::forget`]).
    pub(super) fn forget(&self, call: u64) -> bool {
        let is_withdrawn = self.with(|outbox| outbox.forget(call));
        if is_withdrawn {
            self.emptied.notify_waiters();
        }
        is_withdrawn
    }

    /// Resolves once something more has gone; enabled before the outbox is looked at.
    pub(super) fn emptied(&self) -> Notified<'_> {
        self.emptied.notified()
    }

    /// Nothing more will go: whoever waits for room is to look why.
    pub(super) fn emptied_for_good(&self) {
        self.emptied.notify_waiters();
    }

    /// Waits until the last picture has gone. Cancel-safe.
    pub(super) async fn wants_update(&self) {
        loop {
            let emptied = self.emptied();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            let outbox = self.outbox.lock();
            if outbox
                .unwrap_or_else(PoisonError::into_inner)
                .wants_update()
            {
                return;
            }
            emptied.await;
        }
    }

    /// Sends what waits, until that fails or the last word has gone. Dropped in the midst of a frame
    /// it leaves a link on which nothing more can be said.
    pub(super) async fn run(&self, writer: &mut MessageWriter) -> LinkFault {
        loop {
            let next = self.with_next();
            let Some(message) = next else {
                self.filled.notified().await;
                continue;
            };
            self.emptied.notify_waiters();
            if let Err(fault) = writer.write(&message).await {
                return fault;
            }
            if Outbox::is_end(&message) {
                return LinkFault::Dropped;
            }
        }
    }

    fn with_next(&self) -> Option<Message> {
        let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let next = outbox.next();
        self.figures.set_queued(outbox.waiting());
        next
    }
}
