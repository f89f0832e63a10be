//! What hides processes from memtrap, and processes that only stand in for the one that is meant. Blocks on /proc.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::proc::{SMALL, read_path};
use super::{ProcFs, users};
use crate::identity::InstanceId;

/// A mount table is read up to here.
const MAX_MOUNTS: usize = 1 << 20;
/// The host's own pid namespace: `PROC_PID_INIT_INO` of the kernel.
const HOSTS_PIDS: &str = "pid:[4026531836]";
/// A pid file is written soon after its process starts; clocks and file systems are this exact at worst.
const SLACK: Duration = Duration::from_secs(10);
/// Of programs that hold a port for a container: their command names, as the kernel shortens them.
const FORWARDERS: [&str; 10] = [
    "docker-proxy",
    "rootlessport",
    "rootlesskit",
    "slirp4netns",
    "pasta",
    "pasta.avx2",
    "passt",
    "passt.avx2",
    "gvproxy",
    "containers-root",
];

/// Whether memtrap is in the host's own pid namespace, and not in a container with some of its processes.
pub fn is_on_host(procfs: &ProcFs) -> bool {
    fs::read_link(procfs.path("self/ns/pid")).is_ok_and(|own| own.as_os_str() == HOSTS_PIDS)
}

/// Why processes that there are may not be seen here, and what to do about it. `None`: nothing hides any.
pub fn hidden(procfs: &ProcFs) -> Option<String> {
    let said: Vec<String> = [hidepid(procfs), own_namespace(procfs)].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn hidepid(procfs: &ProcFs) -> Option<String> {
    let mounts = read_path(&procfs.path("self/mountinfo"), MAX_MOUNTS).ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    // of several on one another, the last is seen
    let options = mounts.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        (left.split(' ').nth(4)? == "/proc" && right.next()? == "proc").then(|| right.nth(1))?
    })?;
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let hides = option("hidepid").filter(|value| !matches!(*value, "0" | "off"))?;
    let status = String::from_utf8_lossy(&read_path(&procfs.path("self/status"), SMALL).ok()?).into_owned();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let ptrace = 1 << 19;
    if field("CapEff").and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok()).is_some_and(|caps| caps & ptrace != 0) {
        return None;
    }
    let gid = option("gid").unwrap_or("0");
    let groups = field("Groups").unwrap_or_default().split_ascii_whitespace().chain(field("Gid")?.split_ascii_whitespace());
    if !matches!(hides, "4" | "ptraceable") && groups.into_iter().any(|group| group == gid) {
        return None;
    }
    Some(format!(
        "/proc is mounted with hidepid={hides}, which hides the processes of other users: give memtrap CAP_SYS_PTRACE (the unit has it), or a \
         group that may see them (mount /proc with gid= and put it in `SupplementaryGroups=`), or run it as the service's user"
    ))
}

fn own_namespace(procfs: &ProcFs) -> Option<String> {
    let own = fs::read_link(procfs.path("self/ns/pid")).ok()?;
    (own.as_os_str() != HOSTS_PIDS).then(|| {
        "memtrap is in a pid namespace of its own (a container's), and sees no process outside: share it (Kubernetes: `shareProcessNamespace: \
         true` for a sidecar, `hostPID: true` for a DaemonSet; Docker: `--pid=host` or `--pid=container:NAME`)"
            .to_owned()
    })
}

/// Whether a process that holds an address only forwards it to a container, and how to find the service behind it.
pub fn forwarder(procfs: &ProcFs, pid: u32) -> Option<String> {
    let dir = procfs.dir(pid).ok()?;
    let comm = String::from_utf8_lossy(&dir.comm().ok()?).into_owned();
    let name = FORWARDERS.iter().find(|name| **name == comm)?;
    let arguments = dir.cmdline().unwrap_or_default();
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).filter(|value| value.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b'.' | b':')))
    };
    let to = after("-container-ip").zip(after("-container-port")).map_or(String::new(), |(ip, port)| format!(" ({ip} port {port})"));
    Some(format!(
        "{name} (pid {pid}) holds it, which forwards it to a container{to} and is not the service: select the process in the container by \
         exe, name or cmdline, and leave `pprof` at this address"
    ))
}

/// What a pid file names.
pub enum Named {
    Plausible,
    /// The process it names may be another; this tells why.
    Doubtful(String),
    /// It surely is.
    Wrong(String),
}

/// Whether the process that a pid file names on this host can be the one that was meant: a container's file holds the number that the process
/// has in there.
pub fn pid_file(procfs: &ProcFs, path: &Path, id: InstanceId) -> Named {
    let is_host = is_on_host(procfs);
    let (pid, shown) = (id.pid, path.display());
    if pid == 1 && is_host {
        let cure = meant(procfs, pid);
        return Named::Wrong(format!(
            "the pid file {shown} names process 1, which is this host's init: it was written in a container, {cure}"
        ));
    }
    let Ok(meta) = fs::metadata(path) else { return Named::Plausible };
    let Ok(status) = procfs.dir(pid).and_then(|dir| dir.status()) else { return Named::Plausible };
    let others = status.uids.filter(|uids| meta.uid() != 0 && !uids.contains(&meta.uid()));
    if let Some([uid, ..]) = others {
        let (owner, user) = (users::shown(procfs, meta.uid()), users::shown(procfs, uid));
        let cure = meant(procfs, pid);
        return Named::Wrong(format!(
            "the pid file {shown} is of user {owner}, and process {pid}, which it names, runs as {user}: it is out of date, or was written in a \
             container, {cure}"
        ));
    }
    let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    match procfs.started_at(id) {
        Ok(started) if started > written + SLACK => {
            let cure = meant(procfs, pid);
            Named::Doubtful(format!(
                "the pid file {shown} is older than process {pid}, which it names: it is out of date, or was written in a container, {cure}"
            ))
        }
        _ => Named::Plausible,
    }
}

/// Which processes have this number in a pid namespace below, and how to name the right one.
fn meant(procfs: &ProcFs, pid: u32) -> String {
    const MAX_SHOWN: usize = 4;
    let inner = |other: &u32| {
        let text = procfs.dir(*other).ok()?.read("status", SMALL).ok()?;
        let text = String::from_utf8_lossy(&text);
        let mut numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_ascii_whitespace();
        (numbers.next().is_some() && numbers.next_back()?.parse() == Ok(pid)).then_some(())
    };
    let is_there = |other: &u32| *other != pid && inner(other).is_some();
    let mut found: Vec<u32> = procfs.pids().map(|pids| pids.filter(is_there).collect()).unwrap_or_default();
    found.sort_unstable();
    let name = |other: &u32| {
        let comm = procfs.comm(*other).unwrap_or_default();
        format!("{other} ({})", crate::text::one_line(&String::from_utf8_lossy(&comm), 32))
    };
    let shown: Vec<String> = found.iter().take(MAX_SHOWN).map(name).collect();
    let more = if found.len() > MAX_SHOWN { " and others" } else { "" };
    let who = if shown.is_empty() { String::new() } else { format!("where {pid} is what is here {}{more}; ", shown.join(" or ")) };
    format!("{who}select the process by exe, name, cmdline or unit instead")
}
