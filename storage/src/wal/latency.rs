//! How long something took, counted for metrics without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Classes of [`LatencyFigures::counts`]: up to 125 µs, then doubling, the last one open.
pub const LATENCY_CLASSES: usize = 20;
const FIRST_CLASS_MICROS: u64 = 125;

/// Counts durations in classes that double.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [AtomicU64; LATENCY_CLASSES],
    micros: AtomicU64,
}

/// What was counted up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyFigures {
    /// How many lasted as long as their class says, see [`LatencyFigures::class_end`].
    pub counts: [u64; LATENCY_CLASSES],
    /// Sum of all, in microseconds.
    pub micros: u64,
}

impl Latency {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let doublings = u64::BITS - (micros.saturating_sub(1) / FIRST_CLASS_MICROS).leading_zeros();
        let class = (doublings as usize).min(LATENCY_CLASSES - 1);
        self.counts[class].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The figures now.
    pub fn figures(&self) -> LatencyFigures {
        LatencyFigures {
            counts: std::array::from_fn(|class| self.counts[class].load(Ordering::Relaxed)),
            micros: self.micros.load(Ordering::Relaxed),
        }
    }
}

impl LatencyFigures {
    /// Upper end of a class, inclusive; `None` for the last, which is open.
    pub fn class_end(class: usize) -> Option<Duration> {
        (class + 1 < LATENCY_CLASSES).then(|| Duration::from_micros(FIRST_CLASS_MICROS << class))
    }

    /// How many in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_class_whose_end_is_not_below_it() {
        for micros in [
            0,
            1,
            124,
            125,
            126,
            250,
            251,
            1_000,
            1_001,
            10_000_000,
            u64::MAX,
        ] {
            let latency = Latency::default();
            latency.record(Duration::from_micros(micros));
            let figures = latency.figures();
            let class = figures.counts.iter().position(|count| *count == 1).unwrap();
            if let Some(end) = LatencyFigures::class_end(class) {
                assert!(
                    Duration::from_micros(micros) <= end,
                    "{micros} µs in class {class}"
                );
            }
            if class > 0 {
                let below = LatencyFigures::class_end(class - 1).unwrap();
                assert!(
                    Duration::from_micros(micros) > below,
                    "{micros} µs in class {class}"
                );
            }
            assert_eq!(figures.count(), 1);
        }
    }
}
