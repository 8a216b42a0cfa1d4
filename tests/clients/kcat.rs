//! The main job with kcat (librdkafka): flights keyed by origin into 6 partitions, consumed back
//! and compared record by record, before and after a restart on the bucket alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use firn_tests::client::Client;
use firn_tests::flights::{self, Flight};
use firn_tests::node::{NodePlan, forget_local_files};
use firn_tests::records::Record;
use firn_tests::requirement::{program, skip};

use crate::{Broker, FIRN, run, s3_for};

const TOPIC: &str = "flights";
const PARTITIONS: i32 = 6;

fn kcat_for(test: &str) -> Option<Command> {
    let kcat = program("kcat").map(Command::new);
    if kcat.is_none() {
        skip(test, "kcat");
    }
    kcat
}

fn kcat() -> Command {
    Command::new("kcat")
}

fn produce(bootstrap: &str, topic: &str, flights: &[Flight], settings: &[&str]) {
    let lines: String = flights
        .iter()
        .map(|flight| format!("{}\t{}\n", flight.origin, flight.line))
        .collect();
    let mut command = kcat();
    command
        .args(["-P", "-b", bootstrap, "-t", topic, "-K", "\t"])
        .args(["-X", "acks=all", "-X", "enable.idempotence=true"])
        .args(settings);
    run(command, lines.as_bytes());
}

/// (partition, offset, flight) as kcat reads them, from the beginning to the end.
fn consume(bootstrap: &str, topic: &str) -> Vec<(i32, i64, Flight)> {
    let mut command = kcat();
    command
        .args([
            "-C",
            "-b",
            bootstrap,
            "-t",
            topic,
            "-o",
            "beginning",
            "-e",
            "-q",
        ])
        .args(["-X", "check.crcs=true", "-f", "%p\t%o\t%k\t%s\n"]);
    let text = run(command, &[]);
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.splitn(4, '\t').collect();
            let flight = Flight {
                origin: fields[2].to_owned(),
                line: fields[3].to_owned(),
            };
            (
                fields[0].parse().unwrap(),
                fields[1].parse().unwrap(),
                flight,
            )
        })
        .collect()
}

/// What came back is what went in: each airport in one partition, in the order it was produced,
/// offsets dense from 0.
fn assert_same(produced: &[Flight], consumed: &[(i32, i64, Flight)]) {
    assert_eq!(consumed.len(), produced.len(), "number of records");
    let mut partition_of: BTreeMap<&str, i32> = BTreeMap::new();
    let mut by_partition: BTreeMap<i32, Vec<(i64, &Flight)>> = BTreeMap::new();
    for (partition, offset, flight) in consumed {
        let home = *partition_of.entry(&flight.origin).or_insert(*partition);
        assert_eq!(home, *partition, "{} lies in one partition", flight.origin);
        by_partition
            .entry(*partition)
            .or_default()
            .push((*offset, flight));
    }
    assert_eq!(
        by_partition.len(),
        PARTITIONS as usize,
        "every partition is used"
    );
    for (partition, read) in &by_partition {
        let expected: Vec<(i64, &Flight)> = (0..)
            .zip(
                produced
                    .iter()
                    .filter(|f| partition_of[f.origin.as_str()] == *partition),
            )
            .collect();
        assert!(
            *read == expected,
            "partition {partition} differs from what was produced"
        );
    }
}

fn main_job(plan: &NodePlan, folder: &Path) {
    let flights = flights::load();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    produce(&node.bootstrap(), TOPIC, &flights, &[]);
    assert_same(&flights, &consume(&node.bootstrap(), TOPIC));
    node.stop();
    forget_local_files(folder);
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, PARTITIONS);
    assert_same(&flights, &consume(&node.bootstrap(), TOPIC));
    node.stop();
}

#[test]
fn kcat_gets_its_flights_back_from_a_directory() {
    if kcat_for("kcat_gets_its_flights_back_from_a_directory").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    main_job(&plan, folder.path());
}

#[test]
fn kcat_gets_its_flights_back_from_s3() {
    let test = "kcat_gets_its_flights_back_from_s3";
    if kcat_for(test).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some((_minio, plan)) = s3_for(test, folder.path()) else {
        return;
    };
    main_job(&plan, folder.path());
}

#[test]
fn kcat_gets_back_what_it_compressed() {
    if kcat_for("kcat_gets_back_what_it_compressed").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let flights: Vec<Flight> = flights::load().into_iter().take(3000).collect();
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("flights-{codec}");
        broker.client().create_topic(&topic, PARTITIONS, &[]);
        produce(&broker.bootstrap(), &topic, &flights, &["-z", codec]);
        assert_same(&flights, &consume(&broker.bootstrap(), &topic));
    }
}

#[test]
fn kcat_lists_and_creates_topics_by_use() {
    if kcat_for("kcat_lists_and_creates_topics_by_use").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let mut command = kcat();
    command.args(["-P", "-b", &broker.bootstrap(), "-t", "made-by-use"]);
    run(command, b"one\ntwo\n");
    let mut command = kcat();
    command.args(["-L", "-J", "-b", &broker.bootstrap()]);
    let listing: serde_json::Value = serde_json::from_str(&run(command, &[])).unwrap();
    let topics: Vec<&str> = listing["topics"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|topic| topic["topic"].as_str())
        .collect();
    assert!(topics.contains(&"made-by-use"), "{topics:?}");
    let mut command = kcat();
    command.args([
        "-C",
        "-b",
        &broker.bootstrap(),
        "-t",
        "made-by-use",
        "-e",
        "-q",
    ]);
    assert_eq!(run(command, &[]), "one\ntwo\n");
}

#[test]
fn kcat_finds_an_offset_by_its_time() {
    if kcat_for("kcat_finds_an_offset_by_its_time").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let mut client = broker.client();
    client.create_topic("timed", 1, &[]);
    for second in 0..10 {
        let mut record = Record::new("k", format!("{second}"));
        record.timestamp = 1_600_000_000_000 + second * 1000;
        client.append("timed", 0, &[record]);
    }
    let mut command = kcat();
    command.args([
        "-Q",
        "-b",
        &broker.bootstrap(),
        "-t",
        "timed:0:1600000004500",
    ]);
    let answer = run(command, &[]);
    assert!(answer.contains("offset 5"), "{answer}");
}
