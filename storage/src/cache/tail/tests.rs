use firn_proto::ids::{PartitionIndex, TopicId};

use super::*;

fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicId([7; 16]),
        partition: PartitionIndex(partition),
    }
}

/// A batch of ten records.
fn batch(number: i64, bytes: usize) -> TailBatch {
    TailBatch {
        base_offset: number * 10,
        last_offset: number * 10 + 9,
        bytes: Bytes::from(vec![number as u8; bytes]),
    }
}

fn filled() -> TailCache {
    let cache = TailCache::new(1 << 20);
    cache.push(tp(0), (1..=4).map(|n| batch(n, 100)));
    cache
}

fn offsets(read: Option<TailRead>) -> Option<(usize, i64)> {
    read.map(|read| (read.batches.len(), read.next_offset))
}

#[test]
fn a_read_gives_whole_batches_from_the_one_that_holds_the_offset() {
    let cache = filled();
    let read = |offset, end, max| offsets(cache.read(tp(0), offset, end, max, true));
    assert_eq!(read(10, 50, 1000), Some((4, 50)));
    assert_eq!(read(19, 50, 1000), Some((4, 50)));
    assert_eq!(read(20, 50, 250), Some((2, 40)));
    assert_eq!(read(20, 50, 1), Some((1, 30)), "the first in any case");
    assert_eq!(
        read(20, 40, 1000),
        Some((2, 40)),
        "nothing at or behind the end"
    );
    assert_eq!(
        read(20, 39, 1000),
        Some((1, 30)),
        "nor a batch that reaches over it"
    );
    assert_eq!(read(50, 60, 1000), Some((0, 50)), "waiting at the end");
    assert_eq!(read(9, 50, 1000), None, "older than the tail");
    assert_eq!(offsets(cache.read(tp(0), 20, 50, 1, false)), Some((0, 20)));
    assert_eq!(offsets(cache.read(tp(1), 0, 50, 1, false)), None);
    assert_eq!((cache.usage().hits, cache.usage().misses), (8, 2));
}

#[test]
fn a_batch_that_does_not_follow_starts_the_tail_anew() {
    let cache = filled();
    cache.push(tp(0), [batch(6, 100)]);
    assert_eq!(cache.start(tp(0)), Some(60));
    assert_eq!(cache.end(tp(0)), Some(70));
    assert_eq!(offsets(cache.read(tp(0), 40, 70, 1000, true)), None);
}

#[test]
fn the_largest_partition_makes_room_for_the_others() {
    let cache = TailCache::new(100_000);
    cache.push(tp(0), [batch(0, 1000)]);
    cache.push(tp(1), [batch(0, 1000)]);
    cache.push(tp(2), (0..1000).map(|n| batch(n, 1000)));
    assert_eq!(
        cache.start(tp(0)),
        Some(0),
        "quiet partitions keep their tails"
    );
    assert_eq!(cache.start(tp(1)), Some(0));
    assert!(cache.start(tp(2)).unwrap() > 9000);
    assert_eq!(cache.end(tp(2)), Some(10_000), "the newest stays");
    let usage = cache.usage();
    assert!(
        usage.bytes <= usage.bytes_max && usage.bytes > 90_000,
        "{usage:?}"
    );
}

#[test]
fn a_batch_larger_than_the_cache_is_not_kept() {
    let cache = TailCache::new(500);
    cache.push(tp(0), [batch(1, 1000)]);
    assert_eq!(
        cache.usage(),
        TailUsage {
            bytes_max: 500,
            ..TailUsage::default()
        }
    );
}

#[test]
fn what_is_forgotten_takes_no_memory() {
    let cache = filled();
    cache.truncate(tp(0), 29);
    assert_eq!(cache.start(tp(0)), Some(20));
    cache.truncate(tp(0), 30);
    assert_eq!(cache.start(tp(0)), Some(30));
    cache.truncate(tp(1), 30);
    cache.remove(tp(0));
    cache.remove(tp(0));
    let usage = cache.usage();
    assert_eq!((usage.bytes, usage.partitions), (0, 0));
}

#[test]
fn a_small_batch_does_not_keep_its_request_alive() {
    let cache = TailCache::new(1 << 20);
    let request = Bytes::from(vec![1; 100_000]);
    let bytes = request.slice(10..20);
    cache.push(
        tp(0),
        [TailBatch {
            base_offset: 0,
            last_offset: 0,
            bytes,
        }],
    );
    assert!(request.is_unique());
}

#[test]
fn a_large_batch_is_not_copied() {
    let cache = TailCache::new(1 << 20);
    let bytes = Bytes::from(vec![1; COPY_BYTES_MAX]);
    let held = bytes.clone();
    cache.push(
        tp(0),
        [TailBatch {
            base_offset: 0,
            last_offset: 0,
            bytes,
        }],
    );
    let read = cache.read(tp(0), 0, 1, 0, true).unwrap();
    assert_eq!(read.batches[0].as_ptr(), held.as_ptr());
}

#[test]
fn offsets_beyond_32_bits_are_served() {
    let cache = TailCache::new(1 << 20);
    let base = i64::from(u32::MAX) - 5;
    let bytes = Bytes::from_static(b"x");
    let both = [(base, base + 9), (base + 10, base + 19)];
    cache.push(
        tp(0),
        both.map(|(base_offset, last_offset)| TailBatch {
            base_offset,
            last_offset,
            bytes: bytes.clone(),
        }),
    );
    let read = cache.read(tp(0), base + 9, i64::MAX, 100, true);
    assert_eq!(offsets(read), Some((2, base + 20)));
}
