//! The process `firn`: doors, partitions, HTTP, command line. `node.rs` alone wires parts together.

pub mod config;
pub mod error;
pub mod kafka;
pub mod metrics;
