//! How the rest of the process reaches the coordinator: by messages, never by its memory.

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::cluster::{ClusterImage, CoordinatorError, Reply, Request};
use firn_proto::env::{Clock, Entropy, Mono};
use firn_proto::journal::{JournalError, JournalOpener};
use firn_proto::limits::{COORDINATOR_QUEUE_MAX, FENCE_WAIT_MAX};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::command::CommandError;
use crate::fence::Looked;
use crate::groups::GroupConfig;
use crate::snapshot::SnapshotError;
use crate::task::{self, Call, Message};

/// Settings of the coordinator.
#[derive(Clone, Debug, Default)]
pub struct CoordinatorConfig {
    /// Settings of groups.
    pub groups: GroupConfig,
    /// Journal puts per second when it has much to do; absent: unlimited (`file://`, `memory://`).
    pub puts_per_second: Option<u32>,
    /// Who leads, for others to read in the epoch's object.
    pub identity: Bytes,
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
    /// A journal slot cannot be read.
    #[error("journal slot {at} cannot be replayed: {error}")]
    Replay {
        /// The slot.
        at: String,
        /// Why.
        error: CommandError,
    },
}

/// A handle of the coordinator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Coordinator {
    inbox: mpsc::Sender<Message>,
    image: watch::Receiver<Arc<ClusterImage>>,
    looked: watch::Receiver<Looked>,
}

/// The running loop.
#[derive(Debug)]
pub struct CoordinatorTask(JoinHandle<Result<(), EndReason>>);

impl Coordinator {
    /// Takes the next epoch and with it the journal, replays it and starts the loop.
    pub async fn start(
        opener: Arc<dyn JournalOpener>,
        config: CoordinatorConfig,
        environment: Environment,
    ) -> Result<(Self, CoordinatorTask), EndReason> {
        let (sender, inbox) = mpsc::channel(COORDINATOR_QUEUE_MAX);
        let (publish, image) = watch::channel(Arc::new(ClusterImage::default()));
        let (looks, looked) = watch::channel(Looked::new(environment.clock.mono()));
        let publish = task::Publish {
            image: publish,
            looked: looks,
        };
        let mut leadership = task::Leadership::new(opener, config, environment, publish);
        let leader = leadership.take_over().await?;
        let loop_ = tokio::spawn(leadership.run(leader, inbox));
        let handle = Self {
            inbox: sender,
            image,
            looked,
        };
        Ok((handle, CoordinatorTask(loop_)))
    }

    /// Asks, and waits for the answer and for the journal to hold what it says. Waits while the
    /// queue is full.
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
        let (answer, answered) = oneshot::channel();
        let call = Message::Call(Call { request, answer });
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
    /// that no other one leads. That is known at once, unless the process has stood still (SIGSTOP,
    /// a paused machine), and then after a bounded time.
    ///
    /// # Errors
    /// [`CoordinatorError::Stopped`]: another process leads, or this one stops.
    /// [`CoordinatorError::NotLeader`]: the bucket does not say, or has not been asked in time.
    pub async fn may_read(&self, now: Mono) -> Result<(), CoordinatorError> {
        let mut looked = self.looked.clone();
        if looked.has_changed().is_err() {
            return Err(CoordinatorError::Stopped);
        }
        if looked.borrow().may_read(now).is_none() {
            // A full queue is a loop that is about to look anyway.
            drop(self.inbox.try_send(Message::Look));
        }
        let known = looked.wait_for(|looked| looked.may_read(now).is_some());
        let reason = match timeout(FENCE_WAIT_MAX, known).await {
            Ok(Err(_)) => return Err(CoordinatorError::Stopped),
            Ok(Ok(looked)) if looked.may_read(now) == Some(true) => return Ok(()),
            Ok(Ok(_)) => "the bucket does not say whether another process leads",
            Err(_) => "nobody has looked in time whether another process leads",
        };
        Err(CoordinatorError::NotLeader(reason.to_owned()))
    }

    /// Whether what this process knows may be read, as far as its looks say that are over.
    pub fn is_read(&self, now: Mono) -> bool {
        self.looked.borrow().may_read(now) == Some(true)
    }

    /// Stops the loop once everything that was asked before is durable and answered.
    pub async fn close(&self) {
        let (done, finished) = oneshot::channel();
        if self.inbox.send(Message::Stop(done)).await.is_ok() {
            // An error means that the loop has ended by itself, which is what was asked for.
            drop(finished.await);
        }
    }
}

impl CoordinatorTask {
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

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_run_keeps_no_reader_for_ever() {
        let (sender, _inbox) = mpsc::channel(COORDINATOR_QUEUE_MAX);
        let (_publish, image) = watch::channel(Arc::new(ClusterImage::default()));
        let (_looks, looked) = watch::channel(Looked::new(Mono(0)));
        let coordinator = Coordinator {
            inbox: sender,
            image,
            looked,
        };
        assert_eq!(coordinator.may_read(Mono(0)).await, Ok(()));
        assert!(coordinator.is_read(Mono(0)));
        let later = Mono(0).after(2 * FENCE_LOOK_LASTS);
        assert!(!coordinator.is_read(later));
        let refused = coordinator.may_read(later).await;
        assert!(
            matches!(refused, Err(CoordinatorError::NotLeader(_))),
            "{refused:?}"
        );
    }
}
