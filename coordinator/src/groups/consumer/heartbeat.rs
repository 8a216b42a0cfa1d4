//! ConsumerGroupHeartbeat: members join, are alive, tell what they read and own, and leave.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_proto::cluster::{Assignment, ConsumerHeartbeat, ConsumerStanding, GroupError};
use firn_proto::env::Mono;
use firn_proto::limits::{
    GROUP_BYTES_MAX, GROUP_ID_BYTES_MAX, GROUP_MEMBER_BYTES_MAX, GROUP_REGEXES_MAX,
};

use super::assignor::Assignor;
use super::member::{session_end, subscription_bytes};
use super::reconcile::Goal;
use super::topics::check_regex;
use super::{ConsumerGroup, SeenTopics};
use crate::command::{
    ConsumerMemberRow, ConsumerSubscription, CurrentAssignment, LEFT_EPOCH, Progress,
};
use crate::groups::GroupConfig;

/// Epoch of a request to join.
const JOIN_EPOCH: i32 = 0;
/// Epoch of a request to leave.
const LEAVE_EPOCH: i32 = -1;

/// What a heartbeat meets.
pub(in crate::groups) struct Around<'a> {
    pub(in crate::groups) topics: SeenTopics<'a>,
    pub(in crate::groups) config: &'a GroupConfig,
    /// Bytes that all groups together may still hold.
    pub(in crate::groups) room: usize,
    pub(in crate::groups) now: Mono,
}

/// As what a heartbeat is taken.
#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    /// A member in its epoch.
    Known,
    /// A new member.
    New,
    /// A member that owns nothing any more and starts anew.
    Again,
    /// A static member under a new member id; the old one is this.
    InPlaceOf(Arc<str>),
}

/// Says what is wrong with a heartbeat whatever the group is.
pub(in crate::groups) fn check_request(request: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let invalid = |what: &str| Err(GroupError::InvalidRequest(what.to_owned()));
    let is_empty = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|text| text.is_empty());
    if request.group.is_empty() {
        return invalid("the group's id is empty");
    }
    let joins = request.epoch == JOIN_EPOCH;
    if request.member.is_empty() && (request.requires_member || !joins) {
        return invalid("the member's id is empty");
    }
    if is_empty(&request.instance) || is_empty(&request.rack) {
        return invalid("a static id or rack is empty");
    }
    if request.epoch < LEFT_EPOCH {
        return invalid("a member's epoch is no less than -2");
    }
    if request.epoch == LEFT_EPOCH && request.instance.is_none() {
        return invalid("only a static member leaves for a while");
    }
    if joins {
        if request.rebalance_timeout_ms < 0 {
            return invalid("a member that joins must say its rebalance timeout");
        }
        if request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
            return invalid("a member that joins owns nothing, and must say so");
        }
        if request.topics.is_none() && request.regex.is_none() {
            return invalid("a member that joins must say what it reads");
        }
    }
    match &request.assignor {
        Some(name) if Assignor::named(name).is_none() => {
            Err(GroupError::UnsupportedAssignor(Arc::clone(name)))
        }
        _ => check_sizes(request),
    }
}

fn check_sizes(request: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let optional = [&request.instance, &request.rack];
    let optional = optional.into_iter().flatten().map(|text| text.len());
    let longest = optional
        .chain([
            request.group.len(),
            request.member.len(),
            request.client_id.len(),
        ])
        .max();
    if longest > Some(GROUP_ID_BYTES_MAX) {
        return Err(GroupError::InvalidRequest(format!(
            "ids of groups and members have {GROUP_ID_BYTES_MAX} bytes at most"
        )));
    }
    Ok(())
}

impl ConsumerGroup {
    /// A member joins, is alive, or leaves. Its id is `id`.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(in crate::groups) fn heartbeat(
        &mut self,
        request: &ConsumerHeartbeat,
        id: &Arc<str>,
        around: &Around<'_>,
    ) -> Result<ConsumerStanding, GroupError> {
        let Around { now, config, .. } = *around;
        if request.epoch == LEAVE_EPOCH || request.epoch == LEFT_EPOCH {
            return self.leave(request, id, now);
        }
        let admitted = self.admit(request, id, config)?;
        let before = match &admitted {
            Admitted::New => None,
            Admitted::Known | Admitted::Again => self.subscription(id),
            Admitted::InPlaceOf(old) => self.subscription(old),
        };
        let said = merged(before, request);
        let says_more = before.is_none_or(|before| *before != said);
        let reads_more =
            before.is_none_or(|before| before.topics != said.topics || before.regex != said.regex);
        if says_more {
            self.check_subscription(id, before, &said, around.room)?;
        }
        let assigned_before = self.enter(admitted, id, now, config);
        if says_more {
            self.set_subscription(id, said);
        }
        self.retarget(reads_more, around.topics);
        self.reconcile(id, request.owned.as_ref(), now);
        if let Some(member) = self.members.get_mut(id) {
            member.session_ends = session_end(now, config);
        }
        self.arm(session_end(now, config));
        Ok(self.standing(request, id, assigned_before.as_ref(), config))
    }

    fn subscription(&self, id: &str) -> Option<&ConsumerSubscription> {
        Some(&self.members.get(id)?.row.subscription)
    }

    fn admit(
        &self,
        request: &ConsumerHeartbeat,
        id: &Arc<str>,
        config: &GroupConfig,
    ) -> Result<Admitted, GroupError> {
        let joins = request.epoch == JOIN_EPOCH;
        let holder = request.instance.as_ref().map(|held| self.statics.get(held));
        match holder {
            Some(Some(current)) if current != id => {
                if !joins {
                    return Err(GroupError::FencedInstanceId);
                }
                let left = self.members.get(current);
                let left = left.is_some_and(|member| member.row.current.epoch == LEFT_EPOCH);
                return match left && !self.members.contains_key(id) {
                    true => Ok(Admitted::InPlaceOf(Arc::clone(current))),
                    false => Err(GroupError::UnreleasedInstanceId),
                };
            }
            Some(None) if !joins => return Err(GroupError::UnknownMemberId),
            _ => {}
        }
        match self.members.get(id) {
            Some(_) if joins => Ok(Admitted::Again),
            Some(member) => {
                check_epoch(&member.row.current, request)?;
                Ok(Admitted::Known)
            }
            None if !joins => Err(GroupError::UnknownMemberId),
            None if self.members.len() >= config.consumer_members_max => {
                Err(GroupError::GroupMaxSizeReached)
            }
            None => Ok(Admitted::New),
        }
    }

    fn check_subscription(
        &self,
        id: &str,
        before: Option<&ConsumerSubscription>,
        said: &ConsumerSubscription,
        room: usize,
    ) -> Result<(), GroupError> {
        let bytes = subscription_bytes(id, said);
        if bytes > GROUP_MEMBER_BYTES_MAX {
            return Err(GroupError::InvalidRequest(format!(
                "what the member says has {bytes} bytes; at most {GROUP_MEMBER_BYTES_MAX} are \
                 allowed"
            )));
        }
        let known = before.map_or(0, |before| subscription_bytes(id, before));
        let more = bytes.saturating_sub(known);
        if more > 0 && (self.bytes + more > GROUP_BYTES_MAX || more > room) {
            return Err(GroupError::GroupMaxSizeReached);
        }
        let Some(regex) = &said.regex else {
            return Ok(());
        };
        if before.is_some_and(|before| before.regex.as_ref() == Some(regex)) {
            return Ok(());
        }
        check_regex(regex)?;
        let members = self.members.values();
        let said = members.filter_map(|m| m.row.subscription.regex.as_ref());
        let known: BTreeSet<_> = said.collect();
        if known.len() >= GROUP_REGEXES_MAX && !known.contains(regex) {
            return Err(GroupError::InvalidRegularExpression(format!(
                "the members of the group have {GROUP_REGEXES_MAX} different regular expressions, \
                 which is as many as they may have"
            )));
        }
        Ok(())
    }

    /// Makes room for the member. Says what it was assigned before.
    fn enter(
        &mut self,
        admitted: Admitted,
        id: &Arc<str>,
        now: Mono,
        config: &GroupConfig,
    ) -> Option<Assignment> {
        match admitted {
            Admitted::Known => {}
            Admitted::New => {
                self.insert_member(id, ConsumerMemberRow::default(), now, config);
            }
            Admitted::Again => self.set_current(id, CurrentAssignment::default(), now),
            Admitted::InPlaceOf(old) => {
                let row = self.remove_member(&old).unwrap_or_default();
                let row = ConsumerMemberRow {
                    current: CurrentAssignment::default(),
                    ..row
                };
                self.insert_member(id, row, now, config);
            }
        }
        Some(self.members.get(id)?.row.current.assigned.clone())
    }

    /// Sees to it that the targets are those of the topics as they are now.
    fn retarget(&mut self, reads_more: bool, topics: SeenTopics<'_>) {
        let changed = reads_more || self.epoch == 0;
        let behind = self.epoch > self.assignment_epoch;
        if !changed && !behind && !self.patterns.is_stale(topics.version()) {
            return;
        }
        let members = self.members.iter();
        let said = members.map(|(id, member)| (id, &member.row.subscription));
        let reads = self.patterns.resolve(said, topics);
        let hash = reads.hash();
        if changed || (!behind && hash != self.topics_hash) {
            self.epoch = self.epoch.saturating_add(1);
        }
        if hash != self.topics_hash {
            self.topics_hash = hash;
            self.unsaved.group = true;
        }
        if self.epoch > self.assignment_epoch {
            self.assign(&reads);
        }
    }

    fn reconcile(&mut self, id: &Arc<str>, owned: Option<&Assignment>, now: Mono) {
        let Some(member) = self.members.get(id) else {
            return;
        };
        if member.is_at(self.assignment_epoch) {
            return;
        }
        let goal = Goal {
            target: &member.row.target,
            epoch: self.assignment_epoch,
            held_by_another: |tp| self.holders.get(&tp).is_some_and(|holder| holder != id),
            owned,
        };
        let next = goal.step(&member.row.current);
        if next != member.row.current {
            self.set_current(id, next, now);
        }
    }

    fn standing(
        &self,
        request: &ConsumerHeartbeat,
        id: &Arc<str>,
        assigned_before: Option<&Assignment>,
        config: &GroupConfig,
    ) -> ConsumerStanding {
        let current = self.members.get(id).map(|member| &member.row.current);
        let assigned = current.map(|current| &current.assigned);
        // A member that says everything has perhaps not heard the last answer.
        let says_all = request.rebalance_timeout_ms >= 0
            && (request.topics.is_some() || request.regex.is_some())
            && request.owned.is_some();
        let told = request.epoch == JOIN_EPOCH || says_all || assigned != assigned_before;
        let interval = config.consumer_heartbeat_interval.as_millis();
        ConsumerStanding {
            member: Arc::clone(id),
            epoch: current.map_or(0, |current| current.epoch),
            heartbeat_interval_ms: i32::try_from(interval).unwrap_or(i32::MAX),
            assignment: assigned.filter(|_| told).cloned(),
        }
    }

    fn leave(
        &mut self,
        request: &ConsumerHeartbeat,
        id: &Arc<str>,
        now: Mono,
    ) -> Result<ConsumerStanding, GroupError> {
        if let Some(instance) = &request.instance {
            match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMemberId),
                Some(current) if current != id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        let member = self.members.get(id).ok_or(GroupError::UnknownMemberId)?;
        if request.epoch == LEFT_EPOCH {
            // Its partitions stay with it until its session ends, or it is back.
            let left = CurrentAssignment {
                epoch: LEFT_EPOCH,
                previous_epoch: member.row.current.epoch,
                progress: Progress::Stable,
                assigned: member.row.current.assigned.clone(),
                revoking: Assignment::default(),
            };
            self.set_current(id, left, now);
        } else {
            self.put_out(id);
        }
        Ok(ConsumerStanding {
            member: Arc::clone(id),
            epoch: request.epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
    }
}

/// A member is in its epoch, or in the one before because the answer that told of the new one was
/// lost: then it owns no more than it may own now.
fn check_epoch(current: &CurrentAssignment, request: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let missed = request.epoch == current.previous_epoch
        && current.epoch > request.epoch
        && (request.owned.as_ref()).is_some_and(|owned| owned.is_subset(&current.assigned));
    if request.epoch == current.epoch || missed {
        return Ok(());
    }
    Err(GroupError::FencedMemberEpoch)
}

/// What a member says, given what it has said before.
fn merged(
    before: Option<&ConsumerSubscription>,
    request: &ConsumerHeartbeat,
) -> ConsumerSubscription {
    let mut said = before.cloned().unwrap_or_default();
    said.client_id = Arc::clone(&request.client_id);
    said.client_host = Arc::clone(&request.client_host);
    let optional = [
        (&mut said.instance, &request.instance),
        (&mut said.rack, &request.rack),
        (&mut said.regex, &request.regex),
        (&mut said.assignor, &request.assignor),
    ];
    for (known, now) in optional {
        if now.is_some() {
            known.clone_from(now);
        }
    }
    if request.rebalance_timeout_ms >= 0 {
        said.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(topics) = &request.topics {
        said.topics.clone_from(topics);
        said.topics.sort();
        said.topics.dedup();
    }
    said
}
