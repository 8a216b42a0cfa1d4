use std::ops::Range;

use firn_proto::env::{Entropy, SystemClock};
use firn_proto::ids::{
    ClusterId, Incarnation, LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId,
};
use firn_proto::limits::{OPEN_ROW_GROUPS_BYTES_MAX, OPEN_ROW_GROUPS_MAX, ROW_GROUP_BYTES_TARGET};
use firn_proto::record::{
    BatchBuilder, BatchView, Codec, Compression, HEADER_BYTES, NewHeader, NewRecord, Records,
};

use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::bucket::{Bucket, Operation, Purpose};
use crate::cache::{MapCache, TailCache};
use crate::read::FoundOffset;
use crate::segment::{SegmentOrigin, SegmentWriter};

const TOPIC: TopicId = TopicId([9; 16]);
const NAME: &str = "flights";
const NOON: i64 = 1_700_000_000_000;
const MIB: usize = 1 << 20;
const ALL: usize = usize::MAX;

fn tp() -> TopicPartition {
    TopicPartition {
        topic: TOPIC,
        partition: PartitionIndex(2),
    }
}

/// A partition whose records are in segments, one run each.
struct World {
    store: FaultStore,
    bucket: Bucket,
    reader: Reader,
    runs: Vec<Arc<ArchivedRun>>,
    batches: Vec<BatchView>,
    next: i64,
}

impl World {
    fn new() -> Self {
        Self::with_cache(1 << 30)
    }

    fn with_cache(cache_bytes: usize) -> Self {
        let store = FaultStore::in_memory();
        let clock = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
        let cache = Arc::new(MapCache::new(cache_bytes));
        let objects = CachedObjects::new(bucket.clone(), cache);
        Self {
            store,
            bucket,
            reader: Reader::new(Arc::new(TailCache::new(0)), objects),
            runs: vec![],
            batches: vec![],
            next: 0,
        }
    }

    fn key(&self, segment: usize) -> Key {
        key(tp(), NAME, self.runs[segment].segment)
    }

    /// Archives batches, and offsets up to `end` that have none.
    async fn archive(&mut self, batches: Vec<BatchView>, end: i64) {
        self.archive_spoiled(batches, end, |_| {}).await;
    }

    async fn archive_spoiled(
        &mut self,
        batches: Vec<BatchView>,
        end: i64,
        spoil: impl FnOnce(&mut Vec<u8>),
    ) {
        let origin = SegmentOrigin {
            cluster: ClusterId([1; 16]),
            topic: TOPIC,
            topic_name: NAME.to_owned(),
        };
        let mut writer = SegmentWriter::new(Vec::new(), &origin).unwrap();
        writer
            .begin_run(tp().partition, self.next, end - 1)
            .unwrap();
        for batch in &batches {
            writer.push(batch).unwrap();
        }
        let mut written = writer.finish().unwrap();
        let run = written.segment.runs.remove(0);
        self.runs.push(Arc::new(ArchivedRun {
            segment: SegmentKey {
                incarnation: Incarnation(4),
                number: self.runs.len() as u64,
            },
            runs_of_segment: 1,
            base_offset: run.base_offset,
            last_offset: run.last_offset,
            max_timestamp: run.max_timestamp,
            row_groups: run.row_groups,
        }));
        spoil(&mut written.sink);
        let key = self.key(self.runs.len() - 1);
        let body = vec![written.sink.into()];
        self.bucket.create_once(Purpose::Archive, &key, body).await;
        self.batches.extend(batches);
        self.next = end;
    }

    /// Archives `count` batches of ten records in one segment.
    async fn archive_plain(&mut self, count: i64, value_bytes: usize) {
        let from = self.next;
        let batches = (0..count).map(|at| plain_batch(from + 10 * at, value_bytes));
        self.archive(batches.collect(), from + 10 * count).await;
    }

    fn request(&self, offset: i64, max_bytes: usize) -> SegmentRead<'_> {
        SegmentRead {
            tp: tp(),
            topic_name: NAME,
            offset,
            end: self.next,
            max_bytes,
            first_in_any_case: true,
            codec: TargetCodec::Producer,
            runs: &self.runs,
        }
    }

    async fn read(&self, offset: i64, max_bytes: usize) -> Result<ReadOutcome, ReadError> {
        let request = self.request(offset, max_bytes);
        self.reader.read_segments(&request).await
    }

    /// Reads everything from `offset` on, `max_bytes` at a time.
    async fn drain(&self, mut offset: i64, max_bytes: usize) -> Vec<Bytes> {
        let mut all = Vec::new();
        while offset < self.next {
            let read = self.read(offset, max_bytes).await.unwrap();
            assert!(read.next_offset > offset, "no progress at {offset}");
            all.extend(read.batches);
            offset = read.next_offset;
        }
        all
    }

    fn bytes(&self) -> Vec<Bytes> {
        let all = self.batches.iter().cloned();
        all.map(BatchView::into_bytes).collect()
    }

    fn row_groups(&self) -> u64 {
        self.runs
            .iter()
            .map(|run| run.row_groups.len() as u64)
            .sum()
    }

    fn usage(&self) -> SegmentUsage {
        self.reader.usage().segments
    }

    fn gets(&self) -> u64 {
        let usage = self.bucket.usage();
        usage.requests(Purpose::ReadSegment, Operation::Get)
    }

    fn search(&self, offsets: Range<i64>) -> SegmentSearch<'_> {
        SegmentSearch {
            tp: tp(),
            topic_name: NAME,
            start: offsets.start,
            end: offsets.end,
            runs: &self.runs,
        }
    }
}

/// Ten records that do not compress and are not compressed.
fn plain_batch(base: i64, value_bytes: usize) -> BatchView {
    timed_batch(base, value_bytes, |offset| NOON + offset)
}

fn timed_batch(base: i64, value_bytes: usize, time: impl Fn(i64) -> i64) -> BatchView {
    let entropy = Entropy::from_seed(base.cast_unsigned());
    let mut builder = BatchBuilder::new(Codec::None)
        .base_offset(base)
        .leader_epoch(LeaderEpoch(3));
    for n in 0..10 {
        let numbers = (0..value_bytes.div_ceil(8)).map(|_| entropy.next_u64());
        let value: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        let record = NewRecord {
            timestamp: time(base + n),
            value: Some(&value[..value_bytes]),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap()
}

/// Random choices that a seed repeats.
struct Dice(Entropy);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Entropy::from_seed(seed))
    }

    fn below(&self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        let len = self.below(40);
        (!self.one_in(4)).then(|| (0..len).map(|_| self.below(256) as u8).collect())
    }

    /// A batch of any shape, and any offsets at or behind `from`.
    fn batch(&self, from: i64) -> BatchView {
        let gap = if self.one_in(4) { self.below(30) } else { 0 };
        let codec = Codec::ALL[self.below(Codec::ALL.len() as u64) as usize];
        let mut builder = BatchBuilder::new(codec)
            .base_offset(from + gap as i64)
            .leader_epoch(LeaderEpoch(self.below(9) as i32));
        if self.one_in(3) {
            let id = ProducerId(self.below(1 << 40) as i64);
            let epoch = ProducerEpoch(self.below(99) as i16);
            builder = builder.producer(id, epoch, self.below(1 << 30) as i32);
        }
        let mut delta = -1;
        for _ in 0..=self.below(20) {
            delta += 1 + if self.one_in(9) {
                self.below(5) as i32
            } else {
                0
            };
            let (key, value) = (self.bytes(), self.bytes());
            let header_value = self.bytes();
            let header: NewHeader<'_> = (b"origin", header_value.as_deref());
            let record = NewRecord {
                timestamp: if self.one_in(20) {
                    -1
                } else {
                    NOON + self.below(500) as i64
                },
                key: key.as_deref(),
                value: value.as_deref(),
                headers: if self.one_in(3) { &[header] } else { &[] },
            };
            builder.push_at(delta, &record).unwrap();
        }
        builder.build().unwrap()
    }

    /// A partition of some segments, with gaps.
    async fn world(&self) -> World {
        let mut world = World::new();
        for _ in 0..=self.below(5) {
            let mut batches: Vec<BatchView> = Vec::new();
            let mut end = world.next;
            for _ in 0..self.below(9) {
                let batch = self.batch(end);
                end = batch.header().last_offset() + 1;
                batches.push(batch);
            }
            end += if self.one_in(3) {
                1 + self.below(50) as i64
            } else {
                0
            };
            if end == world.next {
                end += 1;
            }
            world.archive(batches, end).await;
        }
        world
    }
}

/// What must come back whatever the compression: header and records.
fn essence(batch: &BatchView) -> (Vec<u8>, Vec<u8>) {
    let mut header = batch.bytes()[..HEADER_BYTES].to_vec();
    header[8..12].fill(0); // length
    header[17..21].fill(0); // CRC
    header[22] &= !7; // codec
    let plain = batch.plain_records(64 * MIB).unwrap().into_owned();
    (header, plain)
}

fn essences(batches: &[Bytes]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let views = batches.iter().map(|bytes| {
        let view = BatchView::take(&mut bytes.clone()).unwrap();
        assert!(view.crc_matches());
        view
    });
    views.map(|batch| essence(&batch)).collect()
}

/// What a read must give, from all batches there are.
fn expected<'a>(world: &'a World, read: &SegmentRead<'_>, served: &[Bytes]) -> &'a [BatchView] {
    let from = world
        .batches
        .partition_point(|batch| batch.header().last_offset() < read.offset);
    let mut bytes = 0;
    let mut count = 0;
    for batch in &world.batches[from..] {
        // a compressed batch may have another length now
        let len = served.get(count).map_or(usize::MAX / 2, Bytes::len);
        let fits = bytes + len <= read.max_bytes || (count == 0 && read.first_in_any_case);
        if batch.header().last_offset() >= read.end || !fits {
            break;
        }
        bytes += len;
        count += 1;
    }
    &world.batches[from..from + count]
}

#[tokio::test]
async fn random_reads_of_random_batches_give_what_a_model_says() {
    for seed in 0..60 {
        let dice = Dice::new(seed);
        let world = dice.world().await;
        let end = world.next;
        for _ in 0..25 {
            let mut read = world.request(dice.below(end as u64) as i64, ALL);
            read.max_bytes = [1, 200, 1000, 5000, ALL][dice.below(5) as usize];
            read.end = if dice.one_in(3) {
                dice.below(end as u64 + 9) as i64
            } else {
                end
            };
            read.first_in_any_case = !dice.one_in(4);
            if dice.one_in(4) {
                read.codec = TargetCodec::Topic(Compression::from(Codec::Lz4));
            }
            let found = world.reader.read_segments(&read).await.unwrap();
            let expected = expected(&world, &read, &found.batches);
            let wanted: Vec<_> = expected.iter().map(essence).collect();
            assert_eq!(essences(&found.batches), wanted, "seed {seed}: {read:?}");
            let bytes: usize = found.batches.iter().map(Bytes::len).sum();
            assert_eq!(found.bytes, bytes);
            let behind = expected
                .last()
                .map_or(read.offset, |b| b.header().last_offset() + 1);
            let next = world.batches.iter().map(|b| b.header().base_offset);
            let next = next.filter(|base| *base >= behind).min().unwrap_or(end);
            let is_right = (behind..=next.max(behind)).contains(&found.next_offset);
            assert!(is_right, "seed {seed}: {read:?}: {}", found.next_offset);
        }
        for codec in Codec::ALL {
            let mut all = Vec::new();
            let mut read = world.request(0, 1 + dice.below(4000) as usize);
            read.codec = TargetCodec::Topic(Compression::from(codec));
            while read.offset < end {
                let found = world.reader.read_segments(&read).await.unwrap();
                assert!(found.next_offset > read.offset, "seed {seed}: {read:?}");
                all.extend(found.batches);
                read.offset = found.next_offset;
            }
            let wanted: Vec<_> = world.batches.iter().map(essence).collect();
            assert_eq!(essences(&all), wanted, "seed {seed}: {codec:?}");
        }
    }
}

#[tokio::test]
async fn a_sequential_reader_decodes_each_row_group_once_and_gets_it_once() {
    for cache_bytes in [0, 1 << 30] {
        for max_bytes in [1, 3000, 12_000] {
            let mut world = World::with_cache(cache_bytes);
            for _ in 0..6 {
                world.archive_plain(20, 100).await;
            }
            assert_eq!(world.drain(0, max_bytes).await, world.bytes());
            let usage = world.usage();
            assert_eq!((usage.opened, world.gets()), (6, 6), "{max_bytes}");
            assert!(usage.ranges.ahead >= 5, "{usage:?}");
        }
    }
}

#[tokio::test]
async fn a_segment_with_several_row_groups_is_read_in_one_get_each() {
    let mut world = World::with_cache(0);
    world.archive_plain(50, 100 * 1024).await;
    let groups = world.row_groups();
    assert!(groups > 4, "{groups}");
    assert_eq!(world.drain(0, MIB).await, world.bytes());
    assert_eq!((world.usage().opened, world.gets()), (groups, groups));
    let longest = world.runs[0]
        .row_groups
        .iter()
        .map(|group| group.byte_len)
        .max();
    assert!(longest.unwrap() > ROW_GROUP_BYTES_TARGET as u64);
}

#[tokio::test]
async fn readers_at_the_same_place_share_what_is_decoded() {
    let mut world = World::new();
    world.archive_plain(40, 1000).await;
    let mut offset = 0;
    while offset < world.next {
        let (first, second) =
            futures::join!(world.read(offset, 20_000), world.read(offset, 20_000));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first, second);
        // one that takes less stays a little behind
        let behind = world.read(offset, 5000).await.unwrap();
        assert!(first.batches.starts_with(&behind.batches));
        offset = first.next_offset;
    }
    assert_eq!((world.usage().opened, world.gets()), (1, 1));
}

#[tokio::test]
async fn readers_at_different_places_of_a_row_group_share_its_get() {
    let mut world = World::new();
    world.archive_plain(40, 1000).await;
    let reads = [0, 15, 222, 399].map(|offset| world.read(offset, 1));
    for (read, batch) in futures::future::join_all(reads)
        .await
        .iter()
        .zip([0, 1, 22, 39])
    {
        assert_eq!(
            read.as_ref().unwrap().batches,
            [world.bytes()[batch].clone()]
        );
    }
    assert_eq!((world.usage().opened, world.gets()), (4, 1));
}

#[tokio::test]
async fn a_reader_that_fell_behind_opens_the_row_group_again() {
    let mut world = World::new();
    // more than is kept of what was made
    world.archive_plain(10, 50 * 1024).await;
    assert_eq!(world.drain(0, MIB).await, world.bytes());
    assert_eq!(world.drain(0, MIB).await, world.bytes());
    assert_eq!((world.usage().opened, world.gets()), (2, 1));
}

#[tokio::test]
async fn gaps_are_jumped_over_even_where_nothing_follows() {
    let mut world = World::new();
    world.archive(vec![plain_batch(5, 10)], 40).await;
    world.archive(vec![], 50).await;
    world.archive(vec![plain_batch(60, 10)], 90).await;
    let first = world.read(0, 1).await.unwrap();
    assert_eq!((first.batches.len(), first.next_offset), (1, 50));
    let second = world.read(15, 1).await.unwrap();
    assert_eq!((second.batches.len(), second.next_offset), (1, 90));
    let last = world.read(70, 1).await.unwrap();
    assert_eq!((last.batches.len(), last.next_offset), (0, 90));
    let mut request = world.request(75, ALL);
    request.end = 80;
    let last = world.reader.read_segments(&request).await.unwrap();
    assert_eq!((last.batches.len(), last.next_offset), (0, 80));
}

#[tokio::test]
async fn offsets_without_a_run_are_told_and_not_passed_over() {
    let mut world = World::new();
    world.archive_plain(1, 10).await;
    world.archive_plain(1, 10).await;
    let runs = world.runs.clone();
    let mut request = world.request(0, ALL);
    request.end = 100;
    request.runs = &runs[1..];
    let below = world.reader.read_segments(&request).await;
    assert!(matches!(
        below,
        Err(ReadError::NotCovered { offset: 0, .. })
    ));
    request.runs = &runs[..1];
    let read = world.reader.read_segments(&request).await.unwrap();
    assert_eq!(
        (read.batches.len(), read.next_offset),
        (1, 10),
        "behind the last run"
    );
    request.offset = 10;
    let behind = world.reader.read_segments(&request).await;
    assert!(matches!(
        behind,
        Err(ReadError::NotCovered { offset: 10, .. })
    ));
}

#[tokio::test]
async fn a_segment_that_is_gone_is_an_error_and_what_is_there_before_it_is_served() {
    let mut world = World::new();
    world.archive_plain(2, 10).await;
    world.archive_plain(2, 10).await;
    let key = world.key(1);
    world
        .bucket
        .delete(Purpose::Collect, std::slice::from_ref(&key))
        .await
        .unwrap();
    let read = world.read(0, ALL).await.unwrap();
    assert_eq!((read.batches.len(), read.next_offset), (2, 20));
    match world.read(20, ALL).await {
        Err(ReadError::Gone { key: gone, .. }) => assert_eq!(gone, key),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_bytes_are_fetched_once_more_past_the_cache() {
    let mut world = World::new();
    world.archive_plain(20, 100).await;
    world.store.inject(Rule::new(On::Get, Fault::BitFlip));
    assert_eq!(world.drain(0, 5000).await, world.bytes());
    let usage = world.reader.usage();
    assert_eq!((usage.refetched, usage.corrupt), (1, 0));
    assert_eq!(world.gets(), 2);
    assert_eq!(world.drain(0, 5000).await, world.bytes());
    assert_eq!(world.gets(), 2, "the cache has the right bytes now");
}

#[tokio::test]
async fn a_corrupt_segment_is_a_loud_error_and_no_byte_of_it_is_served() {
    let mut world = World::new();
    let batches: Vec<_> = (0..20).map(|at| plain_batch(10 * at, 50)).collect();
    let spoil = |object: &mut Vec<u8>| {
        let middle = object.len() / 3;
        object[middle] ^= 1;
    };
    world.archive_spoiled(batches, 200, spoil).await;
    for _ in 0..2 {
        match world.read(100, ALL).await {
            Err(ReadError::Corrupt {
                key, offset: 100, ..
            }) => assert_eq!(key, world.key(0)),
            other => panic!("{other:?}"),
        }
    }
    let usage = world.reader.usage();
    assert_eq!((usage.refetched, usage.corrupt), (2, 2));
    let error = world
        .reader
        .first_in_segments_at(&world.search(0..200), NOON)
        .await;
    assert!(matches!(error, Err(ReadError::Corrupt { .. })), "{error:?}");
    assert_eq!(
        world.reader.0.segments.remainders.open_and_free(),
        (0, FREE)
    );
}

#[tokio::test]
async fn another_segment_under_the_key_is_corruption() {
    let mut world = World::new();
    world.archive_plain(3, 10).await;
    let mut other = Arc::unwrap_or_clone(Arc::clone(&world.runs[0]));
    for group in &mut other.row_groups {
        group.base_offset += 1;
    }
    other.base_offset += 1;
    world.runs = vec![Arc::new(other)];
    let error = world.read(5, ALL).await;
    assert!(matches!(error, Err(ReadError::Corrupt { .. })), "{error:?}");
}

const FREE: u64 = OPEN_ROW_GROUPS_BYTES_MAX as u64;

#[tokio::test]
async fn what_is_kept_makes_room_for_a_reader_that_needs_memory() {
    let mut world = World::new();
    world.archive_plain(20, 100).await;
    world.read(0, 1).await.unwrap();
    world.read(100, 1).await.unwrap();
    let remainders = &world.reader.0.segments.remainders;
    let (open, free) = remainders.open_and_free();
    assert!((open, free < FREE) == (2, true));
    drop(remainders.room(FREE).await);
    assert_eq!(remainders.open_and_free(), (0, FREE));
    assert_eq!(world.drain(0, 1).await, world.bytes());
}

#[tokio::test]
async fn a_row_group_that_was_read_to_its_end_holds_what_was_made_last_of_it() {
    let mut world = World::new();
    world.archive_plain(20, 100).await;
    // The last batch is asked for alone, and nothing behind it.
    assert_eq!(world.drain(0, 1).await, world.bytes());
    let made: usize = world.bytes().iter().map(Bytes::len).sum();
    let (open, free) = world.reader.0.segments.remainders.open_and_free();
    assert_eq!(
        (open, FREE - free),
        (1, (made as u64).next_multiple_of(1024))
    );
    assert_eq!(world.drain(0, 1).await, world.bytes());
}

#[tokio::test]
async fn nothing_is_kept_while_a_reader_waits_for_memory() {
    let mut world = World::new();
    world.archive_plain(20, 100).await;
    world.read(0, 1).await.unwrap();
    let remainders = &world.reader.0.segments.remainders;
    let name = GroupName {
        tp: tp(),
        segment: world.runs[0].segment,
        base_offset: 0,
        codec: TargetCodec::Producer,
    };
    let held = remainders.hold(name, 0).await;
    assert!(held.slot.open.is_some());
    let mut room = Box::pin(remainders.room(FREE));
    assert!(futures::poll!(&mut room).is_pending());
    drop(held);
    assert_eq!(remainders.open_and_free().0, 0);
    drop(room.await);
    assert_eq!(remainders.open_and_free(), (0, FREE));
}

#[tokio::test]
async fn no_more_row_groups_are_kept_than_the_limit_says() {
    let mut world = World::new();
    for _ in 0..OPEN_ROW_GROUPS_MAX + 10 {
        world.archive_plain(2, 10).await;
    }
    for run in &world.runs {
        world.read(run.base_offset, 1).await.unwrap();
    }
    let (open, free) = world.reader.0.segments.remainders.open_and_free();
    assert!(
        open <= OPEN_ROW_GROUPS_MAX && free < FREE,
        "{open} open, {free} free"
    );
    assert_eq!(world.drain(0, 1).await, world.bytes());
}

#[tokio::test]
async fn a_reader_that_leaves_loses_nothing() {
    let mut world = World::new();
    world.archive_plain(20, 100).await;
    for polls in 0..6 {
        let mut read = Box::pin(world.read(0, 1));
        for _ in 0..polls {
            let _ = futures::poll!(&mut read);
            tokio::task::yield_now().await;
        }
        drop(read);
    }
    assert_eq!(world.drain(0, 5000).await, world.bytes());
    assert_eq!(world.gets(), 1);
    drop(world.reader.0.segments.remainders.room(FREE).await);
}

/// Every record: offset, timestamp, epoch.
fn records(world: &World) -> Vec<FoundOffset> {
    let records = world.batches.iter().flat_map(|batch| {
        let header = *batch.header();
        let plain = batch.plain_records(64 * MIB).unwrap().into_owned();
        let records: Vec<_> = Records::new(&header, &plain)
            .map(|record| {
                let record = record.unwrap();
                FoundOffset {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    epoch: header.leader_epoch,
                }
            })
            .collect();
        records
    });
    records.collect()
}

#[tokio::test]
async fn records_are_found_by_their_time_as_a_model_says() {
    for seed in 100..160 {
        let dice = Dice::new(seed);
        let world = dice.world().await;
        let records = records(&world);
        for _ in 0..20 {
            let start = dice.below(world.next as u64) as i64;
            let end = start + dice.below((world.next - start) as u64 + 1) as i64;
            let (start, end) = if dice.one_in(3) {
                (0, world.next)
            } else {
                (start, end)
            };
            let visible = || {
                records
                    .iter()
                    .filter(|found| (start..end).contains(&found.offset))
            };
            let timestamp = NOON - 5 + dice.below(520) as i64;
            let search = world.search(start..end);
            let found = world
                .reader
                .first_in_segments_at(&search, timestamp)
                .await
                .unwrap();
            let expected = visible().find(|found| found.timestamp >= timestamp);
            assert_eq!(
                found.as_ref(),
                expected,
                "seed {seed}: {start}..{end} at {timestamp}"
            );
            let found = world.reader.newest_in_segments(&search).await.unwrap();
            let rank = |found: &&FoundOffset| (found.timestamp, std::cmp::Reverse(found.offset));
            let expected = visible().max_by_key(rank);
            assert_eq!(found.as_ref(), expected, "seed {seed}: {start}..{end}");
        }
    }
}

#[tokio::test]
async fn a_time_is_looked_up_with_one_get() {
    let mut world = World::with_cache(0);
    for _ in 0..5 {
        world.archive_plain(20, 10).await;
    }
    let search = world.search(0..world.next);
    let found = world
        .reader
        .first_in_segments_at(&search, NOON + 777)
        .await
        .unwrap();
    assert_eq!(found.map(|found| found.offset), Some(777));
    assert_eq!(world.gets(), 1);
    let found = world.reader.newest_in_segments(&search).await.unwrap();
    assert_eq!(found.map(|found| found.offset), Some(999));
    assert_eq!((world.gets(), world.usage().searched), (2, 2));
}

/// The log start lies in the middle of the first batch, and so does that of the run: the newest of
/// its records is below.
#[tokio::test]
async fn what_lies_below_the_start_of_a_run_is_not_the_newest() {
    let mut world = World::new();
    let time = |offset| if offset == 0 { 2 * NOON } else { NOON + offset };
    let batches = vec![timed_batch(0, MIB, time), timed_batch(10, MIB, time)];
    world.archive(batches, 20).await;
    assert_eq!(world.row_groups(), 2);
    Arc::make_mut(&mut world.runs[0]).base_offset = 1;
    let search = world.search(1..world.next);
    let found = world.reader.newest_in_segments(&search).await.unwrap();
    assert_eq!(found.map(|found| found.offset), Some(19));
    let found = world.reader.first_in_segments_at(&search, NOON + 15).await;
    assert_eq!(found.unwrap().map(|found| found.offset), Some(15));
    let read = world.read(1, 1).await.unwrap();
    assert_eq!(read.batches, world.bytes()[..1]);
}
