//! How far the archive is, for people: what the map says, beside what this broker knows of the
//! partitions that it owns.

use std::collections::BTreeMap;

use firn_proto::cluster::{ClusterImage, PartitionArchive};
use firn_proto::env::Mono;
use serde::{Deserialize, Serialize};

use super::Picker;
use crate::partition::Partitions;

/// How far the archive is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// The bucket refuses, and nothing is archived until it has been left alone for a while.
    pub paused: bool,
    /// The topics, by name.
    pub topics: Vec<TopicStatus>,
}

/// How far the archive of a topic is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicStatus {
    /// Its name.
    pub topic: String,
    /// Its id.
    pub id: String,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionStatus>,
}

/// How far the archive of a partition is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its index.
    pub partition: i32,
    /// The first offset there is.
    pub log_start: i64,
    /// Records below are in segments, or deleted.
    pub archived_to: i64,
    /// Records below are durable, if this broker owns it.
    pub high_watermark: Option<i64>,
    /// Its runs in segments.
    pub runs: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Pages of the segment map that name the older of them.
    pub pages: u32,
    /// Bytes of its records that are in no segment, if this broker owns it.
    pub unarchived_bytes: Option<u64>,
    /// How long the oldest of those has waited, in milliseconds.
    pub oldest_unarchived_ms: Option<u64>,
}

pub(super) fn status(
    archives: &[PartitionArchive],
    image: &ClusterImage,
    partitions: &Partitions,
    picker: &Picker,
    now: Mono,
) -> ArchiveStatus {
    let mut topics: BTreeMap<String, TopicStatus> = BTreeMap::new();
    for archive in archives {
        // one that is being deleted has no name any more
        let Some(topic) = image.topic(archive.tp.topic) else {
            continue;
        };
        let name = topic.name.to_string();
        let of_topic = topics.entry(name.clone()).or_insert_with(|| TopicStatus {
            topic: name,
            id: topic.id.to_string(),
            partitions: Vec::new(),
        });
        let owned = partitions.find_tp(archive.tp);
        let age = picker.age(archive.tp, now).filter(|_| owned.is_some());
        of_topic.partitions.push(PartitionStatus {
            partition: archive.tp.partition.0,
            log_start: archive.log_start,
            archived_to: archive.archived_to,
            high_watermark: owned.as_ref().map(|p| p.bounds().high_watermark),
            runs: archive.runs,
            bytes: archive.bytes,
            pages: archive.pages,
            unarchived_bytes: owned.as_ref().map(|p| p.unarchived_bytes()),
            oldest_unarchived_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        });
    }
    ArchiveStatus {
        paused: picker.is_paused(now),
        topics: topics.into_values().collect(),
    }
}
