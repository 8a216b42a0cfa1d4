//! Handlers of the data APIs, one file each, and what they share:
//!
//! - `epochs.rs`: what the epochs of a partition say about a client's view of it
//! - `fetch_session.rs`: which partitions a client reads, remembered between its requests
//! - `locate.rs`: which partition of this broker a request means
//! - `topic_rules.rs`: what a topic asks of batches

pub mod delete_records;
pub mod epochs;
pub mod fetch;
pub mod fetch_session;
pub mod init_producer_id;
pub mod leader_epoch;
pub mod list_offsets;
pub mod locate;
pub mod produce;
pub mod topic_rules;
pub mod unreadable;
