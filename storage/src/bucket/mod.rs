//! The bucket: the only door to the object store, and the only holder of an
//! [`object_store::ObjectStore`] in the workspace.
//!
//! It offers what a log on a store that never forgets needs and nothing else: conditional creates
//! (there is no overwrite), reads, ordered lists, deletes. Reads, lists and deletes are repeated
//! inside, a bounded number of times. A create is one attempt whose answer says exactly what is
//! known; who owns the slot resolves it.
//!
//! Architecture invariant: nothing here knows what the bytes mean. Keys come from `layout.rs`. Every
//! request carries a [`Purpose`] and is counted under it.
//!
//! - `url.rs`, `s3.rs`, `open.rs`: from a URL to a store
//! - `file.rs`: a local directory as a store whose creates survive power loss
//! - `error.rs`: answers of a store, sorted by what they mean
//! - `request.rs`: one attempt of each read
//! - `retry.rs`: attempt timeouts and pauses (pure)
//! - `probe.rs`, `report.rs`: the store proves itself (I11), one line per check
//! - `admin.rs`: creating the bucket, checks of lifecycle and versioning
//! - `testing.rs`: a store that fails as told
//! - `unused.rs`: what our own stores refuse

mod admin;
mod error;
mod file;
mod open;
mod probe;
mod report;
mod request;
mod retry;
mod s3;
#[doc(hidden)]
pub mod testing;
mod unused;
mod url;
mod usage;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_proto::env::{Clock, Entropy, Mono};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, PutMode, PutOptions, PutPayload};

use crate::layout::Key;
use admin::Admin;
use error::Failure;
pub use error::{BucketError, CreateOutcome, Effect, StoreFailure, Unclear, UnclearKind};
pub use file::FileStore;
pub use open::BucketOptions;
pub use probe::Depth;
pub(crate) use probe::PROBE_PASSED;
pub use report::{Check, Report, Verdict};
use retry::AttemptTimer;
pub use retry::backoff;
pub use s3::Environment;
pub use url::{BucketUrl, S3Url};
use usage::Counters;
pub use usage::{BucketUsage, Operation, Purpose, UsageRow};

/// What stands behind a bucket; decides defaults elsewhere (local WAL, put tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketKind {
    /// A store over S3's protocol.
    S3,
    /// A local directory.
    File,
    /// The memory of this process.
    Memory,
    /// A store handed over by a test or a simulation.
    Given,
}

/// One object of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key, without the root prefix.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
}

/// A bucket. Cheap to clone.
#[derive(Clone)]
pub struct Bucket(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    root: Path,
    kind: BucketKind,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    counters: Counters,
    upload: Mutex<AttemptTimer>,
    download: Mutex<AttemptTimer>,
    /// The directory behind a `file://` bucket.
    directory: Option<FileStore>,
    /// What surrounds an S3 bucket.
    admin: Option<Admin>,
    /// Names the configuration that a passed probe speaks for.
    configuration: u64,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({:?}, root '{}')", self.0.kind, self.0.root)
    }
}

impl Bucket {
    /// A bucket over a store that is already open, with keys right below its root.
    pub fn from_store(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Self {
        Self::new(store, Path::default(), BucketKind::Given, clock, entropy)
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        root: Path,
        kind: BucketKind,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            root,
            kind,
            clock,
            entropy,
            counters: Counters::new(),
            upload: Mutex::new(AttemptTimer::new()),
            download: Mutex::new(AttemptTimer::new()),
            directory: None,
            admin: None,
            configuration: 0,
        }))
    }

    /// Adds what only an S3 bucket has. Only before the bucket is shared.
    fn with_admin(self, admin: Admin, configuration: u64) -> Self {
        let mut inner = self.0;
        if let Some(inner) = Arc::get_mut(&mut inner) {
            inner.admin = Some(admin);
            inner.configuration = configuration;
        }
        Self(inner)
    }

    /// Adds what only a directory has. Only before the bucket is shared.
    fn with_directory(self, directory: FileStore) -> Self {
        let mut inner = self.0;
        if let Some(inner) = Arc::get_mut(&mut inner) {
            inner.directory = Some(directory);
        }
        Self(inner)
    }

    /// What stands behind this bucket.
    pub fn kind(&self) -> BucketKind {
        self.0.kind
    }

    /// What has been asked of the store so far.
    pub fn usage(&self) -> BucketUsage {
        self.0.counters.snapshot()
    }

    /// Whether the last that the store said is that it takes no request with the time of this machine.
    pub fn clock_is_off(&self) -> bool {
        self.0.counters.clock_is_off()
    }

    /// ONE attempt of a conditional create (`If-None-Match: *`); nothing is repeated inside. The
    /// pieces of `body` are sent one after the other and never copied.
    ///
    /// Dropping the future leaves the create unclear: it may be done, or be done later.
    pub async fn create_once(
        &self,
        purpose: Purpose,
        key: &Key,
        body: Vec<Bytes>,
    ) -> CreateOutcome {
        let label = (purpose, Operation::Create);
        let payload = PutPayload::from_iter(body);
        let bytes = payload.content_length() as u64;
        let options = PutOptions::from(PutMode::Create);
        let timeout = lock(&self.0.upload).timeout(bytes);
        let started = self.0.clock.mono();

        let path = self.path(key);
        let put = self.0.store.put_opts(&path, payload, options);
        let answer = tokio::time::timeout(timeout, put).await;

        let took = self.0.clock.mono().since(started);
        let outcome = match answer {
            Ok(Ok(_)) => {
                self.0.counters.sent(label, bytes);
                lock(&self.0.upload).on_success(bytes, took);
                CreateOutcome::Created
            }
            Ok(Err(error)) => error::create_outcome(key.as_str(), &error),
            Err(_) => {
                lock(&self.0.upload).on_timeout(bytes, timeout);
                error::timed_out(timeout)
            }
        };
        let answered = matches!(outcome, CreateOutcome::Created | CreateOutcome::Exists);
        self.0.counters.count(label, answered, took);
        if outcome.is_refusal() {
            self.0.counters.refused(label);
        }
        if let CreateOutcome::Refused(error) = &outcome {
            self.0.counters.refused_for(error);
        }
        outcome
    }

    /// The bytes of `range` that the object has: fewer than asked for if it ends earlier, none if
    /// it ends before the range. `None` if there is no such object.
    ///
    /// # Errors
    /// After a bounded number of attempts, or at once where asking again does not help.
    pub async fn get_range(
        &self,
        purpose: Purpose,
        key: &Key,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, BucketError> {
        if range.is_empty() {
            return Ok(self.size(purpose, key).await?.map(|_| Bytes::new()));
        }
        self.get_part(purpose, key, Some(range)).await
    }

    /// The whole object; `None` if there is no such object.
    ///
    /// # Errors
    /// As [`Bucket::get_range`].
    pub async fn get(&self, purpose: Purpose, key: &Key) -> Result<Option<Bytes>, BucketError> {
        self.get_part(purpose, key, None).await
    }

    /// The size of the object in bytes; `None` if there is no such object.
    ///
    /// # Errors
    /// As [`Bucket::get_range`].
    pub async fn size(&self, purpose: Purpose, key: &Key) -> Result<Option<u64>, BucketError> {
        let mut attempt = self.attempt(purpose, Operation::Head, key);
        loop {
            let started = self.0.clock.mono();
            let answer = self.head_once(&self.path(key)).await;
            let took = self.0.clock.mono().since(started);
            self.0
                .counters
                .count(attempt.label, error::is_answer(&answer), took);
            match answer {
                Ok(size) => return Ok(Some(size)),
                Err(error) => {
                    if self.is_absent(&mut attempt, error).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Up to `limit` objects under the folder `prefix`, in the order of their keys, from the first
    /// one after `start_after` on.
    ///
    /// # Errors
    /// As [`Bucket::get_range`]; [`BucketError::Unfit`] if the store lists out of order.
    pub async fn list(
        &self,
        purpose: Purpose,
        prefix: &Key,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<ListedObject>, BucketError> {
        let mut found = Vec::new();
        let mut attempt = self.attempt(purpose, Operation::List, prefix);
        loop {
            let started = self.0.clock.mono();
            let answer = self.list_once(prefix, start_after, limit, &mut found).await;
            let took = self.0.clock.mono().since(started);
            self.0
                .counters
                .count(attempt.label, error::is_answer(&answer), took);
            match answer {
                Ok(()) => break,
                Err(error) => {
                    if self.is_absent(&mut attempt, error).await? {
                        break;
                    }
                }
            }
        }
        if !found.is_sorted_by(|a, b| a.key < b.key) {
            return Err(BucketError::Unfit {
                check: "list order",
                reason: format!("LIST of {prefix} is not in the order of keys"),
            });
        }
        Ok(found)
    }

    /// Removes the directory of a key prefix if no object is left in it, where there are directories.
    /// Only for prefixes below which nothing is created any more that must last: an object that is
    /// created there meanwhile may fail, or not survive a power loss.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn remove_empty_folder(&self, folder: &Key) -> Result<(), BucketError> {
        let Some(directory) = &self.0.directory else {
            return Ok(());
        };
        let removed = directory.remove_empty(self.path(folder)).await;
        removed.map_err(
            |error| match error::sort(Operation::Delete, folder.as_str(), &error) {
                Failure::Lasting(error) => error,
                Failure::Absent | Failure::Passing(_) => BucketError::Unavailable {
                    operation: Operation::Delete,
                    key: folder.to_string(),
                    attempts: 1,
                    detail: error::detail(&error),
                },
            },
        )
    }

    /// Deletes objects. One that is not there counts as deleted.
    ///
    /// # Errors
    /// As [`Bucket::get_range`]; some of the objects may be gone then.
    pub async fn delete(&self, purpose: Purpose, keys: &[Key]) -> Result<(), BucketError> {
        let Some(first) = keys.first() else {
            return Ok(());
        };
        let mut attempt = self.attempt(purpose, Operation::Delete, first);
        loop {
            let started = self.0.clock.mono();
            let answer = self.delete_once(keys).await;
            let took = self.0.clock.mono().since(started);
            self.0
                .counters
                .count(attempt.label, error::is_answer(&answer), took);
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.is_absent(&mut attempt, error).await?;
                }
            }
        }
    }

    async fn get_part(
        &self,
        purpose: Purpose,
        key: &Key,
        range: Option<Range<u64>>,
    ) -> Result<Option<Bytes>, BucketError> {
        let mut attempt = self.attempt(purpose, Operation::Get, key);
        let path = self.path(key);
        loop {
            let started = self.0.clock.mono();
            let answer = self.get_once(&path, range.clone()).await;
            let took = self.0.clock.mono().since(started);
            self.0
                .counters
                .count(attempt.label, error::is_answer(&answer), took);
            match answer {
                Ok(bytes) => {
                    self.0.counters.received(attempt.label, bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    if let Some(range) = &range
                        && error::may_be_range(&error)
                        && self
                            .size(purpose, key)
                            .await?
                            .is_some_and(|size| size <= range.start)
                    {
                        return Ok(Some(Bytes::new()));
                    }
                    if self.is_absent(&mut attempt, error).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn attempt<'a>(&self, purpose: Purpose, operation: Operation, key: &'a Key) -> Attempt<'a> {
        Attempt {
            label: (purpose, operation),
            key,
            number: 0,
            began: self.0.clock.mono(),
        }
    }

    /// Whether a failed attempt says that the object is absent. Otherwise pauses before the next
    /// attempt, or gives up.
    async fn is_absent(
        &self,
        attempt: &mut Attempt<'_>,
        error: StoreError,
    ) -> Result<bool, BucketError> {
        let (purpose, operation) = attempt.label;
        let detail = match error::sort(operation, attempt.key.as_str(), &error) {
            Failure::Absent if operation != Operation::Delete => return Ok(true),
            Failure::Absent => "a key of the batch was not there".to_owned(),
            Failure::Lasting(error) => {
                self.0.counters.refused_for(&error);
                return Err(error);
            }
            Failure::Passing(detail) => detail,
        };
        attempt.number += 1;
        // Who lets a store prove itself asks again itself, and says meanwhile what is waited for.
        let waited = self.0.clock.mono().since(attempt.began);
        let is_long = purpose == Purpose::Probe && waited >= retry::PROBE_PATIENCE;
        if attempt.number >= retry::READ_ATTEMPTS_MAX || is_long {
            return Err(BucketError::Unavailable {
                operation,
                key: attempt.key.to_string(),
                attempts: attempt.number,
                detail,
            });
        }
        let pause = backoff(attempt.number, self.0.entropy.next_u64());
        tracing::debug!(
            %purpose, %operation, key = %attempt.key, attempt = attempt.number, ?pause, detail,
            "the store did not answer, asking again"
        );
        tokio::time::sleep(pause).await;
        Ok(false)
    }

    fn path(&self, key: &Key) -> Path {
        let key = Path::from(key.as_str());
        self.0.root.parts().chain(key.parts()).collect()
    }

    fn key(&self, path: &Path) -> Option<Key> {
        let below = path.as_ref().strip_prefix(self.0.root.as_ref())?;
        Some(Key::listed(below.trim_start_matches('/')))
    }
}

/// One request and its repetitions.
struct Attempt<'a> {
    label: (Purpose, Operation),
    key: &'a Key,
    number: u32,
    began: Mono,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
