//! The daemon when something happens: how soon it asks, and what a large answer costs it.

use std::fs;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::Row;
use super::common::{MIB, entry};
use super::fixtures::{Daemon, Sleepers, Web, not_found};
use super::measure::{bytes, forget_peak, median, status};

fn target(pid: u32, web: &Web, threshold: &str) -> String {
    format!(
        "[[target]]\nname = \"t\"\nprocess = {{ pid = {pid} }}\npprof = \"http://127.0.0.1:{}/debug/pprof\"\nthreshold = \"{threshold}\"\n\
         for = \"0s\"\ninterval = \"100ms\"\nretries = 0\ncpu_seconds = 0\nmax_file_size = \"1GiB\"\nbaseline = \"off\"\n",
        web.port
    )
}

pub fn detection() -> Vec<Row> {
    let mut delays = Vec::new();
    for _ in 0..10 {
        let (web, sleepers) = (Web::empty(), Sleepers::start(1));
        let daemon = Daemon::start(&target(sleepers.pids().next().unwrap(), &web, "1MiB"));
        let timeline = fs::read_to_string(daemon.bundle().join("timeline.csv")).unwrap();
        let sampled: u64 = timeline.lines().rfind(|l| l.ends_with(",before")).unwrap().split(',').nth(1).unwrap().parse().unwrap();
        let asked = web.first_request().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        delays.push(asked.as_secs_f64() * 1e3 - sampled as f64);
    }
    let worst = delays.iter().copied().fold(0.0, f64::max);
    let delay = median(delays);
    let what = "sample over the line to the first pprof request; the kernel's evidence is saved between";
    vec![Row::new(what, format!("{delay:.0} ms, worst {worst:.0} (n = 10)")).budget("20 ms", delay < 20.0)]
}

pub fn large_body() -> Vec<Row> {
    const BODY: u64 = 500 * MIB;
    let [head, samples, tail] = heavy_profile();
    let rounds = (BODY as usize - head.len() - tail.len()) / samples.len();
    let length = head.len() + rounds * samples.len() + tail.len();
    let web = Web::start(move |path, stream| {
        if path != "/debug/pprof/heap" {
            return not_found(stream);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n")?;
        stream.write_all(&head)?;
        (0..rounds).try_for_each(|_| stream.write_all(&samples))?;
        stream.write_all(&tail)
    });
    let sleepers = Sleepers::start(1);
    let config = |threshold| target(sleepers.pids().next().unwrap(), &web, threshold) + "[retention]\nmin_free_disk = \"0\"\n";
    let daemon = Daemon::start(&config("1GiB"));
    sleep(Duration::from_secs(2));
    let before = status(daemon.pid(), "VmRSS");
    forget_peak(daemon.pid());
    daemon.configure(&config("1MiB"));
    kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), Signal::HUP).unwrap();
    let bundle = daemon.bundle();
    let growth = status(daemon.pid(), "VmHWM").saturating_sub(before);
    let heap = entry(&bundle, "heap.pb.gz");
    assert!(heap["status"] == "ok" && heap["bytes"] == length, "{heap}");
    vec![Row::new("RSS growth while a heap profile of 500 MiB is saved", bytes(growth)).budget("8 MiB", growth < 8 * MIB)]
}

/// The beginning, a middle to repeat and the end of a heap profile: a few deep stacks, again and again.
fn heavy_profile() -> [Vec<u8>; 3] {
    fn field(out: &mut Vec<u8>, number: u8, body: &[u8]) {
        out.push(number << 3 | 2);
        let mut length = body.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(body);
    }
    let (mut head, mut sample, mut samples, mut tail) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for value_type in [[8, 1, 16, 2], [8, 3, 16, 4]] {
        field(&mut head, 1, &value_type);
    }
    field(&mut sample, 1, &[1; 4_000]);
    field(&mut sample, 2, &[1, 42]);
    (0..16).for_each(|_| field(&mut samples, 2, &sample));
    field(&mut tail, 4, &[8, 1, 34, 4, 8, 1, 16, 7]);
    field(&mut tail, 5, &[8, 1, 16, 5, 32, 6]);
    for text in ["", "inuse_objects", "count", "inuse_space", "bytes", "main.main", "main.go"] {
        field(&mut tail, 6, text.as_bytes());
    }
    [head, samples, tail]
}
