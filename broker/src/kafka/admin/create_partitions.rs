//! CreatePartitions (37), versions 0 to 3. Every topic of the request has a result of its own.

use firn_proto::cluster::{GrowTopic, Reply, Request, TopicError};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::BrokerId;
use firn_proto::kafka::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
    CreatePartitionsTopicResult,
};

use super::each_topic;
use crate::kafka::context::Context;

/// Gives topics more partitions.
pub async fn handle(ctx: &Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let checked = each_topic::check(&request.topics, |topic| &topic.name, grown);
    let topics = each_topic::good(&checked);
    let (count, validate_only) = (topics.len(), request.validate_only);
    let grow = Request::CreatePartitions {
        topics,
        validate_only,
    };
    let grown = each_topic::ask(ctx, request.timeout_ms, count, grow, |reply| match reply {
        Reply::Topics(results) => Some(results),
        _ => None,
    });
    let results = each_topic::merge(checked, grown.await);
    let results = request.topics.into_iter().zip(results);
    let results = results.map(|(topic, result)| {
        let (error_code, error_message) = match result {
            Ok(_) => (ErrorCode::None, None),
            Err((code, message)) => (code, Some(message)),
        };
        CreatePartitionsTopicResult {
            name: topic.name,
            error_code,
            error_message,
        }
    });
    CreatePartitionsResponse {
        results: results.collect(),
        ..CreatePartitionsResponse::default()
    }
}

fn grown(topic: &CreatePartitionsTopic) -> Result<GrowTopic, TopicError> {
    let rows = topic.assignments.iter().flatten();
    let owners: Option<Vec<_>> = rows
        .map(|row| row.broker_ids.first().map(|id| BrokerId(*id)))
        .collect();
    let Some(owners) = owners else {
        return Err(TopicError::InvalidReplicaAssignment(
            "an empty replica list".to_owned(),
        ));
    };
    Ok(GrowTopic {
        name: topic.name.clone(),
        partitions: topic.count,
        owners,
    })
}
