//! Clients written by others, against the real binary: kcat (librdkafka), Kafka's own Java tools,
//! Python's confluent-kafka; and analytics engines, on segments. What a machine lacks is skipped by
//! name, or installed by `.ci/run`.
//!
//! The main job on real input is here: flights produced and read back, also from the bucket alone
//! (`kcat.rs`), ten kills of the broker while they are produced (`crash.rs`), the same among three
//! brokers (`cluster.rs`), two consumers of one group (`groups.rs`); each on a directory and on MinIO.
//!
//! `CI_FIRN_CLIENTS_AGAINST=kafka` runs what needs no restart against Apache Kafka instead: what
//! fails there too is the test's fault.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the functions between tests panic as tests do"
)]

mod archive;
mod cluster;
mod consumer_groups;
mod crash;
mod engines;
mod groups;
mod java;
mod kcat;
mod oracle;
mod producer;
mod python;
mod racks;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use firn_tests::client::Client;
use firn_tests::kafka::{Kafka, KafkaJars};
use firn_tests::minio::{Minio, minio_for};
use firn_tests::node::{Node, NodePlan};
use firn_tests::requirement;

/// The binary under test.
const FIRN: &str = env!("CARGO_BIN_EXE_firn");

/// Who answers: Firn, or Kafka for comparison.
enum Broker {
    Firn(Node),
    Kafka(Kafka),
}

impl Broker {
    fn start(folder: &Path) -> Self {
        if std::env::var("CI_FIRN_CLIENTS_AGAINST").is_ok_and(|name| name == "kafka") {
            let jars = KafkaJars::find().expect("CI_FIRN_CLIENTS_AGAINST=kafka needs Kafka's jars");
            return Self::Kafka(Kafka::start(&jars, folder, &[], "512m", &[]));
        }
        Self::Firn(NodePlan::on_directory(FIRN, folder).start())
    }

    fn address(&self) -> std::net::SocketAddr {
        match self {
            Self::Firn(node) => node.kafka(),
            Self::Kafka(kafka) => kafka.address,
        }
    }

    fn bootstrap(&self) -> String {
        self.address().to_string()
    }

    fn client(&self) -> Client {
        Client::connect(self.address()).unwrap()
    }
}

/// Runs a client to its end and returns what it printed.
fn run(mut command: Command, input: &[u8]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        // A client that ends early closes its input; its status says why.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Kafka's jars, or the reason why the test does not run here.
fn jars_for(test: &str) -> Option<KafkaJars> {
    let jars = KafkaJars::find();
    if jars.is_none() {
        requirement::skip(test, "Java and Kafka's jars");
    }
    jars
}

/// A MinIO server and a broker on it with a local WAL, or the reason why the test does not run here.
fn s3_for(test: &str, folder: &Path) -> Option<(Minio, NodePlan)> {
    let minio = minio_for(test, folder)?;
    let plan = minio.node(FIRN, folder, "cluster");
    Some((minio, plan.with_wal(&folder.join("wal"))))
}
