//! `pprof = "auto"`: which of the sockets that the process itself listens on serves Go's pprof handlers.
//!
//! Only sockets of that process are asked, plain HTTP only: in memtrap's network namespace those on loopback or on any address, in another
//! those that its own addresses lead to, and from within all; then its unix sockets. Where memtrap may not see whose a socket is, those that the
//! process's user made are asked for their arguments, and for nothing more unless they are the process's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::fetch::{Bounds, Endpoint, Failure, get_small};
use super::watch::Watch;
use crate::error::chain;
use crate::host::netns::{self, ENTER, Way};
use crate::host::sockets::{self, Listeners, Listening};
use crate::host::{ProcError, ProcFs, sight};
use crate::identity::InstanceId;

/// For each request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// For all of them.
const TOTAL: Duration = Duration::from_secs(20);
const MAX_BODY: u64 = 256 << 10;
const MAX_CANDIDATES: usize = 32;

pub(super) const INDEX: Bounds = Bounds { timeout: TIMEOUT, max_bytes: MAX_BODY };

/// Where a process may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    /// In memtrap's own network namespace.
    Here(SocketAddr),
    /// Where no address of this host leads.
    By(Way),
}

/// Where the process may be asked.
pub(super) struct Candidates {
    /// The likeliest first.
    pub places: Vec<Candidate>,
    /// The sockets may be other processes': who answers must have the very arguments of this one.
    pub by_user: bool,
    /// Which further way there would be, and what closes it: a sentence with the cure.
    pub closed: Option<String>,
}

/// Where the process may be asked, or why nowhere. Blocks on /proc.
pub(super) fn candidates(procfs: &ProcFs, id: InstanceId) -> Result<Candidates, String> {
    let unseen = |e: ProcError| format!("`pprof = \"auto\"` cannot see the sockets of this process: {}", chain(&e));
    let dir = procfs.dir_of(id).map_err(unseen)?;
    let is_elsewhere = sockets::same_netns(procfs, id.pid) == Some(false);
    let (listeners, by_user) = match sockets::of_process(&dir) {
        Err(denied @ ProcError::Denied { .. }) => {
            let mut tcp = sockets::of_its_user(&dir).map_err(unseen)?;
            // a host's root has all sorts of them; a pod's has the pod's
            let may_be_roots = is_elsewhere || !sight::is_on_host(procfs);
            tcp.retain(|socket| may_be_roots || socket.uid != 0);
            if tcp.is_empty() {
                return Err(unseen(denied));
            }
            (Listeners { tcp, unix: Vec::new() }, true)
        }
        seen => (seen.map_err(unseen)?, false),
    };
    if listeners == Listeners::default() {
        return Err(
            "`pprof = \"auto\"`: the process listens on no TCP port and on no unix socket; set `pprof` to where it serves /debug/pprof"
                .into(),
        );
    }
    let (mut places, mut closed) = (Vec::new(), None);
    let tcp = likeliest_first(&listeners.tcp);
    if is_elsewhere {
        let own = netns::addresses(procfs, &dir).map_err(unseen)?;
        closed = netns::may_enter(procfs, id).err().map(|e| format!("{}: {ENTER}", chain(&e)));
        let is_open = |way: &Way| closed.is_none() || matches!(way, Way::Outside(_));
        places.extend(tcp.iter().flat_map(|addr| ways(*addr, &own)).filter(is_open).map(Candidate::By));
    } else {
        places.extend(tcp.iter().filter_map(|addr| reachable(*addr)).map(Candidate::Here));
    }
    places.dedup();
    places.truncate(MAX_CANDIDATES);
    places.extend(listeners.unix.into_iter().take(MAX_CANDIDATES).map(|path| Candidate::By(Way::Socket(path))));
    match closed {
        _ if !places.is_empty() => Ok(Candidates { places, by_user, closed }),
        Some(closed) => Err(format!(
            "`pprof = \"auto\"`: the process is in another network namespace (a container's), and listens at no address that is reached from here; \
             {closed}"
        )),
        None => Err(
            "`pprof = \"auto\"`: the process listens on no TCP port on loopback or on any address, and on no unix socket; set `pprof` to \
                     where it serves /debug/pprof"
                .into(),
        ),
    }
}

fn likeliest_first(listening: &[Listening]) -> Vec<SocketAddr> {
    let mut addrs: Vec<SocketAddr> = listening.iter().map(|socket| socket.addr).collect();
    addrs.sort_by_key(|addr| (addr.port() != 6060, addr.is_ipv6(), addr.port()));
    addrs
}

/// How to ask a socket of this address in another network namespace, which has these addresses.
fn ways(addr: SocketAddr, own: &[IpAddr]) -> Vec<Way> {
    let (ip, port) = (addr.ip(), addr.port());
    // one on any IPv6 address serves IPv4 too, unless it was asked not to
    let is_served = |own: &IpAddr| if ip.is_unspecified() { ip.is_ipv6() || own.is_ipv4() } else { ip == *own };
    let outside = own.iter().filter(|own| is_served(own)).map(|own| Way::Outside(SocketAddr::new(*own, port)));
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let inside: &[IpAddr] = match ip {
        IpAddr::V4(any) if any.is_unspecified() => &[v4],
        IpAddr::V6(any) if any.is_unspecified() => &[v4, v6],
        one => &[one],
    };
    outside.chain(inside.iter().map(|ip| Way::Inside(SocketAddr::new(*ip, port)))).collect()
}

/// How to ask a socket of this address from this host; `None` for one that is bound to another interface.
fn reachable(addr: SocketAddr) -> Option<SocketAddr> {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip if ip.is_loopback() => ip,
        _ => return None,
    };
    Some(SocketAddr::new(ip, addr.port()))
}

/// Who is to be asked.
pub(super) struct Sought {
    pub endpoints: Vec<Endpoint>,
    /// The arguments of the process, joined by NUL as pprof's `cmdline` does.
    pub argv: Vec<u8>,
    pub closed: Option<String>,
}

/// The first endpoint that answers as pprof, with its index page if it has one; or what each said instead.
pub(super) async fn first(sought: Sought, watch: &mut Watch) -> Result<(Endpoint, Option<Vec<u8>>), String> {
    let deadline = Instant::now() + TOTAL;
    let Sought { endpoints, argv, closed } = sought;
    let mut answers = Vec::new();
    for endpoint in endpoints {
        if Instant::now() > deadline {
            answers.push("no time for the others".to_owned());
            break;
        }
        let host = endpoint.place();
        let is_own = async |endpoint: &Endpoint, watch: &mut Watch| {
            let said = get_small(endpoint, endpoint.url("cmdline"), INDEX, watch).await?;
            // some answer with a NUL at the end, as the kernel has it
            Ok::<bool, Failure>(!argv.is_empty() && said.strip_suffix(b"\0").unwrap_or(&said) == argv)
        };
        if !endpoint.is_its_own {
            // nothing else is asked of what may be another's
            match is_own(&endpoint, watch).await {
                Ok(false) => answers.push(format!("{host}: another process, or another page")),
                Err(e) => answers.push(format!("{host}: {e}")),
                Ok(true) => {
                    let index = get_small(&endpoint, endpoint.url(""), INDEX, watch).await.ok().filter(|body| is_index(body));
                    return Ok((endpoint, index));
                }
            }
            continue;
        }
        match get_small(&endpoint, endpoint.url(""), INDEX, watch).await {
            Ok(body) if is_index(&body) => return Ok((endpoint, Some(body))),
            Ok(_) => answers.push(format!("{host}: another page")),
            Err(e) => answers.push(format!("{host}: {e}")),
        }
        // a service may serve the profiles without the index; what it says of itself must then be exact
        if is_own(&endpoint, watch).await.unwrap_or(false) {
            return Ok((endpoint, None));
        }
    }
    let cure = closed.unwrap_or_else(|| "set `pprof` to the address".into());
    Err(format!("`pprof = \"auto\"`: no socket of this process answered as /debug/pprof/ ({}); {cure}", answers.join("; ")))
}

fn is_index(body: &[u8]) -> bool {
    lists(body, "goroutine") && lists(body, "heap")
}

/// Whether an index page offers this profile.
pub(super) fn lists(index: &[u8], profile: &str) -> bool {
    let link = format!("{profile}?debug=");
    // a longer name may end in a shorter one
    index.windows(link.len() + 1).any(|w| w.ends_with(link.as_bytes()) && w.first().is_some_and(|b| !b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_lists_what_it_links_to() {
        let page = b"<tr><td>3</td><td><a href='goroutine?debug=1'>goroutine</a></td></tr><a href=\"heap?debug=1\">";
        assert!(is_index(page));
        assert!(!lists(page, "goroutineleak"));
        assert!(lists(b"<a href='goroutineleak?debug=1'>", "goroutineleak"));
        assert!(!lists(b"<a href='xheap?debug=1'>", "heap"));
        assert!(!is_index(b"<html>Welcome to heap?debug=1"));
    }

    #[test]
    fn another_namespace_is_asked_at_the_addresses_that_its_socket_serves_and_then_from_within() {
        let own = ["10.9.9.1", "fd00::5"].map(|ip| ip.parse().unwrap());
        let shown = |way: &Way| match way {
            Way::Outside(addr) => addr.to_string(),
            Way::Inside(addr) => format!("in {addr}"),
            Way::Socket(path) => path.display().to_string(),
        };
        let of = |addr: &str| ways(addr.parse().unwrap(), &own).iter().map(shown).collect::<Vec<_>>();
        assert_eq!(of("0.0.0.0:80"), ["10.9.9.1:80", "in 127.0.0.1:80"]);
        assert_eq!(of("[::]:80"), ["10.9.9.1:80", "[fd00::5]:80", "in 127.0.0.1:80", "in [::1]:80"]);
        assert_eq!(of("10.9.9.1:80"), ["10.9.9.1:80", "in 10.9.9.1:80"]);
        assert_eq!(of("10.9.9.2:80"), ["in 10.9.9.2:80"], "an address that memtrap's namespace has too");
        assert_eq!(of("127.0.0.1:80"), ["in 127.0.0.1:80"]);
    }

    #[test]
    fn only_loopback_and_any_address_are_asked() {
        let at = |text: &str| reachable(text.parse().unwrap()).map(|a| a.to_string());
        assert_eq!(at("0.0.0.0:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(at("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(at("127.0.0.2:80").as_deref(), Some("127.0.0.2:80"));
        assert_eq!(at("10.0.0.1:80"), None);
    }
}
