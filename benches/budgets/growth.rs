//! How cost and memory grow with the number of instances: processes of a simulated `/proc`, and series of a source elsewhere, which need
//! no descriptor and so show what lies beyond the limit of those.
//!
//! Each size is a process of its own, so that none inherits the heap of another. Only the watcher runs there.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use memtrap::clock::Mono;
use memtrap::config;
use memtrap::host::ProcFs;
use memtrap::meters::Meters;
use memtrap::poll::{Command as Tell, Found, Pulse, Readings, Recovered, Remote, Watcher, Who};
use tempfile::TempDir;

use super::Row;
use super::measure::{bytes, status, usage};

/// Names the size and the kind of instances to the process that measures one.
pub const ONE: &str = "MEMTRAP_BENCH_GROWTH";

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const SETTLE: Duration = Duration::from_secs(25);
const WATCH: Duration = Duration::from_secs(20);
/// What else a bench has open.
const OTHER_DESCRIPTORS: u64 = 100;

pub fn rows() -> Vec<Row> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let mut rows = Vec::new();
    for kind in ["processes", "series"] {
        let mut reference = None;
        for size in SIZES {
            let what = match kind {
                "processes" => format!("{size} processes of a simulated /proc, the watcher alone, at 1 s"),
                _ => format!("{size} series that a source tells each second, the watcher alone"),
            };
            if kind == "processes" && descriptors.is_some_and(|n| n < size as u64 + OTHER_DESCRIPTORS) {
                rows.push(Row::not_measured(what, &format!("each needs a descriptor, and {} may be open here", descriptors.unwrap_or(0))));
                continue;
            }
            let out = Command::new(std::env::current_exe().unwrap()).env(ONE, format!("{kind} {size}")).output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            let mut numbers = text.split_whitespace().map_while(|n| n.parse::<f64>().ok());
            let (Some(cpu), Some(anon)) = (numbers.next(), numbers.next()) else {
                rows.push(Row::not_measured(what, &String::from_utf8_lossy(&out.stderr)));
                continue;
            };
            let each = cpu / size as f64;
            let row = Row::new(what, format!("{:.3} % of a core, {} anonymous", cpu * 100.0, bytes(anon as u64)));
            let first = *reference.get_or_insert(each);
            rows.push(row.against(
                format!("{:.2} µs and {} an instance and second", each * 1e6, bytes((anon / size as f64) as u64)),
                format!("{:.2} × the CPU of each of {}", each / first, SIZES[0]),
            ));
        }
    }
    rows
}

/// Measures one size, and prints the share of a core and the bytes of anonymous memory.
pub fn one(asked: &str) {
    let (kind, size) = asked.split_once(' ').expect("a kind and a size");
    let size: usize = size.parse().expect("a size");
    let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let source = match kind {
        "processes" => {
            processes(dir.path(), size);
            "process = { name = \"shop\" }".to_owned()
        }
        _ => "prometheus = { url = \"http://127.0.0.1:9\", query = 'x' }".to_owned(),
    };
    let text = format!(
        "[[target]]\nname = \"shop\"\n{source}\nmax_interval = \"1s\"\nwarmup = \"0s\"\nthreshold = \"64GiB\"\nslope = \"5GiB/10m\"\n\
         eta = \"5m\"\nbaseline = \"off\"\n"
    );
    let config = config::parse(&text, "growth").unwrap_or_else(|e| panic!("{e}")).0;
    let pulse = Pulse { beat: Box::new(|_| {}), at_least_every: Duration::from_secs(10), meters: Meters::default() };
    let before = status(std::process::id(), "RssAnon");
    let (watcher, handles) = Watcher::new(&config, ProcFs::under(dir.path()), "boot".into(), Recovered::default(), pulse, Mono::now());
    std::thread::spawn(move || watcher.run());
    if kind == "series" {
        let who: Vec<Arc<Who>> = (0..size)
            .map(|n| {
                Arc::new(Who { series: format!("instance=\"10.0.0.{n}:6060\"").into(), label: format!("10.0.0.{n}:6060"), pprof: None })
            })
            .collect();
        std::thread::spawn(move || {
            loop {
                let readings = who.iter().map(remote).collect();
                let found = Found { readings, ..Found::default() };
                let told = Readings { target: "shop".into(), at: Mono::now(), next: Duration::from_secs(1), found: Ok(found) };
                if handles.commands.send(Tell::Readings(told)).is_err() {
                    return;
                }
                sleep(Duration::from_secs(1));
            }
        });
    }
    sleep(SETTLE);
    let [used] = usage([std::process::id()], WATCH);
    println!("{} {}", used.cpu / 100.0, used.anon.saturating_sub(before));
}

fn remote(who: &Arc<Who>) -> Remote {
    Remote {
        who: who.clone(),
        started_unix_ms: Some(1_700_000_000_000),
        rss: Ok(50 << 20),
        limit: Ok(Some(100 << 30)),
        go: None,
        collector: None,
    }
}

/// As much of a host as the watcher looks at.
fn processes(root: &Path, count: usize) {
    let proc = root.join("proc");
    let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
    fs::create_dir_all(proc.join("self")).unwrap();
    write(&proc.join("uptime"), "100000.00 1.00\n");
    write(&proc.join("meminfo"), "MemTotal:       104857600 kB\n");
    write(&proc.join("self/mountinfo"), "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    fs::create_dir_all(root.join("sys/fs/cgroup/shop")).unwrap();
    write(&root.join("sys/fs/cgroup/shop/memory.max"), "max\n");
    let mut stat = String::new();
    for pid in 100..100 + count {
        let dir = proc.join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        stat.clear();
        let _ = writeln!(
            stat,
            "{pid} (shop) S 1 {pid} {pid} 0 -1 4194304 9 0 0 0 1 1 0 0 20 0 3 0 {pid} 4096 1 18446744073709551615 1 1 1 0 0 0 0 0 0 0 0 0"
        );
        write(&dir.join("stat"), &stat);
        write(&dir.join("comm"), "shop\n");
        write(&dir.join("statm"), "999999 12800 1 1 0 1 0\n");
        write(&dir.join("cgroup"), "0::/shop\n");
    }
}
