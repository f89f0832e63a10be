//! What the watcher knows of an instance, for people and programs to read.

use serde::Serialize;

use crate::incident::State;

/// One instance (or one target that waits for its process). Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceStatus {
    pub target: String,
    pub pid: Option<u32>,
    /// For people: `pid 4821`, or how its metrics call an instance elsewhere.
    pub instance: Option<String>,
    pub state: State,
    pub reason: String,
    pub rss_bytes: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub limit_source: Option<String>,
    pub slope_bytes_per_second: Option<f64>,
    pub seconds_to_limit: Option<f64>,
    /// Seconds until the cooldown has passed.
    pub cooldown_seconds: Option<f64>,
    pub incident: Option<String>,
    pub last_bundle: Option<String>,
}
