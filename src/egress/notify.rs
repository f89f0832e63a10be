//! The loop that tells: each receiver's notices one after the other, all receivers side by side.
//!
//! At least once: what is queued is on disk until its receiver has said yes. A memtrap that was killed between a bundle and its notices
//! finds at the next start which bundles are younger than a receiver and were not told of.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use super::deliver::deliver;
use super::notice::Notice;
use super::on_disk;
use super::queue::Queue;
use super::trouble::{Trouble, spread};
use crate::bundle::{self, Bundle};
use crate::client::Clients;
use crate::clock::{self, Mono};
use crate::config::{Config, Notify};
use crate::disk::Dir;
use crate::error::chain;
use crate::meters::Meters;

/// The clock may be set while nothing happens.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// News of yesterday's incident may still help; later it is found in the list of bundles.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 3_600);
/// Three days have more: so many say that it is not the clock which has jumped, and that memtrap ran meanwhile.
const GIVE_UP_ATTEMPTS: u32 = 100;
const MAX_VERDICT: u64 = 16 << 20;
/// Since when each receiver is told.
const RECEIVERS: &str = "receivers.json";
const MAX_RECEIVERS: u64 = 1 << 20;

/// Whom to tell, as the configuration says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub receivers: Vec<Notify>,
    pub external_url: Option<String>,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        Settings { receivers: config.notify.clone(), external_url: config.daemon.external_url.clone() }
    }

    fn receiver(&self, name: &str) -> Option<&Notify> {
        self.receivers.iter().find(|r| r.name == name)
    }
}

/// What the rest of the program tells the notifier.
#[derive(Debug)]
pub enum Command {
    /// A bundle was published.
    Saved(String),
    Configure(Arc<Settings>),
}

/// One notice for one receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    receiver: String,
    notice: Notice,
}

/// When each receiver came to be: it is not told of what was before. Milliseconds since the epoch, by name.
type Since = BTreeMap<String, u64>;

pub(super) struct Notifier {
    bundle_dir: PathBuf,
    dir: PathBuf,
    since: Since,
    /// Differs between memtraps.
    spread: u64,
    queue: Queue<Delivery>,
    settings: Option<Arc<Settings>>,
    clients: Clients,
    trouble: HashMap<String, Trouble>,
    running: HashMap<Id, (String, String)>,
    commands: mpsc::UnboundedReceiver<Command>,
    stop: watch::Receiver<bool>,
    meters: Meters,
}

impl Notifier {
    /// `dir` is the notifier's own; `name` is this memtrap's.
    pub fn new(
        bundle_dir: PathBuf,
        dir: &Path,
        name: &str,
        queue: Queue<Delivery>,
        commands: mpsc::UnboundedReceiver<Command>,
        stop: watch::Receiver<bool>,
        meters: Meters,
    ) -> Notifier {
        // without it, everyone is new: nobody is told of old bundles
        let read =
            || serde_json::from_reader(BufReader::new(Dir::open(dir)?.own_file(RECEIVERS)?.take(MAX_RECEIVERS))).map_err(io::Error::from);
        let since = read().unwrap_or_default();
        Notifier {
            bundle_dir,
            dir: dir.to_owned(),
            since,
            spread: spread(name),
            queue,
            settings: None,
            clients: Clients::default(),
            trouble: HashMap::new(),
            running: HashMap::new(),
            commands,
            stop,
            meters,
        }
    }

    /// Until told to stop. Deliveries that run then are given up, and repeated at the next start.
    pub async fn run(mut self) {
        let mut deliveries: JoinSet<Result<(), String>> = JoinSet::new();
        let mut stop = self.stop.clone();
        loop {
            self.count_waiting();
            self.begin_what_is_due(&mut deliveries);
            let pause = self.pause().min(LONGEST_SLEEP);
            tokio::select! {
                biased;
                stopped = stop.wait_for(|stop| *stop) => {
                    drop(stopped);
                    return;
                }
                command = self.commands.recv() => match command {
                    Some(Command::Saved(id)) => self.saved(&id).await,
                    Some(Command::Configure(settings)) => self.configure(settings).await,
                    None => return,
                },
                Some(ended) = deliveries.join_next_with_id() => self.ended(ended),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn count_waiting(&self) {
        for receiver in self.settings.iter().flat_map(|settings| &settings.receivers) {
            self.meters.waiting(&receiver.name, Some(self.queue.len_among(|delivery| delivery.receiver == receiver.name)));
        }
    }

    fn is_busy(&self, receiver: &str) -> bool {
        self.running.values().any(|(busy, _)| busy == receiver)
    }

    fn begin_what_is_due(&mut self, deliveries: &mut JoinSet<Result<(), String>>) {
        let Some(settings) = self.settings.clone() else { return };
        let now = clock::wall_now();
        for receiver in &settings.receivers {
            let in_trouble = self.trouble.get(&receiver.name).is_some_and(|t| !t.pause(Mono::now()).is_zero());
            if in_trouble || self.is_busy(&receiver.name) {
                continue;
            }
            let Some(job) = self.queue.due_among(now, |delivery| delivery.receiver == receiver.name) else { continue };
            let (notice, settings, to, clients) = (job.payload.notice.clone(), settings.clone(), receiver.clone(), self.clients.clone());
            let key = job.key.clone();
            let task = deliveries.spawn(async move { deliver(&notice, &to, settings.external_url.as_deref(), &clients, now).await });
            self.running.insert(task.id(), (receiver.name.clone(), key));
        }
    }

    /// How long until something can be tried.
    fn pause(&self) -> Duration {
        let now = clock::wall_now();
        let receivers = self.settings.iter().flat_map(|settings| &settings.receivers).filter(|r| !self.is_busy(&r.name));
        let pauses = receivers.filter_map(|receiver| {
            let due = self.queue.next_in_among(now, |delivery| delivery.receiver == receiver.name)?;
            Some(due.max(self.trouble.get(&receiver.name).map_or(Duration::ZERO, |t| t.pause(Mono::now()))))
        });
        pauses.min().unwrap_or(LONGEST_SLEEP)
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), String>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(format!("the delivery crashed, which is a bug in memtrap: {error}"))),
        };
        let Some((receiver, key)) = self.running.remove(&id) else { return };
        let now = clock::wall_now();
        let trouble = self.trouble.entry(receiver.clone()).or_default();
        let noted = match result {
            Ok(()) => {
                let failures = trouble.over().unwrap_or(0);
                let noted = self.queue.delivered(&key);
                tracing::info!(receiver, delivery = key, failures, "notified");
                noted
            }
            Err(why) if self.queue.age(&key, now) > GIVE_UP_AFTER && self.queue.attempts(&key) >= GIVE_UP_ATTEMPTS => {
                tracing::error!(receiver, delivery = key, why, "not notified in three days; given up");
                self.queue.abandon(&key)
            }
            Err(why) => {
                let waiting = self.queue.len();
                if trouble.again(&why, self.spread, Mono::now()) {
                    tracing::warn!(
                        receiver,
                        delivery = key,
                        why,
                        waiting,
                        "not notified; it is tried again, less and less often, and told when that changes"
                    );
                } else {
                    tracing::debug!(receiver, delivery = key, why, waiting, "not notified again");
                }
                self.queue.failed(&key, &why, self.spread, now).map(drop)
            }
        };
        if let Err(error) = noted {
            tracing::error!(delivery = key, error = chain(&error), "the end of a delivery could not be noted; it may be repeated");
        }
    }

    async fn saved(&mut self, id: &str) {
        let (dir, wanted) = (self.bundle_dir.clone(), id.to_owned());
        let read = on_disk(move || bundle::open(&dir, &wanted).map(|bundle| notice_of(&bundle)));
        match read.await {
            Ok(Ok(notice)) => self.push(&notice, |_| true),
            Ok(Err(error)) => tracing::error!(bundle = id, error = chain(&error), "nobody is told of it"),
            Err(error) => tracing::error!(%error, "the reading of a bundle crashed, which is a bug in memtrap"),
        }
    }

    fn push(&mut self, notice: &Notice, to: impl Fn(&Notify) -> bool) {
        let Some(settings) = self.settings.clone() else { return };
        for receiver in settings.receivers.iter().filter(|r| r.is_for(&notice.target) && to(r)) {
            let key = format!("{} {}", receiver.name, notice.bundle);
            let delivery = Delivery { receiver: receiver.name.clone(), notice: notice.clone() };
            if let Err(error) = self.queue.push(&key, delivery, clock::wall_now()) {
                tracing::error!(
                    receiver = receiver.name,
                    bundle = notice.bundle,
                    error = chain(&error),
                    "what is to be told could not be stored"
                );
            }
        }
    }

    async fn configure(&mut self, settings: Arc<Settings>) {
        let now = clock::wall_now();
        let begins = self.settings.is_none();
        self.trouble.values_mut().for_each(Trouble::may_be_mended);
        self.queue.hurry(now);
        match self.queue.abandon_unless(|delivery| settings.receiver(&delivery.receiver).is_some()) {
            Ok(0) => {}
            Ok(dropped) => tracing::warn!(dropped, "notifications for receivers that the configuration no longer has are dropped"),
            Err(error) => tracing::warn!(error = chain(&error), "notifications for former receivers could not be dropped"),
        }
        let known = std::mem::take(&mut self.since);
        let now_ms = unix_ms(now);
        self.since = settings.receivers.iter().map(|r| (r.name.clone(), known.get(&r.name).copied().unwrap_or(now_ms))).collect();
        self.settings = Some(settings);
        for gone in known.keys().filter(|name| !self.since.contains_key(*name)) {
            self.meters.waiting(gone, None);
        }
        if self.since != known
            && let Err(error) = self.keep_since()
        {
            tracing::warn!(%error, path = %self.dir.join(RECEIVERS).display(), "cannot note who is told of what; after a kill, a notification may be missed");
        }
        if begins {
            self.catch_up(now).await;
        }
    }

    fn keep_since(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.since)?;
        Dir::open(&self.dir)?.replace(RECEIVERS, |file| file.write_all(&text))
    }

    /// Tells of bundles that a memtrap before this one had no time to tell of: a kill may have come in between, or its capture was
    /// interrupted and has become a bundle at this start.
    async fn catch_up(&mut self, now: SystemTime) {
        let (dir, oldest) = (self.bundle_dir.clone(), self.since.values().copied().min().unwrap_or(u64::MAX));
        let recent = on_disk(move || {
            let (mut ids, mut recent) = (Vec::new(), Vec::new());
            // one manifest in memory at a time
            for bundle in bundle::each(&dir)? {
                recent.extend((finished_ms(&bundle) >= oldest).then(|| notice_of(&bundle)));
                ids.push(bundle.id);
            }
            Ok::<_, bundle::BundleError>((ids, recent))
        });
        let (ids, recent) = match recent.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::warn!(error = chain(&error), "bundles of earlier runs are not looked for"),
            Err(error) => return tracing::error!(%error, "the listing of bundles crashed, which is a bug in memtrap"),
        };
        let is_there = |key: &str| key.split_once(' ').is_some_and(|(_, id)| ids.binary_search_by(|known| known.as_str().cmp(id)).is_ok());
        if let Err(error) = self.queue.forget_delivered(is_there) {
            tracing::warn!(error = chain(&error), "notes of earlier notifications could not be tidied");
        }
        let since = self.since.clone();
        for notice in recent {
            let finished = rfc3339_ms(&notice.finished);
            if unix_ms(now).saturating_sub(finished) < GIVE_UP_AFTER.as_millis() as u64 {
                self.push(&notice, |r| since.get(&r.name).is_some_and(|since| finished >= *since));
            }
        }
    }
}

/// Tells every receiver, one after the other; what became of it, in their order. For a person who waits.
pub async fn test(settings: &Settings, notice: &Notice) -> Vec<Result<(), String>> {
    let clients = Clients::default();
    let mut results = Vec::new();
    for receiver in &settings.receivers {
        results.push(deliver(notice, receiver, settings.external_url.as_deref(), &clients, clock::wall_now()).await);
    }
    results
}

/// Blocks on the disk.
fn notice_of(bundle: &Bundle) -> Notice {
    let mut text = Vec::new();
    let read = bundle.file("verdict.json").and_then(|file| file.take(MAX_VERDICT).read_to_end(&mut text));
    let verdict = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
    Notice::new(bundle, verdict.as_ref())
}

fn finished_ms(bundle: &Bundle) -> u64 {
    rfc3339_ms(&bundle.manifest.finished)
}

fn rfc3339_ms(text: &str) -> u64 {
    humantime::parse_rfc3339(text).map_or(0, unix_ms)
}

fn unix_ms(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
