//! While another process leads: calls go there, pictures and beats come from there.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_proto::cluster::{
    Beat, ClusterImage, CoordinatorError, FollowedImage, ImageFault, ImageUpdate, JournalPart,
    LeaderBeat, LinkAddress, Reply,
};
use firn_proto::env::Mono;
use firn_proto::ids::{CoordinatorEpoch, Incarnation};
use firn_proto::limits::{
    BEAT_INTERVAL, BEAT_SILENCE, FENCE_LOOK_LASTS, FORWARDED_CALLS_MAX, LINK_PART_BYTES_MAX,
};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Next, Sitter};
use crate::credits::{Credit, Credits};
use crate::fence::Seen;
use crate::peers::{FromLeader, LeaderLink, PeerError, ProcessCard};
use crate::standby::Standby;
use crate::task::{Answer, Call, Message, Origin, refuse};

type Answered = (u64, Result<Reply, CoordinatorError>);

/// What is known of the leader that is followed.
struct Leader<'a> {
    link: Box<dyn LeaderLink>,
    card: &'a ProcessCard,
    epoch: CoordinatorEpoch,
    image: FollowedImage,
    /// The version of its last picture that is here, and beats that are worth something later.
    picture: u64,
    credits: Credits,
    heard_at: Mono,
    ticked_at: Mono,
    /// Calls that are under way there, and who waits for their answers.
    calls: FuturesUnordered<BoxFuture<'static, Answered>>,
    answers: BTreeMap<u64, Answer>,
    next_call: u64,
    /// The next beat says that somebody reads.
    reads: bool,
    /// How much of the journal the last beat said to have come.
    told_taken: u64,
}

impl Sitter {
    /// Follows until there is something else to do.
    pub(super) async fn follow(
        &mut self,
        link: Box<dyn LeaderLink>,
        card: &ProcessCard,
        epoch: CoordinatorEpoch,
    ) -> Next {
        let now = self.environment.clock.mono();
        info!(leader = %card.shown, %epoch, "this process follows the leader of the cluster");
        // A link says nothing of the loop that decides there: it is heard with its first beat.
        if let Some(standby) = &mut self.standby {
            standby.on_link();
        }
        let mut leader = Leader {
            link,
            card,
            epoch,
            image: FollowedImage::default(),
            picture: 0,
            credits: Credits::default(),
            heard_at: now,
            ticked_at: now,
            calls: FuturesUnordered::new(),
            answers: BTreeMap::new(),
            next_call: 0,
            reads: false,
            told_taken: 0,
        };
        for parked in std::mem::take(&mut self.parked) {
            leader.forward(parked.call);
        }
        let next = match self.follow_on(&mut leader).await {
            Ok(()) => Next::Stop,
            Err(error) => {
                warn!(leader = %card.shown, %error, "the leader of the cluster is lost");
                Next::Elect
            }
        };
        for answer in leader.answers.into_values() {
            refuse(answer, "the leader was lost before it answered");
        }
        next
    }

    /// `Ok`: it was told to stop.
    async fn follow_on(&mut self, leader: &mut Leader<'_>) -> Result<(), Lost> {
        let mut ticks = interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // However much is asked and told, this process says that it lives.
                _ = ticks.tick() => self.on_tick(leader)?,
                Some(answered) = leader.calls.next(), if !leader.calls.is_empty() => {
                    leader.pass_on(answered);
                }
                told = leader.link.next() => {
                    let told = told.map_err(Lost::Link);
                    told.and_then(|told| self.on_told(told, leader))?;
                }
                message = self.inbox.recv() => match message {
                    Some(Message::Call(call)) => leader.forward(call),
                    Some(Message::Look) => self.ask_for_look(leader),
                    Some(Message::Stop(_)) | None => return Ok(()),
                },
            }
        }
    }

    fn on_told(&mut self, told: FromLeader, leader: &mut Leader<'_>) -> Result<(), Lost> {
        match told {
            FromLeader::Image(update) => self.on_image(&update, leader)?,
            FromLeader::Beat(beat) => self.on_beat(beat, leader)?,
            FromLeader::Journal(part) => self.on_journal(&part, leader),
        }
        Ok(())
    }

    fn on_journal(&mut self, part: &JournalPart, leader: &mut Leader<'_>) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        if let Err(misfit) = standby.take(part) {
            warn!(%misfit, "the leader is asked for the state of the cluster anew");
        }
        self.standing.set_followed(standby.followed_to());
        let untold = standby.ask().taken.saturating_sub(leader.told_taken);
        if untold >= (LINK_PART_BYTES_MAX / 2) as u64 {
            // The leader waits for that before it sends more.
            self.beat(leader, self.environment.clock.mono());
        }
    }

    fn on_image(&self, update: &ImageUpdate, leader: &mut Leader<'_>) -> Result<(), ImageFault> {
        let Some(image) = leader.image.take(update)? else {
            return Ok(());
        };
        leader.picture = image.version;
        // Leaders count their pictures each for itself, and so does this process.
        let version = self.publish.image.borrow().version + 1;
        self.publish.image.send_replace(Arc::new(ClusterImage {
            version,
            ..image.clone()
        }));
        self.note_credits(leader);
        Ok(())
    }

    /// What this process knows may be read for as long as the beats say whose pictures are here.
    fn note_credits(&self, leader: &mut Leader<'_>) {
        let Some(credit) = leader.credits.take(leader.picture) else {
            return;
        };
        self.publish.note_look(credit.asked, Seen::NoAnswer);
        if let Some(alone) = credit.alone {
            self.publish.note_look(alone, Seen::Nothing);
        }
    }

    fn on_beat(&self, beat: LeaderBeat, leader: &mut Leader<'_>) -> Result<(), Lost> {
        if beat.epoch != leader.epoch {
            return Err(Lost::Link(PeerError::NotLeading));
        }
        let now = self.environment.clock.mono();
        let age = beat.alone_age.unwrap_or(FENCE_LOOK_LASTS);
        let alone = Mono(
            beat.echo
                .0
                .saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)),
        );
        leader.credits.on_beat(Credit {
            picture: beat.picture,
            asked: beat.echo,
            alone: beat.alone_age.is_some().then_some(alone),
        });
        self.note_credits(leader);
        // One that the bucket does not answer makes room.
        if now.since(alone) <= FENCE_LOOK_LASTS {
            leader.heard_at = now;
            self.standing.on_heard(leader.epoch, now);
        }
        Ok(())
    }

    fn on_tick(&self, leader: &mut Leader<'_>) -> Result<(), Lost> {
        let now = self.environment.clock.mono();
        if now.since(leader.ticked_at) > BEAT_SILENCE {
            // This process stood still: what it did not hear meanwhile says nothing.
            leader.heard_at = now;
        }
        leader.ticked_at = now;
        let silent = now.since(leader.heard_at);
        if silent > BEAT_SILENCE {
            return Err(Lost::Silent);
        }
        if silent > BEAT_INTERVAL && self.peers.is_gone(&leader.card.process) {
            return Err(Lost::Gone);
        }
        self.beat(leader, now);
        leader.reads = false;
        Ok(())
    }

    /// Somebody waits for a look of the leader: it is told at once, the first time between beats.
    fn ask_for_look(&self, leader: &mut Leader<'_>) {
        if !std::mem::replace(&mut leader.reads, true) {
            self.beat(leader, self.environment.clock.mono());
        }
    }

    fn beat(&self, leader: &mut Leader<'_>, now: Mono) {
        let journal = self.standby.as_ref().map(Standby::ask);
        leader.told_taken = journal.map_or(0, |ask| ask.taken);
        leader.link.beat(Beat {
            broker: self.own_broker(),
            sent: now,
            reads: leader.reads,
            journal,
        });
    }

    /// The broker of this process, once the picture has it.
    fn own_broker(&self) -> Option<Incarnation> {
        let own = self.own?;
        let image = self.publish.image.borrow();
        let is_own = |link: &LinkAddress| link.fingerprint == own;
        let mut brokers = image.brokers.values();
        let broker = brokers.find(|broker| broker.link.as_ref().is_some_and(is_own))?;
        Some(broker.incarnation)
    }
}

impl Leader<'_> {
    fn forward(&mut self, call: Call) {
        if call.origin == Origin::Elsewhere {
            refuse(call.answer, "this process does not lead");
        } else if self.calls.len() >= FORWARDED_CALLS_MAX {
            drop(call.answer.send(Err(CoordinatorError::Busy)));
        } else {
            let id = self.next_call;
            self.next_call += 1;
            self.answers.insert(id, call.answer);
            let asked = self.link.call(call.request);
            self.calls
                .push(asked.map(move |result| (id, result)).boxed());
        }
    }

    fn pass_on(&mut self, (id, result): Answered) {
        if let Some(answer) = self.answers.remove(&id) {
            // The caller may have gone; what it asked for has happened all the same.
            drop(answer.send(result));
        }
    }
}

/// Why a leader is followed no more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Link(PeerError),
    #[error(transparent)]
    Picture(#[from] ImageFault),
    #[error("it has not been heard for a while")]
    Silent,
    #[error("its process is gone")]
    Gone,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::handle::{Coordinator, CoordinatorConfig};
    use crate::peers::{Alone, ProcessProof};
    use crate::testing::{MemoryBucket, environment};

    /// Says something at once whenever it is listened to, for a while.
    struct Talkative {
        left: u32,
        beats: Arc<AtomicU32>,
    }

    impl LeaderLink for Talkative {
        fn call(&self, _: firn_proto::cluster::Request) -> BoxFuture<'static, CallResult> {
            std::future::pending().boxed()
        }

        fn beat(&self, _: Beat) {
            self.beats.fetch_add(1, Ordering::Relaxed);
        }

        fn next(&mut self) -> BoxFuture<'_, Result<FromLeader, PeerError>> {
            let beat = LeaderBeat {
                epoch: CoordinatorEpoch(1),
                echo: Mono(0),
                alone_age: None,
                picture: 0,
            };
            let told = self.left.checked_sub(1);
            self.left = told.unwrap_or_default();
            let told = told.map(|_| FromLeader::Beat(beat));
            std::future::ready(told.ok_or(PeerError::NoAnswer)).boxed()
        }
    }

    type CallResult = Result<Reply, CoordinatorError>;

    fn card() -> ProcessCard {
        ProcessCard {
            broker: None,
            link: LinkAddress {
                host: String::new(),
                port: 1,
                fingerprint: firn_proto::ids::Fingerprint::default(),
            },
            listeners: Vec::new(),
            process: ProcessProof {
                boot: String::new(),
                namespaces: String::new(),
                pid: 1,
                started: 1,
            },
            shown: String::new(),
        }
    }

    /// Says these things one after the other, and ends.
    struct Scripted(std::vec::IntoIter<FromLeader>);

    impl LeaderLink for Scripted {
        fn call(&self, _: firn_proto::cluster::Request) -> BoxFuture<'static, CallResult> {
            std::future::pending().boxed()
        }

        fn beat(&self, _: Beat) {}

        fn next(&mut self) -> BoxFuture<'_, Result<FromLeader, PeerError>> {
            async { self.0.next().ok_or(PeerError::NoAnswer) }.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_picture_of_the_last_version_there_is_ends_nothing() {
        let (coordinator, seat) = Coordinator::vacant(environment());
        let opener = MemoryBucket::default().opener();
        let mut sitter = seat.sit(opener, CoordinatorConfig::default(), Arc::new(Alone));
        let last = ClusterImage {
            version: u64::MAX,
            ..ClusterImage::default()
        };
        let mut told = Vec::new();
        for _ in 0..2 {
            let parts = ImageUpdate::between(None, &last).unwrap();
            told.extend(parts.into_iter().map(FromLeader::Image));
        }
        let link = Scripted(told.into_iter());
        sitter
            .follow(Box::new(link), &card(), CoordinatorEpoch(1))
            .await;
        // If this process leads next, its own pictures come after that.
        assert_eq!(coordinator.image().borrow().version, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_is_told_much_says_all_the_same_that_it_lives() {
        let (coordinator, seat) = Coordinator::vacant(environment());
        let opener = MemoryBucket::default().opener();
        let mut sitter = seat.sit(opener, CoordinatorConfig::default(), Arc::new(Alone));
        let beats = Arc::new(AtomicU32::new(0));
        let link = Talkative {
            left: 1_000,
            beats: Arc::clone(&beats),
        };
        sitter
            .follow(Box::new(link), &card(), CoordinatorEpoch(1))
            .await;
        assert!(beats.load(Ordering::Relaxed) > 0);
        drop(coordinator);
    }
}
