//! `memtrap status`: what the running daemon sees, asked over its `listen`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{StatusCode, Url};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, paint, print, print_exactly, terminal_width};
use crate::client::{Cause, Clients, Credentials, Use, root_cause, withheld};
use crate::config::{self, Auth, Listen};
use crate::error::chain;
use crate::host::peer::Peer;
use crate::host::trust::{CURE, Trusted};
use crate::host::{ProcFs, obstacle};
use crate::lang::Lang;
use crate::layout::{clipped, wrapped};
use crate::serve::{Instance, Targets, clock_words, word, words_of_eta, words_of_slope};
use crate::text::{self, one_line};
use crate::units::ByteSize;

const CONNECT: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);
/// Of ten thousand instances it is some.
const MAX_ANSWER: usize = 64 << 20;
const EVERY: Duration = Duration::from_secs(2);
/// Of lines that no terminal bounds, and at most.
const WIDTH: usize = 100;
/// The column of the states.
const STATE: usize = 2;
/// Names are cut to these, so that a row fits in [`WIDTH`].
const TARGET: usize = 20;
const INSTANCE: usize = 22;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap status                                     the daemon of /etc/memtrap/memtrap.toml
  memtrap status --watch                             live, until Ctrl-C
  memtrap status --url http://10.0.0.7:9709 --token-file ./token
  memtrap status --json | jq '.instances[] | select(.state != \"armed\")'")]
pub struct Args {
    /// Configuration file of the daemon, which says where it listens
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Where the daemon listens, instead: http://HOST:PORT, or unix:/PATH
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    url: Option<String>,
    /// Holds the token that the daemon wants; by default the configuration's token_file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print what /api/targets answers
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    /// Show it anew every two seconds
    #[arg(long)]
    watch: bool,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let daemon = Daemon::of(&args)?;
    if args.watch {
        return daemon.watch().await;
    }
    let text = daemon.ask().await?;
    if args.json {
        return print(&(text::escape_json(&text) + "\n"));
    }
    print_exactly(&table(&understood(&text)?, Look::of_stdout()))
}

/// Whether a memtrap answers where this configuration says.
pub async fn answers(daemon: &config::Daemon) -> bool {
    let Some(Ok(at)) = daemon.listen.as_ref().map(|listen| Daemon::at(listen, daemon.token_file.clone(), daemon.state_dir.clone())) else {
        return false;
    };
    at.ask().await.and_then(|text| understood(&text)).is_ok()
}

fn plain(address: &str) -> Option<Url> {
    let url = Url::parse(&format!("{}/api/targets", address.trim_end_matches('/')));
    url.ok().filter(|u| matches!(u.scheme(), "http" | "https"))
}

/// Where to ask.
struct Daemon {
    url: Url,
    socket: Option<PathBuf>,
    token_file: Option<PathBuf>,
    state_dir: PathBuf,
}

impl Daemon {
    fn of(args: &Args) -> Result<Daemon, Failure> {
        let usual = || config::Daemon::default().state_dir;
        if let Some(given) = &args.url {
            if given.starts_with("unix:") {
                return match Listen::parse(given) {
                    Ok(listen @ Listen::Unix(_)) => Daemon::at(&listen, args.token_file.clone(), usual()),
                    Ok(Listen::Tcp(_)) => Err(Failure::usage("--url: write http://HOST:PORT or unix:/PATH")),
                    Err(why) => Err(Failure::usage(format_args!("--url: {why}"))),
                };
            }
            let url = plain(given)
                .ok_or_else(|| Failure::usage(format_args!("--url: `{given}` is not like http://127.0.0.1:9709 or unix:/PATH")))?;
            return Ok(Daemon { url, socket: None, token_file: args.token_file.clone(), state_dir: usual() });
        }
        let (config, _) = config::load(&args.config).map_err(|e| {
            Failure::config(format_args!("{e}\nsay where the daemon listens with --url to go without its configuration"), 2)
        })?;
        let token_file = args.token_file.clone().or(config.daemon.token_file);
        match config.daemon.listen {
            Some(listen) => Daemon::at(&listen, token_file, config.daemon.state_dir),
            None => Err(Failure::job(format_args!(
                "{}: the daemon does not listen anywhere; add listen = \"127.0.0.1:9709\" to [daemon] and reload memtrap",
                args.config.display()
            ))),
        }
    }

    /// The one that listens there.
    fn at(listen: &Listen, token_file: Option<PathBuf>, state_dir: PathBuf) -> Result<Daemon, Failure> {
        match listen.clone() {
            Listen::Unix(path) => {
                let url = plain("http://localhost").ok_or_else(|| Failure::job("no URL for a socket"))?;
                Ok(Daemon { url, socket: Some(path), token_file, state_dir })
            }
            Listen::Tcp(mut address) => {
                // what listens on any address is reached on loopback too
                match address.ip() {
                    std::net::IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
                    std::net::IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
                    _ => {}
                }
                let url = plain(&format!("http://{address}")).ok_or_else(|| Failure::job(format_args!("{address}: no URL")))?;
                Ok(Daemon { url, socket: None, token_file, state_dir })
            }
        }
    }

    /// Who must answer to be shown the token, on this host: the owner of memtrap's state, root, or whoever asks.
    fn peer(&self) -> Option<Peer> {
        let procfs = ProcFs::host();
        let trusted = Trusted::of_owner(&procfs, &self.state_dir);
        match &self.socket {
            Some(socket) => Some(Peer::of_socket(&procfs, socket, trusted)),
            None => Peer::of_url(&procfs, &self.url, trusted, None),
        }
    }

    /// The body of `/api/targets`.
    async fn ask(&self) -> Result<String, Failure> {
        let at = || self.socket.as_ref().map_or_else(|| self.url.origin().ascii_serialization(), |path| format!("unix:{}", path.display()));
        let auth = Auth { bearer_file: self.token_file.clone(), ..Auth::default() };
        let credentials = Credentials::load(&auth).map_err(|e| Failure::job(format_args!("token file: {}", chain(&e))))?;
        let client = match self.peer().filter(|_| credentials.are_sent()) {
            Some(peer) => Clients::default().guarded(&self.url, self.socket.clone(), &credentials, CONNECT, Use::Capture, peer.into()),
            None => Clients::default().client(&self.url, self.socket.clone(), &credentials, CONNECT, Use::Capture),
        }?;
        let asked = client.get(self.url.clone()).headers(credentials.headers).timeout(PATIENCE).send().await;
        let mut answer = asked.map_err(|e| {
            let cause = Cause::of(&e);
            let absent = cause.is_refused() || root_cause(&e).contains("No such file");
            let closed =
                || self.socket.as_ref().filter(|_| cause.is_forbidden()).and_then(|path| obstacle::of_socket(&ProcFs::host(), path));
            Failure::job(if let Some(why) = withheld(&e) {
                format!("{}: the token is not sent: {}", at(), why.trim_end_matches(CURE).trim_end_matches("; "))
            } else if absent {
                format!("nothing listens on {}: is memtrap running? see `systemctl status memtrap`", at())
            } else if e.is_timeout() {
                format!("{} does not answer within {} s; see memtrap's log", at(), PATIENCE.as_secs())
            } else if let Some(why) = closed() {
                format!("{}: {why}", at())
            } else {
                format!("{}: {cause}", at())
            })
        })?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return Err(Failure::job(format_args!("{}: the answer is larger than {}", at(), ByteSize(MAX_ANSWER as u64))));
            }
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            StatusCode::OK => Ok(text),
            StatusCode::UNAUTHORIZED => {
                Err(Failure::job(format_args!("{}: it wants a token, or another one; name the file with --token-file", at())))
            }
            other => Err(Failure::job(format_args!("{}: HTTP {}: {}", at(), other.as_u16(), one_line(&text, 300)))),
        }
    }

    /// Shows it until interrupted; what does not work is shown, and tried again.
    async fn watch(&self) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            return Err(Failure::usage("--watch needs a terminal; for programs there is --json"));
        }
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut again = tokio::time::interval(EVERY);
        let _screen = Alternate::enter()?;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                text = async { again.tick().await; self.ask().await } => {
                    let shown = text.and_then(|text| understood(&text)).map_or_else(|failure| failure.message, |targets| table(&targets, Look::of_stdout()));
                    redraw(&shown)?;
                }
            }
        }
    }
}

/// The terminal's other screen, left when dropped.
struct Alternate;

impl Alternate {
    fn enter() -> Result<Alternate, Failure> {
        print_exactly("\x1b[?1049h\x1b[?25l")?;
        Ok(Alternate)
    }
}

impl Drop for Alternate {
    fn drop(&mut self) {
        let mut out = std::io::stdout();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    }
}

/// From the upper left, over what was there, so that nothing flickers; what does not fit is left out.
fn redraw(text: &str) -> Result<(), Failure> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let (rows, width) = size.map_or((24, 80), |s| (usize::from(s.ws_row.max(2)), usize::from(s.ws_col.max(20))));
    let mut out = String::from("\x1b[H");
    let lines: Vec<&str> = text.lines().collect();
    let fit = if lines.len() >= rows { rows - 2 } else { lines.len() };
    for line in lines.iter().take(fit) {
        out.push_str(&clipped(line, width));
        out.push_str("\x1b[K\n");
    }
    if fit < lines.len() {
        out.push_str(&format!("… {} more lines; a taller window or `memtrap status` shows them\x1b[K", lines.len() - fit));
    }
    out.push_str("\x1b[J");
    print_exactly(&out)
}

fn understood(text: &str) -> Result<Targets, Failure> {
    let targets: Targets = serde_json::from_str(text).map_err(|e| {
        Failure::job(format_args!("what answered is no memtrap, or one of another version: {}", one_line(&e.to_string(), 200)))
    })?;
    Ok(targets)
}

/// How it is shown.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
    colours: bool,
}

impl Look {
    fn of_stdout() -> Look {
        Look { width: terminal_width(), colours: paint::is_wanted(&std::io::stdout()) }
    }

    fn columns(self) -> usize {
        self.width.unwrap_or(WIDTH).min(WIDTH)
    }
}

/// For people: a row for each instance, and below it why.
fn table(targets: &Targets, look: Look) -> String {
    let mut out = String::new();
    let mut push = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    if let Some(failed) = &targets.not_reloaded {
        push(&text::lines(&wrapped(&failed.words(Lang::En), look.columns(), "")));
    }
    if targets.clock_doubted {
        push(&wrapped(&clock_words(Lang::En), look.columns(), ""));
    }
    if targets.instances.is_empty() {
        push("the daemon watches no target");
        return out;
    }
    let mut rows = vec![["TARGET", "INSTANCE", "STATE", "RSS", "LIMIT", "SLOPE", "TO LIMIT"].map(String::from).to_vec()];
    rows.extend(targets.instances.iter().map(row));
    let mut shown = paint::table(&rows, STATE, look.width, look.colours).into_iter();
    shown.next().into_iter().for_each(|head| push(head.trim_end()));
    for (row, instance) in shown.zip(&targets.instances) {
        push(row.trim_end());
        for words in details(instance) {
            push(&text::lines(&format!("    {}", wrapped(&words, look.columns(), "    "))));
        }
    }
    out
}

fn row(i: &Instance) -> Vec<String> {
    let dash = || "-".to_owned();
    let size = |bytes: Option<u64>| bytes.map_or_else(dash, |b| ByteSize(b).to_string());
    let s = &i.status;
    // of many services, which one it is comes first; the rest stands below
    let (name, who) = match (&s.workload, s.pid) {
        (Some(workload), Some(pid)) => (workload, Some(format!("pid {pid}"))),
        _ => (&s.target, s.instance.clone()),
    };
    vec![
        one_line(name, TARGET - 1),
        who.map_or_else(dash, |label| one_line(&label, INSTANCE - 1)),
        s.state.name().into(),
        size(s.rss_bytes),
        size(s.limit_bytes),
        s.slope_bytes_per_second.map_or_else(dash, |slope| words_of_slope(slope, Lang::En)),
        words_of_eta(s.seconds_to_limit).unwrap_or_else(dash),
    ]
}

fn details(i: &Instance) -> Vec<String> {
    let s = &i.status;
    let source = s.limit_source.as_ref().map_or(String::new(), |source| format!("; limit: {}", one_line(source, 200)));
    let mut said = vec![one_line(&s.reason, 600), format!("next capture: {}{source}", one_line(&s.next_capture, 100))];
    if let Some((_, label)) = s.workload.as_ref().zip(s.instance.as_ref()) {
        said.insert(0, format!("{}: {}", s.target, one_line(label, 300)));
    }
    if let Some(why) = s.lacks_evidence() {
        said.insert(1, format!("evidence: {}", one_line(why, 600)));
    }
    if let Some(((bytes, limit), cgroup)) = s.charge_bytes.zip(s.charge_limit_bytes).zip(s.charge_cgroup.as_ref()) {
        let cgroup = one_line(cgroup, 200);
        said.push(format!("charge: {} of {}, which the kernel cannot drop of cgroup {cgroup}", ByteSize(bytes), ByteSize(limit)));
    }
    if let Some(end) = &s.last_end {
        said.push(format!("last end: {}", one_line(end, 400)));
    }
    if let Some(id) = &s.last_bundle {
        let verdict = i
            .last_verdict
            .as_ref()
            .map_or_else(|| "(no verdict)".into(), |v| format!("({}, {} confidence)", v.cause.name(), word(&v.confidence)));
        said.push(format!("last bundle: {} {verdict}", one_line(id, 200)));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::State;
    use crate::poll::InstanceStatus;
    use crate::serve::{Answer, NotReloaded};
    use crate::verdict::{Cause, Confidence, Explains};

    fn instance(target: &str, label: &str) -> Instance {
        let status = InstanceStatus {
            target: target.into(),
            slot: 0,
            pid: Some(4821),
            instance: Some(label.into()),
            workload: None,
            container: None,
            state: State::Capturing,
            reason: "RSS 1.52GiB at or above the threshold of 1.50GiB (75% of the limit of 2.00GiB), for 3s".into(),
            rss_bytes: Some(1632087572),
            charge_bytes: None,
            charge_limit_bytes: None,
            charge_cgroup: None,
            limit_bytes: Some(2 << 30),
            limit_source: Some("memory.max of /system.slice/checkout.service".into()),
            threshold_bytes: vec![3 << 29],
            slope_bytes_per_second: Some(209715.2),
            seconds_to_limit: Some(2400.0),
            cooldown_seconds: None,
            next_capture: "running".into(),
            incident: None,
            evidence: None,
            last_bundle: Some("checkout/20261123T081336Z-threshold-1.52GiB".into()),
            last_end: None,
        };
        let verdict =
            Answer { go_heap_explains: Explains::Yes, cause: Cause::SmallObjects, confidence: Confidence::High, summary: "it is".into() };
        Instance { status, last_verdict: Some(verdict) }
    }

    fn shown(instances: Vec<Instance>) -> String {
        shown_after(None, instances)
    }

    fn shown_after(not_reloaded: Option<NotReloaded>, instances: Vec<Instance>) -> String {
        let (memtrap_version, host, time) = ("0".into(), "h".into(), "t".into());
        let look = Look { width: None, colours: false };
        table(&Targets { schema: 1, memtrap_version, host, time, not_reloaded, clock_doubted: false, instances }, look)
    }

    #[test]
    fn a_row_says_what_and_the_lines_below_say_why() {
        insta::assert_snapshot!(shown(vec![instance("checkout", "pid 4821")]), @r"
        TARGET    INSTANCE  STATE      RSS      LIMIT    SLOPE         TO LIMIT
        checkout  pid 4821  capturing  1.52GiB  2.00GiB  +12.0MiB/min  40m
            RSS 1.52GiB at or above the threshold of 1.50GiB (75% of the limit of 2.00GiB), for 3s
            next capture: running; limit: memory.max of /system.slice/checkout.service
            last bundle: checkout/20261123T081336Z-threshold-1.52GiB (small_objects, high confidence)
        ");
    }

    #[test]
    fn a_failed_reload_is_told_before_all_else() {
        let failed = NotReloaded { time: "2026-11-23T08:13:36Z".into(), why: "memtrap.toml:9:1: \x1b[2J".into() };
        let text = shown_after(Some(failed.clone()), vec![instance("checkout", "pid 4821")]);
        let first = text.split("TARGET").next().unwrap().replace('\n', " ");
        assert!(
            first.starts_with("the running configuration is not the file's: its reload failed at 2026-11-23T08:13:36Z: memtrap.toml:9:1:")
        );
        assert!(!text.contains('\x1b'), "{text}");
        assert!(shown_after(Some(failed), Vec::new()).ends_with("\nthe daemon watches no target\n"));
    }

    #[test]
    fn the_longest_names_fit_in_a_hundred_columns() {
        let text = shown(vec![instance(&"t".repeat(64), &"{instance=\"10.0.0.1:6060\",job=\"shop\"}".repeat(3))]);
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH + 4), "{text}");
        assert!(text.lines().next().unwrap().chars().count() <= WIDTH, "{text}");
    }

    #[test]
    fn the_longest_names_fit_in_the_columns_of_a_terminal_and_states_have_a_colour() {
        let targets = |instances| Targets {
            schema: 1,
            memtrap_version: "0".into(),
            host: "h".into(),
            time: "t".into(),
            not_reloaded: None,
            clock_doubted: false,
            instances,
        };
        let long = instance(&"t".repeat(64), &"{instance=\"10.0.0.1:6060\",job=\"shop\"}".repeat(3));
        let text = table(&targets(vec![long.clone()]), Look { width: Some(80), colours: false });
        assert!(text.lines().all(|l| crate::layout::width(l) <= 80), "{text}");
        let shown = table(&targets(vec![long]), Look { width: Some(80), colours: true });
        assert!(shown.contains("\x1b[33mcapturing\x1b[0m"), "{shown}");
        assert_eq!(shown.replace("\x1b[33m", "").replace("\x1b[0m", ""), text);
    }

    #[test]
    fn what_comes_from_outside_moves_no_cursor() {
        let mut evil = instance("checkout", "pid\x1b[2J");
        evil.status.reason = "\x1b]0;title\x07".into();
        assert!(!shown(vec![evil]).contains('\x1b'));
    }
}
