//! A fleet, watched through a real Prometheus.

mod common;

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use common::{DebianServer, GoVersion, MIB, Memtrap, Svc, entry, manifest};
use rustix::process::Signal;

/// The target of all that Prometheus scrapes, with what a test sets of it.
fn fleet(prometheus: &DebianServer, keys: &str) -> String {
    format!(
        "[[target]]\nname = \"shop\"\nprometheus = {{ url = \"{}\", query = 'process_resident_memory_bytes{{job=\"shop\"}}' }}\n\
         pprof = \"http://{{instance}}/debug/pprof\"\ncpu_seconds = 0\n{keys}\n",
        prometheus.url()
    )
}

#[test]
fn of_twenty_services_the_three_that_leak_leave_a_bundle_each() {
    let start = |i: usize| {
        let leak: &[&str] = if [4, 11, 17].contains(&i) { &["-leak", "10485760", "-max", "157286400"] } else { &[] };
        Svc::start(GoVersion::Newest, &[leak, &["-limit", "134217728"]].concat())
    };
    let services: Vec<Svc> = (0..20).map(start).collect();
    let addresses: Vec<&str> = services.iter().map(Svc::address).collect();
    let Some(prometheus) = DebianServer::prometheus(&addresses) else { return };
    let memtrap = Memtrap::start(&fleet(
        &prometheus,
        "threshold = \"75%\"\nfor = \"2s\"\nlimit = { query = 'svc_memory_limit_bytes', by = [\"instance\", \"job\"] }",
    ));
    memtrap.wait_for_bundles(60, 3);
    sleep(Duration::from_secs(5));
    let bundles = memtrap.bundles();
    let caught: BTreeSet<String> = bundles.iter().map(|b| manifest(b)["instance"]["label"].as_str().unwrap().to_owned()).collect();
    let leaking: BTreeSet<String> = [4, 11, 17].iter().map(|i| addresses[*i].to_owned()).collect();
    assert_eq!((bundles.len(), &caught), (3, &leaking));
    for bundle in bundles {
        let m = manifest(&bundle);
        let address = m["instance"]["label"].as_str().unwrap();
        assert_eq!((m["outcome"].as_str(), m["trigger"]["trigger"].as_str()), (Some("complete"), Some("threshold")), "{m:#}");
        assert_eq!(m["instance"]["series"], format!("{{instance=\"{address}\",job=\"shop\"}}"));
        assert!(m["instance"]["started_unix_ms"].as_u64().is_some(), "{m:#}");
        assert_eq!(m["trigger"]["limit_bytes"], 128 * MIB);
        let source = entry(&bundle, "heap_gc.pb.gz")["source"].as_str().unwrap().to_owned();
        assert!(source.starts_with(&format!("http://{address}/debug/pprof/heap")), "{source}");
    }
}

#[test]
fn while_prometheus_hangs_or_is_down_nothing_is_captured_and_the_reason_is_told() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let Some(prometheus) = DebianServer::prometheus(&[svc.address()]) else { return };
    let memtrap = Memtrap::start(&fleet(&prometheus, "threshold = \"100MiB\"\nfor = \"0s\"\ninterval = \"500ms\""));
    memtrap.wait_until(30, "the service is watched", |m| m.log().contains("state=\"armed\""));

    prometheus.signal(Signal::STOP);
    memtrap.wait_until(20, "it hangs", |m| m.log().contains("no whole answer within 450ms"));
    svc.tell("grow?bytes=157286400");
    memtrap.wait_until(20, "it does not see", |m| m.log().contains("state=\"blind\""));
    assert!(memtrap.bundles().is_empty());

    prometheus.signal(Signal::CONT);
    memtrap.wait_until(30, "what it sees again is caught", |m| m.bundles().len() == 1);
    prometheus.signal(Signal::KILL);
    memtrap.wait_until(30, "it is down", |m| m.log().contains("connection refused: does it run, and listen there?"));
    assert_eq!((memtrap.log().matches("instance gone").count(), memtrap.bundles().len()), (0, 1));
}
