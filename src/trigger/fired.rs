//! What fired, with the numbers that a manifest keeps of it.

use serde::{Deserialize, Serialize};

use super::Reading;
use super::gc::GcNumbers;
use crate::charge::Charge;
use crate::clock::Mono;

/// The rule that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Threshold,
    Slope,
    Eta,
    Gc,
    Leak,
    Manual,
    Alert,
    /// The kernel killed in its cgroup, and no rule had announced it.
    #[serde(rename = "oom_kill")]
    OomKill,
}

impl Trigger {
    pub const fn name(self) -> &'static str {
        match self {
            Trigger::Threshold => "threshold",
            Trigger::Slope => "slope",
            Trigger::Eta => "eta",
            Trigger::Gc => "gc",
            Trigger::Leak => "leak",
            Trigger::Manual => "manual",
            Trigger::Alert => "alert",
            Trigger::OomKill => "oom_kill",
        }
    }

    /// Whether a rule of the configuration fired, and not a person or the kernel.
    pub const fn by_rule(self) -> bool {
        !matches!(self, Trigger::Manual | Trigger::OomKill)
    }

    /// Whether it came from outside: a person, a program, an alert.
    pub const fn is_asked(self) -> bool {
        matches!(self, Trigger::Manual | Trigger::Alert)
    }
}

/// What a rule compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    #[default]
    Rss,
    /// What the kernel cannot drop of the process's cgroup; it was more than RSS.
    Charge,
}

impl Measure {
    pub const fn name(self) -> &'static str {
        match self {
            Measure::Rss => "rss",
            Measure::Charge => "charge",
        }
    }
}

/// A trigger with the numbers that fired it, as the manifest keeps them. Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fired {
    pub trigger: Trigger,
    #[serde(default)]
    pub measure: Measure,
    /// RSS at the moment of firing.
    pub rss_bytes: u64,
    /// The charge of the cgroup that is nearest to its limit, and that limit, where it is what was compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charge_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charge_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charge_cgroup: Option<String>,
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
    /// Of `gc`: what was compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gc: Option<GcNumbers>,
    /// One sentence with the numbers.
    pub reason: String,
}

impl Fired {
    /// Asked for by a person or by memtrap itself, not by a rule.
    pub fn manual(rss_bytes: u64, limit_bytes: Option<u64>, reason: String) -> Fired {
        Fired {
            trigger: Trigger::Manual,
            measure: Measure::Rss,
            rss_bytes,
            charge_bytes: None,
            charge_limit_bytes: None,
            charge_cgroup: None,
            level_bytes: rss_bytes,
            limit_bytes,
            slope_bytes_per_second: None,
            window_seconds: None,
            eta_seconds: None,
            gc: None,
            reason,
        }
    }

    /// The reading that it fired at.
    pub fn reading(&self, at: Mono) -> Reading {
        Reading { at, rss: self.rss_bytes, most: self.measured_bytes() }
    }

    /// What was compared, in bytes against the limit.
    pub fn measured_bytes(&self) -> u64 {
        let charge = self.charge_bytes.zip(self.charge_limit_bytes).filter(|_| self.measure == Measure::Charge);
        let against = |(bytes, limit)| Charge::new(bytes, limit, "").against(self.limit_bytes.unwrap_or(limit));
        charge.map_or(self.rss_bytes, against)
    }
}
