//! When answers leave.
//!
//! What was made from a state waits until the journal holds that. If a command of that state is put
//! only from then on, that it becomes durable shows as well that nobody else led when the answer was
//! made: a successor seals the stream before it answers anything. Everything else is a read: it
//! leaves under the read lease, or waits for a look that was sent after it was made.

use firn_proto::cluster::{CoordinatorError, Reply};
use firn_proto::env::Mono;
use firn_proto::limits::FENCE_LOOK_LASTS;

use super::{Leader, held};
use crate::fence::Seen;
use crate::groups::CallId;

/// An answer that is on its way out.
#[derive(Debug)]
pub(super) struct Leaving {
    call: CallId,
    reply: Reply,
    /// When it was made, if it is a read.
    read_at: Option<Mono>,
}

impl Leader {
    /// Answers a call as soon as that may be.
    pub(super) fn answer(&mut self, call: CallId, reply: Reply) {
        let is_read = self.slot.is_empty();
        let leaving = Leaving {
            call,
            reply,
            read_at: is_read.then(|| self.environment.clock.mono()),
        };
        let bytes = |leaving: &Leaving| held::bytes_of(&leaving.reply);
        if let Some(leaving) = self.gate.hold(leaving, bytes) {
            self.let_out(leaving);
        }
    }

    /// A heartbeat tells nothing that the journal would have to hold.
    pub(super) fn answer_heartbeat(&mut self, call: CallId, reply: Reply) {
        let read_at = Some(self.environment.clock.mono());
        self.let_out(Leaving {
            call,
            reply,
            read_at,
        });
    }

    /// The journal holds what it was made from.
    pub(super) fn let_out(&mut self, leaving: Leaving) {
        let now = self.environment.clock.mono();
        if leaving.read_at.is_none() || self.may_tell(&leaving.reply, now) {
            self.send(leaving.call, Ok(leaving.reply));
        } else {
            self.wait_for_look(leaving);
        }
    }

    /// Whether a read may leave at `now`. What heartbeats tell may be as old as what brokers do: they
    /// come so often that each of them would need a look.
    fn may_tell(&self, reply: &Reply, now: Mono) -> bool {
        match reply {
            Reply::Heartbeat(_) | Reply::ConsumerHeartbeat(_) => {
                self.looked.alone_age(now) <= FENCE_LOOK_LASTS
            }
            _ => self.looked.is_leased(now),
        }
    }

    fn wait_for_look(&mut self, leaving: Leaving) {
        self.unread_bytes += held::bytes_of(&leaving.reply);
        self.unread.push_back(leaving);
        self.fence.hurry(self.environment.clock.mono());
    }

    /// The look that was sent at `sent` is over. Whoever waits for one that was sent later goes on
    /// waiting.
    pub(super) fn on_looked(&mut self, sent: Mono, seen: Seen) {
        let now = self.environment.clock.mono();
        let is_leased = self.looked.is_leased(now);
        self.unread_bytes = 0;
        for leaving in std::mem::take(&mut self.unread) {
            let is_later = leaving.read_at.is_some_and(|made| made > sent);
            if seen == Seen::Nothing && (is_leased || !is_later) {
                self.send(leaving.call, Ok(leaving.reply));
            } else if is_later {
                self.wait_for_look(leaving);
            } else {
                let reason = "the bucket does not say whether another process leads".to_owned();
                self.send(leaving.call, Err(CoordinatorError::NotLeader(reason)));
            }
        }
    }
}
