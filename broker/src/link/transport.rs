//! What a link runs over: ordered streams of bytes between two processes of which each knows whose
//! certificate the other has. QUIC in a real process, memory in a simulation.
//!
//! May not touch: what the bytes say.

use firn_proto::cluster::LinkAddress;
use firn_proto::ids::Fingerprint;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// What the other side sends. Ends, or fails, when the other side has gone.
pub type LinkReader = Box<dyn AsyncRead + Send + Unpin>;
/// What this side sends.
pub type LinkWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// Carries links. Both halves of a link dropped end it on both sides.
pub trait Transport: Send + Sync + 'static {
    /// Opens a link to the process with that certificate, and to no other one. Bounded in time;
    /// dropping it gives up.
    fn connect(
        &self,
        to: LinkAddress,
    ) -> BoxFuture<'static, Result<(LinkReader, LinkWriter), ConnectError>>;

    /// The next link that another process has opened, and never one whose handshake is still under
    /// way; `None` once this process takes no more. Cancel-safe.
    fn accept(&self) -> BoxFuture<'_, Option<Accepted>>;

    /// Ends all links, and takes no more. Bounded in time.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A link that another process has opened.
pub struct Accepted {
    /// The certificate it has shown, and has the key of. Whether it belongs to the cluster is for
    /// the registry to say.
    pub peer: Fingerprint,
    /// Where it comes from, for people.
    pub from: String,
    /// What it sends.
    pub reader: LinkReader,
    /// What it is sent.
    pub writer: LinkWriter,
}

/// Why there is no link.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// Nobody listens there.
    #[error("nobody listens there")]
    Refused,
    /// Another process listens there, with that certificate: the one that had the place has ended.
    #[error("another process answers there, with certificate {0}")]
    Another(Fingerprint),
    /// Nobody has answered.
    #[error("it does not answer: {0}")]
    NoAnswer(String),
    /// It answers, and does not want to.
    #[error("{0}")]
    Rejected(String),
}
