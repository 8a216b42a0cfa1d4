//! Consumer groups of the next generation (KIP-848): members report by heartbeats what they read
//! and own, and the group assigns.
//!
//! Pure, as all groups are. What a member may own is in its [`CurrentAssignment`], and no partition
//! is in those of two members, those that it must let go included: it goes to the next member only
//! once the one before has said that it let go, or is out.
//!
//! - `mod.rs`: one group: its parts, and what of them the journal is told; `member.rs`: one member
//! - `describe.rs`: what is said about it
//! - `entry.rs`: the way in from all groups
//! - `heartbeat.rs`: what members may ask
//! - `reconcile.rs`: one member's next step towards its target
//! - `topics.rs`: names and patterns
//! - `assignor/`: targets

mod assignor;
mod describe;
mod entry;
mod heartbeat;
mod member;
mod reconcile;
mod topics;

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::{
    GroupError, LeaveGroup, LeavingMember, LeftGroup, LeftMember, OffsetCommit, Reply,
};
use firn_proto::env::Mono;
use firn_proto::ids::TopicPartition;
use firn_proto::limits::{GROUP_ENTRY_BYTES, GROUP_PARTITION_BYTES};

use super::{CallId, GroupConfig, IDLE_CHECK, Idle, Out, millis};
use crate::command::{
    ChangeConsumerGroup, ConsumerGroupRow, ConsumerMemberRow, ConsumerSubscription,
    CurrentAssignment, Progress,
};
use assignor::{Assigning, Assignor, Candidate};
use member::{Member, session_end, subscription_bytes};
use topics::{Patterns, Reads};

pub use topics::TopicSource;
pub(super) use topics::{SeenTopics, TopicChanges};

/// A group.
#[derive(Debug)]
pub(super) struct ConsumerGroup {
    id: Arc<str>,
    /// Rises with each change of members, subscriptions and topics.
    epoch: i32,
    /// The epoch that the targets were made for.
    assignment_epoch: i32,
    topics_hash: u64,
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids by static id.
    statics: BTreeMap<Arc<str>, Arc<str>>,
    /// Who may own each partition.
    holders: BTreeMap<TopicPartition, Arc<str>>,
    patterns: Patterns,
    /// Bytes of what all members say of themselves.
    bytes: usize,
    /// Partitions in all targets.
    targeted: usize,
    idle_check: Mono,
    /// Not later than the earliest timer of the group.
    wake: Option<Mono>,
    unsaved: Unsaved,
}

/// What the journal has not been told.
#[derive(Debug, Default)]
struct Unsaved {
    group: bool,
    gone: BTreeSet<Arc<str>>,
    subscriptions: BTreeSet<Arc<str>>,
    targets: BTreeSet<Arc<str>>,
    current: BTreeSet<Arc<str>>,
}

impl ConsumerGroup {
    /// A group without members.
    pub(super) fn new(id: Arc<str>, now: Mono) -> Self {
        let idle_check = now.after(IDLE_CHECK);
        Self {
            id,
            epoch: 0,
            assignment_epoch: 0,
            topics_hash: 0,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            holders: BTreeMap::new(),
            patterns: Patterns::default(),
            bytes: 0,
            targeted: 0,
            idle_check,
            wake: Some(idle_check),
            unsaved: Unsaved::default(),
        }
    }

    /// A group as the journal kept it; its members' time starts now.
    pub(super) fn from_row(
        id: Arc<str>,
        row: &ConsumerGroupRow,
        now: Mono,
        config: &GroupConfig,
    ) -> Self {
        let mut group = Self::new(id, now);
        group.epoch = row.epoch;
        group.assignment_epoch = row.assignment_epoch;
        group.topics_hash = row.topics_hash;
        for (id, kept) in &row.members {
            group.insert_member(id, kept.clone(), now, config);
        }
        group.unsaved = Unsaved::default();
        group.rearm();
        group
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Not later than the earliest moment at which a timer is due.
    pub(super) fn wake(&self) -> Option<Mono> {
        self.wake
    }

    /// Bytes that its members make it hold.
    pub(super) fn held_bytes(&self) -> usize {
        let partitions = self.holders.len() + self.targeted;
        GROUP_ENTRY_BYTES + self.id.len() + self.bytes + partitions * GROUP_PARTITION_BYTES
    }

    /// What has changed since the last call, for the journal.
    pub(super) fn take_change(&mut self) -> Option<ChangeConsumerGroup> {
        let unsaved = std::mem::take(&mut self.unsaved);
        let parts = [
            &unsaved.gone,
            &unsaved.subscriptions,
            &unsaved.targets,
            &unsaved.current,
        ];
        if !unsaved.group && parts.iter().all(|part| part.is_empty()) {
            return None;
        }
        let rows = |ids: BTreeSet<Arc<str>>| {
            let members = &self.members;
            ids.into_iter().filter_map(move |id| {
                let row = &members.get(&id)?.row;
                Some((id, row))
            })
        };
        let subscriptions = rows(unsaved.subscriptions);
        let targets = rows(unsaved.targets);
        let current = rows(unsaved.current);
        Some(ChangeConsumerGroup {
            group: Arc::clone(&self.id),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            topics_hash: self.topics_hash,
            gone: unsaved.gone.into_iter().collect(),
            subscriptions: subscriptions
                .map(|(id, row)| (id, row.subscription.clone()))
                .collect(),
            targets: targets.map(|(id, row)| (id, row.target.clone())).collect(),
            current: current.map(|(id, row)| (id, row.current.clone())).collect(),
        })
    }

    /// The topics that members read; their offsets may not be deleted.
    pub(super) fn subscribed_topics(&self, topics: SeenTopics<'_>) -> BTreeSet<String> {
        let mut read = BTreeSet::new();
        for member in self.members.values() {
            let said = &member.row.subscription;
            read.extend(said.topics.iter().map(ToString::to_string));
            let regex = said.regex.iter();
            let matched = regex.flat_map(|regex| self.patterns.matches(regex, topics));
            let names = matched.filter_map(|topic| topics.source.name_of(topic));
            read.extend(names.map(|name| name.to_string()));
        }
        read
    }

    /// Whether this client may commit: members in their epoch, and clients that are no members only
    /// while there are none.
    pub(super) fn check_commit(&self, request: &OffsetCommit) -> Result<(), GroupError> {
        if request.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(&request.member);
        let member = member.ok_or(GroupError::UnknownMemberId)?;
        if !request.knows_epochs {
            return Err(GroupError::UnsupportedVersion);
        }
        member.check_current_epoch(request.generation)
    }

    /// Whether this member may look offsets up.
    pub(super) fn check_fetch(&self, member: &str, epoch: i32) -> Result<(), GroupError> {
        let member = self.members.get(member);
        member
            .ok_or(GroupError::UnknownMemberId)?
            .check_current_epoch(epoch)
    }

    /// LeaveGroup: members of consumer groups do not leave by it, but an administrator removes static
    /// ones (KIP-345).
    pub(super) fn remove_statics(&mut self, call: CallId, request: &LeaveGroup, out: &mut Out) {
        let members = request.members.iter().map(|leaving| LeftMember {
            member: Arc::clone(&leaving.member),
            instance: leaving.instance.clone(),
            result: self.remove_static(leaving),
        });
        let members = members.collect();
        out.reply(call, Reply::LeaveGroup(Ok(LeftGroup { members })));
    }

    fn remove_static(&mut self, leaving: &LeavingMember) -> Result<(), GroupError> {
        let instance = leaving.instance.as_ref();
        let id = instance.and_then(|instance| self.statics.get(instance).cloned());
        let id = id.ok_or(GroupError::UnknownMemberId)?;
        if !leaving.member.is_empty() {
            return Err(match leaving.member == id {
                true => GroupError::UnknownMemberId,
                false => GroupError::FencedInstanceId,
            });
        }
        self.put_out(&id);
        Ok(())
    }

    /// Does what is due.
    pub(super) fn on_timeout(&mut self, topics: SeenTopics<'_>, now: Mono, out: &mut Out) {
        let late = self.members.iter().filter(|(_, member)| {
            let revoking = member.revoke_ends.is_some_and(|end| end <= now);
            revoking || member.session_ends <= now
        });
        let late: Vec<_> = late.map(|(id, _)| Arc::clone(id)).collect();
        for id in &late {
            self.put_out(id);
        }
        if self.idle_check <= now {
            self.idle_check = now.after(IDLE_CHECK);
            let reads = (!self.is_empty()).then(|| self.subscribed_topics(topics));
            out.idle.push(Idle {
                group: Arc::clone(&self.id),
                reads,
            });
        }
        self.rearm();
    }

    /// A member is out: what it held is free, and the others get new targets when they are heard.
    fn put_out(&mut self, id: &Arc<str>) {
        if self.remove_member(id).is_some() {
            self.epoch = self.epoch.saturating_add(1);
            self.unsaved.group = true;
        }
    }

    /// What most members wish for that wish for something.
    fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        let said = self.members.values().map(|m| &m.row.subscription.assignor);
        for assignor in said.flatten().filter_map(|name| Assignor::named(name)) {
            *votes.entry(assignor).or_default() += 1;
        }
        let winner = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        winner.map_or_else(Assignor::default, |(assignor, _)| assignor)
    }

    /// Makes targets for the present epoch.
    fn assign(&mut self, reads: &Reads) {
        let members = self.members.iter().filter_map(|(id, member)| {
            let candidate = Candidate {
                instance: member.row.subscription.instance.as_ref(),
                topics: Arc::clone(reads.by_member.get(id)?),
                before: &member.row.target,
            };
            Some((id, candidate))
        });
        let targets = self.assignor().assign(&Assigning {
            members: members.collect(),
            partitions: reads.partitions.clone(),
        });
        for (id, target) in targets {
            if let Some(member) = self.members.get_mut(&id)
                && member.row.target != target
            {
                self.targeted = self.targeted + target.len() - member.row.target.len();
                member.row.target = target;
                self.unsaved.targets.insert(id);
            }
        }
        self.assignment_epoch = self.epoch;
        self.unsaved.group = true;
    }

    fn insert_member(
        &mut self,
        id: &Arc<str>,
        row: ConsumerMemberRow,
        now: Mono,
        config: &GroupConfig,
    ) {
        let current = row.current.clone();
        let target = row.target;
        let member = Member {
            row: ConsumerMemberRow {
                target,
                ..ConsumerMemberRow::default()
            },
            session_ends: session_end(now, config),
            revoke_ends: None,
        };
        self.arm(member.session_ends);
        self.bytes += subscription_bytes(id, &member.row.subscription);
        self.targeted += member.row.target.len();
        self.members.insert(Arc::clone(id), member);
        self.unsaved.gone.remove(id);
        self.unsaved.targets.insert(Arc::clone(id));
        self.set_subscription(id, row.subscription);
        self.set_current(id, current, now);
    }

    fn remove_member(&mut self, id: &Arc<str>) -> Option<ConsumerMemberRow> {
        self.let_all_go(id);
        let member = self.members.remove(id)?;
        self.bytes -= subscription_bytes(id, &member.row.subscription);
        self.targeted -= member.row.target.len();
        if let Some(instance) = &member.row.subscription.instance
            && self.statics.get(instance) == Some(id)
        {
            self.statics.remove(instance);
        }
        self.unsaved.gone.insert(Arc::clone(id));
        Some(member.row)
    }

    fn set_subscription(&mut self, id: &Arc<str>, said: ConsumerSubscription) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        self.bytes += subscription_bytes(id, &said);
        let before = std::mem::replace(&mut member.row.subscription, said);
        self.bytes -= subscription_bytes(id, &before);
        if let Some(instance) = &before.instance
            && self.statics.get(instance) == Some(id)
        {
            self.statics.remove(instance);
        }
        if let Some(instance) = &member.row.subscription.instance {
            self.statics.insert(Arc::clone(instance), Arc::clone(id));
        }
        self.unsaved.subscriptions.insert(Arc::clone(id));
    }

    /// The member stands elsewhere now. While it must let go, the time that it has for that starts.
    fn set_current(&mut self, id: &Arc<str>, current: CurrentAssignment, now: Mono) {
        self.let_all_go(id);
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        for tp in current.assigned.iter().chain(current.revoking.iter()) {
            let before = self.holders.insert(tp, Arc::clone(id));
            assert!(before.is_none(), "{before:?} and {id} may own {tp}");
        }
        member.row.current = current;
        let unrevoked = member.row.current.progress == Progress::Unrevoked;
        let patience = millis(member.row.subscription.rebalance_timeout_ms);
        member.revoke_ends = unrevoked.then(|| now.after(patience));
        let ends = member.revoke_ends;
        self.unsaved.current.insert(Arc::clone(id));
        if let Some(ends) = ends {
            self.arm(ends);
        }
    }

    fn let_all_go(&mut self, id: &Arc<str>) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        let current = &member.row.current;
        for tp in current.assigned.iter().chain(current.revoking.iter()) {
            self.holders.remove(&tp);
        }
    }

    /// Makes sure that the group is looked at by then.
    fn arm(&mut self, at: Mono) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Finds the earliest timer exactly.
    fn rearm(&mut self) {
        let ends = self.members.values();
        let ends = ends
            .flat_map(|m| [Some(m.session_ends), m.revoke_ends])
            .flatten();
        self.wake = ends.chain([self.idle_check]).min();
    }

    /// The group as the journal should have it.
    #[cfg(test)]
    pub(super) fn row(&self) -> ConsumerGroupRow {
        let members = self.members.iter();
        ConsumerGroupRow {
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            topics_hash: self.topics_hash,
            members: members
                .map(|(id, m)| (Arc::clone(id), m.row.clone()))
                .collect(),
        }
    }

    /// Asserts what holds between steps.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut holders = BTreeMap::new();
        let mut targets = BTreeSet::new();
        for (id, member) in &self.members {
            let current = &member.row.current;
            for tp in current.assigned.iter().chain(current.revoking.iter()) {
                let other = holders.insert(tp, Arc::clone(id));
                assert_eq!(other, None, "{tp} is with {id} too");
            }
            for tp in member.row.target.iter() {
                assert!(targets.insert(tp), "{tp} is the target of two");
            }
            let unrevoked = current.progress == Progress::Unrevoked;
            assert_eq!(unrevoked, member.revoke_ends.is_some());
            assert_eq!(unrevoked, !current.revoking.is_empty());
            assert!(current.epoch <= self.epoch);
            if let Some(instance) = &member.row.subscription.instance {
                assert_eq!(self.statics.get(instance), Some(id));
            }
        }
        assert_eq!(holders, self.holders);
        let said = self.members.iter().map(|(id, m)| (id, &m.row.subscription));
        let bytes: usize = said.map(|(id, said)| subscription_bytes(id, said)).sum();
        assert_eq!(bytes, self.bytes);
        assert_eq!(targets.len(), self.targeted);
        let statics = self.statics.values();
        assert!(statics.into_iter().all(|id| self.members.contains_key(id)));
        assert!(self.assignment_epoch <= self.epoch);
    }
}
