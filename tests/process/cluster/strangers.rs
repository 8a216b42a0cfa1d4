//! Processes that do not belong to the cluster, or would take the place of one that does: refused,
//! with the reason on both sides, and nothing comes of it.

use firn_tests::client::Client;
use firn_tests::cluster::ClusterPlan;
use firn_tests::node::{Node, NodePlan};
use firn_tests::records::Record;
use firn_tests::wait;

use super::stranger::{Hello, Stranger};
use crate::{FIRN, folder, minio_for};

/// Reasons for which a link is refused, by their numbers in proto/PROTOCOL.md,
const CLUSTER: u8 = 0;
const UNREGISTERED: u8 = 1;
const VERSION: u8 = 2;
const MALFORMED: u8 = 5;

/// Whoever opens a link with a certificate that is not in the bucket, for another cluster, or with an
/// older or newer protocol, is told why not; so are those who look after the broker.
#[test]
fn a_stranger_at_the_broker_link_is_refused_with_the_reason() {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    let stranger = Stranger::new();
    let hello = Hello {
        version: 2,
        cluster: cluster_of(&node),
        shown: stranger.fingerprint(),
    };
    let refused = [
        (hello, UNREGISTERED, "is not registered in the bucket"),
        (
            Hello {
                cluster: [7; 16],
                ..hello
            },
            CLUSTER,
            "its bucket is another one",
        ),
        (
            Hello {
                version: 0,
                ..hello
            },
            VERSION,
            "version 0",
        ),
        (
            Hello {
                version: 3,
                ..hello
            },
            VERSION,
            "version 3",
        ),
        (
            Hello {
                shown: [7; 32],
                ..hello
            },
            MALFORMED,
            "another certificate",
        ),
    ];
    for (hello, reason, words) in refused {
        // Links are taken, in UDP, at the number of the Kafka port.
        let refusal = stranger.open(node.kafka(), &hello.frame());
        assert_eq!(refusal.reason, reason, "{refusal:?}");
        assert!(refusal.text.contains(words), "{refusal:?}");
        wait::until("a line on it in the log", wait::PATIENCE, || {
            let output = node.process.output();
            let mut lines = output.lines();
            let line = lines.rfind(|line| line.contains("broker link refused"))?;
            line.contains(words).then_some(())
        });
    }
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic("kept", 1, &[]);
    client.append("kept", 0, &[Record::new("k", "v")]);
    assert_eq!(brokers_seen(&mut client, "kept"), 1);
    node.stop();
}

/// The id of the cluster, from how it is shown: 16 bytes in the base 64 of URLs.
fn cluster_of(node: &Node) -> [u8; 16] {
    let status = node.plan().run(&["cluster", "info", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let shown = status["cluster"].as_str().unwrap();
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = |shown: u8| digits.iter().position(|digit| *digit == shown).unwrap() as u128;
    assert_eq!(shown.len(), 22, "{shown}");
    let (last, first) = shown.as_bytes().split_last().unwrap();
    // The last digit has two bits of the id in front of four that say nothing.
    let id = first.iter().fold(0, |id, digit| id << 6 | value(*digit));
    (id << 2 | value(*last) >> 4).to_be_bytes()
}

/// A process with the id of a broker that lives is refused, and one with the same bucket and another
/// id is not: nothing says whose bucket it is but the bucket.
#[test]
fn a_process_with_the_id_of_a_broker_that_lives_is_refused_and_harms_nothing() {
    let folder = folder();
    let plan = ClusterPlan::on_directory(FIRN, folder.path());
    let cluster = plan.start();
    let brokers = plan.brokers();
    brokers.any().create_topic("kept", 3, &[]);
    let other = folder.path().join("other");
    std::fs::create_dir_all(&other).unwrap();
    for id in 1..=3 {
        let double = NodePlan::on_bucket(FIRN, &other, plan.nodes[0].bucket());
        let double = double.with_setting(&format!("broker.id={id}"));
        let mut double = double.launch();
        let status = double.process.wait(wait::PATIENCE);
        let output = double.process.output();
        assert!(!status.success(), "broker {id} is there twice");
        let last = output.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("broker id {id} is taken")), "{last}");
        for partition in 0..3 {
            let mut leader = brokers.leader("kept", partition).unwrap();
            leader.append("kept", partition, &[Record::new("k", "v")]);
        }
    }
    assert_eq!(brokers_seen(&mut brokers.any(), "kept"), 3);
    cluster.stop_all();
}

/// Clusters in folders of one bucket, one of which has a name that begins as that of another, and one
/// of which lies inside another, know nothing of each other and delete nothing of each other's.
#[test]
fn clusters_beside_and_inside_each_other_in_one_bucket_do_not_meet() {
    let folder = folder();
    let test = "clusters_beside_and_inside_each_other_in_one_bucket_do_not_meet";
    let Some(minio) = minio_for(test, folder.path()) else {
        return;
    };
    let prefixes = ["firn", "firn2", "firn/inner", "firn/wal/inner"];
    let plans: Vec<NodePlan> = (prefixes.iter().enumerate())
        .map(|(at, prefix)| {
            let own = folder.path().join(format!("cluster-{at}"));
            std::fs::create_dir_all(&own).unwrap();
            let settings = [
                "archive.interval.ms=1s",
                "collection.interval.ms=50",
                "collection.orphans.delay.ms=0",
            ];
            let plan = minio.node(FIRN, &own, prefix);
            settings
                .iter()
                .fold(plan, |plan, set| plan.with_setting(set))
        })
        .collect();
    let topic = |at: usize| format!("topic-{at}");
    let mut nodes: Vec<Node> = plans.iter().map(NodePlan::start).collect();
    for round in 0..3 {
        for (at, node) in nodes.iter().enumerate() {
            let mut client = Client::connect(node.kafka()).unwrap();
            client.create_topic(&topic(at), 1, &[]);
            for record in 0..20 {
                let value = format!("{at}: {}", round * 20 + record);
                client.append(&topic(at), 0, &[Record::new("k", value)]);
            }
            plans[at].run(&["archive", "flush"]);
        }
        nodes.into_iter().for_each(Node::stop);
        nodes = plans.iter().map(NodePlan::start).collect();
    }
    for (at, node) in nodes.into_iter().enumerate() {
        let mut client = Client::connect(node.kafka()).unwrap();
        client.wait_leaders(&topic(at), 1);
        assert_eq!(brokers_seen(&mut client, &topic(at)), 1);
        let log = client.read(&topic(at), 0, 0);
        let values = log.into_iter().flat_map(|stored| stored.record.value);
        let values: Vec<_> = values
            .map(|value| String::from_utf8(value.into()).unwrap())
            .collect();
        let expected: Vec<_> = (0..60).map(|record| format!("{at}: {record}")).collect();
        assert_eq!(values, expected, "cluster {}", prefixes[at]);
        let others = (0..prefixes.len()).filter(|other| *other != at);
        for other in others {
            let metadata = client.metadata(&topic(other)).unwrap();
            assert_ne!(metadata.topics[0].error_code, 0, "{at} knows of {other}");
        }
        node.stop();
    }
}

/// How many brokers the picture of a broker has.
fn brokers_seen(client: &mut Client, topic: &str) -> usize {
    client.metadata(topic).unwrap().brokers.len()
}
