//! The main job: real Go services that leak, and the daemon that watches them.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::{Cgroup, GoVersion, Idle, MIB, Memtrap, Svc, bundles_in, entry, go_binary, manifest};
use memtrap::clock::Mono;
use rustix::process::Signal;

/// A target of this process, with what a test sets of it.
fn target(svc: &Svc, keys: &str) -> String {
    format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\ncpu_seconds = 1\n{keys}\n", svc.pid(), svc.pprof())
}

/// Everything that collect-pprof.sh fetches, as the bundle calls it.
const SEED_FILES: [&str; 10] = [
    "cmdline.txt",
    "heap.pb.gz",
    "heap_gc.pb.gz",
    "allocs.pb.gz",
    "goroutine.pb.gz",
    "goroutine.txt",
    "threadcreate.pb.gz",
    "mutex.pb.gz",
    "block.pb.gz",
    "profile.pb.gz",
];

fn assert_intact(bundle: &Path) {
    let shown = common::run(&["bundles", "show", &id(bundle), "--dir", bundle.parent().unwrap().parent().unwrap().to_str().unwrap()]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
}

fn id(bundle: &Path) -> String {
    let part = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    format!("{}/{}", part(bundle.parent().unwrap()), part(bundle))
}

fn a_leak_past_its_threshold_is_one_whole_bundle(version: GoVersion) {
    let svc = Svc::start(version, &["-leak", "20971520", "-max", "209715200"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"100MiB\"\nfor = \"1s\""));
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);

    let m = manifest(&bundle);
    assert_eq!((m["outcome"].as_str(), m["trigger"]["trigger"].as_str()), (Some("complete"), Some("threshold")), "{m:#}");
    assert_eq!(m["instance"]["pid"], svc.pid());
    assert!(m["trigger"]["rss_bytes"].as_u64().unwrap() >= 100 * MIB);
    let go = go_binary(version);
    for file in SEED_FILES {
        let path = bundle.join(file);
        assert_eq!(entry(&bundle, file)["status"], "ok", "{file}");
        if file.ends_with(".pb.gz") {
            let top = Command::new(&go).env("GOTOOLCHAIN", "local").args(["tool", "pprof", "-top"]).arg(&path).output().unwrap();
            assert!(top.status.success(), "{file}: {}", String::from_utf8_lossy(&top.stderr));
        }
    }
    let verdict: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert_eq!((verdict["cause"].as_str(), verdict["go_heap_explains"].as_str()), (Some("live_heap"), Some("yes")), "{verdict:#}");
    let sum: i64 = verdict["anatomy"].as_array().unwrap().iter().map(|b| b["bytes"].as_i64().unwrap()).sum();
    assert_eq!(Some(sum), verdict["rss_bytes"].as_i64());
    assert_eq!(verdict["rss_bytes"], m["trigger"]["rss_bytes"]);
    let report = fs::read_to_string(bundle.join("report.html")).unwrap();
    for shown in ["Yes: the Go heap explains the RSS", "fired at 100MiB", "leakSmoothly", "profile.pb.gz"] {
        assert!(report.contains(shown), "{shown}: {report}");
    }
    assert!(["go tool pprof -top", "memtrap top"].iter().any(|next| report.contains(next)), "{report}");
    assert!(fs::read_to_string(bundle.join("report.txt")).unwrap().starts_with("RSS is "));
    let goroutines = fs::read_to_string(bundle.join("goroutine.txt")).unwrap();
    assert!(goroutines.split("\n\n").all(|g| g.starts_with("goroutine ")), "{goroutines}");
    assert!(goroutines.contains("leakSmoothly"));
    assert!(fs::read_to_string(bundle.join("memstats_gc.txt")).unwrap().contains("HeapReleased"));
    assert!(fs::read_to_string(bundle.join("timeline.csv")).unwrap().lines().count() > 3);
    assert!(fs::read_to_string(bundle.join("README.md")).unwrap().contains(&format!("{}/heap_gc.pb.gz", bundle.display())));
    assert_intact(&bundle);
    assert_eq!(fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(bundle.join("heap.pb.gz")).unwrap().permissions().mode() & 0o777, 0o600);

    sleep(Duration::from_secs(4));
    assert_eq!(memtrap.bundles().len(), 1, "it leaks on, and stays one incident");
}

#[test]
fn a_leak_past_its_threshold_is_one_whole_bundle_on_the_oldest_go() {
    a_leak_past_its_threshold_is_one_whole_bundle(GoVersion::Oldest);
}

#[test]
fn a_leak_past_its_threshold_is_one_whole_bundle_on_the_newest_go() {
    a_leak_past_its_threshold_is_one_whole_bundle(GoVersion::Newest);
}

#[test]
fn a_slow_leak_below_the_threshold_fires_by_slope() {
    let svc = Svc::start(GoVersion::Newest, &["-leak", "3145728"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"2GiB\"\nslope = \"15MiB/10s\"\nwarmup = \"1s\"\nfor = \"1s\""));
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    let fired = &manifest(&bundle)["trigger"];
    assert_eq!(fired["trigger"], "slope", "{fired}");
    let slope = fired["slope_bytes_per_second"].as_f64().unwrap() / MIB as f64;
    assert!((1.5..8.0).contains(&slope), "{slope} MiB/s");
}

#[test]
fn a_leak_towards_a_cgroups_limit_fires_by_eta() {
    let Some(cgroup) = Cgroup::new(250 * MIB) else { return };
    let svc = cgroup.start(&["-leak", "5242880"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"99%\"\neta = \"40s\"\nwarmup = \"1s\"\nfor = \"1s\""));
    let bundle = memtrap.wait_for_bundles(70, 1).remove(0);
    let fired = &manifest(&bundle)["trigger"];
    assert_eq!((fired["trigger"].as_str(), fired["limit_bytes"].as_u64()), (Some("eta"), Some(250 * MIB)), "{fired}");
    assert!(fired["eta_seconds"].as_f64().unwrap() <= 40.0);
}

#[test]
fn an_oom_kill_while_pending_still_leaves_a_bundle_that_says_so() {
    let Some(cgroup) = Cgroup::new(200 * MIB) else { return };
    let mut svc = cgroup.start(&["-grow", "100000000", "-leak", "62914560"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"60%\"\nfor = \"30s\"\ninterval = \"100ms\""));
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    svc.kill();
    let m = manifest(&bundle);
    assert!(m["trigger"]["rss_bytes"].as_u64().unwrap() >= 120 * MIB, "{m:#}");
    assert_intact(&bundle);
    let end = fs::read_to_string(bundle.join("end.json")).unwrap();
    assert!(end.contains("oom"), "{end}");
}

#[test]
fn flapping_is_one_bundle_and_recovery_with_cooldown_allows_a_second() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let keys = "threshold = \"80MiB\"\nfor = \"0s\"\ncooldown = \"15s\"\ninterval = \"100ms\"\nskip = [\"profile\"]";
    let memtrap = Memtrap::start(&target(&svc, keys));
    // well within the cooldown, however long each turn takes
    let begun = Mono::now();
    while Mono::now().since(begun) < Duration::from_secs(6) {
        svc.tell("grow?bytes=104857600");
        sleep(Duration::from_millis(300));
        svc.tell("free");
        sleep(Duration::from_millis(300));
    }
    assert_eq!(memtrap.wait_for_bundles(10, 1).len(), 1);
    memtrap.wait_until(20, "armed again", |m| {
        let log = m.log();
        log.rfind("state=\"cooldown\"").is_some_and(|cools| log[cools..].contains("state=\"armed\""))
    });
    assert_eq!(memtrap.bundles().len(), 1);
    svc.tell("grow?bytes=104857600");
    let bundles = memtrap.wait_for_bundles(10, 2);
    assert_ne!(manifest(&bundles[0])["incident_id"], manifest(&bundles[1])["incident_id"]);
}

#[test]
fn a_restart_of_memtrap_in_the_middle_is_still_one_bundle() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let mut memtrap = Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\nskip = [\"profile\"]"));
    memtrap.wait_for_bundles(20, 1);
    assert!(memtrap.stop(Signal::TERM).success());
    memtrap.start_again();
    sleep(Duration::from_secs(3));
    memtrap.stop(Signal::KILL);
    memtrap.start_again();
    sleep(Duration::from_secs(3));
    assert_eq!(memtrap.bundles().len(), 1);
    assert!(memtrap.log().contains("state=\"open\""));
}

#[test]
fn killed_during_a_capture_the_interrupted_bundle_is_the_one() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let mut memtrap =
        Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\ncpu_seconds = 20").replace("cpu_seconds = 1\n", ""));
    memtrap.wait_until(20, "the CPU profile runs", |m| partial_with(m, "block.pb.gz"));
    memtrap.stop(Signal::KILL);
    assert_eq!(memtrap.bundles().len(), 0);
    memtrap.start_again();
    let bundle = memtrap.wait_for_bundles(10, 1).remove(0);
    let m = manifest(&bundle);
    assert_eq!((m["outcome"].as_str(), m["trigger"]["trigger"].as_str()), (Some("interrupted"), Some("threshold")));
    assert_intact(&bundle);
    sleep(Duration::from_secs(3));
    assert_eq!(memtrap.bundles().len(), 1);
}

fn partial_with(memtrap: &Memtrap, file: &str) -> bool {
    let dir = memtrap.bundle_dir().join("svc");
    fs::read_dir(dir)
        .is_ok_and(|d| d.flatten().any(|e| e.path().extension().is_some_and(|x| x == "partial") && e.path().join(file).exists()))
}

#[test]
fn a_stop_during_a_capture_finalizes_it() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let mut memtrap =
        Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\ncpu_seconds = 60").replace("cpu_seconds = 1\n", ""));
    memtrap.wait_until(20, "the CPU profile runs", |m| partial_with(m, "block.pb.gz"));
    assert!(memtrap.stop(Signal::TERM).success());
    let bundle = memtrap.bundles().remove(0);
    assert_eq!(manifest(&bundle)["outcome"], "interrupted");
    assert_eq!(entry(&bundle, "heap_gc.pb.gz")["status"], "ok");
    assert_intact(&bundle);
}

#[test]
fn a_process_killed_during_its_cpu_profile_leaves_what_was_had() {
    let mut svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\ncpu_seconds = 30").replace("cpu_seconds = 1\n", ""));
    // its goroutines say so
    memtrap.wait_until(20, "the CPU profile runs", |_| svc.get("/debug/pprof/goroutine?debug=1").contains("net/http/pprof.Profile+"));
    svc.kill();
    let bundle = memtrap.wait_for_bundles(15, 1).remove(0);
    assert_eq!(manifest(&bundle)["outcome"], "partial");
    assert_eq!(entry(&bundle, "heap_gc.pb.gz")["status"], "ok");
    let cpu = entry(&bundle, "profile.pb.gz");
    assert_eq!(cpu["status"], "failed", "{cpu}");
    assert!(cpu["reason"].as_str().unwrap().contains("process"), "{cpu}");
    assert_intact(&bundle);
}

#[test]
fn of_three_processes_of_one_name_the_leaking_two_are_caught() {
    let [a, b, c] = [(); 3].map(|()| Svc::start(GoVersion::Newest, &["-grow", "20971520"]));
    let config = format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ cmdline = '^{} .*-grow 20971520' }}\npprof = \"auto\"\nthreshold = \"80MiB\"\nfor = \"0s\"\nskip = [\"profile\"]\n",
        common::go_svc(GoVersion::Newest).display()
    );
    let memtrap = Memtrap::start(&config);
    a.tell("grow?bytes=104857600");
    c.tell("grow?bytes=104857600");
    let bundles = memtrap.wait_for_bundles(20, 2);
    let mut pids: Vec<u64> = bundles.iter().map(|b| manifest(b)["instance"]["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    let mut leaking = [u64::from(a.pid()), u64::from(c.pid())];
    leaking.sort_unstable();
    assert_eq!(pids, leaking);
    for bundle in &bundles {
        assert_eq!(entry(bundle, "heap_gc.pb.gz")["status"], "ok", "auto found the right port");
    }
    sleep(Duration::from_secs(2));
    assert_eq!(memtrap.bundles().len(), 2);
    drop(b);
}

#[test]
fn a_reload_takes_a_good_file_and_refuses_a_bad_one() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"2GiB\""));
    memtrap.configure("", "[[target]]\nname = 7\n");
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(5, "the bad file is refused", |m| m.log().contains("the old one stays in force"));
    memtrap.configure("", &target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\nskip = [\"profile\"]"));
    memtrap.signal(Signal::HUP);
    assert_eq!(memtrap.wait_for_bundles(20, 1).len(), 1);
}

#[test]
fn every_reload_says_that_the_directories_stay_what_they_are() {
    let target = format!("[[target]]\nname = \"none\"\nprocess = {}\npprof = \"off\"\nthreshold = \"1GiB\"\n", Idle::selector(8));
    let memtrap = Memtrap::start(&target);
    let count = |what: &str| memtrap.log().matches(what).count();
    let before = fs::read_to_string(memtrap.config_path()).unwrap();
    let moved = before.replace("/bundles\"", "/elsewhere\"");
    for (reloads, (text, warnings)) in [(&moved, 1), (&moved, 2), (&before, 2)].into_iter().enumerate() {
        fs::write(memtrap.config_path(), text).unwrap();
        memtrap.signal(Signal::HUP);
        memtrap.wait_until(5, "a reload", |_| count("configuration reloaded") > reloads);
        assert_eq!(count("change only with a restart"), warnings);
    }
}

#[test]
fn watch_catches_once_and_prints_the_bundle() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let dir = tempfile::tempdir().unwrap();
    let (pid, out) = (svc.pid().to_string(), dir.path().to_str().unwrap());
    let done = common::run(&["watch", "--pid", &pid, "--threshold", "80MiB", "--for", "0s", "--cpu-seconds", "1", "--once", "-o", out]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bundles = bundles_in(dir.path());
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), bundles[0].to_str().unwrap());
    assert_eq!(bundles.len(), 1);
}

#[test]
fn watch_compares_with_a_baseline_that_it_took_after_the_warm_up() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let dir = tempfile::tempdir().unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_memtrap"));
    watch.args(["watch", "--pid", &svc.pid().to_string(), "--threshold", "80MiB", "--for", "0s", "--warmup", "0s", "--cpu-seconds", "0"]);
    watch.args(["--once", "-o"]).arg(dir.path()).env("TMPDIR", dir.path());
    let mut watch = watch.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let taken = || {
        let scratch = fs::read_dir(dir.path()).unwrap().flatten().find(|e| e.file_name().to_str().unwrap().starts_with("memtrap-"));
        let own = scratch.map(|e| e.path().join("baselines/local"));
        own.is_some_and(|own| fs::read_dir(own).is_ok_and(|d| d.flatten().any(|e| !bundles_in(&e.path()).is_empty())))
    };
    common::wait_until(Duration::from_secs(20), "a baseline", taken);
    svc.tell("grow?bytes=104857600");
    assert!(watch.wait().unwrap().success());
    let at = dir.path().join(format!("pid-{}", svc.pid()));
    let bundle = fs::read_dir(at).unwrap().next().unwrap().unwrap().path();
    assert_eq!(entry(&bundle, "baseline/heap.pb.gz")["status"], "ok");
    let verdict: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert!(verdict["baseline_rss_bytes"].as_u64().unwrap() < 50 * MIB, "{verdict:#}");
    let left = fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.file_name().to_str().unwrap().starts_with("memtrap-")).count();
    assert_eq!(left, 0, "what was kept for the run goes with it");
}

#[test]
fn the_bundle_holds_a_baseline_of_the_healthy_process() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\nwarmup = \"1s\"\nskip = [\"profile\"]"));
    memtrap.wait_until(20, "a baseline", |m| m.log().contains("baseline taken"));
    assert!(memtrap.bundles().is_empty(), "a baseline is no bundle of an incident");
    svc.tell("grow?bytes=104857600");
    let bundle = memtrap.wait_for_bundles(20, 1).remove(0);
    for file in ["heap.pb.gz", "goroutine.pb.gz", "memstats.txt", "smaps_rollup", "status", "baseline.json"] {
        assert_eq!(entry(&bundle, &format!("baseline/{file}"))["status"], "ok", "{file}");
    }
    let facts: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("baseline/baseline.json")).unwrap()).unwrap();
    assert!(facts["rss_bytes"].as_u64().unwrap() < 50 * MIB, "{facts}");
    assert_intact(&bundle);
}

#[test]
fn baselines_go_with_their_processes() {
    let args = ["-grow", "10485761"];
    let svc = common::go_svc(GoVersion::Newest);
    let mut memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ cmdline = '^{} .*-grow 10485761' }}\nwarmup = \"0s\"\nthreshold = \"1GiB\"\ninterval = \"100ms\"\n",
        svc.display()
    ));
    let baselines = memtrap.dir().join("state/baselines");
    let owners = || fs::read_dir(baselines.join("local")).map_or(Vec::new(), |d| d.flatten().map(|e| e.file_name()).collect());
    let taken = |n| move |m: &Memtrap| m.log().matches("baseline taken").count() >= n;
    let mut first = Svc::start(GoVersion::Newest, &args);
    memtrap.wait_until(20, "a baseline", taken(1));
    assert_eq!(owners().len(), 1);
    first.kill();

    // as if an hour had gone
    fs::remove_file(baselines.join(".swept")).unwrap();
    let mut second = Svc::start(GoVersion::Newest, &args);
    memtrap.wait_until(20, "another", taken(2));
    let left = owners();
    assert!(left.len() == 1 && left[0].to_str().unwrap().starts_with(&format!("{}-", second.pid())), "{left:?}");

    memtrap.stop(Signal::TERM);
    second.kill();
    memtrap.start_again();
    memtrap.wait_until(10, "the last one is gone", |_| owners().is_empty());
}

#[test]
fn a_crash_loop_of_pending_processes_is_one_bundle() {
    let args = ["-grow", "104857601"];
    let svc = common::go_svc(GoVersion::Newest);
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ cmdline = '^{} .*-grow 104857601' }}\nthreshold = \"80MiB\"\nfor = \"60s\"\ninterval = \"100ms\"\n",
        svc.display()
    ));
    for life in 1..=4 {
        let mut svc = Svc::start(GoVersion::Newest, &args);
        memtrap.wait_until(10, "it is pending, or in its cooldown", |m| {
            m.log()
                .lines()
                .any(|l| l.contains(&format!("pid={}", svc.pid())) && (l.contains("state=\"pending\"") || l.contains("state=\"cooldown\"")))
        });
        svc.kill();
        memtrap.wait_until(10, "its end is seen", |m| m.log().matches("process ended").count() >= life);
    }
    let bundles = memtrap.wait_for_bundles(10, 1);
    assert_eq!(bundles.len(), 1, "{bundles:?}");
    let end: serde_json::Value = serde_json::from_slice(&fs::read(bundles[0].join("end.json")).unwrap()).unwrap();
    assert_eq!(end["gone"], true);
}

#[test]
fn a_limit_that_is_written_counts_where_no_cgroup_has_a_lower_one() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&target(&svc, "limit = \"120MiB\"\nthreshold = \"80%\"\nwarmup = \"0s\""));
    let m = manifest(&memtrap.wait_for_bundles(40, 1)[0]);
    assert_eq!((&m["trigger"]["limit_bytes"], &m["trigger"]["level_bytes"]), (&(120 * MIB).into(), &(96 * MIB).into()), "{m:#}");
    assert!(memtrap.log().contains("120MiB (limit of the configuration)"), "{}", memtrap.log());
}
