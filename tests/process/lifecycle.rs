//! Starting and stopping: in order, and with an error that says what to do.

use std::fs;
use std::time::Duration;

use firn_tests::client::{Client, FETCH_VERSION, code, fetch_request};
use firn_tests::node::NodePlan;
use firn_tests::records::Record;
use firn_tests::wait::{self, Stopwatch};
use kafka_protocol::messages::{FetchRequest, InitProducerIdRequest};
use kafka_protocol::protocol::StrBytes;

use crate::{FIRN, folder};

const FETCHES_WAITING: &str = "firn_fetches_waiting";

#[test]
fn sigterm_ends_the_broker_with_success_and_keeps_what_it_held() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path());
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic("kept", 1, &[]);
    client.append("kept", 0, &[Record::new("k", "v")]);
    node.stop();
    let node = plan.start();
    let mut client = Client::connect(node.kafka()).unwrap();
    client.wait_leaders("kept", 1);
    assert_eq!(client.read("kept", 0, 0).len(), 1);
    let output = node.process.output();
    assert!(
        !output.contains("takes over"),
        "the bucket was free:\n{output}"
    );
    node.stop();
}

#[test]
fn sigterm_ends_the_broker_while_a_fetch_waits() {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    let address = node.kafka();
    let mut client = Client::connect(address).unwrap();
    client.create_topic("quiet", 1, &[]);
    assert_eq!(node.metric(FETCHES_WAITING), 0.0);
    let mut waiting = Client::connect(address).unwrap();
    let waiting = std::thread::spawn(move || {
        // Either answer is right: an empty one, or a closed connection.
        while waiting.fetch("quiet", 0, 0).is_ok() {}
    });
    wait::until("a fetch to wait", wait::PATIENCE, || {
        (node.metric(FETCHES_WAITING) > 0.0).then_some(())
    });
    node.stop();
    waiting.join().unwrap();
}

/// The second process joins the first, which goes on; each serves what the other has made.
#[test]
fn two_processes_on_one_bucket_are_one_cluster() {
    let (mine, other) = (folder(), folder());
    let plan = NodePlan::on_directory(FIRN, mine.path());
    let first = plan.start();
    let second = NodePlan::on_bucket(FIRN, other.path(), plan.bucket()).start();
    let mut client = Client::connect(second.kafka()).unwrap();
    client.create_topic("shared", 2, &[]);
    for node in [&first, &second] {
        let mut client = Client::connect(node.kafka()).unwrap();
        wait::until("both brokers", wait::PATIENCE, || {
            let metadata = client.metadata("shared").ok()?;
            (metadata.brokers.len() == 2).then_some(())
        });
        client.wait_leaders("shared", 2);
    }
    second.stop();
    let mut client = Client::connect(first.kafka()).unwrap();
    client.append("shared", 0, &[Record::new("k", "v")]);
    client.append("shared", 1, &[Record::new("k", "v")]);
    first.stop();
}

/// A start takes what it needs of its machine before it has anything to do with the others.
#[test]
fn a_start_that_cannot_have_its_local_wal_leaves_the_running_broker_alone() {
    let (mine, other) = (folder(), folder());
    let wal = mine.path().join("wal");
    let plan = NodePlan::on_directory(FIRN, mine.path()).with_wal(&wal);
    let (file, foreign) = (other.path().join("file"), other.path().join("foreign"));
    fs::write(&file, "x").unwrap();
    let elsewhere = NodePlan::on_directory(FIRN, other.path()).with_wal(&foreign);
    elsewhere.start().stop();
    let idle = mine.path().join("idle");
    let named = plan.clone().with_wal(&idle).with_setting("broker.id=1");
    named.start().stop();
    let first = plan.start();
    let unusable = [
        (&wal, "in use by another process"),
        (&file, "Not a directory"),
        (&foreign, "belongs to cluster"),
        (&idle, "belongs to broker 1"),
    ];
    for (directory, reason) in unusable {
        let plan = NodePlan::on_bucket(FIRN, other.path(), plan.bucket())
            .with_wal(directory)
            .with_setting("broker.id=2");
        let mut second = plan.launch();
        let status = second.process.wait(wait::PATIENCE);
        assert!(!status.success());
        let output = second.process.output();
        assert!(output.contains(reason), "no {reason:?} in:\n{output}");
    }
    let mut client = Client::connect(first.kafka()).unwrap();
    client.create_topic("kept", 1, &[]);
    client.append("kept", 0, &[Record::new("k", "v")]);
    let claims = fs::read_dir(mine.path().join("bucket/meta/epoch")).unwrap();
    assert_eq!(
        claims.count(),
        2,
        "nobody but its own two starts has claimed the bucket"
    );
    first.stop();
}

/// A fetch that waits was let in before; what the broker knows when it answers may be old by then.
#[test]
fn a_broker_that_stood_still_answers_no_waiting_fetch_once_another_leads() {
    let (mine, other) = (folder(), folder());
    let plan = NodePlan::on_directory(FIRN, mine.path());
    let first = plan.start();
    let mut client = Client::connect(first.kafka()).unwrap();
    client.create_topic("quiet", 1, &[]);
    let wait_ms = 8_000;
    let fetch = fetch_request("quiet", 0, 0, wait_ms);
    client.connection.send(FETCH_VERSION, &fetch).unwrap();
    wait::until("a fetch to wait", wait::PATIENCE, || {
        (first.metric(FETCHES_WAITING) > 0.0).then_some(())
    });
    first.process.freeze();
    let still = Stopwatch::start();
    let second = NodePlan::on_bucket(FIRN, other.path(), plan.bucket()).start();
    let mut leader = Client::connect(second.kafka()).unwrap();
    leader.append("quiet", 0, &[Record::new("k", "v")]);
    // Its last look for another leader is good for five seconds.
    wait::until("its last look to be too old", wait::PATIENCE, || {
        (still.elapsed() > Duration::from_secs(6)).then_some(())
    });
    first.process.thaw();
    let answer = client.connection.receive::<FetchRequest>(FETCH_VERSION);
    assert!(answer.is_err(), "told what is no longer so: {answer:?}");
    second.stop();
}

#[test]
fn health_and_metrics_are_served() {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    assert_eq!(node.http_get("/livez").unwrap().0, 200);
    assert_eq!(node.http_get("/readyz").unwrap().0, 200);
    let mut client = Client::connect(node.kafka()).unwrap();
    client.create_topic("measured", 1, &[]);
    client.append("measured", 0, &[Record::new("k", "v")]);
    assert_eq!(node.http_get("/metrics").unwrap().0, 200);
    assert_eq!(
        node.metric("firn_topic_records_in_total{topic=\"measured\"}"),
        1.0
    );
    assert_eq!(
        node.metric("firn_kafka_requests_total{api=\"CreateTopics\"}"),
        1.0
    );
    assert!(node.metric("firn_bucket_requests_total{purpose=\"wal\"") > 0.0);
    assert!(node.metric("firn_wal_durable_bytes_total") > 0.0);
    assert_eq!(node.http_get("/nothing").unwrap().0, 404);
    node.stop();
}

#[test]
fn an_unknown_setting_is_refused_with_a_suggestion() {
    let folder = folder();
    let plan = NodePlan::on_directory(FIRN, folder.path()).with_setting("wal.puts.per.secnd=1");
    let mut node = plan.launch();
    let status = node.process.wait(Duration::from_secs(20));
    assert!(!status.success());
    let output = node.process.output();
    assert!(
        output.contains("wal.puts.per.second"),
        "no suggestion in:\n{output}"
    );
}

#[test]
fn an_open_door_to_the_world_needs_to_be_asked_for() {
    let folder = folder();
    let mut plan = NodePlan::on_directory(FIRN, folder.path());
    plan.kafka.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
    let mut node = plan.launch();
    let status = node.process.wait(Duration::from_secs(20));
    assert!(!status.success());
    let output = node.process.output();
    assert!(output.contains("--insecure"), "no way out in:\n{output}");
}

#[test]
fn a_bucket_that_is_a_file_is_refused_by_name() {
    let folder = folder();
    let file = folder.path().join("not-a-folder");
    fs::write(&file, "x").unwrap();
    let plan = NodePlan::on_bucket(FIRN, folder.path(), &format!("file://{}", file.display()));
    let mut node = plan.launch();
    let status = node.process.wait(wait::PATIENCE);
    assert!(!status.success());
    let output = node.process.output();
    assert!(
        output.contains("not-a-folder"),
        "the error names it:\n{output}"
    );
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn the_sample_configuration_is_taken() {
    let folder = folder();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/firn.toml");
    let node = NodePlan::on_directory(FIRN, folder.path())
        .with_argument("--config")
        .with_argument(sample)
        .start();
    node.stop();
}

/// What a broker takes and does not do yet, or refuses for good, its operator learns from the log:
/// many clients show no more than a code.
#[test]
fn what_is_not_there_yet_is_said_in_the_log() {
    let folder = folder();
    let node = NodePlan::on_directory(FIRN, folder.path()).start();
    let mut client = Client::connect(node.kafka()).unwrap();
    let configs = [("cleanup.policy", "compact"), ("segment.ms", "60000")];
    client.create_topic("not_compacted", 1, &configs);
    client.create_topic("plain", 1, &[("retention.ms", "60000")]);
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(StrBytes::from_static_str("orders").into()))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    for _ in 0..3 {
        let refused = client.connection.call(4, &init).unwrap();
        assert_eq!(refused.error_code, code::UNSUPPORTED_VERSION);
    }
    let said = |what: &str| {
        let log = node.process.output();
        let lines = log.lines().filter(|line| line.contains(what));
        lines.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let no_effect = said("does nothing yet");
    assert_eq!(no_effect.len(), 1, "{no_effect:?}");
    assert!(no_effect[0].contains("not_compacted"), "{no_effect:?}");
    assert!(
        no_effect[0].contains("cleanup.policy=compact"),
        "{no_effect:?}"
    );
    let refused = said("transactions are not there yet");
    assert_eq!(refused.len(), 1, "at most one a minute: {refused:?}");
    assert!(refused[0].contains("orders"), "{refused:?}");
    node.stop();
}
