use std::time::Duration;

use super::super::testing::{data_header, name, nonce, seal_header};
use super::*;

/// A sealer with answers given by hand.
struct Harness {
    sealer: Sealer,
    now: Mono,
}

impl Harness {
    fn new(floor: u64, from: u64) -> Self {
        let spec = SealSpec {
            stream: name(),
            floor: Slot(floor),
            from: Slot(from),
        };
        Self {
            sealer: Sealer::new(spec, nonce(50)),
            now: Mono(0),
        }
    }

    fn actions(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(action) = self.sealer.poll() {
            match action {
                SealAction::Put { slot, object } => {
                    assert_eq!(object, seal_object(&name(), slot, nonce(50)), "I1");
                    texts.push(format!("put {slot}"));
                }
                SealAction::Read { slot } => texts.push(format!("read {slot}")),
                SealAction::Done(outcome) => {
                    texts.push(match outcome {
                        Ok(sealed) => format!("end {}", sealed.end),
                        Err(fault) => format!("{fault:?}"),
                    });
                    break;
                }
            }
        }
        texts
    }

    fn put(&mut self, slot: u64, answer: PutAnswer) -> Vec<String> {
        self.sealer.on_put(Slot(slot), answer, self.now, 0);
        self.actions()
    }

    fn read(&mut self, slot: u64, found: ReadBack) -> Vec<String> {
        self.sealer.on_read(Slot(slot), found, self.now, 0);
        self.actions()
    }

    fn wait(&mut self) -> Vec<String> {
        self.now = self.now.after(Duration::from_secs(60));
        self.sealer.on_timeout(self.now);
        self.actions()
    }

    /// Answers every read from `data` slots below `end`, nothing there above, until the sealer
    /// puts; returns what it wants to put.
    fn walk(&mut self, end: u64) -> Vec<String> {
        let mut puts = Vec::new();
        let mut todo = self.actions();
        while let Some(action) = todo.pop() {
            match action.split_once(' ') {
                Some(("read", slot)) => {
                    let slot: u64 = slot.parse().unwrap();
                    let found = if slot < end {
                        data(slot)
                    } else {
                        ReadBack::Absent
                    };
                    todo.extend(self.read(slot, found));
                }
                _ => puts.push(action),
            }
        }
        puts
    }
}

fn data(slot: u64) -> ReadBack {
    let before = if slot == 0 {
        Nonce::NONE
    } else {
        nonce(slot - 1)
    };
    ReadBack::Found(data_header(slot, nonce(slot), before))
}

fn sealed(slot: u64) -> ReadBack {
    ReadBack::Found(seal_header(slot, nonce(60)))
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_stream_without_a_slot_ends_at_its_first() {
    let mut harness = Harness::new(0, 0);
    assert_eq!(harness.actions(), ["read 0", "read 1"]);
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["end 0"]);
}

#[test]
fn a_dead_writers_stream_ends_after_its_last_slot() {
    for end in [1, 2, 7, 8, 31, 100] {
        let mut harness = Harness::new(0, 0);
        assert_eq!(harness.walk(end), [format!("put {end}")]);
        assert_eq!(harness.put(end, PutAnswer::Created), [format!("end {end}")]);
    }
}

#[test]
fn slots_that_landed_beyond_a_gap_are_lost() {
    let mut harness = Harness::new(0, 0);
    assert_eq!(harness.actions(), ["read 0", "read 1"]);
    assert_eq!(harness.read(1, data(1)), NOTHING);
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["end 0"]);
}

#[test]
fn a_stream_that_is_sealed_already_keeps_its_end() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    assert_eq!(harness.read(1, sealed(1)), NOTHING);
    assert!(harness.read(0, data(0)).contains(&"end 1".to_owned()));
}

#[test]
fn a_wall_decides_nothing_while_a_slot_below_it_is_free() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    assert_eq!(harness.read(1, sealed(1)), NOTHING);
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["end 0"]);
}

#[test]
fn a_seal_put_that_was_applied_without_an_answer_is_found() {
    for answer in [PutAnswer::Unclear, PutAnswer::Congested, PutAnswer::Refused] {
        let mut harness = Harness::new(0, 0);
        harness.actions();
        harness.read(0, ReadBack::Absent);
        assert_eq!(harness.put(0, answer), NOTHING);
        assert_eq!(harness.wait(), ["read 0"]);
        let own = ReadBack::Found(seal_header(0, nonce(50)));
        assert_eq!(harness.read(0, own), ["end 0"]);
    }
}

#[test]
fn a_seal_put_that_was_not_applied_is_put_again() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    harness.read(0, ReadBack::Absent);
    harness.put(0, PutAnswer::Unclear);
    assert_eq!(harness.wait(), ["read 0"]);
    assert_eq!(harness.read(0, ReadBack::Absent), NOTHING);
    assert_eq!(harness.wait(), ["put 0"]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["end 0"]);
}

#[test]
fn a_409_on_a_seal_is_put_again() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    harness.read(0, ReadBack::Absent);
    assert_eq!(harness.put(0, PutAnswer::Exists), ["read 0"]);
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    assert_eq!(harness.put(0, PutAnswer::Created), ["end 0"]);
}

#[test]
fn of_two_sealers_the_slower_takes_the_end_of_the_faster() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    harness.read(0, ReadBack::Absent);
    assert_eq!(harness.put(0, PutAnswer::Exists), ["read 0"]);
    assert_eq!(harness.read(0, sealed(0)), ["end 0"]);
}

/// Loses the put of a seal at `slot` to a live writer.
fn lose(harness: &mut Harness, slot: u64) -> Vec<String> {
    let mut actions = harness.put(slot, PutAnswer::Exists);
    assert_eq!(actions.pop(), Some(format!("read {slot}")));
    harness.read(slot, data(slot))
}

#[test]
fn a_live_writer_that_outruns_the_sealer_runs_into_a_wall() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    assert_eq!(harness.read(1, ReadBack::Absent), NOTHING);
    assert_eq!(harness.read(0, ReadBack::Absent), ["put 0"]);
    // The writer takes slots 0 and 1 at the last moment.
    let after_first = lose(&mut harness, 0);
    assert!(after_first.contains(&"put 1".to_owned()), "{after_first:?}");
    let after_second = lose(&mut harness, 1);
    let wall = format!("put {}", 2 + WALL_DISTANCE);
    let near = |text: &&String| text.starts_with("put");
    let puts: Vec<_> = after_second.iter().filter(near).collect();
    assert_eq!(puts, [&wall], "{after_second:?}");
}

/// A sealer that has lost twice and has its wall standing; slots 0 and 1 are data.
fn walled() -> (Harness, u64) {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    harness.read(1, ReadBack::Absent);
    harness.read(0, ReadBack::Absent);
    lose(&mut harness, 0);
    lose(&mut harness, 1);
    let wall = 2 + WALL_DISTANCE;
    (harness, wall)
}

#[test]
fn behind_a_wall_the_walk_goes_on_to_the_first_free_slot() {
    let (mut harness, wall) = walled();
    harness.put(wall, PutAnswer::Created);
    let mut actions = Vec::new();
    for slot in 2..10 {
        actions.extend(harness.read(
            slot,
            if slot < 5 {
                data(slot)
            } else {
                ReadBack::Absent
            },
        ));
    }
    assert!(actions.contains(&"put 5".to_owned()), "{actions:?}");
    assert_eq!(harness.put(5, PutAnswer::Created), ["end 5"]);
}

#[test]
fn a_writer_that_fills_every_slot_ends_at_the_wall() {
    let (mut harness, wall) = walled();
    let mut todo = harness.put(wall, PutAnswer::Created);
    todo.extend((2..10).map(|slot| format!("read {slot}")));
    let mut end = None;
    while let Some(action) = todo.pop() {
        match action.split_once(' ').unwrap() {
            ("read", slot) => {
                let slot: u64 = slot.parse().unwrap();
                let found = match slot.cmp(&wall) {
                    std::cmp::Ordering::Less => data(slot),
                    std::cmp::Ordering::Equal => sealed(slot),
                    std::cmp::Ordering::Greater => ReadBack::Absent,
                };
                todo.extend(harness.read(slot, found));
            }
            ("end", slot) => end = Some(slot.to_owned()),
            _ => panic!("{action}"),
        }
    }
    assert_eq!(end, Some(wall.to_string()));
}

#[test]
fn a_wall_whose_put_is_unclear_is_resolved_by_reading_back() {
    let (mut harness, wall) = walled();
    assert_eq!(harness.put(wall, PutAnswer::Unclear), NOTHING);
    assert_eq!(harness.wait(), [format!("read {wall}")]);
    assert_eq!(harness.read(wall, ReadBack::Absent), NOTHING);
    assert_eq!(harness.wait(), [format!("put {wall}")]);
}

#[test]
fn a_wall_that_comes_too_late_is_put_further_on() {
    let (mut harness, wall) = walled();
    assert_eq!(
        harness.put(wall, PutAnswer::Exists),
        [format!("read {wall}")]
    );
    let next = format!("put {}", wall + WALL_DISTANCE);
    assert_eq!(harness.read(wall, data(wall)), [next]);
}

#[test]
fn the_last_slot_of_the_known_prefix_is_looked_at_before_anything_is_sealed() {
    let mut harness = Harness::new(0, 5);
    assert_eq!(harness.actions(), ["read 4", "read 5", "read 6"]);
    assert_eq!(harness.read(5, ReadBack::Absent), NOTHING);
    assert_eq!(harness.read(4, data(4)), ["put 5"]);
    assert_eq!(harness.put(5, PutAnswer::Created), ["end 5"]);
}

#[test]
fn a_slot_missing_inside_the_known_prefix_is_a_fault_of_the_store() {
    let mut harness = Harness::new(0, 5);
    harness.actions();
    harness.read(5, ReadBack::Absent);
    for _ in 0..FAULTS_MAX {
        assert_eq!(harness.read(4, ReadBack::Absent), NOTHING);
        assert_eq!(harness.wait(), ["read 4"]);
    }
    assert_eq!(
        harness.read(4, ReadBack::Absent),
        ["PrefixLost { slot: Slot(4) }"]
    );
}

#[test]
fn a_seal_inside_the_known_prefix_is_a_fault_of_the_store() {
    let mut harness = Harness::new(0, 5);
    harness.actions();
    assert_eq!(harness.read(4, sealed(4)), ["PrefixLost { slot: Slot(4) }"]);
}

#[test]
fn a_stream_collected_up_to_its_prefix_is_not_looked_at_below_its_floor() {
    let mut harness = Harness::new(5, 5);
    assert_eq!(harness.actions(), ["read 5", "read 6"]);
    assert_eq!(harness.read(5, ReadBack::Absent), ["put 5"]);
}

#[test]
fn a_slot_that_was_replaced_breaks_the_chain() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    harness.read(0, ReadBack::Found(data_header(0, nonce(77), Nonce::NONE)));
    let actions = harness.read(1, data(1));
    assert!(
        actions[0].starts_with("Chain { slot: Slot(1)"),
        "{actions:?}"
    );
}

#[test]
fn bytes_that_are_no_slot_decide_nothing() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    for _ in 0..FAULTS_MAX {
        assert_eq!(harness.read(0, ReadBack::Unreadable), NOTHING);
        assert_eq!(harness.wait(), ["read 0"]);
    }
    let actions = harness.read(0, ReadBack::Unreadable);
    assert_eq!(actions, ["Unreadable { slot: Slot(0) }"]);
}

#[test]
fn a_store_that_stays_silent_is_given_up() {
    let mut harness = Harness::new(0, 0);
    harness.actions();
    for _ in 0..FAILURES_MAX {
        assert_eq!(harness.read(0, ReadBack::Failed), NOTHING);
        assert_eq!(harness.wait(), ["read 0"]);
    }
    let actions = harness.read(0, ReadBack::Failed);
    assert_eq!(actions, ["Unavailable { slot: Slot(0) }"]);
}
