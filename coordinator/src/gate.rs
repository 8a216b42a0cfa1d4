//! The order in which answers and pictures may leave: only once the journal holds the state that
//! they were made from (I10). Plain bookkeeping; the driver does the puts.

use std::collections::VecDeque;
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::limits::FENCE_LOOK_LASTS;

/// Things that wait for the journal. Commands are counted; a thing made after the n-th command
/// waits until n commands are durable.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    applied: u64,
    durable: u64,
    held: VecDeque<Held<T>>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Held<T> {
    /// How many commands must be durable.
    made_after: u64,
    bytes: usize,
    thing: T,
}

impl<T> Gate<T> {
    /// A gate with nothing behind it.
    pub(crate) fn new() -> Self {
        Self {
            applied: 0,
            durable: 0,
            held: VecDeque::new(),
            held_bytes: 0,
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

    /// What all that is held takes, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Gives the thing back if it may leave now; else holds it, and counts its bytes.
    pub(crate) fn hold(&mut self, thing: T, bytes: impl FnOnce(&T) -> usize) -> Option<T> {
        if self.applied == self.durable {
            return Some(thing);
        }
        let bytes = bytes(&thing);
        self.held_bytes += bytes;
        self.held.push_back(Held {
            made_after: self.applied,
            bytes,
            thing,
        });
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
        let held = self.held.iter();
        let free = held.take_while(|held| held.made_after <= durable);
        let (count, bytes) = free.fold((0, 0), |(n, sum), held| (n + 1, sum + held.bytes));
        self.held_bytes -= bytes;
        self.held.drain(..count).map(|held| held.thing)
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
/// move, so that a slow bucket puts nobody out, and while nobody is heard because the read lease is
/// over.
#[derive(Debug)]
pub(crate) struct GroupClock {
    lost: Duration,
    /// What was lost up to here is counted.
    counted_to: Mono,
    /// The last move of the journal, while it has something to do.
    moved_at: Option<Mono>,
    /// When the last look was sent that said that nobody else leads.
    alone: Mono,
}

/// A journal that has not moved for this long stands still.
const STANDSTILL: Duration = Duration::from_secs(2);

impl GroupClock {
    /// A clock that has lost no time, of a leader that was the only one at `now`.
    pub(crate) fn new(now: Mono) -> Self {
        Self {
            lost: Duration::ZERO,
            counted_to: now,
            moved_at: None,
            alone: now,
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
        self.count(now);
        self.moved_at = more.then_some(now);
    }

    /// The look that was sent at `sent` said that nobody else leads.
    pub(crate) fn on_alone(&mut self, sent: Mono, now: Mono) {
        self.count(now);
        self.alone = self.alone.max(sent);
    }

    fn count(&mut self, now: Mono) {
        self.lost += self.standstill(now);
        self.counted_to = self.counted_to.max(now);
    }

    /// How long it has stood still, beyond what is counted.
    fn standstill(&self, now: Mono) -> Duration {
        let unread = self.alone.after(FENCE_LOOK_LASTS);
        let unmoved = self.moved_at.map(|at| at.after(STANDSTILL));
        let from = unmoved.map_or(unread, |unmoved| unmoved.min(unread));
        now.since(from.max(self.counted_to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_from_undurable_state_is_held_in_order() {
        let mut gate = Gate::new();
        let len = |text: &&str| text.len();
        assert_eq!(gate.hold("before", len), Some("before"));
        gate.count_command();
        assert_eq!(gate.hold("one", len), None);
        gate.count_command();
        assert_eq!(gate.hold("two", len), None);
        assert_eq!(gate.hold("read", len), None);
        assert_eq!(gate.held_bytes(), 10);
        assert_eq!(gate.open_to(1).collect::<Vec<_>>(), ["one"]);
        assert_eq!(gate.held_bytes(), 7);
        assert_eq!(gate.open_to(2).collect::<Vec<_>>(), ["two", "read"]);
        assert_eq!(gate.held_bytes(), 0);
        assert_eq!(gate.hold("after", len), Some("after"));
    }

    #[test]
    fn tokens_allow_a_burst_and_then_the_rate() {
        let mut tokens = PutTokens::new(Some(1));
        for _ in 0..BURST {
            assert!(tokens.free_at() <= second(10));
            tokens.take(second(10));
        }
        assert_eq!(tokens.free_at(), second(11));
        assert_eq!(PutTokens::new(None).free_at(), Mono(0));
    }

    fn second(s: u64) -> Mono {
        Mono(s * 1_000_000)
    }

    #[test]
    fn group_time_stands_still_while_the_journal_does() {
        let mut clock = GroupClock::new(second(10));
        clock.on_put(second(10));
        assert_eq!(clock.at(second(11)), second(11));
        clock.on_alone(second(58), second(59));
        assert_eq!(clock.at(second(60)), second(12));
        clock.on_durable(second(60), false);
        assert_eq!(clock.at(second(61)), second(13));
    }

    #[test]
    fn group_time_stands_still_while_nobody_is_heard() {
        let mut clock = GroupClock::new(second(0));
        clock.on_alone(second(3), second(4));
        let end = second(3).after(FENCE_LOOK_LASTS);
        assert_eq!(clock.at(end), end);
        assert_eq!(clock.at(second(600)), end);
        clock.on_alone(second(600), second(601));
        assert_eq!(clock.at(second(601)), end);
        assert_eq!(clock.at(second(602)), end.after(Duration::from_secs(1)));
    }

    #[test]
    fn no_time_is_lost_twice() {
        let mut clock = GroupClock::new(second(0));
        clock.on_put(second(2));
        assert_eq!(clock.at(second(100)), second(4), "both stand still");
        clock.on_durable(second(100), false);
        assert_eq!(clock.at(second(110)), second(4), "the lease is still over");
        clock.on_alone(second(110), second(111));
        assert_eq!(clock.at(second(112)), second(5));
    }
}
