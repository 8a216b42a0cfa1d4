//! Gathering: where every put has a fixed price (on a disk its fsyncs, a few tenths of a
//! millisecond of CPU), a busy buffer waits for a worthwhile slot instead of being put as soon as
//! the put before has ended.
//!
//! Owns when a partial slot is held back, and nothing of what is in it. Pure.
//!
//! It waits only where that pays: while batches come at [`GatherPolicy::least_per_second`] or
//! faster, and longer the faster they come. At a lower rate every slot goes at once, however bursty
//! it is, so latency away from saturation is that of the disk.
//! Producers whose windows are all used up stop sending while a slot is held, and wait with it. So
//! a slot to which nothing comes for half of its wait goes; and when less came in a stretch of time
//! in which slots waited than in the last one in which they went at once, they go at once again,
//! for twice as long each time in a row.

use std::time::Duration;

use firn_proto::env::Mono;

/// Rates are those of a stretch of at least this length: one burst does not make a buffer busy.
const STRETCH: Duration = Duration::from_millis(200);
/// Stretches in which slots go at once after waits cost something, for the first time in a row.
const DIRECT_MIN: u32 = 1;
/// The same after many in a row: 13 s.
const DIRECT_MAX: u32 = 64;
/// After so many stretches of waits in a row, what comes without them is measured anew.
const GATHERED_MAX: u32 = 32;

/// What a slot should hold before it is put.
#[derive(Clone, Copy, Debug)]
pub struct GatherPolicy {
    /// At this many bytes a slot does not wait.
    pub bytes: usize,
    /// How long it waits at most, counted from when the slot before was closed.
    pub time: Duration,
    /// Where fewer bytes than this come in a second, slots do not wait. At this rate they wait for
    /// half of `time`, and at twice this rate for all of it.
    pub least_per_second: usize,
}

/// Decides whether the buffer waits for more.
#[derive(Debug)]
pub(super) struct Gathering {
    policy: GatherPolicy,
    /// When the last slot was closed.
    closed_at: Option<Mono>,
    /// When the stretch began whose bytes are counted now, and what was put since.
    stretch: Option<(Mono, usize)>,
    /// How long slots of this stretch wait; zero if they go at once.
    wait: Duration,
    /// The present slot, if it is held.
    held: Option<Hold>,
    /// Bytes per second of the last stretch in which slots went at once.
    direct_rate: u64,
    /// Stretches to come in which slots go at once, whatever the rate.
    direct: u32,
    /// How many those will be when waits cost something the next time.
    next_direct: u32,
    /// Stretches in a row in which slots waited.
    gathered: u32,
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
            wait: Duration::ZERO,
            held: None,
            direct_rate: 0,
            direct: 0,
            next_direct: DIRECT_MIN,
            gathered: 0,
        }
    }

    /// Whether this many bytes are worth a put.
    pub(super) fn is_worth(&self, bytes: usize) -> bool {
        bytes >= self.policy.bytes
    }

    /// Until when a slot of `bytes`, which could go now, waits for more.
    pub(super) fn hold(&mut self, now: Mono, bytes: usize) -> Option<Mono> {
        if self.is_worth(bytes) {
            return None;
        }
        let until = self.closed_at?.after(self.wait);
        if until <= now {
            return None;
        }
        let patience = self.wait / 2;
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
        self.held = None;
        let (began, before) = *self.stretch.get_or_insert((now, 0));
        let put = before + bytes;
        let taken = now.since(began);
        if taken < STRETCH {
            self.stretch = Some((began, put));
            return;
        }
        self.stretch = Some((now, 0));
        self.on_stretch(per_second(put, taken));
    }

    /// Decides from the rate of a stretch how long the slots of the next one wait.
    fn on_stretch(&mut self, rate: u64) {
        if self.wait.is_zero() {
            self.direct_rate = rate;
            self.direct = self.direct.saturating_sub(1);
            self.gathered = 0;
        } else if cost_something(self.direct_rate, rate) {
            self.direct = self.next_direct;
            self.next_direct = (2 * self.next_direct).min(DIRECT_MAX);
        } else {
            self.next_direct = DIRECT_MIN;
            self.gathered += 1;
            self.direct = u32::from(self.gathered >= GATHERED_MAX);
        }
        self.wait = match self.direct {
            0 => self.wait_at(rate),
            _ => Duration::ZERO,
        };
    }

    fn wait_at(&self, rate: u64) -> Duration {
        let least = self.policy.least_per_second as u64;
        if rate < least {
            return Duration::ZERO;
        }
        let full = 2 * least;
        let micros = self.policy.time.as_micros() as u64 * rate.min(full) / full;
        Duration::from_micros(micros)
    }
}

fn per_second(bytes: usize, taken: Duration) -> u64 {
    let rate = bytes as u128 * 1_000_000 / taken.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Whether less came with waits than without: by more than an eighth, as rates vary by themselves.
fn cost_something(direct: u64, gathered: u64) -> bool {
    gathered < direct - direct / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots wait for 5 ms from 50 kB/s on, and for 10 ms from 100 kB/s on.
    const POLICY: GatherPolicy = GatherPolicy {
        bytes: 1000,
        time: Duration::from_millis(10),
        least_per_second: 50_000,
    };

    fn at(ms: u64) -> Mono {
        Mono(0).after(Duration::from_millis(200 + ms))
    }

    /// After 200 ms of slots of `bytes` each 10 ms; the last was closed at 0 ms of [`at`].
    fn gathering_after(bytes: usize) -> Gathering {
        let mut gathering = Gathering::new(POLICY);
        gathering.on_close(Mono(0), 0);
        for slot in 1..=20 {
            gathering.on_close(Mono(0).after(Duration::from_millis(10 * slot)), bytes);
        }
        gathering
    }

    fn gathering() -> Gathering {
        gathering_after(1000)
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
        assert_eq!(gathering_after(1000).hold(at(1), 50), Some(at(6)));
    }

    #[test]
    fn where_they_come_half_as_fast_it_waits_half_as_long() {
        let mut gathering = gathering_after(500);
        gathering.hold(at(1), 50);
        gathering.hold(at(4), 60);
        assert_eq!(gathering.hold(at(4), 60), Some(at(5)));
        assert_eq!(gathering.hold(at(5), 70), None);
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

    /// What became of slots in some time.
    struct Played {
        slots: usize,
        waits: usize,
        bytes: usize,
    }

    /// Plays `time` of a disk that takes 2 ms for a put, and of producers of whose bytes `arrive`
    /// says how many have come so many ms after the last slot was closed.
    fn play(time: u64, arrive: impl Fn(u64) -> usize) -> Played {
        let mut gathering = gathering();
        let mut played = Played {
            slots: 0,
            waits: 0,
            bytes: 0,
        };
        let (mut closed, mut now) = (0, 2);
        while now < time {
            let bytes = arrive(now - closed);
            if let Some(until) = gathering.hold(at(now), bytes) {
                played.waits += usize::from(now == closed + 2);
                now = until.since(at(0)).as_micros().div_ceil(1000) as u64;
                continue;
            }
            gathering.on_close(at(now), bytes);
            played.slots += 1;
            played.bytes += bytes;
            closed = now;
            now += 2;
        }
        played
    }

    #[test]
    fn producers_that_are_bound_by_themselves_get_few_slots() {
        let played = play(10_000, |since| 90 * since as usize);
        assert!(played.bytes > 890_000, "{} bytes", played.bytes);
        assert!(played.slots < 1_200, "{} slots", played.slots);
    }

    #[test]
    fn producers_that_wait_for_their_answers_are_hardly_ever_held_up() {
        let played = play(60_000, |_| 500);
        let share = played.waits as f64 / played.slots as f64;
        assert!(share < 0.02, "{share} of {} slots waited", played.slots);
    }

    /// Closes slots of `bytes` each 10 ms for `stretches`, from `begin` on; says whether slots
    /// waited in each of them.
    fn stretches(gathering: &mut Gathering, begin: u64, stretches: u64, bytes: usize) -> Vec<bool> {
        let mut waited = Vec::new();
        for stretch in 0..stretches {
            waited.push(!gathering.wait.is_zero());
            for slot in 1..=20 {
                gathering.on_close(at(begin + stretch * 200 + slot * 10), bytes);
            }
        }
        waited
    }

    #[test]
    fn what_comes_without_waits_is_measured_anew_after_a_while() {
        let waited = stretches(&mut gathering(), 0, 66, 1000);
        let direct: Vec<usize> = (0..66).filter(|at| !waited[*at]).collect();
        assert_eq!(direct, [32, 65]);
    }

    #[test]
    fn when_waits_cost_something_slots_go_at_once_for_longer_each_time() {
        let mut gathering = gathering();
        let mut begin = 0;
        let mut direct = Vec::new();
        for _ in 0..9 {
            assert_eq!(stretches(&mut gathering, begin, 1, 874), [true]);
            begin += 200;
            let mut count = 0;
            while gathering.wait.is_zero() {
                stretches(&mut gathering, begin, 1, 1000);
                begin += 200;
                count += 1;
            }
            direct.push(count);
        }
        assert_eq!(direct, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn when_they_cost_nothing_once_the_count_begins_anew() {
        let mut gathering = gathering();
        stretches(&mut gathering, 0, 1, 874);
        stretches(&mut gathering, 200, 1, 1000);
        assert_eq!(stretches(&mut gathering, 400, 1, 1000), [true]);
        assert_eq!(stretches(&mut gathering, 600, 1, 874), [true]);
        assert_eq!(stretches(&mut gathering, 800, 1, 1000), [false]);
        assert_eq!(stretches(&mut gathering, 1000, 1, 1000), [true]);
    }
}
