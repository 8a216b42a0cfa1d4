//! The object of a slot, byte for byte: a fixed header, an index, a body.
//!
//! Pure: bytes in, bytes out. Reading takes any bytes whatever and answers with a [`SlotFault`],
//! never with a panic. The layout is specified in `storage/FORMAT.md`; what an index holds is the
//! business of the stream's kind (`wal_index.rs`, `journal/`).

use std::fmt;

use bytes::{Bytes, BytesMut};
use firn_proto::ids::{ClusterId, Slot, StreamId};
use thiserror::Error;

use super::{
    StreamKind,
    fields::{Fields, Short, crc32c, crc32c_of_body},
};

/// Length of the header in bytes; a SEAL object is nothing but its header.
pub const HEADER_LEN: usize = 128;
/// What every slot object begins with.
pub const MAGIC: [u8; 8] = *b"FIRNSLOT";
/// The version this code writes, and the only one it reads.
pub const VERSION: u16 = 1;
/// Features this code understands; an object with any other is refused, not guessed at.
pub const FEATURES_KNOWN: u32 = 0;

/// Where the header's own checksum stands: over all bytes before it.
const CRC_AT: usize = HEADER_LEN - 4;
/// Zero bytes kept for later fields.
const RESERVED_LEN: usize = 24;

/// Who wrote a slot: 128 random bits per slot. Tells our own put from anybody else's.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// No nonce: what stands before the first slot of a stream, and in a seal.
    pub const NONE: Self = Self([0; 16]);

    /// A nonce from 128 bits of randomness.
    pub fn from_random(random: u128) -> Self {
        Self(random.to_le_bytes())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Written by the stream's one writer.
    Data,
    /// Ends the stream: nothing at or after the first seal counts (I3).
    Seal,
}

/// The header of a slot object. Only ever made from bytes whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHeader {
    /// Data or seal.
    pub kind: SlotKind,
    /// Whose stream: a broker's WAL or the coordinator's journal.
    pub stream_kind: StreamKind,
    /// The cluster.
    pub cluster: ClusterId,
    /// The stream; of a journal, its coordinator epoch.
    pub stream: StreamId,
    /// The slot.
    pub slot: Slot,
    /// Who wrote it.
    pub nonce: Nonce,
    /// The nonce of the slot before: [`Nonce::NONE`] in the first slot and in a seal.
    pub prev_nonce: Nonce,
    /// Length of the index in bytes.
    pub index_len: u32,
    /// CRC-32C of the index.
    pub index_crc: u32,
    /// Length of the body in bytes.
    pub body_len: u64,
    /// CRC-32C of the body.
    pub body_crc: u32,
}

/// What is wrong with the bytes of a slot object.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SlotFault {
    /// Fewer bytes than the part that was asked for.
    #[error("it has {found} bytes where {needed} are needed")]
    Short {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        needed: u64,
    },
    /// More bytes than header, index and body have.
    #[error("it has {found} bytes where its header accounts for {expected}")]
    Long {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// It does not begin like a slot object.
    #[error("it does not begin with the magic of a slot object")]
    Magic,
    /// The header's checksum is wrong.
    #[error("the checksum of its header is wrong")]
    HeaderCrc,
    /// Written by a later release.
    #[error("it has format version {found}; this release reads version {VERSION}")]
    Version {
        /// The version it has.
        found: u16,
    },
    /// It uses a feature this release does not know.
    #[error("it uses unknown features {found:#010x}; a later release wrote it")]
    Features {
        /// The unknown bits.
        found: u32,
    },
    /// A field has a value that means nothing.
    #[error("its {field} has the meaningless value {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A whole slot object, but not the one that belongs under this key.
    #[error("it is {found} where {expected} belongs")]
    Misplaced {
        /// What it says it is.
        found: String,
        /// What its key says it is.
        expected: String,
    },
    /// The index does not have the checksum in the header.
    #[error("the checksum of its index is wrong")]
    IndexCrc,
    /// The body does not have the checksum in the header.
    #[error("the checksum of its body is wrong")]
    BodyCrc,
    /// It names another slot before it than the one that is there: a slot was replaced.
    #[error("it follows nonce {found}, but the slot before it has nonce {expected}")]
    Chain {
        /// The nonce it names.
        found: Nonce,
        /// The nonce of the slot before.
        expected: Nonce,
    },
    /// The rows of its index contradict themselves.
    #[error("its index is wrong: {0}")]
    Index(String),
}

impl From<Short> for SlotFault {
    fn from(_: Short) -> Self {
        Self::Short {
            found: 0,
            needed: HEADER_LEN as u64,
        }
    }
}

impl SlotHeader {
    /// Reads a header from the first [`HEADER_LEN`] bytes of an object.
    ///
    /// # Errors
    /// Any [`SlotFault`] of a header; nothing is trusted before the checksum is right.
    pub fn decode(object: &[u8]) -> Result<Self, SlotFault> {
        let bytes = object.first_chunk::<HEADER_LEN>().ok_or(SlotFault::Short {
            found: object.len() as u64,
            needed: HEADER_LEN as u64,
        })?;
        if bytes[..8] != MAGIC {
            return Err(SlotFault::Magic);
        }
        let (covered, crc) = bytes.split_at(CRC_AT);
        if Fields::new(crc).u32()? != crc32c(covered) {
            return Err(SlotFault::HeaderCrc);
        }
        let header = Self::decode_fields(&covered[8..])?;
        header.check_lengths()?;
        Ok(header)
    }

    fn decode_fields(bytes: &[u8]) -> Result<Self, SlotFault> {
        let mut fields = Fields::new(bytes);
        let version = fields.u16()?;
        if version != VERSION {
            return Err(SlotFault::Version { found: version });
        }
        let kind = match fields.u8()? {
            1 => SlotKind::Data,
            2 => SlotKind::Seal,
            found => return Err(meaningless("kind", found)),
        };
        let stream_kind = match fields.u8()? {
            1 => StreamKind::Wal,
            2 => StreamKind::Journal,
            found => return Err(meaningless("stream kind", found)),
        };
        let unknown = fields.u32()? & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(SlotFault::Features { found: unknown });
        }
        Ok(Self {
            kind,
            stream_kind,
            cluster: ClusterId(fields.array()?),
            stream: StreamId(fields.u64()?),
            slot: Slot(fields.u64()?),
            nonce: Nonce(fields.array()?),
            prev_nonce: Nonce(fields.array()?),
            index_len: fields.u32()?,
            index_crc: fields.u32()?,
            body_len: fields.u64()?,
            body_crc: fields.u32()?,
        })
    }

    /// A seal is a bare header, data has an index, and every slot has a nonce.
    fn check_lengths(&self) -> Result<(), SlotFault> {
        if self.nonce == Nonce::NONE {
            return Err(meaningless("nonce", 0));
        }
        let bare = self.index_len == 0 && self.body_len == 0;
        match self.kind {
            SlotKind::Seal if !bare => Err(SlotFault::Field {
                field: "length of a seal",
                found: self.object_len(),
            }),
            // So that the size alone tells a seal, which is never deleted, from data.
            SlotKind::Data if self.index_len == 0 => Err(meaningless("index length of data", 0)),
            SlotKind::Seal | SlotKind::Data => Ok(()),
        }
    }

    /// The bytes of this header.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[
            match self.kind {
                SlotKind::Data => 1,
                SlotKind::Seal => 2,
            },
            match self.stream_kind {
                StreamKind::Wal => 1,
                StreamKind::Journal => 2,
            },
        ]);
        out.extend_from_slice(&FEATURES_KNOWN.to_le_bytes());
        out.extend_from_slice(&self.cluster.0);
        out.extend_from_slice(&self.stream.0.to_le_bytes());
        out.extend_from_slice(&self.slot.0.to_le_bytes());
        out.extend_from_slice(&self.nonce.0);
        out.extend_from_slice(&self.prev_nonce.0);
        out.extend_from_slice(&self.index_len.to_le_bytes());
        out.extend_from_slice(&self.index_crc.to_le_bytes());
        out.extend_from_slice(&self.body_len.to_le_bytes());
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&[0; RESERVED_LEN]);
        assert_eq!(out.len(), CRC_AT, "the fields of a header fill it");
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Length of the whole object in bytes.
    pub fn object_len(&self) -> u64 {
        self.body_start().saturating_add(self.body_len)
    }

    /// Where the body begins, in bytes from the start of the object.
    pub fn body_start(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.index_len)
    }

    /// Checks that this header is the one that belongs into `slot` of `stream`.
    ///
    /// # Errors
    /// [`SlotFault::Misplaced`] for any other cluster, stream or slot.
    pub fn check_place(&self, stream: &super::StreamName, slot: Slot) -> Result<(), SlotFault> {
        let found = super::StreamName {
            kind: self.stream_kind,
            cluster: self.cluster,
            stream: self.stream,
        };
        if found == *stream && self.slot == slot {
            return Ok(());
        }
        Err(SlotFault::Misplaced {
            found: format!("slot {} of {found}", self.slot),
            expected: format!("slot {slot} of {stream}"),
        })
    }

    /// Checks the chain: that the slot before this one has the nonce this one names.
    ///
    /// # Errors
    /// [`SlotFault::Chain`]. A seal names nothing and always passes.
    pub fn check_chain(&self, before: Nonce) -> Result<(), SlotFault> {
        if self.kind == SlotKind::Seal || self.prev_nonce == before {
            return Ok(());
        }
        Err(SlotFault::Chain {
            found: self.prev_nonce,
            expected: before,
        })
    }

    /// Cuts the index out of `object`, which holds at least header and index.
    ///
    /// # Errors
    /// [`SlotFault::Short`] or [`SlotFault::IndexCrc`].
    pub fn index_of(&self, object: &Bytes) -> Result<Bytes, SlotFault> {
        let end = self.body_start();
        let short = SlotFault::Short {
            found: object.len() as u64,
            needed: end,
        };
        let end = usize::try_from(end).map_err(|_| short.clone())?;
        if object.len() < end {
            return Err(short);
        }
        let index = object.slice(HEADER_LEN..end);
        if crc32c(&index) != self.index_crc {
            return Err(SlotFault::IndexCrc);
        }
        Ok(index)
    }

    /// Cuts the body out of `object`, which is the whole object.
    ///
    /// # Errors
    /// [`SlotFault::Short`], [`SlotFault::Long`] or [`SlotFault::BodyCrc`].
    pub fn body_of(&self, object: &Bytes) -> Result<Bytes, SlotFault> {
        let (found, expected) = (object.len() as u64, self.object_len());
        if found > expected {
            return Err(SlotFault::Long { found, expected });
        }
        let start = usize::try_from(self.body_start()).unwrap_or(usize::MAX);
        if found < expected || start > object.len() {
            return Err(SlotFault::Short {
                found,
                needed: expected,
            });
        }
        let body = object.slice(start..);
        if crc32c(&body) != self.body_crc {
            return Err(SlotFault::BodyCrc);
        }
        Ok(body)
    }
}

fn meaningless(field: &'static str, found: u8) -> SlotFault {
    SlotFault::Field {
        field,
        found: u64::from(found),
    }
}

/// What a writer puts into a slot: an index of its kind, and a body in pieces that are never
/// copied. The checksums are taken when it is made, so that no lock is held over them.
#[derive(Clone, Debug)]
pub struct SlotBody {
    index: Bytes,
    body: Vec<Bytes>,
    index_crc: u32,
    body_len: u64,
    body_crc: u32,
}

impl SlotBody {
    /// A body with its index, which is not empty and far below 4 GiB.
    pub fn new(index: Bytes, body: Vec<Bytes>) -> Self {
        assert!(
            !index.is_empty(),
            "a slot without an index could be taken for a seal"
        );
        assert!(
            u32::try_from(index.len()).is_ok(),
            "an index fits the 32 bits of its length"
        );
        Self {
            index_crc: crc32c(&index),
            body_len: body.iter().map(|part| part.len() as u64).sum(),
            body_crc: crc32c_of_body(&body),
            index,
            body,
        }
    }

    /// Length of the object this becomes, in bytes.
    pub fn object_len(&self) -> u64 {
        (HEADER_LEN + self.index.len()) as u64 + self.body_len
    }

    /// The object: header, index, and the pieces of the body as they are.
    pub(crate) fn into_object(
        self,
        stream: &super::StreamName,
        slot: Slot,
        nonce: Nonce,
        prev_nonce: Nonce,
    ) -> Vec<Bytes> {
        let header = SlotHeader {
            kind: SlotKind::Data,
            stream_kind: stream.kind,
            cluster: stream.cluster,
            stream: stream.stream,
            slot,
            nonce,
            prev_nonce,
            index_len: u32::try_from(self.index.len()).unwrap_or(u32::MAX),
            index_crc: self.index_crc,
            body_len: self.body_len,
            body_crc: self.body_crc,
        };
        let mut object = Vec::with_capacity(2 + self.body.len());
        object.push(header.encode());
        object.push(self.index);
        object.extend(self.body);
        object
    }
}

/// The bytes of a seal of `slot`, put by whoever has `nonce`.
pub fn seal_object(stream: &super::StreamName, slot: Slot, nonce: Nonce) -> Bytes {
    SlotHeader {
        kind: SlotKind::Seal,
        stream_kind: stream.kind,
        cluster: stream.cluster,
        stream: stream.stream,
        slot,
        nonce,
        prev_nonce: Nonce::NONE,
        index_len: 0,
        index_crc: 0,
        body_len: 0,
        body_crc: 0,
    }
    .encode()
}

#[cfg(test)]
mod tests;
