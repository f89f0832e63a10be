//! One target from the command line: the arguments that `watch` and `capture` share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::Failure;
use super::rules::whole;
use crate::config::{self, Pprof, PprofSetting, Process, Selector, Source, User};
use crate::host::ProcFs;
use crate::identity::InstanceId;
use crate::lang::Lang;
use crate::metrics;
use crate::poll::resolve;

/// The most that Linux gives (`PID_MAX_LIMIT`).
pub(super) const MAX_PID: u32 = 1 << 22;

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Which {
    /// This process
    #[arg(long, allow_negative_numbers = true, value_parser = whole(1..=MAX_PID, "4821"))]
    pid: Option<u32>,
    /// The process whose pid this file holds
    #[arg(long, value_name = "PATH")]
    pid_file: Option<PathBuf>,
    /// Processes of this name (comm, or the file name of the executable)
    #[arg(long)]
    name: Option<String>,
    /// Processes of this executable
    #[arg(long, value_name = "PATH")]
    exe: Option<PathBuf>,
    /// Processes whose command line matches this regular expression
    #[arg(long, value_name = "REGEX", value_parser = config::parse_regex)]
    cmdline: Option<String>,
    /// Processes of this systemd unit
    #[arg(long)]
    unit: Option<String>,
    /// The process that listens on this TCP address: :6060 or 127.0.0.1:6060
    #[arg(long, value_name = "ADDR", value_parser = config::parse_listen)]
    listen: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    #[command(flatten, next_help_heading = "Which process (one of these)")]
    which: Which,
    /// Only processes of this user, by name or number; with credentials for pprof: who may be shown them
    #[arg(long, value_name = "USER", help_heading = "Which process (one of these)")]
    user: Option<User>,

    /// Where pprof is: http://127.0.0.1:6060/debug/pprof, unix:///run/x.sock:/debug/pprof; auto: on whichever socket the process itself
    /// listens on; off: what the kernel and its memory tell
    #[arg(long, value_name = "URL", default_value = "auto", help_heading = "Capture")]
    pprof: PprofSetting,
    /// File with a bearer token for pprof
    #[arg(long, value_name = "FILE", help_heading = "Capture")]
    bearer_file: Option<PathBuf>,
    /// File with the CA certificates (PEM) that vouch for pprof's server
    #[arg(long, value_name = "FILE", help_heading = "Capture")]
    ca_file: Option<PathBuf>,
    /// Client certificate chain (PEM) for pprof
    #[arg(long, value_name = "FILE", requires = "client_key_file", help_heading = "Capture")]
    client_cert_file: Option<PathBuf>,
    /// Key (PEM) of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_cert_file", help_heading = "Capture")]
    client_key_file: Option<PathBuf>,

    /// Length of the CPU profile; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Capture", allow_negative_numbers = true, value_parser = whole(0..=300u64, "30"))]
    cpu_seconds: u64,
    /// Directory for bundles
    #[arg(short, long, value_name = "DIR", default_value = "memtrap-bundles", help_heading = "Capture")]
    pub output: PathBuf,
    /// Language of the verdict and the report
    #[arg(long, value_enum, default_value_t, value_name = "LANG", help_heading = "Capture")]
    pub lang: Lang,
}

impl Which {
    /// The selector, and a name for its bundles' directory.
    fn selector(&self) -> Option<(Selector, String)> {
        let base = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = self
            .pid
            .map(|pid| (Selector::Pid(pid), format!("pid-{pid}")))
            .or_else(|| self.pid_file.as_ref().map(|p| (Selector::PidFile(p.clone()), base(p))))
            .or_else(|| self.name.as_ref().map(|n| (Selector::Name(n.clone()), n.clone())))
            .or_else(|| self.exe.as_ref().map(|p| (Selector::Exe(p.clone()), base(p))))
            .or_else(|| self.cmdline.as_ref().map(|c| (Selector::Cmdline(c.clone()), "cmdline".into())))
            .or_else(|| self.unit.as_ref().map(|u| (Selector::Unit(u.clone()), u.clone())))
            .or_else(|| self.listen.map(|a| (Selector::Listen(a), format!("port-{}", a.port()))))?;
        Some((found.0, file_safe(&found.1)))
    }

    /// Who names a process by its number means its user too, and not whoever has that number later.
    fn user_of_pid(&self) -> Option<User> {
        let dir = ProcFs::host().dir(self.pid?).ok()?;
        match dir.status().ok()?.uids? {
            [real, effective, saved] if real == effective && effective == saved => Some(User::Uid(real)),
            _ => None,
        }
    }
}

impl TargetArgs {
    /// The target, with the defaults of a configuration file.
    pub fn target(&self) -> Result<config::Target, Failure> {
        let (selector, name) = self.which.selector().ok_or_else(|| {
            Failure::usage("no process named: write one of --pid, --pid-file, --name, --exe, --cmdline, --unit, --listen")
        })?;
        let user = self.user.clone().or_else(|| self.which.user_of_pid());
        Ok(self.with(config::Target::with_defaults(name, Process { which: selector, user, exclude: Vec::new(), limit: None })))
    }

    /// The target of an address alone, whoever serves there: where no process is named, and `--pprof` is a URL. Its RSS is what `/metrics` of the
    /// same server says.
    pub fn at_address(&self) -> Option<config::Target> {
        let (None, Some(Pprof::Http(url))) = (self.which.selector(), &self.pprof.0) else { return None };
        let mut page = reqwest::Url::parse(url).ok()?;
        page.set_path("/metrics");
        let name = file_safe(page.authority());
        let rss = metrics::Pick { metric: metrics::RSS.into(), labels: Vec::new() };
        let source = config::Metrics { url: page.into(), user: self.user.clone(), rss, limit: None };
        Some(self.with(config::Target::with_defaults(name, Source::Metrics(source))))
    }

    /// Who listens there, if that is on this host.
    pub fn listener(&self) -> Option<Process> {
        let Some(Pprof::Http(url)) = &self.pprof.0 else { return None };
        let url = reqwest::Url::parse(url).ok()?;
        let ip = match url.host_str()? {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.trim_matches(['[', ']']).parse().ok().filter(IpAddr::is_loopback)?,
        };
        let which = Selector::Listen(SocketAddr::new(ip, url.port_or_known_default()?));
        Some(Process { which, user: self.user.clone(), exclude: Vec::new(), limit: None })
    }

    /// The same target with what else was written.
    fn with(&self, mut target: config::Target) -> config::Target {
        target.pprof.clone_from(&self.pprof.0);
        target.auth.bearer_file.clone_from(&self.bearer_file);
        target.auth.ca_file.clone_from(&self.ca_file);
        target.auth.client_cert_file.clone_from(&self.client_cert_file);
        target.auth.client_key_file.clone_from(&self.client_key_file);
        target.capture.cpu_seconds = self.cpu_seconds;
        target
    }

    /// Where bundles go, absolute: their README names real paths.
    pub fn bundle_dir(&self) -> Result<PathBuf, Failure> {
        std::path::absolute(&self.output).map_err(|e| Failure::usage(format_args!("-o {}: {e}", self.output.display())))
    }
}

/// The one process that is meant now.
pub fn the_one(procfs: &ProcFs, process: &Process) -> Result<InstanceId, Failure> {
    let found = resolve::all(procfs, &[process]).into_iter().next();
    let (instances, problem) = found.map_or((Vec::new(), None), |r| (r.instances, r.problem));
    match instances.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::job(format_args!("no process matches: {}", problem.unwrap_or_else(|| "nothing in /proc fits".into())))),
        many => {
            let pids: Vec<String> = many.iter().map(|id| id.pid.to_string()).collect();
            Err(Failure::usage(format_args!("{} processes match: {}; name one with --pid", many.len(), pids.join(", "))))
        }
    }
}

fn file_safe(name: &str) -> String {
    let safe: String = name.chars().take(64).map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    safe.trim_start_matches('.').to_owned() + if safe.trim_start_matches('.').is_empty() { "target" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_one_directory() {
        for (name, safe) in [("../../etc", "_.._etc"), ("a b/c\n", "a_b_c_"), ("...", "target"), ("checkout.service", "checkout.service")] {
            assert_eq!(file_safe(name), safe);
        }
    }
}
