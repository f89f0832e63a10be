//! What a capture costs the service that it looks into: each request by itself, then all of them as memtrap makes them.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::common::http::get;
use super::common::{Build, GoVersion, Svc, go_program, manifest};
use super::measure::{bytes, median, run};
use super::{Row, memtrap};

/// What the service told of itself for one stretch of time; milliseconds, see `tests/go/loaded/meter.go`.
#[derive(Clone, Copy)]
pub struct Cost {
    pub wall: f64,
    cpu: f64,
    stopped: f64,
    pub stall: f64,
    gcs: f64,
}

/// Before Go 1.22 nobody tells.
fn stopped(told: &Value) -> f64 {
    told["stopped"].as_f64().unwrap_or(f64::NAN)
}

/// Of the last time that it was asked until now.
fn since(svc: &Svc) -> Cost {
    let told = get(svc.address(), "/since").json();
    let number = |key: &str| told[key].as_f64().unwrap_or_else(|| panic!("no {key}: {told}"));
    Cost { wall: number("wall"), cpu: number("cpu"), stopped: stopped(&told), stall: number("stall"), gcs: number("gcs") }
}

pub fn during(svc: &Svc, act: impl FnOnce()) -> Cost {
    since(svc);
    act();
    since(svc)
}

/// `own` is what the service uses by itself: CPU per time.
fn row(what: String, costs: &[Cost], own: f64, received: u64) -> Row {
    let of = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
    let added = median(costs.iter().map(|c| (c.cpu - c.wall * own).max(0.0)).collect());
    let worst = costs.iter().map(|c| c.stall).fold(0.0, f64::max);
    let (stopped, stall, gcs, n) = (of(|c| c.stopped), of(|c| c.stall), of(|c| c.gcs), costs.len());
    let collections = if gcs > 0.0 { format!(", {gcs:.0} collections") } else { String::new() };
    let measured = format!(
        "{added:.1} ms of CPU{collections}, the world stopped for {stopped:.2} ms, the longest wait {stall:.1} ms (worst {worst:.1}), {} (n = {n})",
        bytes(received)
    );
    Row::new(what, measured)
}

/// `heap?gc=1`, of a file of a manifest that came from there.
fn pprof_request(entry: &Value) -> Option<&str> {
    Some(entry["source"].as_str()?.split_once("/debug/pprof/")?.1)
}

pub fn rows() -> Vec<Row> {
    [(200, 1_000), (1_000, 9_500)].into_iter().flat_map(|(mib, goroutines)| service(mib, goroutines)).collect()
}

fn service(mib: u64, goroutines: u64) -> Vec<Row> {
    const ROUNDS: usize = 9;
    const CAPTURES: usize = 5;
    const CPU_SECONDS: u64 = 5;
    let program = Command::new(go_program(GoVersion::Newest, "loaded", Build::Plain));
    let svc = Svc::start_in(program, &["-mib", &mib.to_string(), "-goroutines", &goroutines.to_string()]);
    let dir = TempDir::new().unwrap();
    let capture = |cpu_seconds: u64| {
        let mut capture = Command::new(memtrap());
        capture.args(["capture", "--cpu-seconds", &cpu_seconds.to_string(), "--pid", &svc.pid().to_string()]);
        let run = run(capture.args(["--pprof", &svc.pprof(), "-o"]).arg(dir.path()));
        manifest(run.stdout.trim().as_ref())
    };
    // its sources are the requests to measure
    let asked = capture(0);
    let mut idle: Vec<Cost> = (0..ROUNDS).map(|_| during(&svc, || sleep(Duration::from_millis(300)))).collect();
    idle.retain(|c| c.gcs == 0.0);
    let own = median(idle.iter().map(|c| c.cpu / c.wall).collect());
    let of = |what: &str| format!("a service of {mib} MiB in small objects and {goroutines} goroutines: {what}");
    let mut rows = vec![row(of("nothing, for 300 ms"), &idle, own, 0)];
    let mut seen: Vec<&str> = Vec::new();
    for entry in asked["files"].as_array().unwrap() {
        let Some(name) = pprof_request(entry) else { continue };
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        let path = format!("/debug/pprof/{name}");
        let mut received = 0;
        let costs: Vec<Cost> = (0..ROUNDS).map(|_| during(&svc, || received = get(svc.address(), &path).body.len() as u64)).collect();
        rows.push(row(of(&format!("`{name}`")), &costs, own, received));
    }
    for seconds in [0, CPU_SECONDS] {
        let mut received = 0;
        let costs: Vec<Cost> = (0..CAPTURES)
            .map(|_| {
                during(&svc, || {
                    let manifest = capture(seconds);
                    let fetched = manifest["files"].as_array().unwrap().iter().filter(|f| pprof_request(f).is_some());
                    received = fetched.map(|f| f["bytes"].as_u64().unwrap_or(0)).sum();
                })
            })
            .collect();
        let what =
            if seconds == 0 { "a capture without a CPU profile".to_owned() } else { format!("a capture with {seconds} s of CPU profile") };
        rows.push(row(of(&what), &costs, own, received));
    }
    rows
}
