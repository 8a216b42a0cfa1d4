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
/// Clients that consume, at most.
const ATTEMPTS: usize = 10;

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

/// What the brokers have done so far for consumers, each number by broker.
#[derive(Debug)]
struct Done {
    /// Bytes of the topic that were served.
    served: [f64; 3],
    /// Those of partitions that other brokers own.
    of_others: [f64; 3],
    /// How often a client was sent to the broker of its rack.
    sent: [f64; 3],
    /// Questions that an owner did not answer, or not in time.
    unanswered: [f64; 3],
}

impl Done {
    fn so_far(cluster: &Cluster) -> Self {
        let rows = |row| std::array::from_fn(|at| cluster.node(at).metric(row));
        Self {
            served: rows("firn_topic_bytes_out_total"),
            of_others: rows("firn_replica_out_bytes_total"),
            sent: rows("firn_replica_sent_total"),
            unanswered: rows("firn_replica_unanswered_total"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        let more = |now: [f64; 3], before: [f64; 3]| std::array::from_fn(|at| now[at] - before[at]);
        Self {
            served: more(self.served, before.served),
            of_others: more(self.of_others, before.of_others),
            sent: more(self.sent, before.sent),
            unanswered: more(self.unanswered, before.unanswered),
        }
    }
}

/// Lets clients of the rack consume the topic, one after the other, until one was served by the broker
/// of that rack alone. The first one is, where nothing takes long; but a broker that has no answer of an
/// owner within a second sends its client back there, and of librdkafka's a Fetch that was delayed on its
/// way to the owner brings records, which it throws away.
fn assert_served_near(cluster: &Cluster, lines: &[String], consume: impl Fn() -> String) {
    let mut all = Vec::new();
    let is_near = |done: &Done| done.served.iter().sum::<f64>() == done.served[NEAR];
    while !all.last().is_some_and(is_near) {
        assert!(all.len() < ATTEMPTS, "owners serve other racks: {all:#?}");
        let before = Done::so_far(cluster);
        let consumed = consume();
        all.push(Done::so_far(cluster).since(&before));
        let mut consumed: Vec<&str> = consumed.lines().collect();
        consumed.sort_unstable();
        let count = consumed.len();
        assert!(consumed == lines, "{count} of {LINES} lines: {all:#?}");
    }
    let Done {
        served,
        of_others,
        sent,
        unanswered: _,
    } = &all[all.len() - 1];
    let owners_sent = sent[0] > 0.0 && sent[1] > 0.0 && sent[NEAR] == 0.0;
    assert!(owners_sent, "{all:#?}");
    let others_own_some = 0.0 < of_others[NEAR] && of_others[NEAR] < served[NEAR];
    assert!(others_own_some, "{all:#?}");
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
    assert_served_near(&cluster, &lines, || {
        let mut consumer = Command::new("kcat");
        consumer
            .args(["-C", "-b", &bootstrap, "-t", TOPIC, "-o", "beginning"])
            .args(["-e", "-q", "-X", "client.rack=c", "-X", "check.crcs=true"]);
        run(consumer, &[])
    });
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
    assert_served_near(&cluster, &lines, || {
        let mut consumer = tool_at(&jars, "consumer.ConsoleConsumer", &bootstrap);
        consumer
            .args(["--topic", TOPIC, "--from-beginning"])
            .args(["--max-messages", &LINES.to_string()])
            .args(["--command-property", "client.rack=c"]);
        run(consumer, &[])
    });
    cluster.stop_all();
}
