//! The polling loop: reads each process's RSS when it is due, is told of that of others, and turns what the rules say into jobs.
//!
//! One thread, no async: it only reads what the kernel answers at once, decides, and hands on. Captures, questions to other hosts, disk
//! writes, the looking for processes and everything else that can block run elsewhere and report, so that none of them delays a poll.

mod ask;
mod collector;
pub mod descriptors;
mod dispatch;
mod evidence;
mod floors;
mod instance;
mod kills;
mod kin;
mod recovery;
mod remote;
pub mod resolve;
mod scan;
pub mod schedule;
mod statm;
mod status;
mod target;
mod task;
mod watcher;

pub use ask::{Ask, Granted, NotGranted, Which};
pub use collector::{CollectorAnswer, CollectorAsk};
pub use evidence::OK as EVIDENCE_OK;
pub use recovery::Recovered;
pub use statm::{Reading, Statm};
pub use status::{History, InstanceStatus};
pub use task::{
    Baseline, Check, Checked, CollectorTold, Command, Found, Handles, Job, JobDone, Readings, Remote, RemoteFacts, Subject, Task, Timeline,
    Who,
};
#[cfg(test)]
use watcher::next_multiple;
pub use watcher::{Pulse, Watcher};
