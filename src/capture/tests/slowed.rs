//! Of a process whose cgroup stands above its `memory.high`. The cgroup is a directory of ordinary files that stands for one.

use super::service::{Service, healthy};
use super::*;
use crate::host::cgroup::CgroupRef;
use crate::host::fake::FakeHost;

const HIGH: u64 = 285 << 20;

/// A cgroup at `memory.high`, whose usage is this.
fn cgroup(usage: u64) -> (FakeHost, OomCounter) {
    let host = FakeHost::new();
    host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    host.process(7, "shop").file("cgroup", "0::/shop\n").write();
    host.file("sys/fs/cgroup/shop/memory.high", format!("{HIGH}\n"));
    host.file("sys/fs/cgroup/shop/memory.current", format!("{usage}\n"));
    let found = CgroupRef::of(&host.procfs(), 7).unwrap().unwrap();
    (host, OomCounter::new(found))
}

/// A service that notes what it is asked for; `at` is done before it answers.
async fn service(at: impl Fn(&str) + Send + Sync + 'static) -> (Service, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = asked.clone();
    let service = Service::start(move |path| {
        let rest = path.trim_start_matches("/debug/pprof/");
        noted.lock().unwrap().push(rest.to_owned());
        at(rest);
        healthy(path)
    });
    (service.await, asked)
}

#[tokio::test]
async fn what_makes_it_work_is_not_asked_for_while_it_is_slowed_down_and_the_bundle_says_so() {
    let (_host, oom) = cgroup(HIGH + 1);
    let (service, asked) = service(|_| ()).await;
    let caught = Trial { oom: Some(oom), ..Trial::of(service.pprof()) }.run().await;
    let asked = asked.lock().unwrap().clone();
    let asked: Vec<&str> = asked.iter().map(String::as_str).filter(|path| !path.is_empty() && *path != "cmdline").collect();
    assert_eq!(asked[..4], ["heap", "heap?debug=1", "goroutine?debug=0", "goroutine?debug=2"], "{asked:?}");
    let heavy = ["heap_gc", "memstats_gc", "goroutineleak", "profile", "heap_gc_after"];
    for step in heavy {
        assert_eq!(caught.status(step), Status::Skipped, "{step}");
        assert!(caught.reason(step).contains("cgroup /shop stands above its memory.high (285MiB of 285MiB)"), "{}", caught.reason(step));
    }
    assert!(!asked.iter().any(|path| path.contains("gc=1") || path.contains("profile")), "{asked:?}");
    let slowed = caught.manifest.slowed.clone().unwrap();
    assert_eq!((slowed.high_bytes, slowed.usage_bytes), (HIGH, HIGH + 1));
    assert!(caught.captured.warnings[0].starts_with("cgroup /shop stands above its memory.high"), "{:?}", caught.captured.warnings);
}

#[tokio::test]
async fn once_it_has_recovered_everything_is_asked_for() {
    let (host, oom) = cgroup(HIGH + 1);
    let current = host.root().join("sys/fs/cgroup/shop/memory.current");
    let recover = move |rest: &str| {
        if rest == "goroutine?debug=2" {
            std::fs::write(&current, "1000\n").unwrap();
        }
    };
    let (service, _asked) = service(recover).await;
    let caught = Trial { oom: Some(oom), ..Trial::of(service.pprof()) }.run().await;
    assert_eq!(caught.lacking().iter().filter(|(_, why)| why.contains("memory.high")).count(), 0, "{:?}", caught.lacking());
    assert_eq!((caught.status("heap_gc"), caught.status("profile")), (Status::Ok, Status::Ok));
    drop(host);
}

#[tokio::test]
async fn a_collection_is_put_off_to_the_end_where_it_comes_to_stand_above_it_meanwhile() {
    let (host, oom) = cgroup(1_000);
    let current = host.root().join("sys/fs/cgroup/shop/memory.current");
    let change = move |rest: &str| match rest {
        "heap?debug=1" => std::fs::write(&current, format!("{}\n", HIGH + 5)).unwrap(),
        "goroutine?debug=2" => std::fs::write(&current, "1000\n").unwrap(),
        _ => {}
    };
    let (service, asked) = service(change).await;
    let caught = Trial { oom: Some(oom), ..Trial::of(service.pprof()) }.run().await;
    assert_eq!(caught.manifest.slowed, None);
    assert_eq!((caught.status("heap_gc"), caught.status("memstats_gc")), (Status::Ok, Status::Ok));
    assert!(
        caught.reason("heap_gc").contains("at the end of the plan, as its cgroup stood above its memory.high"),
        "{}",
        caught.reason("heap_gc")
    );
    let asked = asked.lock().unwrap().clone();
    let at = |rest: &str| asked.iter().position(|asked| asked == rest).unwrap();
    assert!(at("goroutine?debug=2") < at("heap?gc=1"), "{asked:?}");
}
