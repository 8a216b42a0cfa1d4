use firn_proto::ids::{
    ClusterId, CoordinatorEpoch, LeaderEpoch, PartitionIndex, Slot, StreamId, TopicId,
    TopicPartition,
};
use firn_proto::journal::JournalPosition;
use firn_proto::record::{BatchBuilder, Codec, NewRecord};
use proptest::prelude::*;

use super::*;
use crate::checkpoint;
use crate::journal::record::{JournalIndex, Opening, encode_cluster};
use crate::state::{BatchFlags, Run, StateRow};
use crate::stream::slot::{Nonce, SlotBody, seal_object};
use crate::stream::{CheckpointRef, StreamName, WalIndex};

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

fn assert_shows(bytes: &Bytes, kind: &str, lines: &[&str]) {
    let inspection = inspect(bytes).unwrap();
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
    let inspection = inspect(&wal_object(9)).unwrap();
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
        vec![Bytes::from_static(b"cmd")],
    );
    assert_shows(
        &object(&journal, entry),
        "journal slot",
        &["3 bytes: \"cmd\""],
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
        body: Bytes::from_static(&[0, 1]),
    };
    let kind = "snapshot of the coordinator's state";
    assert_shows(
        &snapshot.encode(),
        kind,
        &["0000000000000003/0000000000000004"],
    );
}

#[test]
fn a_checkpoint_is_shown_row_by_row() {
    let rows = checkpoint::encode(StreamId(7), &[row(), row()]).bytes;
    assert_shows(
        &rows,
        "checkpoint",
        &["state rows       2", "epoch 4 after no slot"],
    );
    let cut = inspect(&rows.slice(..rows.len() - 1)).unwrap();
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
    let header_lost = inspect(&file.slice(..20)).unwrap();
    assert_eq!(header_lost.faults.len(), 1, "{header_lost}");
}

#[test]
fn what_firn_does_not_write_is_nothing() {
    assert_eq!(inspect(&Bytes::new()), None);
    assert_eq!(inspect(&Bytes::from_static(b"PAR1 and so on")), None);
}

proptest! {
    #[test]
    fn damage_is_described_and_never_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut bytes = wal_object(10).to_vec();
        for (at, change) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        let _ = inspect(&Bytes::from(bytes.clone())).map(|inspection| inspection.to_string());
        bytes.truncate(keep.index(bytes.len()));
        let _ = inspect(&bytes.into()).map(|inspection| inspection.to_string());
    }
}
