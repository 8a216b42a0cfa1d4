//! Changes to the configs of topics: what clients ask for in Kafka's two ways becomes what the
//! coordinator is asked. Every resource has a result of its own, and all its changes are made or
//! none.
//!
//! Choices, all Kafka's: a config that exists nowhere may be deleted, which changes nothing; what is
//! added to or taken from a list that is not set is added to or taken from its default; a resource
//! or a config that is named twice is refused. The configs of a broker are those that it was started
//! with.

use std::collections::BTreeMap;

use firn_proto::cluster::{AlterConfigs, ClusterImage, ConfigChange, Reply, Request};
use firn_proto::error_code::ErrorCode;
use firn_proto::limits::ALTER_CONFIGS_WAIT_MS;
use firn_proto::topic_name::check_topic_name;
use tokio::sync::MutexGuard;

use super::config_values::topic_value;
use super::each_topic::{self, Refused};
use super::topic_config::{self, TopicConfig, TopicConfigError};
use crate::kafka::context::Context;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// Gives a config a value; the operations as Kafka numbers them.
pub(super) const SET: i8 = 0;
/// Puts a config back to its default.
const DELETE: i8 = 1;
/// Adds words to a list.
const APPEND: i8 = 2;
/// Takes words out of a list.
const SUBTRACT: i8 = 3;

/// A topic or broker as a request names it, with what shall become of its configs.
pub(super) struct Resource<'a> {
    pub(super) resource_type: i8,
    pub(super) name: &'a str,
    pub(super) changes: Vec<Change<'a>>,
}

/// What shall become of one config.
pub(super) struct Change<'a> {
    pub(super) name: &'a str,
    pub(super) operation: i8,
    pub(super) value: Option<&'a str>,
}

/// How a request wants its changes to be made.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// First drop every config that is set.
    pub(super) replace_all: bool,
    /// Only say what would happen.
    pub(super) validate_only: bool,
}

/// Makes the changes; one result for each resource, in their order.
pub(super) async fn make(
    ctx: &Context,
    resources: &[Resource<'_>],
    how: How,
) -> Vec<Result<(), Refused>> {
    // Until this one is answered, and the published picture shows what it did.
    let _turn = turn_of_lists(ctx, resources).await;
    let image = ctx.image.borrow().clone();
    let twice = each_topic::named_twice(resources.iter().map(key));
    let checked: Vec<_> = resources
        .iter()
        .map(|resource| match twice.contains(&key(resource)) {
            true => Err(invalid("the request names this resource more than once")),
            false => {
                let now = |config| value_now(ctx, &image, resource.name, config);
                translate(resource, how.replace_all, now).and_then(|alter| {
                    let set = alter.changes.iter();
                    let set = set.filter_map(|c| Some((c.name.as_str(), c.value.as_deref()?)));
                    topic_config::check_means(&image, set).map_err(illegal)?;
                    Ok(alter)
                })
            }
        })
        .collect();
    let topics = each_topic::good(&checked);
    let (count, validate_only) = (topics.len(), how.validate_only);
    let alter = Request::AlterConfigs {
        topics,
        validate_only,
    };
    let wait = ALTER_CONFIGS_WAIT_MS;
    let altered = each_topic::ask(ctx, wait, count, alter, |reply| match reply {
        Reply::Topics(results) => Some(results),
        _ => None,
    });
    let results = each_topic::merge(checked, altered.await);
    let results = results.into_iter().map(|result| {
        let (alter, ()) = result?;
        if !validate_only {
            warn_of_no_effect(&alter);
        }
        Ok(())
    });
    results.collect()
}

/// The turn of a request that changes lists: it adds to what the one before it left.
async fn turn_of_lists<'a>(
    ctx: &'a Context,
    resources: &[Resource<'_>],
) -> Option<MutexGuard<'a, ()>> {
    let mut changes = resources.iter().flat_map(|resource| &resource.changes);
    match changes.any(|change| matches!(change.operation, APPEND | SUBTRACT)) {
        true => Some(ctx.config_lists.lock().await),
        false => None,
    }
}

fn key<'a>(resource: &Resource<'a>) -> (i8, &'a str) {
    (resource.resource_type, resource.name)
}

/// The value of a config of a topic, set or by default.
fn value_now(
    ctx: &Context,
    image: &ClusterImage,
    topic: &str,
    config: &'static TopicConfig,
) -> String {
    let unset = BTreeMap::new();
    let topic = image.topic_named(topic);
    let own = topic.map_or(&unset, |topic| &topic.configs);
    topic_value(&ctx.config, config, own).value
}

/// What the coordinator is asked for one resource. `now` tells the value that a list has.
fn translate(
    resource: &Resource<'_>,
    replace_all: bool,
    now: impl Fn(&'static TopicConfig) -> String,
) -> Result<AlterConfigs, Refused> {
    let name = resource.name;
    match resource.resource_type {
        RESOURCE_TOPIC if name.is_empty() => {
            return Err(invalid(
                "topics have no defaults of their own: name a topic",
            ));
        }
        RESOURCE_TOPIC => check_topic_name(name)
            .map_err(|error| (ErrorCode::InvalidTopicException, error.to_string()))?,
        RESOURCE_BROKER => {
            return Err(invalid(
                "a broker takes its configs when it starts: set them in its firn.toml, its \
                 environment or on its command line, and start it again",
            ));
        }
        other => {
            let reason = format!("configs of resource type {other} cannot be changed here");
            return Err(invalid(reason));
        }
    }
    let twice = each_topic::named_twice(resource.changes.iter().map(|change| change.name));
    if let Some(name) = twice.first() {
        return Err(invalid(format!("config {name} is named more than once")));
    }
    let changes = resource.changes.iter().map(|change| changed(change, &now));
    let changes = changes.collect::<Result<Vec<_>, _>>()?;
    let set = changes
        .iter()
        .filter_map(|change| Some((change.name.clone(), change.value.clone()?)));
    topic_config::validate(&set.collect()).map_err(illegal)?;
    Ok(AlterConfigs {
        name: name.to_owned(),
        replace_all,
        changes,
    })
}

fn changed(
    change: &Change<'_>,
    now: impl Fn(&'static TopicConfig) -> String,
) -> Result<ConfigChange, Refused> {
    let name = change.name;
    let value = match (change.operation, change.value) {
        (DELETE, _) => None,
        (SET, Some(value)) => Some(value.to_owned()),
        (APPEND | SUBTRACT, Some(words)) => Some(edited(change, words, now)?),
        (SET | APPEND | SUBTRACT, None) => {
            return Err(invalid(format!("config {name} has no value")));
        }
        (other, _) => {
            let reason = format!("config {name}: there is no operation {other}");
            return Err(invalid(reason));
        }
    };
    Ok(ConfigChange {
        name: name.to_owned(),
        value,
    })
}

/// The list after words were added to it or taken from it.
fn edited(
    change: &Change<'_>,
    words: &str,
    now: impl Fn(&'static TopicConfig) -> String,
) -> Result<String, Refused> {
    let config = topic_config::known(change.name).map_err(illegal)?;
    if !config.is_list() {
        let name = config.name;
        let reason = format!("config {name} is no list: set it, or delete it");
        return Err((ErrorCode::InvalidConfig, reason));
    }
    let value = now(config);
    let mut list: Vec<_> = split(&value).collect();
    for word in split(words) {
        let is_there = list.contains(&word);
        match change.operation {
            SUBTRACT => list.retain(|there| *there != word),
            _ if is_there => {}
            _ => list.push(word),
        }
    }
    Ok(list.join(","))
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    let words = list.split(',').map(str::trim);
    words.filter(|word| !word.is_empty())
}

fn invalid(reason: impl Into<String>) -> Refused {
    (ErrorCode::InvalidRequest, reason.into())
}

fn illegal(error: TopicConfigError) -> Refused {
    (ErrorCode::InvalidConfig, error.to_string())
}

fn warn_of_no_effect(alter: &AlterConfigs) {
    let set = alter.changes.iter();
    let set = set.filter_map(|change| Some((change.name.clone(), change.value.clone()?)));
    let no_effect = topic_config::without_effect(&set.collect::<Vec<_>>());
    topic_config::warn_of_no_effect(&alter.name, &no_effect);
}

#[cfg(test)]
mod tests {
    use firn_proto::kafka::Response;
    use firn_proto::kafka::alter_configs::{
        AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse,
        AlterConfigsResponse,
    };

    use super::*;
    use crate::kafka::answer_size;

    fn of_topic<'a>(changes: &[(&'a str, i8, Option<&'a str>)]) -> Resource<'a> {
        let changes = changes.iter().map(|(name, operation, value)| Change {
            name,
            operation: *operation,
            value: *value,
        });
        Resource {
            resource_type: RESOURCE_TOPIC,
            name: "t",
            changes: changes.collect(),
        }
    }

    /// What is asked for a topic that has these changes and whose lists are `now`.
    fn asked(
        now: &str,
        changes: &[(&str, i8, Option<&str>)],
    ) -> Result<Vec<(String, Option<String>)>, Refused> {
        let alter = translate(&of_topic(changes), false, |_| now.to_owned())?;
        let changes = alter.changes.into_iter();
        Ok(changes.map(|change| (change.name, change.value)).collect())
    }

    fn value(now: &str, operation: i8, words: &str) -> String {
        let changes = [("cleanup.policy", operation, Some(words))];
        let mut asked = asked(now, &changes).unwrap();
        asked.remove(0).1.unwrap()
    }

    fn code(changes: &[(&str, i8, Option<&str>)]) -> ErrorCode {
        asked("delete", changes).unwrap_err().0
    }

    #[test]
    fn configs_are_set_and_deleted() {
        let changes = [
            ("retention.ms", SET, Some("60000")),
            ("segment.ms", DELETE, Some("ignored")),
        ];
        let wanted = [
            ("retention.ms".to_owned(), Some("60000".to_owned())),
            ("segment.ms".to_owned(), None),
        ];
        assert_eq!(asked("", &changes).unwrap(), wanted);
    }

    #[test]
    fn words_are_added_to_a_list_once_and_taken_from_it() {
        assert_eq!(value("delete", APPEND, "compact"), "delete,compact");
        assert_eq!(value("delete", APPEND, "delete"), "delete");
        assert_eq!(value("compact, delete", SUBTRACT, "compact"), "delete");
        assert_eq!(value("delete", SUBTRACT, "compact"), "delete");
        let replicas = [("leader.replication.throttled.replicas", APPEND, Some("0:1"))];
        let asked = asked("", &replicas).unwrap();
        assert_eq!(asked[0].1.as_deref(), Some("0:1"));
    }

    #[test]
    fn only_lists_are_added_to_and_a_policy_is_left() {
        let number = [("retention.ms", APPEND, Some("1"))];
        assert_eq!(code(&number), ErrorCode::InvalidConfig);
        let none_left = [("cleanup.policy", SUBTRACT, Some("delete"))];
        assert_eq!(code(&none_left), ErrorCode::InvalidConfig);
        let unknown_word = [("cleanup.policy", APPEND, Some("shred"))];
        assert_eq!(code(&unknown_word), ErrorCode::InvalidConfig);
    }

    #[test]
    fn unknown_names_and_illegal_values_are_refused_but_not_deleting_what_is_not_there() {
        for operation in [SET, APPEND, SUBTRACT] {
            let (error, message) =
                asked("", &[("retention.mss", operation, Some("1"))]).unwrap_err();
            assert_eq!(error, ErrorCode::InvalidConfig);
            assert!(message.contains("retention.ms?"), "{message}");
        }
        assert!(asked("", &[("retention.mss", DELETE, None)]).is_ok());
        let illegal = [("retention.ms", SET, Some("soon"))];
        assert_eq!(code(&illegal), ErrorCode::InvalidConfig);
    }

    #[test]
    fn what_is_no_change_of_a_config_is_refused() {
        let twice = [
            ("retention.ms", SET, Some("1")),
            ("retention.ms", DELETE, None),
        ];
        assert_eq!(code(&twice), ErrorCode::InvalidRequest);
        assert_eq!(
            code(&[("retention.ms", SET, None)]),
            ErrorCode::InvalidRequest
        );
        let unknown = [("retention.ms", 4, Some("1"))];
        assert_eq!(code(&unknown), ErrorCode::InvalidRequest);
    }

    #[test]
    fn only_topics_can_be_changed_and_each_by_its_name() {
        let refused = |resource_type, name| {
            let resource = Resource {
                resource_type,
                name,
                changes: Vec::new(),
            };
            translate(&resource, false, |_| String::new()).map_err(|(code, _)| code)
        };
        let cases = [
            (RESOURCE_TOPIC, "", ErrorCode::InvalidRequest),
            (RESOURCE_TOPIC, "a b", ErrorCode::InvalidTopicException),
            (RESOURCE_BROKER, "1", ErrorCode::InvalidRequest),
            (RESOURCE_BROKER, "", ErrorCode::InvalidRequest),
            (8, "1", ErrorCode::InvalidRequest),
            (0, "t", ErrorCode::InvalidRequest),
        ];
        for (resource_type, name, code) in cases {
            let refused = refused(resource_type, name);
            assert_eq!(refused, Err(code), "{resource_type} {name:?}");
        }
        assert!(refused(RESOURCE_TOPIC, "t").is_ok());
    }

    #[test]
    fn what_is_said_of_a_resource_takes_no_more_than_is_counted_for_it() {
        let named = |resource_type| AlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type,
                ..AlterConfigsResource::default()
            }],
            ..AlterConfigsRequest::default()
        };
        for resource_type in [0, RESOURCE_TOPIC, RESOURCE_BROKER] {
            let resource = Resource {
                resource_type,
                name: "",
                changes: Vec::new(),
            };
            let (error_code, message) = translate(&resource, true, |_| String::new()).unwrap_err();
            let in_memory = size_of::<Result<AlterConfigs, Refused>>()
                + size_of::<AlterConfigsResourceResponse>()
                + message.capacity();
            let response = Response::from(AlterConfigsResponse {
                responses: vec![AlterConfigsResourceResponse {
                    error_code,
                    error_message: Some(message),
                    ..AlterConfigsResourceResponse::default()
                }],
                ..AlterConfigsResponse::default()
            });
            let bytes = in_memory + response.encode(2, 0).len();
            let counted = answer_size::of(&named(resource_type).into()).unwrap();
            assert!(bytes <= counted, "{bytes}");
        }
    }
}
