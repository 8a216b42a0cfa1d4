use firn_proto::env::{Entropy, SystemClock};
use firn_proto::ids::{Slot, StreamId};
use firn_proto::limits::{CACHE_BLOCK_BYTES, COLD_GET_BYTES_MAX};

use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::bucket::{Bucket, Operation};
use crate::cache::MapCache;
use crate::layout::Place;

const MIB: usize = 1024 * 1024;

struct World {
    store: FaultStore,
    bucket: Bucket,
    objects: CachedObjects,
    ranges: WholeRanges,
    body: Vec<u8>,
}

fn key() -> Key {
    Place::WalSlot {
        stream: StreamId(1),
        slot: Slot(0),
    }
    .key()
}

impl World {
    async fn new(length: usize, cache_bytes: usize) -> Self {
        let store = FaultStore::in_memory();
        let clock = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
        let body: Vec<u8> = (0..length).map(|n| (n / 7 + n / 65_536) as u8).collect();
        let pieces = vec![body.clone().into()];
        bucket.create_once(Purpose::Archive, &key(), pieces).await;
        let objects = CachedObjects::new(bucket.clone(), Arc::new(MapCache::new(cache_bytes)));
        let ranges = WholeRanges::new(objects.clone(), Purpose::ReadSegment);
        Self {
            store,
            bucket,
            objects,
            ranges,
            body,
        }
    }

    async fn read(&self, range: Range<usize>) -> Bytes {
        let asked = range.start as u64..range.end as u64;
        self.ranges.read(&key(), asked).await.unwrap()
    }

    fn ahead(&self, range: Range<usize>) {
        self.ranges
            .read_ahead(&key(), range.start as u64..range.end as u64);
    }

    /// Waits until nothing is on its way.
    async fn landed(&self) {
        while self.ranges.0.free_kib.available_permits() < GETS_KIB {
            tokio::task::yield_now().await;
        }
    }

    fn gets(&self) -> u64 {
        let usage = self.bucket.usage();
        usage.requests(Purpose::ReadSegment, Operation::Get)
    }
}

#[tokio::test]
async fn a_range_takes_one_get_however_long_it_is() {
    let world = World::new(12 * MIB + 77, 64 * MIB).await;
    let range = 100..10 * MIB + 5;
    assert!(range.len() > 2 * COLD_GET_BYTES_MAX);
    assert_eq!(world.read(range.clone()).await, world.body[range.clone()]);
    assert_eq!(world.gets(), 1);
    assert_eq!(world.read(range.clone()).await, world.body[range]);
    assert_eq!((world.gets(), world.ranges.reads().hits), (1, 1));
}

#[tokio::test]
async fn every_range_has_the_bytes_of_the_object() {
    let block = CACHE_BLOCK_BYTES;
    for cache_bytes in [0, block, 64 * MIB] {
        let world = World::new(3 * MIB + 123, cache_bytes).await;
        for range in [
            5..6,
            0..block,
            block - 1..block + 1,
            7..3 * MIB,
            3 * MIB..3 * MIB + 123,
        ] {
            assert_eq!(
                world.read(range.clone()).await,
                world.body[range.clone()],
                "{range:?}"
            );
        }
        let beyond = world.read(3 * MIB..5 * MIB).await;
        assert_eq!(beyond, world.body[3 * MIB..]);
    }
}

#[tokio::test]
async fn what_the_cache_has_at_the_ends_of_a_range_is_not_fetched_again() {
    let world = World::new(8 * MIB, 64 * MIB).await;
    for start in [0, 4 * MIB, 8 * MIB - 9] {
        let small = start as u64..start as u64 + 9;
        world.objects.read(&key(), small).await.unwrap();
    }
    let before = world.bucket.usage();
    assert_eq!(world.read(0..8 * MIB).await, world.body);
    let received = |usage: &crate::bucket::BucketUsage| {
        usage.rows.iter().map(|row| row.bytes_received).sum::<u64>()
    };
    let after = world.bucket.usage();
    let fetched = received(&after) - received(&before);
    assert_eq!(fetched, (8 * MIB - 2 * CACHE_BLOCK_BYTES) as u64);
    assert_eq!(world.gets(), 1);
}

#[tokio::test]
async fn readers_of_one_range_share_its_get() {
    let world = World::new(6 * MIB, 0).await;
    let reads = (0..5).map(|_| world.read(0..6 * MIB));
    for bytes in join_all(reads).await {
        assert_eq!(bytes, world.body);
    }
    assert_eq!(world.gets(), 1);
}

#[tokio::test]
async fn what_was_fetched_ahead_is_kept_until_it_is_asked_for() {
    let world = World::new(9 * MIB, 0).await;
    world.ahead(MIB..9 * MIB);
    world.landed().await;
    assert_eq!(world.gets(), 1);
    assert_eq!(world.read(MIB..9 * MIB).await, world.body[MIB..]);
    assert_eq!((world.gets(), world.ranges.reads().ahead), (1, 1));
    assert!(world.ranges.0.flights().by_span.is_empty(), "and no longer");
    world.ahead(0..MIB);
    assert_eq!(world.read(0..MIB).await, world.body[..MIB]);
    world.landed().await;
    assert_eq!(world.gets(), 2, "one on its way is joined");
    assert!(world.ranges.0.flights().by_span.is_empty());
}

#[tokio::test]
async fn what_is_fetched_ahead_is_bounded() {
    let world = World::new(9 * MIB, 0).await;
    for start in 0..MIB / 8 {
        world.ahead(start..start + 8 * MIB);
        world.landed().await;
        if start == 20 {
            break;
        }
    }
    let flights = world.ranges.0.flights();
    assert_eq!(flights.ahead_bytes, RANGES_AHEAD_BYTES_MAX as u64);
    assert_eq!(flights.by_span.len(), RANGES_AHEAD_BYTES_MAX / (8 * MIB));
    assert_eq!(flights.ahead.len(), flights.by_span.len());
}

#[tokio::test]
async fn a_failed_fetch_ahead_is_forgotten() {
    let world = World::new(MIB, 0).await;
    world.store.inject(Rule::new(On::Get, Fault::Denied));
    world.ahead(0..MIB);
    world.landed().await;
    assert!(world.ranges.0.flights().by_span.is_empty());
    assert_eq!(world.ranges.0.flights().ahead_bytes, 0);
    assert_eq!(world.read(0..MIB).await, world.body);
}

#[tokio::test]
async fn a_range_of_no_object_is_gone() {
    let world = World::new(10, 0).await;
    let other = Place::Cluster.key();
    let read = world.ranges.read(&other, 0..10).await;
    assert!(matches!(read, Err(ObjectError::Gone(key)) if key == other));
}

#[tokio::test]
async fn wrong_bytes_in_the_cache_are_replaced() {
    let world = World::new(MIB, 64 * MIB).await;
    world.store.inject(Rule::new(On::Get, Fault::BitFlip));
    assert_ne!(world.read(0..MIB).await, world.body);
    let again = world
        .ranges
        .read_again(&key(), 0..MIB as u64)
        .await
        .unwrap();
    assert_eq!(again, world.body);
    assert_eq!(world.read(0..MIB).await, world.body);
    assert_eq!(world.gets(), 2);
}

/// The kernel keeps what was read of a file.
#[tokio::test]
async fn what_lies_in_a_directory_is_not_kept_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::new());
    let bucket = Bucket::directory(folder.path(), clock, Arc::new(Entropy::from_seed(1))).unwrap();
    let body: Vec<u8> = (0..3 * MIB).map(|at| (at % 251) as u8).collect();
    let pieces = vec![body.clone().into()];
    bucket.create_once(Purpose::Archive, &key(), pieces).await;
    let objects = CachedObjects::new(bucket, Arc::new(MapCache::new(64 * MIB)));
    let ranges = WholeRanges::new(objects.clone(), Purpose::ReadSegment);
    for gets in 1..=2 {
        let read = ranges.read(&key(), 7..2 * MIB as u64).await.unwrap();
        assert!(read == body[7..2 * MIB]);
        assert_eq!((ranges.reads().gets, objects.memory_bytes()), (gets, 0));
    }
    let beyond = ranges.read(&key(), 2 * MIB as u64..9 * MIB as u64).await;
    assert!(beyond.unwrap() == body[2 * MIB..]);
}
