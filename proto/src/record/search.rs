//! Looks into the records of one batch: ListOffsets wants record precision (KIP-32, KIP-734), and
//! a compacted topic takes no record without a key.

use thiserror::Error;

use super::batch::BatchView;
use super::compression::CompressionError;
use super::records::RecordError;

/// Why the records of a batch could not be looked at.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// They did not decompress.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// They are not records.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl DecodeError {
    /// Whether more would come out than the caller allowed.
    pub fn is_too_large(&self) -> bool {
        let Self::Compression(error) = self else {
            return false;
        };
        matches!(error, CompressionError::TooLarge { .. })
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: i64,
}

/// The first record at or behind `offset_min` with a timestamp of at least `timestamp`.
///
/// # Errors
/// The batch does not decode within `plain_bytes_max` decompressed bytes.
pub fn first_at_or_after(
    batch: &BatchView,
    timestamp: i64,
    offset_min: i64,
    plain_bytes_max: usize,
) -> Result<Option<FoundRecord>, DecodeError> {
    // timestamps within a batch need not rise, but none is above the maximum
    if batch.header().max_timestamp < timestamp {
        return Ok(None);
    }
    let plain = batch.plain_records(plain_bytes_max)?;
    for record in batch.records(&plain) {
        let record = record?;
        if record.timestamp >= timestamp && record.offset >= offset_min {
            return Ok(Some(FoundRecord {
                offset: record.offset,
                timestamp: record.timestamp,
            }));
        }
    }
    Ok(None)
}

/// The first record with the largest timestamp of the batch.
///
/// # Errors
/// The batch does not decode within `plain_bytes_max` decompressed bytes.
pub fn first_of_max(
    batch: &BatchView,
    plain_bytes_max: usize,
) -> Result<Option<FoundRecord>, DecodeError> {
    let plain = batch.plain_records(plain_bytes_max)?;
    let mut found: Option<FoundRecord> = None;
    for record in batch.records(&plain) {
        let record = record?;
        if found.is_none_or(|best| record.timestamp > best.timestamp) {
            found = Some(FoundRecord {
                offset: record.offset,
                timestamp: record.timestamp,
            });
        }
    }
    Ok(found)
}

/// The index within the batch of the first record without a key, if there is one.
///
/// # Errors
/// The batch does not decode within `plain_bytes_max` decompressed bytes.
pub fn first_without_key(
    batch: &BatchView,
    plain_bytes_max: usize,
) -> Result<Option<i32>, DecodeError> {
    let plain = batch.plain_records(plain_bytes_max)?;
    let mut found = None;
    // to the end in any case: what does not decode must not get into a compacted topic
    for (index, record) in (0..).zip(batch.records(&plain)) {
        if record?.key.is_none() && found.is_none() {
            found = Some(index);
        }
    }
    Ok(found)
}
