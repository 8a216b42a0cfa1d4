//! A node: the only place that wires the parts of the process together, starts them in order and
//! stops them in order. Time, randomness and the bucket enter here and are handed down.
//!
//! - `world.rs`: what a node takes from the world around it
//! - `doors.rs`: its sockets
//! - `bucket.rs`: the bucket at start
//! - `figures.rs`: figures read from where they are counted

mod bucket;
mod doors;
mod figures;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator::groups::GroupConfig;
use firn_coordinator::{Coordinator, CoordinatorConfig, CoordinatorTask, EndReason, Environment};
use firn_proto::cluster::{RegisterBroker, RegisteredBroker, Reply, Request};
use firn_proto::ids::ClusterId;
use firn_proto::journal::JournalError;
use firn_storage::bucket::{Bucket, BucketKind};
use firn_storage::cache::{CachedObjects, DiskSpace, FoyerCache, TailCache};
use firn_storage::journal::BucketJournal;
use firn_storage::read::Reader;
use firn_storage::stream::StreamEnv;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, HostPort};
use crate::error::FirnError;
use crate::http::{Health, Shown};
use crate::kafka::connection::Shared;
use crate::kafka::context::{Context, OpenListener};
use crate::kafka::data::init_producer_id::ProducerIds;
use crate::kafka::dispatch::Dispatch;
use crate::kafka::listener::{ConnectionLimits, Door};
use crate::kafka::memory::ByteBudget;
use crate::metrics::Metrics;
use doors::Doors;
use figures::BucketFigures;
pub use world::World;

/// A node that serves.
pub struct Node {
    config: Arc<Config>,
    shown: Shown,
    doors: Doors,
    listeners: Vec<Arc<OpenListener>>,
    start_took: Duration,
    coordinator: Coordinator,
    coordinator_task: Mutex<CoordinatorTask>,
    registered: RegisteredBroker,
    door: Arc<Door<Dispatch>>,
    stop_kafka: CancellationToken,
}

impl Node {
    /// Starts a node in the world of this machine.
    ///
    /// # Errors
    /// Why it cannot serve.
    pub async fn start(config: Arc<Config>) -> Result<Self, FirnError> {
        Self::start_in(World::of_machine(), config).await
    }

    /// Starts a node: opens the bucket, takes the journal over, takes up what earlier processes of
    /// this broker left, and only then opens its doors.
    ///
    /// # Errors
    /// Why it cannot serve.
    pub async fn start_in(world: World, config: Arc<Config>) -> Result<Self, FirnError> {
        let began = world.clock.mono();
        let shown = Shown {
            health: Arc::new(Health::new()),
            metrics: Arc::new(Metrics::new()),
        };
        let mut doors = Doors::open(&config, &shown).await?;
        shown.health.starting("opening the bucket");
        let bucket = match world.bucket.clone() {
            Some(bucket) => bucket,
            None => bucket::open(&config.bucket, &world.clock, &world.entropy).await?,
        };
        shown.metrics.collect_from(BucketFigures(bucket.clone()));

        shown.health.starting("taking the journal over");
        let env = StreamEnv {
            clock: Arc::clone(&world.clock),
            entropy: Arc::clone(&world.entropy),
        };
        let (coordinator, coordinator_task) = lead(&config, &bucket, &env).await?;
        let registered = register(&config, &doors, &coordinator).await?;

        let reader = open_reader(&config, &bucket, registered.cluster).await?;
        let stop_kafka = CancellationToken::new();
        let listeners = doors.listeners();
        let context = Context {
            config: Arc::clone(&config),
            clock: Arc::clone(&world.clock),
            entropy: Arc::clone(&world.entropy),
            metrics: Arc::clone(&shown.metrics),
            cluster: registered.cluster,
            broker: registered.broker,
            incarnation: registered.incarnation,
            reader,
            coordinator: coordinator.clone(),
            image: coordinator.image(),
            producer_ids: ProducerIds::default(),
        };
        let door = open_kafka(&config, context, &mut doors, &stop_kafka);
        shown.health.serving();
        shown.metrics.ready.set(1);
        let start_took = world.clock.mono().since(began);
        for listener in &listeners {
            let (name, bound, advertised) = (&listener.name, listener.bound, &listener.advertised);
            tracing::info!(name, %bound, %advertised, "kafka listener open");
        }
        tracing::info!(
            broker = registered.broker.0,
            incarnation = registered.incarnation.0,
            cluster = %registered.cluster,
            took_ms = start_took.as_millis(),
            "ready"
        );
        Ok(Self {
            config,
            shown,
            doors,
            listeners,
            start_took,
            coordinator,
            coordinator_task: Mutex::new(coordinator_task),
            registered,
            door,
            stop_kafka,
        })
    }

    /// The address that clients of the first listener are told.
    pub fn kafka(&self) -> Option<&HostPort> {
        self.listeners.first().map(|listener| &listener.advertised)
    }

    /// Every open listener.
    pub fn listeners(&self) -> &[Arc<OpenListener>] {
        &self.listeners
    }

    /// Where health and figures are shown.
    pub fn http(&self) -> Option<SocketAddr> {
        self.doors.http
    }

    /// From the call to start until everything was served.
    pub fn start_took(&self) -> Duration {
        self.start_took
    }

    /// Resolves when the node cannot go on, with the reason. Cancellation safe.
    pub async fn failed(&self) -> FirnError {
        match self.coordinator_task.lock().await.ended().await {
            Ok(()) => FirnError::failed("the coordinator has stopped", "nobody asked it to"),
            Err(reason) => coordinator_ended(&reason),
        }
    }

    /// Stops in order: no more connections and requests, answers to those in progress, leave the
    /// cluster, close the journal.
    ///
    /// # Errors
    /// Something did not become durable in time. Nothing that was acknowledged is lost.
    pub async fn stop(self) -> Result<(), FirnError> {
        tracing::info!("stopping");
        self.shown.health.stopping();
        self.shown.metrics.ready.set(0);
        self.stop_kafka.cancel();
        let patience = self.config.shutdown_timeout;
        let stopped = timeout(patience, self.leave()).await;
        stopped.unwrap_or_else(|_| {
            let reason = format!(
                "not done within {} s (shutdown.timeout.ms)",
                patience.as_secs()
            );
            Err(FirnError::failed("the stop was cut short", reason))
        })
    }

    async fn leave(&self) -> Result<(), FirnError> {
        self.door.drained().await;
        let leave = Request::LeaveBroker(self.registered.incarnation);
        call(&self.coordinator, leave).await?;
        self.coordinator.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Takes the journal over and starts the coordinator.
async fn lead(
    config: &Config,
    bucket: &Bucket,
    env: &StreamEnv,
) -> Result<(Coordinator, CoordinatorTask), FirnError> {
    let millis = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    let coordinator = CoordinatorConfig {
        groups: GroupConfig {
            session_timeout_ms_min: millis(config.groups.session_timeout_min),
            session_timeout_ms_max: millis(config.groups.session_timeout_max),
            initial_rebalance_delay: config.groups.initial_rebalance_delay,
            members_max: config.groups.size_max,
            offsets_retention: config.groups.offsets_retention,
        },
        puts_per_second: (bucket.kind() == BucketKind::S3).then_some(JOURNAL_PUTS_PER_SECOND),
        ..CoordinatorConfig::default()
    };
    let opener = Arc::new(BucketJournal::new(bucket.clone(), env.clone()));
    let environment = Environment {
        clock: Arc::clone(&env.clock),
        entropy: Arc::clone(&env.entropy),
    };
    Coordinator::start(opener, coordinator, environment)
        .await
        .map_err(|reason| coordinator_ended(&reason))
}

fn coordinator_ended(reason: &EndReason) -> FirnError {
    match reason {
        EndReason::Journal(JournalError::Fenced { .. }) => FirnError::Fenced(reason.to_string()),
        reason => FirnError::failed("the journal cannot be used", reason),
    }
}

async fn register(
    config: &Config,
    doors: &Doors,
    coordinator: &Coordinator,
) -> Result<RegisteredBroker, FirnError> {
    let request = RegisterBroker {
        broker: Some(config.broker_id),
        listeners: doors.advertised(config),
        rack: config.rack.clone(),
        disk: None,
    };
    match call(coordinator, Request::RegisterBroker(request)).await? {
        Reply::RegisterBroker(registered) => Ok(registered),
        _ => Err(unexpected("RegisterBroker")),
    }
}

/// Opens the caches and what reads through them.
async fn open_reader(
    config: &Config,
    bucket: &Bucket,
    cluster: ClusterId,
) -> Result<Reader, FirnError> {
    let disk = config.cache.disk_dir.clone().map(|directory| DiskSpace {
        directory,
        bytes: config.cache.disk_bytes,
        cluster,
    });
    let cache = FoyerCache::open(config.cache.memory_bytes, disk.as_ref())
        .await
        .map_err(|e| FirnError::disk("cannot open the cache (cache.disk.dir)", e))?;
    let tail = Arc::new(TailCache::new(config.cache.tail_bytes));
    Ok(Reader::new(
        tail,
        CachedObjects::new(bucket.clone(), cache.shared()),
    ))
}

/// Opens the Kafka door: from now on clients are served.
fn open_kafka(
    config: &Config,
    context: Context,
    doors: &mut Doors,
    stop: &CancellationToken,
) -> Arc<Door<Dispatch>> {
    let limits = &config.connections;
    let shared = Shared {
        memory: ByteBudget::new(limits.requests_bytes_max),
        clock: Arc::clone(&context.clock),
        metrics: Arc::clone(&context.metrics),
        request_bytes_max: limits.request_bytes_max,
        idle_max: limits.idle_max,
        stop: stop.clone(),
        service: Dispatch::new(Arc::new(context)),
    };
    let limits = ConnectionLimits {
        count_max: limits.count_max,
        count_per_ip_max: limits.count_per_ip_max,
    };
    let door = Arc::new(Door::new(shared, limits));
    for bound in doors.kafka.drain(..) {
        tokio::spawn(Arc::clone(&door).serve(bound));
    }
    door
}

/// Asks the coordinator; an answer that does not come ends a start or a stop.
async fn call(coordinator: &Coordinator, request: Request) -> Result<Reply, FirnError> {
    let reply = coordinator.call(request).await;
    reply.map_err(|e| FirnError::failed("the coordinator does not answer", e))
}

/// The coordinator answered another question.
fn unexpected(request: &str) -> FirnError {
    FirnError::failed(
        format!("{request} has the wrong reply"),
        "this is a bug; please report it",
    )
}

/// Journal puts of a busy coordinator on a store where requests cost money.
const JOURNAL_PUTS_PER_SECOND: u32 = 10;
