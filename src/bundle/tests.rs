//! Bundles from the first directory to the rename, and what is left when that is cut short.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::interrupted::finish_all;
use super::*;
use crate::trigger::{Fired, Trigger};

const ID: &str = "checkout/20261123T081336Z-threshold-1.52GiB";

fn started() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_616)
}

fn draft() -> Manifest {
    Manifest {
        schema: SCHEMA,
        memtrap_version: "0.1.0".into(),
        incident_id: "i-1".into(),
        part: 1,
        target: "checkout".into(),
        instance: Instance {
            label: "pid 4821".into(),
            pid: Some(4821),
            start_ticks: Some(99),
            exe: Some("/usr/bin/checkout".into()),
            ..Instance::default()
        },
        trigger: Fired {
            trigger: Trigger::Threshold,
            measure: crate::trigger::Measure::Rss,
            charge_bytes: None,
            charge_limit_bytes: None,
            charge_cgroup: None,
            rss_bytes: 1_632_087_572,
            level_bytes: 1_610_612_736,
            limit_bytes: Some(2 << 30),
            slope_bytes_per_second: None,
            window_seconds: None,
            eta_seconds: None,
            gc: None,
            reason: "RSS 1.52GiB is at or above 1.50GiB".into(),
        },
        rules: None,
        host: "host-a".into(),
        boot_id: "b007".into(),
        started: "2026-11-23T08:13:36.000Z".into(),
        finished: String::new(),
        outcome: Outcome::Interrupted,
        slowed: None,
        warnings: Vec::new(),
        files: vec![FileEntry::skipped("heap", "heap.pb.gz", "not yet"), FileEntry::skipped("mutex", "mutex.pb.gz", "not yet")],
    }
}

fn begin(dir: &Path) -> Partial {
    Partial::create(dir, started(), draft()).unwrap()
}

/// A bundle of this target and time with next to nothing in it.
pub(crate) fn publish(dir: &Path, target: &str, at: SystemTime) -> Published {
    publish_with(dir, target, at, &[])
}

/// The same with these files.
pub(crate) fn publish_with(dir: &Path, target: &str, at: SystemTime, files: &[(&str, &[u8])]) -> Published {
    let started = crate::clock::rfc3339_millis(at);
    let mut partial = Partial::create(dir, at, Manifest { target: target.into(), started, ..draft() }).unwrap();
    for (name, content) in files {
        partial.add(name, name, content);
    }
    partial.publish(Outcome::Complete, at).unwrap()
}

fn published(dir: &Path) -> Published {
    let mut partial = begin(dir);
    partial.add("heap", "heap.pb.gz", b"profile");
    partial.add("status", "proc/status", b"VmRSS: 1 kB");
    partial.publish(Outcome::Partial, started()).unwrap()
}

/// Dies without a word, as SIGKILL would have it.
fn killed(partial: Partial) {
    drop(partial);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn finish_one(dir: &Path) -> Published {
    let mut finished = finish_all(dir, started());
    assert_eq!(finished.len(), 1);
    finished.remove(0).unwrap()
}

#[test]
fn a_bundle_is_published_under_its_final_name_with_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let done = published(dir.path());
    assert_eq!(done.id, ID);
    assert_eq!(names(&dir.path().join("checkout")), ["20261123T081336Z-threshold-1.52GiB"]);
    assert_eq!(names(&done.path), ["README.md", "heap.pb.gz", "manifest.json", "proc"]);
    let read = open(dir.path(), ID).unwrap();
    assert_eq!(read.manifest, done.manifest);
    let on_disk = fs::read_dir(&done.path).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_file());
    let on_disk: u64 = on_disk.map(|e| e.metadata().unwrap().len()).sum();
    assert_eq!(done.bytes, on_disk + 11);
    let steps: Vec<&str> = read.manifest.files.iter().map(|f| f.step.as_str()).collect();
    assert_eq!(steps, ["heap", "mutex", "status", "readme"]);
}

#[test]
fn nobody_else_can_read_a_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let path = published(&dir.path().join("new/bundles")).path;
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    for d in [&path, &path.join("proc"), path.parent().unwrap(), &dir.path().join("new")] {
        assert_eq!(mode(d), 0o700, "{}", d.display());
    }
    for f in ["manifest.json", "README.md", "heap.pb.gz", "proc/status"] {
        assert_eq!(mode(&path.join(f)), 0o600, "{f}");
    }
}

#[test]
fn two_of_the_same_second_get_two_names() {
    let dir = tempfile::tempdir().unwrap();
    let first = published(dir.path());
    let second = begin(dir.path());
    let third = begin(dir.path());
    assert_eq!((second.id(), third.id()), (&*format!("{ID}-2"), &*format!("{ID}-3")));
    second.publish(Outcome::Complete, started()).unwrap();
    assert_eq!(verify(&first.path).unwrap().problems, []);
    assert_eq!(list(dir.path()).unwrap().len(), 2);
}

#[test]
fn a_hostile_target_name_makes_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../x", "/etc", "", ".hidden", "a/b", "a\nb", &"x".repeat(65)] {
        let result = Partial::create(&dir.path().join("b"), started(), Manifest { target: name.into(), ..draft() });
        assert!(matches!(result, Err(BundleError::TargetName { .. })), "{name:?}");
    }
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}

#[test]
fn a_killed_capture_is_finished_with_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut partial = begin(dir.path());
    partial.add("heap", "heap.pb.gz", b"profile");
    partial.warn("port of another process").write();
    // the process ends in the middle of this one
    partial.files().write("mutex.pb.gz", b"half a prof").unwrap();
    killed(partial);
    assert_eq!(list(dir.path()).unwrap(), []);

    let done = finish_one(dir.path());
    assert_eq!((done.id.as_str(), done.manifest.outcome), (ID, Outcome::Interrupted));
    assert_eq!(done.manifest.trigger, draft().trigger);
    assert_eq!(done.manifest.warnings.first().map(|w| w.text.as_str()), Some("port of another process"));
    assert_eq!(done.manifest.entry("heap").unwrap().status, Status::Ok);
    let half = done.manifest.entry("mutex").unwrap();
    assert_eq!((half.status, half.bytes), (Status::Failed, 11));
    assert_eq!(verify(&done.path).unwrap(), Verified { good: 3, problems: vec![] });
    assert_eq!(names(&done.path), ["README.md", "heap.pb.gz", "manifest.json", "mutex.pb.gz"]);
    assert!(finish_all(dir.path(), started()).is_empty());
}

#[test]
fn a_journal_cut_in_the_middle_of_a_line_loses_only_that_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut partial = begin(dir.path());
    partial.add("heap", "heap.pb.gz", b"profile");
    partial.add("mutex", "mutex.pb.gz", b"profile");
    let journal = partial.path().join("journal.jsonl");
    killed(partial);
    let text = fs::read(&journal).unwrap();
    fs::write(&journal, &text[..text.len() - 20]).unwrap();
    let done = finish_one(dir.path());
    assert_eq!(done.manifest.entry("heap").unwrap().status, Status::Ok);
    // its file is there, but nobody can say that it is whole
    assert_eq!(done.manifest.entry("mutex").unwrap().status, Status::Failed);
    assert_eq!(verify(&done.path).unwrap().problems, []);
}

#[test]
fn a_capture_killed_just_before_the_rename_keeps_its_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let done = published(dir.path());
    let partial = PathBuf::from(format!("{}.partial", done.path.display()));
    fs::rename(&done.path, &partial).unwrap();
    fs::write(partial.join("journal.jsonl"), "").unwrap();
    let again = finish_one(dir.path());
    assert_eq!((again.path.clone(), again.manifest.outcome), (done.path, Outcome::Partial));
    assert_eq!(verify(&again.path).unwrap().problems, []);
}

#[test]
fn a_capture_that_is_still_running_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let partial = begin(dir.path());
    assert!(finish_all(dir.path(), started()).is_empty());
    assert!(partial.publish(Outcome::Complete, started()).is_ok());
}

#[test]
fn what_memtrap_did_not_make_is_neither_listed_nor_touched() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["lost+found", "checkout/photos", "checkout/photos.partial", "checkout/20261123T081336Z-x.partial"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("checkout/photos.partial/cat.png"), "meow").unwrap();
    fs::write(dir.path().join("checkout/photos/manifest.json"), "[1, 2]").unwrap();
    fs::write(dir.path().join("checkout/notes.txt"), "x").unwrap();
    assert!(finish_all(dir.path(), started()).is_empty());
    assert_eq!(list(dir.path()).unwrap(), []);
    assert_eq!(ids(dir.path()).unwrap(), ["checkout/photos"], "a directory of that name may be one");
    // only the empty one with memtrap's kind of name went
    assert_eq!(names(&dir.path().join("checkout")), ["notes.txt", "photos", "photos.partial"]);
}

#[test]
fn a_kill_between_a_file_and_its_note_leaves_one_entry_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let partial = begin(dir.path());
    partial.files().write("README.md", b"of the publishing that was killed").unwrap();
    killed(partial);
    let done = finish_one(dir.path());
    assert_eq!(verify(&done.path).unwrap().problems, []);
    assert_eq!(done.manifest.files.iter().filter(|f| f.name == "README.md").count(), 1);
}

#[test]
fn a_bundle_that_was_changed_does_not_verify() {
    let dir = tempfile::tempdir().unwrap();
    let path = published(dir.path()).path;
    fs::write(path.join("heap.pb.gz"), "Profile").unwrap();
    fs::remove_file(path.join("proc/status")).unwrap();
    fs::write(path.join("proc/extra"), "x").unwrap();
    fs::write(path.join("proc/line\nof \x1b[2J"), "x").unwrap();
    let problems = verify(&path).unwrap().problems;
    let name = |n: &str| n.to_owned();
    let expected = [
        Problem::Changed { name: name("heap.pb.gz") },
        Problem::Missing { name: name("proc/status") },
        Problem::Unlisted { name: name("proc/extra") },
        Problem::Unlisted { name: name("proc/line of \\u{1b}[2J") },
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_manifest_cannot_point_out_of_its_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let path = published(dir.path()).path;
    let manifest = path.join(MANIFEST);
    let text = fs::read_to_string(&manifest).unwrap().replace("\"proc/status\"", "\"../../../etc/passwd\"");
    fs::write(&manifest, text).unwrap();
    let problems = verify(&path).unwrap().problems;
    assert!(problems.contains(&Problem::Missing { name: "../../../etc/passwd".into() }), "{problems:?}");
}

#[test]
fn an_id_is_a_target_and_a_name_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    published(dir.path());
    assert!(open(dir.path(), ID).is_ok());
    for id in ["", "checkout", "../checkout/x", "checkout/../checkout", "checkout/..", "/etc/passwd", "a/b/c", "checkout/x.partial"] {
        assert!(matches!(open(dir.path(), id), Err(BundleError::BadId { .. })), "{id}");
    }
    assert!(matches!(open(dir.path(), "checkout/none"), Err(BundleError::NotFound { .. })));
}

#[test]
fn a_taken_final_name_is_an_error_and_harms_neither() {
    let dir = tempfile::tempdir().unwrap();
    let partial = begin(dir.path());
    let target = dir.path().join("checkout/20261123T081336Z-threshold-1.52GiB");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "x").unwrap();
    let error = partial.publish(Outcome::Complete, started()).unwrap_err().to_string();
    assert!(error.starts_with("cannot rename to its final name"), "{error}");
    assert_eq!(names(&target), ["mine"]);
    assert_eq!(names(&dir.path().join("checkout")).len(), 2);
}

#[test]
fn the_readme_has_commands_with_the_real_paths_in_reading_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("it's here");
    let mut partial = begin(&root);
    let names = [
        "heap_gc.pb.gz",
        "allocs.pb.gz",
        "goroutine.pb.gz",
        "goroutine.txt",
        "proc/status",
        "proc/smaps",
        "memstats_gc.txt",
        "profile.pb.gz",
    ];
    for name in names {
        partial.add(name, name, b"x");
    }
    let path = partial.publish(Outcome::Complete, started()).unwrap().path;
    let page = fs::read_to_string(path.join("README.md")).unwrap();
    let quoted = format!("'{}", path.display().to_string().replace('\'', r"'\''"));
    let order = [
        format!("go tool pprof -top -sample_index=inuse_space {quoted}/heap_gc.pb.gz'"),
        format!("go tool pprof -top -sample_index=inuse_objects {quoted}/heap_gc.pb.gz'"),
        format!("go tool pprof -top -sample_index=alloc_space {quoted}/allocs.pb.gz'"),
        format!("go tool pprof -top -sample_index=alloc_objects {quoted}/allocs.pb.gz'"),
        format!("go tool pprof -top {quoted}/goroutine.pb.gz'"),
        format!("{quoted}/proc/status'"),
        format!("go tool pprof -top {quoted}/profile.pb.gz'"),
        "- `mutex.pb.gz`: not yet".into(),
    ];
    let places: Vec<usize> = order.iter().map(|line| page.find(line).unwrap_or_else(|| panic!("no {line} in\n{page}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(!page.contains("pprof -top -sample_index=inuse_space '/heap.pb.gz"));
}

#[test]
fn hostile_names_do_not_leave_their_place_in_the_readme() {
    let dir = tempfile::tempdir().unwrap();
    let mut draft = draft();
    draft.instance.exe = Some("/tmp/`x`\n# Run this\x1b[2J".into());
    draft.trigger.reason = "<script>alert(1)</script> [x](http://evil)".into();
    draft.files.push(FileEntry::skipped("x", "x", "a\n## Not a heading | b"));
    let path = Partial::create(dir.path(), started(), draft).unwrap().publish(Outcome::Complete, started()).unwrap().path;
    let page = fs::read_to_string(path.join("README.md")).unwrap();
    assert!(!page.contains("\x1b") && !page.contains("<script") && !page.contains("[x]("), "{page}");
    assert!(!page.lines().any(|l| l.starts_with("# Run this") || l.starts_with("## Not a heading")), "{page}");
}
