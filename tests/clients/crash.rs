//! The main job's crashes: `kill -9` of the broker while librdkafka produces the flights with
//! idempotence and acks=all. One producer session lives through all of them, and every record is
//! acknowledged in the end; none may be missing, doubled or out of order.

use std::path::Path;

use firn_tests::cluster::Brokers;
use firn_tests::flights;
use firn_tests::node::{NodePlan, forget_local_files};
use firn_tests::seed::Seed;

use crate::producer::Production;
use crate::python::{Scripts, python_for};
use crate::{FIRN, s3_for};

const KILLS: usize = 10;
/// The slice of the repository is produced over and over until there are so many, and until the
/// last kill is over: how many reports sit in pipes at a kill depends on the machine.
const RECORDS_MIN: usize = 20_000;

#[test]
fn ten_kills_lose_double_or_reorder_no_flights_on_a_directory() {
    let test = "ten_kills_lose_double_or_reorder_no_flights_on_a_directory";
    let folder = tempfile::tempdir().unwrap();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    ten_kills(test, 11, &plan, folder.path());
}

#[test]
fn ten_kills_lose_double_or_reorder_no_flights_on_s3() {
    let test = "ten_kills_lose_double_or_reorder_no_flights_on_s3";
    let folder = tempfile::tempdir().unwrap();
    let Some((_minio, plan)) = s3_for(test, folder.path()) else {
        return;
    };
    ten_kills(test, 12, &plan, folder.path());
}

fn ten_kills(test: &str, seed: u64, plan: &NodePlan, folder: &Path) {
    let Some(python) = python_for(test) else {
        return;
    };
    let mut seed = Seed::from_environment(test, seed);
    let flights = flights::load();
    let count = flights.len().max(RECORDS_MIN);
    let aside = tempfile::tempdir().unwrap();
    let scripts = Scripts::new(python, aside.path());
    let brokers = Brokers::at(vec![plan.kafka]);
    let mut node = plan.start();
    let mut producer = Production::start(&scripts, &brokers, &flights, count, aside.path());
    for kill in 0..KILLS {
        let answers = 1 + seed.below((count / KILLS / 2) as u64);
        producer.wait_acknowledged(usize::try_from(answers).unwrap());
        node.kill();
        let unanswered = producer.wait_disconnected();
        assert!(unanswered > 0, "kill {kill} came when all was answered");
        // Half of the restarts find the disk as it was, half a new machine.
        if kill % 2 == 1 {
            forget_local_files(folder);
        }
        node = plan.start();
    }
    let log = producer.finish();
    log.assert_held_by(&brokers, "hot, after the last kill");
    node.kill();
    forget_local_files(folder);
    let node = plan.start();
    log.assert_held_by(&brokers, "cold, from the bucket alone");
    node.stop();
}
