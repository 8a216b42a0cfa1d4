use std::time::Duration;

use firn_proto::ids::{CoordinatorEpoch, Slot};
use firn_proto::limits::LINK_PART_BYTES_MAX;

use super::*;

fn at(slot: u64) -> JournalPosition {
    JournalPosition {
        epoch: CoordinatorEpoch(3),
        slot: Slot(slot),
    }
}

fn ask(number: u32, after: Option<u64>) -> JournalAsk {
    JournalAsk {
        number,
        after: after.map(at),
    }
}

fn log(end: u64) -> Log {
    Log {
        end: Some(at(end)),
        ..Log::default()
    }
}

fn push(log: &mut Log, slots: std::ops::Range<u64>, bytes: usize) {
    for slot in slots {
        log.push(at(slot), Bytes::from(vec![slot as u8; bytes]));
    }
}

const NOW: Mono = Mono(1_000_000);

/// What one that asks so is sent: the pieces, and whether it then waits for the state.
fn sent(cursor: &mut Cursor, ask: JournalAsk, log: &Log, now: Mono) -> (Vec<Piece>, bool) {
    let mut pieces = Vec::new();
    loop {
        let waits = cursor.fill(ask, log, now);
        if !cursor.has_part() {
            return (pieces, waits);
        }
        while let Some(part) = cursor.cut() {
            let (piece, last) = match part {
                JournalPart::State { covers, part } => (Piece::State { covers }, part.is_last()),
                JournalPart::Slot { after, at, part } => {
                    (Piece::Slot { after, at }, part.is_last())
                }
            };
            if last {
                pieces.push(piece);
            }
        }
    }
}

fn slot(number: u64) -> Piece {
    Piece::Slot {
        after: at(number - 1),
        at: at(number),
    }
}

#[test]
fn a_standby_gets_the_state_and_then_every_slot() {
    let mut log = log(5);
    push(&mut log, 6..8, 10);
    let mut cursor = Cursor::default();
    let first = ask(1, None);
    assert_eq!(sent(&mut cursor, first, &log, NOW), (vec![], true));
    log.show_state(Bytes::from_static(b"state"));
    let state = Piece::State { covers: at(7) };
    assert_eq!(sent(&mut cursor, first, &log, NOW), (vec![state], false));
    push(&mut log, 8..10, 10);
    let pieces = vec![slot(8), slot(9)];
    assert_eq!(sent(&mut cursor, first, &log, NOW), (pieces, false));
    assert_eq!(sent(&mut cursor, first, &log, NOW), (vec![], false));
}

#[test]
fn one_that_has_the_state_gets_what_comes_after() {
    let mut log = log(5);
    push(&mut log, 6..9, 10);
    for (after, expected) in [(5, vec![slot(6), slot(7), slot(8)]), (8, vec![])] {
        let mut cursor = Cursor::default();
        let asks = ask(1, Some(after));
        assert_eq!(sent(&mut cursor, asks, &log, NOW), (expected, false));
    }
    for unknown in [4, 9] {
        let asks = ask(1, Some(unknown));
        let sent = sent(&mut Cursor::default(), asks, &log, NOW);
        assert_eq!(sent, (vec![], true), "{unknown}");
    }
}

#[test]
fn what_is_long_goes_in_parts_and_anew_if_it_is_asked_for_anew() {
    let mut log = log(5);
    push(&mut log, 6..7, 3 * LINK_PART_BYTES_MAX);
    let mut cursor = Cursor::default();
    assert!(!cursor.fill(ask(1, Some(5)), &log, NOW));
    cursor.cut().unwrap();
    cursor.cut().unwrap();
    assert!(!cursor.fill(ask(1, None), &log, NOW), "it is being sent");
    assert!(!cursor.fill(ask(2, Some(5)), &log, NOW));
    let Some(JournalPart::Slot { part, .. }) = cursor.cut() else {
        panic!("{cursor:?}")
    };
    assert_eq!(part.at, 0);
}

#[test]
fn who_is_behind_gets_the_state_again_but_not_without_end() {
    let mut log = log(0);
    log.show_state(Bytes::from_static(b"state"));
    let mut cursor = Cursor::default();
    let asks = ask(1, None);
    sent(&mut cursor, asks, &log, NOW);
    let slots = 20;
    push(&mut log, 1..slots, STANDBY_LOG_BYTES_MAX / 10);
    assert!(log.bytes <= STANDBY_LOG_BYTES_MAX, "{}", log.bytes);
    assert_eq!(log.state, None, "what comes after it is not there");
    let soon = NOW.after(STANDBY_STATE_PAUSE - Duration::from_millis(1));
    assert_eq!(sent(&mut cursor, asks, &log, soon), (vec![], false));
    let later = NOW.after(STANDBY_STATE_PAUSE);
    assert_eq!(sent(&mut cursor, asks, &log, later), (vec![], true));
    log.show_state(Bytes::from_static(b"state"));
    let covers = at(slots - 1);
    let state = vec![Piece::State { covers }];
    assert_eq!(sent(&mut cursor, asks, &log, soon), (vec![], false));
    assert_eq!(sent(&mut cursor, asks, &log, later), (state, false));
}

#[test]
fn a_slot_that_is_longer_than_all_that_is_kept_is_not() {
    let mut log = log(0);
    log.show_state(Bytes::from_static(b"state"));
    push(&mut log, 1..2, STANDBY_LOG_BYTES_MAX + 1);
    assert_eq!((log.bytes, log.slots.len()), (0, 0));
    let asks = ask(1, Some(0));
    let sent = sent(&mut Cursor::default(), asks, &log, NOW);
    assert_eq!(sent, (vec![], true));
}

#[test]
fn a_state_that_is_too_long_is_sent_to_nobody() {
    let mut log = log(5);
    log.show_state(Bytes::from(vec![0; STANDBY_STATE_BYTES_MAX + 1]));
    let nothing = (vec![], false);
    let asks = ask(1, None);
    assert_eq!(sent(&mut Cursor::default(), asks, &log, NOW), nothing);
}

#[test]
fn who_does_not_lead_says_nothing() {
    let feed = Feed::default();
    feed.push(at(1), Bytes::from_static(b"slot"));
    let nothing = (vec![], false);
    let asks = ask(1, None);
    let log = feed.log();
    assert_eq!(
        sent(&mut Cursor::default(), asks, &log.borrow(), NOW),
        nothing
    );
    feed.begin(at(1));
    feed.push(at(2), Bytes::from_static(b"slot"));
    feed.end();
    assert_eq!(
        sent(&mut Cursor::default(), asks, &log.borrow(), NOW),
        nothing
    );
}
