//! What a produced batch must be, told from its header, as Kafka has it
//! (`LogValidator.validateBatch` and `UnifiedLog.analyzeAndValidateRecords`).
//!
//! No record is read and nothing is decompressed. What only the records could tell is left to
//! whoever decodes them: the archiver keeps a batch that it cannot decode as it came.

use bytes::Bytes;
use thiserror::Error;

use super::batch::BatchView;
use super::compression::Codec;
use super::header::{Attributes, HEADER_BYTES, HeaderError, TimestampType};
use crate::error_code::ErrorCode;
use crate::limits::{BATCH_PLAIN_BYTES_MAX, RECORD_BYTES_MIN};

/// What a topic asks of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRules {
    /// `max.message.bytes`: the largest batch as stored.
    pub bytes_max: usize,
    /// `message.timestamp.type`. With LogAppendTime the producer's timestamps are not looked at.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
}

/// Why a produced batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The header cannot be read. INVALID_RECORD, or CORRUPT_MESSAGE for an impossible length.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// There is more than one batch. INVALID_RECORD.
    #[error("exactly one record batch per partition is expected, {0} more bytes follow")]
    SeveralBatches(usize),
    /// The producer gave offsets. INVALID_RECORD.
    #[error("base offset of a produced batch should be 0, but it is {0}")]
    BaseOffset(i64),
    /// MESSAGE_TOO_LARGE.
    #[error("record batch has {bytes} bytes, max.message.bytes is {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The topic's limit.
        bytes_max: usize,
    },
    /// CORRUPT_MESSAGE.
    #[error("record batch does not match its crc {0:08x}")]
    Crc(u32),
    /// Number of records and of offsets differ, or cannot be. INVALID_RECORD.
    #[error("record batch counts {count} records but its last offset delta is {last_offset_delta}")]
    Count {
        /// Records according to the header.
        count: i32,
        /// Last offset less base offset.
        last_offset_delta: i32,
    },
    /// Only brokers write control batches. INVALID_RECORD.
    #[error("clients cannot write control batches")]
    Control,
    /// Only brokers set the delete horizon. INVALID_RECORD.
    #[error("clients cannot set a delete horizon")]
    DeleteHorizon,
    /// Producer fields that contradict each other. INVALID_RECORD.
    #[error("producer {producer} has epoch {epoch} and base sequence {base_sequence}")]
    Producer {
        /// The producer id.
        producer: i64,
        /// Its epoch.
        epoch: i16,
        /// The sequence number.
        base_sequence: i32,
    },
    /// UNSUPPORTED_COMPRESSION_TYPE.
    #[error("no compression codec has the number {0}")]
    Codec(i16),
    /// INVALID_TIMESTAMP.
    #[error("clients must not mark a batch with log append time")]
    TimestampType,
    /// INVALID_TIMESTAMP.
    #[error("timestamp {timestamp} is out of range: it should be within [{least}, {most}]")]
    Timestamp {
        /// The record's.
        timestamp: i64,
        /// Earliest accepted now.
        least: i64,
        /// Latest accepted now.
        most: i64,
    },
}

impl BatchError {
    /// The code for the client. Only a batch that was damaged on its way is worth sending again,
    /// so that the others are not retriable.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Header(HeaderError::Length(_)) | Self::Crc(_) => ErrorCode::CorruptMessage,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::Codec(_) => ErrorCode::UnsupportedCompressionType,
            Self::TimestampType | Self::Timestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::Header(_)
            | Self::SeveralBatches(_)
            | Self::BaseOffset(_)
            | Self::Count { .. }
            | Self::Control
            | Self::DeleteHorizon
            | Self::Producer { .. } => ErrorCode::InvalidRecord,
        }
    }
}

/// Checks what a producer sent for one partition. `now_ms` is the broker's wall time.
///
/// # Errors
/// The first rule that is broken, in the order in which Kafka looks at them.
pub fn check_produced(
    mut bytes: Bytes,
    rules: &BatchRules,
    now_ms: i64,
) -> Result<BatchView, BatchError> {
    let batch = BatchView::take(&mut bytes)?;
    if !bytes.is_empty() {
        return Err(BatchError::SeveralBatches(bytes.len()));
    }
    let header = batch.header();
    if header.base_offset != 0 {
        return Err(BatchError::BaseOffset(header.base_offset));
    }
    if batch.bytes().len() > rules.bytes_max {
        return Err(BatchError::TooLarge {
            bytes: batch.bytes().len(),
            bytes_max: rules.bytes_max,
        });
    }
    if !batch.crc_matches() {
        return Err(BatchError::Crc(header.crc));
    }
    check_attributes(header.attributes)?;
    check_count(&batch)?;
    check_producer(&batch)?;
    check_timestamps(&batch, rules, now_ms)?;
    Ok(batch)
}

fn check_attributes(attributes: Attributes) -> Result<(), BatchError> {
    if attributes.is_control() {
        return Err(BatchError::Control);
    }
    if attributes.has_delete_horizon() {
        return Err(BatchError::DeleteHorizon);
    }
    if attributes.codec().is_none() {
        return Err(BatchError::Codec(attributes.0 & Attributes::CODEC_MASK));
    }
    if attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::TimestampType);
    }
    Ok(())
}

/// The count is believed later on, so that it must fit the bytes: those of the batch, or those
/// that a decompressed one may have.
fn check_count(batch: &BatchView) -> Result<(), BatchError> {
    let header = batch.header();
    let wrong = BatchError::Count {
        count: header.record_count,
        last_offset_delta: header.last_offset_delta,
    };
    let count = usize::try_from(header.record_count).map_err(|_| wrong)?;
    let plain_bytes = match header.attributes.codec() {
        Some(Codec::None) => batch.bytes().len() - HEADER_BYTES,
        _ => BATCH_PLAIN_BYTES_MAX,
    };
    let fits = count > 0
        && header.record_count.checked_sub(1) == Some(header.last_offset_delta)
        && count <= plain_bytes / RECORD_BYTES_MIN;
    if fits { Ok(()) } else { Err(wrong) }
}

fn check_producer(batch: &BatchView) -> Result<(), BatchError> {
    let header = batch.header();
    let consistent = if header.has_producer() {
        header.base_sequence >= 0 && header.producer_epoch.0 >= 0
    } else {
        !header.attributes.is_transactional()
    };
    if consistent {
        return Ok(());
    }
    Err(BatchError::Producer {
        producer: header.producer_id.0,
        epoch: header.producer_epoch.0,
        base_sequence: header.base_sequence,
    })
}

/// The max timestamp is the latest of the batch; the base timestamp is that of its first record,
/// so that a first record or a whole batch from too long ago is found. −1 means none.
fn check_timestamps(batch: &BatchView, rules: &BatchRules, now_ms: i64) -> Result<(), BatchError> {
    if rules.timestamp_type == TimestampType::LogAppendTime {
        return Ok(());
    }
    let header = batch.header();
    let least = now_ms.saturating_sub(rules.timestamp_before_max_ms);
    let most = now_ms.saturating_add(rules.timestamp_after_max_ms);
    for timestamp in [header.max_timestamp, header.base_timestamp] {
        if timestamp != -1 && !(least..=most).contains(&timestamp) {
            return Err(BatchError::Timestamp {
                timestamp,
                least,
                most,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
