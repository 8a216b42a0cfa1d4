//! What a node takes from the world around it, so that a test or a simulation can be that world.

use std::sync::Arc;

use firn_coordinator::ProcessProof;
use firn_proto::env::{Clock, Entropy, SystemClock};
use firn_storage::bucket::Bucket;

use crate::link::own_proof;

/// Time, randomness, the bucket if it is already open, and the process.
pub struct World {
    /// The reader of time.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<Entropy>,
    /// The bucket to use instead of the one the configuration names.
    pub bucket: Option<Bucket>,
    /// What shows on this machine that the process is gone.
    pub process: ProcessProof,
}

impl World {
    /// The machine's own clock and randomness; the bucket is the configured one.
    pub fn of_machine() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(Entropy::from_os()),
            bucket: None,
            process: own_proof(),
        }
    }
}
