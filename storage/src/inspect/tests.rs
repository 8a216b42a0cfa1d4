use firn_proto::ids::{
    BrokerId, ClusterId, CoordinatorEpoch, DiskId, LeaderEpoch, PartitionIndex, ProducerEpoch,
    ProducerId, Slot, StreamId, TopicId, TopicPartition,
};
use firn_proto::journal::JournalPosition;
use firn_proto::record::{BatchBuilder, Codec, NewRecord};
use proptest::prelude::*;

use super::*;
use crate::checkpoint;
use crate::journal::record::{JournalIndex, Opening, encode_cluster};
use crate::segment::{SegmentOrigin, SegmentWriter};
use crate::state::{BatchFlags, Run, StateRow};
use crate::stream::slot::{Nonce, SlotBody, seal_object};
use crate::stream::{CheckpointRef, StreamName, WalIndex};
use crate::wal::local::format::encode_identity;

const CLUSTER: ClusterId = ClusterId([1; 16]);

fn tp() -> TopicPartition {
    TopicPartition {
        topic: TopicId([2; 16]),
        partition: PartitionIndex(3),
    }
}

fn row() -> StateRow {
    StateRow::new(tp(), LeaderEpoch(4))
}

/// A WAL object with one batch of two records at `offset`, and a checkpoint.
fn wal_object(offset: i64) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None)
        .base_offset(offset)
        .leader_epoch(LeaderEpoch(4));
    for _ in 0..2 {
        batch.push(&NewRecord::default()).unwrap();
    }
    let batch = batch.build().unwrap().into_bytes();
    let mut index = WalIndex {
        runs: vec![Run {
            tp: tp(),
            epoch: LeaderEpoch(4),
            base_offset: 10,
            last_offset: 11,
            byte_start: 0,
            byte_len: u32::try_from(batch.len()).unwrap(),
            max_timestamp: 0,
            flags: BatchFlags(0),
        }],
        producers: Vec::new(),
        checkpoint: CheckpointRef::Inline(checkpoint::encode(StreamId(7), &[row()]).bytes),
    };
    let body = SlotBody::new(index.place().unwrap(), vec![batch]);
    object(&StreamName::wal(CLUSTER, StreamId(5)), body)
}

fn object(stream: &StreamName, body: SlotBody) -> Bytes {
    body.into_object(stream, Slot(6), Nonce([7; 16]), Nonce([8; 16]))
        .concat()
        .into()
}

/// A coordinator whose commands and states are text.
const READER: OfCoordinator = OfCoordinator {
    entry: |bytes| lines_of(bytes, "command"),
    snapshot: |bytes| lines_of(bytes, "row"),
};

fn lines_of(bytes: &[u8], what: &str) -> Result<Vec<String>, String> {
    let text = str::from_utf8(bytes).map_err(|e| e.to_string())?;
    Ok(text
        .split(' ')
        .map(|word| format!("{what} {word}"))
        .collect())
}

fn inspected(bytes: &Bytes) -> Option<Inspection> {
    inspect(bytes, READER)
}

fn assert_shows(bytes: &Bytes, kind: &str, lines: &[&str]) {
    let inspection = inspected(bytes).unwrap();
    assert_eq!(inspection.kind, kind);
    assert_eq!(inspection.faults, [""; 0], "{inspection}");
    for line in lines {
        assert!(
            inspection.text.contains(line),
            "no '{line}' in\n{inspection}"
        );
    }
}

#[test]
fn a_wal_object_is_shown_with_runs_and_checkpoint() {
    assert_shows(
        &wal_object(10),
        "WAL object",
        &[
            "stream           0000000000000005",
            "offsets 10..=11",
            "state rows       1",
        ],
    );
}

#[test]
fn a_batch_that_is_not_what_its_run_says_is_a_fault() {
    let inspection = inspected(&wal_object(9)).unwrap();
    assert_eq!(inspection.faults.len(), 1, "{inspection}");
    assert!(
        inspection.faults[0].contains("another base offset"),
        "{inspection}"
    );
}

#[test]
fn journal_slots_and_seals_are_told_apart() {
    let journal = StreamName::journal(CLUSTER, CoordinatorEpoch(5));
    let opening = JournalIndex::Open(Opening {
        base: None,
        ends: vec![(CoordinatorEpoch(4), Slot(9))],
    });
    let opening = object(&journal, SlotBody::new(opening.encode(), Vec::new()));
    assert_shows(&opening, "journal slot", &["epoch 4 ends at slot 9"]);
    let entry = SlotBody::new(
        JournalIndex::Entry.encode(),
        vec![Bytes::from_static(b"create commit")],
    );
    assert_shows(
        &object(&journal, entry),
        "journal slot",
        &["commands         2", "command create", "command commit"],
    );
    let seal = seal_object(&journal, Slot(9), Nonce([7; 16]));
    assert_shows(
        &seal,
        "seal of a journal stream",
        &["slot             0000000000000009"],
    );
}

#[test]
fn objects_of_the_coordinator_are_shown() {
    assert_shows(
        &encode_cluster(CLUSTER),
        "cluster id",
        &["AQEBAQEBAQEBAQEBAQEBAQ"],
    );
    let claim = EpochClaim {
        cluster: CLUSTER,
        epoch: CoordinatorEpoch(3),
        nonce: Nonce([7; 16]),
        identity: Bytes::from_static(b"me"),
    };
    assert_shows(&claim.encode(), "claim to a coordinator epoch", &["\"me\""]);
    let snapshot = Snapshot {
        cluster: CLUSTER,
        covers: JournalPosition {
            epoch: CoordinatorEpoch(3),
            slot: Slot(4),
        },
        floor: None,
        body: Bytes::from_static(b"topic"),
    };
    let kind = "snapshot of the coordinator's state";
    assert_shows(
        &snapshot.encode(),
        kind,
        &["0000000000000003/0000000000000004", "row topic"],
    );
    let damaged = Snapshot {
        body: Bytes::from_static(&[0xff]),
        ..snapshot
    };
    let damaged = inspected(&damaged.encode()).unwrap();
    assert_eq!(damaged.faults.len(), 1, "{damaged}");
}

#[test]
fn a_checkpoint_is_shown_row_by_row() {
    let rows = checkpoint::encode(StreamId(7), &[row(), row()]).bytes;
    assert_shows(
        &rows,
        "checkpoint",
        &["state rows       2", "epoch 4 after no slot"],
    );
    let cut = inspected(&rows.slice(..rows.len() - 1)).unwrap();
    assert_eq!(cut.faults.len(), 1, "{cut}");
}

#[test]
fn a_local_segment_is_shown_up_to_its_last_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let file = crate::wal::local::tests::one_segment(dir.path(), 3);
    assert_shows(
        &file,
        "local WAL segment",
        &["entries          3", "number           1"],
    );
    let header_lost = inspected(&file.slice(..20)).unwrap();
    assert_eq!(header_lost.faults.len(), 1, "{header_lost}");
}

/// Whatever lies in the directory of a local WAL, by the names it has there.
#[test]
fn every_file_of_a_local_wal_is_known() {
    let dir = tempfile::tempdir().unwrap();
    crate::wal::local::tests::one_segment(dir.path(), 3);
    let mut kinds = Vec::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap().into();
        let inspection = inspected(&bytes).unwrap_or_else(|| panic!("{path:?} is unknown"));
        assert_eq!(inspection.faults, [""; 0], "{inspection}");
        kinds.push(inspection.kind);
    }
    kinds.sort_unstable();
    kinds.dedup();
    let expected = [
        "identity of a local WAL",
        "local WAL segment",
        "lock of a directory",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_reserved_segment_an_identity_and_a_lock_say_what_they_are() {
    let reserved = Bytes::from(vec![0; 8192]);
    assert_shows(&reserved, "local WAL segment", &["8192 bytes, not begun"]);
    let lock = Bytes::from_static(b"4711\n");
    assert_shows(&lock, "lock of a directory", &["process 4711"]);
    let disk = DiskId([3; 16]);
    let identity = Bytes::copy_from_slice(&encode_identity(CLUSTER, disk, Some(BrokerId(4))));
    let kind = "identity of a local WAL";
    assert_shows(
        &identity,
        kind,
        &["AQEBAQEBAQEBAQEBAQEBAQ", "AwMDAwMDAwMDAwMDAwMDAw"],
    );
    let cut = inspected(&identity.slice(..20)).unwrap();
    assert_eq!(cut.faults.len(), 1, "{cut}");
}

#[test]
fn objects_of_the_probe_say_what_they_are() {
    let marker = Bytes::from_static(PROBE_PASSED.as_bytes());
    assert_shows(&marker, "marker of the probe", &["the full probe passed"]);
    let scratch = Place::Scratch(7).key();
    let scratch = Bytes::from([scratch.as_str().as_bytes(), &[5; 100]].concat());
    assert_shows(&scratch, "scratch object of the probe", &["0007\\x05"]);
}

#[test]
fn what_firn_does_not_write_is_nothing() {
    assert_eq!(inspected(&Bytes::new()), None);
    assert_eq!(inspected(&Bytes::from_static(b"ORC and so on")), None);
    assert_eq!(inspected(&Bytes::from_static(b"\n")), None);
    let no_segment = inspected(&Bytes::from_static(b"PAR1 and so on")).unwrap();
    assert_eq!(no_segment.faults.len(), 1, "{no_segment}");
}

proptest! {
    #[test]
    fn damage_is_described_and_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        keep in any::<prop::sample::Index>(),
    ) {
        for object in [wal_object(10), segment()] {
            let mut bytes = object.to_vec();
            for (at, change) in &changes {
                let at = at.index(bytes.len());
                bytes[at] ^= change;
            }
            let _ = inspected(&Bytes::from(bytes.clone())).map(|found| found.to_string());
            bytes.truncate(keep.index(bytes.len()));
            let _ = inspected(&bytes.into()).map(|found| found.to_string());
        }
    }
}

/// A segment of two batches, each of one record that is kept verbatim.
fn segment() -> Bytes {
    let origin = SegmentOrigin {
        cluster: CLUSTER,
        topic: tp().topic,
        topic_name: "orders".to_owned(),
    };
    let mut writer = SegmentWriter::new(Vec::new(), &origin).unwrap();
    writer.begin_run(tp().partition, 10, 30).unwrap();
    for base_offset in [10, 20] {
        let mut batch = BatchBuilder::new(Codec::Zstd)
            .base_offset(base_offset)
            .leader_epoch(LeaderEpoch(4))
            .producer(ProducerId(77), ProducerEpoch(2), 5);
        let record = NewRecord {
            timestamp: -1,
            headers: &[(b"\xff", None)],
            ..NewRecord::default()
        };
        batch.push(&record).unwrap();
        writer.push(&batch.build().unwrap()).unwrap();
    }
    writer.finish().unwrap().sink.into()
}

#[test]
fn a_segment_shows_its_row_groups_and_batches() {
    let object = segment();
    let shown = inspected(&object).unwrap();
    assert_eq!((shown.kind, shown.faults.len()), ("segment", 0), "{shown}");
    for line in [
        "(orders)",
        "partition 3 offsets 10..=30 max timestamp -1 row groups 1",
        "offsets 10..=30 bytes 4..",
        "batch offsets 10..=10 epoch 4 records 1 attributes 0x0004 producer 77 epoch 2 sequence 5, with timestamps, 1 records kept verbatim",
        "batch offsets 20..=20",
    ] {
        assert!(shown.text.contains(line), "{line} is not in\n{shown}");
    }
    let mut damaged = object.to_vec();
    damaged[9] ^= 1;
    let shown = inspected(&damaged.into()).unwrap();
    assert_eq!(
        shown.faults,
        ["row group at byte 4: the crc of the columns of the row group does not match"]
    );
    let cut_off = inspected(&object.slice(..object.len() - 1)).unwrap();
    assert_eq!(cut_off.faults.len(), 1);
}
