//! Which TCP sockets a process listens on, and whose socket it is that answers at an address.
//!
//! From `net/tcp{,6}` and the descriptors' links. Only memtrap's own network namespace is searched for an address; the sockets
//! of a process are looked up in the namespace of that process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{ProcDir, ProcError, ProcFs, unix};
use crate::identity::InstanceId;

/// A socket table is read up to here: about 400,000 rows.
const MAX_TABLE: u64 = 64 << 20;
/// Descriptors of one process that are looked at.
pub(crate) const MAX_FDS: usize = 100_000;

/// A listening TCP socket. IPv4-mapped addresses are given as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    pub addr: SocketAddr,
    pub inode: u64,
    /// Who made the socket.
    pub uid: u32,
}

/// Whose socket answers at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    Own,
    /// Someone else's. Empty: the others' descriptors may not be read, but the process's own may and it is not among them.
    Other {
        pids: Vec<u32>,
    },
    Unknown {
        why: String,
    },
}

/// The sockets this process listens on, sorted. `Denied` where its descriptors may not be read.
pub fn listening(procfs: &ProcFs, pid: u32) -> Result<Vec<Listening>, ProcError> {
    let dir = procfs.dir(pid)?;
    let mut inodes = BTreeSet::new();
    dir.fds(MAX_FDS, |link| inodes.extend(socket_inode(link)))?;
    listening_among(&dir, &inodes)
}

/// Where a process may be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    pub tcp: Vec<Listening>,
    /// Paths as the process has them.
    pub unix: Vec<PathBuf>,
}

/// The sockets that this process listens on, sorted. `Denied` where its descriptors may not be read.
pub fn of_process(dir: &ProcDir) -> Result<Listeners, ProcError> {
    let mut inodes = BTreeSet::new();
    dir.fds(MAX_FDS, |link| inodes.extend(socket_inode(link)))?;
    let unix = if inodes.is_empty() { Vec::new() } else { unix::listening(dir, &inodes)? };
    Ok(Listeners { tcp: listening_among(dir, &inodes)?, unix })
}

/// The TCP sockets in the network namespace of a process that one of its users made, sorted: what can be known without a right. They may be
/// other processes'.
pub fn of_its_user(dir: &ProcDir) -> Result<Vec<Listening>, ProcError> {
    let uids = dir.status()?.uids.unwrap_or_default();
    let mut rows = tables(|name| dir.open(name), &dir.path().join("net"))?;
    rows.retain(|row| uids.contains(&row.uid));
    rows.sort_unstable();
    Ok(rows)
}

/// Those of these socket inodes that listen, in the network namespace of the process.
pub(crate) fn listening_among(dir: &ProcDir, inodes: &BTreeSet<u64>) -> Result<Vec<Listening>, ProcError> {
    if inodes.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = tables(|name| dir.open(name), &dir.path().join("net"))?;
    rows.retain(|row| inodes.contains(&row.inode));
    rows.sort_unstable();
    Ok(rows)
}

/// Whether a connection to `addr` from here would reach this process.
pub fn owner_check(procfs: &ProcFs, addr: SocketAddr, id: InstanceId) -> Ownership {
    let unknown = |why: String| Ownership::Unknown { why };
    let serving = match serving(procfs, addr) {
        Ok(serving) if serving.is_empty() => return unknown(format!("nobody listens on {addr} in memtrap's network namespace")),
        Ok(serving) => serving,
        Err(e) => return unknown(format!("the sockets cannot be listed: {}", crate::error::chain(&e))),
    };
    let mut own = BTreeSet::new();
    let collected = procfs.dir_of(id).and_then(|dir| dir.fds(MAX_FDS, |link| own.extend(socket_inode(link))));
    match collected {
        Err(e) => return unknown(crate::error::chain(&e)),
        Ok(complete) => {
            let held = serving.intersection(&own).count();
            if held == serving.len() {
                return Ownership::Own;
            }
            if !complete && held == 0 {
                return unknown(format!("process {} has more than {MAX_FDS} open descriptors", id.pid));
            }
        }
    }
    let others = serving.difference(&own).copied().collect();
    let pids: Vec<u32> = holders(procfs, &others).into_iter().filter(|pid| *pid != id.pid).collect();
    if serving.is_disjoint(&own) {
        return Ownership::Other { pids };
    }
    let with = if pids.is_empty() { "processes that cannot be seen".to_owned() } else { format!("{pids:?}") };
    unknown(format!("process {} shares {addr} with {with} (SO_REUSEPORT): the kernel picks who answers", id.pid))
}

/// Whether the process is in memtrap's network namespace, so that its loopback is memtrap's. `None`: nothing tells.
pub fn same_netns(procfs: &ProcFs, pid: u32) -> Option<bool> {
    let dir = procfs.dir(pid).ok()?;
    if let (Ok(own), Ok(theirs)) = (std::fs::read_link(procfs.path("self/ns/net")), dir.link("ns/net")) {
        return Some(theirs == own);
    }
    // that link takes a right; the tables do not, and each namespace has its own
    let own = std::fs::metadata(procfs.path("self/net/tcp")).ok()?;
    let theirs = dir.open("net/tcp").ok()?.metadata().ok()?;
    Some((own.dev(), own.ino()) == (theirs.dev(), theirs.ino()))
}

/// Whether the network namespace of a process has a connection from `from` to its own address `to`. Stops at the first; reads at most 128 MiB.
pub(super) fn has_connection(dir: &ProcDir, to: SocketAddr, from: SocketAddr) -> Result<bool, ProcError> {
    let (to, from) = (canonical(to), canonical(from));
    for name in ["net/tcp", "net/tcp6"] {
        let table = match dir.open(name) {
            Err(ProcError::Absent { .. }) if name == "net/tcp6" => continue,
            opened => opened?,
        };
        let mut found = false;
        let is_it = |words: &[&str]| {
            let at = |n: usize| words.get(n).and_then(|word| parse_address(word));
            found = at(1) == Some(to) && at(2) == Some(from);
            !found
        };
        each_row(table, is_it).map_err(|e| dir.error(name, e))?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The inodes of the sockets to one of which the kernel would hand a connection to `addr`. An unspecified address means any
/// local one.
pub(crate) fn serving(procfs: &ProcFs, addr: SocketAddr) -> Result<BTreeSet<u64>, ProcError> {
    Ok(listeners_at(procfs, addr)?.iter().map(|row| row.inode).collect())
}

/// The same with their owners, sorted.
pub(super) fn listeners_at(procfs: &ProcFs, addr: SocketAddr) -> Result<Vec<Listening>, ProcError> {
    let open = |name: &str| File::open(procfs.path(name)).map_err(|e| ProcError::from_io(procfs.path(name), e));
    Ok(best_for(addr, tables(open, &procfs.path("net"))?))
}

/// The same in the network namespace of a process.
pub(super) fn listeners_within(dir: &ProcDir, addr: SocketAddr) -> Result<Vec<Listening>, ProcError> {
    Ok(best_for(addr, tables(|name| dir.open(name), &dir.path().join("net"))?))
}

fn best_for(addr: SocketAddr, mut rows: Vec<Listening>) -> Vec<Listening> {
    let best = rows.iter().filter_map(|row| rank(row.addr, addr)).min();
    rows.retain(|row| best.is_some() && rank(row.addr, addr) == best);
    rows.sort_unstable();
    rows
}

/// Everyone who may be seen to hold one of these sockets, by pid, as far as permission goes. One walk over all descriptors.
fn holders(procfs: &ProcFs, inodes: &BTreeSet<u64>) -> BTreeSet<u32> {
    let holds = |pid: &u32| procfs.dir(*pid).is_ok_and(|dir| holds_any(&dir, inodes) == Ok(true));
    procfs.pids().map(|pids| pids.filter(holds).collect()).unwrap_or_default()
}

/// Those of these sockets that the process holds.
pub(super) fn held_by(dir: &ProcDir, inodes: &BTreeSet<u64>) -> Result<BTreeSet<u64>, ProcError> {
    let mut held = BTreeSet::new();
    dir.fds(MAX_FDS, |link| held.extend(socket_inode(link).filter(|inode| inodes.contains(inode))))?;
    Ok(held)
}

/// No permission to look at the descriptors of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Whether the process holds one of these sockets; a process that goes away does not.
pub(crate) fn holds_any(dir: &ProcDir, inodes: &BTreeSet<u64>) -> Result<bool, Closed> {
    let mut found = false;
    match dir.fds(MAX_FDS, |link| found |= socket_inode(link).is_some_and(|inode| inodes.contains(&inode))) {
        Err(ProcError::Denied { .. }) => Err(Closed),
        _ => Ok(found),
    }
}

/// The kernel prefers the listener bound to the very address, then IPv4's wildcard, then a dual-stack one.
/// Lower is better; `None`: does not serve this address.
fn rank(listener: SocketAddr, wanted: SocketAddr) -> Option<u8> {
    if listener.port() != wanted.port() {
        return None;
    }
    let wanted = wanted.ip().to_canonical();
    match listener.ip() {
        ip if ip == wanted || wanted.is_unspecified() => Some(0),
        IpAddr::V4(ip) if ip.is_unspecified() && wanted.is_ipv4() => Some(1),
        IpAddr::V6(ip) if ip.is_unspecified() => Some(2),
        _ => None,
    }
}

pub(crate) fn socket_inode(link: &[u8]) -> Option<u64> {
    std::str::from_utf8(link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

/// The listeners of both tables. A host without IPv6 has only the first.
fn tables(open: impl Fn(&str) -> Result<File, ProcError>, place: &std::path::Path) -> Result<Vec<Listening>, ProcError> {
    let mut rows = Vec::new();
    for name in ["net/tcp", "net/tcp6"] {
        match open(name) {
            Ok(file) => rows.extend(read_table(file).map_err(|e| ProcError::from_io(place.to_owned(), e))?),
            Err(ProcError::Absent { .. }) if name == "net/tcp6" => {}
            Err(e) => return Err(e),
        }
    }
    Ok(rows)
}

/// The listeners in a `net/tcp` or `net/tcp6`, of at most 64 MiB.
///
/// The kernel lists all listeners before the first established connection (its proc_net_tcp.rst says so), so a server's
/// thousands of connections need not be read.
pub fn read_table(table: impl Read) -> std::io::Result<Vec<Listening>> {
    let mut rows = Vec::new();
    each_row(table, |words| {
        match (words.get(3), words.get(1), words.get(7), words.get(9)) {
            (Some(&"0A"), Some(local), Some(uid), Some(inode)) => {
                if let (Some(addr), Ok(uid), Ok(inode)) = (parse_address(local), uid.parse(), inode.parse()) {
                    rows.push(Listening { addr, inode, uid });
                }
            }
            // the heading, and requests that older kernels list beside their listener
            (Some(&"rem_address" | &"st" | &"03"), ..) | (None, ..) => {}
            _ => return false,
        }
        true
    })?;
    Ok(rows)
}

/// Gives each row's first ten words, until `each` has had enough.
fn each_row(table: impl Read, mut each: impl FnMut(&[&str]) -> bool) -> std::io::Result<()> {
    let mut table = BufReader::with_capacity(64 << 10, table.take(MAX_TABLE));
    let mut line = Vec::new();
    while table.read_until(b'\n', &mut line)? > 0 {
        let words: Vec<&str> = std::str::from_utf8(&line).unwrap_or("").split_ascii_whitespace().take(10).collect();
        if !each(&words) {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// `0100007F:17AC`: 32-bit words in the byte order of the machine.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| Some(u32::from_str_radix(ip.get(n * 8..n * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (n, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(n)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::fake::{FakeHost, Unprivileged, tcp_row, tcp_table};
    use super::*;

    const LOOPBACK: &str = "0100007F:17AC"; // 127.0.0.1:6060
    const ANY4: &str = "00000000:17AC";
    const ANY6: &str = "00000000000000000000000000000000:17AC";
    const MAPPED: &str = "0000000000000000FFFF00000100007F:17AC";

    fn pprof() -> SocketAddr {
        "127.0.0.1:6060".parse().unwrap()
    }

    /// A host with these listeners; the rows' addresses decide the table.
    fn host(rows: &[(&str, u64)]) -> FakeHost {
        let host = FakeHost::new();
        let of = |len: usize| rows.iter().filter(|r| r.0.len() == len).map(|r| tcp_row(r.0, "0A", r.1)).collect::<Vec<_>>();
        host.file("proc/net/tcp", tcp_table(&of(13))).file("proc/net/tcp6", tcp_table(&of(37)));
        host
    }

    #[test]
    fn an_address_is_read_in_the_kernels_notation() {
        for (text, addr) in [
            (LOOPBACK, "127.0.0.1:6060"),
            (ANY4, "0.0.0.0:6060"),
            (ANY6, "[::]:6060"),
            (MAPPED, "127.0.0.1:6060"),
            ("00000000000000000000000001000000:0050", "[::1]:80"),
        ] {
            let expected: SocketAddr = addr.parse().unwrap();
            let native = if cfg!(target_endian = "little") { parse_address(text) } else { Some(expected) };
            assert_eq!(native, Some(expected), "{text}");
        }
        for text in ["", ":", "0100007F", "0100007F:", "0100007:17AC", "0100007G:17AC", "é00007F:17AC", "0100007F:17ACFF"] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    #[test]
    fn only_listeners_are_read_and_connections_end_the_reading() {
        let text = tcp_table(&[
            tcp_row(LOOPBACK, "0A", 1),
            tcp_row(LOOPBACK, "03", 0),
            tcp_row(ANY4, "0A", 2),
            "garbage\n".into(),
            tcp_row(LOOPBACK, "01", 3),
            tcp_row(ANY4, "0A", 4),
        ]);
        let rows = read_table(text.as_bytes()).unwrap();
        assert_eq!(rows.iter().map(|r| r.inode).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_process_that_holds_the_socket_owns_the_address_however_it_bound_it() {
        for bound in [LOOPBACK, ANY4, ANY6, MAPPED] {
            let host = host(&[(bound, 55)]);
            let own = host.process(7, "app").socket(3, 55).write();
            let other = host.process(8, "other").socket(3, 56).write();
            assert_eq!(owner_check(&host.procfs(), pprof(), own), Ownership::Own, "{bound}");
            assert_eq!(owner_check(&host.procfs(), pprof(), other), Ownership::Other { pids: vec![7] }, "{bound}");
        }
    }

    #[test]
    fn a_listener_on_the_very_address_wins_over_a_wildcard() {
        let host = host(&[(ANY6, 57), (ANY4, 56), (LOOPBACK, 55)]);
        let exact = host.process(7, "app").socket(3, 55).write();
        let any = host.process(8, "proxy").socket(3, 56).socket(4, 57).write();
        assert_eq!(owner_check(&host.procfs(), pprof(), exact), Ownership::Own);
        assert_eq!(owner_check(&host.procfs(), pprof(), any), Ownership::Other { pids: vec![7] });
    }

    #[test]
    fn a_port_shared_by_reuseport_is_nobodys_for_sure() {
        let host = host(&[(LOOPBACK, 55), (LOOPBACK, 56)]);
        let one = host.process(7, "app").socket(3, 55).write();
        host.process(8, "app").socket(3, 56).write();
        let Ownership::Unknown { why } = owner_check(&host.procfs(), pprof(), one) else { panic!() };
        assert!(why.contains("[8] (SO_REUSEPORT)"), "{why}");
        // both sockets in one process: it answers whichever is picked
        let both = host.process(9, "app").socket(3, 55).socket(4, 56).write();
        assert_eq!(owner_check(&host.procfs(), pprof(), both), Ownership::Own);
    }

    #[test]
    fn an_address_nobody_listens_on_is_unknown() {
        let host = host(&[(LOOPBACK, 55)]);
        let id = host.process(7, "app").socket(3, 55).write();
        let Ownership::Unknown { why } = owner_check(&host.procfs(), "127.0.0.1:1".parse().unwrap(), id) else { panic!() };
        assert!(why.contains("nobody listens on 127.0.0.1:1"), "{why}");
    }

    #[test]
    fn the_listeners_of_a_process_come_from_its_own_namespace() {
        let host = host(&[(ANY4, 99)]);
        let in_container = tcp_table(&[tcp_row(LOOPBACK, "0A", 55), tcp_row(ANY4, "0A", 56)]);
        host.process(7, "app").socket(3, 55).socket(4, 99).file("net/tcp", in_container).link("ns/net", "net:[2]").write();
        host.link("proc/self/ns/net", "net:[1]");
        let procfs = host.procfs();
        assert_eq!(listening(&procfs, 7).unwrap(), [Listening { addr: pprof(), inode: 55, uid: 0 }]);
        assert_eq!(same_netns(&procfs, 7), Some(false));
        assert_eq!(same_netns(&procfs, 8), None);
    }

    #[test]
    fn real_listeners_of_this_process_are_found() {
        let procfs = ProcFs::host();
        let id = procfs.identity(std::process::id()).unwrap();
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else {
                assert!(bind.starts_with('['), "no IPv4?");
                continue;
            };
            let addr = listener.local_addr().unwrap();
            assert!(listening(&procfs, id.pid).unwrap().iter().any(|l| l.addr == addr), "{addr}");
            let loopback = if bind == "[::1]:0" { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
            assert_eq!(owner_check(&procfs, SocketAddr::new(loopback, addr.port()), id), Ownership::Own, "{addr}");
        }
        assert_eq!(same_netns(&procfs, id.pid), Some(true));
    }

    #[test]
    fn a_process_that_may_not_be_looked_into_is_unknown_with_the_remedy() {
        let Some(stranger) = Unprivileged::stranger() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let ownership = stranger.as_other_user(|procfs, pid| owner_check(procfs, addr, procfs.identity(pid).unwrap()));
        let Ownership::Unknown { why } = ownership else { panic!("{ownership:?}") };
        assert!(why.contains("CAP_SYS_PTRACE"), "{why}");
    }
}
