//! Three brokers, each in a rack of its own, and consumers that say in which one they are
//! (`client.rack`): the broker of that rack serves them, whoever owns what they read (KIP-392).

use std::path::Path;
use std::process::Command;

use firn_tests::cluster::{Cluster, ClusterPlan};
use firn_tests::requirement::{program, skip};

use crate::java::tool_at;
use crate::{FIRN, jars_for, run};

const TOPIC: &str = "shared";
const PARTITIONS: i32 = 6;
const RACKS: [&str; 3] = ["a", "b", "c"];
/// The broker of the consumers' rack.
const NEAR: usize = 2;
const LINES: usize = 3000;

/// The brokers, with a topic in which each line lies by its key.
fn start(folder: &Path) -> (Cluster, Vec<String>) {
    let mut plan = ClusterPlan::on_directory(FIRN, folder);
    for (node, rack) in plan.nodes.iter_mut().zip(RACKS) {
        *node = node.clone().with_setting(&format!("broker.rack={rack}"));
    }
    let cluster = plan.start();
    let brokers = plan.brokers();
    brokers.any().create_topic(TOPIC, PARTITIONS, &[]);
    let lines: Vec<String> = (0..LINES)
        .map(|number| format!("line {number:05}"))
        .collect();
    let text: String = lines
        .iter()
        .map(|line| format!("{line}\t{line}\n"))
        .collect();
    let mut producer = Command::new("kcat");
    let bootstrap = brokers.bootstrap();
    producer.args(["-P", "-b", &bootstrap, "-t", TOPIC, "-K", "\t"]);
    run(producer, text.as_bytes());
    (cluster, lines)
}

fn assert_served_near(cluster: &Cluster, lines: &[String], consumed: &str) {
    let mut consumed: Vec<&str> = consumed.lines().collect();
    consumed.sort_unstable();
    assert!(consumed == lines, "{} of {LINES} lines", consumed.len());
    let sum = |row| {
        (0..RACKS.len())
            .map(|at| cluster.node(at).metric(row))
            .collect()
    };
    let served: Vec<f64> = sum("firn_topic_bytes_out_total");
    let (near, far) = (served[NEAR], [served[0], served[1]]);
    assert_eq!(far, [0.0; 2], "brokers of other racks served some of it");
    let of_others = cluster.node(NEAR).metric("firn_replica_out_bytes_total");
    assert!(0.0 < of_others && of_others < near, "{of_others} of {near}");
    let sent: Vec<f64> = sum("firn_replica_sent_total");
    assert!(
        sent[0] > 0.0 && sent[1] > 0.0 && sent[NEAR] == 0.0,
        "{sent:?}"
    );
    let unanswered: Vec<f64> = sum("firn_replica_unanswered_total");
    assert_eq!(unanswered, [0.0; 3]);
}

#[test]
fn librdkafka_reads_from_the_broker_of_its_rack() {
    if program("kcat").is_none() {
        skip("librdkafka_reads_from_the_broker_of_its_rack", "kcat");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cluster, lines) = start(folder.path());
    let bootstrap = cluster.plan().brokers().bootstrap();
    let mut consumer = Command::new("kcat");
    consumer
        .args(["-C", "-b", &bootstrap, "-t", TOPIC, "-o", "beginning"])
        .args(["-e", "-q", "-X", "client.rack=c", "-X", "check.crcs=true"]);
    assert_served_near(&cluster, &lines, &run(consumer, &[]));
    cluster.stop_all();
}

#[test]
fn javas_consumer_reads_from_the_broker_of_its_rack() {
    let test = "javas_consumer_reads_from_the_broker_of_its_rack";
    let Some(jars) = jars_for(test) else { return };
    if program("kcat").is_none() {
        skip(test, "kcat");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cluster, lines) = start(folder.path());
    let bootstrap = cluster.plan().brokers().bootstrap();
    let mut consumer = tool_at(&jars, "consumer.ConsoleConsumer", &bootstrap);
    consumer
        .args(["--topic", TOPIC, "--from-beginning"])
        .args(["--max-messages", &LINES.to_string()])
        .args(["--command-property", "client.rack=c"]);
    assert_served_near(&cluster, &lines, &run(consumer, &[]));
    cluster.stop_all();
}
