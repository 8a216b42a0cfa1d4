//! Apache Kafka from its jars: its tools as clients of Firn, and its broker to compare with.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::Brokers;
use crate::process::Process;
use crate::requirement::{cache_folder, program};
use crate::{ports, wait};

/// The version of `tests/kafka-jars/pom.xml`.
pub const VERSION: &str = "4.3.1";

/// Kafka's jars and the Java that runs them.
#[derive(Clone, Debug)]
pub struct KafkaJars {
    folder: PathBuf,
}

impl KafkaJars {
    /// The jars of `CI_FIRN_KAFKA_JARS`, else where `.ci/run` puts them. `None` without them or
    /// without Java.
    pub fn find() -> Option<Self> {
        program("java")?;
        let folder = std::env::var_os("CI_FIRN_KAFKA_JARS")
            .map(PathBuf::from)
            .or_else(|| cache_folder().map(|folder| folder.join(format!("kafka-{VERSION}"))))?;
        folder
            .join(format!("kafka-tools-{VERSION}.jar"))
            .is_file()
            .then_some(Self { folder })
    }

    /// A Java program of the jars, with `memory` as its heap (`512m`).
    pub fn java(&self, memory: &str, main: &str) -> Command {
        self.java_by(&[], memory, main)
    }

    /// The same, started by way of another program, such as `taskset -c 1`.
    pub fn java_by(&self, before: &[&str], memory: &str, main: &str) -> Command {
        let mut words = before.iter().copied().chain(["java"]);
        let mut command = Command::new(words.next().expect("at least java"));
        command
            .args(words)
            .args([&format!("-Xms{memory}"), &format!("-Xmx{memory}")])
            .args(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .args(["-cp", &format!("{}/*", self.folder.display()), main]);
        command
    }
}

/// A running Kafka broker (and its own controller). Dropping it kills it.
#[derive(Debug)]
pub struct Kafka {
    /// The process itself.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Kafka {
    /// Formats `folder` and starts a broker on it with `settings` beside the least that one node
    /// needs, `before` it (`taskset -c 0`), with a heap of `memory`.
    pub fn start(
        jars: &KafkaJars,
        folder: &Path,
        before: &[&str],
        memory: &str,
        settings: &[&str],
    ) -> Self {
        let kafka = Self::launch(jars, folder, before, memory, settings);
        wait::until("Kafka to open its port", wait::PATIENCE, || {
            let stream = TcpStream::connect_timeout(&kafka.address, Duration::from_secs(1));
            stream.is_ok().then_some(())
        });
        kafka
    }

    /// As [`Self::start`], without waiting for the port.
    pub fn launch(
        jars: &KafkaJars,
        folder: &Path,
        before: &[&str],
        memory: &str,
        settings: &[&str],
    ) -> Self {
        let (address, controller) = (ports::free(), ports::free());
        fs::create_dir_all(folder).expect("a folder for Kafka");
        let properties = folder.join("server.properties");
        let text = server_properties(folder, address, controller, settings);
        fs::write(&properties, text).expect("a properties file");
        format_storage(jars, &properties, &["--standalone"]);
        let mut command = jars.java_by(before, memory, "kafka.Kafka");
        command.arg(&properties);
        Self {
            process: Process::spawn("kafka", command, &folder.join("kafka.log")),
            address,
        }
    }
}

/// Kafka brokers that replicate everything to each other, each a controller too. Dropping them kills
/// them.
#[derive(Debug)]
pub struct KafkaCluster {
    jars: KafkaJars,
    folders: Vec<PathBuf>,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Process>>,
}

impl KafkaCluster {
    /// Formats folders below `folder` and starts `count` brokers on them.
    pub fn start(jars: &KafkaJars, folder: &Path, count: usize) -> Self {
        let addresses: Vec<SocketAddr> = (0..count).map(|_| ports::free()).collect();
        let controllers: Vec<SocketAddr> = (0..count).map(|_| ports::free()).collect();
        let voters = controllers.iter().zip(1..);
        let voters: Vec<String> = voters.map(|(at, id)| format!("{id}@{at}")).collect();
        let mut folders = Vec::new();
        for (at, (address, controller)) in addresses.iter().zip(&controllers).enumerate() {
            let folder = folder.join(format!("kafka-{}", at + 1));
            fs::create_dir_all(&folder).expect("a folder for Kafka");
            let text = member_properties(&folder, at + 1, *address, *controller, &voters.join(","));
            let properties = folder.join("server.properties");
            fs::write(&properties, text).expect("a properties file");
            format_storage(jars, &properties, &[]);
            folders.push(folder);
        }
        let mut cluster = Self {
            jars: jars.clone(),
            nodes: folders.iter().map(|_| None).collect(),
            folders,
            addresses,
        };
        cluster.revive();
        cluster
    }

    /// Where clients find them.
    pub fn brokers(&self) -> Brokers {
        Brokers::at(self.addresses.clone())
    }

    /// Ends a broker as a crash does.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut node) = self.nodes[at].take() {
            node.kill();
        }
    }

    /// Stops a broker in order.
    pub fn stop(&mut self, at: usize) {
        if let Some(mut node) = self.nodes[at].take() {
            node.signal("TERM");
            node.wait(wait::PATIENCE);
        }
    }

    /// Starts again those that do not run, and waits until each serves.
    pub fn revive(&mut self) {
        for (node, folder) in self.nodes.iter_mut().zip(&self.folders) {
            if node.is_none() {
                let mut command = self.jars.java("512m", "kafka.Kafka");
                command.arg(folder.join("server.properties"));
                *node = Some(Process::spawn("kafka", command, &folder.join("kafka.log")));
            }
        }
        for address in &self.addresses {
            wait::until("Kafka to open its port", wait::PATIENCE, || {
                TcpStream::connect_timeout(address, Duration::from_secs(1)).ok()
            });
        }
    }
}

fn member_properties(
    folder: &Path,
    id: usize,
    address: SocketAddr,
    controller: SocketAddr,
    voters: &str,
) -> String {
    let lines = [
        "process.roles=broker,controller".to_owned(),
        format!("node.id={id}"),
        format!("controller.quorum.voters={voters}"),
        format!("listeners=PLAINTEXT://{address},CONTROLLER://{controller}"),
        format!("advertised.listeners=PLAINTEXT://{address}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
        format!("log.dirs={}", folder.join("data").display()),
        "default.replication.factor=3".to_owned(),
        "min.insync.replicas=2".to_owned(),
        "offsets.topic.replication.factor=3".to_owned(),
        "offsets.topic.num.partitions=3".to_owned(),
    ];
    lines.join("\n") + "\n"
}

/// Prepares the folder that `properties` names.
fn format_storage(jars: &KafkaJars, properties: &Path, how: &[&str]) {
    let formatted = jars
        .java("256m", "kafka.tools.StorageTool")
        .arg("format")
        .args(how)
        .args(["-t", "4L6g3nShT-eMCtK--X86sw", "-c"])
        .arg(properties)
        .output()
        .expect("java runs");
    assert!(
        formatted.status.success(),
        "Kafka's storage tool failed: {}",
        String::from_utf8_lossy(&formatted.stderr)
    );
}

fn server_properties(
    folder: &Path,
    address: SocketAddr,
    controller: SocketAddr,
    settings: &[&str],
) -> String {
    let mut lines = vec![
        "process.roles=broker,controller".to_owned(),
        "node.id=1".to_owned(),
        format!("controller.quorum.bootstrap.servers={controller}"),
        format!("listeners=PLAINTEXT://{address},CONTROLLER://{controller}"),
        format!("advertised.listeners=PLAINTEXT://{address}"),
        "controller.listener.names=CONTROLLER".to_owned(),
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned(),
        format!("log.dirs={}", folder.join("data").display()),
        "offsets.topic.replication.factor=1".to_owned(),
        "transaction.state.log.replication.factor=1".to_owned(),
        "transaction.state.log.min.isr=1".to_owned(),
        "share.coordinator.state.topic.replication.factor=1".to_owned(),
        "share.coordinator.state.topic.min.isr=1".to_owned(),
        "group.initial.rebalance.delay.ms=0".to_owned(),
    ];
    lines.extend(settings.iter().map(|line| (*line).to_owned()));
    lines.join("\n") + "\n"
}
