//! What tests of the link have in common: a clock that they move, a coordinator that says what they
//! tell it to, and processes with links over memory or over QUIC.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_coordinator::{FromLeader, ProcessCard, ProcessProof};
use firn_proto::cluster::{Beat, CoordinatorError, LinkAddress, Listener, Reply, Request};
use firn_proto::env::{Clock, Entropy, Mono, SystemClock};
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Fingerprint};
use firn_storage::bucket::Bucket;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::leading::{Leading, Pictures};
use super::opening::Introduction;
use super::*;
use crate::config::HostPort;

pub(super) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
pub(super) const EPOCH: CoordinatorEpoch = CoordinatorEpoch(3);

/// Time that only a test moves.
#[derive(Debug, Default)]
pub(super) struct TestClock(Mutex<Mono>);

impl TestClock {
    pub(super) fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = now.after(by);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> i64 {
        0
    }

    fn mono(&self) -> Mono {
        *self.0.lock().unwrap()
    }
}

/// A request that waits for the test to answer it.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Reply, CoordinatorError>>,
}

/// A coordinator that says what a test tells it to.
pub(super) struct FakeLeading {
    leads: Mutex<Option<CoordinatorEpoch>>,
    heard: Mutex<Option<(CoordinatorEpoch, Duration)>>,
    asked: mpsc::UnboundedSender<Asked>,
    beats: mpsc::UnboundedSender<Beat>,
    pictures: Mutex<Option<mpsc::Receiver<FromLeader>>>,
}

/// The test's side of it.
pub(super) struct Told {
    pub(super) leading: Arc<FakeLeading>,
    pub(super) asked: mpsc::UnboundedReceiver<Asked>,
    pub(super) beats: mpsc::UnboundedReceiver<Beat>,
    pub(super) pictures: mpsc::Sender<FromLeader>,
}

impl FakeLeading {
    pub(super) fn told() -> Told {
        let (ask, asked) = mpsc::unbounded_channel();
        let (beat, beats) = mpsc::unbounded_channel();
        let (pictures, shown) = mpsc::channel(1);
        let leading = Arc::new(Self {
            leads: Mutex::new(Some(EPOCH)),
            heard: Mutex::default(),
            asked: ask,
            beats: beat,
            pictures: Mutex::new(Some(shown)),
        });
        Told {
            leading,
            asked,
            beats,
            pictures,
        }
    }

    pub(super) fn heard(&self, heard: Option<(CoordinatorEpoch, Duration)>) {
        *self.heard.lock().unwrap() = heard;
    }
}

impl Leading for FakeLeading {
    fn leads(&self) -> Option<CoordinatorEpoch> {
        *self.leads.lock().unwrap()
    }

    fn heard_leader(&self, _now: Mono) -> Option<(CoordinatorEpoch, Duration)> {
        *self.heard.lock().unwrap()
    }

    fn call_here(&self, request: Request) -> BoxFuture<'static, Result<Reply, CoordinatorError>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.asked.send(Asked { request, answer });
        async move {
            sent.map_err(|_| CoordinatorError::Stopped)?;
            answered.await.map_err(|_| CoordinatorError::Stopped)?
        }
        .boxed()
    }

    fn followed(&self, _peer: Fingerprint) -> Option<Box<dyn Pictures>> {
        let pictures = self.pictures.lock().unwrap().take()?;
        Some(Box::new(Shown {
            pictures,
            beats: self.beats.clone(),
        }))
    }
}

struct Shown {
    pictures: mpsc::Receiver<FromLeader>,
    beats: mpsc::UnboundedSender<Beat>,
}

impl Pictures for Shown {
    fn beats(&self) -> Box<dyn Fn(Beat) + Send + Sync> {
        let beats = self.beats.clone();
        Box::new(move |beat| {
            // The test may be over.
            let _ = beats.send(beat);
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Option<FromLeader>> {
        self.pictures.recv().boxed()
    }
}

/// What links run over.
#[derive(Clone)]
pub(super) enum Over {
    Memory(MemoryNetwork),
    Quic,
}

impl Over {
    pub(super) fn both() -> [Self; 2] {
        [Self::Memory(MemoryNetwork::default()), Self::Quic]
    }

    /// Takes the place of process `byte`.
    pub(super) fn join(&self, byte: u8) -> (Arc<dyn Transport>, LinkAddress) {
        match self {
            Self::Memory(network) => {
                let at = LinkAddress {
                    host: "memory".to_owned(),
                    port: u16::from(byte),
                    fingerprint: Fingerprint([byte; 32]),
                };
                (Arc::new(network.join(at.clone())), at)
            }
            Self::Quic => {
                let certificate = ProcessCertificate::generate().unwrap();
                let bind = ([127, 0, 0, 1], 0).into();
                let transport = QuicTransport::bind(certificate, bind).unwrap();
                let host = HostPort {
                    host: "127.0.0.1".to_owned(),
                    port: 0,
                };
                let at = transport.address(&host).unwrap();
                (Arc::new(transport), at)
            }
        }
    }
}

/// One bucket for all processes of a test.
pub(super) struct World {
    pub(super) over: Over,
    pub(super) bucket: Bucket,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<Entropy>,
}

impl World {
    pub(super) fn new(over: Over) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::memory(Arc::clone(&clock), Arc::clone(&entropy));
        Self {
            over,
            bucket,
            clock,
            entropy,
        }
    }

    /// A process that links, and is not registered yet.
    pub(super) fn stranger(&self, byte: u8, listeners: Vec<Listener>) -> Process {
        let (transport, at) = self.over.join(byte);
        let card = ProcessCard {
            broker: None,
            link: at,
            listeners,
            process: ProcessProof {
                boot: String::new(),
                namespaces: String::new(),
                pid: 1,
                started: 0,
            },
            shown: format!("process {byte}"),
        };
        let (clock, entropy) = (Arc::clone(&self.clock), Arc::clone(&self.entropy));
        let registry = Registry::new(self.bucket.clone(), CLUSTER, clock, entropy);
        Process {
            transport,
            registry: Arc::new(registry),
            me: Introduction {
                cluster: CLUSTER,
                card: Arc::new(card),
            },
            figures: Arc::new(LinkFigures::new(Arc::clone(&self.clock))),
            clock: Arc::clone(&self.clock),
        }
    }

    /// One that is.
    pub(super) async fn process(&self, byte: u8) -> Process {
        let process = self.stranger(byte, Vec::new());
        process.registry.register(&process.me.card).await.unwrap();
        process
    }
}

/// A process that links.
pub(super) struct Process {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) registry: Arc<Registry>,
    pub(super) me: Introduction,
    pub(super) figures: Arc<LinkFigures>,
    clock: Arc<dyn Clock>,
}

impl Process {
    pub(super) fn at(&self) -> LinkAddress {
        self.me.card.link.clone()
    }

    pub(super) fn card(&self) -> ProcessCard {
        ProcessCard::clone(&self.me.card)
    }

    pub(super) fn peers(&self) -> LinkPeers {
        let (transport, registry) = (Arc::clone(&self.transport), Arc::clone(&self.registry));
        let figures = Arc::clone(&self.figures);
        LinkPeers::new(transport, registry, self.me.clone(), figures)
    }

    /// Takes links until the guard is dropped.
    pub(super) fn open(&self, leading: &Arc<FakeLeading>) -> DropGuard {
        self.open_with(leading, Owned::default())
    }

    /// And shows what it owns.
    pub(super) fn open_with(&self, leading: &Arc<FakeLeading>, owned: Owned) -> DropGuard {
        let door = LinkDoor::new(
            Arc::clone(&self.transport),
            Arc::clone(&self.registry),
            Arc::clone(leading) as _,
            self.me.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.figures),
        )
        .with_owned(owned);
        let stop = CancellationToken::new();
        tokio::spawn(Arc::new(door).serve(stop.clone()));
        stop.drop_guard()
    }
}
