//! Services that are watched by what they say of themselves, without their process being looked at.

mod common;

use std::fs;

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
