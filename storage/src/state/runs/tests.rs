use firn_proto::ids::{LeaderEpoch, PartitionIndex, Slot, StreamId, TopicId};

use crate::state::BatchFlags;
use crate::state::page::RUNS_PER_MARK;

use super::*;

const TP: TopicPartition = TopicPartition {
    topic: TopicId([1; 16]),
    partition: PartitionIndex(0),
};

/// Runs of ten offsets each from offset 0 on, one per slot; slots 5 and up are another epoch's.
fn table(timestamps: &[i64]) -> RunTable {
    let mut table = RunTable::default();
    for (index, timestamp) in (0..).zip(timestamps) {
        let era = (index / 5).min(1);
        let at = SlotPosition {
            stream: StreamId(10 + era),
            slot: Slot(index),
        };
        let base_offset = index as i64 * 10;
        table.push(
            at,
            &Run {
                tp: TP,
                epoch: LeaderEpoch(era as i32),
                base_offset,
                last_offset: base_offset + 9,
                byte_start: 100,
                byte_len: 1000,
                max_timestamp: *timestamp,
                flags: BatchFlags::default(),
            },
        );
    }
    table
}

fn slots(runs: impl IntoIterator<Item = RunRef>) -> Vec<u64> {
    runs.into_iter().map(|found| found.at.slot.0).collect()
}

#[test]
fn a_span_begins_with_the_run_that_holds_the_offset() {
    let table = table(&[0; 8]);
    assert_eq!(slots(table.from(TP, 29)), [2, 3, 4, 5, 6, 7]);
    assert_eq!(slots(table.span(TP, 30, 80, 1)), [3]);
    assert_eq!(slots(table.span(TP, 35, 80, 1500)), [3, 4]);
    assert_eq!(slots(table.span(TP, 35, 51, 1 << 20)), [3, 4, 5]);
    assert_eq!(slots(table.span(TP, 80, 90, 1 << 20)), [0_u64; 0]);
}

#[test]
fn a_run_keeps_its_stream_and_epoch() {
    let table = table(&[0; 8]);
    let found: Vec<_> = table
        .from(TP, 45)
        .map(|found| (found.at.stream.0, found.run.epoch.0))
        .collect();
    assert_eq!(found, [(10, 0), (11, 1), (11, 1), (11, 1)]);
}

#[test]
fn timestamps_lead_to_the_first_run_that_can_hold_them() {
    let table = table(&[10, 50, 30, 50, 20]);
    assert_eq!(slots(table.with_timestamp(TP, 0, 11)), [1, 2, 3, 4]);
    assert_eq!(slots(table.with_timestamp(TP, 0, 31)), [1, 3]);
    assert_eq!(slots(table.with_timestamp(TP, 20, 31)), [3]);
    assert_eq!(slots(table.with_timestamp(TP, 0, 51)), [0_u64; 0]);
    assert_eq!(slots(table.with_max_timestamp(TP, 0)), [1]);
    assert_eq!(slots(table.with_max_timestamp(TP, 20)), [3]);
}

#[test]
fn dropped_runs_are_gone() {
    let mut table = table(&[0; 8]);
    table.drop_below(59);
    assert_eq!(slots(table.from(TP, 0)), [5, 6, 7]);
    table.drop_below(60);
    assert_eq!(slots(table.from(TP, 0)), [6, 7]);
    assert!(table.from(TP, 0).all(|found| found.run.epoch.0 == 1));
    table.drop_below(80);
    assert_eq!(table, RunTable::default());
}

#[test]
#[should_panic(expected = "I9")]
fn an_overlapping_run_is_a_bug() {
    let mut table = table(&[0; 2]);
    let last = table.from(TP, 10).next().unwrap();
    table.push(last.at, &last.run);
}

/// As many runs as a whole number of full pages and a few, each a slot of its own.
fn long(runs: u64) -> RunTable {
    let timestamps: Vec<_> = (0..runs).map(|at| (at as i64 * 37) % 1000).collect();
    table(&timestamps)
}

/// Whatever the pages are, the answers are those of a plain list.
#[test]
fn pages_change_no_answer() {
    let runs = u64::from(RUNS_PER_PAGE) * 3 + 7;
    let mut table = long(runs);
    let mut plain: Vec<_> = table.from(TP, 0).collect();
    assert_eq!(plain.len() as u64, runs);
    let page = i64::from(RUNS_PER_PAGE) * 10;
    for dropped in [0, page - 1, page, page + 15, 3 * page + 5] {
        table.drop_below(dropped);
        plain.retain(|found| found.run.last_offset >= dropped);
        assert_eq!(table.len(), plain.len());
        for offset in [0, dropped, page - 1, 2 * page, 2 * page + 9, 3 * page + 69] {
            let behind = || plain.iter().filter(move |r| r.run.last_offset >= offset);
            assert!(table.from(TP, offset).eq(behind().copied()), "{offset}");
            let newer = behind().filter(|found| found.run.max_timestamp >= 990);
            assert!(table.with_timestamp(TP, offset, 990).eq(newer.copied()));
            let newest = behind().rev().max_by_key(|found| found.run.max_timestamp);
            assert_eq!(table.with_max_timestamp(TP, offset), newest.copied());
        }
    }
}

/// Consumers at the tail ask for the last run of a page all the time, under the lock of the
/// partition.
#[test]
fn a_look_up_reads_few_runs_in_vain() {
    let table = long(u64::from(RUNS_PER_PAGE) * 2);
    let pages = table.pages().iter().map(|page| &**page);
    for page in pages.chain(table.open_page()) {
        let runs: Vec<_> = page.runs(TP).collect();
        for (at, run) in runs.iter().enumerate() {
            for offset in [run.run.base_offset, run.run.last_offset] {
                let near: Vec<_> = page.runs_near(TP, offset).collect();
                let in_vain = near.iter().take_while(|near| *near != run).count();
                assert!(
                    in_vain < RUNS_PER_MARK as usize,
                    "{in_vain} before {offset}"
                );
                assert_eq!(near[in_vain..], runs[at..]);
            }
        }
    }
}

/// A day of ten slots a second, all with records of one partition.
#[test]
fn a_run_takes_few_bytes_and_a_copy_of_a_long_table_few_more() {
    let runs = 100_000;
    let table = long(runs);
    let packed: usize = table.pages().iter().map(|page| page.bytes().len()).sum();
    assert!(packed < 16 * runs as usize, "{packed}");
    let copy = table.clone();
    let shared = copy.pages().iter().zip(table.pages());
    assert!(
        shared
            .into_iter()
            .all(|(copy, page)| Arc::ptr_eq(copy, page))
    );
    assert!(copy.open_page().unwrap().count() <= RUNS_PER_PAGE);
}
