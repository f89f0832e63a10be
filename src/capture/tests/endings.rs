//! The process, or memtrap, ends first.

use super::service::{Reply, Service, healthy};
use super::*;
use crate::bundle::End;
use crate::bundle::Outcome;
use crate::clock::Mono;

#[tokio::test]
async fn a_process_that_dies_midway_keeps_what_was_got() {
    let (victim, id) = Victim::start();
    let victim = Arc::new(Mutex::new(victim));
    let killer = victim.clone();
    let service = Service::start(move |path| {
        if path == "/debug/pprof/threadcreate" {
            killer.lock().unwrap().kill();
            return Reply::Hang;
        }
        healthy(path)
    });
    let service = service.await;
    let mut trial = Trial { instance: Some(id), ..Trial::of(service.pprof()) };
    trial.target.capture.step_timeout = Duration::from_secs(60);
    let began = Mono::now();
    let caught = trial.run().await;
    assert!(Mono::now().since(began) < Duration::from_secs(10));
    assert_eq!(caught.captured.outcome, Outcome::Partial);
    assert_eq!((caught.status("goroutine"), caught.status("heap")), (Status::Ok, Status::Ok));
    assert_eq!((caught.status("threadcreate"), caught.entry("threadcreate").attempts), (Status::Failed, 1));
    for step in ["threadcreate", "heap_gc", "profile", "status_after"] {
        assert!(caught.reason(step).contains("process exited at 20"), "{step}: {}", caught.reason(step));
    }
    assert_eq!((caught.status("heap_gc"), caught.entry("heap_gc").attempts), (Status::Skipped, 0));
    assert_eq!(service.count("/debug/pprof/heap?gc=1"), 0);
    let end: End = serde_json::from_str(&caught.read("end.json")).unwrap();
    assert!(end.gone && end.noticed_at.is_some());
    assert_eq!(end.last_rss_bytes, Some(1 << 30));
}

#[tokio::test]
async fn a_process_that_is_gone_already_still_gets_its_bundle() {
    let (mut victim, id) = Victim::start();
    victim.kill();
    let service = Service::start(healthy).await;
    let caught = Trial { instance: Some(id), ..Trial::of(service.pprof()) }.run().await;
    assert_eq!(caught.captured.outcome, Outcome::Partial);
    assert!(!caught.captured.evidence);
    assert!(caught.has("timeline.csv") && caught.has("end.json"));
    // whoever has the port now is not asked
    assert_eq!(service.seen(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_stop_finalizes_what_there_is_at_once() {
    let service = Service::start(|path| match path {
        "/debug/pprof/profile?seconds=1" => Reply::Hang,
        path => healthy(path),
    });
    let service = service.await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.step_timeout = Duration::from_secs(60);
    let began = Mono::now();
    let sender = trial.stop.clone();
    let stop = async {
        while service.count("/debug/pprof/profile?seconds=1") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sender.send(true).unwrap();
    };
    let (caught, ()) = tokio::join!(trial.run(), stop);
    assert!(Mono::now().since(began) < Duration::from_secs(10));
    assert_eq!(caught.captured.outcome, Outcome::Interrupted);
    assert_eq!(caught.status("heap_gc"), Status::Ok);
    assert_eq!(caught.reason("profile"), "incomplete: memtrap was told to stop");
    assert_eq!((caught.status("heap_gc_after"), caught.reason("heap_gc_after")), (Status::Skipped, "memtrap was told to stop"));
}

#[tokio::test]
async fn a_capture_that_is_dropped_is_finished_at_the_next_start() {
    let service = Service::start(|path| match path {
        "/debug/pprof/heap?gc=1" => Reply::Hang,
        path => healthy(path),
    });
    let service = service.await;
    let trial = Trial::of(service.pprof());
    let dropped = async {
        while service.count("/debug/pprof/heap?gc=1") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = trial.try_run() => panic!("it should hang"),
        () = dropped => {}
    }
    let bundles = trial.env().bundle_dir;
    assert_eq!(bundle::list(&bundles).unwrap(), []);
    let finished = bundle::interrupted::finish_all(&bundles, crate::clock::wall_now());
    let published = finished.into_iter().next().unwrap().unwrap();
    assert_eq!(published.id, "checkout/20261123T081336Z-threshold-1.52GiB");
    assert_eq!(bundle::verify(&published.path).unwrap().problems, []);
    let manifest = published.manifest;
    assert_eq!((manifest.outcome, manifest.incident_id.as_str(), manifest.trigger), (Outcome::Interrupted, "i-1", fired()));
    let step = |name: &str| manifest.files.iter().find(|f| f.step == name).unwrap();
    assert_eq!((step("goroutine").status, step("heap_gc").status), (Status::Ok, Status::Skipped));
    assert_eq!(step("heap_gc").reason.as_deref(), Some("memtrap ended before this step"));
}
