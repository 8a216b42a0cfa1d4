//! The process `firn`: doors, partitions, archive, HTTP, command line. `node.rs` alone wires parts together.

pub mod archive;
pub mod cli;
pub mod collection;
pub mod config;
pub mod error;
pub mod http;
pub mod insist;
pub mod kafka;
pub mod link;
pub mod log_starts;
pub mod metrics;
pub mod node;
pub mod partition;
pub mod read_replica;
pub mod recovery;
pub mod retention;
pub mod segment_map;
