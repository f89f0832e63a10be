//! Whether the process ended, and whether the kernel did it.

use std::time::SystemTime;

use crate::bundle::End;
use crate::clock::{self, Mono};
use crate::host::limit::OomCounter;
use crate::series::Sample;

/// Reads the counters; blocks on the cgroup file system.
pub(super) fn look(gone: Option<SystemTime>, oom: Option<&OomCounter>, last: Option<Sample>, anchor: (Mono, SystemTime)) -> End {
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
