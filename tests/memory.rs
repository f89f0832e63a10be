//! Captures without pprof: what a bundle has of a service that serves none, or that hangs, is read from the process's memory.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::http::get;
use common::{Build, Cgroup, GoVersion, MIB, Memtrap, Svc, bundles_in, go_program, manifest, run, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What memory gives, as the manifest names it.
const STEPS: [&str; 5] = ["heap", "memstats", "goroutine", "allocs", "goroutine_text"];

/// The bundle of a capture, and what the command said.
fn captured(svc: &Svc, dir: &Path, args: &[&str]) -> (PathBuf, Output) {
    let (pid, out) = (svc.pid().to_string(), dir.to_str().unwrap());
    let done = run(&[&["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", out], args].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (bundles_in(dir).pop().unwrap(), done)
}

fn verdict(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap()
}

fn entry<'m>(manifest: &'m Value, step: &str) -> &'m Value {
    manifest["files"].as_array().unwrap().iter().find(|e| e["step"] == step).unwrap()
}

fn assert_from_memory(bundle: &Path) {
    let manifest = manifest(bundle);
    for step in STEPS {
        let entry = entry(&manifest, step);
        assert_eq!((&entry["status"], &entry["source"]), (&"ok".into(), &"memory".into()), "{entry:#}");
        assert!(entry["reason"].as_str().unwrap().contains("read from its memory: go1."), "{entry:#}");
    }
}

#[test]
fn a_service_without_pprof_gets_the_verdict_that_it_would_get_with_it() {
    for (version, build) in [(GoVersion::Oldest, Build::Plain), (GoVersion::Newest, Build::Stripped)] {
        let svc = Svc::start_in(Command::new(go_program(version, "svc", build)), &["-grow", "209715200"]);
        get(svc.address(), "/debug/pprof/heap?gc=1");
        let dir = tempfile::tempdir().unwrap();
        let (without, _) = captured(&svc, &dir.path().join("without"), &["--pprof", "off"]);
        let (with, _) = captured(&svc, &dir.path().join("with"), &["--pprof", &svc.pprof()]);
        assert_from_memory(&without);
        assert_eq!(manifest(&without)["outcome"], "complete", "{version:?}");
        let (read, told) = (verdict(&without), verdict(&with));
        for key in ["cause", "go_heap_explains"] {
            assert_eq!(read[key], told[key], "{version:?} {build:?}: {read:#}");
        }
        assert_eq!(read["cause"], "live_heap", "{read:#}");
        let first = |verdict: &Value| verdict["top"]["inuse_space"][0]["function"].as_str().unwrap().to_owned();
        assert_eq!(first(&read), first(&told));
        assert!(read["confidence"] != "low", "{read:#}");
        assert!(read.to_string().contains("the walk from the roots of the heap reached"), "what it rests on is said: {read:#}");
    }
}

#[test]
fn a_stopped_service_gives_its_evidence_all_the_same_and_at_once() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    get(svc.address(), "/debug/pprof/heap?gc=1");
    let pid = Pid::from_raw(svc.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // three attempts of 90 s for each profile, if it were asked
    let (bundle, _) = captured(&svc, dir.path(), &["--pprof", &svc.pprof()]);
    let still = fs::read_to_string(format!("/proc/{}/stat", svc.pid())).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    assert!(still.contains(") T "), "it was let go on: {still}");
    assert_from_memory(&bundle);
    assert_eq!(verdict(&bundle)["cause"], "live_heap");
    let heap = entry(&manifest(&bundle), "heap")["reason"].to_string();
    assert!(heap.contains("instead of pprof: the process is stopped"), "{heap}");
}

#[test]
fn a_service_that_pprof_does_not_answer_for_is_read_from_memory_instead() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600", "-no-pprof"]);
    let dir = tempfile::tempdir().unwrap();
    let (bundle, _) = captured(&svc, dir.path(), &[]);
    assert_from_memory(&bundle);
    assert!(entry(&manifest(&bundle), "heap")["reason"].as_str().unwrap().starts_with("instead of pprof: "));
}

/// Captures a service that answers nobody; once the core evidence lies in the bundle to be, `release` lets it go on. The bundle.
fn captured_while_hung(svc: &Svc, dir: &Path, release: impl FnOnce()) -> PathBuf {
    let (pid, out) = (svc.pid().to_string(), dir.to_str().unwrap());
    let pprof = svc.pprof();
    let args = ["capture", "--pid", &pid, "--pprof", &pprof, "--cpu-seconds", "1", "-o", out];
    let capture = Command::new(env!("CARGO_BIN_EXE_memtrap"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // pprof alone is waited for longer than this: 90 s, twice
    wait_until(Duration::from_secs(15), "the evidence of a hung service lies in its bundle", || {
        let partial = fs::read_dir(dir).into_iter().flatten().flat_map(|target| fs::read_dir(target.unwrap().path()).into_iter().flatten());
        let files = ["heap.pb.gz", "memstats.txt", "goroutine.pb.gz", "allocs.pb.gz", "goroutine.txt"];
        partial.into_iter().any(|bundle| files.iter().all(|file| bundle.as_ref().unwrap().path().join(file).exists()))
    });
    release();
    let done = capture.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    bundles_in(dir).pop().unwrap()
}

/// What only pprof tells was asked again at the end, when the service answered.
fn assert_told_late(bundle: &Path) {
    let manifest = manifest(bundle);
    for step in ["cmdline", "threadcreate", "heap_gc", "profile"] {
        let entry = entry(&manifest, step);
        assert_eq!(entry["status"], "ok", "{entry:#}");
        assert_eq!(entry["reason"], "taken at the end of the plan, as the service had not answered", "{entry:#}");
    }
    assert_eq!(manifest["outcome"], "complete", "{:#}", manifest["files"]);
}

#[test]
fn a_service_that_hangs_gives_its_evidence_from_memory_before_pprof_is_waited_for() {
    for how in ["lock", "busy"] {
        let program = Command::new(go_program(GoVersion::Newest, "hung", Build::Stripped));
        let svc = Svc::start_in(program, &["-how", how, "-grow", "104857600"]);
        let dir = tempfile::tempdir().unwrap();
        let pid = Pid::from_raw(svc.pid() as i32).unwrap();
        let bundle = captured_while_hung(&svc, dir.path(), || kill_process(pid, Signal::USR1).unwrap());
        assert_from_memory(&bundle);
        assert_told_late(&bundle);
        assert_eq!(verdict(&bundle)["cause"], "live_heap", "{how}");
        let text = fs::read_to_string(bundle.join("goroutine.txt")).unwrap();
        let waiting = if how == "lock" { "main.main.func" } else { "main.spin" };
        assert!(text.contains(waiting), "{how}: {text}");
    }
}

#[test]
fn a_service_in_a_frozen_cgroup_gives_its_evidence() {
    let frozen = |text: &str| text.trim() == "FROZEN" || text.contains("frozen 1");
    for (hierarchy, switch, on, off, said) in
        [("freezer", "freezer.state", "FROZEN", "THAWED", "freezer.state"), ("unified", "cgroup.freeze", "1", "0", "cgroup.events")]
    {
        let Some(cgroup) = Cgroup::freezer(hierarchy, switch) else { continue };
        let svc = cgroup.start(&["-grow", "104857600"]);
        get(svc.address(), "/debug/pprof/heap?gc=1");
        let dir = tempfile::tempdir().unwrap();
        cgroup.write(switch, on);
        wait_until(Duration::from_secs(5), "it is frozen", || frozen(&cgroup.read(said)));
        let bundle = captured_while_hung(&svc, dir.path(), || {
            assert!(frozen(&cgroup.read(said)), "it was let go on");
            cgroup.write(switch, off);
        });
        assert_from_memory(&bundle);
        assert_told_late(&bundle);
        assert_eq!(verdict(&bundle)["cause"], "live_heap", "{hierarchy}");
    }
}

#[test]
fn a_service_that_waits_at_the_limit_of_its_cgroup_gives_its_evidence() {
    let Some(cgroup) = Cgroup::new(128 * MIB) else { return };
    cgroup.write("memory.oom_control", "1");
    let svc = cgroup.start(&["-grow", "83886080"]);
    get(svc.address(), "/debug/pprof/heap?gc=1");
    let mut asking = TcpStream::connect(svc.address()).unwrap();
    write!(asking, "GET /ctl/grow?bytes=268435456 HTTP/1.1\r\nHost: svc\r\n\r\n").unwrap();
    let waits = || cgroup.read("memory.oom_control").contains("under_oom 1");
    wait_until(Duration::from_secs(20), "it waits for memory", waits);
    let dir = tempfile::tempdir().unwrap();
    let bundle = captured_while_hung(&svc, dir.path(), || {
        assert!(waits(), "it went on by itself");
        cgroup.set_limit(1 << 30);
    });
    let manifest = manifest(&bundle);
    for step in STEPS {
        // what of it needs no memory may have answered
        assert_eq!(entry(&manifest, step)["status"], "ok", "{:#}", entry(&manifest, step));
    }
    assert_eq!(verdict(&bundle)["cause"], "live_heap");
}

#[test]
fn what_pprof_says_of_another_process_is_left_aside_for_the_memory_of_this_one() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let other = Svc::start(GoVersion::Newest, &["-grow", "1048576"]);
    get(svc.address(), "/debug/pprof/heap?gc=1");
    let dir = tempfile::tempdir().unwrap();
    let (bundle, _) = captured(&svc, dir.path(), &["--pprof", &other.pprof()]);
    assert_from_memory(&bundle);
    let (manifest, verdict) = (manifest(&bundle), verdict(&bundle));
    let gc = entry(&manifest, "heap_gc");
    assert_eq!(gc["status"], "skipped", "{gc:#}");
    assert!(gc["reason"].as_str().unwrap().ends_with("its answers are left aside"), "{gc:#}");
    let said = manifest["warnings"].to_string();
    assert!(said.contains("the memory of the process is read instead"), "{said}");
    assert_eq!(verdict["cause"], "live_heap", "{verdict:#}");
    let kept = verdict["top"]["inuse_space"][0]["flat"].as_u64().unwrap();
    assert!(kept > 90 * MIB, "of this process: {verdict:#}");
}

#[test]
fn the_daemon_takes_baselines_and_bundles_from_memory_alone_where_there_is_no_pprof() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760", "-no-pprof"]);
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"off\"\nthreshold = \"80MiB\"\nfor = \"0s\"\nwarmup = \"0s\"\n",
        svc.pid()
    ));
    memtrap.wait_until(20, "a baseline", |m| m.log().contains("baseline taken"));
    svc.tell("grow?bytes=104857600");
    memtrap.wait_until(30, "a bundle", |m| !m.bundles().is_empty());
    let bundle = memtrap.bundles().remove(0);
    assert_from_memory(&bundle);
    for file in ["baseline/heap.pb.gz", "baseline/memstats.txt", "baseline/goroutine.pb.gz"] {
        assert_eq!(common::entry(&bundle, file)["status"], "ok", "{file}");
    }
    let verdict = verdict(&bundle);
    assert_eq!(verdict["top"]["growth"][0]["function"], "main.(*hoard).retain", "{verdict:#}");
}

#[test]
fn who_wants_memory_first_gets_from_pprof_what_memory_does_not_have() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nread_memory = \"always\"\nthreshold = \"80MiB\"\nfor = \"0s\"\n\
         warmup = \"0s\"\ncpu_seconds = 1\n",
        svc.pid(),
        svc.pprof()
    ));
    memtrap.wait_until(30, "a bundle", |m| !m.bundles().is_empty());
    let manifest = manifest(&memtrap.bundles().remove(0));
    for step in ["heap", "memstats", "goroutine", "allocs"] {
        let entry = entry(&manifest, step);
        assert_eq!(entry["source"], "memory", "{entry:#}");
        assert!(entry["reason"].as_str().unwrap().starts_with("read from its memory"), "{entry:#}");
    }
    for step in ["heap_gc", "profile", "goroutine_text"] {
        let entry = entry(&manifest, step);
        assert!(entry["status"] == "ok" && entry["source"].as_str().unwrap().starts_with("http://"), "{entry:#}");
    }
}

/// All files below a directory, unpacked.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if path.is_dir() {
            found.extend(contents(&path));
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let mut unpacked = Vec::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            flate2::read::MultiGzDecoder::new(&*bytes).read_to_end(&mut unpacked).unwrap();
        }
        found.push((path.clone(), bytes));
        found.push((path, unpacked));
    }
    found
}

#[test]
fn ten_thousand_secrets_of_a_process_are_in_no_bundle_and_no_log() {
    const SECRET: &str = "xyzzy-";
    let mut command = Command::new(go_program(GoVersion::Newest, "canary", Build::Plain));
    command.env("DATABASE_PASSWORD", format!("{SECRET}in-the-environment"));
    let svc = Svc::start_in(command, &["-secret", SECRET]);
    let dir = tempfile::tempdir().unwrap();
    let (bundle, done) = captured(&svc, dir.path(), &["--pprof", "off", "--log-level", "trace"]);
    assert_from_memory(&bundle);
    let text = fs::read_to_string(bundle.join("goroutine.txt")).unwrap();
    assert!(text.contains("2000 @"), "they are seen: {text}");
    let files = contents(dir.path());
    assert!(files.len() > 20);
    for (path, bytes) in files.into_iter().chain([("stdout".into(), done.stdout), ("stderr".into(), done.stderr)]) {
        assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{}", path.display());
    }
}

#[test]
fn what_reads_the_memory_of_a_service_makes_nothing_resident_in_it() {
    for build in [Build::Stripped, Build::Pie] {
        let svc = Svc::start_in(Command::new(go_program(GoVersion::Newest, "svc", build)), &["-grow", "20971520"]);
        let resident = || {
            let status = fs::read_to_string(format!("/proc/{}/status", svc.pid())).unwrap();
            let kib = status.lines().find_map(|line| line.strip_prefix("RssFile:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            kib.unwrap() << 10
        };
        let before = resident();
        let dir = tempfile::tempdir().unwrap();
        let (bundle, _) = captured(&svc, dir.path(), &["--pprof", "off"]);
        assert_from_memory(&bundle);
        let grown = resident().saturating_sub(before);
        // its own code that it has not run before, and few pages that the linker has to change
        assert!(grown < MIB, "{build:?}: {grown} bytes of files came into its RSS");
    }
}
