//! `memtrap run`.

use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;
use crate::{config, daemon};

/// systemd's RestartPreventExitStatus names it: a mistake in the file is not mended by starting again.
const EX_CONFIG: u8 = 78;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let (config, warnings) = config::load(&args.config).map_err(|e| Failure::config(e, EX_CONFIG))?;
    for warning in warnings {
        tracing::warn!(%warning, "configuration");
    }
    raise_descriptors();
    Ok(daemon::run(config, args.config).await?)
}

/// Each process that is watched keeps one open, and services are started with 1,024.
fn raise_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, ..limits };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "no more descriptors may be opened than memtrap was started with; that bounds how many processes it watches");
    }
}
