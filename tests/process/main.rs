//! The real binary as a process of its own: the main job on real input, `kill -9`, hostile frames,
//! a store that dies or lies, disks that fill up. Declared in `broker/Cargo.toml`, because cargo
//! builds the `firn` binary only for targets of its own package.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the functions between tests panic as tests do"
)]

mod archive;
mod cluster;
mod crash;
mod damage;
mod doctor;
mod flights;
mod groups;
mod hostile;
mod lifecycle;
mod outage;

use std::path::Path;

use bytes::Bytes;
use firn_tests::client::{Client, code};
use firn_tests::history::History;
use firn_tests::minio::{Minio, minio_for};
use firn_tests::node::{NodePlan, forget_local_files};
use firn_tests::records::{ProducerFields, Record, encode_batch};
use tempfile::TempDir;

/// The binary under test.
const FIRN: &str = env!("CARGO_BIN_EXE_firn");

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A broker on MinIO with its local WAL where [`forget_local_files`] finds it.
fn node_on(minio: &Minio, folder: &Path) -> NodePlan {
    minio
        .node(FIRN, folder, "cluster")
        .with_wal(&folder.join("wal"))
}

/// Produces one record to partition 0 with acks=1, once, and notes where it was acknowledged.
fn append_with_acks_1(client: &mut Client, history: &mut History, topic: &str, value: Bytes) {
    append_once(client, history, topic, value, 1);
}

/// Produces one record to partition 0, once, and notes where it was acknowledged.
fn append_once(client: &mut Client, history: &mut History, topic: &str, value: Bytes, acks: i16) {
    let batch = encode_batch(&[Record::new("key", value.clone())], ProducerFields::NONE);
    history.sent(0, std::slice::from_ref(&value));
    let produced = client.produce_with_acks(topic, 0, batch, acks).unwrap();
    assert_eq!(produced.error, code::NONE);
    history.acknowledged(0, produced.base_offset, &[value]);
}

/// Reads every partition to its end and asserts that the log keeps to what was acknowledged.
fn assert_keeps(history: &History, client: &mut Client, topic: &str, partitions: i32) {
    let mut faults = Vec::new();
    for partition in 0..partitions {
        let log = client.read(topic, partition, 0);
        faults.extend(history.faults(partition, &log));
    }
    assert!(
        faults.is_empty(),
        "{} faults in {topic}, first: {:#?}",
        faults.len(),
        &faults[..faults.len().min(10)]
    );
}
