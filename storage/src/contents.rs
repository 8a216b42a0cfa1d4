//! What lies in the bucket: objects and bytes by topic and kind (`firn bucket usage`).
//!
//! Lists the whole bucket page by page; memory is bounded by a page and the number of topics.
//!
//! Architecture invariant: reads names and sizes only, and changes nothing.

use std::collections::BTreeMap;

use firn_proto::ids::TopicId;

use crate::bucket::{Bucket, BucketError, ListedObject, Purpose};
use crate::layout::{ObjectName, Place, everything, topic_of_table};
use crate::listing::Listing;

/// Objects of one page of the list: a directory is walked once for each.
const PAGE_MAX: usize = 10_000;

/// Some objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a topic has in the bucket beside its records in the WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicContents {
    /// What it is called in the keys of its table; `None` if it has no table.
    pub topic_name: Option<String>,
    /// Its segments.
    pub segments: Stored,
    /// Other objects of its table.
    pub other_files: Stored,
    /// Its pages of the segment map.
    pub map_pages: Stored,
}

/// What lies in the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketContents {
    /// By topic, also topics that were deleted and not collected yet.
    pub topics: BTreeMap<TopicId, TopicContents>,
    /// Slots of WAL streams, those of all topics together.
    pub wal: Stored,
    /// Checkpoint objects.
    pub checkpoints: Stored,
    /// Slots of the coordinator's journal.
    pub journal: Stored,
    /// Snapshots of its state.
    pub snapshots: Stored,
    /// A cluster lives here, or has lived.
    pub has_cluster: bool,
    /// Cluster id, claims, brokers, markers and scratch objects of the probe.
    pub other_meta: Stored,
    /// Objects that Firn does not know.
    pub unknown: Stored,
}

/// Counts what lies in the bucket. What is written and deleted meanwhile may be counted or not.
///
/// # Errors
/// The bucket does not answer.
pub async fn contents(bucket: &Bucket) -> Result<BucketContents, BucketError> {
    let folder = everything();
    let mut listing = Listing::new(bucket, Purpose::Meta, &folder, None, PAGE_MAX);
    let mut contents = BucketContents::default();
    while let Some(page) = listing.next_page().await? {
        for object in &page {
            contents.kind_of(object).add(object);
        }
    }
    Ok(contents)
}

impl Stored {
    fn add(&mut self, object: &ListedObject) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(object.size);
    }
}

impl BucketContents {
    /// Everything together.
    pub fn total(&self) -> Stored {
        let topics = self.topics.values();
        let topics = topics.flat_map(|topic| [topic.segments, topic.other_files, topic.map_pages]);
        let rest = [
            self.wal,
            self.checkpoints,
            self.journal,
            self.snapshots,
            self.other_meta,
            self.unknown,
        ];
        topics
            .chain(rest)
            .fold(Stored::default(), |sum, part| Stored {
                objects: sum.objects + part.objects,
                bytes: sum.bytes.saturating_add(part.bytes),
            })
    }

    /// Where an object is counted.
    fn kind_of(&mut self, object: &ListedObject) -> &mut Stored {
        let key = object.key.as_str();
        match ObjectName::parse(key) {
            Some(ObjectName::Segment(name)) => {
                let topic = self.topics.entry(name.topic).or_default();
                topic.topic_name.get_or_insert(name.topic_name);
                &mut topic.segments
            }
            Some(ObjectName::Place(place)) => self.kind_of_place(place),
            None => match topic_of_table(key) {
                Some((topic_name, topic)) => {
                    let topic = self.topics.entry(topic).or_default();
                    topic
                        .topic_name
                        .get_or_insert_with(|| topic_name.to_owned());
                    &mut topic.other_files
                }
                None => &mut self.unknown,
            },
        }
    }

    fn kind_of_place(&mut self, place: Place) -> &mut Stored {
        self.has_cluster |= matches!(place, Place::Cluster);
        match place {
            Place::WalSlot { .. } => &mut self.wal,
            Place::Checkpoint { .. } => &mut self.checkpoints,
            Place::JournalSlot { .. } => &mut self.journal,
            Place::Snapshot { .. } => &mut self.snapshots,
            Place::MapPage { topic, .. } => &mut self.topics.entry(topic).or_default().map_pages,
            Place::EpochClaim(_)
            | Place::Cluster
            | Place::ProbeMarker(_)
            | Place::Process(_)
            | Place::Scratch(_) => &mut self.other_meta,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_proto::cluster::SegmentKey;
    use firn_proto::env::{Entropy, SystemClock};
    use firn_proto::ids::{CoordinatorEpoch, Incarnation, Slot, StreamId};

    use super::*;
    use crate::bucket::{BucketOptions, CreateOutcome};
    use crate::layout::{Key, SegmentName};

    const TOPIC: TopicId = TopicId([3; 16]);
    const GONE: TopicId = TopicId([4; 16]);

    async fn put(bucket: &Bucket, key: Key, bytes: usize) {
        let body = vec![vec![b'x'; bytes].into()];
        let put = bucket.create_once(Purpose::Meta, &key, body).await;
        assert!(matches!(put, CreateOutcome::Created), "{key}: {put:?}");
    }

    fn segment(topic_name: &str, number: u64) -> Key {
        let name = SegmentName {
            topic_name: topic_name.to_owned(),
            topic: TOPIC,
            incarnation: Incarnation(1),
            number,
        };
        name.key()
    }

    fn stored(objects: u64, bytes: u64) -> Stored {
        Stored { objects, bytes }
    }

    async fn fill(bucket: &Bucket) {
        let (stream, slot) = (StreamId(7), Slot(1));
        let epoch = CoordinatorEpoch(2);
        let page = SegmentKey {
            incarnation: Incarnation(1),
            number: 0,
        };
        for (place, bytes) in [
            (Place::WalSlot { stream, slot }, 1),
            (
                Place::WalSlot {
                    stream,
                    slot: Slot(2),
                },
                2,
            ),
            (Place::Checkpoint { stream, slot }, 3),
            (Place::JournalSlot { epoch, slot }, 4),
            (Place::Snapshot { epoch, slot }, 5),
            (Place::Cluster, 6),
            (Place::EpochClaim(epoch), 7),
            (Place::MapPage { topic: GONE, page }, 8),
        ] {
            put(bucket, place.key(), bytes).await;
        }
        put(bucket, segment("flights-of-2024", 0), 100).await;
        put(bucket, segment("flights-of-2024", 1), 200).await;
        let folder = segment("flights-of-2024", 0)
            .as_str()
            .replace("data/", "metadata/");
        put(bucket, Key::listed(&folder), 50).await;
        put(bucket, Key::listed("backup/of/something"), 1000).await;
    }

    fn expected() -> BucketContents {
        let flights = TopicContents {
            topic_name: Some("flights-of-2024".to_owned()),
            segments: stored(2, 300),
            other_files: stored(1, 50),
            map_pages: Stored::default(),
        };
        let gone = TopicContents {
            map_pages: stored(1, 8),
            ..TopicContents::default()
        };
        BucketContents {
            topics: BTreeMap::from([(TOPIC, flights), (GONE, gone)]),
            wal: stored(2, 3),
            checkpoints: stored(1, 3),
            journal: stored(1, 4),
            snapshots: stored(1, 5),
            has_cluster: true,
            other_meta: stored(2, 13),
            unknown: stored(1, 1000),
        }
    }

    #[tokio::test]
    async fn every_object_is_counted_once_by_topic_and_kind() {
        let clock = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let memory = Bucket::memory(clock.clone(), entropy.clone());
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let options = BucketOptions::of_process(true);
        let directory = Bucket::connect(&url, &options, clock, entropy)
            .await
            .unwrap();
        for bucket in [memory, directory] {
            assert_eq!(contents(&bucket).await.unwrap(), BucketContents::default());
            fill(&bucket).await;
            let found = contents(&bucket).await.unwrap();
            assert_eq!(found, expected());
            assert_eq!(found.total(), stored(12, 1386));
        }
    }
}
