//! Consumer groups of the next generation (KIP-848), whose assignment the broker makes: by Kafka's
//! Java tools and by librdkafka.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use firn_tests::client::Client;
use firn_tests::kafka::KafkaJars;
use firn_tests::node::NodePlan;
use firn_tests::records::Record;
use serde_json::Value;

use crate::python::{Script, Scripts, python_for};
use crate::{Broker, FIRN, jars_for, run};

fn tool(jars: &KafkaJars, name: &str, bootstrap: &str) -> Command {
    let mut command = jars.java("256m", &format!("org.apache.kafka.tools.{name}"));
    command.args(["--bootstrap-server", bootstrap]);
    command
}

/// `kafka-consumer-groups.sh`.
fn groups(jars: &KafkaJars, bootstrap: &str, arguments: &[&str]) -> String {
    let mut command = tool(jars, "consumer.group.ConsumerGroupCommand", bootstrap);
    command.args(arguments);
    run(command, &[])
}

#[test]
fn java_consumers_read_everything_by_either_assignor() {
    let test = "java_consumers_read_everything_by_either_assignor";
    let Some(jars) = jars_for(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let mut client = broker.client();
    client.create_topic("read", 3, &[]);
    for partition in 0..3 {
        let records: Vec<_> = (0..40).map(|n| Record::new("k", format!("{n}"))).collect();
        client.append("read", partition, &records);
    }
    for assignor in ["uniform", "range"] {
        let mut consumer = tool(&jars, "VerifiableConsumer", &broker.bootstrap());
        consumer
            .args([
                "--group-protocol",
                "consumer",
                "--group-remote-assignor",
                assignor,
            ])
            .args(["--topic", "read", "--group-id", assignor, "--verbose"])
            .args(["--max-messages", "120", "--reset-policy", "earliest"]);
        let said = run(consumer, &[]);
        let read = said.lines().filter(|line| line.contains("\"record_data\""));
        assert_eq!(read.collect::<BTreeSet<_>>().len(), 120, "{said}");

        let described = groups(
            &jars,
            &broker.bootstrap(),
            &["--describe", "--group", assignor],
        );
        let rows = described.lines().filter(|line| line.starts_with(assignor));
        let lags: Vec<_> = rows.map(|row| row.split_whitespace().nth(5)).collect();
        assert_eq!(lags, [Some("0"); 3], "all is committed:\n{described}");
    }
    let listed = groups(
        &jars,
        &broker.bootstrap(),
        &["--list", "--type", "consumer"],
    );
    assert!(
        listed.contains("uniform") && listed.contains("range"),
        "{listed}"
    );
    let classic = groups(&jars, &broker.bootstrap(), &["--list", "--type", "classic"]);
    assert!(!classic.contains("uniform"), "{classic}");
    let deleted = groups(
        &jars,
        &broker.bootstrap(),
        &["--delete", "--group", "range"],
    );
    assert!(deleted.contains("successful"), "{deleted}");
}

#[test]
fn the_console_consumer_goes_on_where_its_group_has_committed() {
    let test = "the_console_consumer_goes_on_where_its_group_has_committed";
    let Some(jars) = jars_for(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let mut client = broker.client();
    client.create_topic("lines", 1, &[]);
    client.append(
        "lines",
        0,
        &["a", "b", "c"].map(|line| Record::new("k", line)),
    );
    for (count, expected) in [("2", "a\nb\n"), ("1", "c\n")] {
        let mut consumer = tool(&jars, "consumer.ConsoleConsumer", &broker.bootstrap());
        consumer
            .args(["--topic", "lines", "--group", "console", "--from-beginning"])
            .args(["--command-property", "group.protocol=consumer"])
            .args(["--max-messages", count]);
        assert_eq!(run(consumer, &[]), expected);
    }
}

/// Members of librdkafka, as they tell of themselves.
struct Members {
    scripts: Scripts,
    running: BTreeMap<usize, Script>,
    /// What each holds.
    held: BTreeMap<usize, BTreeSet<(String, i64)>>,
    read: BTreeSet<(String, i64, i64)>,
}

impl Members {
    fn start(&mut self, id: usize, bootstrap: &str) {
        let arguments = [bootstrap, "sharing", "^orders-.*"];
        let script = self.scripts.start(id, "share.py", &arguments);
        self.running.insert(id, script);
        self.held.insert(id, BTreeSet::new());
    }

    fn kill(&mut self, id: usize) {
        self.running.remove(&id);
        self.held.remove(&id);
    }

    /// Listens until the members hold so many partitions each, all of them different, and have read
    /// so many records together.
    fn hear_until(&mut self, what: &str, shares: &[usize], records: usize) {
        loop {
            let mut now: Vec<_> = self.held.values().map(BTreeSet::len).collect();
            now.sort_unstable();
            let all: BTreeSet<_> = self.held.values().flatten().collect();
            let apart = all.len() == now.iter().sum::<usize>();
            if apart && now == shares && self.read.len() == records {
                return;
            }
            let (id, told) = self.scripts.hear(what);
            let Some(held) = self.held.get_mut(&id) else {
                continue;
            };
            let told = told.unwrap_or_else(|| panic!("member {id} ended before its time"));
            let place = |place: &Value| {
                let topic = place[0].as_str().unwrap().to_owned();
                (topic, place[1].as_i64().unwrap())
            };
            if let Some(given) = told["assigned"].as_array() {
                held.extend(given.iter().map(place));
            } else if let Some(taken) = told["revoked"].as_array() {
                for place in taken.iter().map(place) {
                    held.remove(&place);
                }
            } else {
                let (topic, partition) = place(&told["read"]);
                let offset = told["read"][2].as_i64().unwrap();
                self.read.insert((topic, partition, offset));
            }
        }
    }
}

fn fill(client: &mut Client, topic: &str, partitions: i32) {
    client.create_topic(topic, partitions, &[]);
    for partition in 0..partitions {
        let records: Vec<_> = (0..10).map(|n| Record::new("k", format!("{n}"))).collect();
        client.append(topic, partition, &records);
    }
}

#[test]
fn members_share_what_their_pattern_matches_through_restarts_of_theirs_and_of_the_broker() {
    let test =
        "members_share_what_their_pattern_matches_through_restarts_of_theirs_and_of_the_broker";
    let Some(python) = python_for(test) else {
        return;
    };
    let jars = KafkaJars::find();
    let folder = tempfile::tempdir().unwrap();
    let aside = tempfile::tempdir().unwrap();
    let plan = NodePlan::on_directory(FIRN, folder.path())
        .with_setting("group.consumer.heartbeat.interval.ms=500ms")
        .with_setting("group.consumer.session.timeout.ms=6s");
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    fill(&mut client, "orders-1", 4);
    fill(&mut client, "other", 1);
    let mut members = Members {
        scripts: Scripts::new(python, aside.path()),
        running: BTreeMap::new(),
        held: BTreeMap::new(),
        read: BTreeSet::new(),
    };
    members.start(1, &node.bootstrap());
    members.hear_until("the first member to read alone", &[4], 40);
    members.start(2, &node.bootstrap());
    members.hear_until("the second to get its share", &[2, 2], 40);
    fill(&mut client, "orders-2", 2);
    members.hear_until("a new topic that matches to be read", &[3, 3], 60);
    if let Some(jars) = &jars {
        let arguments = ["--describe", "--group", "sharing", "--members", "--verbose"];
        let described = groups(jars, &node.bootstrap(), &arguments);
        let rows = described.lines().filter(|line| line.starts_with("sharing"));
        assert_eq!(rows.count(), 2, "{described}");
        let state = ["--describe", "--group", "sharing", "--state"];
        let state = groups(jars, &node.bootstrap(), &state);
        assert!(
            state.contains("Stable") && state.contains("uniform"),
            "{state}"
        );
    }

    node.stop();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    fill(&mut client, "orders-3", 2);
    members.hear_until("the group to go on after the restart", &[4, 4], 80);
    members.kill(1);
    members.hear_until("the second to take over", &[8], 80);
    node.stop();
}
