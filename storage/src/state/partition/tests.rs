use firn_proto::ids::{PartitionIndex, ProducerEpoch, Slot, StreamId, TopicId};

use super::super::row::BatchFlags;
use super::super::{Claim, Verdict};
use super::*;

fn tp(partition: i32) -> TopicPartition {
    TopicPartition {
        topic: TopicId([3; 16]),
        partition: PartitionIndex(partition),
    }
}

fn at(slot: u64) -> SlotPosition {
    SlotPosition {
        stream: StreamId(1),
        slot: Slot(slot),
    }
}

fn run(partition: i32, epoch: i32, base_offset: i64, last_offset: i64) -> Run {
    Run {
        tp: tp(partition),
        epoch: LeaderEpoch(epoch),
        base_offset,
        last_offset,
        byte_start: 0,
        byte_len: 100,
        max_timestamp: last_offset,
        flags: BatchFlags::default(),
    }
}

fn produced(partition: i32, producer: i64, base_sequence: i32, base_offset: i64) -> ProducerBatch {
    ProducerBatch {
        tp: tp(partition),
        producer: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        base_sequence,
        count: 5,
        base_offset,
        max_timestamp: 0,
        flags: BatchFlags::default(),
    }
}

#[test]
fn a_slot_moves_only_its_own_partitions() {
    let mut row = StateRow::new(tp(1), LeaderEpoch(4));
    let runs = [run(0, 4, 70, 79), run(1, 4, 0, 9), run(2, 4, 0, 3)];
    let producers = [
        produced(0, 8, 0, 70),
        produced(1, 9, 0, 5),
        produced(2, 7, 0, 0),
    ];
    let applied = row.apply_slot(at(0), &runs, &producers, 50).unwrap();
    assert_eq!(
        applied,
        Applied {
            runs: 1,
            bytes: 100
        }
    );
    assert_eq!(row.end_offset, 10);
    assert_eq!(row.after, Some(at(0)));
    let known: Vec<_> = row.producers.iter().map(|(id, _)| id.0).collect();
    assert_eq!(known, [9]);
    assert_eq!(row.producers.find(ProducerId(9)).unwrap().seen_ms(), 50);
    assert_eq!(row.runs.len(), 1);
}

#[test]
fn rows_of_another_epoch_do_not_count() {
    let mut row = StateRow::new(tp(0), LeaderEpoch(4));
    row.apply_slot(at(0), &[run(0, 4, 0, 9)], &[], 0).unwrap();
    let runs = [run(0, 3, 10, 19), run(0, 4, 20, 29)];
    let zombie = [produced(0, 1, 0, 12)];
    let before = row.clone();
    row.apply_slot(at(1), &runs[..1], &zombie, 0).unwrap();
    assert_eq!(row.after, Some(at(1)));
    assert_eq!(row.end_offset, before.end_offset);
    assert_eq!(row.producers, before.producers);
    let missing = row.apply_slot(at(2), &runs[1..], &[], 0);
    assert_eq!(
        missing,
        Err(StateError::NotNext {
            tp: tp(0),
            at: at(2),
            found: 20,
            expected: 10,
        })
    );
}

#[test]
fn offsets_are_never_taken_twice() {
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    let runs = [run(0, 0, 0, 9)];
    row.apply_slot(at(0), &runs, &[], 0).unwrap();
    assert!(row.apply_slot(at(1), &runs, &[], 0).is_err());
}

#[test]
fn a_later_epoch_goes_on_where_the_last_one_ended() {
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    row.apply_slot(at(0), &[run(0, 0, 0, 9)], &[produced(0, 1, 0, 5)], 0)
        .unwrap();
    row.begin_epoch(LeaderEpoch(1));
    let stale = [run(0, 0, 10, 19)];
    row.apply_slot(at(1), &stale, &[], 0).unwrap();
    assert_eq!(row.end_offset, 10);
    row.apply_slot(at(2), &[run(0, 1, 10, 14)], &[produced(0, 1, 5, 10)], 0)
        .unwrap();
    assert_eq!(row.end_offset, 15);
    let claim = Claim {
        producer: ProducerId(1),
        epoch: ProducerEpoch(0),
        base_sequence: 10,
        count: 1,
    };
    assert_eq!(row.producers.check(&claim), Verdict::Accept);
}

#[test]
fn the_log_start_only_rises_and_takes_runs_with_it() {
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    for slot in 0..3 {
        let base = slot * 10;
        row.apply_slot(at(slot as u64), &[run(0, 0, base, base + 9)], &[], 0)
            .unwrap();
    }
    row.raise_log_start(15);
    assert_eq!((row.log_start, row.runs.len()), (15, 2));
    row.raise_log_start(3);
    assert_eq!(row.log_start, 15);
    row.raise_log_start(30);
    assert!(row.runs.is_empty());
}

#[test]
#[should_panic(expected = "I5")]
fn a_log_start_behind_the_end_is_a_bug() {
    StateRow::new(tp(0), LeaderEpoch(0)).raise_log_start(1);
}

#[test]
fn the_last_stable_offset_is_the_first_open_transactions_start() {
    let mut row = StateRow::new(tp(0), LeaderEpoch(0));
    row.apply_slot(at(0), &[run(0, 0, 0, 9)], &[], 0).unwrap();
    assert_eq!(row.last_stable_offset(), 10);
    row.open_txns.push(OpenTxn {
        producer: ProducerId(1),
        first_offset: 4,
    });
    assert_eq!(row.last_stable_offset(), 4);
}

#[test]
fn an_idle_partition_is_small() {
    assert!(size_of::<StateRow>() <= 256, "{}", size_of::<StateRow>());
}
