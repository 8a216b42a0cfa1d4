//! Committed offsets: commits of many groups share one journal slot; a commit is answered when
//! that slot is durable, a look-up when what it saw is.

use std::sync::Arc;

use firn_proto::cluster::{
    CommitTopic, CommitTopicResult, CoordinatorError, FetchOffsets, FetchTopic, FetchTopicResult,
    FetchedOffsets, GroupError, OffsetCommit, OffsetDelete, OffsetToCommit, Reply, TopicKey,
};
use firn_proto::ids::{PartitionIndex, TopicId, TopicPartition};
use firn_proto::limits::{OFFSET_METADATA_BYTES_MAX, OFFSETS_BYTES_MAX};

use tracing::warn;

use super::Leader;
use crate::command::{Command, CommitOffsets, DeleteOffsets};
use crate::groups::{CallId, Idle};
use crate::state::{GroupOffsets, OffsetRow, TopicOffsets, offset_bytes};

/// Whether a commit may be kept; counts it then. One that takes no more than what it replaces always
/// may, so that a consumer that is at work goes on.
fn fits(known: Option<&TopicOffsets>, wanted: &OffsetToCommit, bytes: &mut usize) -> bool {
    let before = known.and_then(|rows| rows.get(&wanted.partition));
    let before = before.map_or(0, |row| offset_bytes(&row.offset));
    let after = offset_bytes(&wanted.offset);
    let sum = (*bytes + after).saturating_sub(before);
    let fits = after <= before || sum <= OFFSETS_BYTES_MAX;
    if fits {
        *bytes = sum;
    }
    fits
}

impl Leader {
    pub(super) fn commit_offsets(&mut self, call: CallId, request: OffsetCommit) {
        let now = self.group_now();
        if let Err(error) = self.groups.check_commit(&request, now) {
            self.answer(call, Reply::OffsetCommit(Err(error)));
            return;
        }
        let mut results = Vec::with_capacity(request.topics.len());
        let mut commit = CommitOffsets {
            group: request.group,
            // Kafka's clients say -1 for "as the broker is set".
            retention_ms: request.retention_ms.filter(|ms| *ms >= 0),
            topics: Vec::new(),
        };
        let mut bytes = self.state.offsets().bytes();
        for topic in request.topics {
            results.push(self.check_commit_topic(topic, &mut commit, &mut bytes));
        }
        let reply = Reply::OffsetCommit(Ok(results));
        if commit.topics.is_empty() {
            self.answer(call, reply);
            return;
        }
        match self.execute(Command::CommitOffsets(commit)) {
            Ok(_) => self.answer(call, reply),
            Err(error) => self.send(call, Err(CoordinatorError::Refused(error.to_string()))),
        }
    }

    /// Says per partition what becomes of a commit; what may be committed goes into `commit`, and
    /// what it takes beyond what it replaces into `bytes`.
    fn check_commit_topic(
        &self,
        topic: CommitTopic,
        commit: &mut CommitOffsets,
        bytes: &mut usize,
    ) -> CommitTopicResult {
        let id = self.state.topics().resolve(&topic.topic);
        let offsets = self.state.offsets().of_group(&commit.group);
        let known = id.and_then(|id| offsets?.get(&id));
        let mut rows = Vec::with_capacity(topic.partitions.len());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in topic.partitions {
            let result = if !self.exists(id, wanted.partition) {
                Err(GroupError::UnknownTopicOrPartition)
            } else if wanted.offset.metadata.len() > OFFSET_METADATA_BYTES_MAX {
                Err(GroupError::OffsetMetadataTooLarge)
            } else if !fits(known, &wanted, bytes) {
                Err(GroupError::InvalidCommitOffsetSize)
            } else {
                rows.push((wanted.partition, wanted.offset));
                Ok(())
            };
            partitions.push((wanted.partition, result));
        }
        if let Some(id) = id
            && !rows.is_empty()
        {
            commit.topics.push((id, rows));
        }
        CommitTopicResult {
            topic: topic.topic,
            partitions,
        }
    }

    fn exists(&self, topic: Option<TopicId>, partition: PartitionIndex) -> bool {
        topic.is_some_and(|topic| {
            let tp = TopicPartition { topic, partition };
            self.state.topics().partition(tp).is_some()
        })
    }

    pub(super) fn fetch_offsets(&mut self, call: CallId, groups: Vec<FetchOffsets>) {
        let fetched = groups.into_iter().map(|group| self.offsets_of(group));
        let reply = Reply::OffsetFetch(fetched.collect());
        self.answer(call, reply);
    }

    fn offsets_of(&self, request: FetchOffsets) -> FetchedOffsets {
        if let Err(error) = self.groups.check_fetch(&request) {
            return FetchedOffsets {
                group: request.group,
                result: Err(error),
            };
        }
        let offsets = self.state.offsets().of_group(&request.group);
        let result = match request.topics {
            Some(topics) => topics
                .into_iter()
                .map(|topic| self.fetch_topic(topic, offsets))
                .collect(),
            None => self.fetch_all(offsets),
        };
        FetchedOffsets {
            group: request.group,
            result: Ok(result),
        }
    }

    fn fetch_topic(&self, wanted: FetchTopic, offsets: Option<&GroupOffsets>) -> FetchTopicResult {
        let id = self.state.topics().resolve(&wanted.topic);
        let committed = id.and_then(|id| offsets?.get(&id));
        let look_up = |partition| {
            let row = committed.and_then(|rows| rows.get(&partition));
            (partition, Ok(row.map(|row| row.offset.clone())))
        };
        FetchTopicResult {
            topic: wanted.topic,
            id: id.unwrap_or(TopicId::ZERO),
            partitions: wanted.partitions.into_iter().map(look_up).collect(),
        }
    }

    fn fetch_all(&self, offsets: Option<&GroupOffsets>) -> Vec<FetchTopicResult> {
        let topics = offsets.into_iter().flatten();
        let fetched = topics.filter_map(|(id, rows)| {
            let topic = self.state.topics().find(*id)?;
            let partitions = rows
                .iter()
                .map(|(partition, row)| (*partition, Ok(Some(row.offset.clone()))));
            Some(FetchTopicResult {
                topic: TopicKey::Name(Arc::clone(&topic.image.name)),
                id: *id,
                partitions: partitions.collect(),
            })
        });
        fetched.collect()
    }

    pub(super) fn delete_offsets(&mut self, call: CallId, request: OffsetDelete) {
        let topics = self.state.topics();
        let subscribed = match self.groups.subscribed(&request.group, topics) {
            Ok(subscribed) => subscribed,
            Err(error) => {
                self.answer(call, Reply::OffsetCommit(Err(error)));
                return;
            }
        };
        let mut results = Vec::with_capacity(request.topics.len());
        let mut delete = DeleteOffsets {
            group: request.group,
            topics: Vec::new(),
        };
        for topic in request.topics {
            let id = self.state.topics().resolve(&topic.topic);
            let named = id.and_then(|id| self.state.topics().find(id));
            let reads = named.is_some_and(|topic| subscribed.contains(&*topic.image.name));
            let mut gone = Vec::new();
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let result = if !self.exists(id, partition) {
                    Err(GroupError::UnknownTopicOrPartition)
                } else if reads {
                    Err(GroupError::GroupSubscribedToTopic)
                } else {
                    gone.push(partition);
                    Ok(())
                };
                partitions.push((partition, result));
            }
            delete.topics.extend(id.map(|id| (id, gone)));
            results.push(CommitTopicResult {
                topic: topic.topic,
                partitions,
            });
        }
        match self.execute(Command::DeleteOffsets(delete)) {
            Ok(_) => self.answer(call, Reply::OffsetCommit(Ok(results))),
            Err(error) => self.send(call, Err(CoordinatorError::Refused(error.to_string()))),
        }
    }

    /// Forgets the offsets of a group that are older than the retention (KIP-211): counted from the
    /// commit, or from when the group became empty; of a group with members only those of topics that
    /// it does not read. A group without members and offsets goes itself.
    pub(super) fn expire_offsets(&mut self, idle: Idle) {
        let Idle { group, reads } = idle;
        let retention = i64::try_from(self.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let now_ms = self.now_ms();
        let empty_since_ms = match reads {
            Some(_) => i64::MIN,
            None => self.since_ms(&group),
        };
        let expired = |row: &OffsetRow| {
            let kept_from = row.committed_ms.max(empty_since_ms);
            let end = kept_from.saturating_add(retention);
            row.expires_ms.unwrap_or(end) <= now_ms
        };
        let is_read = |topic: TopicId| {
            let topic = self.state.topics().find(topic);
            let reads = reads.as_ref();
            topic
                .zip(reads)
                .is_some_and(|(topic, reads)| reads.contains(&*topic.image.name))
        };
        let mut left = reads.is_some();
        let mut topics = Vec::new();
        for (topic, rows) in self.state.offsets().of_group(&group).into_iter().flatten() {
            if is_read(*topic) {
                continue;
            }
            let old: Vec<_> = rows
                .iter()
                .filter(|(_, row)| expired(row))
                .map(|(partition, _)| *partition)
                .collect();
            left |= old.len() < rows.len();
            if !old.is_empty() {
                topics.push((*topic, old));
            }
        }
        let command = if left {
            Command::DeleteOffsets(DeleteOffsets { group, topics })
        } else {
            self.groups.remove(&group);
            Command::DropGroups(vec![group])
        };
        if let Err(error) = self.execute(command) {
            warn!(%error, "old offsets cannot be dropped");
        }
    }

    /// Since when the group is as it is.
    fn since_ms(&self, group: &str) -> i64 {
        let classic = self.state.groups().get(group).map(|kept| kept.since_ms);
        let consumer = self.state.consumer_groups().get(group);
        let since_ms = classic.or_else(|| consumer.map(|kept| kept.since_ms));
        since_ms.unwrap_or(i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use firn_proto::cluster::CommittedOffset;
    use firn_proto::ids::LeaderEpoch;

    use super::*;

    fn wanted(note: usize) -> OffsetToCommit {
        OffsetToCommit {
            partition: PartitionIndex(0),
            offset: CommittedOffset {
                offset: 1,
                leader_epoch: LeaderEpoch(0),
                metadata: "n".repeat(note).into(),
            },
        }
    }

    #[test]
    fn full_of_offsets_only_those_that_are_there_already_may_move_on() {
        let row = OffsetRow {
            offset: wanted(100).offset,
            committed_ms: 0,
            expires_ms: None,
        };
        let known = BTreeMap::from([(PartitionIndex(0), row)]);
        let mut bytes = OFFSETS_BYTES_MAX;
        assert!(fits(Some(&known), &wanted(100), &mut bytes));
        assert!(!fits(Some(&known), &wanted(101), &mut bytes));
        assert!(!fits(None, &wanted(0), &mut bytes));
        assert_eq!(bytes, OFFSETS_BYTES_MAX);
        assert!(fits(Some(&known), &wanted(0), &mut bytes));
        assert_eq!(bytes, OFFSETS_BYTES_MAX - 100);
    }
}
