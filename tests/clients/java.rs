//! Kafka's own Java tools: the verifiable pair, the console pair, the perf pair, and the admin
//! commands.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use firn_tests::client::EARLIEST;
use firn_tests::kafka::KafkaJars;
use firn_tests::records::Record;
use serde_json::Value;

use crate::{Broker, jars_for, run};

const TOOLS: &str = "org.apache.kafka.tools";

fn tool(jars: &KafkaJars, name: &str, broker: &Broker) -> Command {
    tool_at(jars, name, &broker.bootstrap())
}

/// One of Kafka's tools, told where brokers are.
pub(crate) fn tool_at(jars: &KafkaJars, name: &str, bootstrap: &str) -> Command {
    let mut command = jars.java("256m", &format!("{TOOLS}.{name}"));
    command.args(["--bootstrap-server", bootstrap]);
    command
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// (partition, offset) → value of the events of one name.
pub(crate) fn events(text: &str, name: &str) -> BTreeMap<(i64, i64), String> {
    json_lines(text)
        .into_iter()
        .filter(|event| event["name"] == name)
        .map(|event| {
            let place = (
                event["partition"].as_i64().unwrap(),
                event["offset"].as_i64().unwrap(),
            );
            (place, event["value"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn the_verifiable_consumer_sees_what_the_verifiable_producer_was_told() {
    let test = "the_verifiable_consumer_sees_what_the_verifiable_producer_was_told";
    let Some(jars) = jars_for(test) else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.client().create_topic("verified", 4, &[]);
    let mut producer = tool(&jars, "VerifiableProducer", &broker);
    producer.args([
        "--topic",
        "verified",
        "--max-messages",
        "5000",
        "--acks",
        "-1",
    ]);
    let told = events(&run(producer, &[]), "producer_send_success");
    assert_eq!(told.len(), 5000);
    let mut consumer = tool(&jars, "VerifiableConsumer", &broker);
    consumer
        .args([
            "--topic",
            "verified",
            "--group-id",
            "verifying",
            "--verbose",
        ])
        .args(["--max-messages", "5000", "--reset-policy", "earliest"]);
    let seen = events(&run(consumer, &[]), "record_data");
    assert!(
        seen == told,
        "each record where the producer was told, and no other"
    );

    let mut describe = tool(&jars, "consumer.group.ConsumerGroupCommand", &broker);
    describe.args(["--describe", "--group", "verifying"]);
    let described = run(describe, &[]);
    let lags: Vec<&str> = described
        .lines()
        .filter(|line| line.starts_with("verifying"))
        .map(|line| line.split_whitespace().nth(5).unwrap())
        .collect();
    assert!(
        !lags.is_empty() && lags.iter().all(|lag| *lag == "0"),
        "all is committed:\n{described}"
    );
}

#[test]
fn the_console_tools_pass_lines_through() {
    let Some(jars) = jars_for("the_console_tools_pass_lines_through") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.client().create_topic("console", 1, &[]);
    let mut producer = tool(&jars, "ConsoleProducer", &broker);
    producer.args(["--topic", "console"]);
    run(producer, "first\nsecond with Ünïcode\n\nlast\n".as_bytes());
    let mut consumer = tool(&jars, "consumer.ConsoleConsumer", &broker);
    consumer.args([
        "--topic",
        "console",
        "--from-beginning",
        "--max-messages",
        "4",
    ]);
    assert_eq!(run(consumer, &[]), "first\nsecond with Ünïcode\n\nlast\n");
}

#[test]
fn the_perf_tools_finish_with_every_codec() {
    let Some(jars) = jars_for("the_perf_tools_finish_with_every_codec") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("perf-{codec}");
        broker.client().create_topic(&topic, 3, &[]);
        let mut producer = tool(&jars, "ProducerPerformance", &broker);
        producer
            .args([
                "--topic",
                &topic,
                "--num-records",
                "20000",
                "--record-size",
                "200",
            ])
            .args(["--throughput", "-1", "--command-property", "acks=all"])
            .arg(format!("compression.type={codec}"));
        let said = run(producer, &[]);
        assert!(said.contains("20000 records sent"), "{said}");
        let mut consumer = tool(&jars, "ConsumerPerformance", &broker);
        consumer.args(["--topic", &topic, "--num-records", "20000"]);
        let said = run(consumer, &[]);
        assert!(said.contains("20000"), "{said}");
    }
}

#[test]
fn topics_are_created_described_grown_and_deleted() {
    let Some(jars) = jars_for("topics_are_created_described_grown_and_deleted") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let topics = |arguments: &[&str]| {
        let mut command = tool(&jars, "TopicCommand", &broker);
        command.args(arguments);
        run(command, &[])
    };
    topics(&[
        "--create",
        "--topic",
        "made",
        "--partitions",
        "3",
        "--config",
        "max.message.bytes=2000000",
    ]);
    let described = topics(&["--describe", "--topic", "made"]);
    assert!(described.contains("PartitionCount: 3"), "{described}");
    assert!(
        described.contains("max.message.bytes=2000000"),
        "{described}"
    );
    topics(&["--alter", "--topic", "made", "--partitions", "5"]);
    let described = topics(&["--describe", "--topic", "made"]);
    assert!(described.contains("PartitionCount: 5"), "{described}");
    assert!(topics(&["--list"]).lines().any(|line| line == "made"));
    topics(&["--delete", "--topic", "made"]);
    assert!(!topics(&["--list"]).lines().any(|line| line == "made"));
}

#[test]
fn the_config_tool_sets_adds_to_and_deletes_configs_of_a_topic() {
    let Some(jars) = jars_for("the_config_tool_sets_adds_to_and_deletes_configs_of_a_topic") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker
        .client()
        .create_topic("changed", 1, &[("segment.ms", "7")]);
    let configs = |arguments: &[&str]| {
        let mut command = jars.java("256m", "kafka.admin.ConfigCommand");
        command
            .args(["--bootstrap-server", &broker.bootstrap()])
            .args(["--entity-type", "topics", "--entity-name", "changed"])
            .args(arguments);
        run(command, &[])
    };
    let added = "cleanup.policy=[compact,delete],retention.ms=60000";
    configs(&[
        "--alter",
        "--add-config",
        added,
        "--delete-config",
        "segment.ms",
    ]);
    let described = configs(&["--describe"]);
    for set in ["cleanup.policy=compact,delete ", "retention.ms=60000 "] {
        assert!(described.contains(set), "{described}");
    }
    assert!(!described.contains("segment.ms"), "{described}");
}

#[test]
fn the_record_tool_deletes_up_to_an_offset() {
    let Some(jars) = jars_for("the_record_tool_deletes_up_to_an_offset") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("bucket"));
    let mut client = broker.client();
    client.create_topic("deleted", 2, &[]);
    for partition in [0, 1, 1, 1] {
        client.append("deleted", partition, &[Record::new("k", "v")]);
    }
    let offsets = folder.path().join("offsets.json");
    let wanted = r#"{"version": 1, "partitions": [
        {"topic": "deleted", "partition": 0, "offset": -1},
        {"topic": "deleted", "partition": 1, "offset": 2}
    ]}"#;
    fs::write(&offsets, wanted).unwrap();
    let mut delete = tool(&jars, "DeleteRecordsCommand", &broker);
    delete.arg("--offset-json-file").arg(&offsets);
    let said = run(delete, &[]);
    for line in [
        "partition: deleted-0\tlow_watermark: 1",
        "partition: deleted-1\tlow_watermark: 2",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(client.list_offset("deleted", 0, EARLIEST), 1);
    assert_eq!(client.list_offset("deleted", 1, EARLIEST), 2);
}

#[test]
fn the_offset_shell_knows_both_ends() {
    let Some(jars) = jars_for("the_offset_shell_knows_both_ends") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let mut client = broker.client();
    client.create_topic("ends", 2, &[]);
    for at in 0..7 {
        client.append("ends", 1, &[Record::new("k", format!("{at}"))]);
    }
    for (time, expected) in [
        ("earliest", "ends:0:0\nends:1:0\n"),
        ("latest", "ends:0:0\nends:1:7\n"),
    ] {
        let mut shell = tool(&jars, "GetOffsetShell", &broker);
        shell.args(["--topic", "ends", "--time", time]);
        assert_eq!(run(shell, &[]), expected, "{time}");
    }
}

#[test]
fn the_group_tool_deletes_the_offsets_of_one_topic() {
    let Some(jars) = jars_for("the_group_tool_deletes_the_offsets_of_one_topic") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    for topic in ["forgotten", "kept"] {
        let mut client = broker.client();
        client.create_topic(topic, 1, &[]);
        client.append(topic, 0, &[Record::new("k", "v")]);
        let mut consumer = tool(&jars, "consumer.ConsoleConsumer", &broker);
        consumer
            .args(["--topic", topic, "--group", "reset", "--from-beginning"])
            .args(["--max-messages", "1"]);
        assert_eq!(run(consumer, &[]), "v\n");
    }
    let groups = |arguments: &[&str]| {
        let mut command = tool(&jars, "consumer.group.ConsumerGroupCommand", &broker);
        command.args(["--group", "reset"]).args(arguments);
        run(command, &[])
    };
    let described = groups(&["--describe"]);
    assert!(described.contains("forgotten"), "{described}");
    let deleted = groups(&["--delete-offsets", "--topic", "forgotten"]);
    assert!(deleted.contains("Successful"), "{deleted}");
    let described = groups(&["--describe"]);
    assert!(!described.contains("forgotten"), "{described}");
    assert!(described.contains("kept"), "{described}");
}
