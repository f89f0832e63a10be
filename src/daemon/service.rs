//! `memtrap run`: an engine, the server, signals, and the service manager that is told of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{DaemonError, Engine, Event};
use crate::capture::Progress;
use crate::config::{self, Config};
use crate::error::chain;
use crate::serve::Server;
use crate::state::Store;
use crate::systemd;
use crate::target::ProcFs;

/// How often the line that `systemctl status` shows is looked at anew.
const STATUS_EVERY: Duration = Duration::from_secs(15);

/// The daemon, until SIGTERM or SIGINT. SIGHUP reads `file` again.
pub async fn run(config: Config, file: PathBuf) -> Result<(), DaemonError> {
    let store = Store::open(&config.daemon.state_dir)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;
    let mut engine = Engine::start(&config, ProcFs::host(), Some(store))?;
    let mut server = Server::new(engine.seen());
    if let Err(error) = server.configure(&config.daemon).await {
        engine.stop().await;
        return Err(error.into());
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %file.display(), targets = config.targets.len(), "memtrap watches");
    systemd::ready(&format!("watching {} targets", config.targets.len()));
    // the targets are the watcher's now
    let Config { daemon: mut running, .. } = config;
    let mut line = StatusLine::default();
    let mut look = tokio::time::interval(STATUS_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = engine.next() => match event {
                Event::WatcherGone => return Err(DaemonError::WatcherGone),
                Event::CaptureStarted(job) => {
                    line.note = format!("capturing {}", job.subject.target.name);
                    line.tell(&engine).await;
                }
                Event::CaptureEnded { target, result } => {
                    line.note = match result {
                        Ok(done) => format!("last bundle: {}", done.id),
                        Err(_) => format!("the last capture of {target} saved nothing"),
                    };
                    line.tell(&engine).await;
                }
                Event::Progress { target, progress: Progress::Done(step) } => {
                    let (file, status, reason) = (step.name, step.status.name(), step.reason.as_deref().unwrap_or_default());
                    tracing::debug!(target_name = target, file, status, milliseconds = step.milliseconds, reason, "step");
                }
                Event::Progress { .. } => {}
            },
            _ = look.tick() => line.tell(&engine).await,
            _ = hangup.recv() => {
                let (note, mistakes) = reload(&mut engine, &file, &mut running);
                line.note = note.to_owned();
                let listens = server.configure(&running).await.map_err(|error| chain(&error));
                if let Err(error) = &listens {
                    tracing::error!(error, "memtrap listens as before");
                }
                server.reloaded(mistakes.and(listens));
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("memtrap stops");
    systemd::stopping(engine.running.len());
    // nobody is promised a capture any more
    drop(server);
    engine.stop().await;
    Ok(())
}

/// What `systemctl status` shows, told when it changes.
#[derive(Default)]
struct StatusLine {
    note: String,
    told: String,
}

impl StatusLine {
    async fn tell(&mut self, engine: &Engine) {
        if !systemd::listens() {
            return;
        }
        let line = systemd::summary(engine.status().await.into_iter().map(|s| s.state), &self.note);
        if line != self.told {
            systemd::status(&line);
            self.told = line;
        }
    }
}

/// A file with mistakes changes nothing but the log. Returns what became of it, in a few words, and the mistakes.
fn reload(engine: &mut Engine, file: &Path, running: &mut config::Daemon) -> (&'static str, Result<(), String>) {
    systemd::reloading();
    match config::load(file) {
        Ok((config, warnings)) => {
            for warning in warnings {
                tracing::warn!(%warning, "configuration");
            }
            let (state_dir, bundle_dir) = (running.state_dir.clone(), running.bundle_dir.clone());
            if (&config.daemon.state_dir, &config.daemon.bundle_dir) != (&state_dir, &bundle_dir) {
                let (state, bundles) = (state_dir.display(), bundle_dir.display());
                tracing::warn!(state_dir = %state, bundle_dir = %bundles, "state_dir and bundle_dir change only with a restart of memtrap");
            }
            *running = config::Daemon { state_dir, bundle_dir, ..config.daemon.clone() };
            tracing::info!(targets = config.targets.len(), "configuration reloaded");
            engine.reload(config);
            let note = "configuration reloaded";
            systemd::ready(note);
            (note, Ok(()))
        }
        Err(errors) => {
            tracing::error!(%errors, "the new configuration has mistakes; the old one stays in force");
            let note = "running the old configuration: the new one has mistakes";
            systemd::ready(note);
            (note, Err(errors.to_string()))
        }
    }
}
