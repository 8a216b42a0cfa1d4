//! A `firn` process: started on free ports, ready when `/readyz` says so, stopped or killed.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Process;
use crate::{ports, wait};

/// How a broker is started. The same plan started again is the same broker after a restart: it
/// keeps its ports, bucket and local folder.
#[derive(Clone, Debug)]
pub struct NodePlan {
    binary: PathBuf,
    /// Where it keeps what it may lose, and its log.
    folder: PathBuf,
    bucket: String,
    wal: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    before: Vec<String>,
    /// The Kafka door.
    pub kafka: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
}

impl NodePlan {
    /// A broker whose bucket is the folder `bucket` below `folder`, without a local WAL.
    /// `built` is the binary that cargo made for the calling test; `CI_FIRN_BIN` names another.
    pub fn on_directory(built: &str, folder: &Path) -> Self {
        let bucket = folder.join("bucket");
        fs::create_dir_all(&bucket).expect("a folder for the bucket");
        Self::on_bucket(built, folder, &format!("file://{}", bucket.display()))
    }

    /// A broker on any bucket URL; local files go below `folder`.
    pub fn on_bucket(built: &str, folder: &Path, bucket: &str) -> Self {
        Self {
            binary: tested(built),
            folder: folder.to_path_buf(),
            bucket: bucket.to_owned(),
            wal: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            before: Vec::new(),
            kafka: ports::free(),
            http: ports::free(),
        }
    }

    /// With a local WAL in `folder`.
    #[must_use]
    pub fn with_wal(mut self, folder: &Path) -> Self {
        self.wal = Some(folder.to_path_buf());
        self
    }

    /// With `-X key=value`.
    #[must_use]
    pub fn with_setting(self, setting: &str) -> Self {
        self.with_argument("-X").with_argument(setting)
    }

    /// With one more argument.
    #[must_use]
    pub fn with_argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Started by way of another program, such as `taskset -c 0`.
    #[must_use]
    pub fn started_by(mut self, words: &[&str]) -> Self {
        self.before = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Where it keeps what it may lose, and its log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bucket's URL.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What a command of the binary prints that talks to the broker of this plan, or to its bucket.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> String {
        let mut command = quiet_command(&self.binary);
        command.args(words);
        match words.first() {
            Some(&"bucket") => command.args(["--bucket", &self.bucket]),
            _ => command.args(["--http", &self.http.to_string()]),
        };
        command.envs(self.environment.iter().cloned());
        let output = command.output().expect("the binary runs");
        assert!(
            output.status.success(),
            "firn {words:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The binary that is started.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Starts the broker and waits until it is ready.
    pub fn start(&self) -> Node {
        let mut node = self.launch();
        node.wait_ready();
        node
    }

    /// Starts the broker without waiting for anything.
    pub fn launch(&self) -> Node {
        let words = self.before.iter().cloned();
        let mut words = words.chain([self.binary.display().to_string()]);
        let mut command = quiet_command(words.next().expect("at least the binary").as_ref());
        command.args(words).arg("serve");
        command.args(["--bucket", &self.bucket]);
        command.args(["--kafka", &self.kafka.to_string()]);
        command.args(["--http", &self.http.to_string()]);
        match &self.wal {
            Some(folder) => command.arg("--wal").arg(folder),
            None => command.args(["--wal", "none"]),
        };
        command.args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.current_dir(&self.folder);
        Node {
            process: Process::spawn("firn", command, &self.folder.join("firn.log")),
            plan: self.clone(),
        }
    }
}

/// Deletes every local file of a broker in `folder`, the bucket and the logs aside.
pub fn forget_local_files(folder: &Path) {
    for entry in fs::read_dir(folder).expect("the broker's folder") {
        let entry = entry.expect("an entry of the broker's folder");
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "bucket" || name == "minio" || name.ends_with(".log") {
            continue;
        }
        let forgotten = if entry.path().is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        forgotten.expect("what is local can be forgotten");
    }
}

/// The binary that is tested: the one that cargo made for the calling test, or that of `CI_FIRN_BIN`.
pub fn tested(built: &str) -> PathBuf {
    std::env::var_os("CI_FIRN_BIN").map_or_else(|| PathBuf::from(built), PathBuf::from)
}

/// A command that sees no `FIRN_` variable of this process: each is a setting to the broker.
pub fn quiet_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FIRN_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    /// The process itself.
    pub process: Process,
    plan: NodePlan,
}

impl Node {
    /// Where Kafka clients connect, as `host:port`.
    pub fn bootstrap(&self) -> String {
        self.plan.kafka.to_string()
    }

    /// How it was started.
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// The address of the Kafka door.
    pub fn kafka(&self) -> SocketAddr {
        self.plan.kafka
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// When the process ends before it is ready, with what it wrote.
    pub fn wait_ready(&mut self) {
        wait::until("the broker to be ready", wait::PATIENCE, || {
            assert!(
                self.process.is_running(),
                "firn ended before it was ready; it wrote:\n{}",
                self.process.output()
            );
            self.is_ready().then_some(())
        });
    }

    /// Whether `/readyz` answers 200.
    pub fn is_ready(&self) -> bool {
        self.http_get("/readyz")
            .is_some_and(|(status, _)| status == 200)
    }

    /// Asks it to leave in order (SIGTERM) and checks that it does.
    ///
    /// # Panics
    /// When it does not end with success within a minute.
    pub fn stop(mut self) {
        self.process.signal("TERM");
        let status = self.process.wait(wait::PATIENCE);
        assert!(
            status.success(),
            "firn ended with {status}; it wrote:\n{}",
            self.process.output()
        );
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Sends a POST to the HTTP door and waits for nothing: the connection is given back.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn start_http_post(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.plan.http).expect("the HTTP door is open");
        let request = format!("POST {path} HTTP/1.1\r\nHost: firn\r\nContent-Length: 0\r\n\r\n");
        let sent = stream.write_all(request.as_bytes());
        sent.expect("the HTTP door takes a request");
        stream
    }

    /// GETs a path from the HTTP door: status and body, or `None` if nobody answers.
    pub fn http_get(&self, path: &str) -> Option<(u16, String)> {
        let patience = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&self.plan.http, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: firn\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// [`Self::metric`], 0 where there is no such row yet.
    ///
    /// # Panics
    /// When nobody answers.
    pub fn count(&self, row: &str) -> f64 {
        self.values(row).iter().sum()
    }

    /// The sum of every row of `/metrics` that begins with `row`: a whole name, with the first of
    /// its labels where only those are meant.
    ///
    /// # Panics
    /// When there is none, or nobody answers.
    pub fn metric(&self, row: &str) -> f64 {
        let values = self.values(row);
        assert!(!values.is_empty(), "no {row} among the metrics");
        values.iter().sum()
    }

    fn values(&self, row: &str) -> Vec<f64> {
        let (_, text) = self.http_get("/metrics").expect("metrics are served");
        let rows = text.lines().filter(|line| line.starts_with(row));
        rows.map(|line| line.rsplit_once(' ').map(|(_, value)| value.parse()))
            .map(|value| value.expect("a value").expect("a number"))
            .collect()
    }
}
