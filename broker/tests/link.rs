//! Processes with a coordinator each on one bucket, linked over QUIC: one leads, the others follow it
//! and ask it over their links, and when it dies or stops another takes over.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use firn_broker::config::HostPort;
use firn_broker::link::{
    Introduction, LinkDoor, LinkFigures, LinkPeers, ProcessCertificate, QuicTransport, Registry,
    Transport, encode_card, own_proof,
};
use firn_coordinator::{
    Coordinator, CoordinatorConfig, CoordinatorTask, Environment, FollowedTo, GroupConfig,
    ProcessCard,
};
use firn_proto::cluster::{
    CreatedTopic, Listener, NewTopic, Reply, Request, SecurityProtocol, TopicError, TopicRefusal,
};
use firn_proto::env::{Clock, Entropy, SystemClock};
use firn_proto::ids::CoordinatorEpoch;
use firn_storage::bucket::{Bucket, Operation};
use firn_storage::journal::{BucketJournal, cluster_id};
use firn_storage::stream::StreamEnv;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What all processes of a test share.
#[derive(Clone)]
struct Shared {
    bucket: Bucket,
    env: StreamEnv,
}

impl Shared {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::memory(Arc::clone(&clock), Arc::clone(&entropy));
        let env = StreamEnv { clock, entropy };
        Self { bucket, env }
    }
}

/// A process: a runtime of its own, which dies with all that is in it.
struct Process {
    runtime: Option<Runtime>,
    coordinator: Coordinator,
    parts: Option<Parts>,
}

struct Parts {
    _task: CoordinatorTask,
    _kafka: TcpListener,
    _door: DropGuard,
    transport: Arc<QuicTransport>,
}

impl Process {
    fn start(shared: &Shared) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (coordinator, parts) = runtime.block_on(start(shared));
        Self {
            runtime: Some(runtime),
            coordinator,
            parts: Some(parts),
        }
    }

    /// Runs something in this process.
    fn run<T>(&self, what: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, what).await.unwrap() })
    }

    fn ask(&self, request: Request) -> Reply {
        self.run(async {
            loop {
                // Whoever asks while nobody leads is told to ask again.
                if let Ok(reply) = self.coordinator.call(request.clone()).await {
                    return reply;
                }
                tokio::task::yield_now().await;
            }
        })
    }

    /// Waits until its picture shows the topic.
    fn sees(&self, topic: &str) {
        self.run(async {
            let mut image = self.coordinator.image();
            let seen = image.wait_for(|image| image.topic_named(topic).is_some());
            drop(seen.await.unwrap());
        });
    }

    fn stop(mut self) {
        self.run(self.coordinator.close());
        let parts = self.parts.take().unwrap();
        self.run(parts.transport.close());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let inside = runtime.enter();
            drop(self.parts.take());
            drop(inside);
            runtime.shutdown_background();
        }
    }
}

async fn start(shared: &Shared) -> (Coordinator, Parts) {
    let Shared { bucket, env } = shared.clone();
    let kafka = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let certificate = ProcessCertificate::generate().unwrap();
    let transport = QuicTransport::bind(certificate, ([127, 0, 0, 1], 0).into()).unwrap();
    let host = HostPort {
        host: "127.0.0.1".to_owned(),
        port: kafka.local_addr().unwrap().port(),
    };
    let listener = Listener {
        name: "KAFKA".to_owned(),
        security: SecurityProtocol::Plaintext,
        host: host.host.clone(),
        port: host.port,
    };
    let card = ProcessCard {
        broker: None,
        link: transport.address(&host).unwrap(),
        listeners: vec![listener],
        process: own_proof(),
        shown: "a process of a test".to_owned(),
    };
    let transport = Arc::new(transport);
    let cluster = cluster_id(&bucket, &env).await.unwrap();
    let (clock, entropy) = (Arc::clone(&env.clock), Arc::clone(&env.entropy));
    let registry = Registry::new(
        bucket.clone(),
        cluster,
        Arc::clone(&clock),
        Arc::clone(&entropy),
    );
    let registry = Arc::new(registry);
    registry.register(&card).await.unwrap();
    let identity = encode_card(&card).unwrap().into();
    let me = Introduction {
        cluster,
        card: Arc::new(card),
    };
    let environment = Environment {
        clock: Arc::clone(&clock),
        entropy,
    };
    let (coordinator, seat) = Coordinator::vacant(environment);
    let figures = Arc::new(LinkFigures::new(Arc::clone(&clock)));
    let link: Arc<dyn Transport> = Arc::clone(&transport) as _;
    let leading = Arc::new(coordinator.clone());
    let door = LinkDoor::new(
        Arc::clone(&link),
        Arc::clone(&registry),
        leading,
        me.clone(),
        Arc::clone(&clock),
        Arc::clone(&figures),
    );
    let stop = CancellationToken::new();
    tokio::spawn(Arc::new(door).serve(stop.clone()));
    let peers = Arc::new(LinkPeers::new(link, registry, me, figures));
    let config = CoordinatorConfig {
        groups: GroupConfig::default(),
        puts_per_second: None,
        identity,
        broker_session: Duration::from_secs(6),
        never_leads: false,
        start_timeout: PATIENCE,
    };
    let opener = Arc::new(BucketJournal::new(bucket, env));
    let task = seat.take(opener, config, peers).await.unwrap();
    let parts = Parts {
        _task: task,
        _kafka: kafka,
        _door: stop.drop_guard(),
        transport,
    };
    (coordinator, parts)
}

fn create(topic: &str) -> Request {
    let topic = NewTopic {
        name: topic.to_owned(),
        partitions: 3,
        replication_factor: 1,
        owners: Vec::new(),
        configs: Vec::new(),
    };
    Request::CreateTopics {
        topics: vec![topic],
        validate_only: false,
    }
}

/// A request that is repeated since its leader was lost may find that it has happened.
fn made(reply: &Reply) -> bool {
    let is_there = |made: &Result<CreatedTopic, TopicRefusal>| match made {
        Ok(_) => true,
        Err(refusal) => refusal.error == TopicError::AlreadyExists,
    };
    matches!(reply, Reply::CreateTopics(topics) if topics.iter().all(is_there))
}

/// Waits until one of these leads, and says which epoch: never two of them at a time.
fn epoch_of(processes: &[&Process]) -> CoordinatorEpoch {
    processes[0].run(async {
        loop {
            let led = processes.iter().map(|process| process.coordinator.leads());
            let led: Vec<_> = led.flatten().collect();
            assert!(led.len() <= 1, "{led:?}");
            if let [epoch] = led[..] {
                return epoch;
            }
            tokio::task::yield_now().await;
        }
    })
}

#[test]
fn one_of_them_leads_and_the_others_ask_it_and_see_what_it_did() {
    let shared = Shared::new();
    let one = Process::start(&shared);
    let epoch = epoch_of(&[&one]);
    let (two, three) = (Process::start(&shared), Process::start(&shared));
    assert_eq!(two.coordinator.leads(), None);
    assert!(made(&two.ask(create("asked-of-two"))));
    assert!(made(&three.ask(create("asked-of-three"))));
    for process in [&one, &two, &three] {
        process.sees("asked-of-two");
        process.sees("asked-of-three");
    }
    assert_eq!(one.coordinator.leads(), Some(epoch), "nobody deposed it");
}

#[test]
fn when_the_leader_dies_another_takes_over_and_the_third_follows_that() {
    let shared = Shared::new();
    let one = Process::start(&shared);
    let (two, three) = (Process::start(&shared), Process::start(&shared));
    assert!(made(&two.ask(create("before"))));
    drop(one);
    assert!(made(&two.ask(create("after"))));
    three.sees("before");
    three.sees("after");
    epoch_of(&[&two, &three]);
}

/// GETs of journal slots by all processes so far.
fn gets(shared: &Shared) -> u64 {
    let rows = shared.bucket.usage().rows;
    let gets = rows.iter().filter(|row| row.operation == Operation::Get);
    gets.map(|row| row.requests).sum()
}

#[test]
fn whoever_follows_the_journal_reads_little_of_it_when_it_takes_over() {
    const SLOTS: u64 = 100;
    let shared = Shared::new();
    let one = Process::start(&shared);
    let two = Process::start(&shared);
    for number in 0..SLOTS {
        assert!(made(&one.ask(create(&format!("t{number}")))));
    }
    two.run(async {
        let is_there = |followed: FollowedTo| followed.at.slot.0 >= SLOTS;
        while !two.coordinator.followed_to().is_some_and(is_there) {
            tokio::task::yield_now().await;
        }
    });
    drop(one);
    let before = gets(&shared);
    assert!(made(&two.ask(create("after"))));
    let asked = gets(&shared) - before;
    assert!(asked < SLOTS / 2, "{asked} requests for {SLOTS} slots");
    two.sees("t0");
    two.sees("after");
}

#[test]
fn when_the_leader_stops_in_order_another_takes_over() {
    let shared = Shared::new();
    let one = Process::start(&shared);
    let two = Process::start(&shared);
    assert!(made(&one.ask(create("before"))));
    one.stop();
    assert!(made(&two.ask(create("after"))));
    two.sees("before");
    epoch_of(&[&two]);
}

/// Nothing here takes as long, unless the machine stands still.
const PATIENCE: Duration = Duration::from_secs(60);
