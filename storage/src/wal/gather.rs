//! Gathering: where every put has a fixed price (on a disk its fsyncs, a few tenths of a
//! millisecond of CPU), a busy buffer waits for a worthwhile slot instead of being put as soon as
//! the put before has ended.
//!
//! Owns when a partial slot is held back, and nothing of what is in it. Pure.
//!
//! It waits only where that pays: while batches come at [`GatherPolicy::least`] or faster. At a
//! lower rate every slot goes at once, however bursty it is, so latency away from saturation is
//! that of the disk.
//! Producers whose windows are all used up stop sending while a slot is held, and wait with it. So
//! a slot to which nothing comes for half the time goes, a wait at whose end nothing came was in
//! vain, and after each of those in a row twice as many slots go without one.

use std::time::Duration;

use firn_proto::env::Mono;

/// The rate is that of a stretch of at least this length: one burst does not make a buffer busy.
const STRETCH: Duration = Duration::from_millis(100);
/// Slots that go at once after a wait was in vain for the first time.
const SKIPPED_MIN: u32 = 4;
/// The same after many in a row.
const SKIPPED_MAX: u32 = 1024;

/// What a slot should hold before it is put.
#[derive(Clone, Copy, Debug)]
pub struct GatherPolicy {
    /// At this many bytes a slot does not wait.
    pub bytes: usize,
    /// How long it waits otherwise, counted from when the slot before was closed.
    pub time: Duration,
    /// Where fewer bytes than this come in that time, slots do not wait.
    pub least: usize,
}

/// Decides whether the buffer waits for more.
#[derive(Debug)]
pub(super) struct Gathering {
    policy: GatherPolicy,
    /// When the last slot was closed.
    closed_at: Option<Mono>,
    /// When the stretch began whose bytes are counted now, and what was put since.
    stretch: Option<(Mono, usize)>,
    /// The stretch before was one at whose rate slots wait.
    busy: bool,
    /// The present slot, if it is held.
    held: Option<Hold>,
    /// Slots that go without a wait.
    skips: u32,
    /// Slots that will go without one after the next wait in vain.
    next_skips: u32,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    /// Its bytes at the last look, or when the wait began.
    seen: usize,
    next_look: Mono,
}

impl Gathering {
    pub(super) fn new(policy: GatherPolicy) -> Self {
        Self {
            policy,
            closed_at: None,
            stretch: None,
            busy: false,
            held: None,
            skips: 0,
            next_skips: SKIPPED_MIN,
        }
    }

    /// Whether this many bytes are worth a put.
    pub(super) fn is_worth(&self, bytes: usize) -> bool {
        bytes >= self.policy.bytes
    }

    /// Until when a slot of `bytes`, which could go now, waits for more.
    pub(super) fn hold(&mut self, now: Mono, bytes: usize) -> Option<Mono> {
        if !self.busy || self.is_worth(bytes) || self.skips > 0 {
            return None;
        }
        let until = self.closed_at?.after(self.policy.time);
        if until <= now {
            return None;
        }
        let patience = self.policy.time / 2;
        let hold = self.held.get_or_insert_with(|| Hold {
            seen: bytes,
            next_look: now.after(patience),
        });
        if now >= hold.next_look && bytes > hold.seen {
            hold.seen = bytes;
            hold.next_look = now.after(patience);
        }
        let next = until.min(hold.next_look);
        (next > now).then_some(next)
    }

    /// A slot of `bytes` was closed, held or not.
    pub(super) fn on_close(&mut self, now: Mono, bytes: usize) {
        self.closed_at = Some(now);
        self.count(now, bytes);
        match self.held.take() {
            None => self.skips = self.skips.saturating_sub(1),
            Some(hold) if bytes > hold.seen => self.next_skips = SKIPPED_MIN,
            Some(_) => {
                self.skips = self.next_skips;
                self.next_skips = (2 * self.next_skips).min(SKIPPED_MAX);
            }
        }
    }

    fn count(&mut self, now: Mono, bytes: usize) {
        let (began, before) = *self.stretch.get_or_insert((now, 0));
        let put = before + bytes;
        let taken = now.since(began);
        if taken < STRETCH {
            self.stretch = Some((began, put));
            return;
        }
        let wanted = self.policy.least as u128 * taken.as_micros();
        self.busy = put as u128 * self.policy.time.as_micros() >= wanted;
        self.stretch = Some((now, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: GatherPolicy = GatherPolicy {
        bytes: 1000,
        time: Duration::from_millis(10),
        least: 500,
    };

    fn at(ms: u64) -> Mono {
        Mono(0).after(Duration::from_millis(100 + ms))
    }

    /// After 100 ms of slots of `bytes` each 10 ms; the last was closed at 0 ms of [`at`].
    fn gathering_after(bytes: usize) -> Gathering {
        let mut gathering = Gathering::new(POLICY);
        gathering.on_close(Mono(0), 0);
        for slot in 1..=10 {
            gathering.on_close(Mono(0).after(Duration::from_millis(10 * slot)), bytes);
        }
        gathering
    }

    fn gathering() -> Gathering {
        gathering_after(500)
    }

    #[test]
    fn the_first_slots_go_at_once() {
        let mut gathering = Gathering::new(POLICY);
        assert_eq!(gathering.hold(at(0), 900), None);
        gathering.on_close(at(0), 900);
        assert_eq!(gathering.hold(at(1), 900), None);
    }

    #[test]
    fn where_batches_come_fast_a_slot_waits() {
        assert_eq!(gathering_after(500).hold(at(1), 50), Some(at(6)));
    }

    #[test]
    fn where_they_come_slower_it_goes_at_once_even_in_a_burst() {
        assert_eq!(gathering_after(499).hold(at(1), 999), None);
    }

    #[test]
    fn a_burst_after_a_quiet_time_goes_at_once() {
        assert_eq!(gathering().hold(at(60_000), 999), None);
    }

    #[test]
    fn while_more_comes_it_waits_but_no_longer_than_the_limit() {
        let mut gathering = gathering();
        gathering.hold(at(1), 500);
        assert_eq!(gathering.hold(at(6), 501), Some(at(10)));
        assert_eq!(gathering.hold(at(10), 502), None);
    }

    #[test]
    fn it_goes_when_nothing_more_comes() {
        let mut gathering = gathering();
        gathering.hold(at(1), 500);
        assert_eq!(gathering.hold(at(5), 500), Some(at(6)));
        assert_eq!(gathering.hold(at(6), 500), None);
    }

    #[test]
    fn it_goes_as_soon_as_it_is_worth_a_put() {
        let mut gathering = gathering();
        gathering.hold(at(1), 500);
        assert_eq!(gathering.hold(at(2), 1000), None);
    }

    /// Plays slots of producers that send `window` bytes in the millisecond after each put, which
    /// takes one, and then wait for their answers. Returns how many of `slots` were held.
    fn held_slots(gathering: &mut Gathering, window: usize, slots: usize) -> usize {
        let mut now = 0;
        let mut held = 0;
        for _ in 0..slots {
            now += 1;
            let mut bytes = window / 8;
            let mut waited = false;
            while let Some(until) = gathering.hold(at(now), bytes) {
                waited = true;
                bytes = window;
                now = until.since(at(0)).as_millis() as u64;
            }
            held += usize::from(waited);
            gathering.on_close(at(now), bytes);
        }
        held
    }

    #[test]
    fn producers_that_wait_for_their_answers_are_hardly_ever_held_up() {
        let held = held_slots(&mut gathering(), 512, 4_000);
        assert!(held <= 12, "{held} of 4000 slots were held");
    }

    #[test]
    fn after_a_wait_in_vain_slots_go_at_once_for_longer_each_time() {
        let mut gathering = gathering();
        let mut now = 0;
        let mut without_wait = Vec::new();
        for _ in 0..10 {
            assert!(gathering.hold(at(now + 1), 200).is_some());
            now += 6;
            gathering.on_close(at(now), 200);
            let mut slots = 0;
            while gathering.skips > 0 {
                assert_eq!(gathering.hold(at(now + 1), 200), None);
                now += 1;
                gathering.on_close(at(now), 200);
                slots += 1;
            }
            without_wait.push(slots);
        }
        assert_eq!(without_wait, [4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
    }

    #[test]
    fn a_wait_at_whose_end_more_came_was_not_in_vain() {
        let mut gathering = gathering();
        assert!(gathering.hold(at(1), 200).is_some());
        assert!(gathering.hold(at(6), 400).is_some());
        gathering.on_close(at(10), 401);
        assert!(gathering.hold(at(11), 200).is_some());
    }
}
