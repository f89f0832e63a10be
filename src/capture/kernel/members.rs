//! `cgroup_members.txt`: the processes whose memory the process's limited cgroups are charged with.

use std::fmt::Write;
use std::path::Path;

use super::KernelError;
use crate::host::cgroup::{CgroupRef, Level};
use crate::host::limit::limited;
use crate::host::proc::read_path;
use crate::host::{ProcDir, ProcFs};
use crate::text::one_line;

/// Deeper and wider trees than any orchestrator makes below one limit.
const MAX_CGROUPS: usize = 512;
const MAX_PROCESSES: usize = 2_000;
const MAX_PIDS: usize = 1 << 20;
const MAX_NAME: usize = 40;

/// A line for each process of the highest cgroup with a limit, and of all below it: pid, resident bytes that are anonymous, of files, and shared, swapped ones, page
/// tables, its cgroup and its name; tabs between them.
pub(super) fn text(procfs: &ProcFs, dir: &ProcDir) -> Result<String, KernelError> {
    let cgroup = CgroupRef::of(procfs, dir.pid())?.ok_or(KernelError::NoCgroup { pid: dir.pid() })?;
    // it was found by pid: make sure that it was this process's
    dir.stat()?;
    // without a limit nothing is shared that anybody could run out of
    let Some(top) = limited(&cgroup) else { return Ok("# none of its memory cgroups has a limit\n".into()) };
    let mut out = String::from("pid\tanon\tfile\tshmem\tswap\tpage_tables\tcgroup\tname\n");
    let mut left = MAX_PROCESSES;
    for level in below(top) {
        let pids = read_path(&level.dir.join("cgroup.procs"), MAX_PIDS).unwrap_or_default();
        for pid in String::from_utf8_lossy(&pids).lines().filter_map(|line| line.parse::<u32>().ok()) {
            let Some(rest) = left.checked_sub(1) else {
                let _ = writeln!(out, "# only the first {MAX_PROCESSES} processes");
                return Ok(out);
            };
            left = rest;
            // it may have ended meanwhile
            let Ok(member) = procfs.dir(pid) else { continue };
            let (Ok(status), Ok(comm)) = (member.status(), member.comm()) else { continue };
            let known = |bytes: Option<u64>| bytes.unwrap_or(0);
            let (anon, file, shmem) = (known(status.rss_anon), known(status.rss_file), known(status.rss_shmem));
            let (swap, tables) = (known(status.swap), known(status.page_tables));
            let name = one_line(&String::from_utf8_lossy(&comm), MAX_NAME);
            let _ = writeln!(out, "{pid}\t{anon}\t{file}\t{shmem}\t{swap}\t{tables}\t{}\t{name}", one_line(&level.name, 1_000));
        }
    }
    Ok(out)
}

/// The cgroup and all below it, itself first.
fn below(top: &Level) -> Vec<Level> {
    let mut found = vec![top.clone()];
    let mut next = 0;
    while let Some(level) = found.get(next).cloned() {
        next += 1;
        for name in children(&level.dir) {
            if found.len() == MAX_CGROUPS {
                return found;
            }
            found.push(Level { name: format!("{}/{name}", level.name.trim_end_matches('/')), dir: level.dir.join(&name) });
        }
    }
    found
}

fn children(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = dirs.filter_map(|entry| entry.file_name().into_string().ok()).take(MAX_CGROUPS).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn every_process_below_the_highest_limit_is_listed() {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.process(7, "app").file("cgroup", "0::/pod/app\n").file("status", "RssAnon: 1 kB\nRssFile: 2 kB\nVmPTE: 4 kB\n").write();
        host.process(8, "side\tcar").file("status", "RssAnon: 5 kB\nRssShmem: 6 kB\nVmSwap: 3 kB\n").write();
        host.file("sys/fs/cgroup/pod/memory.max", "1000000\n").file("sys/fs/cgroup/pod/cgroup.procs", "");
        host.file("sys/fs/cgroup/pod/app/cgroup.procs", "7\n99\n").file("sys/fs/cgroup/pod/side/cgroup.procs", "8\n");
        let procfs = host.procfs();
        assert_eq!(
            text(&procfs, &procfs.dir(7).unwrap()).unwrap(),
            "pid\tanon\tfile\tshmem\tswap\tpage_tables\tcgroup\tname\n\
             7\t1024\t2048\t0\t0\t4096\t/pod/app\tapp\n8\t5120\t0\t6144\t3072\t0\t/pod/side\tside car\n"
        );
    }

    #[test]
    fn without_a_limit_there_is_nobody_to_list() {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.process(7, "app").file("cgroup", "0::/pod\n").write();
        host.file("sys/fs/cgroup/pod/memory.max", "max\n");
        let procfs = host.procfs();
        assert_eq!(text(&procfs, &procfs.dir(7).unwrap()).unwrap(), "# none of its memory cgroups has a limit\n");
    }
}
