use std::sync::atomic::{AtomicI64, Ordering};

use firn_proto::env::Mono;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{LeaderEpoch, ProducerEpoch, Slot, StreamId};
use firn_proto::limits::{
    CHECKPOINT_IN_TURN, CHECKPOINT_SLOTS_MAX, PRODUCER_BYTES, PRODUCER_RETRY_WINDOW,
    PRODUCERS_PER_PARTITION_MAX, REFUSALS_UNKNOWN_MAX,
};
use firn_proto::record::{BatchBuilder, BatchView, NewRecord, TimestampType};
use firn_storage::wal::local::LocalAck;
use firn_storage::wal::{FairKey, FlushPolicy, Permits, WalBuffer, WalSink};

use super::*;
use crate::partition::{AppendReceipt, Appended, Standing};

const NOW: i64 = 1_700_000_000_000;
const STREAM: StreamId = StreamId(3);

struct StandingClock(AtomicI64);

impl Clock for StandingClock {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn mono(&self) -> Mono {
        Mono(0)
    }
}

/// The WAL's own buffer, without what moves it: a test says when a slot is durable.
#[derive(Clone)]
struct Buffer(Arc<Mutex<WalBuffer<WalPermit>>>);

impl BatchLog for Buffer {
    fn push(&self, entry: WalEntry, permit: WalPermit) -> Result<Bytes, Refusal> {
        let records = entry.records.clone();
        self.0.lock().unwrap().push(entry, permit);
        Ok(records)
    }
}

struct Broker {
    clock: Arc<StandingClock>,
    partitions: Partitions,
    buffer: Buffer,
    permits: Arc<Permits>,
    next_slot: u64,
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicId([1; 16]),
        partition: PartitionIndex(partition),
    }
}

impl Broker {
    fn new() -> Self {
        Self::remembering(1000)
    }

    /// A broker that has room for so many producers.
    fn remembering(producers: usize) -> Self {
        let policy = FlushPolicy {
            slot_bytes: 1 << 20,
            slots_in_flight: 8,
            partial_slots_in_flight: 8,
            puts_per_second: None,
            gather: None,
        };
        let clock = Arc::new(StandingClock(AtomicI64::new(NOW)));
        let tail = Arc::new(TailCache::new(1 << 20));
        let partitions = Partitions::new(Arc::clone(&clock) as _, tail, producers * PRODUCER_BYTES);
        let buffer = Buffer(Arc::new(Mutex::new(WalBuffer::new(policy, Mono(0)))));
        partitions.attach(buffer.clone());
        Self {
            clock,
            partitions,
            buffer,
            permits: Arc::new(Permits::new(1 << 30)),
            next_slot: 0,
        }
    }

    fn open(&self, partition: i32) -> Arc<Partition> {
        self.partitions
            .open(StateRow::new(tp(partition), LeaderEpoch(0)))
    }

    async fn try_append(
        &self,
        partition: &Partition,
        batch: BatchView,
        timestamps: TimestampType,
    ) -> Result<AppendReceipt, Refusal> {
        let bytes = batch.bytes().len();
        let permit = self.permits.reserve(bytes, FairKey(0)).await.unwrap();
        partition.append(batch, timestamps, Acks::Bucket, permit)
    }

    async fn append(&self, partition: &Partition, batch: BatchView) -> AppendReceipt {
        self.try_append(partition, batch, TimestampType::CreateTime)
            .await
            .unwrap()
    }

    async fn append_local(&self, partition: &Partition, batch: BatchView) -> AppendReceipt {
        let bytes = batch.bytes().len();
        let permit = self.permits.reserve(bytes, FairKey(0)).await.unwrap();
        let time = TimestampType::CreateTime;
        partition.append(batch, time, Acks::Local, permit).unwrap()
    }

    /// Everything up to an offset is on the local disk.
    fn fsync(&self, partition: &Partition, last_offset: i64) {
        self.partitions.on_local(&[LocalAck {
            tp: partition.tp(),
            epoch: partition.epoch(),
            last_offset,
        }]);
    }

    /// From here on clients do not repeat any more what they wrote before.
    fn outlast_retries(&self) {
        let window_ms = PRODUCER_RETRY_WINDOW.as_millis() as i64;
        self.clock.0.fetch_add(window_ms, Ordering::Relaxed);
    }

    /// Makes everything durable that was appended so far.
    fn make_durable(&mut self) {
        let at = SlotPosition {
            stream: STREAM,
            slot: Slot(self.next_slot),
        };
        self.next_slot += 1;
        let mut buffer = self.buffer.0.lock().unwrap();
        buffer.want_slot();
        let slot = buffer.close_slot(Mono(0)).unwrap();
        buffer.on_slot_done();
        drop(buffer);
        self.partitions
            .take_slot(at, &slot.runs, &slot.producers, slot.entries);
    }
}

fn batch(builder: BatchBuilder, records: usize) -> BatchView {
    let mut builder = builder;
    for _ in 0..records {
        let record = NewRecord {
            timestamp: NOW - 5,
            value: Some(b"firn"),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap()
}

fn plain(records: usize) -> BatchView {
    batch(BatchBuilder::default(), records)
}

fn produced(producer: i64, base_sequence: i32) -> BatchView {
    let builder = BatchBuilder::default();
    batch(
        builder.producer(ProducerId(producer), ProducerEpoch(0), base_sequence),
        1,
    )
}

#[tokio::test]
async fn a_batch_is_answered_visible_and_readable_once_it_is_durable() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    let first = broker.append(&partition, plain(3)).await;
    let second = broker.append(&partition, plain(2)).await;
    assert_eq!(partition.bounds().high_watermark, 0);
    assert!(partition.runs(0, 10, 1000).is_empty());
    broker.make_durable();
    for (receipt, base_offset) in [(first, 0), (second, 3)] {
        let expected = Appended {
            base_offset,
            log_append_ms: None,
            log_start: 0,
        };
        assert_eq!(receipt.wait().await, Ok(expected));
    }
    assert_eq!(partition.bounds().high_watermark, 5);
    assert_eq!(partition.runs(0, 5, 1000).len(), 1);
    let read = broker
        .partitions
        .tail
        .read(tp(0), 3, 5, 1000, true)
        .unwrap();
    let stored = BatchView::take(&mut read.batches[0].clone()).unwrap();
    assert!(stored.crc_matches());
    assert_eq!(stored.header().base_offset, 3);
    assert_eq!(broker.permits.held(), 0);
}

/// A process that stood still, or that the bucket does not answer, does not know whether others have
/// its partitions: its disk alone acknowledges nothing then, neither at first nor again.
#[tokio::test]
async fn the_local_wal_acknowledges_only_while_nobody_else_can_own_the_partition() {
    let mut broker = Broker::new();
    let is_alone = Arc::new(AtomicBool::new(true));
    let may_ack = Arc::clone(&is_alone);
    broker
        .partitions
        .gate_local(move || may_ack.load(Ordering::Relaxed));
    let partition = broker.open(0);
    let first = broker.append_local(&partition, produced(1, 0)).await;
    broker.fsync(&partition, 0);
    assert_eq!(first.wait().await.unwrap().base_offset, 0);
    let repeated = broker.append_local(&partition, produced(1, 0)).await;
    assert!(repeated.is_done(), "the disk has it");

    is_alone.store(false, Ordering::Relaxed);
    let repeated = broker.append_local(&partition, produced(1, 0)).await;
    let second = broker.append_local(&partition, produced(1, 1)).await;
    broker.fsync(&partition, 1);
    let mut answers = [Box::pin(repeated.wait()), Box::pin(second.wait())];
    for answer in &mut answers {
        assert!(futures::poll!(answer).is_pending());
    }
    broker.make_durable();
    for (answer, base_offset) in answers.into_iter().zip([0, 1]) {
        assert_eq!(answer.await.unwrap().base_offset, base_offset);
    }
}

#[tokio::test]
async fn the_brokers_time_is_stored_and_answered_where_the_topic_wants_it() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    let receipt = broker
        .try_append(&partition, plain(1), TimestampType::LogAppendTime)
        .await
        .unwrap();
    broker.make_durable();
    assert_eq!(receipt.wait().await.unwrap().log_append_ms, Some(NOW));
    assert_eq!(
        partition.place_of_newest().run.unwrap().run.max_timestamp,
        NOW
    );
    let run_at = |offset, timestamp| partition.place_of_time(offset, 9, timestamp).run;
    assert!(run_at(0, NOW).is_some());
    assert!(run_at(0, NOW + 1).is_none());
    assert!(run_at(1, NOW).is_none());
}

#[tokio::test]
async fn a_repeated_batch_is_answered_with_the_first_offset_and_stored_once() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    broker.append(&partition, plain(1)).await.is_done();
    let first = broker.append(&partition, produced(7, 0)).await;
    let in_flight = broker.append(&partition, produced(7, 0)).await;
    broker.make_durable();
    let durable = broker.append(&partition, produced(7, 0)).await;
    assert!(durable.is_done());
    for receipt in [first, in_flight, durable] {
        assert_eq!(receipt.wait().await.unwrap().base_offset, 1);
    }
    assert_eq!(partition.bounds().high_watermark, 2);
}

#[tokio::test]
async fn the_end_of_ownership_answers_producers_and_consumers() {
    let broker = Broker::new();
    let partition = broker.open(0);
    let receipt = broker.append(&partition, plain(1)).await;
    let wait = broker.partitions.wait(&[(Arc::clone(&partition), 0)], 1);
    broker.partitions.close_all();
    assert_eq!(receipt.wait().await, Err(Refusal::NotOwner));
    wait.ready().await;
    assert!(broker.partitions.find_tp(tp(0)).is_none());
    let late = broker
        .try_append(&partition, plain(1), TimestampType::CreateTime)
        .await;
    assert_eq!(late.unwrap_err(), Refusal::NotOwner);
}

#[tokio::test]
async fn a_slot_of_a_partition_that_was_closed_is_passed_by() {
    let mut broker = Broker::new();
    let (kept, closed) = (broker.open(0), broker.open(1));
    let receipt = broker.append(&kept, plain(1)).await;
    let lost = broker.append(&closed, plain(1)).await;
    broker.partitions.close(&[tp(1)]);
    broker.make_durable();
    assert_eq!(receipt.wait().await.unwrap().base_offset, 0);
    assert_eq!(lost.wait().await, Err(Refusal::NotOwner));
    assert!(
        broker
            .partitions
            .tail
            .read(tp(1), 0, 1, 1000, true)
            .is_none()
    );
}

#[tokio::test]
async fn long_polls_are_woken_when_their_partitions_together_have_enough() {
    let mut broker = Broker::new();
    let (one, two) = (broker.open(0), broker.open(1));
    let bytes = plain(1).bytes().len();
    let seen = [(Arc::clone(&one), 0), (Arc::clone(&two), 0)];
    let wait = broker.partitions.wait(&seen, 2 * bytes);
    let is_ready = || futures::FutureExt::now_or_never(wait.ready()).is_some();
    broker.append(&one, plain(1)).await.is_done();
    broker.make_durable();
    assert!(!is_ready());
    broker.append(&two, plain(1)).await.is_done();
    broker.make_durable();
    assert!(is_ready());
    drop(wait);
    assert_eq!(broker.partitions.waiting(), 0);
}

#[tokio::test]
async fn what_became_visible_before_parking_is_not_missed() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    broker.append(&partition, plain(1)).await.is_done();
    broker.make_durable();
    let wait = broker
        .partitions
        .wait(&[(Arc::clone(&partition), 0)], 1 << 20);
    wait.ready().await;
}

#[tokio::test]
async fn later_batches_are_not_stored_in_place_of_a_refused_one() {
    let broker = Broker::new();
    // the first batch comes while the partition is not open yet
    broker.partitions.on_refused(tp(0), produced(7, 0).header());
    let partition = broker.open(0);
    let early = broker
        .try_append(&partition, produced(7, 1), TimestampType::CreateTime)
        .await;
    assert_eq!(
        early.unwrap_err(),
        Refusal::OutOfOrder {
            producer: ProducerId(7),
            found: 1,
            expected: 0
        }
    );
    broker.append(&partition, produced(7, 0)).await.is_done();
    broker.append(&partition, produced(7, 1)).await.is_done();
    assert!(broker.partitions.shared.refusals().is_empty());
}

#[tokio::test]
async fn a_refused_batch_comes_first_although_its_producer_was_known_and_is_forgotten_since() {
    let mut broker = Broker::remembering(16);
    let partition = broker.open(0);
    broker.append(&partition, produced(7, 104)).await.is_done();
    broker.make_durable();
    broker.outlast_retries();
    // finds no room in the WAL, for which the next one still waits
    broker
        .partitions
        .on_refused(tp(0), produced(7, 105).header());
    for producer in 100..116 {
        let first = produced(producer, 0);
        broker.append(&partition, first).await.is_done();
    }
    broker.make_durable();
    assert!(!remembered(&partition).contains(&7));
    let early = broker
        .try_append(&partition, produced(7, 106), TimestampType::CreateTime)
        .await;
    assert_eq!(
        early.unwrap_err(),
        Refusal::OutOfOrder {
            producer: ProducerId(7),
            found: 106,
            expected: 105
        }
    );
    broker.append(&partition, produced(7, 105)).await.is_done();
    broker.append(&partition, produced(7, 106)).await.is_done();
    assert!(broker.partitions.shared.refusals().is_empty());
}

#[tokio::test]
async fn who_has_batches_in_flight_is_still_known_when_it_repeats_a_refused_one() {
    let mut broker = Broker::remembering(16);
    let partition = broker.open(0);
    broker.append(&partition, produced(7, 104)).await.is_done();
    broker
        .partitions
        .on_refused(tp(0), produced(7, 105).header());
    assert!(broker.partitions.shared.refusals().is_empty());
    broker.make_durable();
    let early = broker
        .try_append(&partition, produced(7, 106), TimestampType::CreateTime)
        .await;
    assert_eq!(
        early.unwrap_err(),
        Refusal::OutOfOrder {
            producer: ProducerId(7),
            found: 106,
            expected: 105
        }
    );
}

#[tokio::test]
async fn more_refusals_than_can_be_remembered_cost_no_batch() {
    let broker = Broker::new();
    for producer in 0..=REFUSALS_UNKNOWN_MAX as i64 {
        let first = produced(producer, 5);
        broker.partitions.on_refused(tp(0), first.header());
    }
    let partition = broker.open(0);
    let last = REFUSALS_UNKNOWN_MAX as i64;
    let refused = broker
        .try_append(&partition, produced(last, 6), TimestampType::CreateTime)
        .await;
    let producer = ProducerId(last);
    assert_eq!(refused.unwrap_err(), Refusal::OrderUnknown { producer });
    // others find their way in, and there is room again
    for producer in 0..3 {
        let first = produced(producer, 5);
        broker.append(&partition, first).await.is_done();
    }
    for sequence in [5, 6] {
        let refused = broker
            .try_append(
                &partition,
                produced(last, sequence),
                TimestampType::CreateTime,
            )
            .await;
        assert!(refused.is_err(), "batch {sequence} may not be the first");
    }
    for sequence in [5, 6] {
        let again = produced(last, sequence);
        broker.append(&partition, again).await.is_done();
    }
}

#[tokio::test]
async fn a_refusal_is_forgotten_once_a_repeat_says_that_the_batch_is_stored() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    broker.append(&partition, produced(7, 0)).await.is_done();
    broker.make_durable();
    let refuse = |sequence| {
        let refused = produced(7, sequence);
        broker.partitions.on_refused(tp(0), refused.header());
    };
    refuse(0);
    broker.append(&partition, produced(7, 0)).await.is_done();
    assert!(broker.partitions.shared.refusals().is_empty());
    // the repeat of another batch says nothing about this one
    refuse(1);
    broker.append(&partition, produced(7, 0)).await.is_done();
    assert!(!broker.partitions.shared.refusals().is_empty());
}

#[tokio::test]
async fn while_all_producers_wrote_lately_none_is_forgotten_and_new_ones_are_to_try_again() {
    let mut broker = Broker::remembering(4);
    let partition = broker.open(0);
    for producer in 0..5 {
        let first = produced(producer, 0);
        broker.append(&partition, first).await.is_done();
    }
    broker.make_durable();
    for producer in 0..5 {
        let repeated = broker.append(&partition, produced(producer, 0)).await;
        assert!(repeated.is_done(), "batch of {producer} is known");
    }
    let refused = broker
        .try_append(&partition, produced(5, 0), TimestampType::CreateTime)
        .await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::NotEnoughReplicas);
    assert_eq!(broker.partitions.producers().refused, 1);
    // what comes behind it is not stored in its place, and nobody else is held up
    let behind = broker
        .try_append(&partition, produced(5, 1), TimestampType::CreateTime)
        .await;
    assert!(behind.is_err());
    broker.append(&partition, produced(0, 1)).await.is_done();
    broker.append(&partition, plain(1)).await.is_done();

    broker.outlast_retries();
    broker.partitions.bound_producers();
    broker.append(&partition, produced(5, 0)).await.is_done();
    broker.append(&partition, produced(5, 1)).await.is_done();
    broker.make_durable();
    assert_eq!(partition.bounds().high_watermark, 5 + 2 + 2);
}

/// A partition of which producer 0 wrote long ago, and all others that there is room for but one
/// have batches in flight.
async fn almost_full(broker: &mut Broker) -> (Arc<Partition>, i64) {
    let partition = broker.open(0);
    let most = PRODUCERS_PER_PARTITION_MAX as i64;
    broker.append(&partition, produced(0, 0)).await.is_done();
    broker.make_durable();
    broker.outlast_retries();
    for producer in 1..most {
        let first = produced(producer, 0);
        broker.append(&partition, first).await.is_done();
    }
    (partition, most)
}

#[tokio::test]
async fn a_partition_full_of_producers_that_wrote_lately_takes_no_new_one() {
    let mut broker = Broker::remembering(4 * PRODUCERS_PER_PARTITION_MAX);
    let (partition, most) = almost_full(&mut broker).await;
    // producer 0 makes room for one more, and the room is taken while that one is in flight
    broker.append(&partition, produced(most, 0)).await.is_done();
    for _ in 0..2 {
        let refused = broker
            .try_append(&partition, produced(most + 1, 0), TimestampType::CreateTime)
            .await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::NotEnoughReplicas);
        broker.append(&partition, plain(1)).await.is_done();
        broker.make_durable();
    }
    assert_eq!(remembered(&partition), (1..=most).collect::<Vec<_>>());
    broker.outlast_retries();
    let next = produced(most + 1, 0);
    broker.append(&partition, next).await.is_done();
}

#[tokio::test]
async fn a_silent_producer_whose_room_is_taken_waits_like_a_new_one_and_pushes_nobody_out() {
    let mut broker = Broker::remembering(4 * PRODUCERS_PER_PARTITION_MAX);
    let (partition, most) = almost_full(&mut broker).await;
    broker.append(&partition, produced(most, 0)).await.is_done();
    let repeated = broker.append(&partition, produced(0, 0)).await;
    assert!(
        repeated.is_done(),
        "what it wrote is known as long as it is"
    );
    for sequence in 1..3 {
        let refused = broker
            .try_append(&partition, produced(0, sequence), TimestampType::CreateTime)
            .await;
        assert!(refused.is_err(), "batch {sequence} has no room");
    }
    broker.make_durable();
    assert_eq!(remembered(&partition), (1..=most).collect::<Vec<_>>());
    broker.outlast_retries();
    broker.append(&partition, produced(0, 1)).await.is_done();
    broker.append(&partition, produced(0, 2)).await.is_done();
}

#[tokio::test]
async fn a_silent_producer_that_writes_again_takes_the_room_it_had() {
    let mut broker = Broker::remembering(4 * PRODUCERS_PER_PARTITION_MAX);
    let (partition, most) = almost_full(&mut broker).await;
    broker.append(&partition, produced(0, 1)).await.is_done();
    let refused = broker
        .try_append(&partition, produced(most, 0), TimestampType::CreateTime)
        .await;
    assert!(refused.is_err());
    broker.make_durable();
    assert_eq!(remembered(&partition), (0..most).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_a_wal_nothing_is_taken() {
    let broker = Broker::new();
    let clock = Arc::clone(&broker.partitions.shared.clock);
    let partitions = Partitions::new(clock, Arc::new(TailCache::new(1000)), 0);
    let partition = partitions.open(StateRow::new(tp(0), LeaderEpoch(0)));
    let refused = broker
        .try_append(&partition, produced(7, 0), TimestampType::CreateTime)
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::NotOwner);
    assert!(!partitions.shared.refusals().is_empty());
}

#[tokio::test]
async fn state_rows_are_due_after_many_slots_and_are_of_the_last_one() {
    let mut broker = Broker::new();
    let busy = broker.open(0);
    broker.open(1);
    for sequence in 0..CHECKPOINT_SLOTS_MAX {
        let batch = produced(7, sequence as i32);
        broker.append(&busy, batch).await.is_done();
        broker.make_durable();
    }
    let due = broker.partitions.rows_due().await;
    assert_eq!(broker.partitions.take_due(), None, "they are counted anew");
    let last = Slot(broker.next_slot - 1);
    assert_eq!(due.through.slot, last);
    let [row, silent] = &due.rows[..] else {
        panic!("one has changed, and it is the turn of the other: {due:?}")
    };
    assert_eq!((row.tp, row.end_offset), (tp(0), last.0 as i64 + 1));
    assert_eq!(silent.tp, tp(1));
    assert_eq!(row.after.unwrap().slot, last);
}

/// A start reads every checkpoint that holds the last row of a partition, and the oldest of them
/// holds the floor.
#[tokio::test]
async fn rows_of_silent_partitions_are_written_again_a_few_at_a_time() {
    let mut broker = Broker::new();
    let silent = 2 * CHECKPOINT_IN_TURN + 1;
    let turns = silent.div_ceil(CHECKPOINT_IN_TURN);
    let busy = broker.open(-1);
    (0..silent as i32).for_each(|partition| drop(broker.open(partition)));
    let mut written = BTreeMap::new();
    for turn in 0..3 * turns {
        broker
            .append(&busy, produced(7, turn as i32))
            .await
            .is_done();
        broker.make_durable();
        let due = broker.partitions.rows().unwrap();
        let at_once = due.rows.len();
        assert!(at_once <= 1 + CHECKPOINT_IN_TURN, "{at_once} rows at once");
        for row in &due.rows {
            assert!(row.after.unwrap() >= due.through);
            written.insert(row.tp, turn);
        }
        if turn >= turns {
            assert_eq!(written.len(), 1 + silent);
            let oldest = written.values().min().unwrap();
            assert!(turn - oldest < turns, "{oldest} at {turn}");
        }
    }
}

#[tokio::test]
async fn rows_that_somebody_waits_for_are_due_after_any_slot() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    broker.append(&partition, produced(7, 0)).await.is_done();
    broker.make_durable();
    assert_eq!(broker.partitions.take_due(), None);
    broker.partitions.want_rows();
    let due = broker.partitions.rows_due().await;
    assert_eq!((due.rows.len(), due.is_wanted), (1, true));
    assert_eq!(broker.partitions.take_due(), None, "they were wanted once");
}

/// What is told to be in state rows is not read by a fold.
#[tokio::test]
async fn rows_that_did_not_become_durable_are_due_again() {
    let mut broker = Broker::new();
    let (first, second) = (broker.open(0), broker.open(1));
    broker.append(&first, produced(7, 0)).await.is_done();
    broker.make_durable();
    let failed = broker.partitions.rows().unwrap();
    broker.append(&second, produced(7, 0)).await.is_done();
    broker.make_durable();
    broker
        .partitions
        .rows_failed(failed.rows.into_iter().map(|row| row.tp));
    let due = broker.partitions.rows().unwrap();
    let tps: Vec<_> = due.rows.iter().map(|row| row.tp).collect();
    assert_eq!(tps, [tp(0), tp(1)]);
    assert_eq!(due.through.slot, Slot(1));
}

#[tokio::test]
async fn producers_that_have_gone_are_forgotten() {
    let mut broker = Broker::new();
    let partition = broker.open(0);
    broker.append(&partition, produced(7, 0)).await.is_done();
    broker.make_durable();
    broker.partitions.expire_producers(1);
    assert_eq!(partition.lock().standing(ProducerId(7)), Standing::Known);
    broker.partitions.expire_producers(0);
    assert_eq!(partition.lock().standing(ProducerId(7)), Standing::Unknown);
}

#[test]
#[should_panic(expected = "I4")]
fn an_epoch_is_not_opened_twice() {
    let broker = Broker::new();
    broker.open(0);
    broker.open(0);
}

#[test]
fn ten_thousand_idle_partitions_take_less_than_eight_megabytes() {
    let node = size_of::<TopicPartition>() + size_of::<Arc<Partition>>();
    let each = size_of::<Partition>() + 2 * size_of::<usize>() + 2 * node;
    assert!(10_000 * each < 8 << 20, "{each} bytes each");
}

/// The producers that a partition remembers durably.
fn remembered(partition: &Partition) -> Vec<i64> {
    let row = partition.state_row(SlotPosition {
        stream: STREAM,
        slot: Slot(0),
    });
    row.producers
        .iter()
        .map(|(producer, _)| producer.0)
        .collect()
}

#[tokio::test]
async fn producers_of_all_partitions_share_one_budget_and_the_longest_silent_are_forgotten() {
    let mut broker = Broker::remembering(64);
    let partitions: Vec<_> = (0..8).map(|partition| broker.open(partition)).collect();
    for producer in 0..64 {
        let partition = &partitions[producer as usize % 8];
        broker
            .append(partition, produced(producer, 0))
            .await
            .is_done();
        broker.make_durable();
        broker.clock.0.fetch_add(1, Ordering::Relaxed);
    }
    // producer 0 of partition 0 is not silent, nor is producer 1 of partition 1
    for producer in [0, 1] {
        let partition = &partitions[producer as usize];
        broker
            .append(partition, produced(producer, 1))
            .await
            .is_done();
    }
    broker.make_durable();
    assert_eq!(broker.partitions.producers().count, 64);
    broker.partitions.rows().unwrap();
    broker.outlast_retries();
    broker
        .append(&partitions[7], produced(64, 0))
        .await
        .is_done();
    broker.make_durable();

    let usage = broker.partitions.producers();
    assert_eq!((usage.count, usage.evicted), (60, 5));
    let left: BTreeSet<i64> = partitions.iter().flat_map(|p| remembered(p)).collect();
    let expected: BTreeSet<i64> = [0, 1].into_iter().chain(7..65).collect();
    assert_eq!(left, expected);
    let dirty = broker.partitions.due().dirty.clone();
    assert_eq!(
        dirty,
        (2..8).map(tp).collect(),
        "their rows are written anew"
    );

    // whoever is forgotten is taken as new, and counted again
    broker
        .append(&partitions[2], produced(2, 9))
        .await
        .is_done();
    broker.make_durable();
    assert_eq!(remembered(&partitions[2]).first(), Some(&2));
    broker.partitions.close_all();
    assert_eq!(broker.partitions.producers().count, 0);
}

#[tokio::test]
async fn a_partition_that_comes_with_more_producers_than_there_is_room_for_is_cut_down() {
    let mut full = Broker::new();
    let partition = full.open(0);
    for producer in 0..40 {
        full.append(&partition, produced(producer, 0))
            .await
            .is_done();
    }
    full.make_durable();
    let row = full.partitions.rows().unwrap().rows.remove(0);
    let small = Broker::remembering(16);
    small.outlast_retries();
    let partition = small.partitions.open(row);
    assert_eq!(remembered(&partition).len(), 15);
    assert_eq!(small.partitions.producers().evicted, 25);
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_nobody_from_being_forgotten() {
    let mut earlier = Broker::new();
    let partition = earlier.open(1);
    earlier.append(&partition, produced(7, 0)).await.is_done();
    earlier.make_durable();
    let row = earlier.partitions.rows().unwrap().rows.remove(0);

    let mut broker = Broker::remembering(4);
    let hour_ms = 3_600_000;
    broker.clock.0.fetch_add(2 * hour_ms, Ordering::Relaxed);
    let partition = broker.open(0);
    for producer in 0..5 {
        let first = produced(producer, 0);
        broker.append(&partition, first).await.is_done();
    }
    broker.make_durable();
    assert_eq!(broker.partitions.producers().evicted, 0);
    broker.clock.0.fetch_sub(hour_ms, Ordering::Relaxed);
    broker.partitions.open(row);
    assert_eq!(broker.partitions.producers().evicted, 1);
}

#[tokio::test]
async fn a_partition_that_closes_while_a_slot_becomes_visible_leaves_no_tail_behind() {
    let broker = Broker::new();
    let partition = broker.open(0);
    broker.partitions.close(&[tp(0)]);
    let bytes = plain(1).into_bytes();
    let batch = TailBatch {
        base_offset: 0,
        last_offset: 0,
        bytes,
    };
    broker
        .partitions
        .make_visible(&partition, vec![batch], |_| {});
    assert_eq!(broker.partitions.tail.usage().bytes, 0);
}
