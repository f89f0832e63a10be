//! What people run beside their services today, watching the same processes at the same time, each set to do as little as it can.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Row;
use super::common::{debian_program, wait_until};
use super::fixtures::{Daemon, Ends, Sleepers};
use super::measure::{Usage, bytes, usage};
use super::watching::{SETTLE, WATCH};

const PROCESSES: usize = 100;

pub fn rows() -> Vec<Row> {
    let sleepers = Sleepers::start(PROCESSES);
    let dir = TempDir::new().unwrap();
    let daemon = Daemon::start(&sleepers.target(0));
    let monit = monit(&sleepers, dir.path());
    let exporter = Exporter::start(&sleepers, dir.path());
    sleep(SETTLE);
    let pid = |ends: Option<&Ends>| ends.map_or(daemon.pid(), |ends| ends.0.id());
    let pids = [daemon.pid(), pid(monit.as_ref()), pid(exporter.as_ref().map(|e| &e.child))];
    let asked = exporter.as_ref().map_or(0, |e| e.asked.load(Ordering::Relaxed));
    let [ours, theirs, exported] = usage(pids, WATCH);
    let words = |used: Usage| format!("{:.3} % of a core, {} RSS", used.cpu, bytes(used.rss));
    let row = |name: &str, how: &str, is_there: bool, used: Usage| {
        let what = format!("memtrap against {name}, {PROCESSES} processes each second{how}");
        match is_there {
            true => {
                let ratio = format!("{:.1} × the CPU, {:.1} × the RSS", used.cpu / ours.cpu, used.rss as f64 / ours.rss as f64);
                Row::new(what, words(ours)).against(words(used), ratio)
            }
            false => Row::not_measured(what, &format!("this machine has no {name} and cannot get it")),
        }
    };
    if let Some(exporter) = &exporter {
        let scrapes = exporter.asked.load(Ordering::Relaxed) - asked;
        assert!(u64::from(scrapes) + 3 >= WATCH.as_secs(), "the exporter was scraped {scrapes} times only");
    }
    vec![
        row("monit", "", monit.is_some(), theirs),
        row("prometheus-process-exporter", " (smaps, threads and children off; without the Prometheus)", exporter.is_some(), exported),
    ]
}

/// Checks the memory of each, found by a pid file, in cycles of 1 s.
fn monit(sleepers: &Sleepers, dir: &Path) -> Option<Ends> {
    let program = debian_program("monit", "usr/bin/monit", "monit beside memtrap")?;
    let at = dir.display();
    let mut config =
        format!("set daemon 1\nset log {at}/monit.log\nset pidfile {at}/monit.pid\nset idfile {at}/id\nset statefile {at}/state\n");
    for pid in sleepers.pids() {
        fs::write(dir.join(format!("{pid}.pid")), pid.to_string()).unwrap();
        let _ = writeln!(config, "check process p{pid} with pidfile {at}/{pid}.pid\n  if memory usage > 1 GB then alert");
    }
    let file = dir.join("monitrc");
    fs::write(&file, config).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(program);
    command.arg("-I").arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut monit = Ends(command.spawn().unwrap());
    sleep(Duration::from_secs(1));
    let log = || fs::read_to_string(dir.join("monit.log")).unwrap_or_default();
    assert!(monit.0.try_wait().unwrap().is_none(), "monit has ended: {}", log().replace('\n', "; "));
    Some(monit)
}

/// prometheus-process-exporter, scraped each second.
struct Exporter {
    child: Ends,
    asked: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Exporter {
    fn start(sleepers: &Sleepers, dir: &Path) -> Option<Exporter> {
        let package = "prometheus-process-exporter";
        let program = debian_program(package, &format!("usr/bin/{package}"), &format!("{package} beside memtrap"))?;
        let config = format!("process_names:\n- name: '{{{{.PID}}}}'\n  exe: ['{}']\n", sleepers.program().display());
        fs::write(dir.join("names.yml"), config).unwrap();
        // a port that was free just now: it takes a number only, and tells no other
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(program);
        command.arg("-config.path").arg(dir.join("names.yml")).arg(format!("-web.listen-address={address}"));
        command.args(["-gather-smaps=false", "-threads=false", "-children=false"]);
        let child = Ends(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let scrape = move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(address)?;
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        wait_until(Duration::from_secs(10), "the exporter answers", || scrape().is_ok());
        let shown = scrape().unwrap().matches("memtype=\"resident\"").count();
        assert!(shown >= PROCESSES, "the exporter shows {shown} of {PROCESSES} processes");
        let exporter = Exporter { child, asked: Arc::default(), stop: Arc::default() };
        let (asked, stop) = (exporter.asked.clone(), exporter.stop.clone());
        std::thread::spawn(move || {
            let mut due = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                asked.fetch_add(u32::from(scrape().is_ok()), Ordering::Relaxed);
                due += Duration::from_secs(1);
                sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        Some(exporter)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
