//! DeleteTopics (20), versions 1 to 6.
//!
//! - v5: error messages. v6: topics by id (KIP-516); a topic named by both or neither is
//!   INVALID_REQUEST.

use std::sync::Arc;

use firn_proto::cluster::{DeletedTopic, Reply, Request, TopicKey, TopicRefusal};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::TopicId;
use firn_proto::kafka::delete_topics::{
    DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse,
};

use crate::kafka::context::{Call, Context};
use crate::kafka::view;

/// Deletes topics.
pub async fn handle(
    ctx: &Context,
    call: &Call,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let keys: Vec<_> = if call.version >= 6 {
        let keys = request.topics.iter().map(|topic| match &topic.name {
            Some(name) if topic.topic_id == TopicId::ZERO => Ok(named(name)),
            None if topic.topic_id != TopicId::ZERO => Ok(TopicKey::Id(topic.topic_id)),
            _ => Err(DeletableTopicResult {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                error_code: ErrorCode::InvalidRequest,
                error_message: Some("name a topic by its name or its id, not both".to_owned()),
            }),
        });
        keys.collect()
    } else {
        request
            .topic_names
            .iter()
            .map(|name| Ok(named(name)))
            .collect()
    };
    let good: Vec<_> = keys
        .iter()
        .filter_map(|key| key.as_ref().ok().cloned())
        .collect();
    let timeout_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    let mut deleted = delete(ctx, good, timeout_ms).await.into_iter();
    let responses = keys.into_iter().map(|key| match key {
        Err(refused) => refused,
        Ok(key) => deleted
            .next()
            .unwrap_or_else(|| result(&key, ErrorCode::UnknownServerError, "no result".to_owned())),
    });
    DeleteTopicsResponse {
        responses: responses.collect(),
        ..DeleteTopicsResponse::default()
    }
}

fn named(name: &str) -> TopicKey {
    TopicKey::Name(Arc::from(name))
}

async fn delete(
    ctx: &Context,
    topics: Vec<TopicKey>,
    timeout_ms: u32,
) -> Vec<DeletableTopicResult> {
    if topics.is_empty() {
        return Vec::new();
    }
    let request = Request::DeleteTopics {
        topics: topics.clone(),
        timeout_ms,
    };
    match ctx.coordinator.call(request).await {
        Ok(Reply::DeleteTopics(results)) => results.into_iter().map(answer).collect(),
        Ok(_) => Vec::new(),
        Err(error) => {
            let code = view::coordinator_error(&error);
            topics
                .iter()
                .map(|key| result(key, code, error.to_string()))
                .collect()
        }
    }
}

fn answer(deleted: Result<DeletedTopic, TopicRefusal>) -> DeletableTopicResult {
    match deleted {
        Ok(topic) => DeletableTopicResult {
            name: Some(topic.name.to_string()),
            topic_id: topic.id,
            ..DeletableTopicResult::default()
        },
        Err(TopicRefusal { topic, error }) => {
            result(&topic, view::topic_error(&error, &topic), error.to_string())
        }
    }
}

fn result(key: &TopicKey, error_code: ErrorCode, message: String) -> DeletableTopicResult {
    let (name, topic_id) = match key {
        TopicKey::Name(name) => (Some(name.to_string()), TopicId::ZERO),
        TopicKey::Id(id) => (None, *id),
    };
    DeletableTopicResult {
        name,
        topic_id,
        error_code,
        error_message: Some(message),
    }
}
