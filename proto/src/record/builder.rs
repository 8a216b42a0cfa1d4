//! New record batches, and old ones under another codec.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::batch::{BatchView, crc32c};
use super::compression::{Codec, Compression, CompressionError, compress};
use super::header::{
    ATTRIBUTES_AT, Attributes, BatchHeader, CRC_AT, HEADER_BYTES, HeaderError, LENGTH_END, MAGIC,
};
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::varint::{len_i64, put_i32, put_i64, zigzag};

/// A record to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// In milliseconds since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [NewHeader<'a>],
}

/// A header to be written: its key and value.
pub type NewHeader<'a> = (&'a [u8], Option<&'a [u8]>);

/// Why a batch could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Without a record there is no batch.
    #[error("a batch needs a record")]
    Empty,
    /// A byte string, the number of records or the batch is longer than 31 bits can say.
    #[error("the batch is too large for its format")]
    TooLarge,
    /// Two timestamps are further apart than 64 bits can say.
    #[error("timestamp {0} is too far from the first one of the batch")]
    Timestamp(i64),
    /// Offsets must rise.
    #[error("offset delta {found} does not follow {after}")]
    OffsetDelta {
        /// The one given.
        found: i32,
        /// The one before.
        after: i32,
    },
    /// The codec failed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// What was built is not a batch, which is a fault of this module.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl BuildError {
    /// Whether more would come out of a batch than the caller allowed.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Compression(CompressionError::TooLarge { .. }))
    }
}

/// Collects records into one batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    plain: Vec<u8>,
    scratch: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new(Codec::None)
    }
}

impl BatchBuilder {
    /// An empty batch at offset 0, of a producer without state.
    pub fn new(compression: impl Into<Compression>) -> Self {
        let compression = compression.into();
        Self {
            header: BatchHeader {
                base_offset: 0,
                length: 0,
                leader_epoch: LeaderEpoch(-1),
                crc: 0,
                attributes: Attributes(compression.codec.number()),
                last_offset_delta: -1,
                base_timestamp: -1,
                max_timestamp: -1,
                producer_id: ProducerId(-1),
                producer_epoch: ProducerEpoch(-1),
                base_sequence: -1,
                record_count: 0,
            },
            compression,
            plain: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Sets the offset of the first record.
    #[must_use]
    pub fn base_offset(mut self, offset: i64) -> Self {
        self.header.base_offset = offset;
        self
    }

    /// Sets the owner's epoch.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.header.leader_epoch = epoch;
        self
    }

    /// Makes it a batch of a producer with state.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Makes it a batch of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes.0 |= Attributes::TRANSACTIONAL;
        self
    }

    /// Makes it a control batch.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.header.attributes.0 |= Attributes::CONTROL;
        self
    }

    /// Adds a record behind the others, with the next offset.
    ///
    /// # Errors
    /// It does not fit the format; the batch is then as before.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<(), BuildError> {
        let delta = self.header.last_offset_delta.checked_add(1);
        self.push_at(delta.ok_or(BuildError::TooLarge)?, record)
    }

    /// Adds a record at `offset_delta`, as compaction leaves them: with gaps.
    ///
    /// # Errors
    /// It does not fit the format or does not follow the last; the batch is then as before.
    pub fn push_at(&mut self, offset_delta: i32, record: &NewRecord<'_>) -> Result<(), BuildError> {
        let first = self.header.record_count == 0;
        if offset_delta <= self.header.last_offset_delta {
            return Err(BuildError::OffsetDelta {
                found: offset_delta,
                after: self.header.last_offset_delta,
            });
        }
        let base_timestamp = if first {
            record.timestamp
        } else {
            self.header.base_timestamp
        };
        let timestamp_delta = record
            .timestamp
            .checked_sub(base_timestamp)
            .ok_or(BuildError::Timestamp(record.timestamp))?;
        self.scratch.clear();
        for (key, value) in record.headers {
            put_header(&mut self.scratch, key, *value)?;
        }
        let fields = RecordFields {
            timestamp_delta,
            offset_delta,
            key: record.key,
            value: record.value,
            header_count: record.headers.len(),
            headers: &self.scratch,
        };
        put_record(&mut self.plain, &fields)?;
        let header = &mut self.header;
        header.base_timestamp = base_timestamp;
        header.max_timestamp = if first {
            record.timestamp
        } else {
            header.max_timestamp.max(record.timestamp)
        };
        header.last_offset_delta = offset_delta;
        // never more than deltas, which are 31 bits
        header.record_count += 1;
        Ok(())
    }

    /// Bytes of the records so far, before compression.
    pub fn plain_bytes(&self) -> usize {
        self.plain.len()
    }

    /// Number of records so far.
    pub fn record_count(&self) -> i32 {
        self.header.record_count
    }

    /// The batch.
    ///
    /// # Errors
    /// There is no record, or the batch is too large for its format.
    pub fn build(self) -> Result<BatchView, BuildError> {
        if self.header.record_count == 0 {
            return Err(BuildError::Empty);
        }
        let stored = compress(self.compression, &self.plain)?;
        encode(&self.header, &stored)
    }
}

/// The same records under another codec (`compression.type` of a topic). Needs no look at them.
///
/// # Errors
/// The batch does not decompress into `plain_bytes_max` bytes.
pub fn recompress(
    batch: &BatchView,
    compression: Compression,
    plain_bytes_max: usize,
) -> Result<BatchView, BuildError> {
    let plain = batch.plain_records(plain_bytes_max)?;
    assemble(batch.header(), compression, &plain)
}

/// Builds the batch of `header` and the records in `plain`, stored under `compression`. Length, CRC
/// and the codec in the attributes are set anew; everything else stands in `header` as it is.
///
/// # Errors
/// The batch is too large for its format, or the codec has no such level.
pub fn assemble(
    header: &BatchHeader,
    compression: Compression,
    plain: &[u8],
) -> Result<BatchView, BuildError> {
    let stored = compress(compression, plain)?;
    let mut header = *header;
    header.attributes.0 =
        (header.attributes.0 & !Attributes::CODEC_MASK) | compression.codec.number();
    encode(&header, &stored)
}

/// The fields of a record, from which [`put_record`] makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordFields<'a> {
    /// Its timestamp less the base timestamp of the batch.
    pub timestamp_delta: i64,
    /// Its offset less the base offset of the batch.
    pub offset_delta: i32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// How many headers there are.
    pub header_count: usize,
    /// The headers as [`put_header`] wrote them, side by side.
    pub headers: &'a [u8],
}

impl RecordFields<'_> {
    /// Bytes of the record behind its length.
    pub fn body_len(&self) -> usize {
        // the attribute byte, then the fields
        1 + len_i64(self.timestamp_delta)
            + len_i64(i64::from(self.offset_delta))
            + bytes_len(self.key)
            + bytes_len(self.value)
            + len_i64(length(self.header_count))
            + self.headers.len()
    }
}

/// Appends a record, with every number as short as it can be, as Kafka's clients write it.
///
/// # Errors
/// A length needs more than 31 bits; `out` is then as before.
pub fn put_record(out: &mut Vec<u8>, fields: &RecordFields<'_>) -> Result<(), BuildError> {
    let body_len = fields.body_len();
    let mut head = Head::default();
    head.put(i64::from(signed(body_len)?));
    head.put_attributes();
    head.put(fields.timestamp_delta);
    head.put(i64::from(fields.offset_delta));
    head.put(fields.key.map_or(-1, |key| length(key.len())));
    out.reserve(body_len + head.len);
    if let Some(key) = fields.key {
        head.append_to(out);
        out.extend_from_slice(key);
    }
    head.put(fields.value.map_or(-1, |value| length(value.len())));
    head.append_to(out);
    out.extend_from_slice(fields.value.unwrap_or_default());
    put_i64(out, length(fields.header_count));
    out.extend_from_slice(fields.headers);
    Ok(())
}

/// The numbers between the byte strings of a record, which are a few bytes each: they are put
/// together here, and then copied at once.
#[derive(Debug)]
struct Head {
    bytes: [u8; Self::BYTES_MAX],
    len: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; Self::BYTES_MAX],
            len: 0,
        }
    }
}

impl Head {
    /// Five numbers of ten bytes at most, and the attributes.
    const BYTES_MAX: usize = 51;

    /// [`put_i64`].
    fn put(&mut self, value: i64) {
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.put_byte((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.put_byte(rest as u8);
    }

    /// Nothing is said in those of a record.
    fn put_attributes(&mut self) {
        self.put_byte(0);
    }

    fn put_byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// Moves what is here to `out`.
    fn append_to(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.len]);
        self.len = 0;
    }
}

/// Appends a header of a record.
///
/// # Errors
/// A length needs more than 31 bits; `out` is then as before.
pub fn put_header(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) -> Result<(), BuildError> {
    signed(header_len(key, value))?;
    put_bytes(out, Some(key));
    put_bytes(out, value);
    Ok(())
}

/// How many bytes [`put_header`] appends.
pub fn header_len(key: &[u8], value: Option<&[u8]>) -> usize {
    bytes_len(Some(key)) + bytes_len(value)
}

/// Writes bytes whose length was found to fit 31 bits, as part of something longer.
fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_i32(out, -1),
        Some(bytes) => {
            put_i64(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

fn bytes_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| len_i64(length(bytes.len())) + bytes.len())
}

/// A length in memory, which never needs the 64th bit.
fn length(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Writes `header`, with length and CRC set anew, and the stored records behind it.
fn encode(header: &BatchHeader, stored: &[u8]) -> Result<BatchView, BuildError> {
    let total = HEADER_BYTES + stored.len();
    let mut out = BytesMut::with_capacity(total);
    out.put_i64(header.base_offset);
    out.put_i32(signed(total - LENGTH_END)?);
    out.put_i32(header.leader_epoch.0);
    out.put_i8(MAGIC);
    out.put_u32(0);
    out.put_i16(header.attributes.0);
    out.put_i32(header.last_offset_delta);
    out.put_i64(header.base_timestamp);
    out.put_i64(header.max_timestamp);
    out.put_i64(header.producer_id.0);
    out.put_i16(header.producer_epoch.0);
    out.put_i32(header.base_sequence);
    out.put_i32(header.record_count);
    out.put_slice(stored);
    let crc = crc32c(&out[ATTRIBUTES_AT..]);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
    Ok(BatchView::take(&mut Bytes::from(out))?)
}

fn signed(len: usize) -> Result<i32, BuildError> {
    i32::try_from(len).map_err(|_| BuildError::TooLarge)
}
