//! What passes between the watcher and the rest of the program.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

use super::InstanceStatus;
use crate::clock::Mono;
use crate::config::{self, Config};
use crate::incident::Captured;
use crate::roster::SlotNumber;
use crate::series::Sample;
use crate::state::Saved;
use crate::target::limit::OomCounter;
use crate::target::{InstanceId, Limit};
use crate::trigger::Fired;

/// Samples before and during a capture; the watcher appends while the capture runs.
pub type Timeline = Arc<Mutex<Vec<Sample>>>;

/// Something to be done elsewhere.
#[derive(Clone, Debug)]
pub enum Task {
    Capture(Box<Job>),
    Baseline(Baseline),
}

/// A light capture of a healthy instance, to compare an incident with.
#[derive(Clone, Debug)]
pub struct Baseline {
    pub target: Arc<config::Target>,
    pub instance: InstanceId,
    pub rss: u64,
}

/// A capture to be made, admitted by the budget.
#[derive(Clone, Debug)]
pub struct Job {
    pub target: Arc<config::Target>,
    pub slot: SlotNumber,
    pub admitted: Mono,
    pub incident: String,
    pub part: u32,
    pub fired: Fired,
    pub instance: InstanceId,
    pub limit: Option<Limit>,
    /// Kills by the kernel in the process's cgroup, as counted when it was first seen.
    pub oom: Option<OomCounter>,
    pub timeline: Timeline,
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

/// What the rest of the program tells the watcher.
#[derive(Debug)]
pub enum Command {
    Done(JobDone),
    /// A new, valid configuration. Targets are told apart by name; those that remain keep series, incidents and cooldowns.
    Reload(Box<Config>),
    Status(oneshot::Sender<Vec<InstanceStatus>>),
    Stop,
}

/// The watcher's ends of the channels to the rest of the program.
#[derive(Debug)]
pub struct Handles {
    pub commands: Sender<Command>,
    pub tasks: mpsc::UnboundedReceiver<Task>,
    /// The newest state worth storing.
    pub state: watch::Receiver<Option<Saved>>,
}
