//! The configs of a topic: names, types, defaults and what is legal, in one table.
//!
//! Names and defaults are Kafka's (4.x), so that tools that read or set them work unchanged. A
//! config that has no meaning on a bucket (say `segment.ms`) is still kept and shown: Kafka's
//! clients set it and read it back.

use std::collections::BTreeMap;

use firn_proto::cluster::{ClusterImage, TopicImage};
use firn_proto::limits::{MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_MAX};

/// How a value is written, and which values are legal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A 32-bit number of at least `.0` and at most `.1`.
    Int(i32, i32),
    /// A 64-bit number of at least `.0`.
    Long(i64),
    /// A number between `.0` and `.1`.
    Double(f64, f64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, separated by commas.
    Words(&'static [&'static str]),
    /// Text that is kept as it comes.
    List,
}

/// One config of a topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicConfig {
    /// Its name on a topic.
    pub name: &'static str,
    /// The broker-wide setting that gives its default, if there is one.
    pub broker_name: Option<&'static str>,
    /// Legal values.
    pub kind: Kind,
    /// The default where neither topic nor broker sets it.
    pub default: &'static str,
    /// One line for `DescribeConfigs` with documentation.
    pub documentation: &'static str,
}

/// Why a set of configs is refused (`INVALID_CONFIG`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    /// No config has this name.
    #[error("unknown topic config name: {name}{}", hint(.suggestion))]
    Unknown {
        /// The name given.
        name: String,
        /// The nearest name there is.
        suggestion: Option<&'static str>,
    },
    /// The value is not legal.
    #[error("invalid value {value} for configuration {name}: {reason}")]
    Invalid {
        /// The config.
        name: &'static str,
        /// The value given.
        value: String,
        /// What would be legal.
        reason: String,
    },
    /// Records are to be durable on a disk that no broker has.
    #[error(
        "no live broker has a local WAL, so records cannot be durable there: start brokers with \
         --wal DIR, or leave firn.durability at bucket"
    )]
    NoLocalWal,
}

fn hint(suggestion: &Option<&'static str>) -> String {
    suggestion
        .map(|name| format!(" (did you mean {name}?)"))
        .unwrap_or_default()
}

const INT_MAX: i32 = i32::MAX;
const COMPRESSIONS: &[&str] = &["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"];

macro_rules! topic_configs {
    ($($name:literal $broker:expr, $kind:expr, $default:literal, $documentation:literal;)*) => {
        /// Every config of a topic, by name.
        pub const TOPIC_CONFIGS: &[TopicConfig] = &[$(TopicConfig {
            name: $name,
            broker_name: $broker,
            kind: $kind,
            default: $default,
            documentation: $documentation,
        }),*];
    };
}

topic_configs! {
    "cleanup.policy" Some("log.cleanup.policy"), Kind::Words(&["delete", "compact"]), "delete",
        "What happens to old records: deleted by age and size, or compacted by key.";
    "compression.gzip.level" Some("compression.gzip.level"), Kind::Int(-1, 9), "-1",
        "The gzip level where compression.type is gzip.";
    "compression.lz4.level" Some("compression.lz4.level"), Kind::Int(1, 17), "9",
        "The lz4 level where compression.type is lz4.";
    "compression.type" Some("compression.type"), Kind::Word(COMPRESSIONS), "producer",
        "The codec batches are kept in; producer keeps what the producer chose.";
    "compression.zstd.level" Some("compression.zstd.level"), Kind::Int(-131_072, 22), "3",
        "The zstd level where compression.type is zstd.";
    "delete.retention.ms" Some("log.cleaner.delete.retention.ms"), Kind::Long(0), "86400000",
        "How long a tombstone is kept in a compacted topic.";
    "file.delete.delay.ms" Some("log.segment.delete.delay.ms"), Kind::Long(0), "60000",
        "How long a deleted file is kept for readers.";
    "firn.archive.interval.ms" Some("archive.interval.ms"), Kind::Long(1), "300000",
        "How long records wait until they are archived.";
    "firn.durability" None, Kind::Word(&["bucket", "local"]), "bucket",
        "What acknowledges records (acks=all) and makes them visible: the bucket, or the local WAL of \
         the partition's owner, for whose disk the partition then waits if the owner crashes.";
    "flush.messages" Some("log.flush.interval.messages"), Kind::Long(1), "9223372036854775807",
        "Kept for tools; every acknowledgement is durable already.";
    "flush.ms" Some("log.flush.interval.ms"), Kind::Long(0), "9223372036854775807",
        "Kept for tools; every acknowledgement is durable already.";
    "follower.replication.throttled.replicas" None, Kind::List, "",
        "Kept for tools; the bucket replicates.";
    "index.interval.bytes" Some("log.index.interval.bytes"), Kind::Int(0, INT_MAX), "4096",
        "Kept for tools.";
    "leader.replication.throttled.replicas" None, Kind::List, "",
        "Kept for tools; the bucket replicates.";
    "local.retention.bytes" Some("log.local.retention.bytes"), Kind::Long(-2), "-2",
        "Kept for tools; the bucket is the only durable store.";
    "local.retention.ms" Some("log.local.retention.ms"), Kind::Long(-2), "-2",
        "Kept for tools; the bucket is the only durable store.";
    "max.compaction.lag.ms" Some("log.cleaner.max.compaction.lag.ms"), Kind::Long(1),
        "9223372036854775807", "The longest time a record stays uncompacted.";
    "max.message.bytes" Some("message.max.bytes"), Kind::Int(0, MESSAGE_BYTES_MAX as i32),
        "1048588", "The largest record batch, as stored.";
    "message.timestamp.after.max.ms" Some("log.message.timestamp.after.max.ms"), Kind::Long(0),
        "3600000", "How far a record's timestamp may lie ahead of the broker's clock.";
    "message.timestamp.before.max.ms" Some("log.message.timestamp.before.max.ms"), Kind::Long(0),
        "9223372036854775807", "How far a record's timestamp may lie behind the broker's clock.";
    "message.timestamp.type" Some("log.message.timestamp.type"),
        Kind::Word(&["CreateTime", "LogAppendTime"]), "CreateTime",
        "Whose clock a record's timestamp is from.";
    "min.cleanable.dirty.ratio" Some("log.cleaner.min.cleanable.ratio"), Kind::Double(0.0, 1.0),
        "0.5", "How much of a log must be uncompacted before it is compacted.";
    "min.compaction.lag.ms" Some("log.cleaner.min.compaction.lag.ms"), Kind::Long(0), "0",
        "The shortest time a record stays uncompacted.";
    "min.insync.replicas" Some("min.insync.replicas"), Kind::Int(1, INT_MAX), "1",
        "Kept for tools; acks=all is answered when the bucket has the records.";
    "preallocate" Some("log.preallocate"), Kind::Boolean, "false", "Kept for tools.";
    "remote.log.copy.disable" None, Kind::Boolean, "false", "Kept for tools.";
    "remote.log.delete.on.disable" None, Kind::Boolean, "false", "Kept for tools.";
    "remote.storage.enable" None, Kind::Boolean, "false", "Kept for tools.";
    "retention.bytes" Some("log.retention.bytes"), Kind::Long(-1), "-1",
        "The size beyond which the oldest records of a partition go; -1 for no limit.";
    "retention.ms" Some("log.retention.ms"), Kind::Long(-1), "604800000",
        "The age beyond which records go; -1 for no limit.";
    "segment.bytes" Some("log.segment.bytes"), Kind::Int(14, INT_MAX), "1073741824",
        "Kept for tools.";
    "segment.index.bytes" Some("log.index.size.max.bytes"), Kind::Int(4, INT_MAX), "10485760",
        "Kept for tools.";
    "segment.jitter.ms" Some("log.roll.jitter.ms"), Kind::Long(0), "0", "Kept for tools.";
    "segment.ms" Some("log.roll.ms"), Kind::Long(1), "604800000", "Kept for tools.";
    "unclean.leader.election.enable" Some("unclean.leader.election.enable"), Kind::Boolean,
        "false", "Kept for tools; an owner always starts from what is durable.";
}

const _: () = assert!(
    MESSAGE_BYTES_DEFAULT == 1_048_588,
    "the table above spells it out"
);

/// The config of this name.
pub fn find(name: &str) -> Option<&'static TopicConfig> {
    let at = TOPIC_CONFIGS
        .binary_search_by(|config| config.name.cmp(name))
        .ok()?;
    TOPIC_CONFIGS.get(at)
}

/// Checks the configs a topic is to be given.
///
/// # Errors
/// The first name that does not exist, or the first value that is not legal.
pub fn validate(configs: &BTreeMap<String, String>) -> Result<(), TopicConfigError> {
    for (name, value) in configs {
        known(name)?.check(value)?;
    }
    Ok(())
}

/// The config of this name.
///
/// # Errors
/// [`TopicConfigError::Unknown`]: no config has this name.
pub fn known(name: &str) -> Result<&'static TopicConfig, TopicConfigError> {
    find(name).ok_or_else(|| TopicConfigError::Unknown {
        name: name.to_owned(),
        suggestion: nearest(name),
    })
}

/// Checks that what these configs of a topic ask for can be had in a cluster like that.
///
/// # Errors
/// [`TopicConfigError::NoLocalWal`].
pub fn check_means<'a>(
    image: &ClusterImage,
    set: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), TopicConfigError> {
    let mut set = set.into_iter();
    let is_local = set.any(|set| set == (TopicImage::DURABILITY, TopicImage::LOCAL));
    let has_disk = || image.brokers.values().any(|broker| broker.disk.is_some());
    if is_local && !has_disk() {
        return Err(TopicConfigError::NoLocalWal);
    }
    Ok(())
}

/// What of these configs is kept and shown, and does nothing yet: records are not compacted by key.
pub fn without_effect(configs: &[(String, String)]) -> Vec<String> {
    let has_none = |name: &str, value: &str| match name {
        "cleanup.policy" => value.split(',').any(|word| word.trim() == "compact"),
        _ => false,
    };
    let named = configs.iter().filter(|(name, value)| has_none(name, value));
    named
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// Says in the log what of a topic's settings does nothing yet, if anything.
pub fn warn_of_no_effect(topic: &str, no_effect: &[String]) {
    if !no_effect.is_empty() {
        tracing::warn!(
            topic,
            no_effect = no_effect.join("; "),
            "the topic asks for what does nothing yet: it is kept and shown; records are not \
             compacted, and the bucket replicates"
        );
    }
}

impl TopicConfig {
    /// Whether its value is a list of words, separated by commas.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Words(_) | Kind::List)
    }

    /// Checks one value.
    ///
    /// # Errors
    /// [`TopicConfigError::Invalid`] saying what would be legal.
    pub fn check(&self, value: &str) -> Result<(), TopicConfigError> {
        let reason = match self.kind {
            Kind::Boolean if matches!(value, "true" | "false") => return Ok(()),
            Kind::Boolean => "true or false expected".to_owned(),
            Kind::Int(least, most) => match value.trim().parse::<i32>() {
                Ok(number) if (least..=most).contains(&number) => return Ok(()),
                _ => format!("a number from {least} to {most} expected"),
            },
            Kind::Long(least) => match value.trim().parse::<i64>() {
                Ok(number) if number >= least => return Ok(()),
                _ => format!("a number of at least {least} expected"),
            },
            Kind::Double(least, most) => match value.trim().parse::<f64>() {
                Ok(number) if (least..=most).contains(&number) => return Ok(()),
                _ => format!("a number from {least} to {most} expected"),
            },
            Kind::Word(words) if words.contains(&value) => return Ok(()),
            Kind::Word(words) => format!("one of {} expected", words.join(", ")),
            Kind::Words(words) => {
                if value.split(',').all(|word| words.contains(&word.trim())) {
                    return Ok(());
                }
                format!("a list of {} expected", words.join(", "))
            }
            Kind::List => return Ok(()),
        };
        Err(TopicConfigError::Invalid {
            name: self.name,
            value: value.to_owned(),
            reason,
        })
    }
}

/// The known name with the longest common beginning, if there is one worth showing.
fn nearest(name: &str) -> Option<&'static str> {
    let common = |known: &str| {
        known
            .bytes()
            .zip(name.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let best = TOPIC_CONFIGS
        .iter()
        .max_by_key(|config| common(config.name))?;
    (common(best.name) >= 4).then_some(best.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<(), TopicConfigError> {
        validate(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_legal() {
        assert!(TOPIC_CONFIGS.is_sorted_by_key(|config| config.name));
        for config in TOPIC_CONFIGS {
            assert_eq!(config.check(config.default), Ok(()), "{}", config.name);
        }
    }

    #[test]
    fn what_has_no_effect_yet_is_named() {
        let set = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            without_effect(&pairs.collect::<Vec<_>>())
        };
        assert_eq!(
            set(&[
                ("cleanup.policy", "compact, delete"),
                ("retention.ms", "60000"),
                ("segment.ms", "1"),
            ]),
            ["cleanup.policy=compact, delete"]
        );
        let nothing = set(&[("cleanup.policy", "delete"), ("retention.ms", "60000")]);
        assert_eq!(nothing, [""; 0]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest() {
        let error = one("retention.milliseconds", "1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown topic config name: retention.milliseconds (did you mean retention.ms?)"
        );
    }

    #[test]
    fn an_illegal_value_is_refused_with_what_is_legal() {
        assert!(one("cleanup.policy", "compact,delete").is_ok());
        assert!(one("cleanup.policy", "shred").is_err());
        assert!(one("retention.ms", "-1").is_ok());
        assert!(one("retention.ms", "-2").is_err());
        assert!(one("max.message.bytes", "5000000000").is_err());
        assert!(one("min.cleanable.dirty.ratio", "0.25").is_ok());
        assert!(one("min.cleanable.dirty.ratio", "NaN").is_err());
        assert!(one("compression.type", "brotli").is_err());
        assert!(one("firn.durability", "bucket").is_ok());
        assert!(one("firn.durability", "local").is_ok());
        assert!(one("firn.durability", "peers").is_err());
    }
}
