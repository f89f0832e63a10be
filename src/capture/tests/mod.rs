//! Whole captures, of a service in this process that answers as it is told.

mod bodies;
mod endings;
mod reaching;
mod secrets;
mod service;
mod slowed;
mod tls;
mod verdicts;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{CaptureError, Captured, Clients, Env, Progress, Request, run};
use crate::bundle::{self, FileEntry, Manifest, Status};
use crate::clock::Mono;
use crate::config::{Auth, Capture, Pprof, ReadMemory, Rules, Selector, Target};
use crate::host::ProcFs;
use crate::host::limit::OomCounter;
use crate::identity::InstanceId;
use crate::series::{Kept, Sample};
use crate::trigger::{Fired, Trigger};
use crate::units::{ByteSize, Percent};

/// Runs the test of this name in a process of its own: `auto` asks all sockets of the process, and other tests have some that count who asks.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "MEMTRAP_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let alone = std::process::Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && said.contains("1 passed"), "{said}");
}

/// Impatient ones.
pub(super) fn settings() -> Capture {
    Capture {
        cpu_seconds: 1,
        connect_timeout: Duration::from_millis(500),
        step_timeout: Duration::from_millis(2_000),
        retries: 1,
        retry_delay: Duration::from_millis(10),
        max_goroutines_debug2: 10_000,
        read_memory: ReadMemory::Auto,
        holders: true,
        brake: false,
        max_file_size: ByteSize::mib(4),
        extra_profiles: Vec::new(),
        skip: Vec::new(),
    }
}

pub(super) fn target() -> Target {
    Target {
        baseline: None,
        name: "checkout".into(),
        source: Selector::Pid(1).into(),
        pprof: None,
        auth: Auth::default(),
        interval: Duration::from_secs(1),
        max_interval: Target::DEFAULT_MAX_INTERVAL,
        rules: Rules {
            threshold: Vec::new(),
            slope: None,
            eta: None,
            gc: None,
            leak: None,
            hold: Duration::ZERO,
            warmup: Duration::ZERO,
            cooldown: Duration::ZERO,
            rearm: Percent::new(90.0).unwrap(),
            escalate: false,
            charge: true,
        },
        capture: settings(),
    }
}

/// One capture to try, and where its bundle goes.
struct Trial {
    dir: tempfile::TempDir,
    target: Target,
    instance: Option<InstanceId>,
    min_free: ByteSize,
    inflatable: ByteSize,
    analyser: Option<std::path::PathBuf>,
    oom: Option<OomCounter>,
    stop: watch::Sender<bool>,
}

/// What came of it.
struct Caught {
    _dir: tempfile::TempDir,
    captured: Captured,
    manifest: Manifest,
}

impl Trial {
    /// Of this very process.
    fn of(pprof: Option<Pprof>) -> Trial {
        let instance = ProcFs::host().identity(std::process::id()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Trial {
            dir,
            target: Target { pprof, ..target() },
            instance: Some(instance),
            min_free: ByteSize(0),
            inflatable: super::INFLATABLE,
            analyser: None,
            oom: None,
            stop: watch::channel(false).0,
        }
    }

    fn env(&self) -> Env {
        Env {
            procfs: ProcFs::host(),
            bundle_dir: self.dir.path().join("bundles"),
            host: "host-a".into(),
            boot_id: "b007".into(),
            clients: Clients::default(),
            unanswered: super::Unanswered::default(),
            threads: super::threads(),
            seats: Arc::new(super::Semaphore::new(1)),
            inflatable: self.inflatable,
            analyser: self.analyser.clone(),
            reader: None,
            brakes: None,
        }
    }

    fn request(&self) -> Request {
        Request {
            scope: super::Scope::Full,
            baselines: None,
            lang: crate::lang::Lang::En,
            incident_id: "i-1".into(),
            part: 1,
            target: Arc::new(self.target.clone()),
            instance: self.instance,
            remote: None,
            no_pprof: None,
            warning: None,
            instance_label: "pid 4821".into(),
            workload: None,
            fired: fired(),
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_616),
            timeline: Arc::new(Mutex::new(vec![Kept::reading(Sample { at: Mono::from_secs(1), rss: 1 << 30 })])),
            floors: Vec::new(),
            oom: self.oom.clone(),
            answers_early: false,
            min_free: self.min_free,
            hurry: false,
        }
    }

    async fn try_run(&self) -> Result<Captured, CaptureError> {
        run(self.request(), &self.env(), self.stop.subscribe(), &mut |_: Progress| {}).await
    }

    /// Captures, and checks what must be true of every bundle.
    async fn run(self) -> Caught {
        let captured = self.try_run().await.unwrap();
        let verified = bundle::verify(&captured.path).unwrap();
        assert_eq!(verified.problems, []);
        let manifest = bundle::open(&self.env().bundle_dir, &captured.id).unwrap().manifest;
        assert_eq!(manifest.outcome, captured.outcome);
        assert_eq!(verified.good, manifest.files.iter().filter(|f| f.has_file()).count());
        Caught { _dir: self.dir, captured, manifest }
    }
}

impl Caught {
    fn entry(&self, step: &str) -> &FileEntry {
        self.manifest.entry(step).unwrap_or_else(|| panic!("no step {step}"))
    }

    fn status(&self, step: &str) -> Status {
        self.entry(step).status
    }

    fn reason(&self, step: &str) -> &str {
        self.entry(step).reason.as_deref().unwrap_or_default()
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.captured.path.join(name)).unwrap()).into_owned()
    }

    fn has(&self, name: &str) -> bool {
        self.captured.path.join(name).exists()
    }

    /// Steps that did not end well, with the reason.
    fn lacking(&self) -> Vec<(&str, &str)> {
        let bad = self.manifest.files.iter().filter(|f| f.status != Status::Ok);
        bad.map(|f| (f.step.as_str(), f.reason.as_deref().unwrap_or_default())).collect()
    }
}

fn fired() -> Fired {
    Fired {
        trigger: Trigger::Threshold,
        measure: crate::trigger::Measure::Rss,
        charge_bytes: None,
        charge_limit_bytes: None,
        charge_cgroup: None,
        rss_bytes: 1_632_087_572,
        level_bytes: 1_610_612_736,
        limit_bytes: Some(2 << 30),
        slope_bytes_per_second: None,
        window_seconds: None,
        eta_seconds: None,
        gc: None,
        reason: "RSS 1.52GiB is at or above 1.50GiB".into(),
    }
}

/// A process to lose.
struct Victim(Child);

impl Victim {
    fn start() -> (Victim, InstanceId) {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let id = ProcFs::host().identity(child.id()).unwrap();
        (Victim(child), id)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A profile of `count` goroutines: a sample type, one sample, and the strings.
pub(super) fn profile(count: u64) -> Vec<u8> {
    let mut varint = Vec::new();
    let mut rest = count;
    while rest >= 0x80 {
        varint.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    varint.push(rest as u8);
    let mut bytes = vec![0x0a, 4, 0x08, 1, 0x10, 2];
    bytes.extend([0x12, varint.len() as u8 + 2, 0x12, varint.len() as u8]);
    bytes.extend(varint);
    for text in ["", "goroutine", "count"] {
        bytes.extend([0x32, text.len() as u8]);
        bytes.extend(text.as_bytes());
    }
    gzip(&bytes)
}

/// All files below `dir`, as bytes.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    all
}
