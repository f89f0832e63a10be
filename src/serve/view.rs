//! What the server knows of the running memtrap: it asks the watcher, and reads the bundle directory, each time within bounds.
//!
//! The watcher answers between two polls. However many clients ask, it is asked at most twice a second.

use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, oneshot};

use super::index::{Caught, Index};
use crate::aside::Threads;
use crate::clock::{self, Mono};
use crate::host::ProcFs;
use crate::identity::SlotNumber;
use crate::lang::{Lang, say};
use crate::meters::Meters;
use crate::poll::{Ask, Command, Granted, History, InstanceStatus, NotGranted};
use crate::text::one_line;

/// The watcher is between two polls after milliseconds, or it is stuck.
const PATIENCE: Duration = Duration::from_secs(3);
const FRESH: Duration = Duration::from_millis(500);
const DISK_THREADS: usize = 2;
/// Pages of ten thousand instances take some 100 ms of a core each.
const RENDER_THREADS: usize = 2;
const RENDER: Duration = Duration::from_secs(10);
/// The loop turns at least every ten seconds, with nothing due.
const STUCK: Duration = Duration::from_secs(30);

/// Of what was wrong with a configuration; its log has all of it.
const MAX_WHY: usize = 300;

/// There is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unavailable {
    #[error("the watcher does not answer; see memtrap's log, and /healthz")]
    Watcher,
    #[error("the bundles cannot be listed: {0}")]
    Bundles(String),
    #[error("the disk with the bundles does not answer")]
    Disk,
    #[error("too many ask for pages at the same time; try again in a moment")]
    Busy,
}

/// The handles of a running engine that the server needs.
#[derive(Debug)]
pub struct Seen {
    pub commands: Sender<Command>,
    pub meters: Meters,
    pub bundle_dir: std::path::PathBuf,
    pub procfs: ProcFs,
    pub host: String,
}

/// How the configuration that is in force came to be.
#[derive(Clone, Debug)]
pub(super) struct Reloads {
    /// The last one that the file replaced whole; the start is one.
    pub succeeded: SystemTime,
    /// What came after that.
    pub failed: Option<NotReloaded>,
}

/// Why the configuration in force is not the file's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReloaded {
    /// RFC 3339.
    pub time: String,
    pub why: String,
}

impl NotReloaded {
    /// For people.
    pub fn words(&self, lang: Lang) -> String {
        let (time, why) = (one_line(&self.time, 40), one_line(&self.why, MAX_WHY));
        say!(lang;
            "the running configuration is not the file's: its reload failed at {time}: {why}";
            "正在运行的配置不是文件里的：{time} 重新加载失败：{why}"
        )
    }
}

/// When they were asked for, and what the answer was.
type Kept = Option<(Mono, Result<Arc<Vec<InstanceStatus>>, Unavailable>)>;

#[derive(Debug)]
pub(super) struct View {
    pub seen: Seen,
    /// Held while the watcher is asked, so that one question answers all who wait.
    instances: Mutex<Kept>,
    index: Mutex<Index>,
    lang: RwLock<Lang>,
    reloads: RwLock<Reloads>,
    disk: Threads,
    rendering: Threads,
}

impl View {
    pub fn new(seen: Seen) -> View {
        let index = Mutex::new(Index::new(seen.bundle_dir.clone()));
        let reloads = RwLock::new(Reloads { succeeded: clock::wall_now(), failed: None });
        let (disk, rendering) = (Threads::new("serve", DISK_THREADS), Threads::new("render", RENDER_THREADS));
        View { seen, instances: Mutex::default(), index, lang: RwLock::default(), reloads, disk, rendering }
    }

    /// Of the page.
    pub fn lang(&self) -> Lang {
        *self.lang.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_lang(&self, lang: Lang) {
        *self.lang.write().unwrap_or_else(PoisonError::into_inner) = lang;
    }

    pub fn reloads(&self) -> Reloads {
        self.reloads.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file was read again; `Err` says what of it is not in force.
    pub fn reloaded(&self, result: Result<(), String>) {
        let now = clock::wall_now();
        let mut reloads = self.reloads.write().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => *reloads = Reloads { succeeded: now, failed: None },
            Err(why) => reloads.failed = Some(NotReloaded { time: clock::rfc3339_millis(now), why: one_line(&why, MAX_WHY) }),
        }
    }

    /// Every instance, at most half a second old.
    pub async fn instances(&self) -> Result<Arc<Vec<InstanceStatus>>, Unavailable> {
        let mut kept = self.instances.lock().await;
        if let Some((_, answer)) = kept.as_ref().filter(|(at, _)| Mono::now().since(*at) < FRESH) {
            return answer.clone();
        }
        let answer = self.ask(Command::Status).await.map(Arc::new);
        *kept = Some((Mono::now(), answer.clone()));
        answer
    }

    /// What was kept is not what is any more.
    pub async fn forget_instances(&self) {
        *self.instances.lock().await = None;
    }

    /// The last hour of these instances.
    pub async fn histories(&self, wanted: Vec<(String, SlotNumber)>) -> Result<Vec<History>, Unavailable> {
        self.ask(|reply| Command::History(wanted, reply)).await
    }

    /// Orders a capture.
    pub async fn capture(&self, ask: Ask) -> Result<Result<Granted, NotGranted>, Unavailable> {
        let answer = self.ask(|reply| Command::Capture(ask, reply)).await;
        self.forget_instances().await;
        answer
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.seen.commands.send(command(reply)).map_err(|_| Unavailable::Watcher)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Unavailable::Watcher),
        }
    }

    /// Every published bundle, the newest first; some seconds old at most.
    pub async fn bundles(&self) -> Result<Arc<Vec<Caught>>, Unavailable> {
        self.index.lock().await.newest_first(Mono::now()).await.map_err(Unavailable::Bundles)
    }

    /// Does what waits for the disk.
    pub async fn on_disk<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Unavailable> {
        self.disk.run(PATIENCE, job).await.map_err(|_| Unavailable::Disk)
    }

    /// Makes a page of what may be thousands of instances, or of bundles.
    pub async fn render<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Unavailable> {
        self.rendering.run(RENDER, job).await.map_err(|_| Unavailable::Busy)
    }

    /// `Err`: for how long the polling loop has not turned.
    pub fn health(&self, now: Mono) -> Result<(), Duration> {
        let silent = now.since(self.seen.meters.last_turn());
        if silent < STUCK { Ok(()) } else { Err(silent) }
    }
}
