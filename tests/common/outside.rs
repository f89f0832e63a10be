//! What is read of a Go program's memory, held against what its pprof says of the same moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;

use memtrap::anatomy::memstats::{GoMemory, parse};
use memtrap::clock::Mono;
use memtrap::goruntime::goroutine_files;
use memtrap::goruntime::goroutines::Goroutines;
use memtrap::goruntime::heap;
use memtrap::goruntime::image::Image;
use memtrap::goruntime::memory::Reader;
use memtrap::goruntime::memstats::MemStats;
use memtrap::goruntime::{Runtime, memory_of};
use memtrap::host::ProcFs;
use memtrap::pprof::{Limits, Profile, goroutine};

use super::MIB;

/// The answers alone take some 5 MiB.
const BUSY: u64 = 16 * MIB;

type Stack = Vec<String>;

/// What was read at once.
struct Read {
    is_before_collection: bool,
    /// Objects and bytes that were allocated, and those in use, by stack.
    sites: BTreeMap<Stack, [i64; 4]>,
    goroutines: BTreeMap<Stack, u64>,
    stats: GoMemory,
}

impl Read {
    fn of(pid: u32) -> Read {
        let process = ProcFs::host().dir(pid).unwrap();
        let memory = memory_of(&process).unwrap();
        let reader = Reader::new(&memory);
        let runtime = Runtime::find(&reader, &Image::of(&process).unwrap()).unwrap();
        let heap = heap::profile(&runtime, 1).unwrap();
        let goroutines = Goroutines::read(&runtime, Some(Mono::now().as_nanos())).unwrap();
        let text = goroutine_files::text(&runtime, &goroutines).unwrap();
        Read {
            is_before_collection: heap.is_before_collection,
            sites: sites(&heap.gzipped),
            goroutines: resting(text.as_bytes()),
            stats: stats(MemStats::read(&runtime).unwrap().to_string().as_bytes()),
        }
    }
}

fn stats(text: &[u8]) -> GoMemory {
    parse(BufReader::new(text)).unwrap().unwrap()
}

fn sites(gzipped: &[u8]) -> BTreeMap<Stack, [i64; 4]> {
    let profile = Profile::parse(gzipped, &Limits::default()).unwrap();
    let mut sites: BTreeMap<Stack, [i64; 4]> = BTreeMap::new();
    for sample in profile.samples() {
        let lines = sample.locations.iter().flat_map(|at| profile.lines(&profile.locations[*at as usize]));
        let named = lines.map(|line| {
            // Go's profiles have one file for each name: of an `init` that is in several, whichever came first
            format!("{}:{}", profile.str(profile.functions[line.function as usize].name), line.line)
        });
        let of = sites.entry(named.collect()).or_default();
        of.iter_mut().zip(sample.values).for_each(|(sum, value)| *sum += value);
    }
    sites
}

/// It serves the question itself: its connection, or the listener, which may not wait for the next one yet.
pub fn serves(function: &str) -> bool {
    function.contains("net/http.(*conn") || function.contains("net/http.(*Server).Serve")
}

/// Stacks with how many goroutines have them, without those that serve the question itself, and those with a call that `is_left_out`.
pub fn stacks(dump: &goroutine::Dump, is_left_out: impl Fn(&str) -> bool) -> BTreeMap<Stack, u64> {
    let mut stacks = BTreeMap::new();
    for group in &dump.groups {
        let stack: Stack = dump.stack(group).map(|f| format!("{} {}:{}", f.function, f.file, f.line)).collect();
        // a goroutine that has not begun yet shows no frames: the server's
        if !stack.is_empty() && !stack.iter().any(|call| serves(call) || is_left_out(call)) {
            *stacks.entry(stack).or_default() += group.count;
        }
    }
    stacks
}

/// Go keeps the innermost calls: 32 up to 1.22, of which the first are not shown.
pub fn cut_as(told: &BTreeMap<Stack, u64>, read: &BTreeMap<Stack, u64>) -> BTreeMap<Stack, u64> {
    let mut cut = BTreeMap::new();
    for (stack, count) in read {
        let as_told = told.keys().find(|told| told.len() > 25 && stack.starts_with(told)).unwrap_or(stack);
        *cut.entry(as_told.clone()).or_default() += count;
    }
    cut
}

/// Of a service whose connections may be read from at any moment.
fn resting(text: &[u8]) -> BTreeMap<Stack, u64> {
    stacks(&goroutine::parse(text, &goroutine::Limits::default()).unwrap(), |call| call.contains("poll.(*FD)"))
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    pub sites: usize,
    pub stacks: usize,
}

/// The state of a program, and whether it does nothing for a moment within a second.
fn at_rest(pid: u32) -> (Read, bool) {
    let counters = |read: &Read| (read.stats.heap_inuse, read.stats.heap_released, read.stats.total_alloc);
    let mut last = Read::of(pid);
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = Read::of(pid);
        let is_at_rest = counters(&now) == counters(&last);
        last = now;
        if is_at_rest {
            return (last, true);
        }
    }
    (last, false)
}

/// Reads before and after pprof is asked: what it says has to lie between, within 1 % of a site, and within 0.1 MiB or 1 % of the counters. What moved
/// meanwhile may have moved as much before. `ask` gets a path below `/debug/pprof/`.
pub fn compare(pid: u32, ask: impl Fn(&str) -> Vec<u8>) -> (Compared, Vec<String>) {
    let (before, was_at_rest) = at_rest(pid);
    // first: the others allocate for their answers
    let told_stats = stats(&ask("heap?debug=1"));
    let then = Read::of(pid).stats;
    let told_sites = sites(&ask("heap"));
    let told_stacks = resting(&ask("goroutine?debug=1"));
    let after = Read::of(pid);
    let mut wrong = Vec::new();
    // what is in use moves both ways there, within any time; what was allocated only grows
    let is_busy = !was_at_rest || after.stats.total_alloc - before.stats.total_alloc > BUSY;
    let between = |told: i64, a: i64, b: i64, slack: i64| {
        let slack = slack + (b - a).abs();
        (a.min(b) - slack..=a.max(b) + slack).contains(&told)
    };

    let all: BTreeSet<&Stack> = before.sites.keys().chain(told_sites.keys()).chain(after.sites.keys()).collect();
    // before the first collections, pprof shows what they have counted, and only that
    let is_comparable = !before.is_before_collection && !after.is_before_collection;
    for stack in all.iter().filter(|_| is_comparable) {
        let of = |sites: &BTreeMap<Stack, [i64; 4]>| sites.get(*stack).copied().unwrap_or_default();
        let (before, told, after) = (of(&before.sites), of(&told_sites), of(&after.sites));
        let is_near = |i: usize| between(told[i], before[i], after[i], told[i].abs() / 100);
        // a few samples of a site that allocates meanwhile say nothing
        let is_sampled_now = is_busy && told[0] < 1_000;
        if !is_sampled_now && !(0..if is_busy { 2 } else { 4 }).all(is_near) {
            wrong.push(format!("site {stack:?}: before {before:?}, told {told:?}, after {after:?}"));
        }
    }
    let (before_stacks, after_stacks) = (cut_as(&told_stacks, &before.goroutines), cut_as(&told_stacks, &after.goroutines));
    // where one that runs stands is another place each time
    for (stack, told) in told_stacks.iter().filter(|_| !is_busy) {
        let of = |stacks: &BTreeMap<Stack, u64>| stacks.get(stack).copied().unwrap_or(0) as i64;
        if !between(*told as i64, of(&before_stacks), of(&after_stacks), *told as i64 / 100) {
            wrong.push(format!("goroutines in {stack:?}: before {}, told {told}, after {}", of(&before_stacks), of(&after_stacks)));
        }
    }
    type Counter = (&'static str, fn(&GoMemory) -> u64);
    let counters: [Counter; 6] = [
        ("HeapSys", |s| s.heap_sys),
        ("StackInuse", |s| s.stack_inuse),
        ("metadata", |s| s.metadata()),
        ("HeapInuse", |s| s.heap_inuse),
        ("HeapIdle", |s| s.heap_idle),
        ("HeapReleased", |s| s.heap_released),
    ];
    for (name, of) in counters.into_iter().take(if is_busy { 3 } else { 6 }) {
        let [before, told, after] = [&before.stats, &told_stats, &then].map(|s| of(s) as i64);
        // the stop of an answer gives back what the Ps' caches had and did not use
        let slack = if before == after { MIB / 10 } else { MIB / 4 } as i64;
        if !between(told, before, after, slack.max(told / 100)) {
            wrong.push(format!("{name}: before {before}, told {told}, after {after}"));
        }
    }
    (Compared { sites: if is_comparable { all.len() } else { 0 }, stacks: told_stacks.len() }, wrong)
}
