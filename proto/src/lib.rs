//! The words of Firn: ids, record batches, Kafka messages, the messages between broker and
//! coordinator. Everything here is data and pure functions.
//!
//! Architecture invariant: this crate does no IO, has no tokio, and knows neither the bucket nor
//! who owns what.

pub mod cluster;
pub mod codec;
pub mod env;
pub mod error_code;
pub mod ids;
pub mod journal;
pub mod kafka;
pub mod limits;
pub mod link;
pub mod record;
pub mod topic_name;
pub mod varint;
