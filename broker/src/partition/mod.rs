//! The partitions that this broker owns: from a produced batch to its offset and its answer, and
//! from a durable slot to the high watermark.
//!
//! - `prepare.rs`: what a produced batch must be and become before it is appended (pure)
//! - `log.rs`: offsets, duplicates, answers, bounds of one partition (pure)
//! - `refusals.rs`: which refused batch of an unknown producer has to come first (pure)
//! - `waiters.rs`: long polls (pure); `wait.rs` parks their tasks
//! - `set.rs`: all partitions of the broker; takes what becomes durable from the WAL
//! - this file: one partition, its pure parts behind a short lock
//!
//! Architecture invariant: no lock here is held over an await, an idle partition has no task, and
//! nothing here reads the bucket or knows a Kafka message.

mod error;
mod log;
mod prepare;
mod refusals;
mod wait;
mod waiters;

pub use error::AppendError;
pub use log::{Answer, Bounds, PartitionLog, Plan, Planned, Refusal, Released};
pub use prepare::{PrepareError, TopicRules, prepare};
pub use refusals::Refusals;
pub use wait::FetchWait;
pub use waiters::{WaitId, Waiters};
