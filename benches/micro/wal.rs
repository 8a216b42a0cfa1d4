//! The WAL buffer and the index of a slot: what gathering the batches of many partitions costs.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use firn_proto::env::Mono;
use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use firn_proto::limits::{SLOT_BYTES_TARGET, SLOTS_IN_FLIGHT_MAX};
use firn_storage::state::BatchFlags;
use firn_storage::stream::{CheckpointRef, WalIndex};
use firn_storage::wal::{Acks, ClosedSlot, FlushPolicy, ProducerFields, WalBuffer, WalEntry};

const BATCH_BYTES: usize = 16 * 1024;
/// Batches of one slot.
const BATCHES: i32 = 400;

/// One batch of ten records of an idempotent producer.
fn entry(at: i32, partitions: i32, records: &Bytes) -> WalEntry {
    let base_offset = i64::from(at / partitions) * 10;
    WalEntry {
        tp: TopicPartition {
            topic: TopicId([7; 16]),
            partition: PartitionIndex(at % partitions),
        },
        epoch: LeaderEpoch(1),
        base_offset,
        last_offset: base_offset + 9,
        max_timestamp: 1_700_000_000_000,
        producer: Some(ProducerFields {
            id: ProducerId(i64::from(at % partitions)),
            epoch: ProducerEpoch(0),
            base_sequence: at / partitions * 10,
        }),
        flags: BatchFlags::default(),
        acks: Acks::Bucket,
        records: records.clone(),
    }
}

fn entries(partitions: i32) -> Vec<WalEntry> {
    let records = Bytes::from(vec![b'x'; BATCH_BYTES]);
    (0..BATCHES)
        .map(|at| entry(at, partitions, &records))
        .collect()
}

/// A slot of `entries`, closed.
pub(crate) fn close(entries: Vec<WalEntry>) -> ClosedSlot<()> {
    let policy = FlushPolicy {
        slot_bytes: SLOT_BYTES_TARGET,
        slots_in_flight: SLOTS_IN_FLIGHT_MAX,
        partial_slots_in_flight: 1,
        puts_per_second: None,
        gather: None,
    };
    let mut buffer = WalBuffer::new(policy, Mono(0));
    for entry in entries {
        buffer.push(entry, ());
    }
    buffer.close_slot(Mono(1)).unwrap()
}

/// The index of one slot over `partitions` partitions.
pub(crate) fn index_of(partitions: i32) -> WalIndex {
    let slot = close(entries(partitions));
    WalIndex {
        runs: slot.runs,
        producers: slot.producers,
        checkpoint: CheckpointRef::None,
    }
}

pub(crate) fn buffer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal-buffer");
    group.throughput(Throughput::Elements(BATCHES as u64));
    for partitions in [1, 6, 400] {
        let name = format!("{BATCHES}-batches-{partitions}-partitions");
        group.bench_function(BenchmarkId::new("push-and-close", name), |bencher| {
            let fresh = || entries(partitions);
            bencher.iter_batched(fresh, close, BatchSize::SmallInput);
        });
    }
    group.finish();
}

pub(crate) fn index(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal-index");
    for partitions in [1, 6, 400] {
        let index = index_of(partitions);
        let mut placed = index.clone();
        let bytes = placed.place().unwrap();
        let body_len = (BATCHES as usize * BATCH_BYTES) as u64;
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let name = format!("{partitions}-partitions");
        group.bench_function(BenchmarkId::new("encode", &name), |bencher| {
            bencher.iter_batched(
                || index.clone(),
                |mut index| index.place().unwrap(),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("decode", &name), |bencher| {
            bencher.iter(|| WalIndex::decode(black_box(&bytes), body_len).unwrap());
        });
    }
    group.finish();
}
