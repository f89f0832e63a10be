//! Services that are watched by what they say of themselves, without their process being looked at.

mod common;

use std::fs;

use common::http::get;
use common::pages::{Page, Pages};
use common::{GoVersion, MIB, Memtrap, Svc, entry, manifest};

/// A target of this service's exposition, with what a test sets of it.
fn target(svc: &Svc, keys: &str) -> String {
    let address = svc.address();
    format!(
        "[[target]]\nname = \"svc\"\nmetrics = {{ url = \"http://{address}/metrics\" }}\npprof = \"{}\"\ncpu_seconds = 0\n{keys}\n",
        svc.pprof()
    )
}

#[test]
fn a_leak_seen_by_its_metrics_is_one_whole_bundle() {
    let svc = Svc::start(GoVersion::Newest, &["-leak", "20971520", "-max", "209715200"]);
    let memtrap = Memtrap::start(&target(&svc, "threshold = \"100MiB\"\nfor = \"1s\""));
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);

    let m = manifest(&bundle);
    assert_eq!((m["outcome"].as_str(), m["trigger"]["trigger"].as_str()), (Some("complete"), Some("threshold")), "{m:#}");
    assert_eq!(m["instance"]["label"], format!("http://{}/metrics", svc.address()));
    assert!(m["instance"]["pid"].is_null() && m["instance"]["started_unix_ms"].as_u64().is_some(), "{m:#}");
    assert!(m["trigger"]["rss_bytes"].as_u64().unwrap() >= 100 * MIB);
    assert_eq!(entry(&bundle, "heap_gc.pb.gz")["status"], "ok");
    assert_eq!(entry(&bundle, "proc/status")["status"], "skipped");

    let said: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("metrics.json")).unwrap()).unwrap();
    assert!(said["go_memstats"]["heap_inuse"].as_u64().unwrap() > 50 * MIB, "{said:#}");
    let verdict: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    assert_eq!((verdict["cause"].as_str(), verdict["go_heap_explains"].as_str()), (Some("live_heap"), Some("yes")), "{verdict:#}");
    let bucket = |name: &str| verdict["anatomy"].as_array().unwrap().iter().find(|b| b["bucket"] == name).unwrap().clone();
    for unseen in ["native_anon", "file_mapped", "shmem"] {
        assert_eq!(bucket(unseen)["unknown"], true, "{unseen}");
    }
    let sum: i64 = verdict["anatomy"].as_array().unwrap().iter().map(|b| b["bytes"].as_i64().unwrap()).sum();
    assert_eq!(Some(sum), verdict["rss_bytes"].as_i64());
    assert!(fs::read_to_string(bundle.join("timeline.csv")).unwrap().lines().count() > 3);
    assert_eq!(memtrap.bundles().len(), 1);
}

#[test]
fn an_exposition_that_lies_makes_blind_and_captures_nothing() {
    let server = Pages::start();
    let target = format!(
        "[[target]]\nname = \"liar\"\nmetrics = {{ url = \"{}\" }}\nthreshold = \"100MiB\"\nfor = \"0s\"\ninterval = \"100ms\"\n",
        server.url("/metrics")
    );
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &target);
    let at = memtrap.address();
    let is = |state: &str, why: &str| {
        let seen = get(&at, "/api/targets").json()["instances"][0].take();
        seen["state"] == state && seen["reason"].as_str().is_some_and(|said| said.contains(why))
    };
    server.set("/metrics", Page::Text("process_resident_memory_bytes 5e7\n".into()));
    memtrap.wait_until(20, "all is well", |_| is("armed", ""));
    let text = |text: &str| Page::Text(text.replace("RSS", "process_resident_memory_bytes"));
    for (page, why) in [
        (text("RSS NaN\n"), "process_resident_memory_bytes: the value is NaN"),
        (text("RSS -500000000\n"), "the value is negative"),
        (text("RSS +Inf\n"), "the value is larger than any process can be"),
        (text("RSS 500000000\nRSS 500000000\n"), "2 series of process_resident_memory_bytes fit"),
        (text("RSS 50000000000 oops\n"), "something follows its value that is no timestamp"),
        (text("RSS 5000000000"), "the page ends in the middle of it"),
        (text("<!doctype html>RSS 5000000000\n"), "the answer is a web page"),
        (text("other 1\n"), "the page has no process_resident_memory_bytes"),
        (Page::Status(500, "no metrics today"), "HTTP 500 `no metrics today`"),
        (Page::Redirect(server.url("/elsewhere")), "which is not followed"),
        (Page::Torn("process_resident_memory_bytes 500000000\n"), "the connection broke"),
        (Page::Hang, "no whole answer within 90ms"),
    ] {
        server.set("/metrics", page);
        // of a series that is not there the source is told of, and not the instance
        memtrap.wait_until(20, why, |m| is("blind", why) || is("blind", "its series has not been there") && m.log().contains(why));
        // one good answer is enough
        server.set("/metrics", text("RSS 5e7\n"));
        memtrap.wait_until(20, "all is well again", |_| is("armed", ""));
    }
    assert_eq!((memtrap.bundles().len(), memtrap.log().matches("instance gone").count()), (0, 0));

    server.set("/metrics", text("RSS 500000000\n"));
    let bundle = memtrap.wait_for_bundles(20, 1).remove(0);
    assert_eq!(manifest(&bundle)["trigger"]["rss_bytes"], 500_000_000);
    assert!(fs::read_to_string(bundle.join("README.md")).unwrap().contains("captured from host"));
}

#[test]
fn a_restart_is_seen_by_the_start_time() {
    let mut first = Svc::start(GoVersion::Newest, &["-grow", "157286400"]);
    let memtrap = Memtrap::start(&target(&first, "threshold = \"100MiB\"\nfor = \"0s\"\ninterval = \"200ms\"\ncooldown = \"1s\""));
    memtrap.wait_for_bundles(30, 1);
    memtrap.wait_until(10, "the incident is open", |m| m.log().contains("state=\"open\""));
    let address = first.address().to_owned();
    first.kill();
    memtrap.wait_until(10, "it is told that nobody answers", |m| m.log().contains("connection refused"));
    let _second = Svc::start(GoVersion::Newest, &["-addr", &address, "-grow", "157286400"]);
    memtrap.wait_until(20, "it is seen to be another process", |m| m.log().contains("restarted"));
    let bundles = memtrap.wait_for_bundles(20, 2);
    let starts: Vec<u64> = bundles.iter().map(|b| manifest(b)["instance"]["started_unix_ms"].as_u64().unwrap()).collect();
    assert!(starts[0] < starts[1], "{starts:?}");
}

/// The answer to every query: one series.
fn fleet_of(server: &Pages, labels: &str, rss: u64) {
    let body = format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{{labels}}},"value":[1795421616.5,"{rss}"]}}]}}}}"#
    );
    server.set("/api/v1/query", Page::Text(body));
}

fn fleet_target(server: &Pages, pprof: &str) -> String {
    let url = server.url("");
    format!(
        "[[target]]\nname = \"shop\"\nprometheus = {{ url = \"{url}\", query = 'rss' }}\npprof = \"{pprof}\"\nthreshold = \"100MiB\"\n\
         for = \"0s\"\ninterval = \"200ms\"\ncpu_seconds = 0\nconnect_timeout = \"100ms\"\nretries = 0\n"
    )
}

#[test]
fn hostile_labels_stay_inside_the_bundle() {
    let server = Pages::start();
    fleet_of(&server, r#""instance":"../../../../tmp/x\n\u001b[31m<script>@evil:1/?#","pod":"..""#, 500_000_000);
    let memtrap = Memtrap::start(&fleet_target(&server, "http://{instance}/debug/pprof"));
    let bundle = memtrap.wait_for_bundles(20, 1).remove(0);
    assert_eq!(bundle.parent().unwrap(), memtrap.bundle_dir().canonicalize().unwrap().join("shop"));
    let m = manifest(&bundle);
    let incident = m["incident_id"].as_str().unwrap();
    assert!(incident.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{incident}");
    let label = m["instance"]["label"].as_str().unwrap();
    assert!(label.starts_with("../../../../tmp/x \\u{1b}[31m<script>"), "{label}");
    let reason = entry(&bundle, "heap.pb.gz")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("characters that no host has"), "{reason}");
    assert!(!memtrap.log().contains('\u{1b}') && !memtrap.log().lines().any(|l| l.starts_with('<')), "{}", memtrap.log());
    assert!(!fs::read_to_string(bundle.join("README.md")).unwrap().contains('\u{1b}'));
}

#[test]
fn while_pprof_does_not_answer_it_is_tried_again_and_one_bundle_remains() {
    let server = Pages::start();
    fleet_of(&server, r#""instance":"127.0.0.1:1""#, 500_000_000);
    let memtrap = Memtrap::start(&fleet_target(&server, "http://{instance}/debug/pprof"));
    memtrap.wait_until(60, "three attempts", |m| m.log().matches("capture starts").count() >= 3);
    memtrap.wait_until(20, "the last attempt's bundle alone is there", |m| m.bundles().len() == 1);
    assert_eq!(entry(&memtrap.bundles()[0], "heap.pb.gz")["status"], "failed");
}

#[test]
fn a_probe_asks_sources_and_says_what_is_wrong() {
    let svc = Svc::start(GoVersion::Newest, &["-limit", "268435456"]);
    let server = Pages::start();
    fleet_of(&server, r#""instance":"127.0.0.1:1""#, 500_000_000);
    let (svc_target, fleet) = (
        target(&svc, "threshold = \"80%\"\nlimit = { metric = \"svc_memory_limit_bytes\" }"),
        fleet_target(&server, "http://{instance}/p"),
    );
    let memtrap = Memtrap::start(&format!("{svc_target}{fleet}"));
    let probe = common::run(&["check", "--probe", "-c", memtrap.config_path().to_str().unwrap()]);
    let (table, said) = (String::from_utf8(probe.stdout).unwrap(), String::from_utf8(probe.stderr).unwrap());
    assert_eq!(probe.status.code(), Some(1));
    let row = table.lines().find(|l| l.starts_with("svc ")).unwrap();
    assert!(row.contains("256MiB") && row.ends_with(&svc.pprof()), "{table}");
    assert!(table.contains("\n    limit: metric svc_memory_limit_bytes\n"), "{table}");
    assert!(table.contains("shop    127.0.0.1:1") && table.contains("477MiB"), "{table}");
    assert!(
        said.contains("shop (127.0.0.1:1): pprof: http://127.0.0.1:1/p/cmdline: connection refused") && !said.contains("svc ("),
        "{said}"
    );
}
