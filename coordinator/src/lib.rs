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
//! - `peers.rs`: how other processes are reached
//! - `election.rs`, `members.rs`: who should lead, and which brokers live; pure
//! - `fence.rs`: whether another process leads by now
//! - `gate.rs`, `image.rs`: what may leave when, and the published picture
//! - `seat.rs`: leads, follows, or looks for a leader; `followed.rs`: what a leader tells followers
//! - `feed.rs`: what a leader keeps of its journal for standbys; `standby.rs`: what those make of it
//! - `task.rs`: the one loop of a leader, which owns all of it; `handle.rs`: the way to reach it,
//!   wherever it is; `standing.rs`: what may be known of it at once

pub mod balance;
pub mod command;
mod credits;
mod election;
mod feed;
mod fence;
mod followed;
mod gate;
pub mod groups;
mod handle;
mod image;
pub mod inspect;
mod members;
mod peers;
mod seat;
pub mod snapshot;
mod standby;
mod standing;
pub mod state;
mod task;
#[cfg(test)]
mod testing;

pub use followed::{Followed, FollowerBeats};
pub use groups::GroupConfig;
pub use handle::{Coordinator, CoordinatorConfig, CoordinatorTask, EndReason, Environment};
pub use peers::{
    Alone, FromLeader, LeaderLink, PeerAnswer, PeerError, Peers, Probed, ProcessCard, ProcessProof,
};
pub use seat::Seat;
pub use standing::FollowedTo;
