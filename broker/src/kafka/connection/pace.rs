//! How long a long frame may take to arrive, and answers to be taken: they hold memory that others
//! may wait for. Reads no clock.

use std::time::Duration;

use firn_proto::env::Mono;

use crate::kafka::memory::Reserved;

/// A long frame on its way, whose memory is taken.
pub(super) struct Arriving {
    pub(super) memory: Reserved,
    pub(super) pace: Pace,
}

impl Arriving {
    /// A frame of `len` bytes whose memory was taken now.
    pub(super) fn new(len: usize, memory: Reserved, now: Mono) -> Self {
        Self {
            memory,
            pace: Pace::new(len, FRAME_BYTES_PER_SECOND_MIN, now),
        }
    }

    /// [`Pace::patience_left`].
    pub(super) fn patience_left(&self, now: Mono) -> Option<Duration> {
        self.pace.patience_left(now, self.memory.is_wanted())
    }
}

/// How fast so many bytes go through a socket, in either direction.
pub(super) struct Pace {
    len: usize,
    per_second: u64,
    since: Mono,
    moved: usize,
    moved_at: Mono,
}

impl Pace {
    /// `len` bytes that begin to move now, at least at `per_second` over their whole length.
    pub(super) fn new(len: usize, per_second: u64, now: Mono) -> Self {
        Self {
            len,
            per_second,
            since: now,
            moved: 0,
            moved_at: now,
        }
    }

    /// Notes that so many of them have moved.
    pub(super) fn on_moved(&mut self, bytes: usize, now: Mono) {
        self.moved += bytes;
        self.moved_at = now;
    }

    /// How long to wait for more before asking again; none: they are too slow. They must not stall,
    /// nor trickle so slowly that their memory is held for ever. They must be faster while it
    /// `is_wanted` by others, or a few who announce long frames and send nothing, or ask for long
    /// answers and read nothing, would keep everybody else from being read or answered.
    pub(super) fn patience_left(&self, now: Mono, is_wanted: bool) -> Option<Duration> {
        let allowed = STALL_MAX + Duration::from_secs(self.len as u64 / self.per_second);
        let left = allowed
            .saturating_sub(now.since(self.since))
            .min(STALL_MAX.saturating_sub(now.since(self.moved_at)));
        let left = match is_wanted {
            true => left.min(self.crowded_left(now)),
            false => left,
        };
        (!left.is_zero()).then(|| left.min(CROWDED_LOOK))
    }

    fn crowded_left(&self, now: Mono) -> Duration {
        let whole_in_time = self.len as u64 / CROWDED_MAX.as_secs();
        let per_second = self.per_second.max(whole_in_time);
        let earned = Duration::from_secs(self.moved as u64 / per_second);
        (CROWDED_STALL_MAX + earned).saturating_sub(now.since(self.since))
    }
}

/// The longest pause within a request or an answer.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);
/// Over its whole length a long frame comes at least this fast.
const FRAME_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Over their whole length answers are read at least this fast: what Kafka's clients allow an
/// answer of `fetch.max.bytes` to take is much less.
pub(super) const ANSWER_BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// While others wait for its memory, a long frame or an answer may be this far behind its pace,
pub(super) const CROWDED_STALL_MAX: Duration = Duration::from_secs(5);
/// which is this long for the whole of it, if that is faster than it must be anyway.
const CROWDED_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at whether others wait.
pub(super) const CROWDED_LOOK: Duration = Duration::from_secs(1);
