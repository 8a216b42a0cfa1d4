//! Waiting for other processes: the harness's only reader of the clock and its only sleep. Nothing
//! here decides whether a test passes; a wait that runs out ends the test with what it waited for.

use std::time::{Duration, Instant};

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
