//! What a start makes of processes that crashed, wherever they crashed: every partition has an owner
//! and goes on where it ended, and what was acknowledged is there or is counted as lost.
//!
//! A crash is a bucket whose puts hang from one on, and a process whose tasks are dropped then. The
//! next process sees what the bucket has, and a copy of the local WAL as it lay on the disk.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod local;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use firn_broker::config::{Config, Pair, Profile, Source};
use firn_broker::error::FirnError;
use firn_broker::node::{Node, World};
use firn_coordinator::ProcessProof;
use firn_storage::bucket::Bucket;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use firn_tests::client::Client;
use firn_tests::disk::crash_image;
use firn_tests::records::{ProducerFields, Record, encode_batch};
use firn_tests::wait;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const TOPIC: &str = "measurements";
const PARTITIONS: i32 = 3;
/// Processes that crash one after the other before one may live.
const CRASHES: usize = 3;
const JOURNAL_PUTS: &str = "meta/log";
const WAL_PUTS: &str = "wal/";
/// Checkpoints that are too large for their slot.
const CHECKPOINT_PUTS: &str = "checkpoint/";

/// A process of the broker.
struct Process {
    runtime: Runtime,
    store: FaultStore,
    /// None if it crashed while it started.
    node: Option<Node>,
}

impl Process {
    /// Starts on what the bucket holds; its puts hang as `fault` says.
    fn start(bucket: &FaultStore, wal: Option<&Path>, fault: Option<Rule>) -> Self {
        // its own script of faults: what a dead process does is nothing to the next one
        let store = FaultStore::new(Arc::new(bucket.clone()));
        fault.into_iter().for_each(|rule| store.inject(rule));
        let of_machine = World::of_machine();
        let over = Bucket::from_store(
            Arc::new(store.clone()),
            Arc::clone(&of_machine.clock),
            Arc::clone(&of_machine.entropy),
        );
        // it dies with its runtime, and the process that the kernel knows lives on
        let process = ProcessProof {
            pid: u32::MAX,
            ..of_machine.process
        };
        let world = World {
            bucket: Some(over),
            process,
            ..of_machine
        };
        let runtime = Runtime::new().unwrap();
        let node = runtime.block_on(unless_stuck(&store, Node::start_in(world, config(wal))));
        Self {
            node: node.map(Result::unwrap),
            runtime,
            store,
        }
    }

    fn client(&self) -> Client {
        let address = self.node.as_ref().unwrap().listeners()[0].bound;
        wait::until("a connection", wait::PATIENCE, || {
            Client::connect(address).ok()
        })
    }

    /// Stops in order. False if a put hung before it was done.
    fn stop(mut self) -> bool {
        let stopped = self.node.take().is_some_and(|node| {
            let stopped = self
                .runtime
                .block_on(unless_stuck(&self.store, node.stop()));
            stopped.is_some_and(|stopped: Result<(), FirnError>| stopped.is_ok())
        });
        self.crash();
        stopped
    }

    /// Ends it at once.
    fn crash(self) {
        drop(self.node);
        self.runtime.shutdown_background();
    }

    fn metric(&self, name: &str) -> u64 {
        let address = self.node.as_ref().unwrap().http().unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: firn\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let line = answer.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {answer}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// The result, or None as soon as a put hangs.
async fn unless_stuck<T>(store: &FaultStore, work: impl Future<Output = T>) -> Option<T> {
    let stuck = async {
        while store.hits().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = stuck => None,
    }
}

fn config(wal: Option<&Path>) -> Arc<Config> {
    let wal = wal.map_or_else(|| "none".to_owned(), |wal| wal.display().to_string());
    let pairs = [
        ("bucket", "memory://"),
        ("http", "127.0.0.1:0"),
        ("kafka", "127.0.0.1:0"),
        ("wal", &wal),
    ];
    let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
    Arc::new(Config::new(Profile::Dev, pairs.to_vec()).unwrap())
}

/// Every put to keys with this part hangs, from the one behind the first `puts` on.
fn hang(key_part: &str, puts: u64) -> Rule {
    let rule = Rule::new(On::Put, Fault::Hang).key(key_part);
    rule.after(puts).times(u64::MAX)
}

/// The objects under keys with this part that were put since the bucket was told to lose the
/// answers.
fn answers_lost(bucket: &FaultStore, key_part: &str) -> usize {
    let lost = bucket.hits().into_iter().filter_map(|(_, fault, key)| {
        (fault == Fault::AnswerLost && key.contains(key_part)).then_some(key)
    });
    lost.collect::<BTreeSet<_>>().len()
}

/// Every put to keys with this part is done, and its answer lost: the bucket knows of it.
fn lose_answers(key_part: &str) -> Rule {
    let rule = Rule::new(On::Put, Fault::AnswerLost).key(key_part);
    rule.times(u64::MAX)
}

fn value(partition: i32, at: usize) -> Bytes {
    Bytes::from(format!("{partition} at {at}"))
}

/// Produces the next record of a partition, which is the one at this offset.
fn produce(client: &mut Client, partition: i32, at: usize, acks: i16) {
    let record = Record::new("key", value(partition, at));
    let offset = wait::until("a batch to be taken", wait::PATIENCE, || {
        let batch = encode_batch(std::slice::from_ref(&record), ProducerFields::NONE);
        let produced = client.produce_with_acks(TOPIC, partition, batch, acks);
        let produced = produced.unwrap();
        (produced.error == 0).then_some(produced.base_offset)
    });
    assert_eq!(offset, at as i64, "partition {partition}");
}

/// A process wrote this much to each partition, acknowledged with acks=all and acks=1, and crashed
/// before anything of the latter was in the bucket.
const WRITTEN: [(usize, usize); PARTITIONS as usize] = [(3, 2), (2, 0), (0, 1)];

/// The bucket and the local WAL that it left.
fn crashed_process() -> (FaultStore, TempDir) {
    let bucket = FaultStore::in_memory();
    let wal = TempDir::new().unwrap();
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        (0..in_bucket).for_each(|at| produce(&mut client, partition, at, -1));
    }
    process.store.inject(hang("", 0));
    for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
        (in_bucket..in_bucket + local).for_each(|at| produce(&mut client, partition, at, 1));
    }
    let image = crash_image(wal.path());
    process.crash();
    (bucket, image)
}

fn assert_holds(client: &mut Client, partition: i32, records: usize) {
    let stored = client.read(TOPIC, partition, 0);
    let found: Vec<_> = stored
        .iter()
        .map(|stored| (stored.offset, stored.record.value.clone()))
        .collect();
    let expected: Vec<_> = (0..records)
        .map(|at| (at as i64, Some(value(partition, at))))
        .collect();
    assert_eq!(found, expected, "partition {partition}");
}

/// Crashes some starts in a row at the same put, and looks at what the first that lives serves.
/// True if there was such a put.
fn survives_crashes_at(
    crashed_process: fn() -> (FaultStore, TempDir),
    key_part: &str,
    puts: u64,
) -> bool {
    let (bucket, mut wal) = crashed_process();
    let mut crashed = false;
    for _ in 0..CRASHES {
        let process = Process::start(&bucket, Some(wal.path()), Some(hang(key_part, puts)));
        let image = crash_image(wal.path());
        let lived = process.node.is_some() && process.stop();
        crashed |= !lived;
        wal = if lived { wal } else { image };
    }
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.wait_leaders(TOPIC, PARTITIONS);
    for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
        let records = in_bucket + local;
        assert_holds(&mut client, partition, records);
        produce(&mut client, partition, records, -1);
        assert_holds(&mut client, partition, records + 1);
    }
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
    assert!(process.stop());
    crashed
}

/// Every command of the coordinator is a put to the journal.
#[test]
fn a_start_that_crashes_at_any_command_is_taken_up_by_the_next() {
    let crashes =
        (0..).take_while(|puts| survives_crashes_at(crashed_process, JOURNAL_PUTS, *puts));
    let crashes = crashes.count();
    assert!(
        crashes >= 6,
        "opened, registered, sealed, resumed, released, assigned: {crashes}"
    );
}

#[test]
fn a_start_that_crashes_at_any_put_of_its_wal_is_taken_up_by_the_next() {
    let crashes = (0..).take_while(|puts| survives_crashes_at(crashed_process, WAL_PUTS, *puts));
    let crashes = crashes.count();
    assert!(crashes >= 3, "put again, released, begun: {crashes}");
}

/// A start without the disk cannot know what acks=1 had promised: it goes on without, as after the
/// loss of that disk. When the disk comes back, what it held is counted and kept, and not removed
/// as if it were in the bucket.
#[test]
fn what_only_an_absent_disk_held_is_counted_and_kept_when_the_disk_comes_back() {
    let (bucket, wal) = crashed_process();
    let process = Process::start(&bucket, None, None);
    let mut client = process.client();
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        assert_holds(&mut client, partition, in_bucket);
        produce(&mut client, partition, in_bucket, -1);
    }
    assert!(process.stop());
    let process = Process::start(&bucket, Some(wal.path()), None);
    let lost: usize = WRITTEN.iter().map(|(_, local)| local).sum();
    let counted = process.metric("firn_wal_local_lost_records_total");
    assert_eq!(counted, lost as u64);
    let kept = fs::read_dir(wal.path().join("quarantine")).unwrap();
    assert_eq!(kept.count(), 1);
    let mut client = process.client();
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        assert_holds(&mut client, partition, in_bucket + 1);
    }
    assert!(process.stop());
}

/// Where a process crashes that has written a checkpoint while it served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// The checkpoint is durable, and the journal has not heard of it.
    BeforeReport,
    /// The journal names its rows.
    AfterReport,
}

const BUSY: i32 = 0;
/// Written once, long before the checkpoint.
const ONCE: i32 = 1;
const IDLE: i32 = 2;
const BATCHES_BESIDE_CHECKPOINT: usize = 5;

/// What a process wrote, and where.
struct Writing {
    client: Client,
    written: [usize; PARTITIONS as usize],
}

impl Writing {
    fn append(&mut self, partition: i32) {
        let at = &mut self.written[partition as usize];
        produce(&mut self.client, partition, *at, -1);
        *at += 1;
    }

    /// Writes until there is a checkpoint with a full page, which is an object of its own. Its put
    /// fails until the script is cleared: what is written meanwhile lies behind its rows and before
    /// the slot that will name them.
    fn write_beside_checkpoint(&mut self, store: &FaultStore) {
        let lost = Rule::new(On::Put, Fault::RequestLost).key(CHECKPOINT_PUTS);
        store.inject(lost.times(u64::MAX));
        while store.hits().is_empty() {
            self.append(BUSY);
        }
        (0..BATCHES_BESIDE_CHECKPOINT).for_each(|_| self.append(BUSY));
    }
}

fn survives_crash_at_checkpoint(crash: Crash) {
    let bucket = FaultStore::in_memory();
    let process = Process::start(&bucket, None, None);
    let mut client = process.client();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    let mut writing = Writing {
        client,
        written: [0; PARTITIONS as usize],
    };
    writing.append(ONCE);
    writing.write_beside_checkpoint(&process.store);
    bucket.inject(match crash {
        Crash::BeforeReport => hang(JOURNAL_PUTS, 0),
        Crash::AfterReport => lose_answers(JOURNAL_PUTS),
    });
    bucket.inject(lose_answers(WAL_PUTS));
    process.store.clear();
    // nobody writes, so the next slot is that of the checkpoint
    wait::until("the slot of the checkpoint", wait::PATIENCE, || {
        (answers_lost(&bucket, WAL_PUTS) > 0).then_some(())
    });
    writing.append(BUSY);
    if crash == Crash::AfterReport {
        // the first may have been on its way when the checkpoint became durable
        for _ in 0..2 {
            let before = answers_lost(&bucket, JOURNAL_PUTS);
            writing.append(BUSY);
            wait::until("a report", wait::PATIENCE, || {
                (answers_lost(&bucket, JOURNAL_PUTS) > before).then_some(())
            });
        }
    }
    process.crash();
    bucket.clear();
    let process = Process::start(&bucket, None, None);
    writing.client = process.client();
    writing.client.wait_leaders(TOPIC, PARTITIONS);
    for partition in [BUSY, ONCE, IDLE] {
        let records = writing.written[partition as usize];
        assert_holds(&mut writing.client, partition, records);
        writing.append(partition);
        assert_holds(&mut writing.client, partition, records + 1);
    }
    assert!(process.stop());
}

#[test]
fn a_crash_between_a_checkpoint_and_its_report_loses_nothing() {
    survives_crash_at_checkpoint(Crash::BeforeReport);
}

/// The state rows of a checkpoint are older than the slot that names them: what was put in between
/// is found by the fold alone, and only if the report says where the rows end.
#[test]
fn a_crash_after_the_report_of_a_checkpoint_loses_nothing() {
    survives_crash_at_checkpoint(Crash::AfterReport);
}
