//! The two brokers behind one face: started on core 0 over a folder of their own.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use firn_benches::folder::{empty, files, forget_pages};
use firn_benches::kind::Kind;
use firn_tests::client::Client;
use firn_tests::kafka::{Kafka, KafkaJars};
use firn_tests::node::{Node, NodePlan};
use firn_tests::process::Process;

/// Pins a broker to the first core.
pub(crate) const ON_BROKER_CORE: [&str; 3] = ["taskset", "-c", "0"];
/// Pins a client to the second.
pub(crate) const ON_CLIENT_CORE: [&str; 3] = ["taskset", "-c", CLIENT_CORE];
/// Where clients run.
pub(crate) const CLIENT_CORE: &str = "1";
const KAFKA_HEAP: &str = "1g";

/// What each broker is told beside the least that it needs, as `key=value`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) firn: &'static [&'static str],
    pub(crate) kafka: &'static [&'static str],
}

impl Settings {
    /// Both as they come.
    pub(crate) const NONE: Self = Self {
        firn: &[],
        kafka: &[],
    };
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
    /// A fresh, empty folder for one start. What the starts before left is emptied, and not deleted
    /// until all is done: for minutes ext4 without a journal walks past each inode that was deleted
    /// when it makes a file, and Firn's turn would pay for the deletion of its last one.
    pub(crate) fn fresh_folder(&self, kind: Kind) -> PathBuf {
        for file in files(&self.folder) {
            empty(&file).expect("what a broker left can be emptied");
        }
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

    /// Starts a broker in `folder` and waits until it serves.
    pub(crate) fn start(&self, kind: Kind, folder: &Path, settings: &Settings) -> Broker {
        match kind {
            Kind::Firn => {
                let plan = self.firn_plan(folder);
                Broker::Firn(with_settings(plan, settings.firn).start())
            }
            Kind::Kafka => {
                let (jars, settings) = (&self.jars, settings.kafka);
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

/// `plan` with `settings` of the broker.
pub(crate) fn with_settings(plan: NodePlan, settings: &[&str]) -> NodePlan {
    settings
        .iter()
        .fold(plan, |plan, setting| plan.with_setting(setting))
}

/// A running broker.
pub(crate) enum Broker {
    Firn(Node),
    Kafka(Kafka),
}

impl Broker {
    /// Waits until everything produced so far is archived. Kafka has no archive.
    pub(crate) fn archive(&self) {
        if let Self::Firn(node) = self {
            node.plan().run(&["archive", "flush"]);
        }
    }

    /// Leaves of what lies in `folder` nothing in memory: Firn, which has caches of its own, is
    /// started anew; Kafka has its log in the page cache alone, and keeps its warm code.
    pub(crate) fn forget(self, folder: &Path) -> Self {
        match self {
            Self::Firn(node) => {
                let plan = node.plan().clone();
                node.stop();
                forget_pages(&files(folder));
                Self::Firn(plan.start())
            }
            Self::Kafka(kafka) => {
                forget_pages(&files(folder));
                Self::Kafka(kafka)
            }
        }
    }

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

    /// How often it has asked for this operation at its bucket (`create`, `list`), by purpose.
    /// Kafka has no bucket.
    pub(crate) fn bucket_requests(&self, operation: &str) -> BTreeMap<String, f64> {
        let Self::Firn(node) = self else {
            return BTreeMap::new();
        };
        let (_, metrics) = node.http_get("/metrics").expect("metrics are served");
        let count = |row: &str| {
            let labels = row.strip_prefix("firn_bucket_requests_total{purpose=\"")?;
            let (purpose, rest) = labels.split_once('"')?;
            let rest = rest.strip_prefix(&format!(",operation=\"{operation}\"}} "))?;
            Some((purpose.to_owned(), rest.parse().expect("a number")))
        };
        metrics.lines().filter_map(count).collect()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address()).expect("a broker that serves")
    }
}
