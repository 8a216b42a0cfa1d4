//! A bucket that is not there, freezes or dies, and a disk that fills up: nothing acknowledged is
//! lost, and what can heal heals by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use firn_tests::client::{Client, code};
use firn_tests::history::History;
use firn_tests::minio::Minio;
use firn_tests::node::NodePlan;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::{requirement, wait};

use crate::{FIRN, assert_keeps, folder, minio_for, node_on};

const TOPIC: &str = "outage";
/// Long enough for puts to time out at least once.
const OUTAGE: Duration = Duration::from_secs(4);

/// Produces while `outage` happens to the store, and checks that all of it is there afterwards.
fn producing_survives(plan: &NodePlan, outage: impl FnOnce() + Send) {
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 2, &[]);
    let mut producer = IdempotentProducer::new(node.kafka(), TOPIC, 2);
    send(&mut producer, "before", 50);
    assert!(producer.flush());
    std::thread::scope(|scope| {
        let outage = scope.spawn(outage);
        send(&mut producer, "during", 200);
        assert!(
            producer.flush(),
            "the broker stays up and answers in the end"
        );
        outage.join().unwrap();
    });
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
    producing_survives(&plan, || {
        minio.process.signal("STOP");
        wait::pause(OUTAGE);
        minio.process.signal("CONT");
    });
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
    let store: &mut Minio = &mut minio;
    producing_survives(&plan, move || {
        store.process.kill();
        wait::pause(OUTAGE);
        store.restart();
    });
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
        let value = Bytes::from(format!("{at}"));
        let record = Record::new("key", value.clone());
        let batch = encode_batch(&[record], ProducerFields::NONE);
        history.sent(0, std::slice::from_ref(&value));
        let produced = client.produce_with_acks(TOPIC, 0, batch, 1).unwrap();
        assert_eq!(produced.error, code::NONE);
        history.acknowledged(0, produced.base_offset, &[value]);
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

#[test]
fn a_disk_that_fills_up_under_the_local_wal_loses_nothing() {
    let folder = folder();
    let test = "a_disk_that_fills_up_under_the_local_wal_loses_nothing";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), "300m") else {
        return;
    };
    let plan = minio.node(FIRN, folder.path(), "cluster").with_wal(&disk.0);
    let ballast = disk.0.join("ballast");
    producing_survives(&plan, || {
        // Takes what is left of the disk until it is refused, and gives it back later.
        let mut zeros = std::fs::File::open("/dev/zero").unwrap();
        let mut file = std::fs::File::create(&ballast).unwrap();
        let _ = std::io::copy(&mut zeros, &mut file);
        wait::pause(OUTAGE);
        std::fs::remove_file(&ballast).unwrap();
    });
}
