//! What is set up around a bucket and not in it: its creation, its lifecycle rules, its versioning.
//! Never on the data path.
//!
//! A lifecycle rule that expires or moves objects is the one thing that can take acknowledged
//! records and seals away behind Firn's back, so a bucket with such a rule over Firn's prefix is
//! refused. The only rule Firn sets itself removes unfinished multipart uploads.

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketLocationConstraint,
    BucketVersioningStatus, CreateBucketConfiguration, ExpirationStatus, LifecycleRule,
    LifecycleRuleFilter,
};

use super::Operation;
use super::error::{BucketError, CLOCK_OFF, chain, rejection_hint};
use super::report::{Report, Verdict};
use super::s3::Connection;
use super::url::S3Url;

const LIFECYCLE: &str = "lifecycle rules";
const VERSIONING: &str = "versioning";
const ABORT_AFTER_DAYS: i32 = 1;
/// What one question about the bucket may take, with all repetitions of the SDK.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The administrative side of an S3 bucket.
#[derive(Clone)]
pub(super) struct Admin {
    client: Client,
    url: S3Url,
}

/// What a lifecycle rule does, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleView {
    pub(super) id: String,
    pub(super) enabled: bool,
    pub(super) prefix: String,
    /// Applies only to objects with a tag, which Firn's never have.
    pub(super) needs_tag: bool,
    pub(super) expires: bool,
    pub(super) moves: bool,
}

impl Admin {
    pub(super) fn new(connection: &Connection) -> Self {
        let config = Builder::from(&connection.sdk)
            .force_path_style(connection.url.path_style)
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_timeout(OPERATION_TIMEOUT)
                    .build(),
            )
            .build();
        Self {
            client: Client::from_conf(config),
            url: connection.url.clone(),
        }
    }

    /// Creates the bucket unless it is there.
    pub(super) async fn create_bucket(&self) -> Result<(), BucketError> {
        let name = &self.url.bucket;
        match Box::pin(self.client.head_bucket().bucket(name).send()).await {
            Ok(_) => return Ok(()),
            // Some answer a HEAD of what is not there with a refusal: the create shows which it is.
            Err(SdkError::ServiceError(_)) => {}
            Err(error) => return Err(failed(name, &error)),
        }
        let mut request = self.client.create_bucket().bucket(name);
        let region = self.url.region.as_deref().unwrap_or_default();
        // AWS wants the region named except in the oldest one; other stores do not know theirs.
        if self.url.endpoint.is_none() && region != "us-east-1" {
            let place = BucketLocationConstraint::from(region);
            let place = CreateBucketConfiguration::builder()
                .location_constraint(place)
                .build();
            request = request.create_bucket_configuration(place);
        }
        match Box::pin(request.send()).await {
            Ok(_) => tracing::info!(bucket = name, "created the bucket"),
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => return Ok(()),
            Err(error) => return Err(failed(name, &error)),
        }
        self.set_abort_rule().await;
        Ok(())
    }

    /// Best effort: some stores know no lifecycle rules, and Firn works without.
    async fn set_abort_rule(&self) {
        let abort = AbortIncompleteMultipartUpload::builder()
            .days_after_initiation(ABORT_AFTER_DAYS)
            .build();
        let rule = LifecycleRule::builder()
            .id("firn-abort-incomplete-multipart")
            .status(ExpirationStatus::Enabled)
            .filter(
                LifecycleRuleFilter::builder()
                    .prefix(self.url.prefix.clone())
                    .build(),
            )
            .abort_incomplete_multipart_upload(abort)
            .build();
        let rules =
            rule.and_then(|rule| BucketLifecycleConfiguration::builder().rules(rule).build());
        let Ok(rules) = rules else {
            return;
        };
        let request = self
            .client
            .put_bucket_lifecycle_configuration()
            .bucket(&self.url.bucket)
            .lifecycle_configuration(rules);
        if let Err(error) = Box::pin(request.send()).await {
            tracing::debug!(
                error = words(&error),
                "the store takes no rule for unfinished multipart uploads"
            );
        }
    }

    /// Adds the checks of what surrounds the bucket to `report`.
    pub(super) async fn check(&self, report: &mut Report) {
        self.check_lifecycle(report).await;
        self.check_versioning(report).await;
    }

    async fn check_lifecycle(&self, report: &mut Report) {
        let request = self
            .client
            .get_bucket_lifecycle_configuration()
            .bucket(&self.url.bucket);
        match Box::pin(request.send()).await {
            Ok(rules) => {
                let rules: Vec<RuleView> = rules.rules().iter().map(view).collect();
                match first_dangerous(&rules, &self.url.prefix) {
                    None => report.add(LIFECYCLE, Verdict::Passed, "none touches the prefix"),
                    Some((rule, what)) => report.add_with_fix(
                        LIFECYCLE,
                        Verdict::Failed,
                        format!("rule '{}' {what} objects under the prefix", rule.id),
                        "remove the rule or narrow it to other prefixes: it would destroy records",
                    ),
                }
            }
            Err(error) if error.code() == Some("NoSuchLifecycleConfiguration") => {
                report.add(LIFECYCLE, Verdict::Passed, "there are none");
            }
            Err(error) if is_unknown(error.code()) => {
                report.add(LIFECYCLE, Verdict::Skipped, "the store knows none");
            }
            Err(error) => report.add_with_fix(
                LIFECYCLE,
                Verdict::Warned,
                format!("not readable: {}", words(&error)),
                "allow s3:GetLifecycleConfiguration, so that a rule that expires records is seen",
            ),
        }
    }

    async fn check_versioning(&self, report: &mut Report) {
        let request = self.client.get_bucket_versioning().bucket(&self.url.bucket);
        match Box::pin(request.send()).await {
            Ok(answer) if answer.status() == Some(&BucketVersioningStatus::Enabled) => {
                report.add_with_fix(
                    VERSIONING,
                    Verdict::Warned,
                    "on: deleted objects stay as old versions and are billed",
                    "add a lifecycle rule that expires noncurrent versions, and nothing else",
                );
            }
            Ok(_) => report.add(VERSIONING, Verdict::Passed, "off"),
            Err(error) if is_unknown(error.code()) => {
                report.add(VERSIONING, Verdict::Skipped, "the store knows none");
            }
            Err(error) => {
                report.add(
                    VERSIONING,
                    Verdict::Warned,
                    format!("not readable: {}", words(&error)),
                );
            }
        }
    }
}

fn is_unknown(code: Option<&str>) -> bool {
    matches!(
        code,
        Some("NotImplemented" | "MethodNotAllowed" | "XNotImplemented")
    )
}

/// Why the bucket called `name` could not be looked at or created.
fn failed<E>(name: &str, error: &SdkError<E>) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let detail = words(error);
    let lacking = chain(error).find_map(|e| e.downcast_ref::<CredentialsError>());
    if let Some(lacking) = lacking {
        return BucketError::no_credentials(lacking);
    }
    let (operation, key) = (Operation::Create, format!("bucket {name}"));
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let hint = error.code().and_then(rejection_hint);
    match (status, hint) {
        _ if error.code() == Some(CLOCK_OFF) => BucketError::ClockOff { detail },
        (_, Some(hint)) => BucketError::Rejected { detail, hint },
        (Some(401 | 403), None) => BucketError::Denied {
            operation,
            key,
            detail,
        },
        _ => BucketError::Unavailable {
            operation,
            key,
            attempts: 1,
            detail,
        },
    }
}

/// The words of an SDK error; the request, which could hold secrets, is not among them.
fn words<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ if matches!(error, SdkError::TimeoutError(_)) => {
            format!("no answer within {} ms", OPERATION_TIMEOUT.as_millis())
        }
        _ => {
            let last = chain(error).last().map(ToString::to_string);
            last.unwrap_or_else(|| error.to_string())
        }
    }
}

fn view(rule: &LifecycleRule) -> RuleView {
    #[expect(deprecated, reason = "old rules still carry their prefix here")]
    let old_prefix = rule.prefix();
    let filter = rule.filter();
    let both = filter.and_then(LifecycleRuleFilter::and);
    let prefix = filter
        .and_then(LifecycleRuleFilter::prefix)
        .or_else(|| both.and_then(|and| and.prefix()))
        .or(old_prefix);
    RuleView {
        id: rule.id().unwrap_or_default().to_owned(),
        enabled: *rule.status() == ExpirationStatus::Enabled,
        prefix: prefix.unwrap_or_default().to_owned(),
        needs_tag: filter.is_some_and(|f| f.tag().is_some())
            || both.is_some_and(|and| !and.tags().is_empty()),
        // A rule that only removes expired delete markers expires no object.
        expires: rule
            .expiration()
            .is_some_and(|e| e.days().is_some() || e.date().is_some()),
        moves: !rule.transitions().is_empty(),
    }
}

/// The first rule that would take objects under `root` away, and what it does to them.
pub(super) fn first_dangerous<'a>(
    rules: &'a [RuleView],
    root: &str,
) -> Option<(&'a RuleView, &'static str)> {
    rules
        .iter()
        .filter(|rule| rule.enabled && !rule.needs_tag)
        .filter(|rule| rule.prefix.starts_with(root) || root.starts_with(&rule.prefix))
        .find_map(|rule| match (rule.expires, rule.moves) {
            (true, _) => Some((rule, "expires")),
            (_, true) => Some((rule, "moves")),
            _ => None,
        })
}

#[cfg(test)]
mod tests;
