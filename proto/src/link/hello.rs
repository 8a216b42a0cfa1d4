//! How a link begins, and why it does not. Pure.

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::ids::ClusterId;

/// Who opens a link. The version of the protocol stands in the header of the frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Whose bucket it works on.
    pub cluster: ClusterId,
    /// What the process says of itself, in the encoding of its object in the bucket.
    pub card: Vec<u8>,
}

/// Who takes it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// What the process says of itself.
    pub card: Vec<u8>,
}

/// Why a link is not taken, or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RefusalReason {
    /// Another cluster.
    Cluster,
    /// The certificate is not registered in the bucket.
    Unregistered,
    /// Another version of the protocol.
    Version,
    /// The process does not lead the epoch that was asked for, or no longer.
    NotLeading,
    /// Too many links, or too much asked at a time.
    Busy,
    /// What was sent makes no sense here.
    Malformed,
    /// The process stops.
    Stopping,
}

impl RefusalReason {
    /// A word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Unregistered => "unregistered",
            Self::Version => "version",
            Self::NotLeading => "not_leading",
            Self::Busy => "busy",
            Self::Malformed => "malformed",
            Self::Stopping => "stopping",
        }
    }
}

/// Says why, for programs and for people. Its bytes are the same in every version of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Error)]
#[error("{text}")]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// The version that the refusing process speaks.
    pub version: u8,
    /// Why, in a line for people.
    pub text: String,
}
