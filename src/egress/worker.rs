//! The loop that delivers: one job at a time, when it is due, and not while the store is down.
//!
//! It runs on a thread and a runtime of its own, so that neither the hashing of a part nor a store that does not answer takes anything from a
//! capture.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::arbiter::{self, Claimant, Claimed};
use super::claim::Sighting;
use super::on_disk;
use super::queue::{Pushed, Queue};
use super::store::{Store, StoreError};
use super::trouble::{Trouble, spread};
use super::upload::{self, UploadError, Uploaded};
use crate::bundle::{self, Bundle, BundleError};
use crate::clock::{self, Mono};
use crate::config;
use crate::error::chain;
use crate::meters::Meters;
use crate::units::ByteSize;

/// Questions for claims at a time: a store that hangs must not gather them.
const MAX_CLAIMS: usize = 8;
/// The clock may be set while nothing happens.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// What the configuration says, as far as it is about this.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub upload: config::Upload,
    /// By target; those of targets that are gone have the default.
    pub cooldowns: HashMap<String, Duration>,
}

/// What the rest of the program tells the worker.
#[derive(Debug)]
pub enum Command {
    /// A bundle was published.
    Saved(String),
    Claim(Sighting, oneshot::Sender<Result<Claimed, StoreError>>),
    /// `None`: what is queued stays queued.
    Configure(Option<Arc<Settings>>),
}

pub(super) struct Worker {
    pub bundle_dir: PathBuf,
    pub me: Claimant,
    /// One job for each bundle; its ID is the key.
    pub queue: Queue<()>,
    pub settings: Option<Arc<Settings>>,
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub stop: watch::Receiver<bool>,
    trouble: Trouble,
    meters: Meters,
}

/// How an attempt ended.
enum Outcome {
    Arrived {
        uploaded: Uploaded,
        deleted: bool,
    },
    /// Another memtrap's bundle of the same incident is there.
    Covered {
        host: String,
        bundle: String,
    },
    /// Another memtrap captures or uploads it now; nothing is wrong.
    Waits {
        host: String,
    },
    Failed(String),
    Hopeless(String),
    Stopped,
}

impl Worker {
    pub fn new(
        bundle_dir: PathBuf,
        me: Claimant,
        queue: Queue<()>,
        commands: mpsc::UnboundedReceiver<Command>,
        stop: watch::Receiver<bool>,
        meters: Meters,
    ) -> Worker {
        Worker { bundle_dir, me, queue, settings: None, commands, stop, trouble: Trouble::default(), meters }
    }

    /// Until told to stop. A job that runs then ends early and stays queued.
    pub async fn run(mut self) {
        let mut jobs: JoinSet<Outcome> = JoinSet::new();
        let mut claims: JoinSet<()> = JoinSet::new();
        let mut current = String::new();
        let mut stop = self.stop.clone();
        loop {
            self.meters.waiting(config::UPLOAD, self.settings.as_ref().map(|_| self.queue.len()));
            if jobs.is_empty()
                && self.pause().is_some_and(|pause| pause.is_zero())
                && let Some((settings, job)) = self.settings.clone().zip(self.queue.due(clock::wall_now()))
            {
                current = job.key.clone();
                jobs.spawn(deliver(job.key.clone(), settings, self.bundle_dir.clone(), self.me.clone(), self.stop.clone()));
            }
            let pause = self.pause().unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            tokio::select! {
                biased;
                stopped = stop.wait_for(|stop| *stop) => {
                    drop(stopped);
                    break;
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command, &mut claims).await,
                    None => break,
                },
                Some(ended) = jobs.join_next() => {
                    let crashed = |error| Outcome::Failed(format!("the upload crashed, which is a bug in memtrap: {error}"));
                    self.ended(&current, ended.unwrap_or_else(crashed));
                }
                Some(_) = claims.join_next() => {}
                () = tokio::time::sleep(pause), if jobs.is_empty() => {}
            }
        }
        // it sees the same signal
        while jobs.join_next().await.is_some() {}
    }

    /// How long until something can be tried; `None` if there is nothing.
    fn pause(&self) -> Option<Duration> {
        self.settings.as_ref()?;
        let due = self.queue.next_in(clock::wall_now())?;
        Some(due.max(self.trouble.pause(Mono::now())))
    }

    async fn obey(&mut self, command: Command, claims: &mut JoinSet<()>) {
        match command {
            Command::Saved(id) => self.push(&id),
            Command::Claim(_, reply) if claims.len() >= MAX_CLAIMS => {
                let _ = reply.send(Err(StoreError("earlier questions are not answered yet".into())));
            }
            Command::Claim(seen, reply) => {
                let (settings, me) = (self.settings.clone(), self.me.clone());
                claims.spawn(async move {
                    let answer = match settings {
                        Some(settings) => claim(&settings, &seen, &me).await,
                        None => Err(StoreError("uploads were switched off meanwhile".into())),
                    };
                    // whoever asked has its own patience
                    let _ = reply.send(answer);
                });
            }
            Command::Configure(settings) => {
                let begins = self.settings.is_none() && settings.is_some();
                self.trouble.may_be_mended();
                self.settings = settings;
                if begins {
                    self.catch_up().await;
                } else {
                    self.queue.hurry(clock::wall_now());
                }
            }
        }
    }

    /// Queues the bundles that no job or note is of: a kill may have come between the two, or uploads are new here.
    async fn catch_up(&mut self) {
        let dir = self.bundle_dir.clone();
        let listed = on_disk(move || bundle::each(&dir).map(|all| all.map(|b| b.id).collect::<Vec<_>>()));
        let ids = match listed.await {
            Ok(Ok(ids)) => ids,
            Ok(Err(error)) => return tracing::warn!(error = chain(&error), "bundles of earlier runs are not looked for"),
            Err(error) => return tracing::error!(%error, "the listing of bundles crashed, which is a bug in memtrap"),
        };
        if let Err(error) = self.queue.forget_delivered(|key| ids.binary_search_by(|id| id.as_str().cmp(key)).is_ok()) {
            tracing::warn!(error = chain(&error), "notes of earlier uploads could not be tidied");
        }
        for id in ids.iter().filter(|id| !self.queue.knows(id)).collect::<Vec<_>>() {
            self.push(id);
        }
        if !self.queue.is_empty() {
            tracing::info!(waiting = self.queue.len(), "bundles wait for their upload");
        }
    }

    fn push(&mut self, id: &str) {
        match self.queue.push(id, (), clock::wall_now()) {
            Ok(Pushed::Queued | Pushed::Known) => {}
            Err(error) => {
                tracing::error!(
                    bundle = id,
                    error = chain(&error),
                    "its upload could not be stored, and a restart would forget it until the next one that can"
                )
            }
        }
    }

    fn ended(&mut self, id: &str, outcome: Outcome) {
        let now = clock::wall_now();
        let spread = spread(&self.me.holder);
        let noted = match outcome {
            Outcome::Arrived { uploaded, deleted } => {
                if let Some(failures) = self.trouble.over() {
                    tracing::info!(failures, "uploads work again");
                }
                let (object, size, already) = (uploaded.object, ByteSize(uploaded.archive.bytes), uploaded.already);
                tracing::info!(bundle = id, object, %size, sha256 = uploaded.archive.sha256, already, deleted, "bundle uploaded");
                self.queue.delivered(id).and_then(|()| if deleted { self.queue.forget_delivered(|key| key != id) } else { Ok(()) })
            }
            Outcome::Covered { host, bundle } => {
                tracing::info!(
                    bundle = id,
                    host,
                    theirs = bundle,
                    "not uploaded: another memtrap's bundle of this incident is there; it stays here"
                );
                self.queue.delivered(id)
            }
            Outcome::Waits { host } => {
                tracing::debug!(bundle = id, host, "another memtrap has claimed this incident; its upload is awaited");
                self.queue.failed(id, &format!("{host} has claimed this incident"), spread, now).map(drop)
            }
            Outcome::Failed(why) => {
                let noted = self.queue.failed(id, &why, spread, now).map(drop);
                let waiting = self.queue.len();
                if self.trouble.again(&why, spread, Mono::now()) {
                    tracing::warn!(
                        bundle = id,
                        why,
                        waiting,
                        "upload failed; it is tried again, less and less often, and told when that changes"
                    );
                } else {
                    tracing::debug!(bundle = id, why, waiting, "upload failed again");
                }
                noted
            }
            Outcome::Hopeless(why) => {
                tracing::error!(bundle = id, why, "this bundle cannot be uploaded; no further attempts");
                self.queue.abandon(id)
            }
            Outcome::Stopped => Ok(()),
        };
        if let Err(error) = noted {
            tracing::error!(bundle = id, error = chain(&error), "the end of an upload could not be noted; it may be repeated");
        }
    }
}

async fn claim(settings: &Arc<Settings>, seen: &Sighting, me: &Claimant) -> Result<Claimed, StoreError> {
    let store = open_store(settings.clone()).await?;
    arbiter::claim(&store, seen, me, clock::wall_now()).await
}

/// Secret files and the system's certificates are read on a blocking thread.
async fn open_store(settings: Arc<Settings>) -> Result<Store, StoreError> {
    let opened = on_disk(move || Store::open(&settings.upload)).await;
    opened.unwrap_or_else(|error| Err(StoreError(format!("the store's setup crashed, which is a bug in memtrap: {error}"))))
}

async fn deliver(id: String, settings: Arc<Settings>, bundle_dir: PathBuf, me: Claimant, stop: watch::Receiver<bool>) -> Outcome {
    attempt(&id, settings, &bundle_dir, &me, stop).await.unwrap_or_else(|outcome| outcome)
}

async fn attempt(
    id: &str,
    settings: Arc<Settings>,
    bundle_dir: &Path,
    me: &Claimant,
    stop: watch::Receiver<bool>,
) -> Result<Outcome, Outcome> {
    let bundle = Arc::new(open_bundle(id, bundle_dir).await?);
    let failed = |error: StoreError| Outcome::Failed(error.0);
    let store = open_store(settings.clone()).await.map_err(failed)?;
    let delete = settings.upload.delete_after_upload;
    let mut held = None;
    if settings.upload.claim
        && let Some(seen) = sighting(&bundle, &settings.cooldowns)
    {
        match arbiter::claim(&store, &seen, me, clock::wall_now()).await.map_err(failed)? {
            Claimed::Ours(ours) => held = Some(ours),
            Claimed::Theirs(theirs) => {
                return Ok(match theirs.bundle {
                    Some(bundle) => Outcome::Covered { host: theirs.host, bundle },
                    None => Outcome::Waits { host: theirs.host },
                });
            }
        }
    }
    let uploaded = match upload::bundle(&store, &bundle, delete, stop).await {
        Ok(uploaded) => uploaded,
        Err(UploadError::Stopped) => return Ok(Outcome::Stopped),
        Err(error @ UploadError::Damaged(_)) => {
            // retention may have come in between
            open_bundle(id, bundle_dir).await?;
            return Ok(Outcome::Hopeless(chain(&error)));
        }
        Err(error) => return Ok(Outcome::Failed(chain(&error))),
    };
    if let Some(held) = held {
        arbiter::fulfil(&store, &held, &uploaded.object).await.map_err(failed)?;
    }
    let deleted = delete && delete_local(bundle).await;
    Ok(Outcome::Arrived { uploaded, deleted })
}

async fn open_bundle(id: &str, bundle_dir: &Path) -> Result<Bundle, Outcome> {
    let (dir, wanted) = (bundle_dir.to_owned(), id.to_owned());
    match on_disk(move || bundle::open(&dir, &wanted)).await {
        Ok(Ok(bundle)) => Ok(bundle),
        Ok(Err(BundleError::NotFound { .. })) => Err(Outcome::Hopeless("it was deleted before it could be uploaded".into())),
        Ok(Err(error @ (BundleError::BadId { .. } | BundleError::BadManifest { .. }))) => Err(Outcome::Hopeless(chain(&error))),
        Ok(Err(error)) => Err(Outcome::Failed(chain(&error))),
        Err(error) => Err(Outcome::Failed(format!("reading the bundle crashed, which is a bug in memtrap: {error}"))),
    }
}

async fn delete_local(bundle: Arc<Bundle>) -> bool {
    let id = bundle.id.clone();
    match on_disk(move || bundle::remove(&bundle)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(bundle = id, error = chain(&error), "uploaded, but the local copy could not be deleted; retention will");
            false
        }
        Err(_) => false,
    }
}

/// The incident that a bundle is of, as it was seen when its capture began; `None` for one that a person asked for.
fn sighting(bundle: &Bundle, cooldowns: &HashMap<String, Duration>) -> Option<Sighting> {
    let m = &bundle.manifest;
    let started = humantime::parse_rfc3339(&m.started).ok()?;
    let instance = super::name_of(&m.boot_id, m.instance.identity().as_ref(), &m.instance.label);
    let cooldown = cooldowns.get(&m.target).copied().unwrap_or(config::Rules::default().cooldown);
    m.trigger.trigger.by_rule().then(|| Sighting::new(&m.target, instance, m.part, started, cooldown))
}
