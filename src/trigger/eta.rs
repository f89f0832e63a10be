//! `eta`: the line of RSS, or of the charge where that is more, reaches the limit within this time.

use std::time::Duration;

use super::fired::{Fired, Trigger};
use super::rise::{At, Means, Standing, Tracked, time_to};
use super::{Levels, Reading};
use crate::charge::Charge;
use crate::clock;
use crate::units::ByteSize;

/// A line is extended by no more than so many times the window that it was seen over.
const REACH: u32 = 5;
/// The window that sees a fast leak in time.
const SHORT: Duration = Duration::from_secs(60);

/// The windows of the lines that `eta` extends: a fifth of it, 10 s and ten polls at least. Where that is long, a short one too: a
/// fast leak leaves no time for more.
pub(super) fn windows(eta: Duration, interval: Duration) -> (Duration, Option<Duration>) {
    let longest = (eta / REACH).max(Duration::from_secs(10)).max(interval * 10);
    let short = SHORT.max(interval * 10);
    (longest, (longest > short * 2).then_some(short))
}

/// Rises smaller than this over `eta`'s window are noise: RSS counters lag by a few hundred KiB per CPU.
fn noise(limit: u64) -> u64 {
    (limit / 1000).max(512 << 10)
}

pub(super) fn measure(tracked: &mut Tracked, reading: At, eta: Duration, limit: u64) {
    let sample = reading.sample;
    let reach = eta.min(tracked.window.span() * REACH);
    // a tenth of the way to the limit is half of what the rule asks for within its window
    let fall = (limit.saturating_sub(sample.rss) / u64::from(REACH) / 2).max(noise(limit));
    tracked.update(reading, fall, |tracked| {
        if tracked.window.range(sample.at)? < noise(limit) {
            return Ok(Standing::Flat);
        }
        let line = tracked.window.line(sample.at)?;
        let slope = line.bytes_per_second;
        let rise = slope * tracked.window.span().as_secs_f64();
        let is_near = time_to(limit, sample.rss, slope).is_some_and(|t| t <= reach) && rise >= noise(limit) as f64;
        let means = if is_near { tracked.weigh(line, sample.at, rise, Some(limit))? } else { Means::TooSlow };
        Ok(Standing::Slope(slope, means))
    });
}

/// The reason lacks what was compared; see [`super::Detector::with_measure`].
pub(super) fn fired(tracked: &Tracked, last: Reading, levels: &Levels) -> Option<Fired> {
    let (limit, eta) = (levels.limit?, levels.eta?);
    let Standing::Slope(slope, _) = tracked.standing else { return None };
    let left = time_to(limit, last.most, slope)?;
    let reason = format!(
        " rises by {} a second and would reach the limit of {} in {}, within {}",
        ByteSize(slope as u64),
        ByteSize(limit),
        clock::human(left),
        clock::human(eta),
    );
    Some(Fired {
        trigger: Trigger::Eta,
        level_bytes: last.most,
        slope_bytes_per_second: Some(slope),
        window_seconds: Some(tracked.window.span().as_secs_f64()),
        eta_seconds: Some(left.as_secs_f64()),
        ..Fired::manual(last.rss, Some(limit), reason)
    })
}

/// The limit is met: there is no line to extend. The reason lacks what was compared.
pub(super) fn fired_at_the_limit(charge: &Charge, last: Reading, levels: &Levels, slope: Option<f64>) -> Option<Fired> {
    let eta = levels.eta?;
    let reason = format!(" has met the limit of {} of cgroup {}, within {}", ByteSize(charge.limit), charge.cgroup, clock::human(eta));
    Some(Fired {
        trigger: Trigger::Eta,
        level_bytes: last.most,
        slope_bytes_per_second: slope,
        eta_seconds: Some(0.0),
        ..Fired::manual(last.rss, levels.limit, reason)
    })
}
