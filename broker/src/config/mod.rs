//! The whole configuration of the process: one tree, put together once from its sources and parsed
//! into valid types, so that nothing later has to check a setting again.
//!
//! * `keys` has every key: its name (Kafka's own where Kafka has one), default and meaning.
//! * `sources` reads `firn.toml`, the environment and `-X` into key–value pairs.
//! * `relations` says which limits must fit which.
//! * `value` reads sizes, durations, numbers; `listener` and `roles` what their names say.
//!
//! Order, later wins: defaults, what `firn dev` changes, `--config FILE`, `FIRN_…`, flags, `-X`.
//! Pure but for `sources::read_file`.

mod keys;
mod listener;
mod relations;
mod roles;
mod sources;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use firn_proto::ids::BrokerId;
use firn_proto::limits;
use thiserror::Error;

pub use keys::{KEYS, Key};
pub use listener::{HostPort, ListenerSpec, Protocol};
pub use roles::Roles;
pub use sources::{Pair, Source, from_env, read_file};

/// Why the configuration cannot be used; each says what to write instead. Exit status 2.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("{source_name}: unknown key `{key}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    UnknownKey {
        /// Where it was written.
        source_name: String,
        /// The key.
        key: String,
        /// The nearest key that exists.
        suggestion: Option<String>,
    },
    /// A value that its key cannot take.
    #[error("{source_name}: {key}: {reason}")]
    BadValue {
        /// Where it was written.
        source_name: String,
        /// The key.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The configuration file cannot be read as TOML.
    #[error("cannot read configuration {path}: {reason}")]
    BadFile {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings that exclude each other, or one that is missing.
    #[error("{0}")]
    Contradiction(String),
}

/// What a command changes in the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `firn dev`: a bucket in the current directory, no waiting for further group members.
    Dev,
    /// `firn serve`: the bucket must be named.
    Serve,
}

/// Where the local WAL lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalPlace {
    /// `./firn-wal` for `s3://`; none for `file://` and `memory://`, where it would write the same
    /// disk twice.
    Auto,
    /// No local WAL: acks=1 waits for the bucket.
    None,
    /// This directory.
    Dir(PathBuf),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object per line.
    Json,
}

/// The bucket: the only durable store.
#[derive(Clone, Debug)]
pub struct BucketConfig {
    /// `file://DIR`, `memory://`, or `s3://BUCKET/PREFIX?endpoint=…&region=…&path_style=true&profile=…`.
    pub url: String,
    /// Make the bucket, or the directory, if it does not exist.
    pub create: bool,
    /// How long a start waits for a bucket that does not answer.
    pub start_timeout: Duration,
}

/// The write-ahead path.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// Where the local WAL lies.
    pub place: WalPlace,
    /// Bytes of produced batches that may wait for the bucket before producers are held back.
    pub memory_bytes: usize,
    /// Object puts per second of a busy broker; `None` lets the scheme decide (10 for s3://).
    pub puts_per_second: Option<u32>,
}

/// Caches of what is read.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Bytes of the newest batches kept in memory.
    pub tail_bytes: usize,
    /// Bytes of bucket objects kept in memory.
    pub memory_bytes: usize,
    /// Where bucket objects are kept on disk, if anywhere.
    pub disk_dir: Option<PathBuf>,
    /// Bytes of bucket objects kept on disk.
    pub disk_bytes: u64,
}

/// What topics get that do not say otherwise.
#[derive(Clone, Debug)]
pub struct TopicDefaults {
    /// Whether Metadata and Produce make topics that do not exist.
    pub auto_create: bool,
    /// Partitions of a topic made without a number.
    pub partitions: i32,
    /// Largest batch, as stored.
    pub message_max_bytes: usize,
    /// How long records wait until they are archived.
    pub archive_interval: Duration,
}

/// Consumer groups.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// How long an empty group waits for further members before its first assignment.
    pub initial_rebalance_delay: Duration,
    /// Shortest session timeout a member may ask for.
    pub session_timeout_min: Duration,
    /// Longest session timeout a member may ask for.
    pub session_timeout_max: Duration,
    /// Members that one group may have.
    pub size_max: usize,
    /// How often a member of a consumer group (KIP-848) is to be heard.
    pub consumer_heartbeat_interval: Duration,
    /// After this silence a member of a consumer group is out.
    pub consumer_session_timeout: Duration,
    /// Members that one consumer group may have.
    pub consumer_size_max: usize,
    /// How long committed offsets of an empty group are kept.
    pub offsets_retention: Duration,
}

/// What clients of the Kafka door may take.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Connections of all clients together.
    pub count_max: usize,
    /// Connections from one address.
    pub count_per_ip_max: usize,
    /// A connection without a request for this long is closed.
    pub idle_max: Duration,
    /// Largest request frame.
    pub request_bytes_max: usize,
    /// Bytes of all Produce requests together that are not in the WAL yet.
    pub produces_bytes_max: usize,
    /// Bytes of all other requests in progress together.
    pub requests_bytes_max: usize,
    /// Largest answer to one Fetch, whatever the client asks for.
    pub fetch_bytes_max: usize,
    /// Bytes of all Fetch answers being written together.
    pub fetches_bytes_max: usize,
}

/// How log lines come out.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Plain or JSON.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, `firn=debug,info`.
    pub filter: String,
}

/// The configuration of one process. Every value is valid and the values agree with each other.
#[derive(Clone, Debug)]
pub struct Config {
    /// The durable store.
    pub bucket: BucketConfig,
    /// The Kafka door; at least one.
    pub listeners: Vec<ListenerSpec>,
    /// Where links to other brokers are bound (UDP); `None`: where the first Kafka listener is.
    pub link: Option<SocketAddr>,
    /// Where other brokers are told to reach it; port 0 is the one that was bound. `None`: that one,
    /// and the host of the first Kafka listener.
    pub link_advertise: Option<HostPort>,
    /// The native door; reserved, not opened by this version.
    pub quic: Option<SocketAddr>,
    /// Health and metrics.
    pub http: Option<SocketAddr>,
    /// Allows listeners beyond loopback although nobody authenticates.
    pub insecure: bool,
    /// Kafka's `broker.id`; `None`: the one its disk had last, or the lowest that is free.
    pub broker_id: Option<BrokerId>,
    /// After how long a silent broker is taken for dead that nobody could prove to be.
    pub broker_session: Duration,
    /// Kafka's `broker.rack`: the zone this broker runs in.
    pub rack: Option<String>,
    /// The write-ahead path.
    pub wal: WalConfig,
    /// Caches.
    pub cache: CacheConfig,
    /// Topic defaults.
    pub topics: TopicDefaults,
    /// Consumer groups.
    pub groups: GroupConfig,
    /// Clients.
    pub connections: ConnectionConfig,
    /// How long a producer without activity is remembered.
    pub producer_id_expiration: Duration,
    /// How often garbage is collected.
    pub collection_interval: Duration,
    /// How long after a start orphans are.
    pub collection_orphans_delay: Duration,
    /// How often retention is looked at.
    pub retention_check_interval: Duration,
    /// Bytes of what is remembered of idempotent producers, in all partitions together.
    pub producer_memory_bytes: usize,
    /// How long partitions of a dead broker wait for its local WAL.
    pub recovery_disk_wait: Duration,
    /// What this process does in its cluster.
    pub roles: Roles,
    /// How long an orderly stop may take.
    pub shutdown_timeout: Duration,
    /// Log lines.
    pub log: LogConfig,
    /// Every key with its value and where that was written; for DescribeConfigs and the log.
    values: BTreeMap<&'static str, Setting>,
}

/// The effective value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value; durations and sizes as plain numbers of milliseconds and bytes, which is how
    /// Kafka's tools read them.
    pub text: String,
    /// The value as it was written.
    written: String,
    /// Who wrote it.
    pub source: Source,
}

impl Config {
    /// Puts `pairs` (in order, later wins) over the defaults of `profile`.
    ///
    /// # Errors
    /// An unknown key, a value its key cannot take, or values that contradict each other.
    pub fn new(profile: Profile, pairs: Vec<Pair>) -> Result<Self, ConfigError> {
        if let Some(text) = said_twice(&pairs) {
            return Err(ConfigError::Contradiction(text));
        }
        let mut config = Self::blank();
        let defaults = KEYS
            .iter()
            .map(|key| Pair::new(key.name, key.default_in(profile), Source::Default));
        for pair in defaults.chain(pairs) {
            config.set(pair)?;
        }
        config.finish(profile)
    }

    /// Every key with its effective value, in the order of names.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.values.iter().map(|(name, setting)| (*name, setting))
    }

    /// The URL scheme of the bucket: `file`, `memory`, `s3`.
    pub fn bucket_scheme(&self) -> &str {
        self.bucket
            .url
            .split_once("://")
            .map_or("", |(scheme, _)| scheme)
    }

    /// The directory of the local WAL, if this configuration has one.
    pub fn wal_dir(&self) -> Option<PathBuf> {
        match &self.wal.place {
            WalPlace::Dir(dir) => Some(dir.clone()),
            WalPlace::Auto if self.bucket_scheme() == "s3" => Some(PathBuf::from("firn-wal")),
            WalPlace::Auto | WalPlace::None => None,
        }
    }

    fn set(&mut self, pair: Pair) -> Result<(), ConfigError> {
        let Some(key) = KEYS.iter().find(|key| key.name == pair.key) else {
            return Err(sources::unknown_key(&pair.source, &pair.key));
        };
        (key.set)(self, pair.value.trim()).map_err(|reason| ConfigError::BadValue {
            source_name: pair.source.to_string(),
            key: pair.key,
            reason,
        })?;
        let setting = Setting {
            text: value::canonical(key.name, pair.value.trim()),
            written: pair.value.trim().to_owned(),
            source: pair.source,
        };
        self.values.insert(key.name, setting);
        Ok(())
    }

    /// Checks what no single value can show.
    fn finish(self, profile: Profile) -> Result<Self, ConfigError> {
        if self.bucket.url.is_empty() {
            assert_eq!(profile, Profile::Serve, "`firn dev` has a default bucket");
            return Err(ConfigError::Contradiction(
                "no bucket: pass --bucket URL (file://DIR, s3://BUCKET/PREFIX, memory://), or try `firn dev`"
                    .to_owned(),
            ));
        }
        if self.is_written("kafka") && self.is_written("listeners") {
            let (kafka, listeners) = (self.named("kafka"), self.named("listeners"));
            return Err(ConfigError::Contradiction(format!(
                "{kafka} and {listeners} both say where Kafka clients connect: leave kafka out; to \
                 open it too, add {KAFKA}=plaintext://ADDR to the listeners"
            )));
        }
        if self.bucket.url.starts_with("memory://") && !self.roles.coordinator {
            return Err(ConfigError::Contradiction(format!(
                "{} leaves nobody to lead: no other process reaches a bucket in memory",
                self.named("roles")
            )));
        }
        let contradiction = self.wrong_door().or_else(|| self.wrong_sizes());
        contradiction.map_or(Ok(self), |text| Err(ConfigError::Contradiction(text)))
    }

    /// Listeners that cannot be opened as they are.
    fn wrong_door(&self) -> Option<String> {
        for (at, listener) in self.listeners.iter().enumerate() {
            if self.listeners[..at]
                .iter()
                .any(|other| other.name == listener.name)
            {
                return Some(format!("two listeners are called {}", listener.name));
            }
            if !listener.is_loopback() && !self.insecure {
                return Some(format!(
                    "listener {listener} is reachable from other machines and nobody has to authenticate: \
                     bind it to loopback, or say --insecure if the network is trusted"
                ));
            }
        }
        let http = self
            .http
            .filter(|http| !http.ip().is_loopback() && !self.insecure)?;
        Some(format!(
            "http://{http} is reachable from other machines without authentication: bind it to \
             loopback, or say --insecure if the network is trusted"
        ))
    }

    /// Limits that contradict each other.
    fn wrong_sizes(&self) -> Option<String> {
        if self.connections.requests_bytes_max < limits::REQUESTS_BYTES_MIN {
            return Some(format!(
                "{} must be at least {}, so that the largest request fits beside others",
                self.named("queued.max.request.bytes"),
                limits::REQUESTS_BYTES_MIN
            ));
        }
        let broken = relations::ALL.iter().find_map(|relation| {
            let value = |key| self.values.get(key)?.text.parse().ok();
            relation.remedy(value(relation.low)?, value(relation.high)?)
        });
        let (relation, remedy) = broken?;
        Some(format!(
            "{} must be {} {}: {}; {remedy}",
            self.named(relation.high),
            relation.words,
            self.named(relation.low),
            relation.why,
        ))
    }

    /// A key with its value as it was written, and where.
    fn named(&self, key: &str) -> String {
        match self.values.get(key) {
            Some(setting) => format!("{key} = {} ({})", setting.written, setting.source),
            None => key.to_owned(),
        }
    }

    fn is_written(&self, key: &str) -> bool {
        self.values
            .get(key)
            .is_some_and(|setting| setting.source != Source::Default)
    }

    /// A tree whose every value is about to be set from the table of keys.
    fn blank() -> Self {
        Self {
            bucket: BucketConfig {
                url: String::new(),
                create: false,
                start_timeout: Duration::ZERO,
            },
            listeners: Vec::new(),
            link: None,
            link_advertise: None,
            quic: None,
            http: None,
            insecure: false,
            broker_id: None,
            broker_session: Duration::ZERO,
            rack: None,
            wal: WalConfig {
                place: WalPlace::Auto,
                memory_bytes: 0,
                puts_per_second: None,
            },
            cache: CacheConfig {
                tail_bytes: 0,
                memory_bytes: 0,
                disk_dir: None,
                disk_bytes: 0,
            },
            topics: TopicDefaults {
                auto_create: true,
                partitions: 1,
                message_max_bytes: limits::MESSAGE_BYTES_DEFAULT,
                archive_interval: Duration::ZERO,
            },
            groups: GroupConfig {
                initial_rebalance_delay: Duration::ZERO,
                session_timeout_min: Duration::ZERO,
                session_timeout_max: Duration::ZERO,
                size_max: 0,
                consumer_heartbeat_interval: Duration::ZERO,
                consumer_session_timeout: Duration::ZERO,
                consumer_size_max: 0,
                offsets_retention: Duration::ZERO,
            },
            connections: ConnectionConfig {
                count_max: 0,
                count_per_ip_max: 0,
                idle_max: Duration::ZERO,
                request_bytes_max: limits::REQUEST_BYTES_MAX,
                produces_bytes_max: 0,
                requests_bytes_max: 0,
                fetch_bytes_max: 0,
                fetches_bytes_max: 0,
            },
            producer_id_expiration: Duration::ZERO,
            collection_interval: Duration::ZERO,
            collection_orphans_delay: Duration::ZERO,
            retention_check_interval: Duration::ZERO,
            producer_memory_bytes: 0,
            recovery_disk_wait: Duration::ZERO,
            roles: Roles::default(),
            shutdown_timeout: Duration::ZERO,
            log: LogConfig {
                format: LogFormat::Plain,
                filter: String::new(),
            },
            values: BTreeMap::new(),
        }
    }
}

/// What one source says of a key that it has said something of before.
fn said_twice(pairs: &[Pair]) -> Option<String> {
    pairs.iter().enumerate().find_map(|(at, pair)| {
        let is_same = |before: &&Pair| before.key == pair.key && before.source.is_as(&pair.source);
        let before = pairs[..at].iter().find(is_same)?;
        Some(format!(
            "{} is set twice: {} ({}) and {} ({}); leave one out",
            pair.key, before.value, before.source, pair.value, pair.source
        ))
    })
}

/// The name of the listener that `--kafka` stands for.
const KAFKA: &str = "KAFKA";
