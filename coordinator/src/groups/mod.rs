//! Classic consumer groups (JoinGroup, SyncGroup): members, generations, timeouts.
//!
//! Pure: `now` and randomness come in, answers and rows for the journal come out. Memberships live
//! in memory; what the journal keeps of a group is written when a generation becomes stable or the
//! group becomes empty, as Kafka does, and [`Groups::load`] takes it up again. The driver applies
//! the rows of an [`Out`] before it lets the answers wait for the journal.
//!
//! - `classic.rs`: one group: its parts, its rows, what is said about it
//! - `join.rs`, `sync.rs`, `leave.rs`: what members may ask
//! - `rebalance.rs`: the barrier, the choice of leader and protocol, the timers
//! - `pending.rs`: members that were promised a place
//! - `subscription.rs`: what topics a consumer says it reads

mod classic;
mod join;
mod leave;
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
    DescribedGroup, GroupError, GroupState, Heartbeat, JoinGroup, LeaveGroup, LeftGroup,
    LeftMember, ListGroups, ListedGroup, OffsetCommit, Reply, SyncGroup,
};
use firn_proto::env::Mono;
use firn_proto::limits::{
    GROUP_BYTES_MAX, GROUP_ENTRY_BYTES, GROUP_ID_BYTES_MAX, GROUP_MEMBER_BYTES_MAX,
    GROUP_MEMBERS_MAX, GROUP_PROTOCOLS_MAX, GROUPS_BYTES_MAX, GROUPS_MAX,
};

use crate::command::{GroupRow, PutGroup};
use classic::{ClassicGroup, join_bytes};

/// A caller whose answer may come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Settings of groups, by their names in Kafka.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`.
    pub session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay: Duration,
    /// `group.max.size`.
    pub members_max: usize,
    /// `offsets.retention.minutes`: how long the offsets of a group without members are kept.
    pub offsets_retention: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            initial_rebalance_delay: Duration::from_secs(3),
            members_max: GROUP_MEMBERS_MAX,
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What a step led to.
#[derive(Debug, Default)]
pub struct Out {
    /// Answers, each to the call that waits for it.
    pub replies: Vec<(CallId, Reply)>,
    /// Groups that the journal must keep as they are now, before the answers go out.
    pub puts: Vec<PutGroup>,
    /// Groups that have been empty for a while; the driver drops offsets that are too old, and
    /// groups without any.
    pub idle: Vec<Arc<str>>,
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
    by_id: BTreeMap<Arc<str>, ClassicGroup>,
    /// Bytes that members make all groups hold.
    bytes: usize,
    /// The groups by the earliest moment at which one may have something to do.
    timers: BTreeSet<(Mono, Arc<str>)>,
}

impl Groups {
    /// The groups that the journal kept, and those that only have offsets. Every session starts
    /// afresh.
    pub fn load<'a>(
        config: GroupConfig,
        rows: impl Iterator<Item = (&'a Arc<str>, &'a GroupRow)>,
        with_offsets: impl Iterator<Item = &'a Arc<str>>,
        now: Mono,
    ) -> Self {
        let mut groups = Self {
            config,
            by_id: BTreeMap::new(),
            bytes: 0,
            timers: BTreeSet::new(),
        };
        for (id, row) in rows {
            groups.insert(ClassicGroup::from_row(Arc::clone(id), row, now));
        }
        for id in with_offsets {
            if !groups.by_id.contains_key(id) {
                groups.insert(ClassicGroup::new(Arc::clone(id), now));
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
        if !self.by_id.contains_key(&request.group) {
            self.insert(ClassicGroup::new(Arc::clone(&request.group), now));
        }
        let config = self.config.clone();
        self.with_group(&request.group, &mut out, |group, out| {
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
        let found = self.with_group(&request.group, &mut out, |group, out| {
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
        self.with_group(&request.group, &mut Out::default(), |group, _| {
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
        let found = self.with_group(&request.group, &mut out, |group, out| {
            group.leave(call, request, now, &config, out);
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
            return Err(GroupError::IllegalGeneration);
        }
        self.check_room()?;
        self.insert(ClassicGroup::new(Arc::clone(&request.group), now));
        Ok(())
    }

    /// Says whether the group may be deleted.
    pub fn check_delete(&self, group: &str) -> Result<(), GroupError> {
        if group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        match self.by_id.get(group).map(ClassicGroup::state) {
            None => Err(GroupError::GroupIdNotFound),
            Some(GroupState::Empty) => Ok(()),
            Some(_) => Err(GroupError::NonEmptyGroup),
        }
    }

    /// Says whether offsets of the group may be deleted: `Ok` holds the topics whose offsets may
    /// not, because members read them.
    pub fn subscribed(&self, group: &str) -> Result<BTreeSet<String>, GroupError> {
        let group = self.by_id.get(group);
        group
            .ok_or(GroupError::GroupIdNotFound)?
            .subscribed_topics()
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

    /// A group as it is now.
    pub fn describe(&self, group: &str) -> Result<DescribedGroup, GroupError> {
        let group = self.by_id.get(group);
        group
            .map(ClassicGroup::describe)
            .ok_or(GroupError::GroupIdNotFound)
    }

    /// The groups that pass the filters, by id.
    pub fn list(&self, request: &ListGroups) -> Vec<ListedGroup> {
        let passes = |filter: &[String], name: &str| {
            filter.is_empty()
                || filter
                    .iter()
                    .any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let listed = self.by_id.values().map(ClassicGroup::list);
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

    /// Does what is due: members that were silent go, rebalances end.
    pub fn on_timeout(&mut self, now: Mono) -> Out {
        let mut out = Out::default();
        let config = self.config.clone();
        while let Some((at, id)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.with_group(&id, &mut out, |group, out| {
                group.on_timeout(now, &config, out);
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
        step: impl FnOnce(&mut ClassicGroup, &mut Out),
    ) -> bool {
        let Some(group) = self.by_id.get_mut(id) else {
            return false;
        };
        let before = group.wake();
        let held = group.held_bytes();
        step(group, out);
        self.bytes = self.bytes + group.held_bytes() - held;
        if group.take_unsaved() {
            out.puts.push(PutGroup {
                group: Arc::clone(group.id()),
                row: group.row(),
            });
        }
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

    fn insert(&mut self, group: ClassicGroup) {
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
        if !self.by_id.contains_key(&request.group) {
            if !request.member.is_empty() {
                return Err(GroupError::UnknownMemberId);
            }
            self.check_room()?;
        }
        Ok(())
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
