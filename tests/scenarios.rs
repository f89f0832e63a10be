//! The programs that verdicts are tried on are what their table says.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::scenarios::{SCENARIOS, named};
use common::{Build, GoVersion, MIB, go_program};

fn listed(version: GoVersion, build: Build) -> BTreeSet<String> {
    let output = Command::new(go_program(version, "scenarios", build)).arg("-list").output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_scenario_of_the_programs_has_its_line_in_the_table() {
    for version in GoVersion::BOTH {
        for builds in [&[Build::Plain][..], &[Build::Plain, Build::Cgo]] {
            let table = SCENARIOS.iter().filter(|s| s.is_for(version) && builds.contains(&s.build));
            let build = *builds.last().unwrap();
            assert_eq!(listed(version, build), table.map(|s| s.name.to_owned()).collect(), "{version:?}, {build:?}");
        }
    }
}

#[test]
fn every_expected_cause_is_one_that_a_verdict_can_name() {
    const CAUSES: [&str; 14] = [
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
        "gc_thrash",
        "mixed",
        "unknown",
    ];
    for (s, answers) in SCENARIOS.iter().flat_map(|s| [false, true].map(|baseline| (s, s.answers(baseline)))) {
        assert!(!answers.causes.is_empty() && answers.causes.iter().chain(answers.doubtful).all(|c| CAUSES.contains(c)), "{s:?}");
        let explains = answers.go_heap_explains;
        assert!(!explains.is_empty() && explains.iter().all(|e| ["yes", "partly", "no", "unknown"].contains(e)), "{s:?}");
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
