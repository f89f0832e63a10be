//! `[daemon] listen`: where memtrap itself answers.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::endpoint::{Invalid, parse_listen};

/// A TCP address or a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What the kernel takes as the path of a socket, with its final NUL.
const MAX_SOCKET_PATH: usize = 107;

impl Listen {
    /// `127.0.0.1:9709`, `:9709`, or `unix:/run/memtrap/memtrap.sock`.
    pub fn parse(text: &str) -> Result<Listen, Invalid> {
        let Some(path) = text.trim().strip_prefix("unix:") else {
            let fix = |Invalid(why)| Invalid(why.replace("6060", "9709") + ", or a socket such as unix:/run/memtrap/memtrap.sock");
            return parse_listen(text).map(Listen::Tcp).map_err(fix);
        };
        // unix:///run/x is what pprof addresses look like
        let path = path.strip_prefix("//").filter(|p| p.starts_with('/')).unwrap_or(path);
        if !path.starts_with('/') || path.ends_with('/') || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
            return Err(Invalid(format!(
                "unix: needs an absolute path of at most {MAX_SOCKET_PATH} bytes, such as unix:/run/memtrap/memtrap.sock"
            )));
        }
        Ok(Listen::Unix(path.into()))
    }

    /// Whether only this host can reach it; its file's mode guards a socket.
    pub fn is_local(&self) -> bool {
        match self {
            Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Listen::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "http://{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_socket() {
        assert_eq!(Listen::parse("localhost:9709").unwrap().to_string(), "http://127.0.0.1:9709");
        for text in ["unix:/run/memtrap.sock", "unix:///run/memtrap.sock"] {
            assert_eq!(Listen::parse(text).unwrap(), Listen::Unix("/run/memtrap.sock".into()));
        }
        for text in ["unix:run/x", "unix:", "unix:/run/", "nonsense", &format!("unix:/{}", "x".repeat(107))] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (text, local) in [
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/x", true),
            (":1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(Listen::parse(text).unwrap().is_local(), local, "{text}");
        }
    }
}
