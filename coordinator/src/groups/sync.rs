//! SyncGroup: the leader's assignment reaches the members.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_proto::cluster::{GroupError, Reply, SyncGroup, SyncedGroup};
use firn_proto::env::Mono;

use super::classic::{ClassicGroup, ClassicState};
use super::{CallId, Out};

impl ClassicGroup {
    pub(super) fn sync(&mut self, call: CallId, request: &SyncGroup, now: Mono, out: &mut Out) {
        if let Err(error) = self.check_sync(request) {
            out.reply(call, Reply::SyncGroup(Err(error)));
            return;
        }
        self.unsynced.remove(&request.member);
        if let Some(member) = self.members.get_mut(&request.member) {
            // A repeated call takes the place of the one that waits.
            if let Some(earlier) = member.syncing.replace(call) {
                let error = GroupError::RebalanceInProgress;
                out.reply(earlier, Reply::SyncGroup(Err(error)));
            }
            member.deadline = None;
        }
        if self.state == ClassicState::CompletingRebalance {
            if self.leader != request.member {
                return;
            }
            self.take_assignments(request);
            self.state = ClassicState::Stable;
            self.save();
        }
        self.tell_assignments(now, out);
        if self.unsynced.is_empty() {
            self.phase = None;
        }
    }

    fn check_sync(&self, request: &SyncGroup) -> Result<(), GroupError> {
        self.validate(&request.member, request.instance.as_ref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs =
            |said: &Option<Arc<str>>, is: &Arc<str>| said.as_ref().is_some_and(|said| said != is);
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        match self.state {
            ClassicState::Empty => Err(GroupError::UnknownMemberId),
            ClassicState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            ClassicState::CompletingRebalance | ClassicState::Stable => Ok(()),
        }
    }

    /// A member that the leader left out gets nothing.
    fn take_assignments(&mut self, request: &SyncGroup) {
        let given: BTreeMap<_, _> = request.assignments.iter().cloned().collect();
        self.assigned_bytes = 0;
        for (id, member) in &mut self.members {
            let part = given.get(id);
            member.assignment = part.map_or_else(|| Arc::from([]), Arc::clone);
            self.assigned_bytes += member.assignment.len();
        }
    }

    fn tell_assignments(&mut self, now: Mono, out: &mut Out) {
        let (protocol_type, protocol) = (&self.protocol_type, &self.protocol);
        for member in self.members.values_mut() {
            let Some(call) = member.syncing.take() else {
                continue;
            };
            member.deadline = Some(now.after(member.session()));
            let told = SyncedGroup {
                protocol_type: Arc::clone(protocol_type),
                protocol: Arc::clone(protocol),
                assignment: Arc::clone(&member.assignment),
            };
            out.reply(call, Reply::SyncGroup(Ok(told)));
        }
        self.rearm();
    }
}
