//! The command line: what each command takes, and one small file per command.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 the job failed, 2 usage or configuration (78 for `run`, so that
//! systemd does not restart a typo in a loop), 128 + N signal N ended it before it was done.

mod analyze;
mod brakes;
mod bundles;
mod capture;
mod check;
mod core;
mod demo;
mod holders;
mod journal;
mod live;
mod log;
mod outlet;
mod paint;
mod quiet;
mod read_memory;
mod replay;
mod rules;
mod run;
mod signals;
mod status;
mod target;
mod top;
mod watch;

use std::fmt;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::brake::guard;
use crate::text;
use clap::{CommandFactory, Parser, Subcommand};
use tokio::signal::unix::SignalKind;

/// Captures one pprof evidence bundle per memory incident of a Go service.
#[derive(Debug, Parser)]
#[command(name = "memtrap", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten, next_help_heading = "Logging")]
    log: log::LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  memtrap demo                                   catch a real leak, in under a minute
  memtrap watch --listen :6060 --threshold 80%   no configuration file needed
  memtrap capture --pid 4821                     save the evidence now
  memtrap check -c memtrap.toml --probe          could it capture every target now?
  memtrap run -c memtrap.toml                    the daemon
  memtrap status --watch                         what it sees, and why it does not fire";

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch every target of a configuration file; the daemon
    Run(run::Args),
    /// Validate a configuration file; with --probe, also try what it says
    Check(check::Args),
    /// What the running daemon sees: every instance, its state and the reason, and when it may next capture
    Status(status::Args),
    /// Watch one target in the foreground, without a configuration file
    Watch(watch::Args),
    /// Capture a bundle now, cooldown or not; prints its path
    Capture(capture::Args),
    /// List what has been caught, or show one bundle
    Bundles(bundles::Args),
    /// Answer whether the Go heap explains the RSS: of a bundle, a directory of profiles, one profile, or a core file
    Analyze(analyze::Args),
    /// Print a profile as `go tool pprof -top` does, where no Go is installed
    Top(top::Args),
    /// Who holds what is live on the heap, and what would be freed without them
    Holders(holders::Args),
    /// Feed a recorded RSS series to the rules: when they would have fired, and why not elsewhere
    Replay(replay::Args),
    #[command(hide = true)]
    ReadMemory(read_memory::Args),
    #[command(hide = true)]
    GuardBrake(guard::Args),
    #[command(hide = true)]
    ReleaseBrakes(brakes::Args),
    /// See the main job end to end on a real leaking Go service
    Demo(demo::Args),
}

/// A command's end that is no success: what is printed on stderr, and the exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The job failed.
    fn job(why: impl fmt::Display) -> Failure {
        Failure { code: 1, message: format!("memtrap: {why}") }
    }

    /// A signal ended it before it was done; the code is the one that a shell gives.
    fn signalled(by: SignalKind, why: impl fmt::Display) -> Failure {
        Failure { code: 128_u8.saturating_add(by.as_raw_value() as u8), message: format!("memtrap: {why}") }
    }

    /// The command line asks for something that cannot be.
    fn usage(why: impl fmt::Display) -> Failure {
        Failure { code: 2, message: format!("memtrap: {why}") }
    }

    /// The configuration has mistakes; each line of `errors` names its own file, line and column.
    fn config(errors: impl fmt::Display, code: u8) -> Failure {
        Failure { code, message: errors.to_string() }
    }

    /// Without the program's name in front.
    fn why(&self) -> &str {
        self.message.strip_prefix("memtrap: ").unwrap_or(&self.message)
    }
}

/// An error with its causes, printed once, at this edge.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::job(crate::error::chain(&error))
    }
}

/// The command line's definition: what man pages and shell completions are made from.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the arguments, does what they say, and prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet_by_default = !matches!(cli.command, Command::Run(_));
    if let Err(why) = cli.log.start(quiet_by_default) {
        tell(format_args!("memtrap: {why}"));
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Run(args) => on_runtime(run::run(args)),
        Command::Check(args) => on_runtime(check::run(args)),
        Command::Status(args) => on_runtime(status::run(args)),
        Command::Watch(args) => on_runtime(watch::run(args)),
        Command::Capture(args) => on_runtime(capture::run(args)),
        Command::Bundles(args) => bundles::run(args),
        Command::Analyze(args) => analyze::run(args),
        Command::Top(args) => top::run(args),
        Command::Holders(args) => holders::run(args),
        Command::Replay(args) => replay::run(args),
        Command::ReadMemory(args) => read_memory::run(args),
        Command::GuardBrake(args) => brakes::guard(&args),
        Command::ReleaseBrakes(args) => brakes::run(&args),
        Command::Demo(args) => on_runtime(demo::run(args)),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(failure.message.trim_end());
            ExitCode::from(failure.code)
        }
    };
    outlet::stderr().flush_all();
    code
}

/// A line for stderr. If nobody can read it, there is nobody to be told.
fn tell(line: impl fmt::Display) {
    let _ = outlet::stderr().write_all(format!("{}\n", text::lines(&line.to_string())).as_bytes());
}

/// Text for stdout. What could steer a terminal is shown escaped: all of it may come from outside. JSON has none of that, see
/// [`text::json`].
fn print(text: &str) -> Result<(), Failure> {
    print_exactly(&text::lines(text))
}

/// Columns of the terminal that stdout is; `None`: it is none, and lines are as long as what they say.
fn terminal_width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    // one that does not tell its size is an old one's
    let told = rustix::termios::tcgetwinsize(stdout).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    Some(told.unwrap_or(80).max(40))
}

/// memtrap's own control sequences, and paths that scripts go on with. A reader that has seen enough, such as `head`, is no failure.
fn print_exactly(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::job(format_args!("stdout: {e}"))),
        _ => Ok(()),
    }
}

/// One thread for everything async.
fn on_runtime(job: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // nothing is meant to use them: see `aside`
        .max_blocking_threads(1)
        .build()
        .map_err(|e| Failure::job(format_args!("no async runtime: {e}")))?;
    let result = runtime.block_on(job);
    // a stuck disk must not hold the exit
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}
