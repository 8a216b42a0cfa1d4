//! How large an answer becomes that says much more than its request: known from the request, so
//! that its memory is taken before it is made. Requests whose answer would be beyond all measure
//! are refused. Pure.
//!
//! Owns what one topic or key adds to an answer; the memory itself is [`super::memory`]'s.

use firn_proto::kafka::Request;
use firn_proto::limits::{ALTERED_RESOURCES_MAX, CREATE_TOPICS_MAX, FIND_COORDINATOR_KEYS_MAX};

use super::connection::Refusal;

/// What a created topic takes in an answer, in bytes: all its configs, in memory and as written.
/// What the request itself set is covered by the request.
const CREATED_TOPIC_BYTES: usize = 6 * 1024;
/// What a coordinator takes in an answer, in bytes, in memory and as written: a host name has up to
/// 255.
const COORDINATOR_BYTES: usize = 640;

/// What a resource takes in an answer whose configs are not changed, in bytes: why not, in memory
/// and as written.
const ALTERED_RESOURCE_BYTES: usize = 1024;

/// About how many bytes it takes to make and write the answer to `request`, as far as that is more
/// than the request itself holds.
///
/// # Errors
/// It asks for too much at once.
pub(super) fn of(request: &Request) -> Result<usize, Refusal> {
    let altered = |count| {
        let (max, bytes) = (ALTERED_RESOURCES_MAX, ALTERED_RESOURCE_BYTES);
        (count, max, bytes, "resources")
    };
    let (count, count_max, bytes, what) = match request {
        Request::AlterConfigs(request) => altered(request.resources.len()),
        Request::IncrementalAlterConfigs(request) => altered(request.resources.len()),
        Request::CreateTopics(request) => {
            let count = request.topics.len();
            (count, CREATE_TOPICS_MAX, CREATED_TOPIC_BYTES, "topics")
        }
        Request::FindCoordinator(request) => {
            let count = request.coordinator_keys.len();
            (count, FIND_COORDINATOR_KEYS_MAX, COORDINATOR_BYTES, "keys")
        }
        _ => return Ok(0),
    };
    if count > count_max {
        let api = request.api().name();
        return Err(Refusal(format!(
            "{api} names {count} {what}; at most {count_max} are answered at once"
        )));
    }
    Ok(count * bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use firn_proto::kafka::Response;
    use firn_proto::kafka::alter_configs::{AlterConfigsRequest, AlterConfigsResource};
    use firn_proto::kafka::create_topics::{
        CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest,
        CreateTopicsResponse,
    };
    use firn_proto::kafka::find_coordinator::{
        Coordinator, FindCoordinatorRequest, FindCoordinatorResponse,
    };

    use firn_proto::kafka::incremental_alter_configs::{
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
    };

    use super::*;
    use crate::config::{Config, Profile};
    use crate::kafka::admin::create_topics::shown_configs;

    fn create(count: usize) -> Request {
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic::default(); count],
            ..CreateTopicsRequest::default()
        };
        request.into()
    }

    fn find(count: usize) -> Request {
        let request = FindCoordinatorRequest {
            coordinator_keys: vec![String::new(); count],
            ..FindCoordinatorRequest::default()
        };
        request.into()
    }

    fn alter(count: usize) -> [Request; 2] {
        let all = AlterConfigsRequest {
            resources: vec![AlterConfigsResource::default(); count],
            ..AlterConfigsRequest::default()
        };
        let single = IncrementalAlterConfigsRequest {
            resources: vec![IncrementalAlterConfigsResource::default(); count],
            ..IncrementalAlterConfigsRequest::default()
        };
        [all.into(), single.into()]
    }

    #[test]
    fn what_asks_for_too_much_at_once_is_refused() {
        assert!(of(&create(CREATE_TOPICS_MAX)).is_ok());
        assert!(of(&create(CREATE_TOPICS_MAX + 1)).is_err());
        assert!(of(&find(FIND_COORDINATOR_KEYS_MAX)).is_ok());
        assert!(of(&find(FIND_COORDINATOR_KEYS_MAX + 1)).is_err());
        assert!(
            alter(ALTERED_RESOURCES_MAX)
                .iter()
                .all(|one| of(one).is_ok())
        );
        let beyond = alter(ALTERED_RESOURCES_MAX + 1);
        assert!(beyond.iter().all(|one| of(one).is_err()));
    }

    #[test]
    fn a_created_topic_takes_no_more_than_is_counted_for_it() {
        let config = Config::new(Profile::Dev, Vec::new()).unwrap();
        let configs = shown_configs(&config, &BTreeMap::new());
        let text = |config: &CreatableTopicConfigs| {
            config.name.capacity() + config.value.as_ref().map_or(0, String::capacity)
        };
        let in_memory = size_of::<CreatableTopicResult>()
            + configs.capacity() * size_of::<CreatableTopicConfigs>()
            + configs.iter().map(text).sum::<usize>();
        let result = CreatableTopicResult {
            configs: Some(configs),
            ..CreatableTopicResult::default()
        };
        let response = Response::from(CreateTopicsResponse {
            topics: vec![result],
            ..CreateTopicsResponse::default()
        });
        let bytes = in_memory + response.encode(7, 0).len();
        assert!(bytes <= of(&create(1)).unwrap(), "{bytes}");
    }

    #[test]
    fn a_coordinator_takes_no_more_than_is_counted_for_it() {
        let coordinator = Coordinator {
            host: "h".repeat(255),
            ..Coordinator::default()
        };
        let in_memory = size_of::<Coordinator>() + coordinator.host.capacity();
        let response = Response::from(FindCoordinatorResponse {
            coordinators: vec![coordinator],
            ..FindCoordinatorResponse::default()
        });
        let bytes = in_memory + response.encode(4, 0).len();
        assert!(bytes <= of(&find(1)).unwrap(), "{bytes}");
    }
}
