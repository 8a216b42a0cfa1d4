use std::time::Duration;

use firn_proto::ids::{CoordinatorEpoch, Slot};

use super::*;

fn at(slot: u64) -> JournalPosition {
    JournalPosition {
        epoch: CoordinatorEpoch(3),
        slot: Slot(slot),
    }
}

/// As who has taken all that was sent.
fn ask(number: u32, after: Option<u64>) -> JournalAsk {
    JournalAsk {
        number,
        after: after.map(at),
        taken: u64::MAX,
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

/// What one that asks so, and may have the state, is sent: the pieces, and whether it then waits for
/// the state.
fn sent(cursor: &mut Cursor, ask: JournalAsk, log: &Log) -> (Vec<Piece>, bool) {
    sent_if(cursor, ask, log, true)
}

fn sent_if(
    cursor: &mut Cursor,
    ask: JournalAsk,
    log: &Log,
    may_have_state: bool,
) -> (Vec<Piece>, bool) {
    let mut pieces = Vec::new();
    loop {
        let filled = cursor.fill(ask, log, may_have_state);
        if !cursor.has_part() {
            return (pieces, filled == Filled::NoState);
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
    assert_eq!(sent(&mut cursor, first, &log), (vec![], true));
    log.show_state(Bytes::from_static(b"state"));
    let state = Piece::State { covers: at(7) };
    assert_eq!(sent(&mut cursor, first, &log), (vec![state], false));
    push(&mut log, 8..10, 10);
    let pieces = vec![slot(8), slot(9)];
    assert_eq!(sent(&mut cursor, first, &log), (pieces, false));
    assert_eq!(sent(&mut cursor, first, &log), (vec![], false));
}

#[test]
fn one_that_has_the_state_gets_what_comes_after() {
    let mut log = log(5);
    push(&mut log, 6..9, 10);
    for (after, expected) in [(5, vec![slot(6), slot(7), slot(8)]), (8, vec![])] {
        let mut cursor = Cursor::default();
        let asks = ask(1, Some(after));
        assert_eq!(sent(&mut cursor, asks, &log), (expected, false));
    }
    for unknown in [4, 9] {
        let asks = ask(1, Some(unknown));
        let sent = sent(&mut Cursor::default(), asks, &log);
        assert_eq!(sent, (vec![], true), "{unknown}");
    }
}

#[test]
fn what_is_long_goes_in_parts_and_anew_if_it_is_asked_for_anew() {
    let mut log = log(5);
    push(&mut log, 6..7, 3 * LINK_PART_BYTES_MAX);
    let mut cursor = Cursor::default();
    let fill = |cursor: &mut Cursor, asks| cursor.fill(asks, &log, true);
    assert_eq!(fill(&mut cursor, ask(1, Some(5))), Filled::AsBefore);
    cursor.cut().unwrap();
    cursor.cut().unwrap();
    assert_eq!(fill(&mut cursor, ask(1, None)), Filled::AsBefore);
    assert_eq!(fill(&mut cursor, ask(2, Some(5))), Filled::AsBefore);
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
    sent(&mut cursor, asks, &log);
    let slots = 20;
    push(&mut log, 1..slots, STANDBY_LOG_BYTES_MAX / 10);
    assert!(log.bytes <= STANDBY_LOG_BYTES_MAX, "{}", log.bytes);
    assert_eq!(log.state, None, "what comes after it is not there");
    assert_eq!(sent_if(&mut cursor, asks, &log, false), (vec![], false));
    assert_eq!(sent(&mut cursor, asks, &log), (vec![], true));
    log.show_state(Bytes::from_static(b"state"));
    let covers = at(slots - 1);
    let state = vec![Piece::State { covers }];
    assert_eq!(sent_if(&mut cursor, asks, &log, false), (vec![], false));
    assert_eq!(sent(&mut cursor, asks, &log), (state, false));
}

/// A link that broke under the state would break under it again and again.
#[test]
fn a_process_is_sent_the_state_no_sooner_over_another_link() {
    let feed = Feed::default();
    let (one, other) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    assert!(feed.may_have_state(one, NOW));
    feed.on_state(one, NOW);
    let soon = NOW.after(STANDBY_STATE_PAUSE - Duration::from_millis(1));
    assert!(!feed.may_have_state(one, soon) && feed.may_have_state(other, soon));
    let later = NOW.after(STANDBY_STATE_PAUSE);
    assert!(feed.may_have_state(one, later));
    feed.on_state(other, later);
    assert_eq!(feed.states().len(), 1, "what is over is not kept");
}

/// Beats wait behind what is on its way.
#[test]
fn no_more_is_on_its_way_than_a_slow_link_carries_between_two_beats() {
    let mut log = log(0);
    log.show_state(Bytes::from(vec![7; 5 * LINK_PART_BYTES_MAX]));
    push(&mut log, 1..400, 1000);
    let mut cursor = Cursor::default();
    let mut asks = ask(1, None);
    asks.taken = 0;
    let mut on_its_way = VecDeque::new();
    loop {
        cursor.fill(asks, &log, true);
        if cursor.has_part() {
            let (JournalPart::State { part, .. } | JournalPart::Slot { part, .. }) =
                cursor.cut().unwrap();
            on_its_way.push_back(part.bytes.len());
            assert!(on_its_way.iter().sum::<usize>() <= STANDBY_AHEAD_BYTES_MAX);
        } else if let Some(came) = on_its_way.pop_front() {
            asks.taken += came as u64;
        } else {
            break;
        }
    }
    assert_eq!(cursor.after, Some(at(399)), "and all of it comes");
}

#[test]
fn a_slot_that_is_longer_than_all_that_is_kept_is_not() {
    let mut log = log(0);
    log.show_state(Bytes::from_static(b"state"));
    push(&mut log, 1..2, STANDBY_LOG_BYTES_MAX + 1);
    assert_eq!((log.bytes, log.slots.len()), (0, 0));
    let asks = ask(1, Some(0));
    let sent = sent(&mut Cursor::default(), asks, &log);
    assert_eq!(sent, (vec![], true));
}

#[test]
fn a_state_that_is_too_long_is_sent_to_nobody() {
    let mut log = log(5);
    log.show_state(Bytes::from(vec![0; STANDBY_STATE_BYTES_MAX + 1]));
    let nothing = (vec![], false);
    let asks = ask(1, None);
    assert_eq!(sent(&mut Cursor::default(), asks, &log), nothing);
}

#[test]
fn who_does_not_lead_says_nothing() {
    let feed = Feed::default();
    feed.push(at(1), Bytes::from_static(b"slot"));
    let nothing = (vec![], false);
    let asks = ask(1, None);
    let log = feed.log();
    assert_eq!(sent(&mut Cursor::default(), asks, &log.borrow()), nothing);
    feed.begin(at(1));
    feed.push(at(2), Bytes::from_static(b"slot"));
    feed.end();
    assert_eq!(sent(&mut Cursor::default(), asks, &log.borrow()), nothing);
}
