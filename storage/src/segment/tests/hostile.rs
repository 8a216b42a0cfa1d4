//! Damaged and hostile bytes: every one of them is a typed error, none a panic, and none takes more
//! memory than a bound. Damage that its writer covered with right checksums is hostile too.

use firn_proto::limits::{BATCH_TABLE_BYTES_MAX, SEGMENT_PAGE_BYTES_MAX};

use super::*;
use crate::segment::table::{TABLE_MAGIC, TRAILER_BYTES};

/// A row group that has something of everything.
fn victim() -> (Vec<u8>, Segment) {
    let headers: [NewHeader<'_>; 2] = [(b"trace", Some(b"0123")), (b"trace", None)];
    let values: Vec<String> = (0..60).map(|at| format!("{{\"n\": {at}}}")).collect();
    let records: Vec<NewRecord<'_>> = (0_i64..)
        .zip(&values)
        .map(|(at, value)| NewRecord {
            timestamp: NOON + at,
            key: (at % 3 > 0).then_some(b"customer"),
            value: Some(value.as_bytes()),
            headers: &headers[..(at % 3) as usize],
        })
        .collect();
    let odd = [
        NewRecord {
            timestamp: -1,
            ..record(None, None)
        },
        NewRecord {
            headers: &[(b"\xff", None)],
            ..record(None, Some(b"x"))
        },
    ];
    let batches = vec![
        batch_of(0, Codec::None, &records[..40]),
        batch_of(40, Codec::None, &odd),
        raw_batch(|header| header.base_offset = 50, &[vec![9]]),
        batch_of(60, Codec::None, &records[40..]),
    ];
    let written = write(&[(PARTITION, batches)]);
    (written.sink, written.segment)
}

/// Reads everything there is to read. An error ends it.
pub(super) fn read_all(bytes: &Bytes, group: &RowGroup) -> Result<usize, SegmentFault> {
    let open = || RowGroupReader::open(bytes, TOPIC, PARTITION, group);
    first_of_max(open()?, &(0..i64::MAX))?;
    first_at_or_after(open()?, NOON + 1_000_000, &(45..i64::MAX))?;
    let mut skipping = open()?;
    skipping.skip_below(60)?;
    skipping.next_batch(TargetCodec::Producer)?;
    let mut reader = open()?;
    let mut batches = 0;
    while reader.next_batch(TargetCodec::Producer)?.is_some() {
        batches += 1;
    }
    Ok(batches)
}

/// Sets the checksums of a row group right.
pub(super) fn cover(bytes: &mut [u8]) {
    let at = bytes.len() - TRAILER_BYTES;
    let u32_at =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let stored_len = u32_at(bytes, at + 88) as usize;
    if let Some(table) = at.checked_sub(stored_len) {
        let (chunks, stored) = (crc32c(&bytes[..table]), crc32c(&bytes[table..at]));
        bytes[at + 76..at + 80].copy_from_slice(&chunks.to_le_bytes());
        bytes[at + 96..at + 100].copy_from_slice(&stored.to_le_bytes());
    }
    let crc = crc32c(&bytes[at..at + TRAILER_BYTES - 4]);
    bytes[at + TRAILER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_row_group_that_is_cut_off_is_an_error() {
    let (object, segment) = victim();
    let group = segment.runs[0].row_groups[0];
    let bytes = bytes_of(&object, &group);
    assert_eq!(read_all(&bytes, &group).unwrap(), 4);
    for len in 0..bytes.len() {
        assert!(
            read_all(&bytes.slice(..len), &group).is_err(),
            "first {len}"
        );
        assert!(
            read_all(&bytes.slice(bytes.len() - len..), &group).is_err(),
            "last {len}"
        );
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (object, segment) = victim();
    let group = segment.runs[0].row_groups[0];
    let bytes = bytes_of(&object, &group);
    for at in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            let read = read_all(&flipped.into(), &group);
            assert!(read.is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn damage_under_right_checksums_neither_panics_nor_grows() {
    let (object, segment) = victim();
    let group = segment.runs[0].row_groups[0];
    let bytes = bytes_of(&object, &group);
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff, 0x7f] {
            let mut changed = bytes.to_vec();
            changed[at] ^= change;
            cover(&mut changed);
            // what it says may be true by chance: it ends, and that is all
            let _ = read_all(&changed.into(), &group);
        }
    }
}

/// A row group of hand-made chunks and rows, with right checksums.
fn forged(chunks: [&[u8]; 7], rows: &[u8], records: u32, batches: u32) -> (Bytes, RowGroup) {
    let mut bytes = chunks.concat();
    let stored = zstd::bulk::compress(rows, 1).unwrap();
    bytes.extend_from_slice(&stored);
    let mut trailer = TABLE_MAGIC.to_vec();
    trailer.extend_from_slice(&[1, 0, 0, 0]);
    trailer.extend_from_slice(&PARTITION.0.to_le_bytes());
    trailer.extend_from_slice(&TOPIC.0);
    trailer.extend_from_slice(&0_i64.to_le_bytes());
    trailer.extend_from_slice(&(1_i64 << 40).to_le_bytes());
    for chunk in chunks {
        trailer.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
    }
    let lens = [stored.len(), rows.len()].map(|len| u32::try_from(len).unwrap());
    for number in [0, records, batches, lens[0], lens[1], 0] {
        trailer.extend_from_slice(&number.to_le_bytes());
    }
    trailer.resize(TRAILER_BYTES, 0);
    bytes.extend_from_slice(&trailer);
    cover(&mut bytes);
    let group = RowGroup {
        base_offset: 0,
        last_offset: 1 << 40,
        byte_start: 4,
        byte_len: bytes.len() as u64,
        max_timestamp_so_far: 0,
        records,
        plain_bytes: 0,
    };
    (bytes.into(), group)
}

/// A row of `records` records.
fn row(records: u64) -> Vec<u8> {
    let mut row = vec![0, 0];
    firn_proto::varint::put_u64(&mut row, records);
    row.extend_from_slice(&[0, 0, 0, 0, 0]);
    row
}

/// A header of a data page that claims `plain_len` bytes and `values` values.
fn page(plain_len: i32, values: i32, encoding: i32, stored: &[u8]) -> Vec<u8> {
    let mut page = vec![0x15, 0];
    let mut field = |head: u8, number: i32| {
        page.push(head);
        put_i32(&mut page, number);
    };
    field(0x15, plain_len);
    field(0x15, i32::try_from(stored.len()).unwrap());
    page.push(0x2c);
    let mut field = |head: u8, number: i32| {
        page.push(head);
        put_i32(&mut page, number);
    };
    field(0x15, values);
    field(0x15, encoding);
    page.extend_from_slice(&[0, 0]);
    page.extend_from_slice(stored);
    page
}

#[test]
fn a_table_that_claims_too_much_is_refused() {
    let claims = [
        ("no such row", vec![], 1, 1),
        ("more records than announced", row(2), 1, 1),
        (
            "records without columns",
            row(u64::from(u32::MAX) / 2),
            u32::MAX / 2,
            1,
        ),
        (
            "more records than a batch may have",
            row(u64::MAX),
            u32::MAX,
            1,
        ),
        ("more rows than announced", [row(0), row(0)].concat(), 0, 1),
        (
            "an unknown kind of row",
            vec![0x80, 0, 0, 0, 0, 0, 0, 0],
            0,
            1,
        ),
        (
            "a batch longer than the table",
            vec![1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f],
            0,
            1,
        ),
        (
            "a batch that is none",
            [vec![1, 0, 61], vec![0; 61]].concat(),
            0,
            1,
        ),
        (
            "an offset that overflows",
            vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            0,
            1,
        ),
    ];
    for (claim, rows, records, batches) in claims {
        let (bytes, group) = forged([&[]; 7], &rows, records, batches);
        assert!(read_all(&bytes, &group).is_err(), "{claim}");
    }
    let huge = vec![0; BATCH_TABLE_BYTES_MAX + 1];
    let (bytes, group) = forged([&[]; 7], &huge, 0, 1);
    assert!(matches!(
        read_all(&bytes, &group),
        Err(SegmentFault::TooLarge { .. })
    ));
}

#[test]
fn a_page_that_claims_too_much_is_refused() {
    let stored = zstd::bulk::compress(&[0; 64], 1).unwrap();
    let too_long = i32::try_from(SEGMENT_PAGE_BYTES_MAX + 1).unwrap();
    let claims = [
        ("too long a page", page(too_long, 1, 0, &stored)),
        ("a longer page than there is", page(65, 1, 0, &stored)),
        ("a shorter page than there is", page(63, 1, 0, &stored)),
        ("no zstd", page(64, 1, 0, &[1, 2, 3])),
        ("an unknown encoding", page(64, 1, 99, &stored)),
        ("another partition", page(64, 1, 0, &stored)),
        ("an index without a dictionary", page(64, 1, 8, &stored)),
        ("a page of no values", page(64, 0, 0, &stored)),
        ("half a header", vec![0x15, 0, 0x15]),
        ("a header without end", vec![0x19; 100]),
    ];
    for (claim, chunk) in claims {
        let mut chunks: [&[u8]; 7] = [&[]; 7];
        chunks[0] = &chunk;
        let (bytes, group) = forged(chunks, &row(1), 1, 1);
        let mut reader = RowGroupReader::open(&bytes, TOPIC, PARTITION, &group).unwrap();
        assert!(reader.next_batch(TargetCodec::Producer).is_err(), "{claim}");
    }
}

#[test]
fn a_footer_that_is_damaged_is_an_error() {
    let (object, segment) = victim();
    let plain = plain_chunks(&object, &segment);
    assert!(verify_footer(&object, &segment, &plain).is_ok());
    for len in 0..object.len() {
        let found = verify_footer(&object[..len], &segment, &plain);
        assert!(found.is_err(), "{len}");
    }
    let mut no_end = object;
    let at = no_end.len() - 8;
    no_end[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        read_footer(&no_end, 0),
        Err(SegmentFault::Length { .. })
    ));
}
