//! The built memtrap: commands that end, and the daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{bundles_in, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_memtrap");

/// Runs a memtrap command to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).stdin(Stdio::null()).env_remove("GO").output().unwrap()
}

/// What fired must fire again when the bundle's timeline is replayed under the rules that the bundle names: by the same rule, and not before
/// it could have.
pub fn assert_replays(bundle: &Path) {
    if !bundle.join("timeline.csv").exists() {
        // killed before it was written
        return;
    }
    let manifest = super::manifest(bundle);
    let trigger = manifest["trigger"]["trigger"].as_str().unwrap();
    // of the collector a timeline says nothing, and of a leak too little
    if manifest["rules"].is_null() || ["alert", "gc", "leak"].contains(&trigger) {
        return;
    }
    let output = run(&["replay", bundle.to_str().unwrap(), "--json"]);
    let why = || {
        let timeline = fs::read_to_string(bundle.join("timeline.csv")).unwrap();
        format!(
            "{}{}\n{timeline}\n{:#}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
            manifest["trigger"]
        )
    };
    assert!(output.status.success(), "{}", why());
    let replayed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let events = replayed["series"][0]["events"].as_array().unwrap();
    let fires = |e: &&serde_json::Value| e["fired"]["trigger"] == trigger && e["fired"]["level_bytes"].as_u64() > Some(0);
    assert!(events.iter().any(|e| fires(&e)), "{trigger} fired, and does not in the replay of {}:\n{}", bundle.display(), why());
}

/// `memtrap run` in a directory of its own. On a failing test it prints its log.
pub struct Memtrap {
    dir: TempDir,
    child: Option<Child>,
}

impl Memtrap {
    /// Starts the daemon with these `[[target]]` and `[defaults]` tables, and waits until it watches.
    pub fn start(config: &str) -> Memtrap {
        Memtrap::start_with("", config)
    }

    /// Also with further keys of `[daemon]`.
    pub fn start_with(daemon: &str, config: &str) -> Memtrap {
        let mut memtrap = Memtrap { dir: TempDir::new().unwrap(), child: None };
        memtrap.configure(daemon, config);
        memtrap.spawn();
        memtrap
    }

    /// Once something was put into the directory that its state, bundles and configuration are in.
    pub fn start_after(daemon: &str, config: &str, before: impl FnOnce(&Path)) -> Memtrap {
        let mut memtrap = Memtrap { dir: TempDir::new().unwrap(), child: None };
        memtrap.configure(daemon, config);
        before(memtrap.dir.path());
        memtrap.spawn();
        memtrap
    }

    /// With so few files that it may have open.
    pub fn start_with_few_files(most: u32, config: &str) -> Memtrap {
        let mut memtrap = Memtrap { dir: TempDir::new().unwrap(), child: None };
        memtrap.configure("", config);
        memtrap.spawn_by(&["sh", "-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\""), BINARY]);
        memtrap
    }

    /// With its bundles in this directory.
    pub fn start_in(bundle_dir: &Path, config: &str) -> Memtrap {
        let mut memtrap = Memtrap { dir: TempDir::new().unwrap(), child: None };
        memtrap.configure_in(bundle_dir, config);
        memtrap.spawn();
        memtrap
    }

    /// Writes the configuration with its bundles in this directory.
    pub fn configure_in(&self, bundle_dir: &Path, config: &str) {
        let (dir, bundles) = (self.dir.path().display(), bundle_dir.display());
        let text = format!("[daemon]\nstate_dir = \"{dir}/state\"\nbundle_dir = \"{bundles}\"\n{config}");
        fs::write(self.config_path(), text).unwrap();
    }

    /// Writes the configuration; takes effect at a start or reload.
    pub fn configure(&self, daemon: &str, config: &str) {
        let dir = self.dir.path().display();
        let text = format!("[daemon]\nstate_dir = \"{dir}/state\"\nbundle_dir = \"{dir}/bundles\"\n{daemon}\n{config}");
        fs::write(self.config_path(), text).unwrap();
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("memtrap.toml")
    }

    pub fn bundle_dir(&self) -> PathBuf {
        self.dir.path().join("bundles")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where it listens, as its log says last.
    pub fn address(&self) -> String {
        let log = self.log();
        let line = log.lines().rev().find(|l| l.contains("listening:")).unwrap_or_else(|| panic!("it does not listen:\n{log}"));
        line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    fn spawn(&mut self) {
        self.spawn_by(&[BINARY]);
    }

    fn spawn_by(&mut self, program: &[&str]) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let before = self.log().matches("memtrap watches").count();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(["run", "--log-level", "debug", "-c"]).arg(self.config_path()).stdin(Stdio::null());
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.wait_until(10, "memtrap watches", |m| m.log().matches("memtrap watches").count() > before);
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("memtrap runs").id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it with this signal, and waits for its end.
    pub fn stop(&mut self, signal: Signal) -> std::process::ExitStatus {
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        let mut status = None;
        wait_until(Duration::from_secs(30), "memtrap has ended", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Starts it again on the same directories.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none());
        self.spawn();
    }

    pub fn bundles(&self) -> Vec<PathBuf> {
        bundles_in(&self.bundle_dir())
    }

    /// Waits for this many bundles, and returns them. Each must replay to its own trigger.
    pub fn wait_for_bundles(&self, seconds: u64, count: usize) -> Vec<PathBuf> {
        self.wait_until(seconds, &format!("{count} bundles"), |m| m.bundles().len() >= count);
        let bundles = self.bundles();
        bundles.iter().for_each(|bundle| assert_replays(bundle));
        bundles
    }

    pub fn wait_until(&self, seconds: u64, what: &str, mut is_so: impl FnMut(&Memtrap) -> bool) {
        wait_until(Duration::from_secs(seconds), what, || is_so(self));
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Memtrap {
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
