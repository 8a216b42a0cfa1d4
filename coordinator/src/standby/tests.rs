use firn_proto::ids::{CoordinatorEpoch, Slot};
use firn_proto::limits::LINK_PART_BYTES_MAX;

use super::*;
use crate::command::{Command, SlotBuilder, Stamped};
use crate::snapshot::encode_snapshot;

fn at(slot: u64) -> JournalPosition {
    JournalPosition {
        epoch: CoordinatorEpoch(3),
        slot: Slot(slot),
    }
}

/// The body of a slot after which that epoch has resigned.
fn body(epoch: u64) -> Bytes {
    body_at(epoch, 1)
}

fn body_at(epoch: u64, at_ms: i64) -> Bytes {
    let mut slot = SlotBuilder::new();
    let command = Command::Resign(CoordinatorEpoch(epoch));
    slot.push(&Stamped { at_ms, command }).unwrap();
    slot.take()
}

fn state_after(epochs: &[u64]) -> State {
    let mut state = State::default();
    for epoch in epochs {
        for stamped in &decode_slot(&body(*epoch)).unwrap() {
            state.apply(stamped);
        }
    }
    state
}

fn parts(piece: Piece, whole: &[u8]) -> Vec<JournalPart> {
    Part::cut(whole).map(|part| piece.part(part)).collect()
}

fn state(covers: JournalPosition, epochs: &[u64]) -> Vec<JournalPart> {
    let whole = encode_snapshot(&state_after(epochs)).unwrap();
    parts(Piece::State { covers }, &whole)
}

fn slot(number: u64, epoch: u64) -> Vec<JournalPart> {
    let (after, at) = (at(number - 1), at(number));
    parts(Piece::Slot { after, at }, &body(epoch))
}

fn take_all(standby: &mut Standby, parts: Vec<JournalPart>) {
    for part in parts {
        standby.take(&part).unwrap();
    }
}

/// One that has the state after slot 10.
fn standby() -> Standby {
    let mut standby = Standby::default();
    standby.on_link();
    take_all(&mut standby, state(at(10), &[1]));
    standby
}

#[test]
fn the_state_and_each_slot_after_it_are_followed() {
    let mut standby = Standby::default();
    standby.on_link();
    let ask = standby.ask();
    assert_eq!(ask.after, None);
    assert_eq!(standby.known_slot(), None);
    take_all(&mut standby, state(at(10), &[1]));
    assert_eq!(
        standby.known_slot(),
        Some(KnownSlot {
            at: at(10),
            body: None
        })
    );
    take_all(&mut standby, slot(11, 2));
    take_all(&mut standby, slot(12, 3));
    let last = KnownSlot {
        at: at(12),
        body: Some(body(3)),
    };
    assert_eq!(standby.known_slot(), Some(last));
    let (number, after) = (ask.number, Some(at(12)));
    let taken = encode_snapshot(&state_after(&[1])).unwrap().len() + body(2).len() + body(3).len();
    let taken = taken as u64;
    let asks = JournalAsk {
        number,
        after,
        taken,
    };
    assert_eq!(standby.ask(), asks);
    let known = standby.take_known().unwrap();
    assert_eq!(known.state, state_after(&[1, 2, 3]));
    assert_eq!(standby.ask().after, None, "it is given away");
}

#[test]
fn a_new_leader_is_asked_for_what_comes_after() {
    let mut standby = standby();
    let before = standby.ask();
    standby.on_link();
    let ask = standby.ask();
    assert_ne!(ask.number, before.number);
    assert_eq!((ask.after, ask.taken), (Some(at(10)), 0));
    let (after, at) = (
        at(10),
        JournalPosition {
            epoch: CoordinatorEpoch(4),
            slot: Slot(1),
        },
    );
    take_all(&mut standby, parts(Piece::Slot { after, at }, &body(2)));
    assert_eq!(standby.ask().after, Some(at));
}

#[test]
fn what_does_not_fit_is_dropped_with_all_the_rest_and_asked_for_anew() {
    let covers = at(20);
    let long = vec![0; 2 * LINK_PART_BYTES_MAX];
    let mut cut = parts(Piece::State { covers }, &long);
    let len = STANDBY_STATE_BYTES_MAX as u64 + 1;
    let bytes = vec![1];
    let too_long = Part { at: 0, len, bytes };
    let mixed = vec![cut[0].clone(), slot(12, 2).remove(0)];
    let elsewhere = vec![
        cut.remove(0),
        parts(Piece::State { covers: at(21) }, &long).remove(1),
    ];
    let (after, slot_at) = (at(10), at(11));
    let misfits = [
        ("a gap", slot(12, 2)),
        ("another piece between the parts", mixed),
        ("a part of another piece", elsewhere),
        ("too long", vec![Piece::State { covers }.part(too_long)]),
        ("no state", parts(Piece::State { covers }, b"nonsense")),
        (
            "no slot",
            parts(Piece::Slot { after, at: slot_at }, b"nonsense"),
        ),
        (
            "time that goes back",
            parts(Piece::Slot { after, at: slot_at }, &body_at(2, 0)),
        ),
        (
            "an empty slot",
            parts(Piece::Slot { after, at: slot_at }, b""),
        ),
    ];
    for (what, mut parts) in misfits {
        let mut standby = standby();
        let before = standby.ask();
        let last = parts.pop().unwrap();
        take_all(&mut standby, parts);
        assert!(standby.take(&last).is_err(), "{what}");
        assert_eq!(standby.known_slot(), None, "{what}");
        let ask = standby.ask();
        assert_ne!(ask.number, before.number, "{what}");
        assert_eq!(ask.after, None, "{what}");
        take_all(&mut standby, slot(21, 4));
        take_all(&mut standby, state(covers, &[3]));
        take_all(&mut standby, slot(21, 4));
        let known = standby.take_known().unwrap();
        assert_eq!(known.state, state_after(&[3, 4]), "{what}");
    }
}

#[test]
fn what_was_on_its_way_before_it_asked_anew_is_passed_over() {
    let mut standby = standby();
    let ask = standby.ask();
    take_all(&mut standby, slot(10, 9));
    take_all(&mut standby, slot(7, 9));
    let long = vec![0; 2 * LINK_PART_BYTES_MAX];
    let rest = parts(Piece::State { covers: at(20) }, &long).split_off(1);
    take_all(&mut standby, rest);
    let asks = standby.ask();
    assert_eq!((asks.number, asks.after), (ask.number, ask.after));
    assert!(asks.taken > ask.taken, "the leader is to know that it came");
    assert_eq!(standby.take_known().unwrap().state, state_after(&[1]));
}

#[test]
fn a_state_that_is_sent_again_takes_the_place_of_the_one_before() {
    let mut standby = standby();
    let first = state(at(20), &[5]).remove(0);
    let half = match first {
        JournalPart::State { covers, part } => {
            let bytes = part.bytes[..2].to_vec();
            Piece::State { covers }.part(Part { bytes, ..part })
        }
        slot => slot,
    };
    standby.take(&half).unwrap();
    take_all(&mut standby, state(at(20), &[5]));
    assert_eq!(standby.ask().after, Some(at(20)));
}

/// Offsets that are committed again and again take no more room, but that cannot be told from the
/// slots.
#[test]
fn when_much_has_come_the_state_is_asked_for_anew() {
    let mut standby = standby();
    let before = standby.ask();
    standby.known.as_mut().unwrap().log_bytes = STANDBY_BYTES_MAX;
    take_all(&mut standby, slot(11, 2));
    let asks = standby.ask();
    assert_ne!(asks.number, before.number);
    assert_eq!(asks.after, None, "the state and nothing else");
    // Meanwhile it could take over.
    take_all(&mut standby, slot(12, 3));
    assert_eq!(standby.ask().number, asks.number, "once will do");
    assert_eq!(standby.known_slot().unwrap().at, at(12));
    let mut again = state(at(20), &[1, 2, 3, 4]);
    let last = again.pop().unwrap();
    take_all(&mut standby, again);
    assert_eq!(standby.known_slot().unwrap().at, at(12));
    standby.take(&last).unwrap();
    assert_eq!(standby.ask().after, Some(at(20)));
    take_all(&mut standby, slot(21, 5));
    let known = standby.take_known().unwrap();
    assert_eq!(known.state, state_after(&[1, 2, 3, 4, 5]));
}
