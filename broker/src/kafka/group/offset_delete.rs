//! OffsetDelete (47), version 0: deletes committed offsets of topics that no member of the group
//! reads (KIP-496); answered when they are gone for good.

use firn_proto::cluster::{CommitTopicResult, FetchTopic, OffsetDelete, Reply, Request, TopicKey};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::PartitionIndex;
use firn_proto::kafka::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestTopic, OffsetDeleteResponse,
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

use super::{ask, code, code_of, name_of};
use crate::kafka::context::Context;

/// Deletes.
pub async fn handle(ctx: &Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let delete = OffsetDelete {
        group: request.group_id.into(),
        topics: request.topics.into_iter().map(translate).collect(),
    };
    match ask(ctx, Request::OffsetDelete(delete)).await {
        Ok(Reply::OffsetCommit(Ok(results))) => answer(results),
        Ok(Reply::OffsetCommit(Err(error))) => refusal(code(&error)),
        Ok(_) => refusal(ErrorCode::UnknownServerError),
        Err(error) => refusal(error),
    }
}

fn translate(topic: OffsetDeleteRequestTopic) -> FetchTopic {
    let partitions = topic.partitions.into_iter();
    let partitions = partitions.map(|partition| PartitionIndex(partition.partition_index));
    FetchTopic {
        topic: TopicKey::Name(topic.name.into()),
        partitions: partitions.collect(),
    }
}

fn answer(results: Vec<CommitTopicResult>) -> OffsetDeleteResponse {
    let topics = results.into_iter().map(|topic| {
        let partitions = topic.partitions.iter();
        let partitions = partitions.map(|(partition, result)| OffsetDeleteResponsePartition {
            partition_index: partition.0,
            error_code: code_of(result),
        });
        OffsetDeleteResponseTopic {
            name: name_of(&topic.topic),
            partitions: partitions.collect(),
        }
    });
    OffsetDeleteResponse {
        topics: topics.collect(),
        ..OffsetDeleteResponse::default()
    }
}

fn refusal(error_code: ErrorCode) -> OffsetDeleteResponse {
    OffsetDeleteResponse {
        error_code,
        ..OffsetDeleteResponse::default()
    }
}
