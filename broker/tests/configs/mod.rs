//! Changing the configs of topics: what is asked for is shown, acted on at once, and nothing else.

use firn_proto::kafka::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterableConfig,
};
use firn_proto::kafka::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use firn_proto::kafka::incremental_alter_configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource, IncrementalAlterableConfig,
};
use futures::future::join_all;

use super::*;

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn of(
    resource_type: i8,
    name: &str,
    changes: &[(&str, i8, Option<&str>)],
) -> IncrementalAlterConfigsResource {
    let changes = changes.iter();
    let configs = changes.map(|(name, operation, value)| IncrementalAlterableConfig {
        name: (*name).to_owned(),
        config_operation: *operation,
        value: value.map(str::to_owned),
    });
    IncrementalAlterConfigsResource {
        resource_type,
        resource_name: name.to_owned(),
        configs: configs.collect(),
    }
}

fn of_topic(changes: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsResource {
    of(RESOURCE_TOPIC, TOPIC, changes)
}

impl Client {
    async fn change(
        &mut self,
        version: i16,
        validate_only: bool,
        resources: Vec<IncrementalAlterConfigsResource>,
    ) -> Vec<ErrorCode> {
        let request = IncrementalAlterConfigsRequest {
            resources,
            validate_only,
        };
        let Response::IncrementalAlterConfigs(response) = self.call(version, request).await else {
            panic!("not IncrementalAlterConfigs");
        };
        let results = response.responses.into_iter();
        results.map(|result| result.error_code).collect()
    }

    async fn replace(&mut self, version: i16, configs: &[(&str, &str)]) -> ErrorCode {
        let configs = configs.iter().map(|(name, value)| AlterableConfig {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
        });
        let request = AlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: TOPIC.to_owned(),
                configs: configs.collect(),
            }],
            validate_only: false,
        };
        let Response::AlterConfigs(response) = self.call(version, request).await else {
            panic!("not AlterConfigs");
        };
        response.responses[0].error_code
    }

    /// The value of a config of the topic, if the topic sets it.
    async fn set(&mut self, name: &str) -> Option<String> {
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: TOPIC.to_owned(),
                configuration_keys: Some(vec![name.to_owned()]),
            }],
            ..DescribeConfigsRequest::default()
        };
        let Response::DescribeConfigs(response) = self.call(4, request).await else {
            panic!("not DescribeConfigs");
        };
        let config = response.results[0].configs[0].clone();
        let by_topic = 1;
        config.value.filter(|_| config.config_source == by_topic)
    }
}

#[tokio::test]
async fn configs_are_changed_one_by_one_in_every_version() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    for version in ApiKey::IncrementalAlterConfigs.served() {
        let first = of_topic(&[
            ("retention.ms", SET, Some("60000")),
            ("segment.ms", SET, Some("7")),
            ("cleanup.policy", APPEND, Some("compact")),
        ]);
        assert_eq!(
            client.change(version, false, vec![first]).await,
            [ErrorCode::None]
        );
        assert_eq!(client.set("retention.ms").await.as_deref(), Some("60000"));
        let policy = client.set("cleanup.policy").await;
        assert_eq!(policy.as_deref(), Some("delete,compact"));

        let second = of_topic(&[
            ("retention.ms", DELETE, None),
            ("cleanup.policy", SUBTRACT, Some("delete")),
        ]);
        assert_eq!(
            client.change(version, false, vec![second]).await,
            [ErrorCode::None]
        );
        assert_eq!(client.set("retention.ms").await, None);
        assert_eq!(client.set("segment.ms").await.as_deref(), Some("7"));
        let policy = client.set("cleanup.policy").await;
        assert_eq!(policy.as_deref(), Some("compact"));

        let back = of_topic(&[
            ("cleanup.policy", DELETE, None),
            ("segment.ms", DELETE, None),
        ]);
        client.change(version, false, vec![back]).await;
    }
}

#[tokio::test]
async fn all_configs_are_replaced_in_every_version() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    for version in ApiKey::AlterConfigs.served() {
        let both = [("retention.ms", "1"), ("segment.ms", "7")];
        assert_eq!(client.replace(version, &both).await, ErrorCode::None);
        let one = [("retention.ms", "2")];
        assert_eq!(client.replace(version, &one).await, ErrorCode::None);
        assert_eq!(client.set("retention.ms").await.as_deref(), Some("2"));
        assert_eq!(client.set("segment.ms").await, None);
        let unknown = [("retention", "3")];
        let refused = client.replace(version, &unknown).await;
        assert_eq!(refused, ErrorCode::InvalidConfig);
        assert_eq!(client.set("retention.ms").await.as_deref(), Some("2"));
    }
}

#[tokio::test]
async fn a_changed_config_rules_the_next_request() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    let id = client.topic().await;
    let produce = || produce_of(id, -1, batch(&[TIME]));
    assert_eq!(
        client.produce(13, produce()).await.error_code,
        ErrorCode::None
    );
    let small = of_topic(&[("max.message.bytes", SET, Some("10"))]);
    client.change(1, false, vec![small]).await;
    assert_eq!(
        client.produce(13, produce()).await.error_code,
        ErrorCode::MessageTooLarge
    );
    let back = of_topic(&[("max.message.bytes", DELETE, None)]);
    client.change(1, false, vec![back]).await;
    assert_eq!(
        client.produce(13, produce()).await.error_code,
        ErrorCode::None
    );
}

#[tokio::test]
async fn every_resource_has_a_result_of_its_own() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    let set = [("retention.ms", SET, Some("5"))];
    let resources = vec![
        of(RESOURCE_TOPIC, "unknown", &set),
        of(RESOURCE_BROKER, "1", &set),
        of_topic(&set),
        of(RESOURCE_TOPIC, "named-twice", &set),
        of(RESOURCE_TOPIC, "named-twice", &set),
        of(RESOURCE_TOPIC, "a b", &set),
    ];
    assert_eq!(
        client.change(1, false, resources).await,
        [
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::InvalidRequest,
            ErrorCode::None,
            ErrorCode::InvalidRequest,
            ErrorCode::InvalidRequest,
            ErrorCode::InvalidTopicException,
        ]
    );
    assert_eq!(client.set("retention.ms").await.as_deref(), Some("5"));
}

#[tokio::test]
async fn of_several_changes_all_are_made_or_none() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    let resource = of_topic(&[
        ("segment.ms", SET, Some("7")),
        ("retention.ms", SET, Some("soon")),
    ]);
    let refused = client.change(1, false, vec![resource]).await;
    assert_eq!(refused, [ErrorCode::InvalidConfig]);
    assert_eq!(client.set("segment.ms").await, None);
}

#[tokio::test]
async fn what_is_only_validated_is_judged_and_not_made() {
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    let set = [("retention.ms", SET, Some("5"))];
    let resources = vec![of_topic(&set), of(RESOURCE_TOPIC, "unknown", &set)];
    assert_eq!(
        client.change(1, true, resources).await,
        [ErrorCode::None, ErrorCode::UnknownTopicOrPartition]
    );
    assert_eq!(client.set("retention.ms").await, None);
}

/// Were each made from the list as it was before the others, only the last would be left.
#[tokio::test]
async fn words_that_are_added_to_a_list_at_the_same_time_are_all_kept() {
    const LIST: &str = "leader.replication.throttled.replicas";
    let node = start().await;
    let mut client = Client::connect(&node).await;
    client.topic().await;
    let words: Vec<_> = (0..8).map(|partition| format!("{partition}:1")).collect();
    let adding = words.iter().map(|word| async {
        let mut client = Client::connect(&node).await;
        let resource = of_topic(&[(LIST, APPEND, Some(word.as_str()))]);
        client.change(1, false, vec![resource]).await
    });
    for added in join_all(adding).await {
        assert_eq!(added, [ErrorCode::None]);
    }
    let list = client.set(LIST).await.unwrap();
    let mut list: Vec<_> = list.split(',').collect();
    list.sort_unstable();
    assert_eq!(list, words);
}
