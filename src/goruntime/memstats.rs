//! `runtime.MemStats` from the runtime's own counters, as `readmemstats_m` (`runtime/mstats.go`) adds them up, without a stop.

use std::collections::BTreeSet;
use std::fmt;

use super::collector::{LimitGoal, limit_goal};
use super::globals::found;
use super::layout::{Field, Layout};
use super::memory::Record;
use super::{Refused, Runtime};

/// Bytes of an object per size class (`runtime/sizeclasses.go`, the same in Go 1.19 to 1.27); 0 is the class of large ones.
const CLASS_SIZES: [u64; 68] = [
    0, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448, 480, 512, 576, 640,
    704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5376, 6144, 6528, 6784, 6912, 8192,
    9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760, 24576, 27264, 28672, 32768,
];
/// Counters that are written by turns; only their sum means something.
const SHARDS: u64 = 3;
/// `sweepDistMinTrigger` and `triggered` of a collection that is not due.
const NEVER: u64 = u64::MAX;
/// How far beyond a trigger that has fired the goal is at least.
const MIN_RUNWAY: u64 = 64 << 10;
/// Spans of a heap of some 8 GiB of small objects: beyond them the list is not worth reading for a check.
const MAX_LISTED: u64 = 1 << 20;
/// The list moves when it grows.
const TRIES: u32 = 3;
/// The counters were copied while the program ran: by so much they may differ.
const SLACK: u64 = 1 << 20;

/// Sizes in bytes; names and meanings are those of `runtime.MemStats`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemStats {
    pub heap_alloc: u64,
    pub heap_inuse: u64,
    pub heap_idle: u64,
    pub heap_released: u64,
    pub heap_sys: u64,
    pub heap_objects: u64,
    pub mallocs: u64,
    pub frees: u64,
    pub total_alloc: u64,
    pub stack_inuse: u64,
    pub stack_sys: u64,
    pub mspan_inuse: u64,
    pub mspan_sys: u64,
    pub mcache_inuse: u64,
    pub mcache_sys: u64,
    pub buck_hash_sys: u64,
    pub gc_sys: u64,
    pub other_sys: u64,
    pub sys: u64,
    /// By GOGC and by the memory limit.
    pub next_gc: u64,
    pub num_gc: u64,
    pub num_forced_gc: u64,
    /// Nanoseconds since 1970; 0 before the first collection.
    pub last_gc: u64,
    pub pause_total_ns: u64,
    pub gc_cpu_fraction: f64,
    /// What the last collection found to be reachable: live bytes without a forced collection.
    pub heap_marked: u64,
    /// The GOGC in force; -1 is off.
    pub gc_percent: i32,
    /// The memory limit in force; `i64::MAX` is none.
    pub memory_limit: i64,
    /// When it was read, in nanoseconds since 1970; 0 where that is not told.
    pub read_unix_ns: u64,
}

impl MemStats {
    /// Refused where the counters contradict each other: the layout does not fit.
    pub fn read(runtime: &Runtime) -> Result<MemStats, Refused> {
        let (memory, layout) = (runtime.memory, &runtime.layout);
        let gc_at = found(runtime.globals.gc_controller, "gcController")?;
        let stats_at = found(runtime.globals.memstats, "memstats")?;

        const GC: &str = "runtime.gcControllerState";
        const STATS: &str = "runtime.mstats";
        let gc = memory.record(gc_at, layout.size(GC)?)?;
        let stats = memory.record(stats_at, layout.size(STATS)?)?;
        let gc = |field| gc.get(layout.field(GC, field)?);
        let other = |field| stats.get(layout.field(STATS, field)?);
        let of_heap = |field| memory.u64(runtime.of_heap(field)?);
        let delta = Delta::of(&stats, layout)?;

        let (in_use, free, released) = (gc("heapInUse")?, gc("heapFree")?, gc("heapReleased")?);
        let pages = of_heap("pagesInUse.value")?.wrapping_mul(8192);
        agree("heapInUse and the pages in use", in_use, pages)?;
        agree("heapInUse and the heap's share of the spans", in_use, delta.sum("inHeap")?)?;

        let (allocated, allocs) = delta.bytes_and_count("largeAlloc", "largeAllocCount", "smallAllocCount")?;
        let (freed, frees) = delta.bytes_and_count("largeFree", "largeFreeCount", "smallFreeCount")?;
        let cached = cached_objects(runtime)?;
        let tiny = delta.sum("tinyAllocCount")?;
        let allocated = allocated.wrapping_add(cached.bytes);
        let heap_alloc = allocated.wrapping_sub(freed);
        if heap_alloc > in_use.saturating_add(in_use / 50).saturating_add(SLACK) {
            return Err(Refused::new(format!("HeapAlloc {heap_alloc} is above HeapInuse {in_use}: the layout does not fit")));
        }
        // what the last collection marked is not freed before the next
        let marked = gc("heapMarked")?.min(in_use);
        if heap_alloc.saturating_add(8 * SLACK) < marked / 2 {
            return Err(Refused::new(format!(
                "HeapAlloc {heap_alloc} is below the {marked} bytes that were marked: the layout does not fit"
            )));
        }
        let mallocs = allocs.wrapping_add(cached.objects).wrapping_add(tiny);
        let frees = frees.wrapping_add(tiny);

        let stack_inuse = delta.sum("inStacks")?;
        let mut this = MemStats {
            heap_alloc,
            heap_inuse: in_use,
            heap_idle: free.wrapping_add(released),
            heap_released: released,
            heap_sys: in_use.wrapping_add(free).wrapping_add(released),
            heap_objects: mallocs.wrapping_sub(frees),
            mallocs,
            frees,
            total_alloc: allocated,
            stack_inuse,
            stack_sys: stack_inuse.wrapping_add(other("stacks_sys")?),
            mspan_inuse: of_heap("spanalloc.inuse")?,
            mspan_sys: other("mspan_sys")?,
            mcache_inuse: of_heap("cachealloc.inuse")?,
            mcache_sys: other("mcache_sys")?,
            buck_hash_sys: other("buckhash_sys")?,
            gc_sys: other("gcMiscSys")?.wrapping_add(delta.sum("inWorkBufs")?),
            other_sys: other("other_sys")?,
            sys: 0,
            next_gc: goal(gc("gcPercentHeapGoal.value")?, gc("sweepDistMinTrigger.value")?, gc("triggered")?).min(limit_goal(&LimitGoal {
                limit: gc("memoryLimit.value")?,
                marked: gc("heapMarked")?,
                free,
                allocated: gc("totalAlloc.value")?.wrapping_sub(gc("totalFree.value")?),
                mapped: gc("mappedReady.value")?,
            })),
            num_gc: other("numgc")?,
            num_forced_gc: other("numforcedgc")?,
            last_gc: other("last_gc_unix")?,
            pause_total_ns: other("pause_total_ns")?,
            gc_cpu_fraction: f64::from_bits(other("gc_cpu_fraction")?),
            heap_marked: gc("heapMarked")?,
            gc_percent: gc("gcPercent.value")? as u32 as i32,
            memory_limit: gc("memoryLimit.value")? as i64,
            read_unix_ns: 0,
        };
        let parts = [this.heap_sys, this.stack_sys, this.mspan_sys, this.mcache_sys, this.buck_hash_sys, this.gc_sys, this.other_sys];
        this.sys = parts.into_iter().fold(0, u64::saturating_add);
        if this.sys == 0 || this.sys >= 1 << 47 || this.stack_inuse >= this.sys {
            return Err(Refused::new(format!("Sys would be {} bytes: the layout does not fit", this.sys)));
        }
        Ok(this)
    }
}

/// Bytes that the last collection found to be reachable.
pub(super) fn heap_marked(runtime: &Runtime) -> Result<u64, Refused> {
    runtime.memory.u64(runtime.of_collector("heapMarked")?)
}

/// Two counts of the same, read one after the other from a program that runs.
fn agree(what: &str, a: u64, b: u64) -> Result<(), Refused> {
    let near = a.abs_diff(b) <= a.max(b) / 4 + SLACK;
    if near { Ok(()) } else { Err(Refused::new(format!("{what} disagree ({a} and {b} bytes): the layout does not fit"))) }
}

/// The heap goal by GOGC (`gcControllerState.heapGoalInternal` in `runtime/mgcpacer.go`).
fn goal(by_percent: u64, sweep_min: u64, triggered: u64) -> u64 {
    let goal = if sweep_min == NEVER { by_percent } else { by_percent.max(sweep_min) };
    if triggered == NEVER { goal } else { goal.max(triggered.saturating_add(MIN_RUNWAY)) }
}

/// `memstats.heapStats`, summed over its shards.
struct Delta<'a> {
    stats: &'a Record,
    layout: &'a Layout,
    first: u64,
    size: u64,
}

impl<'a> Delta<'a> {
    fn of(stats: &'a Record, layout: &'a Layout) -> Result<Delta<'a>, Refused> {
        let first = layout.field("runtime.mstats", "heapStats")?.offset + layout.field("runtime.consistentHeapStats", "stats")?.offset;
        Ok(Delta { stats, layout, first: first.into(), size: layout.size("runtime.heapStatsDelta")?.into() })
    }

    fn place(&self, field: &'static str) -> Result<Field, Refused> {
        self.layout.field("runtime.heapStatsDelta", field)
    }

    fn word(&self, offset: u64) -> Result<u64, Refused> {
        (0..SHARDS).try_fold(0u64, |sum, shard| Ok(sum.wrapping_add(self.stats.at(self.first + shard * self.size + offset, 8)?)))
    }

    fn sum(&self, field: &'static str) -> Result<u64, Refused> {
        self.word(self.place(field)?.offset.into())
    }

    fn bytes_and_count(&self, large: &'static str, large_count: &'static str, small: &'static str) -> Result<(u64, u64), Refused> {
        let classes = self.place(small)?;
        let mut total = (self.sum(large)?, self.sum(large_count)?);
        for (class, size) in (0u64..).zip(CLASS_SIZES).take_while(|(class, _)| class * 8 < classes.size.into()) {
            let count = self.word(u64::from(classes.offset) + class * 8)?;
            total = (total.0.wrapping_add(count.wrapping_mul(size)), total.1.wrapping_add(count));
        }
        Ok(total)
    }
}

struct Cached {
    objects: u64,
    bytes: u64,
}

/// Objects that the Ps' caches have handed out and not counted yet.
fn cached_objects(runtime: &Runtime) -> Result<Cached, Refused> {
    const SPAN: &str = "runtime.mspan";
    let (memory, layout) = (runtime.memory, &runtime.layout);
    let mut cached = Cached { objects: 0, bytes: 0 };
    let [count, before, size] = ["allocCount", "allocCountBeforeCache", "elemsize"].map(|field| layout.field(SPAN, field));
    let (count, before, size) = (count?, before?, size?);
    for span in cached_spans(runtime)? {
        // a cache may have let it go meanwhile
        let Ok(span) = memory.record(span, layout.size(SPAN)?) else { continue };
        let objects = span.get(count)?.saturating_sub(span.get(before)?);
        cached.objects += objects;
        cached.bytes = cached.bytes.saturating_add(objects.saturating_mul(span.get(size)?.min(32 << 10)));
    }
    Ok(cached)
}

fn cached_spans(runtime: &Runtime) -> Result<BTreeSet<u64>, Refused> {
    let (memory, layout) = (runtime.memory, &runtime.layout);
    if runtime.globals.allp.is_none() {
        return Ok(BTreeSet::new());
    }
    let mcache = layout.field("runtime.p", "mcache")?.offset.into();
    let alloc = layout.field("runtime.mcache", "alloc")?;
    let mut spans = BTreeSet::new();
    for p in runtime.ps()? {
        let cache = memory.u64(p.wrapping_add(mcache))?;
        if cache != 0 {
            let words = u64::from(alloc.size / 8);
            spans.extend(memory.words(cache.wrapping_add(alloc.offset.into()), words, words)?);
        }
    }
    spans.remove(&0);
    // a span that none of these caches holds is a dummy among the globals; all others are listed, and stay so
    spans.retain(|span| !runtime.module.is_global(*span));
    if !spans.is_empty() && !are_listed(runtime, spans.clone())? {
        return Err(Refused::new("the Ps' caches hold spans that the heap does not list: the layout does not fit"));
    }
    Ok(spans)
}

/// Are these among `mheap_.allspans`? It may be moved while it is read, and what was listed stays so.
fn are_listed(runtime: &Runtime, mut spans: BTreeSet<u64>) -> Result<bool, Refused> {
    let (memory, at) = (runtime.memory, runtime.of_heap("allspans")?);
    for _ in 0..TRIES {
        let len = memory.u64(at.wrapping_add(8))?;
        if len > MAX_LISTED {
            return Ok(true);
        }
        let Ok(listed) = memory.words(memory.u64(at)?, len, MAX_LISTED) else { continue };
        listed.iter().for_each(|span| _ = spans.remove(span));
        if spans.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The footer that `heap?debug=1` ends in, so that whoever reads that reads this.
impl fmt::Display for MemStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self;
        writeln!(f, "# runtime.MemStats")?;
        for (name, value) in [
            ("Alloc", s.heap_alloc),
            ("TotalAlloc", s.total_alloc),
            ("Sys", s.sys),
            ("Mallocs", s.mallocs),
            ("Frees", s.frees),
            ("HeapAlloc", s.heap_alloc),
            ("HeapSys", s.heap_sys),
            ("HeapIdle", s.heap_idle),
            ("HeapInuse", s.heap_inuse),
            ("HeapReleased", s.heap_released),
            ("HeapObjects", s.heap_objects),
        ] {
            writeln!(f, "# {name} = {value}")?;
        }
        for (name, inuse, sys) in
            [("Stack", s.stack_inuse, s.stack_sys), ("MSpan", s.mspan_inuse, s.mspan_sys), ("MCache", s.mcache_inuse, s.mcache_sys)]
        {
            writeln!(f, "# {name} = {inuse} / {sys}")?;
        }
        for (name, value) in [
            ("BuckHashSys", s.buck_hash_sys),
            ("GCSys", s.gc_sys),
            ("OtherSys", s.other_sys),
            ("NextGC", s.next_gc),
            ("LastGC", s.last_gc),
            ("NumGC", s.num_gc),
            ("NumForcedGC", s.num_forced_gc),
        ] {
            writeln!(f, "# {name} = {value}")?;
        }
        writeln!(f, "# GCCPUFraction = {}", s.gc_cpu_fraction)?;
        // memtrap's own: Go tells it nobody
        writeln!(f, "# HeapMarked = {}", s.heap_marked)?;
        writeln!(f, "# GCPercent = {}", s.gc_percent)?;
        if s.memory_limit < i64::MAX {
            writeln!(f, "# MemoryLimit = {}", s.memory_limit)?;
        }
        if s.read_unix_ns > 0 {
            writeln!(f, "# ReadAt = {}", s.read_unix_ns)?;
        }
        Ok(())
    }
}
