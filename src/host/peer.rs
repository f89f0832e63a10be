//! Whether what answers at an address of this host may be shown credentials: the sockets that would take a connection, their makers,
//! and the processes that hold them, against [`Trusted`].
//!
//! Not here: when to look. A look tells of one moment only; who sends something looks before and after connecting, see `client::gate`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::sockets::{self, Listening};
use super::trust::{CURE, Trusted};
use super::{ProcError, ProcFs, obstacle, users};
use crate::identity::InstanceId;

/// An address of this host that credentials would be sent to.
#[derive(Clone, Debug)]
pub struct Peer {
    procfs: ProcFs,
    place: Place,
    trusted: Trusted,
    /// Who should answer there, if it is known; else who was found to hold the socket, so that not all processes are looked at each time.
    id: Arc<Mutex<Option<InstanceId>>>,
}

#[derive(Clone, Debug)]
enum Place {
    /// A name may mean several: all that someone listens on must be trusted.
    Tcp(Vec<SocketAddr>),
    /// In the network namespace of that process.
    Within(InstanceId, SocketAddr),
    Unix(PathBuf),
}

/// What was there. The same before and after a connection was made: it was there meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look(Vec<u64>);

impl Look {
    /// Nobody listened: a connection will be refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Peer {
    /// `None` where `url` leads to another host, as far as its text tells: a name other than `localhost` is trusted as it is.
    pub fn of_url(procfs: &ProcFs, url: &Url, trusted: Trusted, id: Option<InstanceId>) -> Option<Peer> {
        let port = url.port_or_known_default()?;
        let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.');
        let ips: Vec<IpAddr> = match host.parse::<IpAddr>() {
            Ok(ip) if is_of_this_host(ip) => vec![ip],
            Ok(_) => return None,
            Err(_) if host == "localhost" || host.ends_with(".localhost") => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Err(_) => return None,
        };
        let place = Place::Tcp(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
        Some(Peer { procfs: procfs.clone(), place, trusted, id: Arc::new(Mutex::new(id)) })
    }

    /// At an address in the network namespace of a process.
    pub fn within(procfs: &ProcFs, id: InstanceId, addr: SocketAddr, trusted: Trusted) -> Peer {
        Peer { procfs: procfs.clone(), place: Place::Within(id, addr), trusted, id: Arc::new(Mutex::new(Some(id))) }
    }

    pub fn of_socket(procfs: &ProcFs, socket: &Path, trusted: Trusted) -> Peer {
        Peer { procfs: procfs.clone(), place: Place::Unix(socket.to_owned()), trusted, id: Arc::default() }
    }

    /// Looks who would answer now. The error is a sentence that names the cure. Blocks on /proc for milliseconds.
    pub fn look(&self) -> Result<Look, String> {
        let seen = match &self.place {
            Place::Tcp(addrs) => self.look_at_listeners(addrs, |addr| sockets::listeners_at(&self.procfs, addr)),
            Place::Within(id, addr) => self.look_at_listeners(&[*addr], |addr| sockets::listeners_within(&self.procfs.dir_of(*id)?, addr)),
            Place::Unix(path) => self.look_at_socket(path),
        };
        seen.map(Look).map_err(|why| format!("credentials are not sent there: {why}; {CURE}"))
    }

    fn look_at_listeners(
        &self,
        addrs: &[SocketAddr],
        listeners: impl Fn(SocketAddr) -> Result<Vec<Listening>, ProcError>,
    ) -> Result<Vec<u64>, String> {
        let mut all = Vec::new();
        for addr in addrs {
            let rows = listeners(*addr).map_err(|e| crate::error::chain(&e))?;
            if let Some(row) = rows.iter().find(|row| !self.trusted.may(row.uid)) {
                return Err(format!("the socket at {addr} is of user {}", users::shown(&self.procfs, row.uid)));
            }
            self.check_holders(&rows).map_err(|why| format!("{why} and holds the socket at {addr}"))?;
            all.extend(rows.iter().map(|row| row.inode));
        }
        Ok(all)
    }

    fn check_holders(&self, rows: &[Listening]) -> Result<(), String> {
        let wanted: BTreeSet<u64> = rows.iter().map(|row| row.inode).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // the usual case, without a walk over all processes
        let known = *self.id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = known.and_then(|id| self.procfs.dir_of(id).ok())
            && sockets::held_by(&dir, &wanted).is_ok_and(|held| held == wanted)
        {
            return self.trusted.check(&self.procfs, &dir);
        }
        let (mut seen, mut holder) = (BTreeSet::new(), None);
        for dir in self.procfs.pids().into_iter().flatten().filter_map(|pid| self.procfs.dir(pid).ok()) {
            let held = sockets::held_by(&dir, &wanted).unwrap_or_default();
            if !held.is_empty() {
                self.trusted.check(&self.procfs, &dir)?;
                seen.extend(held);
                holder = Some(dir.pid());
            }
        }
        if known.is_none() {
            *self.id.lock().unwrap_or_else(PoisonError::into_inner) = holder.and_then(|pid| self.procfs.identity(pid).ok());
        }
        // without the permission to see the holders, the maker of the socket must be the very user that is meant
        match rows.iter().find(|row| !seen.contains(&row.inode) && !self.trusted.is_named(row.uid)) {
            None => Ok(()),
            Some(_) => Err(format!("a process that cannot be seen ({}) lives", obstacle::cure_of_denial(Path::new("/proc/1/fd")))),
        }
    }

    /// Who listens, by a connection of its own: the kernel keeps whose `listen` it was.
    fn look_at_socket(&self, path: &Path) -> Result<Vec<u64>, String> {
        let shown = path.display();
        // links are followed, as the connection will
        let file = match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found.map_err(|e| format!("{shown}: {e}"))?,
        };
        if !file.file_type().is_socket() {
            return Err(format!("{shown} is no socket"));
        }
        let peer = match listener_of(path) {
            Err(Errno::CONNREFUSED | Errno::NOENT) => return Ok(Vec::new()),
            found => found.map_err(|e| format!("{shown}: {e}"))?,
        };
        let uid = peer.uid.as_raw();
        if !self.trusted.may(uid) {
            return Err(format!("the socket {shown} is of user {}", users::shown(&self.procfs, uid)));
        }
        let pid = u64::from(peer.pid.as_raw_nonzero().get().unsigned_abs());
        Ok(vec![file.dev(), file.ino(), file.ctime().unsigned_abs(), file.ctime_nsec().unsigned_abs(), u64::from(uid), pid])
    }
}

/// Never waits: a queue that is full is an error.
fn listener_of(path: &Path) -> Result<rustix::net::UCred, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    sockopt::socket_peercred(&socket)
}

/// Whether a connection to this address ends on this host. The kernel binds to none but its own.
fn is_of_this_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeHost, tcp_table};
    use super::*;
    use crate::config::User;

    const SHOP: u32 = 1_001;
    const EVE: u32 = 1_002;

    fn row(inode: u64, uid: u32) -> String {
        format!("   0: 0100007F:17AC 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {uid:>5}        0 {inode} 1\n")
    }

    fn host(rows: &[String]) -> FakeHost {
        let host = FakeHost::new();
        host.file("proc/net/tcp", tcp_table(rows)).file("etc/passwd", "root:x:0:0::/:\nshop:x:1001:1::/:\neve:x:1002:1::/:\n");
        host
    }

    fn process(host: &FakeHost, pid: u32, uid: u32, socket: Option<u64>) -> InstanceId {
        let status = format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nNSpid:\t{pid}\n");
        let process = host.process(pid, "checkout").file("status", status);
        let process = match socket {
            Some(inode) => process.socket(3, inode),
            None => process.file("fd/.keep", ""),
        };
        process.write()
    }

    fn look(host: &FakeHost, user: Option<&str>, id: Option<InstanceId>) -> Result<Look, String> {
        let user: Option<User> = user.map(|u| u.parse().unwrap());
        let trusted = Trusted::of_address(&host.procfs(), user.as_ref()).unwrap();
        let url = Url::parse("http://127.0.0.1:6060/debug/pprof").unwrap();
        Peer::of_url(&host.procfs(), &url, trusted, id).unwrap().look()
    }

    #[test]
    fn the_users_own_socket_and_process_are_let_in_and_others_are_named() {
        let host = host(&[row(55, SHOP)]);
        let id = process(&host, 7, SHOP, Some(55));
        assert_eq!(look(&host, Some("shop"), Some(id)), Ok(Look(vec![55])));
        assert_eq!(look(&host, Some("1001"), None), Ok(Look(vec![55])));
        let why = look(&host, None, Some(id)).unwrap_err();
        assert_eq!(
            why,
            "credentials are not sent there: the socket at 127.0.0.1:6060 is of user shop (1001); \
             if that is the service's, say so with `user` (`--user`)"
        );
    }

    #[test]
    fn a_stranger_who_holds_the_port_or_a_twin_of_it_is_shown_nothing() {
        let taken = host(&[row(55, EVE)]);
        let id = process(&taken, 7, SHOP, None);
        process(&taken, 8, EVE, Some(55));
        assert!(look(&taken, Some("shop"), Some(id)).unwrap_err().contains("of user eve (1002)"));
        let twins = host(&[row(55, SHOP), row(56, EVE)]);
        let id = process(&twins, 7, SHOP, Some(55));
        process(&twins, 8, EVE, Some(56));
        assert!(look(&twins, Some("shop"), Some(id)).unwrap_err().contains("of user eve (1002)"));
    }

    #[test]
    fn a_socket_that_was_handed_to_a_stranger_is_not_the_services_any_more() {
        let host = host(&[row(55, 0)]);
        let id = process(&host, 7, SHOP, None);
        process(&host, 8, EVE, Some(55));
        assert!(look(&host, Some("shop"), Some(id)).unwrap_err().contains("process 8 runs as user eve (1002)"));
    }

    #[test]
    fn a_strangers_socket_in_a_trusted_process_is_a_strangers() {
        // fd passing, and what a setuid program inherits
        let host = host(&[row(55, EVE)]);
        let id = process(&host, 7, SHOP, Some(55));
        assert!(look(&host, Some("shop"), Some(id)).is_err());
    }

    #[test]
    fn roots_socket_that_nobody_is_seen_to_hold_is_not_enough_and_the_named_users_is() {
        let roots = host(&[row(55, 0)]);
        let id = process(&roots, 7, SHOP, None);
        assert!(look(&roots, Some("shop"), Some(id)).unwrap_err().contains("CAP_SYS_PTRACE"));
        let shops = host(&[row(55, SHOP)]);
        let id = process(&shops, 7, SHOP, None);
        assert!(look(&shops, Some("shop"), Some(id)).is_ok());
    }

    #[test]
    fn every_way_to_write_this_host_is_known() {
        let host = host(&[]);
        let trusted = Trusted::of_address(&host.procfs(), None).unwrap();
        let is_here = |url: &str| Peer::of_url(&host.procfs(), &Url::parse(url).unwrap(), trusted.clone(), None).is_some();
        for here in ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "127.8.8.8", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"] {
            assert!(is_here(&format!("http://{here}:6060/")), "{here}");
        }
        for here in ["localhost", "LOCALHOST", "localhost.", "shop.localhost"] {
            assert!(is_here(&format!("https://{here}/")), "{here}");
        }
        // documentation's own addresses are nobody's
        for elsewhere in ["192.0.2.1", "[2001:db8::1]", "search.internal", "localhost.example.org"] {
            assert!(!is_here(&format!("http://{elsewhere}:6060/")), "{elsewhere}");
        }
    }

    #[test]
    fn a_unix_socket_is_of_whoever_listens_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let procfs = ProcFs::host();
        let look = |path: &Path| Peer::of_socket(&procfs, path, Trusted::of_address(&procfs, None).unwrap()).look();
        let first = look(&path).unwrap();
        assert_eq!(look(&path).unwrap(), first);
        assert!(look(dir.path()).unwrap_err().contains("is no socket"));
        // another one in its place is another door, whoever it is
        std::fs::remove_file(&path).unwrap();
        let _second = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_ne!(look(&path).unwrap(), first);
    }
}
