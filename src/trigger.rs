//! Did a rule fire, and with which numbers?

use serde::{Deserialize, Serialize};

/// The rule that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Threshold,
    Slope,
    Eta,
    Manual,
    Alert,
}

impl Trigger {
    pub const fn name(self) -> &'static str {
        match self {
            Trigger::Threshold => "threshold",
            Trigger::Slope => "slope",
            Trigger::Eta => "eta",
            Trigger::Manual => "manual",
            Trigger::Alert => "alert",
        }
    }
}

/// A trigger with the numbers that fired it, as the manifest keeps them. Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fired {
    pub trigger: Trigger,
    /// RSS at the moment of firing.
    pub rss_bytes: u64,
    /// The level that was crossed; below `rearm` of it the incident is over.
    pub level_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_bytes: Option<u64>,
    /// Robust slope, where one was known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slope_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_seconds: Option<f64>,
    /// One sentence with the numbers.
    pub reason: String,
}
