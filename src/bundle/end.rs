//! `end.json`: how the process ended, if it did.

use serde::{Deserialize, Serialize};

/// Times are RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Whether the process ended before the capture did.
    pub gone: bool,
    /// When that was noticed.
    pub noticed_at: Option<String>,
    /// The kernel killed in the process's own cgroup meanwhile. `None`: alive, or the counter cannot be read.
    pub oom_killed: Option<bool>,
    pub oom_kills_before: Option<u64>,
    /// Kills since then, as counted by `oom_cgroup`.
    pub oom_kills_since: Option<u64>,
    pub oom_cgroup: Option<String>,
    /// The counter is that of the process's own cgroup; if not, a neighbour may have been the victim.
    pub oom_cgroup_is_own: Option<bool>,
    pub last_rss_bytes: Option<u64>,
    pub last_rss_at: Option<String>,
}
