//! What consumer groups are asked by way of [`Groups`], which finds them, makes them and turns empty
//! classic groups into them.

use std::sync::Arc;

use firn_proto::cluster::{
    ConsumerHeartbeat, ConsumerStanding, DescribedConsumerGroup, FetchOffsets, GroupError, Reply,
};
use firn_proto::env::Mono;
use firn_proto::limits::GROUPS_BYTES_MAX;

use super::heartbeat::{Around, check_request};
use super::{ConsumerGroup, SeenTopics, TopicSource};
use crate::groups::group::Group;
use crate::groups::{CallId, Groups, Out, uuid};

impl Groups {
    /// A member of a consumer group joins, is alive, or leaves. `random` makes the id of a new
    /// member that brings none.
    pub fn handle_consumer_heartbeat(
        &mut self,
        call: CallId,
        request: &ConsumerHeartbeat,
        topics: &dyn TopicSource,
        random: u128,
        now: Mono,
    ) -> Out {
        let mut out = Out::default();
        let result = self.consumer_heartbeat(request, topics, random, now, &mut out);
        out.reply(call, Reply::ConsumerHeartbeat(result));
        out
    }

    fn consumer_heartbeat(
        &mut self,
        request: &ConsumerHeartbeat,
        topics: &dyn TopicSource,
        random: u128,
        now: Mono,
        out: &mut Out,
    ) -> Result<ConsumerStanding, GroupError> {
        check_request(request)?;
        let id = match &*request.member {
            "" => uuid(random).into(),
            _ => Arc::clone(&request.member),
        };
        let joins = request.epoch == 0;
        let changes = Arc::clone(&self.topic_changes);
        let around = Around {
            topics: SeenTopics {
                changes: &changes,
                source: topics,
            },
            config: &self.config.clone(),
            room: GROUPS_BYTES_MAX.saturating_sub(self.bytes),
            now,
        };
        match self.by_id.get(&request.group) {
            Some(Group::Consumer(_)) => {
                let mut result = Err(GroupError::GroupIdNotFound);
                self.with_group(&request.group, out, |group, _| {
                    if let Group::Consumer(group) = group {
                        result = group.heartbeat(request, &id, &around);
                    }
                });
                return result;
            }
            // The members of a classic group would have to leave first.
            Some(Group::Classic(group)) if !joins || !group.is_empty() => {
                return Err(GroupError::GroupIdNotFound);
            }
            None if !joins => return Err(GroupError::GroupIdNotFound),
            Some(Group::Classic(_)) => {}
            None => self.check_room()?,
        }
        let mut group = ConsumerGroup::new(Arc::clone(&request.group), now);
        let standing = group.heartbeat(request, &id, &around)?;
        self.remove(&request.group);
        self.insert(group.into());
        self.with_group(&request.group, out, |_, _| ());
        Ok(standing)
    }

    /// A consumer group as it is now.
    pub fn describe_consumer(
        &self,
        group: &str,
        topics: &dyn TopicSource,
    ) -> Result<DescribedConsumerGroup, GroupError> {
        match self.by_id.get(group) {
            Some(Group::Consumer(group)) => Ok(group.describe(topics)),
            Some(Group::Classic(_)) | None => Err(GroupError::GroupIdNotFound),
        }
    }

    /// Says whether the offsets of a group may be told: members of consumer groups must be in their
    /// epoch.
    pub fn check_fetch(&self, request: &FetchOffsets) -> Result<(), GroupError> {
        match (self.by_id.get(&request.group), &request.member) {
            (_, Some((member, epoch))) if member.is_empty() && *epoch < 0 => Ok(()),
            (Some(Group::Consumer(group)), Some((member, epoch))) => {
                group.check_fetch(member, *epoch)
            }
            _ => Ok(()),
        }
    }
}
