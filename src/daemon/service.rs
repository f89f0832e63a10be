//! `memtrap run`: an engine, the server, signals, and the service manager that is told of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::{DaemonError, Engine, Event};
use crate::aside::{Lane, Threads};
use crate::capture::Progress;
use crate::config::{self, Config};
use crate::error::chain;
use crate::host::ProcFs;
use crate::serve::Server;
use crate::state::Store;
use crate::systemd;

/// How often the line that `systemctl status` shows is looked at anew.
const STATUS_EVERY: Duration = Duration::from_secs(15);

/// For the file of a reload: the configuration in force must not depend on a disk that hangs.
const READING: Duration = Duration::from_secs(10);

/// The daemon, until SIGTERM or SIGINT. SIGHUP reads `file` again.
pub async fn run(config: Config, file: PathBuf) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;
    let mut engine = tokio::select! {
        started = start(&config) => started?,
        _ = terminate.recv() => return stopped_early(),
        _ = interrupt.recv() => return stopped_early(),
    };
    let files = Threads::new("configuration", 2);
    let mut reading: Option<JoinHandle<Read>> = None;
    let mut again = false;
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
                again = reading.is_some();
                reading.get_or_insert_with(|| read(&files, &file));
            }
            Some(read_again) = of(&mut reading) => {
                reading = None;
                let (note, mistakes) = reload(&mut engine, read_again, &mut running);
                line.note = note.to_owned();
                let listens = server.configure(&running).await.map_err(|error| chain(&error));
                if let Err(error) = &listens {
                    tracing::error!(error, "memtrap listens as before");
                }
                server.reloaded(mistakes.and(listens));
                if std::mem::take(&mut again) {
                    reading = Some(read(&files, &file));
                }
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

/// Blocks on no disk: whoever says stop meanwhile is heard.
async fn start(config: &Config) -> Result<Engine, DaemonError> {
    let dir = config.daemon.state_dir.clone();
    let store = Lane::start("state")?.run(move || Store::open(&dir)).await??;
    Engine::start(config, ProcFs::host(), Some(store)).await
}

fn stopped_early() -> Result<(), DaemonError> {
    tracing::info!("memtrap stops before it has started to watch");
    Ok(())
}

/// The configuration as its file says now, or what is wrong with it.
type Read = Result<(Config, Vec<String>), String>;

fn read(files: &Threads, file: &Path) -> JoinHandle<Read> {
    systemd::reloading();
    let (files, file) = (files.clone(), file.to_owned());
    tokio::spawn(async move {
        let shown = file.display().to_string();
        let load = move || match config::load(&file) {
            Ok((config, warnings)) => Ok((config, warnings.iter().map(ToString::to_string).collect())),
            Err(errors) => Err(errors.to_string()),
        };
        files.run(READING, load).await.unwrap_or_else(|why| Err(format!("{shown} could not be read: {why}")))
    })
}

/// `None` if nothing is being read. Cancel safe.
async fn of(reading: &mut Option<JoinHandle<Read>>) -> Option<Read> {
    let read = reading.as_mut()?.await;
    Some(read.unwrap_or_else(|crashed| Err(crashed.to_string())))
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
fn reload(engine: &mut Engine, read: Read, running: &mut config::Daemon) -> (&'static str, Result<(), String>) {
    match read {
        Ok((config, warnings)) => {
            for warning in warnings {
                tracing::warn!(warning, "configuration");
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
            tracing::error!(errors, "the new configuration has mistakes; the old one stays in force");
            let note = "running the old configuration: the new one has mistakes";
            systemd::ready(note);
            (note, Err(errors))
        }
    }
}
