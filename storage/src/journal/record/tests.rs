use super::*;
use proptest::prelude::*;

fn at(epoch: u64, slot: u64) -> JournalPosition {
    JournalPosition {
        epoch: CoordinatorEpoch(epoch),
        slot: Slot(slot),
    }
}

fn claim() -> EpochClaim {
    EpochClaim {
        cluster: ClusterId([1; 16]),
        epoch: CoordinatorEpoch(1 << 40),
        nonce: Nonce([2; 16]),
        identity: Bytes::from_static(b"broker 1"),
    }
}

fn process() -> ProcessRecord {
    ProcessRecord {
        cluster: ClusterId([1; 16]),
        fingerprint: Fingerprint([0xfe; 32]),
        card: Bytes::from_static(b"broker 1"),
    }
}

fn snapshot(floor: Option<JournalPosition>) -> Snapshot {
    Snapshot {
        cluster: ClusterId([1; 16]),
        covers: at(3, 1 << 33),
        floor,
        body: Bytes::from_static(b"state"),
    }
}

fn opening() -> JournalIndex {
    JournalIndex::Open(Opening {
        base: Some(at(2, 9)),
        ends: vec![
            (CoordinatorEpoch(2), Slot(12)),
            (CoordinatorEpoch(3), Slot(0)),
        ],
    })
}

#[test]
fn every_object_reads_back_what_was_written() {
    let cluster = ClusterId([7; 16]);
    assert_eq!(decode_cluster(&encode_cluster(cluster)), Ok(cluster));
    assert_eq!(EpochClaim::decode(&claim().encode()), Ok(claim()));
    assert_eq!(ProcessRecord::decode(&process().encode()), Ok(process()));
    for floor in [None, Some(at(3, 4))] {
        assert_eq!(
            Snapshot::decode(&snapshot(floor).encode()),
            Ok(snapshot(floor))
        );
    }
    for index in [JournalIndex::Entry, opening()] {
        assert_eq!(JournalIndex::decode(&index.encode()), Ok(index));
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_found() {
    for good in [
        encode_cluster(ClusterId([7; 16])),
        claim().encode(),
        process().encode(),
        snapshot(Some(at(1, 1))).encode(),
    ] {
        let is_bad = |bytes: Bytes| {
            decode_cluster(&bytes).is_err()
                && EpochClaim::decode(&bytes).is_err()
                && ProcessRecord::decode(&bytes).is_err()
                && Snapshot::decode(&bytes).is_err()
        };
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(is_bad(bytes.into()), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(is_bad(good.slice(..len)), "{len} bytes");
        }
    }
}

#[test]
fn an_opening_out_of_order_is_refused() {
    let JournalIndex::Open(mut opening) = opening() else {
        panic!("an opening");
    };
    opening.ends.reverse();
    let read = JournalIndex::decode(&JournalIndex::Open(opening).encode());
    assert!(matches!(read, Err(RecordFault::Field(_))), "{read:?}");
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    let mut bytes = opening().encode().to_vec();
    bytes[20..28].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(JournalIndex::decode(&bytes), Err(RecordFault::Short));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = JournalIndex::decode(&bytes);
        let _ = EpochClaim::decode(&bytes);
        let _ = Snapshot::decode(&bytes);
        let _ = decode_cluster(&bytes);
    }
}
