//! `pprof = "auto"`: which of the sockets that the process itself listens on serves Go's pprof handlers.
//!
//! Only sockets of that process are asked, plain HTTP only: in memtrap's network namespace those on loopback or on any address, in another
//! those that its own addresses lead to. No other process's port ever is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::fetch::{Bounds, Endpoint, get_small};
use super::watch::Watch;
use crate::error::chain;
use crate::host::netns::{self, Way};
use crate::host::sockets;
use crate::host::{ProcError, ProcFs};
use crate::identity::InstanceId;

/// For each request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// For all of them.
const TOTAL: Duration = Duration::from_secs(20);
const MAX_BODY: u64 = 256 << 10;
const MAX_CANDIDATES: usize = 32;

pub(super) const INDEX: Bounds = Bounds { timeout: TIMEOUT, max_bytes: MAX_BODY };

/// Where a process may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    /// In memtrap's own network namespace.
    Here(SocketAddr),
    /// In that of the process.
    There(Way),
}

impl Candidate {
    pub fn addr(self) -> SocketAddr {
        match self {
            Candidate::Here(addr) => addr,
            Candidate::There(way) => way.addr(),
        }
    }
}

/// Where the process may be asked, the likeliest first, or why nowhere. Blocks on /proc.
pub(super) fn candidates(procfs: &ProcFs, id: InstanceId) -> Result<Vec<Candidate>, String> {
    let unseen = |e: ProcError| format!("`pprof = \"auto\"` cannot see the sockets of this process: {}", chain(&e));
    let dir = procfs.dir_of(id).map_err(unseen)?;
    let listening = sockets::listening(procfs, id.pid).map_err(unseen)?;
    let mut found: Vec<Candidate> = if sockets::same_netns(procfs, id.pid) == Some(false) {
        let own = netns::addresses(procfs, &dir).map_err(unseen)?;
        listening.iter().flat_map(|socket| ways(socket.addr, &own)).map(Candidate::There).collect()
    } else {
        listening.iter().filter_map(|socket| reachable(socket.addr)).map(Candidate::Here).collect()
    };
    let key = |candidate: &Candidate| {
        let addr = candidate.addr();
        (addr.port() != 6060, addr.is_ipv6(), addr.port())
    };
    // of one port in the order in which they were found
    found.sort_by_key(key);
    found.dedup();
    found.truncate(MAX_CANDIDATES);
    match listening.first() {
        _ if !found.is_empty() => Ok(found),
        None => Err("`pprof = \"auto\"`: the process listens on no TCP port; set `pprof` to where it serves /debug/pprof".into()),
        Some(first) if sockets::same_netns(procfs, id.pid) == Some(false) => Err(format!(
            "`pprof = \"auto\"`: the process is in another network namespace (a container's), and what it listens on there ({}) is not reached \
             from here",
            first.addr
        )),
        Some(_) => {
            Err("`pprof = \"auto\"`: the process listens on no TCP port on loopback or on any address; set `pprof` to where it serves \
                        /debug/pprof"
                .into())
        }
    }
}

/// How to ask a socket of this address in another network namespace, which has these addresses.
fn ways(addr: SocketAddr, own: &[IpAddr]) -> Vec<Way> {
    let outside = |ip: &IpAddr| match addr.ip() {
        // one on any IPv6 address serves IPv4 too, unless it was asked not to
        any if any.is_unspecified() => any.is_ipv6() || ip.is_ipv4(),
        one => one == *ip,
    };
    own.iter().filter(|ip| outside(ip)).map(|ip| Way::Outside(SocketAddr::new(*ip, addr.port()))).collect()
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

/// The first endpoint that answers as pprof, with its index page if it has one; or what each said instead.
///
/// `argv` are the arguments of the process, joined by NUL as pprof's `cmdline` does.
pub(super) async fn first(endpoints: Vec<Endpoint>, argv: &[u8], watch: &mut Watch) -> Result<(Endpoint, Option<Vec<u8>>), String> {
    let deadline = Instant::now() + TOTAL;
    let mut answers = Vec::new();
    for endpoint in endpoints {
        if Instant::now() > deadline {
            answers.push("no time for the others".to_owned());
            break;
        }
        let host = endpoint.base.authority().to_owned();
        match get_small(&endpoint, endpoint.url(""), INDEX, watch).await {
            Ok(body) if is_index(&body) => return Ok((endpoint, Some(body))),
            Ok(_) => answers.push(format!("{host}: another page")),
            Err(e) => answers.push(format!("{host}: {e}")),
        }
        // a service may serve the profiles without the index; what it says of itself must then be exact
        if get_small(&endpoint, endpoint.url("cmdline"), INDEX, watch).await.is_ok_and(|body| !argv.is_empty() && body == argv) {
            return Ok((endpoint, None));
        }
    }
    Err(format!(
        "`pprof = \"auto\"`: no socket of this process answered as /debug/pprof/ ({}); set `pprof` to the address",
        answers.join("; ")
    ))
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
    fn another_namespace_is_asked_at_the_addresses_that_its_socket_serves() {
        let own = ["10.9.9.1", "fd00::5"].map(|ip| ip.parse().unwrap());
        let of = |addr: &str| ways(addr.parse().unwrap(), &own).iter().map(|way| way.addr().to_string()).collect::<Vec<_>>();
        assert_eq!(of("0.0.0.0:80"), ["10.9.9.1:80"]);
        assert_eq!(of("[::]:80"), ["10.9.9.1:80", "[fd00::5]:80"]);
        assert_eq!(of("10.9.9.1:80"), ["10.9.9.1:80"]);
        assert_eq!(of("10.9.9.2:80"), [""; 0], "an address that memtrap's namespace has too");
        assert_eq!(of("127.0.0.1:80"), [""; 0]);
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
