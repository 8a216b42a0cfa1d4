//! `kill -9` in the middle of producing: nothing acknowledged is missing, doubled or out of order.

use std::path::Path;
use std::time::Duration;

use firn_tests::client::Client;
use firn_tests::history::History;
use firn_tests::node::NodePlan;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::seed::Seed;
use firn_tests::wait;

use crate::{FIRN, append_once, assert_keeps, folder, forget_local_files, minio_for, node_on};

const TOPIC: &str = "crash";
const PARTITIONS: i32 = 3;
const KILLS: usize = 10;

#[test]
fn ten_kills_lose_double_or_reorder_nothing_on_a_directory() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let seed = Seed::from_environment("ten_kills_on_a_directory", 3);
    ten_kills(&plan, seed, folder.path());
}

#[test]
fn ten_kills_lose_double_or_reorder_nothing_on_s3() {
    let folder = folder();
    let test = "ten_kills_lose_double_or_reorder_nothing_on_s3";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    ten_kills(&plan, Seed::from_environment(test, 4), folder.path());
}

fn ten_kills(plan: &NodePlan, mut seed: Seed, folder: &Path) {
    let mut node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = IdempotentProducer::new(node.kafka(), TOPIC, PARTITIONS);
    let mut written = 0;
    // Rounds whose kill came when batches were sent and not answered.
    let mut cut_off = 0;
    for kill in 0..KILLS {
        let before = producer.history.acknowledged_count();
        for _ in 0..20 + seed.below(60) {
            send_some(&mut producer, &mut seed, &mut written);
        }
        let answered = producer.history.acknowledged_count();
        assert!(answered > before, "round {kill}: no answer before the kill");
        // Some kills find the broker at work for certain, others at any point of it.
        let pause = Duration::from_micros(seed.below(4000));
        if kill % 3 != 0 {
            wait::pause(pause);
        }
        node.kill();
        if !producer.flush() {
            cut_off += 1;
        }
        // Half of the restarts find the disk as it was, half a new machine.
        if kill % 2 == 1 {
            forget_local_files(folder);
        }
        node = plan.start();
        producer.reconnect();
        assert!(producer.flush(), "the broker stays up after restart {kill}");
        assert_eq!(producer.in_flight(), 0, "everything is answered in the end");
    }
    assert!(cut_off > 0, "no kill came before the last answer");
    let mut client = Client::connect(node.kafka()).unwrap();
    assert_keeps(&producer.history, &mut client, TOPIC, PARTITIONS);
    node.kill();
    forget_local_files(folder);
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, PARTITIONS);
    assert_keeps(&producer.history, &mut client, TOPIC, PARTITIONS);
    node.stop();
}

fn send_some(producer: &mut IdempotentProducer, seed: &mut Seed, written: &mut u64) {
    let records: Vec<Record> = (0..1 + seed.below(8))
        .map(|_| {
            *written += 1;
            Record::new("key", format!("value {written}"))
        })
        .collect();
    let partition = i32::try_from(seed.below(PARTITIONS as u64)).unwrap();
    assert!(producer.send(partition, &records), "the broker stays up");
}

/// A start that does not have the disk of the last process cannot know whether anything is lost with
/// it, and says just that. The first one that has it again says what came of it.
#[test]
fn an_absent_disk_is_named_and_settled_when_it_is_back() {
    let folder = folder();
    let wal = folder.path().join("wal");
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let with_disk = plan.clone().with_wal(&wal);
    let node = with_disk.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 1, &[]);
    let mut producer = IdempotentProducer::new(node.kafka(), TOPIC, 1);
    assert!(producer.send(0, &[Record::new("key", "in the bucket")]));
    assert!(producer.flush());
    node.kill();

    let node = plan.start();
    let log = node.process.output();
    let named = log.lines().find(|line| line.contains("another disk"));
    let named = named.expect("the absent disk is named");
    assert!(named.contains("is not known here"), "{named}");
    assert!(!named.contains("is lost"), "{named}");
    node.stop();

    let node = with_disk.start();
    let log = node.process.output();
    assert!(
        log.contains("nothing that acks=1 acknowledged is lost"),
        "it is not settled:\n{log}"
    );
    node.stop();
}

/// The partition of a local topic waits for the disk of a broker that was killed, until an operator
/// gives that up: he is told what goes, asked, and obeyed.
#[test]
fn an_operator_gives_a_lost_disk_up() {
    let folder = folder();
    let wal = folder.path().join("wal");
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let node = plan.clone().with_wal(&wal).start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 1, &[("firn.durability", "local")]);
    let mut history = History::default();
    append_once(&mut client, &mut history, TOPIC, "kept".into(), -1);
    wait::until("the bucket to have it", wait::PATIENCE, || {
        (node.metric("firn_wal_permit_bytes") == 0.0).then_some(())
    });
    node.kill();

    let node = plan.start();
    let info = wait::until("the partition to wait", wait::PATIENCE, || {
        let info = plan.run(&["cluster", "info"]);
        info.contains("1 partitions wait for disk").then_some(info)
    });
    assert!(info.contains("firn cluster force-move"), "{info}");
    let forced = plan.run(&["cluster", "force-move", "--yes", &format!("{TOPIC}:0")]);
    let goes_on = format!("{TOPIC}:0 goes on at offset 1 at broker ");
    assert!(forced.starts_with(&goes_on), "{forced}");
    let mut client = Client::connect(node.kafka()).unwrap();
    let next = client.append(TOPIC, 0, &[Record::new("key", "next")]);
    assert_eq!(next, 1);
    assert_eq!(client.read(TOPIC, 0, 0).len(), 2);
    node.stop();
}

/// acks=1 is answered after the local WAL's fsync: it survives a crash of the process, long
/// before the slot is in the bucket, which stands still here from before the answer until after
/// the crash.
#[test]
fn a_kill_loses_no_record_acknowledged_by_the_local_wal() {
    let test = "a_kill_loses_no_record_acknowledged_by_the_local_wal";
    kills_while_the_bucket_stands_still(test, &[], 1);
}

/// So it is with acks=all where a topic says that the local WAL is enough.
#[test]
fn a_kill_loses_no_record_of_a_local_topic() {
    let test = "a_kill_loses_no_record_of_a_local_topic";
    kills_while_the_bucket_stands_still(test, &[("firn.durability", "local")], -1);
}

fn kills_while_the_bucket_stands_still(test: &str, configs: &[(&str, &str)], acks: i16) {
    let folder = folder();
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    let mut history = History::default();
    let mut node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, 1, configs);
    for round in 0..3 {
        for at in 0..50 {
            if at == 25 {
                minio.process.freeze();
            }
            let value = format!("round {round} record {at}");
            append_once(&mut client, &mut history, TOPIC, value.into(), acks);
        }
        node.kill();
        minio.process.thaw();
        node = plan.start();
        client = Client::connect(node.kafka()).unwrap();
        client.wait_leaders(TOPIC, 1);
        assert_keeps(&history, &mut client, TOPIC, 1);
    }
    node.stop();
}
