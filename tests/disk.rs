//! Disks that are full, read-only, gone or stuck: the daemon lives, says so, recovers, and goes on watching.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::{Idle, MIB, Memtrap, bundles_in, entry, manifest, not_checked, wait_until};
use memtrap::bundle::verify;
use tempfile::TempDir;

/// A file system of a test's own, unmounted when dropped.
struct Mount {
    dir: TempDir,
}

impl Mount {
    /// `None`, said aloud: nothing may be mounted here, so that `what` is not checked.
    fn new(what: &str, kind: &[&str]) -> Option<Mount> {
        let dir = TempDir::new().unwrap();
        match mount(&[kind, &[dir.path().to_str().unwrap()]].concat()) {
            Ok(()) => Some(Mount { dir }),
            Err(why) => {
                not_checked(&format!("{what}: {why}"));
                None
            }
        }
    }

    fn tmpfs(what: &str, size: u64) -> Option<Mount> {
        Mount::new(what, &["-t", "tmpfs", "-o", &format!("size={size}"), "memtrap-test"])
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn remount(&self, how: &str) {
        mount(&["-o", &format!("remount,{how}"), self.path().to_str().unwrap()]).unwrap();
    }

    /// Leaves this much room; returns the file that takes the rest.
    fn fill(&self, leave: u64) -> PathBuf {
        let free = rustix::fs::statvfs(self.path()).unwrap();
        let file = self.path().join("other-peoples-data");
        fs::write(&file, vec![1; (free.f_bavail * free.f_frsize - leave) as usize]).unwrap();
        file
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking(), "{} is still mounted", self.path().display());
    }
}

fn mount(args: &[&str]) -> Result<(), String> {
    let done = Command::new("mount").args(args).output().map_err(|e| format!("no mount: {e}"))?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
}

/// A target of an idle process that fires at once, captured from this server.
fn target(name: &str, mark: u32, server: &Faulty) -> String {
    format!(
        "[[target]]\nname = \"{name}\"\nprocess = {}\npprof = \"{}\"\nthreshold = \"1MiB\"\nfor = \"0s\"\ninterval = \"100ms\"\n\
         cpu_seconds = 0\nretries = 0\n",
        Idle::selector(mark),
        server.pprof()
    )
}

/// The daemon with its bundles on that disk.
fn memtrap_on(disk: &Path, retention: &str, targets: &str) -> Memtrap {
    Memtrap::start_in(disk, &format!("[retention]\n{retention}\n{targets}"))
}

/// Another target is found and judged while the disk is what it is.
fn assert_watches_others(memtrap: &Memtrap, mark: u32) {
    let other = Idle::start(mark);
    let seen = format!("pid={}", other.pid());
    memtrap.wait_until(10, "another process is watched", |m| m.log().lines().any(|l| l.contains(&seen) && l.contains("state=\"")));
}

/// A target that never fires, for [`assert_watches_others`].
fn other(mark: u32) -> String {
    format!(
        "[[target]]\nname = \"other\"\nprocess = {}\npprof = \"off\"\nthreshold = \"1GiB\"\nwarmup = \"1s\"\ninterval = \"100ms\"\n",
        Idle::selector(mark)
    )
}

#[test]
fn a_full_disk_is_said_and_the_bundle_comes_when_there_is_room() {
    let Some(disk) = Mount::tmpfs("a full disk", 4 * MIB) else { return };
    let server = Faulty::start(Fault::Profile, &[]);
    let filler = disk.fill(0);
    let memtrap = memtrap_on(disk.path(), "min_free_disk = \"0\"", &(target("svc", 1, &server) + &other(2)));
    let _svc = Idle::start(1);
    memtrap.wait_until(20, "it says what is wrong, and what to do", |m| m.log().contains("free some space there"));
    assert_watches_others(&memtrap, 2);
    assert_eq!(bundles_in(disk.path()).len(), 0);
    fs::remove_file(filler).unwrap();
    memtrap.wait_until(60, "the bundle", |_| bundles_in(disk.path()).len() == 1);
    assert_eq!(entry(&bundles_in(disk.path())[0], "heap.pb.gz")["status"], "ok");
}

#[test]
fn a_disk_that_fills_during_a_capture_costs_only_what_did_not_fit() {
    let Some(disk) = Mount::tmpfs("a disk that fills during a capture", 4 * MIB) else { return };
    let server = Faulty::start(Fault::Profile, &[("goroutine", Fault::Text(64 << 20))]);
    let memtrap = memtrap_on(disk.path(), "min_free_disk = \"0\"", &(target("svc", 3, &server) + &other(4)));
    let _svc = Idle::start(3);
    memtrap.wait_until(60, "the bundle", |_| bundles_in(disk.path()).len() == 1);
    let bundle = bundles_in(disk.path()).remove(0);
    assert_eq!(manifest(&bundle)["outcome"], "partial");
    assert_eq!(entry(&bundle, "proc/status")["status"], "ok");
    assert_eq!(entry(&bundle, "heap_gc.pb.gz")["status"], "ok", "what follows finds the room that the large one gave back");
    let verified = verify(&bundle).unwrap();
    assert!(verified.problems.is_empty(), "{:?}", verified.problems);
    assert_watches_others(&memtrap, 4);
}

#[test]
fn with_less_than_min_free_disk_the_big_parts_are_left_out_and_the_disk_is_not_filled() {
    let Some(disk) = Mount::tmpfs("min_free_disk", 32 * MIB) else { return };
    let server = Faulty::start(Fault::Profile, &[("goroutine", Fault::Text(24 << 20))]);
    let memtrap = memtrap_on(disk.path(), "min_free_disk = \"30MiB\"", &target("svc", 5, &server));
    disk.fill(29 * MIB);
    let _svc = Idle::start(5);
    memtrap.wait_until(20, "the bundle", |_| bundles_in(disk.path()).len() == 1);
    let bundle = bundles_in(disk.path()).remove(0);
    let left_out: Vec<String> = manifest(&bundle)["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["reason"].as_str().is_some_and(|why| why.contains("min_free_disk")))
        .map(|f| f["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(left_out.contains(&"goroutine.txt".into()), "{left_out:?}: {:#}", manifest(&bundle));
    assert_eq!(entry(&bundle, "heap.pb.gz")["status"], "ok");
    let free = rustix::fs::statvfs(disk.path()).unwrap();
    assert!(free.f_bavail * free.f_frsize > 20 * MIB, "{} blocks are free", free.f_bavail);
}

#[test]
fn a_disk_that_turns_read_only_is_said_and_the_bundle_comes_when_it_is_mended() {
    let Some(disk) = Mount::tmpfs("a read-only disk", 8 * MIB) else { return };
    let server = Faulty::start(Fault::Profile, &[]);
    let memtrap = memtrap_on(disk.path(), "", &(target("svc", 6, &server) + &other(7)));
    disk.remount("ro");
    let _svc = Idle::start(6);
    memtrap.wait_until(20, "it says what is wrong, and what to do", |m| m.log().contains("the file system is read-only: remount it"));
    assert_watches_others(&memtrap, 7);
    disk.remount("rw");
    memtrap.wait_until(60, "the bundle", |_| bundles_in(disk.path()).len() == 1);
}

#[test]
fn a_bundle_directory_that_was_removed_is_made_again() {
    let disk = TempDir::new().unwrap();
    let server = Faulty::start(Fault::Profile, &[]);
    let bundles = disk.path().join("bundles");
    let memtrap = memtrap_on(&bundles, "", &(target("svc", 8, &server) + &target("second", 9, &server)));
    let _svc = Idle::start(8);
    memtrap.wait_until(20, "the first bundle", |_| bundles_in(&bundles).len() == 1);
    fs::remove_dir_all(&bundles).unwrap();
    let _second = Idle::start(9);
    memtrap.wait_until(20, "the next bundle", |_| bundles_in(&bundles).len() == 1);
    let verified = verify(&bundles_in(&bundles)[0]).unwrap();
    assert!(verified.problems.is_empty(), "{:?}", verified.problems);
}

#[test]
fn a_bundle_directory_that_is_removed_under_a_capture_ends_only_that_capture() {
    let disk = TempDir::new().unwrap();
    let server = Faulty::start(Fault::Profile, &[("allocs", Fault::Hang)]);
    let bundles = disk.path().join("bundles");
    let memtrap =
        memtrap_on(&bundles, "", &(target("svc", 10, &server) + "connect_timeout = \"500ms\"\nstep_timeout = \"1s\"\n" + &other(11)));
    let _svc = Idle::start(10);
    memtrap.wait_until(20, "the capture is in the middle", |_| server.requests_for("allocs") > 0);
    fs::remove_dir_all(&bundles).unwrap();
    assert_watches_others(&memtrap, 11);
    memtrap.wait_until(60, "it is tried again", |_| bundles_in(&bundles).len() == 1);
}

/// Thawed and detached when dropped.
struct Frozen(Mount);

impl Frozen {
    fn freeze(&self, how: &str) {
        let done = Command::new("fsfreeze").arg(how).arg(self.0.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // it may be thawed already
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_does_not_answer_delays_its_capture_and_no_poll() {
    let home = TempDir::new().unwrap();
    let image = home.path().join("image");
    fs::File::create(&image).unwrap().set_len(16 * MIB).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output();
    if !made.as_ref().is_ok_and(|done| done.status.success()) || Command::new("fsfreeze").arg("--version").output().is_err() {
        return not_checked("a disk that does not answer: there is no mkfs.ext4 or no fsfreeze");
    }
    let kind = ["-o", "loop", image.to_str().unwrap()];
    let Some(disk) = Mount::new("a disk that does not answer", &kind).map(Frozen) else { return };
    let server = Faulty::start(Fault::Profile, &[]);
    let memtrap = memtrap_on(disk.0.path(), "min_free_disk = \"0\"", &(target("svc", 12, &server) + &other(13)));
    disk.freeze("--freeze");
    let _svc = Idle::start(12);
    memtrap.wait_until(10, "a capture was ordered", |m| m.log().contains("capture starts"));
    assert_watches_others(&memtrap, 13);
    assert_eq!(bundles_in(disk.0.path()).len(), 0);
    disk.freeze("--unfreeze");
    memtrap.wait_until(20, "the bundle", |_| bundles_in(disk.0.path()).len() == 1);
}

#[test]
fn state_that_cannot_be_stored_is_said_and_stops_nothing() {
    let server = Faulty::start(Fault::Profile, &[]);
    let memtrap = Memtrap::start(&(target("svc", 14, &server) + "rearm = \"90%\"\n"));
    // a directory in its place cannot be replaced by a file, whoever tries
    let state = memtrap.dir().join("state/state.json");
    wait_until(Duration::from_secs(5), "the state gives way", || {
        let _ = fs::remove_file(&state);
        fs::create_dir_all(state.join("in the way")).is_ok()
    });
    let _svc = Idle::start(14);
    memtrap.wait_until(20, "it says so", |m| m.log().contains("a restart now would forget incidents and cooldowns"));
    memtrap.wait_for_bundles(20, 1);
}
