//! What the user asked for: raw TOML ([`raw`]) resolved into what the program needs (this file).
//!
//! Validation touches neither disk nor network; whether a file exists or a port answers is `check --probe`'s business.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::units::{ByteSize, Percent, Rate, SizeOrPercent};

/// A whole, valid configuration: every default filled in, every value within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub daemon: Daemon,
    pub retention: Retention,
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    pub state_dir: PathBuf,
    pub bundle_dir: PathBuf,
    pub listen: Option<SocketAddr>,
    pub max_concurrent_captures: usize,
    /// All targets together; a sliding hour.
    pub max_captures_per_hour: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    pub max_bundles_per_target: usize,
    pub max_total_size: ByteSize,
    pub max_age: Duration,
    /// Below this, a capture leaves its big parts out.
    pub min_free_disk: ByteSize,
}

/// One `[[target]]`, with `[defaults]` folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `[A-Za-z0-9._-]`, at most 64 long, not starting with a dot: it is a directory name and a metrics label.
    pub name: String,
    pub process: Selector,
    /// `None`: bundles hold the kernel's side only.
    pub pprof: Option<Pprof>,
    pub auth: Auth,
    pub interval: Duration,
    pub rules: Rules,
    pub capture: Capture,
}

/// Which processes a target means.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    Pid(u32),
    PidFile(PathBuf),
    /// The kernel's `comm`, at most 15 bytes of it, or the file name of the executable.
    Name(String),
    /// The resolved path of the executable.
    Exe(PathBuf),
    /// A regular expression over the arguments joined by spaces.
    Cmdline(String),
    /// A systemd unit, found as a component of the process's cgroup path.
    Unit(String),
    /// The process that listens on this TCP address; an unspecified IP means any local address.
    Listen(SocketAddr),
}

/// Where a target's pprof handlers are.
#[derive(Clone, Debug, PartialEq)]
pub enum Pprof {
    /// `http` or `https`; path without a trailing slash, e.g. `http://127.0.0.1:6060/debug/pprof`.
    Http(String),
    /// HTTP over a unix socket.
    Unix { socket: PathBuf, path: String },
    /// Looked for on the sockets that the process itself listens on.
    Auto,
}

/// How to authenticate. Secrets are paths, read anew for each capture so that rotation works.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Auth {
    pub basic: Option<Basic>,
    pub bearer_file: Option<PathBuf>,
    /// Further request headers: name and value, both valid for HTTP. Not printed anywhere.
    pub headers: Vec<(String, HeaderValue)>,
    /// PEM bundle that replaces the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM certificate chain and key of the client; both or neither.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Basic {
    pub username: String,
    pub password_file: PathBuf,
}

#[derive(Clone, PartialEq)]
pub enum HeaderValue {
    Inline(String),
    File(PathBuf),
}

/// A header's value may be a secret: its text is never printed.
impl std::fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderValue::Inline(_) => f.write_str("Inline(…)"),
            HeaderValue::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// When to fire, and when an incident is over. Percentages are resolved against each instance's limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Stages; sizes and percentages may mix, so their order is known only once the limit is.
    pub threshold: Vec<SizeOrPercent>,
    pub slope: Option<Rate>,
    pub eta: Option<Duration>,
    pub hold: Duration,
    pub warmup: Duration,
    pub cooldown: Duration,
    /// Share of the level that fired, below which the incident is over.
    pub rearm: Percent,
    /// Later stages of `threshold` add parts to an open incident.
    pub escalate: bool,
}

/// What a capture may cost and what it leaves out.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// 0: no CPU profile.
    pub cpu_seconds: u64,
    pub connect_timeout: Duration,
    /// For one attempt of one step; the CPU profile gets its seconds on top.
    pub step_timeout: Duration,
    pub retries: u32,
    pub retry_delay: Duration,
    /// Above it, `goroutine?debug=1` is taken instead of `debug=2`, which stops the world.
    pub max_goroutines_debug2: u64,
    /// Per file.
    pub max_file_size: ByteSize,
    /// `NAME?QUERY` below the pprof path.
    pub extra_profiles: Vec<String>,
    /// Step names that are not taken, e.g. `heap_gc`, `mutex`.
    pub skip: Vec<String>,
}
