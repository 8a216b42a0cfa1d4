//! `firn doctor`: lets a bucket prove that it can hold a log (I11), one line per check.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use firn_proto::env::{Entropy, SystemClock};
use firn_storage::bucket::{Bucket, BucketError, BucketOptions, Depth, Report};

use crate::cli::runtime;
use crate::cli::settings::SettingArgs;
use crate::config::{BucketConfig, Pair, Profile, Source};
use crate::error::FirnError;

/// Flags of `firn doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The bucket: file://DIR, s3://BUCKET/PREFIX?endpoint=URL&region=R&path_style=true&profile=P
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Make the bucket, or the directory, if it does not exist
    #[arg(long)]
    create_bucket: bool,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Checks the bucket; fails if Firn could not use it.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode, FirnError> {
    let bucket = args
        .settings
        .configure(Profile::Serve, args.flags())?
        .bucket;
    let examined = runtime()?.block_on(examine(&bucket));
    let report = examined.map_err(|error| FirnError::bucket(&bucket.url, error))?;
    show(&report);
    match report.is_usable() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

impl DoctorArgs {
    fn flags(&self) -> Vec<Pair> {
        let bucket = self.bucket.as_deref();
        let create = self.create_bucket.then_some("true");
        let bucket = bucket.map(|url| Pair::new("bucket", url, Source::Flag("bucket")));
        let create = create.map(|on| Pair::new("bucket.create", on, Source::Flag("create-bucket")));
        bucket.into_iter().chain(create).collect()
    }
}

async fn examine(config: &BucketConfig) -> Result<Report, BucketError> {
    let clock = Arc::new(SystemClock::new());
    let entropy = Arc::new(Entropy::from_os());
    let options = BucketOptions::of_process(config.create);
    let bucket = Bucket::connect(&config.url, &options, clock, entropy).await?;
    bucket.examine(Depth::Full).await
}

#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
fn show(report: &Report) {
    print!("{report}");
    let verdict = match report.is_usable() {
        true => "this bucket can hold a log",
        false => "this bucket cannot hold a log",
    };
    println!("{verdict}");
}
