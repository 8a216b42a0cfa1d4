//! The effective configs of a topic and of this broker, with where each value comes from, as
//! DescribeConfigs and CreateTopics show them.

use std::collections::BTreeMap;

use super::topic_config::{Kind, TOPIC_CONFIGS, TopicConfig};
use crate::config::{Config, Source};

/// Where a value comes from, in Kafka's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ValueSource {
    /// Set on the topic.
    Topic = 1,
    /// Set for this broker (file, environment, command line).
    Broker = 4,
    /// Nobody set it.
    Default = 5,
}

/// One config with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigValue {
    /// Its name.
    pub name: &'static str,
    /// Its effective value.
    pub value: String,
    /// Where that comes from.
    pub source: ValueSource,
    /// Its type, in Kafka's numbering.
    pub kind: i8,
    /// One line on what it does.
    pub documentation: &'static str,
    /// Every setting that has a say, the one in force first: (name, value, source).
    pub synonyms: Vec<(&'static str, String, ValueSource)>,
}

/// The configs of a topic that sets `own`.
pub fn topic_values(config: &Config, own: &BTreeMap<String, String>) -> Vec<ConfigValue> {
    TOPIC_CONFIGS
        .iter()
        .map(|row| topic_value(config, row, own))
        .collect()
}

/// One config of a topic that sets `own`.
pub fn topic_value(
    config: &Config,
    row: &'static TopicConfig,
    own: &BTreeMap<String, String>,
) -> ConfigValue {
    let mut synonyms = Vec::new();
    if let Some(value) = own.get(row.name) {
        synonyms.push((row.name, value.clone(), ValueSource::Topic));
    }
    if let Some(broker_name) = row.broker_name {
        let set = config.settings().find(|(name, _)| *name == broker_name);
        match set {
            Some((name, setting)) if setting.source != Source::Default => {
                synonyms.push((name, setting.text.clone(), ValueSource::Broker));
            }
            _ => {}
        }
        synonyms.push((broker_name, row.default.to_owned(), ValueSource::Default));
    }
    let (value, source) = match synonyms.first() {
        Some((_, value, source)) => (value.clone(), *source),
        None => (row.default.to_owned(), ValueSource::Default),
    };
    ConfigValue {
        name: row.name,
        value,
        source,
        kind: kind_code(row.kind),
        documentation: row.documentation,
        synonyms,
    }
}

/// The configs of this broker: every key of its configuration.
pub fn broker_values(config: &Config) -> Vec<ConfigValue> {
    let about = |name| crate::config::KEYS.iter().find(|key| key.name == name);
    config
        .settings()
        .map(|(name, setting)| {
            let source = match setting.source {
                Source::Default => ValueSource::Default,
                _ => ValueSource::Broker,
            };
            ConfigValue {
                name,
                value: setting.text.clone(),
                source,
                kind: TYPE_TEXT,
                documentation: about(name).map_or("", |key| key.about),
                synonyms: vec![(name, setting.text.clone(), source)],
            }
        })
        .collect()
}

const TYPE_TEXT: i8 = 2;

fn kind_code(kind: Kind) -> i8 {
    match kind {
        Kind::Boolean => 1,
        Kind::Word(_) => TYPE_TEXT,
        Kind::Int(..) => 3,
        Kind::Long(_) => 5,
        Kind::Double(..) => 6,
        Kind::Words(_) | Kind::List => 7,
    }
}
