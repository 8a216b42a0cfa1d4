//! Where everything lies: the one place that spells bucket keys and local file names.
//!
//! [`Place`] names an object, [`Place::key`] spells it and [`Place::parse`] reads it back, so that
//! the two can never drift apart. Everything above deals in [`Key`]s, which only this file makes.
//!
//! Architecture invariant: pure functions; no IO. Keys are relative to the root prefix of the
//! bucket's URL. Numbers are 16 lowercase hex digits, so that the order of keys is the order of
//! numbers.

use std::fmt;

use firn_proto::cluster::SegmentKey;
use firn_proto::ids::{
    ClusterId, CoordinatorEpoch, Fingerprint, Incarnation, Slot, StreamId, TopicId,
};

/// The key of an object, or of a folder of objects, below the root prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<str>);

impl Key {
    /// The key as text, without the root prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A key that a LIST of the bucket named. It need not be one of ours: see [`Place::parse`].
    pub(crate) fn listed(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Every kind of object that Firn keeps in a bucket, but for those of tables: see [`SegmentName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A slot of a broker's WAL stream.
    WalSlot {
        /// The stream.
        stream: StreamId,
        /// The slot in it.
        slot: Slot,
    },
    /// The checkpoint object that a WAL slot names.
    Checkpoint {
        /// The stream whose slot names it.
        stream: StreamId,
        /// The slot that names it.
        slot: Slot,
    },
    /// A slot of a coordinator epoch's journal stream.
    JournalSlot {
        /// The epoch whose stream this is.
        epoch: CoordinatorEpoch,
        /// The slot in it.
        slot: Slot,
    },
    /// A snapshot of the coordinator's state after a journal slot.
    Snapshot {
        /// The epoch of the last slot covered.
        epoch: CoordinatorEpoch,
        /// The last slot covered.
        slot: Slot,
    },
    /// The claim to a coordinator epoch: created once, never deleted.
    EpochClaim(CoordinatorEpoch),
    /// The id of the cluster that owns the bucket: created once.
    Cluster,
    /// A page of the segment map: older runs of a partition of the topic.
    MapPage {
        /// The topic.
        topic: TopicId,
        /// Which page of it.
        page: SegmentKey,
    },
    /// Says that the full probe (I11) passed under the configuration with this hash.
    ProbeMarker(u64),
    /// What one process says of itself to the others.
    Process(Fingerprint),
    /// A scratch object of the probe, under a random name.
    Scratch(u128),
}

/// What an object of a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// An object that Firn alone reads.
    Place(Place),
    /// A segment of a topic.
    Segment(SegmentName),
}

impl ObjectName {
    /// The key of this object.
    pub fn key(&self) -> Key {
        match self {
            Self::Place(place) => place.key(),
            Self::Segment(segment) => segment.key(),
        }
    }

    /// What a key names; `None` if it is not one that [`Self::key`] spells.
    pub fn parse(key: &str) -> Option<Self> {
        let place = Place::parse(key).map(Self::Place);
        place.or_else(|| SegmentName::parse(key).map(Self::Segment))
    }
}

/// A segment of a topic: which start of which process wrote it, and its number among those.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// What the topic was called when the segment was written: for people.
    pub topic_name: String,
    /// The topic.
    pub topic: TopicId,
    /// Who wrote it.
    pub incarnation: Incarnation,
    /// Never used twice by that incarnation.
    pub number: u64,
}

impl SegmentName {
    /// The key of this object.
    pub fn key(&self) -> Key {
        let folder = table(&self.topic_name, self.topic);
        let file = file_name(SegmentKey {
            incarnation: self.incarnation,
            number: self.number,
        });
        Key(format!("{folder}/{DATA}/{file}{PARQUET_SUFFIX}").into())
    }

    /// The segment that a key names; `None` if it is not one that [`Self::key`] spells.
    pub fn parse(key: &str) -> Option<Self> {
        let (folder, rest) = key
            .strip_prefix(TABLES)?
            .strip_prefix('/')?
            .split_once('/')?;
        let file = rest.strip_prefix(DATA)?.strip_prefix('/')?;
        let (topic_name, topic) = folder.rsplit_once('-')?;
        let file = parse_file_name(file.strip_suffix(PARQUET_SUFFIX)?)?;
        let name = Self {
            topic_name: topic_name.to_owned(),
            topic: topic_id(topic)?,
            incarnation: file.incarnation,
            number: file.number,
        };
        (name.key().as_str() == key).then_some(name)
    }
}

const TABLES: &str = "tables";
const DATA: &str = "data";
const PARQUET_SUFFIX: &str = ".parquet";
const WAL: &str = "wal";
const CHECKPOINT: &str = "checkpoint";
const JOURNAL: &str = "meta/log";
const SNAPSHOT: &str = "meta/snap";
const MAP: &str = "meta/map";
const EPOCH: &str = "meta/epoch";
const CLUSTER: &str = "meta/cluster";
const PROBE: &str = "meta/probe";
const PROCESS: &str = "meta/brokers";
const SCRATCH: &str = "meta/scratch";

impl Place {
    /// The key of this object.
    pub fn key(&self) -> Key {
        let text = match *self {
            Self::WalSlot { stream, slot } => {
                format!("{WAL}/{}/{:016x}/{:016x}", spread(stream), stream.0, slot.0)
            }
            Self::Checkpoint { stream, slot } => {
                format!(
                    "{CHECKPOINT}/{}/{:016x}/{:016x}",
                    spread(stream),
                    stream.0,
                    slot.0
                )
            }
            Self::JournalSlot { epoch, slot } => {
                format!("{JOURNAL}/{:016x}/{:016x}", epoch.0, slot.0)
            }
            Self::Snapshot { epoch, slot } => {
                format!("{SNAPSHOT}/{:016x}-{:016x}", epoch.0, slot.0)
            }
            Self::EpochClaim(epoch) => format!("{EPOCH}/{:016x}", epoch.0),
            Self::Cluster => CLUSTER.to_owned(),
            Self::MapPage { topic, page } => {
                format!("{MAP}/{}/{}", topic_hex(topic), file_name(page))
            }
            Self::ProbeMarker(hash) => format!("{PROBE}/{hash:016x}"),
            Self::Process(fingerprint) => format!("{PROCESS}/{fingerprint}"),
            Self::Scratch(name) => format!("{SCRATCH}/{name:032x}"),
        };
        Key(text.into())
    }

    /// What a key names; `None` if it is not one that [`Place::key`] spells.
    pub fn parse(key: &str) -> Option<Self> {
        let place = Self::parse_loosely(key)?;
        (place.key().as_str() == key).then_some(place)
    }

    /// Reads the numbers of a key; the caller checks that they spell the same key again.
    fn parse_loosely(key: &str) -> Option<Self> {
        let parts: Vec<&str> = key.split('/').collect();
        Some(match parts.as_slice() {
            ["wal", _, stream, slot] => Self::WalSlot {
                stream: StreamId(hex(stream)?),
                slot: Slot(hex(slot)?),
            },
            ["checkpoint", _, stream, slot] => Self::Checkpoint {
                stream: StreamId(hex(stream)?),
                slot: Slot(hex(slot)?),
            },
            ["meta", "log", epoch, slot] => Self::JournalSlot {
                epoch: CoordinatorEpoch(hex(epoch)?),
                slot: Slot(hex(slot)?),
            },
            ["meta", "snap", name] => {
                let (epoch, slot) = name.split_once('-')?;
                Self::Snapshot {
                    epoch: CoordinatorEpoch(hex(epoch)?),
                    slot: Slot(hex(slot)?),
                }
            }
            ["meta", "epoch", epoch] => Self::EpochClaim(CoordinatorEpoch(hex(epoch)?)),
            ["meta", "cluster"] => Self::Cluster,
            ["meta", "map", topic, page] => Self::MapPage {
                topic: topic_id(topic)?,
                page: parse_file_name(page)?,
            },
            ["meta", "probe", hash] => Self::ProbeMarker(hex(hash)?),
            ["meta", "brokers", fingerprint] => Self::Process(Fingerprint::parse(fingerprint)?),
            ["meta", "scratch", name] => Self::Scratch(u128::from_str_radix(name, 16).ok()?),
            _ => return None,
        })
    }
}

/// The folder of a broker's WAL stream: all its slots, in order.
pub fn wal_stream(stream: StreamId) -> Key {
    Key(format!("{WAL}/{}/{:016x}", spread(stream), stream.0).into())
}

/// The folder of the checkpoint objects of a stream, in the order of their slots.
pub fn checkpoints(stream: StreamId) -> Key {
    Key(format!("{CHECKPOINT}/{}/{:016x}", spread(stream), stream.0).into())
}

/// The folder of one coordinator epoch's journal stream: all its slots, in order.
pub fn journal_stream(epoch: CoordinatorEpoch) -> Key {
    Key(format!("{JOURNAL}/{:016x}", epoch.0).into())
}

/// The folder of everything that a topic's table consists of. Topics have legal names: letters,
/// digits, dots, dashes and underscores.
pub fn table(topic_name: &str, topic: TopicId) -> Key {
    Key(format!("{TABLES}/{topic_name}-{}", topic_hex(topic)).into())
}

/// The topic whose table an object belongs to, by name and id; `None` if it belongs to no table.
pub fn topic_of_table(key: &str) -> Option<(&str, TopicId)> {
    let (folder, _) = key
        .strip_prefix(TABLES)?
        .strip_prefix('/')?
        .split_once('/')?;
    let (topic_name, topic) = folder.rsplit_once('-')?;
    let topic_id = topic_id(topic)?;
    (topic_hex(topic_id) == topic).then_some((topic_name, topic_id))
}

/// The folder of all tables, those of one topic side by side.
pub fn tables() -> Key {
    Key(TABLES.into())
}

/// A key behind everything of that table, and before every other table behind it.
pub fn behind_table(topic_name: &str, topic: TopicId) -> Key {
    let above_slash = '0';
    Key(format!("{}{above_slash}", table(topic_name, topic)).into())
}

/// The folder of the segments of a topic, in the order of their incarnations and numbers.
pub fn segments(topic_name: &str, topic: TopicId) -> Key {
    Key(format!("{}/{DATA}", table(topic_name, topic)).into())
}

/// The folder of the pages of the segment map of a topic, in the same order.
pub fn map_pages(topic: TopicId) -> Key {
    Key(format!("{MAP}/{}", topic_hex(topic)).into())
}

/// A key before all of those that `incarnation` writes into such a folder, and behind all of those
/// of earlier incarnations.
pub fn before_incarnation(folder: &Key, incarnation: Incarnation) -> Key {
    Key(format!("{folder}/{:016x}", incarnation.0).into())
}

/// All of the bucket below the root prefix.
pub fn everything() -> Key {
    Key("".into())
}

/// The folder of all snapshots, oldest first.
pub fn snapshots() -> Key {
    Key(SNAPSHOT.into())
}

/// The folder of all claims to coordinator epochs, in order.
pub fn epoch_claims() -> Key {
    Key(EPOCH.into())
}

/// The folder of what processes say of themselves.
pub fn processes() -> Key {
    Key(PROCESS.into())
}

/// The folder of the probe's scratch objects, which may be deleted at any time.
pub fn scratch() -> Key {
    Key(SCRATCH.into())
}

/// Name of the folder of the disk cache: carries the version of its byte layout, since foyer's is
/// not stable between versions, and the cluster whose bytes it holds.
pub fn disk_cache_dir(layout_version: &str, cluster: ClusterId) -> String {
    format!("cache-{layout_version}-{cluster}")
}

/// What every name that [`disk_cache_dir`] makes begins with.
pub const DISK_CACHE_PREFIX: &str = "cache-";

/// Name of the file in a local directory whose kernel lock says that a process uses the directory.
pub const LOCK_FILE: &str = "lock";

/// Name of the file that says whose local WAL a directory holds.
pub const LOCAL_WAL_IDENTITY: &str = "identity";

/// Name of that file while it is being written.
pub const LOCAL_WAL_IDENTITY_NEW: &str = "identity.new";

/// Name of the folder of segments that are kept for somebody to look at.
pub const LOCAL_WAL_QUARANTINE: &str = "quarantine";

const LOCAL_SEGMENT_SUFFIX: &str = ".wal";

/// Name of a segment of the local WAL.
pub fn local_segment(number: u64) -> String {
    format!("{number:016x}{LOCAL_SEGMENT_SUFFIX}")
}

/// The number of the segment that a file name names; `None` if it is not one that
/// [`local_segment`] spells.
pub fn parse_local_segment(name: &str) -> Option<u64> {
    let number = hex(name.strip_suffix(LOCAL_SEGMENT_SUFFIX)?)?;
    (local_segment(number) == name).then_some(number)
}

/// Two hex digits that spread the streams over key prefixes: object stores count their request
/// rates per prefix. The top byte of a Fibonacci hash, because stream ids are consecutive.
fn spread(stream: StreamId) -> String {
    format!("{:02x}", stream.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56)
}

/// The name of a file in a folder that several incarnations write into.
fn file_name(file: SegmentKey) -> String {
    format!("{:016x}-{:016x}", file.incarnation.0, file.number)
}

fn parse_file_name(name: &str) -> Option<SegmentKey> {
    let (incarnation, number) = name.split_once('-')?;
    Some(SegmentKey {
        incarnation: Incarnation(hex(incarnation)?),
        number: hex(number)?,
    })
}

fn topic_hex(topic: TopicId) -> String {
    format!("{:032x}", u128::from_be_bytes(topic.0))
}

fn topic_id(digits: &str) -> Option<TopicId> {
    let id = u128::from_str_radix(digits, 16).ok()?;
    Some(TopicId(id.to_be_bytes()))
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<Place> {
        let stream = StreamId(0x1_0000_0002);
        let slot = Slot(0xff);
        let epoch = CoordinatorEpoch(7);
        vec![
            Place::WalSlot { stream, slot },
            Place::Checkpoint { stream, slot },
            Place::JournalSlot { epoch, slot },
            Place::Snapshot { epoch, slot },
            Place::EpochClaim(epoch),
            Place::Cluster,
            Place::MapPage {
                topic: TopicId([0xab; 16]),
                page: SegmentKey {
                    incarnation: Incarnation(5),
                    number: 0x10,
                },
            },
            Place::ProbeMarker(u64::MAX),
            Place::Process(Fingerprint([0xfe; 32])),
            Place::Scratch(u128::MAX - 1),
        ]
    }

    #[test]
    fn every_key_reads_back_as_its_place() {
        for place in places() {
            assert_eq!(Place::parse(place.key().as_str()), Some(place), "{place:?}");
        }
    }

    #[test]
    fn keys_are_spelled_as_the_format_says() {
        let spelled: Vec<String> = places().iter().map(|p| p.key().to_string()).collect();
        assert_eq!(
            spelled,
            [
                "wal/bb/0000000100000002/00000000000000ff",
                "checkpoint/bb/0000000100000002/00000000000000ff",
                "meta/log/0000000000000007/00000000000000ff",
                "meta/snap/0000000000000007-00000000000000ff",
                "meta/epoch/0000000000000007",
                "meta/cluster",
                "meta/map/abababababababababababababababab/0000000000000005-0000000000000010",
                "meta/probe/ffffffffffffffff",
                "meta/brokers/fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe",
                "meta/scratch/fffffffffffffffffffffffffffffffe",
            ]
        );
    }

    #[test]
    fn a_key_that_is_not_spelled_exactly_is_not_ours() {
        for key in [
            "",
            "wal",
            "wal/00/0000000100000002/00000000000000ff",
            "wal/15/100000002/ff",
            "wal/bb/0000000100000002/00000000000000FF",
            "wal/bb/0000000100000002/00000000000000ff/x",
            "meta/snap/0000000000000007",
            "meta/epoch/+000000000000007",
            "meta/map/abababababababababababababababab/5-10",
            "meta/map/ab/0000000000000005-0000000000000010",
        ] {
            assert_eq!(Place::parse(key), None, "{key}");
        }
    }

    #[test]
    fn a_segment_lies_in_the_table_of_its_topic() {
        let name = SegmentName {
            topic_name: "orders.v1-eu_west".to_owned(),
            topic: TopicId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes()),
            incarnation: Incarnation(9),
            number: 0x1f,
        };
        let key = name.key();
        assert_eq!(
            key.as_str(),
            "tables/orders.v1-eu_west-0123456789abcdef0123456789abcdef/data/0000000000000009-000000000000001f.parquet"
        );
        assert!(
            key.as_str()
                .starts_with(table("orders.v1-eu_west", name.topic).as_str())
        );
        assert_eq!(
            topic_of_table(key.as_str()),
            Some(("orders.v1-eu_west", name.topic))
        );
        assert_eq!(
            ObjectName::parse(key.as_str()),
            Some(ObjectName::Segment(name.clone()))
        );
        assert_eq!(SegmentName::parse(key.as_str()), Some(name));
        for other in [
            key.as_str().to_uppercase(),
            key.as_str().replace("/data/", "/"),
            key.as_str().replace("/data/", "/metadata/"),
            key.as_str().replace("eu_west-0", "eu_west-"),
            key.as_str().replace(".parquet", ".json"),
            format!("{key}/x"),
            "tables/orders".to_owned(),
        ] {
            assert_eq!(SegmentName::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn files_of_an_incarnation_lie_behind_the_key_before_them() {
        let topic = TopicId([1; 16]);
        let segment = |incarnation, number| SegmentName {
            topic_name: "t".to_owned(),
            topic,
            incarnation: Incarnation(incarnation),
            number,
        };
        let before = before_incarnation(&segments("t", topic), Incarnation(9));
        assert!(segment(8, u64::MAX).key() < before);
        assert!(before < segment(9, 0).key());
    }

    #[test]
    fn a_segment_of_the_local_wal_reads_back_as_its_number() {
        assert_eq!(local_segment(0x1f), "000000000000001f.wal");
        for number in [0, 1, u64::MAX] {
            assert_eq!(parse_local_segment(&local_segment(number)), Some(number));
        }
        for name in ["1f.wal", "000000000000001F.wal", "000000000000001f", "lock"] {
            assert_eq!(parse_local_segment(name), None, "{name}");
        }
    }

    #[test]
    fn slots_of_a_stream_lie_in_its_folder_in_order() {
        let key = |slot| {
            Place::WalSlot {
                stream: StreamId(9),
                slot: Slot(slot),
            }
            .key()
        };
        assert!(key(9) < key(10));
        assert!(key(u64::from(u32::MAX)) < key(u64::from(u32::MAX) + 1));
        assert!(
            key(1)
                .as_str()
                .starts_with(wal_stream(StreamId(9)).as_str())
        );
    }
}
