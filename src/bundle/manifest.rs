//! `manifest.json`, schema 1: what was caught, by which trigger, and how each file came to be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::warning::Warning;
use crate::config::{self, Rules};
use crate::host::slowing::Slowed;
use crate::host::workload::Container;
use crate::identity::{Identity, InstanceId, SeriesId};
use crate::trigger::Fired;
use crate::units::{Rate, SizeOrPercent};

pub const MANIFEST: &str = "manifest.json";
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    pub memtrap_version: String,
    pub incident_id: String,
    /// 1 for an incident's first bundle; later stages of `threshold` count on.
    pub part: u32,
    pub target: String,
    pub instance: Instance,
    pub trigger: Fired,
    /// Of a capture that a rule ordered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rules: Option<RulesInForce>,
    pub host: String,
    pub boot_id: String,
    /// RFC 3339, UTC.
    pub started: String,
    pub finished: String,
    pub outcome: Outcome,
    /// The process's cgroup stood above its `memory.high` when the capture began: the kernel slowed the process down, and the order was that for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slowed: Option<Slowed>,
    /// What the reader should know first.
    #[serde(flatten, with = "super::warning")]
    pub warnings: Vec<Warning>,
    /// One entry per step of the plan, in the order of the plan, whether it left a file or not.
    pub files: Vec<FileEntry>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// For people: `pid 4821`.
    pub label: String,
    /// What it shares with its replicas, where the target means many services: `shop/checkout/app`, `checkout`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// Field 22 of `/proc/PID/stat`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub start_ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exe: Option<String>,
    /// How memtrap knows an instance that is no process of its host: the exposition's URL, or its labels.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub series: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started_unix_ms: Option<u64>,
}

impl Instance {
    /// Whom the bundle is of, if that is known.
    pub fn identity(&self) -> Option<Identity> {
        if let Some(series) = &self.series {
            return Some(Identity::Series(SeriesId { series: series.as_str().into(), started_unix_ms: self.started_unix_ms }));
        }
        Some(Identity::Process(InstanceId { pid: self.pid?, start_ticks: self.start_ticks? }))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything that was asked for is there.
    Complete,
    /// Something is missing; its entry says why.
    Partial,
    /// memtrap was stopped or killed during the capture.
    Interrupted,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Complete => "complete",
            Outcome::Partial => "partial",
            Outcome::Interrupted => "interrupted",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Skipped,
    Failed,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Skipped => "skipped",
            Status::Failed => "failed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the bundle; of a step without a file, the name that it would have had.
    pub name: String,
    /// The step's name; unique within a bundle.
    pub step: String,
    /// The URL without secrets, or the path below /proc.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<String>,
    /// 0 where there is no file.
    pub bytes: u64,
    /// Lower-case hexadecimal; absent where there is no file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
    pub milliseconds: u64,
    pub attempts: u32,
    pub status: Status,
    /// Why it is not `ok`, or what was done differently than planned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

impl FileEntry {
    /// A step that was not taken.
    pub fn skipped(step: &str, name: &str, reason: impl Into<String>) -> FileEntry {
        FileEntry {
            name: name.into(),
            step: step.into(),
            source: None,
            bytes: 0,
            sha256: None,
            milliseconds: 0,
            attempts: 0,
            status: Status::Skipped,
            reason: Some(reason.into()),
        }
    }

    /// What ended it, where that went wrong: the last of its reasons. Those before it tell of the attempts.
    pub fn cause(&self) -> Option<&str> {
        let reason = self.reason.as_deref().filter(|_| self.status != Status::Ok)?;
        if !reason.starts_with("attempt 1: ") && self.attempts <= 1 { Some(reason) } else { reason.rsplit("; ").next() }
    }

    /// Whether it failed for the same cause as another.
    pub fn is_of(&self, cause: &str) -> bool {
        let last = cause.rsplit("; ").next().unwrap_or(cause);
        self.status != Status::Ok && self.reason.as_deref().is_some_and(|reason| reason.ends_with(last))
    }

    /// Whether there is a file of this entry, good or not.
    pub fn has_file(&self) -> bool {
        self.sha256.is_some()
    }
}

/// Entries that did not end well, those of one cause together; in their order.
pub fn by_cause<'e>(entries: impl IntoIterator<Item = &'e FileEntry>) -> Vec<Vec<&'e FileEntry>> {
    let mut groups: Vec<(&str, Vec<&FileEntry>)> = Vec::new();
    for entry in entries {
        let Some(cause) = entry.cause() else { continue };
        match groups.iter_mut().find(|(known, _)| entry.is_of(known)) {
            Some((_, group)) => group.push(entry),
            None => groups.push((cause, vec![entry])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The rules that the instance was watched by, so that `memtrap replay` can try them again. Times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulesInForce {
    /// Sizes in bytes (`1048576B`), or percentages.
    pub threshold: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slope: Option<RateInForce>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta: Option<f64>,
    /// As it was written: `40%/30s`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leak: Option<RateInForce>,
    #[serde(rename = "for")]
    pub hold: f64,
    pub warmup: f64,
    pub cooldown: f64,
    pub rearm: String,
    pub escalate: bool,
    /// Whether the cgroup's charge counted.
    #[serde(default)]
    pub charge: bool,
    pub interval: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateInForce {
    pub rise: String,
    pub window: f64,
}

impl RulesInForce {
    pub fn of(rules: &Rules, interval: Duration) -> RulesInForce {
        let exact = |level: &SizeOrPercent| match level {
            SizeOrPercent::Size(size) => format!("{}B", size.0),
            SizeOrPercent::Percent(share) => share.to_string(),
        };
        let rate = |rate: Rate| RateInForce { rise: exact(&rate.rise), window: rate.window.as_secs_f64() };
        RulesInForce {
            threshold: rules.threshold.iter().map(exact).collect(),
            slope: rules.slope.map(rate),
            eta: rules.eta.map(|eta| eta.as_secs_f64()),
            gc: rules.gc.map(|gc| gc.to_string()),
            leak: rules.leak.map(rate),
            hold: rules.hold.as_secs_f64(),
            warmup: rules.warmup.as_secs_f64(),
            cooldown: rules.cooldown.as_secs_f64(),
            rearm: rules.rearm.to_string(),
            escalate: rules.escalate,
            charge: rules.charge,
            interval: interval.as_secs_f64(),
        }
    }

    /// With how often RSS was read; `None` if it is not what [`RulesInForce::of`] writes.
    pub fn rules(&self) -> Option<(Rules, Duration)> {
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
        let level = |text: &String| text.parse::<SizeOrPercent>().ok();
        let rate = |of: &RateInForce| Some(Rate { rise: level(&of.rise)?, window: time(of.window).filter(|w| !w.is_zero())? });
        let (slope, leak) = (self.slope.as_ref().map(rate), self.leak.as_ref().map(rate));
        if [&slope, &leak].iter().any(|rule| matches!(rule, Some(None))) {
            return None;
        }
        let eta = match self.eta {
            Some(eta) => Some(time(eta)?),
            None => None,
        };
        let rules = Rules {
            threshold: self.threshold.iter().map(level).collect::<Option<_>>()?,
            slope: slope.flatten(),
            eta,
            gc: match &self.gc {
                Some(gc) => Some(gc.parse().ok()?),
                None => None,
            },
            leak: leak.flatten(),
            hold: time(self.hold)?,
            warmup: time(self.warmup)?,
            cooldown: time(self.cooldown)?,
            rearm: self.rearm.parse().ok()?,
            escalate: self.escalate,
            charge: self.charge,
        };
        Some((rules, time(self.interval).filter(|interval| config::INTERVALS.contains(interval))?))
    }
}

impl Manifest {
    /// Puts an entry in the place of the one of the same step, else of the same file, else at the end.
    pub(super) fn put(&mut self, entry: FileEntry) {
        let same_step = self.files.iter().position(|e| e.step == entry.step);
        // a file that a kill left without its step is known by its name alone, until it is written anew
        let place = same_step.or_else(|| self.files.iter().position(|e| e.has_file() && e.name == entry.name));
        match place.and_then(|place| self.files.get_mut(place)) {
            Some(old) => *old = entry,
            None => self.files.push(entry),
        }
    }

    /// What the files occupy, as far as it says.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, f| sum.saturating_add(f.bytes))
    }

    /// Whether it tells something about the process beyond its RSS series.
    pub fn has_evidence(&self) -> bool {
        const OWN: [&str; 9] = ["timeline", "floors", "end", "cgroup_end", "readme", "verdict", "report", "report_text", "metrics"];
        self.files.iter().any(|e| e.has_file() && !OWN.contains(&e.step.as_str()) && !e.name.ends_with(".rejected"))
    }

    pub fn entry(&self, step: &str) -> Option<&FileEntry> {
        self.files.iter().find(|e| e.step == step)
    }
}
