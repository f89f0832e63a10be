//! The daemon while nothing happens: what it holds and what it uses.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use super::common::{MIB, repo};
use super::fixtures::{Daemon, Sleepers, Web};
use super::measure::{Usage, bytes, usage};
use super::poll::thread_cpu;
use super::{Row, memtrap};

/// Processes that were just started are looked into again and again, the last time when their limits are read after 30 s.
pub const SETTLE: Duration = Duration::from_secs(35);
/// A pass over all processes and two readings of each limit are in it. Cgroups are looked up every 5 min, which is not.
pub const WATCH: Duration = Duration::from_secs(60);

pub fn size() -> Vec<Row> {
    let size = fs::metadata(memtrap()).unwrap().len();
    let mut rows = vec![Row::new("the measured binary, stripped", bytes(size)).budget("8 MiB", size < 8 * MIB)];
    let small = repo().join("target/dist-small/dist/memtrap");
    let what = "the same with `--no-default-features`: no S3, GCS, Azure";
    rows.push(match fs::metadata(&small) {
        Ok(file) => Row::new(what, bytes(file.len())).budget("8 MiB", file.len() < 8 * MIB),
        Err(_) => Row::not_measured(what, "target/dist-small/dist/memtrap is not there"),
    });
    rows
}

/// In words, and whether the budget of CPU and RSS is met.
fn words(used: Usage) -> String {
    let Usage { cpu, switches_per_second, rss, anon, threads } = used;
    let (rss, anon) = (bytes(rss), bytes(anon));
    format!("{cpu:.3} % of a core, {rss} RSS ({anon} anonymous), {switches_per_second:.1} switches/s, {threads} threads")
}

/// Reads these processes each second for so long, by bare `pread`s and with nothing else. Returns the percent of a core that it takes.
fn bare_loop(pids: &[u32], time: Duration) -> f64 {
    let files: Vec<fs::File> = pids.iter().map(|pid| fs::File::open(format!("/proc/{pid}/statm")).unwrap()).collect();
    let (start, used) = (Instant::now(), thread_cpu());
    let mut text = [0u8; 160];
    while start.elapsed() < time {
        for file in &files {
            std::hint::black_box(rustix::io::pread(file, &mut text, 0).unwrap());
        }
        sleep(Duration::from_secs(1));
    }
    (thread_cpu() - used) / start.elapsed().as_secs_f64() * 100.0
}

fn watched(daemon: &Daemon) -> Usage {
    sleep(SETTLE);
    let [used] = usage([daemon.pid()], WATCH);
    used
}

pub fn scale() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut one = 0.0;
    for (processes, targets) in [(1, 1), (100, 1), (1_000, 1), (1_000, 10)] {
        let sleepers = Sleepers::start(processes);
        let daemon = Daemon::start(&(0..targets).map(|n| sleepers.target(n)).collect::<String>());
        let instances = processes * targets;
        let pids: Vec<u32> = (0..targets).flat_map(|_| sleepers.pids()).collect();
        let bare = thread::spawn(move || {
            sleep(SETTLE);
            bare_loop(&pids, WATCH)
        });
        let used = watched(&daemon);
        let bare = bare.join().unwrap();
        let each = used.cpu / 100.0 * 1e6 / instances as f64;
        let row = match targets {
            1 => Row::new(format!("{instances} instances at 1 s"), words(used)),
            _ => Row::new(format!("{instances} instances at 1 s: {targets} targets of the same {processes} processes"), words(used)),
        };
        let row = match instances {
            1 => {
                one = used.cpu;
                row
            }
            _ => row.against(
                format!("bare `pread`s of the same, side by side: {bare:.3} %"),
                format!("{:.2} ×; {each:.1} µs an instance and second; {:.0} × the CPU of one", used.cpu / bare, used.cpu / one),
            ),
        };
        rows.push(match instances {
            1 => row.budget("8 MiB", used.rss < 8 * MIB),
            1_000 => row.budget("0.5 %, 12 MiB", used.cpu < 0.5 && used.rss < 12 * MIB),
            10_000 => row.budget("5 %, 40 MiB", used.cpu < 5.0 && used.rss < 40 * MIB),
            _ => row,
        });
    }
    rows
}

pub fn scraped() -> Vec<Row> {
    let web = Web::start(|_, stream| {
        let body = "process_resident_memory_bytes 5e+07\nprocess_start_time_seconds 1.7e+09\n";
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let mut config = String::new();
    for n in 0..1_000 {
        let url = format!("http://127.0.0.1:{}/{n}", web.port);
        let _ =
            write!(config, "[[target]]\nname = \"t{n}\"\nmetrics = {{ url = \"{url}\" }}\nmax_interval = \"1s\"\nthreshold = \"1GiB\"\n");
    }
    let used = watched(&Daemon::start(&config));
    vec![Row::new("1,000 scraped endpoints at 1 s", words(used)).budget("16 MiB", used.rss < 16 * MIB)]
}

/// 10,000 instances of one query at a server that answers at once.
pub fn fleet() -> Vec<Row> {
    const SERIES: usize = 10_000;
    let series = |n: usize| {
        let (a, b) = (n / 250, n % 250);
        format!("{{\"metric\":{{\"instance\":\"10.0.{a}.{b}:6060\",\"job\":\"shop\"}},\"value\":[1700000000,\"5e+07\"]}}")
    };
    let all: Vec<String> = (0..SERIES).map(series).collect();
    let body = format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{}]}}}}", all.join(","));
    let web = Web::start(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let config = format!(
        "[[target]]\nname = \"shop\"\nprometheus = {{ url = \"http://127.0.0.1:{}\", query = 'process_resident_memory_bytes' }}\n\
         interval = \"1s\"\nthreshold = \"1GiB\"\nslope = \"500MiB/10m\"\n",
        web.port
    );
    let daemon = Daemon::start(&config);
    let used = watched(&daemon);
    let each = used.cpu / 100.0 * 1e6 / SERIES as f64;
    let row = Row::new(format!("{SERIES} instances of one Prometheus query at 1 s"), words(used));
    vec![row.against(format!("{each:.1} µs of CPU and {} a series and second", bytes(used.anon / SERIES as u64)), String::new())]
}
