//! Readings of other processes, and medians.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use memtrap::units::ByteSize;

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// The median of how much larger each of `others` is than its pair.
pub fn ratio(others: &[f64], ours: &[f64]) -> f64 {
    median(others.iter().zip(ours).map(|(other, own)| other / own).collect())
}

pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// What each thread has used since it began: nanoseconds on a CPU, and how often it left one.
fn threads(pid: u32) -> BTreeMap<String, (f64, u64)> {
    let mut all = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let text = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanos = text("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        let switches = text("status")
            .lines()
            .filter(|l| l.contains("ctxt_switches"))
            .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
        all.insert(task.file_name().to_string_lossy().into_owned(), (nanos, switches));
    }
    all
}

/// CPU seconds of a process with those of its threads that have ended; in ticks, 10 ms each.
fn ticked(pid: &str, fields: std::ops::Range<usize>) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // after the name, the third field is the first
    let after: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = after[fields.start - 3..fields.end - 3].iter().map(|f| f.parse::<f64>().unwrap()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

const OWN: std::ops::Range<usize> = 14..16;
const OF_CHILDREN: std::ops::Range<usize> = 16..18;

/// What a process uses while it does what it always does.
#[derive(Clone, Copy)]
pub struct Usage {
    /// Percent of one core.
    pub cpu: f64,
    pub switches_per_second: f64,
    /// At the end: bytes, bytes, number.
    pub rss: u64,
    pub anon: u64,
    pub threads: u64,
}

/// Watches these processes side by side for so long.
pub fn usage<const N: usize>(pids: [u32; N], time: Duration) -> [Usage; N] {
    let start = Instant::now();
    let before = pids.map(|pid| (threads(pid), ticked(&pid.to_string(), OWN)));
    sleep(time);
    let after = pids.map(|pid| (threads(pid), ticked(&pid.to_string(), OWN)));
    let seconds = start.elapsed().as_secs_f64();
    std::array::from_fn(|i| {
        let ((was, was_ticked), (is, is_ticked)) = (&before[i], &after[i]);
        let (mut cpu, mut switches) = (0.0, 0);
        for (thread, (nanos, count)) in is {
            let (from, counted) = was.get(thread).copied().unwrap_or_default();
            cpu += (nanos - from) / 1e9;
            switches += count - counted;
        }
        if was.keys().any(|thread| !is.contains_key(thread)) {
            // took its fine count along
            cpu = cpu.max(is_ticked - was_ticked);
        }
        let value = |key| status(pids[i], key);
        Usage {
            cpu: cpu / seconds * 100.0,
            switches_per_second: switches as f64 / seconds,
            rss: value("VmRSS"),
            anon: value("RssAnon"),
            threads: value("Threads"),
        }
    })
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

/// Makes `VmHWM`, the highest RSS, count from now.
pub fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// A command's run: seconds of the clock, the highest RSS, and its output.
pub struct Run {
    pub wall: f64,
    pub peak: u64,
    pub stdout: String,
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Run {
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
            None => sleep(Duration::from_millis(1)),
        }
    };
    let wall = start.elapsed().as_secs_f64();
    let stdout = reader.join().unwrap();
    assert!(status.success(), "{command:?} ended with {status}: {stdout}");
    Run { wall, peak, stdout }
}

/// CPU milliseconds (user and system) of one run, from `times` runs: the kernel tells it in ticks of 10 ms. Also what the last printed.
pub fn cpu(times: u32, command: &mut Command) -> (f64, String) {
    let before = ticked("self", OF_CHILDREN);
    let mut text = Vec::new();
    for _ in 0..times {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        text = output.stdout;
    }
    let used = (ticked("self", OF_CHILDREN) - before) / f64::from(times) * 1e3;
    (used, String::from_utf8_lossy(&text).into_owned())
}
