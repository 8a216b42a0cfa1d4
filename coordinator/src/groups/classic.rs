//! One classic group: its parts, its row in the journal, what is said about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{
    DescribedGroup, DescribedMember, GroupError, GroupState, GroupType, Heartbeat, JoinedMember,
    ListedGroup, OffsetCommit, Protocol, Reply,
};
use firn_proto::env::Mono;
use firn_proto::limits::GROUP_ENTRY_BYTES;

use super::member::Member;
use super::pending::Pending;
use super::subscription::subscribed_topics;
use super::{IDLE_CHECK, Idle, Out, millis};
use crate::command::{GroupRow, MemberRow};

/// Where a group is between two rebalances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClassicState {
    /// Without members.
    Empty,
    /// Waiting for members to join.
    PreparingRebalance,
    /// The leader is making the assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
}

impl ClassicState {
    /// As clients see it.
    fn shown(self) -> GroupState {
        match self {
            Self::Empty => GroupState::Empty,
            Self::PreparingRebalance => GroupState::PreparingRebalance,
            Self::CompletingRebalance => GroupState::CompletingRebalance,
            Self::Stable => GroupState::Stable,
        }
    }
}

/// A group.
#[derive(Debug)]
pub(super) struct ClassicGroup {
    pub(super) id: Arc<str>,
    pub(super) state: ClassicState,
    pub(super) protocol_type: Arc<str>,
    pub(super) generation: i32,
    /// The protocol chosen; empty if there is none.
    pub(super) protocol: Arc<str>,
    /// The member that makes the assignment; empty if there is none.
    pub(super) leader: Arc<str>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Member ids by static id.
    pub(super) statics: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given out and have not joined.
    pub(super) pending: Pending,
    /// Members of this generation that have not asked for their assignment.
    pub(super) unsynced: BTreeSet<Arc<str>>,
    /// How many members offer each protocol.
    pub(super) offered: BTreeMap<Arc<str>, usize>,
    /// Bytes of all members and what they say.
    pub(super) bytes: usize,
    /// Bytes of all assignments.
    pub(super) assigned_bytes: usize,
    pub(super) phase: Option<PhaseTimer>,
    idle_check: Mono,
    /// Not later than the earliest timer of the group.
    wake: Option<Mono>,
    unsaved: bool,
}

/// The timer of the group as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PhaseTimer {
    /// The first members of an empty group wait for others (KIP-134).
    Gather {
        until: Mono,
        /// How much longer the wait may be drawn out.
        left: Duration,
        /// Whether somebody came since the wait was last drawn out.
        grown: bool,
    },
    /// Members that have not joined by then are out.
    Join { until: Mono },
    /// Members that have not asked for their assignment by then are out.
    Sync { until: Mono },
}

impl PhaseTimer {
    pub(super) fn until(self) -> Mono {
        match self {
            Self::Gather { until, .. } | Self::Join { until } | Self::Sync { until } => until,
        }
    }
}

impl ClassicGroup {
    /// A group without members.
    pub(super) fn new(id: Arc<str>, now: Mono) -> Self {
        let idle_check = now.after(IDLE_CHECK);
        Self {
            id,
            state: ClassicState::Empty,
            protocol_type: "".into(),
            generation: 0,
            protocol: "".into(),
            leader: "".into(),
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: Pending::default(),
            unsynced: BTreeSet::new(),
            offered: BTreeMap::new(),
            bytes: 0,
            assigned_bytes: 0,
            phase: None,
            idle_check,
            wake: Some(idle_check),
            unsaved: false,
        }
    }

    /// A group as the journal kept it; its members' sessions start now.
    pub(super) fn from_row(id: Arc<str>, row: &GroupRow, now: Mono) -> Self {
        let mut group = Self::new(id, now);
        group.protocol_type = Arc::clone(&row.protocol_type);
        group.generation = row.generation;
        if row.members.is_empty() {
            return group;
        }
        group.state = ClassicState::Stable;
        group.protocol = Arc::clone(&row.protocol);
        group.leader = Arc::clone(&row.leader);
        for kept in &row.members {
            let deadline = now.after(millis(kept.session_timeout_ms));
            let member = Member {
                instance: kept.instance.clone(),
                client_id: Arc::clone(&kept.client_id),
                client_host: Arc::clone(&kept.client_host),
                session_timeout_ms: kept.session_timeout_ms,
                rebalance_timeout_ms: kept.rebalance_timeout_ms,
                protocols: vec![Protocol {
                    name: Arc::clone(&row.protocol),
                    metadata: Arc::clone(&kept.metadata),
                }],
                assignment: Arc::clone(&kept.assignment),
                deadline: Some(deadline),
                joining: None,
                syncing: None,
            };
            group.assigned_bytes += member.assignment.len();
            group.insert_member(Arc::clone(&kept.member), member);
        }
        group.rearm();
        group
    }

    /// What the journal keeps of it.
    pub(super) fn row(&self) -> GroupRow {
        let members = self.members.iter().map(|(id, member)| MemberRow {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            client_id: Arc::clone(&member.client_id),
            client_host: Arc::clone(&member.client_host),
            session_timeout_ms: member.session_timeout_ms,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            metadata: member.metadata(&self.protocol),
            assignment: Arc::clone(&member.assignment),
        });
        GroupRow {
            protocol_type: Arc::clone(&self.protocol_type),
            generation: self.generation,
            protocol: Arc::clone(&self.protocol),
            leader: Arc::clone(&self.leader),
            members: members.collect(),
        }
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == ClassicState::Empty
    }

    /// Not later than the earliest moment at which a timer is due.
    pub(super) fn wake(&self) -> Option<Mono> {
        self.wake
    }

    /// Bytes that its members make it hold.
    pub(super) fn held_bytes(&self) -> usize {
        let own = GROUP_ENTRY_BYTES + self.id.len() + self.protocol_type.len();
        own + self.bytes + self.assigned_bytes + self.pending.bytes()
    }

    /// Whether the row has changed since the last call.
    pub(super) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// The row must be written before the answers of this step go out.
    pub(super) fn save(&mut self) {
        self.unsaved = true;
    }

    pub(super) fn describe(&self) -> DescribedGroup {
        let stable = self.state == ClassicState::Stable;
        let only_stable = |bytes: Arc<[u8]>| if stable { bytes } else { Arc::from([]) };
        let members = self.members.iter().map(|(id, member)| DescribedMember {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            client_id: Arc::clone(&member.client_id),
            client_host: Arc::clone(&member.client_host),
            metadata: only_stable(member.metadata(&self.protocol)),
            assignment: only_stable(Arc::clone(&member.assignment)),
        });
        DescribedGroup {
            group: Arc::clone(&self.id),
            state: self.state.shown(),
            protocol_type: Arc::clone(&self.protocol_type),
            protocol: if stable {
                Arc::clone(&self.protocol)
            } else {
                "".into()
            },
            members: members.collect(),
        }
    }

    pub(super) fn list(&self) -> ListedGroup {
        ListedGroup {
            group: Arc::clone(&self.id),
            protocol_type: Arc::clone(&self.protocol_type),
            state: self.state.shown(),
            group_type: GroupType::Classic,
        }
    }

    /// A sign of life. In a rebalance it tells the member to join again.
    pub(super) fn heartbeat(&mut self, request: &Heartbeat, now: Mono) -> Result<(), GroupError> {
        self.validate(&request.member, request.instance.as_ref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        match self.state {
            ClassicState::Empty => Err(GroupError::UnknownMemberId),
            ClassicState::CompletingRebalance | ClassicState::Stable => {
                self.refresh(&request.member, now);
                Ok(())
            }
            ClassicState::PreparingRebalance => {
                self.refresh(&request.member, now);
                Err(GroupError::RebalanceInProgress)
            }
        }
    }

    /// Whether this client may commit, as Kafka has it: members of this generation, and clients
    /// that are no members only while there are none.
    pub(super) fn check_commit(
        &mut self,
        request: &OffsetCommit,
        now: Mono,
    ) -> Result<(), GroupError> {
        let empty = self.state == ClassicState::Empty;
        if request.generation < 0 && empty {
            return Ok(());
        }
        let names_member =
            request.generation >= 0 || !request.member.is_empty() || request.instance.is_some();
        if !names_member {
            return Err(GroupError::UnknownMemberId);
        }
        self.validate(&request.member, request.instance.as_ref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        if self.state == ClassicState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.refresh(&request.member, now);
        Ok(())
    }

    /// The topics that members read; their offsets may not be deleted.
    pub(super) fn subscribed_topics(&self) -> Result<BTreeSet<String>, GroupError> {
        if self.state == ClassicState::Empty {
            return Ok(BTreeSet::new());
        }
        if *self.protocol_type != *"consumer" {
            return Err(GroupError::NonEmptyGroup);
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let said = subscribed_topics(&member.metadata(&self.protocol));
            topics.extend(said.ok_or(GroupError::NonEmptyGroup)?);
        }
        Ok(topics)
    }

    /// Whether `member` is one, and still the one that its static id names.
    pub(super) fn validate(
        &self,
        member: &str,
        instance: Option<&Arc<str>>,
    ) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            return match self.statics.get(instance) {
                None => Err(GroupError::UnknownMemberId),
                Some(current) if **current == *member => Ok(()),
                Some(_) => Err(GroupError::FencedInstanceId),
            };
        }
        if self.members.contains_key(member) {
            Ok(())
        } else {
            Err(GroupError::UnknownMemberId)
        }
    }

    /// The member was heard: its session starts anew, unless a call of it waits here.
    pub(super) fn refresh(&mut self, member: &str, now: Mono) {
        if let Some(member) = self.members.get_mut(member)
            && member.joining.is_none()
            && member.syncing.is_none()
        {
            let deadline = now.after(member.session());
            member.deadline = Some(deadline);
            self.arm(deadline);
        }
    }

    /// Everybody, as the leader is told.
    pub(super) fn joined_members(&self) -> Vec<JoinedMember> {
        let members = self.members.iter().map(|(id, member)| JoinedMember {
            member: Arc::clone(id),
            instance: member.instance.clone(),
            metadata: member.metadata(&self.protocol),
        });
        members.collect()
    }

    pub(super) fn insert_member(&mut self, id: Arc<str>, member: Member) {
        for offer in &member.protocols {
            *self.offered.entry(Arc::clone(&offer.name)).or_default() += 1;
        }
        self.bytes += member.bytes(&id);
        if let Some(instance) = &member.instance {
            self.statics.insert(Arc::clone(instance), Arc::clone(&id));
        }
        if self.leader.is_empty() {
            self.leader = Arc::clone(&id);
        }
        self.members.insert(id, member);
    }

    /// Takes a member out; a call of it that waits here is answered with `error`.
    pub(super) fn remove_member(
        &mut self,
        id: &str,
        error: &GroupError,
        out: &mut Out,
    ) -> Option<Member> {
        let member = self.members.remove(id)?;
        for offer in &member.protocols {
            if let Some(count) = self.offered.get_mut(&offer.name) {
                *count -= 1;
                if *count == 0 {
                    self.offered.remove(&offer.name);
                }
            }
        }
        self.bytes -= member.bytes(id);
        if let Some(instance) = &member.instance
            && self.statics.get(instance).is_some_and(|held| **held == *id)
        {
            self.statics.remove(instance);
        }
        self.unsynced.remove(id);
        if *self.leader == *id {
            let first = self.members.keys().next();
            self.leader = first.map_or_else(|| "".into(), Arc::clone);
        }
        if let Some(call) = member.joining {
            out.reply(call, Reply::JoinGroup(Err(error.clone())));
        }
        if let Some(call) = member.syncing {
            out.reply(call, Reply::SyncGroup(Err(error.clone())));
        }
        Some(member)
    }

    /// Makes sure that the group is looked at by then.
    pub(super) fn arm(&mut self, at: Mono) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Finds the earliest timer exactly.
    pub(super) fn rearm(&mut self) {
        let sessions = self.members.values().filter_map(|member| member.deadline);
        let pending = self.pending.ends();
        let idle = self.may_idle().then_some(self.idle_check);
        self.wake = sessions
            .chain(pending)
            .chain(self.phase.map(PhaseTimer::until))
            .chain(idle)
            .min();
    }

    /// The group, if it is time to look for offsets that are too old: it is empty and promises
    /// nobody a place, or it is stable and known to read certain topics. Whatever the look says, the
    /// next one is later.
    pub(super) fn take_idle(&mut self, now: Mono) -> Option<Idle> {
        if !self.may_idle() || self.idle_check > now {
            return None;
        }
        self.idle_check = now.after(IDLE_CHECK);
        let reads = match self.state {
            ClassicState::Empty if !self.pending.is_empty() => return None,
            ClassicState::Empty => None,
            _ => Some(self.subscribed_topics().ok()?),
        };
        Some(Idle {
            group: Arc::clone(&self.id),
            reads,
        })
    }

    fn may_idle(&self) -> bool {
        match self.state {
            ClassicState::Empty => true,
            ClassicState::Stable => *self.protocol_type == *"consumer",
            ClassicState::PreparingRebalance | ClassicState::CompletingRebalance => false,
        }
    }

    /// Asserts what holds between steps.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut offered = BTreeMap::new();
        for member in self.members.values() {
            for offer in &member.protocols {
                *offered.entry(Arc::clone(&offer.name)).or_insert(0usize) += 1;
            }
            let waits = member.joining.is_some() || member.syncing.is_some();
            assert!(
                waits || member.deadline.is_some(),
                "a member lives for ever"
            );
        }
        assert_eq!(offered, self.offered);
        let members = self.members.iter();
        let bytes: usize = members.map(|(id, member)| member.bytes(id)).sum();
        assert_eq!(bytes, self.bytes);
        assert!(self.unsynced.iter().all(|id| self.members.contains_key(id)));
        assert!(
            self.statics
                .values()
                .all(|id| self.members.contains_key(id))
        );
        assert_eq!(self.leader.is_empty(), self.members.is_empty());
        assert!(self.leader.is_empty() || self.members.contains_key(&self.leader));
        if self.state == ClassicState::Empty {
            assert!(self.members.is_empty() && self.phase.is_none());
        }
        let waits = self.state == ClassicState::PreparingRebalance;
        assert!(!waits || self.phase.is_some(), "a rebalance without end");
    }

    /// The group became empty: it is looked at after a while.
    pub(super) fn start_idle(&mut self, now: Mono) {
        self.idle_check = now.after(IDLE_CHECK);
        self.arm(self.idle_check);
    }
}
