//! The URL of a bucket: parsed completely, so that a mistyped key is an error and not a default.
//!
//! Pure: no IO. Secrets never stand in a URL; credentials come from the environment, the AWS
//! configuration files or the machine's role.

use std::path::PathBuf;

use url::Url;

use super::error::BucketError;

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketUrl {
    /// `file://DIR`: a local directory, relative or absolute.
    File(PathBuf),
    /// `memory://`: this process, gone with it.
    Memory,
    /// `s3://bucket/prefix?...`
    S3(S3Url),
}

/// A bucket over S3's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Url {
    /// The bucket.
    pub bucket: String,
    /// The root prefix without slashes at its ends; may be empty.
    pub prefix: String,
    /// Where the service is, if it is not AWS itself.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Whether the bucket stands in the path (true) or in the host name of requests.
    pub path_style: bool,
    /// The profile of the AWS configuration files to take credentials from.
    pub profile: Option<String>,
}

const S3_KEYS: &[&str] = &["endpoint", "region", "path_style", "profile"];
const SECRET_PARTS: &[&str] = &["key", "secret", "token", "password", "credential"];

impl BucketUrl {
    /// Parses a URL as the command line takes it.
    ///
    /// # Errors
    /// [`BucketError::Url`], with what would be right.
    pub fn parse(text: &str) -> Result<Self, BucketError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(refuse(
                text,
                "it has no scheme: use file://DIR, memory:// or s3://BUCKET/PREFIX".to_owned(),
            ));
        };
        match scheme {
            "file" => Self::file(text, rest),
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(refuse(text, "memory:// takes nothing after it".to_owned())),
            "s3" => S3Url::parse(text).map(Self::S3),
            other => Err(refuse(
                text,
                format!("the scheme '{other}' is not known: use file://, memory:// or s3://"),
            )),
        }
    }

    /// The directory is taken as it stands, relative to the working directory unless it begins
    /// with a slash: `file://./data`, `file://data`, `file:///var/lib/firn`.
    fn file(text: &str, rest: &str) -> Result<Self, BucketError> {
        if rest.is_empty() {
            return Err(refuse(
                text,
                "the directory is missing: file://DIR".to_owned(),
            ));
        }
        if rest.contains('?') {
            return Err(refuse(text, "file:// takes no options".to_owned()));
        }
        Ok(Self::File(PathBuf::from(rest)))
    }
}

impl S3Url {
    fn parse(text: &str) -> Result<Self, BucketError> {
        let url = Url::parse(text).map_err(|e| refuse(text, e.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse(text, secret_advice()));
        }
        let bucket = url.host_str().unwrap_or_default().to_owned();
        if bucket.is_empty() {
            return Err(refuse(
                text,
                "the bucket is missing: s3://BUCKET/PREFIX".to_owned(),
            ));
        }
        let mut parsed = Self {
            bucket,
            prefix: url.path().trim_matches('/').to_owned(),
            endpoint: None,
            region: None,
            path_style: false,
            profile: None,
        };
        let mut path_style = None;
        for (key, value) in url.query_pairs() {
            let value = value.into_owned();
            match key.as_ref() {
                "endpoint" => parsed.endpoint = Some(endpoint(text, value)?),
                "region" => parsed.region = Some(value),
                "path_style" => path_style = Some(truth(text, &key, &value)?),
                "profile" => parsed.profile = Some(value),
                other => return Err(refuse(text, unknown(other))),
            }
        }
        // Stores other than AWS rarely have a host name per bucket.
        parsed.path_style = path_style.unwrap_or_else(|| parsed.endpoint.is_some());
        Ok(parsed)
    }
}

fn endpoint(text: &str, value: String) -> Result<String, BucketError> {
    let parsed = Url::parse(&value).ok().filter(|url| url.has_host());
    match parsed {
        Some(url) if matches!(url.scheme(), "http" | "https") => {
            if !url.username().is_empty() || url.password().is_some() {
                return Err(refuse(text, secret_advice()));
            }
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(refuse(
            text,
            "endpoint is not an http:// or https:// url".to_owned(),
        )),
    }
}

fn truth(text: &str, key: &str, value: &str) -> Result<bool, BucketError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(text, format!("{key} is neither true nor false"))),
    }
}

fn unknown(key: &str) -> String {
    let lower = key.to_ascii_lowercase();
    if SECRET_PARTS.iter().any(|part| lower.contains(part)) {
        return secret_advice();
    }
    let nearest = S3_KEYS
        .iter()
        .map(|known| (distance(&lower, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 2);
    match nearest {
        Some((_, known)) => format!("'{key}' is not known, did you mean '{known}'?"),
        None => format!("'{key}' is not known: known are {}", S3_KEYS.join(", ")),
    }
}

fn secret_advice() -> String {
    "credentials do not belong in a url: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a \
     profile"
        .to_owned()
}

/// A URL error; whatever may be a secret is cut from the text.
fn refuse(text: &str, reason: String) -> BucketError {
    let visible = text.split('?').next().unwrap_or_default();
    let visible = match (visible.split_once("://"), visible.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => visible.to_owned(),
    };
    BucketError::Url {
        url: visible,
        reason,
    }
}

/// Edits (insert, delete, replace) that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
