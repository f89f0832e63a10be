//! `memtrap watch`: one target in the foreground, no configuration file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::live::{Screen, instance_line};
use super::target::TargetArgs;
use crate::config::{self, Config};
use crate::daemon::{DaemonError, Engine, Event};
use crate::incident::State;
use crate::target::ProcFs;
use crate::units::{Rate, SizeOrPercent};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap watch --pid 4821 --threshold 1.5GiB
  memtrap watch --unit checkout.service --threshold 80% --slope 200MiB/10m --once
  memtrap watch --listen :6060 --eta 5m --pprof http://127.0.0.1:6060/debug/pprof")]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,

    /// Capture when RSS reaches this: a size, or a percentage of the limit
    #[arg(long, value_name = "SIZE", help_heading = "When")]
    threshold: Vec<SizeOrPercent>,
    /// Capture when RSS rises this much over this window
    #[arg(long, value_name = "SIZE/TIME", help_heading = "When")]
    slope: Option<Rate>,
    /// Capture when the limit would be reached within this time
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration)]
    eta: Option<Duration>,
    /// How long a rule must hold
    #[arg(long = "for", help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "3s")]
    hold: Duration,
    /// Slopes are ignored this long after the process started
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    warmup: Duration,
    /// No further bundle for this long
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "15m")]
    cooldown: Duration,
    /// How often RSS is read
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    interval: Duration,
    /// Exit after the first bundle
    #[arg(long, help_heading = "When")]
    once: bool,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let mut target = args.target.target()?;
    target.rules.threshold = args.threshold;
    target.rules.slope = args.slope;
    target.rules.eta = args.eta;
    target.rules.hold = args.hold;
    target.rules.warmup = args.warmup;
    target.rules.cooldown = args.cooldown;
    target.interval = args.interval;
    check(&target)?;
    let config = one_target(target, args.target.bundle_dir()?);
    let mut engine = Engine::start(&config, ProcFs::host(), None)?;
    let outcome = follow(&mut engine, args.once).await;
    engine.stop().await;
    outcome
}

/// What a configuration file's validation would say.
fn check(target: &config::Target) -> Result<(), Failure> {
    let rules = &target.rules;
    if rules.threshold.is_empty() && rules.slope.is_none() && rules.eta.is_none() {
        return Err(Failure::usage("nothing to watch for: give --threshold, --slope or --eta"));
    }
    if !config::INTERVALS.contains(&target.interval) {
        return Err(Failure::usage("--interval: allowed are 100ms to 1h"));
    }
    if rules.slope.is_some_and(|rate| rate.window < target.interval * 5) {
        return Err(Failure::usage("--slope: the window must be at least five --interval long"));
    }
    Ok(())
}

/// A configuration of one target, without a file.
pub fn one_target(target: config::Target, bundle_dir: PathBuf) -> Config {
    let daemon = config::Daemon { bundle_dir, ..Default::default() };
    Config { daemon, retention: config::Retention::default(), upload: None, notify: Vec::new(), targets: vec![target] }
}

/// Shows what happens until interrupted, or until the first bundle.
async fn follow(engine: &mut Engine, once: bool) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::new();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut shown: HashMap<Option<u32>, State> = HashMap::new();
    loop {
        tokio::select! {
            event = engine.next() => match event {
                Event::CaptureStarted(job) => screen.line(&format!("{}: {}", job.fired.trigger.name(), job.fired.reason)),
                Event::Progress { progress, .. } => screen.step(&progress),
                Event::CaptureEnded { result: Ok(done), .. } => {
                    if let Some(verdict) = &done.verdict {
                        screen.line(verdict);
                    }
                    println!("{}", done.path.display());
                    if once {
                        return Ok(());
                    }
                }
                Event::CaptureEnded { result: Err(why), .. } => screen.line(&format!("nothing saved: {why}")),
                Event::WatcherGone => return Err(DaemonError::WatcherGone.into()),
            },
            _ = second.tick() => {
                for status in engine.status().await {
                    if shown.insert(status.pid, status.state) != Some(status.state) {
                        screen.line(&instance_line(&status));
                    } else if status.state != State::Capturing {
                        screen.live(&instance_line(&status));
                    }
                }
            }
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
    }
}
