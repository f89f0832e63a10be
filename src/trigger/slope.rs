//! `slope`: RSS, or the charge where that is more, rises by so much over a window.

use super::fired::{Fired, Trigger};
use super::rise::{At, Means, Standing, Tracked, time_to};
use super::{Levels, Reading};
use crate::clock;
use crate::units::{ByteSize, Rate};

pub(super) fn measure(tracked: &mut Tracked, reading: At, (rise, rate): (u64, Rate)) {
    let sample = reading.sample;
    tracked.update(reading, rise / 2, |tracked| {
        // 80 % of the window may be all there is, so 80 % of the rise must be there to see
        if tracked.window.range(sample.at)? < rise / 5 * 4 {
            return Ok(Standing::Flat);
        }
        let line = tracked.window.line(sample.at)?;
        let is_fast = line.bytes_per_second * rate.window.as_secs_f64() >= rise as f64;
        let means = if is_fast { tracked.weigh(line, sample.at, rise as f64, None)? } else { Means::TooSlow };
        Ok(Standing::Slope(line.bytes_per_second, means))
    });
}

/// The reason lacks what was compared; see [`super::Detector::with_measure`].
pub(super) fn fired(tracked: &Tracked, last: Reading, levels: &Levels) -> Option<Fired> {
    let (rise, rate) = levels.slope?;
    let Standing::Slope(slope, _) = tracked.standing else { return None };
    let window = rate.window.as_secs_f64();
    let reason =
        format!(" rises by {} in {}, at or above {}", ByteSize((slope * window) as u64), clock::human(rate.window), ByteSize(rise),);
    Some(Fired {
        trigger: Trigger::Slope,
        level_bytes: last.most,
        slope_bytes_per_second: Some(slope),
        window_seconds: Some(window),
        eta_seconds: levels.limit.and_then(|l| time_to(l, last.most, slope)).map(|t| t.as_secs_f64()),
        ..Fired::manual(last.rss, levels.limit, reason)
    })
}
