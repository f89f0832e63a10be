//! A core file of a Go process tells what its memory told: cores that gcore and the kernel make, and those that leave out what others have.

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::http::get;
use common::numbers::differences;
use common::scenarios::named;
use common::{Build, GoVersion, Svc, copy_program, go_binary, go_program, run, wait_until};
use memtrap::goruntime::corefile::{CoreFile, Executable};
use memtrap::goruntime::evidence;
use memtrap::goruntime::image::Image;
use memtrap::goruntime::memory::LiveMemory;
use memtrap::goruntime::memory::{Memory, Reader};
use memtrap::goruntime::objects;
use memtrap::goruntime::variables::Variables;
use memtrap::goruntime::{Program, Runtime};
use memtrap::holders::Holders;
use memtrap::host::ProcFs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const WALK: u64 = 512 * MIB;

/// Several releases, stripped, position independent, and with cgo.
const BUILDS: [(GoVersion, Build); 6] = [
    (GoVersion::Oldest, Build::Plain),
    (GoVersion::Oldest, Build::Cgo),
    (GoVersion::Middle, Build::Stripped),
    (GoVersion::Newest, Build::Stripped),
    (GoVersion::Newest, Build::Pie),
    (GoVersion::Newest, Build::Cgo),
];

/// A service that keeps 32 MiB, at rest and stopped.
fn stopped(version: GoVersion, build: Build) -> Svc {
    let svc = Svc::start_in(Command::new(go_program(version, "svc", build)), &["-grow", "33554432"]);
    for _ in 0..2 {
        get(svc.address(), "/debug/pprof/heap?gc=1");
    }
    stop(&svc);
    svc
}

fn stop(svc: &Svc) {
    kill_process(Pid::from_raw(svc.pid() as i32).unwrap(), Signal::STOP).unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", svc.pid())).unwrap();
    wait_until(Duration::from_secs(10), "it is stopped", || stat().contains(") T "));
}

/// What goes into a core, as `coredump_filter` has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// 0x33, the default: what was written to, and of files no more than the page with the ELF header.
    Default,
    /// 0x3f: all of the files, too.
    Files,
    /// 0x23: no headers.
    NoHeaders,
}

struct Mapping {
    start: u64,
    end: u64,
    perms: String,
    offset: u64,
    inode: u64,
    path: String,
    /// Pages of its own: written to.
    is_anonymous: bool,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        if let Some((start, end)) = words[0].split_once('-') {
            let (start, end) = (hex(start), hex(end));
            let path = words.get(5..).unwrap_or_default().join(" ");
            mappings.push(Mapping {
                start,
                end,
                perms: words[1].into(),
                offset: hex(words[2]),
                inode: words[4].parse().unwrap(),
                path,
                is_anonymous: false,
            });
        } else if words[0] == "Anonymous:" {
            mappings.last_mut().unwrap().is_anonymous |= words[1] != "0";
        }
    }
    mappings
}

fn note(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut note: Vec<u8> = [5, body.len() as u32, kind].iter().flat_map(|word| word.to_le_bytes()).collect();
    note.extend(b"CORE\0\0\0\0");
    note.extend(body);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// Of a core of x86-64, with so many program headers behind it.
fn elf_header(programs: u64) -> Vec<u8> {
    let mut out: Vec<u8> = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for (value, len) in [(4u64, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (programs, 2), (0, 6)] {
        out.extend(&value.to_le_bytes()[..len]);
    }
    out
}

/// Place in the file, address, physical address, bytes in the file, bytes in memory, alignment.
fn program_header(kind: u32, flags: u32, words: [u64; 6]) -> Vec<u8> {
    [kind, flags].iter().flat_map(|word| word.to_le_bytes()).chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
}

/// Writes the core of a stopped process as the kernel would: sparse, with a segment for each mapping.
fn write_core(pid: u32, path: &Path, filter: Filter) {
    let mem = File::open(format!("/proc/{pid}/mem")).unwrap();
    let auxv = fs::read(format!("/proc/{pid}/auxv")).unwrap();
    let mappings: Vec<Mapping> = mappings(pid).into_iter().filter(|m| !m.path.starts_with("[v")).collect();
    let files: Vec<&Mapping> = mappings.iter().filter(|m| m.inode != 0).collect();
    let mut list: Vec<u64> = vec![files.len() as u64, PAGE];
    files.iter().for_each(|m| list.extend([m.start, m.end, m.offset / PAGE]));
    let mut list: Vec<u8> = list.iter().flat_map(|word| word.to_le_bytes()).collect();
    files.iter().for_each(|m| list.extend([m.path.as_bytes(), b"\0"].concat()));
    let notes = [note(1, &[0; 336]), note(6, &auxv), note(0x4649_4c45, &list)].concat();

    let stored = |m: &Mapping| match (m.inode, filter) {
        _ if m.is_anonymous => m.end - m.start,
        (0, _) => 0,
        (_, Filter::Files) => m.end - m.start,
        (_, Filter::Default) if m.offset == 0 => PAGE,
        _ => 0,
    };
    let mut out = elf_header(mappings.len() as u64 + 1);
    let notes_at = 64 + 56 * (mappings.len() as u64 + 1);
    let mut at = (notes_at + notes.len() as u64).next_multiple_of(PAGE);
    out.extend(program_header(4, 0, [notes_at, 0, 0, notes.len() as u64, 0, 1]));
    let mut places = Vec::new();
    for m in &mappings {
        let flag = |name, flag| if m.perms.contains(name) { flag } else { 0 };
        let flags = flag('r', 4) | flag('w', 2) | flag('x', 1);
        out.extend(program_header(1, flags, [at, m.start, 0, stored(m), m.end - m.start, PAGE]));
        places.push(at);
        at += stored(m);
    }
    out.extend(&notes);
    let file = File::create(path).unwrap();
    file.write_all_at(&out, 0).unwrap();
    file.set_len(at).unwrap();
    let mut page = vec![0; PAGE as usize];
    for (m, at) in mappings.iter().zip(places) {
        for within in (0..stored(m)).step_by(PAGE as usize) {
            if mem.read_exact_at(&mut page, m.start + within).is_ok() && page.iter().any(|byte| *byte != 0) {
                file.write_all_at(&page, at + within).unwrap();
            }
        }
    }
}

fn printed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that fails says; the code is that of a job that failed.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// The lines below the time, which is when the core was written.
fn table(text: &str) -> Vec<String> {
    text.lines().skip_while(|line| !line.starts_with("Showing")).map(str::to_owned).collect()
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn program_of(core: &Path, exe: &Path) -> Program<CoreFile> {
    let mut core = CoreFile::parse(Box::new(File::open(core).unwrap())).unwrap();
    let image = core.complete(Executable { file: File::open(exe).unwrap(), path: exe.to_owned() }).unwrap();
    Program::of_core(core, image).unwrap()
}

fn program_of_process(svc: &Svc) -> Program<LiveMemory> {
    Program::of_process(&ProcFs::host().dir(svc.pid()).unwrap()).unwrap()
}

#[test]
fn a_core_tells_what_the_stopped_process_tells() {
    let dir = tempfile::tempdir().unwrap();
    for (version, build) in BUILDS {
        let svc = stopped(version, build);
        let core = dir.path().join("core");
        write_core(svc.pid(), &core, Filter::Default);
        let live = program_of_process(&svc);
        let dead = program_of(&core, &go_program(version, "svc", build));
        let [live_read, dead_read] =
            [live.evidence(None, SystemTime::UNIX_EPOCH), dead.evidence(None, SystemTime::UNIX_EPOCH)].map(Result::unwrap);
        assert_eq!(live_read.go_version, format!("go{}", version.number()));
        assert_eq!((dead_read.go_version, dead_read.parts.len()), (live_read.go_version, 5));
        for ((part, of_live), (_, of_dead)) in live_read.parts.iter().zip(&dead_read.parts) {
            let (of_live, of_dead) = (of_live.as_ref().unwrap(), of_dead.as_ref().unwrap());
            assert!(of_live == of_dead, "{version:?} {build:?} {part:?}: {} and {} bytes", of_live.len(), of_dead.len());
        }
        let (of_live, of_dead) = (live.holders(WALK).unwrap(), dead.holders(WALK).unwrap());
        assert_eq!(of_live, of_dead, "{version:?} {build:?}");
        assert!(of_dead.holders[0].retained_bytes > 32 * MIB, "{}", of_dead.text(3));

        // as commands, without being told where the executable is
        let pid = svc.pid().to_string();
        for index in ["inuse_space", "alloc_objects"] {
            let args = ["-i", index, "-n", "20"];
            let live = printed(&[&["top", "--pid", &pid], &args[..]].concat());
            assert_eq!(table(&printed(&[&["top", str(&core)], &args[..]].concat())), table(&live), "{version:?} {build:?} {index}");
        }
        assert_eq!(printed(&["holders", str(&core)]), printed(&["holders", "--pid", &pid]), "{version:?} {build:?}");
    }
}

#[test]
fn a_core_that_has_all_of_the_program_needs_no_executable() {
    let dir = tempfile::tempdir().unwrap();
    for (version, build) in [(GoVersion::Oldest, Build::Plain), (GoVersion::Newest, Build::Pie), (GoVersion::Newest, Build::Cgo)] {
        let exe = dir.path().join("svc");
        copy_program(go_program(version, "svc", build), &exe);
        let svc = Svc::start_in(Command::new(&exe), &["-grow", "33554432"]);
        get(svc.address(), "/debug/pprof/heap?gc=1");
        stop(&svc);
        let (all, some) = (dir.path().join("all"), dir.path().join("some"));
        write_core(svc.pid(), &all, Filter::Files);
        write_core(svc.pid(), &some, Filter::NoHeaders);
        let live = printed(&["top", "--pid", &svc.pid().to_string()]);
        drop(svc);
        assert_eq!(table(&printed(&["top", str(&some)])), table(&live), "{version:?} {build:?}");
        fs::remove_file(&exe).unwrap();
        assert_eq!(table(&printed(&["top", str(&all)])), table(&live), "{version:?} {build:?}");
        let holders = printed(&["holders", str(&all)]);
        assert!(holders.contains(" ×32"), "{holders}");
        let said = refused(&["top", str(&some)]);
        assert!(said.contains("name its executable with --exe") && said.contains("No such file"), "{said}");
        assert_eq!(table(&printed(&["top", str(&some), "--exe", str(&go_program(version, "svc", build))])), table(&live));
    }
}

#[test]
fn another_program_or_another_build_of_it_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let svc = stopped(GoVersion::Newest, Build::Stripped);
    let core = dir.path().join("core");
    for filter in [Filter::Default, Filter::NoHeaders] {
        write_core(svc.pid(), &core, filter);
        for (version, build) in [(GoVersion::Newest, Build::Plain), (GoVersion::Oldest, Build::Stripped), (GoVersion::Newest, Build::Pie)] {
            let said = refused(&["top", str(&core), "--exe", str(&go_program(version, "svc", build))]);
            assert!(said.contains("is another program than the core is of, or another build of it"), "{version:?} {build:?}: {said}");
        }
        let said = refused(&["holders", str(&core), "--exe", "/bin/sh"]);
        assert!(said.contains("it is no Go program"), "{said}");
        let said = refused(&["top", str(&core), "--exe", "/nowhere/svc"]);
        assert!(said.contains("/nowhere/svc cannot be read: No such file"), "{said}");
        let said = refused(&["top", str(&core), "--exe", str(dir.path())]);
        assert!(said.contains("it is no file"), "{said}");
    }
}

fn verdict(args: &[&str]) -> Value {
    serde_json::from_str(&printed(&[&["analyze", "--format", "json"], args].concat())).unwrap()
}

/// What every verdict of a core keeps to.
fn assert_claims_no_rss(verdict: &Value) {
    let sum: i64 = verdict["anatomy"].as_array().unwrap().iter().map(|line| line["bytes"].as_i64().unwrap()).sum();
    assert_eq!((verdict["core_bytes"].as_i64(), verdict["rss_bytes"].as_i64()), (Some(sum), Some(0)), "{verdict:#}");
    assert!(!verdict["summary"].to_string().contains("RSS") && !verdict["evidence"].to_string().contains("RSS"), "{verdict:#}");
    assert!(verdict["confidence"] != "high" && verdict["missing"].to_string().contains("a core file does not tell the RSS"), "{verdict:#}");
}

#[test]
fn the_verdict_of_a_core_is_about_what_the_core_holds() {
    let dir = tempfile::tempdir().unwrap();
    let core = dir.path().join("core");
    for (version, build) in [(GoVersion::Oldest, Build::Plain), (GoVersion::Newest, Build::Pie)] {
        let svc = stopped(version, build);
        write_core(svc.pid(), &core, Filter::Default);
        let verdict = verdict(&[str(&core)]);
        assert_claims_no_rss(&verdict);
        for (key, value) in [("cause", "live_heap"), ("go_heap_explains", "yes"), ("confidence", "medium")] {
            assert_eq!(verdict[key], value, "{verdict:#}");
        }
        let held = verdict["core_bytes"].as_u64().unwrap();
        assert!((33 * MIB..50 * MIB).contains(&held), "{held}");
        let summary = verdict["summary"].as_str().unwrap();
        assert!(summary.starts_with("The core file holds ") && summary.contains("; main.held holds 32.0MiB"), "{summary}");
        assert_eq!(verdict["top"]["inuse_space"][0]["function"], "main.(*hoard).retain");
        let live = program_of_process(&svc).evidence(None, SystemTime::UNIX_EPOCH).unwrap();
        let text = live.parts.iter().find(|(part, _)| part.file() == "goroutine.txt").unwrap().1.clone().unwrap();
        let total = String::from_utf8(text).unwrap().lines().next().unwrap().rsplit(' ').next().unwrap().to_owned();
        assert_eq!(verdict["goroutines"]["total"].to_string(), total);
        assert_eq!(differences(&verdict, &self::verdict(&[str(&core), "--lang", "zh"])), [""; 0]);

        // what it says to run next runs
        let next: Vec<&str> = verdict["next"].as_array().unwrap().iter().map(|command| command.as_str().unwrap()).collect();
        assert!(next.len() == 4 && next[0].starts_with("memtrap holders '/"), "{next:?}");
        for command in next {
            let command = command.replacen("memtrap", env!("CARGO_BIN_EXE_memtrap"), 1);
            let done = Command::new("sh").args(["-c", &command]).output().unwrap();
            assert!(done.status.success() && !done.stdout.is_empty(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        }
        let page = printed(&["analyze", str(&core), "--format", "html"]);
        assert!(page.contains("Yes: the Go heap explains what the core file holds") && page.contains("Who holds it"));
        let text = printed(&["analyze", str(&core)]);
        assert!(text.contains("does the Go heap explain what the core file holds?  yes"), "{text}");
    }
    let exe = go_program(GoVersion::Newest, "svc", Build::Pie);
    let next = verdict(&[str(&core), "--exe", str(&exe)])["next"].to_string();
    assert!(next.matches(&format!(" --exe '{}'", str(&exe))).count() == 4, "{next}");
    let based = run(&["analyze", str(&core), "--base", str(dir.path())]);
    assert!(based.status.code() == Some(2) && String::from_utf8_lossy(&based.stderr).contains("is a core file: --base compares bundles"));
}

#[test]
fn the_cause_is_found_in_a_core_as_it_is_in_a_process() {
    let scenarios = [
        ("heap_few_big", GoVersion::Newest),
        ("heap_small_objects", GoVersion::Oldest),
        ("goroutine_chan", GoVersion::Newest),
        ("unreleased", GoVersion::Newest),
        ("mmap_anon", GoVersion::Oldest),
        ("cgo_malloc", GoVersion::Newest),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, version) in scenarios {
        let scenario = named(name);
        let svc = scenario.start(version, 96);
        stop(&svc);
        let core = dir.path().join("core");
        write_core(svc.pid(), &core, Filter::Default);
        let verdict = verdict(&[str(&core)]);
        assert_claims_no_rss(&verdict);
        let answers = scenario.answers(false);
        let (cause, explains) = (verdict["cause"].as_str().unwrap(), verdict["go_heap_explains"].as_str().unwrap());
        assert!(answers.causes.contains(&cause) && answers.go_heap_explains.contains(&explains), "{name}: {verdict:#}");
    }
}

#[test]
fn what_gcore_writes_is_read() {
    if Command::new("gcore").output().is_err() {
        println!("not checked: gcore (of gdb) is not here");
        return;
    }
    for (version, build) in [(GoVersion::Oldest, Build::Plain), (GoVersion::Newest, Build::Pie)] {
        let dir = tempfile::tempdir().unwrap();
        let svc = stopped(version, build);
        let pid = svc.pid().to_string();
        let live = printed(&["top", "--pid", &pid]);
        let holders = program_of_process(&svc).holders(WALK).unwrap();
        let made = Command::new("gcore").args(["-o", str(&dir.path().join("core")), &pid]).output().unwrap();
        let core = dir.path().join(format!("core.{pid}"));
        assert!(core.exists(), "{}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(table(&printed(&["top", str(&core)])), table(&live), "{version:?} {build:?}");
        let of_core = program_of(&core, &go_program(version, "svc", build)).holders(WALK).unwrap();
        assert_eq!(of_core.holders[0], holders.holders[0], "{version:?} {build:?}");
        // it writes all that is reserved as zeros, some GiB
        let verdict = verdict(&[str(&core)]);
        assert_claims_no_rss(&verdict);
        assert!(verdict["cause"] == "live_heap" && verdict["core_bytes"].as_u64().unwrap() < 60 * MIB, "{verdict:#}");
    }
}

#[test]
fn what_the_kernel_writes_of_an_aborted_program_is_read() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/', '@']) {
        println!("not checked: core_pattern is {pattern}");
        return;
    }
    for (version, build) in [(GoVersion::Oldest, Build::Pie), (GoVersion::Newest, Build::Stripped)] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\" 2>/dev/null"]).arg(go_program(version, "svc", build));
        command.env("GOTRACEBACK", "crash").current_dir(dir.path());
        let svc = Svc::start_in(command, &["-grow", "33554432"]);
        for _ in 0..2 {
            get(svc.address(), "/debug/pprof/heap?gc=1");
        }
        let live = printed(&["top", "--pid", &svc.pid().to_string(), "-n", "3"]);
        kill_process(Pid::from_raw(svc.pid() as i32).unwrap(), Signal::ABORT).unwrap();
        let core = || fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).find(|p| str(p).contains("core"));
        wait_until(Duration::from_secs(60), "the process is gone and its core written", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", svc.pid())).unwrap_or_default();
            core().is_some() && (stat.is_empty() || stat.contains(") Z "))
        });
        let core = core().unwrap();
        assert_eq!(table(&printed(&["top", str(&core), "-n", "3"])), table(&live), "{version:?} {build:?}");
        let holders = printed(&["holders", str(&core), "-n", "1"]);
        assert!(holders.contains("MiB") && holders.contains(" ×32"), "{holders}");
        let verdict = verdict(&[str(&core)]);
        assert_claims_no_rss(&verdict);
        assert!(verdict["cause"] == "live_heap" && verdict["core_bytes"].as_u64().unwrap() < 60 * MIB, "{verdict:#}");
    }
}

/// A small core to be damaged.
fn small_core(dir: &Path) -> (PathBuf, Vec<u8>) {
    let svc = stopped(GoVersion::Newest, Build::Stripped);
    let core = dir.join("core");
    write_core(svc.pid(), &core, Filter::Default);
    let bytes = fs::read(&core).unwrap();
    (core, bytes)
}

#[test]
fn what_is_no_core_or_no_whole_one_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (core, whole) = small_core(dir.path());
    let says = |bytes: &[u8], words: &str| {
        fs::write(&core, bytes).unwrap();
        for command in ["top", "holders", "analyze"] {
            let said = refused(&[command, str(&core)]);
            assert!(said.contains(words) && said.contains(str(&core)), "{command}: {words}: {said}");
        }
    };
    let changed = |changes: &[(usize, &[u8])]| {
        let mut bytes = whole.clone();
        changes.iter().for_each(|(at, with)| bytes[*at..at + with.len()].copy_from_slice(with));
        bytes
    };
    says(&whole[..whole.len() / 2], "it is cut off: it has");
    says(&whole[..whole.len() / 2], "ulimit -c");
    says(&whole[..100], "it is cut off");
    says(&whole[..20], "it ends within its header");
    says(&changed(&[(4, b"\x01"), (18, b"\x03")]), "it is of a process for i386");
    says(&changed(&[(18, b"\xb7")]), "it is of a process for arm64");
    says(&changed(&[(16, b"\x02")]), "it is an executable or a library, no core file");
    says(&changed(&[(16, b"\x01")]), "it is an object file");
    // 64 KiB of program headers, of which there are not so many; and as many as a section says, which is not there
    says(&changed(&[(56, b"\xfe\xff")]), "a damaged core file");
    says(&changed(&[(56, b"\xff\xff")]), "how many segments it has is not in it");
    // the address of the second segment is that of the third, or lies at the end of all memory
    let third = whole[64 + 56 * 2 + 16..][..8].to_vec();
    says(&changed(&[(64 + 56 + 16, &third)]), "overlap");
    says(&changed(&[(64 + 56 + 16, &[0xff; 8])]), "lies beyond the end of memory");
    // all that is said to be stored is none, and then more than any file has
    let each = |with: &[u8]| {
        let mut bytes = whole.clone();
        let count = u16::from_le_bytes([whole[56], whole[57]]) as usize;
        (1..count).for_each(|n| bytes[64 + 56 * n + 32..][..8].copy_from_slice(with));
        bytes
    };
    says(&each(&[0; 8]), "it holds no memory");
    says(&each(&[0xff; 8]), "lies beyond the end of all files");
    says(&each(&(1u64 << 40).to_le_bytes()), "it is cut off: it has");
    for (magic, how) in [(&b"\x28\xb5\x2f\xfd"[..], "zstd -d"), (b"\xfd7zXZ\0", "xz -dk"), (b"\x04\x22\x4d\x18", "lz4 -d")] {
        says(&[magic, &[0; 100]].concat(), how);
    }
    let said = run(&["top", "/bin/sh"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("no core file: name the core"));
}

#[test]
fn a_core_of_another_program_than_one_of_go_is_said_to_be_none() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let core = dir.path().join("core");
    wait_until(Duration::from_secs(10), "it has begun", || {
        fs::read_link(format!("/proc/{}/exe", child.id())).is_ok_and(|exe| !exe.ends_with("cores"))
            && fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains("(sleep) S")
    });
    write_core(child.id(), &core, Filter::Files);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = refused(&["top", str(&core)]);
    assert!(said.contains("it is no Go program"), "{said}");
}

#[test]
fn exe_without_a_core_is_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pb.gz");
    fs::write(&path, "").unwrap();
    for command in ["top", "holders", "analyze"] {
        let output = run(&[command, str(&path), "--exe", "/bin/sh"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("no core file: --exe goes with one"), "{said}");
    }
}

/// Notes which pages are looked at.
struct Noting {
    core: CoreFile,
    pages: RefCell<BTreeSet<u64>>,
}

impl Memory for Noting {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let read = self.core.read(address, buf);
        if read {
            let last = address + buf.len().max(1) as u64 - 1;
            self.pages.borrow_mut().extend((address / PAGE..=last / PAGE).map(|page| page * PAGE));
        }
        read
    }
}

type Told<T> = Result<T, String>;

/// All that can be told of a program in memory; the reason where something is refused.
fn told(memory: &dyn Memory, image: &Image) -> (Vec<Told<Vec<u8>>>, Told<Holders>) {
    let parts = evidence::read(memory, image, None, SystemTime::UNIX_EPOCH).map(|read| read.parts);
    let parts = parts.unwrap_or_default().into_iter().map(|(_, body)| body.map_err(|why| why.to_string())).collect();
    let reader = Reader::new(memory);
    let holders = Runtime::find(&reader, image).and_then(|runtime| {
        let variables = Variables::of_code(&runtime, &runtime.functions()?)?;
        objects::holders(&runtime, variables, None, 64 * MIB)
    });
    (parts, holders.map_err(|why| why.to_string()))
}

/// Address, flags and bytes.
type Page = (u64, u32, Vec<u8>);

/// A core of these pages alone, with their flags; paths and all that the notes say besides are left out.
fn core_of_pages(pages: &[Page], notes: &[u8]) -> Vec<u8> {
    let mut runs: Vec<Page> = Vec::new();
    for (start, flags, bytes) in pages {
        match runs.last_mut() {
            Some((first, of, all)) if *first + all.len() as u64 == *start && of == flags => all.extend(bytes),
            _ => runs.push((*start, *flags, bytes.clone())),
        }
    }
    let mut out = elf_header(runs.len() as u64 + 1);
    let notes_at = 64 + 56 * (runs.len() as u64 + 1);
    out.extend(program_header(4, 0, [notes_at, 0, 0, notes.len() as u64, 0, 1]));
    let mut at = notes_at + notes.len() as u64;
    for (start, flags, bytes) in &runs {
        let len = bytes.len() as u64;
        out.extend(program_header(1, *flags, [at, *start, 0, len, len, PAGE]));
        at += len;
    }
    out.extend(notes);
    runs.iter().for_each(|(_, _, bytes)| out.extend(bytes));
    out
}

#[test]
#[ignore = "writes fuzz/seeds/tiny.core.gz, which the fuzz target goruntime begins with"]
fn the_seed_of_the_fuzz_target_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("tiny");
    let built = Command::new(go_binary(GoVersion::Newest))
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(&exe), "."])
        .envs([("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")])
        .current_dir(common::repo().join("tests/go/tiny"))
        .status();
    assert!(built.unwrap().success());
    let mut child = Command::new(&exe).env_clear().stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "READY\n");
    let pid = child.id();
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::STOP).unwrap();
    let path = dir.path().join("core");
    write_core(pid, &path, Filter::Files);
    let mappings = mappings(pid);
    let auxv = fs::read(format!("/proc/{pid}/auxv")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    let core = CoreFile::parse(Box::new(fs::read(&path).unwrap())).unwrap();
    let image = core.image().unwrap();
    let noting = Noting { core, pages: RefCell::default() };
    let (parts, holders) = told(&noting, &image);
    assert!(parts.len() == 5 && parts.iter().all(Result::is_ok) && holders.is_ok(), "{parts:?} {holders:?}");
    // what the image is found by: the headers, and the build info at the beginning of the data
    let of_exe: Vec<&Mapping> = mappings.iter().filter(|m| m.path == str(&exe)).collect();
    noting.pages.borrow_mut().extend(of_exe.iter().map(|m| m.start));
    let list: Vec<u8> = [of_exe.len() as u64, PAGE]
        .into_iter()
        .chain(of_exe.iter().flat_map(|m| [m.start, m.end, m.offset / PAGE]))
        .flat_map(u64::to_le_bytes)
        .chain(of_exe.iter().flat_map(|_| *b"/tiny\0"))
        .collect();
    let notes = [note(1, &[0; 336]), note(6, &auxv), note(0x4649_4c45, &list)].concat();
    let mut pages: Vec<Page> = noting
        .pages
        .borrow()
        .iter()
        .filter_map(|page| {
            let mapping = mappings.iter().find(|m| (m.start..m.end).contains(page))?;
            let flag = |name, flag| if mapping.perms.contains(name) { flag } else { 0 };
            let mut bytes = vec![0; PAGE as usize];
            noting.core.read(*page, &mut bytes).then_some((*page, flag('r', 4) | flag('w', 2) | flag('x', 1), bytes))
        })
        .collect();
    let tells = |pages: &[Page]| {
        let core = CoreFile::parse(Box::new(core_of_pages(pages, &notes))).ok()?;
        let image = core.image().ok()?;
        Some(told(&core, &image))
    };
    let whole = tells(&pages).expect("the pages that were read tell the same");
    assert_eq!(whole, (parts, holders));
    // code that tells nothing is filled with int3, and all else with zeros, as long as the same is told
    let mut todo: Vec<(usize, usize)> = (0..pages.len()).step_by(32).map(|from| (from, (from + 32).min(pages.len()))).collect();
    while let Some((from, to)) = todo.pop() {
        let kept: Vec<Vec<u8>> = pages[from..to].iter().map(|(_, _, bytes)| bytes.clone()).collect();
        pages[from..to].iter_mut().for_each(|(_, flags, bytes)| bytes.fill(if *flags & 1 == 1 { 0xcc } else { 0 }));
        if tells(&pages).as_ref() != Some(&whole) {
            pages[from..to].iter_mut().zip(kept).for_each(|(page, bytes)| page.2 = bytes);
            let middle = (from + to) / 2;
            if to - from > 1 {
                todo.extend([(from, middle), (middle, to)]);
            }
        }
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&core_of_pages(&pages, &notes)).unwrap();
    let gzipped = gzip.finish().unwrap();
    println!("{} pages, {} bytes", pages.len(), gzipped.len());
    assert!(gzipped.len() < 300 << 10, "{} bytes", gzipped.len());
    let seeds = common::repo().join("fuzz/seeds");
    fs::create_dir_all(&seeds).unwrap();
    fs::write(seeds.join("tiny.core.gz"), gzipped).unwrap();
}
