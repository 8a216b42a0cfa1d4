//! JoinGroup: new members, members that come back, static members (KIP-345, KIP-394, KIP-814).

use std::sync::Arc;
use std::time::Duration;

use firn_proto::cluster::{GroupError, JoinGroup, JoinedGroup, Reply};
use firn_proto::env::Mono;
use firn_proto::limits::GROUP_BYTES_MAX;

use super::classic::{ClassicGroup, ClassicState, PhaseTimer};
use super::member::{Member, join_bytes};
use super::{CallId, GroupConfig, Out, millis, uuid};

/// How long a member that was never in a generation may wait for one (Kafka's
/// `classic-group-join` of new members): its client may be gone without a word.
const NEW_MEMBER_PATIENCE: Duration = Duration::from_secs(300);

impl ClassicGroup {
    pub(super) fn join(
        &mut self,
        call: CallId,
        request: &JoinGroup,
        random: u128,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) {
        let joined = self.check_room(request, config).and_then(|()| {
            if !self.supports(request) {
                return Err(GroupError::InconsistentGroupProtocol);
            }
            if request.member.is_empty() {
                self.join_new(call, request, random, now, config, out)
            } else {
                self.join_known(call, request, now, config, out)
            }
        });
        if let Err(error) = joined {
            out.reply(call, Reply::JoinGroup(Err(error)));
        }
    }

    fn check_room(&self, request: &JoinGroup, config: &GroupConfig) -> Result<(), GroupError> {
        let known = self.members.get(&request.member);
        let takes_place = known.is_none()
            && !self.pending.contains(&request.member)
            && !(request.instance.as_ref()).is_some_and(|id| self.statics.contains_key(id));
        let full = self.members.len() + self.pending.len() >= config.members_max;
        let before = known.map_or(0, |member| member.bytes(&request.member));
        let bytes = self.bytes - before + self.pending.bytes() + join_bytes(request);
        if (takes_place && full) || bytes > GROUP_BYTES_MAX {
            return Err(GroupError::GroupMaxSizeReached);
        }
        Ok(())
    }

    /// Whether the member shares a protocol with everybody.
    fn supports(&self, request: &JoinGroup) -> bool {
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let everybody = self.members.len();
        let mut offers = request.protocols.iter();
        *self.protocol_type == *request.protocol_type
            && offers.any(|offer| self.offered.get(&offer.name) == Some(&everybody))
    }

    fn join_new(
        &mut self,
        call: CallId,
        request: &JoinGroup,
        random: u128,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) -> Result<(), GroupError> {
        let prefix = request.instance.as_ref().unwrap_or(&request.client_id);
        let id: Arc<str> = format!("{prefix}-{}", uuid(random)).into();
        if let Some(instance) = &request.instance {
            return match self.statics.get(instance).cloned() {
                Some(old) => self.replace_static(call, request, &old, id, now, config, out),
                None => {
                    self.add_member(call, request, id, now, config, out);
                    Ok(())
                }
            };
        }
        if request.require_known_member {
            let until = now.after(millis(request.session_timeout_ms));
            self.pending.insert(Arc::clone(&id), until);
            self.arm(until);
            return Err(GroupError::MemberIdRequired(id));
        }
        self.add_member(call, request, id, now, config, out);
        Ok(())
    }

    fn join_known(
        &mut self,
        call: CallId,
        request: &JoinGroup,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) -> Result<(), GroupError> {
        if request.instance.is_none() && self.pending.remove(&request.member) {
            let id = Arc::clone(&request.member);
            self.add_member(call, request, id, now, config, out);
            return Ok(());
        }
        self.validate(&request.member, request.instance.as_ref())?;
        let same = self
            .members
            .get(&request.member)
            .is_some_and(|member| member.protocols == request.protocols);
        let leads = *self.leader == *request.member;
        match self.state {
            ClassicState::Empty => Err(GroupError::UnknownMemberId),
            // The answer to its first call was lost: it gets it again.
            ClassicState::CompletingRebalance if same => {
                let told = self.joined(&request.member, leads);
                out.reply(call, Reply::JoinGroup(Ok(told)));
                Ok(())
            }
            // Only a leader that comes back, or other metadata, is a reason to rebalance.
            ClassicState::Stable if same && !leads => {
                self.refresh(&request.member, now);
                let told = self.joined(&request.member, false);
                out.reply(call, Reply::JoinGroup(Ok(told)));
                Ok(())
            }
            _ => {
                self.update_member(call, request, &request.member, out);
                self.rebalance(now, config, out);
                Ok(())
            }
        }
    }

    fn add_member(
        &mut self,
        call: CallId,
        request: &JoinGroup,
        id: Arc<str>,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) {
        if self.members.is_empty() {
            self.protocol_type = Arc::clone(&request.protocol_type);
        }
        if let Some(PhaseTimer::Gather { grown, .. }) = &mut self.phase {
            *grown = true;
        }
        let deadline = now.after(NEW_MEMBER_PATIENCE);
        let member = Member {
            instance: request.instance.clone(),
            client_id: Arc::clone(&request.client_id),
            client_host: Arc::clone(&request.client_host),
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocols: request.protocols.clone(),
            assignment: Arc::from([]),
            deadline: Some(deadline),
            joining: Some(call),
            syncing: None,
        };
        self.insert_member(id, member);
        self.arm(deadline);
        self.rebalance(now, config, out);
    }

    /// The member joins the coming generation with what it says now.
    fn update_member(&mut self, call: CallId, request: &JoinGroup, id: &str, out: &mut Out) {
        // A repeated call takes the place of the one that waits; whoever sent that is gone.
        let repeated = GroupError::RebalanceInProgress;
        let Some(mut member) = self.take_member(id, &repeated, out) else {
            return;
        };
        member.client_id = Arc::clone(&request.client_id);
        member.client_host = Arc::clone(&request.client_host);
        member.session_timeout_ms = request.session_timeout_ms;
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.protocols.clone_from(&request.protocols);
        member.joining = Some(call);
        member.deadline = None;
        self.insert_member(id.into(), member);
    }

    /// Takes a member out for a moment; who leads stays, calls of it that wait are answered.
    fn take_member(&mut self, id: &str, error: &GroupError, out: &mut Out) -> Option<Member> {
        let leader = Arc::clone(&self.leader);
        let unsynced = self.unsynced.contains(id);
        let mut member = self.remove_member(id, error, out)?;
        member.joining = None;
        member.syncing = None;
        self.leader = leader;
        if unsynced {
            self.unsynced.insert(id.into());
        }
        Some(member)
    }

    /// A static member is back under a new member id: the old one is fenced, and there is no
    /// rebalance if the group is stable and the member says what it said before.
    #[expect(clippy::too_many_arguments, reason = "one step of a join, called once")]
    fn replace_static(
        &mut self,
        call: CallId,
        request: &JoinGroup,
        old: &Arc<str>,
        id: Arc<str>,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) -> Result<(), GroupError> {
        let led = self.leader == *old;
        let Some(member) = self.take_member(old, &GroupError::FencedInstanceId, out) else {
            return Err(GroupError::UnknownMemberId);
        };
        if self.unsynced.remove(old) {
            self.unsynced.insert(Arc::clone(&id));
        }
        if led {
            self.leader = Arc::clone(&id);
        }
        let same = member.protocols == request.protocols;
        self.insert_member(Arc::clone(&id), member);
        if self.state != ClassicState::Stable || !same {
            self.update_member(call, request, &id, out);
            self.rebalance(now, config, out);
            return Ok(());
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.session_timeout_ms = request.session_timeout_ms;
            member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        self.refresh(&id, now);
        self.save();
        let skip = led && request.supports_skip_assignment;
        let mut told = self.joined(&id, skip);
        told.skip_assignment = skip;
        if led && !skip {
            // A client that cannot skip the assignment must not take itself for the leader.
            told.leader = Arc::clone(old);
        }
        out.reply(call, Reply::JoinGroup(Ok(told)));
        Ok(())
    }

    /// The generation as one member is told.
    pub(super) fn joined(&self, member: &Arc<str>, with_members: bool) -> JoinedGroup {
        JoinedGroup {
            generation: self.generation,
            protocol_type: Arc::clone(&self.protocol_type),
            protocol: Arc::clone(&self.protocol),
            leader: Arc::clone(&self.leader),
            skip_assignment: false,
            member: Arc::clone(member),
            members: if with_members {
                self.joined_members()
            } else {
                Vec::new()
            },
        }
    }
}
