//! The archive of a whole node: records leave the WAL for segments when they have waited long
//! enough or when somebody asks, whatever the bucket does, and are served as before.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod running;
mod seam;
mod served;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use firn_broker::archive::ArchiveStatus;
use firn_broker::node::{Node, World};
use firn_proto::ids::TopicId;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use firn_storage::bucket::{Bucket, Purpose};
use firn_storage::layout;
use firn_tests::client::{Client, EARLIEST, code};
use firn_tests::records::{Record, StoredRecord};
use firn_tests::wait;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::{DeleteRecordsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::runtime::Runtime;

use running::config;

const TOPIC: &str = "measurements";
const PARTITIONS: i32 = 3;
const SEGMENT: &str = ".parquet";
/// The records of the tests are old, and stay all the same.
const KEPT: (&str, &str) = ("retention.ms", "-1");

/// Well below the minute after which partitions let go of slots in any case.
const SOON: Duration = Duration::from_secs(30);

/// A node in a runtime of its own.
fn launch(world: World, pairs: &[(&str, &str)]) -> (Runtime, Node) {
    let pairs = [&[("http", "127.0.0.1:0")], pairs].concat();
    let runtime = Runtime::new().unwrap();
    let node = runtime.block_on(Node::start_in(world, config(&pairs)));
    (runtime, node.unwrap())
}

/// A node over a bucket in memory that fails as told.
struct Running {
    runtime: Runtime,
    store: FaultStore,
    bucket: Bucket,
    node: Option<Node>,
}

impl Running {
    fn start() -> Self {
        Self::start_on(FaultStore::in_memory())
    }

    fn start_on(store: FaultStore) -> Self {
        Self::start_with(store, &[])
    }

    fn start_with(store: FaultStore, pairs: &[(&str, &str)]) -> Self {
        let mut world = World::of_machine();
        let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
        world.bucket = Some(bucket.clone());
        let (runtime, node) = launch(world, &[&[("bucket", "memory://")], pairs].concat());
        Self {
            runtime,
            store,
            bucket,
            node: Some(node),
        }
    }

    fn client(&self) -> Client {
        let address = self.node.as_ref().unwrap().listeners()[0].bound;
        wait::until("a connection", wait::PATIENCE, || {
            Client::connect(address).ok()
        })
    }

    fn http(&self) -> SocketAddr {
        self.node.as_ref().unwrap().http().unwrap()
    }

    /// `firn archive …`, as somebody types it.
    fn firn(&self, arguments: &[&str]) -> Output {
        let http = self.http().to_string();
        Command::new(env!("CARGO_BIN_EXE_firn"))
            .arg("archive")
            .args(arguments)
            .args(["--http", &http])
            .output()
            .unwrap()
    }

    fn flush(&self) -> Result<String, String> {
        let output = self.firn(&["flush"]);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    fn status(&self) -> ArchiveStatus {
        let output = self.firn(&["status", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A figure of `/metrics`.
    fn figure(&self, name: &str) -> f64 {
        let node = self.node.as_ref().unwrap();
        self.runtime.block_on(running::figure(node, name))
    }

    /// Archived to, high watermark and runs of each partition.
    fn archived(&self) -> Vec<(i64, i64, u64)> {
        let status = self.status();
        let topic = status.topics.iter().find(|topic| topic.topic == TOPIC);
        let partitions = topic.unwrap().partitions.iter();
        partitions
            .map(|p| (p.archived_to, p.high_watermark.unwrap(), p.runs))
            .collect()
    }

    /// The segments of the topic that lie in the bucket.
    fn segments(&self) -> Vec<String> {
        let status = self.status();
        let topic = status.topics.iter().find(|topic| topic.topic == TOPIC);
        let id = TopicId::parse(&topic.unwrap().id).unwrap();
        let folder = layout::table(TOPIC, id);
        let listed = self.bucket.list(Purpose::Meta, &folder, None, 1000);
        let listed = self.runtime.block_on(listed).unwrap();
        listed.iter().map(|object| object.key.to_string()).collect()
    }

    /// The slots of the WAL that lie in the bucket.
    fn slots(&self) -> Vec<String> {
        let everything = layout::everything();
        let listed = self.bucket.list(Purpose::Meta, &everything, None, 1000);
        let listed = self.runtime.block_on(listed).unwrap();
        let keys = listed.iter().map(|object| object.key.to_string());
        keys.filter(|key| key.starts_with("wal/")).collect()
    }

    /// Ends it at once.
    fn crash(self) -> FaultStore {
        drop(self.node);
        self.runtime.shutdown_background();
        self.store
    }

    fn stop(mut self) -> FaultStore {
        let node = self.node.take().unwrap();
        self.runtime.block_on(node.stop()).unwrap();
        self.store
    }
}

/// Three batches for each partition, and what must come back.
fn produce(client: &mut Client, round: usize) -> Vec<Vec<StoredRecord>> {
    let partitions = 0..PARTITIONS;
    let produced = partitions.map(|partition| {
        let mut stored = Vec::new();
        for batch in 0..3 {
            let record = |n| Record::new(format!("key-{n}"), format!("{round}-{batch}-{n}"));
            let records: Vec<Record> = (0..10).map(record).collect();
            let base = client.append(TOPIC, partition, &records);
            let offsets = base..;
            let with_offset = |(offset, record)| StoredRecord { offset, record };
            stored.extend(offsets.zip(records).map(with_offset));
        }
        stored
    });
    produced.collect()
}

fn assert_read(client: &mut Client, expected: &[Vec<StoredRecord>]) {
    for (partition, expected) in (0..).zip(expected) {
        assert_eq!(&client.read(TOPIC, partition, 0), expected, "{partition}");
    }
}

#[test]
fn what_is_flushed_lies_in_one_segment_and_is_served_as_before() {
    let world = Running::start();
    let mut client = world.client();
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let mut expected = produce(&mut client, 0);
    assert_eq!(world.archived(), [(0, 30, 0); 3]);
    assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
    assert_eq!(world.archived(), [(30, 30, 1); 3]);
    assert_eq!(world.segments().len(), 1);
    assert_eq!(world.flush().unwrap(), "archived: 0 new segments\n");
    assert_read(&mut client, &expected);

    for (before, more) in expected.iter_mut().zip(produce(&mut client, 1)) {
        before.extend(more);
    }
    assert_read(&mut client, &expected);
    assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
    assert_eq!(world.archived(), [(60, 60, 2); 3]);
    assert_eq!(world.figure("firn_archive_segments_total") as u64, 2);
    assert_eq!(world.figure("firn_archive_records_total") as u64, 180);
    assert_eq!(world.figure("firn_archive_lag_bytes") as u64, 0);
    assert!(world.figure("firn_archive_cpu_seconds_total") > 0.0);

    // the journal knows it as well
    let world = Running::start_on(world.stop());
    assert_eq!(world.archived(), [(60, 60, 2); 3]);
    assert_eq!(world.flush().unwrap(), "archived: 0 new segments\n");
    assert_read(&mut world.client(), &expected);
    world.stop();
}

/// Of the partitions that are archived to their ends, those that nothing was archived of just now,
/// or ever, hold no slot either.
#[test]
fn archived_slots_leave_the_wal_at_once_whatever_else_is_silent() {
    let world = Running::start_with(FaultStore::in_memory(), &[("collection.interval.ms", "5")]);
    let mut client = world.client();
    client.create_topic("unwritten", 1, &[KEPT]);
    client.create_topic("silent", 1, &[KEPT]);
    client.append("silent", 0, &[Record::new("k", "v")]);
    assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let expected = produce(&mut client, 0);
    let before = world.slots();
    assert!(before.len() > 1, "{before:?}");
    assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
    wait::until("all but the state rows to leave the WAL", SOON, || {
        let left = world.slots();
        let is_new = left.iter().all(|slot| !before.contains(slot));
        (is_new && left.len() == 1).then_some(())
    });
    assert_read(&mut client, &expected);
    world.stop();
}

/// The log start moves while the segment is written: the commit is refused, the segment goes, and
/// the next one begins where the partition does now.
#[test]
fn a_segment_that_a_log_start_overtook_is_abandoned_and_made_anew() {
    let world = Running::start();
    let mut client = world.client();
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let expected = produce(&mut client, 0);
    let rule = Rule::new(On::Put, Fault::FailedBefore).key(SEGMENT);
    world.store.inject(rule.times(u64::MAX));
    thread::scope(|scope| {
        let flush = scope.spawn(|| world.flush());
        wait::until("the archiver to put", wait::PATIENCE, || {
            (!world.store.hits().is_empty()).then_some(())
        });
        delete_below(&mut client, 15);
        world.store.clear();
        assert_eq!(flush.join().unwrap().unwrap(), "archived: 1 new segment\n");
    });
    assert_eq!(world.archived(), [(30, 30, 1); 3]);
    assert_eq!(world.figure("firn_archive_segments_total") as u64, 1);
    let [segment] = &world.segments()[..] else {
        panic!("one segment, the refused one is deleted")
    };
    assert!(segment.ends_with("-0000000000000001.parquet"), "{segment}");
    assert_eq!(client.read(TOPIC, 0, 15), expected[0][15..]);
    assert_eq!(client.read(TOPIC, 1, 0), expected[1]);
    world.stop();
}

/// The first offset of partition 0 is to be this one.
fn delete_below(client: &mut Client, offset: i64) {
    assert_eq!(delete_records(client, 0, offset), (0, offset));
}

/// What becomes of a wish that a partition begin at this offset: an error, and where it begins.
fn delete_records(client: &mut Client, partition: i32, offset: i64) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default()
        .with_partition_index(partition)
        .with_offset(offset);
    let topic = DeleteRecordsTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(TOPIC)))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    let response = client.connection.call(2, &request).unwrap();
    let deleted = &response.topics[0].partitions[0];
    (deleted.error_code, deleted.low_watermark)
}

/// No batch is divided: the one in the middle of which the log starts is archived whole.
#[test]
fn a_log_that_starts_inside_a_batch_is_archived_from_there() {
    let world = Running::start();
    let mut client = world.client();
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let expected = produce(&mut client, 0).remove(0);
    delete_below(&mut client, 5);
    assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
    assert_eq!(world.archived()[0], (30, 30, 1));
    // and of what is archived, a part
    for start in [5, 17] {
        delete_below(&mut client, start);
        let read = client.read(TOPIC, 0, start);
        assert_eq!(read, expected[start as usize..], "from {start}");
    }

    let world = Running::start_on(world.stop());
    let mut client = world.client();
    assert_eq!(client.list_offset(TOPIC, 0, EARLIEST), 17);
    assert_eq!(client.read(TOPIC, 0, 17), expected[17..]);
    let fetched = client.fetch(TOPIC, 0, 16).unwrap();
    assert_eq!(fetched.error, code::OFFSET_OUT_OF_RANGE);
    world.stop();
}

#[test]
fn records_are_archived_when_they_have_waited_for_the_interval_of_their_topic() {
    let world = Running::start();
    let mut client = world.client();
    client.create_topic(
        TOPIC,
        PARTITIONS,
        &[KEPT, ("firn.archive.interval.ms", "1")],
    );
    client.create_topic("patient", 1, &[KEPT]);
    produce(&mut client, 0);
    client.append("patient", 0, &[Record::new("k", "v")]);
    wait::until("the interval to pass", wait::PATIENCE, || {
        world
            .archived()
            .iter()
            .all(|(to, ..)| *to == 30)
            .then_some(())
    });
    let status = world.status();
    let patient = status.topics.iter().find(|topic| topic.topic == "patient");
    let patient = &patient.unwrap().partitions[0];
    assert_eq!((patient.archived_to, patient.high_watermark), (0, Some(1)));
    assert!(patient.unarchived_bytes.unwrap() > 0 && patient.oldest_unarchived_ms.is_some());
    world.stop();
}

#[test]
fn a_segment_that_is_damaged_never_enters_the_map_and_is_deleted() {
    let world = Running::start();
    let mut client = world.client();
    client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
    let expected = produce(&mut client, 0);
    let damage = Rule::new(On::Get, Fault::BitFlip).key(SEGMENT);
    world.store.inject(damage.times(u64::MAX));
    let error = world.flush().unwrap_err();
    assert!(error.contains("does not hold what was put"), "{error}");
    assert_eq!(world.archived(), [(0, 30, 0); 3]);
    assert_eq!(world.segments(), [""; 0]);
    world.store.clear();
    assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
    let [segment] = &world.segments()[..] else {
        panic!("one segment")
    };
    assert!(segment.ends_with("-0000000000000001.parquet"), "{segment}");
    assert_read(&mut client, &expected);
    world.stop();
}

#[test]
fn a_put_without_an_answer_is_resolved() {
    for fault in [Fault::AnswerLost, Fault::RequestLost, Fault::FailedAfter] {
        let world = Running::start();
        let mut client = world.client();
        client.create_topic(TOPIC, PARTITIONS, &[KEPT]);
        let expected = produce(&mut client, 0);
        world.store.inject(Rule::new(On::Put, fault).key(SEGMENT));
        assert_eq!(world.flush().unwrap(), "archived: 1 new segment\n");
        assert_read(&mut client, &expected);
        world.stop();
    }
}

#[test]
fn a_stop_abandons_the_segment_that_is_being_written() {
    let world = Running::start();
    let mut client = world.client();
    client.create_topic(
        TOPIC,
        PARTITIONS,
        &[KEPT, ("firn.archive.interval.ms", "1")],
    );
    let expected = produce(&mut client, 0);
    // it is there, and nobody knows
    let rule = Rule::new(On::Put, Fault::HangAfter).key(SEGMENT);
    world.store.inject(rule.times(u64::MAX));
    produce(&mut client, 1);
    wait::until("the archiver to put", wait::PATIENCE, || {
        let hits = world.store.hits();
        hits.iter().any(|(on, ..)| *on == On::Put).then_some(())
    });
    let store = world.stop();
    store.clear();
    let world = Running::start_on(store);
    let archived = world.archived();
    assert_eq!(world.segments().len(), usize::from(archived[0].2 > 0));
    world.flush().unwrap();
    let read = world.client().read(TOPIC, 0, 0);
    assert_eq!(&read[..30], &expected[0][..]);
    world.stop();
}

/// What the coordinator knows is told when the journal holds it.
#[test]
fn while_the_bucket_is_away_the_status_says_so_in_time() {
    let world = Running::start();
    world.client().create_topic(TOPIC, PARTITIONS, &[KEPT]);
    world.store.set_outage(true);
    thread::scope(|scope| {
        // waits for the journal, and the status behind it
        scope.spawn(|| world.client().create_topic("later", 1, &[KEPT]));
        let reason = wait::until("the status to be kept back", wait::PATIENCE, || {
            let output = world.firn(&["status"]);
            (!output.status.success()).then(|| String::from_utf8(output.stderr).unwrap())
        });
        assert!(reason.contains("the bucket"), "{reason}");
        world.store.set_outage(false);
    });
    assert_eq!(world.archived(), [(0, 0, 0); 3]);
    world.stop();
}

#[test]
fn the_usage_of_a_bucket_without_a_cluster_says_that_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let output = Command::new(env!("CARGO_BIN_EXE_firn"))
        .args(["bucket", "usage", "--bucket", &url])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("there is no cluster in"), "{said}");
}

#[test]
fn whoever_asks_for_what_is_not_there_is_told_so() {
    let world = Running::start();
    world.client().create_topic(TOPIC, PARTITIONS, &[KEPT]);
    for command in ["status", "flush"] {
        let output = world.firn(&[command, "--topic", "another"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("another: there is no such topic"), "{error}");
    }
    let table = world.firn(&["status", "--topic", TOPIC]).stdout;
    assert_eq!(String::from_utf8(table).unwrap().lines().count(), 4);
    world.stop();
}
