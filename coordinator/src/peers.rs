//! How the coordinator of this process reaches those of others: the traits that the broker link
//! implements and `node.rs` hands over, and what a process says of itself. The coordinator never
//! sees a socket.

use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use firn_proto::cluster::{
    Beat, BrokerImage, CoordinatorError, ImageUpdate, JournalPart, LeaderBeat, LinkAddress,
    Listener, Reply, Request,
};
use firn_proto::ids::{BrokerId, CoordinatorEpoch};
use futures::future::{BoxFuture, FutureExt};
use thiserror::Error;

/// What a process says of itself: in the bucket, as the identity in its claims to epochs
/// (`meta/epoch/<e>`) and under `meta/brokers/<fingerprint>`, and at the start of each link.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProcessCard {
    /// Its broker id, if configured.
    pub broker: Option<BrokerId>,
    /// Where others reach its link.
    pub link: LinkAddress,
    /// Where clients reach it.
    pub listeners: Vec<Listener>,
    /// Shows on the same machine that it is gone.
    pub process: ProcessProof,
    /// One line for people: host name, process id, version.
    pub shown: String,
}

/// Names a process of one machine so that another process there can tell for certain that it is
/// gone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ProcessProof {
    /// Of the start of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// In which process ids and times count: `/proc/self/ns/pid`, and behind a space, where the system
    /// has it, `/proc/self/ns/time`.
    pub namespaces: String,
    /// The process id.
    pub pid: u32,
    /// When the process started, in ticks since the machine did (`/proc/<pid>/stat`), for process
    /// ids are used again.
    pub started: u64,
}

/// The other processes of the cluster.
pub trait Peers: Send + Sync + 'static {
    /// Links to the process that claimed `epoch`. Bounded in time; dropping it gives up.
    ///
    /// # Errors
    /// [`PeerError`].
    fn follow(
        &self,
        leader: ProcessCard,
        epoch: CoordinatorEpoch,
    ) -> BoxFuture<'static, Result<Box<dyn LeaderLink>, PeerError>>;

    /// Asks every other process, those in `known` and those whose cards lie in the bucket, whether
    /// it has heard a leader lately ([`crate::Coordinator::heard_leader`]): one answer for each.
    /// Bounded in time.
    fn ask_all(&self, known: Vec<LinkAddress>) -> BoxFuture<'static, Vec<PeerAnswer>>;

    /// Whether the process of that broker lives: a TCP connection to its first Kafka listener, and
    /// on this machine its [`ProcessProof`]. Bounded in time.
    fn probe(&self, broker: Arc<BrokerImage>) -> BoxFuture<'static, Probed>;

    /// Whether it is certain that the process is gone: it ran on this machine since its last start,
    /// in the namespaces of this process, and no process with its id and its start time
    /// is there now. At once, without asking anybody else.
    fn is_gone(&self, process: &ProcessProof) -> bool;

    /// Whether the card of this process lies in the bucket; `None`: the bucket does not say. Bounded
    /// in time.
    fn own_card(&self) -> BoxFuture<'static, Option<bool>>;

    /// Whether there are no other processes, ever: whoever shares the bucket all the same takes its
    /// journal away, and ends this one.
    fn is_alone(&self) -> bool {
        false
    }
}

/// Nobody: of a process whose bucket no other one can reach (`memory://`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Peers for Alone {
    fn follow(
        &self,
        _leader: ProcessCard,
        _epoch: CoordinatorEpoch,
    ) -> BoxFuture<'static, Result<Box<dyn LeaderLink>, PeerError>> {
        async { Err(PeerError::Refused) }.boxed()
    }

    fn ask_all(&self, _known: Vec<LinkAddress>) -> BoxFuture<'static, Vec<PeerAnswer>> {
        async { Vec::new() }.boxed()
    }

    fn probe(&self, _broker: Arc<BrokerImage>) -> BoxFuture<'static, Probed> {
        async { Probed::Silent }.boxed()
    }

    fn is_gone(&self, _process: &ProcessProof) -> bool {
        true
    }

    fn own_card(&self) -> BoxFuture<'static, Option<bool>> {
        async { Some(true) }.boxed()
    }

    fn is_alone(&self) -> bool {
        true
    }
}

/// Why there is no link to a process.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Nobody listens there: it is dead.
    #[error("nobody listens there")]
    Refused,
    /// Another process answers its links: it is dead, unless the two have one address.
    #[error("another process answers there")]
    Another,
    /// It does not answer, or no longer.
    #[error("it does not answer")]
    NoAnswer,
    /// It answers, and does not lead that epoch, or no longer.
    #[error("it does not lead")]
    NotLeading,
    /// It answers, and takes no link now: it has too many, or stops.
    #[error("it answers, and takes no link now")]
    Busy,
    /// It answers, and does not know this process: there is no card of it in the bucket, or was none
    /// a moment ago.
    #[error("it does not know this process, whose card it has not found in the bucket")]
    Unregistered,
    /// It answers, and will have nothing to do with this process: another cluster, or a version of
    /// the link that it does not speak.
    #[error("it refuses this process: {0}")]
    Rejected(String),
}

/// What a process says when it is asked for the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAnswer {
    /// Nobody listens there, or another process in its place: it is dead.
    Refused,
    /// It does not answer.
    NoAnswer,
    /// It lives, and will not say, for there is no card of this process in the bucket.
    Unregistered,
    /// It lives, and will not say, for another reason.
    Refuses,
    /// It has heard a leader.
    Heard {
        /// Of which epoch.
        epoch: CoordinatorEpoch,
        /// How long ago.
        ago: Duration,
    },
    /// It has heard none since it started.
    NotHeard,
}

/// What a probe of a broker that is silent brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Nobody listens there, or another process has its place, or its process is gone: it is dead now.
    Refused,
    /// No answer, or it is not clear whose.
    Silent,
    /// It takes connections.
    Answers,
}

/// A link to the leader. Dropping it ends it.
pub trait LeaderLink: Send + 'static {
    /// Asks the leader. Waits while as many calls are under way as the link takes; a caller that
    /// waits for the answer before it asks again is served in its order.
    ///
    /// # Errors
    /// What the leader says; [`CoordinatorError::NotLeader`] once the link is broken.
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CoordinatorError>>;

    /// Tells the leader that this process lives. Never waits: a beat that finds no room is dropped.
    fn beat(&self, beat: Beat);

    /// What the leader says next. Cancel-safe.
    ///
    /// # Errors
    /// [`PeerError`]: the link is broken, and stays so.
    fn next(&mut self) -> BoxFuture<'_, Result<FromLeader, PeerError>>;
}

/// What a leader says to one follower, in this order: pictures rise, slots go up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromLeader {
    /// A part of a new picture.
    Image(ImageUpdate),
    /// It lives, and leads.
    Beat(LeaderBeat),
    /// A part of the journal.
    Journal(JournalPart),
}

#[cfg(test)]
mod tests {
    use firn_proto::cluster::SecurityProtocol;
    use firn_proto::codec;
    use firn_proto::ids::Fingerprint;
    use firn_proto::limits::PROCESS_CARD_BYTES_MAX;

    use super::*;

    /// As storage/FORMAT.md says of the identity in a claim to an epoch.
    #[test]
    fn the_bytes_of_a_card_are_pinned() {
        let card = ProcessCard {
            broker: Some(BrokerId(1)),
            link: LinkAddress {
                host: "h".to_owned(),
                port: 9092,
                fingerprint: Fingerprint([0xfa; 32]),
            },
            listeners: vec![Listener {
                name: "L".to_owned(),
                security: SecurityProtocol::Plaintext,
                host: "h".to_owned(),
                port: 9092,
            }],
            process: ProcessProof {
                boot: "b".to_owned(),
                namespaces: "n".to_owned(),
                pid: 7,
                started: 300,
            },
            shown: "s".to_owned(),
        };
        let mut expected = vec![1, 2, 1, b'h', 0xfb, 0x84, 0x23];
        expected.extend([0xfa; 32]);
        expected.extend([1, 1, b'L', 0, 1, b'h', 0xfb, 0x84, 0x23]);
        expected.extend([1, b'b', 1, b'n', 7, 0xfb, 0x2c, 1, 1, b's']);
        assert_eq!(codec::encode(&card), Ok(expected.clone()));
        let read = codec::decode::<PROCESS_CARD_BYTES_MAX, ProcessCard>(&expected);
        assert_eq!(read, Ok(card));
    }
}
