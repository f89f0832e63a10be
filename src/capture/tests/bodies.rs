//! What comes back, and what is made of it.

use super::service::{INDEX, MEMSTATS, Reply, Service, healthy};
use super::*;
use crate::bundle::{MAX_REJECTED, Outcome};

#[tokio::test]
async fn a_healthy_service_gives_a_complete_bundle() {
    let service = Service::start(healthy).await;
    let caught = Trial::of(service.pprof()).run().await;
    // a machine without memory cgroups has no numbers of them, this process is none of Go's, and pprof has told its MemStats
    let unneeded = |step: &str| matches!(step, "cgroup" | "holders" | "memstats_after");
    let lacking: Vec<_> = caught.lacking().into_iter().filter(|(step, _)| !unneeded(step)).collect();
    assert_eq!((lacking, caught.captured.outcome), (vec![], Outcome::Complete));
    assert_eq!(caught.captured.id, "checkout/20261123T081336Z-threshold-1.52GiB");
    assert!(caught.captured.evidence && caught.captured.failed.is_empty());
    assert_eq!(caught.manifest.warnings, []);
    assert_eq!(caught.read("memstats.txt"), MEMSTATS);
    assert!(caught.read("goroutine.txt").starts_with("goroutine 1 [running]"));
    assert!(caught.read("timeline.csv").starts_with("time,unix_ms,rss_bytes,phase,"));
    assert!(caught.read("proc/status").contains("VmRSS"));
    for name in ["proc_after/smaps_rollup", "heap_gc_after.pb.gz", "goroutineleak.pb.gz", "README.md", "end.json"] {
        assert!(caught.has(name), "{name}");
    }
    assert_eq!(caught.entry("profile").source.as_deref(), Some(&*format!("http://{}/debug/pprof/profile?seconds=1", service.addr)));
}

#[tokio::test]
async fn requests_come_in_the_order_of_the_plan() {
    let service = Service::start(healthy).await;
    Trial::of(service.pprof()).run().await;
    let seen: Vec<String> = service.seen().iter().map(|head| head.split(' ').nth(1).unwrap().replace("/debug/pprof/", "")).collect();
    let expected = "cmdline heap heap?debug=1 goroutine?debug=0 threadcreate allocs heap?gc=1 heap?debug=1 goroutine?debug=2  goroutineleak \
                    mutex block profile?seconds=1 heap?gc=1";
    assert_eq!(seen.join(" "), expected);
}

#[tokio::test]
async fn a_profile_that_the_service_does_not_have_leaves_the_bundle_whole() {
    let service = Service::start(|path| match path {
        "/debug/pprof/mutex" => Reply::Head("404 Not Found\r\nX-Go-Pprof: 1\r\n", b"Unknown profile\n".to_vec()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(caught.status("mutex"), Status::Skipped);
    assert!(caught.reason("mutex").starts_with("HTTP 404 `Unknown profile`: the service does not expose this profile"));
    assert_eq!(service.count("/debug/pprof/mutex"), 1);
    assert!(caught.captured.failed.is_empty());
    assert!(caught.read("README.md").contains("- `mutex.pb.gz`: HTTP 404"));
}

#[tokio::test]
async fn a_cpu_profile_in_use_is_tried_once_more_at_the_end() {
    let asked = Arc::new(Mutex::new(0));
    let service = Service::start(move |path| {
        if path != "/debug/pprof/profile?seconds=1" {
            return healthy(path);
        }
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        let busy = b"Could not enable CPU profiling: cpu profiling already in use\n".to_vec();
        if *asked == 1 { Reply::Head("500 Internal Server Error\r\nX-Go-Pprof: 1\r\n", busy) } else { healthy(path) }
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!((caught.status("profile"), caught.entry("profile").attempts), (Status::Ok, 2));
    assert!(caught.reason("profile").contains("in use before"));
    assert!(service.seen().last().unwrap().starts_with("GET /debug/pprof/profile?"));
}

#[tokio::test]
async fn a_cpu_profile_is_as_long_as_the_server_allows() {
    let service = Service::start(|path| match path.strip_prefix("/debug/pprof/profile?seconds=") {
        Some(seconds) if seconds.parse::<u64>().unwrap() > 10 => {
            Reply::Head("400 Bad Request\r\nX-Go-Pprof: 1\r\n", b"profile duration exceeds server's WriteTimeout\n".to_vec())
        }
        _ => healthy(path),
    });
    let service = service.await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.cpu_seconds = 30;
    let caught = trial.run().await;
    assert_eq!((caught.status("profile"), caught.entry("profile").attempts), (Status::Ok, 3));
    assert!(caught.reason("profile").ends_with("7 s instead of 30 s"), "{}", caught.reason("profile"));
}

#[tokio::test]
async fn many_goroutines_are_not_stopped_for_their_text() {
    let service = Service::start(|path| match path {
        "/debug/pprof/goroutine?debug=0" => Reply::Ok(profile(24_000)),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(caught.read("goroutine.txt"), "goroutine profile: total 3\n");
    assert_eq!(caught.reason("goroutine_text"), "debug=1 instead of debug=2: 24000 goroutines, above max_goroutines_debug2 = 10000");
    assert_eq!(service.count("/debug/pprof/goroutine?debug=2"), 0);
}

#[tokio::test]
async fn a_body_that_is_no_profile_is_kept_as_rejected() {
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("heap", b"<!DOCTYPE html><title>Sign in</title>".to_vec(), "HTML"),
        ("allocs", profile(3)[..20].to_vec(), "no complete profile"),
        ("threadcreate", Vec::new(), "empty"),
        ("mutex", gzip(&vec![0; 32 << 20]), "no complete profile"),
        ("block", vec![b'x'; 100_000], "no complete profile"),
    ];
    let bodies = cases.clone();
    let service = Service::start(move |path| match bodies.iter().find(|(name, ..)| path.strip_prefix("/debug/pprof/") == Some(*name)) {
        Some((_, body, _)) => Reply::Ok(body.clone()),
        None => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(caught.captured.outcome, Outcome::Partial);
    for (step, body, why) in cases {
        assert_eq!((caught.status(step), caught.entry(step).attempts), (Status::Failed, 1), "{step}");
        assert!(caught.reason(step).contains(why), "{step}: {}", caught.reason(step));
        assert!(!caught.has(&format!("{step}.pb.gz")), "{step}");
        if !body.is_empty() {
            assert_eq!(caught.entry(step).name, format!("{step}.pb.gz.rejected"));
            assert_eq!(caught.entry(step).bytes, (body.len() as u64).min(MAX_REJECTED), "{step}");
        }
    }
}

#[tokio::test]
async fn an_endless_body_ends_at_the_size_cap() {
    let service = Service::start(|path| match path {
        "/debug/pprof/allocs" => Reply::Endless(&[b'x'; 8192]),
        "/debug/pprof/goroutine?debug=2" => Reply::Endless(b"goroutine 1 [running]:\nmain.main()\n"),
        path => healthy(path),
    });
    let service = service.await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.max_file_size = ByteSize::mib(1);
    let caught = trial.run().await;
    assert_eq!(caught.reason("allocs"), "incomplete: larger than max_file_size (1.00MiB)");
    assert_eq!(caught.entry("allocs").bytes, MAX_REJECTED);
    // of a text, what was got is of use
    assert_eq!((caught.entry("goroutine_text").name.as_str(), caught.entry("goroutine_text").bytes), ("goroutine.txt", 1 << 20));
    assert_eq!(caught.status("goroutine_text"), Status::Failed);
    assert_eq!(service.count("/debug/pprof/allocs"), 1);
}

#[tokio::test]
async fn a_text_that_breaks_off_keeps_what_came() {
    let service = Service::start(|path| match path {
        "/debug/pprof/goroutine?debug=2" => Reply::CutOff(b"goroutine 1 [running]:\n".to_vec()),
        "/debug/pprof/heap" => Reply::CutOff(profile(3)[..20].to_vec()),
        "/debug/pprof/allocs" => Reply::CutOff(profile(3)),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(caught.read("goroutine.txt"), "goroutine 1 [running]:\n");
    assert_eq!((caught.status("goroutine_text"), caught.entry("goroutine_text").attempts), (Status::Failed, 2));
    assert!(caught.reason("goroutine_text").contains("incomplete: the connection ended after 23 bytes"));
    assert_eq!((caught.status("heap"), caught.entry("heap").name.as_str()), (Status::Failed, "heap.pb.gz.rejected"));
    // nothing of this one is missing
    assert_eq!((caught.status("allocs"), caught.entry("allocs").attempts), (Status::Ok, 1));
}

#[tokio::test]
async fn a_passing_error_is_tried_again_and_told() {
    let asked = Arc::new(Mutex::new(0));
    let service = Service::start(move |path| {
        let mut asked = asked.lock().unwrap();
        *asked += usize::from(path == "/debug/pprof/heap");
        match path {
            "/debug/pprof/heap" if *asked == 1 => Reply::CutOff(b"half".to_vec()),
            "/debug/pprof/block" => Reply::Head("500 Internal Server Error\r\nX-Go-Pprof: 1\r\n", b"no\n".to_vec()),
            "/debug/pprof/allocs" => Reply::Head("503 Service Unavailable\r\n", b"upstream \x1b[31mgone\r\nmore".to_vec()),
            path => healthy(path),
        }
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!((caught.status("heap"), caught.entry("heap").attempts), (Status::Ok, 2));
    assert!(caught.reason("heap").starts_with("attempt 1: incomplete"), "{}", caught.reason("heap"));
    assert!(!caught.has("heap.pb.gz.rejected"));
    assert_eq!(caught.entry("allocs").attempts, 2);
    assert!(caught.reason("allocs").ends_with("HTTP 503 `upstream \\u{1b}[31mgone`"), "{}", caught.reason("allocs"));
    // Go itself says that this one stands
    assert_eq!(caught.entry("block").attempts, 1);
}

#[tokio::test]
async fn extra_profiles_are_taken_by_name() {
    let service = Service::start(|path| match path {
        "/debug/pprof/trace?seconds=1" => Reply::Ok(b"go 1.26 trace\0\0\0".to_vec()),
        "/debug/pprof/fgprof?seconds=1" => Reply::Ok(profile(1)),
        path => healthy(path),
    });
    let service = service.await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.extra_profiles = ["trace?seconds=1", "fgprof?seconds=1", "nosuch"].map(String::from).to_vec();
    let caught = trial.run().await;
    assert!(caught.has("extra_trace.out") && caught.has("extra_fgprof.pb.gz"));
    assert_eq!(caught.captured.failed, ["extra_nosuch.pb.gz"]);
}

#[tokio::test]
async fn a_leak_profile_is_asked_for_only_where_the_index_lists_it() {
    let service = Service::start(|path| match path {
        "/debug/pprof/" => Reply::Ok(INDEX.replace("goroutineleak", "other").into()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(caught.status("goroutineleak"), Status::Skipped);
    assert_eq!(service.count("/debug/pprof/goroutineleak"), 0);
}

#[tokio::test]
async fn a_nearly_full_disk_gets_a_small_bundle_that_says_so() {
    let service = Service::start(healthy).await;
    let caught = Trial { min_free: ByteSize(u64::MAX), ..Trial::of(service.pprof()) }.run().await;
    assert_eq!(caught.captured.outcome, Outcome::Partial);
    assert!(caught.reason("allocs").contains("min_free_disk"));
    assert!(caught.has("heap_gc.pb.gz") && !caught.has("goroutine.txt") && !caught.has("proc/smaps"));
}

#[tokio::test]
async fn a_service_with_very_many_allocation_sites_is_not_asked_to_name_them() {
    let sites: &[(&[&str], &[i64])] = &[(&["main.f"], &[1])];
    let many = crate::pprof::testing::gzip(&crate::pprof::testing::profile(&[("inuse_space", "bytes")], &sites.repeat(20_001)).0);
    let service = Service::start(move |path| match path {
        "/debug/pprof/heap" => Reply::Ok(many.clone()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(service.count("/debug/pprof/heap?debug=1"), 0);
    assert!(caught.reason("memstats").starts_with("20001 allocation sites"), "{}", caught.reason("memstats"));
    assert_eq!((caught.status("memstats"), caught.status("heap_gc")), (Status::Skipped, Status::Ok));
}

#[tokio::test]
async fn memstats_that_take_too_long_are_asked_for_once() {
    let service = Service::start(|path| match path {
        "/debug/pprof/heap?debug=1" => Reply::Hang,
        path => healthy(path),
    });
    let service = service.await;
    let mut trial = Trial::of(service.pprof());
    trial.target.capture.step_timeout = Duration::from_millis(300);
    let caught = trial.run().await;
    assert_eq!(service.count("/debug/pprof/heap?debug=1"), 1);
    assert_eq!((caught.status("memstats"), caught.status("memstats_gc")), (Status::Failed, Status::Skipped));
}

#[tokio::test]
async fn what_all_profiles_of_a_capture_inflate_to_is_bounded_and_the_rest_of_it_is_had() {
    let bomb = gzip(&vec![0; 3 << 20]);
    let service = Service::start(move |path| match path {
        "/debug/pprof/allocs" | "/debug/pprof/threadcreate" | "/debug/pprof/mutex" => Reply::Ok(bomb.clone()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = Trial { inflatable: ByteSize::mib(4), ..Trial::of(service.pprof()) }.run().await;
    for step in ["threadcreate", "allocs"] {
        assert!(caught.reason(step).ends_with("more than 2.00MiB after decompression"), "{}", caught.reason(step));
    }
    // what else it inflated was a few bytes
    assert!(caught.reason("mutex").ends_with("which is what is left for all profiles of this capture"), "{}", caught.reason("mutex"));
    for step in ["heap", "goroutine", "goroutine_text", "memstats_gc"] {
        assert_eq!(caught.status(step), Status::Ok, "{step}");
    }
}
