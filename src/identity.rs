//! Names of what is watched: processes of this host, instances elsewhere, and their places within a target.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::text::one_line;

/// A slot's number within its target; never reused while memtrap runs.
pub type SlotNumber = u32;

/// One life of one process. A pid alone is reused; together with the start time it is not, within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to the start of the process.
    pub start_ticks: u64,
}

/// Who is watched: a process of this host, or one elsewhere that is known by its series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Identity {
    Process(InstanceId),
    Series(SeriesId),
}

/// One life of one process that only metrics tell of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeriesId {
    /// The exposition's URL, or the labels in canonical order; unique within a target.
    pub series: Arc<str>,
    /// `process_start_time_seconds`, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_unix_ms: Option<u64>,
}

/// Start times that differ by no more are the same: they come as floating point numbers, and through clocks that are adjusted.
const SAME_START_MS: u64 = 100;

/// Whether two start times that were told of one series, in milliseconds since 1970, are of one life.
pub fn is_same_start(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= SAME_START_MS
}

impl Identity {
    /// The process, if it is one of this host.
    pub fn process(&self) -> Option<InstanceId> {
        match self {
            Identity::Process(id) => Some(*id),
            Identity::Series(_) => None,
        }
    }

    pub fn series(&self) -> Option<&SeriesId> {
        match self {
            Identity::Process(_) => None,
            Identity::Series(id) => Some(id),
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process().map(|id| id.pid)
    }
}

impl From<InstanceId> for Identity {
    fn from(id: InstanceId) -> Identity {
        Identity::Process(id)
    }
}

/// For people: `pid 4821`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Process(id) => write!(f, "pid {}", id.pid),
            Identity::Series(id) => f.write_str(&one_line(&id.series, 120)),
        }
    }
}
