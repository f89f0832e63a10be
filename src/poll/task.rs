//! What passes between the watcher and the rest of the program.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Ask, CollectorAnswer, CollectorAsk, Granted, History, InstanceStatus, NotGranted};
use crate::anatomy::GoMemory;
use crate::bundle::Warning;
use crate::clock::Mono;
use crate::config::{self, Config};
use crate::host::Limit;
use crate::host::bell::{BellId, Bells, Rang};
use crate::host::limit::OomCounter;
use crate::host::workload::Workload;
use crate::identity::{Identity, SlotNumber};
use crate::incident::Captured;
use crate::metrics::CollectorSaid;
use crate::series::Kept;
use crate::state::{KeptFloors, Saved};
use crate::trigger::Fired;

/// Samples before and during a capture; the watcher appends while the capture runs.
pub type Timeline = Arc<Mutex<Vec<Kept>>>;

/// Something to be done elsewhere.
#[derive(Clone, Debug)]
pub enum Task {
    Capture(Box<Job>),
    Baseline(Baseline),
    Check(Check),
    /// What the collectors of these processes have done.
    Collectors(Vec<CollectorAsk>),
}

/// Whom a capture or a baseline is of.
#[derive(Clone, Debug)]
pub struct Subject {
    /// With the `pprof` of this very instance.
    pub target: Arc<config::Target>,
    pub instance: Identity,
    /// For people: `pid 4821`, `10.0.0.1:6060`.
    pub label: String,
    /// What it belongs to, where its target means many services.
    pub workload: Option<Arc<Workload>>,
    /// What its series told, where there is no process to look at.
    pub remote: Option<RemoteFacts>,
    /// Why pprof must not be asked, though there is an address.
    pub no_pprof: Option<String>,
}

/// What metrics tell of an instance elsewhere, as of its last reading.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteFacts {
    pub rss: u64,
    pub limit: Option<Limit>,
    pub started_unix_ms: Option<u64>,
    pub go: Option<Box<GoMemory>>,
}

/// A light capture of a healthy instance, to compare an incident with.
#[derive(Clone, Debug)]
pub struct Baseline {
    pub subject: Subject,
    pub rss: u64,
    /// Held until it is taken, or will not be.
    pub place: Arc<()>,
}

/// The question whether an instance's evidence could be had now.
#[derive(Clone, Debug)]
pub struct Check {
    pub subject: Subject,
    pub slot: SlotNumber,
    /// Held until it is answered.
    pub place: Arc<()>,
}

/// Its answer.
#[derive(Clone, Debug)]
pub struct Checked {
    pub target: String,
    pub slot: SlotNumber,
    /// Another may sit there by now.
    pub instance: Identity,
    /// Why not, with the URL that was tried.
    pub found: Result<(), String>,
    pub at: SystemTime,
}

/// What the collector of a process has done, if it could be read. An error is a sentence.
#[derive(Clone, Debug)]
pub struct CollectorTold {
    pub target: Arc<str>,
    pub slot: SlotNumber,
    /// Another may sit there by now.
    pub instance: Identity,
    pub found: Result<CollectorAnswer, String>,
}

/// A capture to be made, admitted by the budget.
#[derive(Clone, Debug)]
pub struct Job {
    pub subject: Subject,
    pub slot: SlotNumber,
    pub admitted: Mono,
    pub incident: String,
    pub part: u32,
    pub fired: Fired,
    /// Kills by the kernel in the process's cgroup, as counted when it was first seen.
    pub oom: Option<OomCounter>,
    pub timeline: Timeline,
    /// The lowest RSS of each hour, with how long ago it began, where `leak` watches.
    pub floors: Vec<(Duration, u64)>,
    /// The process may reach its limit while it is captured.
    pub hurry: bool,
    /// What the reader of the bundle should know.
    pub warning: Option<Warning>,
    /// Its process ended before the capture began.
    pub is_gone: bool,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct JobDone {
    pub target: String,
    pub slot: SlotNumber,
    pub admitted: Mono,
    pub result: Captured,
    /// The bundle's id, if there is one.
    pub bundle: Option<String>,
}

/// What a target's source told, at one moment.
#[derive(Clone, Debug)]
pub struct Readings {
    pub target: Arc<str>,
    pub at: Mono,
    /// The next are to be expected within this time.
    pub next: Duration,
    /// Or why the source told nothing.
    pub found: Result<Found, String>,
}

/// Every instance that a source knows of.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// One for each series.
    pub readings: Vec<Remote>,
    /// Instances may be missing from it, and why.
    pub partial: Option<String>,
    /// What else did not work: limits, start times.
    pub trouble: Option<String>,
    /// Where the limits come from.
    pub limit_source: Arc<str>,
}

/// One reading of one instance elsewhere.
#[derive(Clone, Debug)]
pub struct Remote {
    pub who: Arc<Who>,
    pub started_unix_ms: Option<u64>,
    /// RSS in bytes, or why that is not known.
    pub rss: Result<u64, String>,
    /// In bytes. An error is why it is not known now; `Ok(None)`: there is none.
    pub limit: Result<Option<u64>, Arc<str>>,
    pub go: Option<Box<GoMemory>>,
    /// What its collector has done, where that is told.
    pub collector: Option<Box<CollectorSaid>>,
}

/// What stays the same of an instance elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Unique within its target: the URL, or the labels in canonical order.
    pub series: Arc<str>,
    /// For people.
    pub label: String,
    /// Where its pprof is, or why that is not known. `None`: where the target says.
    pub pprof: Option<Result<String, String>>,
}

/// What the rest of the program tells the watcher.
#[derive(Debug)]
pub enum Command {
    Done(JobDone),
    Checked(Checked),
    Collector(CollectorTold),
    /// A new, valid configuration. Targets are told apart by name; those that remain keep series, incidents and cooldowns.
    Reload(Box<Config>),
    Readings(Readings),
    /// The kernel tells by itself of a cgroup.
    Rang(BellId, Rang),
    Status(oneshot::Sender<Vec<InstanceStatus>>),
    /// The last hour of these targets' slots; of those that there are.
    History(Vec<(String, SlotNumber)>, oneshot::Sender<Vec<History>>),
    /// A capture, whatever the rules say.
    Capture(Ask, oneshot::Sender<Result<Granted, NotGranted>>),
    Stop,
}

/// The watcher's ends of the channels to the rest of the program.
#[derive(Debug)]
pub struct Handles {
    pub commands: Sender<Command>,
    pub tasks: mpsc::UnboundedReceiver<Task>,
    /// The newest state worth storing.
    pub state: watch::Receiver<Option<Saved>>,
    /// What the watcher wants to be told of with [`Command::Rang`], by a thread that listens. `None`: nobody can.
    pub bells: Option<Arc<Bells>>,
    /// Floors to be stored, once an hour; dropped where nobody stores them.
    pub floors: Option<mpsc::UnboundedReceiver<KeptFloors>>,
}
