//! Addresses and patterns as people write them, in the file and on the command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::Pprof;

/// A text that is not what it should be; says what is allowed, and quotes nothing that could be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(super) String);

/// Where net/http/pprof registers itself.
const DEFAULT_PATH: &str = "/debug/pprof";

const PPROF_HELP: &str =
    "write a URL such as http://127.0.0.1:6060/debug/pprof, a socket such as unix:///run/checkout.sock:/debug/pprof, auto, or off";

impl FromStr for Pprof {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Pprof, Invalid> {
        match text.trim() {
            "auto" => Ok(Pprof::Auto),
            text if text.starts_with("unix:") => unix(text),
            text if text.contains(['{', '}']) => text.parse().map(Pprof::Template),
            text => http(text),
        }
    }
}

/// What `pprof` says: where it is, or that it is not to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct PprofSetting(pub Option<Pprof>);

impl FromStr for PprofSetting {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<PprofSetting, Invalid> {
        Ok(PprofSetting(if text.trim() == "off" { None } else { Some(text.parse()?) }))
    }
}

fn http(text: &str) -> Result<Pprof, Invalid> {
    let bad = |why: &str| Err(Invalid(format!("{why}; {PPROF_HELP}")));
    let mut url = match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) => return bad("not an http or https URL"),
        Err(_) if !text.contains("://") => return bad("not a URL: it begins with neither http:// nor https://"),
        Err(e) => return bad(&format!("not a URL: {e}")),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Invalid("a URL with a user or password in it would end up in logs and bundles: use auth = { basic = { … } }".into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return bad("a URL with a query or fragment is not the directory of the profiles");
    }
    let path = directory(url.path())?;
    url.set_path(&path);
    Ok(Pprof::Http(url.into()))
}

fn unix(text: &str) -> Result<Pprof, Invalid> {
    let bad = |why: &str| Err(Invalid(format!("{why}; {PPROF_HELP}")));
    let Some(rest) = text.strip_prefix("unix://").filter(|rest| rest.starts_with('/')) else {
        return bad("the socket's path must be absolute, after `unix://`");
    };
    let (socket, path) = rest.find(":/").and_then(|at| Some((rest.get(..at)?, rest.get(at + 1..)?))).unwrap_or((rest, "/"));
    // sun_path, with its final NUL
    if socket.len() > 107 {
        return bad("the socket's path is longer than the kernel's 107 bytes");
    }
    if rest.contains(char::is_control) || path.contains(['?', '#', ' ']) {
        return bad("spaces, queries, fragments and control characters are not allowed");
    }
    Ok(Pprof::Unix { socket: PathBuf::from(socket), path: directory(path)? })
}

/// The path below which the profiles are; never ends in a slash.
pub(super) fn directory(path: &str) -> Result<String, Invalid> {
    let path = path.trim_end_matches('/');
    match path.rsplit('/').next().unwrap_or_default() {
        "" => Ok(DEFAULT_PATH.to_owned()),
        name @ ("heap" | "allocs" | "goroutine" | "profile" | "trace" | "mutex" | "block" | "threadcreate" | "cmdline" | "symbol") => {
            Err(Invalid(format!("this names one profile: leave the last part, /{name}, out")))
        }
        _ => Ok(path.to_owned()),
    }
}

/// Whether a URL leads to this host only, as far as its text tells.
pub(super) fn is_loopback(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// `127.0.0.1:6060`, `[::1]:6060`, `localhost:6060`, `:6060` or `6060`; without a host the address is unspecified, which means any.
pub fn parse_listen(text: &str) -> Result<SocketAddr, Invalid> {
    let text = text.trim();
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let ip: Option<IpAddr> = match host {
        "" | "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    };
    // `u16` would read `+80`
    let port = Some(port).filter(|p| p.bytes().all(|b| b.is_ascii_digit())).and_then(|p| p.parse().ok());
    match (ip, port) {
        (Some(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(Invalid("write an address and a TCP port such as 127.0.0.1:6060, [::1]:6060 or :6060; names are not resolved".into())),
    }
}

/// A regular expression that compiles: the syntax of the `regex` crate, without Unicode classes.
pub fn parse_regex(text: &str) -> Result<String, Invalid> {
    match regex_lite::Regex::new(text) {
        Ok(_) if text.is_empty() => Err(Invalid("an empty pattern matches every process".into())),
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(Invalid(format!("not a regular expression: {e}"))),
    }
}

/// A target's name becomes a directory and a label.
pub fn parse_name(text: &str) -> Result<String, Invalid> {
    let fits = !text.is_empty() && text.len() <= 64 && !text.starts_with('.');
    if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Ok(text.to_owned());
    }
    Err(Invalid("allowed are 1 to 64 of A-Z a-z 0-9 . _ - with no dot at the beginning: it names a directory".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> String {
        match text.parse() {
            Ok(Pprof::Http(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_url_ends_without_a_slash_and_is_completed_as_go_does() {
        for (text, url) in [
            ("http://127.0.0.1:6060/debug/pprof", "http://127.0.0.1:6060/debug/pprof"),
            ("http://127.0.0.1:6060/debug/pprof//", "http://127.0.0.1:6060/debug/pprof"),
            (" https://search.internal:6060 ", "https://search.internal:6060/debug/pprof"),
            ("http://[::1]:6060/", "http://[::1]:6060/debug/pprof"),
            ("http://h/internal/prof", "http://h/internal/prof"),
        ] {
            assert_eq!(http(text), url);
        }
    }

    #[test]
    fn a_socket_has_a_path_to_it_and_a_path_on_it() {
        for (text, path) in [
            ("unix:///run/checkout.sock:/debug/pprof/", "/debug/pprof"),
            ("unix:///run/checkout.sock:/p", "/p"),
            ("unix:///run/checkout.sock:/", "/debug/pprof"),
            ("unix:///run/checkout.sock", "/debug/pprof"),
        ] {
            assert_eq!(text.parse(), Ok(Pprof::Unix { socket: "/run/checkout.sock".into(), path: path.into() }), "{text}");
        }
        assert_eq!("auto".parse(), Ok(Pprof::Auto));
    }

    #[test]
    fn what_is_no_place_of_profiles_is_refused() {
        for (text, why) in [
            ("", "not a URL"),
            ("127.0.0.1:6060", "not a URL"),
            ("localhost:6060", "not an http or https URL"),
            ("ftp://h/debug/pprof", "not an http or https URL"),
            ("http:///debug?x", "query or fragment"),
            ("http://h/debug/pprof?token=s3cr3t", "query or fragment"),
            ("http://h/debug/pprof#x", "query or fragment"),
            ("http://joe:s3cr3t@h/debug/pprof", "use auth"),
            ("http://joe:s3cr3t@h:port/", "not a URL"),
            ("http://h/debug/pprof/heap", "leave the last part, /heap, out"),
            ("http://{instance}/debug/pprof?x", "not allowed in an address that is filled in"),
            ("unix://run/x.sock", "must be absolute"),
            ("unix:/run/x.sock", "must be absolute"),
            ("unix:///run/x.sock:/debug/pprof?token=s3cr3t", "not allowed"),
            (&format!("unix:///{}", "x".repeat(108)), "107 bytes"),
        ] {
            let message = text.parse::<Pprof>().unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
            assert!(!message.contains("s3cr3t"), "{message}");
        }
    }

    #[test]
    fn a_listening_address_may_lack_its_host() {
        for (text, addr) in [
            (":6060", "0.0.0.0:6060"),
            ("6060", "0.0.0.0:6060"),
            ("*:6060", "0.0.0.0:6060"),
            ("localhost:6060", "127.0.0.1:6060"),
            ("127.0.0.1:6060", "127.0.0.1:6060"),
            ("[::1]:6060", "[::1]:6060"),
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), addr);
        }
        for text in ["", ":", "127.0.0.1", "::1:6060", "checkout:6060", ":65536", ":+80", "-1", "1.2.3.4.5:80"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_must_compile_and_mean_something() {
        assert_eq!(parse_regex("shop(-[a-z]+)? --prod"), Ok("shop(-[a-z]+)? --prod".into()));
        assert!(parse_regex("").is_err());
        assert_eq!(parse_regex("shop(").unwrap_err().to_string(), "not a regular expression: found open group without closing ')'");
    }

    #[test]
    fn a_name_is_one_directory() {
        for name in ["checkout", "a", "Shop-2_eu.west", "0"] {
            assert_eq!(parse_name(name), Ok(name.into()));
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\n", &"x".repeat(65)] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
    }
}
