//! What the user asked for: TOML ([`parse`]) resolved into what the program needs (the types of this file).
//!
//! All mistakes of a file are told at once, each with its place. Validation touches neither disk nor network; whether a file
//! that the configuration names exists, or a port answers, is `check --probe`'s business.

mod auth;
mod bounds;
mod document;
mod endpoint;
mod listen;
mod notify;
mod problem;
mod reader;
mod source;
mod template;
mod upload;
mod user;
#[cfg(test)]
mod tests;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use bounds::{COOLDOWNS, ETAS, HOLDS, INTERVALS, MIN_READINGS, WARMUPS, check_gc, check_leak, check_rate, check_threshold};
pub use document::parse;
pub use endpoint::{Invalid, PprofSetting, parse_listen, parse_name, parse_regex};
pub use listen::Listen;
pub use notify::{Channel, Message, Notify, OWN_LABELS, Receiver, ReceiverUrl, UPLOAD, parse_url};
pub use problem::{Errors, Place, Problem, Warning};
pub use source::{MetricLimit, Metrics, Prometheus, QueryLimit, Source};
pub use template::{ADDRESS, Template, Unfilled};
pub use upload::{Destination, StoreSecrets, Upload};
pub use user::User;

use crate::lang::Lang;
use crate::units::{ByteSize, Percent, Rate, Share, SizeOrPercent};

/// Where `run` and `check` look without `-c`.
pub const DEFAULT_PATH: &str = "/etc/memtrap/memtrap.toml";

/// In force where there is no file at [`DEFAULT_PATH`], and the package's own: every Go process of the host, by its memory.
const UNPREPARED: &str = include_str!("../../config/host.toml");

/// Whether nobody has configured anything, so that [`load`] gives what is built in.
pub fn is_unprepared(path: &Path) -> bool {
    path == Path::new(DEFAULT_PATH) && path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Larger is no configuration.
const MAX_FILE: u64 = 4 << 20;

/// Reads and resolves a file, or what is built in; see [`parse`]. Blocks on the disk, and on the writer if `path` is a pipe.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), Errors> {
    if is_unprepared(path) {
        return parse(UNPREPARED, "built-in");
    }
    let file_name = path.to_string_lossy();
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "; create it, or name another with -c FILE",
            std::io::ErrorKind::PermissionDenied => "; run as a user that may read it, or let memtrap's group read it",
            _ => "",
        };
        Errors::of_file(&file_name, format!("the configuration cannot be read: {error}{hint}"))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Errors::of_file(&file_name, format!("larger than {}: this is no configuration", ByteSize(MAX_FILE))));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, &file_name),
        Err(e) => {
            let valid = bytes.get(..e.valid_up_to()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default();
            Err(Errors::not_utf8(&file_name, valid))
        }
    }
}

/// A whole, valid configuration: every default filled in, every value within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub daemon: Daemon,
    pub retention: Retention,
    /// `None`: bundles stay on this host.
    pub upload: Option<Upload>,
    /// Who is told of each bundle.
    pub notify: Vec<Notify>,
    /// Shared by all who know of them: there may be thousands.
    pub targets: Vec<Arc<Target>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Daemon {
    pub state_dir: PathBuf,
    pub bundle_dir: PathBuf,
    /// Where the status page, the API and `/metrics` are; `None`: nowhere.
    pub listen: Option<Listen>,
    /// Holds what clients must present; always there unless `listen` is local.
    pub token_file: Option<PathBuf>,
    /// Where people reach the status page, for links in messages; without a trailing slash.
    pub external_url: Option<String>,
    /// Of reports and of the status page.
    pub lang: Lang,
    pub max_concurrent_captures: usize,
    /// All targets together; a sliding hour.
    pub max_captures_per_hour: usize,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            state_dir: "/var/lib/memtrap".into(),
            bundle_dir: "/var/lib/memtrap/bundles".into(),
            listen: None,
            token_file: None,
            external_url: None,
            lang: Lang::En,
            max_concurrent_captures: 2,
            max_captures_per_hour: 12,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    pub max_bundles_per_target: usize,
    pub max_total_size: ByteSize,
    pub max_age: Duration,
    /// Below this, a capture leaves its big parts out.
    pub min_free_disk: ByteSize,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            max_bundles_per_target: 20,
            max_total_size: ByteSize::gib(2),
            max_age: Duration::from_secs(14 * 86_400),
            min_free_disk: ByteSize::gib(1),
        }
    }
}

/// One `[[target]]`, with `[defaults]` folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `[A-Za-z0-9._-]`, at most 64 long, not starting with a dot: it is a directory name and a metrics label.
    pub name: String,
    pub source: Source,
    /// `None`: bundles hold the kernel's side only.
    pub pprof: Option<Pprof>,
    pub auth: Auth,
    pub interval: Duration,
    /// The longest pause between readings while RSS is flat and far from every level; see `poll::schedule`.
    pub max_interval: Duration,
    /// How often a healthy instance is captured lightly, to compare an incident with; `None`: never.
    pub baseline: Option<Duration>,
    pub rules: Rules,
    pub capture: Capture,
}

impl Target {
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
    pub const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(5);
    pub const DEFAULT_BASELINE: Duration = Duration::from_secs(6 * 3600);

    /// A target as a file with nothing but its name and source would make it, for commands that have no file. It has no
    /// pprof and no rule yet.
    pub fn with_defaults(name: String, source: impl Into<Source>) -> Target {
        Target {
            name,
            source: source.into(),
            pprof: None,
            auth: Auth::default(),
            interval: Target::DEFAULT_INTERVAL,
            max_interval: Target::DEFAULT_MAX_INTERVAL,
            baseline: Some(Target::DEFAULT_BASELINE),
            rules: Rules::default(),
            capture: Capture::default(),
        }
    }
}

/// Which processes a target means.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    pub which: Selector,
    /// Only those that run as this user; and credentials go to none but this user's.
    pub user: Option<User>,
    /// Regular expressions: who is called so, by any of its names, is left out. Only where the selector means many services.
    pub exclude: Vec<String>,
    /// What it may use, where its cgroup cannot be seen; the least of this and what can be seen counts.
    pub limit: Option<ProcessLimit>,
}

/// Of processes on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessLimit {
    Fixed(ByteSize),
    /// In memtrap's own environment, in bytes or as a size: the downward API's `resourceFieldRef` puts it there.
    Env(String),
}

impl From<Selector> for Process {
    fn from(which: Selector) -> Process {
        Process { which, user: None, exclude: Vec::new(), limit: None }
    }
}

/// What they have in common.
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
    /// Every program written in Go.
    Go,
    /// A regular expression over a container's name, its pod, `namespace/pod/container`, and its id.
    Container(String),
    /// The path of a cgroup or a glob of it; what lies below is meant too.
    Cgroup(String),
}

impl Selector {
    /// Whether it means many services, whose processes are told apart by what they belong to.
    pub fn means_many(&self) -> bool {
        matches!(self, Selector::Go | Selector::Container(_) | Selector::Cgroup(_))
    }
}

/// Where a target's pprof handlers are.
#[derive(Clone, Debug, PartialEq)]
pub enum Pprof {
    /// `http` or `https`; path without a trailing slash, e.g. `http://127.0.0.1:6060/debug/pprof`.
    Http(String),
    /// HTTP over a unix socket.
    Unix { socket: PathBuf, path: String },
    /// Of each series that a query gives: filled in from its labels.
    Template(Template),
    /// Looked for on the sockets that the process itself listens on.
    Auto,
}

/// How to authenticate. Secrets are paths, read anew for each capture, and now and then between scrapes, so that rotation works.
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
    /// What the collector may take of the process's CPU.
    pub gc: Option<Share>,
    /// A rise of the floor of RSS over days.
    pub leak: Option<Rate>,
    pub hold: Duration,
    pub warmup: Duration,
    pub cooldown: Duration,
    /// Share of the level that fired, below which the incident is over.
    pub rearm: Percent,
    /// Later stages of `threshold` add parts to an open incident.
    pub escalate: bool,
    /// Whether the charge of the process's cgroup counts where it is more than RSS.
    pub charge: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            threshold: Vec::new(),
            slope: None,
            eta: None,
            gc: None,
            leak: None,
            hold: Duration::from_secs(3),
            warmup: Duration::from_secs(60),
            cooldown: Duration::from_secs(15 * 60),
            rearm: Percent::NINETY,
            escalate: false,
            charge: true,
        }
    }
}

impl Rules {
    /// How many kinds of them there are.
    pub fn kinds(&self) -> usize {
        [!self.threshold.is_empty(), self.slope.is_some(), self.eta.is_some(), self.gc.is_some(), self.leak.is_some()]
            .into_iter()
            .filter(|is| *is)
            .count()
    }

    /// Whether any of them says nothing without a limit.
    pub fn need_limit(&self) -> bool {
        let share = |level: &SizeOrPercent| matches!(level, SizeOrPercent::Percent(_));
        let rises = || self.slope.iter().chain(&self.leak);
        self.eta.is_some() || self.threshold.iter().any(share) || rises().any(|rate| share(&rate.rise))
    }
}

/// Whether the Go runtime's own numbers are read out of the process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMemory {
    /// Where pprof gives none.
    Auto,
    /// Before pprof, which is asked for the rest.
    Always,
    Off,
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
    pub read_memory: ReadMemory,
    /// Whether the heap's object graph is walked, where the process's memory may be read.
    pub holders: bool,
    /// Whether a cgroup that crosses its level is held at `memory.high` for the first evidence.
    pub brake: bool,
    /// Per file.
    pub max_file_size: ByteSize,
    /// `NAME?QUERY` below the pprof path.
    pub extra_profiles: Vec<String>,
    /// Step names that are not taken, e.g. `heap_gc`, `mutex`.
    pub skip: Vec<String>,
}

impl Default for Capture {
    fn default() -> Capture {
        Capture {
            cpu_seconds: 10,
            connect_timeout: Duration::from_secs(3),
            step_timeout: Duration::from_secs(90),
            retries: 2,
            retry_delay: Duration::from_secs(1),
            max_goroutines_debug2: 10_000,
            read_memory: ReadMemory::Auto,
            holders: true,
            brake: false,
            max_file_size: ByteSize::gib(1),
            extra_profiles: Vec::new(),
            skip: Vec::new(),
        }
    }
}
