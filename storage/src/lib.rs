//! The bytes of Firn in the bucket and on disk: fenced streams, WAL objects, checkpoints, the
//! local WAL, segments and the pages of their map, caches and reads, and deleting all of them.
//!
//! Architecture invariant: this crate knows no API key, no consumer group and no lease. Only
//! `bucket/` holds an `ObjectStore`; only `layout.rs` spells bucket keys and local file names.

pub mod archive;
pub mod bucket;
pub mod cache;
pub mod checkpoint;
pub mod collect;
pub mod contents;
mod creation;
pub mod fold;
#[cfg(test)]
mod golden;
pub mod inspect;
pub mod journal;
pub mod layout;
mod listing;
mod low_priority;
pub mod map_pages;
pub mod processes;
pub mod read;
pub mod segment;
pub mod state;
pub mod stream;
pub mod wal;
