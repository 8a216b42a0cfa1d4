//! OffsetCommit (8), versions 2 to 9: commits offsets; answered when they are durable.
//!
//! - up to v4: a retention time, −1 for the broker's setting.
//! - v6: leader epochs. v7: static members (KIP-345). v9: member epochs (KIP-848).
//!
//! A refusal of the request as a whole is that of each of its partitions.

use firn_proto::cluster::{
    CommitTopic, CommitTopicResult, CommittedOffset, OffsetCommit, OffsetToCommit, Reply, Request,
    TopicKey,
};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{LeaderEpoch, PartitionIndex};
use firn_proto::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestTopic, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};

use super::{ask, code, code_of, name_of, optional};
use crate::kafka::context::{Call, Context};

/// Commits.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    mut request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let topics = std::mem::take(&mut request.topics);
    let refused = refusal(&topics);
    let commit = OffsetCommit {
        group: request.group_id.into(),
        generation: request.generation_id_or_member_epoch,
        member: request.member_id.into(),
        instance: optional(request.group_instance_id),
        knows_epochs: call.version >= 9,
        retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0),
        topics: topics.into_iter().map(translate).collect(),
    };
    match ask(ctx, Request::OffsetCommit(commit)).await {
        Ok(Reply::OffsetCommit(Ok(results))) => answer(results),
        Ok(Reply::OffsetCommit(Err(error))) => refused(code(&error)),
        Ok(_) => refused(ErrorCode::UnknownServerError),
        Err(error) => refused(error),
    }
}

fn translate(topic: OffsetCommitRequestTopic) -> CommitTopic {
    let partitions = topic
        .partitions
        .into_iter()
        .map(|partition| OffsetToCommit {
            partition: PartitionIndex(partition.partition_index),
            offset: CommittedOffset {
                offset: partition.committed_offset,
                leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
                metadata: partition.committed_metadata.unwrap_or_default().into(),
            },
        });
    CommitTopic {
        topic: TopicKey::Name(topic.name.into()),
        partitions: partitions.collect(),
    }
}

fn answer(results: Vec<CommitTopicResult>) -> OffsetCommitResponse {
    let topics = results.into_iter().map(|result| {
        let partitions = result.partitions.iter();
        OffsetCommitResponseTopic {
            name: name_of(&result.topic),
            partitions: partitions
                .map(|(partition, result)| OffsetCommitResponsePartition {
                    partition_index: partition.0,
                    error_code: code_of(result),
                })
                .collect(),
        }
    });
    OffsetCommitResponse {
        topics: topics.collect(),
        ..OffsetCommitResponse::default()
    }
}

/// The response that refuses every partition of these topics with the code it is given.
pub(super) fn refusal(
    topics: &[OffsetCommitRequestTopic],
) -> impl Fn(ErrorCode) -> OffsetCommitResponse + use<> {
    let named: Vec<(String, Vec<i32>)> = topics
        .iter()
        .map(|topic| {
            let partitions = topic.partitions.iter();
            let indexes = partitions.map(|partition| partition.partition_index);
            (topic.name.clone(), indexes.collect())
        })
        .collect();
    move |error_code| OffsetCommitResponse {
        topics: named
            .iter()
            .map(|(name, indexes)| OffsetCommitResponseTopic {
                name: name.clone(),
                partitions: indexes
                    .iter()
                    .map(|index| OffsetCommitResponsePartition {
                        partition_index: *index,
                        error_code,
                    })
                    .collect(),
            })
            .collect(),
        ..OffsetCommitResponse::default()
    }
}
