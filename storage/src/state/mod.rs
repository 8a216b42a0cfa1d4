//! What the log says about a partition: the rows of WAL indexes, the state after them, and the
//! rules by which rows change it. Pure; no IO.
//!
//! - `row.rs`: one run and one producer batch, as the index of a WAL object holds them
//! - `producers.rs`: the producer table (deduplication, I8)
//! - `partition.rs`: the state row of a partition and how it moves

mod row;

pub use row::{BatchFlags, ProducerBatch, Run, RunRef};
