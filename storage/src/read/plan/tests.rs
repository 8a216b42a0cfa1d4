use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
};

use super::*;
use crate::state::{BatchFlags, Run};

const MIB: u32 = 1024 * 1024;

fn run(slot: u64, base_offset: i64, last_offset: i64, byte_len: u32) -> RunRef {
    RunRef {
        at: SlotPosition {
            stream: StreamId(1),
            slot: Slot(slot),
        },
        run: Run {
            tp: TopicPartition {
                topic: TopicId([1; 16]),
                partition: PartitionIndex(0),
            },
            epoch: LeaderEpoch(3),
            base_offset,
            last_offset,
            byte_start: 500,
            byte_len,
            max_timestamp: 0,
            flags: BatchFlags::default(),
        },
    }
}

fn want(offset: i64, end: i64, max_bytes: usize) -> Want {
    Want {
        offset,
        end,
        max_bytes,
    }
}

fn slots(pieces: &[Piece]) -> Vec<u64> {
    pieces.iter().map(|p| p.run.at.slot.0).collect()
}

#[test]
fn runs_are_taken_until_the_budget_is_spent() {
    let runs: Vec<RunRef> = (0..20)
        .map(|n| run(n as u64, n * 100, n * 100 + 99, MIB))
        .collect();
    let plan = plan(want(300, 2000, 2 * MIB as usize), &runs, None).unwrap();
    assert_eq!(slots(&plan.pieces), [3, 4]);
    assert_eq!(slots(&plan.ahead), [5]);
    assert!(plan.sequential);
    assert_eq!(plan.pieces[0].range(), 500..500 + u64::from(MIB));
}

#[test]
fn nothing_at_or_behind_the_end_is_planned() {
    let runs = [
        run(0, 0, 99, 10),
        run(1, 100, 199, 10),
        run(2, 200, 299, 10),
    ];
    assert_eq!(
        slots(&plan(want(0, 100, 1000), &runs, None).unwrap().pieces),
        [0]
    );
    assert_eq!(
        slots(&plan(want(0, 101, 1000), &runs, None).unwrap().pieces),
        [0, 1]
    );
}

#[test]
fn an_offset_that_no_run_holds_has_no_plan() {
    let runs = [run(0, 100, 199, 10), run(1, 300, 399, 10)];
    for offset in [0, 99, 200, 299, 400] {
        assert_eq!(plan(want(offset, 1000, 10), &runs, None), None, "{offset}");
    }
    assert_eq!(plan(want(0, 1000, 10), &[], None), None);
    let before_gap = plan(want(150, 1000, 1000), &runs, None).unwrap();
    assert_eq!(slots(&before_gap.pieces), [0], "a gap ends the read");
}

#[test]
fn a_cursor_of_the_run_saves_the_way_to_the_offset() {
    let runs = [run(7, 0, 999, 8 * MIB)];
    let at = runs[0].at;
    let with = |byte, at| plan(want(500, 1000, 1000), &runs, Some(Cursor { at, byte })).unwrap();
    let plan = with(4_000_000, at);
    assert_eq!(
        (plan.pieces[0].start, plan.pieces[0].expect),
        (4_000_000, 500)
    );
    assert!(plan.sequential);
    let elsewhere = SlotPosition {
        stream: StreamId(2),
        ..at
    };
    for (byte, at) in [
        (499, at),
        (500 + u64::from(8 * MIB), at),
        (4_000_000, elsewhere),
    ] {
        let plan = with(byte, at);
        assert_eq!((plan.pieces[0].start, plan.pieces[0].expect), (500, 0));
        assert!(!plan.sequential);
    }
}

#[test]
fn the_window_reaches_what_is_skipped_and_what_is_wanted() {
    let whole = 8 * MIB;
    let runs = [run(7, 0, 999, whole)];
    let piece = plan(want(250, 1000, MIB as usize), &runs, None)
        .unwrap()
        .pieces[0];
    assert_eq!(piece.window(MIB as usize), 500..500 + u64::from(3 * MIB));
    assert_eq!(
        piece.window(usize::MAX),
        500..500 + COLD_GET_BYTES_MAX as u64
    );
    let small = run(0, 0, 9, 100);
    let piece = plan(want(0, 10, MIB as usize), &[small], None)
        .unwrap()
        .pieces[0];
    assert_eq!(piece.window(MIB as usize), 500..600);
}

#[test]
fn the_number_of_runs_of_one_read_is_bounded() {
    let runs: Vec<RunRef> = (0..10_000).map(|n| run(n as u64, n, n, 70)).collect();
    let plan = plan(want(0, 10_000, 1 << 30), &runs, None).unwrap();
    assert_eq!(plan.pieces.len(), READ_RUNS_MAX);
}

#[test]
fn offsets_at_the_end_of_their_range_do_not_overflow() {
    let runs = [
        run(0, i64::MAX - 10, i64::MAX - 1, 10),
        run(1, i64::MAX, i64::MAX, 10),
    ];
    let planned = plan(want(i64::MAX - 10, i64::MAX, 1 << 20), &runs, None);
    assert_eq!(slots(&planned.unwrap().pieces), [0]);
}
