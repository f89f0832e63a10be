//! What never answers (a disk, a name server, a store, a program, the reader of the log) delays nobody else: another target's bundle comes,
//! `/healthz` answers, and SIGTERM ends memtrap. In a debug build memtrap also checks at each such call that it is not made where others wait.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::http::try_ask;
use common::{Idle, bundles_in, entry, not_checked, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A file system whose server never says a word: everything that is asked of it waits, until it is dropped.
struct Mute {
    dir: TempDir,
    _server: File,
}

impl Mute {
    /// `None`, said aloud: nothing may be mounted here.
    fn mount(what: &str) -> Option<Mute> {
        let dir = TempDir::new().unwrap();
        let Ok(server) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            not_checked(&format!("{what}: no /dev/fuse"));
            return None;
        };
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other";
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", options, "memtrap-test"]).arg(dir.path()).stdin(server.try_clone().unwrap());
        match mount.output() {
            Ok(done) if done.status.success() => Some(Mute { dir, _server: server }),
            done => {
                not_checked(&format!("{what}: no file system of its own can be mounted: {done:?}"));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let done = Command::new("umount").args(["--lazy", "--force", "-i"]).arg(self.path()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} is still mounted", self.path().display());
    }
}

/// The daemon with a healthy target, and whatever else a test adds to make trouble.
struct Daemon {
    home: TempDir,
    port: u16,
    child: Option<Child>,
    _service: Faulty,
}

impl Daemon {
    /// `targets` are further ones; `[daemon]` begins with `daemon`.
    fn new(daemon: &str, rest: &str, mark: u32) -> Daemon {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port();
        let (home, port, service) = (TempDir::new().unwrap(), port, Faulty::start(Fault::Profile, &[]));
        let dir = home.path().display();
        let dirs = if daemon.contains("bundle_dir") { String::new() } else { format!("bundle_dir = \"{dir}/bundles\"\n") };
        let dirs = if daemon.contains("state_dir") { dirs } else { format!("{dirs}state_dir = \"{dir}/state\"\n") };
        let healthy = format!(
            "[[target]]\nname = \"healthy\"\nprocess = {}\npprof = \"{}\"\nthreshold = \"1MiB\"\nfor = \"0s\"\ninterval = \"100ms\"\n\
             cpu_seconds = 0\nretries = 0\n",
            Idle::selector(mark),
            service.pprof()
        );
        let at_once = if daemon.contains("max_concurrent_captures") { "" } else { "max_concurrent_captures = 16\n" };
        let text = format!("[daemon]\n{dirs}listen = \"127.0.0.1:{port}\"\n{at_once}{daemon}\n{rest}\n{healthy}");
        fs::write(home.path().join("memtrap.toml"), text).unwrap();
        Daemon { home, port, child: None, _service: service }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memtrap"));
        command.args(["run", "--log-level", "debug", "-c"]).arg(self.home.path().join("memtrap.toml"));
        command
    }

    fn start(&mut self, mut command: Command) {
        let log = File::create(self.log_path()).unwrap();
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.wait(20, "it listens", |d| d.get("/healthz").is_ok_and(|status| status == 200));
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn wait(&self, seconds: u64, what: &str, mut is_so: impl FnMut(&Daemon) -> bool) {
        wait_until(Duration::from_secs(seconds), what, || is_so(self));
    }

    fn bundles_of(&self, target: &str) -> Vec<PathBuf> {
        bundles_in(&self.home.path().join("bundles")).into_iter().filter(|b| b.parent().unwrap().ends_with(target)).collect()
    }

    /// The healthy target fires, and its bundle comes; the server answers.
    fn captures_the_healthy_one(&self, mark: u32) -> PathBuf {
        let _service = Idle::start(mark);
        self.wait(30, "the bundle of the target that is well", |d| d.bundles_of("healthy").len() == 1);
        assert_eq!((self.get("/healthz").unwrap(), self.get("/metrics").unwrap()), (200, 200));
        self.bundles_of("healthy").remove(0)
    }

    /// The status of an answer.
    fn get(&self, path: &str) -> std::io::Result<u16> {
        try_ask(&format!("127.0.0.1:{}", self.port), "GET", path, &[], "").map(|answer| answer.status)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.as_ref().unwrap().id() as i32).unwrap(), signal).unwrap();
    }

    /// SIGTERM is heard, and ends it.
    fn stops(&mut self) {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        wait_until(Duration::from_secs(40), "memtrap has ended", || child.try_wait().unwrap().is_some());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- memtrap's log ---\n{}---", self.log());
        }
    }
}

/// A target whose captures and scrapes come to nothing.
fn troubled(name: &str, mark: u32, keys: &str) -> String {
    format!(
        "[[target]]\nname = \"{name}\"\nprocess = {}\nthreshold = \"1MiB\"\nfor = \"0s\"\ninterval = \"100ms\"\ncpu_seconds = 0\n{keys}\n",
        Idle::selector(mark)
    )
}

#[test]
fn name_servers_that_never_answer_delay_no_other_targets_bundle_and_not_the_end() {
    const WHAT: &str = "name servers that never answer";
    let server = Ipv4Addr::new(127, 83, (std::process::id() >> 8) as u8, std::process::id() as u8);
    let Ok(_mute) = UdpSocket::bind((server, 53)) else { return not_checked(&format!("{WHAT}: port 53 of {server} cannot be had")) };
    let rest: String = (0..12)
        .map(|n| {
            let remote = format!(
                "[[target]]\nname = \"scraped{n}\"\nmetrics = {{ url = \"http://m{n}.memtrap.test/metrics\" }}\nthreshold = \"1GiB\"\n"
            );
            remote + &troubled(&format!("asked{n}"), 41, &format!("pprof = \"http://p{n}.memtrap.test/debug/pprof\""))
        })
        .collect();
    let mut daemon = Daemon::new("max_captures_per_hour = 100", &rest, 42);
    let resolver = daemon.home.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {server}\n")).unwrap();
    // only for memtrap
    let mut command = Command::new("unshare");
    let run = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    command.args(["--mount", "sh", "-c", run]).arg(resolver).arg(env!("CARGO_BIN_EXE_memtrap"));
    command.args(["run", "--log-level", "debug", "-c"]).arg(daemon.home.path().join("memtrap.toml"));
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        return not_checked(&format!("{WHAT}: no namespace can be made"));
    }
    let _asked = Idle::start(41);
    daemon.start(command);
    daemon.wait(20, "captures have begun", |d| d.log().matches("capture starts").count() >= 12);
    daemon.captures_the_healthy_one(42);
    assert!(daemon.bundles_of("asked0").is_empty(), "the others still wait for their names");
    daemon.wait(60, "a bundle says why it has no profiles", |d| {
        let bundle = d.bundles_of("asked0").pop();
        bundle.is_some_and(|b| entry(&b, "heap.pb.gz")["reason"].as_str().unwrap().contains("the name server did not answer within"))
    });
    daemon.stops();
}

#[test]
fn services_that_hang_delay_no_capture_of_another_target() {
    let hang = [(); 4].map(|()| Faulty::start(Fault::Hang, &[]));
    let target = |(n, service): (usize, &Faulty)| troubled(&format!("hangs{n}"), 51, &format!("pprof = \"{}\"", service.pprof()));
    let rest: String = hang.iter().enumerate().map(target).collect();
    let mut daemon = Daemon::new("max_concurrent_captures = 1\nmax_captures_per_hour = 100", &rest, 52);
    let _hanging = Idle::start(51);
    let command = daemon.command();
    daemon.start(command);
    daemon.wait(20, "captures of the services that hang have begun", |d| d.log().matches("capture starts").count() >= 4);
    daemon.captures_the_healthy_one(52);
    assert!((0..4).all(|n| daemon.bundles_of(&format!("hangs{n}")).is_empty()), "the others still wait for their services");
    daemon.stops();
}

#[test]
fn secrets_and_uploads_on_a_disk_that_never_answers_and_a_hook_that_never_ends_cost_others_nothing() {
    let Some(mute) = Mute::mount("a disk that never answers") else { return };
    let dead = mute.path().display();
    let rest = format!(
        "[upload]\nurl = \"file://{dead}/store\"\nclaim = true\n[[notify]]\nname = \"program\"\nkind = \"exec\"\ncommand = [\"/bin/sleep\", \"300\"]\n\
         [[notify]]\nname = \"web\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/x\"\nauth = {{ bearer_file = \"{dead}/token\" }}\n{}",
        troubled("secret", 43, &format!("pprof = \"http://127.0.0.1:9/debug/pprof\"\nauth = {{ bearer_file = \"{dead}/token\" }}"))
    );
    let mut daemon = Daemon::new("", &rest, 44);
    let command = daemon.command();
    let _secret = Idle::start(43);
    daemon.start(command);
    daemon.wait(20, "a capture has begun", |d| d.log().contains("capture starts"));
    daemon.captures_the_healthy_one(44);
    daemon.wait(40, "a bundle says why it has no profiles", |d| {
        let bundle = d.bundles_of("secret").pop();
        bundle.is_some_and(|b| entry(&b, "heap.pb.gz")["reason"].as_str().unwrap().contains("no answer within"))
    });
    daemon.stops();
}

#[test]
fn a_bundle_directory_that_never_answers_leaves_the_server_and_the_signals_alone() {
    let Some(mute) = Mute::mount("a bundle directory that never answers") else { return };
    let home = TempDir::new().unwrap();
    // it answers at the start
    let bundles = home.path().join("bundles");
    fs::create_dir(&bundles).unwrap();
    let mut daemon = Daemon::new(&format!("bundle_dir = \"{}\"", bundles.display()), "", 45);
    let command = daemon.command();
    daemon.start(command);
    let done = Command::new("mount").arg("--bind").arg(mute.path()).arg(&bundles).output().unwrap();
    if !done.status.success() {
        // the mount program looks before it leaps, and is held as well
        return not_checked("a bundle directory that never answers: nothing can be bound there");
    }
    let _service = Idle::start(45);
    daemon.wait(20, "a capture has begun", |d| d.log().contains("capture starts"));
    assert_eq!((daemon.get("/healthz").unwrap(), daemon.get("/api/targets").unwrap()), (200, 200));
    daemon.stops();
    let _ = Command::new("umount").args(["--lazy", "-i"]).arg(&bundles).status();
}

#[test]
fn a_disk_that_does_not_answer_at_the_start_is_not_waited_for_by_the_signals() {
    let Some(mute) = Mute::mount("a state directory that never answers") else { return };
    let mut daemon = Daemon::new(&format!("state_dir = \"{}/state\"", mute.path().display()), "", 46);
    let log = File::create(daemon.log_path()).unwrap();
    daemon.child = Some(daemon.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let status = format!("/proc/{}/status", daemon.child.as_ref().unwrap().id());
    daemon.wait(20, "it hears SIGTERM", |_| {
        let caught = fs::read_to_string(&status).unwrap_or_default();
        let mask = caught.lines().find_map(|l| l.strip_prefix("SigCgt:")).and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
        mask.is_some_and(|mask| mask & 1 << (Signal::TERM.as_raw() - 1) != 0)
    });
    daemon.stops();
    assert!(daemon.log().contains("memtrap stops before it has started to watch"), "{}", daemon.log());
}

#[test]
fn a_configuration_on_a_disk_that_does_not_answer_keeps_the_old_one_in_force() {
    let Some(mute) = Mute::mount("a configuration that never answers") else { return };
    let mut daemon = Daemon::new("", "", 47);
    let command = daemon.command();
    daemon.start(command);
    let file = daemon.home.path().join("memtrap.toml");
    fs::rename(&file, daemon.home.path().join("was.toml")).unwrap();
    std::os::unix::fs::symlink(mute.path().join("memtrap.toml"), &file).unwrap();
    daemon.signal(Signal::HUP);
    daemon.captures_the_healthy_one(47);
    daemon.wait(30, "the reload has failed", |d| d.log().contains("could not be read: no answer within 10s"));
    daemon.stops();
}

#[test]
fn who_stops_reading_the_log_stops_nothing_else() {
    let mut daemon = Daemon::new("", "", 48);
    let (reader, mut log) = UnixStream::pair().unwrap();
    // full before the first line
    log.set_nonblocking(true).unwrap();
    while log.write(&[b'.'; 4096]).is_ok() {}
    log.set_nonblocking(false).unwrap();
    let mut command = daemon.command();
    daemon.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(OwnedFd::from(log)).spawn().unwrap());
    daemon.wait(20, "it listens", |d| d.get("/healthz").is_ok_and(|status| status == 200));
    daemon.captures_the_healthy_one(48);
    daemon.stops();
    drop(reader);
}

#[test]
fn a_service_manager_that_does_not_listen_stops_nothing() {
    let mut daemon = Daemon::new("", "", 49);
    let path = daemon.home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    // its queue is full
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &path).is_ok() {}
    let mut command = daemon.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000");
    daemon.start(command);
    daemon.captures_the_healthy_one(49);
    daemon.stops();
    drop(socket);
}
