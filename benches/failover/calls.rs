//! Calls of a group, one after the other, by way of the brokers that live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firn_tests::client::code;
use firn_tests::cluster::Brokers;
use firn_tests::group::GroupMember;
use firn_tests::wait::{self, Stopwatch};

/// Between two calls.
const EVERY: Duration = Duration::from_millis(20);

/// A thread that commits offsets.
pub(crate) struct GroupCalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl GroupCalls {
    pub(crate) fn start(brokers: &Brokers, topic: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let brokers = brokers.clone();
        let (begun, is_begun) = std::sync::mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            let mut member = None;
            let mut last = Stopwatch::start();
            let mut longest = Duration::ZERO;
            let mut next = 0;
            while !stopped.load(Ordering::Relaxed) {
                wait::pause(EVERY);
                next += 1;
                let outside = member
                    .get_or_insert_with(|| GroupMember::coordinated(&brokers, "calls", topic));
                let Some(outside) = outside else {
                    member = None;
                    continue;
                };
                match outside.try_commit(0, next) {
                    Ok(code::NONE) => {
                        if next > 1 {
                            longest = longest.max(last.elapsed());
                        }
                        last = Stopwatch::start();
                        let _ = begun.try_send(());
                    }
                    Ok(_) | Err(_) => member = None,
                }
            }
            longest
        });
        is_begun.recv().expect("a first call succeeds");
        Self { stop, thread }
    }

    /// Milliseconds of the longest time between two calls that succeeded.
    pub(crate) fn longest_gap_ms(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().expect("calls end");
        longest.as_secs_f64() * 1000.0
    }
}
