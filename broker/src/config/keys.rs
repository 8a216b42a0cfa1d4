//! Every key of the configuration: name, default, meaning, and how its value enters the tree.

use std::path::PathBuf;
use std::time::Duration;

use firn_proto::ids::BrokerId;
use firn_proto::limits;
use firn_storage::bucket::BucketUrl;

use super::listener::{ListenerSpec, bind_address};
use super::roles::Roles;
use super::value::{duration, number, size, switch};
use super::{Config, KAFKA, LogFormat, Profile, WalPlace};

/// One key.
pub struct Key {
    /// Its dotted name: Kafka's own broker configuration where Kafka has one.
    pub name: &'static str,
    /// What it is when nobody says otherwise.
    pub default: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Key {
    /// What it is under `profile` when nobody says otherwise.
    pub fn default_in(&self, profile: Profile) -> &'static str {
        match (profile, self.name) {
            (Profile::Dev, "bucket") => "file://./firn-data",
            (Profile::Dev, "bucket.create") => "true",
            (Profile::Dev, "group.initial.rebalance.delay.ms") => "0",
            (Profile::Dev, "log.filter") => "warn,aws_config=error",
            (Profile::Dev | Profile::Serve, _) => self.default,
        }
    }
}

/// Every key, in the order of names.
pub static KEYS: &[Key] = &[
    Key {
        name: "archive.interval.ms",
        default: "5m",
        about: "how long records wait until they are archived, in topics without firn.archive.interval.ms",
        set: |c, v| set(&mut c.topics.archive_interval, interval(v)),
    },
    Key {
        name: "auto.create.topics.enable",
        default: "true",
        about: "make topics that a client names and that do not exist",
        set: |c, v| set(&mut c.topics.auto_create, switch(v)),
    },
    Key {
        name: "broker.id",
        default: "auto",
        about: "the number of this broker; auto is the one its local WAL had last, or the lowest that is free",
        set: |c, v| {
            c.broker_id = match v {
                "auto" | "" => None,
                v => {
                    let id = i32::try_from(number(v, 0..=BROKER_ID_MAX)?);
                    Some(BrokerId(id.unwrap_or(i32::MAX)))
                }
            };
            Ok(())
        },
    },
    Key {
        name: "broker.rack",
        default: "",
        about: "the zone this broker runs in: it serves consumers whose client.rack it is",
        set: |c, v| set(&mut c.rack, Ok((!v.is_empty()).then(|| v.to_owned()))),
    },
    Key {
        name: "broker.session.timeout.ms",
        default: "6s",
        about: "after how long a silent broker is taken for dead that nobody could prove to be; at least 6s",
        set: |c, v| {
            let timeout = duration(v)?;
            match timeout < limits::BROKER_SESSION_TIMEOUT_MIN {
                true => Err(format!("`{v}` is too short: it must be at least 6s")),
                false => set(&mut c.broker_session, Ok(timeout)),
            }
        },
    },
    Key {
        name: "bucket",
        default: "",
        about: "the durable store: file://DIR, memory://, s3://BUCKET/PREFIX?endpoint=&region=&path_style=&profile=",
        set: |c, v| set(&mut c.bucket.url, bucket_url(v)),
    },
    Key {
        name: "bucket.create",
        default: "false",
        about: "make the bucket, or the directory, if it does not exist",
        set: |c, v| set(&mut c.bucket.create, switch(v)),
    },
    Key {
        name: "bucket.start.timeout.ms",
        default: "60s",
        about: "how long a start waits for a bucket that does not answer",
        set: |c, v| set(&mut c.bucket.start_timeout, duration(v)),
    },
    Key {
        name: "cache.disk.bytes",
        default: "4GiB",
        about: "bytes of bucket objects kept on disk, if cache.disk.dir is set",
        set: |c, v| set(&mut c.cache.disk_bytes, size(v)),
    },
    Key {
        name: "cache.disk.dir",
        default: "none",
        about: "directory for bucket objects that were read, or none",
        set: |c, v| set(&mut c.cache.disk_dir, Ok(directory(v))),
    },
    Key {
        name: "cache.memory.bytes",
        default: "128MiB",
        about: "bytes of bucket objects kept in memory",
        set: |c, v| set(&mut c.cache.memory_bytes, memory(v)),
    },
    Key {
        name: "cache.tail.bytes",
        default: "128MiB",
        about: "bytes of the newest batches kept in memory",
        set: |c, v| set(&mut c.cache.tail_bytes, memory(v)),
    },
    Key {
        name: "collection.interval.ms",
        default: "10s",
        about: "how often what nobody needs is deleted; segments first wait for file.delete.delay.ms of the topic",
        set: |c, v| set(&mut c.collection_interval, interval(v)),
    },
    Key {
        name: "collection.orphans.delay.ms",
        default: "10m",
        about: "how long after a start segments that an ended process left behind are deleted",
        set: |c, v| set(&mut c.collection_orphans_delay, duration(v)),
    },
    Key {
        name: "connections.max.idle.ms",
        default: "10m",
        about: "a connection without a request for this long is closed",
        set: |c, v| set(&mut c.connections.idle_max, duration(v)),
    },
    Key {
        name: "fetch.max.bytes",
        default: "55MiB",
        about: "largest answer to one Fetch; shorter where memory is short",
        set: |c, v| set(&mut c.connections.fetch_bytes_max, memory(v)),
    },
    Key {
        name: "group.consumer.heartbeat.interval.ms",
        default: "5s",
        about: "how often a member of a consumer group (KIP-848) is to be heard",
        set: |c, v| set(&mut c.groups.consumer_heartbeat_interval, duration(v)),
    },
    Key {
        name: "group.consumer.max.size",
        default: "1000",
        about: "members that one consumer group (KIP-848) may have",
        set: |c, v| set(&mut c.groups.consumer_size_max, count(v, 10_000)),
    },
    Key {
        name: "group.consumer.session.timeout.ms",
        default: "45s",
        about: "after this silence a member of a consumer group (KIP-848) is out",
        set: |c, v| set(&mut c.groups.consumer_session_timeout, duration(v)),
    },
    Key {
        name: "group.initial.rebalance.delay.ms",
        default: "3s",
        about: "how long an empty group waits for further members",
        set: |c, v| set(&mut c.groups.initial_rebalance_delay, duration(v)),
    },
    Key {
        name: "group.max.session.timeout.ms",
        default: "30m",
        about: "longest session timeout of a group member",
        set: |c, v| set(&mut c.groups.session_timeout_max, duration(v)),
    },
    Key {
        name: "group.max.size",
        default: "1000",
        about: "members that one group may have",
        set: |c, v| set(&mut c.groups.size_max, count(v, 100_000)),
    },
    Key {
        name: "group.min.session.timeout.ms",
        default: "6s",
        about: "shortest session timeout of a group member",
        set: |c, v| set(&mut c.groups.session_timeout_min, duration(v)),
    },
    Key {
        name: "http",
        default: "127.0.0.1:8080",
        about: "address of /livez, /readyz, /metrics and /archive, or none",
        set: |c, v| set(&mut c.http, address(v)),
    },
    Key {
        name: "insecure",
        default: "false",
        about: "allow listeners beyond loopback although nobody authenticates",
        set: |c, v| set(&mut c.insecure, switch(v)),
    },
    Key {
        name: "kafka",
        default: "127.0.0.1:9092",
        about: "address of the one Kafka listener; short for listeners = KAFKA=plaintext://ADDR",
        set: |c, v| {
            c.listeners.retain(|listener| listener.name != KAFKA);
            c.listeners.insert(0, ListenerSpec::kafka(bind_address(v)?));
            Ok(())
        },
    },
    Key {
        name: "link.advertise",
        default: "auto",
        about: "HOST:PORT at which other brokers reach the link of this process, and of no other one; auto is the host of the first Kafka listener, and the port of the link",
        set: |c, v| {
            let told = match v {
                "auto" | "" => None,
                v => Some(v.parse()?),
            };
            set(&mut c.link_advertise, Ok(told))
        },
    },
    Key {
        name: "link.listener",
        default: "auto",
        about: "UDP address for links between the brokers of a cluster; auto is that of the first Kafka listener",
        set: |c, v| {
            let bind = match v {
                "auto" | "" => None,
                v => Some(bind_address(v)?),
            };
            set(&mut c.link, Ok(bind))
        },
    },
    Key {
        name: "listeners",
        default: "",
        about: "Kafka listeners, NAME=PROTO://ADDR[,advertise=HOST:PORT], separated by ; or blanks",
        set: |c, v| {
            let specs = v.split([';', ' ']).filter(|spec| !spec.is_empty());
            let specs: Vec<ListenerSpec> = specs.map(str::parse).collect::<Result<_, _>>()?;
            if !specs.is_empty() {
                c.listeners = specs;
            }
            Ok(())
        },
    },
    Key {
        name: "log.filter",
        default: "info,foyer=warn,aws_config=error",
        about: "which log lines are written: a tracing filter, such as info or firn_broker=debug,info",
        set: |c, v| set(&mut c.log.filter, Ok(v.to_owned())),
    },
    Key {
        name: "log.format",
        default: "plain",
        about: "how log lines are written: plain or json",
        set: |c, v| set(&mut c.log.format, log_format(v)),
    },
    Key {
        name: "log.retention.check.interval.ms",
        default: "5m",
        about: "how often it is looked whether records are too old (retention.ms) or too large (retention.bytes)",
        set: |c, v| set(&mut c.retention_check_interval, interval(v)),
    },
    Key {
        name: "max.connections",
        default: "10000",
        about: "connections of all Kafka clients together",
        set: |c, v| set(&mut c.connections.count_max, count(v, 1_000_000)),
    },
    Key {
        name: "max.connections.per.ip",
        default: "5000",
        about: "connections from one address",
        set: |c, v| set(&mut c.connections.count_per_ip_max, count(v, 1_000_000)),
    },
    Key {
        name: "message.max.bytes",
        default: "1048588",
        about: "largest batch of a topic that does not say otherwise",
        set: |c, v| {
            let bytes = size(v)?;
            if bytes > limits::MESSAGE_BYTES_MAX as u64 {
                return Err(format!(
                    "`{v}` is above the limit of {} bytes",
                    limits::MESSAGE_BYTES_MAX
                ));
            }
            set(&mut c.topics.message_max_bytes, memory(v))
        },
    },
    Key {
        name: "num.partitions",
        default: "1",
        about: "partitions of a topic made without a number",
        set: |c, v| {
            c.topics.partitions = number(v, 1..=PARTITIONS_DEFAULT_MAX)?
                .try_into()
                .map_err(|_| "too many partitions".to_owned())?;
            Ok(())
        },
    },
    Key {
        name: "offsets.retention.ms",
        default: "7d",
        about: "how long committed offsets of an empty group are kept",
        set: |c, v| set(&mut c.groups.offsets_retention, duration(v)),
    },
    Key {
        name: "producer.id.expiration.ms",
        default: "1d",
        about: "how long a producer without activity is remembered; at least 3m, as long as one may send a batch again",
        set: |c, v| set(&mut c.producer_id_expiration, expiration(v)),
    },
    Key {
        name: "producer.memory.bytes",
        default: "128MiB",
        about: "bytes for remembering producers, 256 each per partition; then those silent for 3 minutes are forgotten, else new ones refused for now",
        set: |c, v| {
            let least = limits::PRODUCER_MEMORY_BYTES_MIN;
            let bytes = memory_for_two(v, least, "the producers of one partition");
            set(&mut c.producer_memory_bytes, bytes)
        },
    },
    Key {
        name: "queued.max.fetch.bytes",
        default: "256MiB",
        about: "bytes of all Fetch requests that wait and of all large answers together",
        set: |c, v| set(&mut c.connections.fetches_bytes_max, memory(v)),
    },
    Key {
        name: "queued.max.produce.bytes",
        default: "256MiB",
        about: "bytes of all Produce requests together that wait for the WAL",
        set: |c, v| set(&mut c.connections.produces_bytes_max, memory(v)),
    },
    Key {
        name: "queued.max.request.bytes",
        default: "128MiB",
        about: "bytes of all requests in progress together, Produce not counted",
        set: |c, v| set(&mut c.connections.requests_bytes_max, memory(v)),
    },
    Key {
        name: "quic",
        default: "none",
        about: "address of the native QUIC door; reserved, this version does not open it",
        set: |c, v| set(&mut c.quic, address(v)),
    },
    Key {
        name: "recovery.disk.wait.ms",
        default: "5s",
        about: "how long partitions of a dead broker wait for its local WAL, if that may hold records of acks=1 alone",
        set: |c, v| set(&mut c.recovery_disk_wait, duration(v)),
    },
    Key {
        name: "roles",
        default: "broker,coordinator",
        about: "what this process does: coordinator may lead the cluster; broker owns partitions, which without it come here only while nobody else can own them",
        set: |c, v| set(&mut c.roles, Roles::parse(v)),
    },
    Key {
        name: "shutdown.timeout.ms",
        default: "30s",
        about: "how long an orderly stop may take",
        set: |c, v| set(&mut c.shutdown_timeout, duration(v)),
    },
    Key {
        name: "socket.request.max.bytes",
        default: "100MiB",
        about: "largest request frame",
        set: |c, v| {
            let bytes = size(v)?;
            if bytes > limits::REQUEST_BYTES_MAX as u64 {
                return Err(format!(
                    "`{v}` is above the limit of {} bytes",
                    limits::REQUEST_BYTES_MAX
                ));
            }
            set(&mut c.connections.request_bytes_max, memory(v))
        },
    },
    Key {
        name: "wal",
        default: "auto",
        about: "directory of the local WAL, none, or auto (./firn-wal for s3://, none otherwise)",
        set: |c, v| set(&mut c.wal.place, Ok(wal_place(v))),
    },
    Key {
        name: "wal.memory.bytes",
        default: "256MiB",
        about: "bytes of produced batches that may wait for the bucket before producers are held back; at least 128MiB",
        set: |c, v| {
            let least = limits::WAL_MEMORY_BYTES_MIN;
            let bytes = memory_for_two(v, least, "the largest batch any topic may allow");
            set(&mut c.wal.memory_bytes, bytes)
        },
    },
    Key {
        name: "wal.puts.per.second",
        default: "auto",
        about: "object puts per second of a busy broker; auto is 10 for s3:// and unlimited otherwise",
        set: |c, v| {
            c.wal.puts_per_second = match v {
                "auto" => None,
                v => Some(number(v, 1..=10_000)?.try_into().unwrap_or(u32::MAX)),
            };
            Ok(())
        },
    },
];

fn set<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

/// A size that must fit this machine's address space.
fn memory(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("`{text}` does not fit memory"))
}

/// A size of at least `least` bytes, whole MiB, which `what` takes twice.
fn memory_for_two(text: &str, least: usize, what: &str) -> Result<usize, String> {
    let bytes = memory(text)?;
    match bytes < least {
        true => Err(format!(
            "`{text}` is too small: it must be at least {}MiB: twice {what}",
            least >> 20
        )),
        false => Ok(bytes),
    }
}

/// A pause between two rounds of work.
fn interval(text: &str) -> Result<Duration, String> {
    let pause = duration(text)?;
    match pause.is_zero() {
        true => Err(format!("`{text}` is no interval: it must be at least 1ms")),
        false => Ok(pause),
    }
}

/// How long what a producer wrote is known: no shorter than it may send it again.
fn expiration(text: &str) -> Result<Duration, String> {
    let (after, least) = (duration(text)?, limits::PRODUCER_RETRY_WINDOW);
    match after < least {
        true => Err(format!(
            "`{text}` is too short: it must be at least {}s, for a producer may send a batch again \
             for so long, and were it forgotten by then, the batch would be stored twice",
            least.as_secs()
        )),
        false => Ok(after),
    }
}

fn count(text: &str, max: u64) -> Result<usize, String> {
    let count = number(text, 1..=max)?;
    usize::try_from(count).map_err(|_| format!("`{text}` does not fit memory"))
}

fn address(text: &str) -> Result<Option<std::net::SocketAddr>, String> {
    match text {
        "none" | "" => Ok(None),
        text => bind_address(text).map(Some),
    }
}

fn directory(text: &str) -> Option<PathBuf> {
    (!matches!(text, "none" | "")).then(|| PathBuf::from(text))
}

fn wal_place(text: &str) -> WalPlace {
    match text {
        "auto" | "" => WalPlace::Auto,
        "none" => WalPlace::None,
        dir => WalPlace::Dir(PathBuf::from(dir)),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither plain nor json")),
    }
}

fn bucket_url(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    if !text.contains("://") {
        return Err(format!(
            "`{text}` is not a URL; for a directory write file://{text}"
        ));
    }
    BucketUrl::parse(text).map_err(|e| e.to_string())?;
    Ok(text.to_owned())
}

/// No topic gets more partitions than this by default.
const PARTITIONS_DEFAULT_MAX: u64 = 100_000;

/// Broker ids are positive `i32` in Kafka's protocol.
const BROKER_ID_MAX: u64 = i32::MAX as u64;
