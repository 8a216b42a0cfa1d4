//! How long a long frame may take to arrive. Owns its memory meanwhile, and reads no clock.

use std::time::Duration;

use firn_proto::env::Mono;

use super::{FRAME_BYTES_PER_SECOND_MIN, STALL_MAX, patience_left};
use crate::kafka::memory::Reserved;

/// A long frame on its way, whose memory is taken.
pub(super) struct Arriving {
    len: usize,
    pub(super) memory: Reserved,
    since: Mono,
    received: usize,
    received_at: Mono,
}

impl Arriving {
    /// A frame of `len` bytes whose memory was taken now.
    pub(super) fn new(len: usize, memory: Reserved, now: Mono) -> Self {
        Self {
            len,
            memory,
            since: now,
            received: 0,
            received_at: now,
        }
    }

    /// Notes that so many bytes of it have come.
    pub(super) fn on_received(&mut self, bytes: usize, now: Mono) {
        self.received += bytes;
        self.received_at = now;
    }

    /// How long to wait for more before asking again; none: it has come too slowly. It must come
    /// faster while others wait for its memory, or a few that announce long frames and send nothing
    /// would keep everybody from being read.
    pub(super) fn patience_left(&self, now: Mono) -> Option<Duration> {
        let left = patience_left(now, self.since, self.len, FRAME_BYTES_PER_SECOND_MIN)?;
        let left = left.min(STALL_MAX.saturating_sub(now.since(self.received_at)));
        let left = match self.memory.is_wanted() {
            true => left.min(self.crowded_left(now)),
            false => left,
        };
        (!left.is_zero()).then(|| left.min(CROWDED_LOOK))
    }

    fn crowded_left(&self, now: Mono) -> Duration {
        let whole_in_time = self.len as u64 / CROWDED_FRAME_MAX.as_secs();
        let per_second = FRAME_BYTES_PER_SECOND_MIN.max(whole_in_time);
        let earned = Duration::from_secs(self.received as u64 / per_second);
        (CROWDED_STALL_MAX + earned).saturating_sub(now.since(self.since))
    }
}

/// While others wait for its memory, a long frame may be this far behind its pace,
pub(super) const CROWDED_STALL_MAX: Duration = Duration::from_secs(5);
/// which is this long for the whole of it, if that is more than [`FRAME_BYTES_PER_SECOND_MIN`].
const CROWDED_FRAME_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at whether others wait.
pub(super) const CROWDED_LOOK: Duration = Duration::from_secs(1);
