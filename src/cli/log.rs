//! Logging: to stderr, one line an event, or to systemd's journal; quiet for commands that people run by hand.

use std::fmt::Debug;
use std::io::{self, Write};
use std::str::FromStr;

use clap::ValueEnum;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{filter::FilterExt, fmt};

use super::journal::Journal;
use super::outlet;
use super::quiet::Quiet;
use crate::text;

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
        let filter = Targets::new().with_default(others).with_target("memtrap", level).and(Quiet::default());
        let color = super::paint::is_wanted(&io::stderr());
        // it would panic where stderr is gone
        let plain = fmt::layer().with_writer(outlet::stderr).log_internal_errors(false).with_target(false).with_ansi(color);
        let registry = tracing_subscriber::registry();
        let started = match self.log_format {
            Format::Json => registry.with(plain.json().flatten_event(true).with_writer(|| Json).with_filter(filter)).try_init(),
            Format::Text => match Journal::of_stderr() {
                Some(journal) => registry.with(journal.with_filter(filter)).try_init(),
                None => registry.with(plain.fmt_fields(debug_fn(field).delimited(" ")).with_filter(filter)).try_init(),
            },
        };
        started.map_err(|e| e.to_string())
    }
}

/// One field of a line for people. Its value may come from outside: the library escapes that in messages only.
fn field(out: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = text::lines(&format!("{value:?}")).replace('\n', "\\n").replace('\t', " ");
    match field.name() {
        "message" => out.write_str(&value),
        name if out.has_ansi_escapes() => write!(out, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
        name => write!(out, "{name}={value}"),
    }
}

/// Stderr, for lines of JSON.
struct Json;

impl Write for Json {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(text::escape_json(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_value_steers_a_terminal_or_makes_a_line_of_its_own() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = fmt::layer().with_writer(move || writer.clone()).with_ansi(false).fmt_fields(debug_fn(field).delimited(" "));
        let evil = "x\u{1b}]0;t\u{7}\u{202e}\n2026 ERROR y";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(shown = %evil, quoted = evil, "{evil}");
        });
        let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(said.matches('\n').count(), 1, "{said:?}");
        assert!(!said.trim_end().contains(text::is_hostile), "{said:?}");
        assert_eq!(said.matches(r"\u{202e}").count(), 3, "{said}");
    }
}
