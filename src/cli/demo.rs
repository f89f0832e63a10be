//! `memtrap demo`: the main job on a real leaking Go service, which it builds, starts and ends itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::live::{Screen, instance_line};
use super::signals::Signals;
use super::watch::one_target;
use super::{Failure, print_exactly};
use crate::bundle;
use crate::capture::Captured;
use crate::config::{self, Pprof, Selector};
use crate::daemon::{DaemonError, Engine, Event};
use crate::host::ProcFs;
use crate::pprof::{TimeZone, top};
use crate::units::{ByteSize, SizeOrPercent};

/// The service: a session cache that never evicts.
const SOURCE: &str = include_str!("../../demo/leaky/main.go");
const MODULE: &str = include_str!("../../demo/leaky/go.mod");

const LEAK: &str = "20MiB";
const THRESHOLD: ByteSize = ByteSize::mib(150);
/// The service leaks no further, and the demo waits no longer.
const MAX: &str = "400MiB";
const PATIENCE: Duration = Duration::from_secs(90);
const CPU_SECONDS: u64 = 5;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Go toolchain (1.19 or newer) that builds the service
    #[arg(long, value_name = "PATH", default_value = "go", env = "GO")]
    go: PathBuf,
    /// Directory for the bundle
    #[arg(short, long, value_name = "DIR", default_value = "memtrap-demo")]
    output: PathBuf,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let mut screen = Screen::new();
    let work = tempfile::tempdir()?;
    screen.line("building a Go service with a cache that never evicts");
    let binary = build(&args.go, work.path()).await?;
    let (mut service, address) = start(&binary).await?;
    let result = watch(&args, &mut screen, &service, &address).await;
    // ends here in every case; the service also ends by itself
    let _ = service.kill().await;
    let done = result?;
    explain(&mut screen, &done)?;
    print_exactly(&format!("{}\n", done.path.display()))
}

async fn build(go: &Path, work: &Path) -> Result<PathBuf, Failure> {
    std::fs::write(work.join("main.go"), SOURCE)?;
    std::fs::write(work.join("go.mod"), MODULE)?;
    // a name is looked up on PATH; a path is meant from here, not from the work directory
    let program = if go.components().count() > 1 { std::path::absolute(go)? } else { go.to_owned() };
    let output = Command::new(program)
        .args(["build", "-o", "leaky", "."])
        .current_dir(work)
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=mod")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => Ok(work.join("leaky")),
        Ok(output) => Err(Failure::job(format_args!(
            "{} could not build the service: {}",
            go.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failure::job(format_args!(
            "no Go toolchain at `{}`; install Go 1.19 or newer (Debian: apt install golang-go), or name one with --go",
            go.display()
        ))),
        Err(e) => Err(Failure::job(format_args!("{} cannot be run: {e}", go.display()))),
    }
}

/// Starts the service; it says where it listens on its first line.
async fn start(binary: &Path) -> Result<(Child, String), Failure> {
    let mut service = Command::new(binary)
        .args(["-addr", "127.0.0.1:0", "-leak", LEAK, "-max", MAX, "-exit-after", "3m"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = service.stdout.take().ok_or_else(|| Failure::job("the service has no output"))?;
    let mut lines = BufReader::new(stdout).lines();
    let first = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await;
    let line = first.map_err(|_| Failure::job("the service did not start within 10s"))??.unwrap_or_default();
    match line.strip_prefix("listening on ") {
        Some(address) => Ok((service, address.trim().to_owned())),
        None => Err(Failure::job(format_args!("the service started with `{line}` instead of its address"))),
    }
}

async fn watch(args: &Args, screen: &mut Screen, service: &Child, address: &str) -> Result<Captured, Failure> {
    let pid = service.id().ok_or_else(|| Failure::job("the service ended at once"))?;
    let mut target = config::Target::with_defaults("demo".into(), Selector::Pid(pid));
    target.pprof = Some(Pprof::Http(format!("http://{address}/debug/pprof")));
    target.rules.threshold = vec![SizeOrPercent::Size(THRESHOLD)];
    target.rules.hold = Duration::from_secs(1);
    target.capture.cpu_seconds = CPU_SECONDS;
    target.interval = Duration::from_millis(250);
    let config = one_target(target, std::path::absolute(&args.output)?);

    screen.line(&format!("pid {pid} serves on {address} and leaks {LEAK}/s; the trap is set at RSS {THRESHOLD}"));
    let mut engine = Engine::start(&config, ProcFs::host(), None).await?;
    let caught = tokio::time::timeout(PATIENCE, follow(&mut engine, screen)).await;
    engine.stop().await;
    caught.unwrap_or_else(|_| Err(Failure::job(format_args!("nothing was caught within {}", crate::clock::human(PATIENCE)))))
}

async fn follow(engine: &mut Engine, screen: &mut Screen) -> Result<Captured, Failure> {
    let mut signals = Signals::listen()?;
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let mut capturing = false;
    loop {
        tokio::select! {
            event = engine.next() => match event {
                Event::CaptureStarted(job) => {
                    capturing = true;
                    screen.line(&format!("caught by {}: {}", job.fired.trigger.name(), job.fired.reason));
                }
                Event::Progress { progress, .. } => screen.step(&progress),
                Event::CaptureEnded { result, .. } => return result.map_err(Failure::job),
                Event::WatcherGone => return Err(DaemonError::WatcherGone.into()),
            },
            _ = tick.tick(), if !capturing => {
                for status in engine.status().await {
                    screen.live(&instance_line(&status));
                }
            }
            by = signals.recv() => return Err(Failure::signalled(by, "interrupted")),
        }
    }
}

/// What the bundle says, in the order in which an investigation reads it.
fn explain(screen: &mut Screen, done: &Captured) -> Result<(), Failure> {
    let verified = bundle::verify(&done.path)?;
    if let Some(problem) = verified.problems.first() {
        return Err(Failure::job(format_args!("the bundle is damaged: {problem}")));
    }
    screen.line(&format!("\none bundle, {}: {} files, {}, all sums right", done.outcome.name(), verified.good, ByteSize(done.bytes)));
    if let Some(verdict) = &done.verdict {
        screen.line(&format!("\ndoes the Go heap explain the RSS? {verdict}"));
    }
    screen.line("\nwhat is live on the Go heap after a forced GC (memtrap top heap_gc.pb.gz -n 5):");
    let heap = super::top::single(&done.path.join("heap_gc.pb.gz"))?.profile;
    let options = top::Options { node_count: Some(5), ..top::Options::default() };
    let text = top::text(&heap, None, &options, &TimeZone::UTC)?;
    for line in text.lines().skip_while(|l| !l.starts_with("Showing")) {
        screen.line(&format!("  {line}"));
    }
    screen.line(&format!("\nnext: open {} in a browser, or less report.txt beside it", done.path.join("report.html").display()));
    Ok(())
}
