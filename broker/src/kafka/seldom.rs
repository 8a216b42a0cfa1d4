//! Log lines that clients may cause as often as they like: so many in a stretch of time, of which
//! the next says how many were passed over. Pure: the time comes in.

use std::time::Duration;

use firn_proto::env::Mono;

/// Such lines.
#[derive(Debug)]
pub struct Seldom {
    count_max: u32,
    stretch: Duration,
    /// When the present stretch began: with the first line in it.
    began: Option<Mono>,
    /// The lines said in it.
    said: u32,
    passed_over: u64,
}

impl Seldom {
    /// Up to `count_max` lines in each `stretch`.
    pub fn new(count_max: u32, stretch: Duration) -> Self {
        Self {
            count_max,
            stretch,
            began: None,
            said: 0,
            passed_over: 0,
        }
    }

    /// Whether a line is to be said now: then how many were passed over since the last one.
    pub fn due(&mut self, now: Mono) -> Option<u64> {
        let goes_on = self.began.is_some_and(|at| now.since(at) < self.stretch);
        if !goes_on {
            self.began = Some(now);
            self.said = 0;
        }
        if self.said == self.count_max {
            self.passed_over += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.passed_over))
    }
}

/// One a minute.
impl Default for Seldom {
    fn default() -> Self {
        Self::new(1, Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_at_once_and_then_once_a_minute_with_what_was_passed_over() {
        let mut line = Seldom::default();
        let second = |second| Mono::default().after(Duration::from_secs(second));
        assert_eq!(line.due(second(1)), Some(0));
        assert_eq!(line.due(second(2)), None);
        assert_eq!(line.due(second(60)), None);
        assert_eq!(line.due(second(61)), Some(2));
        assert_eq!(line.due(second(500)), Some(0));
    }

    #[test]
    fn of_many_lines_in_a_stretch_the_rest_are_counted() {
        let mut lines = Seldom::new(20, Duration::from_secs(1));
        let begin = Mono(5_000_000);
        for _ in 0..20 {
            assert_eq!(lines.due(begin), Some(0));
        }
        let later = begin.after(Duration::from_millis(999));
        assert_eq!(lines.due(later), None);
        assert_eq!(lines.due(later), None);
        let next = begin.after(Duration::from_secs(1));
        assert_eq!(lines.due(next), Some(2));
        assert_eq!(lines.due(next), Some(0));
    }
}
