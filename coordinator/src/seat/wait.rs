//! What happens to callers while the seat waits for something else: for the bucket, for another
//! process, or for time to pass.

use firn_proto::cluster::CoordinatorError;
use firn_proto::limits::{COORDINATOR_QUEUE_MAX, LEADER_WAIT_MAX};
use tokio::time::{MissedTickBehavior, interval};

use super::{Parked, Sitter, WAIT_TICK};
use crate::fence::Seen;
use crate::task::{Call, Message, Origin, refuse};

impl Sitter {
    /// Waits. Calls wait too, for a bounded time. `None`: it was told to stop.
    pub(super) async fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);
        let mut ticks = interval(WAIT_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return Some(done),
                // Callers that never end must not keep others from being refused.
                _ = ticks.tick() => {
                    self.refuse_late();
                    self.note_no_leader();
                }
                message = self.inbox.recv() => match message {
                    Some(Message::Call(call)) => self.park(call),
                    Some(Message::Look) => self.note_no_leader(),
                    Some(Message::Stop(_)) | None => return None,
                },
            }
        }
    }

    fn park(&mut self, call: Call) {
        let leads = self.standing.leads().borrow().is_some();
        if call.origin == Origin::Elsewhere && !leads {
            refuse(call.answer, "this process does not lead");
        } else if self.parked.len() >= COORDINATOR_QUEUE_MAX {
            drop(call.answer.send(Err(CoordinatorError::Busy)));
        } else {
            let now = self.environment.clock.mono();
            let deadline = now.after(LEADER_WAIT_MAX);
            self.parked.push_back(Parked { call, deadline });
        }
    }

    /// Refuses calls that have waited for long enough.
    fn refuse_late(&mut self) {
        let now = self.environment.clock.mono();
        let is_late = |parked: &mut Parked| parked.deadline <= now;
        while let Some(parked) = self.parked.pop_front_if(is_late) {
            refuse(
                parked.call.answer,
                "the cluster has no leader at the moment",
            );
        }
    }

    /// An outage holds no reader up: once it has lasted, it is a look without an answer.
    fn note_no_leader(&self) {
        let now = self.environment.clock.mono();
        let since = self.leaderless_since.unwrap_or(now);
        if self.started && now.since(since) >= LEADER_WAIT_MAX {
            self.publish.note_look(now, Seen::NoAnswer);
        }
    }
}
