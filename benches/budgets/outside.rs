//! What is read of a Go process's memory: how long it takes, and what it costs the process, beside pprof and a core dump.

use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::common::http::get;
use super::common::{Build, GoVersion, MIB, Svc, go_program, scenarios};
use super::cost::{Cost, during};
use super::measure::{Run, bytes, median, run};
use super::{Row, memtrap};

/// Seconds of the clock and the worst wait of the service, of so many times.
fn beside(svc: &Svc, times: usize, mut act: impl FnMut()) -> (f64, f64) {
    let costs: Vec<Cost> = (0..times).map(|_| during(svc, &mut act)).collect();
    (median(costs.iter().map(|c| c.wall).collect()), costs.iter().map(|c| c.stall).fold(0.0, f64::max))
}

fn start_ticks(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned()
}

fn reader(pid: u32) -> Command {
    let mut command = Command::new(memtrap());
    command.args(["read-memory", "--pid", &pid.to_string(), "--start-ticks", &start_ticks(pid)]);
    command
}

/// Heap profile, MemStats and goroutines of a service under light load with 10,000 goroutines.
pub fn evidence() -> Vec<Row> {
    const ROUNDS: usize = 9;
    let mut rows = Vec::new();
    for version in GoVersion::BOTH {
        let program = Command::new(go_program(version, "loaded", Build::Stripped));
        let svc = Svc::start_in(program, &["-mib", "200", "-goroutines", "10000"]);
        let of = |what: &str| format!("Go {}, 200 MiB and 10,000 goroutines: {what}", version.number());
        let (idle, quiet) = beside(&svc, ROUNDS, || std::thread::sleep(std::time::Duration::from_millis(200)));
        rows.push(Row::new(of("nothing"), format!("{idle:.0} ms, the longest wait {quiet:.1} ms")));
        let mut runs: Vec<Run> = Vec::new();
        let (_, stall) = beside(&svc, ROUNDS, || runs.push(run(&mut reader(svc.pid()))));
        let wall = median(runs.iter().map(|run| run.wall).collect()) * 1e3;
        let peak = runs.iter().map(|run| run.peak).max().unwrap_or(0);
        let (asked, asked_stall) = beside(&svc, ROUNDS, || {
            for path in ["heap", "heap?debug=1", "goroutine", "goroutine?debug=1"] {
                get(svc.address(), &format!("/debug/pprof/{path}"));
            }
        });
        let measured = format!("{wall:.0} ms, at most {} in the reader, the longest wait of the service {stall:.1} ms", bytes(peak));
        let reference = format!("{asked:.0} ms by pprof, the longest wait {asked_stall:.1} ms");
        let row = Row::new(of("heap, MemStats and goroutines from memory"), measured);
        rows.push(row.against(reference, format!("{:.2}", wall / asked)).budget("100 ms", wall <= 100.0));
        let dir = TempDir::new().unwrap();
        let dump = || {
            let mut gcore = Command::new("gcore");
            gcore.arg("-o").arg(dir.path().join("core")).arg(svc.pid().to_string()).stdout(Stdio::null()).stderr(Stdio::null());
            gcore.status().is_ok_and(|status| status.success())
        };
        rows.push(match dump() {
            true => {
                let (wall, stall) = beside(&svc, 3, || assert!(dump()));
                Row::new(of("a core by gcore"), format!("{wall:.0} ms, the longest wait of the service {stall:.0} ms"))
            }
            false => Row::not_measured(of("a core by gcore"), "there is no gcore that works"),
        });
    }
    rows
}

/// Walks over heaps of many small objects and of few large ones.
pub fn holders() -> Vec<Row> {
    let mut rows = Vec::new();
    // some 2 and 10 million
    for (mib, memory, seconds) in [(115, 160, 3.0), (575, 512, 20.0)] {
        let program = Command::new(go_program(GoVersion::Newest, "loaded", Build::Stripped));
        let svc = Svc::start_in(program, &["-mib", &mib.to_string(), "-goroutines", "100"]);
        let (row, wall, peak) = walked(&format!("{mib} MiB in small objects"), svc.pid(), memory, |act| beside(&svc, 3, act).1);
        rows.push(row.budget(&format!("{seconds} s, {memory} MiB"), wall <= seconds && peak <= memory * MIB));
    }
    for mib in [1024, 4096] {
        let svc = scenarios::named("heap_few_big").start(GoVersion::Newest, mib);
        let no_meter = |act: &mut dyn FnMut()| {
            (0..3).for_each(|_| act());
            f64::NAN
        };
        rows.push(walked(&format!("{mib} MiB in large objects"), svc.pid(), 160, no_meter).0);
    }
    rows
}

fn walked(what: &str, pid: u32, memory_mib: u64, beside: impl Fn(&mut dyn FnMut()) -> f64) -> (Row, f64, u64) {
    let mut runs: Vec<Run> = Vec::new();
    let stall = beside(&mut || {
        let mut command = Command::new(memtrap());
        command.args(["holders", "--format", "json", "--memory", &format!("{memory_mib}MiB"), "--pid", &pid.to_string()]);
        runs.push(run(&mut command));
    });
    let seconds = median(runs.iter().map(|run| run.wall).collect());
    let peak = runs.iter().map(|run| run.peak).max().unwrap_or(0);
    let told: Value = serde_json::from_str(&runs[0].stdout).unwrap();
    let objects = told["reached_objects"].as_u64().unwrap_or(0);
    let limits = told["limits"].as_array().map_or(0, Vec::len);
    let whole = if limits == 0 { "" } else { ", without the ways to the bytes" };
    let wait = if stall.is_nan() { String::new() } else { format!(", the longest wait of the service {stall:.1} ms") };
    let measured = format!("{seconds:.2} s, {} in the reader, {objects} objects{whole}{wait}", bytes(peak));
    (Row::new(format!("holders of {what}, {memory_mib} MiB for the walk"), measured), seconds, peak)
}
