//! What is read out of a Go process's memory is what its pprof endpoint says; a process that lies is refused.

mod common;

use std::cell::Cell;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::process::{Command, Stdio};

use common::http::get;
use common::{Build, GoVersion, Svc, go_program, repo, run};
use memtrap::anatomy::memstats::parse;
use memtrap::goruntime::heap::{self, AsOf};
use memtrap::goruntime::image::Image;
use memtrap::goruntime::layout::Layout;
use memtrap::goruntime::memory::{Memory, Reader};
use memtrap::goruntime::memstats::MemStats;
use memtrap::goruntime::{Runtime, memory_of};
use memtrap::target::ProcFs;

const BUILDS: [Build; 4] = [Build::Plain, Build::Stripped, Build::Pie, Build::Cgo];
const MIB: u64 = 1 << 20;

/// A service at rest, with 64 MiB that it keeps, whose last collection is over.
fn at_rest(version: GoVersion, build: Build) -> Svc {
    let svc = Svc::start_in(Command::new(go_program(version, "svc", build)), &["-grow", "67108864"]);
    // what is in use is as of the last collection, and counted two cycles later
    for _ in 0..2 {
        get(svc.address(), "/debug/pprof/heap?gc=1");
    }
    svc
}

fn printed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn top_of_a_process_is_top_of_its_heap_profile() {
    for (version, build) in GoVersion::BOTH.into_iter().flat_map(|v| BUILDS.map(|b| (v, b))) {
        let svc = at_rest(version, build);
        let dir = tempfile::tempdir().unwrap();
        let served = dir.path().join("heap.pb.gz");
        fs::write(&served, get(svc.address(), "/debug/pprof/heap").body).unwrap();
        for index in ["inuse_space", "inuse_objects"] {
            let read = printed(&["top", "--pid", &svc.pid().to_string(), "-i", index]);
            let asked = printed(&["top", served.to_str().unwrap(), "-i", index]);
            let table = |text: &str| text.lines().skip_while(|line| !line.starts_with("Showing")).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(table(&read), table(&asked), "{version:?} {build:?} {index}");
            assert!(read.contains("main."), "{read}");
        }
    }
}

#[test]
fn memstats_of_a_process_are_those_that_it_tells() {
    for (version, build) in GoVersion::BOTH.into_iter().flat_map(|v| BUILDS.map(|b| (v, b))) {
        let svc = at_rest(version, build);
        let process = ProcFs::host().dir(svc.pid()).unwrap();
        let memory = memory_of(&process).unwrap();
        let reader = Reader::new(&memory);
        let runtime = Runtime::find(&reader, &Image::of(&process).unwrap()).unwrap();
        let told = parse(BufReader::new(&*get(svc.address(), "/debug/pprof/heap?debug=1").body)).unwrap().unwrap();
        let read = parse(BufReader::new(MemStats::read(&runtime).unwrap().to_string().as_bytes())).unwrap().unwrap();
        // the request itself allocates, and its buffers come from spans that were free before
        let pairs = [
            ("HeapAlloc", read.heap_alloc, told.heap_alloc),
            ("HeapInuse", read.heap_inuse, told.heap_inuse),
            ("HeapIdle", read.heap_idle, told.heap_idle),
            ("HeapReleased", read.heap_released, told.heap_released),
            ("HeapSys", read.heap_sys, told.heap_sys),
            ("StackInuse", read.stack_inuse, told.stack_inuse),
            ("metadata", read.metadata(), told.metadata()),
            ("NextGC", read.next_gc.unwrap(), told.next_gc.unwrap()),
        ];
        for (name, read, told) in pairs {
            assert!(read.abs_diff(told) <= MIB, "{version:?} {build:?} {name}: read {read}, told {told}");
        }
        assert_eq!((read.num_gc, read.num_forced_gc), (told.num_gc, told.num_forced_gc), "{version:?} {build:?}");
        assert!(reader.bytes() < 64 * MIB, "{} bytes were read", reader.bytes());
    }
}

#[test]
fn a_program_without_a_heap_profile_is_told_so() {
    for version in GoVersion::BOTH {
        // it waits for questions, and links nothing that profiles
        let mut program = Command::new(go_program(version, "layouts", Build::Plain));
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // an answer means that its runtime has come up
        let mut questions = child.stdin.take().unwrap();
        writeln!(questions, "runtime.g\t(size)").unwrap();
        let mut answer = [0];
        child.stdout.take().unwrap().read_exact(&mut answer).unwrap();
        let output = run(&["top", "--pid", &child.id().to_string()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        drop(questions);
        child.wait().unwrap();
        assert_eq!(output.status.code(), Some(1), "{version:?}: {said}");
        assert!(said.contains("keeps no heap profile"), "{version:?}: {said}");
    }
}

#[test]
fn what_is_no_go_process_is_refused_with_the_reason() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let output = run(&["top", "--pid", &child.id().to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("not a Go executable"), "{said}");
}

#[test]
fn the_table_of_layouts_is_what_the_toolchains_say() {
    let table = fs::read_to_string(repo().join("src/goruntime/layouts.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    let asked: String = rows[1..].iter().map(|row| format!("{}\t{}\n", row[0], row[1])).collect();
    for version in GoVersion::BOTH {
        let minor = version.number().split('.').nth(1).unwrap();
        let column = rows[0].iter().position(|head| *head == minor).expect("a column for each toolchain");
        let mut child =
            Command::new(go_program(version, "layouts", Build::Plain)).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
        let answer = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let expected: String = rows[1..].iter().map(|row| format!("{}\t{}\t{}\n", row[0], row[1], row[column])).collect();
        assert_eq!(answer, expected, "{version:?}: run scripts/go-layouts");
    }
}

/// Memory of a real process in which every so many words is another.
struct Liar<'m> {
    truth: &'m dyn Memory,
    one_in: u64,
    state: Cell<u64>,
}

impl Liar<'_> {
    fn random(&self) -> u64 {
        // xorshift
        let mut x = self.state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.state.set(x);
        x
    }
}

impl Memory for Liar<'_> {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let read = self.truth.read(address, buf);
        for word in buf.chunks_mut(8) {
            if self.random().is_multiple_of(self.one_in) {
                let lie = match self.random() % 4 {
                    0 => 0,
                    1 => u64::MAX,
                    // an address that is somewhere
                    2 => 0xc0_0000_0000 + self.random() % (64 * MIB),
                    _ => self.random(),
                };
                word.iter_mut().zip(lie.to_le_bytes()).for_each(|(to, from)| *to = from);
            }
        }
        read
    }
}

#[test]
fn a_process_that_forges_its_runtime_costs_bounded_reads_and_no_panic() {
    let svc = at_rest(GoVersion::Newest, Build::Stripped);
    let process = ProcFs::host().dir(svc.pid()).unwrap();
    let truth = memory_of(&process).unwrap();
    let image = Image::of(&process).unwrap();
    let honest = Reader::new(&truth);
    let runtime = Runtime::find(&honest, &image).unwrap();
    let mut refused = 0;
    for seed in 1..=60u64 {
        let one_in = [20, 200, 2_000, 200_000][seed as usize % 4];
        let liar = Liar { truth: &truth, one_in, state: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) };
        let reader = Reader::new(&liar);
        refused += usize::from(Runtime::find(&reader, &image).is_err());
        assert!(reader.bytes() < 2 << 30);
        // what was found honestly, read by a liar
        let reader = Reader::new(&liar);
        let forged = Runtime {
            memory: &reader,
            layout: Layout::of(&image.go_version).unwrap(),
            module: runtime.module.clone(),
            globals: runtime.globals,
        };
        refused += usize::from(MemStats::read(&forged).is_err());
        refused += usize::from(heap::profile(&forged, AsOf::Now, 0).is_err());
        assert!(reader.bytes() < 2 << 30);
    }
    assert!(refused > 60, "only {refused} of 180 were refused: the lies are not seen");
}
