//! Damaged files: a clear error, nothing acknowledged lost that is not damaged, and never a wrong
//! byte served.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use firn_tests::client::{Client, code};
use firn_tests::node::{Node, NodePlan};
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::wait;

use crate::{FIRN, assert_keeps, folder, minio_for, node_on};

const TOPIC: &str = "damage";

/// Every file below `folder` with its size, largest first.
fn files_below(folder: &Path) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() => folders.push(entry.path()),
                Ok(data) => found.push((data.len(), entry.path())),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found.reverse();
    found
}

fn flip_byte(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = usize::try_from(at).unwrap().min(bytes.len() - 1);
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

/// A broker that holds one large batch of `value` bytes in partition 0 and small ones in 1.
fn filled(plan: &NodePlan) -> (Node, IdempotentProducer) {
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 2, &[]);
    let mut producer = IdempotentProducer::new(node.kafka(), TOPIC, 2);
    for at in 0..20 {
        let record = Record::new("small", format!("small {at}"));
        assert!(producer.send(1, &[record]));
        assert!(producer.flush());
    }
    assert!(producer.send(0, &[Record::new("large", vec![b'l'; 500_000])]));
    assert!(producer.flush());
    (node, producer)
}

#[test]
fn a_damaged_wal_object_is_never_served() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let (node, producer) = filled(&plan);
    node.stop();
    let (size, largest) = files_below(&folder.path().join("bucket")).remove(0);
    assert!(size > 500_000, "the large batch lies in one object");
    flip_byte(&largest, size - 1000);

    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 2);
    let fetched = client.fetch(TOPIC, 0, 0);
    let refused = fetched.as_ref().is_err()
        || fetched
            .as_ref()
            .is_ok_and(|f| f.error != code::NONE && f.batches.is_empty());
    assert!(refused, "the damaged batch was served: {fetched:?}");
    let mut client = Client::connect(node.kafka()).unwrap();
    let whole = client.read(TOPIC, 1, 0);
    let faults = producer.history.faults(1, &whole);
    assert!(
        faults.is_empty(),
        "the other partition is whole: {faults:?}"
    );
    let log = node.process.output();
    assert!(log.contains("corrupt"), "the log names the damage:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// An index or header that lies would be worse than a body: whatever the broker does with any
/// single flipped bit at the front of its objects, it serves no wrong byte and it does not panic.
#[test]
fn a_damaged_front_of_any_object_serves_no_wrong_byte() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let (node, producer) = filled(&plan);
    node.stop();
    let objects = files_below(&folder.path().join("bucket"));
    for (_, object) in objects.iter().take(40) {
        let whole = fs::read(object).unwrap();
        flip_byte(object, 70);
        let mut node = plan.launch();
        // Refusing to start with a clear error is one right answer; serving what is whole another.
        let served = wait::until("the broker to start or refuse", wait::PATIENCE, || {
            if !node.process.is_running() {
                return Some(false);
            }
            let ready = node
                .http_get("/readyz")
                .is_some_and(|(status, _)| status == 200);
            ready.then_some(true)
        });
        if served {
            let mut client = Client::connect(node.kafka()).unwrap();
            assert_no_wrong_byte(&mut client, &producer);
        }
        let log = node.process.output();
        assert!(!log.contains("panicked"), "{}: {log}", object.display());
        node.kill();
        // What this run wrote stays: later runs must live with it. The damage is mended.
        fs::write(object, whole).unwrap();
        fs::remove_file(folder.path().join("firn.log")).unwrap();
    }
}

fn assert_no_wrong_byte(client: &mut Client, producer: &IdempotentProducer) {
    for partition in 0..2 {
        let Ok(fetched) = client.fetch(TOPIC, partition, 0) else {
            return;
        };
        let log = firn_tests::records::decode_batches(fetched.batches);
        let wrong: Vec<String> = producer
            .history
            .faults(partition, &log)
            .into_iter()
            .filter(|fault| !fault.contains("is missing"))
            .collect();
        assert!(wrong.is_empty(), "wrong bytes served: {wrong:?}");
    }
}

#[test]
fn a_torn_tail_of_the_local_wal_loses_nothing_of_the_bucket() {
    let folder = folder();
    let test = "a_torn_tail_of_the_local_wal_loses_nothing_of_the_bucket";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    let (node, mut producer) = filled(&plan);
    node.kill();
    for (size, file) in files_below(&folder.path().join("wal")) {
        if size > 100_000 {
            let mut file = File::options().write(true).open(&file).unwrap();
            // A preallocated segment: what was written is at the front, so is the tail.
            file.seek(SeekFrom::Start(size / 2)).unwrap();
            file.write_all(&[0xa5; 4096]).unwrap();
        }
    }
    let node = plan.start();
    producer.reconnect();
    assert!(producer.flush());
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 2);
    assert_keeps(&producer.history, &mut client, TOPIC, 2);
    node.stop();
}
