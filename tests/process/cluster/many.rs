//! Ten thousand partitions: what is done for them is done for many at a time. Counted are objects of
//! the journal, requests to the bucket, datagrams between brokers, tasks and memory, never time.

use firn_tests::cluster::{BROKERS, Brokers, Cluster, ClusterPlan};
use firn_tests::link_network::LinkNetwork;
use firn_tests::records::Record;
use firn_tests::wait;

use crate::{FIRN, folder};

const TOPICS: usize = 10;
const PARTITIONS_EACH: i32 = 1000;
const PARTITIONS: u64 = 10_000;
/// One partition in so many holds a record.
const SAMPLE: usize = 97;

const JOURNAL_SLOTS: &str = "firn_bucket_requests_total{purpose=\"journal\",operation=\"create\"}";
const REQUESTS: &str = "firn_bucket_requests_total";
const TASKS: &str = "firn_tasks";

/// What has been done so far, by some of the brokers together.
#[derive(Clone, Copy, Debug)]
struct Work {
    journal_slots: f64,
    requests: f64,
    datagrams: u64,
}

impl Work {
    fn of(cluster: &Cluster, network: &LinkNetwork, brokers: &[usize]) -> Self {
        let sum = |row: &str| -> f64 {
            let of_each = brokers.iter().map(|at| cluster.node(*at).count(row));
            of_each.sum()
        };
        Self {
            journal_slots: sum(JOURNAL_SLOTS),
            requests: sum(REQUESTS),
            datagrams: network.passed(),
        }
    }

    /// At most so many, which is far fewer than the partitions.
    fn assert_below(&self, journal_slots: usize, requests: usize, datagrams: u64) {
        assert!(
            self.journal_slots < journal_slots as f64
                && self.requests < requests as f64
                && self.datagrams < datagrams,
            "{self:?}"
        );
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            journal_slots: self.journal_slots - before.journal_slots,
            requests: self.requests - before.requests,
            datagrams: self.datagrams - before.datagrams,
        }
    }
}

/// A death and a drain move thousands of partitions with hundreds of requests.
#[test]
fn ten_thousand_partitions_move_without_requests_messages_or_tasks_of_their_own() {
    let folder = folder();
    let plan = ClusterPlan::on_directory(FIRN, folder.path());
    let (plan, network) = plan.on_link_network();
    let brokers = plan.brokers();
    let mut cluster = plan.start_led_by(0);
    let all: Vec<usize> = (0..BROKERS).collect();
    let tasks = |cluster: &Cluster, at: usize| cluster.node(at).metric(TASKS);
    let few_tasks: Vec<f64> = all.iter().map(|at| tasks(&cluster, *at)).collect();

    let before = Work::of(&cluster, &network, &all);
    for topic in 0..TOPICS {
        brokers
            .any()
            .create_topic(&name(topic), PARTITIONS_EACH, &[]);
    }
    wait_owned(&cluster, &[0, 1, 2]);
    let made = Work::of(&cluster, &network, &all).since(&before);
    let sample = append_to_sample(&brokers);

    // Those of one that dies.
    let before = Work::of(&cluster, &network, &[0, 1]);
    cluster.kill(2);
    wait_owned(&cluster, &[0, 1]);
    let died = Work::of(&cluster, &network, &[0, 1]).since(&before);
    assert_sample(&brokers, sample, 1);

    // Those of one that hands them over.
    cluster.revive();
    let before = Work::of(&cluster, &network, &all);
    plan.nodes[0].run(&["cluster", "drain", "2"]);
    wait_owned(&cluster, &[0, 2]);
    let drained = Work::of(&cluster, &network, &all).since(&before);
    append_to_sample(&brokers);
    assert_sample(&brokers, sample, 2);

    let many_tasks: Vec<f64> = all.iter().map(|at| tasks(&cluster, *at)).collect();
    let bytes = |at: &usize| cluster.node(*at).process.resident_bytes_peak() >> 20;
    let peaks: Vec<u64> = all.iter().map(bytes).collect();
    // Beside these, beats go to and fro several times a second.
    made.assert_below(4 * TOPICS, 500, PARTITIONS / 2);
    died.assert_below(50, 1000, PARTITIONS / 3);
    // A hundred are on their way at a time, and two thirds of all move.
    drained.assert_below(400, 2000, PARTITIONS);
    for (few, many) in few_tasks.iter().zip(&many_tasks) {
        assert!(
            *many < few + 20.0,
            "tasks: {few_tasks:?}, then {many_tasks:?}"
        );
    }
    assert!(peaks.iter().all(|peak| *peak < 400), "mebibytes: {peaks:?}");
    cluster.stop_all();
}

fn name(topic: usize) -> String {
    format!("many-{topic}")
}

/// Waits until these brokers own all partitions, about as many each, and the others none, and nothing
/// moves.
fn wait_owned(cluster: &Cluster, owners: &[usize]) {
    let share = PARTITIONS / owners.len() as u64;
    wait::until("all partitions to be owned", 2 * wait::PATIENCE, || {
        let status = cluster
            .node(owners[0])
            .plan()
            .run(&["cluster", "info", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let brokers = status["brokers"].as_array().unwrap();
        let is_settled = brokers.iter().all(|broker| {
            let number = |field: &str| broker[field].as_u64().unwrap();
            let at = number("broker") as usize - 1;
            let owned = number("partitions");
            let is_fair = match owners.contains(&at) {
                true => owned.abs_diff(share) <= 1,
                false => owned == 0,
            };
            is_fair && number("leaving") == 0
        });
        let is_all = status["without_owner"] == 0 && status["partitions"] == PARTITIONS;
        (is_settled && is_all).then_some(())
    });
}

/// One record to some of the partitions. How many they are.
fn append_to_sample(brokers: &Brokers) -> usize {
    let sampled = sampled();
    for (topic, partition) in &sampled {
        let mut leader = wait::until("a leader", wait::PATIENCE, || {
            brokers.leader(topic, *partition)
        });
        leader.append(topic, *partition, &[Record::new("k", "v")]);
    }
    sampled.len()
}

fn sampled() -> Vec<(String, i32)> {
    let all = (0..TOPICS).flat_map(|topic| (0..PARTITIONS_EACH).map(move |at| (name(topic), at)));
    all.step_by(SAMPLE).collect()
}

/// Each of those has so many records.
fn assert_sample(brokers: &Brokers, sample: usize, records: usize) {
    assert!(sample > 100);
    for (topic, partition) in sampled() {
        assert_eq!(
            brokers.read(&topic, partition).len(),
            records,
            "{topic}/{partition}"
        );
    }
}
