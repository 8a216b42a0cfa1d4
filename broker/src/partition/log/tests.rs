use firn_proto::ids::{PartitionIndex, Slot, StreamId, TopicId};
use firn_proto::record::{BatchBuilder, NewRecord};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TP: TopicPartition = TopicPartition {
    topic: TopicId([1; 16]),
    partition: PartitionIndex(0),
};
const EPOCH: LeaderEpoch = LeaderEpoch(6);
/// Where the log of each test begins: offsets do not fit 32 bits.
const START: i64 = (1 << 32) + 5;

type Log = PartitionLog<u32>;

fn log() -> Log {
    let mut row = StateRow::new(TP, EPOCH);
    row.log_start = START;
    row.end_offset = START;
    PartitionLog::open(row)
}

fn batch(records: i32) -> BatchHeader {
    header(BatchBuilder::default(), records)
}

fn produced(producer: i64, epoch: i16, base_sequence: i32, records: i32) -> BatchHeader {
    let builder =
        BatchBuilder::default().producer(ProducerId(producer), ProducerEpoch(epoch), base_sequence);
    header(builder, records)
}

fn header(mut builder: BatchBuilder, records: i32) -> BatchHeader {
    for _ in 0..records {
        builder.push(&NewRecord::default()).unwrap();
    }
    *builder.build().unwrap().header()
}

/// What the driver does with a batch: plans it, puts it into the WAL, commits it.
fn append(log: &mut Log, header: &BatchHeader, acks: Acks, waiter: u32) -> Result<Plan, Refusal> {
    let plan = log.plan(header, acks)?;
    match &plan {
        Plan::Append(planned) => {
            let waiter = (acks != Acks::None).then_some((acks, waiter));
            log.commit(planned, (Bytes::new(), 0), waiter, 0);
        }
        Plan::InFlight(answer) => assert_eq!(log.wait_for(answer, acks, waiter, |_| false), None),
        Plan::Done(_) => {}
    }
    Ok(plan)
}

fn appended(log: &mut Log, header: &BatchHeader, waiter: u32) -> Planned {
    match append(log, header, Acks::Bucket, waiter) {
        Ok(Plan::Append(planned)) => planned,
        other => panic!("{other:?}"),
    }
}

/// The rows of a slot that holds these batches.
fn rows(batches: &[Planned]) -> (Vec<Run>, Vec<ProducerBatch>) {
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
        return (Vec::new(), Vec::new());
    };
    let run = Run {
        tp: TP,
        epoch: first.epoch,
        base_offset: first.base_offset,
        last_offset: last.last_offset,
        byte_start: 0,
        byte_len: 100,
        max_timestamp: 0,
        flags: BatchFlags::default(),
    };
    let producers = batches.iter().filter_map(|batch| {
        let producer = batch.producer?;
        Some(ProducerBatch {
            tp: TP,
            producer: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            count: (batch.last_offset - batch.base_offset + 1) as u32,
            base_offset: batch.base_offset,
            max_timestamp: 0,
            flags: batch.flags,
        })
    });
    (vec![run], producers.collect())
}

fn durable(log: &mut Log, slot: u64, batches: &[Planned]) -> Vec<u32> {
    let at = SlotPosition {
        stream: StreamId(1),
        slot: Slot(slot),
    };
    let (runs, producers) = rows(batches);
    waiters(log.on_durable(at, &runs, &producers, 0))
}

fn waiters(released: Released<u32>) -> Vec<u32> {
    released.into_iter().map(|(waiter, _)| waiter).collect()
}

#[test]
fn offsets_are_given_at_once_and_visible_when_durable() {
    let mut log = log();
    let first = appended(&mut log, &batch(3), 1);
    let second = appended(&mut log, &batch(1), 2);
    assert_eq!((first.base_offset, first.last_offset), (START, START + 2));
    assert_eq!(second.base_offset, START + 3);
    assert_eq!(log.bounds().high_watermark, START);
    assert_eq!(durable(&mut log, 0, &[first]), [1]);
    assert_eq!(log.bounds().high_watermark, START + 3);
    assert_eq!(log.bounds().last_stable_offset, START + 3);
    assert_eq!(durable(&mut log, 1, &[second]), [2]);
    assert!(log.is_settled());
}

#[test]
fn a_repeated_batch_in_flight_waits_for_its_first_copy() {
    let mut log = log();
    let header = produced(9, 0, 0, 5);
    let first = appended(&mut log, &header, 1);
    let next = appended(&mut log, &produced(9, 0, 5, 5), 2);
    let repeat = append(&mut log, &header, Acks::Bucket, 3).unwrap();
    assert!(
        matches!(repeat, Plan::InFlight(answer) if answer.base_offset == START),
        "{repeat:?}"
    );
    assert_eq!(log.next_offset(), START + 10, "nothing was appended");
    assert_eq!(durable(&mut log, 0, &[first, next]), [1, 3, 2]);
    let repeat = append(&mut log, &header, Acks::Bucket, 4).unwrap();
    assert!(
        matches!(repeat, Plan::Done(answer) if answer.base_offset == START),
        "{repeat:?}"
    );
}

/// While the bucket is away a client repeats its batch for hours, each time with a new request.
#[test]
fn repeats_that_nobody_waits_for_any_more_are_let_go_of() {
    let mut log = log();
    let header = produced(7, 0, 0, 1);
    let batch = appended(&mut log, &header, 0);
    let Ok(Plan::InFlight(answer)) = log.plan(&header, Acks::Bucket) else {
        panic!("the batch is in flight");
    };
    for waiter in 1..1000 {
        let gone = |other: &u32| *other < waiter - 1;
        assert_eq!(log.wait_for(&answer, Acks::Bucket, waiter, gone), None);
    }
    assert_eq!(durable(&mut log, 0, &[batch]), [0, 998, 999]);
}

#[test]
fn of_too_many_repeats_the_oldest_are_let_go_of() {
    let mut log = log();
    let header = produced(7, 0, 0, 1);
    let batch = appended(&mut log, &header, 0);
    let count = BATCH_REPEATS_MAX as u32 + 10;
    for waiter in 1..=count {
        append(&mut log, &header, Acks::Bucket, waiter).unwrap();
    }
    let expected: Vec<u32> = [0].into_iter().chain(11..=count).collect();
    assert_eq!(durable(&mut log, 0, &[batch]), expected);
}

#[test]
fn sequence_numbers_are_judged_ahead_of_what_is_durable() {
    let mut log = log();
    appended(&mut log, &produced(9, 0, 0, 5), 1);
    let gap = append(&mut log, &produced(9, 0, 6, 1), Acks::Bucket, 2);
    assert_eq!(
        gap,
        Err(Refusal::OutOfOrder {
            producer: ProducerId(9),
            found: 6,
            expected: 5
        })
    );
    appended(&mut log, &produced(9, 1, 0, 1), 3);
    let old = append(&mut log, &produced(9, 0, 5, 1), Acks::Bucket, 4);
    assert_eq!(
        old,
        Err(Refusal::ProducerFenced {
            producer: ProducerId(9),
            found: ProducerEpoch(0),
            current: ProducerEpoch(1),
        })
    );
}

#[test]
fn what_is_known_of_a_producer_outlives_its_batches_in_flight() {
    let mut log = log();
    let first = appended(&mut log, &produced(9, 0, 0, 5), 1);
    durable(&mut log, 0, &[first]);
    assert!(log.ahead.is_empty(), "an idle partition holds one table");
    assert_eq!(log.standing(ProducerId(9)), Standing::Known);
    let next = appended(&mut log, &produced(9, 0, 5, 1), 2);
    assert_eq!(durable(&mut log, 1, &[next]), [2]);
}

/// Who is put off asks ten times a second.
#[test]
fn a_full_partition_has_room_again_as_soon_as_the_first_may_be_forgotten() {
    let mut log = log();
    let window_ms = PRODUCER_RETRY_WINDOW.as_millis() as i64;
    let most = PRODUCERS_PER_PARTITION_MAX as i64;
    for producer in 0..most {
        let planned = appended(&mut log, &produced(producer, 0, 0, 1), 0);
        let (runs, producers) = rows(&[planned]);
        let at = SlotPosition {
            stream: StreamId(1),
            slot: Slot(producer as u64),
        };
        log.on_durable(at, &runs, &producers, 1000 + producer);
    }
    let newcomer = ProducerId(most);
    let mut is_full = |producer, now_ms| log.has_no_room(producer, now_ms);
    assert!(is_full(newcomer, 1000 + most));
    assert!(!is_full(ProducerId(7), 1000 + most), "it has its place");
    assert!(is_full(newcomer, 999 + window_ms));
    assert!(!is_full(newcomer, 1000 + window_ms));
    assert!(is_full(newcomer, 500 + window_ms), "the clock was set back");
    assert!(!is_full(newcomer, 1000 + window_ms));
}

#[test]
fn local_acks_come_before_durability_and_only_for_who_asked() {
    let mut log = log();
    let header = produced(9, 0, 0, 1);
    append(&mut log, &header, Acks::Local, 1).unwrap();
    append(&mut log, &batch(1), Acks::Bucket, 2).unwrap();
    append(&mut log, &batch(1), Acks::Local, 3).unwrap();
    append(&mut log, &header, Acks::Bucket, 4).unwrap();
    append(&mut log, &header, Acks::Local, 5).unwrap();
    assert_eq!(waiters(log.on_local(EPOCH, START + 1)), [1, 5]);
    assert_eq!(waiters(log.on_local(EPOCH, START + 1)), [0_u32; 0]);
    let repeat = append(&mut log, &header, Acks::Local, 6).unwrap();
    assert!(matches!(repeat, Plan::Done(_)), "{repeat:?}");
    assert_eq!(waiters(log.on_local(EPOCH, START + 2)), [3]);
    assert_eq!(log.bounds().high_watermark, START, "not visible yet");
}

#[test]
fn without_a_local_wal_durability_answers_everybody() {
    let mut log = log();
    let Ok(Plan::Append(planned)) = append(&mut log, &batch(2), Acks::Local, 1) else {
        panic!("not appended");
    };
    let Ok(Plan::Append(silent)) = append(&mut log, &batch(2), Acks::None, 2) else {
        panic!("not appended");
    };
    assert_eq!(durable(&mut log, 0, &[planned, silent]), [1]);
}

#[test]
fn local_acks_of_another_epoch_answer_nobody() {
    let mut log = log();
    append(&mut log, &batch(1), Acks::Local, 1).unwrap();
    assert!(log.on_local(LeaderEpoch(5), START + 9).is_empty());
}

#[test]
fn the_end_of_the_epoch_answers_everybody_and_takes_nothing_more() {
    let mut log = log();
    let header = produced(9, 0, 0, 1);
    appended(&mut log, &header, 1);
    append(&mut log, &header, Acks::Bucket, 2).unwrap();
    append(&mut log, &batch(1), Acks::Local, 3).unwrap();
    assert_eq!(log.close(), [1, 2, 3]);
    assert_eq!(
        append(&mut log, &batch(1), Acks::Bucket, 4),
        Err(Refusal::NotOwner)
    );
    assert!(log.on_local(EPOCH, START + 9).is_empty());
}

#[test]
fn a_batch_that_was_durable_before_the_end_keeps_its_place() {
    let mut log = log();
    let planned = appended(&mut log, &batch(4), 1);
    log.close();
    assert_eq!(durable(&mut log, 0, &[planned]), [0_u32; 0]);
    assert_eq!(log.bounds().high_watermark, START + 4);
}

#[test]
fn a_new_owner_knows_what_the_old_one_knew() {
    let mut old = log();
    let batches: Vec<_> = (0..7)
        .map(|n| appended(&mut old, &produced(9, 2, n * 10, 10), n as u32))
        .collect();
    durable(&mut old, 0, &batches[..3]);
    durable(&mut old, 1, &batches[3..]);
    let at = SlotPosition {
        stream: StreamId(1),
        slot: Slot(4),
    };
    let mut row = old.state_row(at);
    assert_eq!(row.after, Some(at));
    row.begin_epoch(LeaderEpoch(7));
    let mut new: Log = PartitionLog::open(row);
    let repeat = append(&mut new, &produced(9, 2, 60, 10), Acks::Bucket, 1).unwrap();
    assert!(
        matches!(repeat, Plan::Done(answer) if answer.base_offset == START + 60),
        "{repeat:?}"
    );
    let next = appended(&mut new, &produced(9, 2, 70, 1), 2);
    assert_eq!((next.base_offset, next.epoch.0), (START + 70, 7));
}

#[test]
#[should_panic(expected = "I5")]
fn a_slot_with_more_than_was_appended_is_a_bug() {
    let mut log = log();
    let mut planned = appended(&mut log, &batch(1), 1);
    planned.last_offset += 1;
    durable(&mut log, 0, &[planned]);
}

#[test]
#[should_panic(expected = "I8")]
fn a_slot_that_is_not_next_is_a_bug() {
    let mut log = log();
    let _first = appended(&mut log, &batch(1), 1);
    let second = appended(&mut log, &batch(1), 1);
    durable(&mut log, 0, &[second]);
}

#[test]
#[should_panic(expected = "I4")]
fn a_plan_is_void_once_something_else_was_appended() {
    let mut log = log();
    let Ok(Plan::Append(stale)) = log.plan(&batch(1), Acks::Bucket) else {
        panic!("not planned");
    };
    appended(&mut log, &batch(1), 1);
    log.commit(&stale, (Bytes::new(), 0), None, 0);
}

#[test]
fn an_idle_partition_is_small() {
    assert!(size_of::<Log>() <= 400, "{}", size_of::<Log>());
}

#[derive(Clone, Debug)]
enum Step {
    /// A new batch: of a producer or of none, with so many records.
    Append(Option<usize>, i32, Acks),
    /// A batch of a producer once more: so many back.
    Repeat(usize, usize, Acks),
    /// The next slot: so many of the batches in flight.
    Durable(usize),
    /// An fsync of the local disk: so many of the batches that it has not got.
    Local(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let acks = prop_oneof![Just(Acks::Bucket), Just(Acks::Local), Just(Acks::None)];
    prop_oneof![
        4 => (prop::option::of(0..3_usize), 1..9_i32, acks.clone())
            .prop_map(|(producer, records, acks)| Step::Append(producer, records, acks)),
        2 => (0..3_usize, 0..5_usize, acks)
            .prop_map(|(producer, back, acks)| Step::Repeat(producer, back, acks)),
        2 => (1..6_usize).prop_map(Step::Durable),
        1 => (1..6_usize).prop_map(Step::Local),
    ]
}

/// The simplest thing that could be true: a list of batches, of which the first so many are
/// durable and the first so many are on the local disk.
#[derive(Default)]
struct Model {
    batches: Vec<(Planned, BatchHeader)>,
    durable: usize,
    local: usize,
    /// Per producer, its batches by their place in the list.
    by_producer: [Vec<usize>; 3],
    /// Who was told to wait for which batch, and for how much of it.
    waiting: Vec<(u32, usize, Acks)>,
    answered: usize,
}

impl Model {
    fn end(&self) -> i64 {
        self.batches
            .last()
            .map_or(START, |(batch, _)| batch.last_offset + 1)
    }

    fn durable_end(&self) -> i64 {
        match self.durable {
            0 => START,
            n => self.batches[n - 1].0.last_offset + 1,
        }
    }

    fn is_done(&self, batch: usize, acks: Acks) -> bool {
        match acks {
            Acks::Bucket => batch < self.durable,
            Acks::Local => batch < self.durable.max(self.local),
            Acks::None => true,
        }
    }

    /// Takes those out who are to be answered now, by the place of their batch.
    fn release(&mut self) -> Vec<u32> {
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, batch, acks)| self.is_done(*batch, *acks));
        self.waiting = waiting;
        self.answered += done.len();
        let mut done = done;
        done.sort_by_key(|(waiter, batch, _)| (*batch, *waiter));
        done.into_iter().map(|(waiter, ..)| waiter).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is repeated, made durable and fsynced in whatever order: no offset is used twice,
    /// everybody is answered once, in the order of offsets, and the high watermark only rises.
    #[test]
    fn the_log_does_what_the_model_does(steps in vec(step(), 1..120), fence in any::<bool>()) {
        let mut log = log();
        let mut model = Model::default();
        let mut next_sequence = [0_i32; 3];
        let mut slot = 0;
        for (waiter, step) in (0_u32..).zip(steps) {
            match step {
                Step::Append(producer, records, acks) => {
                    let header = match producer {
                        Some(id) => produced(id as i64, 0, next_sequence[id], records),
                        None => batch(records),
                    };
                    let plan = append(&mut log, &header, acks, waiter);
                    let Ok(Plan::Append(planned)) = plan else {
                        return Err(TestCaseError::fail(format!("{plan:?}")));
                    };
                    prop_assert_eq!(planned.base_offset, model.end());
                    if let Some(id) = producer {
                        next_sequence[id] += records;
                        model.by_producer[id].push(model.batches.len());
                    }
                    if acks != Acks::None {
                        model.waiting.push((waiter, model.batches.len(), acks));
                    }
                    model.batches.push((planned, header));
                }
                Step::Repeat(producer, back, acks) => {
                    let own = &model.by_producer[producer];
                    let Some(at) = own.len().checked_sub(back + 1).map(|at| own[at]) else {
                        continue;
                    };
                    let (first, header) = model.batches[at];
                    let done = model.is_done(at, acks);
                    let plan = log.plan(&header, acks);
                    match plan {
                        Ok(Plan::Done(answer)) if done => {
                            prop_assert_eq!(answer.base_offset, first.base_offset);
                        }
                        Ok(Plan::InFlight(answer)) if !done => {
                            prop_assert_eq!(answer.base_offset, first.base_offset);
                            prop_assert_eq!(log.wait_for(&answer, acks, waiter, |_| false), None);
                            model.waiting.push((waiter, at, acks));
                        }
                        other => return Err(TestCaseError::fail(format!("{other:?}"))),
                    }
                }
                Step::Durable(count) => {
                    let upto = (model.durable + count).min(model.batches.len());
                    let batches: Vec<_> = model.batches[model.durable..upto]
                        .iter()
                        .map(|(planned, _)| *planned)
                        .collect();
                    let before = log.bounds();
                    let released = durable(&mut log, slot, &batches);
                    slot += 1;
                    model.durable = upto;
                    prop_assert_eq!(released, model.release());
                    let after = log.bounds();
                    prop_assert!(after.high_watermark >= before.high_watermark);
                    prop_assert_eq!(after.high_watermark, model.durable_end());
                }
                Step::Local(count) => {
                    let upto = (model.local.max(model.durable) + count).min(model.batches.len());
                    let Some(last) = upto.checked_sub(1) else { continue };
                    let released = log.on_local(EPOCH, model.batches[last].0.last_offset);
                    model.local = model.local.max(upto);
                    prop_assert_eq!(waiters(released), model.release());
                }
            }
            prop_assert_eq!(log.next_offset(), model.end());
        }
        if fence {
            let mut told = log.close();
            told.sort_unstable();
            let mut waiting: Vec<_> = model.waiting.iter().map(|(waiter, ..)| *waiter).collect();
            waiting.sort_unstable();
            prop_assert_eq!(told, waiting);
        }
    }
}

/// What is archived leaves the WAL from the front; the slot of the first run that does not is needed.
#[test]
fn runs_that_are_archived_are_not_read_from_the_wal_any_more() {
    let mut log = log();
    assert_eq!(log.next_slot(START, None), None);
    for slot in 0..3 {
        let planned = appended(&mut log, &batch(10), 1);
        durable(&mut log, slot, &[planned]);
    }
    let applied = Some(SlotPosition {
        stream: StreamId(1),
        slot: Slot(7),
    });
    let slot_of = |log: &Log, bound| log.next_slot(bound, applied).map(|at| at.slot.0);
    assert_eq!(slot_of(&log, START), Some(0));
    assert_eq!(slot_of(&log, START + 15), Some(1));
    assert_eq!(
        slot_of(&log, START + 30),
        Some(8),
        "behind all that were applied"
    );
    let own = log.next_slot(START + 30, None).map(|at| at.slot.0);
    assert_eq!(own, Some(3), "behind the last with its rows");
    assert_eq!(log.bounds().archived_to, START);
    assert_eq!(log.unarchived_bytes(), 300);
    log.on_archived(START + 10);
    assert_eq!(log.bounds().archived_to, START + 10);
    assert_eq!(log.bounds().log_start, START, "records are not gone");
    assert_eq!(log.unarchived_bytes(), 200);
    let first = log.durable().runs.from(TP, 0).next().unwrap();
    assert_eq!(first.run.base_offset, START + 10);
    log.on_log_start(START + 25);
    let bounds = log.bounds();
    assert_eq!(
        (bounds.log_start, bounds.archived_to),
        (START + 25, START + 25)
    );
    assert_eq!(log.unarchived_bytes(), 100);
    log.on_log_start(START + 5);
    log.on_archived(START + 5);
    assert_eq!(log.bounds(), bounds, "nothing goes back (I5)");
}

/// Appends with bytes, as the driver does.
fn append_held(log: &mut Log, header: &BatchHeader, acks: Acks, waiter: u32) -> Planned {
    let acks = log.acks(acks);
    let Ok(Plan::Append(planned)) = log.plan(header, acks) else {
        panic!("not appended");
    };
    let records = Bytes::from(planned.base_offset.to_string());
    log.commit(&planned, (records, 0), Some((acks, waiter)), 0);
    planned
}

fn read_ahead(log: &Log, offset: i64, end: i64) -> Option<Vec<String>> {
    let read = log.read_ahead((offset, end), 1 << 20, true)?;
    let text = |records: &Bytes| String::from_utf8(records.to_vec()).unwrap();
    Some(read.batches.iter().map(text).collect())
}

fn stored(offsets: &[i64]) -> Option<Vec<String>> {
    Some(offsets.iter().map(i64::to_string).collect())
}

fn marks(log: &Log) -> (i64, i64) {
    let bounds = log.bounds();
    (bounds.durable_end - START, bounds.high_watermark - START)
}

#[test]
fn where_the_local_disk_is_enough_it_answers_everybody_and_makes_visible() {
    let mut log = log();
    assert!(log.set_local(true) && !log.set_local(true));
    let first = append_held(&mut log, &batch(2), Acks::Bucket, 1);
    append_held(&mut log, &batch(1), Acks::Local, 2);
    append_held(&mut log, &batch(1), Acks::Bucket, 3);
    assert_eq!(marks(&log), (0, 0));
    assert_eq!(waiters(log.on_local(EPOCH, START + 2)), [1, 2]);
    assert_eq!(marks(&log), (0, 3));
    assert_eq!(log.bounds().last_stable_offset, START + 3);
    let end = log.bounds().high_watermark;
    assert_eq!(read_ahead(&log, START, end), stored(&[START, START + 2]));
    assert_eq!(
        read_ahead(&log, START + 1, end),
        stored(&[START, START + 2])
    );
    assert_eq!(read_ahead(&log, START + 2, i64::MAX), stored(&[START + 2]));
    assert_eq!(log.bytes_ahead(START, end), (20, 10));

    assert_eq!(durable(&mut log, 0, &[first]), [0_u32; 0]);
    assert_eq!(marks(&log), (2, 3), "never back");
    assert_eq!(read_ahead(&log, START, end), None, "it is in a slot");
    assert_eq!(read_ahead(&log, START + 2, end), stored(&[START + 2]));
}

#[test]
fn of_what_is_ahead_no_more_is_read_than_fits() {
    let mut log = log();
    log.set_local(true);
    for waiter in 0..3 {
        append_held(&mut log, &batch(1), Acks::Bucket, waiter);
    }
    log.on_local(EPOCH, START + 2);
    let read = |bytes_max, in_any_case| {
        let read = log.read_ahead((START, START + 3), bytes_max, in_any_case);
        let read = read.unwrap();
        (read.batches.len(), read.bytes, read.next_offset - START)
    };
    assert_eq!(read(25, false), (2, 20, 2));
    assert_eq!(read(1, true), (1, 10, 1));
    assert_eq!(read(1, false), (0, 0, 0));
}

#[test]
fn a_bucket_that_is_faster_than_the_local_disk_makes_visible_too() {
    let mut log = log();
    log.set_local(true);
    let first = append_held(&mut log, &batch(2), Acks::Bucket, 1);
    assert_eq!(durable(&mut log, 0, &[first]), [1]);
    assert_eq!(marks(&log), (2, 2));
    assert!(log.on_local(EPOCH, START + 1).is_empty());
    assert_eq!(marks(&log), (2, 2));
}

/// What is in flight when the config changes was promised by the old one, and its bytes are not
/// held.
#[test]
fn a_topic_that_becomes_local_shows_nothing_before_what_was_in_flight_is_durable() {
    let mut log = log();
    let before = append_held(&mut log, &batch(1), Acks::Bucket, 1);
    log.set_local(true);
    append_held(&mut log, &batch(1), Acks::Bucket, 2);
    assert_eq!(waiters(log.on_local(EPOCH, START + 1)), [2]);
    assert_eq!(marks(&log), (0, 0));
    assert_eq!(durable(&mut log, 0, &[before]), [1]);
    assert_eq!(marks(&log), (1, 2));
}

#[test]
fn a_topic_that_is_local_no_more_shows_what_it_showed_and_waits_for_the_bucket() {
    let mut log = log();
    log.set_local(true);
    let shown = append_held(&mut log, &batch(1), Acks::Bucket, 1);
    log.on_local(EPOCH, START);
    log.set_local(false);
    let next = append_held(&mut log, &batch(1), Acks::Bucket, 2);
    assert!(log.on_local(EPOCH, START + 1).is_empty());
    assert_eq!(marks(&log), (0, 1));
    assert!(!log.bounds().bucket_has_all(), "nobody else may serve it");
    assert_eq!(read_ahead(&log, START, START + 1), stored(&[START]));
    assert_eq!(durable(&mut log, 0, &[shown, next]), [2]);
    assert_eq!(marks(&log), (2, 2));
    assert!(log.bounds().bucket_has_all());
}

#[test]
fn whoever_reads_what_is_committed_waits_for_the_bucket_to_have_a_transaction() {
    let mut log = log();
    log.set_local(true);
    append_held(&mut log, &batch(1), Acks::Bucket, 1);
    let builder = BatchBuilder::default().producer(ProducerId(9), ProducerEpoch(0), 0);
    let open = header(builder.transactional(), 1);
    append_held(&mut log, &open, Acks::Bucket, 2);
    append_held(&mut log, &batch(1), Acks::Bucket, 3);
    log.on_local(EPOCH, START + 2);
    let bounds = log.bounds();
    assert_eq!(bounds.high_watermark, START + 3);
    assert_eq!(bounds.last_stable_offset, START + 1);
    assert_eq!(read_ahead(&log, START, START + 1), stored(&[START]));
}

#[test]
fn a_repeat_of_what_the_local_disk_has_is_answered_at_once() {
    let mut log = log();
    log.set_local(true);
    let header = produced(9, 0, 0, 1);
    append_held(&mut log, &header, Acks::Bucket, 1);
    log.on_local(EPOCH, START);
    let acks = log.acks(Acks::Bucket);
    assert!(matches!(log.plan(&header, acks), Ok(Plan::Done(_))));
}
