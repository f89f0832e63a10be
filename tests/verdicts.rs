//! The verdict on real programs whose memory went where their names say, on the oldest and the newest Go.

mod common;

use std::sync::Mutex;

use common::scenarios::{SCENARIOS, Scenario};
use common::{GoVersion, MIB, Memtrap, bundles_in, run};
use serde_json::Value;

/// Programs at once: they take 200 MiB each, and both processors.
const AT_ONCE: usize = 4;
const GROWTH_MIB: u64 = 200;

/// The verdict that a capture of this scenario leaves.
fn verdict(scenario: &Scenario, version: GoVersion) -> Value {
    let svc = scenario.start(version, GROWTH_MIB);
    let dir = tempfile::tempdir().unwrap();
    let (pid, out) = (svc.pid().to_string(), dir.path().to_str().unwrap());
    let done = run(&["capture", "--pid", &pid, "--pprof", &svc.pprof(), "--cpu-seconds", "1", "-o", out]);
    assert!(done.status.success(), "{}: {}", scenario.name, String::from_utf8_lossy(&done.stderr));
    let bundle = bundles_in(dir.path()).remove(0);
    serde_json::from_slice(&std::fs::read(bundle.join("verdict.json")).unwrap()).unwrap()
}

/// A share of RSS. A program that is busy moves between the trigger's reading and those of the kernel and the runtime: more is
/// for few, and for none is it much.
const UNEXPLAINED: f64 = 0.05;
const MUCH: f64 = 0.15;

/// What is wrong with it, if anything; whether that was claimed with high confidence.
fn judge(scenario: &Scenario, verdict: &Value) -> Option<(String, bool)> {
    let word = |key: &str| verdict[key].as_str().unwrap().to_owned();
    let parts: Vec<i64> = verdict["anatomy"].as_array().unwrap().iter().map(|b| b["bytes"].as_i64().unwrap()).collect();
    let rss = verdict["rss_bytes"].as_i64().unwrap();
    assert_eq!(parts.iter().sum::<i64>(), rss, "{}: the buckets add up", scenario.name);
    let unexplained = parts.last().unwrap().abs() as f64 / rss as f64;
    assert!(unexplained < MUCH, "{}: {:.0}% of {} MiB unexplained", scenario.name, unexplained * 100.0, rss >> 20);
    if unexplained >= UNEXPLAINED {
        return Some((format!("{}: {:.0}% unexplained", scenario.name, unexplained * 100.0), false));
    }
    let right = scenario.expect.contains(&word("cause").as_str()) && scenario.go_heap_explains.contains(&word("go_heap_explains").as_str());
    (!right).then(|| {
        let said = format!("{} ({}, {}): {}", word("cause"), word("go_heap_explains"), word("confidence"), word("summary"));
        (
            format!("{}: {said}; expected {:?}, {:?}", scenario.name, scenario.expect, scenario.go_heap_explains),
            word("confidence") == "high",
        )
    })
}

fn the_verdict_is_right_on(version: GoVersion) {
    let queue = Mutex::new(SCENARIOS.iter().filter(|s| s.is_for(version)));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = queue.lock().unwrap().next() else { break };
                    wrong.lock().unwrap().extend(judge(scenario, &verdict(scenario, version)));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let total = SCENARIOS.iter().filter(|s| s.is_for(version)).count();
    assert!(wrong.iter().all(|(_, high)| !high), "wrong with high confidence: {wrong:#?}");
    assert!(wrong.len() * 20 <= total, "{} of {total} are wrong: {wrong:#?}", wrong.len());
}

#[test]
fn the_verdict_is_right_on_the_oldest_go() {
    the_verdict_is_right_on(GoVersion::Oldest);
}

#[test]
fn the_verdict_is_right_on_the_newest_go() {
    the_verdict_is_right_on(GoVersion::Newest);
}

#[test]
fn the_growth_since_the_baseline_decides() {
    // a large healthy heap, and a leak of native memory on top: by totals it would be the heap
    let scenario = common::scenarios::named("mmap_anon");
    let svc = scenario.start_healthy(GoVersion::Newest, 150);
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nthreshold = \"100MiB\"\nfor = \"0s\"\nwarmup = \"1s\"\nskip = [\"profile\"]\n",
        svc.pid(),
        svc.pprof()
    ));
    memtrap.wait_until(20, "a baseline", |m| m.log().contains("baseline taken"));
    svc.grow();
    let bundle = memtrap.wait_for_bundles(20, 1).remove(0);
    let verdict: Value = serde_json::from_slice(&std::fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert_eq!((verdict["cause"].as_str(), verdict["go_heap_explains"].as_str()), (Some("native_memory"), Some("no")), "{verdict:#}");
    assert!(verdict["baseline_rss_bytes"].as_u64().unwrap() < 60 * MIB, "{verdict:#}");
    let native = verdict["anatomy"].as_array().unwrap().iter().find(|b| b["bucket"] == "native_anon").unwrap();
    assert!(native["growth_bytes"].as_i64().unwrap() > 60 * MIB as i64, "{native}");
}
