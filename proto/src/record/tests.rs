//! Batches as a whole: against Kafka's own bytes, against the `kafka-protocol` crate, and hostile.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as oracle;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};

const PLAIN_MAX: usize = 1 << 20;

type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnedRecord {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<OwnedHeader>,
}

fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(vec(any::<u8>(), 0..40))
}

fn record() -> impl Strategy<Value = OwnedRecord> {
    let header = ("[ab]{0,2}", bytes()).prop_map(|(key, value)| (key.into_bytes(), value));
    (
        -1_i64..5_000_000_000_000,
        bytes(),
        bytes(),
        vec(header, 0..4),
    )
        .prop_map(|(timestamp, key, value, headers)| OwnedRecord {
            timestamp,
            key,
            value,
            headers,
        })
}

fn codec() -> impl Strategy<Value = Codec> {
    (0..5_usize).prop_map(|index| Codec::ALL[index])
}

/// Offsets around the borders at which a narrower number would give itself away.
fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![
        0..10_i64,
        (1_i64 << 31) - 5..(1 << 31) + 5,
        (1_i64 << 32) - 5..(1 << 32) + 5,
        Just(i64::MAX - 1000),
    ]
}

fn build(builder: BatchBuilder, records: &[OwnedRecord]) -> BatchView {
    let mut builder = builder;
    for record in records {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
            .collect();
        builder
            .push(&NewRecord {
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
            })
            .unwrap();
    }
    builder.build().unwrap()
}

fn owned(record: &Record<'_>) -> OwnedRecord {
    OwnedRecord {
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record
            .headers
            .map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)))
            .collect(),
    }
}

fn read(batch: &BatchView) -> Vec<(i64, OwnedRecord)> {
    let plain = batch.plain_records(PLAIN_MAX).unwrap();
    batch
        .records(&plain)
        .map(|record| record.map(|record| (record.offset, owned(&record))))
        .collect::<Result<_, _>>()
        .unwrap()
}

fn hex(text: &str) -> Bytes {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// The batches were written by Kafka 4.3.1's own `MemoryRecordsBuilder`, one per codec.
#[test]
fn batches_of_kafka_read_as_written_in_every_codec() {
    let header = |key: &str, value: Option<&[u8]>| (key.into(), value.map(<[u8]>::to_vec));
    let expected = [
        OwnedRecord {
            timestamp: 1_700_000_000_000,
            key: Some(b"key".to_vec()),
            value: Some(b"value value value value value value value value".to_vec()),
            headers: vec![
                header("h", Some(b"1")),
                header("h", Some(&[0xff, 0])),
                header("null", None),
                header("empty", Some(b"")),
            ],
        },
        OwnedRecord {
            timestamp: 1_700_000_000_500,
            key: None,
            value: Some(Vec::new()),
            headers: Vec::new(),
        },
        OwnedRecord {
            timestamp: 1_699_999_999_000,
            key: Some(Vec::new()),
            value: None,
            headers: Vec::new(),
        },
    ];
    let lines = include_str!("testdata/kafka-4.3.1.hex").lines();
    for (line, codec) in lines.zip(Codec::ALL) {
        let (_, text) = line.split_once(' ').unwrap();
        let batch = BatchView::take(&mut hex(text)).unwrap();
        assert!(batch.crc_matches(), "{codec:?}");
        assert_eq!(batch.header().attributes.codec(), Some(codec));
        assert_eq!(batch.header().max_timestamp, 1_700_000_000_500);
        assert_eq!(batch.header().producer_id, ProducerId(4000));
        assert_eq!(batch.header().producer_epoch, ProducerEpoch(3));
        assert_eq!(batch.header().base_sequence, i32::MAX - 1);
        let records: Vec<_> = read(&batch).into_iter().map(|(_, record)| record).collect();
        assert_eq!(records, expected, "{codec:?}");
    }
}

#[test]
fn an_uncompressed_batch_is_built_byte_for_byte_as_kafka_builds_it() {
    let (_, text) = include_str!("testdata/kafka-4.3.1.hex")
        .lines()
        .next()
        .unwrap()
        .split_once(' ')
        .unwrap();
    let kafka = BatchView::take(&mut hex(text)).unwrap();
    let records: Vec<_> = read(&kafka).into_iter().map(|(_, record)| record).collect();
    let ours = build(
        BatchBuilder::default().producer(ProducerId(4000), ProducerEpoch(3), i32::MAX - 1),
        &records,
    );
    assert_eq!(ours.bytes(), kafka.bytes());
}

proptest! {
    #[test]
    fn records_read_back_as_they_were_built(
        records in vec(record(), 1..20),
        codec in codec(),
        base in offset(),
    ) {
        let batch = build(BatchBuilder::new(codec).base_offset(base), &records);
        prop_assert!(batch.crc_matches());
        let read = read(&batch);
        for (index, (offset, record)) in read.iter().enumerate() {
            prop_assert_eq!(*offset, base + index as i64);
            prop_assert_eq!(record, &records[index]);
        }
        prop_assert_eq!(read.len(), records.len());
    }

    #[test]
    fn the_oracle_reads_what_we_build(records in vec(record(), 1..20), base in offset()) {
        let batch = build(
            BatchBuilder::default()
                .base_offset(base)
                .leader_epoch(LeaderEpoch(5))
                .producer(ProducerId(7), ProducerEpoch(1), 40),
            &records,
        );
        let set = oracle::RecordBatchDecoder::decode(&mut batch.bytes().clone()).unwrap();
        prop_assert_eq!(set.records.len(), records.len());
        for (index, (theirs, ours)) in set.records.iter().zip(&records).enumerate() {
            prop_assert_eq!(theirs.offset, base + index as i64);
            prop_assert_eq!(theirs.timestamp, ours.timestamp);
            prop_assert_eq!(theirs.partition_leader_epoch, 5);
            prop_assert_eq!(theirs.producer_id, 7);
            prop_assert_eq!(theirs.key.as_deref(), ours.key.as_deref());
            prop_assert_eq!(theirs.value.as_deref(), ours.value.as_deref());
            // the oracle keeps the last of several headers with one key
            for (key, value) in &theirs.headers {
                let last = ours.headers.iter().rev().find(|(ours, _)| ours == key.as_bytes());
                prop_assert_eq!(value.as_deref(), last.unwrap().1.as_deref());
            }
        }
    }

    #[test]
    fn we_read_what_the_oracle_builds(records in vec(record(), 1..20), base in 0..1_i64 << 40) {
        let theirs: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(index, record)| oracle_record(record, base + index as i64))
            .collect();
        let mut out = BytesMut::new();
        let options = oracle::RecordEncodeOptions {
            version: 2,
            compression: oracle::Compression::None,
        };
        oracle::RecordBatchEncoder::encode(&mut out, &theirs, &options).unwrap();
        let batch = BatchView::take(&mut out.freeze()).unwrap();
        prop_assert!(batch.crc_matches());
        for ((offset, ours), theirs) in read(&batch).iter().zip(&theirs) {
            prop_assert_eq!(*offset, theirs.offset);
            prop_assert_eq!(ours.timestamp, theirs.timestamp);
            prop_assert_eq!(ours.key.as_deref(), theirs.key.as_deref());
            prop_assert_eq!(ours.value.as_deref(), theirs.value.as_deref());
            prop_assert_eq!(ours.headers.len(), theirs.headers.len());
        }
    }

    #[test]
    fn stamping_changes_nothing_but_offset_and_epoch(
        records in vec(record(), 1..5),
        codec in codec(),
        base in offset(),
        shared: bool,
    ) {
        let batch = build(BatchBuilder::new(codec), &records);
        let before = Bytes::copy_from_slice(batch.bytes());
        let other = shared.then(|| batch.clone());
        let stamp = Stamp { base_offset: base, leader_epoch: LeaderEpoch(9), log_append_ms: None };
        let stamped = batch.stamp(stamp);
        prop_assert_eq!(&stamped.bytes()[..8], &base.to_be_bytes());
        prop_assert_eq!(&stamped.bytes()[12..16], &9_i32.to_be_bytes());
        prop_assert_eq!(&stamped.bytes()[8..12], &before[8..12]);
        prop_assert_eq!(&stamped.bytes()[16..], &before[16..]);
        prop_assert_eq!(*stamped.header(), BatchHeader::parse(stamped.bytes()).unwrap());
        prop_assert!(stamped.crc_matches());
        if let Some(other) = other {
            prop_assert_eq!(other.bytes(), &before);
        }
    }

    #[test]
    fn the_brokers_time_replaces_that_of_every_record(
        records in vec(record(), 1..5),
        codec in codec(),
    ) {
        let stamp = Stamp {
            base_offset: 5,
            leader_epoch: LeaderEpoch(0),
            log_append_ms: Some(1_800_000_000_000),
        };
        let stamped = build(BatchBuilder::new(codec), &records).stamp(stamp);
        prop_assert!(stamped.crc_matches());
        prop_assert_eq!(*stamped.header(), BatchHeader::parse(stamped.bytes()).unwrap());
        for (_, record) in read(&stamped) {
            prop_assert_eq!(record.timestamp, 1_800_000_000_000);
        }
    }

    #[test]
    fn another_codec_keeps_every_record(
        records in vec(record(), 1..10),
        from in codec(),
        to in codec(),
    ) {
        let batch = build(BatchBuilder::new(from).base_offset(77), &records);
        let other = recompress(&batch, to.into(), PLAIN_MAX).unwrap();
        prop_assert!(other.crc_matches());
        prop_assert_eq!(other.header().attributes.codec(), Some(to));
        prop_assert_eq!(read(&other), read(&batch));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        for batch in split_batches(Bytes::from(bytes)).flatten() {
            drain(&batch);
        }
    }

    #[test]
    fn a_batch_with_changed_bytes_never_panics(
        records in vec(record(), 1..10),
        codec in codec(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = build(BatchBuilder::new(codec), &records).into_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for batch in split_batches(Bytes::from(bytes)).flatten() {
            drain(&batch);
        }
    }

    #[test]
    fn hostile_records_never_panic(
        bytes in vec(any::<u8>(), 0..300),
        count in -2..1000_i32,
        last in any::<i32>(),
        base in any::<i64>(),
    ) {
        let mut header = *build(BatchBuilder::default(), &[plain(0)]).header();
        header.record_count = count;
        header.last_offset_delta = last;
        header.base_offset = base;
        header.base_timestamp = base;
        let results: Vec<_> = Records::new(&header, &bytes).collect();
        prop_assert!(results.len() <= bytes.len() / 7 + 1);
        prop_assert!(results.iter().rev().skip(1).all(Result::is_ok));
    }
}

fn drain(batch: &BatchView) {
    if let Ok(plain) = batch.plain_records(PLAIN_MAX) {
        for record in batch.records(&plain).flatten() {
            assert_eq!(record.headers.count(), record.headers.len());
        }
    }
    let _ = batch.crc_matches();
}

fn plain(timestamp: i64) -> OwnedRecord {
    OwnedRecord {
        timestamp,
        key: None,
        value: None,
        headers: Vec::new(),
    }
}

fn oracle_record(record: &OwnedRecord, offset: i64) -> oracle::Record {
    let headers: IndexMap<_, _> = record
        .headers
        .iter()
        .map(|(key, value)| {
            let key = StrBytes::from_string(String::from_utf8(key.clone()).unwrap());
            (key, value.clone().map(Bytes::from))
        })
        .collect();
    oracle::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 3,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: oracle::TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: record.timestamp,
        key: record.key.clone().map(Bytes::from),
        value: record.value.clone().map(Bytes::from),
        headers,
    }
}

#[test]
fn unique_bytes_are_stamped_in_place() {
    let batch = build(BatchBuilder::default(), &[plain(1)]);
    let before = batch.bytes().as_ptr();
    let stamped = batch.stamp(Stamp {
        base_offset: 1 << 33,
        leader_epoch: LeaderEpoch(1),
        log_append_ms: None,
    });
    assert_eq!(stamped.bytes().as_ptr(), before);
}

#[test]
fn several_batches_come_apart_and_a_cut_one_is_an_error() {
    let one = build(BatchBuilder::default(), &[plain(1)]).into_bytes();
    let two = build(BatchBuilder::new(Codec::Zstd), &[plain(2), plain(3)]).into_bytes();
    let mut both = BytesMut::from(one.as_ref());
    both.extend_from_slice(&two);
    let both = both.freeze();
    let apart: Vec<_> = split_batches(both.clone())
        .map(|batch| batch.unwrap().into_bytes())
        .collect();
    assert_eq!(apart, [one.clone(), two]);
    let cut: Vec<_> = split_batches(both.slice(..both.len() - 1)).collect();
    assert_eq!(cut.len(), 2);
    assert_eq!(
        cut[1],
        Err(HeaderError::Truncated {
            found: both.len() - one.len() - 1,
            expected: both.len() - one.len(),
        })
    );
}

#[test]
fn header_keys_may_repeat_and_need_not_be_utf8() {
    let headers = vec![
        (b"k".to_vec(), Some(b"1".to_vec())),
        (vec![0xff, 0xfe], None),
        (b"k".to_vec(), Some(Vec::new())),
        (Vec::new(), Some(b"2".to_vec())),
    ];
    let record = OwnedRecord {
        headers: headers.clone(),
        ..plain(5)
    };
    let batch = build(BatchBuilder::new(Codec::Snappy), &[record]);
    assert_eq!(read(&batch)[0].1.headers, headers);
}

#[test]
fn a_compacted_batch_keeps_its_offsets() {
    let mut builder = BatchBuilder::default().base_offset(100);
    builder.push_at(3, &NewRecord::default()).unwrap();
    builder.push_at(9, &NewRecord::default()).unwrap();
    assert!(builder.push_at(9, &NewRecord::default()).is_err());
    let batch = builder.build().unwrap();
    let offsets: Vec<_> = read(&batch).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [103, 109]);
    assert_eq!(batch.header().last_offset(), 109);
}

#[test]
fn the_search_finds_single_records() {
    let records = [plain(10), plain(30), plain(20), plain(30)];
    let batch = build(BatchBuilder::new(Codec::Lz4).base_offset(50), &records);
    let at = |timestamp, from| {
        first_at_or_after(&batch, timestamp, from, PLAIN_MAX)
            .unwrap()
            .map(|found| (found.offset, found.timestamp))
    };
    assert_eq!(at(0, 0), Some((50, 10)));
    assert_eq!(at(15, 0), Some((51, 30)));
    assert_eq!(at(15, 52), Some((52, 20)));
    assert_eq!(at(31, 0), None);
    let max = first_of_max(&batch, PLAIN_MAX).unwrap().unwrap();
    assert_eq!((max.offset, max.timestamp), (51, 30));
}

#[test]
fn the_first_record_without_a_key_is_found() {
    let keyed = OwnedRecord {
        key: Some(Vec::new()),
        ..plain(1)
    };
    let of = |records: &[OwnedRecord]| {
        first_without_key(&build(BatchBuilder::new(Codec::Gzip), records), PLAIN_MAX).unwrap()
    };
    assert_eq!(of(&[keyed.clone(), keyed.clone()]), None);
    assert_eq!(of(&[keyed.clone(), plain(1), keyed, plain(2)]), Some(1));
}

/// Bytes that tell whether anybody holds them.
struct Watched(Vec<u8>, #[expect(dead_code, reason = "counted")] Arc<()>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A producer puts a hundred batches into one request. The last of them to let go would keep all of
/// the request in memory for as long as the batch is cached.
#[test]
fn a_small_part_of_a_frame_lets_go_of_it() {
    let mut builder = BatchBuilder::new(Codec::None);
    let record = NewRecord {
        value: Some(&[7; 20_000]),
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    let batch = builder.build().unwrap().into_bytes();
    for (batches, is_held) in [(1, true), (2, true), (3, false), (100, false)] {
        let holders = Arc::new(());
        let frame = Watched(batch.repeat(batches), Arc::clone(&holders));
        let frame = Bytes::from_owner(frame);
        let frame_bytes = frame.len();
        let last = split_batches(frame).last().unwrap().unwrap();
        let last = last.detached(frame_bytes);
        assert_eq!(last.bytes(), &batch);
        assert_eq!(Arc::strong_count(&holders) > 1, is_held, "{batches}");
    }
}
