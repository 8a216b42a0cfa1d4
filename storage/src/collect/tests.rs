use std::collections::BTreeSet;
use std::sync::Arc;

use firn_proto::cluster::{EndedWriter, SegmentKey};
use firn_proto::env::{Entropy, SystemClock};
use firn_proto::ids::{Incarnation, Slot, StreamId, TopicId};

use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::bucket::{BucketOptions, CreateOutcome, Operation};
use crate::layout::{self, Place, SegmentName, everything};

const STREAM: StreamId = StreamId(7);
const TOPIC: TopicId = TopicId([3; 16]);

struct World {
    bucket: Bucket,
    store: Option<FaultStore>,
    folder: Option<tempfile::TempDir>,
}

/// The same over memory and over a directory.
async fn worlds() -> [World; 2] {
    let clock = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_seed(1));
    let store = FaultStore::in_memory();
    let memory = World {
        bucket: Bucket::from_store(Arc::new(store.clone()), clock.clone(), entropy.clone()),
        store: Some(store),
        folder: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let options = BucketOptions::of_process(true);
    let directory = World {
        bucket: Bucket::connect(&url, &options, clock, entropy)
            .await
            .unwrap(),
        store: None,
        folder: Some(folder),
    };
    [memory, directory]
}

impl World {
    async fn put(&self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            let put = self
                .bucket
                .create_once(Purpose::Wal, &key, vec!["x".into()]);
            assert!(matches!(put.await, CreateOutcome::Created), "{key}");
        }
    }

    async fn keys(&self) -> BTreeSet<Key> {
        let everything = everything();
        let all = self.bucket.list(Purpose::Meta, &everything, None, 100_000);
        all.await
            .unwrap()
            .into_iter()
            .map(|object| object.key)
            .collect()
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.bucket.usage().requests(Purpose::Collect, operation)
    }
}

fn slot(number: u64) -> Key {
    Place::WalSlot {
        stream: STREAM,
        slot: Slot(number),
    }
    .key()
}

fn checkpoint(number: u64) -> Key {
    Place::Checkpoint {
        stream: STREAM,
        slot: Slot(number),
    }
    .key()
}

fn segment(incarnation: u64, number: u64) -> SegmentName {
    SegmentName {
        topic_name: "flights".to_owned(),
        topic: TOPIC,
        incarnation: Incarnation(incarnation),
        number,
    }
}

fn page(incarnation: u64, number: u64) -> SegmentKey {
    SegmentKey {
        incarnation: Incarnation(incarnation),
        number,
    }
}

fn page_key(incarnation: u64, number: u64) -> Key {
    Place::MapPage {
        topic: TOPIC,
        page: page(incarnation, number),
    }
    .key()
}

fn set(keys: impl IntoIterator<Item = Key>) -> BTreeSet<Key> {
    keys.into_iter().collect()
}

#[tokio::test]
async fn slots_go_by_name_many_at_a_time_and_nothing_from_the_floor_on() {
    for world in worlds().await {
        world.put((0..30).map(slot)).await;
        let other = Place::WalSlot {
            stream: StreamId(8),
            slot: Slot(3),
        };
        world.put([other.key()]).await;
        collect_slots(&world.bucket, STREAM, Slot(5)..Slot(20))
            .await
            .unwrap();
        // as after a crash
        collect_slots(&world.bucket, STREAM, Slot(5)..Slot(20))
            .await
            .unwrap();
        let left = (0..5).chain(20..30).map(slot).chain([other.key()]);
        assert_eq!(world.keys().await, set(left));
        assert_eq!(world.requests(Operation::List), 0);
        assert_eq!(world.requests(Operation::Delete), 2);
        collect_slots(&world.bucket, STREAM, Slot(30)..Slot(2_530))
            .await
            .unwrap();
        assert_eq!(world.requests(Operation::Delete), 5);
        collect_slots(&world.bucket, STREAM, Slot(9)..Slot(9))
            .await
            .unwrap();
        assert_eq!(
            world.requests(Operation::Delete),
            5,
            "nothing asks for nothing"
        );
    }
}

#[tokio::test]
async fn of_the_checkpoints_below_the_floor_the_newest_stays() {
    for (floor, left) in [
        (0, vec![3, 10, 20, 30]),
        (3, vec![3, 10, 20, 30]),
        (10, vec![3, 10, 20, 30]),
        (11, vec![10, 20, 30]),
        (20, vec![10, 20, 30]),
        (25, vec![20, 30]),
        (900, vec![30]),
    ] {
        for world in worlds().await {
            world.put([3, 10, 20, 30].map(checkpoint)).await;
            world.put([slot(3)]).await;
            for _ in 0..2 {
                collect_checkpoints(&world.bucket, STREAM, Slot(floor))
                    .await
                    .unwrap();
                let left = left.iter().copied().map(checkpoint).chain([slot(3)]);
                assert_eq!(world.keys().await, set(left), "floor {floor}");
            }
        }
        let mut own = OwnCheckpoints::default();
        [3, 10, 20, 30]
            .map(Slot)
            .into_iter()
            .for_each(|slot| own.add(slot));
        let superfluous = own.superfluous(Slot(floor));
        own.on_deleted(&superfluous);
        let kept = |slot: &u64| !superfluous.contains(&Slot(*slot));
        let kept: Vec<u64> = [3, 10, 20, 30].into_iter().filter(kept).collect();
        assert_eq!(kept, left, "floor {floor}");
        assert_eq!(own.superfluous(Slot(floor)), [], "they are forgotten");
    }
}

#[tokio::test]
async fn the_newest_checkpoint_below_the_floor_is_found_across_pages_of_a_list() {
    let [world, _] = worlds().await;
    let many = 2 * KEYS_PER_DELETE as u64 + 3;
    world.put((0..many).map(checkpoint)).await;
    let floor = many - 2;
    collect_checkpoints(&world.bucket, STREAM, Slot(floor))
        .await
        .unwrap();
    assert_eq!(world.keys().await, set((floor - 1..many).map(checkpoint)));
}

#[tokio::test]
async fn a_process_deletes_its_own_checkpoints_without_a_list() {
    for world in worlds().await {
        world.put([3, 10, 20].map(checkpoint)).await;
        delete_checkpoints(&world.bucket, STREAM, &[Slot(3), Slot(10)])
            .await
            .unwrap();
        assert_eq!(world.keys().await, set([checkpoint(20)]));
        assert_eq!(world.requests(Operation::List), 0);
        assert_eq!(world.requests(Operation::Delete), 1);
        delete_all_checkpoints(&world.bucket, STREAM).await.unwrap();
        assert_eq!(world.keys().await, set([]));
    }
}

#[tokio::test]
async fn segments_and_map_pages_go_by_name() {
    for world in worlds().await {
        world
            .put((0..5).map(|number| segment(1, number).key()))
            .await;
        world.put((0..3).map(|number| page_key(1, number))).await;
        let segments = [segment(1, 1), segment(1, 4), segment(2, 0)];
        delete_segments(&world.bucket, &segments).await.unwrap();
        delete_map_pages(&world.bucket, &[(TOPIC, page(1, 0))])
            .await
            .unwrap();
        let left = [0, 2, 3].map(|number| segment(1, number).key());
        let left = left
            .into_iter()
            .chain([1, 2].map(|number| page_key(1, number)));
        assert_eq!(world.keys().await, set(left));
        assert_eq!(world.requests(Operation::Delete), 2);
        assert_eq!(world.requests(Operation::List), 0);
    }
}

#[tokio::test]
async fn a_deleted_topic_leaves_nothing_and_takes_nothing_of_its_successor() {
    for world in worlds().await {
        world
            .put((0..40).map(|number| segment(1, number).key()))
            .await;
        world.put((0..3).map(|number| page_key(1, number))).await;
        let successor = SegmentName {
            topic: TopicId([4; 16]),
            ..segment(1, 7)
        };
        let other = SegmentName {
            topic_name: "flights-2".to_owned(),
            ..segment(1, 7)
        };
        world.put([successor.key(), other.key(), slot(1)]).await;
        for _ in 0..2 {
            delete_table(&world.bucket, "flights", TOPIC).await.unwrap();
            let left = [successor.key(), other.key(), slot(1)];
            assert_eq!(world.keys().await, set(left));
        }
    }
}

/// A directory that is left over would be looked through by every list from then on.
#[tokio::test]
async fn the_directories_of_a_deleted_topic_go_unless_they_hold_a_file() {
    let [_, world] = worlds().await;
    let root = world.folder.as_ref().unwrap().path();
    let table = root.join(layout::table("flights", TOPIC).as_str());
    let pages = root.join(layout::map_pages(TOPIC).as_str());
    // the second time for a writer that was late
    for number in 0..2 {
        let keys = [segment(1, number).key(), page_key(1, number)];
        world.put(keys).await;
        assert!(table.is_dir() && pages.is_dir());
        delete_table(&world.bucket, "flights", TOPIC).await.unwrap();
        assert!(!table.exists() && !pages.exists());
    }
    world.put([segment(1, 2).key()]).await;
    std::fs::write(table.join("data/.tmp-1"), "a write that was cut off").unwrap();
    delete_table(&world.bucket, "flights", TOPIC).await.unwrap();
    assert!(table.is_dir());
    assert_eq!(world.keys().await, BTreeSet::new());
    delete_table(&world.bucket, "never archived", TopicId([9; 16]))
        .await
        .unwrap();
}

/// As with a mount point or a lacking right, for whoever runs the test.
#[tokio::test]
async fn a_directory_that_cannot_be_removed_does_not_keep_a_topic_from_being_deleted() {
    let [_, world] = worlds().await;
    world.put([page_key(1, 0)]).await;
    let table = layout::table("flights", TOPIC);
    let path = world.folder.as_ref().unwrap().path().join(table.as_str());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "in the way").unwrap();
    delete_table(&world.bucket, "flights", TOPIC).await.unwrap();
    assert_eq!(world.keys().await, set([table]), "its map page is gone");
}

#[tokio::test]
async fn orphans_are_what_an_ended_writer_never_brought_into_the_map() {
    for world in worlds().await {
        let topics = [
            (Arc::from("flights"), TOPIC),
            (Arc::from("none"), TopicId([8; 16])),
        ];
        for incarnation in [4, 5, 6] {
            world
                .put((0..9).map(|number| segment(incarnation, number).key()))
                .await;
            world
                .put((0..4).map(|number| page_key(incarnation, number)))
                .await;
        }
        let writer = EndedWriter {
            incarnation: Incarnation(5),
            entered: vec![(0, 3), (4, 7)],
            pages: vec![(TOPIC, 1), (TopicId([8; 16]), 2)],
        };
        let found = orphans(&world.bucket, &topics, &writer).await.unwrap();
        let expected = Orphans {
            segments: [3, 7, 8].map(|number| segment(5, number)).to_vec(),
            pages: [0, 2, 3].map(|number| (TOPIC, page(5, number))).to_vec(),
            has_more: false,
        };
        assert_eq!(found, expected);
        delete_segments(&world.bucket, &found.segments)
            .await
            .unwrap();
        delete_map_pages(&world.bucket, &found.pages).await.unwrap();
        let found = orphans(&world.bucket, &topics, &writer).await.unwrap();
        assert_eq!(found, Orphans::default());
        assert_eq!(world.keys().await.len(), 3 * 13 - 6);
    }
}

#[tokio::test]
async fn more_orphans_than_one_answer_holds_are_told_in_several() {
    let [world, _] = worlds().await;
    let many = GARBAGE_LISTED_MAX as u64 + 200;
    world
        .put((0..many).map(|number| segment(5, number).key()))
        .await;
    let topics = [(Arc::from("flights"), TOPIC)];
    let writer = EndedWriter {
        incarnation: Incarnation(5),
        entered: vec![(many - 1, many)],
        pages: vec![],
    };
    let mut rounds = Vec::new();
    loop {
        let found = orphans(&world.bucket, &topics, &writer).await.unwrap();
        rounds.push(found.segments.len());
        delete_segments(&world.bucket, &found.segments)
            .await
            .unwrap();
        if !found.has_more {
            break;
        }
    }
    assert_eq!(rounds, [GARBAGE_LISTED_MAX, 199]);
    assert_eq!(world.keys().await, set([segment(5, many - 1).key()]));
}

#[tokio::test]
async fn a_bucket_that_refuses_is_an_error_and_the_rest_is_done_later() {
    let [world, _] = worlds().await;
    world.put((0..5).map(slot)).await;
    let store = world.store.as_ref().unwrap();
    store.inject(Rule::new(On::Delete, Fault::Denied));
    let refused = collect_slots(&world.bucket, STREAM, Slot(0)..Slot(4)).await;
    assert!(
        matches!(refused, Err(BucketError::Denied { .. })),
        "{refused:?}"
    );
    collect_slots(&world.bucket, STREAM, Slot(0)..Slot(4))
        .await
        .unwrap();
    assert_eq!(world.keys().await, set([slot(4)]));
}

/// Also what a process that ended had put into the table of a topic that is deleted by now is found.
#[tokio::test]
async fn every_topic_with_a_table_is_found_whatever_lies_beside() {
    for world in worlds().await {
        let name = |topic_name: &str, id: u8, number| SegmentName {
            topic_name: topic_name.to_owned(),
            topic: TopicId([id; 16]),
            incarnation: Incarnation(1),
            number,
        };
        let many = (0..40).map(|number| name("orders", 1, number));
        let others = [
            name("orders", 2, 0),
            name("orders-eu", 1, 0),
            name("z", 9, 3),
        ];
        world.put(many.chain(others).map(|name| name.key())).await;
        let strange = (0..20).map(|at| Key::listed(&format!("tables/a{at}/strange")));
        world.put(strange).await;
        let found = topics_with_tables(&world.bucket).await.unwrap();
        let mut found: Vec<(String, u8)> = found
            .into_iter()
            .map(|(topic_name, id)| (topic_name.to_string(), id.0[0]))
            .collect();
        found.sort();
        let expected = [("orders", 1), ("orders", 2), ("orders-eu", 1), ("z", 9)];
        assert_eq!(found, expected.map(|(name, id)| (name.to_owned(), id)));
    }
}
