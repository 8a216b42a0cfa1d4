//! The command line: what can be asked of `firn`, and how it ends. Data goes to stdout, log lines
//! to stderr. Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 another process has
//! taken this one's place, 74 a disk failed.

mod archive;
mod bucket;
mod cluster;
mod dev_cluster;
mod doctor;
mod force_move;
mod http_client;
mod inspect;
mod log;
mod serve;
mod settings;
mod table;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Profile;
use crate::error::FirnError;

/// Firn: a Kafka-class streaming broker whose only durable store is a bucket.
#[derive(Debug, Parser)]
#[command(name = "firn", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker, or several, for development: by default on the directory ./firn-data, which it makes
    Dev(serve::DevArgs),
    /// Run a broker on a bucket
    Serve(serve::ServeArgs),
    /// Check that a bucket can hold a log, one line per check
    Doctor(doctor::DoctorArgs),
    /// Show how far the archive of a running broker is, or archive now
    Archive(archive::ArchiveArgs),
    /// Show the brokers of a cluster, and move partitions away from one
    Cluster(cluster::ClusterArgs),
    /// Print what an object of a bucket or a file of a local WAL holds
    Inspect(inspect::InspectArgs),
    /// Count what a bucket holds; no broker is needed
    Bucket(bucket::BucketArgs),
    /// Print the version
    Version,
}

/// Runs the command line `arguments` (the first is the program's name) to its end.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with status 0, mistakes to stderr with 2.
            let printed = error.print();
            return match error.use_stderr() || printed.is_err() {
                true => ExitCode::from(2),
                false => ExitCode::SUCCESS,
            };
        }
    };
    let done = match cli.command {
        Command::Dev(args) => serve::run_dev(&args),
        Command::Serve(args) => serve::run(Profile::Serve, &args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Archive(args) => archive::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bucket(args) => bucket::run(&args),
        Command::Version => version(),
    };
    match done {
        Ok(status) => status,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stdout, reason = "the version is what was asked for")]
fn version() -> Result<ExitCode, FirnError> {
    println!("firn {}", env!("CARGO_PKG_VERSION"));
    Ok(ExitCode::SUCCESS)
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a process that failed"
)]
fn fail(error: &FirnError) -> ExitCode {
    eprintln!("firn: {error}");
    error.exit_code()
}

/// Prints an answer.
#[expect(clippy::print_stdout, reason = "the answer is what was asked for")]
fn show(text: &dyn fmt::Display) {
    print!("{text}");
}

/// Tells how far a command is.
#[expect(clippy::print_stderr, reason = "progress is no part of the answer")]
fn tell(text: &dyn fmt::Display) {
    eprintln!("{text}");
}

/// A runtime for a command: as many workers as the machine has cores.
fn runtime() -> Result<tokio::runtime::Runtime, FirnError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| FirnError::failed("cannot start the runtime", e))
}
