//! What leaves this host: bundles, on their way to where people look for them, and the news of them.
//!
//! ```text
//!                       (a thread)
//!  Engine ──bundle_saved──> worker ──> queue ──> upload ──> store
//!         │                    │       (disk)  (archive)
//!         ├──claim, 2 s ──────>│
//!         │<── ours / theirs ──┘ arbiter: claim (pure) + conditional create
//!         │             (another thread)
//!         └─bundle_saved──> notifier ──> queue ──> deliver ──> receivers
//!                                       (disk)    (notice)
//! ```
//!
//! | part | one purpose |
//! | --- | --- |
//! | [`queue`] | what is still to be delivered, on disk |
//! | [`store`] | the configured store, and its failures in words |
//! | [`upload`] | one bundle into the store, verified |
//! | [`claim`], [`arbiter`] | which of several memtraps captures an incident: the decision, and the asking |
//! | `worker` | the loop that uploads |
//! | [`notice`], [`deliver`] | what is told of a bundle, in each receiver's form (pure); telling one receiver |
//! | [`notify`] | the loop that tells |
//! | `trouble` | failures in a row, said once |
//!
//! Nothing here delays or loses a capture: uploads and notifications have a thread, a runtime and disk threads each, so that a store that hangs
//! keeps no news back; a claim is waited for [`PATIENCE`] and no longer, and whatever goes wrong ends in a line of the log and another try.

pub mod arbiter;
pub mod claim;
pub mod deliver;
pub mod notice;
pub mod notify;
pub mod queue;
pub mod store;
#[cfg(test)]
mod tests;
mod trouble;
pub mod upload;
mod worker;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::Request;
use crate::config::{self, Config};
use crate::digest;
use crate::disk::Dir;
use crate::error::chain;
use crate::identity::{Identity, InstanceId, SeriesId};
use crate::meters::Meters;
use crate::writable;
use arbiter::{Claimant, Claimed, Theirs};
use claim::Sighting;
use notify::Notifier;
use queue::{Queue, QueueError};
use store::{Store, StoreError};
use worker::{Command, Settings, Worker};

/// How long a capture waits for the answer to a claim.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// More than retention keeps by default, of all targets together.
const MOST_JOBS: usize = 10_000;
/// In the egress directory.
const NAME: &str = "name";
/// For all of a probe's requests.
const PROBE: Duration = Duration::from_secs(15);
/// For the worker to let go of what it is at.
const STOP_GRACE: Duration = Duration::from_secs(4);

/// Why nothing can be uploaded, and nobody notified.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("cannot keep a name for this memtrap in {path}")]
    Name { path: PathBuf, source: io::Error },
    #[error("no thread for uploads and notifications")]
    Thread(#[source] io::Error),
}

/// The daemon's end: starts the thread once there is something for it to do.
#[derive(Debug)]
pub struct Egress {
    state_dir: PathBuf,
    bundle_dir: PathBuf,
    host: String,
    meters: Meters,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    commands: mpsc::UnboundedSender<Command>,
    notices: mpsc::UnboundedSender<notify::Command>,
    stop: watch::Sender<bool>,
    /// Each ends with its thread.
    ended: [oneshot::Receiver<()>; 2],
    uploads: bool,
    claims: bool,
    notifies: bool,
}

impl Egress {
    /// Nothing is made or started before [`Egress::configure`] says that bundles are to be uploaded, or someone is to be told.
    pub fn new(state_dir: PathBuf, bundle_dir: PathBuf, host: String, meters: Meters) -> Egress {
        Egress { state_dir, bundle_dir, host, meters, running: None }
    }

    /// Goes on as the configuration says. A failure to start is logged: captures matter more.
    pub fn configure(&mut self, config: &Config) {
        if self.running.as_ref().is_some_and(Running::has_failed) {
            self.running = None;
        }
        if (config.upload.is_some() || !config.notify.is_empty()) && self.running.is_none() {
            match self.start() {
                Ok(running) => self.running = Some(running),
                Err(error) => return tracing::error!(error = chain(&error), "nothing will be uploaded, and nobody notified"),
            }
        }
        let Some(running) = &mut self.running else { return };
        running.uploads = config.upload.is_some();
        running.claims = config.upload.as_ref().is_some_and(|u| u.claim);
        let cooldowns = config.targets.iter().map(|t| (t.name.clone(), t.rules.cooldown)).collect();
        let settings = config.upload.clone().map(|upload| Arc::new(Settings { upload, cooldowns }));
        running.tell(Command::Configure(settings));
        running.notifies = !config.notify.is_empty();
        running.notify(notify::Command::Configure(Arc::new(notify::Settings::of(config))));
    }

    fn start(&self) -> Result<Running, EgressError> {
        let dir = self.state_dir.join("egress");
        let (commands, receiver) = mpsc::unbounded_channel();
        let (notices, news) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let naming = Arc::new(Mutex::new(()));
        let (place, named, meters, until) = (dir.clone(), naming.clone(), self.meters.clone(), stopped.clone());
        let (bundle_dir, host) = (self.bundle_dir.clone(), self.host.clone());
        let uploads = on_thread("uploads", "nothing will be uploaded", move || {
            let queue = Queue::open(&place.join("upload"), MOST_JOBS)?;
            let me = Claimant { holder: name(&place, &named)?, host };
            Ok(Worker::new(bundle_dir, me, queue, receiver, until, meters).run())
        })?;
        let (bundle_dir, meters) = (self.bundle_dir.clone(), self.meters.clone());
        let notifications = on_thread("notices", "nobody will be notified", move || {
            let notify_dir = dir.join("notify");
            let queue = Queue::open(&notify_dir, MOST_JOBS)?;
            let holder = name(&dir, &naming)?;
            Ok(Notifier::new(bundle_dir, &notify_dir, &holder, queue, news, stopped, meters).run())
        })?;
        Ok(Running { commands, notices, stop, ended: [uploads, notifications], uploads: false, claims: false, notifies: false })
    }

    /// A bundle was published: it is to be uploaded if any is, and whoever wants to know of it is told.
    pub fn bundle_saved(&self, id: &str) {
        let Some(running) = &self.running else { return };
        if running.uploads {
            running.tell(Command::Saved(id.to_owned()));
        }
        if running.notifies {
            running.notify(notify::Command::Saved(id.to_owned()));
        }
    }

    /// Asks whether this capture is another memtrap's; `None` if claims are off, or it is not to be claimed. The answer comes within
    /// [`PATIENCE`]; it is `None` as well if the store cannot tell, and then the capture goes on: evidence first.
    pub fn claim(&self, request: &Request, boot_id: &str) -> Option<impl Future<Output = Option<Theirs>> + Send + 'static> {
        let running = self.running.as_ref().filter(|r| r.claims && request.fired.trigger.by_rule())?;
        let (target, rules) = (request.target.name.clone(), &request.target.rules);
        let process = request.instance.map(Identity::Process);
        let instance = process.or_else(|| Some(Identity::Series(request.remote.as_ref()?.id.clone())));
        let instance = name_of(boot_id, instance.as_ref(), &request.instance_label);
        let (reply, answer) = oneshot::channel();
        running.tell(Command::Claim(Sighting::new(&target, instance, request.part, request.started, rules.cooldown), reply));
        Some(async move {
            let why = match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(Ok(Claimed::Ours(_)))) => return None,
                Ok(Ok(Ok(Claimed::Theirs(theirs)))) => return Some(theirs),
                Ok(Ok(Err(error))) => error.0,
                Ok(Err(_)) => "uploads have ended".to_owned(),
                Err(_) => format!("no answer within {}", humantime::format_duration(PATIENCE)),
            };
            tracing::warn!(
                target_name = target,
                why,
                "the store cannot tell whether another memtrap has this incident; captured in any case"
            );
            None
        })
    }

    /// Ends the worker; what is queued goes on with the next start.
    pub async fn stop(self) {
        let Some(running) = self.running else { return };
        running.stop.send_replace(true);
        let [uploads, notifications] = running.ended;
        let both = async { drop(tokio::join!(uploads, notifications)) };
        if tokio::time::timeout(STOP_GRACE, both).await.is_err() {
            tracing::warn!("an upload or a notification did not end in time; it is repeated at the next start");
        }
    }
}

impl Running {
    /// A thread has ended, though nobody stopped it: what it needs on the disk could not be had.
    fn has_failed(&self) -> bool {
        self.commands.is_closed() || self.notices.is_closed()
    }

    fn notify(&self, command: notify::Command) {
        if self.notices.send(command).is_err() {
            tracing::error!("the notifications have ended unexpectedly; nobody is told of bundles until memtrap starts anew");
        }
    }

    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("the uploads have ended unexpectedly; bundles stay here until memtrap starts anew");
        }
    }
}

/// A thread with a runtime of its own for what `make` makes, which may take its time on the disk. Without it, `loss` is logged.
fn on_thread<F: Future<Output = ()>>(
    name: &str,
    loss: &'static str,
    make: impl FnOnce() -> Result<F, EgressError> + Send + 'static,
) -> Result<oneshot::Receiver<()>, EgressError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(3)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(EgressError::Thread)?;
    let (ends, ended) = oneshot::channel();
    let work = move || {
        let _ends: oneshot::Sender<()> = ends;
        // what a hook may do is not what memtrap may: capabilities end with this thread
        if let Err(error) = rustix::thread::clear_ambient_capability_set() {
            tracing::debug!(%error, "ambient capabilities cannot be dropped; the kernel may not know them");
        }
        match make() {
            Ok(work) => runtime.block_on(work),
            Err(error) => tracing::error!(error = chain(&error), "{loss}"),
        }
        // a stuck disk must not hold the exit
        runtime.shutdown_timeout(Duration::from_secs(1));
    };
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(EgressError::Thread)?;
    Ok(ended)
}

/// Does what waits for a disk on one of the few threads that this runtime has for it.
#[expect(clippy::disallowed_methods, reason = "uploads and notifications have a runtime each, which shares these threads with nobody")]
async fn on_disk<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(job).await
}

/// The name of this memtrap, which both threads may come to make.
fn name(dir: &Path, naming: &Mutex<()>) -> Result<String, EgressError> {
    let _one = naming.lock().unwrap_or_else(PoisonError::into_inner);
    Dir::make(dir).and_then(|dir| lasting_name(&dir)).map_err(|source| EgressError::Name { path: dir.join(NAME), source })
}

/// Tries whether the store takes and gives back objects now, as whoever runs this; says where they would go.
pub async fn probe(upload: &config::Upload) -> Result<String, StoreError> {
    let made = match &upload.to {
        config::Destination::Directory(dir) => writable::missing(&dir.join(&upload.prefix).join(claim::CLAIMS)),
        _ => Vec::new(),
    };
    let tried = try_store(upload).await;
    // otherwise they would be those of whoever probes
    writable::remove_empty(&made);
    tried
}

async fn try_store(upload: &config::Upload) -> Result<String, StoreError> {
    let settings = upload.clone();
    let opened = on_disk(move || Store::open(&settings)).await;
    let store = opened.unwrap_or_else(|e| Err(StoreError(e.to_string())))?;
    let name = format!("{}", std::process::id());
    match tokio::time::timeout(PROBE, arbiter::probe(&store, upload.claim, &name)).await {
        Ok(tried) => tried.map(|()| format!("{}/{}", store.objects, upload.prefix)),
        Err(_) => Err(StoreError(format!("no answer within {}", humantime::format_duration(PROBE)))),
    }
}

/// What every memtrap that sees this instance calls it: with its start, so that a successor is another one.
fn name_of(boot_id: &str, instance: Option<&Identity>, label: &str) -> String {
    match instance {
        Some(Identity::Process(InstanceId { pid, start_ticks })) => format!("{boot_id}/{pid}/{start_ticks}"),
        Some(Identity::Series(SeriesId { series, started_unix_ms })) => format!("{series} {}", started_unix_ms.unwrap_or_default()),
        None => label.to_owned(),
    }
}

/// A name of this memtrap's own, made once.
fn lasting_name(dir: &Dir) -> io::Result<String> {
    let usable = |name: &String| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let mut name = String::new();
    let read = dir.own_file(NAME).and_then(|file| file.take(64).read_to_string(&mut name));
    if read.is_ok() && usable(&name) {
        return Ok(name);
    }
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    let name = digest::hex(&bytes);
    dir.replace(NAME, |file| file.write_all(name.as_bytes()))?;
    Ok(name)
}
