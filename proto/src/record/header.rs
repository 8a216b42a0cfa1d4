//! The header of a record batch v2.
//!
//! | at | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | base offset |
//! | 8 | 4 | batch length: bytes that follow this field |
//! | 12 | 4 | partition leader epoch |
//! | 16 | 1 | magic, 2 |
//! | 17 | 4 | CRC-32C of everything from byte 21 on |
//! | 21 | 2 | attributes |
//! | 23 | 4 | last offset delta |
//! | 27 | 8 | base timestamp |
//! | 35 | 8 | max timestamp |
//! | 43 | 8 | producer id |
//! | 51 | 2 | producer epoch |
//! | 53 | 4 | base sequence |
//! | 57 | 4 | record count |
//!
//! All big-endian. Base offset and leader epoch lie outside the CRC, so that a broker can set them.

use thiserror::Error;

use super::compression::Codec;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};

/// Length of a batch header.
pub const HEADER_BYTES: usize = 61;

pub(super) const BASE_OFFSET_AT: usize = 0;
pub(super) const LENGTH_AT: usize = 8;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const BASE_SEQUENCE_AT: usize = 53;
pub(super) const COUNT_AT: usize = 57;

/// Bytes in front of what the batch length counts.
pub(super) const LENGTH_END: usize = LENGTH_AT + 4;
pub(super) const MAGIC: i8 = 2;

/// Whose clock the timestamps of a batch are from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's: every record has the batch's max timestamp.
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    pub(super) const CODEC_MASK: i16 = 0x07;
    pub(super) const LOG_APPEND_TIME: i16 = 0x08;
    pub(super) const TRANSACTIONAL: i16 = 0x10;
    pub(super) const CONTROL: i16 = 0x20;
    pub(super) const DELETE_HORIZON: i16 = 0x40;

    /// The codec of the records; `None` if no codec has this number.
    pub fn codec(self) -> Option<Codec> {
        Codec::from_number(self.0 & Self::CODEC_MASK)
    }

    /// Whose clock the timestamps are from.
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch is a transaction marker.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time from which tombstones may go (KIP-534).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// The fields of a batch header, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record (or where it was, if compaction took it).
    pub base_offset: i64,
    /// Bytes behind the length field.
    pub length: i32,
    /// Epoch of the owner that appended it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything behind it.
    pub crc: u32,
    /// Codec, timestamp type and kind of batch.
    pub attributes: Attributes,
    /// Last offset less base offset.
    pub last_offset_delta: i32,
    /// Timestamp from which those of the records are counted.
    pub base_timestamp: i64,
    /// Largest timestamp of a record, or the broker's time with LogAppendTime.
    pub max_timestamp: i64,
    /// The producer, −1 for one without state.
    pub producer_id: ProducerId,
    /// Its session, −1 for a producer without state.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record, −1 for a producer without state.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

/// Why bytes do not begin with a batch header of version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The bytes end before the header or the batch does.
    #[error("record batch ends after {found} bytes, {expected} expected")]
    Truncated {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be at least.
        expected: usize,
    },
    /// The batch length is smaller than a header.
    #[error("record batch length {0} is too small for a header")]
    Length(i32),
    /// Another format version.
    #[error("record batch has magic {0}, only 2 is supported")]
    Magic(i8),
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which must hold the whole batch or more.
    ///
    /// # Errors
    /// The bytes are too few for the header or for the length in it, or the magic is not 2.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let truncated = |expected| HeaderError::Truncated {
            found: bytes.len(),
            expected,
        };
        if let Some(magic) = bytes.get(MAGIC_AT)
            && *magic != MAGIC.to_be_bytes()[0]
        {
            return Err(HeaderError::Magic(i8::from_be_bytes([*magic])));
        }
        let raw: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or_else(|| truncated(HEADER_BYTES))?;
        let header = Self::from_raw(raw);
        match usize::try_from(header.length) {
            Ok(length) if length >= HEADER_BYTES - LENGTH_END => {
                if bytes.len() < length + LENGTH_END {
                    return Err(truncated(length + LENGTH_END));
                }
            }
            _ => return Err(HeaderError::Length(header.length)),
        }
        Ok(header)
    }

    fn from_raw(raw: &[u8; HEADER_BYTES]) -> Self {
        Self {
            base_offset: i64::from_be_bytes(field(raw, BASE_OFFSET_AT)),
            length: i32::from_be_bytes(field(raw, LENGTH_AT)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(raw, LEADER_EPOCH_AT))),
            crc: u32::from_be_bytes(field(raw, CRC_AT)),
            attributes: Attributes(i16::from_be_bytes(field(raw, ATTRIBUTES_AT))),
            last_offset_delta: i32::from_be_bytes(field(raw, LAST_OFFSET_DELTA_AT)),
            base_timestamp: i64::from_be_bytes(field(raw, BASE_TIMESTAMP_AT)),
            max_timestamp: i64::from_be_bytes(field(raw, MAX_TIMESTAMP_AT)),
            producer_id: ProducerId(i64::from_be_bytes(field(raw, PRODUCER_ID_AT))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(raw, PRODUCER_EPOCH_AT))),
            base_sequence: i32::from_be_bytes(field(raw, BASE_SEQUENCE_AT)),
            record_count: i32::from_be_bytes(field(raw, COUNT_AT)),
        }
    }

    /// Length of the whole batch in bytes.
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.length).unwrap_or(0) + LENGTH_END
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset
            .saturating_add(i64::from(self.last_offset_delta))
    }

    /// Whether its producer has state (an idempotent or transactional one).
    pub fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }
}

/// The `N` bytes at `at`, which is one of the constants above.
fn field<const N: usize>(raw: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&raw[at..at + N]);
    bytes
}
