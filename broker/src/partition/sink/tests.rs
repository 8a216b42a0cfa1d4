//! Partitions over the real WAL, stream and bucket (in memory): what is acknowledged is what a
//! fold finds and what a reader gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_proto::cluster::{FoldRange, PartitionFold};
use firn_proto::env::{Entropy, SystemClock};
use firn_proto::ids::{
    ClusterId, LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, SlotPosition, StreamId,
    TopicId, TopicPartition,
};
use firn_proto::record::{BatchBuilder, BatchView, NewRecord, TimestampType};
use firn_storage::bucket::{Bucket, BucketKind};
use firn_storage::cache::{CachedObjects, MapCache, TailCache};
use firn_storage::fold::fold;
use firn_storage::read::{ReadRequest, Reader};
use firn_storage::state::StateRow;
use firn_storage::stream::{SealSpec, StreamEnv, StreamName, seal};
use firn_storage::wal::{Acks, FairKey, FlushPolicy, WalSpec};

use super::*;
use crate::partition::Partition;

const CLUSTER: ClusterId = ClusterId([9; 16]);
const STREAM: StreamId = StreamId(4);
const EPOCH: LeaderEpoch = LeaderEpoch(0);

struct Broker {
    bucket: Bucket,
    env: StreamEnv,
    tail: Arc<TailCache>,
    partitions: Arc<Partitions>,
    wal: Wal,
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(partition),
    }
}

fn broker() -> Broker {
    let env = StreamEnv {
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(Entropy::from_seed(7)),
    };
    let bucket = Bucket::memory(Arc::clone(&env.clock), Arc::clone(&env.entropy));
    let tail = Arc::new(TailCache::new(1 << 20));
    let partitions = Arc::new(Partitions::new(
        Arc::clone(&env.clock),
        Arc::clone(&tail),
        1 << 20,
    ));
    let spec = WalSpec {
        cluster: CLUSTER,
        stream: STREAM,
        policy: FlushPolicy::for_bucket(BucketKind::Memory),
        bytes_in_flight: 1 << 20,
        local: None,
    };
    let sink = Arc::clone(&partitions) as Arc<dyn WalSink>;
    let wal = Wal::start(bucket.clone(), spec, sink, env.clone()).unwrap();
    partitions.attach(wal.clone());
    Broker {
        bucket,
        env,
        tail,
        partitions,
        wal,
    }
}

fn batch(producer: i64, base_sequence: i32, records: i32) -> BatchView {
    let mut builder =
        BatchBuilder::default().producer(ProducerId(producer), ProducerEpoch(0), base_sequence);
    for record in 0..records {
        let value = format!("{producer}/{}", base_sequence + record);
        builder
            .push(&NewRecord {
                timestamp: 1_700_000_000_000,
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            })
            .unwrap();
    }
    builder.build().unwrap()
}

impl Broker {
    async fn append(
        &self,
        partition: &Partition,
        batch: BatchView,
    ) -> Result<crate::partition::AppendReceipt, Refusal> {
        let permit = self.wal.reserve(batch.bytes().len(), FairKey(1)).await;
        let permit = permit.map_err(|_| Refusal::NotOwner)?;
        partition.append(batch, TimestampType::CreateTime, Acks::Bucket, permit)
    }

    async fn read_all(&self, tail: Arc<TailCache>, partition: &Partition) -> Vec<String> {
        let objects = CachedObjects::new(self.bucket.clone(), Arc::new(MapCache::new(1 << 20)));
        let reader = Reader::new(tail, objects);
        let bounds = partition.bounds();
        let mut offset = bounds.log_start;
        let mut values = Vec::new();
        while offset < bounds.high_watermark {
            let runs = partition.runs(offset, bounds.high_watermark, 4096);
            let request = ReadRequest {
                tp: partition.tp(),
                offset,
                end: bounds.high_watermark,
                max_bytes: 4096,
                first_in_any_case: true,
                runs: &runs,
            };
            let outcome = reader.read(&request).await.unwrap();
            for mut bytes in outcome.batches {
                let batch = BatchView::take(&mut bytes).unwrap();
                let plain = batch.plain_records(1 << 20).unwrap();
                for record in batch.records(&plain) {
                    let value = record.unwrap().value.unwrap().to_vec();
                    values.push(String::from_utf8(value).unwrap());
                }
            }
            offset = outcome.next_offset;
        }
        values
    }
}

/// Three producers write to two partitions, each batch twice; what was acknowledged is compared
/// with what is read (hot and cold) and with what a fold of the stream says (I8).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_what_is_read_and_what_a_fold_finds() {
    let broker = Arc::new(broker());
    let open: Vec<_> = (0..2)
        .map(|partition| broker.partitions.open(StateRow::new(tp(partition), EPOCH)))
        .collect();
    let producers = (0..3_i64).map(|producer| {
        let (broker, open) = (Arc::clone(&broker), open.clone());
        tokio::spawn(async move {
            let mut acked = Vec::new();
            for n in 0..60 {
                let partition = &open[n as usize % 2];
                let batch = batch(producer, n / 2 * 3, 3);
                let first = broker.append(partition, batch.clone()).await.unwrap();
                let again = broker.append(partition, batch).await.unwrap();
                let offset = first.wait().await.unwrap().base_offset;
                assert_eq!(again.wait().await.unwrap().base_offset, offset);
                acked.push((n as usize % 2, offset, format!("{producer}/{}", n / 2 * 3)));
            }
            acked
        })
    });
    let mut acked = Vec::new();
    for producer in producers.collect::<Vec<_>>() {
        acked.extend(producer.await.unwrap());
    }
    let end = broker.wal.close().await.unwrap();
    for (index, partition) in open.iter().enumerate() {
        let hot = broker.read_all(Arc::clone(&broker.tail), partition).await;
        let cold = broker
            .read_all(Arc::new(TailCache::new(0)), partition)
            .await;
        assert_eq!(hot.len(), 270);
        assert_eq!(hot, cold);
        for (_, offset, value) in acked.iter().filter(|(of, ..)| *of == index) {
            assert_eq!(&hot[*offset as usize], value);
        }
    }
    let folds: Vec<_> = (0..2)
        .map(|partition| PartitionFold {
            tp: tp(partition),
            epoch: EPOCH,
            stream: STREAM,
            row: None,
            ranges: vec![FoldRange {
                epoch: EPOCH,
                stream: STREAM,
                from: Slot(0),
                end,
            }],
            waits_for: None,
            released_end: None,
            log_start: 0,
            archived_to: 0,
            disk: None,
        })
        .collect();
    let folded = fold(&broker.bucket, CLUSTER, &folds, 5).await.unwrap();
    for (folded, partition) in folded.iter().zip(&open) {
        let at = SlotPosition {
            stream: STREAM,
            slot: Slot(end.0 - 1),
        };
        let live = partition.state_row(at);
        assert_eq!(folded.end_offset, live.end_offset);
        assert_eq!(folded.runs, live.runs);
        let known = |row: &StateRow| -> BTreeMap<_, _> {
            row.producers
                .iter()
                .map(|(id, state)| (id, (state.epoch(), state.batches().to_vec())))
                .collect()
        };
        assert_eq!(known(folded), known(&live));
    }
}

#[tokio::test]
async fn a_broker_that_was_taken_for_dead_acknowledges_nothing_more() {
    let broker = broker();
    let partition = broker.partitions.open(StateRow::new(tp(0), EPOCH));
    let before = broker.append(&partition, batch(1, 0, 1)).await.unwrap();
    assert_eq!(before.wait().await.unwrap().base_offset, 0);
    let spec = SealSpec {
        stream: StreamName::wal(CLUSTER, STREAM),
        floor: Slot(0),
        from: Slot(0),
    };
    seal(&broker.bucket, spec, &broker.env).await.unwrap();
    let wait = broker.partitions.wait(&[(Arc::clone(&partition), 1)], 1);
    let after = broker.append(&partition, batch(1, 1, 1)).await.unwrap();
    assert_eq!(after.wait().await, Err(Refusal::NotOwner));
    wait.ready().await;
    assert!(broker.partitions.is_empty());
    assert_eq!(partition.bounds().high_watermark, 1);
    let refused = broker.append(&partition, batch(1, 1, 1)).await;
    assert_eq!(refused.err(), Some(Refusal::NotOwner));
}
