//! Three brokers on MinIO that die and leave under librdkafka and under Kafka's Java producer, both
//! idempotent and with acks=all. Each lives through all of it with one session.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use firn_tests::cluster::{BROKERS, Cluster, ClusterPlan};
use firn_tests::flights;
use firn_tests::minio::minio_for;
use firn_tests::process::Process;
use firn_tests::seed::Seed;
use firn_tests::wait;

use crate::java::{events, tool_at};
use crate::producer::{PARTITIONS, Production};
use crate::python::{Scripts, python_for};
use crate::{FIRN, jars_for};

const EVENTS: usize = 8;
const RECORDS: usize = 20_000;
const VERIFIED: &str = "verified";
/// The tool does not try again unless it is told to; producers do.
const AS_CLIENTS_ARE: &str = "retries=2147483647\nenable.idempotence=true\n";
/// Java's records per second.
const THROUGHPUT: &str = "500";

#[test]
fn brokers_that_die_and_leave_cost_clients_no_record() {
    let test = "brokers_that_die_and_leave_cost_clients_no_record";
    let folder = tempfile::tempdir().unwrap();
    let (Some(minio), Some(python), Some(jars)) = (
        minio_for(test, folder.path()),
        python_for(test),
        jars_for(test),
    ) else {
        return;
    };
    let mut seed = Seed::from_environment(test, 21);
    let plan = ClusterPlan::on_minio(&minio, FIRN, folder.path());
    let brokers = plan.brokers();
    let mut cluster = plan.start();
    brokers.any().create_topic(VERIFIED, PARTITIONS, &[]);
    let mut command = tool_at(&jars, "VerifiableProducer", &brokers.bootstrap());
    command.args(["--topic", VERIFIED, "--acks", "-1"]);
    command.args(["--max-messages", "-1", "--throughput", THROUGHPUT]);
    let config = folder.path().join("producer.properties");
    fs::write(&config, AS_CLIENTS_ARE).unwrap();
    command.arg("--command-config").arg(&config);
    let output = folder.path().join("java.log");
    let mut java = Process::spawn("VerifiableProducer", command, &output);
    let flights = flights::load();
    let aside = tempfile::tempdir().unwrap();
    let scripts = Scripts::new(python, aside.path());
    let mut librdkafka = Production::start(&scripts, &brokers, &flights, RECORDS, aside.path());
    let told = |java: &Process| java.output().matches("producer_send_success").count();
    for event in 0..EVENTS {
        librdkafka.wait_acknowledged(RECORDS / EVENTS / 2);
        let before = told(&java);
        wait::until("Java's producer to go on", wait::PATIENCE, || {
            (told(&java) > before + 50).then_some(())
        });
        something_happens(&mut cluster, &mut seed, event);
        wait::pause(Duration::from_millis(seed.below(1500)));
        cluster.revive();
    }
    let log = librdkafka.finish();
    java.signal("TERM");
    java.wait(wait::PATIENCE);
    let told = java.output();
    assert!(!told.contains("producer_send_error"), "{told}");
    log.assert_held_by(&brokers, "after the last event");
    let places = events(&told, "producer_send_success");
    for partition in 0..PARTITIONS {
        let stored = brokers.read(VERIFIED, partition);
        let stored: BTreeMap<i64, String> = stored
            .into_iter()
            .map(|stored| {
                let value = stored.record.value.expect("a value");
                (stored.offset, String::from_utf8_lossy(&value).into_owned())
            })
            .collect();
        let values: Vec<i64> = stored.values().map(|v| v.parse().unwrap()).collect();
        assert!(
            values.is_sorted_by(|a, b| a < b),
            "{VERIFIED}/{partition}: records are doubled or out of order"
        );
        for ((_, offset), value) in
            places.range((partition.into(), 0)..=(partition.into(), i64::MAX))
        {
            assert_eq!(
                stored.get(offset),
                Some(value),
                "{VERIFIED}/{partition} at {offset}: acknowledged"
            );
        }
    }
    assert!(places.len() > 1000, "Java's producer did next to nothing");
    cluster.stop_all();
}

/// One broker dies, leaves in order, or leads and dies; or all die.
fn something_happens(cluster: &mut Cluster, seed: &mut Seed, event: usize) {
    let leader = cluster.plan().brokers().controller(VERIFIED);
    let other = (leader + 1 + usize::try_from(seed.below(2)).unwrap()) % BROKERS;
    match event % 4 {
        0 => cluster.kill(other),
        1 => cluster.stop(other),
        2 => cluster.kill(leader),
        _ => (0..BROKERS).for_each(|at| cluster.kill(at)),
    }
}
