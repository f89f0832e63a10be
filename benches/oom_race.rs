//! A Go service that leaks until the kernel kills it, with memtrap and its defaults beside it: in how many lives is a heap profile saved?
//!
//! `cargo bench --bench oom_race -- RUNS MIB_PER_SECOND…` (20 at 500 if nothing is said), with the memtrap of `$MEMTRAP`, else
//! `target/dist/memtrap`. Wants root and a memory controller of cgroup v1: it makes a cgroup with a limit of 1.5 GiB below its own, and
//! removes it. Each life takes some seconds, and all 1.5 GiB of its memory.

#![allow(clippy::disallowed_methods, reason = "it reads clocks")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{GoVersion, MIB, Svc, bundles_in, go_svc, repo};
use memtrap::host::ProcFs;
use memtrap::host::cgroup::{CgroupRef, Version};
use memtrap::host::proc::is_dead;
use tempfile::TempDir;

const LIMIT: u64 = 1536 * MIB;
/// Between the start of a service and its leak. Whole seconds, and a part of one that differs from life to life: the leak meets the polls
/// in every phase.
const HEALTHY: Duration = Duration::from_secs(3);
/// From the leak's beginning to the death, and from there to the bundle.
const PATIENCE: Duration = Duration::from_secs(180);
/// What makes an answer: which objects, whose stacks, how much in all.
const WANTED: [&str; 3] = ["heap", "goroutine", "memstats"];

struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Cgroup {
        let own = CgroupRef::of(&ProcFs::host(), std::process::id()).ok().flatten().filter(|own| own.version == Version::V1);
        let own = own.expect("a memory controller of cgroup v1");
        let dir = own.own().dir.join(format!("memtrap-oom-race-{}", std::process::id()));
        fs::create_dir(&dir).expect("root, to make a cgroup");
        let made = Cgroup(dir);
        fs::write(made.0.join("memory.limit_in_bytes"), LIMIT.to_string()).unwrap();
        made
    }

    /// A service that lives in it.
    fn service(&self) -> Svc {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs")).arg(go_svc(GoVersion::Newest));
        Svc::start_in(shell, &[])
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // the last process may still be leaving
        let gone = (0..100).any(|_| {
            sleep(Duration::from_millis(20));
            fs::remove_dir(&self.0).is_ok()
        });
        if !gone {
            eprintln!("{} could not be removed", self.0.display());
        }
    }
}

struct Memtrap {
    child: Child,
    dir: TempDir,
}

impl Memtrap {
    fn start(svc: &Svc) -> Memtrap {
        let dir = TempDir::new().unwrap();
        let at = dir.path().display();
        let config = format!(
            "[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n\
             [[target]]\nname = \"leak\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nthreshold = \"80%\"\n",
            svc.pid(),
            svc.pprof()
        );
        fs::write(dir.path().join("m.toml"), config).unwrap();
        let binary = std::env::var_os("MEMTRAP").map_or_else(|| repo().join("target/dist/memtrap"), PathBuf::from);
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(binary);
        command.args(["run", "-c"]).arg(dir.path().join("m.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let memtrap = Memtrap { child, dir };
        wait(|| memtrap.log().contains("watching process"), "memtrap watches the service");
        memtrap
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn bundle(&self) -> Option<PathBuf> {
        bundles_in(&self.dir.path().join("bundles")).pop()
    }

    /// A capture has begun, or none ever will.
    fn is_at_it(&self) -> bool {
        let log = self.log();
        log.contains("capture starts") && self.bundle().is_none()
    }
}

impl Drop for Memtrap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(is_so: impl Fn() -> bool, what: &str) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// One life: which of the wanted is in the bundle, and the MiB at which it fired.
struct Life {
    had: [bool; WANTED.len()],
    fired_mib: Option<u64>,
}

fn live(cgroup: &Cgroup, rate: u64, phase: Duration) -> Life {
    let svc = cgroup.service();
    let memtrap = Memtrap::start(&svc);
    sleep(HEALTHY + phase);
    svc.tell(&format!("leak?rate={}&max={}", rate * MIB, 64 * LIMIT));
    wait(|| ProcFs::host().dir(svc.pid()).and_then(|dir| dir.stat()).is_ok_and(|stat| is_dead(&stat)), "the kernel kills the service");
    // the watcher's next look, and what follows from it
    sleep(Duration::from_secs(2));
    wait(|| !memtrap.is_at_it(), "the capture ends");
    let Some(bundle) = memtrap.bundle() else {
        eprintln!("no bundle:\n{}", memtrap.log());
        return Life { had: [false; WANTED.len()], fired_mib: None };
    };
    let manifest = common::manifest(&bundle);
    let had = WANTED.map(|step| is_good(&manifest, &bundle, step));
    if had.contains(&false) {
        eprintln!("{}: {:#}\n{}", bundle.display(), manifest["trigger"], memtrap.log());
    }
    if std::env::var_os("VERBOSE").is_some() {
        tell(&manifest);
    }
    Life { had, fired_mib: manifest["trigger"]["rss_bytes"].as_u64().map(|bytes| bytes / MIB) }
}

fn is_good(manifest: &serde_json::Value, bundle: &Path, step: &str) -> bool {
    let entry = manifest["files"].as_array().unwrap().iter().find(|entry| entry["step"] == step);
    entry.is_some_and(|entry| {
        let bytes = fs::metadata(bundle.join(entry["name"].as_str().unwrap_or_default())).map_or(0, |m| m.len());
        entry["status"] == "ok" && bytes > 0
    })
}

/// What was taken, in its order, with milliseconds.
fn tell(manifest: &serde_json::Value) {
    let files = manifest["files"].as_array().unwrap().iter();
    let steps = files.map(|f| {
        format!("{} {} {} ms", f["step"].as_str().unwrap_or_default(), f["status"].as_str().unwrap_or_default(), f["milliseconds"])
    });
    println!("  {}\n  {}", manifest["trigger"]["reason"], steps.collect::<Vec<_>>().join(", "));
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let runs = numbers.first().copied().unwrap_or(20);
    let rates = numbers.get(1..).filter(|rates| !rates.is_empty()).unwrap_or(&[500]);
    let cgroup = Cgroup::make();
    println!("| MiB/s | runs | {} | all | no bundle | fired at MiB, least, median, most |", WANTED.join(" | "));
    println!("| --- | --- |{} --- | --- | --- |", " --- |".repeat(WANTED.len()));
    for rate in rates {
        let lives: Vec<Life> = (0..runs).map(|n| live(&cgroup, *rate, Duration::from_millis(n * 1000 / runs))).collect();
        let count = |is: &dyn Fn(&Life) -> bool| lives.iter().filter(|life| is(life)).count();
        let each = (0..WANTED.len()).map(|i| format!(" {} |", count(&|life| life.had[i]))).collect::<String>();
        let mut fired: Vec<u64> = lives.iter().filter_map(|life| life.fired_mib).collect();
        fired.sort_unstable();
        let at = |i: usize| fired.get(i).map_or("none".to_owned(), u64::to_string);
        let (all, none) = (count(&|life| life.had.iter().all(|had| *had)), count(&|life| life.fired_mib.is_none()));
        let [least, median, most] = [at(0), at(fired.len() / 2), at(fired.len().saturating_sub(1))];
        println!("| {rate} | {runs} |{each} {all} | {none} | {least}, {median}, {most} |");
    }
}
