//! The archive of the running binary: flights that come back from segments alone, and `kill -9` at
//! any point of archiving, committing, moving floors and deleting.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use firn_tests::client::{Client, EARLIEST, HIGH_WATERMARK, LATEST, code};
use firn_tests::node::{Node, NodePlan};
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::seed::Seed;
use firn_tests::wait;

use crate::flights::{self, PARTITIONS, TOPIC};
use crate::{FIRN, assert_keeps, folder, forget_local_files, minio_for, node_on};

/// Of every so many kills one is followed by a look at everything.
const LOOK_EVERY: usize = 20;
const KEPT: &str = "kept";
const CHURNED: &str = "churned";

#[test]
fn archived_flights_come_back_from_segments_alone_on_a_directory() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    archived_flights_come_back(&plan, folder.path());
}

#[test]
fn archived_flights_come_back_from_segments_alone_on_s3() {
    let folder = folder();
    let test = "archived_flights_come_back_from_segments_alone_on_s3";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    archived_flights_come_back(&plan, folder.path());
}

fn archived_flights_come_back(plan: &NodePlan, folder: &Path) {
    let plan = plan.clone().with_setting("collection.interval.ms=100");
    let expected = flights::by_partition();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);
    flights::produce(node.kafka(), &expected);
    let status = plan.run(&["archive", "status", "--json"]);
    assert!(status.contains(TOPIC), "{status}");
    plan.run(&["archive", "flush", "--topic", TOPIC]);
    flights::assert_holds(&mut client, &expected, "right after it was archived");
    node.stop();

    forget_local_files(folder);
    let node = plan.start();
    wait::until("the log to leave the WAL", wait::PATIENCE, || {
        let usage = plan.run(&["bucket", "usage", "--json"]);
        let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
        let wal = usage["wal"]["bytes"].as_u64().unwrap();
        (wal < 64 * 1024).then_some(())
    });
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders(TOPIC, PARTITIONS);
    let before = requests(&node);
    flights::assert_holds(&mut client, &expected, "from segments alone");
    let after = requests(&node);
    assert_eq!(
        after.get("read"),
        before.get("read"),
        "WAL objects were read"
    );
    assert!(
        after.get("read_segment") > before.get("read_segment"),
        "{after:?}"
    );
    for partition in 0..PARTITIONS {
        assert_eq!(client.list_offset(TOPIC, partition, EARLIEST), 0);
        assert_eq!(
            client.list_offset(TOPIC, partition, 0),
            0,
            "the first of all times"
        );
    }
    node.stop();
}

/// GETs by purpose.
fn requests(node: &Node) -> BTreeMap<String, u64> {
    let (_, text) = node.http_get("/metrics").unwrap();
    let rows = text
        .lines()
        .filter(|row| row.starts_with("firn_bucket_requests_total{"));
    let gets = rows.filter(|row| row.contains("operation=\"get\""));
    let purpose = |row: &str| {
        let (_, rest) = row.split_once("purpose=\"")?;
        let (purpose, rest) = rest.split_once('"')?;
        let count = rest.rsplit_once(' ')?.1.parse().ok()?;
        Some((purpose.to_owned(), count))
    };
    gets.filter_map(purpose).collect()
}

#[test]
fn a_hundred_kills_of_the_archive_lose_double_or_leave_over_nothing() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let seed = Seed::from_environment("a_hundred_kills_of_the_archive", 7);
    let kills = Kills {
        count: 100,
        within: Duration::from_millis(60),
    };
    kills_lose_double_or_leave_over_nothing(plan, folder.path(), &kills, seed);
}

/// Puts, deletes and their answers take other ways there, and there is a local WAL.
#[test]
fn twenty_kills_of_the_archive_lose_double_or_leave_over_nothing_on_s3() {
    let folder = folder();
    let test = "twenty_kills_of_the_archive_lose_double_or_leave_over_nothing_on_s3";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let plan = node_on(&minio, folder.path());
    let seed = Seed::from_environment("twenty_kills_of_the_archive_on_s3", 11);
    // A flush makes a dozen requests of a server that answers each in some milliseconds.
    let kills = Kills {
        count: 20,
        within: Duration::from_millis(300),
    };
    kills_lose_double_or_leave_over_nothing(plan, folder.path(), &kills, seed);
}

/// How often the process dies, and how long after a flush was asked for at most.
struct Kills {
    count: usize,
    within: Duration,
}

/// Records of one topic are kept for good and archived all the time, those of the other are deleted
/// all the time, and the process dies at any point of either. Nothing kept is lost, doubled or out of
/// order, and once all is deleted no segment is left over.
fn kills_lose_double_or_leave_over_nothing(
    plan: NodePlan,
    folder: &Path,
    kills: &Kills,
    mut seed: Seed,
) {
    let settings = [
        "collection.orphans.delay.ms=0",
        "log.retention.check.interval.ms=10",
        "collection.interval.ms=5",
    ];
    let plan = settings
        .iter()
        .fold(plan, |plan, setting| plan.with_setting(setting));
    let mut node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    let at_once = ("file.delete.delay.ms", "1");
    client.create_topic(KEPT, 3, &[at_once, ("retention.ms", "-1")]);
    client.create_topic(CHURNED, 3, &[at_once, ("retention.bytes", "1000")]);
    let mut kept = IdempotentProducer::new(node.kafka(), KEPT, 3);
    let mut churned = IdempotentProducer::new(node.kafka(), CHURNED, 3);
    let mut written = 0;
    let within = u64::try_from(kills.within.as_micros()).unwrap();
    for kill in 0..kills.count {
        for _ in 0..1 + seed.below(8) {
            for producer in [&mut kept, &mut churned] {
                written += 1;
                let partition = i32::try_from(seed.below(3)).unwrap();
                producer.send(partition, &[Record::new("key", format!("value {written}"))]);
            }
        }
        assert!(kept.flush() && churned.flush(), "the broker stays up");
        let flushing = node.start_http_post("/archive/flush");
        wait::pause(Duration::from_micros(seed.below(within)));
        node.kill();
        drop(flushing);
        if seed.below(2) == 0 {
            forget_local_files(folder);
        }
        node = plan.start();
        kept.reconnect();
        churned.reconnect();
        assert!(kept.flush() && churned.flush(), "restart {kill}");
        if kill % LOOK_EVERY == LOOK_EVERY - 1 {
            let mut client = Client::connect(node.kafka()).unwrap();
            assert_keeps(&kept.history, &mut client, KEPT, 3);
            assert_ends_whole(&mut client, CHURNED, 3);
        }
    }
    plan.run(&["archive", "flush"]);
    let mut client = Client::connect(node.kafka()).unwrap();
    assert_keeps(&kept.history, &mut client, KEPT, 3);
    assert_ends_whole(&mut client, CHURNED, 3);
    let runs = runs(&plan);
    assert!(
        runs > 3 * kills.count as u64 / 10,
        "only {runs} runs: the kills came before anything was archived"
    );
    for topic in [KEPT, CHURNED] {
        for partition in 0..3 {
            client.delete_records(topic, partition, HIGH_WATERMARK);
        }
    }
    wait::until("everything archived to be deleted", wait::PATIENCE, || {
        let usage = plan.run(&["bucket", "usage", "--json"]);
        let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
        let objects = |kind: &str| usage[kind]["objects"].as_u64().unwrap();
        assert_eq!(
            objects("unknown"),
            0,
            "an object that no part of Firn names"
        );
        (objects("segments") == 0 && objects("map_pages") == 0).then_some(())
    });
    // of a directory also what lists leave out; on S3 there is none of that name
    let left = files(&folder.join("bucket/tables"));
    assert!(left.is_empty(), "{left:?}");
    node.stop();
}

/// All files below a directory, if it is there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The runs of all partitions that are in segments.
fn runs(plan: &NodePlan) -> u64 {
    let status = plan.run(&["archive", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let topics = status["topics"].as_array().unwrap();
    let partitions = topics
        .iter()
        .flat_map(|topic| topic["partitions"].as_array().unwrap());
    partitions.map(|p| p["runs"].as_u64().unwrap()).sum()
}

/// Whatever retention has left is readable from its first record to its last.
fn assert_ends_whole(client: &mut Client, topic: &str, partitions: i32) {
    for partition in 0..partitions {
        let end = client.list_offset(topic, partition, LATEST);
        let mut next = client.list_offset(topic, partition, EARLIEST);
        while next < end {
            let fetched = client.fetch(topic, partition, next).unwrap();
            if fetched.error == code::OFFSET_OUT_OF_RANGE {
                let start = client.list_offset(topic, partition, EARLIEST);
                assert!(start > next, "{topic}/{partition}: {next} is out of range");
                next = start;
                continue;
            }
            assert_eq!(fetched.error, code::NONE, "{topic}/{partition} at {next}");
            let records = firn_tests::records::decode_batches(fetched.batches);
            let mut offsets = records.iter().map(|stored| stored.offset);
            let offsets: Vec<i64> = offsets.by_ref().filter(|offset| *offset >= next).collect();
            let count = i64::try_from(offsets.len()).unwrap();
            assert!(count > 0, "{topic}/{partition}: nothing at {next} of {end}");
            assert!(
                offsets.into_iter().eq(next..next + count),
                "a gap behind {next}"
            );
            next += count;
        }
    }
}
