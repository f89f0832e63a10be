//! Composition: the watcher's thread, the captures it orders, the state it leaves, and their common end.
//!
//! ```text
//!   watcher thread ──Job──> Engine::next ──spawn──> capture task ──┐
//!         ^                     │  Event                           │
//!         └──────Command::Done──┴──────────────────────────────────┘
//!   watcher thread ──Saved──> saver task ──> state.json, floors.json
//! ```
//!
//! [`run`] is the daemon: an [`Engine`], signals and the service manager. `watch` and `demo` drive the same engine in the
//! foreground.

mod baselines;
mod collector;
mod listening;
mod recovery;
mod requests;
mod saver;
mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

use self::baselines::Baselines;
use self::collector::Collectors;
use self::listening::Listening;
pub use self::service::run;
use crate::aside::{self, Lane, NoAnswer};
use crate::brake;
use crate::bundle;
use crate::calendar::Calendar;
use crate::capture;
use crate::clock::{self, Mono};
use crate::config::{self, Config};
use crate::egress::Egress;
use crate::egress::arbiter::Theirs;
use crate::error::chain;
use crate::host::ProcFs;
use crate::incident::Captured;
use crate::lang::Lang;
use crate::meters::Meters;
use crate::poll::{Check, Checked, Command, Handles, InstanceStatus, Job, JobDone, Pulse, Task, Watcher, descriptors};
use crate::retention;
use crate::serve::{self, ServeError};
use crate::source::Sources;
use crate::state::{Saved, StateError, Store};
use crate::systemd;

/// Within this, a running capture ends by itself or is finalized as interrupted; the unit's TimeoutStopSec is longer.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// For the watcher, and then for the state, when everything else has ended.
const LAST_GRACE: Duration = Duration::from_secs(5);
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
    Proc(#[from] crate::host::ProcError),
    #[error("no thread for it")]
    Thread(#[from] std::io::Error),
    #[error("what the last memtrap left could not be looked through")]
    Past(#[from] NoAnswer),
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
enum JobEnd {
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
    /// Ends with the watcher's thread.
    watcher: Option<oneshot::Receiver<()>>,
    _listening: Listening,
    captures: JoinSet<Result<JobEnd, String>>,
    running: HashMap<Id, Job>,
    /// The bundle of an incident of which nothing could be saved yet: the next attempt's takes its place.
    hollow: HashMap<String, String>,
    saver: Option<tokio::task::JoinHandle<()>>,
    /// Where bundles are deleted.
    housekeeping: Lane,
    /// Whether the wall clock is believed.
    calendar: Option<Arc<Calendar>>,
    /// Only the daemon deletes: in the foreground the directory is the user's.
    prunes: bool,
    /// Retention waits for its turn there.
    prune_waits: Arc<AtomicBool>,
    env: Arc<capture::Env>,
    retention: config::Retention,
    /// How many `env.seats` there are.
    seats: usize,
    lang: Lang,
    baselines: Option<Baselines>,
    collectors: Collectors,
    /// Where they are kept without a state directory.
    _scratch: Option<tempfile::TempDir>,
    /// Only the daemon uploads.
    egress: Option<Egress>,
    stop: watch::Sender<bool>,
    progress: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
}

/// Tells the service manager that the watcher's loop turns, twice as often as it wants to hear it.
fn pulse(meters: Meters) -> Pulse {
    let watchdog = systemd::watchdog_period();
    let mut fed = Mono::default();
    let beat = Box::new(move |now: Mono| {
        if watchdog.is_some_and(|period| now.since(fed) >= period / 2) {
            systemd::alive();
            fed = now;
        }
    });
    Pulse { beat, at_least_every: watchdog.map_or(LONGEST_SLEEP, |period| (period / 2).min(LONGEST_SLEEP)), meters }
}

impl Engine {
    /// Starts to watch. With a `store`, incidents and cooldowns continue where the last memtrap left them; without, this run
    /// stands alone. Finishes the partial bundles of a run that was killed. If the future is dropped, some of them may be finished.
    pub async fn start(config: &Config, procfs: ProcFs, store: Option<Store>) -> Result<Engine, DaemonError> {
        aside::must_not_wait(true);
        let boot_id = procfs.boot_id()?;
        descriptors::raise();
        let env = capture::Env::new(procfs.clone(), config.daemon.bundle_dir.clone(), boot_id.clone());
        let env = capture::Env { seats: Arc::new(Semaphore::new(config.daemon.max_concurrent_captures)), ..env };
        let brakes = brake::journal::dir(&config.daemon.state_dir);
        let env = capture::Env { brakes: store.as_ref().map(|_| brakes.clone()), ..env };
        let housekeeping = Lane::start("housekeeping")?;
        let (bundle_dir, this_boot) = (config.daemon.bundle_dir.clone(), boot_id.clone());
        let (meters, state_dir) = (Meters::default(), config.daemon.state_dir.clone());
        let counted = meters.clone();
        let names: Vec<String> = config.targets.iter().map(|target| target.name.clone()).collect();
        let looked = housekeeping.run(move || {
            store.iter().for_each(|_| recovery::let_go(&brakes, &this_boot));
            let past = recovery::look(&bundle_dir, &names, store.as_ref(), &this_boot)?;
            let stored = past.saved.as_ref().map(Saved::stored);
            // in the foreground baselines are kept for this run
            let scratch = if store.is_some() { None } else { tempfile::Builder::new().prefix("memtrap-").tempdir().ok() };
            let kept_in = store.as_ref().map(|_| state_dir).or(scratch.as_ref().map(|dir| dir.path().to_owned()));
            let calendar = kept_in.as_ref().map(|dir| Arc::new(Calendar::open(dir, &this_boot, stored, counted)));
            Ok::<_, DaemonError>((past, store, scratch, kept_in, calendar))
        });
        let (past, store, scratch, kept_in, calendar) = looked.await??;
        let prunes = store.is_some();
        let (watcher, mut handles) = Watcher::new(config, procfs, boot_id, past, pulse(meters.clone()), Mono::now());
        let (ends, watcher_ended) = oneshot::channel();
        std::thread::Builder::new().name("watcher".into()).spawn(move || {
            let _ends: oneshot::Sender<()> = ends;
            watcher.run();
        })?;
        let listening = Listening::start(&handles)?;
        let (env, stop) = (Arc::new(env), watch::Sender::new(false));
        let baselines = match (kept_in, &calendar) {
            (Some(dir), Some(calendar)) => {
                Some(Baselines::start(capture::baseline::dir(&dir), env.clone(), calendar.clone(), stop.subscribe())?)
            }
            _ => None,
        };
        let egress = store.as_ref().map(|_| {
            let mut egress =
                Egress::new(config.daemon.state_dir.clone(), config.daemon.bundle_dir.clone(), env.host.clone(), meters.clone());
            egress.configure(config);
            egress
        });
        // taken in any case: where nobody stores them, the watcher need not gather them
        let floors = handles.floors.take();
        let saver = match store {
            Some(store) => Some(tokio::spawn(saver::keep_saved(store, Lane::start("state")?, handles.state.clone(), floors))),
            None => None,
        };
        let sources = Sources::start(config, env.clients.clone(), handles.commands.clone());
        let collectors = Collectors::new(env.clone(), handles.commands.clone());
        let engine = Engine {
            handles,
            meters,
            sources,
            watcher: Some(watcher_ended),
            _listening: listening,
            captures: JoinSet::new(),
            running: HashMap::new(),
            hollow: HashMap::new(),
            saver,
            housekeeping,
            calendar,
            prunes,
            prune_waits: Arc::default(),
            env,
            retention: config.retention.clone(),
            seats: config.daemon.max_concurrent_captures,
            lang: config.daemon.lang,
            baselines,
            collectors,
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
        let Some(calendar) = self.calendar.clone().filter(|_| self.prunes) else { return };
        if self.prune_waits.swap(true, Ordering::Relaxed) {
            return;
        }
        let (dir, policy, waits) = (self.env.bundle_dir.clone(), self.retention.clone(), self.prune_waits.clone());
        self.housekeeping.give(move || {
            waits.store(false, Ordering::Relaxed);
            let now = clock::wall_now();
            let believed = calendar.is_believed(clock::since_boot(), now);
            if let Err(error) = retention::apply(&dir, &policy, retention::Clock { now, believed }) {
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
                    Some(Task::Collectors(asks)) => self.collectors.ask(asks),
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
                None => capture::try_evidence(&subject.target, subject.instance.process(), &env).await,
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
        let request = requests::full(&job, self.retention.min_free_disk, baselines, self.lang);
        // in the foreground somebody waits
        let request = capture::Request { answers_early: !self.prunes, ..request };
        let claim = self.egress.as_ref().and_then(|egress| egress.claim(&request, &env.boot_id));
        // a task of its own, so that a panic ends this capture and nothing else
        let task = self.captures.spawn(async move {
            if let Some(claim) = claim
                && let Some(theirs) = claim.await
            {
                return Ok(JobEnd::Elsewhere(theirs));
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
            capture::run(request, &env, stop, &mut progress).await.map(JobEnd::Saved).map_err(|e| chain(&e))
        });
        self.running.insert(task.id(), job);
    }

    fn ended(&mut self, ended: Result<(Id, Result<JobEnd, String>), JoinError>) -> Option<Event> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(format!("the capture crashed, which is a bug in memtrap: {error}"))),
        };
        let job = self.running.remove(&id)?;
        let target = job.subject.target.name.clone();
        let result = match result {
            Ok(JobEnd::Saved(captured)) => Ok(captured),
            Err(why) => Err(why),
            Ok(JobEnd::Elsewhere(theirs)) => {
                self.meters.skipped("elsewhere");
                self.leave_to(theirs, job);
                return None;
            }
        };
        let outcome = match &result {
            Ok(done) if done.evidence || self.is_all_there_is(&job) || self.is_gone(&job) => {
                let outcome = done.outcome.name();
                let verdict = done.verdict.as_deref().unwrap_or("none");
                tracing::info!(target_name = target, bundle = done.id, outcome, verdict, bytes = done.bytes, failed = ?done.failed, "bundle saved");
                for warning in &done.warnings {
                    tracing::warn!(target_name = target, bundle = done.id, warning, "a bundle to be read with care");
                }
                if done.evidence || !self.is_gone(&job) {
                    Captured::Evidence
                } else {
                    tracing::info!(target_name = target, bundle = done.id, "it holds nothing but readings and spends no cooldown");
                    Captured::Hollow
                }
            }
            Ok(done) => Captured::Nothing(format!("nothing could be saved: nothing answered; see {}", done.path.display())),
            Err(why) => {
                tracing::error!(target_name = target, why, "capture saved nothing");
                Captured::Nothing(format!("nothing could be saved: {why}"))
            }
        };
        if let Ok(done) = &result {
            let is_evidence = !matches!(outcome, Captured::Nothing(_));
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
            self.housekeeping.give(move || {
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

    /// More than readings was never to be had: the instance is elsewhere and may not be asked.
    fn is_all_there_is(&self, job: &Job) -> bool {
        job.subject.instance.process().is_none() && (job.subject.no_pprof.is_some() || job.subject.target.pprof.is_none())
    }

    /// Another attempt would bring no more.
    fn is_gone(&self, job: &Job) -> bool {
        job.is_gone || job.subject.instance.process().is_some_and(|id| !self.env.procfs.is_alive(id))
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
        let seats = config.daemon.max_concurrent_captures;
        match seats.checked_sub(self.seats) {
            Some(more) => {
                self.env.seats.add_permits(more);
                self.seats = seats;
            }
            // those that are taken at the moment stay
            None => self.seats -= self.env.seats.forget_permits(self.seats - seats),
        }
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
        if let Some(ended) = self.watcher.take() {
            // the loop wakes at once for a command, unless the kernel does not answer it
            let _ = tokio::time::timeout(LAST_GRACE, ended).await;
        }
        if let Some(saver) = self.saver.take()
            && tokio::time::timeout(LAST_GRACE, saver).await.is_err()
        {
            tracing::warn!("the state could not be stored in time");
        }
        aside::must_not_wait(false);
    }
}
