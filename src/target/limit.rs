//! How much memory a process may use, and whether the kernel has killed for it.

use std::collections::HashMap;
use std::path::PathBuf;

use super::cgroup::{CgroupRef, Level, Version};
use super::{Limit, ProcError, ProcFs};

/// v1 writes "no limit" as the largest multiple of the page size; nothing real comes near.
const NO_LIMIT: u64 = 1 << 62;

/// The least of `memory.max` and `memory.high` (v2) or `memory.limit_in_bytes` (v1) of all ancestor cgroups, and the host's
/// memory.
pub fn effective(procfs: &ProcFs, pid: u32) -> Result<Limit, ProcError> {
    let cgroup = match CgroupRef::of(procfs, pid) {
        Err(gone @ ProcError::Gone { .. }) => return Err(gone),
        found => found.ok().flatten(),
    };
    Limits::default().within(procfs, cgroup.as_ref())
}

/// Limits as of one moment: what many processes have in common is read once.
#[derive(Debug, Default)]
pub struct Limits {
    asked: usize,
    host: Option<u64>,
    /// By the cgroup's directory.
    levels: HashMap<PathBuf, Vec<(u64, &'static str)>>,
    hidden: HashMap<PathBuf, Option<u64>>,
}

impl Limits {
    /// As [`effective`] says, of a process whose memory cgroup is known; `None` is one that cannot be seen from here.
    pub fn within(&mut self, procfs: &ProcFs, cgroup: Option<&CgroupRef>) -> Result<Limit, ProcError> {
        self.asked += 1;
        let least = cgroup.and_then(|cgroup| self.of_cgroup(cgroup));
        let note = if cgroup.is_none() { " (the process's memory cgroup cannot be seen from here)" } else { "" };
        let host = self.host(procfs).map(|bytes| Limit { bytes, source: format!("host MemTotal{note}") });
        match (least, host) {
            (Some(limit), Ok(host)) if limit.bytes < host.bytes => Ok(limit),
            (Some(limit), Err(_)) => Ok(limit),
            (_, host) => host,
        }
    }

    /// How many were asked for so far.
    pub fn asked(&self) -> usize {
        self.asked
    }

    fn host(&mut self, procfs: &ProcFs) -> Result<u64, ProcError> {
        if let Some(bytes) = self.host {
            return Ok(bytes);
        }
        let bytes = procfs.mem_total()?;
        self.host = Some(bytes);
        Ok(bytes)
    }

    fn of_cgroup(&mut self, cgroup: &CgroupRef) -> Option<Limit> {
        let mut least: Option<(u64, &Level, &'static str)> = None;
        // the nearest of equals is named
        let mut lower = |bytes, level, file| {
            if least.is_none_or(|(least, ..)| bytes < least) {
                least = Some((bytes, level, file));
            }
        };
        for level in cgroup.levels() {
            if !self.levels.contains_key(&level.dir) {
                self.levels.insert(level.dir.clone(), of_level(cgroup.version, level));
            }
            self.levels.get(&level.dir)?.iter().for_each(|(bytes, file)| lower(*bytes, level, *file));
        }
        if cgroup.version == Version::V1 {
            // a container's view ends below its host's slices; this number counts those too
            let own = cgroup.own();
            if !self.hidden.contains_key(&own.dir) {
                self.hidden.insert(own.dir.clone(), own.keyed("memory.stat", "hierarchical_memory_limit").filter(is_real));
            }
            let hidden = *self.hidden.get(&own.dir)?;
            hidden.into_iter().for_each(|bytes| lower(bytes, own, "memory.stat hierarchical_memory_limit"));
        }
        let (bytes, level, file) = least?;
        Some(Limit { bytes, source: format!("cgroup {} {} {file}", cgroup.version.name(), level.name) })
    }
}

fn of_level(version: Version, level: &Level) -> Vec<(u64, &'static str)> {
    let files: &[&'static str] = match version {
        Version::V1 => &["memory.limit_in_bytes"],
        Version::V2 => &["memory.max", "memory.high"],
    };
    files.iter().filter_map(|file| Some((level.number(file).filter(is_real)?, *file))).collect()
}

/// 0 is written for a moment to force a reclaim, not to live with.
fn is_real(bytes: &u64) -> bool {
    (1..NO_LIMIT).contains(bytes)
}

/// How many processes of its cgroup the kernel has killed for memory; `None` where that cannot be read.
pub fn oom_kills(procfs: &ProcFs, pid: u32) -> Option<u64> {
    CgroupRef::of(procfs, pid).ok()??.oom_kills()
}

impl CgroupRef {
    /// The kernel's count for the process's own cgroup. `None` once that is removed, which systemd does soon after a service ends.
    pub fn oom_kills(&self) -> Option<u64> {
        self.oom_kills_at(0)
    }

    fn oom_kills_at(&self, level: usize) -> Option<u64> {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        self.levels().get(level)?.keyed(file, "oom_kill")
    }
}

/// The oom_kill counters as they stood at one moment, to be asked again when the process has died.
#[derive(Clone, Debug)]
pub struct OomCounter {
    cgroup: CgroupRef,
    /// By level, as in the cgroup.
    before: Vec<Option<u64>>,
}

/// What the counters say happened since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKills {
    pub kills: u64,
    /// Whose counter rose.
    pub cgroup: String,
    /// It is the counter of the process's own cgroup; if not, a neighbour below the same ancestor may have been the victim.
    pub own: bool,
}

impl OomCounter {
    pub fn new(cgroup: CgroupRef) -> OomCounter {
        // v1 counts a kill in the victim's own cgroup only
        let levels = if cgroup.version == Version::V1 { 1 } else { cgroup.levels().len() };
        let before = (0..levels).map(|level| cgroup.oom_kills_at(level)).collect();
        OomCounter { cgroup, before }
    }

    /// Whose counters they are.
    pub fn cgroup(&self) -> &CgroupRef {
        &self.cgroup
    }

    /// The count at the beginning, of the process's own cgroup.
    pub fn before(&self) -> Option<u64> {
        *self.before.first()?
    }

    /// Kills since the beginning, by the nearest cgroup that is still there. `None`: no counter is left.
    pub fn since(&self) -> Option<OomKills> {
        self.before.iter().enumerate().find_map(|(level, before)| {
            let kills = self.cgroup.oom_kills_at(level)?.saturating_sub((*before)?);
            Some(OomKills { kills, cgroup: self.cgroup.levels().get(level)?.name.clone(), own: level == 0 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    const V1_UNLIMITED: &str = "9223372036854771712\n";

    /// Process 7 in `/system.slice/checkout.service`, with 16 GiB in the host.
    fn v2_host(files: &[(&str, &str)]) -> FakeHost {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", V2).file("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");
        host.process(7, "checkout").file("cgroup", "0::/system.slice/checkout.service\n").write();
        host.file("sys/fs/cgroup/system.slice/checkout.service/cgroup.procs", "7\n");
        for (path, text) in files {
            host.file(&format!("sys/fs/cgroup/{path}"), text);
        }
        host
    }

    fn limit_of(host: &FakeHost) -> (u64, String) {
        let limit = effective(&host.procfs(), 7).unwrap();
        (limit.bytes, limit.source)
    }

    #[test]
    fn the_lowest_of_max_and_high_over_all_ancestors_is_the_limit() {
        let service = "system.slice/checkout.service";
        let mut files = vec![(format!("{service}/memory.max"), "4000000"), (format!("{service}/memory.high"), "max")];
        let check = |files: &[(String, &str)], bytes: u64, source: &str| {
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            assert_eq!(limit_of(&v2_host(&files)), (bytes, source.to_owned()));
        };
        check(&files, 4_000_000, "cgroup v2 /system.slice/checkout.service memory.max");
        files.push(("system.slice/memory.high".into(), "3000000\n"));
        check(&files, 3_000_000, "cgroup v2 /system.slice memory.high");
        files.push(("system.slice/memory.max".into(), "0\n"));
        check(&files, 3_000_000, "cgroup v2 /system.slice memory.high");
    }

    #[test]
    fn without_a_cgroup_limit_the_hosts_memory_is_the_limit() {
        let host = v2_host(&[("system.slice/checkout.service/memory.max", "max"), ("system.slice/memory.max", "99999999999999")]);
        assert_eq!(limit_of(&host), (16 << 30, "host MemTotal".into()));
    }

    #[test]
    fn a_cgroup_out_of_sight_is_said() {
        let host = v2_host(&[]);
        host.process(7, "app").file("cgroup", "0::/../elsewhere\n").write();
        assert_eq!(limit_of(&host), (16 << 30, "host MemTotal (the process's memory cgroup cannot be seen from here)".into()));
    }

    fn v1_host(own: &str, parent: &str, stat: &str) -> FakeHost {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", V1).file("proc/meminfo", "MemTotal: 1000000 kB\n");
        host.process(7, "app").file("cgroup", "4:memory:/pod/app\n0::/\n").write();
        host.file("sys/fs/cgroup/memory/pod/app/memory.limit_in_bytes", own);
        host.file("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", parent);
        host.file("sys/fs/cgroup/memory/pod/app/memory.stat", stat);
        host
    }

    #[test]
    fn the_huge_number_of_v1_is_no_limit_even_without_meminfo() {
        let host = v1_host(V1_UNLIMITED, V1_UNLIMITED, "");
        assert_eq!(limit_of(&host), (1_024_000_000, "host MemTotal".into()));
        host.file("proc/meminfo", "");
        assert!(matches!(effective(&host.procfs(), 7), Err(ProcError::Malformed { .. })));
    }

    #[test]
    fn v1_ancestors_count_and_so_do_those_that_cannot_be_seen() {
        assert_eq!(limit_of(&v1_host(V1_UNLIMITED, "5000\n", "")), (5000, "cgroup v1 /pod memory.limit_in_bytes".into()));
        let hidden = v1_host("6000\n", V1_UNLIMITED, "cache 1\nhierarchical_memory_limit 4000\n");
        assert_eq!(limit_of(&hidden), (4000, "cgroup v1 /pod/app memory.stat hierarchical_memory_limit".into()));
        let equal = v1_host("6000\n", V1_UNLIMITED, "hierarchical_memory_limit 6000\n");
        assert_eq!(limit_of(&equal).1, "cgroup v1 /pod/app memory.limit_in_bytes");
    }

    #[test]
    fn what_processes_have_in_common_is_read_once_and_the_rest_for_each() {
        let host = v2_host(&[("system.slice/checkout.service/memory.max", "4000000"), ("system.slice/memory.high", "5000000")]);
        host.process(8, "search").file("cgroup", "0::/system.slice/search.service\n").write();
        host.file("sys/fs/cgroup/system.slice/search.service/memory.max", "6000000");
        let procfs = host.procfs();
        let [checkout, search] = [7, 8].map(|pid| CgroupRef::of(&procfs, pid).unwrap());
        let mut limits = Limits::default();
        assert_eq!(limits.within(&procfs, checkout.as_ref()).unwrap().bytes, 4_000_000);
        host.file("sys/fs/cgroup/system.slice/memory.high", "1000").file("proc/meminfo", "");
        assert_eq!(
            limits.within(&procfs, search.as_ref()).unwrap(),
            Limit { bytes: 5_000_000, source: "cgroup v2 /system.slice memory.high".into() }
        );
        assert_eq!(Limits::default().within(&procfs, search.as_ref()).unwrap().bytes, 1000);
    }

    #[test]
    fn the_limit_of_a_process_that_is_gone_is_an_error() {
        assert!(matches!(effective(&v2_host(&[]).procfs(), 8), Err(ProcError::Gone { pid: 8 })));
    }

    #[test]
    fn oom_kills_are_counted_after_the_process_and_its_cgroup_are_gone() {
        let own = "system.slice/checkout.service/memory.events";
        let host = v2_host(&[(own, "max 9\noom 4\noom_kill 3\noom_group_kill 0\n"), ("system.slice/memory.events", "oom_kill 10\n")]);
        let procfs = host.procfs();
        assert_eq!(oom_kills(&procfs, 7), Some(3));
        let counter = OomCounter::new(CgroupRef::of(&procfs, 7).unwrap().unwrap());
        assert_eq!(counter.before(), Some(3));
        host.remove("proc/7");
        host.file("sys/fs/cgroup/system.slice/checkout.service/memory.events", "oom_kill 4\n");
        host.file("sys/fs/cgroup/system.slice/memory.events", "oom_kill 11\n");
        let own = OomKills { kills: 1, cgroup: "/system.slice/checkout.service".into(), own: true };
        assert_eq!(counter.since(), Some(own));
        host.remove("sys/fs/cgroup/system.slice/checkout.service");
        assert_eq!(counter.since(), Some(OomKills { kills: 1, cgroup: "/system.slice".into(), own: false }));
        host.remove("sys/fs/cgroup");
        assert_eq!(counter.since(), None);
    }

    /// A real v1 cgroup below this test's own; `None`, said aloud, where this machine does not let us make one.
    struct RealCgroup(std::path::PathBuf);

    impl RealCgroup {
        fn with_limit(name: &str, bytes: u64) -> Option<RealCgroup> {
            let mine = CgroupRef::of(&ProcFs::host(), std::process::id()).ok().flatten();
            let made = mine.filter(|cgroup| cgroup.version == Version::V1).and_then(|cgroup| {
                let dir = cgroup.own().dir.join(format!("memtrap-test-{name}-{}", std::process::id()));
                std::fs::create_dir(&dir).ok()?;
                let made = RealCgroup(dir);
                std::fs::write(made.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
                Some(made)
            });
            if made.is_none() {
                eprintln!("NOT CHECKED: no v1 memory cgroup can be made here (not root, or a v2 host); the recorded trees stand alone");
            }
            made
        }

        /// A shell that waits in the cgroup for a line, then runs `script`.
        fn shell(&self, script: &str) -> std::process::Child {
            let child = std::process::Command::new("sh")
                .args(["-c", &format!("read line; {script}")])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            std::fs::write(self.0.join("cgroup.procs"), child.id().to_string()).unwrap();
            child
        }
    }

    impl Drop for RealCgroup {
        fn drop(&mut self) {
            // the last process may still be leaving
            for _ in 0..100 {
                if std::fs::remove_dir(&self.0).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn a_real_limit_is_found_and_named() {
        let Some(cgroup) = RealCgroup::with_limit("limit", 64 << 20) else { return };
        let mut child = cgroup.shell("exit 0");
        let limit = effective(&ProcFs::host(), child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(limit.bytes, 64 << 20);
        let name = cgroup.0.file_name().unwrap().to_str().unwrap();
        assert!(limit.source.starts_with("cgroup v1 /") && limit.source.ends_with(&format!("/{name} memory.limit_in_bytes")), "{limit:?}");
    }

    #[test]
    fn a_real_oom_kill_is_seen_after_the_death() {
        let Some(cgroup) = RealCgroup::with_limit("oom", 16 << 20) else { return };
        // tail keeps its input until a line ends; should the cgroup not hold it, ulimit does
        let mut child = cgroup.shell("ulimit -v 400000; exec tail -n 1 </dev/zero");
        let counter = OomCounter::new(CgroupRef::of(&ProcFs::host(), child.id()).unwrap().unwrap());
        assert_eq!(counter.before(), Some(0));
        drop(child.stdin.take());
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
        let seen = counter.since().unwrap();
        assert_eq!((seen.kills, seen.own), (1, true));
    }
}
