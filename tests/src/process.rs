//! A child process that never outlives its owner, what it wrote, and what it costs, read from
//! `/proc`. When a test fails, the end of what its processes wrote is part of what it says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait;

/// Clock ticks per second of `/proc/<pid>/stat`: fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// Lines of each process that a failing test shows.
const TAIL_LINES: usize = 40;

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; what it writes goes to the file `output`, after what is there.
    pub fn spawn(name: &str, mut command: Command, output: &Path) -> Self {
        let file = append_to(output);
        let errors = file
            .try_clone()
            .expect("a second handle of the output file");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        Self::start(name, command, output)
    }

    /// Starts `command` to talk with: its standard input and output are the caller's, and what it
    /// writes to its standard error goes to the file `errors`.
    pub fn converse(
        name: &str,
        mut command: Command,
        errors: &Path,
    ) -> (Self, ChildStdin, ChildStdout) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(append_to(errors));
        let mut process = Self::start(name, command, errors);
        let input = process.child.stdin.take().expect("its input is piped");
        let output = process.child.stdout.take().expect("its output is piped");
        (process, input, output)
    }

    fn start(name: &str, mut command: Command, output: &Path) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            output: output.to_path_buf(),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Sends the signal of that name (`TERM`, `STOP`, `CONT`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status()
            .expect("the kill program");
        assert!(status.success(), "cannot send {name} to {}", self.name);
    }

    /// Stops it where it is. When this returns, none of its threads runs.
    pub fn freeze(&self) {
        self.signal("STOP");
        wait::until("the process to stand still", wait::PATIENCE, || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.id())).ok()?;
            let stopped = threads.flatten().all(|thread| {
                fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| {
                    stat.rsplit_once(") ")
                        .is_some_and(|(_, s)| s.starts_with('T'))
                })
            });
            stopped.then_some(())
        });
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// Ends it at once, as `kill -9` and a crash do.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not, with what it wrote.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let started = wait::Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(
                started.elapsed() < patience,
                "{} did not end; it wrote:\n{}",
                self.name,
                self.output()
            );
            wait::pause(Duration::from_millis(5));
        }
    }

    /// Resident memory in bytes, now.
    pub fn resident_bytes(&self) -> u64 {
        status_field(self.id(), "VmRSS:")
    }

    /// The most resident memory it ever had, in bytes.
    pub fn resident_bytes_peak(&self) -> u64 {
        status_field(self.id(), "VmHWM:")
    }

    /// Bytes that were read from disks for it so far, which those from the page cache are not.
    pub fn disk_bytes_read(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.id()));
        let io = io.expect("a process of this user that runs");
        let bytes = io
            .lines()
            .find_map(|line| line.strip_prefix("read_bytes: "));
        let bytes = bytes.expect("Linux counts what is read");
        bytes.parse().expect("a number of bytes")
    }

    /// CPU seconds it used so far, user and kernel, all threads.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let wrote = self.output();
            eprintln!("{} wrote at the end:\n{}\n", self.name, tail(&wrote));
        }
    }
}

fn append_to(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()))
}

/// The last lines of what a process wrote.
fn tail(text: &str) -> &str {
    let start = text.trim_end().rmatch_indices('\n').nth(TAIL_LINES - 1);
    start.map_or(text, |(at, _)| &text[at + 1..]).trim_end()
}

/// CPU seconds of process `id` so far, user and kernel.
pub fn cpu_seconds(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("a process that runs");
    let after_name = stat.rsplit_once(')').expect("stat names the program").1;
    let ticks: f64 = after_name
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number of ticks"))
        .sum();
    ticks / TICKS_PER_SECOND
}

fn status_field(id: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("a process that runs");
    let line = status.lines().find(|line| line.starts_with(field));
    let kibibytes: u64 = line
        .and_then(|line| line.split_ascii_whitespace().nth(1))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no {field} in /proc/{id}/status"));
    kibibytes * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_test_shows_the_last_lines_of_its_processes() {
        let line = |at: usize| format!("line {at}\n");
        let few: String = (0..TAIL_LINES).map(line).collect();
        assert_eq!(tail(&few), few.trim_end());
        let many: String = (0..TAIL_LINES + 5).map(line).collect();
        let last: String = (5..TAIL_LINES + 5).map(line).collect();
        assert_eq!(tail(&many), last.trim_end());
        assert_eq!(tail(""), "");
    }
}
