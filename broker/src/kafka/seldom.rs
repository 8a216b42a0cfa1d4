//! Log lines that clients may cause as often as they like: one a minute, which says how many were
//! passed over. Pure: the time comes in.

use std::time::Duration;

use firn_proto::env::Mono;

/// One such line.
#[derive(Debug, Default)]
pub struct Seldom {
    said_at: Option<Mono>,
    passed_over: u64,
}

impl Seldom {
    /// Whether it is to be said now: then how often it was passed over since the last time.
    pub fn due(&mut self, now: Mono) -> Option<u64> {
        let is_too_soon = self.said_at.is_some_and(|at| now.since(at) < PAUSE);
        if is_too_soon {
            self.passed_over += 1;
            return None;
        }
        self.said_at = Some(now);
        Some(std::mem::take(&mut self.passed_over))
    }
}

const PAUSE: Duration = Duration::from_secs(60);

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
}
