//! The `leak` rule with days of floors that an earlier memtrap left, and a real process that goes on where they end.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use common::{GoVersion, MIB, Memtrap, Svc, manifest, run};
use memtrap::clock::{Mono, rfc3339_seconds, wall_now};
use rustix::process::Signal;
use serde_json::{Value, json};

const DAY: usize = 24;
const UNIT: u64 = 64 << 10;

fn target(svc: &Svc, keys: &str) -> String {
    let (pid, pprof) = (svc.pid(), svc.pprof());
    format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {pid} }}\npprof = \"{pprof}\"\ncpu_seconds = 0\nbaseline = \"off\"\n{keys}\n")
}

fn rss(svc: &Svc) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", svc.pid())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

/// `floors.json` as a memtrap leaves it, that had watched this process for so many days: each hour's floor in bytes.
fn leave_floors(state_dir: &Path, svc: &Svc, days: usize, floor: impl Fn(f64) -> f64) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", svc.pid())).unwrap();
    let start_ticks: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let hours: Vec<u64> = (0..days * DAY).map(|hour| (floor(hour as f64 / DAY as f64) / UNIT as f64) as u64).collect();
    let unix_ms = wall_now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let kept = json!({
        "schema": 1, "boot_id": boot_id.trim(), "mono": Mono::now().as_nanos(), "unix_ms": unix_ms,
        "targets": { "svc": [{
            "instance": { "pid": svc.pid(), "start_ticks": start_ticks },
            "hours": hours, "open": 0, "open_ms": 60_000, "total": days * DAY, "second_day": hours[DAY],
        }] },
    });
    fs::DirBuilder::new().mode(0o700).recursive(true).create(state_dir).unwrap();
    fs::write(state_dir.join("floors.json"), kept.to_string()).unwrap();
}

/// Floors that rise by `mib` a day to what the process has now, under a daily load.
fn leaking(svc: &Svc, days: usize, mib: f64) -> impl Fn(f64) -> f64 {
    let now = rss(svc) as f64;
    let load = |day: f64| 3.0 * (1.0 - (day * std::f64::consts::TAU).cos());
    move |day| now + (mib * (day - days as f64) + load(day)) * MIB as f64
}

fn started_with(svc: &Svc, keys: &str, leave: impl FnOnce(&Path)) -> Memtrap {
    Memtrap::start_after("listen = \"127.0.0.1:0\"", &target(svc, keys), |dir| leave(&dir.join("state")))
}

fn reason(memtrap: &Memtrap) -> String {
    let status = run(&["status", "--json", "--url", &format!("http://{}", memtrap.address())]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    status["instances"][0]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_leak_of_days_fires_once_over_restarts_and_keeps_no_other_rule_from_firing() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let keys = "leak = \"30MiB/7d\"\nthreshold = \"400MiB\"\nfor = \"0s\"\ncooldown = \"0s\"";
    let mut memtrap = started_with(&svc, keys, |state| leave_floors(state, &svc, 9, leaking(&svc, 9, 8.0)));
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    let m = manifest(&bundle);
    let fired = &m["trigger"];
    assert_eq!((&fired["trigger"], &fired["measure"]), (&"leak".into(), &"rss".into()), "{fired:#}");
    assert!((8 * MIB * 9 / 10..8 * MIB * 11 / 10).contains(&((fired["slope_bytes_per_second"].as_f64().unwrap() * 86_400.0) as u64)));
    let said = fired["reason"].as_str().unwrap();
    assert!(said.contains("; its floor, ") && said.contains(" a day, at or above 30.0MiB in 7days"), "{said}");
    assert_eq!(m["rules"]["leak"], json!({ "rise": "31457280B", "window": 604_800.0 }), "{:#}", m["rules"]);
    memtrap.wait_until(30, "the verdict", |_| bundle.join("verdict.json").exists());
    let verdict: Value = serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert_eq!(verdict["cause"], "live_heap", "{verdict:#}");
    // hour by hour, and they tell the same again
    assert_eq!(fs::read_to_string(bundle.join("floors.csv")).unwrap().lines().count(), 1 + 9 * DAY + 1);
    let replayed = run(&["replay", bundle.to_str().unwrap()]);
    let replayed = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(replayed.contains("The bundle's own trigger, leak, fires in its floors.csv at "), "{replayed}");

    memtrap.wait_until(10, "it stands", |m| reason(m).contains("captured as a leak, which is over once RSS falls below"));
    memtrap.stop(Signal::TERM);
    memtrap.start_again();
    memtrap.wait_until(10, "it stands on", |m| reason(m).contains("captured as a leak"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(memtrap.bundles().len(), 1, "no second bundle of the same leak");
    svc.tell("grow?bytes=419430400");
    let parts = memtrap.wait_for_bundles(30, 2);
    let threshold = parts.iter().map(|bundle| manifest(bundle)).find(|m| m["trigger"]["trigger"] == "threshold").unwrap();
    assert_eq!((&threshold["incident_id"], &threshold["part"]), (&m["incident_id"], &2.into()), "the next part of the same incident");
}

#[test]
fn a_cache_that_has_filled_and_a_process_that_is_another_do_not_fire_and_status_says_why() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let now = rss(&svc) as f64;
    let filling = move |day: f64| now - 60.0 * MIB as f64 * (-day / 2.0).exp();
    let memtrap = started_with(&svc, "leak = \"30MiB/7d\"", |state| leave_floors(state, &svc, 5, filling));
    memtrap.wait_until(10, "it says why", |m| reason(m).contains("leak: floor "));
    assert!(reason(&memtrap).contains("(fires at 30.0MiB in 7days)"), "{}", reason(&memtrap));
    drop(memtrap);

    let other = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = started_with(&svc, "leak = \"30MiB/7d\"", |state| leave_floors(state, &other, 9, leaking(&svc, 9, 8.0)));
    memtrap.wait_until(10, "it knows no hour", |m| reason(m).contains("leak: no hour seen yet"));
    assert!(memtrap.bundles().is_empty());
}

#[test]
fn floors_that_cannot_be_read_are_set_aside_and_the_rest_goes_on() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = started_with(&svc, "leak = \"30MiB/7d\"\nthreshold = \"80MiB\"\nfor = \"0s\"", |state| {
        fs::DirBuilder::new().mode(0o700).create(state).unwrap();
        fs::write(state.join("floors.json"), "{ \"schema\": 2 }").unwrap();
    });
    memtrap.wait_for_bundles(30, 1);
    assert!(memtrap.log().contains("stored state is unusable"), "{}", memtrap.log());
    assert!(memtrap.dir().join("state/floors.json.unreadable").exists());
}

/// Readings of weeks, each quarter of an hour: GC teeth and a daily load over a leak that begins in the second week.
#[test]
fn a_replay_of_weeks_says_when_it_would_have_fired_and_why_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let series = |name: &str, leak: f64| {
        let path = dir.path().join(name);
        let mut csv = fs::File::create(&path).unwrap();
        for quarter in 0..28 * DAY * 4 {
            let day = quarter as f64 / (DAY * 4) as f64;
            let load = 1.0 - (day * std::f64::consts::TAU).cos();
            let tooth = (quarter % 7) as f64 / 7.0;
            let mib = 800.0 + 100.0 * load + 150.0 * tooth + leak * (day - 8.0).max(0.0);
            let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + quarter as u64 * 900);
            writeln!(csv, "{},{}", rfc3339_seconds(at), (mib * MIB as f64) as u64).unwrap();
        }
        path
    };
    let replayed = |path: &Path| {
        let output = run(&["replay", path.to_str().unwrap(), "--leak", "400MiB/7d", "--limit", "4GiB", "--json"]);
        let replayed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let events = replayed["series"][0]["events"].as_array().unwrap().clone();
        let fired = events.iter().find(|e| e["fired"]["trigger"] == "leak").map(|e| e["time"].as_str().unwrap().to_owned());
        (fired, replayed["series"][0]["nearest"][0].as_str().unwrap().to_owned())
    };
    let (fired, nearest) = replayed(&series("leak.csv", 80.0));
    let fired = humantime::parse_rfc3339(&fired.expect("it fires")).unwrap();
    let day = fired.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() / 86_400.0 - 1_790_000_000.0 / 86_400.0;
    assert!((10.0..18.0).contains(&day), "on day {day:.1}; {nearest}");
    let (fired, nearest) = replayed(&series("healthy.csv", 0.0));
    assert_eq!(fired, None);
    assert!(
        nearest.starts_with("leak 400MiB/7days: its floor never rose") || nearest.contains("the fastest rise of its floor was"),
        "{nearest}"
    );
}
