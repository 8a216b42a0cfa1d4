//! Clients in Python (confluent-kafka, which is librdkafka) that a test talks with while they run:
//! they are told by lines, and tell by lines of JSON.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use firn_tests::process::Process;
use firn_tests::requirement::{python_with, skip};
use firn_tests::wait;
use serde_json::Value;

/// Lines that a script may be ahead of the test, beside what the pipe holds.
const UNHEARD_MAX: usize = 16;

/// A Python that has confluent-kafka, or the reason why the test does not run here.
pub(crate) fn python_for(test: &str) -> Option<PathBuf> {
    let python = python_with("confluent_kafka");
    if python.is_none() {
        skip(test, "Python with confluent-kafka");
    }
    python
}

/// The scripts of a test, and what they tell.
pub(crate) struct Scripts {
    python: PathBuf,
    /// Where their errors go.
    folder: PathBuf,
    speak: SyncSender<Told>,
    told: Receiver<Told>,
}

/// Which script told something, and what: nothing when it ended.
pub(crate) type Told = (usize, Option<Value>);

impl Scripts {
    pub(crate) fn new(python: PathBuf, folder: &Path) -> Self {
        let (speak, told) = sync_channel(UNHEARD_MAX);
        Self {
            python,
            folder: folder.to_path_buf(),
            speak,
            told,
        }
    }

    /// Starts a script of this folder, to be known as `id`.
    pub(crate) fn start(&self, id: usize, name: &str, arguments: &[&str]) -> Script {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients");
        let mut command = Command::new(&self.python);
        command.arg(scripts.join(name)).args(arguments);
        let title = format!("{name} {id}");
        let errors = self.folder.join(format!("{title}.log"));
        let (process, input, output) = Process::converse(&title, command, &errors);
        let speak = self.speak.clone();
        thread::spawn(move || listen(id, output, &speak));
        Script { process, input }
    }

    /// What is told next, by any of them.
    ///
    /// # Panics
    /// When nothing is for a long time.
    pub(crate) fn hear(&self, what: &str) -> Told {
        self.told
            .recv_timeout(wait::PATIENCE)
            .unwrap_or_else(|_| panic!("gave up waiting for {what}"))
    }
}

/// Passes on what a script tells, until it ends or nobody listens any more.
fn listen(id: usize, output: ChildStdout, speak: &SyncSender<Told>) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let told = serde_json::from_str(&line).unwrap_or(Value::String(line));
        if speak.send((id, Some(told))).is_err() {
            return;
        }
    }
    let _ = speak.send((id, None));
}

/// A running script. Dropping it kills it.
pub(crate) struct Script {
    pub(crate) process: Process,
    input: ChildStdin,
}

impl Script {
    /// Tells it a line.
    pub(crate) fn tell(&mut self, line: &Value) {
        writeln!(self.input, "{line}").expect("a script that runs reads its input");
    }
}

/// A number of what a script told.
pub(crate) fn number(told: &Value, field: &str) -> i64 {
    told[field]
        .as_i64()
        .unwrap_or_else(|| panic!("no number {field} in {told}"))
}

/// A partition of what a script told.
pub(crate) fn partition(told: &Value, field: &str) -> i32 {
    i32::try_from(number(told, field)).expect("a partition")
}
