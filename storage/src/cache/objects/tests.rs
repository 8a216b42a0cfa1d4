use firn_proto::env::{Entropy, SystemClock};
use firn_proto::ids::{Slot, StreamId};

use super::*;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::bucket::{CreateOutcome, Operation};
use crate::cache::{DiskSpace, FoyerCache, MapCache};
use crate::layout::Place;

const MIB: usize = 1024 * 1024;

struct World {
    store: FaultStore,
    bucket: Bucket,
    objects: CachedObjects,
    body: Vec<u8>,
}

fn key(slot: u64) -> Key {
    Place::WalSlot {
        stream: StreamId(1),
        slot: Slot(slot),
    }
    .key()
}

impl World {
    /// An object of `length` bytes at slot 0 and a cache of `cache_bytes`.
    async fn new(length: usize, cache_bytes: usize) -> Self {
        Self::with_cache(length, Arc::new(MapCache::new(cache_bytes))).await
    }

    async fn with_cache(length: usize, cache: Arc<dyn ObjectCache>) -> Self {
        let store = FaultStore::in_memory();
        let clock = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
        let body: Vec<u8> = (0..length).map(|n| (n / 7 + n / 65_536) as u8).collect();
        let outcome = bucket
            .create_once(Purpose::Wal, &key(0), vec![body.clone().into()])
            .await;
        assert!(matches!(outcome, CreateOutcome::Created));
        let objects = CachedObjects::new(bucket.clone(), cache);
        Self {
            store,
            bucket,
            objects,
            body,
        }
    }

    fn gets(&self) -> u64 {
        self.bucket.usage().requests(Purpose::Read, Operation::Get)
    }
}

#[tokio::test]
async fn every_range_has_the_bytes_of_the_object() {
    let world = World::new(3 * MIB + 123, 64 * MIB).await;
    let block = CACHE_BLOCK_BYTES;
    for range in [
        0..10,
        0..block,
        block - 1..block + 1,
        block..2 * block,
        100..3 * MIB,
        3 * MIB..3 * MIB + 123,
        5..5,
    ] {
        for cache in ["cold", "warm"] {
            let asked = range.start as u64..range.end as u64;
            let bytes = world.objects.read(&key(0), asked).await.unwrap();
            assert_eq!(bytes, world.body[range.clone()], "{range:?} {cache}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_cache_and_its_twin_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let space = DiskSpace {
        directory: folder.path().to_path_buf(),
        bytes: 128 * MIB as u64,
        cluster: firn_proto::ids::ClusterId([1; 16]),
    };
    let foyer = FoyerCache::open(4 * MIB, Some(&space))
        .await
        .unwrap()
        .shared();
    let world = World::with_cache(16 * MIB, foyer).await;
    for start in [0, 5 * MIB, 11 * MIB, 0, 15 * MIB, 5 * MIB] {
        let range = start as u64..(start + MIB) as u64;
        let bytes = world.objects.read(&key(0), range).await.unwrap();
        assert_eq!(bytes, world.body[start..start + MIB]);
    }
    world.objects.close().await;
}

#[tokio::test]
async fn a_range_beyond_the_end_has_what_there_is() {
    let length = CACHE_BLOCK_BYTES + 10;
    let world = World::new(length, MIB).await;
    let end = length as u64;
    let read = world
        .objects
        .read(&key(0), end - 20..end + 5 * MIB as u64)
        .await
        .unwrap();
    assert_eq!(read, world.body[length - 20..]);
    assert_eq!(
        world.objects.read(&key(0), end + 1..end + 2).await.unwrap(),
        ""
    );
    let far = 100 * MIB as u64;
    assert_eq!(world.objects.read(&key(0), far..far + 2).await.unwrap(), "");
}

#[tokio::test]
async fn neighbours_are_fetched_in_one_get_and_only_once() {
    let world = World::new(8 * MIB, 64 * MIB).await;
    world.objects.read(&key(0), 0..MIB as u64).await.unwrap();
    assert_eq!(world.gets(), 1);
    world
        .objects
        .read(&key(0), 10..MIB as u64 - 10)
        .await
        .unwrap();
    assert_eq!(world.gets(), 1, "the cache has it");
    world
        .objects
        .read(&key(0), 0..8 * MIB as u64)
        .await
        .unwrap();
    assert_eq!(world.gets(), 3, "7 MiB are missing, one GET takes 4");
    let reads = world.objects.reads();
    assert_eq!((reads.gets, reads.misses, reads.hits), (3, 32, 8));
}

#[tokio::test]
async fn what_one_get_brings_is_not_copied() {
    let world = World::new(2 * MIB, 64 * MIB).await;
    let object = key(0);
    let read = || world.objects.read(&object, 0..2 * MIB as u64);
    let (one, other) = tokio::join!(read(), read());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one, world.body);
    assert_eq!(one.as_ptr(), other.as_ptr(), "both have what came");
    assert_eq!(world.gets(), 1);
}

#[tokio::test]
async fn readers_of_one_block_share_one_get() {
    let world = World::new(MIB, 64 * MIB).await;
    let key = key(0);
    let answers = join_all((0..50).map(|n| world.objects.read(&key, n..n + 10))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().unwrap().len() == 10)
    );
    assert_eq!(world.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_everyone_who_waits_and_is_not_kept() {
    let world = World::new(MIB, 64 * MIB).await;
    world.store.set_outage(true);
    let (key, absent) = (key(0), key(9));
    let answers = join_all((0..5).map(|_| world.objects.read(&key, 0..10))).await;
    assert!(
        answers
            .iter()
            .all(|a| matches!(a, Err(ObjectError::Bucket(_))))
    );
    world.store.set_outage(false);
    assert_eq!(
        world.objects.read(&key, 0..10).await.unwrap(),
        world.body[..10]
    );
    assert!(matches!(
        world.objects.read(&absent, 0..10).await,
        Err(ObjectError::Gone(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_get_whose_reader_has_left_still_ends_in_the_cache() {
    let world = World::new(MIB, 64 * MIB).await;
    world.store.inject(Rule::new(On::Get, Fault::Hang));
    let key = key(0);
    let reader = world.objects.read(&key, 0..10);
    let left = tokio::time::timeout(std::time::Duration::from_millis(1), reader).await;
    assert!(left.is_err(), "the reader gave up while the store hung");
    while world.objects.memory_bytes() == 0 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let before = world.gets();
    world.objects.read(&key, 0..10).await.unwrap();
    assert_eq!(world.gets(), before);
}

#[tokio::test]
async fn a_small_cache_gives_the_same_bytes() {
    let world = World::new(4 * MIB, 2 * CACHE_BLOCK_BYTES).await;
    for _ in 0..3 {
        let read = world
            .objects
            .read(&key(0), 0..4 * MIB as u64)
            .await
            .unwrap();
        assert_eq!(read, world.body[..]);
        assert!(world.objects.memory_bytes() <= 2 * CACHE_BLOCK_BYTES);
    }
}

#[tokio::test]
async fn a_read_past_the_cache_replaces_what_it_had() {
    let world = World::new(MIB, 64 * MIB).await;
    world.store.inject(Rule::new(On::Get, Fault::BitFlip));
    let spoiled = world.objects.read(&key(0), 0..MIB as u64).await.unwrap();
    assert_ne!(spoiled, world.body[..]);
    let again = world
        .objects
        .read_again(&key(0), 0..MIB as u64)
        .await
        .unwrap();
    assert_eq!(again, world.body[..]);
    assert_eq!(
        world.objects.read(&key(0), 0..MIB as u64).await.unwrap(),
        world.body[..]
    );
}

#[tokio::test]
async fn reading_ahead_fills_the_cache_without_anyone_waiting() {
    let world = World::new(MIB, 64 * MIB).await;
    world.objects.read_ahead(&key(0), 0..MIB as u64);
    while world.objects.memory_bytes() < MIB {
        tokio::task::yield_now().await;
    }
    world.objects.read(&key(0), 0..MIB as u64).await.unwrap();
    assert_eq!(world.gets(), 1);
}
