//! Several `firn` processes on one bucket, and clients that find their way among them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::client::{Client, code};
use crate::link_network::LinkNetwork;
use crate::minio::Minio;
use crate::node::{Node, NodePlan};
use crate::records::StoredRecord;
use crate::wait;
use crate::wire::Connection;

/// How long a broker may take to say who leads.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How many brokers the tests of a cluster start.
pub const BROKERS: usize = 3;

/// Brokers on one bucket, each with a folder of its own.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// How each is started.
    pub nodes: Vec<NodePlan>,
}

impl ClusterPlan {
    /// Brokers on MinIO, each with a local WAL.
    pub fn on_minio(minio: &Minio, built: &str, folder: &Path) -> Self {
        Self::on_minio_by(&[minio.address(); BROKERS], built, folder)
    }

    /// The same, each of which reaches MinIO at an address of its own, by way of a proxy.
    pub fn on_minio_by(addresses: &[SocketAddr; BROKERS], built: &str, folder: &Path) -> Self {
        Self::of(folder, |at, folder| {
            Minio::node_by(addresses[at], built, folder, "cluster").with_wal(&folder.join("wal"))
        })
    }

    /// Brokers on one directory, without a local WAL.
    pub fn on_directory(built: &str, folder: &Path) -> Self {
        let bucket = folder.join("bucket");
        fs::create_dir_all(&bucket).expect("a folder for the bucket");
        let url = format!("file://{}", bucket.display());
        Self::of(folder, |_, folder| NodePlan::on_bucket(built, folder, &url))
    }

    fn of(folder: &Path, plan: impl Fn(usize, &Path) -> NodePlan) -> Self {
        let nodes = (0..BROKERS).map(|at| {
            let folder = folder.join(format!("broker-{}", at + 1));
            fs::create_dir_all(&folder).expect("a folder for a broker");
            plan(at, &folder).with_setting(&format!("broker.id={}", at + 1))
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// With `-X key=value` for each.
    #[must_use]
    pub fn with_setting(self, setting: &str) -> Self {
        let nodes = self.nodes.into_iter();
        Self {
            nodes: nodes.map(|node| node.with_setting(setting)).collect(),
        }
    }

    /// With links that go through a network of their own, and that.
    #[must_use]
    pub fn on_link_network(self) -> (Self, LinkNetwork) {
        // Links are bound, in UDP, to the number of the Kafka port.
        let bound: Vec<SocketAddr> = self.nodes.iter().map(|node| node.kafka).collect();
        let bound = bound.try_into().expect("so many brokers");
        let network = LinkNetwork::between(bound);
        let nodes = self.nodes.into_iter().enumerate().map(|(at, node)| {
            let relay = network.address_of(at);
            node.with_setting(&format!("link.advertise={relay}"))
        });
        let nodes = nodes.collect();
        (Self { nodes }, network)
    }

    /// Starts all and waits until each is ready.
    pub fn start(&self) -> Cluster {
        let mut nodes: Vec<Node> = self.nodes.iter().map(NodePlan::launch).collect();
        nodes.iter_mut().for_each(Node::wait_ready);
        Cluster {
            nodes: nodes.into_iter().map(Some).collect(),
            plan: self.clone(),
        }
    }

    /// The same, one before the others: it leads.
    pub fn start_led_by(&self, first: usize) -> Cluster {
        let mut nodes: Vec<Option<Node>> = self.nodes.iter().map(|_| None).collect();
        nodes[first] = Some(self.nodes[first].start());
        let mut cluster = Cluster {
            nodes,
            plan: self.clone(),
        };
        cluster.revive();
        cluster
    }

    /// Where clients find them.
    pub fn brokers(&self) -> Brokers {
        Brokers(self.nodes.iter().map(|node| node.kafka).collect())
    }
}

/// Running brokers, some of which may be dead at the moment.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Option<Node>>,
    plan: ClusterPlan,
}

impl Cluster {
    /// How it was started.
    pub fn plan(&self) -> &ClusterPlan {
        &self.plan
    }

    /// A broker that runs.
    ///
    /// # Panics
    /// When it does not.
    pub fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("a broker that runs")
    }

    /// [`Self::node`], to wait for.
    ///
    /// # Panics
    /// When it does not.
    pub fn node_mut(&mut self, at: usize) -> &mut Node {
        self.nodes[at].as_mut().expect("a broker that runs")
    }

    /// Whether a broker was neither killed nor stopped.
    pub fn runs(&self, at: usize) -> bool {
        self.nodes[at].is_some()
    }

    /// Ends a broker as a crash does.
    pub fn kill(&mut self, at: usize) {
        if let Some(node) = self.nodes[at].take() {
            node.kill();
        }
    }

    /// Stops a broker in order.
    pub fn stop(&mut self, at: usize) {
        if let Some(node) = self.nodes[at].take() {
            node.stop();
        }
    }

    /// Starts again those that do not run, all at once, and waits until each is ready. One that ends
    /// by itself is started again too, as whoever looks after a service does: another process may
    /// have its place, or its leader may have died in the middle of its start.
    pub fn revive(&mut self) {
        let plans = self.plan.nodes.iter();
        for (node, plan) in self.nodes.iter_mut().zip(plans) {
            if node.is_none() {
                *node = Some(plan.launch());
            }
        }
        wait::until("all brokers to be ready", wait::PATIENCE, || {
            let plans = self.plan.nodes.iter();
            let mut are_ready = true;
            for (node, plan) in self.nodes.iter_mut().flatten().zip(plans) {
                if !node.process.is_running() {
                    *node = plan.launch();
                }
                are_ready &= node.is_ready();
            }
            are_ready.then_some(())
        });
    }

    /// Stops all in order, one after the other.
    pub fn stop_all(mut self) {
        for at in 0..self.nodes.len() {
            self.stop(at);
        }
    }
}

/// Where the brokers of a cluster listen.
#[derive(Clone, Debug)]
pub struct Brokers(Vec<SocketAddr>);

impl Brokers {
    /// Brokers that listen at these addresses.
    pub fn at(addresses: Vec<SocketAddr>) -> Self {
        Self(addresses)
    }

    /// As a client is told.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        addresses.join(",")
    }

    /// The partitions of a topic that the broker at `at` leads, as any of them says. Those without a
    /// leader are of none.
    pub fn led_by(&self, topic: &str, partitions: i32, at: usize) -> Vec<i32> {
        let leads = |partition: &i32| {
            let leader = self.leader_address(topic, *partition);
            leader.and_then(|leader| self.position(leader)) == Some(at)
        };
        (0..partitions).filter(leads).collect()
    }

    /// The others.
    #[must_use]
    pub fn without(&self, at: usize) -> Self {
        let mut rest = self.0.clone();
        rest.remove(at);
        Self(rest)
    }

    /// Where the broker at `address` stands among them.
    pub fn position(&self, address: SocketAddr) -> Option<usize> {
        self.0.iter().position(|known| *known == address)
    }

    /// A client of the first broker that answers.
    ///
    /// # Panics
    /// When none does.
    pub fn any(&self) -> Client {
        wait::until("a broker to answer", wait::PATIENCE, || {
            self.answering().next()
        })
    }

    /// A client of the broker that leads the partition, if any is known and answers.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<Client> {
        Client::connect(self.leader_address(topic, partition)?).ok()
    }

    /// Where the leader of a partition is, as the first of the brokers says that knows.
    pub fn leader_address(&self, topic: &str, partition: i32) -> Option<SocketAddr> {
        self.answering()
            .find_map(|mut client| leader_by(&mut client, topic, partition))
    }

    /// The whole of a partition, wherever it is led.
    ///
    /// # Panics
    /// When it cannot be read for long.
    pub fn read(&self, topic: &str, partition: i32) -> Vec<StoredRecord> {
        wait::until("the whole of a partition", wait::PATIENCE, || {
            let mut leader = self.leader(topic, partition)?;
            leader.try_read(topic, partition, 0).ok()
        })
    }

    /// Which of the brokers is the controller, as any of them says.
    ///
    /// # Panics
    /// When none says.
    pub fn controller(&self, topic: &str) -> usize {
        wait::until("a controller", wait::PATIENCE, || {
            let metadata = self.answering().next()?.metadata(topic).ok()?;
            let id = metadata.controller_id;
            let broker = metadata
                .brokers
                .iter()
                .find(|broker| broker.node_id == id)?;
            self.0
                .iter()
                .position(|address| i32::from(address.port()) == broker.port)
        })
    }

    /// A client of each broker that listens. One that stands still is not waited for long.
    pub fn answering(&self) -> impl Iterator<Item = Client> + '_ {
        let connections = self.0.iter();
        connections
            .filter_map(|address| Connection::open_within(*address, ANSWER_PATIENCE).ok())
            .map(|connection| Client { connection })
    }
}

/// Where the leader of a partition is, as this broker says.
fn leader_by(client: &mut Client, topic: &str, partition: i32) -> Option<SocketAddr> {
    let metadata = client.metadata(topic).ok()?;
    let partitions = &metadata.topics.first()?.partitions;
    let partition = partitions
        .iter()
        .find(|found| found.partition_index == partition)?;
    if partition.error_code != code::NONE {
        return None;
    }
    let leader = partition.leader_id;
    let broker = metadata
        .brokers
        .iter()
        .find(|broker| broker.node_id == leader)?;
    let host = broker.host.parse().ok()?;
    Some(SocketAddr::new(host, u16::try_from(broker.port).ok()?))
}
