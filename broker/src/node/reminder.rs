//! When to say again that something is still waited for: at once, then at growing intervals. Pure.

use std::time::Duration;

/// The lines of one wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reminder {
    /// The next one is due when the wait has lasted this long; none was said while there is no pause.
    due: Duration,
    pause: Option<Duration>,
}

impl Reminder {
    /// Of a wait that has not begun.
    pub(super) const fn new() -> Self {
        Self {
            due: Duration::ZERO,
            pause: None,
        }
    }

    /// Whether a line is due when the wait has lasted for `waited`. True counts as said.
    pub(super) fn is_due(&mut self, waited: Duration) -> bool {
        if waited < self.due {
            return false;
        }
        let pause = self
            .pause
            .map_or(PAUSE_FIRST, |last| last * 2)
            .min(PAUSE_MAX);
        self.due = waited + pause;
        self.pause = Some(pause);
        true
    }

    /// The wait is over. True if anybody was told of it, who wants to hear that too.
    pub(super) fn is_over(&mut self) -> bool {
        std::mem::replace(self, Self::new()).pause.is_some()
    }
}

const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_of_at_once_and_then_ever_less_often() {
        let mut reminder = Reminder::new();
        let told: Vec<u64> = (0..300)
            .filter(|second| reminder.is_due(Duration::from_secs(*second)))
            .collect();
        assert_eq!(told, [0, 5, 15, 35, 75, 135, 195, 255]);
        assert!(reminder.is_over());
    }

    #[test]
    fn a_wait_that_nobody_was_told_of_ends_without_a_word() {
        let mut reminder = Reminder::new();
        assert!(!reminder.is_over());
        assert!(reminder.is_due(Duration::ZERO) && reminder.is_over());
        assert!(reminder.is_due(Duration::ZERO), "the next one begins anew");
    }
}
