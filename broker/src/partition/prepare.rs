//! From what a producer sent to the batch that is appended: checked, and changed where the topic
//! asks for it. Pure; takes CPU time, so that it runs before the partition is locked.

use bytes::Bytes;
use firn_proto::error_code::ErrorCode;
use firn_proto::limits::BATCH_PLAIN_BYTES_MAX;
use firn_proto::record::{
    BatchError, BatchRules, BatchView, BuildError, Compression, DecodeError, TimestampType,
    check_produced, first_without_key, recompress,
};
use thiserror::Error;

/// How produced batches of a topic are treated: its configs as typed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicRules {
    /// What every batch must be.
    pub batch: BatchRules,
    /// Whether every record needs a key (`cleanup.policy` has `compact`).
    pub compacted: bool,
    /// The codec that batches are brought into (`compression.type`); `None` keeps the producer's.
    pub compression: Option<Compression>,
}

/// Why a produced batch cannot be appended, whatever the state of its partition.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// Its header breaks a rule.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record of a compacted topic has no key. INVALID_RECORD.
    #[error("record {index} of the batch has no key, which a compacted topic needs")]
    NoKey {
        /// The record's index within the batch.
        index: i32,
    },
    /// Its records had to be looked at and are broken. INVALID_RECORD.
    #[error("the records of the batch do not decode: {0}")]
    Undecodable(#[from] DecodeError),
    /// Its records had to be brought into another codec and could not. INVALID_RECORD.
    #[error("the records of the batch could not be brought into the topic's codec: {0}")]
    Recompress(#[from] BuildError),
}

impl PrepareError {
    /// The code for the client.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Batch(error) => error.code(),
            Self::NoKey { .. } | Self::Undecodable(_) | Self::Recompress(_) => {
                ErrorCode::InvalidRecord
            }
        }
    }

    /// The record that is to blame, for `record_errors` (KIP-467).
    pub fn record_index(&self) -> Option<i32> {
        match self {
            Self::NoKey { index } => Some(*index),
            _ => None,
        }
    }
}

/// Checks a produced batch and brings it into the topic's codec. Decompresses only in topics that
/// are compacted or have a codec of their own. `now_ms` is wall time.
///
/// # Errors
/// [`PrepareError`]; nothing must be stored then.
pub fn prepare(records: Bytes, rules: &TopicRules, now_ms: i64) -> Result<BatchView, PrepareError> {
    let batch = check_produced(records, &rules.batch, now_ms)?;
    if rules.compacted
        && let Some(index) = first_without_key(&batch, BATCH_PLAIN_BYTES_MAX)?
    {
        return Err(PrepareError::NoKey { index });
    }
    let Some(compression) = rules.compression else {
        return Ok(batch);
    };
    if batch.header().attributes.codec() == Some(compression.codec) {
        return Ok(batch);
    }
    let batch = recompress(&batch, compression, BATCH_PLAIN_BYTES_MAX)?;
    // the limit is on the batch as stored
    if batch.bytes().len() > rules.batch.bytes_max {
        return Err(PrepareError::Batch(BatchError::TooLarge {
            bytes: batch.bytes().len(),
            bytes_max: rules.batch.bytes_max,
        }));
    }
    Ok(batch)
}

impl TopicRules {
    /// The time to stamp into batches appended at `now_ms`, in a topic with LogAppendTime.
    pub fn log_append_ms(&self, now_ms: i64) -> Option<i64> {
        (self.batch.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms)
    }
}

#[cfg(test)]
mod tests;
