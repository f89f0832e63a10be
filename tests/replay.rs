//! What the daemon captured, replayed from the bundle: the rule that fired fires again, at the time when it did.

mod common;

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use common::{Cgroup, GoVersion, MIB, Memtrap, Svc, manifest, run};
use rustix::process::Signal;

fn target(svc: &Svc, keys: &str) -> String {
    format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"off\"\nskip = [\"profile\"]\n{keys}\n", svc.pid())
}

/// The rules that fire when the bundle is replayed, each with how many seconds after its own trigger.
fn replayed(bundle: &Path) -> Vec<(String, f64)> {
    let output = run(&["replay", bundle.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let replayed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let seconds = |text: &serde_json::Value| {
        let at = humantime::parse_rfc3339(text.as_str().unwrap()).unwrap();
        at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
    };
    let started = seconds(&manifest(bundle)["started"]);
    let events = replayed["series"][0]["events"].as_array().unwrap();
    let fired = events.iter().filter(|e| e["fired"].is_object());
    fired.map(|e| (e["fired"]["trigger"].as_str().unwrap().to_owned(), seconds(&e["time"]) - started)).collect()
}

/// It fires what fired, when it fired: a capture begins within a moment of that.
fn assert_fires_as_it_did(memtrap: &Memtrap, trigger: &str) {
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    assert_eq!(manifest(&bundle)["trigger"]["trigger"], trigger);
    let fired = replayed(&bundle);
    let text = std::fs::read_to_string(bundle.join("timeline.csv")).unwrap();
    assert!(
        matches!(&fired[..], [(rule, off)] if rule == trigger && off.abs() < 2.0),
        "{fired:?}\n{:#}\n{text}",
        manifest(&bundle)["trigger"]
    );
}

#[test]
fn a_threshold_that_held_its_time_through_a_dip() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "20971520"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"4s\"\ninterval = \"200ms\""));
    sleep(Duration::from_secs(1));
    svc.tell("grow?bytes=104857600");
    sleep(Duration::from_secs(2));
    svc.tell("free");
    sleep(Duration::from_millis(600));
    svc.tell("grow?bytes=104857600");
    assert_fires_as_it_did(&memtrap, "threshold");
}

#[test]
fn a_threshold_over_the_line_for_longer_than_the_last_readings_reach() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"12s\"\ninterval = \"100ms\""));
    assert_fires_as_it_did(&memtrap, "threshold");
}

#[test]
fn a_slope_over_a_window_shorter_than_the_timelines_buckets() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "20971520"]);
    let memtrap = Memtrap::start(&target(&svc, "slope = \"20MiB/12s\"\nwarmup = \"1s\"\nfor = \"2s\""));
    sleep(Duration::from_secs(14));
    svc.tell("leak?rate=4194304&max=1073741824");
    assert_fires_as_it_did(&memtrap, "slope");
}

#[test]
fn a_slope_that_the_warm_up_held_back() {
    let svc = Svc::start(GoVersion::Newest, &["-leak", "4194304"]);
    let memtrap = Memtrap::start(&target(&svc, "slope = \"10MiB/10s\"\nwarmup = \"20s\"\nfor = \"1s\""));
    assert_fires_as_it_did(&memtrap, "slope");
}

#[test]
fn a_slope_seen_through_a_gap() {
    let svc = Svc::start(GoVersion::Newest, &["-leak", "2097152"]);
    let memtrap = Memtrap::start(&target(&svc, "slope = \"16MiB/16s\"\nwarmup = \"1s\"\nfor = \"2s\""));
    sleep(Duration::from_secs(8));
    memtrap.signal(Signal::STOP);
    sleep(Duration::from_secs(7));
    memtrap.signal(Signal::CONT);
    assert_fires_as_it_did(&memtrap, "slope");
}

#[test]
fn an_eta_towards_a_cgroups_limit() {
    let Some(cgroup) = Cgroup::new(251 * MIB) else { return };
    let svc = cgroup.start(&["-leak", "4194304"]);
    let memtrap = Memtrap::start(&target(&svc, "eta = \"40s\"\nwarmup = \"1s\"\nfor = \"1s\""));
    assert_fires_as_it_did(&memtrap, "eta");
}

#[test]
fn a_percentage_of_a_limit_that_shrank() {
    let Some(cgroup) = Cgroup::new(402 * MIB) else { return };
    let svc = cgroup.start(&["-grow", "104857600"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"60%\"\nfor = \"1s\""));
    sleep(Duration::from_secs(6));
    assert!(memtrap.bundles().is_empty());
    cgroup.set_limit(150 * MIB);
    assert_fires_as_it_did(&memtrap, "threshold");
}

#[test]
fn a_process_that_ended_before_its_time_was_up() {
    let mut svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"60s\"\ninterval = \"100ms\""));
    memtrap.wait_until(10, "pending", |m| m.log().contains("state=\"pending\""));
    sleep(Duration::from_secs(1));
    svc.kill();
    assert_fires_as_it_did(&memtrap, "threshold");
}

#[test]
fn one_of_several_rules() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "20971520"]);
    let rules = "threshold = [\"1GiB\", \"2GiB\"]\nslope = \"30MiB/20s\"\neta = \"30m\"\nwarmup = \"1s\"\nfor = \"2s\"";
    let memtrap = Memtrap::start(&target(&svc, rules));
    sleep(Duration::from_secs(10));
    svc.tell("leak?rate=3145728&max=1073741824");
    assert_fires_as_it_did(&memtrap, "slope");
}
