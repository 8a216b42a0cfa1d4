//! What both kinds of groups have in common.

use std::sync::Arc;

use firn_proto::cluster::{GroupError, ListedGroup, OffsetCommit};
use firn_proto::env::Mono;

use super::classic::ClassicGroup;
use super::consumer::{ConsumerGroup, SeenTopics};
use super::{GroupConfig, Out};
use crate::command::PutGroup;

/// A group.
#[derive(Debug)]
pub(super) enum Group {
    /// Its leader assigns.
    Classic(ClassicGroup),
    /// It assigns by itself.
    Consumer(ConsumerGroup),
}

impl From<ClassicGroup> for Group {
    fn from(group: ClassicGroup) -> Self {
        Self::Classic(group)
    }
}

impl From<ConsumerGroup> for Group {
    fn from(group: ConsumerGroup) -> Self {
        Self::Consumer(group)
    }
}

impl Group {
    pub(super) fn id(&self) -> &Arc<str> {
        match self {
            Self::Classic(group) => group.id(),
            Self::Consumer(group) => group.id(),
        }
    }

    /// Whether it has no members.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    /// Not later than the earliest moment at which a timer is due.
    pub(super) fn wake(&self) -> Option<Mono> {
        match self {
            Self::Classic(group) => group.wake(),
            Self::Consumer(group) => group.wake(),
        }
    }

    /// Bytes that its members make it hold.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Classic(group) => group.held_bytes(),
            Self::Consumer(group) => group.held_bytes(),
        }
    }

    /// Hands over what the journal must be told.
    pub(super) fn take_unsaved(&mut self, out: &mut Out) {
        match self {
            Self::Classic(group) => {
                if group.take_unsaved() {
                    out.puts.push(PutGroup {
                        group: Arc::clone(group.id()),
                        row: group.row(),
                    });
                }
            }
            Self::Consumer(group) => out.changes.extend(group.take_change()),
        }
    }

    pub(super) fn list(&self) -> ListedGroup {
        match self {
            Self::Classic(group) => group.list(),
            Self::Consumer(group) => group.list(),
        }
    }

    /// Whether this client may commit.
    pub(super) fn check_commit(
        &mut self,
        request: &OffsetCommit,
        now: Mono,
    ) -> Result<(), GroupError> {
        match self {
            Self::Classic(group) => group.check_commit(request, now),
            Self::Consumer(group) => group.check_commit(request),
        }
    }

    /// Does what is due.
    pub(super) fn on_timeout(
        &mut self,
        topics: SeenTopics<'_>,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) {
        match self {
            Self::Classic(group) => group.on_timeout(now, config, out),
            Self::Consumer(group) => group.on_timeout(topics, now, out),
        }
    }

    /// Asserts what holds between steps.
    #[cfg(test)]
    pub(super) fn check(&self) {
        match self {
            Self::Classic(group) => group.check(),
            Self::Consumer(group) => group.check(),
        }
    }
}
