use super::*;
use crate::wal::testing::{entry, tp};

const S1: StreamId = StreamId(1);
const S2: StreamId = StreamId(2);

fn row(stream: StreamId, partition: i32, base: i64, last: i64) -> LocalRow {
    LocalRow::for_test(stream, entry(partition, base, last, 0))
}

fn ranges(missing: &Missing) -> Vec<(i32, i64, i64, usize)> {
    missing
        .put_again
        .iter()
        .map(|epoch| {
            (
                epoch.tp.partition.0,
                epoch.from,
                epoch.end,
                epoch.entries.len(),
            )
        })
        .collect()
}

#[test]
fn entries_from_the_folded_end_on_are_put_again() {
    let rows = [
        row(S1, 0, 0, 4),
        row(S1, 0, 5, 5),
        row(S1, 0, 6, 9),
        row(S1, 1, 3, 3),
    ];
    let missing = Missing::of(&rows, |_, at, _| {
        Some(EpochEnd::Folded(if at == tp(0) { 5 } else { 4 }))
    });
    assert_eq!(ranges(&missing), [(0, 5, 10, 2)]);
    assert_eq!(missing.put_again[0].entries, rows[1..3]);
    assert_eq!(missing.lost, []);
}

#[test]
fn entries_of_a_stream_that_is_not_folded_are_not_missing() {
    let rows = [row(S1, 0, 0, 4), row(S2, 1, 0, 4)];
    let missing = Missing::of(&rows, |stream, _, _| {
        (stream == S2).then_some(EpochEnd::Folded(0))
    });
    assert_eq!(ranges(&missing), [(1, 0, 5, 1)]);
    assert_eq!(missing.lost, []);
}

#[test]
fn what_lies_behind_a_gap_is_reported_and_not_put() {
    let rows = [row(S1, 0, 5, 5), row(S1, 0, 8, 9), row(S1, 0, 10, 12)];
    let missing = Missing::of(&rows, |_, _, _| Some(EpochEnd::Folded(5)));
    assert_eq!(ranges(&missing), [(0, 5, 6, 1)]);
    assert_eq!(missing.lost, rows[1..]);
}

#[test]
fn a_gap_right_at_the_folded_end_leaves_nothing_to_put() {
    let rows = [row(S1, 0, 8, 9)];
    let missing = Missing::of(&rows, |_, _, _| Some(EpochEnd::Folded(5)));
    assert_eq!(missing.put_again, []);
    assert_eq!(missing.lost, rows);
}

#[test]
fn an_entry_that_was_put_again_once_already_counts_once() {
    let rows = [row(S1, 0, 5, 5), row(S1, 0, 6, 9), row(S2, 0, 5, 5)];
    let missing = Missing::of(&rows, |_, _, _| Some(EpochEnd::Folded(5)));
    assert_eq!(ranges(&missing), [(0, 5, 10, 2)]);
    assert_eq!(missing.lost, []);
}

#[test]
fn what_is_missing_of_an_epoch_that_is_over_is_lost_and_not_passed_over() {
    let rows = [row(S1, 0, 3, 4), row(S1, 0, 5, 6), row(S1, 0, 7, 7)];
    let missing = Missing::of(&rows, |_, _, _| Some(EpochEnd::Over(5)));
    assert_eq!(missing.put_again, []);
    assert_eq!(missing.lost, rows[1..]);
}

#[test]
fn lost_offsets_that_follow_each_other_are_one_range() {
    let mut next = row(S1, 0, 10, 12);
    next.entry.epoch = LeaderEpoch(4);
    let rows = [
        row(S1, 1, 2, 2),
        row(S1, 0, 8, 9),
        row(S1, 0, 5, 6),
        row(S1, 0, 7, 7),
        row(S1, 0, 20, 29),
        next,
    ];
    let ranges = LostRange::of(&rows);
    let shown: Vec<_> = ranges
        .iter()
        .map(|range| (range.tp.partition.0, range.first, range.last))
        .collect();
    assert_eq!(shown, [(0, 5, 9), (0, 20, 29), (0, 10, 12), (1, 2, 2)]);
    assert_eq!(ranges.iter().map(LostRange::records).sum::<u64>(), 19);
}

#[test]
fn epochs_of_a_partition_are_told_apart() {
    let mut next = row(S2, 0, 10, 12);
    next.entry.epoch = LeaderEpoch(4);
    let rows = [row(S1, 0, 8, 9), next];
    let missing = Missing::of(&rows, |_, _, epoch| {
        (epoch == LeaderEpoch(4)).then_some(EpochEnd::Folded(10))
    });
    assert_eq!(ranges(&missing), [(0, 10, 13, 1)]);
    assert_eq!(missing.put_again[0].epoch, LeaderEpoch(4));
}

#[test]
fn only_acknowledged_entries_count_as_lost() {
    let mut rows = [
        row(S1, 0, 7, 7),
        row(S1, 0, 8, 8),
        row(S1, 1, 8, 8),
        row(S1, 0, 9, 9),
    ];
    rows[0].entry.acks = Acks::None;
    rows[1].entry.acks = Acks::Local;
    rows[2].entry.acks = Acks::Bucket;
    rows[3].entry.acks = Acks::Bucket;
    let missing = Missing::of(&rows, |_, _, _| Some(EpochEnd::Folded(5)));
    assert_eq!(missing.lost.len(), 4);
    assert_eq!(
        missing.lost_acknowledged(|at| at == tp(1)),
        [rows[1].clone(), rows[2].clone()]
    );
}
