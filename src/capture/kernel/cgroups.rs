//! `cgroup.txt`: the memory files of the process's cgroup and of every ancestor that can be seen, a line per line of theirs.

use std::fmt::Write;

use super::KernelError;
use crate::host::cgroup::{CgroupRef, Version};
use crate::host::{ProcDir, ProcFs};

const V2_FILES: [&str; 12] = [
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.current",
    "memory.peak",
    "memory.swap.max",
    "memory.swap.current",
    "memory.oom.group",
    "memory.events",
    "memory.events.local",
    "memory.pressure",
    "memory.stat",
];

const V1_FILES: [&str; 9] = [
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.memsw.usage_in_bytes",
    "memory.kmem.usage_in_bytes",
    "memory.failcnt",
    "memory.oom_control",
    "memory.stat",
];

/// `/system.slice/checkout.service memory.max: 1073741824`, the process's own cgroup first.
pub(super) fn text(procfs: &ProcFs, dir: &ProcDir) -> Result<String, KernelError> {
    let cgroup = CgroupRef::of(procfs, dir.pid())?.ok_or(KernelError::NoCgroup { pid: dir.pid() })?;
    // it was found by pid: make sure that it was this process's
    dir.stat()?;
    Ok(numbers(&cgroup))
}

/// The same of a cgroup that is known already; its own process may be gone. Empty if it is gone itself.
pub fn numbers(cgroup: &CgroupRef) -> String {
    let files: &[&str] = match cgroup.version {
        Version::V1 => &V1_FILES,
        Version::V2 => &V2_FILES,
    };
    if !cgroup.own().dir.is_dir() {
        return String::new();
    }
    let mut out = format!("# memory cgroup {}, the process's own first, then its ancestors\n", cgroup.version.name());
    for level in cgroup.levels() {
        for file in files {
            for line in level.read(file).unwrap_or_default().lines() {
                let _ = writeln!(out, "{} {file}: {line}", level.name);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn every_level_is_listed_from_the_process_upwards() {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.process(7, "app").file("cgroup", "0::/a/b\n").write();
        host.file("sys/fs/cgroup/a/b/memory.max", "max\n").file("sys/fs/cgroup/a/b/memory.events", "oom 1\noom_kill 1\n");
        host.file("sys/fs/cgroup/a/memory.max", "1000\n").file("sys/fs/cgroup/a/secret", "x");
        let procfs = host.procfs();
        assert_eq!(
            text(&procfs, &procfs.dir(7).unwrap()).unwrap(),
            "# memory cgroup v2, the process's own first, then its ancestors\n\
             /a/b memory.max: max\n/a/b memory.events: oom 1\n/a/b memory.events: oom_kill 1\n/a memory.max: 1000\n"
        );
    }

    #[test]
    fn a_cgroup_out_of_sight_is_skipped() {
        let host = FakeHost::new();
        host.process(7, "app").file("cgroup", "0::/a\n").write();
        let procfs = host.procfs();
        let error = text(&procfs, &procfs.dir(7).unwrap()).unwrap_err();
        assert!(matches!(error, KernelError::NoCgroup { pid: 7 }) && error.is_skip(), "{error:?}");
    }
}
