//! A node: the only place that wires the parts of the process together, starts them in order and
//! stops them in order. Time, randomness and the bucket enter here and are handed down.
//!
//! - `world.rs`: what a node takes from the world around it
//! - `doors.rs`: its sockets
//! - `bucket.rs`: the bucket at start
//! - `cluster.rs`: its links to the other processes, and its seat among them
//! - `cards.rs`: cards of processes that have ended leave the bucket
//! - `drain.rs`: partitions go to other brokers before a stop
//! - `parts.rs`: local WAL, WAL, reader, each built from those before it
//! - `takeover.rs`: who this process is, and its last words
//! - `reminder.rs`: when to say again that something is waited for
//! - `recovery.rs`: what the local WAL holds more of than the bucket
//! - `lost.rs`: what of that cannot be brought back
//! - `own_disk.rs`: what comes to wait for this disk later, and is not on it
//! - `ownership/`: partitions that come and go
//! - `rows.rs`: state rows on their way into the stream, and to the coordinator
//! - `clock_watch.rs`: whether the store still takes the time of this machine
//! - `seal_watch.rs`: whether others have taken this process for dead
//! - `archiver.rs`: what archives the partitions
//! - `keeper.rs`: checkpoints, progress, and noticing that the bucket stands still
//! - `sink.rs`: where the WAL tells what is durable
//! - `figures.rs`: figures read from where they are counted

mod archiver;
mod bucket;
mod cards;
mod clock_watch;
mod cluster;
mod doors;
mod drain;
mod figures;
mod keeper;
mod lost;
mod own_disk;
mod ownership;
mod parts;
mod recovery;
mod reminder;
mod rows;
mod seal_watch;
mod sink;
mod takeover;
mod world;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use firn_coordinator::{Coordinator, CoordinatorTask};
use firn_proto::cluster::{RegisteredBroker, Request};
use firn_proto::env::Entropy;
use firn_proto::limits::PRODUCES_HELD_MAX;
use firn_storage::bucket::{Bucket, BucketKind};
use firn_storage::cache::TailCache;
use firn_storage::collect::OwnCheckpoints;
use firn_storage::read::Reader;
use firn_storage::stream::{StreamEnv, StreamName};
use firn_storage::wal::Wal;
use firn_storage::wal::local::{LocalWal, Recovered};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::archive::ArchiveTask;
use crate::collection::{CollectionCounts, Collector};
use crate::config::{Config, HostPort};
use crate::error::FirnError;
use crate::http::{Health, Shown};
use crate::kafka::connection::Shared;
use crate::kafka::context::{Context, OpenListener};
use crate::kafka::data::fetch_session::FetchSessions;
use crate::kafka::data::init_producer_id::ProducerIds;
use crate::kafka::dispatch::Dispatch;
use crate::kafka::listener::{ConnectionLimits, Door};
use crate::kafka::memory::{FetchMemory, RequestMemory};
use crate::link::{LinkCollector, LinkFigures};
use crate::log_starts::LogStarts;
use crate::metrics::Metrics;
use crate::partition::Partitions;
use crate::read_replica::{OwnedPartitions, Readers};
use crate::recovery::{DiskWaiters, DiskWaits, KnownStates, RecoveryDriver};
use crate::retention::{PageWriter, Retainer};
use crate::segment_map::SegmentMap;
use cluster::{Cluster, OwnCard, Seated};
use doors::Doors;
use figures::{
    BucketFigures, ClusterFigures, GarbageFigures, ReadFigures, RequestFigures, RuntimeFigures,
    WalFigures,
};
use keeper::Keeper;
use own_disk::OwnDiskWatch;
use ownership::{Follower, Movers};
use parts::{call_again, coordinator_gone, wal_ended};
use recovery::Recovery;
use rows::StateRows;
use seal_watch::SealWatch;
use sink::NodeSink;
pub use world::World;

/// A node that serves.
pub struct Node {
    config: Arc<Config>,
    shown: Shown,
    bucket: Bucket,
    doors: Doors,
    listeners: Vec<Arc<OpenListener>>,
    start_took: Duration,
    parts: Parts,
    door: Arc<Door<Dispatch>>,
    stop_kafka: CancellationToken,
    keepers: JoinSet<()>,
    archiver: ArchiveTask,
}

/// The parts that serve.
struct Parts {
    cluster: Cluster,
    coordinator: Coordinator,
    coordinator_task: Mutex<CoordinatorTask>,
    entropy: Arc<Entropy>,
    registered: RegisteredBroker,
    partitions: Arc<Partitions>,
    wal: Wal,
    rows: Arc<StateRows>,
    known: Arc<KnownStates>,
    /// The checkpoint objects that this process has written.
    checkpoints: Arc<std::sync::Mutex<OwnCheckpoints>>,
    /// Cancelled when the cluster has taken this process for dead.
    fenced: CancellationToken,
}

/// What several parts know of the archive.
struct Archive {
    segments: Arc<SegmentMap>,
    log_starts: LogStarts,
}

impl Archive {
    fn new(parts: &Parts, reader: &Reader, entropy: &Arc<Entropy>) -> Self {
        let coordinator = &parts.coordinator;
        let segments = Arc::new(SegmentMap::new(coordinator.clone(), reader.clone()));
        let incarnation = parts.registered.incarnation;
        let log_starts = LogStarts::new(
            coordinator.clone(),
            Arc::clone(entropy),
            incarnation,
            Arc::clone(&segments),
        );
        Self {
            segments,
            log_starts,
        }
    }
}

impl Node {
    /// Starts a node in the world of this machine.
    ///
    /// # Errors
    /// Why it cannot serve.
    pub async fn start(config: Arc<Config>) -> Result<Self, FirnError> {
        Self::start_in(World::of_machine(), config).await
    }

    /// Starts a node: opens the bucket and the directories of this machine, takes the journal over,
    /// takes up what earlier processes of this broker left, and only then opens its doors.
    ///
    /// # Errors
    /// Why it cannot serve.
    pub async fn start_in(world: World, config: Arc<Config>) -> Result<Self, FirnError> {
        let began = world.clock.mono();
        let shown = Shown {
            health: Arc::new(Health::new()),
            metrics: Arc::new(Metrics::new()),
            archive: Arc::default(),
            cluster: Arc::default(),
            waiters: Arc::default(),
        };
        let mut doors = Doors::open(&config, &shown).await?;
        let listeners = doors.listeners();
        let starting = Starting {
            world,
            config: Arc::clone(&config),
            shown: shown.clone(),
            card: OnceLock::new(),
        };
        let bucket = starting.open_bucket().await?;
        let assembled = match starting.assemble(&bucket, &doors).await {
            Ok(assembled) => assembled,
            Err(error) => return Err(starting.give_up(error).await),
        };
        let stop_kafka = CancellationToken::new();
        let Assembled {
            context,
            parts,
            keepers,
            archiver,
        } = assembled;
        let door = open_kafka(&config, context, &mut doors, &stop_kafka);
        if let Err(error) = starting.take_part(&bucket, &parts).await {
            return Err(starting.give_up(error).await);
        }
        shown.health.serving();
        shown.metrics.ready.set(1);
        let start_took = starting.world.clock.mono().since(began);
        let node = Self {
            config,
            shown,
            bucket,
            doors,
            listeners,
            start_took,
            parts,
            door,
            stop_kafka,
            keepers,
            archiver,
        };
        node.log_start();
        Ok(node)
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
        let coordinator = async { self.parts.coordinator_task.lock().await.ended().await };
        tokio::select! {
            ended = coordinator => coordinator_gone(ended),
            error = self.parts.wal.failed() => wal_ended(&error),
            error = clock_watch::clock_off(&self.bucket, &self.config.bucket.url) => error,
            () = self.parts.fenced.cancelled() => FirnError::Fenced(
                "the cluster has taken this process for dead, or another one was started with its \
                 broker id".to_owned(),
            ),
        }
    }

    /// What a process that ends because of `error` has to say: of one that lost its place, where
    /// records may be that are nowhere else.
    pub fn last_words(&self, error: FirnError) -> FirnError {
        takeover::last_words(error, &self.config)
    }

    /// Stops in order: partitions to other brokers if there are any, no more connections and requests, everything that was taken in durable and
    /// answered, state rows written, the cluster left, the journal closed.
    ///
    /// # Errors
    /// Something did not become durable in time. Nothing that was acknowledged is lost.
    pub async fn stop(mut self) -> Result<(), FirnError> {
        tracing::info!("stopping");
        self.shown.health.stopping();
        self.shown.metrics.ready.set(0);
        let patience = self.config.shutdown_timeout;
        let stopped = timeout(patience, async {
            let (coordinator, own) = (&self.parts.coordinator, &self.parts.registered);
            let draining = drain::drain(coordinator, &self.parts.entropy, own);
            if timeout(patience / 2, draining).await.is_err() {
                tracing::warn!("some partitions did not go to another broker in time");
            }
            self.leave().await
        });
        stopped.await.unwrap_or_else(|_| {
            let reason = format!(
                "not done within {} s (shutdown.timeout.ms)",
                patience.as_secs()
            );
            Err(FirnError::failed("the stop was cut short", reason))
        })
    }

    async fn leave(&mut self) -> Result<(), FirnError> {
        let Parts {
            cluster,
            coordinator,
            registered,
            partitions,
            wal,
            entropy,
            ..
        } = &self.parts;
        self.stop_kafka.cancel();
        tokio::join!(self.door.drained(), wal.flush(), self.archiver.stop());
        self.keepers.shutdown().await;
        // What the last requests pushed while their connections ended: the last state rows must be
        // the state after a slot, so nothing may be in flight when they are taken (I8).
        wal.flush().await;
        let report = keeper::last_report(&self.parts).await?;
        partitions.close_all();
        wal.close().await.map_err(|e| wal_ended(&e))?;
        // a leader that is lost meanwhile is no reason to leave anything to be recovered
        let leave = Request::LeaveBroker(registered.incarnation);
        for last in [Request::ReportProgress(report), leave] {
            call_again(coordinator, entropy, last).await?;
        }
        coordinator.close().await;
        cluster.leave().await;
        tracing::info!("stopped");
        Ok(())
    }

    fn log_start(&self) {
        for listener in &self.listeners {
            let (name, bound, advertised) = (&listener.name, listener.bound, &listener.advertised);
            tracing::info!(name, %bound, %advertised, "kafka listener open");
        }
        let registered = &self.parts.registered;
        tracing::info!(
            broker = registered.broker.0,
            incarnation = registered.incarnation.0,
            cluster = %registered.cluster,
            partitions = self.parts.partitions.len(),
            took_ms = self.start_took.as_millis(),
            "ready"
        );
    }
}

/// A node that does not serve yet.
struct Starting {
    world: World,
    config: Arc<Config>,
    shown: Shown,
    /// The card of this process, once that lies in the bucket.
    card: OnceLock<OwnCard>,
}

/// What there is once everything is started but the doors.
struct Assembled {
    context: Context,
    parts: Parts,
    keepers: JoinSet<()>,
    archiver: ArchiveTask,
}

/// A start that has the journal, and of this machine what it needs.
struct Led {
    seated: Seated,
    local: Option<(LocalWal, Recovered)>,
    tail: Arc<TailCache>,
    reader: Reader,
}

impl Starting {
    async fn open_bucket(&self) -> Result<Bucket, FirnError> {
        let World {
            clock,
            entropy,
            bucket,
            ..
        } = &self.world;
        self.shown.health.starting("opening the bucket");
        let bucket = match bucket.clone() {
            Some(bucket) => bucket,
            None => bucket::connect(&self.config.bucket, clock, entropy).await?,
        };
        let figures = BucketFigures(bucket.clone());
        self.shown.metrics.collect_from(figures);
        let figures = RuntimeFigures(Handle::current().metrics());
        self.shown.metrics.collect_from(figures);
        Ok(bucket)
    }

    /// Everything up to the doors.
    async fn assemble(&self, bucket: &Bucket, doors: &Doors) -> Result<Assembled, FirnError> {
        let Self {
            world,
            config,
            shown,
            ..
        } = self;
        let stage = |what| shown.health.starting(what);
        let env = StreamEnv {
            clock: Arc::clone(&world.clock),
            entropy: Arc::clone(&world.entropy),
        };
        let led = self.lead(bucket, doors, &env).await?;
        let Seated {
            cluster,
            coordinator,
            mut task,
        } = led.seated;
        let (tail, reader) = (led.tail, led.reader);
        let (local, recovered) = led.local.unzip();
        let disk = recovered.as_ref().map(|recovered| recovered.disk());
        let link = cluster.link();
        let register = parts::register(config, doors, disk, link, &coordinator, &world.entropy);
        let register = bucket::while_it_answers(&config.bucket, bucket, &world.clock, register);
        let registered = tokio::select! {
            biased;
            ended = task.ended() => return Err(coordinator_gone(ended)),
            registered = register => registered?,
        };

        let partitions = Arc::new(Partitions::new(
            Arc::clone(&world.clock),
            tail,
            config.producer_memory_bytes,
        ));
        let (may_ack, clock) = (coordinator.clone(), Arc::clone(&world.clock));
        partitions.gate_local(move || may_ack.is_read(clock.mono()));
        let sink = Arc::new(NodeSink::new(
            Arc::clone(&partitions),
            Arc::clone(&world.clock),
        ));
        let wal = parts::start_wal(config, bucket, &registered, local, &sink, &env)?;
        partitions.attach(wal.clone());
        shown.metrics.collect_from(WalFigures(wal.clone()));
        let read_figures = ReadFigures {
            reader: reader.clone(),
            partitions: Arc::clone(&partitions),
        };
        shown.metrics.collect_from(read_figures);

        let checkpoints = Arc::default();
        let rows = StateRows::new(
            wal.clone(),
            Arc::clone(&partitions),
            Arc::clone(&checkpoints),
        );
        let parts = Parts {
            coordinator,
            cluster,
            coordinator_task: Mutex::new(task),
            entropy: Arc::clone(&world.entropy),
            registered,
            partitions,
            wal,
            rows: Arc::new(rows),
            known: Arc::default(),
            checkpoints,
            fenced: CancellationToken::new(),
        };
        stage("taking up what earlier processes left");
        let take_up = self.take_up(bucket, &parts, &env, &sink, recovered);
        let (follower, driver, own_disk) =
            bucket::while_it_answers(&config.bucket, bucket, &world.clock, take_up).await?;
        // there is one start, and so one way to the coordinator
        drop(shown.cluster.set(parts.coordinator.clone()));
        let waiters = DiskWaiters::new(
            bucket.clone(),
            parts.coordinator.clone(),
            parts.registered.cluster,
            Arc::clone(&world.clock),
        );
        drop(shown.waiters.set(waiters));
        let figures = ClusterFigures(parts.coordinator.clone());
        shown.metrics.collect_from(figures);
        parts.cluster.show(self.owned(&parts));
        let archive = Archive::new(&parts, &reader, &world.entropy);
        let mut keepers = self.keep(bucket, &parts, &archive);
        keepers.spawn(follower.run(parts.coordinator.image()));
        keepers.spawn(driver.run());
        if let Some(watch) = own_disk {
            keepers.spawn(watch.run());
        }
        let archiver = self.archive(&parts, bucket, &reader);
        Ok(Assembled {
            context: self.context(&parts, archive, reader),
            parts,
            keepers,
            archiver,
        })
    }

    /// Takes up what earlier processes left: what only the disk of this one has; as leader, what no
    /// disk is waited for; and in the end what this process owns.
    async fn take_up(
        &self,
        bucket: &Bucket,
        parts: &Parts,
        env: &StreamEnv,
        sink: &NodeSink,
        recovered: Option<Recovered>,
    ) -> Result<(Follower, RecoveryDriver, Option<OwnDiskWatch>), FirnError> {
        let mut driver = RecoveryDriver {
            bucket: bucket.clone(),
            coordinator: parts.coordinator.clone(),
            cluster: parts.registered.cluster,
            incarnation: parts.registered.incarnation,
            env: env.clone(),
            known: Arc::clone(&parts.known),
            disks: DiskWaits::new(self.config.recovery_disk_wait),
            damaged: BTreeSet::new(),
            unplaced: Vec::new(),
        };
        let movers = Movers {
            bucket: bucket.clone(),
            cluster: parts.registered.cluster,
            incarnation: parts.registered.incarnation,
            stream: parts.registered.stream,
            coordinator: parts.coordinator.clone(),
            partitions: Arc::clone(&parts.partitions),
            rows: Arc::clone(&parts.rows),
            wal: parts.wal.clone(),
            known: Arc::clone(&parts.known),
            env: env.clone(),
            has_local_wal: self.config.wal_dir().is_some(),
        };
        let mut follower = Follower::new(Arc::new(movers), parts.fenced.clone());
        let mut own_disk = None;
        let take_up = async {
            if let Some(recovered) = recovered {
                let recovery = Recovery {
                    bucket,
                    coordinator: &parts.coordinator,
                    registered: &parts.registered,
                    env,
                    wal: &parts.wal,
                    sink,
                    rows: &parts.rows,
                    known: &parts.known,
                    metrics: &self.shown.metrics,
                };
                let taken_up = recovery.run(recovered).await?;
                follower.on_ended(taken_up.ended);
                driver.unplaced = taken_up.unplaced;
                own_disk = taken_up.own.map(|own| OwnDiskWatch {
                    bucket: bucket.clone(),
                    coordinator: parts.coordinator.clone(),
                    registered: parts.registered.clone(),
                    env: env.clone(),
                    known: Arc::clone(&parts.known),
                    own,
                });
            }
            if parts.coordinator.leads().is_none() {
                driver.hold_at_leader().await;
            } else if let Err(error) = driver.pass().await {
                tracing::error!(%error, "some partitions of ended processes wait, the others go on");
            }
            follower.settle(&parts.coordinator.image()).await;
            Ok::<_, FirnError>(())
        };
        let mut task = parts.coordinator_task.lock().await;
        tokio::select! {
            biased;
            ended = task.ended() => return Err(coordinator_gone(ended)),
            taken_up = take_up => taken_up?,
            ended = parts.wal.failed() => return Err(wal_ended(&ended)),
        }
        Ok((follower, driver, own_disk))
    }

    /// Says that this process serves, so that it is given partitions: from now on it opens at once
    /// what it gets. Without the role of a broker it drains from the beginning.
    async fn take_part(&self, bucket: &Bucket, parts: &Parts) -> Result<(), FirnError> {
        let told = parts::take_part(&self.config, parts);
        bucket::while_it_answers(&self.config.bucket, bucket, &self.world.clock, told).await
    }

    /// The end of a start that failed: nobody is to look for this process any more.
    async fn give_up(&self, error: FirnError) -> FirnError {
        if let Some(card) = self.card.get() {
            card.forget().await;
        }
        takeover::last_words(error, &self.config)
    }

    /// Takes the journal over in a bucket that has proved itself. A local directory proves itself
    /// meanwhile, since both wait for its disk; nothing is served unless it does.
    async fn lead(
        &self,
        bucket: &Bucket,
        doors: &Doors,
        env: &StreamEnv,
    ) -> Result<Led, FirnError> {
        let prove = bucket::prove(&self.config.bucket, bucket, &env.clock, &env.entropy);
        let lead = self.claim(bucket, doors, env);
        let lead = bucket::while_it_answers(&self.config.bucket, bucket, &env.clock, lead);
        if bucket.kind() == BucketKind::S3 {
            prove.await?;
            return lead.await;
        }
        let ((), led) = tokio::try_join!(prove, lead)?;
        Ok(led)
    }

    /// Takes what this process needs of its machine, and then the journal. The claim ends whichever
    /// process leads now, so that what can fail has to fail before it.
    async fn claim(
        &self,
        bucket: &Bucket,
        doors: &Doors,
        env: &StreamEnv,
    ) -> Result<Led, FirnError> {
        let (config, health) = (&self.config, &self.shown.health);
        let cluster = parts::cluster(config, bucket, env).await?;
        health.starting("reading the local wal");
        let local = parts::open_local_wal(config, cluster, &env.entropy).await?;
        let tail = Arc::new(TailCache::new(config.cache.tail_bytes));
        let reader = parts::open_reader(config, bucket, cluster, &tail).await?;
        health.starting("looking for the leader of the cluster");
        let seated = {
            let who = (cluster, self.world.process.clone());
            let figures = Arc::new(LinkFigures::new(Arc::clone(&env.clock)));
            let collector = LinkCollector(Arc::clone(&figures));
            self.shown.metrics.collect_from(collector);
            Cluster::join(config, doors, bucket, who, env, &self.card, figures).await?
        };
        Ok(Led {
            seated,
            local,
            tail,
            reader,
        })
    }

    fn keep(&self, bucket: &Bucket, parts: &Parts, archive: &Archive) -> JoinSet<()> {
        let mut keepers = JoinSet::new();
        keepers.spawn(Keeper::new(parts, archive, self).run());
        keepers.spawn(self.retainer(bucket, parts, archive).run());
        keepers.spawn(self.collector(bucket, parts).run());
        keepers.spawn(self.seal_watch(bucket, parts).run());
        keepers
    }

    fn seal_watch(&self, bucket: &Bucket, parts: &Parts) -> SealWatch {
        let registered = &parts.registered;
        SealWatch {
            bucket: bucket.clone(),
            stream: StreamName::wal(registered.cluster, registered.stream),
            wal: parts.wal.clone(),
            partitions: Arc::clone(&parts.partitions),
            coordinator: parts.coordinator.clone(),
            clock: Arc::clone(&self.world.clock),
            fenced: parts.fenced.clone(),
        }
    }

    fn retainer(&self, bucket: &Bucket, parts: &Parts, archive: &Archive) -> Retainer {
        Retainer {
            partitions: Arc::clone(&parts.partitions),
            segments: Arc::clone(&archive.segments),
            log_starts: archive.log_starts.clone(),
            pages: PageWriter {
                bucket: bucket.clone(),
                entropy: Arc::clone(&self.world.entropy),
                segments: Arc::clone(&archive.segments),
                coordinator: parts.coordinator.clone(),
                incarnation: parts.registered.incarnation,
                next: AtomicU64::new(0),
            },
            image: parts.coordinator.image(),
            clock: Arc::clone(&self.world.clock),
            every: self.config.retention_check_interval,
        }
    }

    fn collector(&self, bucket: &Bucket, parts: &Parts) -> Collector {
        let counts = Arc::<CollectionCounts>::default();
        let figures = GarbageFigures(Arc::clone(&counts));
        self.shown.metrics.collect_from(figures);
        Collector {
            bucket: bucket.clone(),
            coordinator: parts.coordinator.clone(),
            stream: parts.registered.stream,
            checkpoints: Arc::clone(&parts.checkpoints),
            clock: Arc::clone(&self.world.clock),
            started: self.world.clock.mono(),
            orphans_after: self.config.collection_orphans_delay,
            every: self.config.collection_interval,
            counts,
        }
    }

    /// What other brokers are told of the partitions of this one.
    fn owned(&self, parts: &Parts) -> OwnedPartitions {
        OwnedPartitions::new(
            Arc::clone(&parts.partitions),
            parts.registered.incarnation,
            parts.coordinator.clone(),
            Arc::clone(&self.world.clock),
        )
    }

    fn context(&self, parts: &Parts, archive: Archive, reader: Reader) -> Context {
        let limits = &self.config.connections;
        Context {
            config: Arc::clone(&self.config),
            clock: Arc::clone(&self.world.clock),
            entropy: Arc::clone(&self.world.entropy),
            metrics: Arc::clone(&self.shown.metrics),
            cluster: parts.registered.cluster,
            broker: parts.registered.broker,
            incarnation: parts.registered.incarnation,
            reader,
            partitions: Arc::clone(&parts.partitions),
            segments: archive.segments,
            log_starts: archive.log_starts,
            wal: parts.wal.clone(),
            image: parts.coordinator.image(),
            coordinator: parts.coordinator.clone(),
            producer_ids: ProducerIds::default(),
            config_lists: Mutex::default(),
            fetch_sessions: std::sync::Mutex::new(FetchSessions::new()),
            readers: Readers::new(
                parts.cluster.owners(),
                Arc::clone(&self.world.clock),
                Arc::clone(&self.shown.metrics),
            ),
            sent_away: std::sync::Mutex::default(),
            transactions_refused: std::sync::Mutex::default(),
            produces_held: Semaphore::new(PRODUCES_HELD_MAX),
            request_memory: RequestMemory::new(
                limits.produces_bytes_max,
                limits.requests_bytes_max,
            ),
            fetch_memory: FetchMemory::new(limits.fetches_bytes_max),
        }
    }
}

/// Opens the Kafka door: from now on clients are served.
fn open_kafka(
    config: &Config,
    context: Context,
    doors: &mut Doors,
    stop: &CancellationToken,
) -> Arc<Door<Dispatch>> {
    let limits = &config.connections;
    let memory = context.request_memory.clone();
    let figures = RequestFigures(memory.clone());
    context.metrics.collect_from(figures);
    let shared = Shared {
        memory,
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
