use std::time::Duration;

use firn_proto::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use proptest::prelude::*;

use super::super::testing::{entry, tp};
use super::*;
use crate::wal::ProducerFields;

const POLICY: FlushPolicy = FlushPolicy {
    slot_bytes: 100_000,
    slots_in_flight: 4,
    partial_slots_in_flight: 4,
    puts_per_second: Some(10),
    gather: None,
};

fn at(ms: u64) -> Mono {
    Mono(0).after(Duration::from_millis(ms))
}

fn unlimited() -> FlushPolicy {
    FlushPolicy {
        puts_per_second: None,
        ..POLICY
    }
}

fn buffer(policy: FlushPolicy) -> WalBuffer<u64> {
    WalBuffer::new(policy, at(0))
}

/// (partition, base offset) of each batch of a slot.
fn content(slot: &ClosedSlot<u64>) -> Vec<(i32, i64)> {
    slot.entries
        .iter()
        .map(|entry| (entry.tp.partition.0, entry.base_offset))
        .collect()
}

#[test]
fn an_idle_buffer_is_never_put() {
    let mut buffer = buffer(unlimited());
    assert!(buffer.close_slot(at(0)).is_none());
    assert_eq!(buffer.next_timeout(at(0)), None);
    assert!(buffer.close_slot(at(3_600_000)).is_none());
}

#[test]
fn a_quiet_topic_is_put_at_once() {
    let mut buffer = buffer(POLICY);
    buffer.push(entry(0, 0, 0, 10), 0);
    assert!(buffer.close_slot(at(0)).is_some());
    assert!(buffer.close_slot(at(0)).is_none());
}

#[test]
fn without_a_token_the_buffer_waits_for_it_and_names_the_moment() {
    let mut buffer = buffer(POLICY);
    for base in 0..2 {
        buffer.push(entry(0, base, base, 10), 0);
        assert!(buffer.close_slot(at(0)).is_some());
    }
    buffer.push(entry(0, 2, 2, 10), 0);
    assert!(buffer.close_slot(at(0)).is_none());
    assert_eq!(buffer.next_timeout(at(0)), Some(at(100)));
    assert!(buffer.close_slot(at(100)).is_some());
}

#[test]
fn a_full_buffer_goes_on_credit() {
    let mut buffer = buffer(POLICY);
    for base in 0..3 {
        buffer.push(entry(0, base, base, POLICY.slot_bytes), 0);
        assert!(buffer.close_slot(at(0)).is_some(), "put {base}");
    }
    buffer.push(entry(0, 3, 3, 10), 0);
    assert!(buffer.close_slot(at(0)).is_none(), "the debt is paid first");
    assert_eq!(buffer.next_timeout(at(0)), Some(at(200)));
}

#[test]
fn no_more_slots_than_allowed_are_in_flight() {
    let mut buffer = buffer(unlimited());
    for base in 0..5 {
        buffer.push(entry(0, base, base, 10), 0);
        assert_eq!(buffer.close_slot(at(0)).is_some(), base < 4);
    }
    assert_eq!(
        buffer.next_timeout(at(0)),
        None,
        "a place is missing, not time"
    );
    buffer.on_slot_done();
    assert_eq!(content(&buffer.close_slot(at(0)).unwrap()), [(0, 4)]);
}

#[test]
fn a_partial_slot_waits_for_the_one_in_flight_where_only_one_is_wanted() {
    let mut buffer = buffer(FlushPolicy {
        partial_slots_in_flight: 1,
        ..unlimited()
    });
    buffer.push(entry(0, 0, 0, 10), 0);
    assert!(buffer.close_slot(at(0)).is_some());
    buffer.push(entry(0, 1, 1, 10), 0);
    assert!(buffer.close_slot(at(0)).is_none());
    buffer.push(entry(0, 2, 2, POLICY.slot_bytes - 300), 0);
    buffer.push(entry(0, 3, 3, 1_000), 0);
    let slot = buffer.close_slot(at(0)).unwrap();
    assert_eq!(content(&slot), [(0, 1), (0, 2)], "a full one does not wait");
    assert!(buffer.close_slot(at(0)).is_none());
}

fn gathering() -> FlushPolicy {
    FlushPolicy {
        partial_slots_in_flight: 1,
        gather: Some(GatherPolicy {
            bytes: 10_000,
            time: Duration::from_millis(10),
            least_per_second: 500_000,
        }),
        ..unlimited()
    }
}

/// A buffer that has put slot after slot until 0 ms, and got a little since.
fn busy_buffer() -> WalBuffer<u64> {
    let mut buffer = buffer(gathering());
    for slot in 0..=20 {
        buffer.push(entry(0, slot, slot, 10_000), 0);
        let now = Mono(0).after(Duration::from_millis(10 * slot as u64));
        assert!(buffer.close_slot(now).is_some());
        buffer.on_slot_done();
    }
    buffer.push(entry(0, 21, 21, 2_000), 0);
    buffer
}

/// Milliseconds after the last slot of [`busy_buffer`].
fn later(ms: u64) -> Mono {
    at(200 + ms)
}

#[test]
fn a_busy_buffer_waits_for_a_worthwhile_slot_and_names_the_moment() {
    let mut buffer = busy_buffer();
    assert!(buffer.close_slot(later(1)).is_none());
    assert_eq!(buffer.next_timeout(later(1)), Some(later(6)));
    assert_eq!(buffer.marks(), (false, false));
    buffer.push(entry(0, 22, 22, 8_000), 0);
    assert_eq!(buffer.marks(), (true, false));
    let slot = buffer.close_slot(later(2)).unwrap();
    assert_eq!(content(&slot), [(0, 21), (0, 22)]);
}

#[test]
fn a_busy_buffer_that_waits_in_vain_is_put_at_the_named_moment() {
    let mut buffer = busy_buffer();
    assert!(buffer.close_slot(later(1)).is_none());
    assert!(buffer.close_slot(later(6)).is_some());
}

/// What is left behind in a queue counts in the slot that it goes into, and in none before.
#[test]
fn a_long_queue_that_leaves_slowly_is_not_taken_for_a_busy_buffer() {
    let mut buffer = buffer(gathering());
    for base in 0..5 {
        buffer.push(entry(0, base, base, 99_000), 0);
    }
    for closed in [at(0), at(1000), at(1000), at(1000), at(1000)] {
        assert_eq!(buffer.close_slot(closed).unwrap().entries.len(), 1);
        buffer.on_slot_done();
    }
    buffer.push(entry(0, 5, 5, 2_000), 0);
    assert!(
        buffer.close_slot(at(1001)).is_some(),
        "198 kB came in the last second: less than where slots wait"
    );
}

#[test]
fn a_checkpoint_and_a_flush_do_not_wait_for_more() {
    let mut wanted = busy_buffer();
    assert!(wanted.close_slot(later(1)).is_none());
    wanted.want_slot();
    assert_eq!(wanted.next_timeout(later(1)), Some(later(1)));
    assert!(wanted.close_slot(later(1)).is_some());
    let mut forced = busy_buffer();
    forced.force();
    assert!(forced.close_slot(later(1)).is_some());
}

#[test]
fn batches_are_sorted_by_partition_and_adjacent_ones_share_a_run() {
    let mut buffer = buffer(unlimited());
    buffer.push(entry(2, 7, 9, 30), 0);
    buffer.push(entry(1, 0, 0, 10), 1);
    buffer.push(entry(2, 10, 10, 20), 2);
    let mut next_epoch = entry(2, 11, 12, 5);
    next_epoch.epoch = LeaderEpoch(4);
    buffer.push(next_epoch, 3);
    let slot = buffer.close_slot(at(0)).unwrap();
    assert_eq!(content(&slot), [(1, 0), (2, 7), (2, 10), (2, 11)]);
    assert_eq!(slot.held, [1, 0, 2, 3]);
    let ranges: Vec<_> = slot
        .runs
        .iter()
        .map(|run| {
            (
                run.tp,
                run.base_offset,
                run.last_offset,
                run.byte_start,
                run.byte_len,
            )
        })
        .collect();
    assert_eq!(
        ranges,
        [
            (tp(1), 0, 0, 0, 10),
            (tp(2), 7, 10, 10, 50),
            (tp(2), 11, 12, 60, 5)
        ]
    );
    assert_eq!(slot.runs[1].max_timestamp, 1_700_000_000_010);
    assert_eq!(slot.body_bytes, 65);
}

#[test]
fn a_producer_with_state_gets_a_row_for_each_batch() {
    let mut buffer = buffer(unlimited());
    for (base, sequence) in [(5_000_000_000, 0), (5_000_000_003, 3)] {
        let mut entry = entry(0, base, base + 2, 10);
        entry.producer = Some(ProducerFields {
            id: ProducerId(9),
            epoch: ProducerEpoch(1),
            base_sequence: sequence,
        });
        buffer.push(entry, 0);
    }
    let slot = buffer.close_slot(at(0)).unwrap();
    assert_eq!(slot.runs.len(), 1);
    let rows: Vec<_> = slot
        .producers
        .iter()
        .map(|row| (row.base_offset, row.base_sequence, row.count))
        .collect();
    assert_eq!(rows, [(5_000_000_000, 0, 3), (5_000_000_003, 3, 3)]);
}

#[test]
#[should_panic(expected = "I4")]
fn an_offset_given_twice_is_never_put() {
    let mut buffer = buffer(unlimited());
    buffer.push(entry(0, 4, 9, 10), 0);
    buffer.push(entry(0, 9, 9, 10), 0);
    buffer.close_slot(at(0));
}

#[test]
fn a_batch_larger_than_a_slot_goes_alone() {
    let mut buffer = buffer(unlimited());
    buffer.push(entry(0, 0, 0, 10), 0);
    buffer.push(entry(0, 1, 1, 3 * POLICY.slot_bytes), 0);
    buffer.push(entry(0, 2, 2, 10), 0);
    let slots: Vec<_> = std::iter::from_fn(|| buffer.close_slot(at(0)))
        .map(|slot| content(&slot))
        .collect();
    assert_eq!(slots, [vec![(0, 0)], vec![(0, 1)], vec![(0, 2)]]);
}

#[test]
fn a_partition_with_a_long_queue_leaves_room_for_the_others() {
    let mut buffer = buffer(unlimited());
    for base in 0..1_000 {
        buffer.push(entry(0, base, base, 1_000), 0);
    }
    buffer.push(entry(9, 0, 0, 1_000), 0);
    let first = buffer.close_slot(at(0)).unwrap();
    assert!(content(&first).contains(&(9, 0)));
    assert!(
        first.body_bytes > POLICY.slot_bytes * 8 / 10,
        "and the slot is filled"
    );
}

#[test]
fn a_large_batch_is_not_passed_by_for_ever() {
    let mut buffer = buffer(unlimited());
    let mut next = 0;
    buffer.push(entry(5, 0, 0, POLICY.slot_bytes * 9 / 10), 0);
    for round in 0..20 {
        for _ in 0..300 {
            buffer.push(entry(next % 4, i64::from(next), i64::from(next), 1_000), 0);
            next += 1;
        }
        let slot = buffer.close_slot(at(0)).unwrap();
        buffer.on_slot_done();
        if content(&slot).contains(&(5, 0)) {
            assert!(round < 10, "only in round {round}");
            return;
        }
    }
    panic!("the large batch starved");
}

#[test]
fn a_checkpoint_gets_a_slot_of_its_own_if_nothing_else_waits() {
    let mut buffer = buffer(unlimited());
    buffer.want_slot();
    let slot = buffer.close_slot(at(0)).unwrap();
    assert!(slot.entries.is_empty());
    assert!(buffer.close_slot(at(0)).is_none());
}

#[test]
fn a_flush_needs_no_token() {
    let mut buffer = buffer(POLICY);
    for base in 0..4 {
        buffer.push(entry(0, base, base, 10), 0);
        buffer.force();
        assert!(buffer.close_slot(at(0)).is_some());
    }
    buffer.on_slot_done();
    buffer.push(entry(0, 4, 4, 10), 0);
    assert!(
        buffer.close_slot(at(0)).is_none(),
        "only what was there then"
    );
}

proptest! {
    /// Against a plain model: whatever is pushed and whenever slots end, each partition's batches
    /// leave once, in order, and no slot is larger than it may be.
    #[test]
    fn every_batch_leaves_once_and_in_the_order_of_its_partition(
        steps in prop::collection::vec((0..6_i32, 1..60_000_usize, any::<bool>()), 1..300),
    ) {
        let mut buffer = buffer(unlimited());
        let mut pushed = vec![0_i64; 6];
        let mut left = vec![0_i64; 6];
        let check = |slot: ClosedSlot<u64>, left: &mut Vec<i64>| {
            let weight: usize = slot.entries.iter().map(weight).sum();
            prop_assert!(weight <= POLICY.slot_bytes || slot.entries.len() == 1);
            prop_assert!(slot.entries.is_sorted_by_key(|entry| entry.tp));
            let body: usize = slot.runs.iter().map(|run| run.byte_len as usize).sum();
            prop_assert_eq!(body, slot.body_bytes);
            for entry in &slot.entries {
                let partition = entry.tp.partition.0 as usize;
                prop_assert_eq!(entry.base_offset, left[partition]);
                left[partition] += 1;
            }
            Ok(())
        };
        for (partition, bytes, done) in steps {
            let base = pushed[partition as usize];
            pushed[partition as usize] += 1;
            buffer.push(entry(partition, base, base, bytes), 0);
            if done && buffer.in_flight() > 0 {
                buffer.on_slot_done();
            }
            while let Some(slot) = buffer.close_slot(at(0)) {
                check(slot, &mut left)?;
            }
        }
        while !buffer.is_empty() {
            buffer.on_slot_done();
            if let Some(slot) = buffer.close_slot(at(0)) {
                check(slot, &mut left)?;
            }
        }
        prop_assert_eq!(pushed, left);
        prop_assert_eq!(buffer.bytes(), 0);
    }
}
