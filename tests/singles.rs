//! Files that people have: one profile, one text, one exported bundle.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::http::get;
use common::{GoVersion, Svc, bundles_in, go_svc, run};

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn analyze(path: &Path, args: &[&str]) -> Output {
    run(&[&["analyze", path.to_str().unwrap()], args].concat())
}

/// What a service answers, as a file.
fn saved(svc: &Svc, dir: &Path, what: &str, name: &str) -> PathBuf {
    let answer = get(svc.address(), &format!("/debug/pprof/{what}"));
    assert_eq!(answer.status, 200);
    let path = dir.join(name);
    fs::write(&path, &answer.body).unwrap();
    path
}

/// Rows of `top`: flat, cum and function.
fn rows(path: &Path, sample_type: &str) -> Vec<String> {
    let table = text(&run(&["top", path.to_str().unwrap(), "-n", "0", "--sample-index", sample_type]));
    let rows = table.lines().skip_while(|l| !l.contains("flat%")).skip(1);
    let mut rows: Vec<String> = rows
        .map(|l| {
            let cells: Vec<&str> = l.split_whitespace().collect();
            format!("{} {} {}", cells[0], cells[3], cells[5])
        })
        .collect();
    // of equal values the order is that of names, which have no mark in the text
    rows.sort();
    rows
}

#[test]
fn the_texts_of_a_service_give_the_tables_of_its_profiles() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(go_svc(GoVersion::Newest));
    // no collection may come between two answers
    command.env("GOGC", "off");
    let svc = Svc::start_in(command, &[]);
    svc.tell("grow?bytes=67108864");
    saved(&svc, dir.path(), "heap?gc=1", "first");
    let heap = saved(&svc, dir.path(), "heap", "heap.pb.gz");
    let heap_text = saved(&svc, dir.path(), "heap?debug=1", "memstats.txt");
    for sample_type in ["inuse_space", "inuse_objects", "alloc_space"] {
        let expected = rows(&heap, sample_type);
        assert!(expected.len() > 1, "{expected:?}");
        assert_eq!(rows(&heap_text, sample_type), expected, "{sample_type}");
    }
    let told = text(&analyze(&heap_text, &[]));
    assert!(told.contains("MemStats: HeapAlloc ") && told.contains("Type: inuse_space"), "{told}");
    assert!(json(&analyze(&heap_text, &["--format", "json"]))["memstats"]["heap_alloc"].as_u64() > Some(64 << 20));

    let goroutines = saved(&svc, dir.path(), "goroutine?debug=1", "goroutine.txt");
    let states = saved(&svc, dir.path(), "goroutine?debug=2", "states.txt");
    let functions = |path: &Path| rows(path, "goroutine");
    assert!(functions(&goroutines).iter().any(|r| r.contains("main.")), "{:?}", functions(&goroutines));
    assert!(functions(&states).iter().any(|r| r.contains("main.")), "{:?}", functions(&states));
    let told = text(&analyze(&states, &[]));
    assert!(told.contains("goroutines by stack:") && told.contains("IO wait"), "{told}");
    assert!(json(&analyze(&states, &["--format", "json"]))["goroutines"]["total"].as_u64() > Some(1));
}

#[test]
fn a_profile_alone_is_told_in_the_form_that_was_asked_for_or_not_at_all() {
    let profile = common::repo().join("tests/data/pprof/go1.27/heap.pb.gz");
    let told = json(&analyze(&profile, &["--format", "json"]));
    assert_eq!((told["schema"].as_u64(), told["kind"].as_str()), (Some(1), Some("profile")));
    let inuse = told["sample_types"].as_array().unwrap().iter().find(|t| t["sample_type"] == "inuse_space").unwrap();
    assert_eq!(inuse["unit"], "bytes");
    assert!(inuse["top"][0]["flat"].as_i64() > Some(0) && inuse["total"].as_i64() >= inuse["top"][0]["flat"].as_i64(), "{inuse:#}");
    let page = analyze(&profile, &["--format", "html"]);
    assert_eq!((page.status.code(), page.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&page.stderr).contains("--format text or json"));
}

#[test]
fn an_exported_bundle_is_analysed_like_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let svc = Svc::start(GoVersion::Newest, &[]);
    let (pid, url) = (svc.pid().to_string(), svc.pprof());
    let at = dir.path().to_str().unwrap();
    text(&run(&["capture", "--pid", &pid, "--pprof", &url, "-o", at, "--cpu-seconds", "0"]));
    let bundle = bundles_in(dir.path()).remove(0);
    let archive = dir.path().join("b.tar.gz");
    let id = format!("{}/{}", bundle.parent().unwrap().file_name().unwrap().display(), bundle.file_name().unwrap().display());
    let packed = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(dir.path()).arg(&id).status().unwrap();
    assert!(packed.success());
    let (mut packed, mut whole) = (json(&analyze(&archive, &["--format", "json"])), json(&analyze(&bundle, &["--format", "json"])));
    let next = packed["next"].take();
    whole["next"].take();
    assert_eq!(packed, whole);
    assert!(next[0].as_str().unwrap().starts_with("tar -xf "), "{next:#}");
    assert!(next[1].as_str().unwrap().contains(&format!("'{id}/")), "{next:#}");
}

/// What a real service prints when it is told to quit, its goroutines among it.
fn crash() -> String {
    use std::io::{BufRead, BufReader, Read};
    let mut child = Command::new(go_svc(GoVersion::Newest))
        .env("GOTRACEBACK", "all")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.split("addr=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(get(&address, "/ctl/goroutines?n=40").status, 200);
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(said.contains("blockedForever"), "{said}");
    said
}

#[test]
fn a_crash_is_read_out_of_what_containers_and_loggers_make_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let crash = crash();
    let object = |value: serde_json::Value| value.to_string() + "\n";
    let docker = |text: &str| -> String {
        let line = |line: &str| {
            object(serde_json::json!({ "log": format!("{line}\n"), "stream": "stderr", "time": "2026-11-27T15:00:01.123456789Z" }))
        };
        text.lines().map(line).collect()
    };
    let cri = |text: &str| -> String {
        text.lines().enumerate().map(|(i, line)| format!("2026-11-27T15:00:01.{}Z stderr F {line}\n", 123 + 97 * i)).collect()
    };
    let logger =
        object(serde_json::json!({ "time": "t", "level": "ERROR", "msg": "shutting down", "error": { "stack": crash }, "n": [1, {}] }));
    let read = |how: &str, text: &str| {
        let path = dir.path().join(how.replace(' ', "-"));
        fs::write(&path, text).unwrap();
        let told = json(&analyze(&path, &["--format", "json"]))["goroutines"].clone();
        let blocked = told["groups"].as_array().unwrap().iter().find(|g| g.to_string().contains("blockedForever")).unwrap().clone();
        assert_eq!(blocked["count"], 40, "{how}: {blocked:#}");
        told
    };
    let plain = read("plain", &crash);
    for (how, text) in [
        ("docker json-file", docker(&crash)),
        ("cri", cri(&crash)),
        ("json logger", logger.clone()),
        (
            "json logger among others",
            format!("{}{logger}{}", object(serde_json::json!({ "msg": "a" })), object(serde_json::json!({ "msg": "b" }))),
        ),
        ("json logger under docker", docker(&logger)),
        ("json logger under cri", cri(&logger)),
        ("kubectl with a prefix", format!("[pod/shop-1/shop] {logger}")),
        ("logfmt", format!("level=error msg=crashed stack={}\n", serde_json::to_string(&crash).unwrap())),
    ] {
        assert_eq!(read(how, &text), plain, "{how}");
    }
}

#[test]
fn evidence_that_tells_no_rss_claims_none() {
    let dir = tempfile::tempdir().unwrap();
    let svc = Svc::start(GoVersion::Newest, &["-grow", "100000000"]);
    saved(&svc, dir.path(), "heap?gc=1", "heap_gc.pb.gz");
    saved(&svc, dir.path(), "heap", "heap.pb.gz");
    saved(&svc, dir.path(), "goroutine", "goroutine.pb.gz");
    let without = json(&analyze(dir.path(), &["--format", "json"]));
    assert_eq!((&without["go_heap_explains"], &without["cause"]), (&"unknown".into(), &"unknown".into()), "{without:#}");
    assert!(without["summary"].as_str().unwrap().starts_with("The RSS and MemStats are unknown"), "{without:#}");
    saved(&svc, dir.path(), "heap?debug=1", "memstats.txt");
    let verdict = json(&analyze(dir.path(), &["--format", "json"]));
    assert_eq!((&verdict["go_heap_explains"], &verdict["cause"]), (&"unknown".into(), &"live_heap".into()), "{verdict:#}");
    assert!(verdict["summary"].as_str().unwrap().starts_with("The RSS is unknown"), "{verdict:#}");
    let sum: i64 = verdict["anatomy"].as_array().unwrap().iter().map(|line| line["bytes"].as_i64().unwrap()).sum();
    assert_eq!((verdict["mapped_bytes"].as_i64(), verdict["rss_bytes"].as_i64()), (Some(sum), Some(0)), "{verdict:#}");
    assert_ne!(verdict["confidence"], "high", "{verdict:#}");
    let report = text(&analyze(dir.path(), &[]));
    assert!(!report.contains("RSS is 0B") && report.contains("nothing tells the RSS"), "{report}");
}

#[test]
fn an_address_is_all_that_a_capture_needs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let svc = Svc::start(GoVersion::Newest, &["-grow", "100000000"]);
    let capture = |host: &str| {
        let url = format!("http://{}/debug/pprof", svc.address().replace("127.0.0.1", host));
        text(&run(&["capture", "--pprof", &url, "--cpu-seconds", "0", "-o", out]))
    };
    let own = common::manifest(Path::new(capture("127.0.0.1").trim()));
    assert_eq!(own["instance"]["pid"], svc.pid(), "whoever listens there on this host is the process: {own:#}");
    assert_eq!(own["outcome"], "complete", "{own:#}");
    // a name may be any host's
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let is_here = std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 80)).is_ok_and(|mut found| found.any(|a| a.ip().is_loopback()));
    if !is_here {
        return common::not_checked("a capture of an address by a name: this machine's own does not lead to its loopback");
    }
    let bundle = PathBuf::from(capture(&name).trim());
    let far = common::manifest(&bundle);
    assert_eq!(far["instance"]["pid"], serde_json::Value::Null, "{far:#}");
    assert!(far["trigger"]["rss_bytes"].as_u64().unwrap() > 90 << 20, "its /metrics tell it: {far:#}");
    let verdict = json(&analyze(&bundle, &["--format", "json"]));
    assert_eq!((&verdict["go_heap_explains"], &verdict["cause"]), (&"yes".into(), &"live_heap".into()), "{verdict:#}");
}
