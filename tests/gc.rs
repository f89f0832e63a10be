//! The `gc` rule on real Go programs: a spiral under a memory limit fires with the right numbers, and what is busy and healthy does not.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use common::numbers::deviations;
use common::{Build, GoVersion, Memtrap, Svc, go_program, manifest, run, wait_until};
use memtrap::clock::wall_now;
use memtrap::goruntime::{Program, memory_of};
use memtrap::host::ProcFs;

const LIVE: u64 = 100_000_000;
const LIMIT: u64 = 115_000_000;

/// `tests/go/collector` in a mode.
fn program(version: GoVersion, build: Build, args: &str) -> Svc {
    let args: Vec<&str> = args.split_whitespace().collect();
    Svc::start_in(Command::new(go_program(version, "collector", build)), &args)
}

fn target(svc: &Svc, name: &str, gc: &str) -> String {
    let (pid, pprof) = (svc.pid(), svc.pprof());
    format!(
        "[[target]]\nname = \"{name}\"\nprocess = {{ pid = {pid} }}\npprof = \"{pprof}\"\ngc = \"{gc}\"\nwarmup = \"0s\"\nfor = \"1s\"\n\
         cpu_seconds = 0\nholders = \"off\"\nbaseline = \"off\"\n"
    )
}

/// What the program's own runtime counts, and the kernel.
struct Truth {
    at: SystemTime,
    counts: BTreeMap<String, f64>,
    cpu: f64,
}

impl Truth {
    fn of(svc: &Svc) -> Truth {
        let answer = svc.get("/truth");
        let counts = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", svc.pid())).unwrap();
        let ticks: Vec<f64> = stat.rsplit(')').next().unwrap().split_whitespace().skip(12).take(2).map(|t| t.parse().unwrap()).collect();
        Truth { at: wall_now(), counts, cpu: ticks.iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64 }
    }

    fn class(&self, name: &str) -> f64 {
        self.counts[&format!("/cpu/classes/{name}:cpu-seconds")]
    }

    /// The share of all workers in the time of the Ps that did anything, or without those on idle Ps where these had CPUs to themselves.
    fn share_since(&self, first: &Truth) -> f64 {
        let more = |name| self.class(name) - first.class(name);
        let collecting = more("gc/mark/assist") + more("gc/mark/dedicated");
        let idle_workers = more("gc/mark/idle");
        let busy = more("total") - more("idle") - idle_workers;
        let cpu = self.cpu - first.cpu;
        if busy + idle_workers > cpu * 1.25 { (collecting + idle_workers) / (busy + idle_workers) } else { collecting / busy.max(cpu) }
    }
}

/// When the share of this window has reached this level, by the program's own count.
fn when_it_is_so(svc: &Svc, level: f64, window: Duration) -> SystemTime {
    let mut readings: VecDeque<Truth> = VecDeque::new();
    let begin = wall_now();
    loop {
        let now = Truth::of(svc);
        assert!(now.at.duration_since(begin).unwrap() < Duration::from_secs(120), "the program is in no spiral");
        let is_old = |reading: &Truth| now.at.duration_since(reading.at).unwrap() >= window;
        while readings.get(1).is_some_and(is_old) {
            readings.pop_front();
        }
        if readings.front().is_some_and(|first| is_old(first) && now.share_since(first) >= level) {
            return now.at;
        }
        readings.push_back(now);
        sleep(Duration::from_millis(250));
    }
}

fn a_spiral_is_seen(version: GoVersion, build: Build, more: &str) {
    let svc = program(version, build, &format!("-mode garbage -live {LIVE} -limit {LIMIT} -after 3s {more}"));
    let memtrap = Memtrap::start(&target(&svc, "svc", "40%/10s"));
    let so = when_it_is_so(&svc, 0.4, Duration::from_secs(10));
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    let m = manifest(&bundle);
    let fired = &m["trigger"];
    assert_eq!((fired["trigger"].as_str(), fired["window_seconds"].as_f64()), (Some("gc"), Some(10.0)), "{fired:#}");
    let began = humantime::parse_rfc3339(m["started"].as_str().unwrap()).unwrap();
    let late = began.duration_since(so).unwrap_or_default();
    assert!(late <= Duration::from_secs(10), "fired {late:?} after the share had reached 40 %: {fired:#}");
    let (gc, heap) = (&fired["gc"], &fired["gc"]["heap"]);
    assert!((0.4..=1.0).contains(&gc["share"].as_f64().unwrap()) && gc["collections"].as_u64() >= Some(2), "{gc:#}");
    assert_eq!(
        (heap["memory_limit_bytes"].as_u64(), heap["gogc"].as_i64(), heap["by_limit"].as_bool()),
        (Some(LIMIT), Some(100), Some(true))
    );
    let live = heap["live_bytes"].as_u64().unwrap();
    assert!(live >= LIVE * 9 / 10 && heap["goal_bytes"].as_u64().unwrap() < live * 3 / 2, "{heap:#}");
    let reason = fired["reason"].as_str().unwrap();
    assert!(reason.contains("; the collector takes ") && reason.contains("the memory limit of 110MiB lets the heap grow to"), "{reason}");
    memtrap.wait_until(60, "a verdict", |_| bundle.join("verdict.json").exists());
    let verdict: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert_eq!((verdict["cause"].as_str(), verdict["confidence"].as_str()), (Some("gc_thrash"), Some("high")), "{verdict:#}");
    assert!(verdict["summary"].as_str().unwrap().contains("under a memory limit of 110MiB; RSS "), "{verdict:#}");
    assert_eq!(deviations(&bundle, &verdict), Vec::<String>::new(), "{:#}", verdict["evidence"]);
    let replayed = run(&["replay", bundle.to_str().unwrap()]);
    let replayed = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(replayed.contains("The bundle's own trigger, gc, cannot be tried again"), "{replayed}");
}

#[test]
fn a_spiral_under_a_memory_limit_is_seen_on_the_newest_go() {
    a_spiral_is_seen(GoVersion::Newest, Build::Stripped, "");
}

#[test]
fn a_spiral_under_a_memory_limit_is_seen_on_the_oldest_go() {
    a_spiral_is_seen(GoVersion::Oldest, Build::Stripped, "");
}

#[test]
fn what_is_read_of_the_collector_is_what_the_runtime_tells_of_it() {
    for (version, build) in [(GoVersion::Oldest, Build::Stripped), (GoVersion::Middle, Build::Pie), (GoVersion::Newest, Build::Cgo)] {
        // at rest after some collections: the goal is the memory limit's
        let svc = program(version, build, "-mode idle -live 60000000 -limit 80000000");
        let process = ProcFs::host().dir(svc.pid()).unwrap();
        wait_until(Duration::from_secs(20), "it has what it keeps", || Truth::of(&svc).counts["/gc/heap/live:bytes"] > 2e7);
        sleep(Duration::from_secs(1));
        let places = Program::of_process(&process).unwrap().collector().unwrap();
        let read = places.read(&memory_of(&process).unwrap()).unwrap();
        let truth = Truth::of(&svc);
        let near = |what: &str, read: f64, told: f64, slack: f64| {
            assert!((read - told).abs() <= slack, "{version:?} {build:?} {what}: read {read}, told {told}");
        };
        near(
            "assists and dedicated workers",
            read.collecting.as_secs_f64(),
            truth.class("gc/mark/assist") + truth.class("gc/mark/dedicated"),
            1e-6,
        );
        near("idle workers", read.idle_workers.as_secs_f64(), truth.class("gc/mark/idle"), 1e-6);
        let busy = truth.class("total") - truth.class("idle") - truth.class("gc/mark/idle");
        near("busy", read.busy.as_secs_f64(), busy, 1e-6);
        near("collections", read.num_gc as f64, truth.counts["NumGC"], 0.0);
        near("live", read.live_bytes as f64, truth.counts["/gc/heap/live:bytes"], 0.0);
        near("goal", read.goal_bytes as f64, truth.counts["NextGC"], 1e6);
        assert_eq!((read.gogc, read.limit_bytes), (Some(100), Some(80_000_000)), "{version:?}");
        assert!(read.by_limit, "{read:?}");
        let stats = Program::of_process(&process).unwrap().memstats(wall_now()).unwrap();
        near("NextGC of MemStats", stats.next_gc as f64, truth.counts["NextGC"], 1e6);
        let time = cost_of(|| _ = places.read(&memory_of(&process).unwrap()).unwrap());
        println!("{version:?} {build:?}: a reading takes {time:?}");
    }
}

/// The median of some hundred.
#[expect(clippy::disallowed_methods, reason = "what it costs is real time")]
fn cost_of(what: impl Fn()) -> Duration {
    let mut times: Vec<Duration> = (0..201)
        .map(|_| {
            let start = std::time::Instant::now();
            what();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_spiral_is_seen_on_a_page_of_metrics() {
    for (version, page) in [(GoVersion::Newest, "metrics"), (GoVersion::Oldest, "metrics?old")] {
        let svc = program(version, Build::Plain, &format!("-mode garbage -live {LIVE} -limit {LIMIT} -after 1s"));
        let (address, pprof) = (svc.address(), svc.pprof());
        let memtrap = Memtrap::start(&format!(
            "[[target]]\nname = \"svc\"\nmetrics = {{ url = \"http://{address}/{page}\" }}\npprof = \"{pprof}\"\ngc = \"30%/10s\"\nwarmup = \"0s\"\n\
             for = \"1s\"\ncpu_seconds = 0\nbaseline = \"off\"\n"
        ));
        let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
        let fired = &manifest(&bundle)["trigger"];
        let heap = &fired["gc"]["heap"];
        assert_eq!(fired["trigger"], "gc", "{fired:#}");
        assert!(heap["live_bytes"].as_u64().unwrap() >= LIVE * 9 / 10, "{fired:#}");
        let limit = (page == "metrics").then_some(LIMIT);
        assert_eq!(heap["memory_limit_bytes"].as_u64(), limit, "{fired:#}");
    }
}

/// Runs all of them for so long, and returns what `memtrap status` says of each; none may fire.
fn of_healthy(programs: &[(GoVersion, &str)], gc: &str, lasts: Duration) -> Vec<String> {
    let running: Vec<Svc> = programs.iter().map(|(version, args)| program(*version, Build::Plain, args)).collect();
    let targets: String = running.iter().zip(programs).map(|(svc, (_, args))| target(svc, &name(args), gc)).collect();
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &targets);
    sleep(lasts);
    let status = run(&["status", "--json", "--url", &format!("http://{}", memtrap.address())]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(memtrap.bundles().is_empty(), "{:?} fired: {status:#}", memtrap.bundles());
    let instances = status["instances"].as_array().unwrap().iter();
    instances.map(|i| format!("{}: {}", i["target"].as_str().unwrap(), i["reason"].as_str().unwrap())).collect()
}

/// Of a program's arguments.
fn name(args: &str) -> String {
    args.split_whitespace().map(|word| word.trim_start_matches('-')).collect::<Vec<_>>().join("-")
}

#[test]
fn what_is_busy_and_healthy_does_not_fire_and_says_how_far_it_is() {
    let programs = [
        (GoVersion::Newest, "-mode trees -live 30000000"),
        (GoVersion::Newest, "-mode bursts -live 30000000 -procs 8"),
        (GoVersion::Oldest, "-mode json -live 30000000 -gogc -1 -limit 600000000"),
    ];
    for said in of_healthy(&programs, "40%/10s", Duration::from_secs(25)) {
        assert!(said.contains("% of its CPU in 10s") && said.contains("(fires at 40%)"), "{said}");
    }
}

/// Ten programs, two at a time, for a minute each.
#[test]
#[ignore = "takes six minutes"]
fn ten_busy_healthy_programs_do_not_fire() {
    use GoVersion::{Newest, Oldest};
    let programs = [
        (Newest, "-mode garbage -live 96000000"),
        (Newest, "-mode trees -live 96000000"),
        (Newest, "-mode trees -live 96000000 -gogc 50"),
        (Newest, "-mode json -live 30000000"),
        (Newest, "-mode bursts -live 96000000 -procs 8 -workers 1"),
        (Newest, "-mode goroutines -live 30000000"),
        (Oldest, "-mode cache -live 96000000"),
        (Newest, "-mode forced -live 96000000"),
        (Oldest, "-mode trees -live 96000000 -gogc -1 -limit 800000000"),
        (Newest, "-mode compute -live 100000000 -limit 115000000"),
        (Newest, "-mode idle -live 100000000 -limit 115000000"),
        (Oldest, "-mode garbage -live 30000000 -workers 8 -procs 8"),
    ];
    for two in programs.chunks(2) {
        of_healthy(two, "40%/30s", Duration::from_secs(60)).iter().for_each(|said| println!("{said}"));
    }
}
