//! Groups: classic ones (JoinGroup, SyncGroup), whose leader assigns, and consumer groups (KIP-848),
//! which assign by themselves.
//!
//! Pure: `now` and randomness come in, answers and rows for the journal come out. Memberships live
//! in memory; what the journal keeps of a group is written when a generation becomes stable or the
//! group becomes empty, as Kafka does, and [`Groups::load`] takes it up again. The driver applies
//! the rows of an [`Out`] before it lets the answers wait for the journal.
//!
//! - `config.rs`: settings; `group.rs`: what both kinds have in common
//! - `consumer/`: consumer groups
//! - `classic.rs`: one classic group: its parts, its rows, what is said about it; `member.rs`: one
//!   member
//! - `join.rs`, `sync.rs`, `leave.rs`: what members may ask
//! - `rebalance.rs`: the barrier, the choice of leader and protocol, the timers
//! - `pending.rs`: members that were promised a place
//! - `subscription.rs`: what topics a consumer says it reads

mod classic;
mod config;
mod consumer;
mod group;
mod join;
mod leave;
mod member;
mod pending;
mod rebalance;
mod subscription;
mod sync;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{
    DescribedGroup, GroupError, Heartbeat, JoinGroup, LeaveGroup, LeftGroup, LeftMember,
    ListGroups, ListedGroup, OffsetCommit, Reply, SyncGroup,
};
use firn_proto::env::Mono;
use firn_proto::ids::TopicId;
use firn_proto::limits::{
    GROUP_BYTES_MAX, GROUP_ENTRY_BYTES, GROUP_ID_BYTES_MAX, GROUP_MEMBER_BYTES_MAX,
    GROUP_PROTOCOLS_MAX, GROUPS_BYTES_MAX, GROUPS_MAX,
};

use crate::command::{ChangeConsumerGroup, ConsumerGroupRow, GroupRow, PutGroup};
use classic::ClassicGroup;
use consumer::{ConsumerGroup, SeenTopics, TopicChanges};
use group::Group;
use member::join_bytes;

pub use config::GroupConfig;
pub use consumer::TopicSource;

/// How often a group is looked at for offsets that are too old.
const IDLE_CHECK: Duration = Duration::from_secs(600);

/// A caller whose answer may come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What a step led to.
#[derive(Debug, Default)]
pub struct Out {
    /// Answers, each to the call that waits for it.
    pub replies: Vec<(CallId, Reply)>,
    /// Groups that the journal must keep as they are now, before the answers go out.
    pub puts: Vec<PutGroup>,
    /// What the journal must be told of consumer groups, before the answers go out.
    pub changes: Vec<ChangeConsumerGroup>,
    /// Groups to look at; the driver drops offsets that are too old, and groups without members
    /// and offsets.
    pub idle: Vec<Idle>,
}

/// A group whose offsets may be too old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The group.
    pub group: Arc<str>,
    /// The topics that members read, whose offsets stay; absent if there are no members.
    pub reads: Option<BTreeSet<String>>,
}

impl Out {
    fn reply(&mut self, call: CallId, reply: Reply) {
        self.replies.push((call, reply));
    }
}

/// All groups.
#[derive(Debug)]
pub struct Groups {
    config: GroupConfig,
    by_id: BTreeMap<Arc<str>, Group>,
    /// Bytes that members make all groups hold.
    bytes: usize,
    /// The groups by the earliest moment at which one may have something to do.
    timers: BTreeSet<(Mono, Arc<str>)>,
    topic_changes: Arc<TopicChanges>,
}

impl Groups {
    /// The groups that the journal kept, and those that only have offsets. Every session starts
    /// afresh.
    pub fn load<'a>(
        config: GroupConfig,
        rows: impl Iterator<Item = (&'a Arc<str>, &'a GroupRow)>,
        consumers: impl Iterator<Item = (&'a Arc<str>, &'a ConsumerGroupRow)>,
        with_offsets: impl Iterator<Item = &'a Arc<str>>,
        now: Mono,
    ) -> Self {
        let mut groups = Self {
            config,
            by_id: BTreeMap::new(),
            bytes: 0,
            timers: BTreeSet::new(),
            topic_changes: Arc::default(),
        };
        for (id, row) in rows {
            groups.insert(ClassicGroup::from_row(Arc::clone(id), row, now).into());
        }
        for (id, row) in consumers {
            let group = ConsumerGroup::from_row(Arc::clone(id), row, now, &groups.config);
            groups.insert(group.into());
        }
        for id in with_offsets {
            if !groups.by_id.contains_key(id) {
                groups.insert(ClassicGroup::new(Arc::clone(id), now).into());
            }
        }
        groups
    }

    /// A member joins. `random` makes the id of a new member.
    pub fn handle_join(
        &mut self,
        call: CallId,
        request: &JoinGroup,
        random: u128,
        now: Mono,
    ) -> Out {
        let mut out = Out::default();
        if let Err(error) = self.check_join(request) {
            out.reply(call, Reply::JoinGroup(Err(error)));
            return out;
        }
        if !matches!(self.by_id.get(&request.group), Some(Group::Classic(_))) {
            self.remove(&request.group);
            self.insert(ClassicGroup::new(Arc::clone(&request.group), now).into());
        }
        let config = self.config.clone();
        self.with_classic(&request.group, &mut out, |group, out| {
            group.join(call, request, random, now, &config, out);
        });
        out
    }

    /// A member wants its assignment.
    pub fn handle_sync(&mut self, call: CallId, request: &SyncGroup, now: Mono) -> Out {
        let mut out = Out::default();
        let bytes: usize = request.assignments.iter().map(|(_, a)| a.len()).sum();
        if bytes > GROUP_BYTES_MAX || self.bytes + bytes > GROUPS_BYTES_MAX {
            let error = GroupError::InvalidRequest(format!(
                "the assignments have {bytes} bytes; at most {GROUP_BYTES_MAX} are allowed in a \
                 group and {GROUPS_BYTES_MAX} in all"
            ));
            out.reply(call, Reply::SyncGroup(Err(error)));
            return out;
        }
        let found = self.with_classic(&request.group, &mut out, |group, out| {
            group.sync(call, request, now, out);
        });
        if !found {
            let error = not_found(&request.group, GroupError::UnknownMemberId);
            out.reply(call, Reply::SyncGroup(Err(error)));
        }
        out
    }

    /// A member is alive.
    pub fn handle_heartbeat(&mut self, request: &Heartbeat, now: Mono) -> Result<(), GroupError> {
        let mut result = Err(not_found(&request.group, GroupError::UnknownMemberId));
        self.with_classic(&request.group, &mut Out::default(), |group, _| {
            result = group.heartbeat(request, now);
        });
        result
    }

    /// Members leave.
    pub fn handle_leave(&mut self, call: CallId, request: &LeaveGroup, now: Mono) -> Out {
        let mut out = Out::default();
        if request.group.is_empty() {
            out.reply(call, Reply::LeaveGroup(Err(GroupError::InvalidGroupId)));
            return out;
        }
        let config = self.config.clone();
        let found = self.with_group(&request.group, &mut out, |group, out| match group {
            Group::Classic(group) => group.leave(call, request, now, &config, out),
            Group::Consumer(group) => group.remove_statics(call, request, out),
        });
        if !found {
            let unknown = request.members.iter().map(|member| LeftMember {
                member: Arc::clone(&member.member),
                instance: member.instance.clone(),
                result: Err(GroupError::UnknownMemberId),
            });
            let members = unknown.collect();
            out.reply(call, Reply::LeaveGroup(Ok(LeftGroup { members })));
        }
        out
    }

    /// Says whether this client may commit offsets now. A commit is a sign of life; one of a
    /// client that is no member makes the group, if there is none.
    pub fn check_commit(&mut self, request: &OffsetCommit, now: Mono) -> Result<(), GroupError> {
        check_id(&request.group)?;
        let mut result = Ok(());
        let found = self.with_group(&request.group, &mut Out::default(), |group, _| {
            result = group.check_commit(request, now);
        });
        if found {
            return result;
        }
        if request.generation >= 0 {
            return Err(match request.knows_epochs {
                true => GroupError::GroupIdNotFound,
                false => GroupError::IllegalGeneration,
            });
        }
        self.check_room()?;
        self.insert(ClassicGroup::new(Arc::clone(&request.group), now).into());
        Ok(())
    }

    /// Says whether the group may be deleted.
    pub fn check_delete(&self, group: &str) -> Result<(), GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        match self.by_id.get(group).map(Group::is_empty) {
            None => Err(GroupError::GroupIdNotFound),
            Some(true) => Ok(()),
            Some(false) => Err(GroupError::NonEmptyGroup),
        }
    }

    /// Says whether offsets of the group may be deleted: `Ok` holds the topics whose offsets may
    /// not, because members read them.
    pub fn subscribed(
        &self,
        group: &str,
        topics: &dyn TopicSource,
    ) -> Result<BTreeSet<String>, GroupError> {
        match self.by_id.get(group) {
            None => Err(not_found(group, GroupError::GroupIdNotFound)),
            Some(Group::Classic(group)) => group.subscribed_topics(),
            Some(Group::Consumer(group)) => Ok(group.subscribed_topics(SeenTopics {
                changes: &self.topic_changes,
                source: topics,
            })),
        }
    }

    /// Forgets a group that [`Groups::check_delete`] has passed.
    pub fn remove(&mut self, group: &str) {
        if let Some(group) = self.by_id.remove(group) {
            self.bytes -= group.held_bytes();
            if let Some(wake) = group.wake() {
                self.timers.remove(&(wake, Arc::clone(group.id())));
            }
        }
    }

    /// A classic group as it is now.
    pub fn describe(&self, group: &str) -> Result<DescribedGroup, GroupError> {
        match self.by_id.get(group) {
            Some(Group::Classic(group)) => Ok(group.describe()),
            Some(Group::Consumer(_)) | None => Err(GroupError::GroupIdNotFound),
        }
    }

    /// The groups that pass the filters, by id.
    pub fn list(&self, request: &ListGroups) -> Vec<ListedGroup> {
        let passes = |filter: &[String], name: &str| {
            filter.is_empty()
                || filter
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let listed = self.by_id.values().map(Group::list);
        listed
            .filter(|group| {
                passes(&request.states, group.state.name())
                    && passes(&request.types, group.group_type.name())
            })
            .collect()
    }

    /// The moment at which [`Groups::on_timeout`] may have something to do.
    pub fn next_timeout(&self) -> Option<Mono> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// These topics have come, gone or grown: consumer groups assign anew, each when a member of it is
    /// heard.
    pub fn on_topics_changed(&mut self, topics: &BTreeSet<TopicId>) {
        Arc::make_mut(&mut self.topic_changes).note(topics);
    }

    /// Does what is due: members that were silent go, rebalances end.
    pub fn on_timeout(&mut self, topics: &dyn TopicSource, now: Mono) -> Out {
        let mut out = Out::default();
        let config = self.config.clone();
        let changes = Arc::clone(&self.topic_changes);
        while let Some((at, id)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.with_group(&id, &mut out, |group, out| {
                group.on_timeout(
                    SeenTopics {
                        changes: &changes,
                        source: topics,
                    },
                    now,
                    &config,
                    out,
                );
                let wake = group.wake();
                assert!(
                    wake.is_none_or(|wake| wake > now),
                    "group {:?} is due again at {wake:?}, not after {now:?}",
                    group.id()
                );
            });
        }
        out
    }

    /// Runs one step on a group, then keeps its row and its timer. False if there is no such group.
    fn with_group(
        &mut self,
        id: &str,
        out: &mut Out,
        step: impl FnOnce(&mut Group, &mut Out),
    ) -> bool {
        let Some(group) = self.by_id.get_mut(id) else {
            return false;
        };
        let before = group.wake();
        let held = group.held_bytes();
        step(group, out);
        self.bytes = self.bytes + group.held_bytes() - held;
        group.take_unsaved(out);
        let after = group.wake();
        if before != after {
            let id = Arc::clone(group.id());
            if let Some(before) = before {
                self.timers.remove(&(before, Arc::clone(&id)));
            }
            self.timers.extend(after.map(|after| (after, id)));
        }
        true
    }

    /// [`Self::with_group`] for a classic group; false if it is none.
    fn with_classic(
        &mut self,
        id: &str,
        out: &mut Out,
        step: impl FnOnce(&mut ClassicGroup, &mut Out),
    ) -> bool {
        let mut found = false;
        self.with_group(id, out, |group, out| {
            if let Group::Classic(group) = group {
                found = true;
                step(group, out);
            }
        });
        found
    }

    fn insert(&mut self, group: Group) {
        let wake = group.wake();
        self.bytes += group.held_bytes();
        self.timers
            .extend(wake.map(|wake| (wake, Arc::clone(group.id()))));
        self.by_id.insert(Arc::clone(group.id()), group);
    }

    fn check_join(&self, request: &JoinGroup) -> Result<(), GroupError> {
        check_id(&request.group)?;
        let range = self.config.session_timeout_ms_min..=self.config.session_timeout_ms_max;
        if !range.contains(&request.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        let instance = request.instance.as_ref().map_or(0, |id| id.len());
        let longest = instance
            .max(request.member.len())
            .max(request.client_id.len())
            .max(request.protocol_type.len());
        let protocols = request.protocols.iter();
        let bytes: usize = protocols.map(|p| p.name.len() + p.metadata.len()).sum();
        if longest > GROUP_ID_BYTES_MAX
            || bytes > GROUP_MEMBER_BYTES_MAX
            || request.protocols.len() > GROUP_PROTOCOLS_MAX
        {
            return Err(GroupError::InvalidRequest(format!(
                "a member may offer {GROUP_PROTOCOLS_MAX} protocols of {GROUP_MEMBER_BYTES_MAX} \
                 bytes, and ids of {GROUP_ID_BYTES_MAX} bytes"
            )));
        }
        let group = GROUP_ENTRY_BYTES + request.group.len() + request.protocol_type.len();
        if self.bytes + group + join_bytes(request) > GROUPS_BYTES_MAX {
            return Err(GroupError::GroupMaxSizeReached);
        }
        match self.by_id.get(&request.group) {
            Some(Group::Classic(_)) => Ok(()),
            Some(Group::Consumer(group)) if !group.is_empty() => {
                Err(GroupError::InconsistentGroupProtocol)
            }
            _ if !request.member.is_empty() => Err(GroupError::UnknownMemberId),
            Some(Group::Consumer(_)) => Ok(()),
            None => self.check_room(),
        }
    }

    fn check_room(&self) -> Result<(), GroupError> {
        let full = self.bytes + GROUP_ENTRY_BYTES + GROUP_ID_BYTES_MAX > GROUPS_BYTES_MAX;
        if full || self.by_id.len() >= GROUPS_MAX {
            return Err(GroupError::GroupMaxSizeReached);
        }
        Ok(())
    }
}

fn check_id(group: &str) -> Result<(), GroupError> {
    if group.is_empty() || group.len() > GROUP_ID_BYTES_MAX {
        return Err(GroupError::InvalidGroupId);
    }
    Ok(())
}

fn not_found(group: &str, error: GroupError) -> GroupError {
    if group.is_empty() {
        return GroupError::InvalidGroupId;
    }
    error
}

/// A timeout as clients write it. It is never zero: a timer that is due again as soon as it has
/// gone off would keep the loop busy for ever.
fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1))
}

/// Random bits in the usual spelling of a UUID.
fn uuid(random: u128) -> String {
    let hex = format!("{random:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
