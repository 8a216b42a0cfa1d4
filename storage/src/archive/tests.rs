//! What is archived lies in the bucket as it lay in the WAL, whatever the bucket does; and when it
//! does not, the error says what may be there.

use std::collections::BTreeMap;

use bytes::Bytes;
use firn_proto::env::SystemClock;
use firn_proto::ids::{
    Incarnation, LeaderEpoch, ProducerEpoch, ProducerId, Slot, SlotPosition, StreamId,
    TopicPartition,
};
use firn_proto::limits::{ARCHIVE_PUTS_MAX, ROW_GROUP_BYTES_TARGET};
use firn_proto::record::{BatchBuilder, BatchView, Codec};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::bucket::{FileStore, Operation, Purpose};
use crate::cache::{CachedObjects, MapCache, TailBatch, TailCache};
use crate::layout::Place;
use crate::segment::tests::random::{build, shape};
use crate::segment::tests::{TOPIC, assert_same, batch_of, noisy_batch, read_run, record};
use crate::segment::{SegmentRun, TargetCodec, read_footer};
use crate::state::{BatchFlags, Run};

const SEGMENT: &str = ".parquet";
const STREAM: StreamId = StreamId(4);

/// A bucket with a WAL, and an archiver.
struct World {
    store: FaultStore,
    bucket: Bucket,
    tail: Arc<TailCache>,
    archiver: Archiver,
    runs: BTreeMap<PartitionIndex, Vec<RunRef>>,
    next_slot: u64,
    _directory: Option<TempDir>,
}

impl World {
    fn in_memory() -> Self {
        Self::over(FaultStore::in_memory(), None)
    }

    fn in_directory() -> Self {
        let directory = TempDir::new().unwrap();
        let store = FileStore::open(&directory.path().join("bucket")).unwrap();
        Self::over(FaultStore::new(Arc::new(store)), Some(directory))
    }

    fn over(store: FaultStore, directory: Option<TempDir>) -> Self {
        let entropy = Arc::new(Entropy::from_seed(1));
        let clock = Arc::new(SystemClock::new());
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, Arc::clone(&entropy));
        let tail = Arc::new(TailCache::new(1 << 30));
        let objects = CachedObjects::new(bucket.clone(), Arc::new(MapCache::new(1 << 30)));
        let reader = Reader::new(Arc::clone(&tail), objects);
        let archiver = Archiver::new(bucket.clone(), &reader, ClusterId([0xc1; 16]), entropy);
        Self {
            store,
            bucket,
            tail,
            archiver,
            runs: BTreeMap::new(),
            next_slot: 0,
            _directory: directory,
        }
    }

    /// Puts a slot with these batches: those of one partition and epoch that follow each other are a
    /// run.
    async fn put(&mut self, batches: &[(i32, BatchView)]) {
        let mut object = vec![0xee; 200];
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        let same_run = |a: &(i32, BatchView), b: &(i32, BatchView)| {
            (a.0, a.1.header().leader_epoch) == (b.0, b.1.header().leader_epoch)
        };
        for batches in batches.chunk_by(same_run) {
            let partition = PartitionIndex(batches[0].0);
            let start = object.len();
            for (_, batch) in batches {
                object.extend_from_slice(batch.bytes());
            }
            let headers = || batches.iter().map(|(_, batch)| *batch.header());
            let run = Run {
                tp: tp(partition),
                epoch: batches[0].1.header().leader_epoch,
                base_offset: batches[0].1.header().base_offset,
                last_offset: headers().map(|h| h.last_offset()).max().unwrap(),
                byte_start: u32::try_from(start).unwrap(),
                byte_len: u32::try_from(object.len() - start).unwrap(),
                max_timestamp: headers().map(|h| h.max_timestamp).max().unwrap(),
                flags: BatchFlags::default(),
            };
            let at = SlotPosition {
                stream: STREAM,
                slot,
            };
            let runs = self.runs.entry(partition).or_default();
            runs.push(RunRef { at, run });
        }
        let key = slot_key(slot);
        let put = self
            .bucket
            .create_once(Purpose::Wal, &key, vec![object.into()]);
        put.await;
    }

    /// Everything that is in the WAL.
    fn all(&self) -> Vec<Unarchived> {
        let unarchived = |(partition, runs): (&PartitionIndex, &Vec<RunRef>)| Unarchived {
            partition: *partition,
            from: runs[0].run.base_offset,
            end: runs[runs.len() - 1].run.last_offset + 1,
            runs: runs.clone(),
        };
        self.runs.iter().map(unarchived).collect()
    }

    async fn archive(&self) -> Result<ArchivedSegment, ArchiveFault> {
        self.archiver.write(&name(0), &self.all()).await
    }

    /// The bytes of a segment, whose footer must say what the archiver says.
    async fn object(&self, archived: &ArchivedSegment) -> Bytes {
        let bytes = self.bucket.get(Purpose::Read, &archived.name.key()).await;
        let bytes = bytes.unwrap().unwrap();
        let (_, segment) = read_footer(&bytes, bytes.len() as u64).unwrap();
        assert_eq!(segment, archived.segment);
        bytes
    }

    async fn batches(&self, archived: &ArchivedSegment, run: &SegmentRun) -> Vec<BatchView> {
        read_run(&self.object(archived).await, run, TargetCodec::Producer)
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.bucket.usage().requests(Purpose::Archive, operation)
    }
}

fn tp(partition: PartitionIndex) -> TopicPartition {
    TopicPartition {
        topic: TOPIC,
        partition,
    }
}

fn slot_key(slot: Slot) -> Key {
    let stream = STREAM;
    Place::WalSlot { stream, slot }.key()
}

fn name(number: u64) -> SegmentName {
    SegmentName {
        topic_name: "orders.v1".to_owned(),
        topic: TOPIC,
        incarnation: Incarnation(9),
        number,
    }
}

fn batch(base_offset: i64) -> BatchView {
    let value = record(Some(b"key"), Some(b"value"));
    batch_of(base_offset, Codec::None, &[value; 4])
}

async fn world_of_one_batch() -> World {
    let mut world = World::in_memory();
    world.put(&[(0, batch(0))]).await;
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_legal_batch_comes_back_from_the_bucket(
        partitions in vec(vec(shape(), 1..6), 1..4),
        start in prop_oneof![Just(0), Just((1_i64 << 32) - 5)],
        in_memory in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = match in_memory {
                true => World::in_memory(),
                false => World::in_directory(),
            };
            let mut expected = Vec::new();
            for (partition, shapes) in (0..).zip(&partitions) {
                let mut next = start;
                let mut batches = Vec::new();
                for shape in shapes {
                    let batch = build(shape, next);
                    next = batch.header().last_offset() + 1;
                    world.put(&[(partition, batch.clone())]).await;
                    batches.push(batch);
                }
                expected.push(batches);
            }
            let archived = world.archive().await.unwrap();
            assert_eq!(archived.segment.runs.len(), expected.len());
            for (run, expected) in archived.segment.runs.iter().zip(&expected) {
                assert_same(&world.batches(&archived, run).await, expected);
            }
        });
    }
}

#[tokio::test]
async fn small_runs_of_one_slot_cost_one_get_together() {
    let mut world = World::in_memory();
    let slot: Vec<(i32, BatchView)> = (0..50).map(|partition| (partition, batch(0))).collect();
    world.put(&slot).await;
    let archived = world.archive().await.unwrap();
    assert_eq!(archived.segment.runs.len(), 50);
    // the slot, all row groups, the footer
    assert_eq!(world.requests(Operation::Get), 3);
    assert_eq!(world.requests(Operation::Create), 1);
}

#[tokio::test]
async fn what_the_tail_cache_has_is_not_read_from_the_bucket() {
    let mut world = World::in_memory();
    world.put(&[(0, batch(0)), (0, batch(4))]).await;
    world.put(&[(0, batch(8))]).await;
    let newest = TailBatch {
        base_offset: 8,
        last_offset: 11,
        bytes: batch(8).into_bytes(),
    };
    world.tail.push(tp(PartitionIndex(0)), [newest]);
    let slot = slot_key(Slot(1));
    world
        .bucket
        .delete(Purpose::Collect, &[slot])
        .await
        .unwrap();
    let archived = world.archive().await.unwrap();
    let found = world.batches(&archived, &archived.segment.runs[0]).await;
    assert_same(&found, &[batch(0), batch(4), batch(8)]);
}

#[tokio::test]
async fn a_segment_that_is_full_says_how_far_it_got_and_the_next_goes_on_there() {
    let mut world = World::in_memory();
    let large = |base| noisy_batch(base, 10, ROW_GROUP_BYTES_TARGET / 9);
    let mut expected: BTreeMap<PartitionIndex, Vec<BatchView>> = BTreeMap::new();
    for (partition, base) in [(0, 0), (0, 10), (0, 20), (1, 7), (1, 17)] {
        world.put(&[(partition, large(base))]).await;
        let batches = expected.entry(PartitionIndex(partition)).or_default();
        batches.push(large(base));
    }
    let mut left = world.all();
    let mut found: BTreeMap<PartitionIndex, Vec<BatchView>> = BTreeMap::new();
    let mut number = 0;
    while !left.is_empty() {
        let segment_bytes = 3 * ROW_GROUP_BYTES_TARGET;
        let name = name(number);
        let written = world.archiver.write_up_to(&name, &left, segment_bytes);
        let archived = written.await.unwrap();
        number += 1;
        assert!(archived.segment.byte_len < 4 * ROW_GROUP_BYTES_TARGET as u64);
        for run in &archived.segment.runs {
            let batches = found.entry(run.partition).or_default();
            batches.extend(world.batches(&archived, run).await);
            let range = left
                .iter_mut()
                .find(|range| range.partition == run.partition);
            let range = range.unwrap();
            assert_eq!(range.from, run.base_offset);
            range.from = run.last_offset + 1;
        }
        left.retain(|range| range.from < range.end);
    }
    assert_eq!(number, 3, "two row groups each");
    for (found, expected) in found.values().zip(expected.values()) {
        assert_same(found, expected);
    }
    let usage = world.archiver.usage();
    assert_eq!((usage.segments, usage.batches, usage.records), (3, 5, 50));
}

#[tokio::test]
async fn nothing_behind_the_end_is_taken_and_markers_leave_gaps() {
    let mut world = World::in_memory();
    let marker = |base| {
        let mut builder = BatchBuilder::new(Codec::None)
            .base_offset(base)
            .leader_epoch(LeaderEpoch(5))
            .producer(ProducerId(1), ProducerEpoch(0), -1)
            .transactional()
            .control();
        builder.push(&record(Some(&[0, 0, 0, 1]), None)).unwrap();
        builder.build().unwrap()
    };
    let slot = [
        (0, batch(0)),
        (0, marker(4)),
        (0, batch(5)),
        (0, marker(9)),
        (0, batch(10)),
    ];
    world.put(&slot).await;
    world.put(&[(1, marker(3))]).await;
    let mut ranges = world.all();
    ranges[0].end = 10;
    let archived = world.archiver.write(&name(0), &ranges).await.unwrap();
    let covered = |run: &SegmentRun| (run.base_offset, run.last_offset);
    let runs: Vec<(i64, i64)> = archived.segment.runs.iter().map(covered).collect();
    assert_eq!(runs, [(0, 9), (3, 3)]);
    let found = world.batches(&archived, &archived.segment.runs[0]).await;
    assert_same(&found, &[batch(0), batch(5)]);
    assert!(archived.segment.runs[1].row_groups.is_empty());
}

/// The log start may lie in the middle of a batch, and then so does what is archived.
#[tokio::test]
async fn a_batch_that_begins_before_the_first_offset_is_taken_whole() {
    let mut world = World::in_memory();
    world.put(&[(0, batch(0)), (0, batch(4))]).await;
    let mut ranges = world.all();
    ranges[0].from = 6;
    let archived = world.archiver.write(&name(0), &ranges).await.unwrap();
    let run = &archived.segment.runs[0];
    assert_eq!((run.base_offset, run.last_offset), (4, 7));
    assert_same(&world.batches(&archived, run).await, &[batch(4)]);
}

#[tokio::test]
async fn nothing_to_archive_puts_nothing() {
    let world = world_of_one_batch().await;
    let mut ranges = world.all();
    ranges[0].end = 0;
    for ranges in [&ranges[..], &[]] {
        let fault = world.archiver.write(&name(0), ranges).await.unwrap_err();
        assert!(matches!(fault, ArchiveFault::Nothing), "{fault}");
        assert!(!fault.may_exist());
    }
    assert_eq!(world.requests(Operation::Create), 0);
}

#[tokio::test(start_paused = true)]
async fn a_put_without_a_clear_answer_is_resolved() {
    let unclear = [
        Fault::AnswerLost,
        Fault::RequestLost,
        Fault::Conflict,
        Fault::Throttled,
        Fault::FailedBefore,
        Fault::FailedAfter,
        Fault::Hang,
        Fault::HangAfter,
        Fault::Denied,
    ];
    for fault in unclear {
        let world = world_of_one_batch().await;
        world.store.inject(Rule::new(On::Put, fault).key(SEGMENT));
        let archived = world.archive().await.unwrap();
        let found = world.batches(&archived, &archived.segment.runs[0]).await;
        assert_same(&found, &[batch(0)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_fails_for_good_says_whether_an_object_may_be_there() {
    for (fault, may_exist) in [(Fault::Denied, false), (Fault::RequestLost, true)] {
        let world = world_of_one_batch().await;
        let rule = Rule::new(On::Put, fault).key(SEGMENT).times(u64::MAX);
        world.store.inject(rule);
        let found = world.archive().await.unwrap_err();
        assert!(matches!(found, ArchiveFault::Put { .. }), "{found}");
        assert!(found.is_of_bucket());
        assert_eq!(found.may_exist(), may_exist, "{found}");
        assert_eq!(
            world.requests(Operation::Create),
            u64::from(ARCHIVE_PUTS_MAX)
        );
    }
}

#[tokio::test]
async fn damage_on_the_way_back_is_read_again() {
    // of the row group, and of the footer
    for skipped in [0, 1] {
        let world = world_of_one_batch().await;
        let rule = Rule::new(On::Get, Fault::BitFlip)
            .key(SEGMENT)
            .after(skipped);
        world.store.inject(rule);
        world.archive().await.unwrap();
        assert_eq!(world.store.hits().len(), 1);
        assert_eq!(world.archiver.usage().differing, 0);
    }
}

#[tokio::test]
async fn a_segment_that_does_not_come_back_as_it_was_put_is_an_error() {
    for skipped in [0, 1] {
        let world = world_of_one_batch().await;
        let rule = Rule::new(On::Get, Fault::BitFlip)
            .key(SEGMENT)
            .after(skipped);
        world.store.inject(rule.times(u64::MAX));
        let found = world.archive().await.unwrap_err();
        assert!(matches!(found, ArchiveFault::Differs { .. }), "{found}");
        assert!(found.may_exist() && !found.is_of_bucket());
        let usage = world.archiver.usage();
        assert_eq!((usage.differing, usage.segments), (1, 0));
    }
}

#[tokio::test]
async fn another_object_under_the_name_is_never_taken_for_ours() {
    let mut world = world_of_one_batch().await;
    world.archive().await.unwrap();
    world.put(&[(1, batch(8))]).await;
    let found = world.archive().await.unwrap_err();
    assert!(matches!(found, ArchiveFault::Differs { .. }), "{found}");
}

#[tokio::test]
async fn a_segment_that_was_put_and_is_not_there_is_an_error() {
    let world = world_of_one_batch().await;
    world
        .store
        .inject(Rule::new(On::Get, Fault::Unseen).key(SEGMENT));
    let found = world.archive().await.unwrap_err();
    assert!(matches!(found, ArchiveFault::Missing(_)), "{found}");
    assert!(found.may_exist());
}

#[tokio::test]
async fn records_that_are_damaged_in_the_log_are_an_error_and_put_nothing() {
    let mut world = World::in_memory();
    world.put(&[(0, batch(0)), (1, batch(0))]).await;
    let rule = Rule::new(On::Get, Fault::BitFlip).key("wal/");
    world.store.inject(rule.times(u64::MAX));
    let found = world.archive().await.unwrap_err();
    let is_corrupt = matches!(found, ArchiveFault::Read(ReadError::Corrupt { .. }));
    assert!(is_corrupt, "{found}");
    assert!(!found.may_exist() && !found.is_of_bucket());
    assert_eq!(world.requests(Operation::Create), 0);
}

#[tokio::test]
async fn what_encoding_takes_of_a_processor_is_counted() {
    let world = world_of_one_batch().await;
    world.archive().await.unwrap();
    assert!(world.archiver.usage().cpu > Duration::ZERO);
}
