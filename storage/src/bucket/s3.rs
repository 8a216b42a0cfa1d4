//! Connects to a store over S3's protocol: credentials, region, client options.
//!
//! The data path uses `object_store`; the AWS SDK brings the credential chain (environment,
//! profiles, web identity, container and machine roles) and what `admin.rs` does.
//!
//! Nothing here repeats a request: `object_store` would repeat a create after a 5xx and then take
//! its own first attempt for somebody else's object. `bucket/` and the streams repeat by their own
//! rules. Bodies go unsigned: they carry their own checksums, and hashing them with SHA-256 would
//! cost more CPU than all the rest of a put.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use firn_proto::env::Clock;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::{ClientOptions, CredentialProvider, RetryConfig};
use tokio::sync::Mutex;
use url::Url;

use super::error::BucketError;
use super::url::S3Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the time after which S3 closes an idle connection, so that a put rarely meets a dead one.
const IDLE_CONNECTION: Duration = Duration::from_secs(15);
/// Credentials are fetched anew this long before they expire.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(300);
const REGION_DEFAULT: &str = "us-east-1";

/// The environment names that open an S3 store.
const ENV_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const ENV_SECRET: &str = "AWS_SECRET_ACCESS_KEY";
const ENV_TOKEN: &str = "AWS_SESSION_TOKEN";
const ENV_REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const ENV_ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
const ENV_PROFILE: &str = "AWS_PROFILE";

/// The names of the environment that say how to reach S3. Never printed: some values are secrets.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// What the environment of this process says.
    pub fn of_process() -> Self {
        Self(
            std::env::vars()
                .filter(|(name, _)| name.starts_with("AWS_"))
                .collect(),
        )
    }

    /// Given names and values, and nothing else.
    pub fn of(values: &[(&str, &str)]) -> Self {
        Self(
            values
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    fn first(&self, names: &[&str]) -> Option<String> {
        names
            .iter()
            .find_map(|name| self.0.get(*name).filter(|v| !v.is_empty()).cloned())
    }
}

/// An S3 store and the SDK's configuration for the same place.
pub(super) struct Connection {
    pub(super) store: AmazonS3,
    pub(super) sdk: SdkConfig,
    /// The URL with what the environment added.
    pub(super) url: S3Url,
}

/// Makes the clients. The store is not asked anything yet.
pub(super) async fn connect(
    url: &S3Url,
    environment: &Environment,
    clock: Arc<dyn Clock>,
) -> Result<Connection, BucketError> {
    let mut url = url.clone();
    if url.endpoint.is_none() {
        url.endpoint = environment.first(&ENV_ENDPOINTS);
        url.path_style |= url.endpoint.is_some();
    }
    let region = url
        .region
        .take()
        .or_else(|| environment.first(&ENV_REGIONS));
    let region = region.or_else(|| url.endpoint.as_ref().map(|_| REGION_DEFAULT.to_owned()));
    let sdk = Box::pin(load(&url, region, environment)).await;
    let region = sdk
        .region()
        .map_or(REGION_DEFAULT, Region::as_ref)
        .to_owned();
    url.region = Some(region.clone());

    let provider = sdk
        .credentials_provider()
        .ok_or_else(|| BucketError::NoCredentials {
            detail: "there is no source of any".to_owned(),
        })?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&url.bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!url.path_style)
        .with_credentials(Arc::new(ChainCredentials::new(provider, clock)))
        .with_unsigned_payload(true)
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        })
        .with_client_options(
            ClientOptions::new()
                .with_timeout_disabled()
                .with_connect_timeout(CONNECT_TIMEOUT)
                .with_pool_idle_timeout(IDLE_CONNECTION)
                .with_allow_http(true),
        );
    if let Some(endpoint) = &url.endpoint {
        builder = builder.with_endpoint(request_endpoint(endpoint, &url)?);
    }
    let store = builder.build().map_err(|error| BucketError::Url {
        url: url.to_string(),
        reason: error.to_string(),
    })?;
    Ok(Connection { store, sdk, url })
}

async fn load(url: &S3Url, region: Option<String>, environment: &Environment) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint) = &url.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(profile) = url
        .profile
        .clone()
        .or_else(|| environment.first(&[ENV_PROFILE]))
    {
        loader = loader.profile_name(profile);
    }
    let id = environment.first(&[ENV_KEY_ID]);
    let secret = environment.first(&[ENV_SECRET]);
    // A profile named in the URL is meant; one of the environment yields to keys beside it, as in
    // the AWS tools.
    if let (None, Some(id), Some(secret)) = (&url.profile, id, secret) {
        let token = environment.first(&[ENV_TOKEN]);
        loader =
            loader.credentials_provider(Credentials::new(id, secret, token, None, "environment"));
    }
    loader.load().await
}

/// `object_store` takes the bucket's own host name where requests are virtual-hosted.
fn request_endpoint(endpoint: &str, url: &S3Url) -> Result<String, BucketError> {
    if url.path_style {
        return Ok(endpoint.to_owned());
    }
    let refuse = || BucketError::Url {
        url: url.to_string(),
        reason: "the endpoint has no host name that a bucket could stand before: use \
                 path_style=true"
            .to_owned(),
    };
    let mut parsed = Url::parse(endpoint).map_err(|_| refuse())?;
    let host = format!("{}.{}", url.bucket, parsed.host_str().unwrap_or_default());
    parsed.set_host(Some(&host)).map_err(|_| refuse())?;
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

/// The SDK's credential chain for `object_store`, with the credentials kept until shortly before
/// they expire. Concurrent requests wait for one renewal.
struct ChainCredentials {
    provider: SharedCredentialsProvider,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
}

struct Held {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
}

impl fmt::Debug for ChainCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainCredentials")
    }
}

impl ChainCredentials {
    fn new(provider: SharedCredentialsProvider, clock: Arc<dyn Clock>) -> Self {
        Self {
            provider,
            clock,
            held: Mutex::new(None),
        }
    }

    async fn credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut held = self.held.lock().await;
        let now = UNIX_EPOCH
            + Duration::from_millis(u64::try_from(self.clock.wall_ms()).unwrap_or_default());
        let fresh = |held: &Held, margin| held.expires.is_none_or(|at| now + margin < at);
        if let Some(held) = held.as_ref().filter(|h| fresh(h, RENEW_BEFORE_EXPIRY)) {
            return Ok(Arc::clone(&held.credential));
        }
        match self.provider.provide_credentials().await {
            Ok(renewed) => {
                let credential = Arc::new(AwsCredential {
                    key_id: renewed.access_key_id().to_owned(),
                    secret_key: renewed.secret_access_key().to_owned(),
                    token: renewed.session_token().map(str::to_owned),
                });
                *held = Some(Held {
                    credential: Arc::clone(&credential),
                    expires: renewed.expiry(),
                });
                Ok(credential)
            }
            Err(error) => {
                // Whoever never had any is told by the error.
                if held.is_some() {
                    tracing::warn!(%error, "no new credentials for the store");
                }
                match held.as_ref().filter(|h| fresh(h, Duration::ZERO)) {
                    Some(held) => Ok(Arc::clone(&held.credential)),
                    None => Err(object_store::Error::Unauthenticated {
                        path: "credentials".to_owned(),
                        source: Box::new(error),
                    }),
                }
            }
        }
    }
}

impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(
        &'a self,
    ) -> BoxFuture<'b, object_store::Result<Arc<Self::Credential>>>
    where
        'a: 'b,
        Self: 'b,
    {
        self.credential().boxed()
    }
}

#[cfg(test)]
mod tests;
