//! The broker link: how the processes of one cluster reach each other. `proto/PROTOCOL.md` specifies
//! what goes over it.
//!
//! A process starts it in these steps, and stops it in the reverse order:
//! 1. [`ProcessCertificate::generate`], [`QuicTransport::bind`], and with [`QuicTransport::address`]
//!    and [`own_proof`] its card; its Kafka listeners are bound before that, and stay so until its
//!    incarnation has ended, for a port that refuses connections means that a process is dead;
//! 2. [`Registry::register`]: from then on others take its links. [`Registry::forget`] with its own
//!    fingerprint at an orderly stop, and by the leader for processes whose incarnations have ended;
//! 3. [`LinkDoor::serve`] in a task of its own, with a coordinator that has yet to take its seat
//!    (`Coordinator::vacant`): those who start side by side ask each other whom they have heard;
//! 4. [`LinkPeers`], with which that takes its seat; [`encode_card`] makes the identity in its claims;
//! 5. at the end [`Transport::close`].
//!
//! - `transport.rs`: what a link runs over; `quic.rs`, `memory.rs`: what that is
//! - `certificate.rs`: the key of this process, and whose certificate is taken
//! - `registry.rs`: who belongs to the cluster
//! - `opening.rs`: how a link begins; `wire.rs`: messages over it; `outbox.rs`: what goes next
//! - `asking.rs`: what is asked over one link; `follower.rs`: the follower's side of one
//! - `door.rs`: the leader's side; `answers.rs`: what is asked there; `leading.rs`: who is asked
//! - `figures.rs`: what of it is counted
//! - `owners.rs`: what is asked of owners of partitions; `shown.rs`: what of them is shown to others
//! - `peers.rs`: all of that for the coordinator; `probe.rs`, `process.rs`: what the kernel knows

mod answers;
mod asking;
mod certificate;
mod door;
mod figures;
mod follower;
mod leading;
#[cfg(test)]
mod looks_tests;
mod memory;
mod opening;
mod outbox;
mod owners;
mod peers;
mod probe;
mod process;
mod quic;
mod registry;
mod shown;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transport;
mod wire;

pub use certificate::ProcessCertificate;
pub use door::LinkDoor;
pub use figures::{LinkCollector, LinkFigures};
pub use leading::{Leading, Pictures};
pub use memory::{MemoryNetwork, MemoryTransport};
pub use opening::{Introduction, decode_card, encode_card};
pub use owners::{LinkOwners, LookError, Owners};
pub use peers::LinkPeers;
pub use process::own_proof;
pub use quic::QuicTransport;
pub use registry::{Registry, RegistryError};
pub use shown::{Owned, Owning};
pub use transport::{Accepted, ConnectError, LinkReader, LinkWriter, Transport};
