//! Which produced batches are taken, by the rules of their topic. Pure.
//!
//! [`admit`] looks at the header alone. [`look_inside`] reads the records, which only compacted
//! topics and topics with a codec of their own need, and may take milliseconds.

use std::fmt::Display;

use bytes::Bytes;
use firn_proto::error_code::ErrorCode;
use firn_proto::record::{BatchView, Codec, check_produced, first_without_key, recompress};

use crate::kafka::data::topic_rules::TopicRules;
use crate::partition::Refusal;

/// The first version that may carry zstd.
const ZSTD_FROM: i16 = 7;

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The code.
    pub code: ErrorCode,
    /// What is wrong, for the producer's log.
    pub message: Option<String>,
    /// The record at fault, by its place in the batch.
    pub record: Option<i32>,
}

impl Refused {
    /// Refused for a reason that needs no words.
    pub fn plain(code: ErrorCode) -> Self {
        Self {
            code,
            message: None,
            record: None,
        }
    }

    /// Refused, and why.
    pub fn because(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            record: None,
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::because(refusal.code(), refusal.to_string())
    }
}

/// Takes the one batch of `records`, as its header shows it.
///
/// # Errors
/// The first rule that is broken.
pub fn admit(
    records: Option<Bytes>,
    rules: &TopicRules,
    version: i16,
    now_ms: i64,
) -> Result<BatchView, Refused> {
    let records = records
        .filter(|records| !records.is_empty())
        .ok_or_else(|| {
            let message = "exactly one record batch per partition is expected, there is none";
            Refused::because(ErrorCode::InvalidRecord, message)
        })?;
    let batch = check_produced(records, &rules.batch, now_ms)
        .map_err(|error| Refused::because(error.code(), error.to_string()))?;
    let attributes = batch.header().attributes;
    if attributes.codec() == Some(Codec::Zstd) && version < ZSTD_FROM {
        return Err(Refused::because(
            ErrorCode::UnsupportedCompressionType,
            "zstd needs version 7 of Produce",
        ));
    }
    if attributes.is_transactional() {
        return Err(Refused::because(
            ErrorCode::InvalidTxnState,
            "transactions are not served",
        ));
    }
    Ok(batch)
}

/// Whether [`look_inside`] has anything to do.
pub fn must_look_inside(batch: &BatchView, rules: &TopicRules) -> bool {
    let other_codec = |wanted: Codec| batch.header().attributes.codec() != Some(wanted);
    rules.compacted
        || rules
            .compression
            .is_some_and(|wanted| other_codec(wanted.codec))
}

/// Checks that every record has a key, where the topic needs that, and brings the batch into the
/// topic's codec; `None` if it is in that already. At most `bytes_max` bytes may come out of it.
///
/// # Errors
/// INVALID_RECORD with the first record without a key; CORRUPT_MESSAGE if the records cannot be
/// read; MESSAGE_TOO_LARGE if they are too large, decompressed or in the topic's codec.
pub fn look_inside(
    batch: &BatchView,
    rules: &TopicRules,
    bytes_max: usize,
) -> Result<Option<BatchView>, Refused> {
    if rules.compacted {
        let keyless = first_without_key(batch, bytes_max);
        let keyless = keyless.map_err(|error| unreadable(error.is_too_large(), &error))?;
        if let Some(record) = keyless {
            return Err(Refused {
                code: ErrorCode::InvalidRecord,
                message: Some("a compacted topic takes no record without a key".to_owned()),
                record: Some(record),
            });
        }
    }
    let codec = batch.header().attributes.codec();
    let Some(wanted) = rules.compression.filter(|c| codec != Some(c.codec)) else {
        return Ok(None);
    };
    let batch = recompress(batch, wanted, bytes_max)
        .map_err(|error| unreadable(error.is_too_large(), &error))?;
    let bytes = batch.bytes().len();
    if bytes > rules.batch.bytes_max {
        let message = format!(
            "record batch has {bytes} bytes in the topic's codec, max.message.bytes is {}",
            rules.batch.bytes_max
        );
        return Err(Refused::because(ErrorCode::MessageTooLarge, message));
    }
    Ok(Some(batch))
}

/// What expands too far is not worth sending again as it is.
fn unreadable(is_too_large: bool, error: &dyn Display) -> Refused {
    let code = match is_too_large {
        true => ErrorCode::MessageTooLarge,
        false => ErrorCode::CorruptMessage,
    };
    Refused::because(code, error.to_string())
}

#[cfg(test)]
mod tests;
