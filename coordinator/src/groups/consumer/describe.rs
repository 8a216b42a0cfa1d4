//! What is said about a consumer group.

use std::sync::Arc;

use firn_proto::cluster::{
    Assignment, DescribedConsumerGroup, DescribedConsumerMember, GroupState, GroupType,
    ListedGroup, NamedPartitions,
};

use super::{ConsumerGroup, TopicSource};
use crate::command::ConsumerMemberRow;

impl ConsumerGroup {
    fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.assignment_epoch {
            GroupState::Assigning
        } else if self
            .members
            .values()
            .all(|m| m.is_at(self.assignment_epoch))
        {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    pub(in crate::groups) fn list(&self) -> ListedGroup {
        ListedGroup {
            group: Arc::clone(&self.id),
            protocol_type: "consumer".into(),
            state: self.state(),
            group_type: GroupType::Consumer,
        }
    }

    /// The group with the partitions of topics that there are.
    pub(in crate::groups) fn describe(&self, topics: &dyn TopicSource) -> DescribedConsumerGroup {
        let named = |assignment: &Assignment| {
            let named = assignment.topics().filter_map(|(topic, partitions)| {
                Some(NamedPartitions {
                    topic,
                    name: topics.name_of(topic)?,
                    partitions: partitions.iter().copied().collect(),
                })
            });
            named.collect()
        };
        let members = self.members.iter().map(|(id, member)| {
            let ConsumerMemberRow {
                subscription: said,
                target,
                current,
            } = &member.row;
            DescribedConsumerMember {
                member: Arc::clone(id),
                instance: said.instance.clone(),
                rack: said.rack.clone(),
                epoch: current.epoch,
                client_id: Arc::clone(&said.client_id),
                client_host: Arc::clone(&said.client_host),
                topics: said.topics.clone(),
                regex: said.regex.clone(),
                assigned: named(&current.assigned),
                target: named(target),
            }
        });
        DescribedConsumerGroup {
            group: Arc::clone(&self.id),
            state: self.state(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.assignor().name().into(),
            members: members.collect(),
        }
    }
}
