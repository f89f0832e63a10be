//! The act of capturing: a list of named steps, each with a recorded outcome, into one bundle.
//!
//! ```text
//!  plan::of(target) ──Step, Step, …──> Runner ──FileEntry──> bundle::Partial ──> publish
//!                                        │ kernel: the process's side, before pprof touches it
//!                                        │ fetch ─> sink: bodies to disk as they come
//!                                        └ reach, watch: how long to bother
//! ```
//!
//! A failed step never stops the next; a bundle that lacks something says what and why. What each step gets of time is
//! bounded, and shrinks when the service does not answer (see `reach`). memtrap's memory does not grow with a profile.
//!
//! Not here: when to capture (`incident`), what it means (`verdict`), where bundles go afterwards.

mod analyse;
mod attempts;
pub mod baseline;
mod begin;
mod child;
mod collected;
mod discover;
mod end;
mod endpoint;
mod fetch;
mod finish;
mod hold;
pub mod kernel;
pub(crate) mod memory;
mod plan;
mod reach;
mod run;
mod sink;
mod step_result;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::sync::watch::Receiver;

pub use crate::client::{Clients, install_tls_provider};
pub use collected::Unanswered;

use crate::aside::{Lane, NoAnswer, Threads};
use crate::bundle::{BundleError, FileEntry, Outcome, RemoteInstance, Warning};
use crate::config::{self, Daemon};
use crate::goruntime::collector::Places;
use crate::host::ProcFs;
use crate::host::limit::OomCounter;
use crate::host::workload::Workload;
use crate::identity::InstanceId;
use crate::lang::Lang;
use crate::series::Kept;
use crate::trigger::Fired;
use crate::units::ByteSize;
use run::Runner;

/// RSS samples in order of time: those before the capture, and those that the watcher adds while it runs.
pub type TimelineHandle = Arc<Mutex<Vec<Kept>>>;

/// One capture to make.
#[derive(Clone, Debug)]
pub struct Request {
    pub incident_id: String,
    /// 1 for an incident's first bundle.
    pub part: u32,
    pub scope: Scope,
    pub target: Arc<config::Target>,
    /// `None`: no process of this host was ever seen for it.
    pub instance: Option<InstanceId>,
    /// What its metrics told of an instance elsewhere.
    pub remote: Option<RemoteInstance>,
    /// Why pprof is not asked, though the target has an address.
    pub no_pprof: Option<String>,
    /// Something that the reader of the bundle should know.
    pub warning: Option<Warning>,
    /// For people: `pid 4821`.
    pub instance_label: String,
    /// What it belongs to, where its target means many services.
    pub workload: Option<Arc<Workload>>,
    pub fired: Fired,
    /// The process may reach its limit within seconds: what dies with it comes first.
    pub hurry: bool,
    /// What the bundle is named after.
    pub started: SystemTime,
    pub timeline: TimelineHandle,
    /// The lowest RSS of each hour, with how long before `started` it began; empty where `leak` does not watch.
    pub floors: Vec<(Duration, u64)>,
    /// The cgroup's kill counter from when the instance was known to live. `None`: it is read when the capture begins,
    /// which is too late for a process that is gone by then.
    pub oom: Option<OomCounter>,
    /// Of the verdict and the report.
    pub lang: Lang,
    /// Somebody waits for the answer: it is told before the CPU profile too, see [`Progress::Answer`].
    pub answers_early: bool,
    /// With less free space than this, big parts are left out.
    pub min_free: ByteSize,
    /// Where baselines are kept: that of the instance becomes a part of the bundle.
    pub baselines: Option<PathBuf>,
}

/// How much of the plan is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Full,
    /// The cheap steps only, see [`baseline`].
    Baseline,
}

/// Of this very version, even if the file was replaced by an upgrade.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// What all captures share.
#[derive(Clone, Debug)]
pub struct Env {
    pub procfs: ProcFs,
    pub bundle_dir: PathBuf,
    pub host: String,
    pub boot_id: String,
    pub clients: Clients,
    pub unanswered: Unanswered,
    /// For what is asked of neither the service nor the bundle's disk: secrets, the kernel's tables, earlier bundles.
    pub(crate) threads: Threads,
    /// One for each verdict that may be worked out at once: `max_concurrent_captures`.
    pub seats: Arc<Semaphore>,
    /// What all profiles of a capture may inflate to while they are looked through; one of them to half of it.
    pub inflatable: ByteSize,
    /// The program whose `analyze` command writes verdicts; `None`: bundles have none.
    pub analyser: Option<PathBuf>,
    /// The program whose `read-memory` command reads the memory of Go processes; `None`: it is not read.
    pub reader: Option<PathBuf>,
    /// Where what is held is noted; `None`: nothing is held.
    pub brakes: Option<PathBuf>,
}

impl Env {
    /// What captures of this host share. Installs the TLS provider.
    pub fn new(procfs: ProcFs, bundle_dir: PathBuf, boot_id: String) -> Env {
        install_tls_provider();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Env {
            procfs,
            bundle_dir,
            host,
            boot_id,
            clients: Clients::default(),
            unanswered: Unanswered::default(),
            threads: threads(),
            seats: Arc::new(Semaphore::new(Daemon::default().max_concurrent_captures)),
            inflatable: INFLATABLE,
            analyser: Some(THIS_PROGRAM.into()),
            reader: Some(THIS_PROGRAM.into()),
            brakes: None,
        }
    }
}

/// Four times what the analysis reads of one profile.
const INFLATABLE: ByteSize = ByteSize::mib(256);

/// A capture needs two at most, for some milliseconds.
fn threads() -> Threads {
    Threads::new("prepare", 32)
}

/// Tries whether pprof of this process would answer now: where it is, or why not.
pub async fn probe(target: &Arc<config::Target>, id: Option<InstanceId>, env: &Env) -> Result<String, String> {
    if target.pprof.is_none() {
        return Ok("none".into());
    }
    let (_running, stop) = tokio::sync::watch::channel(false);
    let mut watch = watch::Watch::new(env.procfs.clone(), id, stop);
    let found = endpoint::prepare(target, id, env).finish(&mut watch).await.map_err(|e| e.why)?;
    let endpoint = found.endpoint;
    let asked = fetch::get_small(&endpoint, endpoint.url("cmdline"), discover::INDEX, &mut watch).await;
    asked.map_err(|e| format!("{}: {e}", endpoint.shown("cmdline")))?;
    match found.warnings.first() {
        None => Ok(endpoint.place()),
        Some(warning) => Err(warning.text.clone()),
    }
}

/// Tries what the memory of a process would give now: what it was read with, or why it cannot be. `None`: it is not to be read.
pub async fn probe_memory(target: &config::Target, id: InstanceId, env: &Env) -> Option<Result<String, String>> {
    let program = env.reader.as_ref().filter(|_| target.capture.read_memory != config::ReadMemory::Off)?;
    Some(memory::ask(program, &env.threads, id).await.map(|reading| reading.what_it_gives()))
}

/// Whether a capture would have Go's side of this process now, from pprof or from its memory; else why not, of both.
pub async fn try_evidence(target: &Arc<config::Target>, id: Option<InstanceId>, env: &Env) -> Result<(), String> {
    let Err(why) = probe(target, id, env).await else { return Ok(()) };
    let Some(id) = id else { return Err(why) };
    match probe_memory(target, id, env).await {
        Some(Ok(_)) => Ok(()),
        Some(Err(neither)) => Err(format!("{why}; nor is its memory read: {neither}")),
        None => Err(why),
    }
}

/// Where the counts are of what a process's collections cost; `None` while it has collected nothing. The error is a sentence.
///
/// If the future is dropped, the child that looks is killed; nothing is written anywhere.
pub async fn collector_places(id: InstanceId, env: &Env) -> Result<Option<Places>, String> {
    let program = env.reader.as_deref().ok_or("its memory is not read")?;
    memory::ask_collector(program, &env.threads, id).await
}

/// What is going on, for a terminal.
#[derive(Clone, Debug)]
pub enum Progress {
    Started {
        file: String,
    },
    Done(FileEntry),
    /// The verdict's sentence as of the core evidence, before the CPU profile.
    Answer(String),
}

/// What a capture left.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    /// `TARGET/20261123T081336Z-threshold-1.52GiB`.
    pub id: String,
    pub path: PathBuf,
    pub outcome: Outcome,
    /// There is something about the process beyond its RSS series.
    pub evidence: bool,
    /// The verdict's sentence for a ticket.
    pub verdict: Option<String>,
    /// Names of the files whose steps failed.
    pub failed: Vec<String>,
    /// What the reader should know first: why the profiles may not be of this process.
    pub warnings: Vec<String>,
    pub bytes: u64,
}

/// Why a capture left no bundle.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("no bundle could be begun")]
    Begin(#[source] BundleError),
    /// The evidence lies in the partial, which the next start finishes.
    #[error("the bundle could not be finished; what was captured is in {path}, and will be finished when memtrap starts next")]
    Publish { path: PathBuf, source: BundleError },
    #[error("no thread to write the bundle")]
    NoThread(#[source] std::io::Error),
    #[error("the thread that writes the bundle failed; what was captured will be finished when memtrap starts next")]
    Thread(#[from] NoAnswer),
}

/// Captures now, to the end of the plan, and publishes the bundle. Takes as long as the CPU profile and the timeouts of
/// the steps make it; when `stop` becomes true, as long as the disk needs.
///
/// The disk is used on a thread of the capture's own. If the future is dropped, the partial bundle stays, with a journal of
/// what was done, and is finished as interrupted at the next start of memtrap.
pub async fn run(
    request: Request,
    env: &Env,
    stop: Receiver<bool>,
    progress: &mut (dyn FnMut(Progress) + Send + Sync),
) -> Result<Captured, CaptureError> {
    let lane = Lane::start("capture").map_err(CaptureError::NoThread)?;
    let cgroup = begin::cgroup(&request, env, &lane).await?;
    let hold = hold::begin(&request, env, cgroup.clone()).await;
    let low_disk = begin::is_disk_low(&request, env, &lane).await?;
    let slowed = begin::slowed(cgroup.clone(), &lane).await?;
    let plan = plan::of(&request.target, begin::conditions(&request, low_disk, slowed.is_some() || hold.is_held()));
    let (partial, oom) = begin::partial(&request, env, &plan, slowed, &lane).await?;

    let tell = run::Tell::new(progress);
    let mut runner = Runner::new(&request, env, partial, lane.clone(), low_disk, stop, &tell);
    runner.slowing.stands_in(cgroup);
    let (core, rest) = plan::at_the_answer(plan);
    let (light, heavy) = plan::before_it_works(core);
    runner.walk(light).await;
    hold.end(&mut runner).await;
    runner.walk(heavy).await;
    if let Some((dir, id)) = begin::baseline(&request) {
        runner.partial = baseline::copy_into(runner.partial, &lane, env, dir, request.target.clone(), id).await?;
    }
    walk_on(&mut runner, rest, &request, env, &tell).await;
    let walked = runner.finish();

    let outcome = walked.outcome();
    let (partial, stopped) = (finish::own_files(walked.partial, walked.gone, oom, &request, env, &lane).await?, walked.stopped);
    let verdict = finish::verdict(&partial, outcome, stopped, &request, env).await;
    finish::publish(partial, outcome, verdict, &lane).await
}

/// The rest of the plan, and what was late; whoever waits gets an answer from what there is before.
async fn walk_on(runner: &mut Runner<'_>, rest: Vec<plan::Step>, request: &Request, env: &Env, tell: &run::Tell<'_>) {
    let early = env.analyser.as_ref().filter(|_| request.answers_early && (!rest.is_empty() || runner.is_late()));
    let early = early.map(|program| (program, runner.partial.manifest().clone()));
    let (at, published) = (runner.partial.path().into(), runner.partial.published_path().into());
    let answer = async {
        if let Some((program, manifest)) = early {
            // the whole bundle's comes at the end, whatever becomes of this one
            let _seat = env.seats.acquire().await;
            if let Ok(written) = analyse::ask(program, &env.threads, at, published, &manifest, request.lang).await {
                tell.say(Progress::Answer(written.verdict.summary));
            }
        }
        std::future::pending::<()>().await
    };
    let walk = async {
        runner.walk(rest).await;
        runner.walk_late().await;
    };
    tokio::select! {
        () = walk => {}
        () = answer => {}
    }
}
