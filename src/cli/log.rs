//! Logging: to stderr, one line an event, or to systemd's journal; quiet for commands that people run by hand.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use super::journal::Journal;
use super::outlet;

#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// error, warn, info, debug or trace [default: info for run, else error]
    #[arg(long, global = true, value_name = "LEVEL", env = "MEMTRAP_LOG")]
    log_level: Option<String>,

    /// How log lines are written
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl LogArgs {
    /// Starts logging for this process.
    pub fn start(&self, quiet: bool) -> Result<(), String> {
        let level = match &self.log_level {
            Some(text) => {
                LevelFilter::from_str(text).map_err(|_| format!("--log-level `{text}`: allowed are error, warn, info, debug, trace"))?
            }
            None if quiet => LevelFilter::ERROR,
            None => LevelFilter::INFO,
        };
        // the libraries underneath are of interest only when asked for everything
        let others = if level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
        let filter = Targets::new().with_default(others).with_target("memtrap", level);
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        // it would panic where stderr is gone
        let plain = fmt::layer().with_writer(outlet::stderr).log_internal_errors(false).with_target(false).with_ansi(color);
        let registry = tracing_subscriber::registry();
        let started = match self.log_format {
            Format::Json => registry.with(plain.json().flatten_event(true).with_filter(filter)).try_init(),
            Format::Text => match Journal::of_stderr() {
                Some(journal) => registry.with(journal.with_filter(filter)).try_init(),
                None => registry.with(plain.with_filter(filter)).try_init(),
            },
        };
        started.map_err(|e| e.to_string())
    }
}
