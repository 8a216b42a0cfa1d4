//! The order in which answers and pictures may leave: only once the journal holds the state that
//! they were made from (I10). Plain bookkeeping; the driver does the puts.

use std::collections::VecDeque;
use std::time::Duration;

use firn_proto::env::Mono;

/// Things that wait for the journal. Commands are counted; a thing made after the n-th command
/// waits until n commands are durable.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    applied: u64,
    durable: u64,
    held: VecDeque<(u64, T)>,
}

impl<T> Gate<T> {
    /// A gate with nothing behind it.
    pub(crate) fn new() -> Self {
        Self {
            applied: 0,
            durable: 0,
            held: VecDeque::new(),
        }
    }

    /// One more command has changed the state.
    pub(crate) fn count_command(&mut self) {
        self.applied += 1;
    }

    /// How many commands have changed the state.
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// Gives the thing back if it may leave now; else holds it.
    pub(crate) fn hold(&mut self, thing: T) -> Option<T> {
        if self.applied == self.durable {
            return Some(thing);
        }
        self.held.push_back((self.applied, thing));
        None
    }

    /// The first `durable` commands are in the journal: what may leave now, in order.
    pub(crate) fn open_to(&mut self, durable: u64) -> impl Iterator<Item = T> + '_ {
        assert!(
            self.durable <= durable && durable <= self.applied,
            "I2: {durable} commands cannot be durable of {}, after {}",
            self.applied,
            self.durable
        );
        self.durable = durable;
        let free = self.held.iter().take_while(|(made, _)| *made <= durable);
        let free = free.count();
        self.held.drain(..free).map(|(_, thing)| thing)
    }
}

/// Put tokens of the journal: a small burst, refilled at a steady rate.
#[derive(Debug)]
pub(crate) struct PutTokens {
    /// Time for one token; none: unlimited.
    interval: Option<Duration>,
    /// When all tokens are there again.
    full_at: Mono,
}

/// How many tokens there are at most.
const BURST: u32 = 4;

impl PutTokens {
    /// Tokens at that rate, all there; unlimited if absent or 0.
    pub(crate) fn new(per_second: Option<u32>) -> Self {
        let per_second = per_second.filter(|rate| *rate > 0);
        Self {
            interval: per_second.map(|rate| Duration::from_secs(1) / rate),
            full_at: Mono(0),
        }
    }

    /// When the next token is free; not later than now if one is.
    pub(crate) fn free_at(&self) -> Mono {
        let Some(interval) = self.interval else {
            return Mono(0);
        };
        let lead = interval * (BURST - 1);
        let lead = u64::try_from(lead.as_micros()).unwrap_or(u64::MAX);
        Mono(self.full_at.0.saturating_sub(lead))
    }

    /// Takes a token, on credit if there is none.
    pub(crate) fn take(&mut self, now: Mono) {
        if let Some(interval) = self.interval {
            self.full_at = self.full_at.max(now).after(interval);
        }
    }
}

/// The time by which groups expire their members: it stands still while the journal does not
/// move, so that a slow bucket puts nobody out.
#[derive(Debug)]
pub(crate) struct GroupClock {
    lost: Duration,
    /// The last move of the journal, while it has something to do.
    moved_at: Option<Mono>,
}

/// A journal that has not moved for this long stands still.
const STANDSTILL: Duration = Duration::from_secs(2);

impl GroupClock {
    /// A clock that has lost no time.
    pub(crate) fn new() -> Self {
        Self {
            lost: Duration::ZERO,
            moved_at: None,
        }
    }

    /// The time of the groups.
    pub(crate) fn at(&self, now: Mono) -> Mono {
        let lost = self.lost + self.standstill(now);
        Mono(
            now.0
                .saturating_sub(u64::try_from(lost.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// A slot went to the journal.
    pub(crate) fn on_put(&mut self, now: Mono) {
        self.moved_at.get_or_insert(now);
    }

    /// A slot became durable; `more` are on their way.
    pub(crate) fn on_durable(&mut self, now: Mono, more: bool) {
        self.lost += self.standstill(now);
        self.moved_at = more.then_some(now);
    }

    fn standstill(&self, now: Mono) -> Duration {
        let still = self.moved_at.map_or(Duration::ZERO, |at| now.since(at));
        still.saturating_sub(STANDSTILL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_from_undurable_state_is_held_in_order() {
        let mut gate = Gate::new();
        assert_eq!(gate.hold("before"), Some("before"));
        gate.count_command();
        assert_eq!(gate.hold("one"), None);
        gate.count_command();
        assert_eq!(gate.hold("two"), None);
        assert_eq!(gate.hold("read"), None);
        assert_eq!(gate.open_to(1).collect::<Vec<_>>(), ["one"]);
        assert_eq!(gate.open_to(2).collect::<Vec<_>>(), ["two", "read"]);
        assert_eq!(gate.hold("after"), Some("after"));
    }

    #[test]
    fn tokens_allow_a_burst_and_then_the_rate() {
        let second = |s: u64| Mono(s * 1_000_000);
        let mut tokens = PutTokens::new(Some(1));
        for _ in 0..BURST {
            assert!(tokens.free_at() <= second(10));
            tokens.take(second(10));
        }
        assert_eq!(tokens.free_at(), second(11));
        assert_eq!(PutTokens::new(None).free_at(), Mono(0));
    }

    #[test]
    fn group_time_stands_still_while_the_journal_does() {
        let second = |s: u64| Mono(s * 1_000_000);
        let mut clock = GroupClock::new();
        clock.on_put(second(10));
        assert_eq!(clock.at(second(11)), second(11));
        assert_eq!(clock.at(second(60)), second(12));
        clock.on_durable(second(60), false);
        assert_eq!(clock.at(second(61)), second(13));
    }
}
