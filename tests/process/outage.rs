//! A bucket that is not there, freezes or dies, and a disk that fills up: nothing acknowledged is
//! lost, and what can heal heals by itself.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use firn_tests::client::Client;
use firn_tests::history::History;
use firn_tests::node::{Node, NodePlan};
use firn_tests::producer::{IN_FLIGHT_MAX, IdempotentProducer};
use firn_tests::records::Record;
use firn_tests::{requirement, wait};

use crate::{FIRN, append_with_acks_1, assert_keeps, folder, minio_for, node_on};

const TOPIC: &str = "outage";

/// Rows of `/metrics` that count puts of slots which the bucket did not take.
const FAILED_PUTS: &str = "firn_bucket_errors_total{purpose=\"wal\",operation=\"create\"}";

/// Produces before, during and after an outage of the store, and checks that all of it is there
/// afterwards. `begin` returns when the store answers nobody any more.
fn producing_survives(plan: &NodePlan, begin: impl FnOnce(), end: impl FnOnce() + Send) {
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 2, &[]);
    let mut producer = IdempotentProducer::new(node.kafka(), TOPIC, 2);
    send(&mut producer, "before", 50);
    assert!(producer.flush());
    assert_eq!(producer.history.acknowledged_count(), 50);

    let failed_before = node.metric(FAILED_PUTS);
    let is_over = AtomicBool::new(false);
    begin();
    std::thread::scope(|scope| {
        let outage = scope.spawn(|| {
            wait::until("a put to fail", wait::PATIENCE, || {
                (node.metric(FAILED_PUTS) > failed_before).then_some(())
            });
            is_over.store(true, Ordering::SeqCst);
            end();
        });
        send(&mut producer, "during", IN_FLIGHT_MAX);
        assert!(producer.settle_oldest(), "the broker stays up");
        assert!(
            is_over.load(Ordering::SeqCst),
            "a batch was acknowledged while there was no store"
        );
        outage.join().unwrap();
    });
    assert!(producer.flush(), "and it answers everybody in the end");
    assert_eq!(producer.history.acknowledged_count(), 50 + IN_FLIGHT_MAX);

    send(&mut producer, "after", 50);
    assert!(producer.flush());
    assert_keeps(&producer.history, &mut client, TOPIC, 2);
    node.kill();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 2);
    assert_keeps(&producer.history, &mut client, TOPIC, 2);
    node.stop();
}

fn send(producer: &mut IdempotentProducer, when: &str, count: usize) {
    for at in 0..count {
        let record = Record::new("key", format!("{when} {at}"));
        let partition = i32::try_from(at % 2).unwrap();
        if !producer.send(partition, &[record]) {
            producer.reconnect();
        }
    }
}

#[test]
fn a_store_that_freezes_and_thaws_loses_nothing() {
    let folder = folder();
    let Some(minio) = minio_for(
        "a_store_that_freezes_and_thaws_loses_nothing",
        folder.path(),
    ) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    producing_survives(&plan, || minio.process.freeze(), || minio.process.thaw());
}

#[test]
fn a_store_that_dies_and_comes_back_loses_nothing() {
    let folder = folder();
    let Some(mut minio) = minio_for(
        "a_store_that_dies_and_comes_back_loses_nothing",
        folder.path(),
    ) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    let store = Mutex::new(&mut minio);
    producing_survives(
        &plan,
        || store.lock().unwrap().process.kill(),
        || store.lock().unwrap().restart(),
    );
}

#[test]
fn a_broker_started_before_its_store_waits_for_it() {
    let folder = folder();
    let Some(mut minio) = minio_for(
        "a_broker_started_before_its_store_waits_for_it",
        folder.path(),
    ) else {
        return;
    };
    minio.process.kill();
    let mut node = node_on(&minio, folder.path()).launch();
    wait::until("a line about the bucket", wait::PATIENCE, || {
        node.process.output().contains("bucket").then_some(())
    });
    assert!(
        node.process.is_running(),
        "it wrote:\n{}",
        node.process.output()
    );
    minio.restart();
    node.wait_ready();
    node.stop();
}

/// A file system of one size. Dropping it unmounts it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(test: &str, at: &Path, size: &str) -> Option<Self> {
        if !requirement::is_root() {
            requirement::skip(test, "the right to mount a tmpfs");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_path_buf()));
        }
        requirement::skip(test, "a kernel that mounts a tmpfs");
        None
    }
}

impl SmallDisk {
    /// Writes a file until the disk refuses. Returns its path.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut zeros = std::fs::File::open("/dev/zero").unwrap();
        let mut file = std::fs::File::create(&path).unwrap();
        let refused = std::io::copy(&mut zeros, &mut file).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// With no room for a segment, acks=1 is worth as much as acks=all, and an operator can read why.
#[test]
fn without_room_for_the_local_wal_acks_1_waits_for_the_bucket() {
    let folder = folder();
    let test = "without_room_for_the_local_wal_acks_1_waits_for_the_bucket";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), "64k") else {
        return;
    };
    let plan = minio.node(FIRN, folder.path(), "cluster");
    let node = plan.clone().with_wal(&disk.0).start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 1, &[]);
    let mut history = History::default();
    for at in 0..10 {
        append_with_acks_1(&mut client, &mut history, TOPIC, format!("{at}").into());
    }
    let output = node.process.output();
    assert!(
        output.contains("No space left"),
        "the log says what is full:\n{output}"
    );
    node.kill();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 1);
    assert_keeps(&history, &mut client, TOPIC, 1);
    node.stop();
}

/// The disk has room for one segment of the local WAL, and a stranger's file takes what is left.
/// The broker goes on, says why acks=1 got slower, and takes the disk again once there is room.
/// What it acknowledged is there after a crash in each of these states.
#[test]
fn a_disk_that_fills_up_under_the_local_wal_loses_nothing() {
    let folder = folder();
    let test = "a_disk_that_fills_up_under_the_local_wal_loses_nothing";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), "100m") else {
        return;
    };
    let plan = minio.node(FIRN, folder.path(), "cluster").with_wal(&disk.0);
    let mut history = History::default();
    let mut values = (0..).map(|at: u32| {
        // No smaller batch finds a last gap in a segment that has no room for this one.
        let mut value = at.to_be_bytes().to_vec();
        value.resize(1_000_000, b'.');
        Bytes::from(value)
    });
    let mut append = |client: &mut Client, history: &mut History| {
        append_with_acks_1(client, history, TOPIC, values.next().unwrap());
    };

    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 1, &[]);
    append(&mut client, &mut history);
    assert!(!is_full(&node), "there is room for the first segment");
    let ballast = disk.fill();
    for _ in 0..100 {
        append(&mut client, &mut history);
    }
    assert!(is_full(&node), "more than a segment was acknowledged");
    let output = node.process.output();
    assert!(
        output.contains("no room for the local wal") && output.contains("No space left"),
        "the log says what is full:\n{output}"
    );
    node.kill();

    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 1);
    assert_keeps(&history, &mut client, TOPIC, 1);
    std::fs::remove_file(ballast).unwrap();
    wait::until("the disk to be used again", wait::PATIENCE, || {
        append(&mut client, &mut history);
        (node.metric("firn_wal_fsync_seconds_count") > 0.0 && !is_full(&node)).then_some(())
    });
    node.kill();

    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 1);
    assert_keeps(&history, &mut client, TOPIC, 1);
    node.stop();
}

/// Whether the broker has met a full disk under its local WAL and has not found room since.
fn is_full(node: &Node) -> bool {
    node.metric("firn_wal_local_full") != 0.0
}
