//! The Kafka door: every existing Kafka client, unchanged, over TCP. Frames in, answers out, one
//! file per API.
//!
//! - `context`: what handlers may use; they hold no state of their own
//! - `data/`: produce, fetch and what goes with them
//! - `admin/`: metadata, topics, configs
//! - `group/`: consumer groups

pub mod admin;
pub mod context;
pub mod data;
