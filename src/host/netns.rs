//! Ways to a service in another network namespace than memtrap's or below another root, and the proof that a connection ended there.
//!
//! An address proves nothing: the same one may be in use in another network that this host has a route to. What the kernel lists of the
//! process's own namespace does: a connection that is not in its table went elsewhere, and is closed before anything is sent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use super::{ProcDir, ProcError, ProcFs};
use super::{sockets, unix};
use crate::aside::may_block;
use crate::identity::InstanceId;

/// An address table is read up to here: more than 100,000 routes. Of a longer one nothing is believed.
const MAX_TABLE: u64 = 16 << 20;
/// Of each family.
const MAX_ADDRESSES: usize = 3;
/// The other end may not have answered yet when this one is connected.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// How a process is connected to that is in another network namespace, or has another root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// From here, at an address of that namespace. Takes no right at all.
    Outside(SocketAddr),
    /// From within, where its loopback is. Takes CAP_SYS_ADMIN, and CAP_SYS_PTRACE for another user's process.
    Inside(SocketAddr),
    /// By the path that a unix socket has for the process. Takes the right to see its root, and to write to the socket.
    Socket(PathBuf),
}

/// What a connection is over.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    #[error("cannot connect")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A sentence.
    #[error("{0}")]
    Elsewhere(String),
    /// A right is missing; [`ENTER`] is the cure.
    #[error("memtrap may not enter the network namespace of process {pid}")]
    Closed { pid: u32 },
    /// [`WRITE`] is the cure.
    #[error("memtrap's user may not connect to the socket")]
    Forbidden,
}

/// What opens a socket.
pub const WRITE: &str =
    "that takes the right to write to it, and to pass its directories: add memtrap's user to its group (`SupplementaryGroups=`)";

/// What opens a namespace.
pub const ENTER: &str = "that takes CAP_SYS_ADMIN and CAP_SYS_PTRACE (systemd/drop-ins/network-namespaces.conf)";

/// A way to one process.
#[derive(Clone, Debug)]
pub struct Door {
    pub procfs: ProcFs,
    pub id: InstanceId,
    pub way: Way,
}

impl Door {
    /// Connects, and sees that it is that namespace which took the connection. Blocks for `patience`, and on /proc for milliseconds.
    pub fn connect(&self, patience: Duration) -> Result<Stream, NotReached> {
        may_block();
        match &self.way {
            Way::Outside(addr) => {
                let stream = TcpStream::connect_timeout(addr, patience)?;
                self.check(*addr, stream.local_addr()?)?;
                Ok(Stream::Tcp(stream))
            }
            Way::Inside(addr) => {
                let stream = within(&self.procfs, self.id, || TcpStream::connect_timeout(addr, patience))??;
                Ok(Stream::Tcp(stream))
            }
            Way::Socket(path) => match unix::connect_to(&self.procfs.dir_of(self.id)?, path) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(NotReached::Forbidden),
                made => Ok(Stream::Unix(made?)),
            },
        }
    }

    fn check(&self, addr: SocketAddr, from: SocketAddr) -> Result<(), NotReached> {
        let dir = self.procfs.dir_of(self.id)?;
        for look in 0..LOOKS {
            if look > 0 {
                std::thread::sleep(BETWEEN_LOOKS);
            }
            if sockets::has_connection(&dir, addr, from)? {
                return Ok(());
            }
        }
        let pid = self.id.pid;
        Err(NotReached::Elsewhere(format!("what answers at {addr} is not in the network namespace of process {pid}, and was sent nothing")))
    }
}

/// Whether the network namespace of a process may be entered.
pub fn may_enter(procfs: &ProcFs, id: InstanceId) -> Result<(), NotReached> {
    within(procfs, id, || ())
}

/// Does something in the network namespace of a process, on a thread of its own that ends with it: what it makes stays of that namespace,
/// and nobody stays in it.
fn within<T: Send>(procfs: &ProcFs, id: InstanceId, job: impl FnOnce() -> T + Send) -> Result<T, NotReached> {
    may_block();
    let closed = NotReached::Closed { pid: id.pid };
    // of that very process: its directory is looked at by start time, and stays its own
    let namespace = match procfs.dir_of(id)?.open("ns/net") {
        Err(ProcError::Denied { .. }) => return Err(closed),
        opened => opened?,
    };
    std::thread::scope(|scope| {
        let enter = || match rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => Ok(job()),
            Err(Errno::PERM | Errno::ACCESS) => Err(closed),
            Err(e) => Err(NotReached::Io(e.into())),
        };
        let thread = std::thread::Builder::new().name("enter".into()).spawn_scoped(scope, enter)?;
        thread.join().unwrap_or_else(|_| Err(NotReached::Io(io::Error::other("the thread that entered the namespace failed"))))
    })
}

/// The addresses at which the network namespace of a process may be reached from memtrap's, IPv4 first. Those that memtrap's namespace has
/// too are left out: there, somebody else would answer. Needs no right; reads at most 64 MiB.
pub fn addresses(procfs: &ProcFs, dir: &ProcDir) -> Result<Vec<IpAddr>, ProcError> {
    let own = |name: &str| super::proc::open_path(&procfs.path("self").join(name));
    let here: BTreeSet<IpAddr> = all(own, &procfs.path("self"))?.into_iter().collect();
    let theirs = all(|name| dir.open(name), dir.path())?;
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = theirs.into_iter().filter(|ip| !here.contains(ip)).partition(IpAddr::is_ipv4);
    Ok(v4.into_iter().take(MAX_ADDRESSES).chain(v6.into_iter().take(MAX_ADDRESSES)).collect())
}

/// The address at which memtrap finds a process: loopback in memtrap's own network namespace; `None` in another that has none.
pub fn address_of(procfs: &ProcFs, id: InstanceId) -> Result<Option<IpAddr>, ProcError> {
    match sockets::same_netns(procfs, id.pid) {
        Some(false) => Ok(addresses(procfs, &procfs.dir_of(id)?)?.into_iter().next()),
        _ => Ok(Some(Ipv4Addr::LOCALHOST.into())),
    }
}

/// Of both families; of one where the kernel has no IPv6.
fn all(open: impl Fn(&str) -> Result<File, ProcError>, place: &Path) -> Result<Vec<IpAddr>, ProcError> {
    let unread = |name: &str, e| ProcError::from_io(place.join(name), e);
    let v4 = read_ipv4(open("net/fib_trie")?).map_err(|e| unread("net/fib_trie", e))?;
    let v6 = match open("net/if_inet6") {
        Ok(file) => read_ipv6(file).map_err(|e| unread("net/if_inet6", e))?,
        Err(ProcError::Absent { .. }) => Vec::new(),
        Err(e) => return Err(e),
    };
    Ok(v4.into_iter().map(IpAddr::V4).chain(v6.into_iter().map(IpAddr::V6)).collect())
}

/// The local addresses of a `net/fib_trie` that are no loopback, each once.
fn read_ipv4(table: impl Read) -> io::Result<Vec<Ipv4Addr>> {
    let mut found = Vec::new();
    let mut leaf = None;
    each_line(table, |line| {
        if let Some(ip) = line.strip_prefix("|-- ") {
            leaf = ip.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(ip) = leaf.filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
            // of two tables, or of one that both print
            && !found.contains(&ip)
            && found.len() < MANY
        {
            found.push(ip);
        }
    })?;
    Ok(found)
}

/// The global addresses of a `net/if_inet6` that are in use.
fn read_ipv6(table: impl Read) -> io::Result<Vec<Ipv6Addr>> {
    /// `IFA_F_DADFAILED`, `IFA_F_TENTATIVE`
    const NOT_YET: u8 = 0x08 | 0x40;
    let mut found = Vec::new();
    each_line(table, |line| {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(scope), Some(flags)) = (words.next(), words.nth(2), words.next()) else { return };
        let address = u128::from_str_radix(address, 16).ok().filter(|_| address.len() == 32).map(Ipv6Addr::from);
        let is_used = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & NOT_YET == 0);
        if let Some(address) = address.filter(|_| scope == "00" && is_used && found.len() < MANY) {
            found.push(address);
        }
    })?;
    Ok(found)
}

/// Of addresses that are kept.
const MANY: usize = 10_000;

fn each_line(table: impl Read, mut each: impl FnMut(&str)) -> io::Result<()> {
    let mut table = BufReader::with_capacity(64 << 10, table.take(MAX_TABLE));
    let mut line = Vec::new();
    while table.read_until(b'\n', &mut line)? > 0 {
        each(std::str::from_utf8(&line).unwrap_or_default().trim());
        line.clear();
    }
    if table.get_ref().limit() == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {} MiB", MAX_TABLE >> 20)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    /// Of a namespace with one address on a veth pair, as Linux 6.18 prints it.
    const FIB_TRIE: &str = "Main:
  +-- 0.0.0.0/1 2 0 2
     +-- 10.9.9.0/24 2 0 2
        +-- 10.9.9.0/31 1 0 0
           |-- 10.9.9.0
              /24 link UNICAST
           |-- 10.9.9.1
              /32 host LOCAL
        |-- 10.9.9.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
Local:
  +-- 0.0.0.0/1 2 0 2
     +-- 10.9.9.0/24 2 0 2
        +-- 10.9.9.0/31 1 0 0
           |-- 10.9.9.0
              /24 link UNICAST
           |-- 10.9.9.1
              /32 host LOCAL
        |-- 10.9.9.255
           /32 link BROADCAST
";
    const IF_INET6: &str = "00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000005 03 40 00 82      mt0
fd000000000000000000000000000006 03 40 00 c0      mt0
20010db8000000000000000000000007 03 40 00 88      mt0
fe80000000000000602181fffe8e067b 02 40 20 c0      mt1
";

    #[test]
    fn local_hosts_are_found_once_and_no_loopback_network_or_broadcast() {
        assert_eq!(read_ipv4(FIB_TRIE.as_bytes()).unwrap(), [Ipv4Addr::new(10, 9, 9, 1)]);
        assert!(read_ipv4(&b""[..]).unwrap().is_empty());
        assert!(read_ipv4(&b"/32 host LOCAL\n  |-- x\n /32 host LOCAL\n \xff\xff\n"[..]).unwrap().is_empty());
    }

    #[test]
    fn global_ipv6_addresses_are_found_that_are_in_use() {
        assert_eq!(read_ipv6(IF_INET6.as_bytes()).unwrap(), ["fd00::5".parse::<Ipv6Addr>().unwrap()]);
        for torn in [
            "",
            "fd",
            "fd00 03 40 00 82 mt0",
            "zd000000000000000000000000000005 03 40 00 82 mt0",
            "fd000000000000000000000000000005 03 40 00",
        ] {
            assert_eq!(read_ipv6(torn.as_bytes()).unwrap(), [] as [Ipv6Addr; 0], "{torn}");
        }
    }

    #[test]
    fn a_table_without_end_is_not_believed() {
        assert!(read_ipv4(io::repeat(b'\n')).unwrap_err().to_string().contains("longer than 16 MiB"));
    }

    #[test]
    fn an_address_that_memtraps_own_namespace_has_too_is_not_the_containers() {
        let host = FakeHost::new();
        let mine = FIB_TRIE.replace("10.9.9.1\n", "10.9.9.7\n");
        host.link("proc/self", "3");
        host.process(3, "memtrap").file("net/fib_trie", mine).file("net/if_inet6", IF_INET6).write();
        host.process(7, "app").file("net/fib_trie", FIB_TRIE).file("net/if_inet6", IF_INET6).write();
        host.process(8, "twin").file("net/fib_trie", FIB_TRIE.replace("10.9.9.1\n", "10.9.9.7\n")).write();
        let procfs = host.procfs();
        let of = |pid| addresses(&procfs, &procfs.dir(pid).unwrap()).unwrap();
        assert_eq!(of(7), ["10.9.9.1".parse::<IpAddr>().unwrap()], "fd00::5 is here as well");
        assert_eq!(of(8), [] as [IpAddr; 0]);

        let address = |pid| address_of(&procfs, procfs.identity(pid).unwrap()).unwrap().map(|ip| ip.to_string());
        for (pid, namespace) in [(3, "net:[1]"), (7, "net:[2]"), (8, "net:[3]")] {
            host.link(&format!("proc/{pid}/ns/net"), namespace);
        }
        assert_eq!([3, 7, 8].map(address), [Some("127.0.0.1".into()), Some("10.9.9.1".into()), None]);
    }
}
