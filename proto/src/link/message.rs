//! What each kind of frame says, and its bytes. Pure.

use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use thiserror::Error;

use super::call::{AssemblyFault, CallPart};
use super::frame::{Frame, Kind};
use super::hello::{Hello, Refusal, Welcome};
use crate::cluster::{Beat, ImageUpdate, JournalPart, LeaderBeat};
use crate::codec::{self, CodecError};
use crate::ids::CoordinatorEpoch;
use crate::limits::{LINK_FRAME_BYTES_MAX, LINK_HELLO_BYTES_MAX, LINK_WORD_BYTES_MAX};

/// When a process has last heard a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Heard {
    /// The epoch of that leader.
    pub epoch: CoordinatorEpoch,
    /// How long ago.
    pub ago: Duration,
}

/// One frame's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Kind::Hello`].
    Hello(Hello),
    /// See [`Kind::Welcome`].
    Welcome(Welcome),
    /// See [`Kind::Refused`].
    Refused(Refusal),
    /// See [`Kind::Call`].
    Call(CallPart),
    /// See [`Kind::Answer`].
    Answer(CallPart),
    /// See [`Kind::Follow`].
    Follow(CoordinatorEpoch),
    /// See [`Kind::Following`].
    Following(CoordinatorEpoch),
    /// See [`Kind::Image`].
    Image(ImageUpdate),
    /// See [`Kind::Journal`].
    Journal(JournalPart),
    /// See [`Kind::Beat`].
    Beat(Beat),
    /// See [`Kind::LeaderBeat`].
    LeaderBeat(LeaderBeat),
    /// See [`Kind::AskHeard`].
    AskHeard,
    /// See [`Kind::Heard`]; `None`: none since the process started.
    Heard(Option<Heard>),
    /// See [`Kind::Look`].
    Look(CallPart),
    /// See [`Kind::Seen`].
    Seen(CallPart),
    /// See [`Kind::Forget`]; which question.
    Forget(u64),
}

/// Why a frame says nothing. The link is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageFault {
    /// Its body cannot be read, or the message cannot be written.
    #[error("a {kind:?} frame: {error}")]
    Codec {
        /// Which.
        kind: Kind,
        /// Why.
        error: CodecError,
    },
    /// A part of a call is not one.
    #[error(transparent)]
    Call(#[from] AssemblyFault),
    /// The message is longer than its frame may be.
    #[error("a {kind:?} frame would have {length} bytes, {} are allowed", kind.bytes_max())]
    TooLong {
        /// Which.
        kind: Kind,
        /// The length of its body.
        length: usize,
    },
}

impl Message {
    /// What kind of frame says it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Welcome(_) => Kind::Welcome,
            Self::Refused(_) => Kind::Refused,
            Self::Call(_) => Kind::Call,
            Self::Answer(_) => Kind::Answer,
            Self::Follow(_) => Kind::Follow,
            Self::Following(_) => Kind::Following,
            Self::Image(_) => Kind::Image,
            Self::Journal(_) => Kind::Journal,
            Self::Beat(_) => Kind::Beat,
            Self::LeaderBeat(_) => Kind::LeaderBeat,
            Self::AskHeard => Kind::AskHeard,
            Self::Heard(_) => Kind::Heard,
            Self::Look(_) => Kind::Look,
            Self::Seen(_) => Kind::Seen,
            Self::Forget(_) => Kind::Forget,
        }
    }

    /// The frame that says it.
    ///
    /// # Errors
    /// [`MessageFault`]: it is longer than a frame of its kind.
    pub fn to_frame(&self) -> Result<Frame, MessageFault> {
        let kind = self.kind();
        let body = match self {
            Self::Hello(hello) => codec::encode(hello),
            Self::Welcome(welcome) => codec::encode(welcome),
            Self::Refused(refusal) => codec::encode(refusal),
            Self::Call(part) | Self::Answer(part) | Self::Look(part) | Self::Seen(part) => {
                return whole(kind, part.encode());
            }
            Self::Follow(epoch) | Self::Following(epoch) => codec::encode(epoch),
            Self::Image(update) => codec::encode(update),
            Self::Journal(part) => codec::encode(part),
            Self::Beat(beat) => codec::encode(beat),
            Self::LeaderBeat(beat) => codec::encode(beat),
            Self::AskHeard => Ok(Vec::new()),
            Self::Heard(heard) => codec::encode(heard),
            Self::Forget(call) => codec::encode(call),
        };
        let body = body.map_err(|error| MessageFault::Codec { kind, error })?;
        whole(kind, body.into())
    }

    /// What a frame says.
    ///
    /// # Errors
    /// [`MessageFault`].
    pub fn of(frame: Frame) -> Result<Self, MessageFault> {
        let Frame { kind, body } = frame;
        let message = match kind {
            Kind::Hello => hello(&body).map(Self::Hello),
            Kind::Welcome => hello(&body).map(Self::Welcome),
            Kind::Refused => hello(&body).map(Self::Refused),
            Kind::Call => return Ok(Self::Call(CallPart::decode(body)?)),
            Kind::Answer => return Ok(Self::Answer(CallPart::decode(body)?)),
            Kind::Look => return Ok(Self::Look(CallPart::decode(body)?)),
            Kind::Seen => return Ok(Self::Seen(CallPart::decode(body)?)),
            Kind::Follow => word(&body).map(Self::Follow),
            Kind::Following => word(&body).map(Self::Following),
            Kind::Image => part(&body).map(Self::Image),
            Kind::Journal => part(&body).map(Self::Journal),
            Kind::Beat => word(&body).map(Self::Beat),
            Kind::LeaderBeat => word(&body).map(Self::LeaderBeat),
            Kind::AskHeard => word(&body).map(|()| Self::AskHeard),
            Kind::Heard => word(&body).map(Self::Heard),
            Kind::Forget => word(&body).map(Self::Forget),
        };
        message.map_err(|error| MessageFault::Codec { kind, error })
    }
}

fn whole(kind: Kind, body: Bytes) -> Result<Frame, MessageFault> {
    let length = body.len();
    match length <= kind.bytes_max() {
        true => Ok(Frame { kind, body }),
        false => Err(MessageFault::TooLong { kind, length }),
    }
}

fn hello<T: Decode<()>>(body: &[u8]) -> Result<T, CodecError> {
    codec::decode::<{ 2 * LINK_HELLO_BYTES_MAX }, T>(body)
}

fn word<T: Decode<()>>(body: &[u8]) -> Result<T, CodecError> {
    codec::decode::<{ 8 * LINK_WORD_BYTES_MAX }, T>(body)
}

fn part<T: Decode<()>>(body: &[u8]) -> Result<T, CodecError> {
    codec::decode::<{ 2 * LINK_FRAME_BYTES_MAX }, T>(body)
}
