//! `memtrap guard-brake`, the process beside a memtrap that holds a cgroup, and `memtrap release-brakes`, what a unit's `ExecStopPost=` runs; not for people.

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, print};
use crate::brake::{guard, journal};
use crate::config;
use crate::host::ProcFs;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file, for its state_dir
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

/// Puts back what a memtrap that is gone has left held.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (config, _) = config::load(&args.config).map_err(|e| Failure::config(e, 2))?;
    let put_back = journal::settle(&journal::dir(&config.daemon.state_dir), &ProcFs::host().boot_id()?)?;
    print(&format!("cgroups let go: {put_back}\n"))
}

/// A service manager that stops memtrap says so to its guard too, which goes when memtrap has gone.
pub fn guard(args: &guard::Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _entered = runtime.enter();
    let _heard = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    guard::settle_in();
    guard::run(args, std::io::stdin(), std::io::stdout())?;
    Ok(())
}
