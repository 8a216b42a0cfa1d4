//! Which runs of a partition are too old, or too many. Pure.
//!
//! As in Kafka, whole runs go, from the oldest on: one whose largest timestamp lies further back than
//! `retention.ms`, and one without which the partition still has `retention.bytes`. The first run
//! that may stay ends it, whatever lies behind. How far back is told by two clocks, and the earlier one
//! decides: what is deleted too late can still be deleted.

/// What a topic keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For how long, in milliseconds; `None`: for ever.
    pub ms: Option<i64>,
    /// How many bytes of each partition; `None`: all.
    pub bytes: Option<u64>,
}

/// A run as far as retention goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its last offset.
    pub last_offset: i64,
    /// Its largest timestamp in milliseconds; below 0 if its records have none.
    pub max_timestamp: i64,
    /// What it takes in the bucket.
    pub bytes: u64,
    /// Whether it has a batch.
    pub has_batches: bool,
}

/// What two clocks say now, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// That of the cluster's leader.
    pub leader_ms: i64,
    /// That of the partition's owner.
    pub owner_ms: i64,
}

/// Goes through the runs of a partition from the oldest on.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Timestamps below are too old.
    keep_from_ms: Option<i64>,
    /// Bytes beyond what is to be kept.
    surplus: u64,
    log_start: Option<i64>,
}

impl Pick {
    /// Begins with a partition that takes `bytes` in the bucket.
    pub fn new(retention: Retention, bytes: u64, clocks: Clocks) -> Self {
        let now_ms = clocks.leader_ms.min(clocks.owner_ms);
        Self {
            keep_from_ms: retention.ms.map(|ms| now_ms.saturating_sub(ms)),
            surplus: retention.bytes.map_or(0, |kept| bytes.saturating_sub(kept)),
            log_start: None,
        }
    }

    /// Whether nothing can go, whatever the runs are.
    pub fn is_idle(&self) -> bool {
        self.keep_from_ms.is_none() && self.surplus == 0
    }

    /// Looks at the next run. False: it stays, and so do those behind it.
    pub fn goes(&mut self, run: &Held) -> bool {
        let is_timed = run.max_timestamp >= 0 || !run.has_batches;
        let keep_from_ms = self.keep_from_ms.unwrap_or(i64::MIN);
        let is_old = self.keep_from_ms.is_some() && is_timed && run.max_timestamp < keep_from_ms;
        let is_surplus = self.surplus > 0 && run.bytes <= self.surplus;
        if is_old || is_surplus {
            self.surplus = self.surplus.saturating_sub(run.bytes);
            self.log_start = Some(run.last_offset + 1);
            return true;
        }
        // Kafka's rule for records without a timestamp is the age of a file, which a run has not:
        // they go with an old run behind them. By size nothing goes from behind them.
        let goes_with_next = self.keep_from_ms.is_some() && !is_timed;
        if goes_with_next {
            self.surplus = 0;
        }
        goes_with_next
    }

    /// Where the log begins without the runs that go; `None` if all stay.
    pub fn log_start(&self) -> Option<i64> {
        self.log_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;
    const BOTH_NOW: Clocks = Clocks {
        leader_ms: NOW,
        owner_ms: NOW,
    };

    fn run(last_offset: i64, age_ms: i64, bytes: u64) -> Held {
        Held {
            last_offset,
            max_timestamp: NOW - age_ms,
            bytes,
            has_batches: true,
        }
    }

    fn pick(ms: Option<i64>, bytes: Option<u64>, runs: &[Held]) -> Option<i64> {
        pick_at(BOTH_NOW, ms, bytes, runs)
    }

    fn pick_at(clocks: Clocks, ms: Option<i64>, bytes: Option<u64>, runs: &[Held]) -> Option<i64> {
        let total = runs.iter().map(|run| run.bytes).sum();
        let mut pick = Pick::new(Retention { ms, bytes }, total, clocks);
        assert_eq!(
            pick.is_idle(),
            ms.is_none() && bytes.is_none_or(|b| total <= b)
        );
        for run in runs {
            if !pick.goes(run) {
                break;
            }
        }
        pick.log_start()
    }

    #[test]
    fn runs_older_than_the_time_go_up_to_the_first_that_is_not() {
        let runs = [
            run(9, 300, 1),
            run(19, 101, 1),
            run(29, 100, 1),
            run(39, 500, 1),
        ];
        assert_eq!(pick(Some(100), None, &runs), Some(20));
        assert_eq!(pick(Some(301), None, &runs), None);
        assert_eq!(pick(Some(0), None, &runs), Some(40));
        assert_eq!(pick(None, None, &runs), None);
    }

    #[test]
    fn a_run_goes_once_it_is_too_old_by_both_clocks() {
        let runs = [run(9, 300, 1), run(19, 101, 1), run(29, 0, 1)];
        for (leader_off, owner_off, log_start) in [
            (0, 0, Some(20)),
            (1000, 0, Some(20)),
            (0, 1000, Some(20)),
            (-100, 0, Some(10)),
            (0, -100, Some(10)),
            (1000, -1000, None),
            (1000, 1000, Some(30)),
        ] {
            let clocks = Clocks {
                leader_ms: NOW + leader_off,
                owner_ms: NOW + owner_off,
            };
            let picked = pick_at(clocks, Some(100), None, &runs);
            assert_eq!(picked, log_start, "{leader_off} and {owner_off}");
        }
    }

    #[test]
    fn as_many_runs_go_as_leave_the_size_behind() {
        let runs = [run(9, 0, 40), run(19, 0, 40), run(29, 0, 40)];
        assert_eq!(pick(None, Some(120), &runs), None);
        assert_eq!(pick(None, Some(81), &runs), None, "120 - 40 is less");
        assert_eq!(pick(None, Some(80), &runs), Some(10));
        assert_eq!(pick(None, Some(0), &runs), Some(30));
    }

    #[test]
    fn a_run_that_goes_by_its_age_counts_against_the_size() {
        let runs = [run(9, 300, 40), run(19, 0, 40), run(29, 0, 40)];
        assert_eq!(pick(Some(100), Some(80), &runs), Some(10));
        assert_eq!(pick(Some(100), Some(40), &runs), Some(20));
    }

    #[test]
    fn records_without_a_timestamp_are_not_old() {
        let untimed = Held {
            max_timestamp: -1,
            ..run(9, 0, 10)
        };
        assert_eq!(pick(Some(0), None, &[untimed]), None);
        let old = run(19, 300, 10);
        assert_eq!(pick(Some(100), None, &[untimed, old]), Some(20));
        assert_eq!(pick(Some(100), None, &[untimed, run(19, 0, 10)]), None);
        let large = Held {
            bytes: 50,
            ..untimed
        };
        let both = pick(Some(100), Some(20), &[large, run(19, 0, 10)]);
        assert_eq!(both, None, "a smaller run behind it does not take it along");
        let nothing = Held {
            max_timestamp: i64::MIN,
            has_batches: false,
            ..run(9, 0, 0)
        };
        assert_eq!(pick(Some(100), None, &[nothing]), Some(10));
    }

    #[test]
    fn a_clock_at_the_edge_of_time_breaks_nothing() {
        let retention = Retention {
            ms: Some(i64::MAX),
            bytes: None,
        };
        let clocks = Clocks {
            leader_ms: i64::MIN,
            owner_ms: i64::MAX,
        };
        let mut pick = Pick::new(retention, 0, clocks);
        assert!(!pick.goes(&run(9, 0, 1)));
    }
}
