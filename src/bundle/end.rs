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
    /// Whose limit was met: a cgroup's path, or `host` where no cgroup's was. `None`: nothing was killed, or no counter tells.
    #[serde(default)]
    pub oom_limit_of: Option<String>,
    #[serde(default)]
    pub oom_limit_bytes: Option<u64>,
    /// The file that counted it.
    #[serde(default)]
    pub oom_limit_counter: Option<String>,
    /// The kernel's status of a process that its parent has not waited for yet: code and signal.
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub exit_signal: Option<i32>,
    pub last_rss_bytes: Option<u64>,
    pub last_rss_at: Option<String>,
}
