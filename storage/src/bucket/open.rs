//! From a URL to a bucket that has proved itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path as FsPath;
use std::sync::Arc;

use firn_proto::env::{Clock, Entropy};
use object_store::memory::InMemory;
use object_store::path::Path;

use super::admin::Admin;
use super::error::{Effect, StoreFailure};
use super::probe::{self, Depth};
use super::report::Report;
use super::s3::{self, Environment};
use super::url::{BucketUrl, S3Url};
use super::{Bucket, BucketError, BucketKind, FileStore, Operation};

/// How to open a bucket, beside its URL.
#[derive(Clone, Debug, Default)]
pub struct BucketOptions {
    /// Create the bucket, or the directory, if it is missing.
    pub create_bucket: bool,
    /// Where credentials, region and endpoint come from if the URL does not say.
    pub environment: Environment,
}

impl BucketOptions {
    /// Options with the environment of this process.
    pub fn of_process(create_bucket: bool) -> Self {
        Self {
            create_bucket,
            environment: Environment::of_process(),
        }
    }
}

impl Bucket {
    /// Opens the bucket at `url` and lets it prove itself: [`Bucket::connect`], then
    /// [`Bucket::examine`] as far as needed.
    ///
    /// # Errors
    /// [`BucketError::Unfit`] for a store that cannot hold a log, with the reason.
    pub async fn open(
        url: &str,
        options: &BucketOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Result<Self, BucketError> {
        let bucket = Self::connect(url, options, clock, entropy).await?;
        let report = bucket.examine(Depth::AsNeeded).await?.into_result()?;
        for check in &report.checks {
            tracing::debug!(%check, "bucket");
        }
        Ok(bucket)
    }

    /// Opens the bucket at `url` without asking it to prove anything, for `firn doctor`.
    ///
    /// # Errors
    /// For an unusable URL, a directory that cannot be made, a bucket that cannot be created.
    pub async fn connect(
        url: &str,
        options: &BucketOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Result<Self, BucketError> {
        match BucketUrl::parse(url)? {
            BucketUrl::Memory => Ok(Self::memory(clock, entropy)),
            BucketUrl::File(directory) => {
                if !options.create_bucket && !directory.exists() {
                    let what = format!("the directory {}", directory.display());
                    return Err(BucketError::NoSuchBucket { what });
                }
                Self::directory(&directory, clock, entropy)
            }
            BucketUrl::S3(url) => Box::pin(Self::s3(&url, options, clock, entropy)).await,
        }
    }

    /// A bucket in the memory of this process.
    pub fn memory(clock: Arc<dyn Clock>, entropy: Arc<Entropy>) -> Self {
        let store = Arc::new(InMemory::new());
        Self::new(store, Path::default(), BucketKind::Memory, clock, entropy)
    }

    /// A bucket in a local directory, which is made if it is missing.
    ///
    /// # Errors
    /// [`BucketError::Disk`] and [`BucketError::DirectoryRefuses`] with the operating system's words.
    pub fn directory(
        directory: &FsPath,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Result<Self, BucketError> {
        let store = FileStore::open(directory).map_err(|error| {
            let failure = StoreFailure::of_disk(&error, Effect::None, error.to_string());
            let key = directory.display().to_string();
            BucketError::directory(Operation::Create, key, &failure)
        })?;
        let shared = Arc::new(store.clone());
        let bucket = Self::new(shared, Path::default(), BucketKind::File, clock, entropy);
        Ok(bucket.with_directory(store))
    }

    async fn s3(
        url: &S3Url,
        options: &BucketOptions,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Result<Self, BucketError> {
        let connection = s3::connect(url, &options.environment, Arc::clone(&clock)).await?;
        let admin = Admin::new(&connection);
        if options.create_bucket {
            admin.create_bucket().await?;
        }
        let root = Path::parse(&connection.url.prefix).map_err(|error| BucketError::Url {
            url: url.to_string(),
            reason: error.to_string(),
        })?;
        let configuration = probe::configuration_hash(&connection.url.identity());
        let store = Arc::new(connection.store);
        let bucket = Self::new(store, root, BucketKind::S3, clock, entropy);
        Ok(bucket.with_admin(admin, configuration))
    }

    /// Lets the store prove itself (I11) and looks at what surrounds the bucket.
    ///
    /// # Errors
    /// If the store does not answer. A store that answers wrongly is a failed check of the report.
    pub async fn examine(&self, depth: Depth) -> Result<Report, BucketError> {
        let mut report = Report::default();
        probe::run(self, depth, self.0.configuration, &mut report).await?;
        if let Some(admin) = &self.0.admin {
            admin.check(&mut report).await;
        }
        Ok(report)
    }
}

impl S3Url {
    /// Everything that decides which store answers, and how.
    fn identity(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("bucket", self.bucket.clone()),
            ("prefix", self.prefix.clone()),
            ("endpoint", self.endpoint.clone().unwrap_or_default()),
            ("region", self.region.clone().unwrap_or_default()),
            ("path_style", self.path_style.to_string()),
        ])
    }
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}
