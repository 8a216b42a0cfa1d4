//! How the rest of the process reaches the coordinator: by messages, never by its memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::cluster::{ClusterImage, CoordinatorError, Reply, Request};
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use firn_proto::journal::{JournalError, JournalOpener};
use firn_proto::limits::{COORDINATOR_QUEUE_MAX, FENCE_WAIT_MAX};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::command::CommandError;
use crate::fence::Looked;
use crate::followed::Followed;
use crate::groups::GroupConfig;
use crate::peers::Peers;
use crate::seat::Seat;
use crate::snapshot::SnapshotError;
use crate::standing::{FollowedTo, Standing};
use crate::task::{Call, Message, Origin, Publish};

/// Settings of the coordinator.
#[derive(Clone, Debug, Default)]
pub struct CoordinatorConfig {
    /// Settings of groups.
    pub groups: GroupConfig,
    /// Journal puts per second when it has much to do; absent: unlimited (`file://`, `memory://`).
    pub puts_per_second: Option<u32>,
    /// Who this is, for others to read in the objects of the epochs it takes: an encoded
    /// [`ProcessCard`](crate::ProcessCard).
    pub identity: Bytes,
    /// After how long a silent broker is taken for dead that nobody could prove to be; no less than
    /// [`BROKER_SESSION_TIMEOUT_MIN`](firn_proto::limits::BROKER_SESSION_TIMEOUT_MIN).
    pub broker_session: Duration,
    /// It never leads, nor follows the journal in order to.
    pub never_leads: bool,
    /// For how long a start asks a bucket again that does not serve the journal.
    pub start_timeout: Duration,
}

/// What the coordinator takes from the world.
#[derive(Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness: ids of topics and members.
    pub entropy: Arc<Entropy>,
}

/// Why the coordinator has ended, or could not start.
#[derive(Clone, Debug, Error)]
pub enum EndReason {
    /// The journal is fenced, corrupt, or cannot be reached.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The snapshot cannot be read.
    #[error("the newest snapshot cannot be taken up: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The cluster has taken this process for dead while it stood still or was cut off.
    #[error(
        "the cluster has taken this process for dead: its card is not in the bucket any more, and no \
         other process takes its links"
    )]
    Forgotten,
    /// This process may not lead, and has found nobody who does.
    #[error(
        "no process leads the cluster, and this one may not (roles): start one with the role \
         `coordinator` on this bucket"
    )]
    NoLeader,
    /// A journal slot cannot be read.
    #[error("journal slot {at} cannot be replayed: {error}")]
    Replay {
        /// The slot.
        at: String,
        /// Why.
        error: CommandError,
    },
}

/// A handle of the coordinator, which is here or in another process. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) image: watch::Receiver<Arc<ClusterImage>>,
    pub(crate) looked: watch::Receiver<Looked>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let standing = &self.standing;
        let mut shown = f.debug_struct("Coordinator");
        shown.field("standing", standing).finish_non_exhaustive()
    }
}

/// The running loop.
#[derive(Debug)]
pub struct CoordinatorTask(JoinHandle<Result<(), EndReason>>);

impl Coordinator {
    /// Finds the cluster's leader or becomes it, and goes on doing so: [`Self::vacant`] and
    /// [`Seat::take`] in one.
    pub async fn start(
        opener: Arc<dyn JournalOpener>,
        config: CoordinatorConfig,
        environment: Environment,
        peers: Arc<dyn Peers>,
    ) -> Result<(Self, CoordinatorTask), EndReason> {
        let (coordinator, seat) = Self::vacant(environment);
        let task = seat.take(opener, config, peers).await?;
        Ok((coordinator, task))
    }

    /// A handle to be, which says to others from now on that it has heard of no leader, and the seat
    /// behind it.
    pub fn vacant(environment: Environment) -> (Self, Seat) {
        let (sender, inbox) = mpsc::channel(COORDINATOR_QUEUE_MAX);
        let (publish, image) = watch::channel(Arc::new(ClusterImage::default()));
        let (looks, looked) = watch::channel(Looked::new(environment.clock.mono()));
        let publish = Publish {
            image: publish,
            looked: looks,
        };
        let standing = Arc::new(Standing::new());
        let handle = Self {
            inbox: sender,
            image,
            looked,
            standing: Arc::clone(&standing),
            clock: Arc::clone(&environment.clock),
        };
        (handle, Seat::new(environment, publish, inbox, standing))
    }

    /// The epoch that this process leads, if it does and its loop comes round.
    pub fn leads(&self) -> Option<CoordinatorEpoch> {
        self.standing.leads_at(self.clock.mono())
    }

    /// Which leader this process has heard last, and how long ago; itself, if it leads or is about
    /// to. `None`: none since it started.
    pub fn heard_leader(&self, now: Mono) -> Option<(CoordinatorEpoch, Duration)> {
        self.standing.heard(now)
    }

    /// How far this process follows the journal of the leader, in order to take it over.
    pub fn followed_to(&self) -> Option<FollowedTo> {
        self.standing.followed()
    }

    /// What is to be said to `peer`, which follows this process; `None` if this one does not lead.
    pub fn followed(&self, peer: Fingerprint) -> Option<Followed> {
        let (image, looked) = (self.image.clone(), self.looked.clone());
        Followed::new(peer, &self.standing, &self.clock, image, looked)
    }

    /// [`Self::call`] on behalf of another process: it is not forwarded again.
    ///
    /// # Errors
    /// [`CoordinatorError::NotLeader`] if this process does not lead, or stops: another one will.
    pub async fn call_here(&self, request: Request) -> Result<Reply, CoordinatorError> {
        match self.send(request, Origin::Elsewhere, || ()).await {
            Err(CoordinatorError::Stopped) => Err(CoordinatorError::NotLeader(
                "this process has stopped".to_owned(),
            )),
            answer => answer,
        }
    }

    /// Asks the leader, wherever it is, and waits for the answer and for the journal to hold what it
    /// says. Waits while the queue is full, and a bounded time for a leader.
    ///
    /// Dropping the future takes nothing back: what was asked may still happen.
    pub async fn call(&self, request: Request) -> Result<Reply, CoordinatorError> {
        self.call_and(request, || ()).await
    }

    /// [`Self::call`]. Says by `taken` that the request is handed over: the answer may still wait
    /// for a rebalance, or for the journal, but what it was made from is counted here from then on.
    pub async fn call_and(
        &self,
        request: Request,
        taken: impl FnOnce(),
    ) -> Result<Reply, CoordinatorError> {
        self.send(request, Origin::Here, taken).await
    }

    async fn send(
        &self,
        request: Request,
        origin: Origin,
        taken: impl FnOnce(),
    ) -> Result<Reply, CoordinatorError> {
        let (answer, answered) = oneshot::channel();
        let call = Message::Call(Call {
            request,
            answer,
            origin,
        });
        let sent = self.inbox.send(call).await;
        sent.map_err(|_| CoordinatorError::Stopped)?;
        taken();
        answered.await.map_err(|_| CoordinatorError::Stopped)?
    }

    /// The picture of the cluster, always durable.
    pub fn image(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.image.clone()
    }

    /// Waits until it is known whether what this process knows may be read: it has heard lately
    /// that its leader, or itself, is the only one. That is known at once, unless the process has stood still (SIGSTOP,
    /// a paused machine), and then after a bounded time.
    ///
    /// # Errors
    /// [`CoordinatorError::Stopped`]: this process stops.
    /// [`CoordinatorError::NotLeader`]: nobody says so, or not in time.
    pub async fn may_read(&self, now: Mono) -> Result<(), CoordinatorError> {
        let mut looked = self.looked.clone();
        if looked.has_changed().is_err() {
            return Err(CoordinatorError::Stopped);
        }
        self.look_unless_known(now);
        let known = looked.wait_for(|looked| looked.may_read(now).is_some());
        let reason = match timeout(FENCE_WAIT_MAX, known).await {
            Ok(Err(_)) => return Err(CoordinatorError::Stopped),
            Ok(Ok(looked)) if looked.may_read(now) == Some(true) => return Ok(()),
            Ok(Ok(_)) => "the bucket does not say whether another process leads",
            Err(_) => "nobody has looked in time whether another process leads",
        };
        Err(CoordinatorError::NotLeader(reason.to_owned()))
    }

    /// Whether what this process knows may be read, as far as that is known; where it is not, it will be
    /// soon.
    pub fn is_read_or_look(&self, now: Mono) -> bool {
        self.look_unless_known(now);
        self.is_read(now)
    }

    fn look_unless_known(&self, now: Mono) {
        if self.looked.borrow().may_read(now).is_none() {
            // A full queue is a loop that is about to look anyway.
            drop(self.inbox.try_send(Message::Look));
        }
    }

    /// Whether what this process knows may be read, as far as its looks say that are over.
    pub fn is_read(&self, now: Mono) -> bool {
        self.looked.borrow().may_read(now) == Some(true)
    }

    /// Stops the loop once everything that was asked before is durable and answered. A leader says
    /// in the journal that it has stopped, so that the next one need not wait.
    pub async fn close(&self) {
        let (done, finished) = oneshot::channel();
        if self.inbox.send(Message::Stop(done)).await.is_ok() {
            // An error means that the loop has ended by itself, which is what was asked for.
            drop(finished.await);
        }
    }
}

impl CoordinatorTask {
    pub(crate) fn new(task: JoinHandle<Result<(), EndReason>>) -> Self {
        Self(task)
    }

    /// The process dies.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        self.0.abort();
    }

    /// Waits for the end of the loop: `Ok` after [`Coordinator::close`], else the reason, after
    /// which the process must stop, for nobody else would serve what it owns. Cancel-safe.
    pub async fn ended(&mut self) -> Result<(), EndReason> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) => Err(EndReason::Journal(JournalError::Unavailable(format!(
                "the coordinator's loop failed: {error}"
            )))),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_proto::limits::FENCE_LOOK_LASTS;

    use super::*;
    use crate::testing::environment;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_run_keeps_no_reader_for_ever() {
        let (coordinator, _seat) = Coordinator::vacant(environment());
        assert_eq!(coordinator.may_read(Mono(0)).await, Ok(()));
        assert!(coordinator.is_read(Mono(0)));
        let later = Mono(0).after(2 * FENCE_LOOK_LASTS);
        assert!(!coordinator.is_read(later));
        assert!(!coordinator.is_read_or_look(later));
        let refused = coordinator.may_read(later).await;
        assert!(
            matches!(refused, Err(CoordinatorError::NotLeader(_))),
            "{refused:?}"
        );
    }
}
