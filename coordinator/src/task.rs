//! The one loop that owns the state: requests in, commands to the journal, answers out.
//!
//! A request is applied to memory at once; its commands wait in the open slot, which goes to the
//! journal as soon as the queue is drained and a put may start. Answers, and pictures of the
//! cluster, leave when the journal holds the state they were made from. If a put fails for good
//! the memory is dropped, for it is ahead of the journal, and read anew.
//!
//! - `requests.rs`: what each request does
//! - `answers.rs`: when answers leave
//! - `brokers.rs`: brokers that fall silent, ids that are taken, partitions that should move
//! - `archive.rs`: those about segments and what is deleted
//! - `offsets.rs`: commits and their look-up
//! - `standbys.rs`: what standbys are told of the journal
//! - `held.rs`: what answers take that wait

mod answers;
mod archive;
mod brokers;
mod held;
mod offsets;
mod requests;
mod standbys;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::cluster::{ClusterImage, CoordinatorError, Reply, Request};
use firn_proto::env::Mono;
use firn_proto::ids::{ClusterId, CoordinatorEpoch, Fingerprint};
use firn_proto::journal::{Journal, JournalError, JournalPosition, OpenedJournal};
use firn_proto::limits::{
    COORDINATOR_PARKED_MAX, FENCE_LOOK_MAX, JOURNAL_SLOT_BYTES_TARGET, JOURNAL_SNAPSHOT_BYTES_MIN,
    JOURNAL_SNAPSHOT_BYTES_PER_SLOT, JOURNAL_SNAPSHOT_SLOTS_MIN, LEADER_TURN_MAX,
    SLOTS_IN_FLIGHT_MAX,
};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesOrdered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::command::{Command, CommandError, SlotBuilder, Stamped, decode_slot};
use crate::fence::{Answering, FenceWatch, Looked, Seen, Verdict};
use crate::gate::{Gate, GroupClock, PutTokens};
use crate::groups::{CallId, Groups, Out};
use crate::handle::{CoordinatorConfig, EndReason, Environment};
use crate::image::ImageBuilder;
use crate::peers::Peers;
use crate::snapshot::{decode_snapshot, encode_snapshot};
use crate::standby::Known;
use crate::standing::Standing;
use crate::state::State;
use answers::Leaving;
use brokers::Brokers;
use requests::ParkedDeletion;

pub(crate) type Answer = oneshot::Sender<Result<Reply, CoordinatorError>>;

/// A request and the way back.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) answer: Answer,
    pub(crate) origin: Origin,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This process.
    Here,
    /// Another one, which follows this one: it is not forwarded again.
    Elsewhere,
}

/// What the loop is told.
#[derive(Debug)]
pub(crate) enum Message {
    Call(Call),
    /// Somebody waits for a look for a later epoch.
    Look,
    Stop(oneshot::Sender<()>),
}

/// Why a leader leads no more.
pub(crate) enum Left {
    Journal(JournalError),
    Stopped,
}

/// What everybody may see without asking.
pub(crate) struct Publish {
    pub(crate) image: watch::Sender<Arc<ClusterImage>>,
    /// What the looks for a later epoch say.
    pub(crate) looked: watch::Sender<Looked>,
}

impl Publish {
    pub(crate) fn note_look(&self, sent: Mono, seen: Seen) {
        self.looked.send_modify(|looked| looked.on_seen(sent, seen));
    }
}

/// What a leader takes from the process it leads in.
pub(crate) struct Seated<'a> {
    pub(crate) config: &'a CoordinatorConfig,
    pub(crate) environment: &'a Environment,
    pub(crate) peers: &'a Arc<dyn Peers>,
    pub(crate) standing: &'a Arc<Standing>,
    /// The fingerprint of the process.
    pub(crate) own: Option<Fingerprint>,
    /// That of the leader before, if it is gone for certain.
    pub(crate) gone: Option<Fingerprint>,
    /// The state that the entries follow, if they do.
    pub(crate) known: Option<Known>,
    /// Nobody else led then.
    pub(crate) led_at: Mono,
    /// The version of the last picture.
    pub(crate) above: u64,
}

/// A slot on its way.
struct Flight {
    /// How many commands are durable with it.
    commands: u64,
    body: Bytes,
    /// The picture after it, if it changed.
    image: Option<Arc<ClusterImage>>,
    /// The snapshot after it, if one is due or a standby wants it.
    snapshot: Option<Snapshot>,
}

/// The bytes of the state.
struct Snapshot {
    bytes: Bytes,
    /// It is to be put into the bucket.
    is_due: bool,
}

/// What a leader holds in memory. Dropped when it resigns.
pub(crate) struct Leader {
    cluster: ClusterId,
    epoch: CoordinatorEpoch,
    environment: Environment,
    journal: Box<dyn Journal>,
    state: State,
    groups: Groups,
    images: ImageBuilder,
    /// Answers by call, of all that are not out.
    calls: BTreeMap<CallId, Answer>,
    next_call: u64,
    gate: Gate<Leaving>,
    /// Answers that wait for a look, and what they take in bytes.
    unread: VecDeque<Leaving>,
    unread_bytes: usize,
    offsets_retention: Duration,
    deletions: Vec<ParkedDeletion>,
    slot: SlotBuilder,
    puts: FuturesOrdered<BoxFuture<'static, Result<JournalPosition, JournalError>>>,
    flights: VecDeque<Flight>,
    tokens: PutTokens,
    group_clock: GroupClock,
    /// The time of the last command, and when that was stamped or read.
    stamped: (i64, Mono),
    /// Journal bytes and slots since the last snapshot, and its size.
    log_bytes: usize,
    log_slots: u64,
    snapshot_bytes: usize,
    snapshot: Option<BoxFuture<'static, Result<(), JournalError>>>,
    fence: FenceWatch,
    looked: Looked,
    look: Option<BoxFuture<'static, Seen>>,
    brokers: Brokers,
    /// It has put into the journal that it answers no more.
    has_resigned: bool,
}

impl Leader {
    pub(crate) fn new(opened: OpenedJournal, mut seated: Seated<'_>) -> Result<Self, EndReason> {
        let Seated {
            config,
            environment,
            led_at,
            ..
        } = seated;
        let known = seated.known.take();
        let on_step = || seated.standing.on_step(environment.clock.mono());
        let replayed = replay(&opened, known, on_step)?;
        let Replayed {
            state, log_bytes, ..
        } = replayed;
        if !seated.peers.is_alone() {
            let feed = seated.standing.feed();
            feed.begin(replayed.base);
            for (position, body) in &opened.entries {
                feed.push(*position, body.clone());
            }
        }
        let group_clock = GroupClock::new(led_at);
        let groups = Groups::load(
            config.groups.clone(),
            state.groups().iter().map(|(id, kept)| (id, &kept.row)),
            (state.consumer_groups().iter()).map(|(id, kept)| (id, &kept.row)),
            state.offsets().groups(),
            group_clock.at(environment.clock.mono()),
        );
        info!(
            epoch = opened.epoch.0,
            cluster = %opened.cluster,
            topics = state.topics().iter().count(),
            slots = opened.entries.len(),
            bytes = log_bytes,
            "the journal is replayed"
        );
        let now = environment.clock.mono();
        Ok(Self {
            cluster: opened.cluster,
            epoch: opened.epoch,
            environment: environment.clone(),
            journal: opened.journal,
            images: ImageBuilder::new(opened.cluster, seated.own, &state, seated.above),
            stamped: (state.at_ms(), now),
            brokers: Brokers::new(&seated, &state, now),
            state,
            groups,
            calls: BTreeMap::new(),
            next_call: 0,
            gate: Gate::new(),
            unread: VecDeque::new(),
            unread_bytes: 0,
            offsets_retention: config.groups.offsets_retention,
            deletions: Vec::new(),
            slot: SlotBuilder::new(),
            puts: FuturesOrdered::new(),
            flights: VecDeque::new(),
            tokens: PutTokens::new(config.puts_per_second),
            group_clock,
            log_bytes,
            log_slots: opened.log_slots,
            snapshot_bytes: replayed.state_bytes,
            snapshot: None,
            fence: FenceWatch::new(led_at),
            looked: Looked::new(led_at),
            look: None,
            has_resigned: false,
        })
    }

    /// The picture of the state it took over, or the last one.
    pub(crate) fn picture(&self) -> Arc<ClusterImage> {
        self.images.last()
    }

    /// The last leader before that said that it answers no more.
    pub(crate) fn resigned(&self) -> Option<CoordinatorEpoch> {
        self.state.resigned()
    }

    /// Serves until it is told to stop, or cannot lead any more.
    pub(crate) async fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Message>,
        publish: &Publish,
    ) -> Left {
        self.fence_gone();
        if !self.brokers.is_alone() {
            // Since the last look it has waited for the leases of others to end.
            self.fence.hurry(self.environment.clock.mono());
        }
        let mut stopping = None;
        loop {
            self.run_due();
            self.flush();
            self.show_state();
            self.look();
            if stopping.is_some() && self.slot.is_empty() && self.puts.is_empty() {
                if self.has_resigned || !self.step_down() {
                    return Left::Stopped;
                }
                continue;
            }
            let now = self.environment.clock.mono();
            self.brokers.on_turn(now);
            let wake = self.next_wake(now);
            tokio::select! {
                biased;
                Some(put) = self.puts.next(), if !self.puts.is_empty() => match put {
                    Ok(position) => self.on_durable(position, &publish.image),
                    Err(error) => return Left::Journal(error),
                },
                Some(result) = poll_flying(&mut self.snapshot) => self.on_snapshot(result),
                Some(seen) = poll_flying(&mut self.look) => {
                    if let Err(error) = self.on_look(seen, publish) {
                        return Left::Journal(error);
                    }
                }
                Some((incarnation, probed)) = self.brokers.next_probed() => {
                    self.on_probed(incarnation, probed);
                }
                message = inbox.recv(), if stopping.is_none() => {
                    stopping = self.take_messages(message, inbox);
                }
                () = sleep_until(wake, now) => {}
            }
        }
    }

    /// Takes the message and those that wait behind it, up to the end of the queue, for a bounded
    /// time. Some: it is to stop.
    fn take_messages(
        &mut self,
        first: Option<Message>,
        inbox: &mut mpsc::Receiver<Message>,
    ) -> Option<Option<oneshot::Sender<()>>> {
        let mut next = first;
        let began = self.environment.clock.mono();
        for _ in 0..inbox.max_capacity() {
            match next {
                Some(Message::Call(call)) => self.take_call(call),
                Some(Message::Look) => self.fence.hurry(self.environment.clock.mono()),
                Some(Message::Stop(done)) => return Some(Some(done)),
                None => return Some(None),
            }
            let passed = self.environment.clock.mono().since(began);
            if self.slot.len() >= JOURNAL_SLOT_BYTES_TARGET || passed >= LEADER_TURN_MAX {
                break;
            }
            match inbox.try_recv() {
                Ok(message) => next = Some(message),
                Err(_) => break,
            }
        }
        None
    }

    /// Does what is asked. Its answer leaves by itself.
    pub(crate) fn take_call(&mut self, call: Call) {
        let limit = held::bytes_max_before(&call.request);
        let is_put_off = limit.is_some_and(|limit| self.held_bytes() >= limit);
        if is_put_off || self.calls.len() >= COORDINATOR_PARKED_MAX {
            drop(call.answer.send(Err(CoordinatorError::Busy)));
            return;
        }
        let id = CallId(self.next_call);
        self.next_call += 1;
        self.calls.insert(id, call.answer);
        self.handle(id, call.request);
        self.finish_deletions();
    }

    /// What answers and commands take that wait for the journal, in bytes.
    fn held_bytes(&self) -> usize {
        let flying: usize = self.flights.iter().map(|flight| flight.body.len()).sum();
        self.gate.held_bytes() + self.unread_bytes + self.slot.len() + flying
    }

    /// Wall time for commands, which never goes back. A clock that was far ahead once, and was set
    /// right, does not make it stand still: it goes on from there at the pace of time.
    fn now_ms(&self) -> i64 {
        let (at_ms, since) = self.stamped;
        let passed = self.environment.clock.mono().since(since).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let wall_ms = self.environment.clock.wall_ms();
        wall_ms.max(at_ms.saturating_add(passed))
    }

    /// Applies a command to memory and puts it into the open slot; the answer must go through
    /// [`Leader::answer`]. Fails, and changes nothing, if the journal cannot hold it.
    fn execute(&mut self, command: Command) -> Result<Reply, CommandError> {
        let stamped = Stamped {
            at_ms: self.now_ms(),
            command,
        };
        let before = self.slot.mark();
        self.slot.push(&stamped)?;
        let applied = self.state.apply(&stamped);
        if applied.effects.changed {
            self.gate.count_command();
            self.stamped = (stamped.at_ms, self.environment.clock.mono());
            self.images.note(&applied.effects);
            if changes_topics(&stamped.command) {
                self.groups.on_topics_changed(&applied.effects.topics);
            }
        } else {
            self.slot.rewind(before);
        }
        Ok(applied.reply)
    }

    fn send(&mut self, call: CallId, reply: Result<Reply, CoordinatorError>) {
        if let Some(answer) = self.calls.remove(&call) {
            // The caller may have gone; what it asked for has happened all the same.
            drop(answer.send(reply));
        }
    }

    /// Does what a step of the groups asks for.
    fn take_out(&mut self, out: Out) {
        for put in out.puts {
            let group = Arc::clone(&put.group);
            if let Err(error) = self.execute(Command::PutGroup(put)) {
                warn!(%group, %error, "the group cannot be kept; it will be lost at a restart");
            }
        }
        for change in out.changes {
            let group = Arc::clone(&change.group);
            if let Err(error) = self.execute(Command::ChangeConsumerGroup(change)) {
                warn!(%group, %error, "the group cannot be kept; it will be lost at a restart");
            }
        }
        for idle in out.idle {
            self.expire_offsets(idle);
        }
        for (call, reply) in out.replies {
            self.answer(call, reply);
        }
    }

    fn group_now(&self) -> Mono {
        self.group_clock.at(self.environment.clock.mono())
    }

    /// Starts a put if there is something to put and one may start.
    fn flush(&mut self) {
        let now = self.environment.clock.mono();
        let full = self.slot.len() >= JOURNAL_SLOT_BYTES_TARGET;
        let may_put = full || self.tokens.free_at() <= now;
        if self.slot.is_empty() || self.flights.len() >= SLOTS_IN_FLIGHT_MAX || !may_put {
            return;
        }
        self.tokens.take(now);
        self.group_clock.on_put(now);
        let body = self.slot.take();
        self.log_bytes += body.len();
        self.log_slots += 1;
        let due = self.due_snapshot();
        let is_due = due.is_some();
        let snapshot = due.or_else(|| self.wanted_state());
        let flight = Flight {
            commands: self.gate.applied(),
            body: body.clone(),
            image: self.images.build(&self.state),
            snapshot: snapshot.map(|bytes| Snapshot { bytes, is_due }),
        };
        self.flights.push_back(flight);
        self.puts.push_back(self.journal.append(body));
    }

    /// The bytes of the state as it is now, if the journal has outgrown the last snapshot.
    fn due_snapshot(&mut self) -> Option<Bytes> {
        let mut flying = self.flights.iter().filter_map(|f| f.snapshot.as_ref());
        let on_its_way = flying.any(|snapshot| snapshot.is_due);
        let limit = self.snapshot_bytes.max(JOURNAL_SNAPSHOT_BYTES_MIN);
        let slots_limit = self.snapshot_bytes as u64 / JOURNAL_SNAPSHOT_BYTES_PER_SLOT;
        let slots_limit = slots_limit.max(JOURNAL_SNAPSHOT_SLOTS_MIN);
        let is_due = self.log_bytes >= limit || self.log_slots >= slots_limit;
        if !is_due || on_its_way || self.snapshot.is_some() {
            return None;
        }
        match encode_snapshot(&self.state) {
            Ok(bytes) => {
                self.log_bytes = 0;
                self.log_slots = 0;
                self.snapshot_bytes = bytes.len();
                Some(bytes)
            }
            Err(error) => {
                warn!(%error, "no snapshot is taken; the journal grows on");
                None
            }
        }
    }

    fn on_durable(
        &mut self,
        position: JournalPosition,
        publish: &watch::Sender<Arc<ClusterImage>>,
    ) {
        let Some(flight) = self.flights.pop_front() else {
            return;
        };
        let now = self.environment.clock.mono();
        self.group_clock.on_durable(now, !self.flights.is_empty());
        if let Some(image) = flight.image {
            publish.send_replace(image);
        }
        let free: Vec<_> = self.gate.open_to(flight.commands).collect();
        for leaving in free {
            self.let_out(leaving);
        }
        if !self.brokers.is_alone() {
            self.brokers.feed().push(position, flight.body);
        }
        if let Some(Snapshot { bytes, is_due }) = flight.snapshot {
            if self.brokers.feed().wants_state() {
                self.brokers.feed().show_state(bytes.clone());
            }
            if is_due {
                self.snapshot = Some(self.journal.put_snapshot(position, bytes));
            }
        }
    }

    /// A snapshot that failed is no harm: the journal is whole without it, and the next one comes.
    fn on_snapshot(&mut self, result: Result<(), JournalError>) {
        self.snapshot = None;
        if let Err(error) = result {
            self.log_bytes += self.snapshot_bytes;
            self.log_slots += JOURNAL_SNAPSHOT_SLOTS_MIN / 2;
            warn!(%error, "the snapshot was not put; the journal grows on");
        }
    }

    /// Starts a look for a later epoch if one is due.
    fn look(&mut self) {
        let now = self.environment.clock.mono();
        if self.fence.due().is_none_or(|due| now < due) {
            return;
        }
        self.fence.on_sent(now);
        let look = tokio::time::timeout(FENCE_LOOK_MAX, self.journal.look_for_newer());
        let seen = look.map(|answer| match answer {
            Ok(Ok(None)) => Seen::Nothing,
            Ok(Ok(Some(newer))) => Seen::Newer(newer),
            Ok(Err(error)) => seen_by(&error),
            Err(_) => Seen::NoAnswer,
        });
        self.look = Some(seen.boxed());
    }

    fn on_look(&mut self, seen: Seen, publish: &Publish) -> Result<(), JournalError> {
        self.look = None;
        match self.fence.on_seen(seen) {
            Verdict::Resign(newer) => {
                let epoch = self.epoch;
                return Err(JournalError::Superseded { epoch, newer });
            }
            Verdict::LeadOn { sent, changed } => {
                publish.note_look(sent, seen);
                self.looked.on_seen(sent, seen);
                self.on_looked(sent, seen);
                if seen == Seen::Nothing {
                    let now = self.environment.clock.mono();
                    self.group_clock.on_alone(sent, now);
                }
                match changed {
                    Some(Answering::No) => warn!(
                        "the bucket does not say whether another process leads: nothing is read \
                         from here soon, until it does"
                    ),
                    Some(Answering::Refused) => warn!(
                        "the bucket refuses to say whether another process leads: nothing is \
                         read from here soon, until it does"
                    ),
                    Some(Answering::Yes) => info!("no other process leads"),
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Does what is due. Requests that never end must not keep it from that.
    fn run_due(&mut self) {
        let now = self.environment.clock.mono();
        if self.next_wake(now).is_some_and(|wake| wake <= now) {
            self.on_timeout();
        }
    }

    fn on_timeout(&mut self) {
        let now = self.group_now();
        let out = self.groups.on_timeout(self.state.topics(), now);
        self.take_out(out);
        self.finish_deletions();
        self.see_to_brokers();
    }

    /// When the loop has something to do by itself.
    fn next_wake(&self, now: Mono) -> Option<Mono> {
        let group_now = self.group_clock.at(now);
        let groups = self.groups.next_timeout();
        let groups = groups.map(|at| now.after(at.since(group_now)));
        let room = self.flights.len() < SLOTS_IN_FLIGHT_MAX;
        let token = (!self.slot.is_empty() && room).then(|| self.tokens.free_at());
        let deletions = self.deletions.iter().map(|parked| parked.deadline);
        let look = self.fence.due();
        let wakes = groups.into_iter().chain(token).chain(deletions);
        wakes.chain(look).chain(self.next_beats()).min()
    }

    /// Tells everybody who waits that their answer will not come from here.
    pub(crate) fn resign(&mut self, error: &JournalError) {
        for (_, answer) in std::mem::take(&mut self.calls) {
            refuse(answer, &error.to_string());
        }
    }

    /// Answers no more, and says so in the journal, so that the next leader need not wait until
    /// nobody is read any more who led before. False: nobody would read it.
    fn step_down(&mut self) -> bool {
        self.has_resigned = true;
        if self.brokers.is_alone() {
            return false;
        }
        for (_, answer) in std::mem::take(&mut self.calls) {
            refuse(answer, "the coordinator is stopping");
        }
        if let Err(error) = self.execute(Command::Resign(self.epoch)) {
            warn!(%error, "the next leader has to wait, for this one cannot say that it stops");
            return false;
        }
        true
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        for (_, answer) in std::mem::take(&mut self.calls) {
            refuse(answer, "the coordinator is stopping");
        }
    }
}

/// What the journal holds.
struct Replayed {
    state: State,
    /// The entries follow this position.
    base: JournalPosition,
    /// The length of the state there.
    state_bytes: usize,
    /// How many bytes no snapshot covers, or more.
    log_bytes: usize,
}

/// Says by `on_step` that it gets on.
fn replay(
    opened: &OpenedJournal,
    known: Option<Known>,
    on_step: impl Fn(),
) -> Result<Replayed, EndReason> {
    let replayed = match (&opened.snapshot, known) {
        (_, Some(known)) => Replayed {
            state: known.state,
            base: known.at,
            state_bytes: known.state_bytes,
            log_bytes: known.log_bytes,
        },
        (Some((covers, bytes)), None) => Replayed {
            state: decode_snapshot(bytes)?,
            base: *covers,
            state_bytes: bytes.len(),
            log_bytes: 0,
        },
        (None, None) if opened.follows_known => {
            let at = opened.epoch.to_string();
            let reason = "what it follows is not known here: a bug".to_owned();
            return Err(JournalError::Corrupt { at, reason }.into());
        }
        (None, None) => Replayed {
            state: State::default(),
            base: JournalPosition::START,
            state_bytes: 0,
            log_bytes: 0,
        },
    };
    let Replayed {
        mut state,
        mut log_bytes,
        ..
    } = replayed;
    for (position, body) in &opened.entries {
        on_step();
        let commands = decode_slot(body).map_err(|error| EndReason::Replay {
            at: position.to_string(),
            error,
        })?;
        for stamped in &commands {
            state.apply(stamped);
        }
        log_bytes += body.len();
    }
    Ok(Replayed {
        state,
        log_bytes,
        ..replayed
    })
}

/// Whether consumer groups may have to assign other partitions after it.
fn changes_topics(command: &Command) -> bool {
    matches!(
        command,
        Command::CreateTopics(_) | Command::CreatePartitions(_) | Command::DeleteTopics(_)
    )
}

/// Whether the journal may be opened again after `error`.
pub(crate) fn may_pass(error: &JournalError) -> bool {
    matches!(
        error,
        JournalError::Unavailable(_) | JournalError::Refused(_)
    )
}

/// What a look brought that failed.
pub(crate) fn seen_by(error: &JournalError) -> Seen {
    match error {
        JournalError::Refused(_) => Seen::Refused,
        _ => Seen::NoAnswer,
    }
}

/// Says that nobody leads here.
pub(crate) fn refuse(answer: Answer, reason: &str) {
    drop(answer.send(Err(CoordinatorError::NotLeader(reason.to_owned()))));
}

/// The result of what is under way; never, if nothing is.
async fn poll_flying<T>(flying: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    match flying {
        Some(future) => Some(future.await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Mono>, now: Mono) {
    match wake {
        Some(wake) => tokio::time::sleep(wake.since(now)).await,
        None => std::future::pending().await,
    }
}
