//! Where log lines go: stderr, plain or JSON.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{ConfigError, LogConfig, LogFormat};

/// Starts the log.
///
/// # Errors
/// `log.filter` is not a filter.
pub(super) fn start(config: &LogConfig) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|e| ConfigError::BadValue {
        source_name: "configuration".to_owned(),
        key: "log.filter".to_owned(),
        reason: format!(
            "`{}` is not a filter such as info or firn_broker=debug,info: {e}",
            config.filter
        ),
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first log.
    let _ = match config.format {
        LogFormat::Plain => lines.with_ansi(false).finish().try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    Ok(())
}
