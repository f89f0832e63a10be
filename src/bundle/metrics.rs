//! What a bundle says of an instance that only metrics tell of: `metrics.json`.

use serde::{Deserialize, Serialize};

use crate::anatomy::GoMemory;
use crate::identity::SeriesId;

/// `metrics.json`: the last reading before the capture. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteInstance {
    #[serde(flatten)]
    pub id: SeriesId,
    pub rss_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_source: Option<String>,
    /// How long the process had been running, by memtrap's clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub age_seconds: Option<f64>,
    /// `go_memstats_*` of the same page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub go_memstats: Option<GoMemory>,
}
