//! Two hundred Go services with random incidents, for as long as is asked for: every incident one bundle, nothing grows, no poll is late.
//!
//! `make soak` runs it for half an hour on the shipped binary; `cargo bench --bench soak -- MINUTES [SERVICES] [SEED]` for another time.
//! It ends with 1 at the first thing that is not so.

#![allow(clippy::disallowed_methods, reason = "it reads clocks")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{GoVersion, MIB, Svc, bundles_in, repo, wait_until};
use tempfile::TempDir;

/// Threshold, cooldown and hold of every target.
const RULES: &str =
    "threshold = \"80MiB\"\nfor = \"1s\"\ncooldown = \"20s\"\nrearm = \"80%\"\ncpu_seconds = 0\nmax_interval = \"1s\"\nbaseline = \"2m\"\n";
const AT_ONCE: usize = 6;
/// Minutes that are not compared.
const WARM_UP: usize = 2;
/// Polls are a second apart, and may be late by this much.
const LATEST: u64 = 3_000;

/// The least and the most of descriptors, threads and MiB of RSS within a minute. What is never given back shows in the least; the most
/// depends on how many captures meet.
type Held = [(u64, u64); 3];

/// Where a service's incident stands.
enum Incident {
    Grown { at: Instant, bundles: usize },
    Freed { at: Instant },
}

struct Soak {
    memtrap: Child,
    dir: TempDir,
    services: Vec<Svc>,
    running: HashMap<usize, Incident>,
    caught: Vec<usize>,
    random: u64,
}

impl Soak {
    fn start(count: usize, minutes: u64, seed: u64) -> Soak {
        let life = format!("{}m", minutes + 5);
        let services: Vec<Svc> = (0..count).map(|_| Svc::start(GoVersion::Newest, &["-exit-after", &life])).collect();
        let dir = TempDir::new().unwrap();
        let at = dir.path().display();
        let mut config = format!(
            "[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\nmax_captures_per_hour = 3600\n\
             [retention]\nmax_bundles_per_target = 100000\nmax_total_size = \"50GiB\"\n[defaults]\n{RULES}"
        );
        for (n, svc) in services.iter().enumerate() {
            config += &format!("[[target]]\nname = \"s{n}\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\n", svc.pid(), svc.pprof());
        }
        fs::write(dir.path().join("m.toml"), config).unwrap();
        let binary = std::env::var_os("MEMTRAP").map_or_else(|| repo().join("target/dist/memtrap"), PathBuf::from);
        let log = File::create(dir.path().join("log")).unwrap();
        let memtrap = Command::new(binary)
            .args(["run", "-c"])
            .arg(dir.path().join("m.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let caught = vec![0; services.len()];
        let soak = Soak { memtrap, dir, services, running: HashMap::new(), caught, random: seed | 1 };
        wait_until(Duration::from_secs(60), "memtrap watches", || soak.log().contains("memtrap watches"));
        soak
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below
    }

    fn bundles(&self, service: usize) -> usize {
        let dir = self.dir.path().join(format!("bundles/s{service}"));
        let found = fs::read_dir(dir).map(|d| d.flatten().filter(|e| e.path().extension().is_none_or(|e| e != "partial")).count());
        found.unwrap_or(0)
    }

    /// Begins incidents, ends those that were caught, and holds each to exactly one bundle.
    fn turn(&mut self) {
        if self.running.len() < AT_ONCE {
            let count = self.services.len();
            let service = self.random(count);
            if !self.running.contains_key(&service) {
                let bundles = self.bundles(service);
                assert_eq!(bundles, self.caught[service], "s{service}: a bundle without an incident");
                let bytes = (90 + self.random(60) as u64) * MIB;
                self.services[service].tell(&format!("grow?bytes={bytes}"));
                self.running.insert(service, Incident::Grown { at: Instant::now(), bundles });
            }
        }
        let services: Vec<usize> = self.running.keys().copied().collect();
        for service in services {
            let found = self.bundles(service);
            match self.running[&service] {
                Incident::Grown { bundles, .. } if found == bundles + 1 => {
                    self.caught[service] += 1;
                    self.services[service].tell("free");
                    self.running.insert(service, Incident::Freed { at: Instant::now() });
                }
                Incident::Grown { at, bundles } => {
                    assert!(
                        found == bundles && at.elapsed() < Duration::from_secs(60),
                        "s{service}: {found} bundles after {:?}",
                        at.elapsed()
                    );
                }
                // its cooldown has passed, and it has recovered
                Incident::Freed { at } if at.elapsed() > Duration::from_secs(30) => {
                    assert_eq!(found, self.caught[service], "s{service}: an incident of two bundles");
                    self.running.remove(&service);
                }
                Incident::Freed { .. } => {}
            }
        }
    }

    /// Descriptors, threads, RSS in MiB.
    fn holds(&self) -> [u64; 3] {
        let pid = self.memtrap.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("memtrap runs");
        let number = |key: &str| {
            status.lines().find_map(|l| l.strip_prefix(key)?.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok())
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        [descriptors, number("Threads").unwrap_or(0), number("VmRSS").unwrap_or(0) / 1024]
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = self.memtrap.kill();
        let _ = self.memtrap.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of memtrap's log ---\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The longest time between two readings around the capture, in milliseconds.
fn longest_gap(bundle: &Path) -> u64 {
    let text = fs::read_to_string(bundle.join("timeline.csv")).unwrap();
    let times: Vec<u64> = text.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let before = text.lines().skip(1).filter(|l| l.ends_with(",before")).count();
    // older ones than the last sixteen are thinned
    let recent = &times[before.saturating_sub(16)..];
    recent.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

fn main() {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let argument = |n: usize, default: u64| arguments.get(n).copied().unwrap_or(default);
    let (minutes, services, seed) = (argument(0, 30), argument(1, 200), argument(2, 20_261_123));
    eprintln!("{services} services for {minutes} min, seed {seed}");
    let mut soak = Soak::start(services as usize, minutes, seed);
    let start = Instant::now();
    let mut minutes_held: Vec<Held> = Vec::new();
    let mut held: Held = [(u64::MAX, 0); 3];
    let mut next_look = Duration::from_secs(60);
    while start.elapsed() < Duration::from_secs(minutes * 60) {
        soak.turn();
        for (range, now) in held.iter_mut().zip(soak.holds()) {
            *range = (range.0.min(now), range.1.max(now));
        }
        if start.elapsed() >= next_look {
            next_look += Duration::from_secs(60);
            let [descriptors, threads, rss] = held.map(|(least, most)| format!("{least} to {most}"));
            let incidents: usize = soak.caught.iter().sum();
            eprintln!(
                "{:>3} min: {incidents} incidents, {descriptors} descriptors, {threads} threads, {rss} MiB RSS",
                start.elapsed().as_secs() / 60
            );
            minutes_held.push(std::mem::replace(&mut held, [(u64::MAX, 0); 3]));
        }
        sleep(Duration::from_millis(500));
    }
    let bundles = bundles_in(&soak.dir.path().join("bundles"));
    let gap = bundles.iter().map(|b| longest_gap(b)).max().unwrap_or(0);
    let incidents: usize = soak.caught.iter().sum();
    let open = soak.running.values().filter(|i| matches!(i, Incident::Grown { .. })).count();
    assert!((incidents..=incidents + open).contains(&bundles.len()), "{incidents} incidents, {} bundles", bundles.len());
    for bundle in &bundles {
        let verified = memtrap::bundle::verify(bundle).unwrap();
        assert_eq!(verified.problems, [], "{}", bundle.display());
    }
    assert!(gap <= LATEST, "a poll was {gap} ms after the one before");
    // until each part of the program has run once, it grows
    let settled = &minutes_held[minutes_held.len().min(WARM_UP)..];
    let (first, second) = settled.split_at(settled.len() / 2);
    for (i, what, slack, above_rest) in [(0, "descriptors", 2, 32), (1, "threads", 1, 16), (2, "MiB of RSS", 2, 32)] {
        let most = |part: &[Held], of: fn((u64, u64)) -> u64| part.iter().map(|held| of(held[i])).max().unwrap_or(0);
        let [(rest, peak), (rest_later, peak_later)] = [first, second].map(|half| (most(half, |h| h.0), most(half, |h| h.1)));
        println!("{what}: {rest} at rest, at most {peak} in the first half; {rest_later} and {peak_later} in the second");
        assert!(first.is_empty() || rest_later <= rest + slack, "{what} grow");
        assert!(peak.max(peak_later) <= rest_later + above_rest, "{what}: too much for a moment");
    }
    println!("{incidents} incidents, {} bundles, all sums right; the longest time between two polls {gap} ms", bundles.len());
}
