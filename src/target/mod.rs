//! Who is watched: selectors become instances, instances have limits, sockets and an end.
//!
//! Everything here reads the kernel's text files below a root that tests replace, is synchronous, bounded, and keeps no
//! state: a caller that wants the answer again asks again. Not here: RSS polling (`poll`), and anything that is sent to a process.

pub mod buildinfo;
pub mod cgroup;
pub mod limit;
pub mod proc;
pub mod resolve;
pub mod sockets;

#[cfg(test)]
pub(crate) mod fake;

pub use proc::{ProcDir, ProcError, ProcFs};
pub use resolve::Resolution;

use serde::{Deserialize, Serialize};

/// One life of one process. A pid alone is reused; together with the start time it is not, within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to the start of the process.
    pub start_ticks: u64,
}

/// The memory an instance may use, and which file said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub bytes: u64,
    /// For people: `cgroup v2 /system.slice/checkout.service memory.max`, `host MemTotal`.
    pub source: String,
}
