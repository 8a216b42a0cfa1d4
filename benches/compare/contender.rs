//! The two brokers behind one face: started on core 0 over a folder of their own.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use firn_tests::client::Client;
use firn_tests::kafka::{Kafka, KafkaJars};
use firn_tests::node::{Node, NodePlan};
use firn_tests::process::Process;

/// Pins a broker to the first core.
const ON_BROKER_CORE: [&str; 3] = ["taskset", "-c", "0"];
/// Pins a client to the second.
pub(crate) const ON_CLIENT_CORE: [&str; 3] = ["taskset", "-c", "1"];
const KAFKA_HEAP: &str = "1g";

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Firn,
    Kafka,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Firn => "firn",
            Self::Kafka => "kafka",
        }
    }
}

/// What both are measured with.
pub(crate) struct Contender {
    pub(crate) jars: KafkaJars,
    pub(crate) firn: PathBuf,
    pub(crate) folder: PathBuf,
    /// Folders given out.
    pub(crate) starts: Cell<usize>,
    /// Counts are divided by this.
    pub(crate) scale: u64,
}

impl Contender {
    /// A fresh, empty folder for one start. What the starts before left stays until all is done:
    /// for minutes ext4 without a journal walks past each inode that was deleted when it makes a
    /// file, and Firn's turn would pay for the deletion of its last one.
    pub(crate) fn fresh_folder(&self, kind: Kind) -> PathBuf {
        let starts = self.starts.get() + 1;
        self.starts.set(starts);
        let folder = self.folder.join(format!("{}-{starts}", kind.name()));
        fs::create_dir_all(&folder).expect("a folder for data");
        folder
    }

    /// How Firn is started in `folder`.
    pub(crate) fn firn_plan(&self, folder: &Path) -> NodePlan {
        NodePlan::on_directory(&self.firn.to_string_lossy(), folder).started_by(&ON_BROKER_CORE)
    }

    /// As the report prints it.
    pub(crate) fn firn_arguments(&self) -> String {
        "firn serve --bucket file://DIR --wal none (fsync at each slot, acks=all)".to_owned()
    }

    /// Starts a broker in `folder` and waits until it serves. `flush`: Kafka syncs each append.
    pub(crate) fn start(&self, kind: Kind, folder: &Path, flush: bool) -> Broker {
        match kind {
            Kind::Firn => Broker::Firn(self.firn_plan(folder).start()),
            Kind::Kafka => {
                let settings: &[&str] = if flush {
                    &["log.flush.interval.messages=1"]
                } else {
                    &[]
                };
                let jars = &self.jars;
                let kafka = Kafka::start(jars, folder, &ON_BROKER_CORE, KAFKA_HEAP, settings);
                Broker::Kafka(kafka)
            }
        }
    }

    /// Starts Kafka without waiting.
    pub(crate) fn launch_kafka(&self, folder: &Path) -> Kafka {
        Kafka::launch(&self.jars, folder, &ON_BROKER_CORE, KAFKA_HEAP, &[])
    }
}

/// A running broker.
pub(crate) enum Broker {
    Firn(Node),
    Kafka(Kafka),
}

impl Broker {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Firn(node) => &node.process,
            Self::Kafka(kafka) => &kafka.process,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Firn(node) => node.kafka(),
            Self::Kafka(kafka) => kafka.address,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address()).expect("a broker that serves")
    }
}
