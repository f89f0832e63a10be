//! Services that refuse, ask for credentials, or misbehave: there is always a bundle, with what could be had and the reasons.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::{GoVersion, Memtrap, Svc, bundles_in, entry, manifest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// `memtrap capture` of a service with these further arguments.
fn capture(svc: &Svc, args: &[&str]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let pid = svc.pid().to_string();
    let out = dir.path().to_str().unwrap();
    let cpu: &[&str] = if args.contains(&"--cpu-seconds") { &[] } else { &["--cpu-seconds", "1"] };
    let done = common::run(&[&["capture", "--pid", &pid, "-o", out], cpu, args].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bundle = bundles_in(dir.path()).remove(0);
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), bundle.to_str().unwrap());
    (dir, bundle)
}

fn status(bundle: &Path, file: &str) -> String {
    entry(bundle, file)["status"].as_str().unwrap().to_owned()
}

fn reason(bundle: &Path, file: &str) -> String {
    entry(bundle, file)["reason"].as_str().unwrap_or_default().to_owned()
}

/// The daemon, on a real process whose pprof is a misbehaving server.
fn caught(server: &Faulty, keys: &str) -> (Svc, Memtrap, PathBuf) {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nread_memory = \"off\"\nthreshold = \"80MiB\"\nfor = \"0s\"\ncpu_seconds = 0\nretries = 0\n{keys}\n",
        svc.pid(),
        server.pprof()
    ));
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    (svc, memtrap, bundle)
}

#[test]
fn a_service_without_pprof_leaves_the_kernels_side() {
    let svc = Svc::start(GoVersion::Newest, &["-no-pprof"]);
    let (_dir, bundle) = capture(&svc, &[]);
    assert_eq!(manifest(&bundle)["outcome"], "partial");
    assert_eq!(status(&bundle, "proc/smaps_rollup"), "ok");
    assert!(reason(&bundle, "heap.pb.gz").contains("no socket of this process answered"), "{}", reason(&bundle, "heap.pb.gz"));
}

#[test]
fn an_unreachable_pprof_leaves_the_kernels_side_and_does_not_dawdle() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let (_dir, bundle) = capture(&svc, &["--pprof", "http://127.0.0.1:1/debug/pprof"]);
    assert_eq!(status(&bundle, "proc/status"), "ok");
    assert!(reason(&bundle, "heap.pb.gz").contains("refused"), "{}", reason(&bundle, "heap.pb.gz"));
}

#[test]
fn a_missing_mutex_profile_and_a_busy_cpu_profiler_cost_only_themselves() {
    for version in GoVersion::BOTH {
        let svc = Svc::start(version, &["-no-mutex", "-cpu-busy"]);
        let (_dir, bundle) = capture(&svc, &[]);
        assert_eq!(status(&bundle, "mutex.pb.gz"), "skipped");
        assert!(reason(&bundle, "mutex.pb.gz").contains("404"), "{}", reason(&bundle, "mutex.pb.gz"));
        assert_eq!((status(&bundle, "profile.pb.gz"), status(&bundle, "heap_gc_after.pb.gz")), ("failed".into(), "ok".into()));
        let why = reason(&bundle, "profile.pb.gz");
        assert!(why.contains("already in use") && why.contains("at the end of the plan"), "{why}");
    }
}

#[test]
fn a_write_timeout_shortens_the_cpu_profile_where_go_refuses_it() {
    let svc = Svc::start(GoVersion::Oldest, &["-write-timeout", "3s"]);
    let (_dir, bundle) = capture(&svc, &["--cpu-seconds", "4"]);
    assert_eq!(status(&bundle, "profile.pb.gz"), "ok", "{}", reason(&bundle, "profile.pb.gz"));
    assert!(reason(&bundle, "profile.pb.gz").contains("2 s instead of 4 s"), "{}", reason(&bundle, "profile.pb.gz"));
}

#[test]
fn basic_and_bearer_credentials_come_from_files_and_stay_out_of_the_bundle() {
    let dir = TempDir::new().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret-t0ken\n").unwrap();
    let svc = Svc::start(GoVersion::Newest, &["-bearer", "s3cret-t0ken"]);
    let (_dir, refused) = capture(&svc, &["--pprof", &svc.pprof()]);
    assert!(reason(&refused, "heap.pb.gz").contains("401"), "{}", reason(&refused, "heap.pb.gz"));

    let (_dir, bundle) = capture(&svc, &["--pprof", &svc.pprof(), "--bearer-file", token.to_str().unwrap(), "--cpu-seconds", "0"]);
    assert_eq!(manifest(&bundle)["outcome"], "complete");
    // the service's own arguments hold the token in this test, so cmdline.txt is no leak of memtrap's
    for file in ["manifest.json", "README.md", "proc/process.json"] {
        assert!(!std::fs::read_to_string(bundle.join(file)).unwrap().contains("s3cret"), "{file}");
    }
}

#[test]
fn pprof_is_found_behind_a_unix_socket() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("svc.sock");
    let svc = Svc::start(GoVersion::Newest, &["-addr", &format!("unix:{}", socket.display())]);
    let (_dir, bundle) = capture(&svc, &["--pprof", &format!("unix://{}:/debug/pprof", socket.display())]);
    assert_eq!(manifest(&bundle)["outcome"], "complete");
}

#[test]
fn tls_with_a_private_ca_and_a_client_certificate() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(path("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &ca).unwrap();
        std::fs::write(path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let svc =
        Svc::start(GoVersion::Newest, &["-tls-cert", &path("server.pem"), "-tls-key", &path("server.key"), "-client-ca", &path("ca.pem")]);
    let url = svc.pprof().replace("http://", "https://");
    let (_dir, stranger) = capture(&svc, &["--pprof", &url]);
    assert_eq!(status(&stranger, "threadcreate.pb.gz"), "failed");
    let args = [
        "--pprof",
        &url,
        "--ca-file",
        &path("ca.pem"),
        "--client-cert-file",
        &path("client.pem"),
        "--client-key-file",
        &path("client.key"),
    ];
    let (_dir, bundle) = capture(&svc, &args);
    assert_eq!(manifest(&bundle)["outcome"], "complete", "{}", reason(&bundle, "heap.pb.gz"));
}

#[test]
fn another_process_behind_the_address_is_reported() {
    let watched = Svc::start(GoVersion::Newest, &[]);
    let other = Svc::start(GoVersion::Newest, &["-grow", "1"]);
    let (_dir, bundle) = capture(&watched, &["--pprof", &other.pprof(), "--cpu-seconds", "0"]);
    let warnings = manifest(&bundle)["warnings"].to_string();
    assert!(warnings.contains(&format!("is served by process {}", other.pid())), "{warnings}");
    let verdict: serde_json::Value = serde_json::from_slice(&std::fs::read(bundle.join("verdict.json")).unwrap()).unwrap();
    // it gives other arguments: nothing is made of its answers, and what the process's memory has is the process's for sure
    let manifest = manifest(&bundle);
    for name in ["heap.pb.gz", "goroutine.pb.gz", "memstats.txt"] {
        let file = manifest["files"].as_array().unwrap().iter().find(|f| f["name"] == name).unwrap();
        assert_eq!(file["source"], "memory", "{file:#}");
    }
    assert!(!verdict.to_string().contains("another process") && !verdict["goroutines"].is_null(), "{verdict:#}");
}

#[test]
fn hanging_dripping_and_endless_answers_are_bounded() {
    let faults = [("goroutine", Fault::Drip(Duration::from_millis(50))), ("allocs", Fault::Endless), ("threadcreate", Fault::Reset)];
    let server = Faulty::start(Fault::Hang, &faults);
    let (_svc, _memtrap, bundle) = caught(&server, "connect_timeout = \"300ms\"\nstep_timeout = \"1s\"\nmax_file_size = \"1MiB\"");
    assert_eq!(status(&bundle, "proc/status"), "ok");
    for (file, why) in [
        ("heap.pb.gz", "no answer"),
        ("goroutine.pb.gz", "incomplete"),
        ("allocs.pb.gz", "1.00MiB"),
        ("threadcreate.pb.gz", "connection ended"),
    ] {
        let said = reason(&bundle, file);
        assert_eq!(status(&bundle, file), "failed", "{file}");
        assert!(said.contains(why), "{file}: {said}");
    }
}

#[test]
fn what_is_no_profile_is_kept_as_rejected() {
    let faults = [
        ("heap", Fault::Html),
        ("allocs", Fault::TruncatedGzip),
        ("goroutine", Fault::Empty),
        ("threadcreate", Fault::GzipBomb(1 << 30)),
        ("mutex", Fault::Status(500, "kaputt")),
        ("block", Fault::Profile),
    ];
    let server = Faulty::start(Fault::Status(404, "no"), &faults);
    let (_svc, _memtrap, bundle) = caught(&server, "");
    assert!(std::fs::read_to_string(bundle.join("heap.pb.gz.rejected")).unwrap().contains("Sign in"));
    for rejected in ["heap.pb.gz.rejected", "allocs.pb.gz.rejected", "threadcreate.pb.gz.rejected"] {
        let e = entry(&bundle, rejected);
        assert_eq!(e["status"], "failed", "{e}");
        assert!(bundle.join(rejected).metadata().unwrap().len() <= 64 << 10);
    }
    assert!(reason(&bundle, "mutex.pb.gz").contains("kaputt"));
    assert_eq!(status(&bundle, "block.pb.gz"), "ok");
}

#[test]
fn a_redirect_elsewhere_is_not_followed() {
    let elsewhere = Faulty::start(Fault::Profile, &[]);
    let server = Faulty::start(Fault::Redirect(format!("{}/heap", elsewhere.pprof())), &[]);
    let (_svc, _memtrap, bundle) = caught(&server, "");
    assert!(reason(&bundle, "heap.pb.gz").contains("redirect"), "{}", reason(&bundle, "heap.pb.gz"));
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn a_dump_of_128_mib_does_not_grow_memtrap() {
    let server = Faulty::start(Fault::Status(404, "no"), &[("goroutine", Fault::Text(128 << 20))]);
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nread_memory = \"off\"\nthreshold = \"80MiB\"\nfor = \"0s\"\ncpu_seconds = 0\n\
         skip = [\"heap\", \"heap_gc\", \"allocs\"]\n",
        svc.pid(),
        server.pprof()
    ));
    let peak = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", memtrap.pid())).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap().split_whitespace().nth(1).unwrap();
        line.parse::<u64>().unwrap()
    };
    memtrap.wait_until(20, "the dump begins", |_| server.requests_for("goroutine") > 0);
    let before = peak();
    memtrap.wait_for_bundles(60, 1);
    let grown = peak() - before;
    assert!(grown < 8 << 10, "grew by {grown} KiB");
}

#[test]
fn a_process_with_a_hostile_name_breaks_out_of_nothing() {
    use std::os::unix::process::CommandExt;
    let dir = TempDir::new().unwrap();
    // the file's name becomes comm, the first argument cmdline
    let name = "<b>\u{1b}[2J\n../x";
    let program = dir.path().join(name.replace('/', "_"));
    common::copy_program("/bin/sleep", &program);
    let hostile = "<script>alert(1)</script>\u{1b}[31m\n../../etc/passwd`|";
    let mut child = std::process::Command::new(&program).arg0(hostile).arg("300").spawn().unwrap();
    let memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"auto\"\nthreshold = \"1MiB\"\nfor = \"0s\"\ncpu_seconds = 0\n",
        child.id()
    ));
    let bundle = memtrap.wait_for_bundles(20, 1).remove(0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bundle.parent().unwrap(), memtrap.bundle_dir().canonicalize().unwrap().join("svc"));
    for file in ["README.md", "report.txt", "report.html", "manifest.json", "verdict.json"] {
        let text = std::fs::read_to_string(bundle.join(file)).unwrap();
        assert!(!text.contains('\u{1b}'), "{file} reaches a terminal raw");
        assert!(file.ends_with(".json") || !text.contains("<script>alert"), "{file} has markup of the process");
    }
    assert!(!memtrap.log().contains('\u{1b}'));
    let shown = common::run(&["analyze", bundle.to_str().unwrap()]);
    assert!(shown.status.success() && !shown.stdout.contains(&0x1b));
}
