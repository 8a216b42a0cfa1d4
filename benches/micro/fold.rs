//! Applying the rows of slots to a partition's state: what a start after a crash does for every
//! slot since the last checkpoint.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
};
use firn_storage::checkpoint::encode;
use firn_storage::state::{BatchFlags, PagePlace, ProducerBatch, Run, StateRow};

use crate::wal::index_of;

const SLOTS: u64 = 256;
const WALL_MS: i64 = 1_700_000_000_000;

pub(crate) fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(SLOTS));
    for partitions in [1, 6, 400] {
        let slots = slots(partitions);
        let tp = TopicPartition {
            topic: TopicId([7; 16]),
            partition: PartitionIndex(0),
        };
        let name = format!("{SLOTS}-slots-{partitions}-partitions");
        group.bench_function(BenchmarkId::new("one-partition", name), |bencher| {
            bencher.iter_batched(
                || StateRow::new(tp, LeaderEpoch(1)),
                |mut row| {
                    for (at, (runs, producers)) in slots.iter().enumerate() {
                        let at = SlotPosition {
                            stream: StreamId(1),
                            slot: Slot(at as u64),
                        };
                        row.apply_slot(at, runs, producers, WALL_MS).unwrap();
                    }
                    row
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Copying and encoding the state row of a partition that had records in so many slots, as every
/// checkpoint does with each partition that has changed. Full pages of its runs were written before.
pub(crate) fn checkpoint(criterion: &mut Criterion) {
    let stream = StreamId(1);
    let mut group = criterion.benchmark_group("checkpoint");
    for slots in [256_u64, 10_000, 100_000] {
        let mut row = row_of(stream, slots);
        for page in encode(stream, std::slice::from_ref(&row)).pages {
            let place = PagePlace {
                stream,
                slot: Slot(slots),
                start: page.start,
                len: page.len,
            };
            row.runs.on_stored(page.base_offset, place);
        }
        let bytes = encode(stream, std::slice::from_ref(&row)).bytes.len();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("one-partition", slots), |bencher| {
            bencher.iter(|| encode(stream, &[row.clone()]));
        });
    }
    group.finish();
}

/// The state of a partition with one run in each of so many slots.
fn row_of(stream: StreamId, slots: u64) -> StateRow {
    let tp = TopicPartition {
        topic: TopicId([7; 16]),
        partition: PartitionIndex(0),
    };
    let mut row = StateRow::new(tp, LeaderEpoch(1));
    for slot in 0..slots {
        let run = Run {
            tp,
            epoch: LeaderEpoch(1),
            base_offset: row.end_offset,
            last_offset: row.end_offset + 99,
            byte_start: 4000,
            byte_len: 10_000,
            max_timestamp: WALL_MS + 100 * slot as i64,
            flags: BatchFlags::default(),
        };
        let at = SlotPosition {
            stream,
            slot: Slot(slot),
        };
        row.apply_slot(at, &[run], &[], WALL_MS).unwrap();
    }
    row
}

/// The rows of [`SLOTS`] slots, each going on where the one before it ended.
fn slots(partitions: i32) -> Vec<(Vec<Run>, Vec<ProducerBatch>)> {
    let first = index_of(partitions);
    let records = |tp: TopicPartition| {
        let of_partition = first.runs.iter().filter(|run| run.tp == tp);
        of_partition
            .map(|run| run.last_offset + 1 - run.base_offset)
            .sum::<i64>()
    };
    (0..SLOTS as i64)
        .map(|slot| {
            let runs = first.runs.iter().map(|run| Run {
                base_offset: run.base_offset + slot * records(run.tp),
                last_offset: run.last_offset + slot * records(run.tp),
                ..*run
            });
            let producers = first.producers.iter().map(|batch| ProducerBatch {
                base_offset: batch.base_offset + slot * records(batch.tp),
                base_sequence: batch.base_sequence + (slot * records(batch.tp)) as i32,
                ..*batch
            });
            (runs.collect(), producers.collect())
        })
        .collect()
}
