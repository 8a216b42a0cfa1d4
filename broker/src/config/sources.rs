//! Turns `firn.toml`, the environment and `-X` into key–value pairs.

use std::fmt;
use std::path::Path;

use super::value::nearest;
use super::{ConfigError, KEYS};

/// Who wrote a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody: it is the default.
    Default,
    /// The configuration file.
    File(String),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// `-X key=value`.
    Override,
}

impl Source {
    /// Whether both stand at the same place in the order of sources, so that neither wins.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => f.write_str(path),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Override => f.write_str("-X"),
        }
    }
}

/// A value for a key, not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The dotted name.
    pub key: String,
    /// What was written.
    pub value: String,
    /// Where.
    pub source: Source,
}

impl Pair {
    /// A value for a key.
    pub fn new(key: &str, value: &str, source: Source) -> Self {
        Self {
            key: key.to_owned(),
            value: value.to_owned(),
            source,
        }
    }

    /// Reads the argument of one `-X`.
    ///
    /// # Errors
    /// There is no `=`.
    pub fn from_override(text: &str) -> Result<Self, ConfigError> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| ConfigError::Contradiction(format!("-X {text}: write -X key=value")))?;
        Ok(Self::new(key.trim(), value, Source::Override))
    }
}

/// Reads a configuration file.
///
/// # Errors
/// It does not exist, is not TOML, or holds a value that no key can take.
pub fn read_file(path: &Path) -> Result<Vec<Pair>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::BadFile {
        path: path.display().to_string(),
        reason: e.to_string(),
    })?;
    from_toml(&path.display().to_string(), &text)
}

/// Reads TOML. Tables and dotted keys are the same thing: `num.partitions = 3` and
/// `[num]\npartitions = 3` both set `num.partitions`.
pub(super) fn from_toml(path: &str, text: &str) -> Result<Vec<Pair>, ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| ConfigError::BadFile {
            path: path.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        })?;
    let mut pairs = Vec::new();
    flatten(path, "", &table, &mut pairs)?;
    Ok(pairs)
}

/// Reads `FIRN_…` variables: `FIRN_NUM_PARTITIONS` (or `FIRN_NUM__PARTITIONS`) sets
/// `num.partitions`. What Kubernetes sets for a service called `firn` is left alone, and so is
/// `FIRN_CONFIG`, which names the file.
///
/// # Errors
/// A variable that is no key.
pub fn from_env(
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Vec<Pair>, ConfigError> {
    let mut pairs = Vec::new();
    for (name, value) in variables {
        let Some(written) = name.strip_prefix("FIRN_") else {
            continue;
        };
        if written == "CONFIG" || is_kubernetes_link(written) {
            continue;
        }
        let written = written.replace("__", "_");
        let key = KEYS
            .iter()
            .find(|key| key.name.replace('.', "_").eq_ignore_ascii_case(&written));
        let source = Source::Env(name.clone());
        match key {
            Some(key) => pairs.push(Pair::new(key.name, &value, source)),
            None => {
                let dotted = written.to_ascii_lowercase().replace('_', ".");
                return Err(unknown_key(&source, &dotted));
            }
        }
    }
    pairs.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(pairs)
}

pub(super) fn unknown_key(source: &Source, key: &str) -> ConfigError {
    ConfigError::UnknownKey {
        source_name: source.to_string(),
        key: key.to_owned(),
        suggestion: nearest(key, KEYS.iter().map(|key| key.name)).map(str::to_owned),
    }
}

fn flatten(
    path: &str,
    prefix: &str,
    table: &toml::Table,
    pairs: &mut Vec<Pair>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let text = match value {
            toml::Value::Table(inner) => {
                flatten(path, &key, inner, pairs)?;
                continue;
            }
            toml::Value::Array(items) => items
                .iter()
                .map(|item| scalar(path, &key, item))
                .collect::<Result<Vec<_>, _>>()?
                .join(";"),
            value => scalar(path, &key, value)?,
        };
        pairs.push(Pair {
            key,
            value: text,
            source: Source::File(path.to_owned()),
        });
    }
    Ok(())
}

fn scalar(path: &str, key: &str, value: &toml::Value) -> Result<String, ConfigError> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(switch) => Ok(switch.to_string()),
        other => Err(ConfigError::BadValue {
            source_name: path.to_owned(),
            key: key.to_owned(),
            reason: format!("a {} cannot be a value here", other.type_str()),
        }),
    }
}

/// `FIRN_SERVICE_HOST`, `FIRN_SERVICE_PORT_KAFKA`, `FIRN_PORT`, `FIRN_PORT_9092_TCP_ADDR`: set in
/// every container beside a Kubernetes service named `firn`; `FIRN_CONSOLE_SERVICE_HOST` beside
/// one named `firn-console`.
fn is_kubernetes_link(name: &str) -> bool {
    let has_port = |rest: &str| {
        rest.is_empty()
            || rest
                .strip_prefix('_')
                .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    };
    name == "SERVICE_HOST"
        || name.ends_with("_SERVICE_HOST")
        || name == "SERVICE_PORT"
        || name.starts_with("SERVICE_PORT_")
        || name.contains("_SERVICE_PORT")
        || name.strip_prefix("PORT").is_some_and(has_port)
        || name
            .find("_PORT_")
            .is_some_and(|at| has_port(&name[at + "_PORT".len()..]))
        || name.ends_with("_PORT")
}
