//! The header check of a produced batch, and the patching of its offsets: no record is decoded.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use firn_proto::ids::LeaderEpoch;
use firn_proto::record::{BatchRules, BatchView, Stamp, TimestampType, check_produced};
use firn_tests::records::{ProducerFields, Record, encode_batch};

const NOW_MS: i64 = 1_700_000_000_000;

/// A batch as a producer sends it.
pub(crate) fn produced(records: usize, record_bytes: usize) -> Bytes {
    let record = Record::new("key", vec![b'x'; record_bytes]);
    encode_batch(&vec![record; records], ProducerFields::NONE)
}

fn rules() -> BatchRules {
    BatchRules {
        bytes_max: 64 * 1024 * 1024,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
    }
}

pub(crate) fn batch_check(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for (records, record_bytes) in [(1, 100), (160, 100), (16, 1024), (1000, 1024)] {
        let bytes = produced(records, record_bytes);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let name = format!("{records}x{record_bytes}B");
        group.bench_function(BenchmarkId::new("check", &name), |bencher| {
            bencher.iter(|| check_produced(black_box(bytes.clone()), &rules(), NOW_MS).unwrap());
        });
        group.bench_function(BenchmarkId::new("stamp", &name), |bencher| {
            let fresh = || {
                let mut unshared = Bytes::from(bytes.to_vec());
                BatchView::take(&mut unshared).unwrap()
            };
            let stamp = Stamp {
                base_offset: 1 << 33,
                leader_epoch: LeaderEpoch(7),
                log_append_ms: None,
            };
            bencher.iter_batched(fresh, |batch| batch.stamp(stamp), BatchSize::SmallInput);
        });
    }
    group.finish();
}
