//! A record batch over shared bytes.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

use super::compression::{CompressionError, decompress};
use super::header::{
    ATTRIBUTES_AT, Attributes, BASE_OFFSET_AT, BatchHeader, CRC_AT, HEADER_BYTES, HeaderError,
    LEADER_EPOCH_AT, MAX_TIMESTAMP_AT,
};
use super::records::Records;
use crate::ids::LeaderEpoch;

/// One whole batch and its parsed header. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchView {
    header: BatchHeader,
    bytes: Bytes,
}

/// What an owner sets in a batch that it appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Its epoch.
    pub leader_epoch: LeaderEpoch,
    /// Broker time in milliseconds, in a topic with LogAppendTime.
    pub log_append_ms: Option<i64>,
}

impl BatchView {
    /// Takes the batch at the start of `bytes` off. Only lengths and magic are checked.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`]; `bytes` is then unchanged.
    pub fn take(bytes: &mut Bytes) -> Result<Self, HeaderError> {
        let header = BatchHeader::parse(bytes)?;
        let bytes = bytes.split_to(header.total_bytes());
        Ok(Self { header, bytes })
    }

    /// The header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole batch.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The batch in memory of its own, if as a slice of a frame of `frame_bytes` it would keep more
    /// than twice its length alive.
    #[must_use]
    pub fn detached(mut self, frame_bytes: usize) -> Self {
        if self.bytes.len().saturating_mul(2) < frame_bytes {
            self.bytes = Bytes::copy_from_slice(&self.bytes);
        }
        self
    }

    /// The records as they stand in the batch, compressed or not.
    pub fn stored_records(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The records, decompressed into at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The codec is unknown, the compressed bytes are broken, or more would come out.
    pub fn plain_records(&self, bytes_max: usize) -> Result<Cow<'_, [u8]>, CompressionError> {
        let number = self.header.attributes.0 & Attributes::CODEC_MASK;
        let codec = self
            .header
            .attributes
            .codec()
            .ok_or(CompressionError::UnknownCodec(number))?;
        decompress(codec, self.stored_records(), bytes_max)
    }

    /// The records in what [`Self::plain_records`] returned.
    pub fn records<'a>(&self, plain: &'a [u8]) -> Records<'a> {
        Records::new(&self.header, plain)
    }

    /// Whether the CRC matches.
    pub fn crc_matches(&self) -> bool {
        crc32c(self.bytes.get(ATTRIBUTES_AT..).unwrap_or_default()) == self.header.crc
    }

    /// Sets offsets and epoch, and the time with its new CRC if there is one. In place where
    /// nobody else holds the bytes, else in a copy.
    #[must_use]
    pub fn stamp(self, stamp: Stamp) -> Self {
        let mut header = self.header;
        let mut bytes = self
            .bytes
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        header.base_offset = stamp.base_offset;
        header.leader_epoch = stamp.leader_epoch;
        put(&mut bytes, BASE_OFFSET_AT, stamp.base_offset.to_be_bytes());
        put(
            &mut bytes,
            LEADER_EPOCH_AT,
            stamp.leader_epoch.0.to_be_bytes(),
        );
        if let Some(now_ms) = stamp.log_append_ms {
            header.attributes.0 |= Attributes::LOG_APPEND_TIME;
            header.max_timestamp = now_ms;
            put(&mut bytes, ATTRIBUTES_AT, header.attributes.0.to_be_bytes());
            put(&mut bytes, MAX_TIMESTAMP_AT, now_ms.to_be_bytes());
            header.crc = crc32c(&bytes[ATTRIBUTES_AT..]);
            put(&mut bytes, CRC_AT, header.crc.to_be_bytes());
        }
        Self {
            header,
            bytes: bytes.freeze(),
        }
    }
}

/// CRC-32C (Castagnoli), as record batches and Firn's own objects use it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    // the library returns every width as u64; this algorithm fills the low 32 bits
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) & u64::from(u32::MAX)) as u32
}

/// Takes bytes that hold several batches, one after the other, apart. Ends after the first error.
pub fn split_batches(bytes: Bytes) -> Batches {
    Batches { rest: bytes }
}

/// See [`split_batches`].
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

impl Iterator for Batches {
    type Item = Result<BatchView, HeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = BatchView::take(&mut self.rest);
        if batch.is_err() {
            self.rest = Bytes::new();
        }
        Some(batch)
    }
}

/// Writes into a header, whose length was checked when the batch was taken.
fn put<const N: usize>(bytes: &mut BytesMut, at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
