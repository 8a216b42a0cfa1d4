//! `firn dev` and `firn serve`: put the configuration together and run a node until it is told to
//! stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::dev_cluster::{self, DEV_BROKERS_MAX};
use crate::cli::settings::{KeyTable, SettingArgs};
use crate::cli::{log, runtime};
use crate::config::{Config, Pair, Profile, Source};
use crate::error::FirnError;
use crate::node::Node;

/// Flags of `firn dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// How many brokers to run, each a process of its own, at ports one above the other
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=i64::from(DEV_BROKERS_MAX)))]
    brokers: u8,
    /// Racks of these brokers, one after the other and then from the first on again: as if each ran in
    /// the zone of that name, and served consumers whose client.rack it is
    #[arg(long, value_name = "RACK,...", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    racks: Vec<String>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// Flags of `firn dev` and `firn serve`. Each is short for a key of the configuration.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The durable store: file://DIR, memory://, s3://BUCKET/PREFIX?endpoint=URL&region=R&path_style=true&profile=P
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Make the bucket, or the directory, if it does not exist
    #[arg(long)]
    create_bucket: bool,
    /// Where Kafka clients connect; short for one listener, and not beside --listener
    #[arg(long, value_name = "ADDR")]
    kafka: Option<String>,
    /// A Kafka listener: NAME=PROTO://ADDR[,advertise=HOST:PORT]; repeatable
    #[arg(long, value_name = "LISTENER")]
    listener: Vec<String>,
    /// Where native clients connect (reserved: this version does not open it)
    #[arg(long, value_name = "ADDR")]
    quic: Option<String>,
    /// Address of /livez, /readyz, /metrics and /archive, or none
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Directory of the local WAL, or none
    #[arg(long, value_name = "DIR")]
    wal: Option<String>,
    /// What this process does: broker (owns partitions), coordinator (may lead the cluster), or both
    #[arg(long, value_name = "ROLES")]
    roles: Option<String>,
    /// Allow listeners beyond loopback although nobody has to authenticate
    #[arg(long)]
    insecure: bool,
    /// Log lines: plain or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Stop in order when the standard input ends, as on SIGTERM
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    settings: SettingArgs,
    /// List every key of the configuration with its default and meaning, and end
    #[arg(long)]
    help_keys: bool,
}

/// `firn dev`: one broker in this process, or several of their own.
pub(super) fn run_dev(args: &DevArgs) -> Result<ExitCode, FirnError> {
    let DevArgs {
        brokers,
        racks,
        serve,
    } = args;
    if *brokers == 1 && !racks.is_empty() {
        let reason = "--racks is for several brokers: use --brokers N, or -X broker.rack=RACK";
        return Err(FirnError::failed("cannot give racks", reason));
    }
    if *brokers == 1 || serve.help_keys {
        return run(Profile::Dev, serve);
    }
    let config = serve.settings.configure(Profile::Dev, serve.flags())?;
    log::start(&config.log)?;
    runtime()?.block_on(dev_cluster::run(&config, *brokers, racks))
}

/// Runs a broker until SIGTERM or SIGINT; a second signal ends it at once.
pub(super) fn run(profile: Profile, args: &ServeArgs) -> Result<ExitCode, FirnError> {
    if args.help_keys {
        list_keys(profile);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Arc::new(args.settings.configure(profile, args.flags())?);
    log::start(&config.log)?;
    if let Some(quic) = config.quic {
        tracing::warn!(%quic, "the native quic door is reserved: a later version opens it");
    }
    for (key, setting) in config.settings() {
        if setting.source != Source::Default {
            tracing::info!(key, value = setting.text, source = %setting.source, "setting");
        }
    }
    let runtime = runtime()?;
    let served = runtime.block_on(serve(profile, config, args.stop_with_stdin));
    // A disk or a bucket that hangs must not keep a process that has nothing more to do.
    runtime.shutdown_timeout(LAST_TASKS_MAX);
    served?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    profile: Profile,
    config: Arc<Config>,
    stop_with_stdin: bool,
) -> Result<(), FirnError> {
    let mut stop = StopSignals::listen()?;
    if stop_with_stdin {
        stop.end_with_stdin()?;
    }
    let starting = Node::start(Arc::clone(&config));
    let node = tokio::select! {
        node = starting => node?,
        () = stop.next() => return Ok(()),
    };
    if profile == Profile::Dev {
        welcome(&config, &node);
    }
    tokio::select! {
        ended = node.failed() => return Err(node.last_words(ended)),
        () = stop.next() => {}
    }
    tokio::select! {
        stopped = node.stop() => stopped,
        () = stop.next() => Err(FirnError::failed("stopped", "a second signal asked for it at once")),
    }
}

#[expect(clippy::print_stdout, reason = "the list is what was asked for")]
fn list_keys(profile: Profile) {
    print!("{}", KeyTable(profile));
}

impl ServeArgs {
    fn flags(&self) -> Vec<Pair> {
        let listeners = (!self.listener.is_empty()).then(|| self.listener.join(";"));
        let switch = |on: bool| on.then(|| "true".to_owned());
        let (insecure, create) = (switch(self.insecure), switch(self.create_bucket));
        [
            ("bucket", "bucket", &self.bucket),
            ("bucket.create", "create-bucket", &create),
            ("kafka", "kafka", &self.kafka),
            ("listeners", "listener", &listeners),
            ("quic", "quic", &self.quic),
            ("http", "http", &self.http),
            ("wal", "wal", &self.wal),
            ("roles", "roles", &self.roles),
            ("insecure", "insecure", &insecure),
            ("log.format", "log-format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(key, flag, value)| {
            Some(Pair::new(key, value.as_deref()?, Source::Flag(flag)))
        })
        .collect()
    }
}

/// SIGTERM and SIGINT, and the end of the standard input if that counts.
pub(super) struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    input_ends: Option<oneshot::Receiver<()>>,
}

impl StopSignals {
    pub(super) fn listen() -> Result<Self, FirnError> {
        let listen =
            |kind| signal(kind).map_err(|e| FirnError::failed("cannot listen for signals", e));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            input_ends: None,
        })
    }

    /// Lets the end of the standard input count once as a signal.
    fn end_with_stdin(&mut self) -> Result<(), FirnError> {
        let (ended, input_ends) = oneshot::channel();
        // A thread of its own: a read of the standard input cannot be cancelled.
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let read = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                // Whatever ended it, and whether anybody still listens, there is no more input.
                drop((read, ended.send(())));
            })
            .map_err(|e| FirnError::failed("cannot read the standard input", e))?;
        self.input_ends = Some(input_ends);
        Ok(())
    }

    pub(super) async fn next(&mut self) {
        let input_ends = async {
            match self.input_ends.as_mut() {
                Some(ends) => drop(ends.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = input_ends => self.input_ends = None,
        }
    }
}

/// Where the broker listens, and the first commands to try.
#[expect(clippy::print_stdout, reason = "a newcomer reads this")]
fn welcome(config: &Config, node: &Node) {
    let kafka = node.kafka().map(ToString::to_string).unwrap_or_default();
    println!(
        "firn {} is ready in {} ms",
        env!("CARGO_PKG_VERSION"),
        node.start_took().as_millis()
    );
    println!("  bucket  {}", config.bucket.url);
    for listener in node.listeners() {
        println!("  kafka   {} ({})", listener.advertised, listener.name);
    }
    if let Some(http) = node.http() {
        println!("  http    http://{http}/metrics, /readyz, /livez");
    }
    println!();
    println!("try, in another terminal:");
    println!("  echo hello | kcat -P -b {kafka} -t first");
    println!("  kcat -C -b {kafka} -t first -o beginning -e");
    println!("  kcat -L -b {kafka}");
    println!();
    println!("ctrl-c stops it; what was acknowledged stays in the bucket");
}

/// How long tasks that are still running at the end may take.
const LAST_TASKS_MAX: Duration = Duration::from_secs(1);
