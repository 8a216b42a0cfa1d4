//! What a leader says to one follower: pictures as they change, beats, and, if it asks for that, the
//! journal as it grows.

use std::collections::VecDeque;
use std::sync::Arc;

use firn_proto::cluster::{Beat, ClusterImage, ImageUpdate, LeaderBeat};
use firn_proto::env::Clock;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::limits::BEAT_INTERVAL;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::feed::{Cursor, Filled, Log};
use crate::fence::Looked;
use crate::peers::FromLeader;
use crate::standing::Standing;

/// What this process, which leads, has to say to one that follows it.
#[derive(Debug)]
pub struct Followed {
    /// Who follows.
    peer: Fingerprint,
    epoch: CoordinatorEpoch,
    leads: watch::Receiver<Option<CoordinatorEpoch>>,
    image: watch::Receiver<Arc<ClusterImage>>,
    looked: watch::Receiver<Looked>,
    beats: FollowerBeats,
    beaten: watch::Receiver<Option<Beat>>,
    /// The last picture that was sent, or is being sent.
    sent: Option<Arc<ClusterImage>>,
    parts: VecDeque<ImageUpdate>,
    log: watch::Receiver<Log>,
    journal: Cursor,
    /// The last part was one of a picture.
    was_picture: bool,
    ticks: Interval,
}

/// Takes the beats of one follower. Cheap to clone.
#[derive(Clone)]
pub struct FollowerBeats {
    standing: Arc<Standing>,
    clock: Arc<dyn Clock>,
    last: watch::Sender<Option<Beat>>,
}

impl std::fmt::Debug for FollowerBeats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowerBeats").finish_non_exhaustive()
    }
}

impl FollowerBeats {
    /// A beat of the follower has come.
    pub fn on_beat(&self, beat: Beat) {
        let now = self.clock.mono();
        self.standing.on_beat(beat.broker, beat.reads, now);
        self.last.send_replace(Some(beat));
    }
}

impl Followed {
    /// For `peer`, a follower of the epoch that this process leads; `None` if it does not lead, or
    /// its loop is stuck: whoever linked to it again and again would never ask the others.
    pub(crate) fn new(
        peer: Fingerprint,
        standing: &Arc<Standing>,
        clock: &Arc<dyn Clock>,
        image: watch::Receiver<Arc<ClusterImage>>,
        looked: watch::Receiver<Looked>,
    ) -> Option<Self> {
        let leads = standing.leads();
        let epoch = standing.leads_at(clock.mono())?;
        let mut ticks = interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (last, beaten) = watch::channel(None);
        Some(Self {
            peer,
            epoch,
            leads,
            image,
            looked,
            beats: FollowerBeats {
                standing: Arc::clone(standing),
                clock: Arc::clone(clock),
                last,
            },
            beaten,
            sent: None,
            parts: VecDeque::new(),
            log: standing.feed().log(),
            journal: Cursor::default(),
            was_picture: false,
            ticks,
        })
    }

    /// The epoch that is followed.
    pub fn epoch(&self) -> CoordinatorEpoch {
        self.epoch
    }

    /// Where the beats of this follower go.
    pub fn beats(&self) -> FollowerBeats {
        self.beats.clone()
    }

    /// What to send next; `None`: this process does not lead that epoch any more, and the link to the
    /// follower is to be closed. Pictures of which the follower would see nothing any more are left
    /// out. Cancel-safe.
    pub async fn next(&mut self) -> Option<FromLeader> {
        loop {
            if *self.leads.borrow_and_update() != Some(self.epoch) {
                return None;
            }
            if self.parts.is_empty() {
                self.cut_picture();
            }
            let asks = self.fill_journal();
            let has_piece = self.journal.has_part();
            // They take turns, so that a standby falls behind no further than its link is slow.
            let has_picture = !self.parts.is_empty();
            let is_turn = has_picture && (!has_piece || !self.was_picture);
            tokio::select! {
                biased;
                changed = self.leads.changed() => changed.ok()?,
                _ = self.ticks.tick() => {
                    if let Some(beat) = self.beat() {
                        return Some(FromLeader::Beat(beat));
                    }
                }
                part = async { self.parts.pop_front() }, if is_turn => {
                    self.was_picture = true;
                    return part.map(FromLeader::Image);
                }
                part = async { self.journal.cut() }, if has_piece => {
                    self.was_picture = false;
                    return part.map(FromLeader::Journal);
                }
                changed = self.image.changed(), if !has_picture => changed.ok()?,
                changed = self.log.changed(), if asks => changed.ok()?,
                // It asks for something else, or has room for more.
                changed = self.beaten.changed() => changed.ok()?,
            }
        }
    }

    /// Cuts the newest picture into parts, unless it was sent.
    fn cut_picture(&mut self) {
        let newest = Arc::clone(&self.image.borrow_and_update());
        let sent = self.sent.as_deref();
        if sent.is_some_and(|sent| sent.version == newest.version) {
            return;
        }
        match ImageUpdate::between(sent, &newest) {
            Ok(parts) => {
                self.parts = parts.into();
                self.sent = Some(newest);
            }
            Err(error) => tracing::error!(%error, "a picture of the cluster cannot be sent"),
        }
    }

    /// Finds what the follower is to be told of the journal next, if it asks for that.
    fn fill_journal(&mut self) -> bool {
        let last = *self.beaten.borrow_and_update();
        let Some(ask) = last.and_then(|beat| beat.journal) else {
            return false;
        };
        let now = self.beats.clock.mono();
        let feed = self.beats.standing.feed();
        let may_have_state = feed.may_have_state(self.peer, now);
        let log = self.log.borrow_and_update();
        match self.journal.fill(ask, &log, may_have_state) {
            Filled::State => feed.on_state(self.peer, now),
            Filled::NoState => feed.want_state(),
            Filled::AsBefore => {}
        }
        true
    }

    fn beat(&self) -> Option<LeaderBeat> {
        let echo = self.beaten.borrow().as_ref()?.sent;
        let now = self.beats.clock.mono();
        if self.beats.standing.stalled(now).is_some() {
            return None;
        }
        Some(LeaderBeat {
            epoch: self.epoch,
            echo,
            alone_age: Some(self.looked.borrow().alone_age(now)),
            picture: self.image.borrow().version,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use firn_proto::env::Mono;
    use firn_proto::limits::LEADER_STALL_MAX;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::testing::environment;

    #[tokio::test(start_paused = true)]
    async fn a_leader_beats_for_as_long_as_its_loop_comes_round() {
        let clock = environment().clock;
        let standing = Arc::new(Standing::new());
        let (_publish, image) = watch::channel(Arc::new(ClusterImage::default()));
        let (_looks, looked) = watch::channel(Looked::new(clock.mono()));
        standing.set_leads(Some(CoordinatorEpoch(3)));
        let link = || {
            let peer = Fingerprint::default();
            Followed::new(peer, &standing, &clock, image.clone(), looked.clone())
        };
        let mut followed = link().unwrap();
        followed.beats().on_beat(Beat {
            broker: None,
            sent: Mono(1),
            reads: false,
            journal: None,
        });
        // It is told once what there is.
        assert!(matches!(
            followed.next().await,
            Some(FromLeader::Beat(_) | FromLeader::Image(_))
        ));
        let beats = async |followed: &mut Followed| {
            let mut beats = 0;
            let told = async {
                while let Some(told) = followed.next().await {
                    beats += usize::from(matches!(told, FromLeader::Beat(_)));
                }
            };
            assert!(timeout(Duration::from_secs(1), told).await.is_err());
            beats
        };
        assert!(beats(&mut followed).await > 3);
        sleep(LEADER_STALL_MAX).await;
        assert_eq!(beats(&mut followed).await, 0, "the loop is stuck");
        assert!(link().is_none(), "nobody is to link to it again");
        standing.on_turn(clock.mono());
        assert!(link().is_some());
        assert!(beats(&mut followed).await > 3);
    }
}
