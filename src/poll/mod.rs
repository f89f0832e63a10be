//! The polling loop: reads each instance's RSS when it is due, and turns what the rules say into jobs.
//!
//! One thread, no async: it only reads /proc, decides, and hands on. Captures, disk writes and everything else that can block run
//! elsewhere and report back through the command channel, so that no capture delays a poll.

mod status;
mod statm;
mod watcher;

pub use statm::{Reading, Statm};
pub use status::InstanceStatus;
pub use watcher::{Baseline, Command, Handles, Job, JobDone, Past, Pulse, Task, Timeline, Watcher};
