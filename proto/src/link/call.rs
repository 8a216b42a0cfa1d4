//! Requests to the coordinator and its replies, cut into parts so that beats pass between them, as
//! are questions to owners and their answers.
//!
//! Of the requests of a link, and of its replies, one at most is under way in several parts; those
//! that fit one frame may come between these. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::cluster::{CoordinatorError, Reply, Request};
use crate::codec::{self, CodecError};
use crate::limits::{LINK_MESSAGE_BYTES_MAX, LINK_PART_BYTES_MAX};

/// A part of a request or of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPart {
    /// Which request of this link: any number that none under way has.
    pub call: u64,
    /// More parts follow.
    pub more: bool,
    /// The bytes; some, if more follow.
    pub bytes: Bytes,
}

/// Why parts make no request or reply. The link is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AssemblyFault {
    /// The frame is too short for a part, or has a flag that this version does not know.
    #[error("a part of a call cannot be read")]
    Unreadable,
    /// A part without bytes that is not the last.
    #[error("a part of call {0} is empty, and more are to follow")]
    Empty(u64),
    /// Two calls come in parts at a time.
    #[error("call {begun} comes in parts before call {unfinished} is whole")]
    Mixed {
        /// The one that is not whole.
        unfinished: u64,
        /// The other.
        begun: u64,
    },
    /// It is too long.
    #[error("call {0} has more than {LINK_MESSAGE_BYTES_MAX} bytes")]
    TooLong(u64),
}

impl CallPart {
    /// The next part of what is left of a call; `more` says whether `rest` still has bytes.
    pub fn split_from(call: u64, rest: &mut Bytes) -> Self {
        let bytes = rest.split_to(rest.len().min(LINK_PART_BYTES_MAX));
        let more = !rest.is_empty();
        Self { call, more, bytes }
    }

    /// The body of its frame: call `u64`, flags `u8`, bytes.
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(AROUND_BYTES + self.bytes.len());
        body.put_u64_le(self.call);
        body.put_u8(u8::from(self.more));
        body.put_slice(&self.bytes);
        body.freeze()
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// [`AssemblyFault`].
    pub fn decode(mut body: Bytes) -> Result<Self, AssemblyFault> {
        if body.len() < AROUND_BYTES {
            return Err(AssemblyFault::Unreadable);
        }
        let call = body.get_u64_le();
        let more = match body.get_u8() {
            0 => false,
            1 => true,
            _ => return Err(AssemblyFault::Unreadable),
        };
        match more && body.is_empty() {
            true => Err(AssemblyFault::Empty(call)),
            false => Ok(Self {
                call,
                more,
                bytes: body,
            }),
        }
    }
}

/// Puts the requests, or the replies, of one link together. Holds no more than has arrived of one.
#[derive(Debug, Default)]
pub struct Assembly {
    unfinished: Option<(u64, BytesMut)>,
}

impl Assembly {
    /// The next part; with it the call and its bytes, if it is the last one.
    ///
    /// # Errors
    /// [`AssemblyFault`].
    pub fn take(&mut self, part: CallPart) -> Result<Option<(u64, Bytes)>, AssemblyFault> {
        let CallPart { call, more, bytes } = part;
        let (unfinished, mut gathered) = match self.unfinished.take() {
            Some(begun) => begun,
            None if !more => return Ok(Some((call, bytes))),
            None => (call, BytesMut::new()),
        };
        if call != unfinished {
            self.unfinished = Some((unfinished, gathered));
            let mixed = AssemblyFault::Mixed {
                unfinished,
                begun: call,
            };
            return match more {
                true => Err(mixed),
                false => Ok(Some((call, bytes))),
            };
        }
        if bytes.len() > LINK_MESSAGE_BYTES_MAX - gathered.len() {
            return Err(AssemblyFault::TooLong(call));
        }
        gathered.extend_from_slice(&bytes);
        if more {
            self.unfinished = Some((call, gathered));
            return Ok(None);
        }
        Ok(Some((call, gathered.freeze())))
    }
}

/// Reads a request.
///
/// # Errors
/// [`CodecError`]: it is none, or claims to hold more than its length can mean.
pub fn decode_request(bytes: &[u8]) -> Result<Request, CodecError> {
    decode(bytes)
}

/// Writes a request.
///
/// # Errors
/// [`CodecError`]: it cannot be written.
pub fn encode_request(request: &Request) -> Result<Bytes, CodecError> {
    codec::encode(request).map(Bytes::from)
}

/// Writes a reply, or why there is none.
///
/// # Errors
/// [`CodecError`]: it cannot be written.
pub fn encode_reply(reply: &Result<Reply, CoordinatorError>) -> Result<Bytes, CodecError> {
    codec::encode(reply).map(Bytes::from)
}

/// Reads a reply.
///
/// # Errors
/// As [`decode_request`].
pub fn decode_reply(bytes: &[u8]) -> Result<Result<Reply, CoordinatorError>, CodecError> {
    decode(bytes)
}

/// What a value may claim to hold grows with the bytes that it comes in: an empty string takes one
/// of them, and twenty-four in memory.
pub(super) fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.len() {
        0..=0x1000 => codec::decode::<{ 0x1000 * EXPANSION_MAX }, T>(bytes),
        0x1001..=0x2_0000 => codec::decode::<{ 0x2_0000 * EXPANSION_MAX }, T>(bytes),
        0x2_0001..=0x40_0000 => codec::decode::<{ 0x40_0000 * EXPANSION_MAX }, T>(bytes),
        _ => codec::decode::<{ LINK_MESSAGE_BYTES_MAX * 4 }, T>(bytes),
    }
}

/// What a value takes in memory at most, in bytes per byte on the link. A long one takes less.
const EXPANSION_MAX: usize = 32;
/// Bytes of a part's frame besides its own.
const AROUND_BYTES: usize = 9;
