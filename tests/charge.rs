//! What kills a process is its cgroup's charge, whoever's memory that is.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use common::numbers::deviations;
use common::{Build, Cgroup, GoVersion, MIB, Memtrap, Svc, entry, go_program, manifest, vm, wait_until};

fn target(svc: &Svc, keys: &str) -> String {
    format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nfor = \"0s\"\ncpu_seconds = 0\nbaseline = \"off\"\n{keys}\n",
        svc.pid(),
        svc.pprof()
    )
}

/// A file that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn below(dir: &str, name: &str) -> Scratch {
        Scratch(PathBuf::from(dir).join(format!("memtrap-test-{name}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A process that goes with it.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// So many MiB of a cgroup in tmpfs, which no process has in its RSS.
fn fill_tmpfs(cgroup: &Cgroup, file: &Scratch, mib: u64) {
    let status = cgroup.shell(&format!("head -c {} /dev/zero > {}", mib * MIB, file.0.display())).wait().unwrap();
    assert!(status.success(), "{status}");
}

fn assert_by_charge(m: &serde_json::Value, at_least: u64, limit: u64) {
    let fired = &m["trigger"];
    assert_eq!(fired["measure"], "charge", "{fired:#}");
    assert!(fired["charge_bytes"].as_u64().unwrap() >= at_least, "{fired:#}");
    assert_eq!(fired["charge_limit_bytes"].as_u64(), Some(limit), "{fired:#}");
    assert!(fired["rss_bytes"].as_u64().unwrap() < 60 * MIB, "{fired:#}");
    assert!(fired["reason"].as_str().unwrap().starts_with("the charge of cgroup /"), "{fired:#}");
}

/// The cause, and that each number of the verdict is in the bundle's files and the cgroup's parts add up.
fn assert_verdict(bundle: &Path, cause: &str) -> serde_json::Value {
    wait_until(Duration::from_secs(30), "the verdict", || bundle.join("verdict.json").exists());
    let verdict: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert_eq!(verdict["cause"], cause, "{verdict:#}");
    let wrong = deviations(bundle, &verdict);
    assert!(wrong.is_empty(), "{}\n{:#}", wrong.join("\n"), verdict["cgroup"]);
    let text = fs::read_to_string(bundle.join("report.txt")).unwrap();
    assert!(text.contains("What uses ") && text.contains(cause), "{text}");
    assert!(fs::read_to_string(bundle.join("report.html")).unwrap().contains("of cgroup /"));
    verdict
}

fn part(verdict: &serde_json::Value, part: &str) -> u64 {
    let parts = verdict["cgroup"]["parts"].as_array().unwrap();
    parts.iter().find(|line| line["part"] == part).unwrap()["bytes"].as_u64().unwrap()
}

/// A process of the cgroup that takes so many MiB of the kernel's own memory.
fn take_kernel_memory(cgroup: &Cgroup, how: &str, mib: u64) -> Helper {
    let program = go_program(GoVersion::Newest, "charge", Build::Plain);
    let mut helper = Helper(cgroup.shell(&format!("exec {} {how} {mib}", program.display())));
    let mut line = String::new();
    BufReader::new(helper.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "READY\n");
    helper
}

#[test]
fn a_tmpfs_that_fills_the_cgroup_fires_and_is_over_when_it_is_emptied() {
    let Some(cgroup) = Cgroup::new(260 * MIB) else { return };
    let svc = cgroup.start(&[]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80%\""));
    let file = Scratch::below("/dev/shm", "tmpfs");
    fill_tmpfs(&cgroup, &file, 215);
    let bundle = memtrap.wait_for_bundles(20, 1).remove(0);
    assert_by_charge(&manifest(&bundle), 208 * MIB, 260 * MIB);
    assert!(memtrap.log().contains("the charge of cgroup /"), "{}", memtrap.log());
    let verdict = assert_verdict(&bundle, "cgroup_shmem");
    // it fires while the file is written
    assert!(part(&verdict, "shmem") >= 200 * MIB, "{verdict:#}");
    drop(file);
    memtrap.wait_until(10, "the incident is over", |m| m.log().contains("state=\"cooldown\""));
}

#[test]
fn what_a_child_holds_fires_for_its_parent() {
    let Some(cgroup) = Cgroup::new(261 * MIB) else { return };
    let svc = cgroup.start(&[]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"80%\""));
    // tail keeps its input until that ends
    let _child = Helper(cgroup.shell(&format!("(head -c {0} /dev/zero; exec sleep 600) | exec tail -c {0} > /dev/null", 220 * MIB)));
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    assert_by_charge(&manifest(&bundle), 208 * MIB, 261 * MIB);
    let verdict = assert_verdict(&bundle, "cgroup_neighbours");
    assert_eq!(verdict["cgroup"]["processes"][0]["name"], "tail", "{verdict:#}");
    cgroup.kill_all();
}

#[test]
fn page_tables_and_pipes_fire_and_are_the_kernels_own() {
    let (Some(tables), Some(pipes)) = (Cgroup::new(265 * MIB), Cgroup::new(266 * MIB)) else { return };
    let (svc, other) = (tables.start(&[]), pipes.start(&[]));
    let config = target(&svc, "threshold = \"80%\"") + &target(&other, "threshold = \"80%\"").replace("\"svc\"", "\"pipes\"");
    let memtrap = Memtrap::start(&config);
    let _helpers = (take_kernel_memory(&tables, "page_tables", 216), take_kernel_memory(&pipes, "pipes", 216));
    for bundle in memtrap.wait_for_bundles(30, 2) {
        let limit = if bundle.to_str().unwrap().contains("/pipes/") { 266 } else { 265 };
        assert_by_charge(&manifest(&bundle), 212 * MIB, limit * MIB);
        let verdict = assert_verdict(&bundle, "cgroup_kernel");
        assert!(part(&verdict, "kernel") >= 205 * MIB, "{verdict:#}");
    }
    tables.kill_all();
    pipes.kill_all();
}

#[test]
fn a_limit_above_that_is_filled_by_others_fires_by_eta() {
    let Some(pod) = Cgroup::new(263 * MIB) else { return };
    let container = pod.below("container", 200 * MIB);
    let svc = container.start(&[]);
    let memtrap = Memtrap::start(&target(&svc, "eta = \"40s\"\nwarmup = \"1s\""));
    let file = Scratch::below("/dev/shm", "sidecar");
    let fill = format!("while head -c 4194304 /dev/zero >> {}; do sleep 1; done", file.0.display());
    let beside = pod.below("sidecar", 263 * MIB);
    let _sidecar = Helper(beside.shell(&fill));
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    let m = manifest(&bundle);
    assert_eq!((&m["trigger"]["trigger"], &m["trigger"]["measure"]), (&"eta".into(), &"charge".into()), "{m:#}");
    assert_eq!(m["trigger"]["charge_limit_bytes"].as_u64(), Some(263 * MIB), "{m:#}");
    assert_eq!(m["trigger"]["limit_bytes"].as_u64(), Some(200 * MIB), "{m:#}");
    let verdict = assert_verdict(&bundle, "cgroup_shmem");
    assert_eq!(verdict["cgroup"]["limit_bytes"].as_u64(), Some(263 * MIB), "{verdict:#}");
    beside.kill_all();
    drop(svc);
}

#[test]
fn an_oom_kill_that_nothing_announced_leaves_a_bundle_that_says_whose_limit_it_was() {
    let Some(cgroup) = Cgroup::new(267 * MIB) else { return };
    let mut svc = cgroup.start(&["-grow", "100000000"]);
    // no rule can hold
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &target(&svc, "threshold = \"900GiB\"\ninterval = \"100ms\""));
    sleep(Duration::from_secs(2));
    svc.tell("leak?rate=2000000000&max=1073741824");
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    let m = manifest(&bundle);
    assert_eq!(m["trigger"]["trigger"], "oom_kill", "{m:#}");
    let reason = m["trigger"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("the kernel killed it for memory: oom_kill of cgroup /") && reason.contains("the limit of 267MiB of cgroup /"),
        "{reason}"
    );
    let end: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("end.json")).unwrap()).unwrap();
    assert_eq!((&end["gone"], &end["oom_killed"], &end["oom_limit_bytes"]), (&true.into(), &true.into(), &(267 * MIB).into()), "{end:#}");
    let (counter, kills) = match Cgroup::is_v2() {
        true => ("memory.events.local", "memory.events: oom_kill 1"),
        false => ("memory.failcnt", "memory.oom_control: oom_kill 1"),
    };
    assert_eq!((&end["oom_limit_counter"], &end["exit_signal"]), (&counter.into(), &9.into()), "{end:#}");
    assert!(fs::read_to_string(bundle.join("timeline.csv")).unwrap().lines().count() > 5);
    assert!(fs::read_to_string(bundle.join("cgroup_end.txt")).unwrap().contains(kills));
    assert!(memtrap.log().contains("the kernel killed the process for memory"), "{}", memtrap.log());
    let page = common::http::get(&memtrap.address(), "/metrics").text();
    assert!(page.contains("memtrap_oom_kills_total{target=\"svc\"} 1"), "{page}");
    let targets: serde_json::Value = serde_json::from_str(&common::http::get(&memtrap.address(), "/api/targets").text()).unwrap();
    let last = targets["instances"][0]["last_end"].as_str().unwrap();
    assert!(last.starts_with("OOM-killed at ") && last.contains(" by the limit of /memtrap-test-") && last.ends_with("(267MiB)"), "{last}");
    svc.kill();
}

#[test]
fn the_kill_of_another_process_of_the_cgroup_is_told_and_captured_while_the_watched_one_lives() {
    let Some(cgroup) = Cgroup::new(268 * MIB) else { return };
    let svc = cgroup.start(&[]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"900GiB\""));
    let _child = Helper(cgroup.shell("exec tail -n 1 < /dev/zero"));
    let bundle = memtrap.wait_for_bundles(45, 1).remove(0);
    let m = manifest(&bundle);
    assert_eq!(m["trigger"]["trigger"], "oom_kill", "{m:#}");
    assert!(m["trigger"]["reason"].as_str().unwrap().contains("killed another process of its cgroup"), "{m:#}");
    assert!(bundle.join("heap.pb.gz").exists(), "{m:#}");
    cgroup.kill_all();
}

#[test]
fn page_cache_that_fills_the_cgroup_fires_nothing_and_nor_does_a_charge_that_is_off() {
    let (Some(cached), Some(off)) = (Cgroup::new(262 * MIB), Cgroup::new(264 * MIB)) else { return };
    let (svc, other) = (cached.start(&[]), off.start(&[]));
    let config = target(&svc, "threshold = \"60%\"\neta = \"40s\"\nwarmup = \"1s\"");
    let memtrap = Memtrap::start(&(config + &target(&other, "threshold = \"60%\"\ncharge = \"off\"").replace("\"svc\"", "\"off\"")));
    let (file, shm) = (Scratch::below("/tmp", "pagecache"), Scratch::below("/dev/shm", "off"));
    fill_tmpfs(&off, &shm, 200);
    let write = format!(
        "for i in 1 2 3 4 5 6 7 8; do head -c 67108864 /dev/urandom >> {0}; sync {0}; done; cat {0} {0} > /dev/null",
        file.0.display()
    );
    let mut writer = Helper(cached.shell(&write));
    wait_until(Duration::from_secs(60), "it is written", || writer.0.try_wait().unwrap().is_some());
    assert!(cached.usage() > 200 * MIB, "{}", cached.read("memory.stat"));
    sleep(Duration::from_secs(5));
    assert!(memtrap.bundles().is_empty(), "{}", memtrap.log());
}

#[test]
fn a_leak_of_500_mib_a_second_is_heard_at_its_level_though_no_poll_is_due() {
    let Some(cgroup) = Cgroup::new(401 * MIB) else { return };
    let svc = cgroup.start(&[]);
    let target = target(&svc, "threshold = \"80%\"\ninterval = \"1h\"\nmax_interval = \"1h\"");
    let memtrap = Memtrap::start(&target.replace("for = \"0s\"", "for = \"3s\""));
    // it is read twice when it is found, and then not for an hour
    sleep(Duration::from_secs(2));
    svc.tell(&format!("leak?rate={}&max={}", 500 * MIB, 350 * MIB));
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    let m = manifest(&bundle);
    assert_eq!(m["trigger"]["trigger"], "threshold", "{m:#}");
    assert!(m["trigger"]["rss_bytes"].as_u64().unwrap() >= 320 * MIB, "{m:#}");
    assert!(bundle.join("heap.pb.gz").exists(), "{m:#}");
}

#[test]
fn the_kill_of_a_cgroups_other_process_is_heard_and_not_waited_for() {
    let Some(cgroup) = Cgroup::new(269 * MIB) else { return };
    let svc = cgroup.start(&[]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"99%\"\ninterval = \"1h\"\nmax_interval = \"1h\""));
    sleep(Duration::from_secs(2));
    let _child = Helper(cgroup.shell("exec tail -n 1 < /dev/zero"));
    memtrap.wait_until(20, "the kill is told of", |m| m.log().contains("the kernel killed another process of its cgroup"));
    cgroup.kill_all();
}

#[test]
#[ignore = "only version 2 of cgroups can slow a process down: it is run in the virtual machine, below"]
fn a_leak_that_memory_high_slows_down_leaves_its_core_evidence_before_the_kill() {
    let cgroup = Cgroup::new(300 * MIB).unwrap();
    cgroup.write("memory.high", &(285 * MIB).to_string());
    let svc = cgroup.start(&[]);
    // the level is met only when it is too late, and no poll is due
    let rules = target(&svc, "threshold = \"100%\"\ninterval = \"1h\"\nmax_interval = \"1h\"");
    let memtrap = Memtrap::start(&rules.replace("for = \"0s\"", "for = \"1h\""));
    sleep(Duration::from_secs(2));
    svc.tell(&format!("leak?rate={}&max={}", 200 * MIB, 1024 * MIB));
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    let m = manifest(&bundle);
    assert_eq!(m["slowed"]["high_bytes"], 285 * MIB, "{m:#}");
    for file in ["heap.pb.gz", "memstats.txt", "goroutine.pb.gz"] {
        assert_eq!(entry(&bundle, file)["status"], "ok", "{m:#}");
    }
    let end: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("end.json")).unwrap()).unwrap();
    assert!(end["oom_killed"] == true || end["gone"] == false, "{end:#}");
    cgroup.kill_all();
}

/// Of these, in the virtual machine.
fn inside(tests: &[&str]) {
    let programs = ["svc", "charge"].map(|name| go_program(GoVersion::Newest, name, Build::Plain));
    vm::run_inside("charges under version 2 of cgroups", tests, &programs);
}

#[test]
fn what_kills_and_what_slows_is_so_with_version_2_of_cgroups() {
    inside(&[
        "a_tmpfs_that_fills_the_cgroup_fires_and_is_over_when_it_is_emptied",
        "an_oom_kill_that_nothing_announced_leaves_a_bundle_that_says_whose_limit_it_was",
        "a_leak_that_memory_high_slows_down_leaves_its_core_evidence_before_the_kill",
    ]);
}

#[test]
#[ignore = "minutes: make vm"]
fn the_rest_is_so_in_the_virtual_machine() {
    inside(&[
        "what_a_child_holds_fires_for_its_parent",
        "page_tables_and_pipes_fire_and_are_the_kernels_own",
        "a_limit_above_that_is_filled_by_others_fires_by_eta",
        "the_kill_of_another_process_of_the_cgroup_is_told_and_captured_while_the_watched_one_lives",
        "page_cache_that_fills_the_cgroup_fires_nothing_and_nor_does_a_charge_that_is_off",
        "the_kill_of_a_cgroups_other_process_is_heard_and_not_waited_for",
    ]);
}
