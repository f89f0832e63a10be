//! What keeps memtrap from what it wants to read or to connect to, as far as this host itself tells, and the cure.
//!
//! Of addresses it is looked up before they are tried, and said if that fails.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::thread::{CapabilitySet, capabilities};

use super::{ProcFs, sockets, users};
use crate::identity::InstanceId;

const MAX_SHOWN: usize = 4;

/// Why nobody answers at these addresses of memtrap's loopback for this process. Blocks on /proc for milliseconds.
pub fn of_loopback(procfs: &ProcFs, addrs: &[SocketAddr], id: InstanceId) -> Option<String> {
    let pid = id.pid;
    if sockets::same_netns(procfs, pid) == Some(false) {
        return Some(format!(
            "process {pid} is in another network namespace (a container's), whose loopback is not memtrap's: set `pprof` to \"auto\", to \
             \"http://{{address}}:PORT/debug/pprof\", which is filled with an address of that namespace, or to a port that is published from it"
        ));
    }
    if addrs.iter().any(|addr| !sockets::serving(procfs, *addr).is_ok_and(|serving| serving.is_empty())) {
        return None;
    }
    let listening = sockets::listening(procfs, pid).ok()?;
    let shown: Vec<String> = listening.iter().take(MAX_SHOWN).map(|socket| socket.addr.to_string()).collect();
    Some(match listening.len() - shown.len() {
        _ if shown.is_empty() => format!("nobody listens there, and process {pid} on no TCP port at all: does it serve pprof?"),
        0 => format!("nobody listens there; process {pid} listens on {}: is one of these its pprof?", shown.join(", ")),
        more => format!("nobody listens there; process {pid} listens on {} and {more} more: is one of these its pprof?", shown.join(", ")),
    })
}

/// Which part of the way to a unix socket is closed to memtrap, or missing. Blocks on the disk.
pub fn of_socket(procfs: &ProcFs, socket: &Path) -> Option<String> {
    let way: Vec<&Path> = socket.ancestors().collect();
    for part in way.into_iter().rev() {
        let Ok(meta) = std::fs::metadata(part) else {
            return Some(format!("{} does not exist: is the service running, and the path right?", part.display()));
        };
        let (what, wanted) = if meta.is_dir() { ("directory", Access::EXEC_OK) } else { ("socket", Access::WRITE_OK) };
        if rustix::fs::accessat(CWD, part, wanted, AtFlags::empty()).is_err() {
            return Some(format!(
                "the {what} {} is of user {} and group {}, mode {:04o}, which does not let memtrap in: add memtrap's user to that group \
                 (`SupplementaryGroups=` in a drop-in), run it as that user, or have the service open the {what} to it",
                part.display(),
                users::shown(procfs, meta.uid()),
                users::shown_group(procfs, meta.gid()),
                meta.mode() & 0o7777,
            ));
        }
    }
    None
}

/// What to do about a file that may not be read: which capabilities open it, and where they come from.
pub fn cure_of_denial(path: &Path) -> String {
    let needed = needed_for(path);
    let names = [(CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"), (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH")];
    let names: Vec<&str> = names.iter().filter(|(one, _)| needed.contains(*one)).map(|(_, name)| *name).collect();
    let names = names.join(" and ");
    // without an answer it is taken to lack them, as it nearly always does
    if capabilities(None).is_ok_and(|sets| sets.effective.contains(needed)) {
        return format!("though memtrap has {names}: a security module (AppArmor, SELinux) or the process's user namespace forbids it");
    }
    let or = if needed.contains(CapabilitySet::SYS_PTRACE) { "run it as the user of that process" } else { "let memtrap's user read it" };
    format!("memtrap needs {names} (memtrap.service grants it, unless a drop-in empties `AmbientCapabilities=`), or {or}")
}

/// The kernel asks for the right to trace a process where its memory is told of, and keeps some files to its user besides.
fn needed_for(path: &Path) -> CapabilitySet {
    let mut parts = path.components().filter_map(|part| part.as_os_str().to_str());
    let is_of_process =
        parts.by_ref().any(|part| part == "proc") && parts.next().is_some_and(|pid| pid == "self" || pid.parse::<u32>().is_ok());
    match parts.next().filter(|_| is_of_process) {
        Some("maps" | "smaps" | "smaps_rollup" | "exe" | "cwd" | "root" | "ns" | "stack" | "syscall") => CapabilitySet::SYS_PTRACE,
        Some(_) => CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH,
        None => CapabilitySet::DAC_READ_SEARCH,
    }
}
