//! CreatePartitions (37), versions 0 to 3. Every topic of the request has a result of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_proto::cluster::{GrowTopic, Reply, Request, TopicError, TopicKey};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::BrokerId;
use firn_proto::kafka::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic,
    CreatePartitionsTopicResult,
};

use crate::kafka::context::Context;
use crate::kafka::view;

/// Gives topics more partitions.
pub async fn handle(ctx: &Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut seen = BTreeSet::new();
    let named = request.topics.iter().map(|topic| topic.name.as_str());
    let twice: BTreeSet<_> = named.filter(|name| !seen.insert(*name)).collect();
    let checked: Vec<_> = request
        .topics
        .iter()
        .map(|topic| match twice.contains(topic.name.as_str()) {
            true => Err(TopicError::NamedTwice),
            false => grown(topic),
        })
        .collect();
    let good: Vec<_> = checked
        .iter()
        .filter_map(|topic| topic.as_ref().ok().cloned())
        .collect();
    let mut done = grow(ctx, good, request.validate_only).await.into_iter();
    let results = request.topics.iter().zip(checked).map(|(topic, checked)| {
        let result = match checked {
            Err(error) => Err((code(&error, &topic.name), error.to_string())),
            Ok(_) => done
                .next()
                .unwrap_or_else(|| Err((ErrorCode::UnknownServerError, "no result".to_owned()))),
        };
        let (error_code, error_message) = match result {
            Ok(()) => (ErrorCode::None, None),
            Err((code, message)) => (code, Some(message)),
        };
        CreatePartitionsTopicResult {
            name: topic.name.clone(),
            error_code,
            error_message,
        }
    });
    CreatePartitionsResponse {
        results: results.collect(),
        ..CreatePartitionsResponse::default()
    }
}

type Grown = Result<(), (ErrorCode, String)>;

async fn grow(ctx: &Context, topics: Vec<GrowTopic>, validate_only: bool) -> Vec<Grown> {
    let count = topics.len();
    if count == 0 {
        return Vec::new();
    }
    match ctx
        .coordinator
        .call(Request::CreatePartitions {
            topics,
            validate_only,
        })
        .await
    {
        Ok(Reply::Topics(results)) => results
            .into_iter()
            .map(|result| {
                result.map_err(|refusal| {
                    let code = view::topic_error(&refusal.error, &refusal.topic);
                    (code, refusal.error.to_string())
                })
            })
            .collect(),
        Ok(_) => Vec::new(),
        Err(error) => vec![Err((view::coordinator_error(&error), error.to_string())); count],
    }
}

fn code(error: &TopicError, name: &str) -> ErrorCode {
    view::topic_error(error, &TopicKey::Name(Arc::from(name)))
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
