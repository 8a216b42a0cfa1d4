use firn_proto::env::{Entropy, SystemClock};
use firn_proto::ids::{LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId};
use firn_proto::record::{BatchBuilder, Codec, NewRecord};

use super::cursors::Cursor;
use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::bucket::{Bucket, Purpose};
use crate::cache::{MapCache, TailBatch};
use crate::layout::Place;
use crate::state::{BatchFlags, Run};

const EPOCH: LeaderEpoch = LeaderEpoch(5);
const RECORDS: i64 = 4;

fn tp() -> TopicPartition {
    TopicPartition {
        topic: TopicId([9; 16]),
        partition: PartitionIndex(2),
    }
}

/// A batch of four records with rising timestamps, offset × 10.
fn batch(base: i64, value_bytes: usize, codec: Codec) -> Bytes {
    let value = vec![b'v'; value_bytes];
    let mut builder = BatchBuilder::new(codec)
        .base_offset(base)
        .leader_epoch(EPOCH);
    for n in 0..RECORDS {
        let record = NewRecord {
            timestamp: (base + n) * 10,
            value: Some(&value),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap().into_bytes()
}

/// What tests do to an object before it is put.
type Spoil = fn(&mut Vec<u8>, &mut RunRef);

struct World {
    store: FaultStore,
    bucket: Bucket,
    tail: Arc<TailCache>,
    reader: Reader,
    runs: Vec<RunRef>,
    batches: Vec<Bytes>,
    next: i64,
}

impl World {
    fn new(first: i64) -> Self {
        let store = FaultStore::in_memory();
        let clock = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
        let tail = Arc::new(TailCache::new(1 << 30));
        let objects = CachedObjects::new(bucket.clone(), Arc::new(MapCache::new(1 << 30)));
        let reader = Reader::new(Arc::clone(&tail), objects);
        Self {
            store,
            bucket,
            tail,
            reader,
            runs: vec![],
            batches: vec![],
            next: first,
        }
    }

    /// Puts an object with one run of `count` batches.
    async fn put(&mut self, count: usize, value_bytes: usize, spoil: Option<Spoil>) {
        let mut object = vec![0xee; 300];
        let base_offset = self.next;
        for _ in 0..count {
            let bytes = batch(self.next, value_bytes, Codec::None);
            object.extend_from_slice(&bytes);
            self.batches.push(bytes);
            self.next += RECORDS;
        }
        let slot = Slot(self.runs.len() as u64);
        let mut run = RunRef {
            at: SlotPosition {
                stream: StreamId(1),
                slot,
            },
            run: Run {
                tp: tp(),
                epoch: EPOCH,
                base_offset,
                last_offset: self.next - 1,
                byte_start: 300,
                byte_len: (object.len() - 300) as u32,
                max_timestamp: (self.next - 1) * 10,
                flags: BatchFlags::default(),
            },
        };
        object.extend_from_slice(&[0xdd; 40]);
        if let Some(spoil) = spoil {
            spoil(&mut object, &mut run);
        }
        let key = Place::WalSlot {
            stream: StreamId(1),
            slot,
        }
        .key();
        self.bucket
            .create_once(Purpose::Wal, &key, vec![object.into()])
            .await;
        self.runs.push(run);
    }

    async fn read(&self, offset: i64, max_bytes: usize) -> Result<ReadOutcome, ReadError> {
        self.read_to(offset, self.next, max_bytes).await
    }

    async fn read_to(
        &self,
        offset: i64,
        end: i64,
        max_bytes: usize,
    ) -> Result<ReadOutcome, ReadError> {
        let request = ReadRequest {
            tp: tp(),
            offset,
            end,
            max_bytes,
            first_in_any_case: true,
            runs: &self.runs,
        };
        self.reader.read(&request).await
    }

    /// Reads everything from `offset` on, `max_bytes` at a time.
    async fn drain(&self, mut offset: i64, max_bytes: usize) -> Vec<Bytes> {
        let mut all = Vec::new();
        while offset < self.next {
            let read = self.read(offset, max_bytes).await.unwrap();
            assert!(read.next_offset > offset, "no progress at {offset}");
            assert_eq!(
                read.bytes,
                read.batches.iter().map(Bytes::len).sum::<usize>()
            );
            all.extend(read.batches);
            offset = read.next_offset;
        }
        all
    }
}

#[tokio::test]
async fn what_was_written_is_read_back_from_objects() {
    for first in [0, i64::from(i32::MAX) - 9, i64::from(u32::MAX) - 9] {
        let mut world = World::new(first);
        for (count, value_bytes) in [(3, 100), (1, 10), (200, 3000), (2, 400_000)] {
            world.put(count, value_bytes, None).await;
        }
        for max_bytes in [1, 5000, 1 << 20, 1 << 30] {
            assert_eq!(
                world.drain(first, max_bytes).await,
                world.batches,
                "{max_bytes}"
            );
        }
        assert_eq!(world.reader.usage().refetched, 0);
    }
}

#[tokio::test]
async fn a_read_begins_with_the_batch_that_holds_the_offset() {
    let mut world = World::new(100);
    world.put(50, 100, None).await;
    world.put(50, 100, None).await;
    for offset in [100, 103, 104, 299, 300, 301, 499] {
        let read = world.read(offset, 1).await.unwrap();
        assert_eq!(
            read.batches,
            [world.batches[(offset as usize - 100) / 4].clone()]
        );
    }
    assert!(world.read(500, 1).await.unwrap().batches.is_empty());
}

/// A consumer with small limits takes one batch at a time; while it does not read its answer, that
/// must not keep a whole stretch of an object in memory.
#[tokio::test]
async fn a_small_answer_does_not_hold_what_was_fetched_for_it() {
    let mut world = World::new(0);
    world.put(10, 5_000, None).await;
    let outcome = world.read(0, 1).await.unwrap();
    let [batch] = &outcome.batches[..] else {
        panic!("one batch")
    };
    assert!(batch.is_unique(), "a slice of what was fetched");
    let outcome = world.read(0, 1 << 20).await.unwrap();
    assert!(!outcome.batches[0].is_unique(), "not copied");
}

#[tokio::test]
async fn nothing_at_or_behind_the_end_is_served() {
    let mut world = World::new(0);
    world.put(10, 100, None).await;
    let read = world.read_to(0, 20, 1 << 20).await.unwrap();
    assert_eq!((read.batches.len(), read.next_offset), (5, 20));
    let read = world.read_to(0, 19, 1 << 20).await.unwrap();
    assert_eq!(
        (read.batches.len(), read.next_offset),
        (4, 16),
        "no batch that reaches over it"
    );
    let read = world.read_to(2, 3, 1 << 20).await.unwrap();
    assert_eq!((read.batches.len(), read.next_offset), (0, 2));
}

#[tokio::test]
async fn a_batch_larger_than_the_budget_is_served_only_if_it_may() {
    let mut world = World::new(0);
    world.put(2, 2 << 20, None).await;
    assert_eq!(
        world.read(0, 10).await.unwrap().batches,
        [world.batches[0].clone()]
    );
    let request = ReadRequest {
        tp: tp(),
        offset: 0,
        end: 8,
        max_bytes: 10,
        first_in_any_case: false,
        runs: &world.runs,
    };
    assert!(
        world
            .reader
            .read(&request)
            .await
            .unwrap()
            .batches
            .is_empty()
    );
}

#[tokio::test]
async fn the_tail_is_served_without_a_request_and_continues_what_objects_begin() {
    let mut world = World::new(0);
    world.put(5, 100, None).await;
    world.put(5, 100, None).await;
    let newest = (5..10).map(|n| TailBatch {
        base_offset: n * 4,
        last_offset: n * 4 + 3,
        bytes: world.batches[n as usize].clone(),
    });
    world.tail.push(tp(), newest);
    let hot = world.read(20, 1 << 20).await.unwrap();
    assert_eq!(hot.batches, world.batches[5..]);
    assert_eq!(world.reader.usage().objects.gets, 0);
    let both = world.read(0, 1 << 20).await.unwrap();
    assert_eq!(both.batches, world.batches);
    assert_eq!(
        world.reader.usage().objects.gets,
        1,
        "the second object is not asked for"
    );
}

#[tokio::test]
async fn a_tail_that_lags_behind_the_log_does_not_hide_what_objects_have() {
    let mut world = World::new(0);
    world.put(5, 100, None).await;
    let first = TailBatch {
        base_offset: 0,
        last_offset: 3,
        bytes: world.batches[0].clone(),
    };
    world.tail.push(tp(), [first]);
    assert_eq!(world.drain(0, 1 << 20).await, world.batches);
}

#[tokio::test]
async fn a_sequential_reader_does_not_walk_a_run_from_its_start_again() {
    let mut world = World::new(0);
    world.put(400, 5000, None).await;
    world.drain(0, 100_000).await;
    let blocks = world.reader.usage().objects;
    let touched = blocks.hits + blocks.misses;
    // 8 MB in 31 blocks and 80 reads: each touches a window, not all before it.
    assert!(touched < 80 * 4, "{blocks:?}");
}

#[tokio::test]
async fn an_offset_without_a_run_is_an_error_and_not_an_empty_answer() {
    let mut world = World::new(100);
    world.put(2, 10, None).await;
    assert!(matches!(
        world.read(50, 10).await,
        Err(ReadError::NotCovered { offset: 50, .. })
    ));
    let stale = world.read_to(108, 200, 10).await;
    assert!(matches!(
        stale,
        Err(ReadError::NotCovered { offset: 108, .. })
    ));
}

#[tokio::test]
async fn an_object_that_is_gone_is_an_error_and_not_a_gap() {
    let mut world = World::new(0);
    world.put(2, 10, None).await;
    world.put(2, 10, None).await;
    let key = Place::WalSlot {
        stream: StreamId(1),
        slot: Slot(1),
    }
    .key();
    world
        .bucket
        .delete(Purpose::Collect, std::slice::from_ref(&key))
        .await
        .unwrap();
    match world.read(0, 1 << 20).await {
        Err(ReadError::Gone { key: gone, .. }) => assert_eq!(gone, key),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_bytes_from_the_cache_are_fetched_again() {
    for fault in [Fault::BitFlip] {
        let mut world = World::new(0);
        world.put(20, 100, None).await;
        world.store.inject(Rule::new(On::Get, fault));
        assert_eq!(world.drain(0, 1 << 20).await, world.batches);
        let usage = world.reader.usage();
        assert_eq!((usage.refetched, usage.corrupt), (1, 0));
    }
}

#[tokio::test]
async fn a_corrupt_object_is_a_loud_error_and_no_byte_of_it_is_served() {
    let spoils: [(&str, Spoil); 12] = [
        ("value", |object, _| object[300 + 100] ^= 1),
        ("checksum", |object, _| object[300 + 17] ^= 1),
        ("base offset", |object, _| object[300 + 7] ^= 1),
        ("base offset high", |object, _| object[300] ^= 0x80),
        ("epoch", |object, _| object[300 + 15] ^= 1),
        ("magic", |object, _| object[300 + 16] = 1),
        ("length zero", |object, _| object[300 + 8..300 + 12].fill(0)),
        ("length huge", |object, _| {
            object[300 + 8..300 + 12].copy_from_slice(&i32::MAX.to_be_bytes());
        }),
        ("length negative", |object, _| {
            object[300 + 8..300 + 12].fill(0xff)
        }),
        ("cut off", |object, _| object.truncate(500)),
        ("run reaches too far", |_, run| run.run.last_offset += 1),
        ("bytes reach too far", |_, run| run.run.byte_len += 10_000),
    ];
    for (name, spoil) in spoils {
        let mut world = World::new(0);
        world.put(3, 100, Some(spoil)).await;
        let answer = world.read_to(0, 100, 1 << 20).await;
        assert!(
            matches!(answer, Err(ReadError::Corrupt { .. })),
            "{name}: {answer:?}"
        );
        assert_eq!(world.reader.usage().corrupt, 1, "{name}");
    }
}

#[tokio::test]
async fn any_flipped_bit_is_seen() {
    let mut world = World::new(0);
    world.put(1, 20, None).await;
    let whole = world.batches[0].clone();
    for bit in 0..whole.len() * 8 {
        let mut spoiled = World::new(0);
        let mut bytes = vec![0; 300];
        bytes.extend_from_slice(&whole);
        bytes[300 + bit / 8] ^= 1 << (bit % 8);
        let key = Place::WalSlot {
            stream: StreamId(1),
            slot: Slot(0),
        }
        .key();
        spoiled
            .bucket
            .create_once(Purpose::Wal, &key, vec![bytes.into()])
            .await;
        spoiled.runs = world.runs.clone();
        let answer = spoiled.read_to(0, 4, 1 << 20).await;
        assert!(
            matches!(answer, Err(ReadError::Corrupt { .. })),
            "bit {bit}: {answer:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_does_not_answer_is_an_error_that_heals() {
    let mut world = World::new(0);
    world.put(3, 100, None).await;
    world.store.set_outage(true);
    assert!(matches!(
        world.read(0, 1 << 20).await,
        Err(ReadError::Bucket(_))
    ));
    world.store.set_outage(false);
    assert_eq!(world.drain(0, 1 << 20).await, world.batches);
}

#[tokio::test]
async fn a_time_is_found_with_record_precision() {
    let mut world = World::new(1000);
    for _ in 0..3 {
        world.put(5, 50, None).await;
    }
    let find = async |time, start, end| {
        let runs = &world.runs;
        let found = world
            .reader
            .offset_for_timestamp(tp(), time, start, end, runs)
            .await
            .unwrap();
        found.map(|f| (f.offset, f.timestamp, f.epoch))
    };
    assert_eq!(find(0, 1000, 1060).await, Some((1000, 10_000, EPOCH)));
    assert_eq!(find(10_005, 1000, 1060).await, Some((1001, 10_010, EPOCH)));
    assert_eq!(find(10_330, 1000, 1060).await, Some((1033, 10_330, EPOCH)));
    assert_eq!(find(10_590, 1000, 1060).await, Some((1059, 10_590, EPOCH)));
    assert_eq!(find(10_591, 1000, 1060).await, None);
    assert_eq!(
        find(0, 1022, 1060).await,
        Some((1022, 10_220, EPOCH)),
        "not below the log start"
    );
    assert_eq!(find(10_330, 1000, 1032).await, None, "not behind the end");
}

#[tokio::test]
async fn times_that_do_not_rise_are_found_by_offset_order() {
    let mut world = World::new(0);
    world.put(2, 50, None).await;
    world.put(2, 50, None).await;
    // A run whose index promises more than its batches hold costs a look and no wrong answer.
    world.runs[0].run.max_timestamp = 1_000_000;
    let runs = &world.runs;
    let found = world
        .reader
        .offset_for_timestamp(tp(), 100, 0, 16, runs)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.offset, found.timestamp), (10, 100));
}

#[tokio::test]
async fn the_newest_record_is_found_whatever_the_order_of_runs() {
    let mut world = World::new(0);
    for _ in 0..3 {
        world.put(3, 50, None).await;
    }
    let newest = async |start, end| {
        let found = world
            .reader
            .max_timestamp(tp(), start, end, &world.runs)
            .await
            .unwrap();
        found.map(|f| (f.offset, f.timestamp))
    };
    assert_eq!(newest(0, 36).await, Some((35, 350)));
    assert_eq!(newest(0, 20).await, Some((19, 190)), "only what is visible");
    assert_eq!(newest(36, 36).await, None);
}

#[tokio::test]
async fn compressed_batches_are_searched_too() {
    let bytes = batch(0, 1000, Codec::Zstd);
    let world = World::new(0);
    let last_offset = RECORDS - 1;
    let byte_len = bytes.len() as u32;
    world.tail.push(
        tp(),
        [TailBatch {
            base_offset: 0,
            last_offset,
            bytes,
        }],
    );
    let run = RunRef {
        at: SlotPosition {
            stream: StreamId(1),
            slot: Slot(0),
        },
        run: Run {
            tp: tp(),
            epoch: EPOCH,
            base_offset: 0,
            last_offset,
            byte_start: 0,
            byte_len,
            max_timestamp: 30,
            flags: BatchFlags::default(),
        },
    };
    let found = world
        .reader
        .offset_for_timestamp(tp(), 15, 0, 4, &[run])
        .await
        .unwrap();
    assert_eq!(found.map(|f| f.offset), Some(2));
}

/// A producer may send what it likes inside a batch whose checksum is right. Such a batch is found by
/// its header, and what lies behind it as if it were not there.
#[tokio::test]
async fn a_batch_that_does_not_decode_is_found_by_its_header() {
    let mut world = World::new(1000);
    // The records of the second batch of the run are not what its attributes say: gzip.
    let spoil: Spoil = |object, run| {
        let length = run.run.byte_len as usize / 3;
        let batch = &mut object[300 + length..][..length];
        batch[22] |= 1;
        let crc = firn_proto::record::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    };
    world.put(3, 50, Some(spoil)).await;
    let find = async |time, start| {
        let found = world
            .reader
            .offset_for_timestamp(tp(), time, start, 1012, &world.runs)
            .await
            .unwrap();
        found.map(|f| (f.offset, f.timestamp, f.epoch))
    };
    assert_eq!(find(10_020, 1000).await, Some((1002, 10_020, EPOCH)));
    assert_eq!(find(10_060, 1000).await, Some((1004, 10_070, EPOCH)));
    assert_eq!(
        find(10_060, 1006).await,
        Some((1006, 10_070, EPOCH)),
        "not below the log start"
    );
    assert_eq!(find(10_080, 1000).await, Some((1008, 10_080, EPOCH)));
    let newest = world.reader.max_timestamp(tp(), 1000, 1008, &world.runs);
    let newest = newest.await.unwrap().unwrap();
    assert_eq!((newest.offset, newest.timestamp), (1004, 10_070));
}

const MIB: usize = 1024 * 1024;
const ALL_MEMORY: u64 = firn_proto::limits::COLD_READ_BYTES_MAX as u64;

/// The clock stands, and goes on only when nothing else does: a read that has not ended then waits.
#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_what_was_set_aside_waits_for_the_memory_it_takes() {
    let mut world = World::new(0);
    world.put(1, 2 * MIB, None).await;
    let memory = &world.reader.0.memory;
    let others = memory.take(ALL_MEMORY - 5 * MIB as u64, 0).await;
    let mut read = std::pin::pin!(world.read(0, MIB));
    let second = std::time::Duration::from_secs(1);
    let waits = tokio::time::timeout(second, read.as_mut()).await.is_err();
    assert!(waits, "8 MiB were taken of the 5 MiB that are free");
    drop(others);
    assert_eq!(read.await.unwrap().batches, world.batches);
    assert_eq!(memory.free(), ALL_MEMORY);
}

/// From a cursor little is fetched. If it proves wrong, the run is fetched from its start.
#[tokio::test(start_paused = true)]
async fn a_read_that_starts_anew_waits_for_the_memory_of_the_whole_run() {
    let mut world = World::new(0);
    world.put(3, MIB / 4, None).await;
    let wrong = Cursor {
        at: world.runs[0].at,
        byte: 300 + 2 * world.batches[0].len() as u64,
    };
    world.reader.0.cursors.remember(tp(), RECORDS, wrong);
    let memory = &world.reader.0.memory;
    let others = memory.take(ALL_MEMORY - 2 * MIB as u64, 0).await;
    let mut read = std::pin::pin!(world.read(RECORDS, 13 * MIB));
    let second = std::time::Duration::from_secs(1);
    let waits = tokio::time::timeout(second, read.as_mut()).await.is_err();
    assert!(waits, "3 MiB were taken of the 2 MiB that are free");
    drop(others);
    assert_eq!(read.await.unwrap().batches, world.batches[1..]);
    assert_eq!(memory.free(), ALL_MEMORY);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_has_some_batches_leaves_those_that_do_not_fit_to_the_next() {
    let mut world = World::new(0);
    world.put(6, MIB / 2, None).await;
    let others = world
        .reader
        .0
        .memory
        .take(ALL_MEMORY - 5 * MIB as u64, 0)
        .await;
    let read = world.read(0, 13 * MIB).await.unwrap();
    assert_eq!(read.batches, world.batches[..1], "4 MiB were fetched");
    let drained = world.drain(0, 13 * MIB).await;
    assert_eq!(drained, world.batches);
    drop(others);
    assert_eq!(
        world.read(0, 13 * MIB).await.unwrap().batches,
        world.batches
    );
}

#[tokio::test]
async fn what_is_searched_counts_as_read_until_it_is_done_with() {
    let mut world = World::new(0);
    world.put(1, 2 * MIB, None).await;
    let memory = &world.reader.0.memory;
    let found = world
        .reader
        .some_batches(tp(), 0, RECORDS, &world.runs[0])
        .await;
    let found = found.ok().unwrap();
    assert_eq!(found.batches, world.batches);
    assert!(ALL_MEMORY - memory.free() >= world.batches[0].len() as u64);
    drop(found);
    assert_eq!(memory.free(), ALL_MEMORY);
}
