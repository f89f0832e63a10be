//! What is read out of a Go process's memory is what its pprof endpoint says; a process that lies is refused.

mod common;

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::process::{Command, Stdio};

use common::http::get;
use common::outside::{cut_as, serves, stacks};
use common::{Build, GoVersion, Svc, go_binary, go_program, repo, run};
use memtrap::anatomy::memstats::parse;
use memtrap::clock::{Mono, wall_now};
use memtrap::goruntime::goroutine_files;
use memtrap::goruntime::goroutines::Goroutines;
use memtrap::goruntime::heap;
use memtrap::goruntime::image::Image;
use memtrap::goruntime::layout::Layout;
use memtrap::goruntime::memory::{Memory, Reader};
use memtrap::goruntime::memstats::MemStats;
use memtrap::goruntime::objects;
use memtrap::goruntime::variables::Variables;
use memtrap::goruntime::{Runtime, heap_of, memory_of};
use memtrap::host::ProcFs;
use memtrap::pprof::{Limits, Profile, goroutine, top};

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
            // of objects, one small one in the sample stands for thousands
            assert!(index != "inuse_space" || read.contains("main."), "{read}");
        }
    }
}

#[test]
fn the_first_collections_show_what_pprof_shows_after_them() {
    for version in GoVersion::BOTH {
        // none comes between the two readings
        let mut command = Command::new(go_program(version, "svc", Build::Stripped));
        command.env("GOGC", "off");
        let svc = Svc::start_in(command, &["-grow", "67108864"]);
        for forced in 0..4 {
            // memory first: asking pprof moves the counts of a cycle that is over
            let read = heap_of(&ProcFs::host().dir(svc.pid()).unwrap(), wall_now()).unwrap();
            let told = in_use_of_main(&get(svc.address(), "/debug/pprof/heap").body);
            assert_eq!(in_use_of_main(&read.gzipped), told, "{version:?}, {forced} forced collections");
            assert_eq!(read.is_before_collection, forced == 0, "{version:?}, {forced} forced collections");
            // sampled: one object of 1 MiB in seven is not in it, and the others count for it
            assert!(told >= 48 * MIB as i64, "{told}");
            svc.tell("gc");
        }
    }
}

/// Bytes in use that were allocated by the program's own functions.
fn in_use_of_main(gzipped: &[u8]) -> i64 {
    let profile = Profile::parse(gzipped, &Limits::default()).unwrap();
    let options = top::Options { sample_index: Some("inuse_space".into()), node_fraction: 0.0, ..top::Options::default() };
    let table = top::rows(&profile, &options).unwrap();
    table.rows.iter().filter(|row| row.name.starts_with("main.")).map(|row| row.flat).sum()
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

/// Without those that run, each time in another place.
fn standing(dump: &goroutine::Dump) -> BTreeMap<Vec<String>, u64> {
    stacks(dump, |call| call.contains("main.spin"))
}

fn goroutines_of(svc: &Svc) -> (goroutine::Dump, Vec<u8>, String) {
    let process = ProcFs::host().dir(svc.pid()).unwrap();
    let memory = memory_of(&process).unwrap();
    let reader = Reader::new(&memory);
    let runtime = Runtime::find(&reader, &Image::of(&process).unwrap()).unwrap();
    let read = Goroutines::read(&runtime, Some(Mono::now().as_nanos())).unwrap();
    let text = goroutine_files::text(&runtime, &read).unwrap();
    let profile = goroutine_files::profile(&runtime, &read, 1).unwrap();
    (goroutine::parse(text.as_bytes(), &goroutine::Limits::default()).unwrap(), profile, text)
}

#[test]
fn goroutines_of_a_process_are_those_that_it_tells() {
    for (version, build) in GoVersion::BOTH.into_iter().flat_map(|v| BUILDS.map(|b| (v, b))) {
        let svc = Svc::start_in(Command::new(go_program(version, "shapes", build)), &[]);
        let told = get(svc.address(), "/debug/pprof/goroutine?debug=1").body;
        let told = standing(&goroutine::parse(&*told, &goroutine::Limits::default()).unwrap());
        let (dump, profile, text) = goroutines_of(&svc);
        let read = cut_as(&told, &standing(&dump));
        assert!(told.len() >= 25, "{told:?}");
        if read != told {
            let lacking: Vec<_> = told.iter().filter(|(stack, n)| read.get(*stack) != Some(n)).collect();
            let beyond: Vec<_> = read.iter().filter(|(stack, n)| told.get(*stack) != Some(n)).collect();
            panic!("{version:?} {build:?}: told {lacking:#?}\nread {beyond:#?}");
        }
        assert!(!dump.truncated && dump.others == 0, "{text}");

        // as a profile, too
        let profile = Profile::parse(&profile, &Limits::default()).unwrap();
        assert_eq!(profile.samples().map(|sample| sample.values[0]).sum::<i64>(), dump.total as i64);

        // states, waits and creators, which only debug=2 tells
        let told = get(svc.address(), "/debug/pprof/goroutine?debug=2").body;
        let told = goroutine::parse(&*told, &goroutine::Limits::default()).unwrap();
        let states = |dump: &goroutine::Dump| {
            let mut states: BTreeMap<String, u64> = BTreeMap::new();
            for group in dump.groups.iter().filter(|g| !dump.stack(g).any(|f| serves(&f.function))) {
                group.states.iter().for_each(|(state, n)| *states.entry(state.clone()).or_default() += n);
            }
            states
        };
        let own = |states: BTreeMap<String, u64>| states.into_iter().filter(|(state, _)| state != "running").collect::<BTreeMap<_, _>>();
        assert_eq!(own(states(&dump)), own(states(&told)), "{version:?} {build:?}");
        let locked = |dump: &goroutine::Dump| dump.groups.iter().map(|g| g.locked_to_thread).sum::<u64>();
        assert_eq!(locked(&dump), locked(&told), "{version:?} {build:?}");
        let by = |dump: &goroutine::Dump| {
            let of = dump.groups.iter().filter(|g| dump.created_by(g).is_some_and(|f| f.function.starts_with("main.")));
            of.map(|g| g.count).sum::<u64>()
        };
        assert_eq!(by(&dump), by(&told), "{version:?} {build:?}");
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

#[test]
fn the_table_of_wait_reasons_is_what_the_toolchains_say() {
    let table = fs::read_to_string(repo().join("src/goruntime/waitreasons.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    for version in GoVersion::ALL {
        go_binary(version);
        let minor = version.number().split('.').nth(1).unwrap();
        let column = rows[0].iter().position(|head| *head == minor).expect("a column for each toolchain");
        let output = Command::new(repo().join("scripts/go-wait-reasons")).arg(version.number()).output().unwrap();
        let mut reasons: Vec<&str> = rows.iter().map(|row| row[column]).collect();
        reasons.truncate(reasons.iter().rposition(|reason| !reason.is_empty()).unwrap() + 1);
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), reasons, "{version:?}");
    }
}

/// What is told of a process if it is taken for one of this Go: the in-use bytes of its own functions, MemStats, and its stacks.
fn read_as(svc: &Svc, go_version: &str) -> [Result<String, String>; 3] {
    let process = ProcFs::host().dir(svc.pid()).unwrap();
    let memory = memory_of(&process).unwrap();
    let reader = Reader::new(&memory);
    let image = Image { go_version: go_version.into(), ..Image::of(&process).unwrap() };
    let runtime = match Runtime::find(&reader, &image) {
        Ok(runtime) => runtime,
        Err(why) => return [(); 3].map(|()| Err(why.to_string())),
    };
    let heap = heap::profile(&runtime, 1).map(|read| in_use_of_main(&read.gzipped).to_string());
    let stats = MemStats::read(&runtime).map(|read| format!("{} {} {}", read.heap_inuse >> 20, read.heap_alloc >> 20, read.num_gc));
    // the words for states, and which wrappers are shown, are each release's own
    let stacks = |text: String| text.lines().filter(|line| line.contains(" @ ")).collect::<Vec<_>>().join("\n");
    let goroutines = Goroutines::read(&runtime, None).and_then(|read| goroutine_files::text(&runtime, &read)).map(stacks);
    [heap, stats, goroutines].map(|read| read.map_err(|why| why.to_string()))
}

#[test]
fn the_layout_of_a_neighbour_is_refused_or_tells_the_same() {
    let mut refused = 0;
    for (version, neighbours) in [(GoVersion::Oldest, [19, 22]), (GoVersion::Middle, [23, 25]), (GoVersion::Newest, [25, 26])] {
        let svc = at_rest(version, Build::Stripped);
        let own = read_as(&svc, &format!("go{}", version.number()));
        for minor in neighbours {
            let other = read_as(&svc, &format!("go1.{minor}.0"));
            for ((what, own), other) in ["heap", "MemStats", "goroutines"].into_iter().zip(&own).zip(other) {
                assert!(own.is_ok(), "{version:?} {what}: {own:?}");
                refused += usize::from(other.is_err());
                assert!(other.is_err() || other == *own, "{version:?} as 1.{minor}, {what}:\n{other:?}\n{own:?}");
            }
        }
    }
    assert!(refused > 0);
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
            globals: runtime.globals.clone(),
            others: OnceCell::new(),
        };
        refused += usize::from(MemStats::read(&forged).is_err());
        refused += usize::from(heap::profile(&forged, 0).is_err());
        refused += usize::from(Goroutines::read(&forged, None).and_then(|read| goroutine_files::text(&forged, &read)).is_err());
        // it may find nothing, or nonsense; it ends, and takes no more than it may
        let _ = objects::holders(&forged, Variables::default(), None, 64 << 20);
        assert!(reader.bytes() < 2 << 30);
    }
    assert!(refused > 90, "only {refused} of 240 were refused: the lies are not seen");
}
