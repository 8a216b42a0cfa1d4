//! What a start makes of processes that crashed, wherever they crashed: every partition has an owner
//! and goes on where it ended, and what was acknowledged is there or is counted as lost; and what
//! a start and a stop make of a leader that crashes meanwhile.
//!
//! A crash is a bucket whose puts hang from one on, and a process whose tasks are dropped then. The
//! next process sees what the bucket has, and a copy of the local WAL as it lay on the disk.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod local;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use firn_broker::config::{Config, Pair, Profile, Source};
use firn_broker::error::FirnError;
use firn_broker::node::{Node, World};
use firn_coordinator::ProcessProof;
use firn_storage::bucket::Bucket;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use firn_storage::stream::slot::HEADER_LEN;
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
    /// Starts on what the bucket holds; its puts hang as `fault` says. Others that come take it for
    /// gone.
    fn start(bucket: &FaultStore, wal: Option<&Path>, fault: Option<Rule>) -> Self {
        // it dies with its runtime, and the process that the kernel knows lives on
        Self::start_as(Some(u32::MAX), bucket, wal, fault)
    }

    /// Leads, and is followed by those that come: its process lives.
    fn start_leader(bucket: &FaultStore) -> Self {
        Self::start_as(None, bucket, None, None)
    }

    fn start_as(
        pid: Option<u32>,
        bucket: &FaultStore,
        wal: Option<&Path>,
        fault: Option<Rule>,
    ) -> Self {
        // its own script of faults: what a dead process does is nothing to the next one
        let store = FaultStore::new(Arc::new(bucket.clone()));
        fault.into_iter().for_each(|rule| store.inject(rule));
        let of_machine = World::of_machine();
        let over = Bucket::from_store(
            Arc::new(store.clone()),
            Arc::clone(&of_machine.clock),
            Arc::clone(&of_machine.entropy),
        );
        let process = ProcessProof {
            pid: pid.unwrap_or(of_machine.process.pid),
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

    fn address(&self) -> SocketAddr {
        self.node.as_ref().unwrap().listeners()[0].bound
    }

    fn client(&self) -> Client {
        let address = self.address();
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
        // longer than any of the tests takes to come back with a disk
        ("recovery.disk.wait.ms", "60s"),
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
    crashed_process_that(|_, _| ())
}

/// The same, of one that had told the journal that only its disk holds some of what it acknowledged.
fn crashed_process_with_a_known_disk() -> (FaultStore, TempDir) {
    crashed_process_that(|process, client| {
        let (in_bucket, _) = WRITTEN[0];
        produce(client, 0, in_bucket, 1);
        let told = Rule::new(On::Put, Fault::AnswerLost).key(JOURNAL_PUTS);
        process.store.inject(told.times(1));
        wait::until("a report", wait::PATIENCE, || {
            (!process.store.hits().is_empty()).then_some(())
        });
    })
}

/// One that did something more between what is in the bucket and what is not.
fn crashed_process_that(meanwhile: impl FnOnce(&Process, &mut Client)) -> (FaultStore, TempDir) {
    let bucket = FaultStore::in_memory();
    let wal = TempDir::new().unwrap();
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        (0..in_bucket).for_each(|at| produce(&mut client, partition, at, -1));
    }
    meanwhile(&process, &mut client);
    process.store.inject(hang("", 0));
    for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
        let written = client.read(TOPIC, partition, 0).len();
        (written..in_bucket + local).for_each(|at| produce(&mut client, partition, at, 1));
    }
    let image = crash_image(wal.path());
    process.crash();
    (bucket, image)
}

/// Produces the next record of a partition to the member that takes it.
fn append(members: &[SocketAddr], partition: i32, at: usize) {
    let record = Record::new("key", value(partition, at));
    let offset = wait::until("a batch to be taken", wait::PATIENCE, || {
        members.iter().find_map(|member| {
            let batch = encode_batch(std::slice::from_ref(&record), ProducerFields::NONE);
            let mut client = Client::connect(*member).ok()?;
            let produced = client.produce(TOPIC, partition, batch).ok()?;
            (produced.error == 0).then_some(produced.base_offset)
        })
    });
    assert_eq!(offset, at as i64, "partition {partition}");
}

/// Each partition takes the next record behind all that was ever acknowledged.
fn assert_goes_on(process: &Process) {
    let mut client = process.client();
    for (partition, (in_bucket, local)) in (0..).zip(WRITTEN) {
        let records = in_bucket + local;
        produce(&mut client, partition, records, -1);
        assert_holds(&mut client, partition, records + 1);
    }
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
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

/// Starts a process with the disk while another one leads, which dies at the put to the journal
/// behind the first `puts`. True if there was such a put.
fn survives_the_leader_at(puts: u64) -> bool {
    let (bucket, wal) = crashed_process_with_a_known_disk();
    let leader = Process::start_leader(&bucket);
    leader.store.inject(hang(JOURNAL_PUTS, puts));
    let (process, died) = thread::scope(|scope| {
        let starting = scope.spawn(|| Process::start(&bucket, Some(wal.path()), None));
        let died = wait::until("a start, or a put", wait::PATIENCE, || {
            let is_stuck = !leader.store.hits().is_empty();
            (is_stuck || starting.is_finished()).then_some(is_stuck)
        });
        leader.crash();
        (starting.join().unwrap(), died)
    });
    assert_goes_on(&process);
    assert!(process.stop());
    died
}

/// Whoever restarts with its disk asks the next leader what it asked the one that died, whose
/// answer it has not heard: nothing that it holds is lost, and the start goes on.
#[test]
fn a_start_goes_on_with_the_next_leader_wherever_the_last_one_dies() {
    let deaths = (0..).take_while(|puts| survives_the_leader_at(*puts));
    let deaths = deaths.count();
    assert!(
        deaths >= 4,
        "registered, resumed, released, assigned: {deaths}"
    );
}

/// A process comes with the disk while another one leads, and dies at the put of its WAL behind the
/// first `puts`. The leader learns that, and waits for the disk again. True if there was such a put.
fn is_waited_for_again_after_death_at(puts: u64) -> bool {
    let (bucket, wal) = crashed_process_with_a_known_disk();
    let leader = Process::start_leader(&bucket);
    let mut client = leader.client();
    let process = Process::start(&bucket, Some(wal.path()), Some(hang(WAL_PUTS, puts)));
    let died = process.node.is_none();
    let image = crash_image(wal.path());
    process.crash();
    wait::until("the death to be known", wait::PATIENCE, || {
        let metadata = client.metadata(TOPIC).ok()?;
        (metadata.brokers.len() == 1).then_some(())
    });
    let process = Process::start(&bucket, Some(image.path()), None);
    leader.crash();
    assert_goes_on(&process);
    assert!(process.stop());
    died
}

/// Between RESUME and RELEASE the records lie on the disk alone, as before.
#[test]
fn a_process_that_dies_while_it_puts_again_is_waited_for() {
    let deaths = (0..).take_while(|puts| is_waited_for_again_after_death_at(*puts));
    let deaths = deaths.count();
    assert!(deaths >= 3, "sealed, put again, released: {deaths}");
}

/// Stops a process in order while another one leads, which dies at the put to the journal behind the
/// first `puts`. True if there was such a put.
fn stops_though_the_leader_dies_at(puts: u64) -> bool {
    let bucket = FaultStore::in_memory();
    let leader = Process::start_leader(&bucket);
    let process = Process::start(&bucket, None, None);
    process.client().create_topic(TOPIC, PARTITIONS, &[]);
    let members = [leader.address(), process.address()];
    for partition in 0..PARTITIONS {
        append(&members, partition, 0);
    }
    leader.store.inject(hang(JOURNAL_PUTS, puts));
    let (stopped, died) = thread::scope(|scope| {
        let stopping = scope.spawn(|| process.stop());
        let died = wait::until("a stop, or a put", wait::PATIENCE, || {
            let is_stuck = !leader.store.hits().is_empty();
            (is_stuck || stopping.is_finished()).then_some(is_stuck)
        });
        leader.crash();
        (stopping.join().unwrap(), died)
    });
    assert!(stopped, "a stop was cut short");
    let process = Process::start(&bucket, None, None);
    for partition in 0..PARTITIONS {
        append(&[process.address()], partition, 1);
        assert_holds(&mut process.client(), partition, 2);
    }
    assert!(process.stop());
    died
}

/// Whoever stops in order leaves nothing to be recovered, whoever leads by then.
#[test]
fn a_stop_goes_on_with_the_next_leader_wherever_the_last_one_dies() {
    let deaths = (0..).take_while(|puts| stops_though_the_leader_dies_at(*puts));
    let deaths = deaths.count();
    assert!(deaths >= 3, "drained, released, left: {deaths}");
}

/// What the bucket holds of partitions is damaged: the start says so and serves everything else,
/// and once it is whole again, those too.
#[test]
fn a_start_serves_what_is_whole() {
    let (bucket, _) = crashed_process();
    let damage = Rule::new(On::Get, Fault::BitFlip).key(WAL_PUTS);
    bucket.inject(damage.times(u64::MAX));
    let process = Process::start(&bucket, None, None);
    let mut client = process.client();
    client.create_topic("whole", 1, &[]);
    assert_eq!(client.append("whole", 0, &[Record::new("key", "value")]), 0);
    bucket.clear();
    for (partition, (in_bucket, _)) in (0..).zip(WRITTEN) {
        produce(&mut client, partition, in_bucket, -1);
        assert_holds(&mut client, partition, in_bucket + 1);
    }
    assert!(process.stop());
}

/// What is in slots cannot be read, and where their streams end can be found.
fn damage_records(bucket: &FaultStore) {
    let damage = Rule::new(On::Get, Fault::BitFlipBehind(HEADER_LEN)).key(WAL_PUTS);
    bucket.inject(damage.times(u64::MAX));
}

/// What the bucket holds is damaged while a process comes that has the disk: it keeps what it cannot
/// place, and nobody goes on without that. The next start, on a bucket that is whole again, has all.
#[test]
fn what_a_disk_has_of_damaged_partitions_waits_on_it_until_they_are_whole() {
    let (bucket, wal) = crashed_process();
    damage_records(&bucket);
    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.create_topic("whole", 1, &[]);
    assert_eq!(client.append("whole", 0, &[Record::new("key", "value")]), 0);
    bucket.clear();
    // of this one the disk has nothing that only acks=1 acknowledged
    let mut written = WRITTEN.map(|(in_bucket, local)| in_bucket + local);
    assert_eq!(WRITTEN[1].1, 0);
    produce(&mut client, 1, written[1], -1);
    written[1] += 1;
    let metadata = client.metadata(TOPIC).unwrap();
    for partition in &metadata.topics[0].partitions {
        let waits = WRITTEN[partition.partition_index as usize].1 > 0;
        assert_eq!(partition.leader_id.0 == -1, waits, "{partition:?}");
    }
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
    assert!(process.stop());

    let process = Process::start(&bucket, Some(wal.path()), None);
    let mut client = process.client();
    client.wait_leaders(TOPIC, PARTITIONS);
    for (partition, records) in (0..).zip(written) {
        assert_holds(&mut client, partition, records);
        produce(&mut client, partition, records, -1);
    }
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
    assert!(process.stop());
    let process = Process::start(&bucket, Some(wal.path()), None);
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
    assert!(!wal.path().join("quarantine").exists());
    assert!(process.stop());
}

/// The same while another process leads, to which nobody had told that the disk holds anything: it
/// waits as long as the process lives that does, and then for its disk.
#[test]
fn a_leader_goes_on_with_nothing_that_another_process_could_not_place() {
    let (bucket, wal) = crashed_process();
    damage_records(&bucket);
    let leader = Process::start_leader(&bucket);
    let process = Process::start(&bucket, Some(wal.path()), None);
    bucket.clear();
    let mut client = leader.client();
    let (in_bucket, _) = WRITTEN[1];
    append(&[leader.address(), process.address()], 1, in_bucket);
    let metadata = client.metadata(TOPIC).unwrap();
    assert_eq!(metadata.topics[0].partitions[0].leader_id.0, -1);
    assert!(process.stop());

    let process = Process::start(&bucket, Some(wal.path()), None);
    let members = [leader.address(), process.address()];
    let (in_bucket, local) = WRITTEN[0];
    append(&members, 0, in_bucket + local);
    assert_eq!(process.metric("firn_wal_local_lost_records_total"), 0);
    assert!(process.stop());
    assert!(leader.stop());
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
