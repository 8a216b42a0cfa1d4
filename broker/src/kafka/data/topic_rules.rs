//! What a topic's configs ask of the batches that are produced to it, as typed values.
//!
//! Pure: a topic's own configs over the broker's defaults. The coordinator takes only configs that
//! `admin/topic_config.rs` finds legal; one that does not parse here counts as not set.

use std::collections::BTreeMap;
use std::str::FromStr;

use firn_proto::record::{BatchRules, Codec, Compression, TimestampType};

use crate::retention::Retention;

/// How produced batches of a topic are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicRules {
    /// What every batch must be.
    pub batch: BatchRules,
    /// Whether every record needs a key (`cleanup.policy` has `compact`).
    pub compacted: bool,
    /// The codec that batches are brought into; `None` keeps the producer's.
    pub compression: Option<Compression>,
    /// What is kept (`cleanup.policy` has `delete`); `None` keeps all.
    pub retention: Option<Retention>,
}

/// `message.timestamp.after.max.ms` of a topic that does not say (KIP-1030).
const TIMESTAMP_AFTER_MAX_MS: i64 = 3_600_000;
/// `retention.ms` of a topic that does not say: seven days.
const RETENTION_MS: i64 = 604_800_000;

impl TopicRules {
    /// The rules of a topic with these configs. `bytes_max` is the broker's `message.max.bytes`.
    pub fn new(configs: &BTreeMap<String, String>, bytes_max: usize) -> Self {
        let timestamp_type = match text(configs, "message.timestamp.type") {
            Some("LogAppendTime") => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        };
        let policy = text(configs, "cleanup.policy").unwrap_or("delete");
        let has_policy = |wanted| policy.split(',').any(|word| word.trim() == wanted);
        let retention_ms = number(configs, "retention.ms").unwrap_or(RETENTION_MS);
        let retention_bytes: Option<i64> = number(configs, "retention.bytes");
        Self {
            batch: BatchRules {
                bytes_max: number(configs, "max.message.bytes").unwrap_or(bytes_max),
                timestamp_type,
                timestamp_before_max_ms: number(configs, "message.timestamp.before.max.ms")
                    .unwrap_or(i64::MAX),
                timestamp_after_max_ms: number(configs, "message.timestamp.after.max.ms")
                    .unwrap_or(TIMESTAMP_AFTER_MAX_MS),
            },
            compacted: has_policy("compact"),
            compression: compression(configs),
            retention: has_policy("delete").then(|| Retention {
                ms: Some(retention_ms).filter(|ms| *ms >= 0),
                bytes: retention_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            }),
        }
    }
}

fn text<'a>(configs: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    configs.get(name).map(String::as_str)
}

fn number<T: FromStr>(configs: &BTreeMap<String, String>, name: &str) -> Option<T> {
    text(configs, name)?.trim().parse().ok()
}

fn compression(configs: &BTreeMap<String, String>) -> Option<Compression> {
    let (codec, level) = match text(configs, "compression.type")? {
        "uncompressed" => (Codec::None, None),
        "gzip" => (Codec::Gzip, number(configs, "compression.gzip.level")),
        "snappy" => (Codec::Snappy, None),
        "lz4" => (Codec::Lz4, number(configs, "compression.lz4.level")),
        "zstd" => (Codec::Zstd, number(configs, "compression.zstd.level")),
        _ => return None,
    };
    Some(Compression { codec, level })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(configs: &[(&str, &str)]) -> TopicRules {
        let configs = configs.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        TopicRules::new(&configs.collect(), 1000)
    }

    #[test]
    fn a_topic_without_configs_has_the_brokers_limit_and_kafkas_defaults() {
        let rules = rules(&[]);
        assert_eq!(rules.batch.bytes_max, 1000);
        assert_eq!(rules.batch.timestamp_type, TimestampType::CreateTime);
        assert_eq!(rules.batch.timestamp_before_max_ms, i64::MAX);
        assert_eq!(rules.batch.timestamp_after_max_ms, 3_600_000);
        assert!(!rules.compacted);
        assert_eq!(rules.compression, None);
    }

    #[test]
    fn a_topics_own_configs_win() {
        let rules = rules(&[
            ("max.message.bytes", "77"),
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.after.max.ms", "5"),
            ("cleanup.policy", "delete, compact"),
            ("compression.type", "zstd"),
            ("compression.zstd.level", "7"),
        ]);
        assert_eq!(rules.batch.bytes_max, 77);
        assert_eq!(rules.batch.timestamp_type, TimestampType::LogAppendTime);
        assert_eq!(rules.batch.timestamp_after_max_ms, 5);
        assert!(rules.compacted);
        assert_eq!(rules.compression.map(|c| c.codec), Some(Codec::Zstd));
        assert_eq!(rules.compression.and_then(|c| c.level), Some(7));
    }

    #[test]
    fn seven_days_are_kept_unless_the_topic_says_otherwise() {
        let kept = |ms, bytes| Some(Retention { ms, bytes });
        assert_eq!(rules(&[]).retention, kept(Some(RETENTION_MS), None));
        let all = rules(&[("retention.ms", "-1"), ("retention.bytes", "-1")]);
        assert_eq!(all.retention, kept(None, None));
        let some = rules(&[("retention.ms", "5"), ("retention.bytes", "7")]);
        assert_eq!(some.retention, kept(Some(5), Some(7)));
        let compacted = rules(&[("cleanup.policy", "compact"), ("retention.ms", "5")]);
        assert_eq!(compacted.retention, None);
    }

    #[test]
    fn the_producers_codec_is_kept_unless_another_is_asked_for() {
        assert_eq!(rules(&[("compression.type", "producer")]).compression, None);
    }
}
