//! The rules of a target against one instance's limit, and the readings that they judge.

use std::time::Duration;

use super::fired::{Fired, Measure, Trigger};
use super::{eta, gc};
use crate::clock::Mono;
use crate::config;
use crate::series::{Sample, bucket_width};
use crate::units::{Rate, Share, SizeOrPercent};

/// One stage of `threshold` in bytes, with the words of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub bytes: u64,
    pub as_written: SizeOrPercent,
}

impl Stage {
    /// A share of the limit: the charge counts for it.
    pub(super) fn is_share(&self) -> bool {
        matches!(self.as_written, SizeOrPercent::Percent(_))
    }

    pub(super) fn is_reached(&self, reading: Reading) -> bool {
        reading.of(self) >= self.bytes
    }
}

/// A reading: RSS, and what shares of the limit, `slope` and `eta` go by, which is the charge where that is more. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub at: Mono,
    pub rss: u64,
    pub most: u64,
}

impl Reading {
    pub(super) fn of(self, stage: &Stage) -> u64 {
        if stage.is_share() { self.most } else { self.rss }
    }
}

impl From<Sample> for Reading {
    fn from(Sample { at, rss }: Sample) -> Reading {
        Reading { at, rss, most: rss }
    }
}

/// The rules of a target, resolved against one instance's limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// Ascending; percentages are left out while the limit is unknown.
    pub stages: Vec<Stage>,
    pub(super) slope: Option<(u64, Rate)>,
    pub(super) eta: Option<Duration>,
    gc: Option<Share>,
    pub(super) leak: Option<(u64, Rate)>,
    pub limit: Option<u64>,
    pub hold: Duration,
    pub(super) warmup: Duration,
    pub interval: Duration,
}

impl Levels {
    pub fn resolve(rules: &config::Rules, interval: Duration, limit: Option<u64>) -> Levels {
        let mut stages: Vec<Stage> =
            rules.threshold.iter().filter_map(|t| Some(Stage { bytes: t.resolve(limit)?, as_written: *t })).collect();
        stages.sort_by_key(|s| s.bytes);
        Levels {
            stages,
            slope: rules.slope.and_then(|rate| Some((rate.rise.resolve(limit)?, rate))),
            eta: rules.eta,
            gc: rules.gc,
            leak: rules.leak.and_then(|rate| Some((rate.rise.resolve(limit)?, rate))),
            limit,
            hold: rules.hold,
            warmup: rules.warmup,
            interval,
        }
    }

    /// The windows of the lines that `eta` extends, the longest first.
    pub fn eta_windows(&self) -> impl Iterator<Item = Duration> {
        self.eta.into_iter().flat_map(|eta| {
            let (longest, short) = eta::windows(eta, self.interval);
            std::iter::once(longest).chain(short)
        })
    }

    /// The lowest stage above a reading, or the limit.
    pub fn next_above(&self, rss: u64) -> Option<u64> {
        self.stages.iter().map(|s| s.bytes).chain(self.limit).filter(|bytes| *bytes > rss).min()
    }

    /// The width of the narrowest bucket that a rule's window is cut into, or twice the time between two readings; `None` without such a rule.
    pub fn narrowest_bucket(&self) -> Option<Duration> {
        let spans = self.slope.map(|(_, rate)| rate.window).into_iter().chain(self.eta_windows());
        let gc = self.gc.map(|gc| gc::every(gc.window) * 2);
        spans.map(|span| bucket_width(span, self.interval)).chain(gc).min()
    }

    /// How many stages a reading has reached.
    pub fn stages_reached(&self, reading: Reading) -> usize {
        self.stages.iter().take_while(|stage| stage.is_reached(reading)).count()
    }

    /// The stages that the charge counts for; with `eta` alone, where the limit is near. As shares: of a limit of so many bytes.
    pub fn tripwires(&self) -> impl Iterator<Item = (u64, u64)> {
        let shares = self.stages.iter().filter(|stage| stage.is_share()).map(|stage| stage.bytes);
        let near = self.limit.filter(|_| !self.stages.iter().any(Stage::is_share)).map(|limit| limit / 10 * 9);
        shares.chain(near).zip(std::iter::repeat(self.limit.unwrap_or(u64::MAX)))
    }

    /// The lowest stage that the charge counts for, or the limit.
    pub fn lowest_share(&self) -> Option<u64> {
        self.stages.iter().filter(|stage| stage.is_share()).map(|stage| stage.bytes).next().or(self.limit)
    }

    /// Whether the charge counts for what fired: an incident by it is over when neither RSS nor the charge is above.
    pub fn counts_charge(&self, fired: &Fired) -> bool {
        match fired.trigger {
            Trigger::Slope | Trigger::Eta => true,
            Trigger::Threshold => self.stages.iter().any(|stage| stage.bytes == fired.level_bytes && stage.is_share()),
            _ => fired.measure == Measure::Charge,
        }
    }
}
