//! The records of a batch, borrowed from its decompressed bytes.
//!
//! Keeps what Kafka keeps: null against empty keys, values and header values, header keys that
//! come twice, bytes that are not UTF-8. Allocates nothing.

use thiserror::Error;

use super::header::{BatchHeader, TimestampType};
use crate::varint::{take_i32, take_i64};

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds; the batch's with LogAppendTime; −1 for none.
    pub timestamp: i64,
    /// What is added to the batch's base timestamp, whatever the timestamp type.
    pub timestamp_delta: i64,
    /// Its attribute byte, unused by Kafka so far.
    pub attributes: i8,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none in a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: Headers<'a>,
    /// All of it as it stands in the batch, its length in front.
    pub stored: &'a [u8],
}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// UTF-8 by convention only.
    pub key: &'a [u8],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, checked when the record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    count: usize,
    rest: &'a [u8],
}

/// Why the bytes of a batch are not its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A number or a byte string ends outside its record, or the record outside the batch.
    #[error("record at offset delta {after} or after it is cut off")]
    Truncated {
        /// The delta of the last good record, −1 if there is none.
        after: i32,
    },
    /// A record is longer than its fields.
    #[error("record at offset delta {0} is longer than its fields")]
    Excess(i32),
    /// Deltas do not rise, or leave the batch.
    #[error("offset delta {found} follows {after} in a batch that ends at {last}")]
    OffsetDelta {
        /// The one found.
        found: i32,
        /// The one before, −1 if it is the first.
        after: i32,
        /// That of the batch's last offset.
        last: i32,
    },
    /// A timestamp does not fit 64 bits.
    #[error("timestamp delta {0} leaves the range of timestamps")]
    Timestamp(i64),
    /// Bytes follow the last record.
    #[error("{0} bytes follow the last record")]
    Trailing(usize),
}

/// Iterates over the records of one batch; ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: i32,
    base_offset: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
    last_offset_delta: i32,
    delta_before: i32,
    done: bool,
}

impl<'a> Records<'a> {
    /// The records in `plain`, the decompressed bytes behind `header`.
    pub fn new(header: &BatchHeader, plain: &'a [u8]) -> Self {
        let append_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        Self {
            rest: plain,
            left: header.record_count,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time,
            last_offset_delta: header.last_offset_delta,
            delta_before: -1,
            done: false,
        }
    }

    fn take_record(&mut self) -> Result<Record<'a>, RecordError> {
        let truncated = RecordError::Truncated {
            after: self.delta_before,
        };
        let from = self.rest;
        let mut body = take_bytes(&mut self.rest).flatten().ok_or(truncated)?;
        let attributes = take_byte(&mut body).ok_or(truncated)?;
        let timestamp_delta = take_i64(&mut body).ok_or(truncated)?;
        let delta = take_i32(&mut body).ok_or(truncated)?;
        if delta <= self.delta_before || delta > self.last_offset_delta {
            return Err(RecordError::OffsetDelta {
                found: delta,
                after: self.delta_before,
                last: self.last_offset_delta,
            });
        }
        let timestamp = match self.append_time {
            Some(time) => time,
            None => self
                .base_timestamp
                .checked_add(timestamp_delta)
                .ok_or(RecordError::Timestamp(timestamp_delta))?,
        };
        let key = take_bytes(&mut body).ok_or(truncated)?;
        let value = take_bytes(&mut body).ok_or(truncated)?;
        let headers = Headers::take(&mut body).ok_or(truncated)?;
        if !body.is_empty() {
            return Err(RecordError::Excess(delta));
        }
        self.delta_before = delta;
        Ok(Record {
            offset: self.base_offset.saturating_add(i64::from(delta)),
            timestamp,
            timestamp_delta,
            attributes,
            key,
            value,
            headers,
            stored: &from[..from.len() - self.rest.len()],
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.left <= 0 {
            self.done = true;
            let trailing = self.rest.len();
            return (trailing > 0).then_some(Err(RecordError::Trailing(trailing)));
        }
        self.left -= 1;
        let record = self.take_record();
        self.done = record.is_err();
        Some(record)
    }
}

impl<'a> Headers<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Reads all headers once, so that iterating cannot fail later.
    fn take(body: &mut &'a [u8]) -> Option<Self> {
        let count = usize::try_from(take_i32(body)?).ok()?;
        let rest = *body;
        for _ in 0..count {
            take_header(body)?;
        }
        Some(Self { count, rest })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.count = self.count.checked_sub(1)?;
        take_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

fn take_header<'a>(body: &mut &'a [u8]) -> Option<Header<'a>> {
    let key = take_bytes(body)??;
    let value = take_bytes(body)?;
    Some(Header { key, value })
}

/// Takes a byte string with its length in front; a length of −1 is null. The outer `None` means
/// that the bytes do not hold it.
#[expect(clippy::option_option, reason = "null and unreadable are told apart")]
fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = take_i32(from)?;
    if len == -1 {
        return Some(None);
    }
    let (bytes, rest) = from.split_at_checked(usize::try_from(len).ok()?)?;
    *from = rest;
    Some(Some(bytes))
}

fn take_byte(from: &mut &[u8]) -> Option<i8> {
    let (byte, rest) = from.split_first()?;
    *from = rest;
    Some(i8::from_be_bytes([*byte]))
}
