//! CreateTopics (19), versions 2 to 7.
//!
//! - v4: −1 partitions or replicas take the broker's defaults (KIP-464).
//! - v5: the answer shows the configs of the topic (KIP-525).
//! - v7: the answer holds the topic's id.
//!
//! Choices: every topic of the request has a result of its own. Replicas are virtual (the bucket
//! replicates), so any positive replication factor is taken; a manual assignment sets the owner of
//! each partition to its first broker. Of what is taken and does nothing yet the log says so, once for
//! each topic that is made.

use std::collections::BTreeMap;

use firn_proto::cluster::{CreatedTopic, NewTopic, Reply, Request, TopicError};
use firn_proto::ids::BrokerId;
use firn_proto::kafka::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfigs, CreatableTopicResult,
    CreateTopicsRequest, CreateTopicsResponse,
};

use super::config_values::{ConfigValue, topic_values};
use super::{each_topic, topic_config};
use crate::config::Config;
use crate::kafka::context::Context;

/// Creates topics.
pub async fn handle(ctx: &Context, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let checked = each_topic::check(
        &request.topics,
        |topic| &topic.name,
        |topic| new_topic(ctx, topic),
    );
    let topics = each_topic::good(&checked);
    let (count, validate_only) = (topics.len(), request.validate_only);
    let create = Request::CreateTopics {
        topics,
        validate_only,
    };
    let made = each_topic::ask(
        ctx,
        request.timeout_ms,
        count,
        create,
        |reply| match reply {
            Reply::CreateTopics(results) => Some(results),
            _ => None,
        },
    );
    let results = each_topic::merge(checked, made.await);
    let topics = request.topics.into_iter().zip(results);
    let topics = topics.map(|(topic, result)| match result {
        Ok((new, made)) => {
            if !validate_only {
                topic_config::warn_of_no_effect(&new.name, &without_effect(&new));
            }
            success(ctx, new, made)
        }
        Err((error_code, message)) => CreatableTopicResult {
            name: topic.name,
            error_code,
            error_message: Some(message),
            ..CreatableTopicResult::default()
        },
    });
    CreateTopicsResponse {
        topics: topics.collect(),
        ..CreateTopicsResponse::default()
    }
}

fn new_topic(ctx: &Context, topic: &CreatableTopic) -> Result<NewTopic, TopicError> {
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            let reason = format!("null value not supported for topic config {}", config.name);
            return Err(TopicError::InvalidConfig(reason));
        };
        configs.insert(config.name.clone(), value.clone());
    }
    let set = configs.iter();
    let set = set.map(|(name, value)| (name.as_str(), value.as_str()));
    topic_config::validate(&configs)
        .and_then(|()| topic_config::check_means(&ctx.image.borrow(), set))
        .map_err(|error| TopicError::InvalidConfig(error.to_string()))?;
    let (partitions, owners) = if topic.assignments.is_empty() {
        let partitions = match topic.num_partitions {
            -1 => ctx.config.topics.partitions,
            partitions => partitions,
        };
        (partitions, Vec::new())
    } else {
        assigned(topic)?
    };
    if topic.replication_factor == 0 || topic.replication_factor < -1 {
        return Err(TopicError::InvalidReplicationFactor(
            topic.replication_factor,
        ));
    }
    Ok(NewTopic {
        name: topic.name.clone(),
        partitions,
        replication_factor: replication_factor(topic),
        owners,
        configs: configs.into_iter().collect(),
    })
}

fn replication_factor(topic: &CreatableTopic) -> i16 {
    match topic.assignments.first() {
        Some(assignment) => i16::try_from(assignment.broker_ids.len()).unwrap_or(i16::MAX),
        None => topic.replication_factor.max(1),
    }
}

/// The owners that a manual assignment names: one row for each partition from 0 on.
fn assigned(topic: &CreatableTopic) -> Result<(i32, Vec<BrokerId>), TopicError> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        return Err(TopicError::InvalidReplicaAssignment(
            "with a manual assignment, partitions and replication factor must be -1".to_owned(),
        ));
    }
    let mut rows: Vec<&CreatableReplicaAssignment> = topic.assignments.iter().collect();
    rows.sort_by_key(|row| row.partition_index);
    let in_order = (0..)
        .zip(&rows)
        .all(|(index, row)| row.partition_index == index);
    if !in_order {
        return Err(TopicError::InvalidReplicaAssignment(
            "partitions must be consecutive numbers from 0".to_owned(),
        ));
    }
    let owners: Option<Vec<_>> = rows
        .iter()
        .map(|row| row.broker_ids.first().map(|id| BrokerId(*id)))
        .collect();
    let Some(owners) = owners else {
        return Err(TopicError::InvalidReplicaAssignment(
            "an empty replica list".to_owned(),
        ));
    };
    Ok((i32::try_from(owners.len()).unwrap_or(i32::MAX), owners))
}

/// What of a topic's settings is taken and does nothing yet.
fn without_effect(new: &NewTopic) -> Vec<String> {
    let mut no_effect = topic_config::without_effect(&new.configs);
    if new.replication_factor > 1 {
        no_effect.push(format!("replication factor {}", new.replication_factor));
    }
    no_effect
}

fn success(ctx: &Context, new: NewTopic, made: CreatedTopic) -> CreatableTopicResult {
    let configs: BTreeMap<_, _> = new.configs.into_iter().collect();
    CreatableTopicResult {
        name: new.name,
        topic_id: made.id,
        num_partitions: made.partitions,
        replication_factor: made.replication_factor,
        configs: Some(shown_configs(&ctx.config, &configs)),
        ..CreatableTopicResult::default()
    }
}

/// All configs of a topic that sets `own`, as the answer shows them.
pub(in crate::kafka) fn shown_configs(
    config: &Config,
    own: &BTreeMap<String, String>,
) -> Vec<CreatableTopicConfigs> {
    topic_values(config, own).into_iter().map(shown).collect()
}

fn shown(value: ConfigValue) -> CreatableTopicConfigs {
    CreatableTopicConfigs {
        name: value.name.to_owned(),
        config_source: value.source as i8,
        value: Some(value.value),
        read_only: false,
        is_sensitive: false,
    }
}
