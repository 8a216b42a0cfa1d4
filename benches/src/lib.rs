//! Measurements of Firn: what the end-to-end programs `compare`, `failover` and `overload` share. The
//! micro-benchmarks are in `micro/`.
//!
//! Architecture invariant: figures come from here, verdicts never do; no test is timed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot go on ends with what it was doing"
)]

pub mod folder;
pub mod kind;
pub mod machine;
pub mod reader;
pub mod sample;
