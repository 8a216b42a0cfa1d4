//! Where a command takes its settings from: the file, the environment, flags, `-X`; and the list of
//! all there are.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use crate::config::{self, Config, ConfigError, KEYS, Key, Pair, Profile};

/// Flags that set any key.
#[derive(Debug, Args)]
pub(super) struct SettingArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "FIRN_CONFIG")]
    config: Option<PathBuf>,
    /// Set any key of the configuration; repeatable. `firn serve --help-keys` lists them
    #[arg(short = 'X', value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl SettingArgs {
    /// All sources in their order, `flags` among them; later ones win.
    pub(super) fn configure(
        &self,
        profile: Profile,
        flags: Vec<Pair>,
    ) -> Result<Config, ConfigError> {
        let mut pairs = Vec::new();
        if let Some(path) = &self.config {
            pairs.extend(config::read_file(path)?);
        }
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        pairs.extend(config::from_env(variables)?);
        pairs.extend(flags);
        for text in &self.overrides {
            pairs.push(Pair::from_override(text)?);
        }
        Config::new(profile, pairs)
    }
}

/// Every key of the configuration, one per line.
pub(super) struct KeyTable(pub(super) Profile);

impl fmt::Display for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = |key: &Key| match key.default_in(self.0) {
            "" => "-",
            text => text,
        };
        let names = KEYS.iter().map(|key| key.name.len()).max().unwrap_or(0);
        let defaults = KEYS.iter().map(|key| default(key).len()).max().unwrap_or(0);
        writeln!(f, "{:<names$}  {:<defaults$}  MEANING", "KEY", "DEFAULT")?;
        for key in KEYS {
            let Key { name, about, .. } = key;
            writeln!(f, "{name:<names$}  {:<defaults$}  {about}", default(key))?;
        }
        f.write_str(HOW_TO_SET)
    }
}

const HOW_TO_SET: &str = "
Sizes: 1048576, 64MiB, 1GB. Durations: 500 (milliseconds), 5s, 10m, 7d.
Set a key with -X KEY=VALUE, in the file of --config (TOML), or in the environment: wal.memory.bytes
is FIRN_WAL_MEMORY_BYTES. -X wins over flags, flags over the environment, that over the file.
In TOML, quote a key below one that has a value itself (bucket, max.connections, wal):
\"wal.memory.bytes\" = \"512MiB\".
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_toml_wants_quoted_are_quoted_in_the_hint() {
        let is_below = |key: &Key, above: &Key| key.name.starts_with(&format!("{}.", above.name));
        for above in KEYS {
            if KEYS.iter().any(|key| is_below(key, above)) {
                let words = HOW_TO_SET.split([' ', ',', '(', ')']);
                assert!(
                    words.into_iter().any(|word| word == above.name),
                    "{}",
                    above.name
                );
            }
        }
        assert!(HOW_TO_SET.contains("\"wal.memory.bytes\""));
    }

    #[test]
    fn every_key_is_listed_with_its_default_and_meaning() {
        let table = KeyTable(Profile::Dev).to_string();
        for key in KEYS {
            let line = table.lines().find(|line| {
                let mut words = line.split_ascii_whitespace();
                words.next() == Some(key.name)
            });
            let line = line.unwrap_or_else(|| panic!("no {}", key.name));
            let default = key.default_in(Profile::Dev);
            assert!(
                line.contains(default) && line.ends_with(key.about),
                "{line}"
            );
        }
    }
}
