//! The Kafka door: frames in, answers out, one file per API.
//!
//! - `data/`: produce, fetch and what goes with them
//! - `admin/`: metadata, topics, configs
//! - `group/`: consumer groups

pub mod admin;
pub mod data;
