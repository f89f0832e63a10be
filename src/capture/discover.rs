//! `pprof = "auto"`: which of the sockets that the process itself listens on serves Go's pprof handlers.
//!
//! Only sockets of that process on loopback or on any address are asked, plain HTTP only. No other process's port ever is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::fetch::{Bounds, Endpoint, get_small};
use super::watch::Watch;
use crate::host::ProcFs;
use crate::host::sockets;
use crate::identity::InstanceId;

/// For each request.
const TIMEOUT: Duration = Duration::from_secs(2);
/// For all of them.
const TOTAL: Duration = Duration::from_secs(20);
const MAX_BODY: u64 = 256 << 10;
const MAX_SOCKETS: usize = 32;

pub(super) const INDEX: Bounds = Bounds { timeout: TIMEOUT, max_bytes: MAX_BODY };

/// Where the process may be asked, the likeliest first, or why nowhere. Blocks on /proc.
pub(super) fn candidates(procfs: &ProcFs, id: InstanceId) -> Result<Vec<SocketAddr>, String> {
    if sockets::same_netns(procfs, id.pid) == Some(false) {
        return Err("`pprof = \"auto\"` cannot reach into the network namespace of this process: set `pprof` to an address that is reachable from here".into());
    }
    let listening =
        sockets::listening(procfs, id.pid).map_err(|e| format!("`pprof = \"auto\"` cannot see the sockets of this process: {e}"))?;
    let mut addrs: Vec<SocketAddr> = listening.iter().filter_map(|s| reachable(s.addr)).collect();
    addrs.sort_by_key(|addr| (addr.port() != 6060, addr.is_ipv6(), addr.port()));
    addrs.dedup();
    addrs.truncate(MAX_SOCKETS);
    if addrs.is_empty() {
        return Err("`pprof = \"auto\"`: the process listens on no TCP port on loopback or on any address; set `pprof` to where it serves /debug/pprof".into());
    }
    Ok(addrs)
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
    fn only_loopback_and_any_address_are_asked() {
        let at = |text: &str| reachable(text.parse().unwrap()).map(|a| a.to_string());
        assert_eq!(at("0.0.0.0:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(at("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(at("127.0.0.2:80").as_deref(), Some("127.0.0.2:80"));
        assert_eq!(at("10.0.0.1:80"), None);
    }
}
