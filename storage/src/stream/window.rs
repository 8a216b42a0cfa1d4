//! How many bytes a writer has in flight at once. Pure.
//!
//! A slow uplink must not livelock: after a timeout or a throttling answer fewer bytes are in
//! flight, down to one object. How long an attempt may take is the bucket's business.

use firn_proto::ids::Slot;
use firn_proto::limits::{SLOT_BYTES_TARGET, SLOTS_IN_FLIGHT_MAX};

/// Most bytes in flight, when nothing ever failed: all slots, which may be a little over target.
const WINDOW_BYTES_MAX: u64 = SLOT_BYTES_TARGET as u64 * SLOTS_IN_FLIGHT_MAX as u64 * 5 / 4;
/// Fewest bytes in flight: below this, fewer bytes would not make an answer come sooner.
const WINDOW_BYTES_MIN: u64 = 256 * 1024;

const _: () = assert!(WINDOW_BYTES_MIN <= WINDOW_BYTES_MAX);

/// The window of bytes in flight of one stream.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Bytes that may be in flight.
    limit: u64,
    /// Bytes that are.
    used: u64,
    /// Attempts of slots up to this one no longer shrink the window: one halving per round trip.
    halved_up_to: Option<Slot>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            limit: WINDOW_BYTES_MAX,
            used: 0,
            halved_up_to: None,
        }
    }

    /// Takes room for an attempt, if there is room. One object always fits an empty window.
    pub(super) fn admit(&mut self, size: u64) -> bool {
        let fits = self.used == 0 || self.used.saturating_add(size) <= self.limit;
        if fits {
            self.used = self.used.saturating_add(size);
        }
        fits
    }

    /// Gives the room of an attempt back, whatever came of it.
    pub(super) fn release(&mut self, size: u64) {
        assert!(self.used >= size, "an attempt gives back what it took");
        self.used -= size;
    }

    /// An attempt was answered with success.
    pub(super) fn on_created(&mut self, size: u64) {
        let grown = self.limit.saturating_add(size.max(WINDOW_BYTES_MIN));
        self.limit = grown.min(WINDOW_BYTES_MAX);
    }

    /// An attempt of `slot` timed out or was throttled, while `newest` was the newest slot on the
    /// wire.
    pub(super) fn on_congestion(&mut self, slot: Slot, newest: Slot) {
        if self.used > 0 && self.halved_up_to.is_some_and(|upto| slot <= upto) {
            return;
        }
        self.limit = (self.limit / 2).max(WINDOW_BYTES_MIN);
        self.halved_up_to = Some(newest);
    }

    #[cfg(test)]
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn an_object_larger_than_the_window_goes_alone() {
        let mut window = Window::new();
        assert!(window.admit(10 * WINDOW_BYTES_MAX));
        assert!(!window.admit(1));
        window.release(10 * WINDOW_BYTES_MAX);
        assert!(window.admit(1));
    }

    #[test]
    fn one_burst_of_timeouts_halves_the_window_once() {
        let mut window = Window::new();
        for _ in 0..4 {
            assert!(window.admit(8 * MIB));
        }
        for slot in 0..4 {
            window.on_congestion(Slot(slot), Slot(3));
        }
        assert_eq!(window.limit(), WINDOW_BYTES_MAX / 2);
        window.on_congestion(Slot(4), Slot(7));
        assert_eq!(window.limit(), WINDOW_BYTES_MAX / 4);
    }

    #[test]
    fn repeated_timeouts_end_at_one_object_at_a_time_and_success_opens_again() {
        let mut window = Window::new();
        for round in 0..40 {
            window.on_congestion(Slot(round), Slot(round));
        }
        assert_eq!(window.limit(), WINDOW_BYTES_MIN);
        assert!(window.admit(8 * MIB));
        assert!(!window.admit(8 * MIB));
        window.release(8 * MIB);
        for _ in 0..10 {
            window.on_created(8 * MIB);
        }
        assert_eq!(window.limit(), WINDOW_BYTES_MAX);
    }
}
