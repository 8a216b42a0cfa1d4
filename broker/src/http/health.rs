//! Whether this process serves its partitions, and if not, why.

use std::sync::{Mutex, PoisonError};

/// Written by `node.rs`, read by `/readyz`.
#[derive(Debug)]
pub struct Health(Mutex<Stage>);

#[derive(Debug)]
enum Stage {
    Starting(String),
    Serving,
    /// Serving, but not everybody.
    Hampered(String),
    Stopping,
}

impl Health {
    /// A process that has just begun.
    pub fn new() -> Self {
        Self(Mutex::new(Stage::Starting(
            "the process has just begun".to_owned(),
        )))
    }

    /// The start has come to `what`.
    pub fn starting(&self, what: &str) {
        self.set(Stage::Starting(what.to_owned()));
    }

    /// Partitions are served.
    pub fn serving(&self) {
        self.set(Stage::Serving);
    }

    /// Partitions are served, but something keeps producers waiting, or ends reads.
    pub fn hampered(&self, why: &str) {
        self.set(Stage::Hampered(why.to_owned()));
    }

    /// The process is about to leave.
    pub fn stopping(&self) {
        self.set(Stage::Stopping);
    }

    /// Whether partitions are served.
    ///
    /// # Errors
    /// The reason why they are not.
    pub fn ready(&self) -> Result<(), String> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Serving => Ok(()),
            Stage::Starting(what) => Err(format!("starting: {what}")),
            Stage::Hampered(why) => Err(format!("hampered: {why}")),
            Stage::Stopping => Err("stopping".to_owned()),
        }
    }

    /// A process that is about to leave does nothing else any more, whatever still runs in it.
    fn set(&self, stage: Stage) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*current, Stage::Stopping) {
            *current = stage;
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stops_is_never_ready_again() {
        let health = Health::new();
        health.stopping();
        health.serving();
        assert_eq!(health.ready(), Err("stopping".to_owned()));
        health.hampered("the bucket takes no slots");
        assert_eq!(health.ready(), Err("stopping".to_owned()));
    }
}
