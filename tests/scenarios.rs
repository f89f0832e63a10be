//! The programs that verdicts are tried on are what their table says.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::scenarios::{SCENARIOS, named};
use common::{GoVersion, MIB, go_program};

fn listed(version: GoVersion, cgo: bool) -> BTreeSet<String> {
    let output = Command::new(go_program(version, "scenarios", cgo)).arg("-list").output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_scenario_of_the_programs_has_its_line_in_the_table() {
    for version in GoVersion::BOTH {
        for cgo in [false, true] {
            let table = SCENARIOS.iter().filter(|s| s.is_for(version) && (cgo || !s.cgo));
            assert_eq!(listed(version, cgo), table.map(|s| s.name.to_owned()).collect(), "{version:?}, cgo {cgo}");
        }
    }
}

#[test]
fn every_expected_cause_is_one_that_a_verdict_can_name() {
    const CAUSES: [&str; 13] = [
        "live_heap",
        "small_objects",
        "allocation_churn",
        "unreleased_heap",
        "goroutine_pileup",
        "deep_stacks",
        "native_memory",
        "file_mappings",
        "shmem",
        "thread_pileup",
        "runtime_metadata",
        "mixed",
        "unknown",
    ];
    for s in SCENARIOS {
        assert!(!s.expect.is_empty() && s.expect.iter().all(|c| CAUSES.contains(c)), "{s:?}");
        assert!(!s.go_heap_explains.is_empty() && s.go_heap_explains.iter().all(|e| ["yes", "partly", "no"].contains(e)), "{s:?}");
    }
}

#[test]
fn a_scenario_with_a_baseline_grows_when_it_is_told_to() {
    let svc = named("mmap_anon").start_healthy(GoVersion::Newest, 64);
    let healthy = svc.rss();
    assert!(healthy < 48 * MIB, "{healthy}");
    svc.grow();
    let grown = svc.rss();
    assert!((60 * MIB..80 * MIB).contains(&(grown - healthy)), "{healthy} to {grown}");
}
