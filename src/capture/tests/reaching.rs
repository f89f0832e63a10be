//! Getting there, or not.

use super::service::{Reply, Service, healthy};
use super::*;
use crate::bundle::Outcome;
use crate::clock::Mono;

fn closed_port() -> Option<Pprof> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Some(Pprof::Http(format!("http://{}/debug/pprof", listener.local_addr().unwrap())))
}

#[tokio::test]
async fn an_unreachable_pprof_still_leaves_the_kernels_side() {
    let trial = Trial::of(closed_port());
    let caught = trial.run().await;
    assert_eq!(caught.captured.outcome, Outcome::Partial);
    assert!(caught.captured.evidence);
    assert!(caught.read("proc/status").contains("VmRSS"));
    assert_eq!(caught.entry("cmdline").attempts, 2);
    assert!(caught.reason("cmdline").contains("connection refused: nobody listens there"), "{}", caught.reason("cmdline"));
    assert_eq!(caught.entry("heap").attempts, 1);
    assert!(caught.reason("heap").contains("one quick attempt only"));
}

#[tokio::test]
async fn a_service_that_never_answers_costs_less_with_every_step() {
    let service = Service::start(|_| Reply::Hang).await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.step_timeout = Duration::from_millis(80);
    trial.target.capture.cpu_seconds = 0;
    let began = Mono::now();
    let caught = trial.run().await;
    assert!(Mono::now().since(began) < Duration::from_secs(5), "{:?}", Mono::now().since(began));
    assert_eq!(caught.entry("cmdline").attempts, 2);
    assert!(caught.reason("cmdline").contains("no answer within 80ms"));
    assert_eq!(caught.entry("allocs").attempts, 1);
    assert!(caught.reason("allocs").contains("one short attempt only"));
}

#[tokio::test]
async fn a_dripping_body_is_cut_at_the_timeout_and_not_asked_for_again() {
    let service = Service::start(|path| match path {
        "/debug/pprof/heap" => Reply::Drip(b"x"),
        "/debug/pprof/goroutine?debug=2" => Reply::Drip(b"goroutine 1 [running]:\n"),
        path => healthy(path),
    });
    let service = service.await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.step_timeout = Duration::from_millis(400);
    let caught = trial.run().await;
    assert_eq!((caught.status("heap"), caught.entry("heap").attempts), (Status::Failed, 1));
    assert!(caught.reason("heap").contains("came within 400ms"), "{}", caught.reason("heap"));
    assert!(caught.read("goroutine.txt").starts_with("goroutine 1"));
    assert_eq!(caught.status("goroutine_text"), Status::Failed);
}

#[tokio::test]
async fn a_unix_socket_is_asked_by_its_path() {
    let trial = Trial::of(None);
    let socket = trial.dir.path().join("pprof.sock");
    Service::start_unix(&socket, healthy);
    let pprof = Some(Pprof::Unix { socket: socket.clone(), path: "/debug/pprof".into() });
    let trial = Trial { target: Target { pprof, ..target() }, ..trial };
    let caught = trial.run().await;
    assert_eq!(caught.status("heap"), Status::Ok);
    assert_eq!(caught.entry("heap").source, Some(format!("unix://{}:/debug/pprof/heap", socket.display())));
}

#[test]
fn auto_finds_the_handlers_among_the_processs_own_sockets() {
    alone("capture::tests::reaching::auto_finds_the_handlers_among_the_processs_own_sockets", || {
        // a runtime takes its services along when it ends
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime().block_on(find_by_the_index());
        runtime().block_on(find_without_an_index());
    });
}

async fn find_by_the_index() {
    let web = Service::start(|_| Reply::Ok(b"<html>hello".to_vec())).await;
    let pprof = Service::start(healthy).await;
    let caught = Trial::of(Some(Pprof::Auto)).run().await;
    assert_eq!(caught.entry("heap").source, Some(format!("http://{}/debug/pprof/heap", pprof.addr)));
    assert!(web.count("/debug/pprof/heap") == 0);
    // the index that it was found by is not asked for again
    assert_eq!(pprof.count("/debug/pprof/"), 1);
}

async fn find_without_an_index() {
    let liar = Service::start(|_| Reply::Ok(b"some\0thing".to_vec())).await;
    let service = Service::start(|path| match path {
        "/debug/pprof/" => Reply::Head("404 Not Found\r\n", Vec::new()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(Some(Pprof::Auto)).run().await;
    assert_eq!(caught.entry("heap").source, Some(format!("http://{}/debug/pprof/heap", service.addr)));
    assert_eq!(liar.count("/debug/pprof/heap"), 0);
}

#[tokio::test]
async fn auto_never_asks_another_processs_port() {
    let service = Service::start(healthy).await;
    let (_victim, id) = Victim::start();
    let caught = Trial { instance: Some(id), ..Trial::of(Some(Pprof::Auto)) }.run().await;
    assert!(caught.reason("heap").contains("listens on no TCP port"), "{}", caught.reason("heap"));
    assert_eq!(service.seen(), [] as [&str; 0]);
}

#[tokio::test]
async fn someone_elses_pprof_is_captured_with_a_warning() {
    let service = Service::start(healthy).await;
    let (_victim, id) = Victim::start();
    let caught = Trial { instance: Some(id), ..Trial::of(service.pprof()) }.run().await;
    assert_eq!(caught.status("heap"), Status::Ok);
    let warnings = caught.manifest.warnings.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join("\n");
    assert!(warnings.contains(&format!("is served by process {}, not by process {}", std::process::id(), id.pid)), "{warnings}");
    assert!(warnings.contains("reports other arguments"), "{warnings}");
    assert!(caught.read("README.md").contains("**warning**"));
}

#[tokio::test]
async fn a_bundle_dir_that_cannot_be_made_is_an_error_that_says_so() {
    let trial = Trial::of(None);
    std::fs::write(trial.dir.path().join("bundles"), "a file").unwrap();
    let error = trial.try_run().await.unwrap_err();
    assert!(matches!(error, CaptureError::Begin(_)));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("cannot create ") && cause.contains("bundle_dir"), "{cause}");
}

#[tokio::test]
async fn a_bundle_dir_that_goes_away_midway_is_an_error_and_no_panic() {
    let trial = Trial::of(None);
    let bundles = trial.env().bundle_dir;
    let gone = bundles.clone();
    let service = Service::start(move |path| {
        if path == "/debug/pprof/allocs" {
            std::fs::remove_dir_all(&gone).unwrap();
        }
        healthy(path)
    });
    let service = service.await;
    let trial = Trial { target: Target { pprof: service.pprof(), ..target() }, ..trial };
    let mut reasons = Vec::new();
    let mut note = |progress: Progress| {
        if let Progress::Done(entry) = progress {
            reasons.push((entry.step.clone(), entry.reason.clone().unwrap_or_default()));
        }
    };
    let error = run(trial.request(), &trial.env(), trial.stop.subscribe(), &mut note).await.unwrap_err();
    assert!(matches!(error, CaptureError::Publish { .. }), "{error:?}");
    let heap_gc = &reasons.iter().find(|(step, _)| step == "heap_gc").unwrap().1;
    assert!(heap_gc.starts_with("cannot write the file"), "{heap_gc}");
    // the plan went on all the same
    assert!(service.count("/debug/pprof/profile?seconds=1") == 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_costs_one_reason_and_not_the_kernels_side() {
    let mut trial = Trial::of(Some(Pprof::Http("http://nowhere.invalid:6060/debug/pprof".into())));
    trial.target.capture.connect_timeout = Duration::from_millis(500);
    let caught = trial.run().await;
    assert_eq!(caught.captured.outcome, Outcome::Partial);
    assert!(caught.read("proc/status").contains("VmRSS"));
    let why = caught.reason("cmdline");
    assert!(["lookup", "resolve", "timed out"].iter().any(|word| why.contains(word)), "{why}");
}
