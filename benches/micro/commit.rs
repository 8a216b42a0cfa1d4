//! From a push to the answer: a group of batches through the WAL to the fsync of the local WAL
//! (acks=1), and to a durable slot in a `file://` bucket (acks=all). Mostly the disk's time: read
//! it beside the fsync p50 that `compare` prints.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use firn_proto::env::{Clock, Entropy, SystemClock};
use firn_proto::ids::{
    BrokerId, ClusterId, LeaderEpoch, PartitionIndex, Slot, StreamId, TopicId, TopicPartition,
};
use firn_storage::bucket::{Bucket, BucketOptions};
use firn_storage::state::BatchFlags;
use firn_storage::stream::StreamEnv;
use firn_storage::wal::local::{LocalAck, LocalWal, LocalWalOptions};
use firn_storage::wal::{Acks, DurableSlot, FairKey, FlushPolicy, Wal, WalEntry, WalSink, WalSpec};

const BATCH_BYTES: usize = 1024;
const CLUSTER: ClusterId = ClusterId([1; 16]);

/// Passes on the last offset that was fsynced or made durable.
struct Told {
    local: bool,
    offsets: Mutex<Sender<i64>>,
}

impl Told {
    fn tell(&self, offset: Option<i64>) {
        let offsets = self.offsets.lock().unwrap();
        if let Some(offset) = offset {
            // Nobody listens any more when the measurement is over.
            let _ = offsets.send(offset);
        }
    }
}

impl WalSink for Told {
    fn on_local(&self, acked: &[LocalAck]) {
        if self.local {
            self.tell(acked.iter().map(|ack| ack.last_offset).max());
        }
    }

    fn on_durable(&self, slot: DurableSlot) {
        if !self.local {
            self.tell(slot.entries.iter().map(|entry| entry.last_offset).max());
        }
    }

    fn on_fenced(&self, at: Slot) {
        panic!("the stream of a measurement was fenced at {at}");
    }
}

pub(crate) fn group_commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(20);
    for (name, local) in [("local-wal", true), ("file-bucket", false)] {
        for batches in [1, 64] {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let folder = tempfile::tempdir_in(".").unwrap();
            let (wal, offsets) = runtime.block_on(start(folder.path(), local));
            let mut next = 0;
            group.throughput(Throughput::Elements(batches as u64));
            group.bench_function(BenchmarkId::new(name, batches), |bencher| {
                bencher.iter(|| {
                    runtime.block_on(push(&wal, next, batches));
                    next += batches;
                    while offsets.recv().unwrap() < next - 1 {}
                });
            });
            runtime.block_on(wal.close()).unwrap();
        }
    }
    group.finish();
}

async fn start(folder: &Path, local: bool) -> (Wal, Receiver<i64>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_os());
    let url = format!(
        "file://{}",
        folder.canonicalize().unwrap().join("bucket").display()
    );
    let options = BucketOptions::of_process(true);
    let bucket = Bucket::open(&url, &options, Arc::clone(&clock), Arc::clone(&entropy));
    let bucket = bucket.await.unwrap();
    let local_wal = local.then(|| {
        let options = LocalWalOptions::new(folder.join("wal"), Some(BrokerId(1)));
        LocalWal::open(&options, CLUSTER, &entropy).unwrap().0
    });
    let spec = WalSpec {
        cluster: CLUSTER,
        stream: StreamId(1),
        policy: FlushPolicy::for_bucket(bucket.kind()),
        bytes_in_flight: 64 * 1024 * 1024,
        local: local_wal,
    };
    let (sender, receiver) = mpsc::channel();
    let told = Told {
        local,
        offsets: Mutex::new(sender),
    };
    let env = StreamEnv { clock, entropy };
    (
        Wal::start(bucket, spec, Arc::new(told), env).unwrap(),
        receiver,
    )
}

async fn push(wal: &Wal, first: i64, batches: i64) {
    for offset in first..first + batches {
        let permit = wal.reserve(BATCH_BYTES, FairKey(1)).await.unwrap();
        wal.push(entry(offset), permit).unwrap();
    }
}

fn entry(offset: i64) -> WalEntry {
    WalEntry {
        tp: TopicPartition {
            topic: TopicId([7; 16]),
            partition: PartitionIndex(0),
        },
        epoch: LeaderEpoch(1),
        base_offset: offset,
        last_offset: offset,
        max_timestamp: 0,
        producer: None,
        flags: BatchFlags::default(),
        acks: Acks::Local,
        records: Bytes::from(vec![b'x'; BATCH_BYTES]),
    }
}
