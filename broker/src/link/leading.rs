//! What the door serves: the coordinator of this process, as far as other processes reach it.

use std::time::Duration;

use firn_coordinator::{Coordinator, Followed, FromLeader};
use firn_proto::cluster::{Beat, CoordinatorError, Reply, Request};
use firn_proto::env::Mono;
use firn_proto::ids::{CoordinatorEpoch, Fingerprint};
use futures::FutureExt;
use futures::future::BoxFuture;

/// The coordinator of this process, which may lead.
pub trait Leading: Send + Sync + 'static {
    /// The epoch that this process leads, if it does.
    fn leads(&self) -> Option<CoordinatorEpoch>;

    /// Which leader this process has heard last, and how long ago.
    fn heard_leader(&self, now: Mono) -> Option<(CoordinatorEpoch, Duration)>;

    /// Asks this process, and no other.
    fn call_here(&self, request: Request) -> BoxFuture<'static, Result<Reply, CoordinatorError>>;

    /// What is to be said to `peer`, which follows; `None` if this process does not lead.
    fn followed(&self, peer: Fingerprint) -> Option<Box<dyn Pictures>>;
}

/// What is said to one follower, and heard from it.
pub trait Pictures: Send + 'static {
    /// Where its beats go.
    fn beats(&self) -> Box<dyn Fn(Beat) + Send + Sync>;

    /// What to send next; `None` once this process leads no more. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Option<FromLeader>>;
}

impl Leading for Coordinator {
    fn leads(&self) -> Option<CoordinatorEpoch> {
        Self::leads(self)
    }

    fn heard_leader(&self, now: Mono) -> Option<(CoordinatorEpoch, Duration)> {
        Self::heard_leader(self, now)
    }

    fn call_here(&self, request: Request) -> BoxFuture<'static, Result<Reply, CoordinatorError>> {
        let coordinator = self.clone();
        async move { Self::call_here(&coordinator, request).await }.boxed()
    }

    fn followed(&self, peer: Fingerprint) -> Option<Box<dyn Pictures>> {
        Self::followed(self, peer).map(|followed| Box::new(followed) as _)
    }
}

impl Pictures for Followed {
    fn beats(&self) -> Box<dyn Fn(Beat) + Send + Sync> {
        let beats = Self::beats(self);
        Box::new(move |beat| beats.on_beat(beat))
    }

    fn next(&mut self) -> BoxFuture<'_, Option<FromLeader>> {
        Self::next(self).boxed()
    }
}
