//! A member of a consumer group: what is kept of it, and its time.

use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::GroupError;
use firn_proto::env::Mono;
use firn_proto::limits::GROUP_ENTRY_BYTES;

use crate::command::{ConsumerMemberRow, ConsumerSubscription, LEFT_EPOCH, Progress};
use crate::groups::GroupConfig;

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) row: ConsumerMemberRow,
    /// When its silence puts it out.
    pub(super) session_ends: Mono,
    /// When it is out unless it has let go by then.
    pub(super) revoke_ends: Option<Mono>,
}

impl Member {
    /// Whether the member says its present epoch.
    pub(super) fn check_current_epoch(&self, epoch: i32) -> Result<(), GroupError> {
        match self.row.current.epoch {
            own if own == epoch && own != LEFT_EPOCH => Ok(()),
            _ => Err(GroupError::StaleMemberEpoch),
        }
    }

    pub(super) fn is_at(&self, epoch: i32) -> bool {
        let current = &self.row.current;
        current.progress == Progress::Stable && current.epoch == epoch
    }
}

/// What a member of this id makes its group hold, without partitions.
pub(super) fn subscription_bytes(id: &str, said: &ConsumerSubscription) -> usize {
    let optional = [&said.instance, &said.rack, &said.regex, &said.assignor];
    let optional = optional.into_iter().flatten().map(|text| text.len());
    let topics = said
        .topics
        .iter()
        .map(|name| name.len() + size_of::<Arc<str>>());
    let names = id.len() + said.client_id.len() + said.client_host.len();
    GROUP_ENTRY_BYTES + names + optional.chain(topics).sum::<usize>()
}

/// A moment after `now` at which somebody who was heard now is silent for too long.
pub(super) fn session_end(now: Mono, config: &GroupConfig) -> Mono {
    let least = Duration::from_millis(1);
    now.after(config.consumer_session_timeout.max(least))
}
