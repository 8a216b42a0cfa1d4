//! Who owns what: the cluster state machine, its journal driver, and the group state machines.
//!
//! Architecture invariant: no socket, no Parquet, no bucket.
//!
//! - `command.rs`: the durable commands and their bytes
//! - `state/`: the pure state machine that they change
//! - `balance.rs`: which partitions should move, pure
//! - `snapshot.rs`: the bytes of the whole state
//! - `inspect.rs`: both as text
//! - `groups/`: the pure machine of classic groups
//! - `fence.rs`: whether another process leads by now
//! - `peers.rs`: how other processes are reached
//! - `gate.rs`, `image.rs`: what may leave when, and the published picture
//! - `task.rs`: the one loop that owns all of it; `handle.rs`: the way to reach it

pub mod balance;
pub mod command;
mod fence;
mod gate;
pub mod groups;
mod handle;
mod image;
pub mod inspect;
mod peers;
pub mod snapshot;
pub mod state;
mod task;
#[cfg(test)]
mod testing;

pub use groups::GroupConfig;
pub use handle::{Coordinator, CoordinatorConfig, CoordinatorTask, EndReason, Environment};
pub use peers::{
    FromLeader, LeaderLink, PeerAnswer, PeerError, Peers, Probed, ProcessCard, ProcessProof,
};
