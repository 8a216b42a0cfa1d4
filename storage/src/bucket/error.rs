//! What can go wrong at a bucket, sorted by what the caller must do, and how the answers of
//! `object_store` map to it.
//!
//! `object_store` 0.13 does not expose the HTTP status of a failed request. Where its error kind is
//! not enough, the status is read from the text of the error; nothing that matters for safety
//! rests on that, because every unclear create is resolved by reading the slot back.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use thiserror::Error;

use super::usage::Operation;

/// The error code of a request to the wrong region.
const WRONG_REGION: &str = "PermanentRedirect";
/// The error code of a request whose signature is from another time than the store's.
pub(super) const CLOCK_OFF: &str = "RequestTimeTooSkewed";
/// Longest piece of a store's own words that is kept in an error.
const DETAIL_CHARS_MAX: usize = 300;

/// Why the bucket could not be opened, read or listed.
#[derive(Clone, Debug, Error)]
pub enum BucketError {
    /// The URL of the bucket is not understood.
    #[error("the bucket url '{url}' is not usable: {reason}")]
    Url {
        /// The URL, without secrets.
        url: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The bucket itself does not exist.
    #[error("{what} does not exist: create it, or pass --create-bucket")]
    NoSuchBucket {
        /// The bucket, or the directory.
        what: String,
    },
    /// The store refuses our credentials or our rights.
    #[error(
        "the store refuses access: {detail}: check the credentials and their policy ({operation} {key})"
    )]
    Denied {
        /// What was tried.
        operation: Operation,
        /// On which key.
        key: String,
        /// The store's own words.
        detail: String,
    },
    /// There are no credentials to ask the store with.
    #[error(
        "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile \
         (profile= in the url, AWS_PROFILE), or run where the machine has a role ({detail})"
    )]
    NoCredentials {
        /// What the last of their sources said.
        detail: String,
    },
    /// The store takes no request of this process: its clock is off.
    #[error(
        "the store takes no signature of this machine's time: {detail}: set the clock, and keep it \
         right (NTP)"
    )]
    ClockOff {
        /// The store's own words.
        detail: String,
    },
    /// The store understands what is asked and will never do it.
    #[error("the store rejects what is asked: {detail}: {hint}")]
    Rejected {
        /// The store's own words.
        detail: String,
        /// What to do.
        hint: &'static str,
    },
    /// The store did not give a usable answer, however often it was asked.
    #[error("{detail} (attempt {attempts} of {operation} {key})")]
    Unavailable {
        /// What was tried.
        operation: Operation,
        /// On which key.
        key: String,
        /// How often.
        attempts: u32,
        /// The last answer.
        detail: String,
    },
    /// The local directory behind a `file://` bucket fails.
    #[error("the directory of the bucket fails at {operation} {key}: {detail}")]
    Disk {
        /// What was tried.
        operation: Operation,
        /// On which key.
        key: String,
        /// The operating system's words.
        detail: String,
    },
    /// The local directory behind a `file://` bucket may not be used as it is.
    #[error(
        "the directory of the bucket refuses {operation} {key}: {detail}: check its path, its owner \
         and rights, and how it is mounted"
    )]
    DirectoryRefuses {
        /// What was tried.
        operation: Operation,
        /// On which key.
        key: String,
        /// The operating system's words.
        detail: String,
    },
    /// The store broke a promise that Firn's durability rests on (I11).
    #[error("this store cannot hold a log: {check}: {reason}")]
    Unfit {
        /// The check that failed.
        check: &'static str,
        /// What was seen.
        reason: String,
    },
}

impl BucketError {
    /// A step in a local directory failed. What only whoever runs the machine can change is told
    /// from what may pass by itself, as a full disk may.
    pub(super) fn directory(operation: Operation, key: String, failure: &StoreFailure) -> Self {
        let detail = failure.detail.clone();
        match failure.effect {
            Effect::Refused => Self::DirectoryRefuses {
                operation,
                key,
                detail,
            },
            Effect::None | Effect::Unknown(_) => Self::Disk {
                operation,
                key,
                detail,
            },
        }
    }

    /// The bucket of the URL is not there.
    pub(super) fn no_such_bucket() -> Self {
        let what = "the bucket".to_owned();
        Self::NoSuchBucket { what }
    }

    /// Nobody gave us credentials.
    pub(super) fn no_credentials(error: &CredentialsError) -> Self {
        let last = chain(error).last().map(ToString::to_string);
        let last = last.unwrap_or_else(|| error.to_string());
        let detail = last.chars().take(DETAIL_CHARS_MAX).collect();
        Self::NoCredentials { detail }
    }
}

/// Why nobody knows yet whether a create has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnclearKind {
    /// No answer within the attempt's time.
    Timeout,
    /// The connection broke, before or after the store took the object.
    Broken,
    /// The store said that it is overloaded (503, 429).
    Throttled,
    /// The store said that it failed (other 5xx).
    Failed,
    /// The store said 409: another request touched the key at the same time.
    Conflict,
    /// The store said something that has no other name here.
    Other,
}

/// An answer to a create that does not say whether the object is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclear {
    /// The kind of answer.
    pub kind: UnclearKind,
    /// The store's own words, shortened.
    pub detail: String,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// The answer to one attempt of a conditional create.
#[derive(Clone, Debug)]
pub enum CreateOutcome {
    /// The object is there, durable, and these are its bytes.
    Created,
    /// An object is there. Whose is not known: it may be an earlier attempt of our own.
    Exists,
    /// It may be there, it may come to be there later, or not at all.
    Unclear(Unclear),
    /// It is not there, and the next attempt will most likely fare the same: no such bucket, no
    /// right, disk full. Callers keep trying, slowly, since an operator may be mending it.
    Refused(BucketError),
}

impl CreateOutcome {
    /// Whether the store answered that it does not take the object now.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Unclear(unclear) => {
                matches!(unclear.kind, UnclearKind::Throttled | UnclearKind::Failed)
            }
            Self::Created | Self::Exists => false,
        }
    }
}

/// An error of an [`object_store::ObjectStore`] that is not HTTP, with what is known about its
/// effect; stores of our own put it as the source of [`StoreError::Generic`].
#[derive(Clone, Debug, Error)]
#[error("{detail}")]
pub struct StoreFailure {
    /// How the create stands.
    pub effect: Effect,
    /// What happened.
    pub detail: String,
}

/// What a failed create has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Certainly nothing.
    None,
    /// Certainly nothing, and the next attempt fares the same until somebody changes the store.
    Refused,
    /// Nobody knows.
    Unknown(UnclearKind),
}

impl StoreFailure {
    /// What the operating system says of a step that otherwise has this `effect`.
    pub(super) fn of_disk(error: &io::Error, effect: Effect, detail: String) -> Self {
        use io::ErrorKind::{
            InvalidFilename, InvalidInput, NotADirectory, PermissionDenied, ReadOnlyFilesystem,
        };
        let effect = match error.kind() {
            InvalidFilename | InvalidInput | NotADirectory | PermissionDenied
            | ReadOnlyFilesystem => Effect::Refused,
            _ => effect,
        };
        Self { effect, detail }
    }

    /// Wraps it as an error of the store called `store`.
    pub fn into_error(self, store: &'static str) -> StoreError {
        StoreError::Generic {
            store,
            source: Box::new(self),
        }
    }
}

/// What an error of `object_store` says about a create.
pub(super) fn create_outcome(key: &str, error: &StoreError) -> CreateOutcome {
    let operation = Operation::Create;
    match error {
        // 412 arrives as a Precondition inside AlreadyExists. Anything else inside it that came
        // over HTTP was a 409: "nothing decided, send it again", not "somebody else won".
        StoreError::AlreadyExists { source, .. } => {
            if is_conflict(source.as_ref()) {
                CreateOutcome::Unclear(Unclear {
                    kind: UnclearKind::Conflict,
                    detail: detail(error),
                })
            } else {
                CreateOutcome::Exists
            }
        }
        StoreError::Precondition { .. } | StoreError::NotModified { .. } => CreateOutcome::Exists,
        StoreError::NotFound { .. } => CreateOutcome::Refused(BucketError::no_such_bucket()),
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            CreateOutcome::Refused(denied(operation, key, error))
        }
        other if let Some(rejected) = rejected(other) => CreateOutcome::Refused(rejected),
        other => {
            let kind = match failure_of(other) {
                Some(failure) => match failure.effect {
                    Effect::Unknown(kind) => kind,
                    Effect::None | Effect::Refused => {
                        let key = key.to_owned();
                        let refused = BucketError::directory(operation, key, failure);
                        return CreateOutcome::Refused(refused);
                    }
                },
                None => kind_of(other),
            };
            CreateOutcome::Unclear(Unclear {
                kind,
                detail: detail(error),
            })
        }
    }
}

/// The outcome of an attempt that was given up after `waited`.
pub(super) fn timed_out(waited: Duration) -> CreateOutcome {
    CreateOutcome::Unclear(Unclear {
        kind: UnclearKind::Timeout,
        detail: format!("no answer within {} ms", waited.as_millis()),
    })
}

/// Whether an answer can be used: that an object is absent is as good an answer as any.
pub(super) fn is_answer<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Ok(_) | Err(StoreError::NotFound { .. }))
}

/// What a failed read, list or delete means.
pub(super) enum Failure {
    /// There is no such object.
    Absent,
    /// Asking again may help.
    Passing(String),
    /// Asking again soon will not help.
    Lasting(BucketError),
}

/// Sorts an error of a read, list or delete.
pub(super) fn sort(operation: Operation, key: &str, error: &StoreError) -> Failure {
    match error {
        // A LIST says it in the body of the answer alone; keys and paths may have that name.
        error if code(&error.to_string()) == Some("NoSuchBucket") => {
            Failure::Lasting(BucketError::no_such_bucket())
        }
        StoreError::NotFound { .. } => Failure::Absent,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            Failure::Lasting(denied(operation, key, error))
        }
        other if let Some(rejected) = rejected(other) => Failure::Lasting(rejected),
        other => match failure_of(other) {
            Some(failure) if !matches!(failure.effect, Effect::Unknown(_)) => {
                let key = key.to_owned();
                Failure::Lasting(BucketError::directory(operation, key, failure))
            }
            _ => Failure::Passing(detail(error)),
        },
    }
}

/// Whether `error` may mean that the range asked for begins at or after the end of the object
/// (416 over HTTP, a plain error in memory and on disk). A HEAD settles it.
pub(super) fn may_be_range(error: &StoreError) -> bool {
    matches!(error, StoreError::Generic { .. })
        && http_error(error).is_none()
        && failure_of(error).is_none()
        && matches!(status(error), None | Some(416))
}

fn denied(operation: Operation, key: &str, error: &StoreError) -> BucketError {
    if code(&error.to_string()) == Some(CLOCK_OFF) {
        let detail = detail(error);
        return BucketError::ClockOff { detail };
    }
    let lacking = chain(error).find_map(|e| e.downcast_ref::<CredentialsError>());
    match lacking {
        Some(lacking) => BucketError::no_credentials(lacking),
        None => BucketError::Denied {
            operation,
            key: key.to_owned(),
            detail: detail(error),
        },
    }
}

/// What a store will never do, however often it is asked.
fn rejected(error: &StoreError) -> Option<BucketError> {
    let text = error.to_string();
    // A redirect that says nothing at all is how S3 answers in the wrong region.
    let code = code(&text).or_else(|| {
        text.contains("redirect without LOCATION")
            .then_some(WRONG_REGION)
    });
    let hint = rejection_hint(code?)?;
    let detail = detail(error);
    Some(BucketError::Rejected { detail, hint })
}

/// What to do about an error code that no repetition changes.
pub(super) fn rejection_hint(code: &str) -> Option<&'static str> {
    match code {
        "InvalidBucketName" => Some("give the bucket a name that the store takes"),
        "BucketAlreadyExists" => Some("somebody else has a bucket of that name, choose another"),
        WRONG_REGION
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "IncorrectEndpoint"
        | "InvalidLocationConstraint" => Some("check region= and endpoint= of the bucket url"),
        "NotImplemented" => {
            Some("use a store with atomic conditional puts: AWS S3, MinIO, Cloudflare R2, file://")
        }
        _ => None,
    }
}

fn is_conflict(source: &(dyn StdError + 'static)) -> bool {
    let text = source.to_string();
    source.downcast_ref::<StoreError>().is_none() && text.contains("status code: 409")
}

fn kind_of(error: &StoreError) -> UnclearKind {
    if let Some(http) = http_error(error) {
        return match http.kind() {
            HttpErrorKind::Timeout => UnclearKind::Timeout,
            _ => UnclearKind::Broken,
        };
    }
    match status(error) {
        Some(429 | 503) => UnclearKind::Throttled,
        Some(500..) => UnclearKind::Failed,
        Some(408) => UnclearKind::Timeout,
        _ => UnclearKind::Other,
    }
}

/// The HTTP status in the text of an error.
fn status(error: &StoreError) -> Option<u16> {
    let text = error.to_string();
    let (_, after) = text.split_once("status code: ")?;
    after.get(..3)?.parse().ok()
}

fn failure_of(error: &StoreError) -> Option<&StoreFailure> {
    chain(error).find_map(|e| e.downcast_ref())
}

fn http_error(error: &StoreError) -> Option<&HttpError> {
    chain(error).find_map(|e| e.downcast_ref())
}

/// The causes of an error, outermost first.
pub(super) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The words of an error, without what S3 repeats of the request: an error body holds the access
/// key id and the string that was signed.
pub(super) fn detail(error: &StoreError) -> String {
    let text = error.to_string();
    let short = match (code(&text), status(error)) {
        (Some(code), status) => {
            let message = between(&text, "<Message>", "</Message>").unwrap_or_default();
            let status = status.map(|s| format!("{s} ")).unwrap_or_default();
            format!("{status}{code}: {message}")
        }
        (None, _) => {
            // What was asked, and of whom, says whoever reports this.
            let answer = text
                .split_once(" - ")
                .map_or(text.as_str(), |(_, answer)| answer);
            let last = chain(error).last().map(ToString::to_string);
            let is_last_enough = http_error(error).is_some() || failure_of(error).is_some();
            match last {
                Some(last) if is_last_enough => last,
                Some(last) if !text.contains(&last) => format!("{answer}: {last}"),
                _ => answer.to_owned(),
            }
        }
    };
    let short = short.split_whitespace().collect::<Vec<_>>().join(" ");
    short.chars().take(DETAIL_CHARS_MAX).collect()
}

/// The error code in the body of an answer over HTTP.
fn code(text: &str) -> Option<&str> {
    between(text, "<Code>", "</Code>")
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(open)?;
    Some(after.split_once(close)?.0)
}
