//! Commands against what people use instead: the script's requests, `go tool pprof`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::common::{GoVersion, MIB, Svc, go_binary};
use super::measure::{bytes, cpu, median, ratio, run};
use super::{Row, memtrap};

/// What the script that memtrap grew out of does, up to the CPU profile: its requests in its order, each with its log lines and times.
const SCRIPT: &str = r#"
fetch() {
    echo "[$(date '+%F %T')] start $1"
    local began ended
    began=$(date +%s)
    curl -fsS --retry 2 --retry-delay 1 --connect-timeout 3 --max-time 90 -o "$OUT/$2" "$PPROF/$1" 2>"$OUT/$2.err" || exit 1
    rm -f "$OUT/$2.err"
    ended=$(date +%s)
    echo "[$(date '+%F %T')] done $2 ($((ended - began)) s)"
}
fetch cmdline cmdline.txt
for name in heap 'heap?gc=1' allocs 'goroutine?debug=0'; do
    case $name in *gc=1) file=heap_gc ;; *) file=${name%%\?*} ;; esac
    fetch "$name" "$file.pb.gz"
done
fetch 'goroutine?debug=2' goroutine.txt
for name in threadcreate mutex block; do fetch $name $name.pb.gz; done
"#;

/// What the first answer needs.
const CORE: [&str; 4] = ["heap.pb.gz", "heap_gc.pb.gz", "goroutine.pb.gz", "goroutine.txt"];

/// Milliseconds from `start` until the last byte of the core evidence was written.
fn saved(dir: &Path, start: SystemTime) -> f64 {
    let written = CORE.map(|file| fs::metadata(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).modified().unwrap());
    written.into_iter().max().unwrap().duration_since(start).unwrap().as_secs_f64() * 1e3
}

fn script(svc: &Svc) -> f64 {
    let dir = TempDir::new().unwrap();
    let start = SystemTime::now();
    run(Command::new("bash").args(["-c", SCRIPT]).env("OUT", dir.path()).env("PPROF", svc.pprof()));
    saved(dir.path(), start)
}

/// A capture's bundle, and the time to its core evidence.
fn capture(svc: &Svc, dir: &Path) -> (PathBuf, f64) {
    let mut capture = Command::new(memtrap());
    capture.args(["capture", "--cpu-seconds", "0", "--pid", &svc.pid().to_string(), "--pprof", &svc.pprof(), "-o"]).arg(dir);
    let start = SystemTime::now();
    let bundle = PathBuf::from(run(&mut capture).stdout.trim());
    let time = saved(&bundle, start);
    (bundle, time)
}

pub fn core_evidence() -> Vec<Row> {
    const PAIRS: usize = 9;
    let svc = Svc::start(GoVersion::Newest, &["-grow", "209715200", "-exit-after", "10m"]);
    svc.tell("goroutines?n=5000");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let dir = TempDir::new().unwrap();
    for pair in 0..PAIRS {
        // each goes first as often as the other
        if pair % 2 == 0 {
            theirs.push(script(&svc));
        }
        ours.push(capture(&svc, dir.path()).1);
        if pair % 2 == 1 {
            theirs.push(script(&svc));
        }
    }
    let ratio = ratio(&theirs, &ours);
    let what =
        "core evidence (kernel, heap, heap_gc, goroutines) of a service with 5,000 goroutines and 200 MiB, from the start of the command";
    vec![
        Row::new(what, format!("{:.0} ms (n = {PAIRS})", median(ours)))
            .against(format!("what collect-pprof.sh does: {:.0} ms", median(theirs)), format!("{ratio:.1} × sooner"))
            .budget("2 ×", ratio >= 2.0),
    ]
}

pub fn top() -> Vec<Row> {
    const ROUNDS: usize = 5;
    let dir = TempDir::new().unwrap();
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600", "-exit-after", "10m"]);
    let small = dir.path().join("small.pb.gz");
    let body = Command::new("curl").args(["-sf", &format!("{}/heap", svc.pprof())]).output().unwrap().stdout;
    fs::write(&small, body).unwrap();
    let large = dir.path().join("large.pb.gz");
    let inflated = synthetic_profile(&large);
    let go = go_binary(GoVersion::Newest);
    let mut rows = Vec::new();
    let sizes = [("a small heap profile", &small, 40, 5), ("a profile of many deep stacks", &large, 2, 1)];
    for (what, file, our_times, their_times) in sizes {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut memtrap = Command::new(memtrap());
            let mut pprof = Command::new(&go);
            pprof.args(["tool", "pprof", "-top"]).env("GOTOOLCHAIN", "local").env("PPROF_TMPDIR", dir.path());
            let (our_cpu, our_text) = cpu(our_times, memtrap.arg("top").arg(file));
            let (their_cpu, their_text) = cpu(their_times, pprof.arg(file));
            assert_eq!(our_text, their_text, "the same lines");
            ours.push(our_cpu);
            theirs.push(their_cpu);
        }
        let ratio = ratio(&theirs, &ours);
        let size = if *file == large { format!("{} inflated", bytes(inflated)) } else { bytes(fs::metadata(file).unwrap().len()) };
        rows.push(
            Row::new(format!("CPU of `memtrap top`, {what} ({size})"), format!("{:.1} ms (n = {ROUNDS})", median(ours)))
                .against(format!("`go tool pprof -top`, the same lines: {:.0} ms", median(theirs)), format!("{ratio:.0} × less"))
                .budget("10 ×", ratio >= 10.0),
        );
    }
    rows
}

pub fn analysis() -> Vec<Row> {
    const RUNS: usize = 3;
    const GOROUTINES: u64 = 100_000;
    let svc = Svc::start(GoVersion::Newest, &["-exit-after", "10m"]);
    svc.tell(&format!("goroutines?n={GOROUTINES}"));
    let dir = TempDir::new().unwrap();
    let (bundle, _) = capture(&svc, dir.path());
    let verdict = |path: &Path, what: &str| {
        let runs: Vec<_> = (0..RUNS).map(|_| run(Command::new(memtrap()).args(["analyze", "--format", "json"]).arg(path))).collect();
        let (wall, peak) = (median(runs.iter().map(|r| r.wall).collect()), runs.iter().map(|r| r.peak).max().unwrap_or(0));
        let verdict: serde_json::Value = serde_json::from_str(&runs[0].stdout).unwrap();
        let seen = verdict["goroutines"]["total"].as_u64().unwrap_or(0);
        assert!(seen >= GOROUTINES, "{what}: the verdict knows of {seen} goroutines only");
        let measured = format!("{:.0} ms, {} RSS (n = {RUNS})", wall * 1e3, bytes(peak));
        Row::new(format!("verdict of {what}"), measured).budget("2 s, 200 MiB", wall < 2.0 && peak < 200 * MIB)
    };
    let real = verdict(&bundle, "a bundle of 100,000 goroutines");
    let text = dir.path().join("text");
    fs::create_dir(&text).unwrap();
    let mut file = std::io::BufWriter::new(fs::File::create(text.join("goroutine.txt")).unwrap());
    let mut written = 0;
    for n in 0u64.. {
        let mut stack = format!("goroutine {n} [select, {} minutes]:\n", n % 500);
        for frame in 0..10 {
            stack += &format!("main.f{}(0xc000{n:06x}, 0x1)\n\t/src/app/pkg{frame}/file.go:{} +0x1d\n", n % 5_000 + frame, frame * 7 + 1);
        }
        stack += "created by main.serve in goroutine 1\n\t/src/app/main.go:10 +0x20\n\n";
        file.write_all(stack.as_bytes()).unwrap();
        written += stack.len() as u64;
        if written >= 100 * MIB {
            break;
        }
    }
    file.flush().unwrap();
    vec![real, verdict(&text, "a goroutine.txt of 100 MiB, 5,000 different stacks")]
}

/// A profile of 50 MiB: stacks of 32 frames out of 20,000 functions; returns its inflated size.
fn synthetic_profile(path: &Path) -> u64 {
    const FUNCTIONS: u64 = 20_000;
    fn varint(out: &mut Vec<u8>, mut n: u64) {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }
    fn number(out: &mut Vec<u8>, field: u64, n: u64) {
        varint(out, field << 3);
        varint(out, n);
    }
    fn message(out: &mut Vec<u8>, field: u64, body: &[u8]) {
        varint(out, field << 3 | 2);
        varint(out, body.len() as u64);
        out.extend_from_slice(body);
    }
    let mut strings =
        vec![String::new(), "inuse_objects".into(), "count".into(), "inuse_space".into(), "bytes".into(), "/src/app/file.go".into()];
    let first = strings.len() as u64;
    strings.extend((0..FUNCTIONS).map(|n| format!("example.com/app/pkg{}.Function{n}", n % 97)));
    let mut out = Vec::new();
    for (kind, unit) in [(1, 2), (3, 4)] {
        let mut body = Vec::new();
        number(&mut body, 1, kind);
        number(&mut body, 2, unit);
        message(&mut out, 1, &body);
    }
    let mut state = 1u64;
    let mut samples = 0;
    while out.len() < 46 << 20 {
        let (mut body, mut locations, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            varint(&mut locations, (state >> 33) % FUNCTIONS + 1);
        }
        varint(&mut values, samples % 9 + 1);
        varint(&mut values, (samples % 9 + 1) * 4096);
        message(&mut body, 1, &locations);
        message(&mut body, 2, &values);
        message(&mut out, 2, &body);
        samples += 1;
    }
    for n in 0..FUNCTIONS {
        let (mut location, mut line, mut function) = (Vec::new(), Vec::new(), Vec::new());
        number(&mut line, 1, n + 1);
        number(&mut line, 2, n % 500);
        number(&mut location, 1, n + 1);
        number(&mut location, 3, 0x40_0000 + n * 16);
        message(&mut location, 4, &line);
        message(&mut out, 4, &location);
        number(&mut function, 1, n + 1);
        number(&mut function, 2, first + n);
        number(&mut function, 3, first + n);
        number(&mut function, 4, 5);
        message(&mut out, 5, &function);
    }
    for string in &strings {
        message(&mut out, 6, string.as_bytes());
    }
    let mut file = GzEncoder::new(fs::File::create(path).unwrap(), Compression::fast());
    file.write_all(&out).unwrap();
    file.finish().unwrap();
    out.len() as u64
}
