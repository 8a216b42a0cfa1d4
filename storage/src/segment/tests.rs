//! Every legal batch comes back from a segment as it went in, and hostile bytes are errors.

mod hostile;
mod parquet_view;
pub(crate) mod random;
mod values;

use bytes::Bytes;
use firn_proto::cluster::row_group_of;
use firn_proto::ids::{ClusterId, LeaderEpoch, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use firn_proto::limits::{
    BATCH_PLAIN_BYTES_MAX, ROW_GROUP_BYTES_TARGET, ROW_GROUP_PLAIN_BYTES_TARGET,
    ROW_GROUP_RECORDS_TARGET, SEGMENT_ROW_GROUPS_MAX,
};
use firn_proto::record::{
    Attributes, BatchBuilder, BatchHeader, BatchView, Codec, Compression, NewHeader, NewRecord,
    Records, assemble, crc32c, put_header,
};
use firn_proto::varint::{put_i32, put_i64};

use super::*;

pub(crate) const TOPIC: TopicId = TopicId([0x70; 16]);
pub(crate) const PARTITION: PartitionIndex = PartitionIndex(3);
pub(crate) const NOON: i64 = 1_700_000_000_000;

pub(super) fn origin() -> SegmentOrigin {
    SegmentOrigin {
        cluster: ClusterId([0xc1; 16]),
        topic: TOPIC,
        topic_name: "orders.v1".to_owned(),
    }
}

/// Batches of one partition, in order.
pub(super) type TestRun = (PartitionIndex, Vec<BatchView>);

pub(super) fn write(runs: &[TestRun]) -> Written<Vec<u8>> {
    let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
    for (partition, batches) in runs {
        let base = batches
            .first()
            .map_or(0, |batch| batch.header().base_offset);
        let last = batches
            .last()
            .map_or(0, |batch| batch.header().last_offset());
        writer.begin_run(*partition, base, last).unwrap();
        for batch in batches {
            writer.push(batch).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// The bytes of a row group, as a ranged GET brings them.
pub(super) fn bytes_of(object: &[u8], group: &RowGroup) -> Bytes {
    let range = group.byte_range();
    Bytes::copy_from_slice(&object[range.start as usize..range.end as usize])
}

pub(super) fn open(object: &[u8], run: &SegmentRun, group: &RowGroup) -> RowGroupReader {
    RowGroupReader::open(&bytes_of(object, group), TOPIC, run.partition, group).unwrap()
}

pub(crate) fn read_run(object: &[u8], run: &SegmentRun, target: TargetCodec) -> Vec<BatchView> {
    let mut batches = Vec::new();
    for group in &run.row_groups {
        let mut reader = open(object, run, group);
        while let Some(batch) = reader.next_batch(target).unwrap() {
            batches.push(batch);
        }
    }
    batches
}

/// What must come back whatever the codec: everything but length, CRC and codec.
fn essence(batch: &BatchView) -> (BatchHeader, Vec<u8>) {
    let mut header = *batch.header();
    header.length = 0;
    header.crc = 0;
    let plain = batch.plain_records(BATCH_PLAIN_BYTES_MAX);
    header.attributes.0 &= !7;
    (header, plain.unwrap().into_owned())
}

/// Writes a segment, verifies it, reads every batch back and compares. All batches can be decoded.
pub(super) fn assert_round_trip(runs: &[TestRun]) -> Written<Vec<u8>> {
    let written = write(runs);
    assert_verified(&written);
    assert_eq!(written.segment.runs.len(), runs.len());
    for (run, (partition, batches)) in written.segment.runs.iter().zip(runs) {
        assert_eq!(run.partition, *partition);
        assert_covers(run);
        assert_same(
            &read_run(&written.sink, run, TargetCodec::Producer),
            batches,
        );
    }
    written
}

/// What was found is what was written. All batches can be decoded.
pub(crate) fn assert_same(found: &[BatchView], batches: &[BatchView]) {
    assert_eq!(found.len(), batches.len());
    for (found, batch) in found.iter().zip(batches) {
        assert!(found.crc_matches());
        assert_eq!(found.header().attributes, batch.header().attributes);
        assert_eq!(essence(found), essence(batch));
        if batch.header().attributes.codec() == Some(Codec::None) {
            assert_eq!(found.bytes(), batch.bytes(), "byte for byte");
        }
    }
}

/// What the trailers say.
pub(super) fn plain_chunks(object: &[u8], segment: &Segment) -> Vec<PlainChunks> {
    let groups = segment.row_groups();
    let groups = groups.map(|(_, group)| PlainChunks::of(&bytes_of(object, group)).unwrap());
    groups.collect()
}

pub(super) fn assert_verified(written: &Written<Vec<u8>>) {
    let Written {
        sink,
        segment,
        fingerprints,
    } = written;
    assert_eq!(segment.byte_len, sink.len() as u64);
    verify_footer(sink, segment, &plain_chunks(sink, segment)).unwrap();
    assert_eq!(
        read_footer(sink, segment.byte_len).unwrap(),
        (origin(), segment.clone())
    );
    assert_eq!(fingerprints.0.len(), segment.row_groups().count());
    for ((run, group), fingerprint) in segment.row_groups().zip(&fingerprints.0) {
        let bytes = bytes_of(sink, group);
        verify_row_group(&bytes, TOPIC, run.partition, group, *fingerprint).unwrap();
    }
}

/// The row groups of a run lie side by side in offsets.
fn assert_covers(run: &SegmentRun) {
    let mut next = run.base_offset;
    for group in &run.row_groups {
        assert_eq!(group.base_offset, next);
        next = group.last_offset + 1;
    }
    assert!(run.row_groups.is_empty() || next == run.last_offset + 1);
}

pub(crate) fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> NewRecord<'a> {
    NewRecord {
        timestamp: NOON,
        key,
        value,
        headers: &[],
    }
}

pub(crate) fn batch_of(base_offset: i64, codec: Codec, records: &[NewRecord<'_>]) -> BatchView {
    let mut builder = BatchBuilder::new(codec)
        .base_offset(base_offset)
        .leader_epoch(LeaderEpoch(5));
    for record in records {
        builder.push(record).unwrap();
    }
    builder.build().unwrap()
}

/// A batch of `count` records of `value_bytes` bytes that do not compress well.
pub(crate) fn noisy_batch(base_offset: i64, count: usize, value_bytes: usize) -> BatchView {
    let mut state = base_offset.cast_unsigned() | 1;
    let values: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let byte = |_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(99);
                (state >> 56) as u8
            };
            (0..value_bytes).map(byte).collect()
        })
        .collect();
    let records: Vec<NewRecord<'_>> = values.iter().map(|v| record(None, Some(v))).collect();
    batch_of(base_offset, Codec::None, &records)
}

/// A batch of records that are given as they stand in it, with a header of any kind.
pub(super) fn raw_batch(change: impl FnOnce(&mut BatchHeader), records: &[Vec<u8>]) -> BatchView {
    let plain = records.concat();
    let mut header = *batch_of(100, Codec::None, &[record(None, None)]).header();
    header.record_count = i32::try_from(records.len()).unwrap();
    header.last_offset_delta = header.record_count - 1;
    change(&mut header);
    let attributes = header.attributes;
    let batch = assemble(&header, Codec::None.into(), &plain).unwrap();
    // whatever codec it names
    let mut bytes = batch.bytes().to_vec();
    bytes[21..23].copy_from_slice(&attributes.0.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    BatchView::take(&mut Bytes::from(bytes)).unwrap()
}

/// A record with an empty key and no value, as its fields say.
pub(super) fn raw_record(attributes: u8, timestamp_delta: i64, offset_delta: i32) -> Vec<u8> {
    let mut body = vec![attributes];
    put_i64(&mut body, timestamp_delta);
    put_i32(&mut body, offset_delta);
    body.extend_from_slice(&[0, 1, 0]);
    let mut out = Vec::new();
    put_i32(&mut out, i32::try_from(body.len()).unwrap());
    out.extend_from_slice(&body);
    out
}

#[test]
fn null_and_empty_keys_values_and_headers_are_told_apart() {
    let headers: [&[NewHeader<'_>]; 5] = [
        &[],
        &[(b"k", Some(b"v"))],
        &[(b"k", None), (b"k", Some(b"")), (b"k", Some(b"second"))],
        &[(b"", None)],
        &[
            (b"\xff\xfe", Some(b"\x00")),
            ("ключ".as_bytes(), Some(b"x")),
        ],
    ];
    let strings: [Option<&[u8]>; 4] = [None, Some(b""), Some(b"text"), Some(b"\x00\xff")];
    let mut records = Vec::new();
    for headers in headers {
        for key in strings {
            for value in strings {
                let plain = record(key, value);
                records.push(NewRecord { headers, ..plain });
            }
        }
    }
    for codec in Codec::ALL {
        assert_round_trip(&[(PARTITION, vec![batch_of(0, codec, &records)])]);
    }
}

#[test]
fn every_codec_comes_back_as_it_was_or_as_the_topic_says() {
    let records = [record(Some(b"a"), Some(&[7; 500])), record(None, None)];
    let batches: Vec<BatchView> = (0..)
        .zip(Codec::ALL)
        .map(|(at, codec)| batch_of(2 * at, codec, &records))
        .collect();
    let runs = [(PARTITION, batches)];
    let written = assert_round_trip(&runs);
    for codec in Codec::ALL {
        let target = TargetCodec::Topic(Compression::from(codec));
        let found = read_run(&written.sink, &written.segment.runs[0], target);
        for (found, batch) in found.iter().zip(&runs[0].1) {
            assert_eq!(found.header().attributes.codec(), Some(codec));
            assert!(found.crc_matches());
            assert_eq!(essence(found), essence(batch));
        }
    }
}

#[test]
fn odd_timestamps_come_back_to_the_millisecond() {
    let odd = [
        0,
        -1,
        -2,
        i64::MIN,
        i64::MIN + 1,
        i64::MAX / 1000,
        i64::MAX / 1000 + 1,
    ];
    let mut batches = Vec::new();
    for (offset, timestamp) in (0..).zip(odd) {
        let records = [NewRecord {
            timestamp,
            ..record(None, None)
        }; 2];
        batches.push(batch_of(2 * offset, Codec::None, &records));
    }
    // up and down from the base
    let wild = [5, -1, NOON, 0, -77].map(|timestamp| NewRecord {
        timestamp,
        ..record(None, None)
    });
    batches.push(batch_of(50, Codec::Zstd, &wild));
    assert_round_trip(&[(PARTITION, batches)]);
    let max = [i64::MAX, i64::MAX - 1].map(|timestamp| NewRecord {
        timestamp,
        ..record(None, None)
    });
    assert_round_trip(&[(PARTITION, vec![batch_of(60, Codec::None, &max)])]);
}

#[test]
fn append_time_keeps_what_the_producer_had_said() {
    let records = [
        raw_record(0, 0, 0),
        raw_record(0, -5, 1),
        raw_record(0, 7, 2),
    ];
    let append_time = |max_timestamp| {
        raw_batch(
            |header| {
                header.attributes = Attributes(0x08);
                header.base_timestamp = 12;
                header.max_timestamp = max_timestamp;
            },
            &records,
        )
    };
    for max_timestamp in [NOON, -1, i64::MAX] {
        let written = assert_round_trip(&[(PARTITION, vec![append_time(max_timestamp)])]);
        let run = &written.segment.runs[0];
        assert_eq!(run.row_groups[0].max_timestamp_so_far, max_timestamp);
        let found = first_at_or_after(
            open(&written.sink, run, &run.row_groups[0]),
            -1,
            &(101..i64::MAX),
        );
        let found = found.unwrap().map(|found| (found.offset, found.timestamp));
        assert_eq!(found, Some((101, max_timestamp)));
    }
}

#[test]
fn everything_a_batch_says_of_itself_comes_back() {
    let plain = record(Some(b"k"), Some(b"v"));
    let of_producer = |base_offset, id, epoch, sequence| {
        let mut builder = BatchBuilder::new(Codec::None)
            .base_offset(base_offset)
            .leader_epoch(LeaderEpoch(i32::try_from(base_offset % 90).unwrap()))
            .producer(ProducerId(id), ProducerEpoch(epoch), sequence)
            .transactional();
        builder.push(&plain).unwrap();
        builder.build().unwrap()
    };
    let batches = vec![
        of_producer(0, 0, 0, 0),
        of_producer(1, i64::MAX, i16::MAX, i32::MAX),
        of_producer((1 << 31) + 1, 7, 1, 2),
        of_producer((1 << 32) - 1, 7, 1, 3),
        batch_of(1 << 32, Codec::None, &[plain; 3]),
        of_producer(1 << 40, 8, 0, 0),
    ];
    assert_round_trip(&[(PARTITION, batches)]);
}

#[test]
fn headers_that_do_not_follow_from_the_records_come_back() {
    let base = |header: &mut BatchHeader| {
        // not those of its records, as a producer may say, or a delete horizon (KIP-534)
        header.base_timestamp = 17;
        header.max_timestamp = 3;
        header.attributes = Attributes(0x40);
    };
    let records = [raw_record(0, 100, 0), raw_record(0, -100, 1)];
    let written = assert_round_trip(&[(PARTITION, vec![raw_batch(base, &records)])]);
    let run = &written.segment.runs[0];
    assert_eq!(
        run.row_groups[0].max_timestamp_so_far, 117,
        "of the records"
    );
}

#[test]
fn gaps_of_compaction_come_back() {
    let mut builder = BatchBuilder::new(Codec::Lz4).base_offset(1000);
    for delta in [3, 4, 900, i32::MAX - 1] {
        builder.push_at(delta, &record(Some(b"k"), None)).unwrap();
    }
    let gaps = builder.build().unwrap();
    let after = gaps.header().last_offset() + 10;
    // the last records are gone, then all of them
    let ends_early = raw_batch(
        |header| {
            header.base_offset = after;
            header.last_offset_delta = 77;
        },
        &[raw_record(0, 0, 5)],
    );
    let empty = raw_batch(
        |header| {
            header.base_offset = after + 100;
            header.last_offset_delta = 4;
        },
        &[],
    );
    let written = assert_round_trip(&[(PARTITION, vec![gaps, ends_early, empty.clone()])]);
    assert_eq!(written.segment.runs[0].row_groups[0].records, 5);
    assert_round_trip(&[(PARTITION, vec![empty])]);
}

#[test]
fn records_that_columns_cannot_hold_come_back_verbatim() {
    // a length and a delta that take more bytes than they need, and an attribute
    let mut long_length = raw_record(0, 0, 0);
    let length = long_length.remove(0);
    long_length.splice(0..0, [length | 0x80, 0]);
    let mut long_delta = raw_record(0, 0, 2);
    long_delta[0] += 2;
    long_delta.splice(2..3, [0x80, 0]);
    let mut not_utf8 = vec![0, 0, 8, 0, 1, 4];
    put_header(&mut not_utf8, b"\xff", Some(b"v")).unwrap();
    put_header(&mut not_utf8, b"k", None).unwrap();
    not_utf8.insert(0, u8::try_from(2 * not_utf8.len()).unwrap());
    let records = [
        long_length,
        raw_record(0, 0, 1),
        long_delta,
        raw_record(0x55, -9, 3),
        not_utf8,
        raw_record(0, 1, 5),
    ];
    let batch = raw_batch(|_| (), &records);
    let next = raw_batch(|header| header.base_offset = 106, &records);
    assert_round_trip(&[(PARTITION, vec![batch, next])]);
}

#[test]
fn a_batch_that_cannot_be_decoded_comes_back_as_it_came() {
    let good = batch_of(0, Codec::Snappy, &[record(None, Some(b"first")); 3]);
    let broken = |base_offset, attributes, records: &[Vec<u8>]| {
        raw_batch(
            |header| {
                header.base_offset = base_offset;
                header.attributes = Attributes(attributes);
                header.max_timestamp = NOON + 9;
            },
            records,
        )
    };
    let large = vec![raw_record(0, 0, 0), vec![1; 2 * columns::GATHERED_BYTES]];
    let batches = vec![
        good.clone(),
        // a record that ends too early behind a good one; no codec 6; not gzip; too large
        broken(3, 0, &[raw_record(0, 0, 0), vec![40, 0]]),
        broken(5, 6, &[raw_record(0, 0, 0)]),
        broken(6, 1, &[raw_record(0, 0, 0)]),
        broken(7, 0, &large),
        batch_of(9, Codec::None, &[record(None, Some(b"last"))]),
    ];
    let written = write(&[
        (PARTITION, batches.clone()),
        (PartitionIndex(4), batches[1..2].to_vec()),
    ]);
    assert_verified(&written);
    let runs = &written.segment.runs;
    let target = TargetCodec::Topic(Codec::None.into());
    let found = read_run(&written.sink, &runs[0], target);
    assert_eq!(found.len(), batches.len());
    for at in 1..batches.len() {
        assert_eq!(found[at].bytes(), batches[at].bytes(), "batch {at}");
    }
    assert_eq!(essence(&found[0]), essence(&good));
    // its records cannot be found by time, but retention sees the batch
    assert_eq!(runs[0].row_groups[0].records, 4);
    assert_eq!(runs[0].row_groups[0].max_timestamp_so_far, NOON);
    assert_eq!(runs[0].max_timestamp, NOON + 9);
    assert_eq!(
        runs[1].row_groups[0].records, 0,
        "no row group of the footer"
    );
    assert_eq!(runs[1].row_group_of_max(), None);
    assert_eq!(read_run(&written.sink, &runs[1], target), batches[1..2]);
}

#[test]
fn values_of_a_mebibyte_come_back() {
    let batches = (0..6).map(|at| noisy_batch(3 * at, 3, 1 << 20)).collect();
    let written = assert_round_trip(&[(PARTITION, batches)]);
    let groups = &written.segment.runs[0].row_groups;
    assert_eq!(groups.len(), 2, "of eight mebibytes and a batch at most");
    assert!(groups[0].byte_len < (ROW_GROUP_BYTES_TARGET + (4 << 20)) as u64);
}

#[test]
fn row_groups_are_bounded_in_bytes_and_records() {
    let zeros = vec![0; 1 << 20];
    let shrinking: Vec<BatchView> = (0..40)
        .map(|at| batch_of(at, Codec::Zstd, &[record(None, Some(&zeros))]))
        .collect();
    let tiny: Vec<BatchView> = (0..30)
        .map(|at| batch_of(10_000 * at, Codec::None, &[record(None, None); 10_000]))
        .collect();
    let written = write(&[(PARTITION, shrinking), (PartitionIndex(4), tiny)]);
    assert_verified(&written);
    let [shrinking, tiny] = written.segment.runs.as_slice() else {
        panic!("two runs");
    };
    assert_eq!(shrinking.row_groups.len(), 2);
    assert!(shrinking.row_groups[0].plain_bytes >= ROW_GROUP_PLAIN_BYTES_TARGET as u64);
    assert_eq!(tiny.row_groups.len(), 2);
    assert_eq!(
        tiny.row_groups[0].records as usize,
        ROW_GROUP_RECORDS_TARGET.div_ceil(10_000) * 10_000
    );
    assert_covers(tiny);
}

#[test]
fn runs_of_several_partitions_share_a_file_and_no_row_group() {
    let runs: Vec<TestRun> = (0..5)
        .map(|partition| {
            let batches = (0..3).map(|at| noisy_batch(100 * i64::from(partition) + 4 * at, 2, 50));
            (PartitionIndex(partition), batches.collect())
        })
        .collect();
    let written = assert_round_trip(&runs);
    for (run, group) in written.segment.row_groups() {
        let other = PartitionIndex(run.partition.0 + 1);
        let bytes = bytes_of(&written.sink, group);
        let opened = RowGroupReader::open(&bytes, TOPIC, other, group);
        assert!(matches!(opened.err(), Some(SegmentFault::Other { .. })));
    }
}

#[test]
fn a_run_covers_the_offsets_whose_records_are_gone() {
    let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
    writer.begin_run(PARTITION, 10, 99).unwrap();
    writer.push(&noisy_batch(20, 5, 10)).unwrap();
    writer.push(&noisy_batch(40, 5, 10)).unwrap();
    writer.begin_run(PartitionIndex(7), 0, 5).unwrap();
    let written = writer.finish().unwrap();
    assert_verified(&written);
    let [run, empty] = written.segment.runs.as_slice() else {
        panic!("two runs");
    };
    assert_eq!((run.base_offset, run.last_offset), (10, 99));
    assert_covers(run);
    for (offset, found) in [(9, false), (10, true), (99, true), (100, false)] {
        assert_eq!(
            row_group_of(&run.row_groups, offset).is_some(),
            found,
            "{offset}"
        );
    }
    assert_eq!((empty.last_offset, empty.row_groups.len()), (5, 0));
}

#[test]
fn a_reader_begins_at_any_offset() {
    let batches: Vec<BatchView> = (0..200)
        .map(|at| {
            let value = format!("value {at}");
            let headers: [NewHeader<'_>; 2] = [(b"a", None), (b"b", Some(b"c"))];
            let records = [0, 1, 2].map(|n| NewRecord {
                headers: &headers[..n],
                ..record(None, Some(value.as_bytes()))
            });
            batch_of(10 * at, Codec::None, &records)
        })
        .collect();
    let written = assert_round_trip(&[(PARTITION, batches.clone())]);
    let run = &written.segment.runs[0];
    for offset in [0, 1, 2, 3, 9, 10, 555, 1000, 1992, 1993, 5000] {
        let mut reader = open(&written.sink, run, &run.row_groups[0]);
        reader.skip_below(offset).unwrap();
        let first = batches
            .iter()
            .position(|batch| batch.header().last_offset() >= offset);
        for batch in &batches[first.unwrap_or(batches.len())..] {
            let found = reader.next_batch(TargetCodec::Producer).unwrap().unwrap();
            assert_eq!(found.bytes(), batch.bytes(), "from {offset}");
        }
        assert!(reader.next_batch(TargetCodec::Producer).unwrap().is_none());
    }
}

#[test]
fn a_timestamp_is_found_with_one_row_group() {
    let mut batches = Vec::new();
    for at in 0..40_i64 {
        // rises on the whole, and goes back in every batch; the largest is in the middle
        let largest = if at == 20 { 1 << 40 } else { 0 };
        let records = [3, 1, 2].map(|n| NewRecord {
            timestamp: 10 * at + n + largest,
            ..record(None, None)
        });
        batches.push(batch_of(3 * at, Codec::None, &records));
    }
    let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
    writer.begin_run(PARTITION, 0, 119).unwrap();
    for batch in &batches {
        writer.push(batch).unwrap();
    }
    let written = writer.finish().unwrap();
    let run = &written.segment.runs[0];
    let find = |timestamp, offset| {
        let groups = run.row_groups_from_time(timestamp, offset);
        let reader = open(&written.sink, run, groups.first()?);
        let found = first_at_or_after(reader, timestamp, &(offset..i64::MAX)).unwrap();
        found.map(|found| (found.offset, found.timestamp))
    };
    assert_eq!(find(i64::MIN, 0), Some((0, 3)));
    assert_eq!(find(3, 0), Some((0, 3)));
    assert_eq!(find(4, 0), Some((3, 13)));
    assert_eq!(find(12, 4), Some((5, 12)), "at or behind an offset");
    assert_eq!(find(500, 0), Some((60, 203 + (1 << 40))));
    assert_eq!(find(390, 63), Some((117, 393)));
    assert_eq!(find(1 << 41, 0), None);
    let group = run.row_group_of_max().unwrap();
    let max = first_of_max(open(&written.sink, run, group), &(0..i64::MAX))
        .unwrap()
        .unwrap();
    assert_eq!((max.offset, max.timestamp), (60, 203 + (1 << 40)));
    let before = first_of_max(open(&written.sink, run, group), &(0..60)).unwrap();
    assert!(before.is_some_and(|found| found.offset < 60), "{before:?}");
}

#[test]
fn the_same_batches_give_the_same_bytes() {
    let runs = [(
        PARTITION,
        (0..50).map(|at| noisy_batch(100 * at, 100, 300)).collect(),
    )];
    let first = write(&runs);
    let second = write(&runs);
    assert!(first.sink == second.sink && first.fingerprints == second.fingerprints);
}

#[test]
fn what_must_not_be_archived_is_refused() {
    let mut marker = BatchBuilder::new(Codec::None).control();
    marker
        .push(&record(Some(b"\0\0\0\x01"), Some(b"x")))
        .unwrap();
    let good = batch_of(5, Codec::None, &[record(None, None); 2]);
    let mut damaged = good.bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = BatchView::take(&mut Bytes::from(damaged)).unwrap();
    let push = |base, last, batch: &BatchView| {
        let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
        writer.begin_run(PARTITION, base, last).unwrap();
        writer.push(batch).unwrap_err().to_string()
    };
    assert!(push(0, 9, &marker.build().unwrap()).contains("control batch"));
    assert!(push(0, 9, &damaged).contains("does not match its crc"));
    assert!(push(6, 9, &good).contains("offsets 5..=6"));
    assert!(push(0, 5, &good).contains("what is left of the run, 0..=5"));
    let begin = |base, last| {
        let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
        writer.begin_run(PARTITION, base, last)
    };
    assert!(begin(5, 4).is_err());
    assert!(begin(-1, 4).is_err());
    assert!(begin(4, i64::MAX).is_err());
}

#[test]
fn a_segment_that_lacks_a_batch_cannot_be_finished() {
    let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
    let good = batch_of(5, Codec::None, &[record(None, None); 2]);
    assert!(matches!(writer.push(&good), Err(EncodeError::NoRun(5))));
    assert!(matches!(
        writer.begin_run(PARTITION, 0, 9),
        Err(EncodeError::Failed)
    ));
    assert!(matches!(writer.push(&good), Err(EncodeError::Failed)));
    assert!(matches!(writer.finish(), Err(EncodeError::Failed)));
}

#[test]
fn the_largest_value_comes_back() {
    let value = vec![7; BATCH_PLAIN_BYTES_MAX - 100];
    let records = [record(None, Some(b"small")), record(None, Some(&value))];
    let largest = batch_of(1, Codec::None, &records);
    let small = batch_of(3, Codec::None, &records[..1]);
    assert_round_trip(&[(PARTITION, vec![largest, small])]);
}

#[test]
fn a_full_segment_says_so() {
    let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
    let batch = batch_of(0, Codec::None, &[record(None, None)]);
    for partition in (0..).take(SEGMENT_ROW_GROUPS_MAX) {
        writer.begin_run(PartitionIndex(partition), 0, 0).unwrap();
        writer.push(&batch).unwrap();
    }
    assert_eq!(writer.row_groups_left(), 0);
    writer.begin_run(PartitionIndex(0), 0, 0).unwrap();
    assert!(matches!(
        writer.push(&batch),
        Err(EncodeError::RowGroups(_))
    ));
}

#[test]
fn a_difference_is_found_when_it_is_read_back() {
    let runs = |value: &[u8]| {
        let batch = batch_of(0, Codec::None, &[record(None, Some(value))]);
        write(&[(PARTITION, vec![batch])])
    };
    let (one, other) = (runs(b"one"), runs(b"two"));
    let group = &one.segment.runs[0].row_groups[0];
    let bytes = bytes_of(&one.sink, group);
    let verified = |fingerprint| verify_row_group(&bytes, TOPIC, PARTITION, group, fingerprint);
    assert!(verified(one.fingerprints.0[0]).is_ok());
    let found = verified(other.fingerprints.0[0]);
    assert!(matches!(found, Err(SegmentFault::Differs(_))));
    let mut elsewhere = one.segment.clone();
    elsewhere.runs[0].row_groups[0].byte_start += 1;
    assert!(matches!(
        verify_footer(
            &one.sink,
            &elsewhere,
            &plain_chunks(&one.sink, &one.segment)
        ),
        Err(SegmentFault::Differs(_))
    ));
}

#[test]
fn a_run_ends_where_the_next_segment_goes_on() {
    let batches = [0, 10, 20].map(|base| noisy_batch(base, 10, 5));
    let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
    writer.begin_run(PartitionIndex(1), 0, 999).unwrap();
    writer.push(&batches[0]).unwrap();
    writer.push(&batches[1]).unwrap();
    writer.end_run_at(22).unwrap();
    writer.begin_run(PartitionIndex(2), 5, 999).unwrap();
    // nothing of it was taken
    writer.end_run_at(4).unwrap();
    let written = writer.finish().unwrap();
    assert_verified(&written);
    let [run] = &written.segment.runs[..] else {
        panic!("one run")
    };
    assert_eq!((run.base_offset, run.last_offset), (0, 22));
    assert_covers(run);

    for last_offset in [8, 1000] {
        let mut writer = SegmentWriter::new(Vec::new(), &origin()).unwrap();
        writer.begin_run(PartitionIndex(1), 0, 999).unwrap();
        writer.push(&batches[0]).unwrap();
        assert!(matches!(
            writer.end_run_at(last_offset),
            Err(EncodeError::Offsets { .. })
        ));
    }
}
