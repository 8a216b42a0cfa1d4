//! Python's confluent-kafka, idempotent, while the broker is killed under it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use firn_tests::client::Client;
use firn_tests::node::NodePlan;
use firn_tests::process::Process;
use firn_tests::requirement::{cache_folder, skip};
use firn_tests::seed::Seed;
use firn_tests::wait;
use serde_json::Value;

use crate::FIRN;

const TOPIC: &str = "from-python";
const PARTITIONS: i32 = 3;
const RECORDS: usize = 6000;
const KILLS: usize = 3;

/// A Python that can import `modules`: `CI_FIRN_PYTHON`, else the one `.ci/run` makes.
pub(crate) fn python_with(modules: &str) -> Option<PathBuf> {
    let python = std::env::var_os("CI_FIRN_PYTHON")
        .map(PathBuf::from)
        .or_else(|| cache_folder().map(|folder| folder.join("python/bin/python")))?;
    let import = format!("import {modules}");
    let imported = Command::new(&python).args(["-c", &import]).output().ok()?;
    imported.status.success().then_some(python)
}

#[test]
fn an_idempotent_python_producer_survives_kills_of_the_broker() {
    let test = "an_idempotent_python_producer_survives_kills_of_the_broker";
    let Some(python) = python_with("confluent_kafka") else {
        return skip(test, "Python with confluent-kafka");
    };
    let mut seed = Seed::from_environment(test, 7);
    let folder = tempfile::tempdir().unwrap();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let mut node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic(TOPIC, PARTITIONS, &[]);

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/idempotent.py");
    let mut command = Command::new(python);
    command
        .arg(script)
        .args([&node.bootstrap(), TOPIC, &RECORDS.to_string()]);
    let mut producer = Process::spawn("python", command, &folder.path().join("producer.log"));
    for kill in 1..=KILLS {
        let point = RECORDS * kill / (KILLS + 1) + seed.below(500) as usize;
        wait::until(
            "the producer to come to its next kill",
            wait::PATIENCE,
            || (producer.output().matches("\"offset\"").count() >= point).then_some(()),
        );
        node.kill();
        wait::pause(Duration::from_millis(seed.below(300)));
        node = plan.start();
    }
    let status = producer.wait(Duration::from_secs(120));
    assert!(status.success(), "it wrote:\n{}", producer.output());
    assert_log_matches(&producer.output(), &node);
    node.stop();
}

/// Every record the producer was told of is where it was told, once, in the order of sending.
fn assert_log_matches(told: &str, node: &firn_tests::node::Node) {
    let mut client = Client::connect(node.kafka()).unwrap();
    let mut expected: BTreeMap<(i32, i64), String> = BTreeMap::new();
    // What librdkafka has to say about lost connections is between the reports.
    for line in told.lines().filter(|line| line.starts_with('{')) {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(
            event["error"].is_null(),
            "a record was refused for good: {line}"
        );
        let partition = i32::try_from(event["partition"].as_i64().unwrap()).unwrap();
        let place = (partition, event["offset"].as_i64().unwrap());
        let value = event["value"].as_str().unwrap().to_owned();
        assert!(
            expected.insert(place, value).is_none(),
            "{place:?} was given twice"
        );
    }
    assert_eq!(expected.len(), RECORDS, "every record was acknowledged");
    for partition in 0..PARTITIONS {
        let mut last = -1;
        for stored in client.read(TOPIC, partition, 0) {
            let value = String::from_utf8(stored.record.value.unwrap().to_vec()).unwrap();
            let told = expected.remove(&(partition, stored.offset));
            assert_eq!(
                told.as_ref(),
                Some(&value),
                "{partition} at {}",
                stored.offset
            );
            let number: i64 = value.parse().unwrap();
            assert!(
                number > last,
                "{value} is out of order in partition {partition}"
            );
            last = number;
        }
    }
    assert!(
        expected.is_empty(),
        "{} acknowledged records are missing",
        expected.len()
    );
}
