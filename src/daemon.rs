//! Composition: the watcher's thread, the captures it orders, the state it leaves, and their common end.
//!
//! ```text
//!   watcher thread ──Job──> Engine::next ──spawn──> capture task ──┐
//!         ^                     │  Event                           │
//!         └──────Command::Done──┴──────────────────────────────────┘
//!   watcher thread ──Saved──> saver task ──> state.json
//! ```
//!
//! [`run`] is the daemon: an [`Engine`], signals and the service manager. `watch` and `demo` drive the same engine in the
//! foreground.

mod baselines;
mod past;
mod requests;
mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use self::baselines::Baselines;
pub use self::service::run;
use crate::bundle;
use crate::capture;
use crate::clock::{self, Mono};
use crate::config::{self, Config};
use crate::egress::Egress;
use crate::egress::arbiter::Theirs;
use crate::error::chain;
use crate::incident::Captured;
use crate::lang::Lang;
use crate::meters::Meters;
use crate::poll::{Check, Checked, Command, Handles, InstanceStatus, Job, JobDone, Past, Pulse, Task, Watcher, descriptors};
use crate::retention;
use crate::serve::{self, ServeError};
use crate::source::Sources;
use crate::state::{StateError, Store};
use crate::systemd;
use crate::target::ProcFs;

/// Within this, a running capture ends by itself or is finalized as interrupted; the unit's TimeoutStopSec is longer.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// Incidents that wait for a first piece of evidence; beyond, their bundles are left to retention.
const MAX_HOLLOW: usize = 1_000;
/// The loop turns at least this often even with nothing due.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("bundle_dir")]
    Bundles(#[from] bundle::BundleError),
    #[error("memtrap needs /proc")]
    Proc(#[from] crate::target::ProcError),
    #[error("no thread for the watcher")]
    Thread(#[source] std::io::Error),
    #[error("the watcher ended unexpectedly; this is a bug in memtrap, and its message is above")]
    WatcherGone,
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    #[error(transparent)]
    Listen(#[from] ServeError),
}

/// What happens while the engine runs.
#[derive(Debug)]
pub enum Event {
    CaptureStarted(Box<Job>),
    Progress {
        target: String,
        progress: capture::Progress,
    },
    /// With the bundle, or why there is none.
    CaptureEnded {
        target: String,
        result: Result<capture::Captured, String>,
    },
    WatcherGone,
}

/// How a capture that was begun went on.
#[derive(Debug)]
enum Ended {
    Saved(capture::Captured),
    /// Another memtrap captures the incident, or has done so.
    Elsewhere(Theirs),
}

/// A running watcher and its captures.
#[derive(Debug)]
pub struct Engine {
    handles: Handles,
    meters: Meters,
    sources: Sources,
    watcher: Option<JoinHandle<()>>,
    captures: JoinSet<Result<Ended, String>>,
    running: HashMap<Id, Job>,
    /// The bundle of an incident of which nothing could be saved yet: the next attempt's takes its place.
    hollow: HashMap<String, String>,
    saver: Option<tokio::task::JoinHandle<()>>,
    env: Arc<capture::Env>,
    retention: config::Retention,
    lang: Lang,
    /// Only the daemon deletes: in the foreground the directory is the user's.
    prunes: bool,
    baselines: Option<Baselines>,
    /// Where they are kept without a state directory.
    _scratch: Option<tempfile::TempDir>,
    /// Only the daemon uploads.
    egress: Option<Egress>,
    stop: watch::Sender<bool>,
    progress: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

impl Engine {
    /// Starts to watch. With a `store`, incidents and cooldowns continue where the last memtrap left them; without, this run
    /// stands alone. Finishes the partial bundles of a run that was killed.
    pub fn start(config: &Config, procfs: ProcFs, store: Option<Store>) -> Result<Engine, DaemonError> {
        let boot_id = procfs.boot_id()?;
        descriptors::raise();
        if store.is_some() {
            // in the foreground the directory is the user's business
            for doubt in bundle::settle_dir(&config.daemon.bundle_dir)? {
                tracing::warn!(doubt, "who else may change bundle_dir");
            }
        }
        bundle::try_dir(&config.daemon.bundle_dir)?;
        for target in &config.targets {
            if let Err(error) = bundle::try_target(&config.daemon.bundle_dir, &target.name) {
                tracing::error!(target_name = target.name, error = chain(&error), "nothing can be captured of this target");
            }
        }
        let env = capture::Env::new(procfs.clone(), config.daemon.bundle_dir.clone(), boot_id.clone());
        let saved = store.as_ref().and_then(Store::load);
        let partials = past::finish_partials(&config.daemon.bundle_dir);
        let mut interrupted: Vec<_> = partials.into_iter().filter_map(|manifest| past::slot_of(manifest, &boot_id)).collect();
        if store.is_some() {
            past::published_unseen(&config.daemon.bundle_dir, saved.as_ref(), |manifest| {
                interrupted.extend(past::slot_of(manifest, &boot_id))
            });
        }
        let watchdog = systemd::watchdog_period();
        let mut fed = Mono::default();
        let beat = Box::new(move |now: Mono| {
            if watchdog.is_some_and(|period| now.since(fed) >= period / 2) {
                systemd::alive();
                fed = now;
            }
        });
        let at_least_every = watchdog.map_or(LONGEST_SLEEP, |period| (period / 2).min(LONGEST_SLEEP));
        let meters = Meters::default();
        let pulse = Pulse { beat, at_least_every, meters: meters.clone() };
        let (watcher, handles) = Watcher::new(config, procfs, boot_id, Past { saved, interrupted }, pulse, Mono::now());
        let thread = std::thread::Builder::new().name("watcher".into()).spawn(move || watcher.run()).map_err(DaemonError::Thread)?;
        let prunes = store.is_some();
        let (env, stop) = (Arc::new(env), watch::Sender::new(false));
        // in the foreground they are kept for this run
        let scratch = if prunes { None } else { tempfile::Builder::new().prefix("memtrap-").tempdir().ok() };
        let dir = scratch.as_ref().map(|dir| dir.path()).or(prunes.then_some(config.daemon.state_dir.as_path()));
        let baselines = dir.map(|dir| Baselines::start(capture::baseline::dir(dir), env.clone(), stop.subscribe()));
        let egress = store.as_ref().map(|_| {
            let mut egress =
                Egress::new(config.daemon.state_dir.clone(), config.daemon.bundle_dir.clone(), env.host.clone(), meters.clone());
            egress.configure(config);
            egress
        });
        let saver = store.map(|store| tokio::spawn(keep_saved(store, handles.state.clone())));
        let sources = Sources::start(config, env.clients.clone(), handles.commands.clone());
        let engine = Engine {
            handles,
            meters,
            sources,
            watcher: Some(thread),
            captures: JoinSet::new(),
            running: HashMap::new(),
            hollow: HashMap::new(),
            saver,
            env,
            retention: config.retention.clone(),
            lang: config.daemon.lang,
            prunes,
            baselines,
            _scratch: scratch,
            egress,
            stop,
            progress: mpsc::unbounded_channel(),
        };
        engine.prune();
        Ok(engine)
    }

    /// Deletes what is beyond the retention, off this thread.
    fn prune(&self) {
        if !self.prunes {
            return;
        }
        let (dir, policy) = (self.env.bundle_dir.clone(), self.retention.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = retention::apply(&dir, &policy, clock::wall_now()) {
                tracing::warn!(error = chain(&error), "retention could not be applied");
            }
        });
    }

    /// Waits for the next thing to happen, and does what follows from it. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                Some(event) = self.progress.1.recv() => return event,
                Some(ended) = self.captures.join_next_with_id(), if !self.captures.is_empty() => {
                    if let Some(event) = self.ended(ended) {
                        return event;
                    }
                }
                task = self.handles.tasks.recv() => match task {
                    Some(Task::Capture(job)) => {
                        self.begin(*job.clone());
                        return Event::CaptureStarted(job);
                    }
                    Some(Task::Baseline(baseline)) => {
                        if let Some(baselines) = &self.baselines {
                            baselines.queue(baseline);
                        }
                    }
                    Some(Task::Check(check)) => self.check(check),
                    None => return Event::WatcherGone,
                },
            }
        }
    }

    /// Tries whether a capture would get anything, and tells the watcher.
    fn check(&self, check: Check) {
        let (env, commands) = (self.env.clone(), self.handles.commands.clone());
        tokio::spawn(async move {
            let Check { subject, slot, place: _place } = check;
            let found = match &subject.no_pprof {
                Some(why) => Err(why.clone()),
                None => capture::probe(&subject.target, subject.instance.process(), &env).await.map(drop),
            };
            let target = subject.target.name.clone();
            // a watcher that is gone needs no answer
            let _ = commands.send(Command::Checked(Checked { target, slot, instance: subject.instance, found, at: clock::wall_now() }));
        });
    }

    fn begin(&mut self, job: Job) {
        let (target, pid, instance) = (job.subject.target.name.clone(), job.subject.instance.pid(), job.subject.label.clone());
        let (env, stop, events) = (self.env.clone(), self.stop.subscribe(), self.progress.0.clone());
        let baselines = self.baselines.as_ref().map(|baselines| baselines.dir().to_owned());
        let request = requests::full(&job, &env, self.retention.min_free_disk, baselines, self.lang);
        // in the foreground somebody waits
        let request = capture::Request { answers_early: !self.prunes, ..request };
        let claim = self.egress.as_ref().and_then(|egress| egress.claim(&request, &env.boot_id));
        // a task of its own, so that a panic ends this capture and nothing else
        let task = self.captures.spawn(async move {
            if let Some(claim) = claim
                && let Some(theirs) = claim.await
            {
                return Ok(Ended::Elsewhere(theirs));
            }
            tracing::info!(
                target_name = target,
                pid,
                instance,
                incident = request.incident_id,
                reason = request.fired.reason,
                "capture starts"
            );
            let mut progress = move |progress| {
                // the engine outlives its captures, except while it is dropped
                let _ = events.send(Event::Progress { target: target.clone(), progress });
            };
            capture::run(request, &env, stop, &mut progress).await.map(Ended::Saved).map_err(|e| chain(&e))
        });
        self.running.insert(task.id(), job);
    }

    fn ended(&mut self, ended: Result<(Id, Result<Ended, String>), JoinError>) -> Option<Event> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(format!("the capture crashed, which is a bug in memtrap: {error}"))),
        };
        let job = self.running.remove(&id)?;
        let target = job.subject.target.name.clone();
        let result = match result {
            Ok(Ended::Saved(captured)) => Ok(captured),
            Err(why) => Err(why),
            Ok(Ended::Elsewhere(theirs)) => {
                self.meters.skipped("elsewhere");
                self.leave_to(theirs, job);
                return None;
            }
        };
        let outcome = match &result {
            Ok(done) if done.evidence || self.is_all_there_is(&job) => {
                let outcome = done.outcome.name();
                let verdict = done.verdict.as_deref().unwrap_or("none");
                tracing::info!(target_name = target, bundle = done.id, outcome, verdict, bytes = done.bytes, failed = ?done.failed, "bundle saved");
                for warning in &done.warnings {
                    tracing::warn!(target_name = target, bundle = done.id, warning, "a bundle to be read with care");
                }
                Captured::Evidence
            }
            Ok(done) => Captured::Nothing(format!("nothing could be saved: nothing answered; see {}", done.path.display())),
            Err(why) => {
                tracing::error!(target_name = target, why, "capture saved nothing");
                Captured::Nothing(format!("nothing could be saved: {why}"))
            }
        };
        if let Ok(done) = &result {
            let is_evidence = outcome == Captured::Evidence;
            self.replace_hollow(&job.incident, done, is_evidence);
            if let Some(egress) = self.egress.as_ref().filter(|_| is_evidence) {
                egress.bundle_saved(&done.id);
            }
        }
        let (named, took) = (result.as_ref().map_or("failed", |done| done.outcome.name()), Mono::now().since(job.admitted));
        self.meters.captured(&target, job.fired.trigger, named, took);
        self.prune();
        let bundle = result.as_ref().ok().map(|done| done.id.clone());
        let done = JobDone { target: target.clone(), slot: job.slot, admitted: job.admitted, result: outcome, bundle };
        self.tell(Command::Done(done));
        Some(Event::CaptureEnded { target, result })
    }

    /// Of the attempts of one incident that saved nothing, only the last one's bundle is kept, for its reasons.
    fn replace_hollow(&mut self, incident: &str, done: &capture::Captured, is_evidence: bool) {
        if let Some(earlier) = self.hollow.remove(incident) {
            let dir = self.env.bundle_dir.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = bundle::open(&dir, &earlier).and_then(|found| bundle::remove(&found)) {
                    tracing::warn!(bundle = earlier, error = chain(&error), "an empty bundle could not be removed");
                }
            });
        }
        if !is_evidence {
            if self.hollow.len() >= MAX_HOLLOW {
                self.hollow.clear();
            }
            self.hollow.insert(incident.to_owned(), done.id.clone());
        }
    }

    /// Another attempt would bring no more than the RSS series: the process is gone, or is elsewhere and may not be asked.
    fn is_all_there_is(&self, job: &Job) -> bool {
        match job.subject.instance.process() {
            Some(id) => !self.env.procfs.is_alive(id),
            None => job.subject.no_pprof.is_some() || job.subject.target.pprof.is_none(),
        }
    }

    /// Once the other memtrap's bundle is in the store, the incident is captured; until then it may still become this one's.
    fn leave_to(&self, Theirs { host, bundle }: Theirs, job: Job) {
        let (target, instance) = (job.subject.target.name.clone(), job.subject.label);
        let result = match bundle {
            Some(bundle) => {
                tracing::info!(target_name = target, instance, host, bundle, "another memtrap has captured this incident");
                Captured::Evidence
            }
            None => {
                tracing::debug!(target_name = target, instance, host, "another memtrap captures this incident");
                Captured::Nothing(format!("left to the memtrap on {host}, which has claimed this incident"))
            }
        };
        self.tell(Command::Done(JobDone { target, slot: job.slot, admitted: job.admitted, result, bundle: None }));
    }

    fn tell(&self, command: Command) {
        if self.handles.commands.send(command).is_err() {
            tracing::error!("the watcher no longer listens");
        }
    }

    /// What the server needs to tell of this engine, and to order captures of it.
    pub fn seen(&self) -> serve::Seen {
        serve::Seen {
            commands: self.handles.commands.clone(),
            meters: self.meters.clone(),
            bundle_dir: self.env.bundle_dir.clone(),
            procfs: self.env.procfs.clone(),
            host: self.env.host.clone(),
        }
    }

    /// Every instance as the watcher sees it now; empty if it has ended.
    pub async fn status(&self) -> Vec<InstanceStatus> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Status(reply));
        answer.await.unwrap_or_default()
    }

    /// Goes on under another configuration. The directories stay those of the start.
    pub fn reload(&mut self, config: Config) {
        self.retention = config.retention.clone();
        self.lang = config.daemon.lang;
        if let Some(egress) = &mut self.egress {
            egress.configure(&config);
        }
        // in this order, no source tells of a target that the watcher knows otherwise
        self.sources.end_changed(&config);
        self.tell(Command::Reload(Box::new(config.clone())));
        self.sources.begin(&config);
    }

    /// Ends captures (those that do not end within the grace are finalized as they are), stores the state, stops the watcher.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let drain = async {
            while let Some(ended) = self.captures.join_next_with_id().await {
                self.ended(ended);
            }
        };
        if tokio::time::timeout(STOP_GRACE, drain).await.is_err() {
            tracing::warn!("a capture did not end in time; its partial bundle is finished at the next start");
            self.captures.abort_all();
        }
        if let Some(egress) = self.egress.take() {
            egress.stop().await;
        }
        self.tell(Command::Stop);
        if let Some(thread) = self.watcher.take() {
            // the loop wakes at once for a command
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        if let Some(saver) = self.saver.take()
            && tokio::time::timeout(Duration::from_secs(5), saver).await.is_err()
        {
            tracing::warn!("the state could not be stored in time");
        }
    }
}

/// Stores every newest state until the watcher has ended.
async fn keep_saved(store: Store, mut states: watch::Receiver<Option<crate::state::Saved>>) {
    let store = Arc::new(store);
    while states.changed().await.is_ok() {
        let Some(saved) = states.borrow_and_update().clone() else { continue };
        let store = store.clone();
        let result = tokio::task::spawn_blocking(move || store.save(&saved)).await;
        if let Ok(Err(error)) = result {
            tracing::error!(error = chain(&error), "state not stored; a restart now would forget incidents and cooldowns");
        }
    }
}
