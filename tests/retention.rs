//! The daemon's retention on real bundles: each bound by itself, and what it never touches.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{Idle, MIB, Memtrap, bundles_in};
use tempfile::TempDir;

/// Five bundles of one target, a day apart, the newest an hour old; the third has the highest RSS. Each is called after its place, and
/// is padded to more than a mebibyte.
fn five_bundles(dir: &Path) {
    let svc = Idle::start(1);
    let made = TempDir::new().unwrap();
    let done = common::run(&["capture", "--pid", &svc.pid().to_string(), "-o", made.path().to_str().unwrap(), "--cpu-seconds", "0"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let original = bundles_in(made.path()).remove(0);
    for (i, rss) in [1, 1, 9, 1, 1].into_iter().enumerate() {
        let copy = dir.join(format!("svc/2026010{i}T000000Z-threshold-1.00MiB"));
        copy_all(&original, &copy);
        fs::write(copy.join("padding"), vec![0; MIB as usize]).unwrap();
        let mut manifest = common::manifest(&copy);
        manifest["started"] = humantime::format_rfc3339_millis(hours_ago(1 + 24 * (4 - i as u64))).to_string().into();
        manifest["target"] = "svc".into();
        manifest["trigger"]["rss_bytes"] = (rss * MIB).into();
        let padding =
            serde_json::json!({ "step": "padding", "name": "padding", "bytes": MIB, "status": "ok", "attempts": 1, "milliseconds": 0 });
        manifest["files"].as_array_mut().unwrap().push(padding);
        fs::write(copy.join("manifest.json"), manifest.to_string()).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the daemon compares with the real time")]
fn hours_ago(hours: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(3_600 * hours)
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The places of the bundles that a daemon with this `[retention]` leaves of the five, once it has settled.
fn left_by(retention: &str) -> Vec<usize> {
    let dir = TempDir::new().unwrap();
    five_bundles(dir.path());
    left_in(dir.path(), retention)
}

fn left_in(dir: &Path, retention: &str) -> Vec<usize> {
    let target = format!("[[target]]\nname = \"none\"\nprocess = {}\npprof = \"off\"\nthreshold = \"1GiB\"\n", Idle::selector(2));
    let foreign = dir.join("svc/20200101T000000Z-threshold-1.00GiB");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "mine").unwrap();
    let damaged = dir.join("svc/20200102T000000Z-threshold-1.00GiB");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("manifest.json"), "{").unwrap();
    let memtrap = Memtrap::start_in(dir, &format!("[retention]\n{retention}\n{target}"));
    memtrap.wait_until(10, "it has deleted", |m| m.log().contains("bundle deleted"));
    let mut before = usize::MAX;
    memtrap.wait_until(10, "it has settled", |m| {
        std::thread::sleep(Duration::from_millis(300));
        let now = m.log().matches("bundle deleted").count();
        std::mem::replace(&mut before, now) == now
    });
    assert!(foreign.join("thesis.txt").exists(), "what carries no manifest of memtrap's own is not touched");
    assert!(damaged.exists() && memtrap.log().contains("a damaged bundle is passed over"), "what cannot be read may be evidence");
    let place = |path: &Path| path.file_name().unwrap().to_str().unwrap().strip_prefix("2026010")?.get(..1)?.parse().ok();
    bundles_in(dir).iter().filter_map(|path| place(path)).collect()
}

#[test]
fn the_count_spares_the_first_the_worst_and_the_latest() {
    assert_eq!(left_by("max_bundles_per_target = 3"), [0, 2, 4]);
}

#[test]
fn age_takes_all_that_is_old() {
    assert_eq!(left_by("max_age = \"50h\""), [2, 3, 4]);
}

#[test]
fn the_total_size_spares_the_first_the_worst_and_the_latest() {
    assert_eq!(left_by("max_total_size = \"4MiB\""), [0, 2, 4]);
}

#[test]
fn a_disk_with_too_little_room_is_given_some() {
    let dir = TempDir::new().unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "memtrap-test"]).arg(dir.path()).output();
    if !mounted.as_ref().is_ok_and(|done| done.status.success()) {
        return common::not_checked("min_free_disk deletes bundles: nothing can be mounted here");
    }
    let left = std::panic::catch_unwind(|| {
        five_bundles(dir.path());
        left_in(dir.path(), "min_free_disk = \"7MiB\"")
    });
    let done = std::process::Command::new("umount").arg("--lazy").arg(dir.path()).status().unwrap();
    assert!(done.success());
    assert_eq!(left.unwrap(), [0, 2, 3, 4], "one is enough");
}
