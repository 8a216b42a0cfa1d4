//! DeleteTopics (20), versions 1 to 6.
//!
//! - v5: error messages. v6: topics by id (KIP-516); a topic named by both or neither is
//!   INVALID_REQUEST.

use std::sync::Arc;

use firn_proto::cluster::{DeletedTopic, Reply, Request, TopicKey};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::TopicId;
use firn_proto::kafka::delete_topics::{
    DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse,
};

use super::each_topic::{self, Refused};
use crate::kafka::context::{Call, Context};

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
    let topics = each_topic::good(&keys);
    let count = topics.len();
    let delete = Request::DeleteTopics {
        topics,
        timeout_ms: u32::try_from(request.timeout_ms).unwrap_or(0),
    };
    let deleted = each_topic::ask(
        ctx,
        request.timeout_ms,
        count,
        delete,
        |reply| match reply {
            Reply::DeleteTopics(results) => Some(results),
            _ => None,
        },
    );
    let mut deleted = deleted.await;
    let responses = keys.into_iter().filter_map(|key| match key {
        Err(refused) => Some(refused),
        Ok(key) => deleted.next().map(|result| answer(&key, result)),
    });
    DeleteTopicsResponse {
        responses: responses.collect(),
        ..DeleteTopicsResponse::default()
    }
}

fn named(name: &str) -> TopicKey {
    TopicKey::Name(Arc::from(name))
}

fn answer(key: &TopicKey, result: Result<DeletedTopic, Refused>) -> DeletableTopicResult {
    let (error_code, message) = match result {
        Ok(topic) => {
            return DeletableTopicResult {
                name: Some(topic.name.to_string()),
                topic_id: topic.id,
                ..DeletableTopicResult::default()
            };
        }
        Err(refused) => refused,
    };
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
