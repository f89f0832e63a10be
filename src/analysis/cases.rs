//! Recorded bundles of processes whose memory is as public bug reports describe it.

use std::path::Path;

use super::*;
use crate::bundle::ANOTHERS;
use crate::verdict::{Cause, Confidence, Detail};

fn verdict(case: &str) -> Verdict {
    of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases").join(case))
}

fn of(dir: &Path) -> Verdict {
    of_directory(dir, dir, None, None, Lang::En).unwrap().verdict
}

/// A copy of a case without these files, and with these instead.
fn altered(case: &str, without: &[&str], with: &[(&str, &[u8])]) -> tempfile::TempDir {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases").join(case), tempfile::tempdir().unwrap());
    for folder in ["", "proc"] {
        std::fs::create_dir_all(to.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(from.join(folder)).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
            let name = Path::new(folder).join(entry.file_name());
            if !without.iter().any(|w| Path::new(w) == name) {
                std::fs::copy(entry.path(), to.path().join(name)).unwrap();
            }
        }
    }
    for (name, body) in with {
        std::fs::write(to.path().join(name), body).unwrap();
    }
    to
}

fn read(case: &str, file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases").join(case).join(file)).unwrap()
}

#[test]
fn goroutines_that_ended_are_named_by_what_the_runtime_allocates_for_them() {
    let verdict = verdict("dead-goroutines-go127");
    assert_eq!(verdict.cause, Cause::SmallObjects);
    assert!(verdict.summary.contains("most of it from runtime.malg") && !verdict.summary.contains("mallocgc"), "{}", verdict.summary);
}

#[test]
fn a_collection_that_was_not_counted_as_forced_is_one_and_its_goal_is_not_the_environment_s() {
    let verdict = verdict("gc-not-counted-as-forced");
    let said = verdict.evidence.join("\n");
    assert!(said.contains("A collection between the two MemStats separates"), "{said}");
    assert!(said.contains("not GOGC=100 as the environment has it") && said.contains("GCCPUFraction"), "{said}");
    assert!(verdict.missing.iter().all(|m| !m.contains("collection")), "{:?}", verdict.missing);
    assert_eq!((verdict.cause, verdict.confidence), (Cause::GcThrash, Confidence::Medium), "{verdict:#?}");
    assert!(said.contains("Between the two MemStats 7 collections, one of them memtrap's, took 42% of all CPU"), "{said}");
}

#[test]
fn what_a_process_of_32_bits_freed_lazily_is_not_native() {
    let verdict = verdict("i386-madvfree");
    assert_eq!((verdict.cause, verdict.detail), (Cause::UnreleasedHeap, Some(Detail::MadvFree)), "{verdict:#?}");
}

#[test]
fn another_allocator_far_away_is_native_memory_for_certain() {
    let verdict = verdict("mimalloc");
    assert_eq!((verdict.cause, verdict.confidence), (Cause::NativeMemory, Confidence::High), "{verdict:#?}");
    assert!(verdict.evidence.iter().any(|e| e.starts_with("Native memory:")), "{:#?}", verdict.evidence);
}

#[test]
fn a_private_mapping_that_was_written_is_named_by_its_file() {
    let verdict = verdict("private-file-cow");
    assert_eq!(verdict.cause, Cause::NativeMemory);
    assert!(verdict.summary.contains("private copies of pages of /srv/case/tmpfile.cow"), "{}", verdict.summary);
}

#[test]
fn returned_memory_that_huge_pages_made_resident_again_is_not_called_unreturned() {
    let verdict = verdict("thp-released");
    assert_eq!((verdict.cause, verdict.detail), (Cause::UnreleasedHeap, Some(Detail::HugePages)), "{verdict:#?}");
    assert!(verdict.summary.contains("returned to the kernel, and are resident nevertheless"), "{}", verdict.summary);
}

#[test]
fn without_memstats_nameless_memory_is_not_called_native() {
    let dir = altered("mimalloc", &["memstats.txt", "memstats_gc.txt"], &[]);
    let verdict = of(dir.path());
    assert_eq!((verdict.cause, verdict.confidence), (Cause::Unknown, Confidence::Low), "{verdict:#?}");
}

#[test]
fn evidence_of_two_processes_makes_no_verdict() {
    // the heap of one process beside the kernel's numbers of another
    let other = read("dead-goroutines-go127", "heap_gc.pb.gz");
    let verdict = of(altered("private-file-cow", &[], &[("heap_gc.pb.gz", &other)]).path());
    assert!(verdict.missing[0].contains("is of another process"), "{:?}", verdict.missing);
    assert!(verdict.top.inuse_space.is_empty() && verdict.goroutines.is_none(), "{verdict:#?}");
    assert!(!verdict.summary.contains("malg") && verdict.confidence < Confidence::High, "{}", verdict.summary);
    // a process that never had so much
    let other = read("gc-not-counted-as-forced", "memstats.txt");
    let verdict = of(altered("private-file-cow", &["memstats_gc.txt"], &[("memstats.txt", &other)]).path());
    assert!(verdict.missing[0].contains("never had more than 103MiB"), "{:?}", verdict.missing);
}

#[test]
fn a_warning_that_the_profiles_may_be_another_s_does_not_outlive_the_proof_that_they_are_not() {
    let mut manifest = serde_json::json!({
        "schema": 1, "memtrap_version": "0", "incident_id": "i", "part": 1, "target": "t", "instance": {"label": "pid 1"},
        "trigger": {"trigger": "manual", "rss_bytes": 238_000_000u64, "level_bytes": 238_000_000u64, "reason": "asked"}, "host": "h", "boot_id": "b", "started": "", "finished": "",
        "outcome": "complete", "files": [], "warnings": [format!("`pprof` is served by a proxy: {ANOTHERS}")],
    });
    let of = |manifest: &serde_json::Value, without: &[&str]| {
        let body = serde_json::to_vec(manifest).unwrap();
        of(altered("private-file-cow", without, &[("manifest.json", &body)]).path())
    };
    let _: Manifest = serde_json::from_value(manifest.clone()).unwrap();
    assert_eq!(of(&manifest, &[]).confidence, Confidence::High);
    // nothing proves it where the kernel's mappings are not known
    assert_eq!(of(&manifest, &["proc/smaps"]).confidence, Confidence::Low);
    // the kind of a warning decides, not its words
    manifest["warnings"] = serde_json::json!(["`pprof` is served by a proxy"]);
    manifest["warning_kinds"] = serde_json::json!(["mistaken"]);
    assert_eq!(of(&manifest, &["proc/smaps"]).confidence, Confidence::Low);
    manifest["warnings"] = serde_json::json!([]);
    assert!(of(&manifest, &["proc/smaps"]).confidence > Confidence::Low);
}
