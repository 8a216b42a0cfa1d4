use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::state::{BatchFlags, ProducerBatch, Run};
use firn_proto::limits::RUNS_PER_PAGE;

const FAR: i64 = (1 << 32) + 7;

fn tp() -> TopicPartition {
    TopicPartition {
        topic: TopicId([0xab; 16]),
        partition: PartitionIndex(300),
    }
}

/// Slots with one run each: (records, epoch bump, producer, slots passed by).
fn row(start: i64, slots: &[(u16, bool, i64, u8)]) -> StateRow {
    let mut row = StateRow::new(tp(), LeaderEpoch(1));
    row.log_start = start;
    row.end_offset = start;
    let mut sequences = std::collections::BTreeMap::new();
    let mut at = SlotPosition {
        stream: StreamId(5),
        slot: Slot(0),
    };
    for (records, bump, producer, gap) in slots {
        if *bump {
            row.begin_epoch(LeaderEpoch(row.epoch.0 + 1));
            at.stream.0 += 3;
            at.slot = Slot(0);
        }
        at.slot.0 += 1 + u64::from(*gap);
        let count = u32::from(*records) + 1;
        let run = Run {
            tp: tp(),
            epoch: row.epoch,
            base_offset: row.end_offset,
            last_offset: row.end_offset + i64::from(*records),
            byte_start: 4000,
            byte_len: count * 90,
            max_timestamp: 1_700_000_000_000 + i64::from(*records),
            flags: BatchFlags(u8::from(*gap % 2 == 1)),
        };
        let sequence = sequences.entry(*producer).or_insert(0_i32);
        let batch = ProducerBatch {
            tp: tp(),
            producer: ProducerId(*producer),
            producer_epoch: ProducerEpoch(0),
            base_sequence: *sequence,
            count,
            base_offset: run.base_offset,
            max_timestamp: run.max_timestamp,
            flags: run.flags,
        };
        *sequence += i32::from(*records) + 1;
        row.apply_slot(at, &[run], &[batch], 1_700_000_000_500)
            .unwrap();
    }
    row
}

fn bytes(row: &StateRow) -> Vec<u8> {
    let mut out = Vec::new();
    row.encode(&mut out, &mut no_pages());
    out
}

/// Takes no pages in: none of the rows here has runs in its stream.
fn no_pages() -> NewPages {
    NewPages::new(StreamId(u64::MAX), 16)
}

fn decoded(bytes: &mut &[u8]) -> Decoded<StateRow> {
    StateRow::decode(bytes)?.with_pages(|_| None)
}

/// A fold of older bytes must give the same state in every later release.
#[test]
fn the_bytes_of_a_row_are_these() {
    let mut golden = row(FAR, &[(9, false, 4000, 0), (0, true, 4001, 1)]);
    golden.open_txns.push(OpenTxn {
        producer: ProducerId(4001),
        first_offset: FAR + 10,
    });
    golden.aborted.push(AbortedTxn {
        producer: ProducerId(4000),
        first_offset: FAR,
        last_offset: FAR + 3,
    });
    let hex: String = bytes(&golden)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, include_str!("../testdata/state_row_v2.hex").trim_end());
    assert_eq!(decoded(&mut bytes(&golden).as_slice()), Ok(golden.clone()));
    let older = include_str!("../testdata/state_row_v1.hex").trim_end();
    let byte = |at: usize| u8::from_str_radix(&older[at..at + 2], 16).unwrap();
    let older: Vec<u8> = (0..older.len()).step_by(2).map(byte).collect();
    assert_eq!(
        decoded(&mut older.as_slice()),
        Ok(golden),
        "version 1 is read"
    );
}

#[test]
fn a_partition_without_records_takes_few_bytes() {
    assert!(bytes(&StateRow::new(tp(), LeaderEpoch(1))).len() < 32);
}

#[test]
fn runs_take_few_bytes_each() {
    let slots = vec![(99, false, 1, 0); 1000];
    let len = bytes(&row(FAR, &slots)).len();
    assert!(len < 16 * 1000, "{len}");
}

/// Two full pages, and some runs more.
fn long_row() -> StateRow {
    row(FAR, &vec![(9, false, 1, 0); 2 * RUNS_PER_PAGE as usize + 5])
}

#[test]
fn full_pages_stand_beside_the_row_and_later_rows_say_where() {
    let mut live = long_row();
    let mut new = NewPages::new(StreamId(5), 16);
    let mut first = Vec::new();
    live.encode(&mut first, &mut new);
    let (pages, written) = new.into_parts();
    assert_eq!(written.len(), 2);
    let object = [&[0; 16][..], &pages].concat();
    let bytes_at = |place: &PagePlace| {
        assert_eq!((place.stream, place.slot), (StreamId(5), Slot(77)));
        object
            .get(place.start as usize..)?
            .get(..place.len as usize)
    };
    let mut stored = StateRow::decode(&mut first.as_slice()).unwrap();
    assert!(
        stored.clone().with_pages(bytes_at).is_err(),
        "which object?"
    );
    stored.found_in(StreamId(5), Slot(77));
    assert_eq!(stored.with_pages(bytes_at), Ok(live.clone()));

    for page in written {
        let place = PagePlace {
            stream: StreamId(5),
            slot: Slot(77),
            start: page.start,
            len: page.len,
        };
        live.runs.on_stored(page.base_offset, place);
    }
    // whoever owns it next refers to the same pages
    for stream in [5, 6] {
        let mut new = NewPages::new(StreamId(stream), 16);
        let mut later = Vec::new();
        live.encode(&mut later, &mut new);
        assert!(new.into_parts().1.is_empty());
        assert!(later.len() < 300, "{}", later.len());
        let stored = StateRow::decode(&mut later.as_slice()).unwrap();
        assert_eq!(stored.clone().with_pages(bytes_at), Ok(live.clone()));
        let place = stored.places().next().unwrap();
        let missing = Err(StateRowFault::Page(place));
        assert_eq!(stored.with_pages(|_| None), missing);
    }
}

#[test]
fn a_damaged_page_is_named() {
    let live = long_row();
    let mut new = NewPages::new(StreamId(5), 0);
    let mut bytes = Vec::new();
    live.encode(&mut bytes, &mut new);
    let (pages, _) = new.into_parts();
    let mut stored = StateRow::decode(&mut bytes.as_slice()).unwrap();
    stored.found_in(StreamId(5), Slot(0));
    let first = stored.places().next().unwrap();
    for bit in (0..first.len as usize * 8).step_by(97) {
        let mut pages = pages.clone();
        pages[bit / 8] ^= 1 << (bit % 8);
        let read = stored
            .clone()
            .with_pages(|place| pages.get(place.start as usize..)?.get(..place.len as usize));
        assert_eq!(read, Err(StateRowFault::Page(first)), "bit {bit}");
    }
}

/// The floor of the owner's stream knows nothing of runs that lie in another.
#[test]
fn pages_whose_runs_lie_in_another_stream_stay_in_the_row() {
    let live = long_row();
    let mut new = NewPages::new(StreamId(6), 16);
    let mut bytes = Vec::new();
    live.encode(&mut bytes, &mut new);
    assert!(new.into_parts().1.is_empty());
    assert_eq!(decoded(&mut bytes.as_slice()), Ok(live));
}

/// A process that crashed had filled pages that no checkpoint holds. The next one stores them as
/// soon as it may: each row would hold all of them again.
#[test]
fn full_pages_of_an_earlier_process_are_stored_by_the_next() {
    let in_both: Vec<_> = (0..2 * RUNS_PER_PAGE + 7)
        .map(|at| (9, at == 2 * RUNS_PER_PAGE + 5, 1, 0))
        .collect();
    let live = row(FAR, &in_both);
    let mut new = NewPages::new(StreamId(8), 16);
    let mut bytes = Vec::new();
    live.encode(&mut bytes, &mut new);
    assert!(bytes.len() < 300, "{} bytes", bytes.len());
    let (pages, _) = new.into_parts();
    let object = [&[0; 16][..], &pages].concat();
    let mut stored = StateRow::decode(&mut bytes.as_slice()).unwrap();
    stored.found_in(StreamId(8), Slot(77));
    let read = stored.with_pages(|place| {
        let page = object.get(place.start as usize..)?;
        page.get(..place.len as usize)
    });
    assert_eq!(read, Ok(live));
}

/// What is written to the bucket is weighed against it.
#[test]
fn the_estimate_counts_every_page_that_stays_in_the_row() {
    let long = row(FAR, &vec![(9, false, 1, 0); 20 * RUNS_PER_PAGE as usize]);
    let (estimate, len) = (long.encoded_len_estimate(), bytes(&long).len());
    assert!(estimate >= len, "{estimate} for {len}");
}

#[test]
fn a_newer_version_is_refused_as_such() {
    let mut bytes = bytes(&row(0, &[]));
    bytes[0] = 3;
    assert_eq!(
        decoded(&mut bytes.as_slice()),
        Err(StateRowFault::Version(3))
    );
}

#[test]
fn a_count_beyond_the_bytes_takes_no_memory() {
    let empty = bytes(&row(0, &[]));
    // the number of runs is the last byte of a row without any
    let mut hostile = empty[..empty.len() - 1].to_vec();
    put_u64(&mut hostile, u64::MAX >> 1);
    assert_eq!(
        decoded(&mut hostile.as_slice()),
        Err(StateRowFault::Broken("more items than bytes"))
    );
}

proptest! {
    #[test]
    fn rows_strung_together_read_back(
        first in vec((any::<u16>(), any::<bool>(), 0..6_i64, any::<u8>()), 0..1200),
        second in vec((any::<u16>(), any::<bool>(), 0..6_i64, any::<u8>()), 0..30),
        start in prop_oneof![Just(0), Just(FAR), Just(1 << 50)],
    ) {
        let rows = [row(start, &first), row(0, &second)];
        let mut out = Vec::new();
        rows.iter()
            .for_each(|row| row.encode(&mut out, &mut no_pages()));
        let mut rest = out.as_slice();
        for row in rows {
            prop_assert_eq!(decoded(&mut rest), Ok(row));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_row_that_is_cut_off_is_refused(
        slots in vec((any::<u16>(), any::<bool>(), 0..6_i64, any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = bytes(&row(FAR, &slots));
        let cut = cut.index(bytes.len());
        prop_assert!(decoded(&mut &bytes[..cut]).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(
        slots in vec((any::<u16>(), any::<bool>(), 0..6_i64, any::<u8>()), 0..5),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        noise in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = bytes(&row(FAR, &slots));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes[0] = STATE_ROW_VERSION;
        let _ = decoded(&mut bytes.as_slice());
        let _ = decoded(&mut [&[STATE_ROW_VERSION][..], &noise].concat().as_slice());
    }
}
