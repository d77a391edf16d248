//! Log lines of a node, on stderr.

use std::io::{self, IsTerminal as _};

use aqueduct_broker::config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;

use super::output::Failure;

/// Starts logging as configured.
pub(super) fn start(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| Failure::usage(format!("log {:?}: {error}", config.log)))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))
}
