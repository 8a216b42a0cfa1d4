//! Handlers of the admin APIs, one file each, and what they share:
//!
//! - `each_topic.rs`: requests for many topics, each with a result of its own
//! - `topic_config.rs`: the table of topic configs
//! - `config_values.rs`: effective values and where they come from
//! - `config_changes.rs`: what is asked of the coordinator where configs shall change

pub mod alter_configs;
pub mod api_versions;
mod config_changes;
pub mod config_values;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
mod each_topic;
pub mod find_coordinator;
pub mod incremental_alter_configs;
pub mod metadata;
pub mod topic_config;
