//! DescribeConfigs (32), versions 1 to 4: configs of topics and of this broker.
//!
//! - v1: synonyms (KIP-226). v3: types and documentation (KIP-569).
//!
//! Choices: every config of a topic is shown with its value, its source and its default; a broker
//! shows its own configuration and refuses to speak for another.

use std::collections::BTreeSet;

use firn_proto::cluster::ClusterImage;
use firn_proto::error_code::ErrorCode;
use firn_proto::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use firn_proto::topic_name::check_topic_name;

use super::config_values::{ConfigValue, broker_values, topic_values};
use crate::kafka::context::Context;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// Shows configs.
pub fn handle(ctx: &Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let image = ctx.image.borrow().clone();
    // Each resource once: a short request must not be answered with gigabytes.
    let mut seen = BTreeSet::new();
    let resources = request
        .resources
        .iter()
        .filter(|resource| seen.insert((resource.resource_type, &resource.resource_name)));
    let results = resources.map(|resource| match values(ctx, &image, resource) {
        Ok((values, read_only)) => DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs: values
                .into_iter()
                .filter(|value| wanted(resource, value.name))
                .map(|value| shown(value, read_only, &request))
                .collect(),
            ..DescribeConfigsResult::default()
        },
        Err((error_code, message)) => DescribeConfigsResult {
            error_code,
            error_message: Some(message),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs: Vec::new(),
        },
    });
    DescribeConfigsResponse {
        results: results.collect(),
        ..DescribeConfigsResponse::default()
    }
}

/// The configs of a resource, and whether they are read-only.
fn values(
    ctx: &Context,
    image: &ClusterImage,
    resource: &DescribeConfigsResource,
) -> Result<(Vec<ConfigValue>, bool), (ErrorCode, String)> {
    let name = &resource.resource_name;
    match resource.resource_type {
        RESOURCE_TOPIC => {
            check_topic_name(name)
                .map_err(|error| (ErrorCode::InvalidTopicException, error.to_string()))?;
            let topic = image.topic_named(name).ok_or_else(|| {
                (
                    ErrorCode::UnknownTopicOrPartition,
                    "there is no such topic".to_owned(),
                )
            })?;
            Ok((topic_values(&ctx.config, &topic.configs), false))
        }
        // The empty name stands for the defaults of all brokers, which nothing sets here.
        RESOURCE_BROKER if name.is_empty() => Ok((Vec::new(), true)),
        RESOURCE_BROKER if *name == ctx.broker.to_string() => {
            Ok((broker_values(&ctx.config), true))
        }
        RESOURCE_BROKER => Err((
            ErrorCode::InvalidRequest,
            format!("this is broker {}; ask broker {name} itself", ctx.broker),
        )),
        other => Err((
            ErrorCode::InvalidRequest,
            format!("configs of resource type {other} cannot be described here"),
        )),
    }
}

fn wanted(resource: &DescribeConfigsResource, name: &str) -> bool {
    match &resource.configuration_keys {
        None => true,
        Some(keys) => keys.iter().any(|key| key == name),
    }
}

fn shown(
    value: ConfigValue,
    read_only: bool,
    request: &DescribeConfigsRequest,
) -> DescribeConfigsResourceResult {
    let synonyms = if request.include_synonyms {
        value.synonyms
    } else {
        Vec::new()
    };
    DescribeConfigsResourceResult {
        name: value.name.to_owned(),
        value: Some(value.value),
        read_only,
        config_source: value.source as i8,
        is_sensitive: false,
        synonyms: synonyms
            .into_iter()
            .map(|(name, value, source)| DescribeConfigsSynonym {
                name: name.to_owned(),
                value: Some(value),
                source: source as i8,
            })
            .collect(),
        config_type: value.kind,
        documentation: request
            .include_documentation
            .then(|| value.documentation.to_owned()),
    }
}
