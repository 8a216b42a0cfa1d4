//! Waiting for other processes: the harness's only reader of the clock and its only sleep. Nothing
//! here decides whether a test passes; a wait that runs out ends the test with what it waited for.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long any single thing may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `probe` until it answers, at most `patience` long.
///
/// # Panics
/// When the time is up.
pub fn until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Stopwatch::start();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < patience, "gave up waiting for {what}");
        pause(Duration::from_millis(2));
    }
}

/// Lets other processes run.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness waits for foreign processes"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// When this process first asked, in milliseconds since 1970: the time of all records whose time does
/// not matter, so that they are not too old to be kept.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness reads the machine's clock"
)]
pub fn record_time_ms() -> i64 {
    static ASKED: OnceLock<i64> = OnceLock::new();
    *ASKED.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        i64::try_from(now.expect("a time after 1970").as_millis()).expect("a time of our days")
    })
}

/// Measures for reports, never for verdicts.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness reads the machine's clock"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
