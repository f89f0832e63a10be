//! A rise over a window, which `slope` and `eta` judge alike: how steep it is, and whether it is one that goes on.

use std::time::Duration;

use super::held::Held;
use crate::clock::Mono;
use crate::lang::{Lang, say};
use crate::series::{Line, Peaks, Sample, TooFew, Window};
use crate::units::ByteSize;

/// A rise counts from so many standard errors on: a flat series passes by chance once in 30,000 windows.
const ERRORS: f64 = 4.0;
/// How long a height is remembered that RSS came back from, at least; and in windows of the rule.
const REMEMBERED: Duration = Duration::from_secs(4 * 3_600);
const REMEMBERED_WINDOWS: u32 = 12;

/// Where a rule stands, for people to read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Standing {
    Off,
    Warming,
    Gathering(TooFew),
    /// Flat: the range within the window is too small for the rule to hold.
    Flat,
    /// Measured, bytes per second.
    Slope(f64, Means),
}

/// What a measured slope means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Means {
    /// The rule's condition is met.
    Met,
    TooSlow,
    /// The readings scatter so much that there may be no rise.
    Scatter,
    /// RSS has fallen since, or swings within the window.
    NotStill,
    /// RSS stood as high before and came back: this height, bytes.
    Known(u64),
}

/// One rule over a window: when it was last measured, and for how long it has been met.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub window: Window,
    pub standing: Standing,
    pub held: Held,
    pub peaks: Peaks,
    /// RSS below this has fallen out of the rise that was measured.
    pub floor: u64,
}

/// What every rule over a window must know of a reading.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub sample: Sample,
    pub passed: Option<Duration>,
    pub warm: bool,
    pub hold: Duration,
    /// The highest of the last few readings.
    pub recent_top: u64,
}

impl Tracked {
    pub fn new(span: Duration, interval: Duration) -> Tracked {
        Tracked { window: Window::new(span, interval), standing: Standing::Off, held: Held::default(), peaks: Peaks::default(), floor: 0 }
    }

    /// `fall` is what counts as having come back, bytes.
    pub fn update(&mut self, at: At, fall: u64, measure: impl FnOnce(&mut Tracked) -> Result<Standing, TooFew>) {
        let closed = self.window.push(at.sample);
        if let Some(point) = self.window.newest().filter(|_| closed) {
            self.peaks.push(point, fall);
        }
        if !at.warm {
            (self.standing, self.held) = (Standing::Warming, Held::default());
            return;
        }
        if closed || matches!(self.standing, Standing::Warming | Standing::Off) {
            self.standing = measure(self).unwrap_or_else(Standing::Gathering);
        }
        let met = matches!(self.standing, Standing::Slope(_, Means::Met)) && at.recent_top >= self.floor;
        self.held.update(met, at.passed, at.hold);
    }

    /// Whether a line that is steep enough is a rise that goes on; `least` is what it must amount to over the window, bytes.
    pub fn weigh(&mut self, line: Line, now: Mono, least: f64, limit: Option<u64>) -> Result<Means, TooFew> {
        let course = self.window.course(line, now)?;
        let rise = course.line.bytes_per_second * self.window.span().as_secs_f64();
        self.floor = course.floor;
        if rise < course.error * ERRORS {
            return Ok(Means::Scatter);
        }
        if course.floor_rise < rise / 3.0 || course.below_top as f64 > (rise / 4.0).max(course.scatter) {
            return Ok(Means::NotStill);
        }
        // a step that stays is a rise, but it leads to no limit; a steady line rises by a quarter
        if limit.is_some() && course.late_rise < rise / 8.0 {
            return Ok(Means::NotStill);
        }
        let remembered = now - REMEMBERED.max(self.window.span() * REMEMBERED_WINDOWS);
        self.peaks.forget(remembered);
        // a peak within the rise is a part of it
        let Some(peak) = self.peaks.highest(remembered, course.from + self.window.span() / 4) else {
            return Ok(Means::Met);
        };
        // near the limit, nothing is known to be harmless
        let above = limit.map_or(least / 2.0, |limit| (least / 2.0).min(limit.saturating_sub(peak) as f64 / 4.0));
        Ok(if course.top as f64 <= peak as f64 + above { Means::Known(peak) } else { Means::Met })
    }
}

impl Standing {
    pub fn words(self, measured: impl FnOnce(f64) -> String, lang: Lang) -> String {
        match self {
            Standing::Off => lang.pick("no reading yet", "尚无读数").into(),
            Standing::Warming => lang.pick("ignored during warm-up", "预热期不计").into(),
            Standing::Gathering(few) => say!(lang; "gathering, {} of {} buckets"; "收集中，{}/{} 个区间", few.have, few.need),
            Standing::Flat => lang.pick("flat", "平稳").into(),
            Standing::Slope(slope, means) => match means.why_not(lang) {
                None => measured(slope),
                Some(why) => {
                    let measured = measured(slope);
                    say!(lang; "{measured}, but {why}"; "{measured}，但{why}")
                }
            },
        }
    }
}

impl Means {
    /// Why a slope that is steep enough does not count.
    pub fn why_not(self, lang: Lang) -> Option<String> {
        let why = match self {
            Means::Met | Means::TooSlow => return None,
            Means::Scatter => lang.pick("the readings scatter by as much", "读数本身的波动就有这么大").into(),
            Means::NotStill => lang.pick("RSS swings or has fallen since", "RSS 在波动或已回落").into(),
            Means::Known(peak) => {
                let peak = ByteSize(peak);
                say!(lang; "RSS came back from {peak} before"; "此前曾从 {peak} 自行回落")
            }
        };
        Some(why)
    }
}

/// When a line reaches `limit`: zero if it is there already, `None` if it never will.
pub fn time_to(limit: u64, rss: u64, bytes_per_second: f64) -> Option<Duration> {
    if bytes_per_second <= 0.0 || !bytes_per_second.is_finite() {
        return None;
    }
    Duration::try_from_secs_f64(limit.saturating_sub(rss) as f64 / bytes_per_second).ok()
}
