//! `memtrap watch`: one target in the foreground, no configuration file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::live::{Screen, instance_line};
use super::rules::RuleArgs;
use super::signals::Signals;
use super::target::TargetArgs;
use super::{Failure, print_exactly};
use crate::config::{self, Config};
use crate::daemon::{DaemonError, Engine, Event};
use crate::host::ProcFs;
use crate::incident::State;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap watch --pid 4821 --threshold 1.5GiB
  memtrap watch --unit checkout.service --threshold 80% --slope 200MiB/10m --once
  memtrap watch --listen :6060 --eta 5m --pprof http://127.0.0.1:6060/debug/pprof

Ends with SIGINT (Ctrl-C), SIGTERM or SIGHUP, which also end a running capture: its bundle holds what was captured until then.
Exit status: 0; 1 if it cannot watch; 2 for bad arguments; with --once, 128 + N if signal N (Ctrl-C: 130) came before the first bundle.")]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    rules: RuleArgs,
    /// Exit after the first bundle
    #[arg(long, help_heading = "When")]
    once: bool,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let mut target = args.target.target()?;
    target.rules = args.rules.rules().map_err(Failure::usage)?;
    target.interval = args.rules.interval;
    let mut config = one_target(target, args.target.bundle_dir()?);
    config.daemon.lang = args.target.lang;
    let mut engine = Engine::start(&config, ProcFs::host(), None).await?;
    let outcome = follow(&mut engine, args.once).await;
    engine.stop().await;
    outcome
}

/// A configuration of one target, without a file.
pub fn one_target(target: config::Target, bundle_dir: PathBuf) -> Config {
    let daemon = config::Daemon { bundle_dir, ..Default::default() };
    Config { daemon, retention: config::Retention::default(), upload: None, notify: Vec::new(), targets: vec![target.into()] }
}

/// Shows what happens until interrupted, or until the first bundle.
async fn follow(engine: &mut Engine, once: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut screen = Screen::new();
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut shown: HashMap<Option<u32>, (State, bool)> = HashMap::new();
    loop {
        tokio::select! {
            event = engine.next() => match event {
                Event::CaptureStarted(job) => screen.line(&format!("{}: {}", job.fired.trigger.name(), job.fired.reason)),
                Event::Progress { progress, .. } => screen.step(&progress),
                Event::CaptureEnded { result: Ok(done), .. } => {
                    if let Some(verdict) = &done.verdict {
                        screen.line(verdict);
                    }
                    let printed = print_exactly(&format!("{}\n", done.path.display()));
                    if once {
                        return printed;
                    }
                    // the next incident is wanted all the same
                    if let Err(why) = printed {
                        screen.line(&why.message);
                    }
                }
                Event::CaptureEnded { result: Err(why), .. } => screen.line(&format!("nothing saved: {why}")),
                Event::WatcherGone => return Err(DaemonError::WatcherGone.into()),
            },
            _ = second.tick() => {
                for status in engine.status().await {
                    let now = (status.state, status.lacks_evidence().is_some());
                    if shown.insert(status.pid, now) != Some(now) {
                        screen.line(&instance_line(&status));
                    } else if status.state != State::Capturing {
                        screen.live(&instance_line(&status));
                    }
                }
            }
            by = signals.recv() => {
                return if once { Err(Failure::signalled(by, "ended by a signal before the first bundle")) } else { Ok(()) };
            }
        }
    }
}
