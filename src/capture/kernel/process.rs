//! `process.json`: what is known of the process in one place, for `analyze` and for people. What could not be read is absent
//! and named in `problems`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};

use crate::bundle::{Fds, Memory, ProcessFacts};
use crate::host::buildinfo::{self, BuildInfo, BuildInfoError};
use crate::host::cgroup::CgroupRef;
use crate::host::{ProcDir, ProcError, ProcFs, limit, sockets};
use crate::identity::InstanceId;

/// Nothing else of the environment is looked at: it holds secrets.
const ENV: [&str; 4] = ["GOGC", "GOMEMLIMIT", "GODEBUG", "GOMAXPROCS"];
/// The kernel's own limit on arguments and environment together is a quarter of the stack limit, commonly 2 MiB.
const MAX_ENVIRON: u64 = 8 << 20;
/// Anonymous inodes that get a count of their own; they name what a leak of descriptors is made of.
const ANONYMOUS: [&str; 9] = ["eventpoll", "eventfd", "timerfd", "signalfd", "inotify", "fanotify", "io_uring", "perf_event", "pidfd"];

/// Fails only when the process is gone.
pub(super) fn gather(procfs: &ProcFs, id: InstanceId, dir: &ProcDir) -> Result<ProcessFacts, ProcError> {
    let mut problems = Problems(Vec::new());
    let status = problems.note(dir.status());
    let (fds, listening) = descriptors(dir, &mut problems);
    let cgroup = problems.note(CgroupRef::of(procfs, id.pid));
    if let Some(None) = cgroup {
        problems.0.push("its memory cgroup cannot be seen from here".into());
    }
    let cgroup = cgroup.flatten();
    let facts = ProcessFacts {
        schema: 1,
        pid: id.pid,
        start_ticks: id.start_ticks,
        boot_id: problems.note(procfs.boot_id()),
        started_at: problems.note(procfs.started_at(id)).map(crate::clock::rfc3339_seconds),
        age_seconds: problems.note(procfs.age(id)).map(|age| age.as_secs_f64()),
        exe: problems.note(dir.exe()).map(|path| path.to_string_lossy().into_owned()),
        comm: problems.note(dir.comm()).map(|name| String::from_utf8_lossy(&name).into_owned()),
        uid: status.and_then(|s| s.uid),
        gid: status.and_then(|s| s.gid),
        threads: status.and_then(|s| s.threads),
        memory: status.map(|s| Memory {
            rss_bytes: s.rss,
            peak_rss_bytes: s.peak_rss,
            rss_anon_bytes: s.rss_anon,
            rss_file_bytes: s.rss_file,
            rss_shmem_bytes: s.rss_shmem,
            swap_bytes: s.swap,
            virtual_bytes: s.virtual_size,
        }),
        limit: problems.note(limit::effective(procfs, id.pid)),
        oom_kills: cgroup.as_ref().and_then(CgroupRef::oom_kills),
        cgroup: cgroup.map(|cgroup| cgroup.own().name.clone()),
        fds,
        listening,
        same_network_namespace: sockets::same_netns(procfs, id.pid),
        go: go_build(dir, &mut problems),
        env: problems.note(environment(dir)),
        problems: Vec::new(),
    };
    // cgroup, limit and namespace were found by pid: if the process is still there, they were its own
    dir.stat()?;
    Ok(ProcessFacts { problems: problems.0, ..facts })
}

struct Problems(Vec<String>);

impl Problems {
    fn note<T>(&mut self, result: Result<T, ProcError>) -> Option<T> {
        result.map_err(|e| self.0.push(crate::error::chain(&e))).ok()
    }
}

/// One walk over the descriptors, for their kinds and for the sockets that listen.
fn descriptors(dir: &ProcDir, problems: &mut Problems) -> (Option<Fds>, Option<Vec<String>>) {
    let mut fds = Fds::default();
    let mut inodes = BTreeSet::new();
    let walked = dir.fds(sockets::MAX_FDS, |link| {
        fds.total += 1;
        *fds.by_kind.entry(kind(link)).or_insert(0) += 1;
        inodes.extend(sockets::socket_inode(link));
    });
    let Some(complete) = problems.note(walked) else { return (None, None) };
    if !complete {
        problems.0.push(format!("only the first {} descriptors were counted", sockets::MAX_FDS));
    }
    let listening = problems.note(sockets::listening_among(dir, &inodes));
    let addresses = listening.map(|sockets| sockets.iter().map(|s| s.addr.to_string()).collect());
    (Some(fds), addresses)
}

fn kind(link: &[u8]) -> String {
    let link = String::from_utf8_lossy(link);
    let known = match &*link {
        l if l.starts_with("socket:") => "socket",
        l if l.starts_with("pipe:") => "pipe",
        l if l.starts_with("/memfd:") => "memfd",
        l if l.starts_with("/dev/") && !l.starts_with("/dev/shm/") => "device",
        l if l.starts_with('/') && l.ends_with(" (deleted)") => "deleted_file",
        l if l.starts_with('/') => "file",
        l => {
            let name = l.strip_prefix("anon_inode:").unwrap_or_default().trim_matches(['[', ']']);
            ANONYMOUS.into_iter().find(|known| *known == name).unwrap_or("other")
        }
    };
    known.to_owned()
}

fn go_build(dir: &ProcDir, problems: &mut Problems) -> Option<BuildInfo> {
    let file = dir.open("exe").ok()?; // why not is said by the path of the executable
    match buildinfo::read(&file) {
        Ok(info) => Some(info),
        Err(e @ (BuildInfoError::NotElf | BuildInfoError::NotGo)) => {
            problems.0.push(format!("no Go build info: {e}"));
            None
        }
        Err(e) => {
            problems.0.push(format!("Go build info cannot be read: {}", crate::error::chain(&e)));
            None
        }
    }
}

fn environment(dir: &ProcDir) -> Result<BTreeMap<String, String>, ProcError> {
    let mut from = BufReader::new(dir.open("environ")?.take(MAX_ENVIRON));
    let mut found = BTreeMap::new();
    let mut variable = Vec::new();
    while from.read_until(0, &mut variable).map_err(|e| dir.error("environ", e))? > 0 {
        let text = String::from_utf8_lossy(variable.strip_suffix(b"\0").unwrap_or(&variable));
        if let Some((name, value)) = text.split_once('=').filter(|(name, _)| ENV.contains(name)) {
            found.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        variable.clear();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, tcp_row, tcp_table};

    fn gather(host: &FakeHost, id: InstanceId) -> ProcessFacts {
        let procfs = host.procfs();
        super::gather(&procfs, id, &procfs.dir_of(id).unwrap()).unwrap()
    }

    #[test]
    fn everything_known_of_a_go_service_is_in_one_place() {
        let host = FakeHost::new();
        host.file("opt/checkout", buildinfo::tests::go_executable("go1.27.3"));
        host.file("proc/uptime", "100.5 1\n").file("proc/stat", "btime 1000\n").file("proc/meminfo", "MemTotal: 1024 kB\n");
        host.file("proc/sys/kernel/random/boot_id", "0123-abcd\n").link("proc/self/ns/net", "net:[1]");
        host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.file("sys/fs/cgroup/a/memory.max", "65536").file("sys/fs/cgroup/a/memory.events", "oom_kill 2\n");
        let exe = host.root().join("opt/checkout");
        let id = host
            .process(7, "checkout")
            .start(0)
            .exe(exe.to_str().unwrap())
            .file("status", "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nVmSize: 9 kB\nVmHWM: 5 kB\nVmRSS: 4 kB\nRssAnon: 2 kB\nRssFile: 1 kB\nRssShmem: 1 kB\nVmSwap: 0 kB\nThreads:\t11\n")
            .file("environ", "SECRET=hush\0GOGC=50\0XGODEBUG=no\0GODEBUG=madvdontneed=0\0GOMEMLIMIT=\0")
            .file("cgroup", "0::/a\n")
            .file("net/tcp", tcp_table(&[tcp_row("0100007F:17AC", "0A", 55)]))
            .link("ns/net", "net:[1]")
            .socket(3, 55)
            .socket(4, 56)
            .link("fd/5", "/var/log/x")
            .link("fd/6", "anon_inode:[eventpoll]")
            .link("fd/7", "/tmp/x (deleted)")
            .link("fd/8", "/dev/null")
            .write();
        let facts = gather(&host, id);
        let json = serde_json::to_string(&facts).unwrap();
        assert!(!json.contains("hush") && !json.contains("SECRET"), "{json}");
        assert_eq!(facts.go.as_ref().unwrap().go_version, "go1.27.3");
        let mut rest = facts.clone();
        rest.go = None;
        rest.exe = None;
        insta::assert_snapshot!(serde_json::to_string_pretty(&rest).unwrap(), @r#"
        {
          "schema": 1,
          "pid": 7,
          "start_ticks": 0,
          "boot_id": "0123-abcd",
          "started_at": "1970-01-01T00:16:40Z",
          "age_seconds": 100.5,
          "comm": "checkout",
          "uid": 2,
          "gid": 6,
          "threads": 11,
          "memory": {
            "rss_bytes": 4096,
            "peak_rss_bytes": 5120,
            "rss_anon_bytes": 2048,
            "rss_file_bytes": 1024,
            "rss_shmem_bytes": 1024,
            "swap_bytes": 0,
            "virtual_bytes": 9216
          },
          "limit": {
            "bytes": 65536,
            "source": "cgroup v2 /a memory.max"
          },
          "cgroup": "/a",
          "oom_kills": 2,
          "fds": {
            "total": 6,
            "by_kind": {
              "deleted_file": 1,
              "device": 1,
              "eventpoll": 1,
              "file": 1,
              "socket": 2
            }
          },
          "listening": [
            "127.0.0.1:6060"
          ],
          "same_network_namespace": true,
          "env": {
            "GODEBUG": "madvdontneed=0",
            "GOGC": "50",
            "GOMEMLIMIT": ""
          }
        }
        "#);
        assert_eq!(serde_json::from_str::<ProcessFacts>(&json).unwrap(), facts);
    }

    #[test]
    fn what_is_missing_is_absent_and_named() {
        let host = FakeHost::new();
        let id = host.process(7, "app").write();
        let facts = gather(&host, id);
        assert_eq!((facts.exe, facts.limit, facts.fds, facts.env), (None, None, None, None));
        for name in ["status", "fd", "boot_id", "stat", "uptime", "exe", "meminfo", "environ", "cgroup"] {
            let path = format!("{name} is missing");
            assert!(facts.problems.iter().any(|p| p.contains(&path)), "{name}: {:?}", facts.problems);
        }
    }

    #[test]
    fn a_program_that_is_not_go_says_so() {
        let procfs = ProcFs::host();
        let id = procfs.identity(std::process::id()).unwrap();
        let facts = super::gather(&procfs, id, &procfs.dir_of(id).unwrap()).unwrap();
        assert_eq!(facts.go, None);
        assert!(facts.problems.contains(&"no Go build info: not a Go executable, or its build info was removed".to_owned()), "{facts:?}");
        assert!(facts.memory.unwrap().rss_bytes.unwrap() > 0);
        assert_eq!(facts.same_network_namespace, Some(true));
    }
}
