//! Bundles on their way into a store: a real S3 API (moto, which checks signatures) and a directory.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::s3::{self, S3};
use common::{GoVersion, Memtrap, Svc, bundles_in, manifest};
use ring::digest::{SHA256, digest};
use rustix::process::Signal;

/// A service that is over its threshold at once, and its target.
fn leaking() -> (Svc, String) {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "100000000"]);
    let target = target(&svc);
    (svc, target)
}

fn target(svc: &Svc) -> String {
    let (pid, pprof) = (svc.pid(), svc.pprof());
    format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {pid} }}\npprof = \"{pprof}\"\ncpu_seconds = 0\nfor = \"0s\"\nthreshold = \"60MiB\"\n"
    )
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn id(bundle: &Path) -> String {
    let part = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_owned();
    format!("{}/{}", part(bundle.parent().unwrap()), part(bundle))
}

/// The bundle's archive, as this host would export it.
fn exported(memtrap: &Memtrap, bundle: &Path) -> Vec<u8> {
    let output = common::run(&["bundles", "export", &id(bundle), "-o", "-", "--dir", memtrap.bundle_dir().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn uploads(memtrap: &Memtrap) -> usize {
    memtrap.log().matches("bundle uploaded").count()
}

fn warnings(memtrap: &Memtrap) -> usize {
    memtrap.log().lines().filter(|l| l.contains("WARN") && l.contains("upload failed")).count()
}

/// Exactly this bundle is in the store, whole, and its manifest tells its sum.
fn assert_arrived(store: &S3, memtrap: &Memtrap, bundle: &Path) {
    let id = id(bundle);
    let objects = store.list("go/svc");
    let ends =
        |object: &String| object.strip_prefix(&format!("go/{id}-")).and_then(|rest| rest.split_once('.')).map(|(_, kind)| kind.to_owned());
    assert_eq!(objects.iter().filter_map(ends).collect::<Vec<_>>(), ["manifest.json", "tar.gz", "verdict.json"], "{objects:?}");
    assert_eq!(objects.len(), 3);
    let archive = store.get(&objects[1]);
    assert_eq!(sha256(&archive), sha256(&exported(memtrap, bundle)));
    let beside: serde_json::Value = serde_json::from_slice(&store.get(&objects[0])).unwrap();
    assert_eq!(
        (beside["archive"]["sha256"].as_str(), beside["archive"]["bytes"].as_u64()),
        (Some(&*sha256(&archive)), Some(archive.len() as u64))
    );
    assert_eq!(beside["incident_id"], manifest(bundle)["incident_id"]);
    assert_eq!(store.get(&objects[2]), fs::read(bundle.join("verdict.json")).unwrap());
}

#[test]
fn a_bundle_arrives_intact_while_the_local_one_stays() {
    let Some(server) = s3::server("uploads to an S3 API") else { return };
    let store = S3::start(&server, s3::free_port());
    let keys = tempfile::tempdir().unwrap();
    let (_svc, target) = leaking();
    let memtrap = Memtrap::start(&(store.config(keys.path(), "") + &target));
    memtrap.wait_until(30, "the bundle is uploaded", |m| uploads(m) == 1);
    let bundle = memtrap.bundles().remove(0);
    assert_arrived(&store, &memtrap, &bundle);
    assert!(!memtrap.log().contains(fs::read_to_string(keys.path().join("s3.secret")).unwrap().trim()), "no secret in the log");
}

#[test]
fn a_store_that_was_down_gets_the_bundle_once_though_memtrap_was_killed_meanwhile() {
    let Some(server) = s3::server("a store that is down, and a killed memtrap") else { return };
    let (port, keys) = (s3::free_port(), tempfile::tempdir().unwrap());
    s3::write_keys(keys.path(), "none", "none");
    let (_svc, target) = leaking();
    let mut memtrap = Memtrap::start(&(s3::config(port, keys.path(), "") + &target));
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    memtrap.wait_until(60, "an attempt has failed", |m| warnings(m) == 1);
    assert!(memtrap.log().contains("Connection refused"), "the reason is told");
    memtrap.stop(Signal::KILL);

    let store = S3::start(&server, port);
    store.write_keys(keys.path());
    memtrap.start_again();
    memtrap.wait_until(60, "the bundle is uploaded", |m| uploads(m) == 1);
    assert_arrived(&store, &memtrap, &bundle);
    memtrap.stop(Signal::KILL);
    memtrap.start_again();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(uploads(&memtrap), 1, "what has arrived is not sent again");
    assert_eq!(memtrap.bundles().len(), 1);
}

#[test]
fn wrong_credentials_are_told_once_and_rotated_ones_count_at_once() {
    let Some(server) = s3::server("wrong credentials for an S3 API") else { return };
    let store = S3::start(&server, s3::free_port());
    let keys = tempfile::tempdir().unwrap();
    let (_svc, target) = leaking();
    let config = store.config(keys.path(), "");
    s3::write_keys(keys.path(), "AKIAWRONG", "wr0ng-s3cret");
    let memtrap = Memtrap::start(&(config + &target));
    memtrap.wait_until(60, "several attempts have failed", |m| m.log().matches("upload failed").count() >= 2);
    let log = memtrap.log();
    assert!(log.contains("the store does not accept these credentials: InvalidAccessKeyId"), "{log}");
    assert!(!log.contains("wr0ng-s3cret"));
    assert_eq!(warnings(&memtrap), 1, "not one line for each attempt");
    assert_eq!(memtrap.bundles().len(), 1, "the capture did not suffer");
    let probe = common::run(&["check", "--probe", "-c", memtrap.config_path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&probe.stderr).into_owned();
    assert!(probe.status.code() == Some(1) && said.contains("uploads: the store does not accept these credentials: Invalid"), "{said}");
    store.write_keys(keys.path());
    // at once instead of after the pause
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(60, "the bundle is uploaded", |m| uploads(m) == 1);
    assert!(memtrap.log().contains("uploads work again"));
    let probe = common::run(&["check", "--probe", "-c", memtrap.config_path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&probe.stdout).into_owned() + &String::from_utf8_lossy(&probe.stderr);
    assert!(said.contains("uploads: AmazonS3(evidence)/go"), "{said}");
    assert_arrived(&store, &memtrap, &memtrap.bundles()[0]);
}

#[test]
fn two_memtraps_on_one_process_make_one_bundle() {
    let Some(server) = s3::server("two memtraps and one store") else { return };
    let store = S3::start(&server, s3::free_port());
    let keys = tempfile::tempdir().unwrap();
    let svc = Svc::start(GoVersion::Newest, &[]);
    let config = store.config(keys.path(), "claim = true") + &target(&svc);
    let pair = [Memtrap::start(&config), Memtrap::start(&config)];
    svc.tell("grow?bytes=100000000");
    let captured = |m: &Memtrap| m.bundles().len();
    common::wait_until(Duration::from_secs(60), "one has it, the other knows", || {
        let logs = [pair[0].log(), pair[1].log()];
        logs.iter().any(|l| l.contains("bundle uploaded")) && logs.iter().any(|l| l.contains("another memtrap has captured this incident"))
    });
    assert_eq!(pair.iter().map(captured).sum::<usize>(), 1);
    let holder = pair.iter().find(|m| captured(m) == 1).unwrap();
    assert_arrived(&store, holder, &holder.bundles()[0]);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(pair.iter().map(captured).sum::<usize>(), 1, "the other does not come back to it");
    let log = pair.iter().find(|m| captured(m) == 0).unwrap().log();
    assert_eq!(log.matches("capture starts").count(), 0, "{log}");
}

#[test]
fn without_a_store_to_ask_both_capture_and_one_bundle_reaches_the_store_later() {
    let Some(server) = s3::server("claims with a store that is down") else { return };
    let (port, keys) = (s3::free_port(), tempfile::tempdir().unwrap());
    s3::write_keys(keys.path(), "none", "none");
    let (_svc, target) = leaking();
    let config = s3::config(port, keys.path(), "claim = true") + &target;
    let pair = [Memtrap::start(&config), Memtrap::start(&config)];
    for memtrap in &pair {
        memtrap.wait_for_bundles(30, 1);
        assert!(memtrap.log().contains("captured in any case"), "evidence first");
    }
    // an attempt in the middle of the store's setup would count as a part of it
    pair.iter().for_each(|m| m.signal(Signal::STOP));
    let store = S3::start(&server, port);
    store.write_keys(keys.path());
    for signal in [Signal::CONT, Signal::HUP] {
        pair.iter().for_each(|m| m.signal(signal));
    }
    common::wait_until(Duration::from_secs(90), "both are done", || {
        let logs = pair[0].log() + &pair[1].log();
        logs.contains("bundle uploaded") && logs.contains("not uploaded: another memtrap's bundle of this incident is there")
    });
    let uploader = pair.iter().find(|m| uploads(m) == 1).unwrap();
    assert_arrived(&store, uploader, &uploader.bundles()[0]);
    assert!(pair.iter().all(|m| m.bundles().len() == 1), "nobody's evidence is deleted");
}

#[test]
fn a_directory_is_a_store_and_the_local_copy_goes_once_it_is_verified() {
    let share = tempfile::tempdir().unwrap();
    let dir: PathBuf = share.path().join("not-mounted-yet");
    let (_svc, target) = leaking();
    let upload = format!("[upload]\nurl = \"file://{}\"\ndelete_after_upload = true\n", dir.display());
    let memtrap = Memtrap::start(&(upload + &target));
    memtrap.wait_for_bundles(30, 1);
    memtrap.wait_until(30, "an attempt has failed", |m| warnings(m) == 1);
    let archive = exported(&memtrap, &memtrap.bundles()[0]);
    assert!(!dir.exists(), "a mount point is not filled while nothing is mounted");
    fs::create_dir(&dir).unwrap();
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(60, "the bundle is uploaded", |m| uploads(m) == 1);
    assert_eq!(bundles_in(&memtrap.bundle_dir()), [] as [PathBuf; 0]);
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("svc")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let extension = |p: &PathBuf| p.to_str().unwrap().rsplit_once("B-").unwrap().1.split_once('.').unwrap().1.to_owned();
    assert_eq!(files.iter().map(extension).collect::<Vec<_>>(), ["manifest.json", "tar.gz", "verdict.json"]);
    assert_eq!(sha256(&fs::read(&files[1]).unwrap()), sha256(&archive));
}
