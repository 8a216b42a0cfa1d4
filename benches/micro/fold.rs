//! Applying the rows of slots to a partition's state: what a start after a crash does for every
//! slot since the last checkpoint.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
};
use firn_storage::state::{ProducerBatch, Run, StateRow};

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
