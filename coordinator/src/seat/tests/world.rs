//! Processes in memory: what `Peers` is to them, and how they die and are cut off.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use firn_proto::cluster::{
    Beat, BrokerImage, CoordinatorError, LinkAddress, ListGroups, NewTopic, RegisterBroker, Reply,
    Request,
};
use firn_proto::codec;
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::ids::{BrokerId, CoordinatorEpoch, Fingerprint};
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::followed::{Followed, FollowerBeats};
use crate::handle::{Coordinator, CoordinatorConfig, CoordinatorTask, EndReason};
use crate::peers::{
    FromLeader, LeaderLink, PeerAnswer, PeerError, Peers, Probed, ProcessCard, ProcessProof,
};
use crate::seat::decode_card;
use crate::testing::{MemoryBucket, TestClock, environment_and_clock};

/// How long the network takes to notice anything.
const NETWORK_WAIT: Duration = Duration::from_millis(50);

struct Process {
    coordinator: Coordinator,
    task: Option<CoordinatorTask>,
    /// What it runs in its seat stands still; its links go on.
    is_stuck: watch::Sender<bool>,
    bucket: MemoryBucket,
    lives: bool,
    is_cut: bool,
    /// Pictures do not reach it, but beats do.
    lacks_pictures: bool,
    /// Whether its card lies in the bucket, if that says so.
    has_card: Option<bool>,
}

#[derive(Clone)]
struct Network {
    processes: Arc<Mutex<Vec<Process>>>,
    /// All run on one machine, and see who is gone.
    one_machine: bool,
}

/// A cluster.
pub(super) struct World {
    pub(super) bucket: MemoryBucket,
    network: Network,
    /// Which process has which place.
    places: Vec<usize>,
    clock: Arc<TestClock>,
}

impl Network {
    fn all(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap()
    }

    fn reaches(&self, a: usize, b: usize) -> bool {
        let all = self.all();
        let up = |n: usize| all[n].lives && !all[n].is_cut;
        a == b || (up(a) && up(b))
    }

    fn is_forgotten(&self, n: usize) -> bool {
        self.all()[n].has_card == Some(false)
    }

    fn coordinator(&self, n: usize) -> Coordinator {
        self.all()[n].coordinator.clone()
    }
}

fn number(fingerprint: Fingerprint) -> usize {
    usize::from(u16::from_be_bytes([fingerprint.0[0], fingerprint.0[1]]))
}

fn link_of(n: usize) -> LinkAddress {
    let mut fingerprint = Fingerprint::default();
    fingerprint.0[..2].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
    LinkAddress {
        host: "memory".to_owned(),
        port: 1,
        fingerprint,
    }
}

fn card_of(n: usize) -> ProcessCard {
    ProcessCard {
        broker: None,
        link: link_of(n),
        listeners: Vec::new(),
        process: ProcessProof {
            boot: String::new(),
            namespaces: String::new(),
            pid: n as u32,
            started: 0,
        },
        shown: format!("process {n}"),
    }
}

impl World {
    pub(super) fn new(one_machine: bool) -> Self {
        Self {
            bucket: MemoryBucket::default(),
            network: Network {
                processes: Arc::default(),
                one_machine,
            },
            places: Vec::new(),
            clock: environment_and_clock().1,
        }
    }

    pub(super) fn now(&self) -> Mono {
        self.clock.mono()
    }

    pub(super) async fn start_many(&mut self, count: usize) {
        for _ in 0..count {
            self.start().await;
        }
    }

    /// Starts a process that never leads; its place.
    pub(super) fn start_follower(&mut self) -> usize {
        let number = self.launch_as(true);
        self.places.push(number);
        self.places.len() - 1
    }

    /// Starts a process; its place.
    pub(super) async fn start(&mut self) -> usize {
        let number = self.launch();
        self.places.push(number);
        let mut image = self.network.coordinator(number).image();
        image.wait_for(|image| image.version > 0).await.unwrap();
        self.places.len() - 1
    }

    /// Starts a process and does not wait for it; its place.
    pub(super) fn launch_another(&mut self) -> usize {
        let number = self.launch();
        self.places.push(number);
        self.places.len() - 1
    }

    /// Starts a process and does not wait for it; its number.
    fn launch(&self) -> usize {
        self.launch_as(false)
    }

    fn launch_as(&self, never_leads: bool) -> usize {
        let (mut environment, _) = environment_and_clock();
        environment.clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        // As of processes: ids that they draw are never the same.
        let seed = self.network.all().len() as u64;
        environment.entropy = Arc::new(Entropy::from_seed(seed));
        let bucket = self.bucket.for_another(Arc::clone(&environment.clock));
        let (coordinator, seat) = Coordinator::vacant(environment);
        let number = {
            let mut all = self.network.all();
            all.push(Process {
                coordinator,
                task: None,
                is_stuck: watch::Sender::default(),
                bucket: bucket.clone(),
                lives: true,
                is_cut: false,
                lacks_pictures: false,
                has_card: None,
            });
            all.len() - 1
        };
        let config = CoordinatorConfig {
            identity: Bytes::from(codec::encode(&card_of(number)).unwrap()),
            start_timeout: Duration::from_secs(3600),
            never_leads,
            ..CoordinatorConfig::default()
        };
        let peers = Arc::new(MemoryPeers {
            own: number,
            network: self.network.clone(),
        });
        let sits = seat.sit(bucket.opener(), config, peers).run();
        let mut all = self.network.all();
        let process = &mut all[number];
        let runs = unless_stuck(sits, process.is_stuck.subscribe());
        process.task = Some(CoordinatorTask::new(tokio::spawn(runs)));
        number
    }

    /// The loop in the seat of a process stands still from now on, or goes on.
    pub(super) fn set_stuck(&self, place: usize, is_stuck: bool) {
        let all = self.network.all();
        let process = &all[self.places[place]];
        process.is_stuck.send_replace(is_stuck);
    }

    pub(super) fn kill(&self, place: usize) {
        let mut all = self.network.all();
        let process = &mut all[self.places[place]];
        process.lives = false;
        process.task.as_ref().unwrap().kill();
        // It asks the bucket for nothing any more.
        process.bucket.set_cut(true);
    }

    /// Kills a process and starts another in its place.
    pub(super) async fn replace(&mut self, place: usize) {
        self.kill(place);
        self.places[place] = self.launch();
    }

    pub(super) fn cut_links(&self, place: usize, is_cut: bool) {
        self.network.all()[self.places[place]].is_cut = is_cut;
    }

    /// Whether the bucket has the card of a process, as far as it says so. Those without one are
    /// refused by all others.
    pub(super) fn set_card(&self, place: usize, has_card: Option<bool>) {
        self.network.all()[self.places[place]].has_card = has_card;
    }

    /// Pictures are slow on their way to a process from now on, or arrive again.
    pub(super) fn hold_pictures(&self, place: usize, lacks_pictures: bool) {
        self.network.all()[self.places[place]].lacks_pictures = lacks_pictures;
    }

    /// Waits for the end of a process that ends by itself.
    pub(super) async fn ended(&self, place: usize) -> Result<(), EndReason> {
        let task = self.network.all()[self.places[place]].task.take();
        task.unwrap().ended().await
    }

    pub(super) fn cut_bucket(&self, place: usize, is_cut: bool) {
        let all = self.network.all();
        let process = &all[self.places[place]];
        process.bucket.set_cut(is_cut);
    }

    /// Everybody who lives reaches everything.
    pub(super) fn heal(&self) {
        for place in 0..self.places.len() {
            self.cut_links(place, false);
            self.cut_bucket(place, false);
        }
    }

    pub(super) fn at(&self, place: usize) -> Coordinator {
        self.network.coordinator(self.places[place])
    }

    pub(super) fn link(&self, place: usize) -> LinkAddress {
        link_of(self.places[place])
    }

    /// The place of the process that says it leads the newest epoch.
    pub(super) fn leader(&self) -> Option<usize> {
        let newest = CoordinatorEpoch(self.bucket.claims() as u64);
        let all = self.network.all();
        let leads = |n: &usize| all[*n].lives && all[*n].coordinator.leads() == Some(newest);
        self.places.iter().position(leads)
    }

    /// The place of the process that claimed the newest epoch.
    pub(super) fn claimant(&self) -> usize {
        let newest = CoordinatorEpoch(self.bucket.claims() as u64);
        let claimed = self.bucket.claimed(newest).unwrap();
        let card = decode_card(&claimed.identity).unwrap();
        let number = number(card.link.fingerprint);
        self.places.iter().position(|n| *n == number).unwrap()
    }

    /// Time passes in which no process runs.
    pub(super) fn stand_still(&self, for_: Duration) {
        self.clock.stand_still(for_);
    }

    pub(super) fn spawn_ask(
        &self,
        place: usize,
        request: Request,
    ) -> JoinHandle<Result<Reply, CoordinatorError>> {
        let coordinator = self.at(place);
        tokio::spawn(async move { coordinator.call(request).await })
    }

    pub(super) async fn ask(
        &self,
        place: usize,
        request: Request,
    ) -> Result<Reply, CoordinatorError> {
        self.spawn_ask(place, request).await.unwrap()
    }

    /// The names of all topics, as the leader answers.
    pub(super) async fn read_topics(
        &self,
        place: usize,
        patience: Duration,
    ) -> Option<Vec<String>> {
        let names: Vec<_> = (0..60)
            .map(|round| new_topic(&format!("t{round}")))
            .collect();
        let read = Request::CreateTopics {
            topics: names,
            validate_only: true,
        };
        let answered = timeout(patience, self.spawn_ask(place, read)).await;
        let Ok(Ok(Ok(Reply::CreateTopics(checked)))) = answered else {
            return None;
        };
        let exists = checked.iter().enumerate().filter(|(_, free)| free.is_err());
        Some(exists.map(|(round, _)| format!("t{round}")).collect())
    }
}

/// Runs that, but for the time in which it is stuck.
async fn unless_stuck<T>(runs: impl Future<Output = T>, mut is_stuck: watch::Receiver<bool>) -> T {
    tokio::pin!(runs);
    loop {
        let stuck = async { is_stuck.wait_for(|is_stuck| *is_stuck).await.is_ok() };
        tokio::select! {
            biased;
            true = stuck => drop(is_stuck.wait_for(|is_stuck| !is_stuck).await),
            done = &mut runs => return done,
        }
    }
}

fn new_topic(name: &str) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: 1,
        replication_factor: 1,
        owners: Vec::new(),
        configs: Vec::new(),
    }
}

pub(super) fn create(name: &str) -> Request {
    Request::CreateTopics {
        topics: vec![new_topic(name)],
        validate_only: false,
    }
}

pub(super) fn create_many(name: &str, partitions: i32) -> Request {
    Request::CreateTopics {
        topics: vec![NewTopic {
            partitions,
            ..new_topic(name)
        }],
        validate_only: false,
    }
}

/// Where partitions are asked to go.
pub(super) fn moving(coordinator: &Coordinator) -> Vec<BrokerId> {
    let image = Arc::clone(&coordinator.image().borrow());
    let partitions = image.topics.values().flat_map(|topic| &topic.partitions);
    partitions
        .filter_map(|partition| partition.moving_to)
        .collect()
}

pub(super) fn list_groups() -> Request {
    Request::ListGroups(ListGroups::default())
}

pub(super) fn register(link: LinkAddress, broker: Option<BrokerId>) -> Request {
    Request::RegisterBroker(RegisterBroker {
        broker,
        listeners: Vec::new(),
        rack: None,
        disk: None,
        link: Some(link),
    })
}

pub(super) fn has_topic(coordinator: &Coordinator, name: &str) -> bool {
    coordinator.image().borrow().topic_named(name).is_some()
}

struct MemoryPeers {
    own: usize,
    network: Network,
}

impl Peers for MemoryPeers {
    fn follow(
        &self,
        leader: ProcessCard,
        epoch: CoordinatorEpoch,
    ) -> BoxFuture<'static, Result<Box<dyn LeaderLink>, PeerError>> {
        let (from, to) = (self.own, number(leader.link.fingerprint));
        let network = self.network.clone();
        async move {
            if !network.all()[to].lives {
                return Err(PeerError::Refused);
            }
            if !network.reaches(from, to) {
                sleep(NETWORK_WAIT).await;
                return Err(PeerError::NoAnswer);
            }
            if network.is_forgotten(from) {
                return Err(PeerError::Unregistered);
            }
            let coordinator = network.coordinator(to);
            let followed = coordinator.followed(link_of(from).fingerprint);
            let followed = followed.ok_or(PeerError::NotLeading)?;
            if followed.epoch() != epoch {
                return Err(PeerError::NotLeading);
            }
            let link = MemoryLink {
                from,
                to,
                network,
                coordinator,
                beats: followed.beats(),
                followed,
                pictures: VecDeque::new(),
            };
            Ok(Box::new(link) as Box<dyn LeaderLink>)
        }
        .boxed()
    }

    fn ask_all(&self, known: Vec<LinkAddress>) -> BoxFuture<'static, Vec<PeerAnswer>> {
        let (own, network) = (self.own, self.network.clone());
        async move {
            let count = network.all().len();
            let known: BTreeSet<_> = known.iter().map(|link| number(link.fingerprint)).collect();
            assert!(known.iter().all(|n| *n < count));
            let others = (0..count).filter(|other| *other != own);
            others.map(|other| answer(&network, own, other)).collect()
        }
        .boxed()
    }

    fn probe(&self, broker: Arc<BrokerImage>) -> BoxFuture<'static, Probed> {
        let other = number(broker.link.as_ref().unwrap().fingerprint);
        let (own, network) = (self.own, self.network.clone());
        async move {
            if !network.all()[other].lives {
                Probed::Refused
            } else if network.reaches(own, other) {
                Probed::Answers
            } else {
                sleep(NETWORK_WAIT).await;
                Probed::Silent
            }
        }
        .boxed()
    }

    fn own_card(&self) -> BoxFuture<'static, Option<bool>> {
        let has_card = self.network.all()[self.own].has_card;
        async move { has_card }.boxed()
    }

    fn is_gone(&self, process: &ProcessProof) -> bool {
        self.network.one_machine && !self.network.all()[process.pid as usize].lives
    }
}

fn answer(network: &Network, own: usize, other: usize) -> PeerAnswer {
    if !network.all()[other].lives {
        return PeerAnswer::Refused;
    }
    if !network.reaches(own, other) {
        return PeerAnswer::NoAnswer;
    }
    if network.is_forgotten(own) {
        return PeerAnswer::Unregistered;
    }
    let coordinator = network.coordinator(other);
    let heard = coordinator.heard_leader(coordinator.clock.mono());
    heard.map_or(PeerAnswer::NotHeard, |(epoch, ago)| PeerAnswer::Heard {
        epoch,
        ago,
    })
}

struct MemoryLink {
    from: usize,
    to: usize,
    network: Network,
    coordinator: Coordinator,
    followed: Followed,
    beats: FollowerBeats,
    /// Those that are slow.
    pictures: VecDeque<FromLeader>,
}

impl LeaderLink for MemoryLink {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CoordinatorError>> {
        let (from, to, network) = (self.from, self.to, self.network.clone());
        let coordinator = self.coordinator.clone();
        async move {
            let answered = if network.reaches(from, to) {
                coordinator.call_here(request).await
            } else {
                std::future::pending().await
            };
            if network.reaches(from, to) {
                return answered;
            }
            std::future::pending().await
        }
        .boxed()
    }

    fn beat(&self, beat: Beat) {
        if self.network.reaches(self.from, self.to) {
            self.beats.on_beat(beat);
        }
    }

    fn next(&mut self) -> BoxFuture<'_, Result<FromLeader, PeerError>> {
        async move {
            while !self.network.reaches(self.from, self.to) {
                sleep(NETWORK_WAIT).await;
            }
            loop {
                let lacks_pictures = self.network.all()[self.from].lacks_pictures;
                if !lacks_pictures && let Some(picture) = self.pictures.pop_front() {
                    return Ok(picture);
                }
                match self.followed.next().await.ok_or(PeerError::NotLeading)? {
                    picture @ FromLeader::Image(_) => self.pictures.push_back(picture),
                    told => return Ok(told),
                }
            }
        }
        .boxed()
    }
}
