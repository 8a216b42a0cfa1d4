use firn_proto::ids::{PartitionIndex, TopicId, TopicPartition};
use proptest::prelude::*;

use super::*;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn claim(epoch: i16, base_sequence: i32, count: u32) -> Claim {
    Claim {
        producer: ProducerId(1),
        epoch: ProducerEpoch(epoch),
        base_sequence,
        count,
    }
}

fn batch(claim: &Claim, base_offset: i64) -> ProducerBatch {
    ProducerBatch {
        tp: TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(0),
        },
        producer: claim.producer,
        producer_epoch: claim.epoch,
        base_sequence: claim.base_sequence,
        count: claim.count,
        base_offset,
        max_timestamp: 1000 + base_offset,
        flags: BatchFlags::default(),
    }
}

/// A table after these batches of producer 1, in order.
fn after(claims: &[Claim]) -> ProducerTable {
    let mut table = ProducerTable::default();
    let mut offset = 1 << 33;
    for claim in claims {
        table.apply(&batch(claim, offset), 0);
        offset += i64::from(claim.count);
    }
    table
}

#[test]
fn the_verdicts_are_kafkas() {
    use Verdict::{Accept, Fenced, OutOfOrder};
    let nothing: &[Claim] = &[];
    let three = &[claim(2, 0, 10), claim(2, 10, 5), claim(2, 15, 1)][..];
    let wrapped = &[claim(0, i32::MAX - 3, 4)][..];
    let fenced = Fenced {
        current: ProducerEpoch(2),
    };
    let expected = |expected| OutOfOrder { expected };
    for (name, known, next, verdict) in [
        ("nothing known, from 0", nothing, claim(0, 0, 1), Accept),
        (
            "nothing known, from anywhere",
            nothing,
            claim(7, 900, 1),
            Accept,
        ),
        ("the next one", three, claim(2, 16, 3), Accept),
        ("a gap", three, claim(2, 17, 3), expected(16)),
        ("an overlap", three, claim(2, 15, 2), expected(16)),
        (
            "same start, other length",
            three,
            claim(2, 10, 4),
            expected(16),
        ),
        ("older session", three, claim(1, 16, 3), fenced),
        ("older session, known batch", three, claim(1, 15, 1), fenced),
        ("new session from 0", three, claim(3, 0, 3), Accept),
        (
            "new session from elsewhere",
            three,
            claim(3, 16, 3),
            expected(0),
        ),
        (
            "behind the largest number comes 0",
            wrapped,
            claim(0, 0, 3),
            Accept,
        ),
        ("not 1", wrapped, claim(0, 1, 3), expected(0)),
    ] {
        assert_eq!(after(known).check(&next), verdict, "{name}");
    }
}

#[test]
fn a_batch_may_cross_the_largest_sequence_number() {
    let crossing = claim(0, i32::MAX - 1, 5);
    let table = after(&[crossing]);
    assert_eq!(table.check(&claim(0, 3, 1)), Verdict::Accept);
    assert!(matches!(table.check(&crossing), Verdict::Duplicate(_)));
}

#[test]
fn the_last_five_batches_are_known_again_with_their_offsets() {
    let claims: Vec<_> = (0..7).map(|n| claim(0, n * 10, 10)).collect();
    let table = after(&claims);
    for (n, claim) in claims.iter().enumerate() {
        let verdict = table.check(claim);
        if n < 2 {
            assert_eq!(verdict, Verdict::OutOfOrder { expected: 70 }, "{n}");
        } else {
            let base_offset = (1 << 33) + 10 * n as i64;
            let known = Remembered {
                base_sequence: claim.base_sequence,
                count: 10,
                base_offset,
                max_timestamp: 1000 + base_offset,
            };
            assert_eq!(verdict, Verdict::Duplicate(known), "{n}");
        }
    }
}

#[test]
fn a_new_session_forgets_the_batches_of_the_old_one() {
    let table = after(&[claim(0, 0, 5), claim(1, 0, 5)]);
    let verdict = table.check(&claim(1, 0, 5));
    assert!(
        matches!(verdict, Verdict::Duplicate(known) if known.base_offset == (1 << 33) + 5),
        "{verdict:?}"
    );
}

#[test]
fn producers_are_forgotten_a_day_after_their_last_batch() {
    let mut table = ProducerTable::default();
    for (id, now_ms) in [(1, 0), (2, 10), (3, DAY_MS)] {
        let claim = Claim {
            producer: ProducerId(id),
            ..claim(0, 0, 1)
        };
        table.apply(&batch(&claim, id), now_ms);
    }
    table.expire(DAY_MS + 10, DAY_MS);
    let left: Vec<_> = table.iter().map(|(id, _)| id.0).collect();
    assert_eq!(left, [3]);
    assert_eq!(table.check(&claim(0, 44, 1)), Verdict::Accept);
}

#[test]
fn the_table_is_bounded_and_forgets_who_wrote_longest_ago() {
    let mut table = ProducerTable::default();
    let most = PRODUCERS_PER_PARTITION_MAX as i64;
    let write = |table: &mut ProducerTable, id: i64, offset: i64| {
        let claim = Claim {
            producer: ProducerId(id),
            ..claim(0, 0, 1)
        };
        table.apply(&batch(&claim, offset), 0);
    };
    for id in 0..most {
        write(&mut table, id, id);
    }
    // producer 0 writes again, so that 1 is the oldest
    write(&mut table, 0, most);
    write(&mut table, most, most + 1);
    assert_eq!(table.len(), PRODUCERS_PER_PARTITION_MAX);
    assert!(table.find(ProducerId(0)).is_some());
    assert!(table.find(ProducerId(1)).is_none());
}

#[test]
fn an_old_timestamp_in_a_record_does_not_make_its_producer_old() {
    let mut table = ProducerTable::default();
    let mut ancient = batch(&claim(0, 0, 1), 5);
    ancient.max_timestamp = 0;
    table.apply(&ancient, 10 * DAY_MS);
    table.expire(10 * DAY_MS + 1, DAY_MS);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_producer_is_small() {
    assert!(size_of::<ProducerState>() <= 192);
    assert!(size_of::<ProducerTable>() <= 24);
}

proptest! {
    /// However often batches are repeated, in whatever order, each is appended once and in order.
    #[test]
    fn each_batch_is_appended_once_whatever_is_repeated(
        counts in prop::collection::vec(1_u32..2000, 1..40),
        start in prop_oneof![Just(0), i32::MAX - 3000..=i32::MAX],
        tries in prop::collection::vec(0..5_usize, 0..300),
    ) {
        let mut sequence = start;
        let claims: Vec<_> = counts
            .iter()
            .map(|count| {
                let claim = claim(0, sequence, *count);
                sequence = ((sequence as i64 + *count as i64) & i32::MAX as i64) as i32;
                claim
            })
            .collect();
        let mut table = ProducerTable::default();
        let mut offset = 0;
        let mut appended: Vec<(usize, i64)> = Vec::new();
        for back in tries {
            // any of the five that the client may have in flight
            let at = appended.len().saturating_sub(back).min(claims.len() - 1);
            match table.check(&claims[at]) {
                Verdict::Accept => {
                    prop_assert_eq!(at, appended.len());
                    table.apply(&batch(&claims[at], offset), 0);
                    appended.push((at, offset));
                    offset += i64::from(claims[at].count);
                }
                Verdict::Duplicate(known) => {
                    prop_assert_eq!((at, known.base_offset), appended[at]);
                }
                other => prop_assert!(false, "{:?} for batch {}", other, at),
            }
        }
    }
}

#[test]
fn the_producers_that_are_silent_longest_are_forgotten_and_of_equals_as_many_as_asked() {
    let mut table = ProducerTable::default();
    for (producer, seen_ms) in [(1, 30), (2, 10), (3, 20), (4, 20), (5, 20)] {
        let of_producer = Claim {
            producer: ProducerId(producer),
            ..claim(0, 0, 1)
        };
        table.apply(&batch(&of_producer, producer), seen_ms);
    }
    let mut of_that_time = 2;
    assert_eq!(table.forget(20, &mut of_that_time), 3);
    assert_eq!(of_that_time, 0);
    let left: Vec<i64> = table.iter().map(|(producer, _)| producer.0).collect();
    assert_eq!(left, [1, 5]);
}

/// I8: a broker forgets producers as its memory demands; a fold that starts from an older row knows
/// them still. What both say to everything that comes after the next batch is the same.
#[test]
fn a_table_that_forgot_a_producer_and_one_that_did_not_agree_again_after_its_next_batch() {
    let known = &[claim(2, 0, 10), claim(2, 10, 5)];
    for next in [claim(2, 15, 1), claim(3, 0, 1)] {
        let mut folded = after(known);
        let mut owned = ProducerTable::default();
        for table in [&mut folded, &mut owned] {
            assert_eq!(table.check(&next), Verdict::Accept);
            table.apply(&batch(&next, 1 << 40), 0);
        }
        let follows = claim(next.epoch.0, next.base_sequence + 1, 4);
        let too_far = claim(next.epoch.0, next.base_sequence + 2, 4);
        let older_session = claim(1, 0, 1);
        for later in [next, follows, too_far, older_session] {
            assert_eq!(folded.check(&later), owned.check(&later), "{later:?}");
        }
    }
}
