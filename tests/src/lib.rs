//! The harness: starts the real `firn` binary, a real S3 server and Apache Kafka as processes of
//! their own, speaks Kafka's protocol to them with a client that shares no code with the product,
//! and judges what came back.
//!
//! Architecture invariant: this crate does not link Firn. It panics where it cannot go on, with
//! what it was doing: it runs in tests and benchmarks only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a harness that cannot go on fails the test that called it"
)]

pub mod careless_store;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod flights;
pub mod group;
pub mod history;
pub mod kafka;
pub mod link_network;
pub mod minio;
pub mod node;
pub mod ports;
pub mod process;
pub mod producer;
pub mod proxy;
pub mod records;
pub mod requirement;
pub mod seed;
pub mod wait;
pub mod wire;
pub mod wrong_clock;
