//! How long to wait for an answer and before asking again. Pure: time and randomness come in.

use std::time::Duration;

/// Attempts of an idempotent read before the caller hears of the failure.
pub(super) const READ_ATTEMPTS_MAX: u32 = 6;

/// How long a store that proves itself is asked the same before whoever waits for it is told.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(3);

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Time that any attempt gets, whatever its size: a store's own tail latency and a new connection.
const ATTEMPT_BASE: Duration = Duration::from_secs(5);
/// A store that needs longer than this for a few bytes is as good as away.
const BASE_MAX: Duration = Duration::from_secs(60);
/// Bodies of fewer bytes say nothing about the rate.
const MEASURES_RATE: u64 = 64 * 1024;
/// No attempt is waited for longer than this.
const ATTEMPT_MAX: Duration = Duration::from_secs(300);
/// Assumed until measured: a poor uplink.
const RATE_FIRST: u64 = 1024 * 1024;
/// A body gets this many times the time that the measured rate says it needs.
const HEADROOM: u64 = 4;
/// Slower than this and nothing works: the rate never falls below it.
const RATE_MIN: u64 = 8 * 1024;

/// The pause before retry number `attempt` (1 is the first): exponential, with full jitter over its
/// upper half, so that many clients do not come back together.
pub fn backoff(attempt: u32, random: u64) -> Duration {
    let ceiling = BACKOFF_FIRST
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(BACKOFF_MAX);
    let half = ceiling / 2;
    let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_micros(random % micros)
}

/// Decides how long one attempt may take, from the size of its body and from what earlier attempts
/// achieved: an uplink that needs a minute for a slot must get its minute, or the same bytes are
/// sent for ever. Small bodies measure the store's latency, large ones the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptTimer {
    /// What an attempt gets beside the time for its bytes.
    base: Duration,
    /// Bytes per second that one attempt achieved lately.
    rate: u64,
}

impl AttemptTimer {
    /// A timer that has measured nothing yet.
    pub(super) const fn new() -> Self {
        Self {
            base: ATTEMPT_BASE,
            rate: RATE_FIRST,
        }
    }

    /// How long an attempt that moves `bytes` may take.
    pub(super) fn timeout(&self, bytes: u64) -> Duration {
        let millis = bytes.saturating_mul(HEADROOM).saturating_mul(1000) / self.rate;
        (self.base + Duration::from_millis(millis)).min(ATTEMPT_MAX)
    }

    /// An attempt moved `bytes` in `took`.
    pub(super) fn on_success(&mut self, bytes: u64, took: Duration) {
        if took.saturating_mul(4) < self.base {
            self.base = (self.base / 2).max(ATTEMPT_BASE);
        }
        if bytes < MEASURES_RATE {
            return;
        }
        // One lucky attempt is not the new rule.
        let seen = rate(bytes, took).min(self.rate.saturating_mul(4));
        self.rate = (self.rate - self.rate / 8)
            .saturating_add(seen / 8)
            .max(RATE_MIN);
    }

    /// An attempt to move `bytes` was given up after `waited`. The next one gets about twice as
    /// long, however many attempts were given up side by side for the same reason.
    pub(super) fn on_timeout(&mut self, bytes: u64, waited: Duration) {
        if bytes < MEASURES_RATE {
            self.base = waited.saturating_mul(2).clamp(self.base, BASE_MAX);
            return;
        }
        let twice_as_long = rate(bytes, waited).saturating_mul(HEADROOM / 2);
        self.rate = self.rate.min(twice_as_long).max(RATE_MIN);
    }
}

fn rate(bytes: u64, took: Duration) -> u64 {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = 8 * 1024 * 1024;

    #[test]
    fn pauses_grow_to_a_bound_and_never_vanish() {
        for attempt in 1..100 {
            for random in [0, 1, u64::MAX] {
                let pause = backoff(attempt, random);
                assert!(
                    pause >= BACKOFF_FIRST / 2 && pause <= BACKOFF_MAX,
                    "{attempt} {pause:?}"
                );
            }
        }
        assert!(backoff(8, 0) > backoff(1, u64::MAX));
    }

    #[test]
    fn a_slow_uplink_gets_the_time_it_needs_after_a_few_timeouts() {
        let mut timer = AttemptTimer::new();
        let needed = Duration::from_secs(SLOT / (64 * 1024));
        let mut timeouts = 0;
        while timer.timeout(SLOT) < needed {
            timer.on_timeout(SLOT, timer.timeout(SLOT));
            timeouts += 1;
            assert!(timeouts < 10, "livelock");
        }
        timer.on_success(SLOT, needed);
        assert!(
            timer.timeout(SLOT) > needed,
            "and keeps it once it succeeded"
        );
    }

    #[test]
    fn slots_in_flight_that_time_out_together_count_as_one_timeout() {
        let mut timer = AttemptTimer::new();
        let waited = timer.timeout(SLOT);
        for _ in 0..8 {
            timer.on_timeout(SLOT, waited);
        }
        assert!(timer.timeout(SLOT) > waited);
        assert!(
            timer.timeout(SLOT) < waited * 3,
            "{:?}",
            timer.timeout(SLOT)
        );
        assert_eq!(
            timer.timeout(0),
            ATTEMPT_BASE,
            "small bodies do not wait longer"
        );
    }

    #[test]
    fn a_slow_store_gets_longer_for_few_bytes_and_no_less_for_many() {
        let mut timer = AttemptTimer::new();
        let slot = timer.timeout(SLOT);
        for _ in 0..8 {
            timer.on_timeout(100, ATTEMPT_BASE);
        }
        assert_eq!(timer.timeout(0), ATTEMPT_BASE * 2);
        assert_eq!(timer.timeout(SLOT), slot + ATTEMPT_BASE);
        for _ in 0..20 {
            timer.on_timeout(100, timer.timeout(100));
        }
        assert!(timer.timeout(0) <= BASE_MAX);
        for _ in 0..20 {
            timer.on_success(100, Duration::from_millis(10));
        }
        assert_eq!(
            timer.timeout(0),
            ATTEMPT_BASE,
            "and forgets it when the store is well"
        );
    }

    #[test]
    fn a_fast_uplink_is_not_waited_for_long() {
        let mut timer = AttemptTimer::new();
        for _ in 0..100 {
            timer.on_success(SLOT, Duration::from_millis(100));
        }
        assert!(timer.timeout(SLOT) < Duration::from_secs(6));
        assert_eq!(timer.timeout(0), ATTEMPT_BASE);
    }

    #[test]
    fn an_attempt_of_no_time_or_any_size_does_not_overflow() {
        let mut timer = AttemptTimer::new();
        timer.on_success(u64::MAX, Duration::ZERO);
        assert!(timer.timeout(u64::MAX) <= ATTEMPT_MAX);
        timer.on_timeout(0, Duration::MAX);
        assert!(timer.timeout(u64::MAX) <= ATTEMPT_MAX);
    }
}
