//! The leader's view of the brokers: who is silent or dead, whose id is taken, and which partitions
//! should move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::{
    BrokerImage, CoordinatorError, HoldEpochs, MovePartition, PartitionFold, RegisterBroker,
    RegisteredBroker, Reply,
};
use firn_proto::env::Mono;
use firn_proto::ids::{BrokerId, DiskId, Fingerprint, Incarnation, LeaderEpoch, TopicPartition};
use firn_proto::limits::{BALANCE_INTERVAL, BEAT_INTERVAL, MOVES_MAX};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tracing::{info, warn};

use super::{Leader, Seated};
use crate::balance;
use crate::command::{Command, DrainBroker};
use crate::feed::Feed;
use crate::groups::CallId;
use crate::members::{Finding, Members};
use crate::peers::{Peers, Probed};
use crate::standing::Standing;
use crate::state::State;

/// What a leader knows of brokers beside the state.
pub(super) struct Brokers {
    peers: Arc<dyn Peers>,
    standing: Arc<Standing>,
    own: Option<Fingerprint>,
    /// That of the leader before, if it is gone for certain and its broker is not fenced yet.
    gone: Option<Fingerprint>,
    members: Members,
    probes: FuturesUnordered<BoxFuture<'static, (Incarnation, Probed)>>,
    registrations: Vec<Registration>,
    /// Processes that were registered and have not said yet that they serve.
    starting: BTreeSet<Incarnation>,
    /// Processes that owned nothing when this leader came: those that started then, for the leader
    /// before, and those that an operator had drained.
    may_start: BTreeSet<Incarnation>,
    /// What processes hold, or held when they ended.
    held: BTreeMap<Incarnation, Held>,
    /// When beats are seen to next, and when partitions are.
    beats_at: Mono,
    balance_at: Mono,
}

/// Epochs of which a disk may have more than the bucket, where they are damaged.
struct Held {
    disk: Option<DiskId>,
    epochs: BTreeSet<(TopicPartition, LeaderEpoch)>,
}

/// Wants an id that another process has, as far as it is known.
struct Registration {
    call: CallId,
    body: RegisterBroker,
    holder: Incarnation,
}

impl Brokers {
    pub(super) fn new(seated: &Seated<'_>, state: &State, now: Mono) -> Self {
        let live = state.brokers().values();
        let drained = live.filter(|broker| broker.draining);
        Self {
            peers: Arc::clone(seated.peers),
            standing: Arc::clone(seated.standing),
            own: seated.own,
            gone: seated.gone,
            members: Members::new(seated.config.broker_session, now),
            probes: FuturesUnordered::new(),
            registrations: Vec::new(),
            starting: BTreeSet::new(),
            may_start: drained.map(|broker| broker.incarnation).collect(),
            held: BTreeMap::new(),
            beats_at: now,
            balance_at: now.after(BALANCE_INTERVAL),
        }
    }

    /// Whether there are no other processes.
    pub(super) fn is_alone(&self) -> bool {
        self.peers.is_alone()
    }

    /// The loop has come round: what is said to others from other tasks rests on that.
    pub(super) fn on_turn(&self, now: Mono) {
        self.standing.on_turn(now);
    }

    /// What standbys are told of the journal.
    pub(super) fn feed(&self) -> &Feed {
        self.standing.feed()
    }

    /// The next probe that is over; waits for ever if none is under way.
    pub(super) async fn next_probed(&mut self) -> Option<(Incarnation, Probed)> {
        if self.probes.is_empty() {
            std::future::pending().await
        }
        self.probes.next().await
    }

    /// Whether it is another process that can be followed or probed.
    fn is_other(&self, broker: &BrokerImage) -> bool {
        let link = broker.link.as_ref();
        link.is_some_and(|link| Some(link.fingerprint) != self.own)
    }

    /// False: it did not start, as far as is known.
    fn no_longer_starts(&mut self, incarnation: Incarnation) -> bool {
        let is_known = self.starting.remove(&incarnation);
        let is_likely = self.may_start.remove(&incarnation);
        is_known || is_likely
    }

    fn probe(&mut self, broker: &Arc<BrokerImage>) {
        let incarnation = broker.incarnation;
        let probe = self.peers.probe(Arc::clone(broker));
        let probed = probe.map(move |probed| (incarnation, probed));
        self.probes.push(probed.boxed());
    }
}

impl Leader {
    /// When the brokers are to be seen to.
    pub(super) fn next_beats(&self) -> Option<Mono> {
        (!self.brokers.is_alone()).then_some(self.brokers.beats_at)
    }

    /// Takes beats, looks after those who are silent, and moves what should move. Does nothing if it
    /// is not time yet.
    pub(super) fn see_to_brokers(&mut self) {
        let now = self.environment.clock.mono();
        if self.brokers.is_alone() || now < self.brokers.beats_at {
            return;
        }
        self.brokers.beats_at = now.after(BEAT_INTERVAL);
        // One that the bucket does not answer makes room for another that it may answer.
        let leads = (!self.looked.is_blind(now) && !self.has_resigned).then_some(self.epoch);
        self.brokers.standing.set_leads(leads);
        let (beats, reads) = self.brokers.standing.take_beats();
        if reads {
            self.fence.hurry(now);
        }
        for (incarnation, at) in beats {
            self.brokers.members.on_beat(incarnation, at);
        }
        let live = self.state.brokers().values();
        let others = live.filter(|broker| self.brokers.is_other(broker));
        let others: Vec<_> = others.map(|broker| broker.incarnation).collect();
        self.brokers.members.listen_to(others.into_iter(), now);
        for finding in self.brokers.members.on_time(now) {
            self.on_finding(finding);
        }
        self.retry_registrations(now);
        self.balance(now);
    }

    /// Ends what the leader before owned, if its process is gone for certain: before anything else is
    /// asked for, so that a process which comes in its place gets its id.
    pub(super) fn fence_gone(&mut self) {
        let Some(gone) = self.brokers.gone.take() else {
            return;
        };
        let broker = self.broker_with(gone);
        if let Some(incarnation) = broker.map(|broker| broker.incarnation) {
            self.fence_broker(incarnation);
        }
    }

    fn on_finding(&mut self, finding: Finding) {
        match finding {
            Finding::Probe(incarnation) => {
                if let Some(broker) = self.live(incarnation) {
                    self.brokers.probe(&broker);
                }
            }
            Finding::Dead(incarnation) => self.fence_broker(incarnation),
        }
    }

    fn live(&self, incarnation: Incarnation) -> Option<Arc<BrokerImage>> {
        let mut live = self.state.brokers().values();
        live.find(|broker| broker.incarnation == incarnation)
            .cloned()
    }

    fn fence_broker(&mut self, incarnation: Incarnation) {
        let broker = self.live(incarnation).map(|broker| broker.broker);
        warn!(?broker, %incarnation, "the broker is dead: its partitions go to others");
        if let Err(error) = self.execute(Command::FenceBroker(incarnation)) {
            warn!(%error, "the broker cannot be fenced yet");
        }
    }

    /// A probe is over.
    pub(super) fn on_probed(&mut self, incarnation: Incarnation, probed: Probed) {
        let taken = std::mem::take(&mut self.brokers.registrations);
        let (asked, others) = taken
            .into_iter()
            .partition(|wants| wants.holder == incarnation);
        self.brokers.registrations = others;
        for wants in asked {
            match probed {
                Probed::Refused => self.register_waiting(wants),
                Probed::Answers => self.refuse_registration(&wants),
                Probed::Silent => self.brokers.registrations.push(wants),
            }
        }
        if let Some(finding) = self.brokers.members.on_probed(incarnation, probed) {
            self.on_finding(finding);
        }
    }

    /// Gives a process its place. If it wants an id that another one has, it is seen first whether
    /// that is alive.
    pub(super) fn register(&mut self, call: CallId, mut body: RegisterBroker) {
        // Who asks again has not heard the first answer, and is to have one place and not two.
        let asks = body.link.as_ref().map(|link| link.fingerprint);
        let known = asks.and_then(|asks| self.broker_with(asks));
        body.broker = body.broker.or_else(|| known.map(|known| known.broker));
        let wanted = body.broker.and_then(|id| self.state.brokers().get(&id));
        let holder = wanted.filter(|holder| {
            let holds = holder.link.as_ref().map(|link| link.fingerprint);
            asks.is_some() && holds.is_some() && asks != holds
        });
        let Some(holder) = holder.cloned() else {
            self.register_now(call, body);
            return;
        };
        let wants = Registration {
            call,
            body,
            holder: holder.incarnation,
        };
        if self.brokers.is_other(&holder) {
            self.brokers.probe(&holder);
            self.brokers.registrations.push(wants);
        } else {
            self.refuse_registration(&wants);
        }
    }

    /// Gives a process its place whose id a dead one has, unless another process that waited for the
    /// id has it by now.
    fn register_waiting(&mut self, wants: Registration) {
        let id = wants.body.broker;
        let holder = id.and_then(|id| self.state.brokers().get(&id));
        if holder.is_some_and(|holder| holder.incarnation == wants.holder) {
            self.register_now(wants.call, wants.body);
        } else {
            self.register(wants.call, wants.body);
        }
    }

    /// The broker of the process with that certificate.
    fn broker_with(&self, certificate: Fingerprint) -> Option<&Arc<BrokerImage>> {
        let shows = |broker: &&Arc<BrokerImage>| {
            let link = broker.link.as_ref();
            link.is_some_and(|link| link.fingerprint == certificate)
        };
        self.state.brokers().values().find(shows)
    }

    fn register_now(&mut self, call: CallId, body: RegisterBroker) {
        match self.execute(Command::RegisterBroker(body)) {
            Ok(Reply::RegisterBroker(mut registered)) => {
                registered.cluster = self.cluster;
                self.hold_back(&registered);
                self.answer(call, Reply::RegisterBroker(registered));
            }
            Ok(reply) => self.answer(call, reply),
            Err(error) => self.send(call, Err(CoordinatorError::Refused(error.to_string()))),
        }
    }

    /// A process that has just come looks after its own disk before it serves: until it says that it
    /// does, nothing goes there that others can own.
    fn hold_back(&mut self, registered: &RegisteredBroker) {
        let live = self.state.brokers();
        let own = live.get(&registered.broker);
        let says_so = own.is_some_and(|own| own.link.is_some());
        let incarnation = registered.incarnation;
        let mut others = live.values().filter(|b| b.incarnation != incarnation);
        if !says_so || !others.any(|other| !other.draining) {
            return;
        }
        let body = DrainBroker {
            broker: registered.broker,
            drain: true,
        };
        match self.execute(Command::DrainBroker(body)) {
            Ok(_) => {
                self.brokers.starting.insert(incarnation);
            }
            Err(error) => warn!(%error, "a broker that starts may be given partitions at once"),
        }
    }

    /// An operator has said whether that broker shall own nothing.
    pub(super) fn on_drain(&mut self, broker: BrokerId) {
        if let Some(broker) = self.state.brokers().get(&broker) {
            self.brokers.no_longer_starts(broker.incarnation);
        }
    }

    /// A process says of itself whether it may own partitions. One that serves now may, if it was
    /// only held back until then.
    pub(super) fn take_part(&mut self, call: CallId, incarnation: Incarnation, owns: bool) {
        let Some(broker) = self.live(incarnation) else {
            self.refuse_ended(call, incarnation);
            return;
        };
        let was_held_back = self.brokers.no_longer_starts(incarnation);
        if owns && !was_held_back {
            self.answer(call, Reply::Done);
            return;
        }
        let body = DrainBroker {
            broker: broker.broker,
            drain: !owns,
        };
        self.command(call, Command::DrainBroker(body));
    }

    /// Whether a partition belongs to a process that starts: it has brought it back from its own disk.
    fn is_starting(&self, asked: &MovePartition) -> bool {
        let found = self.state.topics().partition(asked.tp);
        let owner = found.and_then(|(partition, _)| partition.owner);
        owner.is_some_and(|owner| self.brokers.starting.contains(&owner.incarnation))
    }

    /// A process says which partitions nobody shall take over while it lives: one for each that has
    /// no owner, at most.
    pub(super) fn hold_epochs(&mut self, call: CallId, body: HoldEpochs) {
        let HoldEpochs {
            incarnation,
            epochs,
        } = body;
        let Some(broker) = self.live(incarnation) else {
            self.refuse_ended(call, incarnation);
            return;
        };
        let topics = self.state.topics();
        let has_ended = |(tp, epoch): &(TopicPartition, LeaderEpoch)| {
            let partition = topics.partition(*tp).map(|(partition, _)| partition);
            partition.is_some_and(|found| found.epoch == *epoch && found.owner.is_none())
        };
        let held = Held {
            disk: broker.disk,
            epochs: epochs.into_iter().filter(has_ended).collect(),
        };
        // it says all at once, or again what it has said, or what the last one said with its disk
        let others = &mut self.brokers.held;
        others.retain(|_, other| other.disk.is_none() || other.disk != held.disk);
        others.insert(incarnation, held);
        self.answer(call, Reply::Done);
    }

    /// The partitions that wait for a fold, without those that a process holds which lives. Those of
    /// one that has ended are to wait for its disk, as if it had told of what that holds. What counted
    /// by a disk alone waits for that in any case, or was given up.
    pub(super) fn free_folds(&mut self) -> Vec<PartitionFold> {
        let mut folds = self.state.pending_folds();
        let pending: BTreeSet<_> = folds.iter().map(|fold| (fold.tp, fold.epoch)).collect();
        let topics = self.state.topics();
        let counts_locally = |tp: TopicPartition| {
            let partition = topics.partition(tp);
            partition.is_some_and(|(partition, _)| partition.counts_locally)
        };
        self.brokers.held.retain(|_, held| {
            let epochs = &mut held.epochs;
            epochs.retain(|epoch| pending.contains(epoch) && !counts_locally(epoch.0));
            !epochs.is_empty()
        });
        let live = self.state.brokers().values();
        let live: BTreeSet<_> = live.map(|broker| broker.incarnation).collect();
        folds.retain_mut(|fold| {
            let epoch = (fold.tp, fold.epoch);
            for (holder, held) in &self.brokers.held {
                if held.epochs.contains(&epoch) {
                    if live.contains(holder) {
                        return false;
                    }
                    fold.disk = fold.disk.or(held.disk);
                }
            }
            true
        });
        folds
    }

    /// Tells a process that the cluster has ended.
    fn refuse_ended(&mut self, call: CallId, incarnation: Incarnation) {
        let reason = format!(
            "incarnation {incarnation} is not alive: the process was taken for dead, or another one \
             has its broker id"
        );
        self.send(call, Err(CoordinatorError::Refused(reason)));
    }

    fn refuse_registration(&mut self, wants: &Registration) {
        let holder = self.live(wants.holder);
        let id = wants.body.broker.unwrap_or_default();
        let at = holder.and_then(|holder| holder.link.clone());
        let at = at.map_or_else(String::new, |link| {
            format!(" at {}:{}", link.host, link.port)
        });
        let reason = format!(
            "broker id {id} is taken by a process{at} that is alive: give this one another \
             broker.id, or leave it out"
        );
        self.send(wants.call, Err(CoordinatorError::Refused(reason)));
    }

    /// Registrations whose answer does not wait for a probe any more: the holder of the id is dead
    /// by now, or is heard again.
    fn retry_registrations(&mut self, now: Mono) {
        for wants in std::mem::take(&mut self.brokers.registrations) {
            if self.live(wants.holder).is_none() {
                self.register(wants.call, wants.body);
            } else if self.brokers.probes.is_empty()
                && self.brokers.members.is_heard(wants.holder, now)
            {
                self.refuse_registration(&wants);
            } else {
                self.brokers.registrations.push(wants);
            }
        }
    }

    /// Asks owners to release what should go elsewhere. While something moves it looks again soon.
    /// While somebody is silent nothing moves: it might go there.
    fn balance(&mut self, now: Mono) {
        let is_due = now >= self.brokers.balance_at && self.state.brokers().len() > 1;
        if !is_due || !self.brokers.members.are_all_heard(now) {
            return;
        }
        let live = self.state.brokers().values();
        let live: BTreeSet<_> = live.map(|broker| broker.incarnation).collect();
        self.brokers.starting.retain(|starts| live.contains(starts));
        (self.brokers.may_start).retain(|starts| live.contains(starts));
        let mut moves = balance::moves(&self.state, MOVES_MAX);
        moves.retain(|asked| !self.is_starting(asked));
        let wait = if moves.is_empty() {
            BALANCE_INTERVAL
        } else {
            BEAT_INTERVAL
        };
        self.brokers.balance_at = now.after(wait);
        if moves.is_empty() {
            return;
        }
        info!(
            moves = moves.len(),
            "partitions move, so that the brokers own about as many each"
        );
        if let Err(error) = self.execute(Command::MovePartitions(moves)) {
            warn!(%error, "no partitions move");
        }
    }
}
