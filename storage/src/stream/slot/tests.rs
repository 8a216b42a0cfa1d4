use super::super::StreamName;
use super::super::testing::{CLUSTER, body, data_object, name, nonce, seal_header};
use super::*;
use proptest::prelude::*;

fn object() -> Bytes {
    data_object(3, nonce(3), nonce(2))
}

/// `object` with `byte` at `at` and the header's checksum made right again.
fn forged(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = object().to_vec();
    bytes[at] = byte;
    let crc = crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_header_reads_back_what_was_written() {
    let object = object();
    let header = SlotHeader::decode(&object).unwrap();
    assert_eq!(header.kind, SlotKind::Data);
    assert_eq!((header.stream, header.slot), (StreamId(7), Slot(3)));
    assert_eq!((header.nonce, header.prev_nonce), (nonce(3), nonce(2)));
    assert_eq!(header.object_len(), object.len() as u64);
    assert_eq!(header.encode(), object.slice(..HEADER_LEN));
}

#[test]
fn index_and_body_are_cut_out_under_their_checksums() {
    let object = object();
    let header = SlotHeader::decode(&object).unwrap();
    assert_eq!(header.index_of(&object).unwrap(), "index of slot 3");
    assert_eq!(header.body_of(&object).unwrap(), "slot 3!");
}

#[test]
fn slots_and_streams_beyond_32_bits_survive() {
    let stream = StreamName::wal(CLUSTER, StreamId(u64::MAX - 1));
    let slot = Slot((1 << 32) + 5);
    let parts = body("far").into_object(&stream, slot, nonce(1), nonce(0));
    let header = SlotHeader::decode(&parts[0]).unwrap();
    assert_eq!((header.stream, header.slot), (stream.stream, slot));
}

#[test]
fn a_seal_is_a_bare_header() {
    let seal = seal_object(&name(), Slot(9), nonce(1));
    assert_eq!(seal.len(), HEADER_LEN);
    let header = seal_header(9, nonce(1));
    assert_eq!(header.kind, SlotKind::Seal);
    assert_eq!(header.object_len(), HEADER_LEN as u64);
    assert_eq!(header.index_of(&seal).unwrap(), "");
    assert_eq!(header.body_of(&seal).unwrap(), "");
}

#[test]
fn every_flipped_bit_is_found() {
    let good = object();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let bytes = Bytes::from(bytes);
        let read = SlotHeader::decode(&bytes)
            .and_then(|header| header.index_of(&bytes).map(|_| header))
            .and_then(|header| header.body_of(&bytes));
        assert!(read.is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_found() {
    let good = object();
    for len in 0..good.len() {
        let bytes = good.slice(..len);
        let read = SlotHeader::decode(&bytes).and_then(|header| header.body_of(&bytes));
        assert!(
            matches!(read, Err(SlotFault::Short { .. })),
            "{len} {read:?}"
        );
    }
}

#[test]
fn bytes_after_the_body_are_found() {
    let mut bytes = object().to_vec();
    bytes.push(0);
    let bytes = Bytes::from(bytes);
    let header = SlotHeader::decode(&bytes).unwrap();
    assert!(matches!(
        header.body_of(&bytes),
        Err(SlotFault::Long { .. })
    ));
}

#[test]
fn what_a_later_release_wrote_is_refused_by_name() {
    assert_eq!(
        SlotHeader::decode(&forged(8, 2)),
        Err(SlotFault::Version { found: 2 })
    );
    assert_eq!(
        SlotHeader::decode(&forged(12, 1)),
        Err(SlotFault::Features { found: 1 })
    );
}

#[test]
fn fields_that_mean_nothing_are_refused() {
    for (at, field) in [(10, "kind"), (11, "stream kind")] {
        let read = SlotHeader::decode(&forged(at, 3));
        assert!(
            matches!(read, Err(SlotFault::Field { field: found, .. }) if found == field),
            "{read:?}"
        );
    }
    let seal_with_body = SlotHeader::decode(&forged(10, 2));
    assert!(
        matches!(seal_with_body, Err(SlotFault::Field { .. })),
        "{seal_with_body:?}"
    );
}

#[test]
fn an_object_under_another_key_is_misplaced() {
    let header = SlotHeader::decode(&object()).unwrap();
    assert_eq!(header.check_place(&name(), Slot(3)), Ok(()));
    let others = [
        (name(), Slot(4)),
        (StreamName::wal(CLUSTER, StreamId(8)), Slot(3)),
        (StreamName::wal(ClusterId::ZERO, StreamId(7)), Slot(3)),
        (
            StreamName {
                kind: StreamKind::Journal,
                ..name()
            },
            Slot(3),
        ),
    ];
    for (stream, slot) in others {
        let misplaced = header.check_place(&stream, slot);
        assert!(
            matches!(misplaced, Err(SlotFault::Misplaced { .. })),
            "{stream}"
        );
    }
}

#[test]
fn the_chain_holds_only_from_the_slot_before() {
    let header = SlotHeader::decode(&object()).unwrap();
    assert_eq!(header.check_chain(nonce(2)), Ok(()));
    assert!(matches!(
        header.check_chain(nonce(1)),
        Err(SlotFault::Chain { .. })
    ));
    assert_eq!(seal_header(3, nonce(9)).check_chain(nonce(1)), Ok(()));
}

#[test]
fn the_longest_lengths_a_header_can_name_cost_nothing() {
    let mut header = SlotHeader::decode(&object()).unwrap();
    header.index_len = u32::MAX;
    header.body_len = u64::MAX;
    let bytes = header.encode();
    let header = SlotHeader::decode(&bytes).unwrap();
    assert!(matches!(
        header.index_of(&bytes),
        Err(SlotFault::Short { .. })
    ));
    assert!(matches!(
        header.body_of(&bytes),
        Err(SlotFault::Short { .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SlotHeader::decode(&bytes);
    }

    #[test]
    fn any_fields_under_a_right_checksum_give_an_answer(
        fields in proptest::collection::vec(any::<u8>(), CRC_AT - 8),
        tail in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(fields);
        bytes[8] = 1;
        bytes[9] = 0;
        let crc = crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(tail);
        let bytes = Bytes::from(bytes);
        if let Ok(header) = SlotHeader::decode(&bytes) {
            let _ = header.index_of(&bytes);
            let _ = header.body_of(&bytes);
        }
    }
}
