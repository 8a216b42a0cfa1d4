//! The members of a cluster, and a client that finds its way among them.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use firn_broker::config::{Config, Pair, Profile, Source};
use firn_broker::node::{Node, World};
use firn_storage::bucket::testing::FaultStore;
use firn_storage::bucket::{Bucket, BucketUsage, Purpose};
use firn_storage::layout;
use firn_storage::processes::registered;
use firn_tests::client::{Client, code};
use firn_tests::cluster::Brokers;
use firn_tests::records::{ProducerFields, Record, StoredRecord, encode_batch};
use firn_tests::wait;
use tokio::runtime::Runtime;

struct Member {
    runtime: Runtime,
    node: Node,
    bucket: Bucket,
}

/// A cluster. Members keep their numbers when they are gone.
pub(crate) struct Members {
    store: FaultStore,
    members: Vec<Option<Member>>,
    ids: Vec<i32>,
    addresses: Vec<SocketAddr>,
}

impl Members {
    /// So many, one after the other: the first one leads.
    pub(crate) fn start(count: usize) -> Self {
        let mut members = Self {
            store: FaultStore::in_memory(),
            members: Vec::new(),
            ids: Vec::new(),
            addresses: Vec::new(),
        };
        (0..count).for_each(|_| members.add());
        members
    }

    /// One in each of these racks, with these settings besides.
    pub(crate) fn in_racks(racks: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut members = Self::start(0);
        for rack in racks {
            members.start_one(&[&[("broker.rack", *rack)], settings].concat());
        }
        members
    }

    /// Starts one more, and waits until the others know of it.
    pub(crate) fn add(&mut self) {
        self.start_one(&[]);
    }

    /// [`Self::add`], of one that has a local WAL.
    pub(crate) fn add_with(&mut self, wal: Option<&Path>) {
        let wal = wal.map(|wal| wal.display().to_string());
        let wal = wal.as_deref().map(|wal| ("wal", wal));
        self.start_one(wal.as_slice());
    }

    /// [`Self::add_with`], under an id of its own.
    pub(crate) fn add_as(&mut self, broker: i32, wal: &Path) {
        let (broker, wal) = (broker.to_string(), wal.display().to_string());
        self.start_one(&[("wal", &wal), ("broker.id", &broker)]);
    }

    fn start_one(&mut self, settings: &[(&str, &str)]) {
        let machine = World::of_machine();
        let bucket = Bucket::from_store(
            Arc::new(self.store.clone()),
            Arc::clone(&machine.clock),
            Arc::clone(&machine.entropy),
        );
        let world = World {
            bucket: Some(bucket.clone()),
            ..machine
        };
        let runtime = Runtime::new().unwrap();
        let node = runtime.block_on(Node::start_in(world, config(settings)));
        let node = node.unwrap();
        let address = node.listeners()[0].bound;
        self.members.push(Some(Member {
            runtime,
            node,
            bucket,
        }));
        self.addresses.push(address);
        let id = wait::until("the place of a new member", wait::PATIENCE, || {
            let mut ids = self.live().map(|(_, at)| {
                let metadata = Client::connect(at).ok()?.metadata("none").ok()?;
                let port = i32::from(address.port());
                let own = metadata.brokers.iter().find(|broker| broker.port == port);
                own.map(|own| own.node_id.0)
            });
            let first = ids.next()??;
            ids.all(|id| id == Some(first)).then_some(first)
        });
        self.ids.push(id);
    }

    /// It is gone from one moment to the next.
    pub(crate) fn kill(&mut self, member: usize) {
        let Member { runtime, node, .. } = self.members[member].take().unwrap();
        drop(node);
        runtime.shutdown_background();
    }

    /// It stops in order.
    pub(crate) fn stop(&mut self, member: usize) {
        let Member { runtime, node, .. } = self.members[member].take().unwrap();
        runtime.block_on(node.stop()).unwrap();
        runtime.shutdown_background();
    }

    /// What becomes of the requests of all members.
    pub(crate) fn store(&self) -> &FaultStore {
        &self.store
    }

    /// What a member has asked of the bucket.
    pub(crate) fn usage(&self, member: usize) -> BucketUsage {
        self.members[member].as_ref().unwrap().bucket.usage()
    }

    /// The slots of all WALs that lie in the bucket, as member 0 sees it.
    pub(crate) fn wal_slots(&self) -> BTreeSet<String> {
        let Member {
            runtime, bucket, ..
        } = self.members[0].as_ref().unwrap();
        let everything = layout::everything();
        let listed = bucket.list(Purpose::Meta, &everything, None, 1000);
        let listed = runtime.block_on(listed).unwrap();
        let keys = listed.iter().map(|object| object.key.to_string());
        keys.filter(|key| key.starts_with("wal/")).collect()
    }

    pub(crate) fn id(&self, member: usize) -> i32 {
        self.ids[member]
    }

    pub(crate) fn client(&self, member: usize) -> Client {
        Client::connect(self.addresses[member]).unwrap()
    }

    pub(crate) fn brokers(&self) -> Brokers {
        Brokers::at(self.addresses.clone())
    }

    /// Who leads each partition, once somebody leads each.
    pub(crate) fn leaders(&self, topic: &str, partitions: i32) -> Vec<i32> {
        wait::until("leaders", wait::PATIENCE, || {
            let (_, at) = self.live().next()?;
            let metadata = Client::connect(at).ok()?.metadata(topic).ok()?;
            let found = &metadata.topics.first()?.partitions;
            let mut found: Vec<_> = found
                .iter()
                .map(|partition| (partition.partition_index, partition.leader_id.0))
                .collect();
            found.sort_unstable();
            let leaders: Vec<_> = found.into_iter().map(|(_, leader)| leader).collect();
            let is_led = leaders.len() == partitions as usize && !leaders.contains(&-1);
            is_led.then_some(leaders)
        })
    }

    /// Appends the next number of a partition, wherever that is.
    pub(crate) fn append(&self, topic: &str, partition: i32, number: i32) {
        append(&self.brokers(), topic, partition, number);
    }

    /// The numbers of a partition, wherever that is.
    pub(crate) fn numbers(&self, topic: &str, partition: i32) -> Vec<i32> {
        numbers_of(&self.brokers().read(topic, partition))
    }

    /// What the HTTP door of a member answers.
    pub(crate) fn ask(&self, member: usize, method: &str, path: &str) -> String {
        self.send(member, (method, path), "")
    }

    /// Gives a member an order at its HTTP door, with a body.
    pub(crate) fn post(&self, member: usize, path: &str, body: &str) -> String {
        self.send(member, ("POST", path), body)
    }

    fn send(&self, member: usize, (method, path): (&str, &str), body: &str) -> String {
        let node = &self.members[member].as_ref().unwrap().node;
        let mut socket = TcpStream::connect(node.http().unwrap()).unwrap();
        let len = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: firn\r\nContent-Length: {len}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// How many processes the bucket says belong to the cluster.
    pub(crate) fn registered(&self) -> usize {
        let World { clock, entropy, .. } = World::of_machine();
        let bucket = Bucket::from_store(Arc::new(self.store.clone()), clock, entropy);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(registered(&bucket, 100)).unwrap().len()
    }

    fn live(&self) -> impl Iterator<Item = (usize, SocketAddr)> {
        let members = self.members.iter().zip(&self.addresses).enumerate();
        members.filter_map(|(at, (member, address))| member.as_ref().map(|_| (at, *address)))
    }
}

/// Appends the next number of a partition at the member that takes it, which is asked for until one
/// does. The number is the offset, too: nothing may be lost or stored twice.
pub(crate) fn append(members: &Brokers, topic: &str, partition: i32, number: i32) {
    wait::until("a batch to be taken", wait::PATIENCE, || {
        let mut owner = members.leader(topic, partition)?;
        let record = Record::new("number", number.to_string());
        let batch = encode_batch(&[record], ProducerFields::NONE);
        let produced = owner.produce(topic, partition, batch).ok()?;
        if code::RETRIABLE.contains(&produced.error) {
            return None;
        }
        assert_eq!(produced.error, code::NONE, "{topic}/{partition}");
        assert_eq!(produced.base_offset, i64::from(number));
        Some(())
    });
}

/// The numbers that a member serves.
pub(crate) fn numbers(client: &mut Client, topic: &str, partition: i32) -> Vec<i32> {
    numbers_of(&client.read(topic, partition, 0))
}

fn numbers_of(records: &[StoredRecord]) -> Vec<i32> {
    let numbers = records.iter().map(|stored| {
        let value = stored.record.value.as_ref().unwrap();
        std::str::from_utf8(value).unwrap().parse().unwrap()
    });
    numbers.collect()
}

fn config(settings: &[(&str, &str)]) -> Arc<Config> {
    let pairs = [
        ("bucket", "memory://"),
        ("http", "127.0.0.1:0"),
        ("kafka", "127.0.0.1:0"),
        ("wal", "none"),
    ];
    let is_left = |(key, _): &&(&str, &str)| settings.iter().all(|(set, _)| set != key);
    let pairs = pairs.iter().filter(is_left).chain(settings);
    let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
    Arc::new(Config::new(Profile::Dev, pairs.collect()).unwrap())
}
