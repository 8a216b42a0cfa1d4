//! Frames: a header of eight bytes and a body. Whatever is wrong with a header is known before
//! anything is set aside for its body. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::limits::{LINK_FRAME_BYTES_MAX, LINK_HELLO_BYTES_MAX, LINK_WORD_BYTES_MAX};

/// The first two bytes of every frame: `FL`.
pub const MAGIC: u16 = u16::from_le_bytes(*b"FL");
/// Bytes of a header: magic `u16`, version `u8`, kind `u8`, length of the body `u32`.
pub const HEADER_BYTES: usize = 8;
/// The version of everything in this folder and of the words that go over the link. Processes of
/// different versions refuse each other.
pub const PROTOCOL_VERSION: u8 = 2;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal up to $most:expr),* $(,)?) => {
        /// What a frame says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $number),* }

        impl Kind {
            /// Every kind, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            fn of(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The longest body that a frame of this kind may have.
            pub fn bytes_max(self) -> usize {
                match self { $(Self::$name => $most),* }
            }
        }
    };
}

kinds! {
    /// Who opens a link says who it is.
    Hello = 1 up to LINK_HELLO_BYTES_MAX,
    /// The other side does, and takes the link.
    Welcome = 2 up to LINK_HELLO_BYTES_MAX,
    /// It does not, or not any longer. Reads the same in every version.
    Refused = 3 up to LINK_HELLO_BYTES_MAX,
    /// A part of a request to the coordinator.
    Call = 4 up to LINK_FRAME_BYTES_MAX,
    /// A part of its reply.
    Answer = 5 up to LINK_FRAME_BYTES_MAX,
    /// Asks the leader of an epoch for its pictures.
    Follow = 6 up to LINK_WORD_BYTES_MAX,
    /// They will come.
    Following = 7 up to LINK_WORD_BYTES_MAX,
    /// A part of a picture of the cluster.
    Image = 8 up to LINK_FRAME_BYTES_MAX,
    /// A part of the journal.
    Journal = 9 up to LINK_FRAME_BYTES_MAX,
    /// A follower lives.
    Beat = 10 up to LINK_WORD_BYTES_MAX,
    /// A leader lives, and leads.
    LeaderBeat = 11 up to LINK_WORD_BYTES_MAX,
    /// Asks whether a leader was heard lately.
    AskHeard = 12 up to LINK_WORD_BYTES_MAX,
    /// Says it.
    Heard = 13 up to LINK_WORD_BYTES_MAX,
    /// A part of a question to the owner of partitions.
    Look = 14 up to LINK_FRAME_BYTES_MAX,
    /// A part of its answer.
    Seen = 15 up to LINK_FRAME_BYTES_MAX,
    /// The answer to such a question is not wanted any more.
    Forget = 16 up to LINK_WORD_BYTES_MAX,
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// How it says it.
    pub body: Bytes,
}

/// Why bytes are no frames of this protocol. The link is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameFault {
    /// Something else is spoken there.
    #[error("it does not speak the protocol of the link: a frame begins with {0:04x}")]
    Magic(u16),
    /// Another version is spoken there.
    #[error(
        "it speaks version {0} of the protocol of the link, and this process version {PROTOCOL_VERSION}: \
         run the same release of firn on all machines of the cluster"
    )]
    Version(u8),
    /// A kind of frame that this version does not have.
    #[error("it sent a frame of kind {0}, which version {PROTOCOL_VERSION} does not have")]
    Kind(u8),
    /// A frame that is longer than its kind may be.
    #[error("it sent a {kind:?} frame of {length} bytes, {} are allowed", kind.bytes_max())]
    TooLong {
        /// What it would say.
        kind: Kind,
        /// The length of its body.
        length: u32,
    },
}

impl Frame {
    /// The header in front of the body, as the bytes that go over the link.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let mut out = &mut header[..];
        out.put_u16_le(MAGIC);
        out.put_u8(PROTOCOL_VERSION);
        out.put_u8(self.kind as u8);
        out.put_u32_le(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        header
    }

    /// Bytes that it takes on the link.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }
}

/// Takes frames from a stream of bytes, however it is cut. Holds one frame at most, and what was
/// read behind it.
#[derive(Debug, Default)]
pub struct FrameReader {
    read: BytesMut,
}

impl FrameReader {
    /// Where to put the bytes that were read next. No more than a frame is read ahead if that is
    /// done only when [`Self::take`] has none.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.read.reserve(READ_BYTES);
        &mut self.read
    }

    /// The next frame, if it is whole.
    ///
    /// # Errors
    /// [`FrameFault`], as soon as the header shows it.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameFault> {
        let Some(mut header) = self.read.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let magic = header.get_u16_le();
        let (version, number, length) = (header.get_u8(), header.get_u8(), header.get_u32_le());
        if magic != MAGIC {
            return Err(FrameFault::Magic(magic));
        }
        let kind = Kind::of(number);
        // A refusal says why another version is spoken here.
        if version != PROTOCOL_VERSION && kind != Some(Kind::Refused) {
            return Err(FrameFault::Version(version));
        }
        let kind = kind.ok_or(FrameFault::Kind(number))?;
        let too_long = FrameFault::TooLong { kind, length };
        let length = usize::try_from(length).map_err(|_| too_long)?;
        if length > kind.bytes_max() {
            return Err(too_long);
        }
        if self.read.len() - HEADER_BYTES < length {
            return Ok(None);
        }
        self.read.advance(HEADER_BYTES);
        let body = self.read.split_to(length).freeze();
        Ok(Some(Frame { kind, body }))
    }
}

/// Room that is made for each read from the transport.
const READ_BYTES: usize = 16 * 1024;
