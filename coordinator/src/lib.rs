//! Who owns what: the cluster state machine, its journal driver, and the group state machines.
//!
//! Architecture invariant: no socket, no Parquet, no bucket.
//!
//! - `command.rs`: the durable commands and their bytes
//! - `state/`: the pure state machine that they change
//! - `groups/`: the pure machine of classic groups
//! - `snapshot.rs`: the bytes of the whole state

pub mod command;
pub mod groups;
pub mod snapshot;
pub mod state;
