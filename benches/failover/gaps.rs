//! The producer that measures gaps: a script over librdkafka.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command};

use firn_tests::cluster::Brokers;
use firn_tests::process::Process;
use firn_tests::requirement::python_with;
use serde_json::Value;

use crate::{PARTITIONS, TOPIC};

/// Records a second, over all partitions.
const RATE: &str = "300";

/// The running script.
pub(crate) struct Gaps {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Gaps {
    pub(crate) fn start(brokers: &Brokers, folder: &Path) -> Self {
        let python = python_with("confluent_kafka").expect("Python with confluent-kafka");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("failover/gaps.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .args([&brokers.bootstrap(), TOPIC, &PARTITIONS.to_string(), RATE]);
        let (process, input, output) =
            Process::converse("gaps.py", command, &folder.join("gaps.log"));
        Self {
            _process: process,
            input,
            output: BufReader::new(output),
        }
    }

    /// Milliseconds of the longest time that any partition went without an acknowledgement since
    /// this was asked before.
    pub(crate) fn longest(&mut self) -> f64 {
        writeln!(self.input, "end").expect("a script that runs reads its input");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        let told: Value = serde_json::from_str(&line).expect("a line of JSON");
        assert_eq!(told["failed"], 0, "records failed for good: {told}");
        assert_eq!(told["whole"], true, "a partition came back never: {told}");
        told["gap_ms"].as_f64().expect("a number")
    }
}
