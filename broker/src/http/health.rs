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

    fn set(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}
