//! Segments: writing batches into columns, and making batches of columns again. What the archiver
//! and a cold reader pay for each record.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use firn_proto::ids::{ClusterId, PartitionIndex, TopicId};
use firn_proto::record::{BatchBuilder, BatchView, Codec, NewRecord};
use firn_storage::segment::{
    RowGroupReader, SegmentOrigin, SegmentWriter, TargetCodec, Written, verify_row_group,
};

pub(crate) const TOPIC: TopicId = TopicId([7; 16]);
const PARTITION: PartitionIndex = PartitionIndex(0);
/// Bytes of all values.
const VALUE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of the values of one batch.
const BATCH_BYTES: usize = 64 * 1024;
const NOW_MS: i64 = 1_700_000_000_000;

/// What the values are like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values {
    /// Events as JSON: words that repeat, and numbers that do not.
    Events,
    /// Random capital letters, as Kafka's perf tool produces them: nothing repeats, but a letter has
    /// less than five bits.
    Letters,
    /// Random bytes, as if encrypted.
    Noise,
}

impl Values {
    /// Value `at`, of `bytes` bytes.
    fn value(self, at: i64, bytes: usize) -> Vec<u8> {
        let mut value = Vec::with_capacity(bytes + 128);
        let mut state = at.cast_unsigned();
        while value.len() < bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            match self {
                Self::Events => {
                    let event = format!(
                        "{{\"user\":{},\"path\":\"/shop/item/{}\",\"ms\":{},\"id\":\"{:016x}\"}},",
                        state >> 52,
                        (state >> 32) % 1000,
                        state % 250,
                        state
                    );
                    value.extend_from_slice(event.as_bytes());
                }
                Self::Letters => value.push(b'A' + ((state >> 33) % 26) as u8),
                Self::Noise => value.extend_from_slice(&state.to_be_bytes()[..4]),
            }
        }
        value.truncate(bytes);
        value
    }
}

/// Values, their length, and the codec of their batches: what is measured.
pub(crate) const SHAPES: [(Values, usize, Codec); 7] = [
    (Values::Events, 100, Codec::None),
    (Values::Events, 100, Codec::Lz4),
    (Values::Letters, 100, Codec::None),
    (Values::Events, 1024, Codec::None),
    (Values::Events, 1024, Codec::Lz4),
    (Values::Letters, 1024, Codec::None),
    (Values::Noise, 1024, Codec::None),
];

/// Batches of one partition, from offset 0 on.
pub(crate) fn batches(values: Values, record_bytes: usize, codec: Codec) -> Vec<BatchView> {
    let per_batch = i64::try_from(BATCH_BYTES / record_bytes).unwrap();
    let count = i64::try_from(VALUE_BYTES / BATCH_BYTES).unwrap();
    (0..count)
        .map(|batch| {
            let mut builder = BatchBuilder::new(codec).base_offset(batch * per_batch);
            for at in batch * per_batch..(batch + 1) * per_batch {
                let value = values.value(at, record_bytes);
                let record = NewRecord {
                    timestamp: NOW_MS + at / 10,
                    value: Some(&value),
                    ..NewRecord::default()
                };
                builder.push(&record).unwrap();
            }
            builder.build().unwrap()
        })
        .collect()
}

fn write(batches: &[BatchView]) -> Written<Vec<u8>> {
    let origin = SegmentOrigin {
        cluster: ClusterId([1; 16]),
        topic: TOPIC,
        topic_name: "measured".to_owned(),
    };
    let last = batches.last().unwrap().header().last_offset();
    let mut writer = SegmentWriter::new(Vec::new(), &origin).unwrap();
    writer.begin_run(PARTITION, 0, last).unwrap();
    for batch in batches {
        writer.push(batch).unwrap();
    }
    writer.finish().unwrap()
}

fn read(object: &Bytes, written: &Written<Vec<u8>>, target: TargetCodec) -> usize {
    let mut bytes = 0;
    for (run, group) in written.segment.row_groups() {
        let range = group.byte_range();
        let stored = object.slice(range.start as usize..range.end as usize);
        let mut reader = RowGroupReader::open(&stored, TOPIC, run.partition, group).unwrap();
        while let Some(batch) = reader.next_batch(target).unwrap() {
            bytes += batch.bytes().len();
        }
    }
    bytes
}

pub(crate) fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment");
    group.sample_size(10);
    for (values, record_bytes, codec) in SHAPES {
        let batches = batches(values, record_bytes, codec);
        let records: i64 = batches
            .iter()
            .map(|batch| i64::from(batch.header().record_count))
            .sum();
        let name = format!("{record_bytes}B-{values:?}-{codec:?}");
        // records, so that both goals are read off: × their size for bytes
        group.throughput(Throughput::Elements(records.cast_unsigned()));
        group.bench_function(BenchmarkId::new("write", &name), |bencher| {
            bencher.iter(|| write(black_box(&batches)));
        });
        let written = write(&batches);
        let object = Bytes::copy_from_slice(&written.sink);
        group.bench_function(BenchmarkId::new("read", &name), |bencher| {
            bencher.iter(|| read(black_box(&object), &written, TargetCodec::Producer));
        });
        group.bench_function(BenchmarkId::new("verify", &name), |bencher| {
            bencher.iter(|| {
                for ((run, group), found) in
                    written.segment.row_groups().zip(&written.fingerprints.0)
                {
                    let range = group.byte_range();
                    let stored = object.slice(range.start as usize..range.end as usize);
                    verify_row_group(&stored, TOPIC, run.partition, group, *found).unwrap();
                }
            });
        });
    }
    group.finish();
}
