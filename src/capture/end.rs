//! What a bundle says about the process's end and its RSS over time: `end.json` and `timeline.csv`.

use std::fmt::Write;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Mono};
use crate::series::{Kept, Sample};
use crate::target::limit::OomCounter;

/// `end.json`. Times are RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Whether the process ended before the capture did.
    pub gone: bool,
    /// When that was noticed.
    pub noticed_at: Option<String>,
    /// The kernel killed in the process's own cgroup meanwhile. `None`: alive, or the counter cannot be read.
    pub oom_killed: Option<bool>,
    pub oom_kills_before: Option<u64>,
    /// Kills since then, as counted by `oom_cgroup`.
    pub oom_kills_since: Option<u64>,
    pub oom_cgroup: Option<String>,
    /// The counter is that of the process's own cgroup; if not, a neighbour may have been the victim.
    pub oom_cgroup_is_own: Option<bool>,
    pub last_rss_bytes: Option<u64>,
    pub last_rss_at: Option<String>,
}

impl End {
    /// Reads the counters; blocks on the cgroup file system.
    pub fn look(gone: Option<SystemTime>, oom: Option<&OomCounter>, last: Option<Sample>, anchor: (Mono, SystemTime)) -> End {
        let since = oom.and_then(OomCounter::since);
        End {
            gone: gone.is_some(),
            noticed_at: gone.map(clock::rfc3339_millis),
            oom_killed: gone.and(since.as_ref()).filter(|s| s.own).map(|s| s.kills > 0),
            oom_kills_before: oom.and_then(OomCounter::before),
            oom_kills_since: since.as_ref().map(|s| s.kills),
            oom_cgroup: since.as_ref().map(|s| s.cgroup.clone()),
            oom_cgroup_is_own: since.as_ref().map(|s| s.own),
            last_rss_bytes: last.map(|s| s.rss),
            last_rss_at: last.map(|s| clock::rfc3339_millis(s.at.to_wall(anchor))),
        }
    }
}

/// `timeline.csv`. `during` is what was sampled after the capture began, at `started` on the wall clock. A line with `span_ms` stands for
/// that time around it: the mean of a bucket of a rule's window, or before those the highest of a quarter of a minute.
pub(super) fn timeline(kept: &[Kept], started: SystemTime, anchor: (Mono, SystemTime)) -> String {
    let mut csv = String::from("time,unix_ms,rss_bytes,phase,span_ms,boot_ms,age_ms,limit_bytes\n");
    for Kept { sample, span, age, limit } in kept {
        let at = sample.at.to_wall(anchor);
        let unix = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let phase = if at <= started { "before" } else { "during" };
        // writing to a String does not fail
        let _ = writeln!(
            csv,
            "{},{unix},{},{phase},{},{},{},{}",
            clock::rfc3339_millis(at),
            sample.rss,
            span.as_millis(),
            sample.at.as_nanos() / 1_000_000,
            age.as_millis(),
            limit.map_or(String::new(), |l| l.to_string()),
        );
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_timeline_tells_before_from_during() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_421_616_500);
        let anchor = (Mono::from_secs(100), wall);
        let (age, limit) = (Duration::from_secs(5), Some(64));
        let before = Kept { span: Duration::from_secs(15), ..Kept::reading(Sample { at: Mono::from_secs(99), rss: 7 }) };
        let samples = [before, Kept { age, limit, ..Kept::reading(Sample { at: Mono::from_millis(100_250), rss: 9 }) }];
        let expected = "time,unix_ms,rss_bytes,phase,span_ms,boot_ms,age_ms,limit_bytes\n\
            2026-11-23T08:13:35.500Z,1795421615500,7,before,15000,99000,0,\n\
            2026-11-23T08:13:36.750Z,1795421616750,9,during,0,100250,5000,64\n";
        assert_eq!(timeline(&samples, wall, anchor), expected);
    }
}
