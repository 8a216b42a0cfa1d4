//! LeaveGroup: members go, or an administrator removes static ones (KIP-345).

use std::sync::Arc;

use firn_proto::cluster::{GroupError, LeaveGroup, LeavingMember, LeftGroup, LeftMember, Reply};
use firn_proto::env::Mono;

use super::classic::ClassicGroup;
use super::{CallId, GroupConfig, Out};

impl ClassicGroup {
    pub(super) fn leave(
        &mut self,
        call: CallId,
        request: &LeaveGroup,
        now: Mono,
        config: &GroupConfig,
        out: &mut Out,
    ) {
        let before = (self.members.len(), self.pending.len());
        let mut members = Vec::with_capacity(request.members.len());
        for leaving in &request.members {
            members.push(LeftMember {
                member: Arc::clone(&leaving.member),
                instance: leaving.instance.clone(),
                result: self.leave_one(leaving, out),
            });
        }
        out.reply(call, Reply::LeaveGroup(Ok(LeftGroup { members })));
        if before != (self.members.len(), self.pending.len()) {
            self.member_gone(before.0 != self.members.len(), now, config, out);
        }
    }

    fn leave_one(&mut self, leaving: &LeavingMember, out: &mut Out) -> Result<(), GroupError> {
        let id = match &leaving.instance {
            Some(instance) => {
                let current = self.statics.get(instance);
                let current = current.ok_or(GroupError::UnknownMemberId)?;
                if !leaving.member.is_empty() && leaving.member != *current {
                    return Err(GroupError::FencedInstanceId);
                }
                Arc::clone(current)
            }
            None => Arc::clone(&leaving.member),
        };
        if self.pending.remove(&id) {
            return Ok(());
        }
        let removed = self.remove_member(&id, &GroupError::UnknownMemberId, out);
        removed.map(drop).ok_or(GroupError::UnknownMemberId)
    }
}
