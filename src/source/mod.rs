//! Sources elsewhere: who asks expositions and Prometheus servers, and when. The async side; the watcher hears of it by
//! [`Command::Readings`].
//!
//! ```text
//!  Sources ──one task per target──> scrape: GET url ──exposition──┐
//!                                   fleet:  GET query ──series────┼──Readings──> watcher
//!                                      (and limits, start times)  │
//!                      why there is no answer ────────────────────┘
//! ```
//!
//! Every question is answered or given up before the next is due; a source that fails again and again is asked less often. No
//! connection is kept, no redirect followed, no proxy used. Not here: parsing (`metrics`), and what readings mean (`poll`).

mod fleet;
mod get;
mod scrape;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::aside::Threads;
use crate::client::{Clients, Credentials, Use};
use crate::clock::Mono;
use crate::config::{Auth, Config, Source, Target, User};
use crate::host::ProcFs;
use crate::host::peer::Peer;
use crate::host::trust::Trusted;
use crate::poll::{Command, Found, Readings};

/// Questions on their way at the same time; each takes some 40 kB.
const MAX_ASKING: usize = 64;
/// The same of sources that did not answer last time: those that hang must not hold up those that do not.
const MAX_TRYING_AGAIN: usize = 32;
const CONNECT: Duration = Duration::from_secs(3);
/// No source needs longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// After so many failures in a row a source is asked less often.
const PATIENCE: u32 = 5;
const LESS_OFTEN: u32 = 8;
/// But at least this often, unless its interval is longer.
const AT_LEAST: Duration = Duration::from_secs(30);
/// Secret files are read again after this time, and when they do not open a door any more.
const SECRETS: Duration = Duration::from_secs(60);
/// Threads that read secret files, or large answers.
const THREADS: usize = 32;
/// For secret files.
const SECRETS_PATIENCE: Duration = Duration::from_secs(5);
/// After a task has crashed.
const RESTART: Duration = Duration::from_secs(10);

/// What the tasks share.
#[derive(Clone)]
struct Hub {
    clients: Clients,
    threads: Threads,
    asking: Arc<Semaphore>,
    trying_again: Arc<Semaphore>,
    watcher: Sender<Command>,
}

impl Hub {
    fn new(clients: Clients, watcher: Sender<Command>) -> Hub {
        let (asking, trying_again) = (Arc::new(Semaphore::new(MAX_ASKING)), Arc::new(Semaphore::new(MAX_TRYING_AGAIN)));
        Hub { clients, threads: Threads::new("sources", THREADS), asking, trying_again, watcher }
    }
}

/// The running tasks.
pub struct Sources {
    hub: Hub,
    running: HashMap<String, (Arc<Target>, JoinHandle<()>)>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sources of {} targets", self.running.len())
    }
}

impl Sources {
    /// Starts a task for each target of `config` that has a source elsewhere.
    pub fn start(config: &Config, clients: Clients, watcher: Sender<Command>) -> Sources {
        let hub = Hub::new(clients, watcher);
        let mut sources = Sources { hub, running: HashMap::new() };
        sources.begin(config);
        sources
    }

    /// Ends the tasks of targets that are no longer the same. What they told is in the watcher's channel by then, before whatever is
    /// sent to it after this call.
    pub fn end_changed(&mut self, config: &Config) {
        let now: HashMap<&str, &Arc<Target>> = config.targets.iter().map(|t| (t.name.as_str(), t)).collect();
        self.running.retain(|name, (target, task)| {
            let same = now.get(name.as_str()).is_some_and(|t| *t == target);
            if !same {
                task.abort();
            }
            same
        });
    }

    /// Starts the tasks that are missing.
    pub fn begin(&mut self, config: &Config) {
        for target in config.targets.iter().filter(|t| t.source.process().is_none()) {
            if !self.running.contains_key(&target.name) {
                let task = tokio::spawn(supervise(self.hub.clone(), target.clone()));
                self.running.insert(target.name.clone(), (target.clone(), task));
            }
        }
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.running.values().for_each(|(_, task)| task.abort());
    }
}

/// Keeps the task of one target running. A panic in it is a bug, told and outlived.
async fn supervise(hub: Hub, target: Arc<Target>) {
    // pulled down with this task
    let mut inner = JoinSet::new();
    loop {
        inner.spawn(follow(hub.clone(), target.clone()));
        let Some(Err(crash)) = inner.join_next().await else { return };
        if !crash.is_panic() {
            return;
        }
        let why = "the task that asks the source crashed, which is a bug in memtrap; it is started again".to_owned();
        tracing::error!(target_name = %target.name, error = %crash, "source task crashed");
        let readings = Readings { target: target.name.as_str().into(), at: Mono::now(), next: RESTART, found: Err(why) };
        if hub.watcher.send(Command::Readings(readings)).is_err() {
            return;
        }
        tokio::time::sleep(RESTART).await;
    }
}

/// Asks one target's source at its interval, for ever, or until the watcher has ended.
async fn follow(hub: Hub, target: Arc<Target>) {
    let name: Arc<str> = target.name.as_str().into();
    let mut asker = Asker::new(&hub, &target);
    let mut failures: u32 = 0;
    // thousands of endpoints must not be asked in the same instant
    let mut due = Instant::now() + spread(&target);
    loop {
        tokio::time::sleep_until(due).await;
        let turns = if failures == 0 { &hub.asking } else { &hub.trying_again };
        let found = match turns.acquire().await {
            // boxed: thousands of tasks sleep, and must not keep room for a request meanwhile
            Ok(_turn) => Box::pin(asker.ask()).await,
            Err(_) => return,
        };
        failures = if found.is_err() { failures.saturating_add(1) } else { 0 };
        let pause = if failures >= PATIENCE { (target.interval * LESS_OFTEN).min(AT_LEAST).max(target.interval) } else { target.interval };
        due = (due + pause).max(Instant::now());
        let readings = Readings { target: name.clone(), at: Mono::now(), next: pause, found };
        if hub.watcher.send(Command::Readings(readings)).is_err() {
            return;
        }
    }
}

/// A part of the interval that depends on the target's name.
fn spread(target: &Target) -> Duration {
    if matches!(target.source, Source::Prometheus(_)) {
        return Duration::ZERO;
    }
    let mut hash = DefaultHasher::new();
    target.name.hash(&mut hash);
    let part = (hash.finish() % 1_000) as u32;
    target.interval.min(Duration::from_secs(10)) * part / 1_000
}

/// Asks a target's source once, with the patience of one interval: for `check --probe`.
pub async fn ask_once(target: &Target, clients: &Clients) -> Result<Found, String> {
    let (watcher, _nobody) = std::sync::mpsc::channel();
    Asker::new(&Hub::new(clients.clone(), watcher), target).ask().await
}

/// One target's way of asking.
enum Asker<'t> {
    Scrape(Box<scrape::Scrape<'t>>),
    Fleet(Box<fleet::Fleet<'t>>),
    Nobody,
}

impl<'t> Asker<'t> {
    fn new(hub: &Hub, target: &'t Target) -> Asker<'t> {
        match &target.source {
            Source::Metrics(metrics) => Asker::Scrape(Box::new(scrape::Scrape::new(
                target,
                metrics,
                Door::new(hub, &target.name, &target.auth, metrics.user.as_ref()),
            ))),
            Source::Prometheus(prometheus) => Asker::Fleet(Box::new(fleet::Fleet::new(
                target,
                prometheus,
                Door::new(hub, &target.name, &prometheus.auth, prometheus.user.as_ref()),
            ))),
            Source::Process(_) => Asker::Nobody,
        }
    }

    async fn ask(&mut self) -> Result<Found, String> {
        match self {
            Asker::Scrape(scrape) => scrape.ask().await,
            Asker::Fleet(fleet) => fleet.ask().await,
            Asker::Nobody => Err("a process of this host has no source elsewhere".into()),
        }
    }
}

/// How long a question may take: less than the interval.
fn patience(interval: Duration) -> Duration {
    (interval / 10 * 9).min(LONGEST_WAIT)
}

/// Who must answer at `url`, if credentials are sent and it is on this host.
fn guard(credentials: &Credentials, url: &reqwest::Url, user: Option<&User>) -> Result<Option<Peer>, String> {
    if !credentials.are_sent() {
        return Ok(None);
    }
    let procfs = ProcFs::host();
    Ok(Peer::of_url(&procfs, url, Trusted::of_address(&procfs, user)?, None))
}

/// Client and credentials, renewed now and then.
struct Door<'t> {
    clients: Clients,
    threads: Threads,
    /// Of the target.
    name: &'t str,
    auth: &'t Auth,
    /// Who serves it, if it is on this host.
    user: Option<&'t User>,
    open: Option<(reqwest::Client, Credentials, Instant)>,
}

impl<'t> Door<'t> {
    fn new(hub: &Hub, name: &'t str, auth: &'t Auth, user: Option<&'t User>) -> Door<'t> {
        Door { clients: hub.clients.clone(), threads: hub.threads.clone(), name, auth, user, open: None }
    }

    /// The client for this URL, and what is sent along.
    async fn open(&mut self, url: &reqwest::Url) -> Result<(&reqwest::Client, &Credentials), String> {
        let fresh = self.open.as_ref().is_some_and(|(_, _, at)| at.elapsed() < SECRETS || *self.auth == Auth::default());
        if !fresh {
            let (clients, auth, user, url) = (self.clients.clone(), self.auth.clone(), self.user.cloned(), url.clone());
            let reads_files = url.scheme() != "http" || auth != Auth::default();
            let make = move || -> Result<(reqwest::Client, Credentials), String> {
                let credentials = Credentials::load(&auth).map_err(|e| e.to_string())?;
                let client = match guard(&credentials, &url, user.as_ref())? {
                    Some(peer) => clients.guarded(&url, None, &credentials, CONNECT, Use::Scrape, peer.into()),
                    None => clients.client(&url, None, &credentials, CONNECT, Use::Scrape),
                };
                client.map(|client| (client, credentials)).map_err(|e| e.to_string())
            };
            let made = if reads_files {
                let made = self.threads.run_for(self.name, SECRETS_PATIENCE, make).await;
                made.map_err(|why| format!("the files of `auth` could not be read: {why}"))?
            } else {
                make()
            };
            let (client, credentials) = made?;
            self.open = Some((client, credentials, Instant::now()));
        }
        self.open.as_ref().map(|(client, credentials, _)| (client, credentials)).ok_or_else(|| "no HTTP client".into())
    }

    /// The secrets may have been replaced.
    fn close_if_turned_away(&mut self, trouble: &get::Trouble) {
        if matches!(trouble, get::Trouble::Status { code, .. } if matches!(code.as_u16(), 401 | 403)) {
            self.open = None;
        }
    }
}
