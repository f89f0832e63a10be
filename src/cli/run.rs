//! `memtrap run`.

use std::path::PathBuf;

use super::{Failure, quiet};
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
    if config::is_unprepared(&args.config) {
        tracing::info!(config = %args.config.display(), "there is no such file: every Go process of this host is watched, by its memory alone");
    }
    for warning in warnings {
        tracing::warn!(%warning, "configuration");
    }
    let _telling = tokio::spawn(quiet::say_left_out());
    Ok(daemon::run(config, args.config).await?)
}
