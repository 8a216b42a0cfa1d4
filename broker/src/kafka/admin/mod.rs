//! Handlers of the admin APIs, one file each.

pub mod topic_config;
