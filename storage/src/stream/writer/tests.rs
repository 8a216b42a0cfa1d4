use super::super::testing::{body, data_header, name, nonce, seal_header};
use super::*;

const START: Mono = Mono(1_000_000);
const LONG: Duration = Duration::from_secs(60);

/// A writer together with everything it ever asked to put, so that I1 is checked at each put.
struct Harness {
    writer: StreamWriter,
    now: Mono,
    bodies: std::collections::BTreeMap<Slot, Vec<Bytes>>,
}

impl Harness {
    fn new() -> Self {
        Self {
            writer: StreamWriter::new(StreamSpec {
                stream: name(),
                first_slot: Slot(0),
                prev_nonce: Nonce::NONE,
            }),
            now: START,
            bodies: std::collections::BTreeMap::new(),
        }
    }

    fn with_slots(count: u64) -> Self {
        let mut harness = Self::new();
        for slot in 0..count {
            harness.submit(slot);
        }
        harness
    }

    fn submit(&mut self, slot: u64) {
        let given = self
            .writer
            .submit(body(&slot.to_string()), nonce(slot), self.now);
        assert_eq!(given, Ok(Slot(slot)));
    }

    fn actions(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(action) = self.writer.poll(self.now) {
            texts.push(match action {
                Action::Put { slot, object } => {
                    let first = self.bodies.entry(slot).or_insert_with(|| object.clone());
                    assert_eq!(*first, object, "I1: other bytes for slot {slot}");
                    format!("put {slot}")
                }
                Action::ReadBack { slot } => format!("read {slot}"),
                Action::Tell(StreamEvent::Durable { slot, .. }) => format!("durable {slot}"),
                Action::Tell(StreamEvent::Fenced { at, by }) => match by {
                    FencedBy::Seal(_) => format!("fenced {at} by seal"),
                    FencedBy::Writer(_) => format!("fenced {at} by writer"),
                    FencedBy::Unreadable => format!("fenced {at} by bytes"),
                },
            });
        }
        texts
    }

    fn put(&mut self, slot: u64, answer: PutAnswer) -> Vec<String> {
        self.writer.on_put(Slot(slot), answer, self.now, 0);
        self.actions()
    }

    fn read(&mut self, slot: u64, found: ReadBack) -> Vec<String> {
        self.writer.on_read_back(Slot(slot), found, self.now, 0);
        self.actions()
    }

    /// Lets every pause pass.
    fn wait(&mut self) -> Vec<String> {
        self.now = self.now.after(LONG);
        self.writer.on_timeout(self.now);
        self.actions()
    }

    fn is_waiting(&self) -> bool {
        self.writer.next_timeout().is_some()
    }
}

fn ours(slot: u64) -> ReadBack {
    let before = if slot == 0 {
        Nonce::NONE
    } else {
        nonce(slot - 1)
    };
    ReadBack::Found(data_header(slot, nonce(slot), before))
}

fn of_another(slot: u64) -> ReadBack {
    ReadBack::Found(data_header(slot, nonce(99), nonce(98)))
}

fn sealed(slot: u64) -> ReadBack {
    ReadBack::Found(seal_header(slot, nonce(50)))
}

#[test]
fn slots_are_put_in_parallel_and_become_durable_in_order() {
    let mut harness = Harness::with_slots(3);
    assert_eq!(harness.actions(), ["put 0", "put 1", "put 2"]);
    assert_eq!(harness.put(2, PutAnswer::Created), [""; 0]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["durable 0"]);
    assert_eq!(
        harness.put(1, PutAnswer::Created),
        ["durable 1", "durable 2"]
    );
    assert_eq!(harness.writer.durable_end(), Slot(3));
    assert!(harness.writer.is_idle());
}

#[test]
fn slots_name_the_nonce_of_the_slot_before() {
    let mut harness = Harness::with_slots(2);
    harness.actions();
    let header = |slot: u64| SlotHeader::decode(&harness.bodies[&Slot(slot)][0]).unwrap();
    assert_eq!(header(0).prev_nonce, Nonce::NONE);
    assert_eq!(header(1).prev_nonce, header(0).nonce);
    assert_eq!(header(1).slot, Slot(1));
}

#[test]
fn a_412_of_our_own_earlier_put_is_success() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    assert_eq!(harness.put(0, PutAnswer::Exists), ["read 0"]);
    assert_eq!(harness.read(0, ours(0)), ["durable 0"]);
}

#[test]
fn a_409_under_which_nothing_was_written_is_put_again_after_a_pause() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    assert_eq!(harness.put(0, PutAnswer::Exists), ["read 0"]);
    assert_eq!(harness.read(0, ReadBack::Absent), [""; 0]);
    assert!(harness.is_waiting());
    assert_eq!(harness.wait(), ["put 0"]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["durable 0"]);
}

#[test]
fn an_unclear_put_that_was_applied_is_found_by_reading_back() {
    for answer in [PutAnswer::Unclear, PutAnswer::Congested, PutAnswer::Refused] {
        let mut harness = Harness::with_slots(1);
        harness.actions();
        assert_eq!(
            harness.put(0, answer),
            [""; 0],
            "{answer:?}: not before a pause"
        );
        assert_eq!(harness.wait(), ["read 0"], "{answer:?}");
        assert_eq!(harness.read(0, ours(0)), ["durable 0"], "{answer:?}");
    }
}

#[test]
fn an_unclear_put_that_was_not_applied_is_put_again_with_the_same_bytes() {
    for answer in [PutAnswer::Unclear, PutAnswer::Congested, PutAnswer::Refused] {
        let mut harness = Harness::with_slots(1);
        harness.actions();
        harness.put(0, answer);
        assert_eq!(harness.wait(), ["read 0"], "{answer:?}");
        assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"], "{answer:?}");
        assert_eq!(
            harness.put(0, PutAnswer::Created),
            ["durable 0"],
            "{answer:?}"
        );
    }
}

#[test]
fn a_put_that_is_applied_after_it_was_repeated_is_one_slot() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    harness.put(0, PutAnswer::Congested);
    harness.wait();
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    // Now the first attempt lands; the second one is told 412.
    assert_eq!(harness.put(0, PutAnswer::Exists), ["read 0"]);
    assert_eq!(harness.read(0, ours(0)), ["durable 0"]);
}

#[test]
fn failures_without_end_never_fence_and_never_skip() {
    let mut harness = Harness::with_slots(2);
    assert_eq!(harness.actions(), ["put 0", "put 1"]);
    assert_eq!(harness.put(1, PutAnswer::Created), [""; 0]);
    assert_eq!(harness.put(0, PutAnswer::Unclear), [""; 0]);
    for _ in 0..10_000 {
        assert_eq!(harness.wait(), ["read 0"]);
        assert_eq!(harness.read(0, ReadBack::Failed), [""; 0]);
        assert_eq!(harness.wait(), ["read 0"]);
        assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
        assert_eq!(harness.put(0, PutAnswer::Refused), [""; 0]);
    }
    assert_eq!(
        harness.writer.durable_end(),
        Slot(0),
        "I2: slot 1 waits for slot 0"
    );
    harness.wait();
    assert_eq!(harness.read(0, ours(0)), ["durable 0", "durable 1"]);
}

#[test]
fn a_seal_fences_for_good() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    assert_eq!(harness.put(0, PutAnswer::Exists), ["read 0"]);
    assert_eq!(harness.read(0, sealed(0)), ["fenced 0 by seal"]);
    assert!(harness.writer.is_idle());
    let late = harness.writer.submit(body("late"), nonce(9), harness.now);
    assert_eq!(late.map_err(|fenced| fenced.at), Err(Slot(0)));
}

#[test]
fn data_of_another_writer_fences() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    harness.put(0, PutAnswer::Exists);
    assert_eq!(harness.read(0, of_another(0)), ["fenced 0 by writer"]);
}

#[test]
fn slots_that_landed_beyond_a_seal_never_count() {
    let mut harness = Harness::with_slots(4);
    harness.actions();
    assert_eq!(harness.put(3, PutAnswer::Created), [""; 0]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["durable 0"]);
    assert_eq!(harness.put(1, PutAnswer::Exists), ["read 1"]);
    assert_eq!(harness.read(1, sealed(1)), ["fenced 1 by seal"]);
    assert_eq!(
        harness.put(2, PutAnswer::Created),
        [""; 0],
        "an answer for a lost slot"
    );
    assert_eq!(harness.writer.durable_end(), Slot(1));
}

#[test]
fn slots_below_a_wall_are_still_resolved() {
    let mut harness = Harness::with_slots(3);
    harness.actions();
    harness.put(2, PutAnswer::Exists);
    assert_eq!(
        harness.read(2, sealed(2)),
        [""; 0],
        "the wall decides nothing yet"
    );
    let more = harness.writer.submit(body("more"), nonce(9), harness.now);
    assert!(more.is_err(), "but nothing new is taken");
    assert_eq!(harness.put(1, PutAnswer::Created), [""; 0]);
    assert_eq!(
        harness.put(0, PutAnswer::Created),
        ["durable 0", "durable 1", "fenced 2 by seal"]
    );
}

#[test]
fn a_seal_below_a_wall_is_the_end() {
    let mut harness = Harness::with_slots(3);
    harness.actions();
    harness.put(2, PutAnswer::Exists);
    harness.read(2, sealed(2));
    harness.put(1, PutAnswer::Created);
    harness.put(0, PutAnswer::Exists);
    assert_eq!(harness.read(0, sealed(0)), ["fenced 0 by seal"]);
    assert_eq!(harness.writer.durable_end(), Slot(0));
}

#[test]
fn a_put_that_is_applied_after_its_slot_was_collected_is_already_counted() {
    // The put of slot 0 landed and its answer was lost. The stream was sealed at 1, folded, and
    // slot 0 deleted; its writer, asleep all the time, now finds nothing and puts it again. The
    // slot did count, so its acknowledgement is true; the seal at 1 is never deleted and fences.
    let mut harness = Harness::with_slots(2);
    harness.actions();
    harness.put(0, PutAnswer::Congested);
    harness.put(1, PutAnswer::Congested);
    assert_eq!(harness.wait(), ["read 0", "read 1"]);
    assert_eq!(harness.read(1, sealed(1)), [""; 0]);
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    assert_eq!(
        harness.put(0, PutAnswer::Created),
        ["durable 0", "fenced 1 by seal"]
    );
}

#[test]
fn bytes_that_are_no_slot_fence_only_after_they_were_read_again_and_again() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    harness.put(0, PutAnswer::Exists);
    for _ in 1..UNREADABLE_MAX {
        assert_eq!(harness.read(0, ReadBack::Unreadable), [""; 0]);
        assert_eq!(harness.wait(), ["read 0"]);
    }
    assert_eq!(harness.read(0, ReadBack::Unreadable), ["fenced 0 by bytes"]);
}

#[test]
fn a_bit_that_flips_on_the_way_back_heals() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    harness.put(0, PutAnswer::Exists);
    harness.read(0, ReadBack::Unreadable);
    harness.wait();
    assert_eq!(harness.read(0, ours(0)), ["durable 0"]);
}

#[test]
fn a_whole_slot_of_another_stream_under_our_key_is_not_a_seal_of_ours() {
    let mut harness = Harness::with_slots(1);
    harness.actions();
    harness.put(0, PutAnswer::Exists);
    assert_eq!(harness.read(0, sealed(5)), [""; 0]);
    assert!(harness.is_waiting());
}

#[test]
fn places_are_bounded() {
    let mut harness = Harness::with_slots(SLOTS_IN_FLIGHT_MAX as u64);
    assert!(!harness.writer.has_room());
    harness.actions();
    harness.put(0, PutAnswer::Created);
    assert!(harness.writer.has_room());
}

#[test]
fn after_timeouts_fewer_bytes_are_in_flight_and_the_lowest_slot_goes_first() {
    let mut harness = Harness::new();
    let large = || {
        SlotBody::new(
            Bytes::from_static(b"x"),
            vec![Bytes::from(vec![0; 8 << 20])],
        )
    };
    for slot in 0..SLOTS_IN_FLIGHT_MAX as u64 {
        harness
            .writer
            .submit(large(), nonce(slot), harness.now)
            .unwrap();
    }
    let mut concurrent = Vec::new();
    for _ in 0..20 {
        let actions = harness.wait();
        let puts: Vec<_> = actions
            .iter()
            .filter(|text| text.starts_with("put"))
            .collect();
        assert!(puts.is_sorted(), "the lowest slot goes first: {puts:?}");
        if !puts.is_empty() {
            concurrent.push(puts.len());
        }
        for action in &actions {
            let (what, slot) = action.split_once(' ').unwrap();
            let slot = Slot(slot.parse().unwrap());
            match what {
                "put" => harness
                    .writer
                    .on_put(slot, PutAnswer::Congested, harness.now, 0),
                _ => harness
                    .writer
                    .on_read_back(slot, ReadBack::Absent, harness.now, 0),
            }
        }
    }
    assert!(concurrent[0] > 4, "{concurrent:?}");
    assert_eq!(concurrent.last(), Some(&1), "{concurrent:?}");
}

#[test]
#[should_panic(expected = "I1")]
fn an_answer_nobody_asked_for_is_a_bug_of_the_driver() {
    let mut harness = Harness::with_slots(1);
    harness.writer.on_put(Slot(0), PutAnswer::Created, START, 0);
}
