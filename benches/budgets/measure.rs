//! Readings of other processes, and medians.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use memtrap::units::ByteSize;

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// What a process's threads have used since they began, in CPU seconds, and how often they gave up the CPU.
pub fn used(pid: u32) -> (f64, u64) {
    let mut total = (0.0, 0);
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let text = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanos: f64 = text("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let switches = text("status")
            .lines()
            .filter(|l| l.contains("ctxt_switches"))
            .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
        total = (total.0 + nanos / 1e9, total.1 + switches);
    }
    total
}

/// A line of `/proc/PID/status` in bytes (or a bare number).
pub fn status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap_or("0").trim().to_owned();
    match line.strip_suffix(" kB") {
        Some(kb) => kb.trim().parse::<u64>().unwrap_or(0) << 10,
        None => line.parse().unwrap_or(0),
    }
}

/// A command's run: seconds of the clock and of the CPU, the highest RSS, and its output.
pub struct Run {
    pub wall: f64,
    pub cpu: f64,
    pub peak: u64,
    pub stdout: String,
}

/// Runs it to its end. The CPU is counted in ticks of 10 ms: repeat what is shorter.
pub fn run(command: &mut Command) -> Run {
    let before = children_cpu();
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stdout, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut peak = 0;
    let status = loop {
        peak = peak.max(status(child.id(), "VmHWM"));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let wall = start.elapsed().as_secs_f64();
    let stdout = reader.join().unwrap();
    assert!(status.success(), "{command:?} ended with {status}: {stdout}");
    Run { wall, cpu: children_cpu() - before, peak, stdout }
}

/// CPU seconds of all children that have ended.
fn children_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    // cutime and cstime, fields 16 and 17 counted from 1 with the two before
    let ticks: f64 = fields[13..15].iter().map(|f| f.parse::<f64>().unwrap()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}
