//! The bytes of every format, pinned: `storage/testdata/*.hex` hold what version 1 looks like, and
//! `storage/FORMAT.md` walks through them; `storage/src/segment/testdata` has a whole segment, most of
//! which Parquet specifies. A difference is a change of format, which needs a new version, not a new
//! golden file. For a new format, `CI_FIRN_WRITE_GOLDEN=1` writes the file.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use firn_proto::cluster::{ArchivedRun, SegmentKey};
use firn_proto::ids::{
    BrokerId, ClusterId, CoordinatorEpoch, DiskId, Fingerprint, Incarnation, LeaderEpoch,
    PartitionIndex, ProducerEpoch, ProducerId, Slot, SlotPosition, StreamId, TopicId,
    TopicPartition,
};
use firn_proto::journal::JournalPosition;
use firn_proto::record::{
    BatchBuilder, BatchHeader, BatchView, Codec, NewHeader, NewRecord, assemble,
};

use crate::checkpoint;
use crate::journal::record::{
    EpochClaim, JournalIndex, Opening, ProcessRecord, Snapshot, decode_cluster, encode_cluster,
};
use crate::segment::table::{TRAILER_BYTES, Trailer};
use crate::segment::{
    RowGroup, RowGroupReader, SegmentOrigin, SegmentWriter, TargetCodec, decode_map_page,
    encode_map_page, read_footer,
};
use crate::state::{BatchFlags, ProducerBatch, Run, StateRow};
use crate::stream::slot::{Nonce, SlotBody, SlotHeader, seal_object};
use crate::stream::{CheckpointRef, StreamName, WalIndex};
use crate::wal::local::format::{
    Identity, SEGMENT_CHECKED, SegmentHeader, Stamp, check_entry, decode_identity,
    encode_entry_header, encode_identity, entry_bytes, salt_of,
};
use crate::wal::{Acks, ProducerFields, WalEntry};

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

fn nonce(byte: u8) -> Nonce {
    Nonce([byte; 16])
}

fn position(epoch: u64, slot: u64) -> JournalPosition {
    JournalPosition {
        epoch: CoordinatorEpoch(epoch),
        slot: Slot(slot),
    }
}

/// Compares `bytes` with the golden file `name`.
fn assert_golden(name: &str, bytes: &[u8]) {
    assert_golden_in("testdata", name, bytes);
}

fn assert_golden_in(folder: &str, name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(name);
    let line = |line: &[u8]| -> String { line.iter().map(|byte| format!("{byte:02x}")).collect() };
    let hex: String = bytes.chunks(16).map(|chunk| line(chunk) + "\n").collect();
    if std::env::var_os("CI_FIRN_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &hex).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        hex, golden,
        "the bytes of {name} are a format and must not change"
    );
}

/// The bytes of the golden file `name`, of a version that is read and not written any more.
fn golden_bytes(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let hex = std::fs::read_to_string(folder.join(name)).unwrap();
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn object(stream: &StreamName, slot: u64, body: SlotBody) -> Bytes {
    body.into_object(stream, Slot(slot), nonce(0xaa), nonce(0xbb))
        .concat()
        .into()
}

/// Two records of an idempotent producer at offsets 2^32 and 2^32 + 1 of one partition.
fn wal_index_and_batch() -> (WalIndex, Bytes) {
    let base_offset = 1_i64 << 32;
    let tp = TopicPartition {
        topic: TopicId([0x70; 16]),
        partition: PartitionIndex(3),
    };
    let mut batch = BatchBuilder::new(Codec::None)
        .base_offset(base_offset)
        .leader_epoch(LeaderEpoch(5))
        .producer(ProducerId(9), ProducerEpoch(1), 7);
    for (key, value) in [("a", "one"), ("b", "two")] {
        let record = NewRecord {
            timestamp: 1_700_000_000_000,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        };
        batch.push(&record).unwrap();
    }
    let batch = batch.build().unwrap().into_bytes();
    let run = Run {
        tp,
        epoch: LeaderEpoch(5),
        base_offset,
        last_offset: base_offset + 1,
        byte_start: 0,
        byte_len: u32::try_from(batch.len()).unwrap(),
        max_timestamp: 1_700_000_000_000,
        flags: BatchFlags(0),
    };
    let producer = ProducerBatch {
        tp,
        producer: ProducerId(9),
        producer_epoch: ProducerEpoch(1),
        base_sequence: 7,
        count: 2,
        base_offset,
        max_timestamp: 1_700_000_000_000,
        flags: BatchFlags(0),
    };
    let index = WalIndex {
        runs: vec![run],
        producers: vec![producer],
        checkpoint: CheckpointRef::Object {
            slot: Slot(6),
            len: 4096,
            crc: 0x0102_0304,
        },
    };
    (index, batch)
}

#[test]
fn a_wal_object_keeps_its_bytes() {
    let (mut index, batch) = wal_index_and_batch();
    let bytes = index.place().unwrap();
    let stream = StreamName::wal(CLUSTER, StreamId(7));
    let object = object(&stream, 6, SlotBody::new(bytes.clone(), vec![batch]));
    assert_golden("wal_object_v1.hex", &object);
    let header = SlotHeader::decode(&object).unwrap();
    assert_eq!(header.index_of(&object).unwrap(), bytes);
    assert_eq!(WalIndex::decode(&bytes, header.body_len), Ok(index));
}

#[test]
fn a_checkpoint_keeps_its_bytes() {
    let mut row = StateRow::new(wal_index_and_batch().0.runs[0].tp, LeaderEpoch(5));
    row.after = Some(SlotPosition {
        stream: StreamId(7),
        slot: Slot(5),
    });
    row.log_start = 1 << 31;
    row.end_offset = 1 << 32;
    let whole = |bytes: &[u8]| {
        let mut rows = checkpoint::decode(bytes).unwrap();
        rows.remove(0).with_pages(|_| None).unwrap()
    };
    let bytes = checkpoint::encode(StreamId(7), std::slice::from_ref(&row)).bytes;
    assert_golden("checkpoint_v2.hex", &bytes);
    assert_eq!(whole(&bytes), row);
    let older = include_str!("../testdata/checkpoint_v1.hex");
    let digits: Vec<char> = older.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    let older: Vec<u8> = digits.chunks(2).map(byte).collect();
    assert_eq!(whole(&older), row, "version 1 is read");
}

#[test]
fn a_seal_keeps_its_bytes() {
    let stream = StreamName::wal(CLUSTER, StreamId(7));
    assert_golden("seal_v1.hex", &seal_object(&stream, Slot(8), nonce(0xcc)));
}

#[test]
fn journal_slots_keep_their_bytes() {
    let stream = StreamName::journal(CLUSTER, CoordinatorEpoch(3));
    let opening = JournalIndex::Open(Opening {
        base: Some(position(1, 5)),
        ends: vec![
            (CoordinatorEpoch(1), Slot(9)),
            (CoordinatorEpoch(2), Slot(0)),
        ],
    });
    let open = object(&stream, 0, SlotBody::new(opening.encode(), Vec::new()));
    assert_golden("journal_open_v1.hex", &open);
    assert_eq!(JournalIndex::decode(&opening.encode()), Ok(opening));
    let body = vec![Bytes::from_static(b"commands")];
    let entry = object(
        &stream,
        1,
        SlotBody::new(JournalIndex::Entry.encode(), body),
    );
    assert_golden("journal_entry_v1.hex", &entry);
}

#[test]
fn objects_of_the_coordinator_keep_their_bytes() {
    assert_golden("cluster_v1.hex", &encode_cluster(CLUSTER));
    assert_eq!(decode_cluster(&encode_cluster(CLUSTER)), Ok(CLUSTER));
    let claim = EpochClaim {
        cluster: CLUSTER,
        epoch: CoordinatorEpoch(3),
        nonce: nonce(0xdd),
        identity: Bytes::from_static(b"broker 1"),
    };
    assert_golden("epoch_v1.hex", &claim.encode());
    let process = ProcessRecord {
        cluster: CLUSTER,
        fingerprint: Fingerprint([0xfe; 32]),
        card: Bytes::from_static(b"broker 1"),
    };
    assert_golden("process_v1.hex", &process.encode());
    let snapshot = Snapshot {
        cluster: CLUSTER,
        covers: position(3, 40),
        floor: Some(position(3, 20)),
        body: Bytes::from_static(b"state"),
    };
    assert_golden("snapshot_v1.hex", &snapshot.encode());
}

#[test]
fn files_of_the_local_wal_keep_their_bytes() {
    let mut disk = DiskId([0xd1; 16]);
    disk.0[8..].fill(0xe2);
    let broker = BrokerId(7);
    let bytes = encode_identity(CLUSTER, disk, Some(broker));
    assert_golden("local_identity_v2.hex", &bytes);
    let identity = |broker| Identity {
        cluster: CLUSTER,
        disk,
        broker,
    };
    assert_eq!(decode_identity(&bytes), Some(identity(Some(broker))));
    let before = golden_bytes("local_identity_v1.hex");
    assert_eq!(decode_identity(&before), Some(identity(None)));
    assert_eq!(encode_identity(CLUSTER, disk, None), before);
    let header = SegmentHeader {
        cluster: CLUSTER,
        disk,
        number: 5,
        previous: Some((4, 1 << 20)),
    };
    let page = header.encode();
    assert_golden("local_segment_v1.hex", &page[..SEGMENT_CHECKED.end]);
    assert!(page[SEGMENT_CHECKED.end..].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&page), Some(header));

    let (index, batch) = wal_index_and_batch();
    let (run, producer) = (&index.runs[0], &index.producers[0]);
    let entry = WalEntry {
        tp: run.tp,
        epoch: run.epoch,
        base_offset: run.base_offset,
        last_offset: run.last_offset,
        max_timestamp: run.max_timestamp,
        producer: Some(ProducerFields {
            id: producer.producer,
            epoch: producer.producer_epoch,
            base_sequence: producer.base_sequence,
        }),
        flags: run.flags,
        acks: Acks::Local,
        records: batch.clone(),
    };
    let stamp = Stamp {
        segment: 5,
        sequence: 1 << 33,
        synced: 4096,
        salt: salt_of(disk),
    };
    let mut bytes = encode_entry_header(&entry, StreamId(7), stamp).to_vec();
    bytes.extend_from_slice(&batch);
    bytes.resize(entry_bytes(batch.len()), 0);
    assert_golden("local_entry_v1.hex", &bytes);
    let header = check_entry(&bytes).unwrap();
    assert_eq!((header.stamp, header.stream), (stamp, StreamId(7)));
    let empty = Bytes::new();
    assert_eq!(
        header.entry,
        WalEntry {
            records: empty,
            ..entry
        }
    );
}

/// Three batches of one partition: one of a producer, one compressed whose timestamps the column
/// cannot hold and whose header key is not UTF-8, and one that cannot be decoded.
fn archived_batches() -> Vec<BatchView> {
    let mut first = wal_index_and_batch().1;
    let mut odd = BatchBuilder::new(Codec::Zstd)
        .base_offset((1 << 32) + 2)
        .leader_epoch(LeaderEpoch(6));
    let headers: [NewHeader<'_>; 1] = [(b"\xff", Some(b"h"))];
    for (timestamp, headers) in [(-1, &headers[..]), (0, &[])] {
        let record = NewRecord {
            timestamp,
            key: None,
            value: Some(b"three"),
            headers,
        };
        odd.push(&record).unwrap();
    }
    let broken = BatchHeader {
        base_offset: (1 << 32) + 9,
        max_timestamp: 1_700_000_000_001,
        ..*odd.clone().build().unwrap().header()
    };
    let broken = assemble(&broken, Codec::None.into(), b"not records").unwrap();
    let first = BatchView::take(&mut first).unwrap();
    vec![first, odd.build().unwrap(), broken]
}

#[test]
fn a_segment_keeps_its_bytes() {
    let origin = SegmentOrigin {
        cluster: CLUSTER,
        topic: TopicId([0x70; 16]),
        topic_name: "orders".to_owned(),
    };
    let mut writer = SegmentWriter::new(Vec::new(), &origin).unwrap();
    let batches = archived_batches();
    writer
        .begin_run(PartitionIndex(3), 1 << 32, (1 << 32) + 20)
        .unwrap();
    for batch in &batches {
        writer.push(batch).unwrap();
    }
    let written = writer.finish().unwrap();
    let (object, run) = (&written.sink, &written.segment.runs[0]);
    let group = &run.row_groups[0];
    let range = group.byte_range();
    let bytes = Bytes::copy_from_slice(&object[range.start as usize..range.end as usize]);
    let trailer = Trailer::decode(&bytes).unwrap();
    let table_len = TRAILER_BYTES + trailer.stored_len as usize;
    assert_golden("batch_table_v1.hex", &bytes[bytes.len() - table_len..]);
    let (_, rows) = trailer.split(&bytes).unwrap();
    assert_golden("batch_table_rows_v1.hex", &rows);
    assert_golden_in("src/segment/testdata", "segment_v1.hex", object);
    let mut reader = RowGroupReader::open(&bytes, origin.topic, run.partition, group).unwrap();
    for batch in &batches {
        let found = reader.next_batch(TargetCodec::Producer).unwrap().unwrap();
        assert_eq!(found.bytes(), batch.bytes());
    }
    assert_eq!(read_footer(object, object.len() as u64).unwrap().0, origin);
}

/// Of a row group whose values are stored as they are.
#[test]
fn a_batch_table_of_version_2_keeps_its_bytes() {
    let origin = SegmentOrigin {
        cluster: CLUSTER,
        topic: TopicId([0x70; 16]),
        topic_name: "orders".to_owned(),
    };
    let mut state = 1_u64;
    let mut byte = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..20_000).map(&mut byte).collect();
    let mut batch = BatchBuilder::new(Codec::None);
    let record = NewRecord {
        timestamp: 1_700_000_000_000,
        key: Some(b"key"),
        value: Some(&noise),
        headers: &[],
    };
    batch.push(&record).unwrap();
    let batch = batch.build().unwrap();
    let mut writer = SegmentWriter::new(Vec::new(), &origin).unwrap();
    writer.begin_run(PartitionIndex(3), 0, 0).unwrap();
    writer.push(&batch).unwrap();
    let written = writer.finish().unwrap();
    let run = &written.segment.runs[0];
    let group = &run.row_groups[0];
    let range = group.byte_range();
    let bytes = &written.sink[range.start as usize..range.end as usize];
    let bytes = Bytes::copy_from_slice(bytes);
    let trailer = Trailer::decode(&bytes).unwrap();
    let table_len = TRAILER_BYTES + trailer.stored_len as usize;
    assert_golden("batch_table_v2.hex", &bytes[bytes.len() - table_len..]);
    let mut reader = RowGroupReader::open(&bytes, origin.topic, run.partition, group).unwrap();
    let found = reader.next_batch(TargetCodec::Producer).unwrap().unwrap();
    assert_eq!(found.bytes(), batch.bytes());
}

#[test]
fn a_page_of_the_segment_map_keeps_its_bytes() {
    let group = RowGroup {
        base_offset: 1 << 32,
        last_offset: (1 << 32) + 10,
        byte_start: 4,
        byte_len: 364,
        max_timestamp_so_far: 1_700_000_000_000,
        records: 4,
        plain_bytes: 700,
    };
    let run = |number: u64, base_offset: i64, row_groups: Vec<RowGroup>| ArchivedRun {
        segment: SegmentKey {
            incarnation: Incarnation(9),
            number,
        },
        runs_of_segment: 2,
        base_offset,
        last_offset: base_offset + 10,
        max_timestamp: row_groups
            .first()
            .map_or(i64::MIN, |g| g.max_timestamp_so_far),
        row_groups,
    };
    let runs = [run(1, 1 << 32, vec![group]), run(2, (1 << 32) + 11, vec![])].map(Arc::new);
    let tp = TopicPartition {
        topic: TopicId([0x70; 16]),
        partition: PartitionIndex(3),
    };
    let bytes = encode_map_page(tp, &runs).unwrap();
    assert_golden("map_page_v1.hex", &bytes);
    let golden = golden_bytes("map_page_v1.hex");
    assert_eq!(decode_map_page(&golden), Ok((tp, runs.to_vec())));
}

#[test]
fn the_examples_of_the_specification_are_the_golden_files() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let specification = std::fs::read_to_string(folder.join("FORMAT.md")).unwrap();
    // A line of an example: four digits of offset, two spaces, up to 16 bytes, what they are.
    let shown: String = specification
        .lines()
        .filter(|line| line.get(4..6) == Some("  ") && u32::from_str_radix(&line[..4], 16).is_ok())
        .flat_map(|line| {
            line.chars()
                .skip(6)
                .take(48)
                .filter(char::is_ascii_hexdigit)
        })
        .collect();
    for file in std::fs::read_dir(folder.join("testdata")).unwrap() {
        let path = file.unwrap().path();
        let golden: String = std::fs::read_to_string(&path)
            .unwrap()
            .split_whitespace()
            .collect();
        assert!(
            shown.contains(&golden),
            "FORMAT.md does not show {}",
            path.display()
        );
    }
}
