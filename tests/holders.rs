//! Who holds what is live: told of real programs in which what allocates is not what holds, while they run.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::http::get;
use common::numbers::{deviations, differences};
use common::{Build, GoVersion, Memtrap, Svc, bundles_in, go_program, manifest, run};
use memtrap::goruntime::holders_of;
use memtrap::holders::{Holder, Holders};
use memtrap::host::ProcFs;
use memtrap::lang::Lang;
use serde_json::Value;

/// What holds in each mode of the program: what it is, and what its name has in it. A stripped one is called after the functions that use it.
const MODES: [(&str, &str, &str); 32] = [
    ("packageMap", "global", "main.packageMap"),
    ("singleton", "global", "main.singleton"),
    ("ringBuffer", "global", "main.ringBuffer"),
    ("linkedList", "global", "main.linkedList"),
    ("lruCache", "global", "main.lruCache"),
    ("channelQueue", "global", "main.channelQueue"),
    ("localOf", "goroutines", "main.localOf"),
    ("timerClosure", "timer", "main.timerClosureStart.func1"),
    ("contextRoot", "global", "main.contextRoot"),
    ("bufferPool", "global", "main.bufferPool"),
    ("syncMap", "global", "main.syncMap"),
    ("finalizerQueue", "finalizer", "main.finalizerQueue"),
    ("templateCache", "global", "main.templateCache"),
    ("httpServer", "global", "main.httpServer"),
    ("byID", "shared", "main.byName"),
    ("eventLog", "global", "main.eventLog"),
    ("embedded", "global", "main.embedded"),
    ("generic", "global", "main.generic"),
    ("inlineValues", "global", "main.inlineValues"),
    ("cycle", "global", "main.cycle"),
    ("blockedSend", "goroutines", "main.blockedSend"),
    ("deferred", "goroutines", "main.deferred"),
    ("hooks", "global", "main.hooks"),
    ("matrix", "global", "main.matrix"),
    ("substrings", "global", "main.substrings"),
    ("bigBuffer", "global", "main.bigBuffer"),
    ("selectOf", "goroutines", "main.selectOf"),
    ("tickerLoop", "goroutines", "main.tickerLoop"),
    ("treeRoot", "global", "main.treeRoot"),
    ("weakTo", "global", "main.weakTo"),
    ("mainStack", "goroutines", "main.main"),
    ("sliceOfStructs", "global", "main.sliceOfStructs"),
];
const MIB: u64 = 1 << 20;
const WALK: u64 = 512 * MIB;

/// A running program, and how much it knows to be held.
struct Holding {
    child: Child,
    bytes: u64,
}

impl Holding {
    fn start(version: GoVersion, build: Build, args: &[&str]) -> Holding {
        let mut command = Command::new(go_program(version, "holders", build));
        let mut child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{args:?}: {e}: {line:?}"));
        Holding { child, bytes: told["bytes"].as_u64().unwrap() }
    }

    fn walk(&self) -> Holders {
        holders_of(&ProcFs::host().dir(self.child.id()).unwrap(), WALK).unwrap()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Within a fiftieth.
fn is_about(told: u64, known: u64) -> bool {
    told.abs_diff(known) <= known / 50
}

fn wrong(mode: (&str, &str, &str), version: GoVersion, build: Build) -> Option<String> {
    let (name, kind, holder) = mode;
    let holding = Holding::start(version, build, &[name, "12"]);
    let holders = holding.walk();
    let first = &holders.holders[0];
    let is_right = first.kind == kind && first.name.contains(holder) && is_about(first.retained_bytes, holding.bytes);
    let marked = holders.marked_bytes.unwrap();
    // what a collection would drop was put there after the last one
    let adds_up = name == "bufferPool" || holders.reached_bytes.abs_diff(marked) <= marked / 100 + 64 * 1024;
    let told = || format!("{name} {version:?} {build:?}: {} bytes known\n{}", holding.bytes, holders.text(4));
    (!is_right || !adds_up).then(told)
}

#[test]
fn the_holder_is_named_with_what_it_holds_whoever_allocated_it() {
    let plans = (0..).zip(MODES).flat_map(|(n, mode)| {
        // each release sees half of them stripped
        let builds = if n % 2 == 0 { [Build::Plain, Build::Stripped] } else { [Build::Stripped, Build::Plain] };
        GoVersion::BOTH.into_iter().zip(builds).map(move |(version, build)| (mode, version, build))
    });
    let plans = plans.collect::<Vec<_>>();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let halves: Vec<_> = plans
            .chunks(plans.len().div_ceil(2))
            .map(|half| {
                scope.spawn(move || half.iter().filter_map(|(mode, version, build)| wrong(*mode, *version, *build)).collect::<Vec<_>>())
            })
            .collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), plans.len(), wrong.join("\n"));
}

#[test]
#[ignore = "the same of a release between them, and of position independent programs"]
fn the_holder_is_named_by_other_builds_too() {
    let builds = [(GoVersion::Middle, Build::Plain), (GoVersion::Middle, Build::Stripped), (GoVersion::Newest, Build::Pie)];
    let all = builds.into_iter().flat_map(|(version, build)| MODES.map(|mode| (mode, version, build)));
    let wrong: Vec<String> = all.filter_map(|(mode, version, build)| wrong(mode, version, build)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_program_that_allocates_without_pause_gets_the_same_answer_each_time() {
    for version in GoVersion::BOTH {
        let holding = Holding::start(version, Build::Plain, &["packageMap", "24", "busy"]);
        for _ in 0..3 {
            let holders = holding.walk();
            let first = &holders.holders[0];
            assert_eq!(first.name, "main.packageMap", "{version:?}\n{}", holders.text(4));
            assert!(is_about(first.retained_bytes, holding.bytes), "{version:?}: {} known\n{}", holding.bytes, holders.text(4));
        }
    }
}

#[test]
fn the_way_to_the_bytes_is_told_by_types() {
    let holding = Holding::start(GoVersion::Newest, Build::Stripped, &["packageMap", "12"]);
    let holders = holding.walk();
    let first = &holders.holders[0];
    let blobs = first.path[1].objects;
    assert_eq!(first.path_text(), format!("map[string]*main.blob → main.blob ×{blobs} → []uint8 ×{blobs}"));
    assert_eq!(first.type_name.as_deref(), Some("map[string]*main.blob"));
    assert!(blobs > 1_000 && first.path[2].own_bytes >= blobs * 8192, "{first:#?}");
}

#[test]
fn a_heap_beyond_what_may_be_used_gets_a_smaller_answer_and_beyond_that_its_size() {
    let holding = Holding::start(GoVersion::Newest, Build::Plain, &["treeRoot", "24"]);
    let process = ProcFs::host().dir(holding.child.id()).unwrap();
    let (full, small) = (holding.walk(), holders_of(&process, 2 * MIB).unwrap());
    let first = &small.holders[0];
    assert_eq!((&first.name, first.path.len()), (&"main.treeRoot".to_owned(), 0));
    assert!(is_about(first.retained_bytes, full.holders[0].retained_bytes), "{first:#?}");
    assert!(small.limits[0].contains("the ways from the holders to the bytes are left out, to stay within 2.00MiB"), "{:?}", small.limits);
    let refused = holders_of(&process, MIB / 4).unwrap_err().to_string();
    assert!(refused.starts_with("its heap has ") && refused.contains("places for objects"), "{refused}");
}

fn json(bundle: &std::path::Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(bundle.join(file)).unwrap()).unwrap()
}

fn first_of(bundle: &std::path::Path) -> Holder {
    Holders::parse(&fs::read(bundle.join("holders.json")).unwrap()).unwrap().holders[0].clone()
}

#[test]
fn a_bundle_names_the_holder_in_its_summary_and_its_reports() {
    let svc = Svc::start_in(Command::new(go_program(GoVersion::Newest, "svc", Build::Stripped)), &["-grow", "209715200"]);
    get(svc.address(), "/debug/pprof/heap?gc=1");
    let dir = tempfile::tempdir().unwrap();
    for pprof in [svc.pprof(), "off".to_owned()] {
        let out = dir.path().join(if pprof == "off" { "without" } else { "with" });
        let (pid, at) = (svc.pid().to_string(), out.to_str().unwrap());
        let done = run(&["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", at, "--pprof", &pprof]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let bundle = bundles_in(&out).pop().unwrap();
        let holder = first_of(&bundle);
        assert!(holder.kind == "global" && holder.name.starts_with("the variable of main.main and main."), "{holder:#?}");
        let verdict = json(&bundle, "verdict.json");
        let summary = verdict["summary"].as_str().unwrap();
        assert!(summary.contains(&format!("; {} holds ", holder.name)), "{summary}");
        assert_eq!(deviations(&bundle, &verdict), [""; 0]);
        assert_eq!(differences(&verdict, &common::corpus::verdict_of(&bundle, Lang::Zh)), [""; 0]);
        for report in ["report.txt", "report.html"] {
            let text = fs::read_to_string(bundle.join(report)).unwrap();
            assert!(text.contains("Who holds it") && text.contains("[]uint8"), "{report}");
        }
        let printed = run(&["holders", bundle.to_str().unwrap()]);
        let printed = String::from_utf8(printed.stdout).unwrap();
        assert!(printed.lines().nth(2).unwrap().ends_with(&holder.name), "{printed}");
        let next = verdict["next"].to_string();
        assert!(next.contains("memtrap holders '") && next.contains("inuse_space"), "{next}");
    }
}

#[test]
fn an_incident_says_how_much_more_the_holder_has_than_when_the_service_was_healthy() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "20971520"]);
    let keys = "threshold = \"120MiB\"\nfor = \"0s\"\nwarmup = \"1s\"\ninterval = \"100ms\"\ncpu_seconds = 0";
    let memtrap =
        Memtrap::start(&format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\n{keys}\n", svc.pid(), svc.pprof()));
    memtrap.wait_until(30, "a baseline", |m| m.log().contains("baseline taken"));
    svc.tell("grow?bytes=134217728");
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    assert!(bundle.join("baseline/holders.json").exists(), "{:#}", manifest(&bundle));
    let verdict = json(&bundle, "verdict.json");
    let summary = verdict["summary"].as_str().unwrap();
    assert!(summary.contains("; main.held holds ") && summary.contains(" more than at the baseline"), "{summary}");
    assert_eq!(deviations(&bundle, &verdict), [""; 0]);
}

#[test]
fn a_bundle_without_holders_says_why() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "20971520"]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("memtrap.toml");
    let off = format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"off\"\nthreshold = \"1MiB\"\nholders = \"no\"\n",
        svc.pid()
    );
    fs::write(&config, off).unwrap();
    let checked = run(&["check", "-c", config.to_str().unwrap()]);
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(said.contains("holders: write auto") && said.contains(":6:"), "{said}");
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"off\"\nthreshold = \"1MiB\"\nfor = \"0s\"\nholders = \"off\"\n",
        svc.pid()
    ));
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    assert!(!bundle.join("holders.json").exists());
    let entry = manifest(&bundle)["files"].as_array().unwrap().iter().find(|e| e["step"] == "holders").unwrap().clone();
    assert_eq!((&entry["status"], &entry["reason"]), (&"skipped".into(), &"switched off by the configuration".into()));
}
