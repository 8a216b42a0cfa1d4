//! Micro-benchmarks of what every record passes: `cargo bench -p firn-benches`. Each measures one
//! step of the produce, fetch or archive path alone; where no disk is named, in memory, on one core.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot go on ends with what it was doing"
)]

mod archive;
mod codec;
mod commit;
mod fold;
mod records;
mod segment;
mod wal;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    records::batch_check,
    codec::requests_and_answers,
    wal::buffer,
    wal::index,
    fold::rows,
    fold::checkpoint,
    commit::group_commit,
    segment::codec,
    archive::step,
);
criterion_main!(benches);
