//! The archiver's whole step, as the broker does it: runs read from WAL objects of a directory,
//! encoded, put there as a segment, read back and compared. What is measured is what all threads
//! of this process take of a processor, and not how long the disk takes: the rate is per core.

use std::collections::BTreeMap;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use firn_proto::env::{Clock, Entropy, SystemClock};
use firn_proto::ids::{
    ClusterId, Incarnation, PartitionIndex, Slot, SlotPosition, StreamId, TopicPartition,
};
use firn_proto::limits::SLOT_BYTES_TARGET;
use firn_proto::record::BatchView;
use firn_storage::archive::{Archiver, Unarchived};
use firn_storage::bucket::{Bucket, BucketOptions, CreateOutcome, Purpose};
use firn_storage::cache::{CachedObjects, MapCache, TailCache};
use firn_storage::layout::{Place, SegmentName};
use firn_storage::read::Reader;
use firn_storage::state::{BatchFlags, Run, RunRef};
use firn_tests::process::cpu_seconds;
use tokio::runtime::Runtime;

use crate::segment::{SHAPES, TOPIC, batches};

/// Each holds the same batches.
const PARTITIONS: i32 = 4;
const STREAM: StreamId = StreamId(1);

pub(crate) fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("archive");
    group.sample_size(10);
    for (values, record_bytes, codec) in SHAPES {
        let folder = tempfile::tempdir_in(".").unwrap();
        let batches = batches(values, record_bytes, codec);
        let mut archive = Archive::over(folder.path(), &batches);
        let records = batches.iter().map(|batch| batch.header().record_count);
        let records = records.sum::<i32>() as u64 * PARTITIONS as u64;
        // as the goals are stated
        group.throughput(match record_bytes {
            100 => Throughput::Elements(records),
            _ => Throughput::BytesDecimal(records * record_bytes as u64),
        });
        let name = format!("{record_bytes}B-{values:?}-{codec:?}");
        group.bench_function(BenchmarkId::new("step", name), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| archive.write()).sum());
        });
    }
    group.finish();
}

/// A bucket with a WAL, and an archiver that never finds any of it in memory.
struct Archive {
    runtime: Runtime,
    bucket: Bucket,
    archiver: Archiver,
    ranges: Vec<Unarchived>,
    next_number: u64,
}

impl Archive {
    fn over(folder: &Path, batches: &[BatchView]) -> Self {
        let runtime = Runtime::new().unwrap();
        let entropy = Arc::new(Entropy::from_os());
        let bucket = runtime.block_on(open(folder, &entropy));
        let tail = Arc::new(TailCache::new(0));
        let objects = CachedObjects::new(bucket.clone(), Arc::new(MapCache::new(0)));
        let reader = Reader::new(tail, objects);
        let archiver = Archiver::new(bucket.clone(), &reader, ClusterId([1; 16]), entropy);
        let ranges = runtime.block_on(put(&bucket, batches));
        Self {
            runtime,
            bucket,
            archiver,
            ranges,
            next_number: 0,
        }
    }

    /// Writes one segment, and says what that has taken of a processor.
    fn write(&mut self) -> Duration {
        let name = SegmentName {
            topic_name: "measured".to_owned(),
            topic: TOPIC,
            incarnation: Incarnation(1),
            number: self.next_number,
        };
        self.next_number += 1;
        let before = cpu_seconds(process::id());
        let written = self.archiver.write(&name, &self.ranges);
        let archived = self.runtime.block_on(written).unwrap();
        let taken = cpu_seconds(process::id()) - before;
        let runs = archived.segment.runs.iter().map(|run| run.last_offset + 1);
        let wanted = self.ranges.iter().map(|range| range.end);
        assert!(runs.eq(wanted), "all of it is in one segment");
        let keys = [name.key()];
        let deleted = self.bucket.delete(Purpose::Collect, &keys);
        self.runtime.block_on(deleted).unwrap();
        Duration::from_secs_f64(taken)
    }
}

async fn open(folder: &Path, entropy: &Arc<Entropy>) -> Bucket {
    let folder = folder.canonicalize().unwrap().join("bucket");
    let url = format!("file://{}", folder.display());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let options = BucketOptions::of_process(true);
    let bucket = Bucket::open(&url, &options, clock, Arc::clone(entropy));
    bucket.await.unwrap()
}

/// Puts the batches into slots, each of which holds a run of every partition.
async fn put(bucket: &Bucket, batches: &[BatchView]) -> Vec<Unarchived> {
    let mut runs: BTreeMap<PartitionIndex, Vec<RunRef>> = BTreeMap::new();
    let bytes_of_run = SLOT_BYTES_TARGET / PARTITIONS as usize;
    let batches_of_run = (bytes_of_run / batches[0].bytes().len()).max(1);
    for (slot, batches) in (0..).map(Slot).zip(batches.chunks(batches_of_run)) {
        let at = SlotPosition {
            stream: STREAM,
            slot,
        };
        let pieces: Vec<Bytes> = batches.iter().map(|batch| batch.bytes().clone()).collect();
        let byte_len = pieces.iter().map(Bytes::len).sum::<usize>() as u32;
        let mut body = Vec::new();
        for partition in (0..PARTITIONS).map(PartitionIndex) {
            let byte_start = body.iter().map(Bytes::len).sum::<usize>() as u32;
            body.extend(pieces.iter().cloned());
            let run = run(partition, batches, byte_start, byte_len);
            runs.entry(partition).or_default().push(RunRef { at, run });
        }
        let key = Place::WalSlot {
            stream: STREAM,
            slot,
        };
        let outcome = bucket.create_once(Purpose::Wal, &key.key(), body).await;
        assert!(matches!(outcome, CreateOutcome::Created), "{outcome:?}");
    }
    runs.into_iter()
        .map(|(partition, runs)| Unarchived {
            partition,
            from: 0,
            end: runs.last().map_or(0, |last| last.run.last_offset + 1),
            runs,
        })
        .collect()
}

fn run(partition: PartitionIndex, batches: &[BatchView], byte_start: u32, byte_len: u32) -> Run {
    let (first, last) = (batches[0].header(), batches[batches.len() - 1].header());
    Run {
        tp: TopicPartition {
            topic: TOPIC,
            partition,
        },
        epoch: first.leader_epoch,
        base_offset: first.base_offset,
        last_offset: last.last_offset(),
        byte_start,
        byte_len,
        max_timestamp: last.max_timestamp,
        flags: BatchFlags::default(),
    }
}
