//! Put tokens: they bound what a busy broker pays in requests.
//!
//! Owns the count of tokens and nothing else. Pure.

use firn_proto::env::Mono;

/// One token, in the unit in which the level is counted: with a rate of tokens per second and a
/// clock of microseconds, the refill is exact in integers.
const TOKEN: i64 = 1_000_000;

/// A bucket of put tokens: refilled at a rate, holding at most a small burst, going below zero
/// only for puts on credit.
#[derive(Debug)]
pub struct PutTokens {
    /// Tokens per second; none means unlimited.
    per_second: Option<u32>,
    /// In millionths of a token.
    level: i64,
    refilled_at: Mono,
}

impl PutTokens {
    /// A full bucket. `per_second` is `wal.puts.per.second`; `None` (or zero) is unlimited.
    pub fn new(per_second: Option<u32>, now: Mono) -> Self {
        let per_second = per_second.filter(|rate| *rate > 0);
        Self {
            per_second,
            level: burst(per_second),
            refilled_at: now,
        }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Mono) -> bool {
        self.refill(now);
        if self.per_second.is_none() {
            return true;
        }
        if self.level < TOKEN {
            return false;
        }
        self.level -= TOKEN;
        true
    }

    /// Takes a token whether there is one or not. The debt is bounded by one burst, so that after
    /// a flood of full slots a small put waits a fraction of a second, not for ever.
    pub fn take_on_credit(&mut self, now: Mono) {
        self.refill(now);
        if self.per_second.is_some() {
            self.level = (self.level - TOKEN).max(-burst(self.per_second));
        }
    }

    /// When the next token is there: `now` if there is one already.
    pub fn ready_at(&self, now: Mono) -> Mono {
        let Some(rate) = self.per_second else {
            return now;
        };
        let missing = TOKEN - self.level;
        if missing <= 0 {
            return now;
        }
        let micros = u64::try_from(missing)
            .unwrap_or(0)
            .div_ceil(u64::from(rate));
        Mono(self.refilled_at.0.saturating_add(micros)).max(now)
    }

    fn refill(&mut self, now: Mono) {
        let Some(rate) = self.per_second else {
            return;
        };
        let elapsed = i64::try_from(now.since(self.refilled_at).as_micros()).unwrap_or(i64::MAX);
        self.level = self
            .level
            .saturating_add(elapsed.saturating_mul(i64::from(rate)))
            .min(burst(self.per_second));
        self.refilled_at = self.refilled_at.max(now);
    }
}

/// A quarter of a second's tokens, but at least two: the first put of a quiet broker and the one
/// right behind it go at once.
fn burst(per_second: Option<u32>) -> i64 {
    i64::from(per_second.unwrap_or(0) / 4).max(2) * TOKEN
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(1_000_000).after(Duration::from_millis(ms))
    }

    #[test]
    fn a_burst_is_there_at_once_and_then_tokens_come_at_the_rate() {
        let mut tokens = PutTokens::new(Some(10), at(0));
        assert!(tokens.take(at(0)));
        assert!(tokens.take(at(0)));
        assert!(!tokens.take(at(0)));
        assert_eq!(tokens.ready_at(at(0)), at(100));
        assert!(!tokens.take(at(99)));
        assert!(tokens.take(at(100)));
        assert!(!tokens.take(at(199)));
        assert!(tokens.take(at(200)));
    }

    #[test]
    fn a_long_idle_time_fills_no_more_than_a_burst() {
        let mut tokens = PutTokens::new(Some(40), at(0));
        let taken = (0..100).filter(|_| tokens.take(at(60_000))).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn credit_is_paid_back_and_bounded() {
        let mut tokens = PutTokens::new(Some(10), at(0));
        for _ in 0..1_000 {
            tokens.take_on_credit(at(0));
        }
        // two tokens of debt and the one that is asked for
        assert_eq!(tokens.ready_at(at(0)), at(300));
        assert!(!tokens.take(at(299)));
        assert!(tokens.take(at(300)));
    }

    #[test]
    fn without_a_rate_there_is_always_a_token() {
        for rate in [None, Some(0)] {
            let mut tokens = PutTokens::new(rate, at(0));
            assert!((0..10_000).all(|_| tokens.take(at(0))));
            assert_eq!(tokens.ready_at(at(5)), at(5));
        }
    }

    #[test]
    fn over_any_second_no_more_than_rate_and_burst_are_given() {
        let mut tokens = PutTokens::new(Some(7), at(0));
        let mut given = 0;
        for ms in 0..10_000 {
            if tokens.take(at(ms)) {
                given += 1;
            }
        }
        assert!((70..=72).contains(&given), "{given} tokens in 10 s at 7/s");
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_gives_nothing() {
        let mut tokens = PutTokens::new(Some(10), at(1_000));
        while tokens.take(at(1_000)) {}
        assert!(!tokens.take(at(0)));
        assert!(!tokens.take(at(1_000)));
        assert!(tokens.take(at(1_100)));
    }
}
