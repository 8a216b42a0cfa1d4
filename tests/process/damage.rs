//! Damaged files: a clear error, nothing acknowledged lost that is not damaged, and never a wrong
//! byte served.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use firn_tests::client::{Client, code};
use firn_tests::history::History;
use firn_tests::node::{Node, NodePlan, quiet_command};
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::wait;

use crate::{FIRN, assert_keeps, folder, minio_for, node_on};

const TOPIC: &str = "damage";
/// Bytes of the value that makes one batch larger than all others.
const LARGE: usize = 500_000;

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
    assert!(producer.send(0, &[Record::new("large", vec![b'l'; LARGE])]));
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
    assert!(size > LARGE as u64, "the large batch lies in one object");
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

/// An index or header that lies would be worse than a body. After an orderly stop a start needs
/// the journal and the newest state rows; after a crash it reads the front of every slot since.
#[test]
fn a_damaged_front_of_any_object_is_named_or_harmless_after_a_stop() {
    a_damaged_front_is_named_or_harmless(Node::stop);
}

#[test]
fn a_damaged_front_of_any_object_is_named_or_harmless_after_a_crash() {
    a_damaged_front_is_named_or_harmless(Node::kill);
}

/// For every object by itself: with one bit of its front flipped the broker either refuses to
/// start and names it, or serves everything as it was produced, but for partitions that need it,
/// when it names it too.
fn a_damaged_front_is_named_or_harmless(end: fn(Node)) {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let (node, producer) = filled(&plan);
    end(node);
    let (bucket, whole) = (folder.path().join("bucket"), folder.path().join("whole"));
    fs::rename(&bucket, &whole).unwrap();
    let (mut refused, mut unserved) = (0, 0);
    let objects = files_below(&whole);
    for (_, object) in &objects {
        let key = object.strip_prefix(&whole).unwrap();
        copy_folder(&whole, &bucket);
        flip_byte(&bucket.join(key), 70);
        let mut node = plan.launch();
        let served = wait::until("the broker to start or refuse", wait::PATIENCE, || {
            if !node.process.is_running() {
                return Some(false);
            }
            let ready = node.http_get("/readyz");
            ready
                .is_some_and(|(status, _)| status == 200)
                .then_some(true)
        });
        if served {
            let key = key.to_string_lossy();
            unserved += usize::from(!assert_keeps_or_names(&node, &producer.history, &key));
        }
        node.kill();
        let log = fs::read_to_string(folder.path().join("firn.log")).unwrap();
        assert!(!log.contains("panicked"), "{}: {log}", key.display());
        if !served {
            refused += 1;
            let last = log.lines().last().unwrap_or_default();
            let named = last.contains("corrupt") && last.contains(&*key.to_string_lossy());
            assert!(named, "{} is not named in: {last}", key.display());
        }
        fs::remove_dir_all(&bucket).unwrap();
        fs::remove_file(folder.path().join("firn.log")).unwrap();
    }
    assert!(refused > 0, "some objects are needed at a start");
    assert!(refused < objects.len(), "and some are not");
    assert!(unserved > 0, "and some by partitions alone");
}

/// Every partition is served as it was produced, unless the log names `object` as what is damaged of
/// it: then it has no leader. Says whether every one is served.
fn assert_keeps_or_names(node: &Node, history: &History, object: &str) -> bool {
    let mut client = Client::connect(node.kafka()).unwrap();
    let unserved = wait::until("partitions to be served or named", wait::PATIENCE, || {
        let log = node.process.output();
        let mut lines = log.lines();
        let is_named = lines.any(|line| line.contains("corrupt") && line.contains(object));
        let metadata = client.metadata(TOPIC).unwrap();
        let partitions = metadata.topics[0].partitions.iter();
        let unled = partitions.filter(|partition| partition.leader_id.0 < 0);
        let unserved: Vec<i32> = unled.map(|partition| partition.partition_index).collect();
        (unserved.is_empty() || is_named).then_some(unserved)
    });
    for partition in (0..2).filter(|partition| !unserved.contains(partition)) {
        let faults = history.faults(partition, &client.read(TOPIC, partition, 0));
        assert!(faults.is_empty(), "{object}: {faults:?}");
    }
    unserved.is_empty()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// An operator who looks at a bucket or at the directory of a local WAL learns what each thing is.
#[test]
fn everything_that_a_broker_writes_can_be_inspected() {
    let folder = folder();
    let wal = folder.path().join("wal");
    let plan = NodePlan::on_directory(FIRN, folder.path()).with_wal(&wal);
    let (node, _producer) = filled(&plan);
    node.kill();
    // Seals, folds, and begins epochs.
    plan.start().stop();
    let mut said = String::new();
    for folder in [folder.path().join("bucket"), wal] {
        let files = files_below(&folder);
        assert!(!files.is_empty(), "{} is empty", folder.display());
        for (_, file) in files {
            let mut command = quiet_command(plan.binary());
            let output = command.arg("inspect").arg(&file).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {errors}", file.display());
            said.push_str(&String::from_utf8(output.stdout).unwrap());
        }
    }
    for part in [
        "RegisterBroker(",
        "name: \"damage\"",
        "marker of the probe",
        "identity of",
    ] {
        assert!(said.contains(part), "no '{part}' in\n{said}");
    }
}

/// What `firn inspect` says of a segment of the local WAL.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    entries: u64,
    /// Where the last entry ends.
    end: u64,
    is_damaged: bool,
}

impl Segment {
    fn inspect(plan: &NodePlan, path: &Path) -> Option<Self> {
        let mut command = quiet_command(plan.binary());
        let output = command.arg("inspect").arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let number = |name: &str| {
            let line = text.lines().find(|line| line.trim().starts_with(name))?;
            let mut words = line.split_whitespace();
            words.find_map(|word| word.parse().ok())
        };
        Some(Self {
            path: path.to_path_buf(),
            entries: number("entries")?,
            end: number("end")?,
            is_damaged: !output.status.success(),
        })
    }

    /// The one that holds entries of those in `folder`.
    fn only(plan: &NodePlan, folder: &Path) -> Self {
        let mut found = files_below(folder)
            .into_iter()
            .filter_map(|(_, file)| Self::inspect(plan, &file))
            .filter(|segment| segment.entries > 0);
        let segment = found.next().expect("a segment with entries");
        assert!(found.next().is_none(), "and no other");
        segment
    }

    fn zero(&self, at: u64, bytes: usize) {
        let mut file = File::options().write(true).open(&self.path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&vec![0; bytes]).unwrap();
    }
}

/// The second half of the last entry never reached the disk, as when the power goes during a
/// write. It is left out without a word, and what it held comes from the bucket.
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
    let wal = folder.path().join("wal");
    let whole = Segment::only(&plan, &wal);
    let half = LARGE / 2;
    whole.zero(whole.end - half as u64, half);
    let torn = Segment::only(&plan, &wal);
    assert!(!torn.is_damaged, "{torn:?}");
    assert_eq!(torn.entries, whole.entries - 1, "{torn:?}");
    assert!(torn.end <= whole.end - LARGE as u64, "{torn:?}");

    let node = plan.start();
    producer.reconnect();
    assert!(producer.flush());
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 2);
    assert_keeps(&producer.history, &mut client, TOPIC, 2);
    assert!(!wal.join("quarantine").exists(), "nothing is damaged");
    node.stop();
}

/// An entry in the middle that the disk had confirmed is gone: that is no torn tail. Somebody is
/// told, the segment is kept to be looked at, and what it held comes from the bucket.
#[test]
fn a_local_wal_that_lost_what_was_fsynced_is_reported_and_loses_nothing_of_the_bucket() {
    let folder = folder();
    let test = "a_local_wal_that_lost_what_was_fsynced_is_reported_and_loses_nothing_of_the_bucket";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    let (node, producer) = filled(&plan);
    node.kill();
    let wal = folder.path().join("wal");
    let whole = Segment::only(&plan, &wal);
    // The first entry follows the header of the segment, which takes 4096 bytes.
    whole.zero(4096, 8);
    let damaged = Segment::inspect(&plan, &whole.path).unwrap();
    assert!(damaged.is_damaged, "{damaged:?}");

    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, 2);
    assert_keeps(&producer.history, &mut client, TOPIC, 2);
    let log = node.process.output();
    assert!(
        log.contains("damaged below what was fsynced"),
        "nobody is told:\n{log}"
    );
    let kept = wal.join("quarantine").join(whole.path.file_name().unwrap());
    assert!(kept.exists(), "{} is not there", kept.display());
    node.stop();
}
