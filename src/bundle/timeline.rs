//! `timeline.csv`: RSS before and during a capture. `floors.csv`: the lowest of each hour of the weeks before.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use crate::clock::{self, Mono};
use crate::series::Kept;

/// Its name in a bundle.
pub const FILE: &str = "timeline.csv";
pub const FLOORS: &str = "floors.csv";

/// One of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineRow {
    pub unix_ms: u64,
    pub rss_bytes: u64,
    /// After the capture began.
    pub during: bool,
}

/// `during` is what was sampled after the capture began, at `started` on the wall clock. A line with `span_ms` stands for
/// that time around it: the mean of a bucket of a rule's window, or before those the highest of a quarter of a minute. `charge_bytes` is what the rules
/// went by instead of RSS, where the cgroup's charge was higher.
pub fn write(kept: &[Kept], started: SystemTime, anchor: (Mono, SystemTime)) -> String {
    let mut csv = String::from("time,unix_ms,rss_bytes,phase,span_ms,boot_ms,age_ms,limit_bytes,charge_bytes\n");
    for Kept { sample, span, age, limit, charge } in kept {
        let at = sample.at.to_wall(anchor);
        let unix = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let phase = if at <= started { "before" } else { "during" };
        // writing to a String does not fail
        let _ = writeln!(
            csv,
            "{},{unix},{},{phase},{},{},{},{},{}",
            clock::rfc3339_millis(at),
            sample.rss,
            span.as_millis(),
            sample.at.as_nanos() / 1_000_000,
            age.as_millis(),
            limit.map_or(String::new(), |l| l.to_string()),
            charge.map_or(String::new(), |c| c.to_string()),
        );
    }
    csv
}

/// Each floor in bytes with how long before `started` its hour began.
pub fn write_floors(floors: &[(Duration, u64)], started: SystemTime) -> String {
    let mut csv = String::from("time,rss_bytes\n");
    for (ago, bytes) in floors {
        let at = started.checked_sub(*ago).unwrap_or(SystemTime::UNIX_EPOCH);
        // writing to a String does not fail
        let _ = writeln!(csv, "{},{bytes}", clock::rfc3339_seconds(at));
    }
    csv
}

/// Lines that say nothing are left out.
pub fn parse(text: &str) -> Vec<TimelineRow> {
    let row = |line: &str| {
        let mut cells = line.split(',').skip(1);
        Some(TimelineRow {
            unix_ms: cells.next()?.parse().ok()?,
            rss_bytes: cells.next()?.parse().ok()?,
            during: cells.next()? == "during",
        })
    };
    text.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Sample;
    use std::time::Duration;

    #[test]
    fn the_timeline_tells_before_from_during() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_421_616_500);
        let anchor = (Mono::from_secs(100), wall);
        let (age, limit, charge) = (Duration::from_secs(5), Some(64), Some(12));
        let before = Kept { span: Duration::from_secs(15), ..Kept::reading(Sample { at: Mono::from_secs(99), rss: 7 }) };
        let samples = [before, Kept { age, limit, charge, ..Kept::reading(Sample { at: Mono::from_millis(100_250), rss: 9 }) }];
        let expected = "time,unix_ms,rss_bytes,phase,span_ms,boot_ms,age_ms,limit_bytes,charge_bytes\n\
            2026-11-23T08:13:35.500Z,1795421615500,7,before,15000,99000,0,,\n\
            2026-11-23T08:13:36.750Z,1795421616750,9,during,0,100250,5000,64,12\n";
        assert_eq!(write(&samples, wall, anchor), expected);
        let row = |unix_ms, rss_bytes, during| TimelineRow { unix_ms, rss_bytes, during };
        assert_eq!(parse(expected), [row(1_795_421_615_500, 7, false), row(1_795_421_616_750, 9, true)]);
    }
}
