//! What the kernel says of this host: its processes, their limits, cgroups, sockets and users, and the Go builds that they run.
//!
//! Everything here reads the kernel's text files below a root that tests replace, is synchronous, bounded, and keeps no
//! state: a caller that wants the answer again asks again; but for `bell`, which waits for what the kernel tells by itself. Not here: RSS polling (`poll`), and anything that is sent to a process.

pub mod bell;
pub mod buildinfo;
pub mod cgroup;
pub mod charge;
pub mod limit;
pub mod netns;
pub mod obstacle;
pub mod peer;
pub mod proc;
pub mod sight;
pub mod slowing;
pub mod sockets;
pub mod trust;
mod unix;
pub mod users;
pub mod workload;

#[cfg(test)]
pub(crate) mod fake;

pub use proc::{ProcDir, ProcError, ProcFs};

use serde::{Deserialize, Serialize};

/// The memory an instance may use, and which file said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub bytes: u64,
    /// For people: `cgroup v2 /system.slice/checkout.service memory.max`, `host MemTotal`.
    pub source: String,
}
