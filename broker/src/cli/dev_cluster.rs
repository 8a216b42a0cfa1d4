//! `firn dev --brokers N`: a cluster on this machine, each broker a process of its own on one
//! bucket. This process starts them, says where they are, starts again those that end, and stops
//! them with itself.
//!
//! May not touch: what a broker is. Each is a plain `firn serve`, which anybody could have started.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use crate::cli::serve::StopSignals;
use crate::config::{Config, KEYS, Profile, Source};
use crate::error::FirnError;

/// Most brokers that one command starts.
pub(super) const DEV_BROKERS_MAX: u8 = 9;

/// Runs `count` brokers, in `racks` if there are some, until SIGTERM or SIGINT.
pub(super) async fn run(
    config: &Config,
    count: u8,
    racks: &[String],
) -> Result<ExitCode, FirnError> {
    let mut stop = StopSignals::listen()?;
    let mut cluster = DevCluster::start(config, count, racks)?;
    tokio::select! {
        ready = cluster.ready() => ready?,
        () = stop.next() => return cluster.stop().await,
    }
    cluster.welcome(config);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => cluster.start_again()?,
            () = stop.next() => return cluster.stop().await,
        }
    }
}

/// One broker of the cluster.
struct DevBroker {
    id: u8,
    kafka: SocketAddr,
    http: Option<SocketAddr>,
    /// If they have racks of their own.
    rack: Option<String>,
    settings: Vec<String>,
    child: Option<Child>,
    /// Looks at which it is not started, since it has just ended.
    rests: u32,
}

struct DevCluster {
    program: PathBuf,
    brokers: Vec<DevBroker>,
}

impl DevCluster {
    fn start(config: &Config, count: u8, racks: &[String]) -> Result<Self, FirnError> {
        let failed = |e| FirnError::failed("cannot find the program of this process", e);
        let mut cluster = Self {
            program: std::env::current_exe().map_err(failed)?,
            brokers: Vec::new(),
        };
        for id in 1..=count {
            cluster.brokers.push(DevBroker::of(config, id, racks)?);
        }
        for at in 0..cluster.brokers.len() {
            cluster.spawn(at)?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, at: usize) -> Result<(), FirnError> {
        let broker = &mut self.brokers[at];
        let mut command = Command::new(&self.program);
        command.args(["serve", "--stop-with-stdin"]);
        for setting in &broker.settings {
            command.args(["-X", setting]);
        }
        // Ctrl-c is for this process, which stops them in order; they stop too when it is no more.
        command.stdin(Stdio::piped()).process_group(0);
        let child = command.spawn();
        let failed = |e| FirnError::failed(format!("cannot start broker {}", broker.id), e);
        broker.child = Some(child.map_err(failed)?);
        Ok(())
    }

    /// Waits until every broker serves.
    async fn ready(&mut self) -> Result<(), FirnError> {
        loop {
            let mut are_ready = true;
            for broker in &mut self.brokers {
                if let Some(status) = broker.ended() {
                    let what = format!("broker {} ended before it was ready", broker.id);
                    return Err(FirnError::failed(what, status));
                }
                are_ready &= broker.is_ready();
            }
            if are_ready {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts brokers again that have ended, a moment later.
    #[expect(clippy::print_stderr, reason = "whoever watches wants to know")]
    fn start_again(&mut self) -> Result<(), FirnError> {
        for at in 0..self.brokers.len() {
            let broker = &mut self.brokers[at];
            if let Some(status) = broker.ended() {
                broker.child = None;
                broker.rests = REST_LOOKS;
                eprintln!(
                    "broker {} ended ({}); the others take its partitions, and it is started again",
                    broker.id,
                    shown(status)
                );
            } else if broker.child.is_none() {
                broker.rests -= 1;
                if broker.rests == 0 {
                    self.spawn(at)?;
                    let broker = &self.brokers[at];
                    eprintln!("broker {} started, process {}", broker.id, broker.process());
                }
            }
        }
        Ok(())
    }

    /// Stops one after the other, so that each can hand over what it has.
    async fn stop(&mut self) -> Result<ExitCode, FirnError> {
        let mut worst = ExitCode::SUCCESS;
        for broker in &mut self.brokers {
            let Some(child) = &mut broker.child else {
                continue;
            };
            drop(child.stdin.take());
            let status = loop {
                if let Some(status) = broker.ended() {
                    break status;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            };
            if !status.success() {
                worst = ExitCode::FAILURE;
            }
        }
        Ok(worst)
    }

    #[expect(clippy::print_stdout, reason = "a newcomer reads this")]
    fn welcome(&self, config: &Config) {
        println!(
            "firn {}: {} brokers are ready",
            env!("CARGO_PKG_VERSION"),
            self.brokers.len()
        );
        println!("  bucket    {}", config.bucket.url);
        for broker in &self.brokers {
            let rack = broker.rack.as_ref().map(|rack| format!("  rack {rack}"));
            println!(
                "  broker {}  {}  process {}{}",
                broker.id,
                broker.kafka,
                broker.process(),
                rack.unwrap_or_default()
            );
        }
        let all: Vec<String> = self.brokers.iter().map(|b| b.kafka.to_string()).collect();
        let all = all.join(",");
        println!();
        println!("try, in another terminal:");
        println!("  echo hello | kcat -P -b {all} -t first");
        println!("  kcat -C -b {all} -t first -o beginning");
        println!("  kill -9 one of the processes: the others take over, and it is started again");
        println!();
        println!("ctrl-c stops them; what was acknowledged stays in the bucket");
    }
}

impl Drop for DevCluster {
    /// Whoever still runs is asked to stop; nobody waits for that here.
    fn drop(&mut self) {
        for broker in &mut self.brokers {
            if let Some(child) = &mut broker.child {
                drop(child.stdin.take());
            }
        }
    }
}

impl DevBroker {
    /// The `id`-th broker: what `config` says, at the ports `id - 1` above, with a local WAL of its
    /// own, in the rack whose turn it is.
    fn of(config: &Config, id: u8, racks: &[String]) -> Result<Self, FirnError> {
        let above = u16::from(id - 1);
        let rack = racks.iter().cycle().nth(usize::from(above)).cloned();
        let [listener] = config.listeners.as_slice() else {
            let reason = "--brokers takes one Kafka listener: use --kafka ADDR";
            return Err(FirnError::failed("cannot start brokers", reason));
        };
        if config.bucket_scheme() == "memory" {
            let reason = "a memory:// bucket is known to one process only: use file:// or s3://";
            return Err(FirnError::failed("cannot start brokers", reason));
        }
        let kafka = moved(listener.bind, above)?;
        let http = config.http.map(|http| moved(http, above)).transpose()?;
        let own = |config: &Config, key: &str| {
            let text = match key {
                "broker.id" => id.to_string(),
                "kafka" => kafka.to_string(),
                "http" => http?.to_string(),
                "broker.rack" => rack.clone()?,
                "wal" => {
                    let folder = config.wal_dir()?.join(format!("broker-{id}"));
                    folder.display().to_string()
                }
                _ => return None,
            };
            Some(text)
        };
        let settings = config.settings().filter_map(|(key, setting)| {
            if key == "listeners" {
                return None;
            }
            let default = KEYS.iter().find(|known| known.name == key)?;
            let is_said = setting.source != Source::Default
                || default.default_in(Profile::Dev) != default.default_in(Profile::Serve);
            let said = || is_said.then(|| setting.text.clone());
            Some(format!("{key}={}", own(config, key).or_else(said)?))
        });
        Ok(Self {
            id,
            kafka,
            http,
            settings: settings.collect(),
            rack,
            child: None,
            rests: 0,
        })
    }

    fn process(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// How its process ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Whether it says that it serves; one without an HTTP door serves once it listens.
    fn is_ready(&self) -> bool {
        let connect = |to: &SocketAddr| TcpStream::connect_timeout(to, ASK_MAX).ok();
        let Some(http) = &self.http else {
            return connect(&self.kafka).is_some();
        };
        let answer = || {
            let mut stream = connect(http)?;
            stream.set_read_timeout(Some(ASK_MAX)).ok()?;
            let ask = b"GET /readyz HTTP/1.1\r\nHost: firn\r\nConnection: close\r\n\r\n";
            stream.write_all(ask).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        };
        answer().is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }
}

/// The address `above` ports higher. Port 0, which the kernel chooses, stays.
fn moved(address: SocketAddr, above: u16) -> Result<SocketAddr, FirnError> {
    let port = match address.port() {
        0 => Some(0),
        port => port.checked_add(above),
    };
    let port = port.ok_or_else(|| {
        let reason = format!("there is no port {above} above {address}");
        FirnError::failed("cannot start brokers", reason)
    })?;
    Ok(SocketAddr::new(address.ip(), port))
}

fn shown(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    }
}

/// How often it is looked whether brokers are ready, or have ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Looks before one that has ended is started again: two seconds, so that whoever watches sees that
/// the others go on without it.
const REST_LOOKS: u32 = 40;
/// How long a broker of this machine may take to answer.
const ASK_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pair;

    fn config(pairs: &[(&str, &str)]) -> Config {
        let pairs = pairs.iter();
        let pairs = pairs.map(|(key, value)| Pair::new(key, value, Source::Override));
        Config::new(Profile::Dev, pairs.collect()).unwrap()
    }

    #[test]
    fn each_broker_has_ports_a_number_and_a_wal_of_its_own_and_the_rest_in_common() {
        let config = config(&[
            ("bucket", "s3://logs/here"),
            ("wal", "/disk/wal"),
            ("kafka", "127.0.0.1:7000"),
            ("fetch.max.bytes", "20MiB"),
        ]);
        let third = DevBroker::of(&config, 3, &[]).unwrap().settings;
        for setting in [
            "broker.id=3",
            "kafka=127.0.0.1:7002",
            "http=127.0.0.1:8082",
            "wal=/disk/wal/broker-3",
            "bucket=s3://logs/here",
            "bucket.create=true",
            "fetch.max.bytes=20971520",
        ] {
            assert!(
                third.iter().any(|said| said == setting),
                "{setting}: {third:?}"
            );
        }
    }

    #[test]
    fn racks_are_given_in_turn() {
        let config = config(&[("bucket", "s3://logs/here")]);
        let racks = ["a", "b"].map(str::to_owned);
        let rack = |id, racks: &[String]| {
            let settings = DevBroker::of(&config, id, racks).unwrap().settings;
            let mut racks = settings.into_iter();
            racks.find_map(|said| said.strip_prefix("broker.rack=").map(str::to_owned))
        };
        let given = [1, 2, 3].map(|id| rack(id, &racks));
        assert_eq!(given.map(Option::unwrap), ["a", "b", "a"]);
        assert_eq!(rack(1, &[]), None);
    }

    #[test]
    fn a_bucket_that_only_one_process_can_see_is_refused() {
        let config = config(&[("bucket", "memory://")]);
        let refused = DevBroker::of(&config, 1, &[]).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|reason| reason.contains("memory://")));
    }

    #[test]
    fn ports_that_do_not_exist_are_refused() {
        let last = SocketAddr::from(([127, 0, 0, 1], u16::MAX));
        assert!(moved(last, 1).is_err());
        assert_eq!(moved(last, 0).unwrap(), last);
    }
}
