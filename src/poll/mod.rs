//! The polling loop: reads each instance's RSS when it is due, and turns what the rules say into jobs.
//!
//! One thread, no async: it only reads /proc, decides, and hands on. Captures, disk writes and everything else that can block run
//! elsewhere and report back through the command channel, so that no capture delays a poll.

mod statm;
mod status;
mod task;
mod watched;
mod watcher;

pub use statm::{Reading, Statm};
pub use status::InstanceStatus;
pub use task::{Baseline, Command, Handles, Job, JobDone, Task, Timeline};
pub use watcher::{Past, Pulse, Watcher};
