//! RSS split into named buckets that add up to it: the answer's ground.
//!
//! Pure: [`Evidence`] in, [`Anatomy`] out. Two witnesses are put together. The kernel knows what is resident but not whose
//! objects they are; the Go runtime knows its objects but not which of their pages were ever touched. So the kernel's totals
//! bind, and the runtime's claims divide them. Not here: what it means ([`verdict`](crate::verdict)), where the texts come from.
//!
//! The order of trust, where the two differ:
//! 1. RssAnon, RssFile and RssShmem are what there is.
//! 2. Of the anonymous part, smaps tells how much lies in Go's arenas. The claims on the arenas (objects, garbage, free parts of
//!    spans, freed spans, goroutine stacks) divide that: as they are where they fit, by their shares where they claim more, since
//!    pages that were reserved and never touched count in MemStats. What the arenas hold beyond all claims was released and is
//!    still there (MADV_FREE, huge pages).
//! 3. What lies outside is the runtime's metadata, as far as it can be, and native memory.
//! 4. The evidence was read some milliseconds after the trigger. All parts are scaled to the trigger's RSS, by no more than
//!    a tenth either way; a larger difference is `unexplained`.

mod arenas;
mod bucket;
mod cgroup;
mod kernel;
mod lines;
pub mod memstats;
pub mod smaps;
#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};

use crate::lang::Lang;

pub use arenas::{Found, Threads};
pub use bucket::{Bucket, Parts};
pub use cgroup::{Cgroup, Charged, KernelKind};
pub use kernel::{Split, stack_limit};
pub use memstats::GoMemory;

use arenas::Resident;
use smaps::{Kind, Mappings, Rollup};

/// Everything that was found out about one process's memory at about one moment. Whatever could not be had is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The RSS to explain, in bytes: that of the trigger's moment.
    pub rss_bytes: u64,
    /// `proc/status`
    pub status: Option<Split>,
    pub rollup: Option<Rollup>,
    pub smaps: Option<Mappings>,
    /// Before memtrap forced a collection.
    pub memstats: Option<GoMemory>,
    /// After it.
    pub memstats_gc: Option<GoMemory>,
    /// Total of `inuse_space` of the profile taken with the forced collection; sampled.
    pub heap_gc_inuse: Option<u64>,
    /// The same of the profile before it: as of the last collection that the runtime made by itself.
    pub heap_inuse: Option<u64>,
    /// How much of `heap_gc_inuse` was, at most, allocated while that collection marked: it counts as live until the next.
    pub floating: u64,
    /// What the walk of the object graph reached, where it is whole: live without a collection.
    pub reached: Option<u64>,
    /// Allocation sites, of which the runtime keeps a record each; of a heap profile.
    pub sites: Option<u64>,
    /// What of `heap_gc_inuse`, else of `heap_inuse`, is in objects of whole pages: they may never have been touched.
    pub large: u64,
    /// The threads of the process when they were counted again, after `status`.
    pub threads: Option<u64>,
    /// Whether the program can have threads of the C library's.
    pub cgo: Option<bool>,
    /// The soft limit of a stack.
    pub stack_limit: Option<u64>,
}

/// A piece of evidence that a better answer would need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Neither status nor smaps: the split into anonymous, file and shared memory.
    Kernel,
    Smaps,
    /// There is an smaps, but which of its mappings are Go's arenas is not clear.
    Arenas,
    Memstats,
    /// What is live was not told from garbage by a forced collection.
    MemstatsGc,
    /// No collection was forced: what is live is what the walk of the object graph reached.
    Walked,
    /// No collection was forced: what is live is what the last one by itself has marked, which the process's memory tells.
    Forced,
    /// MemStats is from after the forced collection only: garbage was freed by then, and cannot be told from what was free before.
    MemstatsBefore,
}

impl Missing {
    /// What is missing, and what that costs.
    pub fn words(self, lang: Lang) -> &'static str {
        let (en, zh) = match self {
            Missing::Kernel => (
                "proc/status and smaps are missing: anonymous, file and shared memory cannot be told apart",
                "缺少 proc/status 和 smaps：无法区分匿名、文件和共享内存",
            ),
            Missing::Smaps => (
                "proc/smaps is missing: how much of Go's arenas is resident is known from MemStats only",
                "缺少 proc/smaps：Go 的 arena 有多少常驻，只能从 MemStats 得知",
            ),
            Missing::Arenas => (
                "no group of mappings in proc/smaps fits the size that MemStats gives for Go's arenas: memory inside and outside of \
                 them is told apart by MemStats only",
                "proc/smaps 中没有与 MemStats 所说 arena 大小相符的映射：arena 内外只能靠 MemStats 区分",
            ),
            Missing::Memstats => {
                ("memstats.txt is missing: what the Go runtime holds is unknown", "缺少 memstats.txt：不知道 Go runtime 占了多少")
            }
            Missing::MemstatsGc => (
                "no forced collection tells live objects from garbage: memstats_gc.txt is missing, or `heap?gc=1` did not collect",
                "没有强制 GC 来区分存活对象与垃圾：缺少 memstats_gc.txt，或 `heap?gc=1` 没有触发 GC",
            ),
            Missing::Walked => (
                "no collection was forced: what is live is what the walk from the roots of the heap reached, and the rest of it counts as garbage",
                "没有强制 GC：存活对象以从堆的根出发所能到达的为准，堆中其余的都算作垃圾",
            ),
            Missing::Forced => (
                "read from the process's memory, where no collection can be forced: what is live is what the runtime's last collection marked, and \
                 what was allocated since then counts as garbage",
                "数据读自进程内存，无法强制 GC：存活对象以 runtime 上一次 GC 标记的为准，此后分配的都算作垃圾",
            ),
            Missing::MemstatsBefore => (
                "memstats.txt is missing: garbage that memtrap's own collection freed cannot be told from what was free before",
                "缺少 memstats.txt：无法区分被 memtrap 自己触发的 GC 释放的垃圾与之前就空闲的内存",
            ),
        };
        lang.pick(en, zh)
    }
}

/// What native memory is made of, as far as smaps tells; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// malloc in C: `[heap]` and further arenas. Large allocations are mappings of their own, in `mappings`.
    pub malloc: u64,
    pub thread_stacks: u64,
    /// How many mappings look like a thread's stack.
    pub threads: u64,
    /// Global variables of the executable and its libraries.
    pub globals: u64,
    /// Private copies of pages of other files.
    pub file_copies: u64,
    /// Other anonymous mappings, the runtime's metadata taken off.
    pub mappings: u64,
}

/// What HeapAlloc was made of by the runtime's own count, untouched pages among it; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    pub live: u64,
    pub garbage: u64,
}

/// How far NextGC, in bytes, stands above what was live, in percent: between these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveGogc {
    pub goal: u64,
    pub least: u64,
    pub most: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Anatomy {
    pub rss_bytes: u64,
    /// They add up to `rss_bytes`.
    pub parts: Parts,
    pub missing: Vec<Missing>,
    /// How Go's arenas were found in smaps.
    pub found: Option<Found>,
    /// Resident in Go's arenas, where they were found.
    pub arena_rss: Option<u64>,
    /// What MemStats claims in the arenas beyond what is resident.
    pub over_claim: u64,
    /// The part of that which only large live objects can be; it is not in `heap_live`.
    pub slab: u64,
    /// RSS when the kernel's evidence was read, minus that of the trigger.
    pub moved: i64,
    pub native: Option<Native>,
    /// MADV_FREE pages that the kernel has not taken yet; in `heap_unreleased`.
    pub lazy_free: u64,
    /// The same outside of Go's arenas; in `native_anon`.
    pub native_lazy: u64,
    /// The part of `heap_unreleased` that the runtime has returned, and that is resident nevertheless.
    pub released: u64,
    /// What RSS fell by between the trigger and the reading, as far as the runtime says that it returned as much; in `heap_unreleased`.
    pub returned: u64,
    /// The file with the most private copies of its pages.
    pub copied_file: Option<String>,
    pub huge: u64,
    /// Huge pages in Go's arenas.
    pub arena_huge: u64,
    pub swap: u64,
    /// What the runtime said of itself before the forced collection, else after it.
    pub go: Option<GoMemory>,
    /// What the forced collection told apart; `None` without one, or without MemStats before it.
    pub collected: Option<Collected>,
    /// What was allocated between the two MemStats.
    pub allocated_between: Option<u64>,
    /// Nothing told live objects from garbage: all is in `heap_live`.
    pub live_has_garbage: bool,
    /// Of what counted as live after the collection: allocated while it marked, at most. It is in `heap_garbage`.
    pub floating: u64,
    /// Both MemStats tell of a collection that somebody asked for.
    pub forced: bool,
    /// By how much the heap may grow beyond what was live after the last collection, in percent: what GOGC comes to with SetGCPercent and
    /// memory limits. `None` for a heap as small as the runtime's least.
    pub effective_gogc: Option<EffectiveGogc>,
}

impl Anatomy {
    pub fn get(&self, bucket: Bucket) -> i64 {
        self.parts.get(bucket)
    }

    pub fn lacks(&self, missing: Missing) -> bool {
        self.missing.contains(&missing)
    }

    /// Whether nothing that was seen can tell how large this bucket is: its bytes are then in `unexplained`, with the rest.
    pub fn is_unknown(&self, bucket: Bucket) -> bool {
        match bucket {
            Bucket::NativeAnon | Bucket::FileMapped | Bucket::Shmem => self.lacks(Missing::Kernel),
            Bucket::HeapGarbage | Bucket::HeapUnreleased => self.lacks(Missing::Memstats) || self.lacks(Missing::MemstatsBefore),
            Bucket::HeapFragmentation | Bucket::GoroutineStacks | Bucket::RuntimeMetadata => self.lacks(Missing::Memstats),
            Bucket::HeapLive => self.lacks(Missing::Memstats) && self.get(Bucket::HeapLive) == 0,
            Bucket::Unexplained => false,
        }
    }

    /// Whether another part of the arenas would be the largest, were all that was never touched in the one that seems to be.
    pub fn over_claim_decides(&self) -> bool {
        let mut parts = IN_ARENAS.map(|bucket| u128::from(self.get(bucket).max(0).unsigned_abs()));
        parts.sort_unstable_by(|a, b| b.cmp(a));
        let [first, second, ..] = parts;
        let (resident, untouched) = (parts.iter().sum::<u128>().max(1), u128::from(self.over_claim));
        // what they claim is to what they are given as the sums are
        let claimed = |part: u128| part.saturating_mul(resident + untouched) / resident;
        self.over_claim > self.rss_bytes / 20 && claimed(first).saturating_sub(untouched) < claimed(second)
    }

    /// Whether the evidence of both is of the same kind, so that what they differ by grew.
    pub fn tells_like(&self, baseline: &Anatomy) -> bool {
        let same = |missing| self.lacks(missing) == baseline.lacks(missing);
        same(Missing::Memstats) && same(Missing::Kernel) && self.live_has_garbage == baseline.live_has_garbage
    }

    /// What each bucket grew by since the baseline.
    pub fn growth(&self, baseline: &Anatomy) -> Parts {
        self.parts.minus(&baseline.parts)
    }
}

/// How far the parts are scaled to reach the trigger's RSS: one part in this many.
const MAX_SCALING: u64 = 10;
/// The goal of a heap that is next to nothing is 4 MiB with GOGC=100: below some times that it tells nothing of GOGC.
const LEAST_GOAL: u64 = 32 << 20;
/// The mean of Go's heap sampling, in bytes.
pub(crate) const SAMPLING: u64 = 512 << 10;
/// RSS that falls by more than one part in this many while it is read, fell for a reason.
const FELL: u64 = 50;
/// What the runtime keeps for each allocation site, at most: the record, and the addresses of 128 frames.
const SITE: u64 = 1280;
/// What the runtime needs outside its arenas for the arenas, at most: one part in this many, and so much in any case.
const ARENA_METADATA: u64 = 16;
const LEAST_METADATA: u64 = 32 << 20;

/// What the runtime claims inside its arenas.
#[derive(Clone, Copy, Debug, Default)]
struct Claims {
    live: u64,
    garbage: u64,
    fragmentation: u64,
    unreleased: u64,
    stacks: u64,
    /// Free after the forced collection, and nobody knows since when.
    unknown: u64,
    released: u64,
    metadata: u64,
}

const IN_ARENAS: [Bucket; 6] = [
    Bucket::HeapLive,
    Bucket::HeapGarbage,
    Bucket::HeapFragmentation,
    Bucket::HeapUnreleased,
    Bucket::GoroutineStacks,
    Bucket::Unexplained,
];

impl Claims {
    fn of(evidence: &Evidence, missing: &mut Vec<Missing>) -> Option<Claims> {
        let (before, after) = (evidence.memstats, evidence.memstats_gc);
        let Some(now) = before.or(after) else {
            missing.push(Missing::Memstats);
            return None;
        };
        let after = after.filter(|after| before.is_none_or(|before| was_collected(&before, after)));
        if after.is_none() {
            missing.push(match (evidence.reached, now.heap_marked) {
                (Some(_), _) => Missing::Walked,
                (None, Some(_)) => Missing::Forced,
                (None, None) => Missing::MemstatsGc,
            });
        }
        if before.is_none() {
            missing.push(Missing::MemstatsBefore);
        }
        let live = match after {
            Some(after) => live_after(&now, &after, evidence.heap_gc_inuse, evidence.floating),
            // a sampled number is never larger than the exact one that holds it
            None => evidence.reached.or(now.heap_marked).or(profiled(evidence)).unwrap_or(now.heap_alloc),
        }
        .min(now.heap_alloc);
        Some(Claims {
            live: plausible(live),
            garbage: plausible(now.heap_alloc - live),
            fragmentation: plausible(now.heap_inuse.saturating_sub(now.heap_alloc)),
            unreleased: if before.is_some() { plausible(now.unreleased()) } else { 0 },
            unknown: if before.is_some() { 0 } else { plausible(now.unreleased()) },
            stacks: plausible(now.stack_inuse),
            released: plausible(now.heap_released),
            metadata: plausible(now.metadata()),
        })
    }

    /// Without what was reserved for large objects and never touched. Freed spans and stacks may be untouched as well: where more is than all
    /// of them, a slab is what explains it.
    fn without_slab(self, untouched: u64, large: u64) -> Claims {
        let others = self.unreleased.saturating_add(self.stacks).saturating_add(self.fragmentation).saturating_add(self.unknown);
        if untouched <= others {
            return self;
        }
        Claims { live: self.live - untouched.min(large).min(self.live), ..self }
    }

    fn in_arenas(&self) -> [u64; 6] {
        [self.live, self.garbage, self.fragmentation, self.unreleased, self.stacks, self.unknown]
    }
}

/// Whether a collection ended between the two. A proxy that answers `heap?gc=1` itself, or drops the `gc=1`, forces none; a busy runtime
/// counts the one that was asked for as its own.
fn was_collected(before: &GoMemory, after: &GoMemory) -> bool {
    let more = |count: fn(&GoMemory) -> Option<u64>| count(before).zip(count(after)).map(|(before, after)| after > before);
    match (more(|m| m.num_forced_gc), more(|m| m.num_gc)) {
        (None, None) => true,
        (forced, any) => forced == Some(true) || any == Some(true),
    }
}

/// What a profile says is live: as of the last collection.
fn profiled(evidence: &Evidence) -> Option<u64> {
    evidence.heap_gc_inuse.or(evidence.heap_inuse).filter(|inuse| *inuse > 0)
}

/// HeapAlloc after the forced collection is what is live plus what was allocated between the collection and the reading. The
/// profile is of the collection's own moment but sampled: it is believed within what can have been allocated meanwhile. What it has of
/// objects that were allocated while the collection marked is none of it.
fn live_after(before: &GoMemory, after: &GoMemory, profile: Option<u64>, floating: u64) -> u64 {
    let since = after.total_alloc.saturating_sub(before.total_alloc);
    let least = after.heap_alloc.saturating_sub(since);
    let inuse = profile.filter(|inuse| *inuse > 0);
    inuse.map_or(after.heap_alloc, |inuse| inuse.saturating_sub(floating).clamp(least, after.heap_alloc))
}

/// Splits RSS into buckets; see the module's doc for the rules.
pub fn build(evidence: &Evidence) -> Anatomy {
    build_as(evidence, None)
}

/// Splits the RSS of a baseline to be compared with `now`. A baseline has no smaps: what MemStats claims beyond what is resident is
/// taken to be what it is now, since what was reserved and never touched (a ballast) stays so.
pub fn build_baseline(evidence: &Evidence, now: &Anatomy) -> Anatomy {
    build_as(evidence, now.arena_rss.map(|_| now.over_claim))
}

fn build_as(evidence: &Evidence, untouched: Option<u64>) -> Anatomy {
    let mut missing = Vec::new();
    let claims = Claims::of(evidence, &mut missing);
    let live_has_garbage = missing.contains(&Missing::MemstatsGc) && profiled(evidence).is_none();
    let untold = [Missing::MemstatsGc, Missing::Forced, Missing::Walked, Missing::MemstatsBefore];
    let told_apart = !missing.iter().any(|m| untold.contains(m));
    let go = evidence.memstats.or(evidence.memstats_gc);
    let split = kernel::split(evidence);
    let rss_bytes = plausible(evidence.rss_bytes);
    let looked = evidence.smaps.as_ref().map(|smaps| smaps.arenas(go.map(|go| go.arena_bytes())));
    match (&looked, split) {
        (_, None) => missing.push(Missing::Kernel),
        (None, _) => missing.push(Missing::Smaps),
        (Some((None, _)), _) => missing.push(Missing::Arenas),
        _ => {}
    }
    let (resident, mut rest) = looked.map_or((None, None), |(resident, rest)| (resident, Some(rest)));
    let others = match evidence.cgo {
        Some(false) => Some(0),
        _ => evidence.status.and_then(|s| s.threads).max(evidence.threads).map(|threads| threads.saturating_sub(1)),
    };
    if let Some(rest) = &mut rest {
        rest.settle(Threads { others, stack_limit: evidence.stack_limit });
    }
    let smaps = evidence.smaps.as_ref();
    let arena = resident.map(|r| r.usage).unwrap_or_default();

    let mut anatomy = Anatomy {
        rss_bytes,
        parts: Parts::default(),
        missing,
        found: resident.map(|r| r.found),
        arena_rss: resident.map(|r| r.usage.rss),
        over_claim: 0,
        slab: 0,
        moved: 0,
        native: None,
        lazy_free: 0,
        // of arenas that were not found it may be
        native_lazy: resident.and(smaps).map_or(0, |s| s.total.lazy_free.saturating_sub(arena.lazy_free)),
        released: 0,
        returned: 0,
        copied_file: smaps.and_then(|s| s.copied.as_ref()).map(|(path, _)| path.clone()),
        arena_huge: arena.huge,
        huge: evidence.rollup.map(|r| r.huge).or(evidence.smaps.as_ref().map(|s| s.total.huge)).unwrap_or(0),
        swap: evidence.status.and_then(|s| s.swap).or(evidence.rollup.map(|r| r.swap)).unwrap_or(0),
        go,
        live_has_garbage,
        collected: claims.filter(|_| told_apart).map(|c| Collected { live: c.live, garbage: c.garbage }),
        effective_gogc: effective_gogc(evidence),
        floating: evidence.floating,
        forced: evidence.memstats.zip(evidence.memstats_gc).and_then(|(a, b)| Some(b.num_forced_gc? > a.num_forced_gc?)).unwrap_or(true),
        allocated_between: evidence.memstats.zip(evidence.memstats_gc).map(|(a, b)| b.total_alloc.saturating_sub(a.total_alloc)),
    };
    match split {
        Some(split) => {
            anonymous(&mut anatomy, evidence, claims, plausible(split.anon), resident, rest.as_ref(), untouched);
            anatomy.parts.add(Bucket::FileMapped, signed(plausible(split.file)));
            anatomy.parts.add(Bucket::Shmem, signed(plausible(split.shmem)));
            anatomy.moved = anatomy.parts.sum().saturating_sub(signed(rss_bytes));
            if anatomy.moved < 0 && anatomy.moved.unsigned_abs() > rss_bytes / FELL {
                anatomy.returned = anatomy.moved.unsigned_abs().min(plausible(go.map_or(0, |go| go.heap_released)));
                anatomy.parts.add(Bucket::HeapUnreleased, signed(anatomy.returned));
            }
            anatomy.parts = scale(&anatomy.parts, rss_bytes);
        }
        None => {
            for (bucket, bytes) in IN_ARENAS.into_iter().zip(claims.unwrap_or_default().in_arenas()) {
                anatomy.parts.add(bucket, signed(bytes));
            }
            anatomy.parts.add(Bucket::RuntimeMetadata, signed(claims.unwrap_or_default().metadata));
        }
    }
    let rest = signed(rss_bytes).saturating_sub(anatomy.parts.sum());
    anatomy.parts.add(Bucket::Unexplained, rest);
    anatomy
}

/// NextGC against what was live when it was set. MemStats of after a collection has at least that much allocated; a profile has as much
/// as sampling tells, so two of its standard deviations are taken off. The used part of stacks counts beside the heap, and how much that
/// is is not known: where stacks are large nothing is said.
fn effective_gogc(evidence: &Evidence) -> Option<EffectiveGogc> {
    let (after, sampled) = (evidence.memstats_gc?, evidence.heap_gc_inuse?);
    let goal = after.next_gc.filter(|goal| *goal > LEAST_GOAL)?;
    let samples = (sampled / SAMPLING).max(1) as f64;
    let surely = (sampled as f64 * (1.0 - 2.0 / samples.sqrt())).max(0.0) as u64;
    let above = |live: u64| (u128::from(goal.saturating_sub(live)) * 100).checked_div(live.into()).map_or(u64::MAX, clamped);
    let (least, most) = (above(after.heap_alloc), above(surely.min(after.heap_alloc)));
    (after.stack_inuse < sampled / 8).then_some(EffectiveGogc { goal, least, most })
}

/// Divides the anonymous part; what it adds sums up to `anon`.
fn anonymous(
    anatomy: &mut Anatomy,
    evidence: &Evidence,
    claims: Option<Claims>,
    anon: u64,
    resident: Option<Resident>,
    rest: Option<&Mappings>,
    untouched: Option<u64>,
) {
    let parts = &mut anatomy.parts;
    let mut put = |bucket, bytes: u64| parts.add(bucket, signed(bytes));
    let Some(resident) = resident else {
        let Some(claims) = claims else { return put(Bucket::Unexplained, anon) };
        // what is taken to have been untouched then as well must have been claimed
        if let Some(untouched) = untouched.filter(|untouched| total(&claims.in_arenas()) >= u128::from(*untouched)) {
            anatomy.over_claim = untouched;
            let claimed = claims.without_slab(untouched, evidence.large).in_arenas();
            let untouched = untouched.saturating_sub(claims.live - claimed.first().copied().unwrap_or(claims.live).min(claims.live));
            let inside = clamped(total(&claimed)).saturating_sub(untouched).min(anon);
            let metadata = claims.metadata.min(anon - inside);
            IN_ARENAS.into_iter().zip(shares(inside, &claimed)).for_each(|(b, bytes)| put(b, bytes));
            put(Bucket::RuntimeMetadata, metadata);
            return put(Bucket::NativeAnon, anon - inside - metadata);
        }
        let [live, garbage, fragmentation, unreleased, stacks, unknown] = claims.in_arenas();
        let all = [live, garbage, fragmentation, unreleased, stacks, unknown, claims.metadata];
        let total = total(&all);
        let divided = if total > u128::from(anon) { shares(anon, &all) } else { all.to_vec() };
        anatomy.over_claim = clamped(total.saturating_sub(anon.into()));
        let native = anon.saturating_sub(clamped(self::total(&divided)));
        IN_ARENAS.into_iter().chain([Bucket::RuntimeMetadata]).zip(divided).for_each(|(b, bytes)| put(b, bytes));
        return put(Bucket::NativeAnon, native);
    };
    let inside = resident.usage.anon.min(anon);
    let outside = anon - inside;
    match claims {
        None => {
            let live = evidence.heap_gc_inuse.or(evidence.heap_inuse).unwrap_or(0).min(inside);
            put(Bucket::HeapLive, live);
            put(Bucket::Unexplained, inside - live);
        }
        Some(claims) => {
            let untouched = clamped(total(&claims.in_arenas()).saturating_sub(inside.into())).saturating_sub(resident.usage.swap);
            let claimed = claims.without_slab(untouched, evidence.large).in_arenas();
            anatomy.slab = claims.live - claimed.first().copied().unwrap_or(claims.live).min(claims.live);
            let total = total(&claimed);
            let left = inside.saturating_sub(clamped(total));
            let divided = if total > u128::from(inside) { shares(inside, &claimed) } else { claimed.to_vec() };
            IN_ARENAS.into_iter().zip(divided).for_each(|(b, bytes)| put(b, bytes));
            // it belongs to no span in use and no idle one that is held: it was released, and is still there
            let released = left.min(claims.released);
            put(Bucket::HeapUnreleased, released);
            put(Bucket::Unexplained, left - released);
            anatomy.released = released;
            // what is swapped out was touched
            anatomy.over_claim = untouched;
            anatomy.lazy_free = resident.usage.lazy_free.min(released);
        }
    }
    let of = |kind| rest.map(|r| r.of(kind).anon).unwrap_or(0);
    let nameless = of(Kind::OtherAnon).min(outside);
    // where the kernel names Go's mappings, their pages are the metadata; else they are among the nameless ones, and without MemStats
    // nothing tells how much of them they are
    let (metadata, unknown) = match (resident.found, claims) {
        (Found::Named, _) => (of(Kind::GoRuntime), 0),
        (_, Some(claims)) => (claims.metadata.min(nameless), 0),
        (_, None) => (0, evidence.sites.map_or(nameless, |sites| nameless.min(most_metadata(sites, inside)))),
    };
    let metadata = metadata.min(outside);
    let mut put = |bucket, bytes: u64| anatomy.parts.add(bucket, signed(bytes));
    put(Bucket::RuntimeMetadata, metadata);
    put(Bucket::Unexplained, unknown);
    put(Bucket::NativeAnon, outside - metadata - unknown);
    anatomy.native = rest.map(|rest| Native {
        malloc: of(Kind::Brk).saturating_add(of(Kind::MallocArena)),
        thread_stacks: of(Kind::ThreadStack).saturating_add(of(Kind::MainStack)),
        threads: rest.of(Kind::ThreadStack).mappings,
        globals: of(Kind::Globals).saturating_add(of(Kind::File)),
        file_copies: of(Kind::FileCopy),
        mappings: if resident.found == Found::Named { nameless } else { nameless.saturating_sub(metadata).saturating_sub(unknown) },
    });
}

/// What the runtime may hold outside its arenas.
fn most_metadata(sites: u64, arenas: u64) -> u64 {
    LEAST_METADATA.saturating_add(sites.saturating_mul(SITE)).saturating_add(arenas / ARENA_METADATA)
}

/// Scales all parts towards `rss`, by no more than a tenth.
fn scale(parts: &Parts, rss: u64) -> Parts {
    let sum = u64::try_from(parts.sum()).unwrap_or(0);
    let room = sum / MAX_SCALING;
    let wanted = rss.clamp(sum - room, sum.saturating_add(room));
    // measured parts are not negative
    let measured = parts.0.map(|part| u64::try_from(part).unwrap_or(0));
    let mut scaled = Parts::default();
    for (bucket, bytes) in Bucket::ALL.into_iter().zip(shares(wanted, &measured)) {
        scaled.add(bucket, signed(bytes));
    }
    scaled
}

/// Divides `whole` by the shares of `claims`; the parts add up to it exactly, unless nothing is claimed.
fn shares(whole: u64, claims: &[u64]) -> Vec<u64> {
    let total = total(claims).max(1);
    let mut upto: u128 = 0;
    let mut given: u128 = 0;
    claims
        .iter()
        .map(|claim| {
            upto += u128::from(*claim);
            // both are below 2^64 times a few: no overflow in 128 bits
            let end = u128::from(whole) * upto / total;
            let part = end - given;
            given = end;
            clamped(part)
        })
        .collect()
}

fn total(claims: &[u64]) -> u128 {
    claims.iter().map(|c| u128::from(*c)).sum()
}

fn clamped(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// No process has more: sums of a few such numbers fit 64 bits, so that the parts add up whatever the texts say.
fn plausible(bytes: u64) -> u64 {
    bytes.min(1 << 57)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
