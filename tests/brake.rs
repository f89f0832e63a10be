//! The brake on a kernel: only version 2 of cgroups has one, so all of this runs in a virtual machine.

mod common;

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use common::{Build, Cgroup, GoVersion, MIB, Memtrap, Svc, entry, go_program, manifest, vm, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: u64 = 300 * MIB;

fn target(svc: &Svc) -> String {
    format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nthreshold = \"80%\"\nfor = \"0s\"\ncpu_seconds = 0\n\
         baseline = \"off\"\nbrake = \"on\"\n",
        svc.pid(),
        svc.pprof()
    )
}

/// It leaks into the limit: from the level to the end in six seconds, where each instruction is emulated.
fn leak(svc: &Svc) {
    // it is found first
    sleep(Duration::from_secs(2));
    svc.tell(&format!("leak?rate={}&max={}", 10 * MIB, 1024 * MIB));
}

fn high(cgroup: &Cgroup) -> String {
    cgroup.read("memory.high").trim().to_owned()
}

fn wait_until_held(cgroup: &Cgroup, memtrap: &Memtrap) {
    memtrap.wait_until(20, "the cgroup is held", |m| {
        assert!(!m.log().contains("its cgroup is not held"));
        high(cgroup) != "max"
    });
}

fn notes(memtrap: &Memtrap) -> usize {
    fs::read_dir(memtrap.dir().join("state/brakes")).map_or(0, Iterator::count)
}

/// memtrap and its guards.
fn kill_all_of_memtrap() {
    let program = Path::new(env!("CARGO_BIN_EXE_memtrap"));
    for pid in fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()) {
        if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program) {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
    }
}

fn is_stopped(svc: &Svc) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", svc.pid())).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tT") || line.starts_with("State:\tt"))
}

/// Kills memtrap alone, or with its guard, while it holds a cgroup, so many times.
fn kill_while_it_brakes(rounds: usize) {
    let cgroup = Cgroup::new(LIMIT).unwrap();
    for round in 0..rounds {
        let svc = cgroup.start(&[]);
        let mut memtrap = Memtrap::start(&target(&svc));
        leak(&svc);
        wait_until_held(&cgroup, &memtrap);
        let with_its_guard = round % 2 == 1;
        if with_its_guard {
            kill_all_of_memtrap();
        }
        memtrap.stop(Signal::KILL);
        if !with_its_guard {
            wait_until(Duration::from_secs(5), "the guard has let go", || high(&cgroup) == "max");
        }
        assert!(!is_stopped(&svc), "round {round}");
        cgroup.kill_all();
        drop(svc);
        memtrap.start_again();
        memtrap.wait_until(10, "what was noted is settled", |m| notes(m) == 0);
        assert_eq!(high(&cgroup), "max", "round {round}, with its guard: {with_its_guard}\n{}", memtrap.log());
        assert_eq!(cgroup.read("memory.max").trim(), LIMIT.to_string());
    }
}

#[test]
#[ignore = "it is run in the virtual machine, below"]
fn a_fast_leak_is_held_until_its_core_evidence_is_there_and_let_go() {
    let cgroup = Cgroup::new(LIMIT).unwrap();
    let svc = cgroup.start(&[]);
    let memtrap = Memtrap::start(&target(&svc));
    leak(&svc);
    wait_until_held(&cgroup, &memtrap);
    wait_until(Duration::from_secs(15), "it is let go", || high(&cgroup) == "max");
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    let m = manifest(&bundle);
    for file in ["heap.pb.gz", "memstats.txt", "goroutine.pb.gz"] {
        assert_eq!(entry(&bundle, file)["status"], "ok", "{m:#}\n{}", memtrap.log());
    }
    assert!(m["slowed"]["high_bytes"].as_u64().is_some_and(|high| (200 * MIB..LIMIT).contains(&high)), "{m:#}");
    assert_eq!((cgroup.read("memory.max").trim(), notes(&memtrap)), (LIMIT.to_string().as_str(), 0));
    cgroup.kill_all();
}

#[test]
#[ignore = "it is run in the virtual machine, below"]
fn a_memtrap_that_is_killed_while_it_brakes_leaves_nothing_behind() {
    kill_while_it_brakes(4);
}

#[test]
#[ignore = "minutes: make vm"]
fn all_of_this_is_so_in_the_virtual_machine() {
    let tests = [
        "a_fast_leak_is_held_until_its_core_evidence_is_there_and_let_go",
        "a_memtrap_that_is_killed_while_it_brakes_leaves_nothing_behind",
    ];
    vm::run_inside("the brake, under version 2 of cgroups", &tests, &[go_program(GoVersion::Newest, "svc", Build::Plain)]);
}
