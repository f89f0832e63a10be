//! Whether the process ended, and whether the kernel did it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::SystemTime;

use crate::bundle::End;
use crate::clock::{self, Mono};
use crate::host::limit::{OomCounter, RanOut};
use crate::series::Sample;

/// Reads the counters; blocks on the cgroup file system.
pub(super) fn look(
    gone: Option<SystemTime>,
    oom: Option<&OomCounter>,
    status: Option<ExitStatus>,
    last: Option<Sample>,
    anchor: (Mono, SystemTime),
) -> End {
    let since = oom.and_then(OomCounter::since);
    let ran_out = since.as_ref().and_then(|since| since.ran_out.clone());
    let (limit_of, limit_bytes, counter) = match ran_out {
        Some(RanOut::Cgroup { path, limit, counter }) => (Some(path), limit, Some(counter.to_owned())),
        Some(RanOut::Host) => (Some("host".into()), None, None),
        None => (None, None, None),
    };
    End {
        gone: gone.is_some(),
        noticed_at: gone.map(clock::rfc3339_millis),
        oom_killed: gone.and(since.as_ref()).filter(|s| s.own).map(|s| s.kills > 0),
        oom_kills_before: oom.and_then(OomCounter::before),
        oom_kills_since: since.as_ref().map(|s| s.kills),
        oom_cgroup: since.as_ref().map(|s| s.cgroup.clone()),
        oom_cgroup_is_own: since.as_ref().map(|s| s.own),
        oom_limit_of: limit_of,
        oom_limit_bytes: limit_bytes,
        oom_limit_counter: counter,
        exit_code: status.and_then(|status| status.code()),
        exit_signal: status.and_then(|status| status.signal()),
        last_rss_bytes: last.map(|s| s.rss),
        last_rss_at: last.map(|s| clock::rfc3339_millis(s.at.to_wall(anchor))),
    }
}
