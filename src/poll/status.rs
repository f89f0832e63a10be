//! What the watcher knows of an instance, for people and programs to read.

use serde::{Deserialize, Serialize};

use crate::host::workload::Container;
use crate::identity::SlotNumber;
use crate::incident::State;
use crate::series::Sample;

/// One instance (or one target that waits for its process). Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub target: String,
    /// Its place within the target, which outlives the process.
    pub slot: SlotNumber,
    pub pid: Option<u32>,
    /// For people: `pid 4821`, or how its metrics call an instance elsewhere.
    pub instance: Option<String>,
    /// What it shares with its replicas, where the target means many services: `shop/checkout/app`, `checkout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    pub state: State,
    pub reason: String,
    pub rss_bytes: Option<u64>,
    /// What the kernel cannot drop of the process's cgroup, or of that ancestor which is nearest to its limit; with that limit and its path. `None`
    /// where no cgroup has a limit, no rule needs it, or another process of the target stands for the cgroup.
    #[serde(default)]
    pub charge_bytes: Option<u64>,
    #[serde(default)]
    pub charge_limit_bytes: Option<u64>,
    #[serde(default)]
    pub charge_cgroup: Option<String>,
    pub limit_bytes: Option<u64>,
    pub limit_source: Option<String>,
    /// The stages of `threshold`, ascending.
    pub threshold_bytes: Vec<u64>,
    pub slope_bytes_per_second: Option<f64>,
    pub seconds_to_limit: Option<f64>,
    /// Seconds until the cooldown has passed.
    pub cooldown_seconds: Option<f64>,
    /// When a rule may next lead to a capture, in a few words.
    pub next_capture: String,
    pub incident: Option<String>,
    /// Whether its evidence could be had now: `ok`, or why not, with the URL that was tried and since when. `None`: it was not tried yet, or
    /// nothing is to be asked.
    pub evidence: Option<String>,
    pub last_bundle: Option<String>,
    /// How the last process of this place ended, in words.
    #[serde(default)]
    pub last_end: Option<String>,
}

impl InstanceStatus {
    /// Why its evidence could not be had now.
    pub fn lacks_evidence(&self) -> Option<&str> {
        self.evidence.as_deref().filter(|words| *words != super::EVIDENCE_OK)
    }
}

/// The last hour of an instance's RSS.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub target: String,
    pub slot: SlotNumber,
    /// Thinned; oldest first.
    pub samples: Vec<Sample>,
}
