//! What is kept of groups, as `crate::groups` made it.

use std::sync::Arc;

use bincode::{Decode, Encode};
use firn_proto::cluster::Reply;

use super::{Effects, State};
use crate::command::{ChangeConsumerGroup, ConsumerGroupRow, GroupRow, PutGroup};

/// A group in the state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeptGroup {
    /// As the journal has it.
    pub row: GroupRow,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

/// A consumer group in the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct KeptConsumerGroup {
    /// As the journal has it.
    pub row: ConsumerGroupRow,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

impl State {
    pub(super) fn put_group(
        &mut self,
        body: &PutGroup,
        at_ms: i64,
        effects: &mut Effects,
    ) -> Reply {
        let same = |kept: &KeptGroup| kept.row == body.row;
        if !self.groups.get(&body.group).is_some_and(same) {
            let kept = KeptGroup {
                row: body.row.clone(),
                since_ms: at_ms,
            };
            self.groups.insert(Arc::clone(&body.group), kept);
            effects.changed = true;
        }
        // An empty group of one kind may become one of the other.
        effects.changed |= self.consumer_groups.remove(&body.group).is_some();
        Reply::Done
    }

    pub(super) fn change_consumer_group(
        &mut self,
        body: &ChangeConsumerGroup,
        at_ms: i64,
        effects: &mut Effects,
    ) -> Reply {
        self.groups.remove(&body.group);
        let id = Arc::clone(&body.group);
        let kept = self.consumer_groups.entry(id).or_default();
        kept.row.apply(body);
        kept.since_ms = at_ms;
        effects.changed = true;
        Reply::Done
    }

    pub(super) fn drop_groups(&mut self, groups: &[Arc<str>], effects: &mut Effects) -> Reply {
        for group in groups {
            effects.changed |= self.groups.remove(group).is_some();
            effects.changed |= self.consumer_groups.remove(group).is_some();
            effects.changed |= self.offsets.remove_group(group);
        }
        Reply::Done
    }
}
