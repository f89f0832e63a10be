//! For how long a rule's condition has been met.

use std::time::Duration;

use super::Levels;

/// Readings further apart than so many intervals are of different times: what held before is not known to hold still.
pub const STALE_AFTER: u32 = 5;

/// For how long a condition has been met, less the time for which it was not: a dip costs what it lasts, and what is met less than
/// half of the time never adds up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub met: bool,
    pub time: Duration,
}

impl Held {
    /// `passed` since the reading before, `None` where that says nothing about now. Between a reading that meets the condition and one
    /// that does not, nobody knows when that changed: that time counts for neither.
    pub fn update(&mut self, met: bool, passed: Option<Duration>, hold: Duration) {
        match (passed, self.met, met) {
            (None, ..) => self.time = Duration::ZERO,
            (Some(passed), true, true) => self.time = (self.time + passed).min(hold),
            (Some(passed), false, false) => self.time = self.time.saturating_sub(passed),
            _ => {}
        }
        self.met = met;
    }

    /// A poll may be some milliseconds early.
    pub fn for_long(&self, levels: &Levels) -> bool {
        self.met && self.time + levels.interval / 10 >= levels.hold
    }

    pub fn is_pending(&self) -> bool {
        self.met || !self.time.is_zero()
    }
}

/// How much of the time between two readings is known: all if they are neighbours, else what one reading stands for; `None` if they are of
/// different times.
pub(super) fn passed(between: Duration, interval: Duration) -> Option<Duration> {
    if between > interval * STALE_AFTER {
        None
    } else if between > interval * 3 / 2 {
        // a reading is missing between the two
        Some(interval)
    } else {
        Some(between)
    }
}
