//! OffsetFetch (9), versions 1 to 9: reads committed offsets.
//!
//! - v2: null topics mean every topic; a refusal of the group as a whole.
//! - v7: only stable offsets (KIP-447). v8: several groups (KIP-709). v9: member epochs (KIP-848).
//!
//! Where nothing is committed the offset is −1 and the note is empty, without an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_proto::cluster::{
    CommittedOffset, FetchOffsets, FetchTopic, FetchTopicResult, FetchedOffsets, GroupError, Reply,
    Request, TopicKey,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{LeaderEpoch, PartitionIndex};
use firn_proto::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};

use super::{code, look_up, name_of};
use crate::kafka::context::{Call, Context};

/// Reads offsets that are durable.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let wanted = translate(call, request);
    let groups: Vec<_> = wanted.iter().map(|group| group.group.to_string()).collect();
    match look_up(ctx, Request::OffsetFetch(wanted)).await {
        Ok(Reply::OffsetFetch(fetched)) => answer(call, fetched),
        Ok(_) => refuse(call, groups, ErrorCode::UnknownServerError),
        Err(error) => refuse(call, groups, error),
    }
}

/// What is asked for, each group and each partition once: a short request that repeats an offset must
/// not be answered with its note as often.
pub(super) fn translate(call: &Call, request: OffsetFetchRequest) -> Vec<FetchOffsets> {
    let require_stable = request.require_stable;
    if call.version < 8 {
        let topics = request.topics.map(|topics| {
            let topics = topics.into_iter();
            once_each(topics.map(|topic| (topic.name, topic.partition_indexes)))
        });
        return vec![FetchOffsets {
            group: request.group_id.into(),
            member: None,
            topics,
            require_stable,
        }];
    }
    let mut seen = BTreeSet::new();
    let groups = request.groups.into_iter();
    let groups = groups.filter(|group| seen.insert(group.group_id.clone()));
    let groups = groups.map(|group| {
        let topics = group.topics.map(|topics| {
            let topics = topics.into_iter();
            once_each(topics.map(|topic| (topic.name, topic.partition_indexes)))
        });
        let epoch = group.member_epoch;
        FetchOffsets {
            group: group.group_id.into(),
            member: group.member_id.map(|member| (member.into(), epoch)),
            topics,
            require_stable,
        }
    });
    groups.collect()
}

fn once_each(topics: impl Iterator<Item = (String, Vec<i32>)>) -> Vec<FetchTopic> {
    let mut seen: BTreeMap<Arc<str>, BTreeSet<i32>> = BTreeMap::new();
    let mut wanted = Vec::new();
    for (name, mut partitions) in topics {
        let name: Arc<str> = name.into();
        let again = seen.contains_key(&name);
        let seen = seen.entry(Arc::clone(&name)).or_default();
        partitions.retain(|partition| seen.insert(*partition));
        if again && partitions.is_empty() {
            continue;
        }
        wanted.push(FetchTopic {
            topic: TopicKey::Name(name),
            partitions: partitions.into_iter().map(PartitionIndex).collect(),
        });
    }
    wanted
}

pub(super) fn answer(call: &Call, fetched: Vec<FetchedOffsets>) -> OffsetFetchResponse {
    let groups = fetched.into_iter().map(|fetched| {
        let group_id = fetched.group.to_string();
        match fetched.result {
            Ok(topics) => OffsetFetchResponseGroup {
                group_id,
                topics: topics.into_iter().map(fetched_topic).collect(),
                error_code: ErrorCode::None,
            },
            Err(error) => OffsetFetchResponseGroup {
                group_id,
                error_code: code(&error),
                ..OffsetFetchResponseGroup::default()
            },
        }
    });
    respond(call, groups.collect())
}

fn fetched_topic(topic: FetchTopicResult) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics {
        name: name_of(&topic.topic),
        partitions: topic.partitions.iter().map(fetched_partition).collect(),
    }
}

fn fetched_partition(
    (partition, result): &(PartitionIndex, Result<Option<CommittedOffset>, GroupError>),
) -> OffsetFetchResponsePartitions {
    let error_code = result.as_ref().err().map_or(ErrorCode::None, code);
    let committed = result.as_ref().ok().and_then(Option::as_ref);
    let epoch = committed.map_or(LeaderEpoch(-1), |committed| committed.leader_epoch);
    let metadata = committed.map(|committed| committed.metadata.to_string());
    OffsetFetchResponsePartitions {
        partition_index: partition.0,
        committed_offset: committed.map_or(-1, |committed| committed.offset),
        committed_leader_epoch: epoch.0,
        metadata: Some(metadata.unwrap_or_default()),
        error_code,
    }
}

fn refuse(call: &Call, groups: Vec<String>, error_code: ErrorCode) -> OffsetFetchResponse {
    let refused = groups.into_iter().map(|group_id| OffsetFetchResponseGroup {
        group_id,
        topics: Vec::new(),
        error_code,
    });
    respond(call, refused.collect())
}

/// Up to v7 the one group stands in the response itself.
fn respond(call: &Call, mut groups: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
    if call.version >= 8 {
        return OffsetFetchResponse {
            groups,
            ..OffsetFetchResponse::default()
        };
    }
    let only = groups.pop().unwrap_or_default();
    let topics = only.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter();
        let partitions = partitions.map(|partition| OffsetFetchResponsePartition {
            partition_index: partition.partition_index,
            committed_offset: partition.committed_offset,
            committed_leader_epoch: partition.committed_leader_epoch,
            metadata: partition.metadata,
            error_code: partition.error_code,
        });
        OffsetFetchResponseTopic {
            name: topic.name,
            partitions: partitions.collect(),
        }
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: only.error_code,
        ..OffsetFetchResponse::default()
    }
}
