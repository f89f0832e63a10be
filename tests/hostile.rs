//! Hostile bundles through `memtrap analyze`: an answer or a clear error, in bounded memory and time, and never a panic.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Address space, in MiB, that is enough for each of these: half of what the daemon's child has.
const ENOUGH: u64 = 512;

/// A bundle whose kernel evidence is good, so that there is always something to say.
fn bundle() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/anatomy/1.27.3/static");
    fs::create_dir(dir.path().join("proc")).unwrap();
    for (from, to) in [("status", "proc/status"), ("smaps", "proc/smaps"), ("memstats.txt", "memstats.txt")] {
        fs::copy(data.join(from), dir.path().join(to)).unwrap();
    }
    dir
}

/// The verdict of a bundle, from a process that may use only [`ENOUGH`] memory; its JSON.
fn verdict(bundle: &TempDir) -> serde_json::Value {
    let command = format!("ulimit -v {}; exec \"$0\" analyze --format json \"$1\"", ENOUGH * 1024);
    let output =
        Command::new("sh").args(["-c", &command, env!("CARGO_BIN_EXE_memtrap")]).arg(bundle.path()).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{:?}: {errors}", output.status);
    assert!(output.stdout.len() < 4 << 20, "a verdict of {} bytes", output.stdout.len());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sentence about a file that could not be used.
fn problem(bundle: &TempDir, file: &str) -> String {
    let verdict = verdict(bundle);
    let missing = verdict["missing"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().to_owned());
    let start = format!("{file} cannot be used: ");
    missing
        .filter_map(|m| m.strip_prefix(&start).map(str::to_owned))
        .next()
        .unwrap_or_else(|| panic!("nothing is said of {file}: {verdict:#}"))
}

/// A file of zeros that takes no room on the disk.
fn zeros(bundle: &TempDir, file: &str, bytes: u64) {
    File::create(bundle.path().join(file)).unwrap().set_len(bytes).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Protobuf: a field of bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A heap profile of one sample with this stack of locations, whose one function has this name.
fn heap(name: &str, locations: u64, stack: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut profile = Vec::new();
    for kind in 1..=4 {
        field(&mut profile, 1, &[8, kind]);
    }
    for id in 1..=locations {
        let mut location = vec![8];
        varint(&mut location, id);
        field(&mut location, 4, &[8, 1]);
        field(&mut profile, 4, &location);
    }
    field(&mut profile, 5, &[8, 1, 16, 5]);
    let mut frames = Vec::new();
    stack.for_each(|id| varint(&mut frames, id));
    let mut sample = Vec::new();
    field(&mut sample, 1, &frames);
    field(&mut sample, 2, &[1, 1, 1, 1]);
    field(&mut profile, 2, &sample);
    for text in ["", "alloc_objects", "alloc_space", "inuse_objects", "inuse_space", name] {
        field(&mut profile, 6, text.as_bytes());
    }
    profile
}

#[test]
fn a_gzip_bomb_of_a_gigabyte_is_stopped() {
    let bundle = bundle();
    let member = gzip(&vec![0; 16 << 20]);
    fs::write(bundle.path().join("heap_gc.pb.gz"), member.repeat(64)).unwrap();
    assert_eq!(problem(&bundle, "heap_gc.pb.gz"), "more than 128MiB after decompression");
}

#[test]
fn files_larger_than_any_real_one_are_not_read() {
    let bundle = bundle();
    zeros(&bundle, "heap_gc.pb.gz", 1024 * MIB);
    assert_eq!(problem(&bundle, "heap_gc.pb.gz"), "it is larger than 128MiB");
    zeros(&bundle, "goroutine.txt", 2048 * MIB);
    assert_eq!(problem(&bundle, "goroutine.txt"), "it is larger than 1.00GiB");
    zeros(&bundle, "proc/smaps", 1025 * MIB);
    assert_eq!(problem(&bundle, "proc/smaps"), "it is larger than 1.00GiB");
}

#[test]
fn garbage_and_halves_are_named_for_what_they_are() {
    let whole = gzip(&heap("main.main", 1, [1].into_iter()));
    for (content, what) in [
        (&b""[..], "empty"),
        (b"<html><body>Sign in</body></html>", "a web page, not a profile"),
        (&[0xff; 5000], "malformed profile at byte 0"),
        (&whole[..whole.len() / 2], "cut off: the gzip stream ends before its trailer"),
    ] {
        let bundle = bundle();
        fs::write(bundle.path().join("heap_gc.pb.gz"), content).unwrap();
        let problem = problem(&bundle, "heap_gc.pb.gz");
        assert!(problem.starts_with(what), "{problem}");
    }
}

#[test]
fn one_byte_of_input_for_eight_of_memory_has_a_limit() {
    let mut profile = Vec::new();
    (0..256).for_each(|_| field(&mut profile, 1, &[]));
    field(&mut profile, 6, b"");
    let mut sample = Vec::new();
    field(&mut sample, 2, &[0; 256]);
    (0..100_000).for_each(|_| field(&mut profile, 2, &sample));
    let bundle = bundle();
    fs::write(bundle.path().join("heap_gc.pb.gz"), gzip(&profile)).unwrap();
    assert_eq!(problem(&bundle, "heap_gc.pb.gz"), "more than 4000000 values");
}

#[test]
fn many_large_profiles_share_what_they_may_inflate_to() {
    let bundle = bundle();
    // 55 MiB in a field that nobody knows, put together of pieces of a gzip stream
    let mut profile = heap("main.main", 1, [1].into_iter());
    profile.push(15 << 3 | 2);
    varint(&mut profile, 55 << 20);
    let long = [gzip(&profile), gzip(&[b'f'; 1 << 20]).repeat(55)].concat();
    for file in ["heap_gc.pb.gz", "heap.pb.gz", "goroutine.pb.gz", "goroutineleak.pb.gz", "heap_gc_after.pb.gz"] {
        fs::write(bundle.path().join(file), &long).unwrap();
    }
    assert_eq!(problem(&bundle, "goroutineleak.pb.gz"), "all profiles together inflate to more than 256MiB");
}

#[test]
fn a_stack_of_a_hundred_thousand_frames_is_cut_in_the_verdict() {
    let bundle = bundle();
    fs::write(bundle.path().join("heap_gc.pb.gz"), gzip(&heap("main.recurse", 500, (0..100_000).map(|n| n % 500 + 1)))).unwrap();
    let text: String = (0..100_000).map(|n| format!("main.recurse(0x{n:x})\n\t/srv/main.go:{} +0x1d\n", n % 500)).collect();
    fs::write(bundle.path().join("goroutine.txt"), format!("goroutine 1 [running]:\n{text}\n")).unwrap();
    fs::write(bundle.path().join("goroutine.pb.gz"), gzip(&heap("main.recurse", 500, (0..100_000).map(|n| n % 500 + 1)))).unwrap();
    let verdict = verdict(&bundle);
    assert_eq!(verdict["top"]["inuse_space"][0]["function"], "main.recurse");
    let stack = verdict["goroutines"]["groups"][0]["stack"].as_array().unwrap();
    assert!((1..=64).contains(&stack.len()), "{}", stack.len());
}

#[test]
fn names_of_megabytes_and_names_that_steer_terminals_are_cut_and_cleaned() {
    let bundle = bundle();
    let name = format!("\u{1b}[2J{}", "f".repeat(10 << 20));
    fs::write(bundle.path().join("heap_gc.pb.gz"), gzip(&heap(&name, 1, [1].into_iter()))).unwrap();
    let verdict = verdict(&bundle);
    let shown = verdict["top"]["inuse_space"][0]["function"].as_str().unwrap();
    assert!(shown.starts_with(r"\u{1b}[2Jfff") && shown.ends_with('…') && shown.chars().count() == 506, "{shown}");
}

#[test]
fn a_million_goroutines_without_stacks_are_counted() {
    let bundle = bundle();
    let mut text = Vec::new();
    (1..=1_000_000).for_each(|n| writeln!(text, "goroutine {n} [select]:").unwrap());
    fs::write(bundle.path().join("goroutine.txt"), text).unwrap();
    fs::write(bundle.path().join("goroutine.pb.gz"), gzip(&heap("main.wait", 1, [1].into_iter()))).unwrap();
    let verdict = verdict(&bundle);
    assert_eq!(verdict["goroutines"]["groups"][0]["count"], 999_999, "the last one may be cut off");
}

#[test]
fn texts_without_line_ends_take_no_memory() {
    let bundle = bundle();
    for file in ["proc/smaps", "goroutine.txt", "memstats.txt"] {
        zeros(&bundle, file, 64 * MIB);
    }
    let verdict = verdict(&bundle);
    let missing = verdict["missing"].to_string();
    assert!(missing.contains("proc/smaps") && missing.contains("goroutine.txt") && missing.contains("memstats.txt"), "{missing}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_does_not_make_it_wait() {
    let bundle = bundle();
    let fifo = bundle.path().join("heap_gc.pb.gz");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert_eq!(problem(&bundle, "heap_gc.pb.gz"), "it is no regular file");
}
