//! What a process takes from the world around it: time and randomness.
//!
//! `node.rs` makes one [`Clock`] and one [`Entropy`] and hands them down; nothing else in the
//! workspace reads a clock or a random source (clippy's disallowed lists see to it), so that a
//! simulation can replace both.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bincode::{Decode, Encode};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rustix::time::{ClockId, clock_gettime};

/// A moment on the monotonic clock of this machine, in microseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Mono(pub u64);

impl Mono {
    /// The moment `by` later, or the last representable one.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this moment is; zero if it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// The only reader of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall time in milliseconds since 1970, as Kafka's timestamps. May jump.
    fn wall_ms(&self) -> i64;

    /// Monotonic time. Never goes back, and goes on while the machine is suspended: how old
    /// something is that was known before is for this clock to say.
    fn mono(&self) -> Mono;
}

/// The clock of the machine.
#[derive(Debug, Default)]
pub struct SystemClock;

/// The clock that counts the time of a suspended machine too. Linux leaves it out of the monotonic
/// one.
#[cfg(target_os = "linux")]
const MONO: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const MONO: ClockId = ClockId::Monotonic;

impl SystemClock {
    /// The clock of the machine.
    pub fn new() -> Self {
        Self
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one reader of the machine's clock"
    )]
    fn wall_ms(&self) -> i64 {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
    }

    fn mono(&self) -> Mono {
        let now = clock_gettime(MONO);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
        Mono(seconds * 1_000_000 + nanos / 1000)
    }
}

/// What the calling thread has taken of a processor so far. For figures only.
pub fn thread_cpu() -> Duration {
    let taken = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(taken.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(taken.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}

/// The only source of randomness: a seeded generator behind a short lock.
#[derive(Debug)]
pub struct Entropy(Mutex<SmallRng>);

impl Entropy {
    /// A generator that repeats itself for the same seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(SmallRng::seed_from_u64(seed)))
    }

    /// A generator seeded by the operating system.
    pub fn from_os() -> Self {
        Self(Mutex::new(SmallRng::from_os_rng()))
    }

    /// 64 random bits.
    pub fn next_u64(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .next_u64()
    }

    /// 128 random bits.
    pub fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::Command;

    use super::*;

    const THIS_TEST: &str = "env::tests::the_monotonic_clock_goes_on_in_suspend";
    const IS_CHILD: &str = "CI_FIRN_TEST_CLOCK_CHILD";

    /// Time since the start of the machine, suspend included, as the kernel prints it.
    fn uptime_micros() -> u64 {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let (whole, hundredths) = text.split(' ').next().unwrap().split_once('.').unwrap();
        let micros = |text: &str, unit: u64| text.parse::<u64>().unwrap() * unit;
        micros(whole, 1_000_000) + micros(hundredths, 10_000)
    }

    /// A machine that was suspended is one whose two clocks are apart: so they are in a time
    /// namespace of that kind (time_namespaces(7)), where this process may make one.
    #[test]
    fn the_monotonic_clock_goes_on_in_suspend() {
        let before = uptime_micros();
        let now = SystemClock::new().mono();
        let after = uptime_micros() + 10_000;
        assert!(
            before <= now.0 && now.0 <= after,
            "{now:?} is not in {before}..{after}"
        );
        if std::env::var_os(IS_CHILD).is_some() {
            return;
        }
        let suspended = |program: &str| {
            let mut command = Command::new("unshare");
            command.args(["--time", "--boottime", "100000", program]);
            command
        };
        if !suspended("true").status().is_ok_and(|s| s.success()) {
            return;
        }
        let this = std::env::current_exe().unwrap();
        let child = suspended(this.to_str().unwrap())
            .args(["--exact", THIS_TEST])
            .env(IS_CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{child:?}");
    }
}
