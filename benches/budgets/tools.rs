//! Commands against what people use instead: the script's requests, `go tool pprof`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::common::{GoVersion, MIB, Svc, go_binary};
use super::measure::{bytes, median, run};
use super::{Row, memtrap};

/// The requests of the script that memtrap grew out of, in its order, up to the CPU profile.
const SCRIPT: [(&str, &str); 9] = [
    ("cmdline", "cmdline.txt"),
    ("heap", "heap.pb.gz"),
    ("heap?gc=1", "heap_gc.pb.gz"),
    ("allocs", "allocs.pb.gz"),
    ("goroutine?debug=0", "goroutine.pb.gz"),
    ("goroutine?debug=2", "goroutine.txt"),
    ("threadcreate", "threadcreate.pb.gz"),
    ("mutex", "mutex.pb.gz"),
    ("block", "block.pb.gz"),
];

pub fn core_evidence() -> Vec<Row> {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "209715200"]);
    svc.tell("goroutines?n=5000");
    let (mut ours, mut script) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let dir = TempDir::new().unwrap();
        let start = Instant::now();
        for (name, file) in SCRIPT {
            let mut curl = Command::new("curl");
            curl.args([
                "--fail",
                "--silent",
                "--show-error",
                "--location",
                "--retry",
                "2",
                "--connect-timeout",
                "3",
                "--max-time",
                "90",
                "-o",
            ]);
            let status = curl.arg(dir.path().join(file)).arg(format!("{}/{name}", svc.pprof())).status().unwrap();
            assert!(status.success());
        }
        script.push(start.elapsed().as_secs_f64() * 1e3);
        let dir = TempDir::new().unwrap();
        let mut capture = Command::new(memtrap());
        capture.args(["capture", "--cpu-seconds", "0", "--pid", &svc.pid().to_string(), "--pprof", &svc.pprof(), "-o"]).arg(dir.path());
        let bundle = run(&mut capture).stdout;
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(Path::new(bundle.trim()).join("manifest.json")).unwrap()).unwrap();
        let core = ["heap", "memstats", "goroutine", "heap_gc", "goroutine_text"];
        let files = manifest["files"].as_array().unwrap();
        let last = files.iter().rposition(|f| core.iter().any(|step| f["step"] == *step)).unwrap();
        assert!(core.iter().all(|step| files.iter().any(|f| f["step"] == *step && f["status"] == "ok")), "{manifest:#}");
        ours.push(files[..=last].iter().map(|f| f["milliseconds"].as_f64().unwrap()).sum::<f64>());
    }
    // the script has heap, heap_gc and both goroutine files after six of its nine requests, which take nearly all of its time
    let ratios = script.iter().zip(&ours).map(|(s, o)| s / o).collect();
    let ratio = median(ratios);
    vec![Row::new(
        "core evidence of a service with 5,000 goroutines and 200 MiB",
        format!("{:.0} ms, {ratio:.1} × sooner", median(ours)),
        format!("the script's requests {:.0} ms", median(script)),
        "2 ×",
        Some(ratio >= 2.0),
    )]
}

pub fn top() -> Vec<Row> {
    let dir = TempDir::new().unwrap();
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let small = dir.path().join("small.pb.gz");
    let body = Command::new("curl").args(["-sf", &format!("{}/heap", svc.pprof())]).output().unwrap().stdout;
    fs::write(&small, body).unwrap();
    let large = dir.path().join("large.pb.gz");
    let inflated = synthetic_profile(&large);
    let go = go_binary(GoVersion::Newest);
    let mut rows = Vec::new();
    for (what, file, rounds, repeats) in [("a small heap profile", &small, 3, 10), ("a large profile", &large, 3, 1)] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut text = (String::new(), String::new());
            let mut cpu = (0.0, 0.0);
            for _ in 0..repeats {
                let one = run(Command::new(memtrap()).arg("top").arg(file));
                let other = run(Command::new(&go)
                    .args(["tool", "pprof", "-top"])
                    .arg(file)
                    .env("GOTOOLCHAIN", "local")
                    .env("PPROF_TMPDIR", dir.path()));
                cpu = (cpu.0 + one.cpu, cpu.1 + other.cpu);
                text = (one.stdout, other.stdout);
            }
            assert_eq!(text.0, text.1, "the same lines");
            ours.push(cpu.0 / f64::from(repeats) * 1e3);
            theirs.push(cpu.1 / f64::from(repeats) * 1e3);
        }
        let ratio = median(theirs.iter().zip(&ours).map(|(t, o)| t / o.max(0.1)).collect());
        let size = if repeats == 1 { inflated } else { fs::metadata(file).unwrap().len() };
        rows.push(Row::new(
            &format!("memtrap top of {what} ({}): CPU", bytes(size)),
            format!("{:.1} ms, {ratio:.0} × less", median(ours)),
            format!("go tool pprof -top {:.0} ms", median(theirs)),
            "10 ×",
            Some(ratio >= 10.0),
        ));
    }
    rows
}

pub fn analysis() -> Vec<Row> {
    let svc = Svc::start(GoVersion::Newest, &[]);
    svc.tell("goroutines?n=100000");
    let dir = TempDir::new().unwrap();
    let mut capture = Command::new(memtrap());
    capture.args(["capture", "--cpu-seconds", "0", "--pid", &svc.pid().to_string(), "--pprof", &svc.pprof(), "-o"]).arg(dir.path());
    let bundle = run(&mut capture).stdout;
    let verdict = |path: &Path, what: &str| {
        let runs: Vec<_> = (0..3).map(|_| run(Command::new(memtrap()).args(["analyze", "--format", "json"]).arg(path))).collect();
        let (wall, peak) = (median(runs.iter().map(|r| r.wall).collect()), runs.iter().map(|r| r.peak).max().unwrap_or(0));
        let measured = format!("{wall:.2} s, {}", bytes(peak));
        Row::new(&format!("verdict of {what}"), measured, String::new(), "2 s, 200 MiB", Some(wall < 2.0 && peak < 200 * MIB))
    };
    let real = verdict(Path::new(bundle.trim()), "100,000 goroutines");
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
    vec![real, verdict(&text, "a goroutine.txt of 100 MiB")]
}

/// A profile of 50 MiB with 400,000 samples of eight frames; returns its inflated size.
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
