//! One target that means many services: each is told by what it belongs to, and none inherits another's cooldown.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Build, Container, GoVersion, Memtrap, copy_program, go_program, manifest, not_checked, wait_until};
use serde_json::{Value, json};

/// Only the memory of the services is asked, as on a host that nobody prepared.
fn target(process: &str) -> String {
    format!(
        "[[target]]\nname = \"host\"\nprocess = {{ {process} }}\npprof = \"off\"\nread_memory = \"always\"\n\
         threshold = \"90MiB\"\nfor = \"300ms\"\nwarmup = \"1s\"\ncooldown = \"10m\"\ninterval = \"100ms\"\nbaseline = \"off\"\ncpu_seconds = 0\n"
    )
}

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    /// A program in its own folder, run by a user whom nothing else runs as.
    fn start(program: &Path, uid: u32, leaks: bool) -> Process {
        let most = if leaks { "167772160" } else { "0" };
        let args = ["-leak", "83886080", "-max", most, "-exit-after", "3m"];
        let mut command = Command::new(program);
        command.args(args).uid(uid).gid(uid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn verdict(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap()
}

#[test]
fn a_leak_in_a_pod_is_one_bundle_that_names_pod_and_workload_though_nothing_of_it_was_prepared() {
    let svc = go_program(GoVersion::Newest, "svc", Build::Stripped);
    let own = std::process::id();
    let annotations = json!({
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": "checkout-7d9f8b6c5d-x2x9z",
        "io.kubernetes.cri.sandbox-namespace": format!("shop{own}"),
    });
    let (id, quiet) = (format!("memtrap-test-{own}-pod"), format!("memtrap-test-{own}-other"));
    let args = ["-leak", "83886080", "-max", "167772160", "-exit-after", "3m"];
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &target(&format!("container = \"^shop{own}/checkout-|^{quiet}$\"")));
    let Some(container) = Container::start(&id, &svc, &args, annotations) else { return };
    let Some(_quiet) = Container::start(&quiet, &svc, &["-exit-after", "3m"], json!({})) else { return };
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    let name = bundle.file_name().unwrap().to_str().unwrap();
    assert!(name.contains(&format!("Z-shop{own}.checkout.app-threshold-")), "{name}");
    let m = manifest(&bundle);
    let instance = &m["instance"];
    assert_eq!(instance["workload"], format!("shop{own}/checkout/app"), "{m:#}");
    assert_eq!(instance["pid"], container.pid, "{m:#}");
    assert_eq!(instance["label"], format!("shop{own}/checkout-7d9f8b6c5d-x2x9z/app (pid {})", container.pid));
    let expected = json!({ "id": id, "name": "app", "pod": "checkout-7d9f8b6c5d-x2x9z", "namespace": format!("shop{own}") });
    assert_eq!(instance["container"], expected, "{m:#}");
    let verdict = verdict(&bundle);
    assert_eq!((&verdict["cause"], &verdict["go_heap_explains"]), (&"live_heap".into(), &"yes".into()), "{verdict:#}");
    let targets: Value = serde_json::from_str(&common::http::get(&memtrap.address(), "/api/targets").text()).unwrap();
    let workloads: Vec<&str> = targets["instances"].as_array().unwrap().iter().filter_map(|i| i["workload"].as_str()).collect();
    assert_eq!(workloads.len(), 2, "the container of a plain name too: {targets:#}");
    assert!(workloads.contains(&quiet.as_str()), "{targets:#}");
    let page = common::http::get(&memtrap.address(), "/metrics").text();
    assert!(
        page.contains(&format!("workload=\"shop{own}/checkout/app\",namespace=\"shop{own}\",pod=\"checkout-7d9f8b6c5d-x2x9z\"")),
        "{page}"
    );
}

#[test]
fn every_go_program_of_a_user_is_watched_and_a_cooldown_stays_with_the_program_that_earned_it() {
    const UID: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return not_checked("every Go program of a user: it needs root, to run some as a user of their own");
    }
    let svc = go_program(GoVersion::Newest, "svc", Build::Stripped);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let [alpha, beta, gamma] = ["alpha", "beta", "gamma"].map(|name| {
        let path = dir.path().join(name);
        copy_program(&svc, &path);
        path
    });
    let process = format!("go = true, user = \"{UID}\", exclude = [\"^gamma$\"]");
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &target(&process));
    let sleeper = Process(Command::new("sleep").arg("180").uid(UID).gid(UID).stdin(Stdio::null()).spawn().unwrap());
    let _excluded = Process::start(&gamma, UID, true);
    let first = Process::start(&alpha, UID, true);
    let exe = |bundle: &Path| manifest(bundle)["instance"]["exe"].as_str().unwrap().to_owned();
    let caught = memtrap.wait_for_bundles(40, 1);
    assert_eq!(exe(&caught[0]), alpha.to_str().unwrap());
    assert!(caught[0].file_name().unwrap().to_str().unwrap().contains("Z-svc-threshold-"), "{caught:?}");
    drop(first);
    // its successor leaks too, and has the cooldown of the one before; the other program has none
    let second = Process::start(&alpha, UID, true);
    let _other = Process::start(&beta, UID, true);
    let caught = memtrap.wait_for_bundles(40, 2);
    assert_eq!(exe(&caught[1]), beta.to_str().unwrap());
    wait_until(Duration::from_secs(20), "the successor is over its threshold", || {
        let status = fs::read_to_string(format!("/proc/{}/status", second.0.id())).unwrap();
        let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        rss.is_some_and(|kib| kib > 150 << 10)
    });
    let targets: Value = serde_json::from_str(&common::http::get(&memtrap.address(), "/api/targets").text()).unwrap();
    let instances = targets["instances"].as_array().unwrap();
    let state = |child: &Process| instances.iter().find(|i| i["pid"] == child.0.id()).map(|i| i["state"].clone());
    assert_eq!(state(&second), Some("cooldown".into()), "{targets:#}");
    assert_eq!(state(&sleeper), None, "no Go program");
    assert_eq!(instances.len(), 2, "{targets:#}");
    assert_eq!(memtrap.bundles().len(), 2);
}

/// A replica of a service, as Kubernetes names them.
fn replica(namespace: &str, service: usize, replica: &str, args: &[&str]) -> Option<Container> {
    let svc = go_program(GoVersion::Newest, "svc", Build::Stripped);
    let annotations = json!({
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": format!("svc{service}-7d9f8b6c5d-{replica}"),
        "io.kubernetes.cri.sandbox-namespace": namespace,
    });
    Container::start(&format!("memtrap-{namespace}-{service}-{replica}"), &svc, &[args, &["-exit-after", "4m"]].concat(), annotations)
}

#[test]
fn of_sixty_containers_those_that_leak_are_caught_once_each_and_no_service_pays_for_another() {
    const LEAKS: [&str; 4] = ["-leak", "83886080", "-max", "167772160"];
    let namespace = format!("ns{}", std::process::id());
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &target(&format!("container = \"^{namespace}/\"")));
    let all: Vec<(usize, &str)> = (0..20).flat_map(|service| ["bcdfg", "h7jkl", "m9npq"].map(|replica| (service, replica))).collect();
    // three services leak in all of their replicas; the others are well
    let start = |(service, name): &(usize, &'static str)| {
        let args: &[&str] = if *service < 3 { &LEAKS } else { &[] };
        replica(&namespace, *service, name, args).map(|container| (*service, container))
    };
    let (first, second) = all.split_at(all.len() / 2);
    let halves = std::thread::scope(|scope| {
        let started = [first, second].map(|half| scope.spawn(move || half.iter().map(start).collect::<Option<Vec<_>>>()));
        started.map(|half| half.join().unwrap())
    });
    let [Some(mut containers), Some(rest)] = halves else { return };
    containers.extend(rest);
    // another service crashes in a loop meanwhile, and one that leaks is scaled up and loses a replica
    for _ in 0..3 {
        drop(replica(&namespace, 3, "xxzz2", &[]));
    }
    let Some(fourth) = replica(&namespace, 0, "r4stv", &LEAKS) else { return };
    let of = |bundle: &Path| {
        let m = manifest(bundle);
        (m["instance"]["workload"].as_str().unwrap().to_owned(), m["instance"]["pid"].as_u64().unwrap() as u32)
    };
    memtrap.wait_until(60, "eight are caught: of twelve an hour, a third is kept for services that had none", |m| m.bundles().len() >= 8);
    let lost = containers.iter().position(|(service, _)| *service == 1).unwrap();
    let was = containers.remove(lost).1;
    drop(was);
    let Some(next) = replica(&namespace, 1, "w5x6z", &LEAKS) else { return };
    memtrap.wait_until(40, "all that leak are over their thresholds, and wait for what the rules allow", |memtrap| {
        let targets: Value = serde_json::from_str(&common::http::get(&memtrap.address(), "/api/targets").text()).unwrap();
        let instances = targets["instances"].as_array().unwrap();
        let state = |pid: u32| instances.iter().find(|i| i["pid"] == pid).map(|i| i["state"].as_str().unwrap().to_owned());
        let calm = ["armed", "warming", "waiting", "pending", "capturing"];
        let leaking = containers.iter().filter(|(service, _)| *service < 3).map(|(_, c)| c.pid).chain([fourth.pid, next.pid]);
        leaking.map(state).all(|state| state.is_some_and(|state| !calm.contains(&state.as_str())))
    });
    let caught: Vec<(String, u32)> = memtrap.bundles().iter().map(|bundle| of(bundle)).collect();
    let mut once: Vec<u32> = caught.iter().map(|(_, pid)| *pid).collect();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), caught.len(), "one bundle for each incident: {caught:?}");
    assert!((8..=9).contains(&caught.len()), "{caught:?}");
    for service in 0..3 {
        let name = format!("{namespace}/svc{service}/app");
        assert!(caught.iter().any(|(workload, _)| *workload == name), "{name} is among them: {caught:?}");
    }
    assert!(caught.iter().all(|(workload, _)| (0..3).any(|n| *workload == format!("{namespace}/svc{n}/app"))), "{caught:?}");
}
