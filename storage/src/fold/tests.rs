use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use firn_proto::env::{Clock, Entropy, SystemClock};
use firn_proto::ids::{ProducerEpoch, ProducerId};
use firn_proto::limits::RUNS_PER_PAGE;
use proptest::prelude::*;

use super::*;
use crate::bucket::Purpose;
use crate::bucket::testing::{Fault, FaultStore, On, Rule};
use crate::layout::Place;
use crate::state::{BatchFlags, PagePlace};
use crate::stream::StreamEnv;
use crate::wal::testing::{entry, tp};
use crate::wal::{
    DurableSlot, FairKey, FlushPolicy, ProducerFields, Wal, WalEntry, WalSink, WalSpec,
};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const NOW: i64 = 1_700_000_000_000;

fn range(epoch: i32, stream: u64, slots: Range<u64>) -> FoldRange {
    FoldRange {
        epoch: LeaderEpoch(epoch),
        stream: StreamId(stream),
        from: Slot(slots.start),
        end: Slot(slots.end),
    }
}

fn at(stream: u64, slot: u64) -> SlotPosition {
    SlotPosition {
        stream: StreamId(stream),
        slot: Slot(slot),
    }
}

fn run(partition: i32, epoch: i32, base: i64, last: i64) -> Run {
    Run {
        tp: tp(partition),
        epoch: LeaderEpoch(epoch),
        base_offset: base,
        last_offset: last,
        byte_start: 0,
        byte_len: 100,
        max_timestamp: NOW,
        flags: BatchFlags::default(),
    }
}

/// The indexes of all slots there are.
type Log = BTreeMap<SlotPosition, WalIndex>;

fn log(slots: &[(u64, u64, &[Run])]) -> Log {
    slots
        .iter()
        .map(|(stream, slot, runs)| {
            let index = WalIndex {
                runs: runs.to_vec(),
                ..WalIndex::default()
            };
            (at(*stream, *slot), index)
        })
        .collect()
}

/// Runs the machine over `log`; also which slots it read.
fn run_fold(
    log: &Log,
    starts: Vec<FoldStart>,
) -> Result<(Vec<StateRow>, Vec<SlotPosition>), FoldError> {
    let mut fold = Fold::new(starts, NOW);
    let (mut read, empty) = (Vec::new(), WalIndex::default());
    while let Some((stream, slots)) = fold.next_read() {
        for slot in slots.start.0..slots.end.0 {
            let at = at(stream.0, slot);
            read.push(at);
            fold.on_index(at, log.get(&at).unwrap_or(&empty))?;
        }
    }
    Ok((fold.finish()?, read))
}

fn start(partition: i32, row: Option<StateRow>, ranges: &[FoldRange]) -> FoldStart {
    FoldStart {
        tp: tp(partition),
        row,
        ranges: ranges.to_vec(),
        log_start: 0,
        archived_to: 0,
    }
}

#[test]
fn a_partition_is_folded_from_nothing_through_every_window() {
    let log = log(&[
        (1, 0, &[run(0, 0, 0, 4)]),
        (1, 1, &[run(0, 0, 5, 9), run(1, 0, 0, 0)]),
        (2, 0, &[run(0, 1, 10, 10)]),
    ]);
    let ranges = [range(0, 1, 0..2), range(1, 2, 0..1), range(2, 3, 0..4)];
    let (rows, _) = run_fold(&log, vec![start(0, None, &ranges)]).unwrap();
    assert_eq!(rows[0].end_offset, 11);
    assert_eq!(
        rows[0].epoch,
        LeaderEpoch(2),
        "the last window is empty and still counts"
    );
    assert_eq!(rows[0].after, Some(at(3, 3)));
}

#[test]
fn each_slot_is_read_once_for_all_partitions() {
    let log = log(&[
        (1, 3, &[run(0, 0, 0, 4), run(1, 0, 0, 7)]),
        (1, 5, &[run(1, 0, 8, 8)]),
    ]);
    let starts = vec![
        start(0, None, &[range(0, 1, 2..5)]),
        start(1, None, &[range(0, 1, 3..6)]),
        start(2, None, &[range(0, 1, 8..9)]),
    ];
    let (rows, read) = run_fold(&log, starts).unwrap();
    let ends: Vec<_> = rows.iter().map(|row| row.end_offset).collect();
    assert_eq!(ends, [5, 9, 0]);
    let slots: Vec<_> = read.iter().map(|at| at.slot.0).collect();
    assert_eq!(slots, [2, 3, 4, 5, 8]);
}

#[test]
fn rows_between_a_state_row_and_the_slot_that_holds_it_are_folded() {
    let log = log(&[
        (1, 0, &[run(0, 0, 0, 4)]),
        (1, 1, &[run(0, 0, 5, 9)]),
        // slot 2 holds the state row, which was taken when slot 0 was the last durable one
        (1, 2, &[run(0, 0, 10, 10)]),
        (1, 3, &[run(0, 0, 11, 12)]),
    ]);
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    row.apply_slot(at(1, 0), &[run(0, 0, 0, 4)], &[], NOW)
        .unwrap();
    for from in [0, 1] {
        let starts = vec![start(0, Some(row.clone()), &[range(0, 1, from..4)])];
        let (rows, read) = run_fold(&log, starts).unwrap();
        assert_eq!(rows[0].end_offset, 13);
        assert_eq!(read.first(), Some(&at(1, 1)));
    }
}

#[test]
fn a_row_that_a_new_owner_wrote_before_its_first_append_covers_the_old_stream() {
    let log = log(&[(2, 6, &[run(0, 1, 5, 5)])]);
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    row.apply_slot(at(1, 0), &[run(0, 0, 0, 4)], &[], NOW)
        .unwrap();
    row.begin_epoch(LeaderEpoch(1));
    let ranges = [range(0, 1, 0..1), range(1, 2, 5..9)];
    let (rows, read) = run_fold(&log, vec![start(0, Some(row), &ranges)]).unwrap();
    assert_eq!(rows[0].end_offset, 6);
    assert_eq!(read.first(), Some(&at(2, 5)));
}

#[test]
fn only_rows_of_the_windows_epoch_are_taken() {
    let log = log(&[
        (1, 0, &[run(0, 0, 0, 4)]),
        (1, 1, &[run(0, 7, 5, 900)]),
        (1, 2, &[run(0, 0, 5, 5)]),
    ]);
    let starts = vec![start(0, None, &[range(0, 1, 0..3)])];
    assert_eq!(run_fold(&log, starts).unwrap().0[0].end_offset, 6);
}

#[test]
fn a_stream_may_hold_two_windows_of_a_partition() {
    let log = log(&[
        (1, 0, &[run(0, 0, 0, 0)]),
        (1, 9, &[run(0, 2, 2, 2)]),
        (2, 0, &[run(0, 1, 1, 1)]),
    ]);
    let ranges = [range(0, 1, 0..1), range(1, 2, 0..1), range(2, 1, 8..10)];
    let (rows, read) = run_fold(&log, vec![start(0, None, &ranges)]).unwrap();
    assert_eq!(rows[0].end_offset, 3);
    assert_eq!(read, [at(1, 0), at(1, 8), at(1, 9), at(2, 0)]);
}

#[test]
fn windows_behind_an_empty_one_count() {
    let log = log(&[(2, 0, &[run(0, 1, 5, 5)])]);
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    row.apply_slot(at(1, 0), &[run(0, 0, 0, 4)], &[], NOW)
        .unwrap();
    let ranges = [range(0, 1, 0..1), range(1, 2, 0..1)];
    let (rows, _) = run_fold(&log, vec![start(0, Some(row), &ranges)]).unwrap();
    assert_eq!(rows[0].end_offset, 6);
}

#[test]
fn a_gap_is_an_error_and_not_an_end() {
    let log = log(&[(1, 0, &[run(0, 0, 0, 4)]), (1, 1, &[run(0, 0, 6, 9)])]);
    let starts = vec![start(0, None, &[range(0, 1, 0..2)])];
    let error = run_fold(&log, starts).unwrap_err();
    assert!(matches!(
        error,
        FoldError::NotContiguous(StateError::NotNext {
            found: 6,
            expected: 5,
            ..
        })
    ));
}

#[test]
fn an_overlap_is_an_error_across_windows_too() {
    let log = log(&[(1, 0, &[run(0, 0, 0, 4)]), (2, 0, &[run(0, 1, 4, 9)])]);
    let ranges = [range(0, 1, 0..1), range(1, 2, 0..1)];
    assert!(run_fold(&log, vec![start(0, None, &ranges)]).is_err());
}

#[test]
fn a_partition_with_nothing_to_read_keeps_its_row() {
    let row = StateRow::new(tp(0), LeaderEpoch(3));
    let (rows, read) = run_fold(&Log::new(), vec![start(0, Some(row.clone()), &[])]).unwrap();
    assert_eq!(rows, [row]);
    assert_eq!(read, []);
}

#[test]
fn a_folded_row_has_the_log_start_of_the_journal_and_no_run_that_is_archived() {
    let log = log(&[
        (1, 0, &[run(0, 0, 0, 4)]),
        (1, 1, &[run(0, 0, 5, 9)]),
        (1, 2, &[run(0, 0, 10, 14)]),
    ]);
    for (log_start, archived_to, first_run) in [(3, 7, 5), (0, 10, 10), (10, 10, 10), (0, 15, 15)] {
        let start = FoldStart {
            log_start,
            archived_to,
            ..start(0, None, &[range(0, 1, 0..3)])
        };
        let (rows, _) = run_fold(&log, vec![start]).unwrap();
        assert_eq!((rows[0].log_start, rows[0].end_offset), (log_start, 15));
        let bases: Vec<_> = rows[0].runs.from(tp(0), 0).collect();
        let bases: Vec<_> = bases.iter().map(|found| found.run.base_offset).collect();
        let expected: Vec<_> = [0, 5, 10].into_iter().filter(|b| *b >= first_run).collect();
        assert_eq!(bases, expected, "archived to {archived_to}");
    }
}

#[test]
fn a_row_with_a_higher_log_start_than_the_journal_keeps_it() {
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    row.apply_slot(at(1, 0), &[run(0, 0, 0, 4)], &[], NOW)
        .unwrap();
    row.raise_log_start(5);
    let start = FoldStart {
        log_start: 2,
        archived_to: 2,
        ..start(0, Some(row.clone()), &[])
    };
    assert_eq!(run_fold(&Log::new(), vec![start]).unwrap().0, [row]);
}

#[test]
fn a_log_that_ends_before_what_is_archived_has_lost_slots() {
    let log = log(&[(1, 0, &[run(0, 0, 0, 4)])]);
    for (log_start, archived_to) in [(0, 6), (6, 6)] {
        let start = FoldStart {
            log_start,
            archived_to,
            ..start(0, None, &[range(0, 1, 0..1)])
        };
        let error = run_fold(&log, vec![start]).unwrap_err();
        assert!(
            matches!(
                error,
                FoldError::Short {
                    end: 5,
                    bound: 6,
                    ..
                }
            ),
            "{error}"
        );
    }
}

/// What happens in one slot: for a few partitions how many batches, and whether a producer with
/// state wrote them.
type SlotScript = Vec<(i32, u8, bool)>;

fn scripts() -> impl Strategy<Value = Vec<Vec<SlotScript>>> {
    let slot = prop::collection::vec((0..4_i32, 1..4_u8, any::<bool>()), 0..5);
    prop::collection::vec(prop::collection::vec(slot, 1..12), 1..4)
}

/// Streams that came later do not always have higher ids.
fn stream_id(epoch: usize) -> u64 {
    [12, 10, 13, 11][epoch]
}

/// Writes a log of several streams, each of which begins an epoch of all partitions, and keeps the
/// state of each partition after every slot.
fn write_log(streams: &[Vec<SlotScript>]) -> (Log, Vec<BTreeMap<SlotPosition, StateRow>>) {
    let mut states: Vec<_> = (0..4)
        .map(|index| StateRow::new(tp(index), LeaderEpoch(0)))
        .collect();
    let mut sequences = [0_i32; 4];
    let mut log = Log::new();
    let mut history = vec![BTreeMap::new(); 4];
    for (epoch, stream) in streams.iter().enumerate() {
        let id = stream_id(epoch);
        for (slot, script) in stream.iter().enumerate() {
            let at = at(id, slot as u64);
            let mut index = WalIndex::default();
            let sorted: BTreeMap<_, _> = script.iter().map(|row| (row.0, row)).collect();
            for (partition, (_, batches, with_state)) in sorted {
                let end = states[partition as usize].end_offset;
                let last = end + i64::from(*batches) * 2 - 1;
                index.runs.push(run(partition, epoch as i32, end, last));
                for batch in 0..i32::from(*batches) {
                    let sequence = &mut sequences[partition as usize];
                    index.producers.extend(with_state.then(|| ProducerBatch {
                        tp: tp(partition),
                        producer: ProducerId(i64::from(partition) + 1),
                        producer_epoch: ProducerEpoch(0),
                        base_sequence: *sequence,
                        count: 2,
                        base_offset: end + i64::from(batch) * 2,
                        max_timestamp: NOW,
                        flags: BatchFlags::default(),
                    }));
                    *sequence += if *with_state { 2 } else { 0 };
                }
            }
            for (state, history) in states.iter_mut().zip(&mut history) {
                state.begin_epoch(LeaderEpoch(epoch as i32));
                state
                    .apply_slot(at, &index.runs, &index.producers, NOW)
                    .unwrap();
                history.insert(at, state.clone());
            }
            log.insert(at, index);
        }
    }
    (log, history)
}

proptest! {
    /// I8: from whichever state row a fold starts, it comes to the state that the whole log gives.
    #[test]
    fn a_fold_from_any_state_row_gives_the_state_of_the_whole_log(
        streams in scripts(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 4),
        from_nothing in prop::collection::vec(any::<bool>(), 4),
    ) {
        let (log, history) = write_log(&streams);
        let ranges: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(epoch, stream)| {
                range(epoch as i32, stream_id(epoch), 0..stream.len() as u64)
            })
            .collect();
        let starts = (0..4_usize)
            .map(|partition| {
                let rows: Vec<_> = history[partition].values().collect();
                let row = (!from_nothing[partition]).then(|| (*picks[partition].get(&rows)).clone());
                start(partition as i32, row, &ranges)
            })
            .collect();
        let (rows, _) = run_fold(&log, starts).unwrap();
        let (last, _) = streams.iter().enumerate().next_back().unwrap();
        let end = ranges[last];
        for (row, history) in rows.iter().zip(&history) {
            prop_assert_eq!(row, &history[&at(end.stream.0, end.end.0 - 1)]);
        }
    }
}

/// A live broker's durable state.
#[derive(Default)]
struct Live(Mutex<BTreeMap<TopicPartition, StateRow>>);

impl WalSink for Live {
    fn on_local(&self, _: &[crate::wal::local::LocalAck]) {}

    fn on_durable(&self, slot: DurableSlot) {
        let mut rows = self.0.lock().unwrap();
        for partition in 0..8 {
            rows.entry(tp(partition))
                .or_insert_with(|| StateRow::new(tp(partition), LeaderEpoch(3)))
                .apply_slot(slot.at, &slot.runs, &slot.producers, NOW)
                .unwrap();
        }
    }

    fn on_fenced(&self, _: Slot) {}
}

impl Live {
    fn on_stored(&self, pages: &[(TopicPartition, i64, PagePlace)]) {
        let mut rows = self.0.lock().unwrap();
        for (tp, base_offset, place) in pages {
            let row = rows.get_mut(tp).unwrap();
            row.runs.on_stored(*base_offset, *place);
        }
    }
}

struct World {
    store: FaultStore,
    bucket: Bucket,
    live: Arc<Live>,
    wal: Wal,
    next: [i64; 8],
}

fn world() -> World {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_seed(4));
    let store = FaultStore::in_memory();
    let bucket = Bucket::from_store(
        Arc::new(store.clone()),
        Arc::clone(&clock),
        Arc::clone(&entropy),
    );
    let live = Arc::new(Live::default());
    let spec = WalSpec {
        cluster: CLUSTER,
        stream: StreamId(1),
        policy: FlushPolicy::for_bucket(bucket.kind()),
        bytes_in_flight: 1 << 20,
        local: None,
    };
    let sink = Arc::clone(&live) as Arc<dyn WalSink>;
    let wal = Wal::start(bucket.clone(), spec, sink, StreamEnv { clock, entropy }).unwrap();
    World {
        store,
        bucket,
        live,
        wal,
        next: [0; 8],
    }
}

impl World {
    /// Appends some batches of producers with state to every partition.
    async fn append(&mut self, producers: i64) {
        for producer in 0..producers {
            let partition = producer.unsigned_abs() as usize % 8;
            let base = self.next[partition];
            self.next[partition] += 1;
            let entry = WalEntry {
                producer: Some(ProducerFields {
                    id: ProducerId(producer),
                    epoch: ProducerEpoch(0),
                    base_sequence: 0,
                }),
                ..entry(partition as i32, base, base, 70)
            };
            let permit = self.wal.reserve(70, FairKey(0)).await.unwrap();
            self.wal.push(entry, permit).unwrap();
        }
    }

    fn rows(&self) -> Vec<StateRow> {
        self.live.0.lock().unwrap().values().cloned().collect()
    }

    fn folds(&self, row: Option<SlotPosition>) -> Vec<PartitionFold> {
        let end = self.wal.status().durable_end;
        (0..8)
            .map(|partition| PartitionFold {
                tp: tp(partition),
                epoch: LeaderEpoch(3),
                stream: StreamId(1),
                row,
                ranges: vec![range(3, 1, 0..end.0)],
                waits_for: None,
                released_end: None,
                log_start: 0,
                archived_to: 0,
                disk: None,
            })
            .collect()
    }
}

#[tokio::test]
async fn what_is_folded_from_the_bucket_is_what_the_owner_knew() {
    for producers in [16, 4_000] {
        let mut world = world();
        let mut checkpoints = vec![None];
        for _ in 0..4 {
            world.append(producers).await;
            world.wal.flush().await;
            let rows = world.rows();
            // slots go on while the checkpoint is on its way
            world.append(16).await;
            checkpoints.push(Some(world.wal.push_checkpoint(&rows).await.unwrap().at));
        }
        world.append(16).await;
        world.wal.close().await.unwrap();
        for row in checkpoints {
            let folds = world.folds(row);
            let folded = fold(&world.bucket, CLUSTER, &folds, NOW).await.unwrap();
            let last = Slot(world.wal.status().durable_end.0 - 1);
            for (folded, mut live) in folded.into_iter().zip(world.rows()) {
                live.after = Some(at(1, last.0));
                assert_eq!(folded, live, "from {row:?}");
            }
        }
    }
}

/// The journal says from which slot on a stream may hold what is in no row.
#[tokio::test]
async fn a_partition_whose_row_was_not_written_again_is_folded_from_where_rows_end() {
    let mut world = world();
    world.append(8).await;
    world.wal.flush().await;
    let first = world.wal.push_checkpoint(&world.rows()).await.unwrap().at;
    for _ in 0..5 {
        world.append(4).await;
        world.wal.flush().await;
    }
    let rows_end = world.wal.status().durable_end;
    let changed = &world.rows()[..4];
    let later = world.wal.push_checkpoint(changed).await.unwrap().at;
    world.append(8).await;
    world.wal.flush().await;
    let mut folds = world.folds(Some(later));
    for fold in &mut folds {
        fold.ranges[0].from = rows_end;
    }
    for unchanged in &mut folds[4..] {
        unchanged.row = Some(first);
    }
    let last = world.wal.status().durable_end.0 - 1;
    let folded = fold(&world.bucket, CLUSTER, &folds, NOW).await.unwrap();
    for (folded, mut live) in folded.into_iter().zip(world.rows()) {
        live.after = Some(at(1, last));
        assert_eq!(folded, live);
    }
}

#[tokio::test]
async fn a_full_page_of_runs_is_written_once_and_found_from_later_rows() {
    let mut world = world();
    for _ in 0..RUNS_PER_PAGE + 10 {
        world.append(8).await;
        world.wal.flush().await;
    }
    let first = world.wal.push_checkpoint(&world.rows()).await.unwrap();
    assert_eq!(first.pages.len(), 8, "one of each partition");
    world.live.on_stored(&first.pages);
    let later = world.wal.push_checkpoint(&world.rows()).await.unwrap();
    assert_eq!(later.pages, []);
    for _ in 0..5 {
        world.append(8).await;
        world.wal.flush().await;
    }
    let last = world.wal.status().durable_end.0 - 1;
    for row in [first.at, later.at] {
        let folds = world.folds(Some(row));
        let folded = fold(&world.bucket, CLUSTER, &folds, NOW).await.unwrap();
        for (folded, mut live) in folded.into_iter().zip(world.rows()) {
            live.after = Some(at(1, last));
            assert_eq!(folded, live, "from {row:?}");
        }
    }
    let lost = Rule::new(On::Get, Fault::Unseen).key("checkpoint/");
    world.store.inject(lost.times(u64::MAX));
    let folds = world.folds(Some(later.at));
    let error = fold(&world.bucket, CLUSTER, &folds, NOW).await.unwrap_err();
    assert!(
        matches!(
            error,
            FoldError::Checkpoint(CheckpointReadError::Pages { .. })
        ),
        "{error}"
    );
}

/// The checkpoint object that a page lies in may be deleted once its runs are archived or deleted.
#[tokio::test]
async fn a_fold_needs_no_page_of_runs_below_what_is_archived() {
    let mut world = world();
    for _ in 0..RUNS_PER_PAGE + 10 {
        world.append(8).await;
        world.wal.flush().await;
    }
    let first = world.wal.push_checkpoint(&world.rows()).await.unwrap();
    world.live.on_stored(&first.pages);
    let later = world.wal.push_checkpoint(&world.rows()).await.unwrap();
    let (_, _, page) = first.pages[0];
    let key = Place::Checkpoint {
        stream: page.stream,
        slot: page.slot,
    }
    .key();
    world.bucket.delete(Purpose::Collect, &[key]).await.unwrap();
    let bound = i64::from(RUNS_PER_PAGE) + 3;
    for (log_start, archived_to) in [(bound, bound), (7, bound)] {
        let mut folds = world.folds(Some(later.at));
        for fold in &mut folds {
            (fold.log_start, fold.archived_to) = (log_start, archived_to);
        }
        let folded = fold(&world.bucket, CLUSTER, &folds, NOW).await.unwrap();
        let last = world.wal.status().durable_end.0 - 1;
        for (folded, mut live) in folded.into_iter().zip(world.rows()) {
            live.after = Some(at(1, last));
            live.raise_log_start(log_start);
            live.runs.drop_below(bound);
            assert_eq!(folded, live);
        }
    }
}

#[tokio::test]
async fn a_lost_slot_is_an_error_and_never_an_end() {
    let mut world = world();
    for _ in 0..3 {
        world.append(8).await;
        world.wal.flush().await;
    }
    world.store.inject(
        Rule::new(On::Get, Fault::Unseen)
            .key("0000000000000001/0000000000000001")
            .times(u64::MAX),
    );
    let error = fold(&world.bucket, CLUSTER, &world.folds(None), NOW)
        .await
        .unwrap_err();
    assert!(
        matches!(error, FoldError::Read(ReadError::Missing { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_flipped_bit_in_an_index_or_a_checkpoint_is_an_error() {
    let mut world = world();
    world.append(4_000).await;
    world.wal.flush().await;
    let row = Some(world.wal.push_checkpoint(&world.rows()).await.unwrap().at);
    for key in ["wal/", "checkpoint/"] {
        world
            .store
            .inject(Rule::new(On::Get, Fault::BitFlip).key(key).times(u64::MAX));
        let error = fold(&world.bucket, CLUSTER, &world.folds(row), NOW)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                FoldError::Read(ReadError::Corrupt { .. }) | FoldError::Checkpoint(_)
            ),
            "{error}"
        );
        world.store.clear();
    }
}

#[tokio::test]
async fn a_row_that_the_journal_names_and_the_slot_lacks_is_an_error() {
    let mut world = world();
    world.append(8).await;
    world.wal.flush().await;
    let rows = world.rows();
    let row = Some(world.wal.push_checkpoint(&rows[..7]).await.unwrap().at);
    let error = fold(&world.bucket, CLUSTER, &world.folds(row), NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, FoldError::RowAbsent { tp: missing, .. } if missing == tp(7)));
}
