//! `proc/process.json`: what is known of the process in one place, for `analyze` and for people. What could not be read is absent and
//! named in `problems`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::Limit;
use crate::host::buildinfo::BuildInfo;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessFacts {
    pub schema: u32,
    pub pid: u32,
    pub start_ticks: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boot_id: Option<String>,
    /// RFC 3339, UTC, to about a second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub comm: Option<String>,
    /// Effective.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threads: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit: Option<Limit>,
    /// The memory cgroup's path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oom_kills: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fds: Option<Fds>,
    /// TCP, in the process's own network namespace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub listening: Option<Vec<String>>,
    /// Whether its loopback is memtrap's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub same_network_namespace: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub go: Option<BuildInfo>,
    /// GOGC, GOMEMLIMIT, GODEBUG and GOMAXPROCS as the process was started with, those that were set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub env: Option<BTreeMap<String, String>>,
    /// Why something above is absent or incomplete.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<String>,
}

/// From `status`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peak_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rss_anon_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rss_file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rss_shmem_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub swap_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub virtual_bytes: Option<u64>,
}

/// Open descriptors by what they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fds {
    pub total: u64,
    /// `socket`, `pipe`, `file`, `deleted_file`, `memfd`, `device`, `other`, or the anonymous inode's own name, such as `eventpoll`.
    pub by_kind: BTreeMap<String, u64>,
}
