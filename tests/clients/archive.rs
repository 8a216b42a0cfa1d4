//! The main job's second half: flights that were archived, as analysts see them; then retention
//! deletes them, and a reader that is slow finishes within the grace.

use std::collections::BTreeMap;
use std::path::Path;

use firn_tests::client::{Client, EARLIEST, LATEST};
use firn_tests::flights::{self, Flight};
use firn_tests::minio::Minio;
use firn_tests::node::NodePlan;
use firn_tests::producer::IdempotentProducer;
use firn_tests::records::Record;
use firn_tests::{requirement, wait};
use serde_json::{Value, json};

use crate::python::{Scripts, number};
use crate::{FIRN, s3_for};

const TOPIC: &str = "flights";
const PARTITIONS: i32 = 6;
const BATCH: usize = 100;
/// For how long what has left the segment map is kept for readers, in milliseconds.
const GRACE_MS: &str = "10000";

#[test]
fn archived_flights_are_analysed_and_deleted_on_a_directory() {
    let test = "archived_flights_are_analysed_and_deleted_on_a_directory";
    let folder = tempfile::tempdir().unwrap();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let tables = folder.path().join("bucket/tables");
    analysed_and_deleted(test, &plan, folder.path(), |folder| {
        vec![tables.join(folder).display().to_string()]
    });
}

#[test]
fn archived_flights_are_analysed_and_deleted_on_s3() {
    let test = "archived_flights_are_analysed_and_deleted_on_s3";
    let folder = tempfile::tempdir().unwrap();
    let Some((minio, plan)) = s3_for(test, folder.path()) else {
        return;
    };
    analysed_and_deleted(test, &plan, folder.path(), |folder| {
        let (user, password) = Minio::CREDENTIALS;
        let place = format!("{}/cluster/tables/{folder}", Minio::BUCKET);
        vec![
            place,
            minio.address().to_string(),
            user.to_owned(),
            password.to_owned(),
        ]
    });
}

fn analysed_and_deleted(
    test: &str,
    plan: &NodePlan,
    aside: &Path,
    place_of: impl Fn(&str) -> Vec<String>,
) {
    let Some(python) = requirement::python_with("duckdb, pyarrow") else {
        return requirement::skip(test, "Python with duckdb and pyarrow");
    };
    let plan = plan
        .clone()
        .with_setting("collection.interval.ms=100")
        .with_setting("log.retention.check.interval.ms=100");
    let flights = flights::load();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    let grace = ("file.delete.delay.ms", GRACE_MS);
    client.create_topic(TOPIC, PARTITIONS, &[grace, ("retention.ms", "-1")]);
    produce(&node.bootstrap(), &flights);
    plan.run(&["archive", "flush"]);
    let archived = archived(&plan);
    let plain: usize = flights.iter().map(|f| f.line.len() + f.origin.len()).sum();
    assert!(
        archived.bytes * 2 <= plain as u64,
        "{} of {plain} bytes",
        archived.bytes
    );

    let scripts = Scripts::new(python, aside);
    let place = place_of(&archived.folder);
    let place: Vec<&str> = place.iter().map(String::as_str).collect();
    let mut reader = scripts.start(0, "archived.py", &place);
    let told = || {
        scripts
            .hear("what the reader tells")
            .1
            .expect("the reader runs")
    };
    let seen = told();
    assert_are_averages(&seen["flights"], &by_origin(&flights));
    let groups = number(&told(), "row_groups");
    assert!(groups >= i64::from(PARTITIONS), "{groups} row groups");
    reader.tell(&json!("next"));
    told();

    client.alter_topic(TOPIC, &[("retention.ms", "0")]);
    wait::until("the topic to be empty", wait::PATIENCE, || {
        let is_empty = |partition| {
            let end = client.list_offset(TOPIC, partition, LATEST);
            client.list_offset(TOPIC, partition, EARLIEST) == end
        };
        (0..PARTITIONS).all(is_empty).then_some(())
    });
    let mut rows = 0;
    for _ in 1..groups {
        reader.tell(&json!("next"));
        rows = number(&told(), "rows");
    }
    assert_eq!(rows, flights.len() as i64, "a reader within the grace");
    wait::until("the bucket to be empty", wait::PATIENCE, || {
        let usage = usage(&plan);
        let is_empty = |kind: &str| usage[kind]["objects"] == 0;
        (is_empty("segments") && usage["wal"]["bytes"].as_u64()? < 64 * 1024).then_some(())
    });
    node.stop();
}

/// What the bucket holds of the topic.
struct Archived {
    folder: String,
    bytes: u64,
}

fn archived(plan: &NodePlan) -> Archived {
    let usage = usage(plan);
    let topics = usage["topics"].as_array().unwrap();
    let topic = topics.iter().find(|topic| topic["name"] == TOPIC).unwrap();
    let id = topic["id"].as_str().unwrap();
    Archived {
        folder: format!("{TOPIC}-{id}/data"),
        bytes: topic["segments"]["bytes"].as_u64().unwrap(),
    }
}

fn usage(plan: &NodePlan) -> Value {
    let usage = plan.run(&["bucket", "usage", "--json"]);
    serde_json::from_str(&usage).unwrap()
}

fn produce(bootstrap: &str, flights: &[Flight]) {
    let address = bootstrap.parse().unwrap();
    let mut producer = IdempotentProducer::new(address, TOPIC, PARTITIONS);
    let mut parts: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for flight in flights {
        let partition = flights::partition(&flight.origin, PARTITIONS);
        let record = Record::new(flight.origin.clone(), flight.line.clone());
        parts.entry(partition).or_default().push(record);
    }
    for (partition, records) in parts {
        for batch in records.chunks(BATCH) {
            assert!(producer.send(partition, batch), "the broker stays up");
        }
    }
    assert!(producer.flush(), "the broker stays up");
}

/// Number of flights and average delay by origin, as the input has them.
fn by_origin(flights: &[Flight]) -> BTreeMap<&str, (i64, f64)> {
    let mut origins: BTreeMap<&str, (i64, f64)> = BTreeMap::new();
    for flight in flights {
        let line: Value = serde_json::from_str(&flight.line).unwrap();
        let (count, delay) = origins.entry(&flight.origin).or_default();
        *count += 1;
        *delay += line["delay"].as_f64().unwrap();
    }
    for (count, delay) in origins.values_mut() {
        *delay /= *count as f64;
    }
    origins
}

/// What DuckDB says of each origin: the count exactly, the average up to the last digits, which
/// depend on how it divides.
fn assert_are_averages(seen: &Value, expected: &BTreeMap<&str, (i64, f64)>) {
    let rows = seen.as_array().unwrap();
    assert_eq!(rows.len(), expected.len(), "origins");
    for (row, (origin, (count, delay))) in rows.iter().zip(expected) {
        assert_eq!(row[0], *origin);
        assert_eq!(row[1], *count, "flights from {origin}");
        let average = row[2].as_f64().unwrap();
        assert!(
            (average - delay).abs() < 1e-9,
            "{origin}: {average}, not {delay}"
        );
    }
}
