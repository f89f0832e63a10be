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
mod kernel;
mod lines;
pub mod memstats;
pub mod smaps;
#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};

use crate::lang::Lang;

pub use arenas::Found;
pub use bucket::{Bucket, Parts};
pub use kernel::Split;
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
    /// Other anonymous mappings, the runtime's metadata taken off.
    pub mappings: u64,
}

/// What HeapAlloc was made of by the runtime's own count, untouched pages among it; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    pub live: u64,
    pub garbage: u64,
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
    /// RSS when the kernel's evidence was read, minus that of the trigger.
    pub moved: i64,
    pub native: Option<Native>,
    /// MADV_FREE pages that the kernel has not taken yet; in `heap_unreleased`.
    pub lazy_free: u64,
    pub huge: u64,
    pub swap: u64,
    /// What the runtime said of itself before the forced collection, else after it.
    pub go: Option<GoMemory>,
    /// What the forced collection told apart; `None` without one, or without MemStats before it.
    pub collected: Option<Collected>,
    /// What was allocated between the two MemStats.
    pub allocated_between: Option<u64>,
    /// Nothing told live objects from garbage: all is in `heap_live`.
    pub live_has_garbage: bool,
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

    /// What each bucket grew by since the baseline.
    pub fn growth(&self, baseline: &Anatomy) -> Parts {
        self.parts.minus(&baseline.parts)
    }
}

/// How far the parts are scaled to reach the trigger's RSS: one part in this many.
const MAX_SCALING: u64 = 10;

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
            missing.push(Missing::MemstatsGc);
        }
        if before.is_none() {
            missing.push(Missing::MemstatsBefore);
        }
        let live = match after {
            Some(after) => live_after(&now, &after, evidence.heap_gc_inuse),
            // a sampled number is never larger than the exact one that holds it
            None => profiled(evidence).unwrap_or(now.heap_alloc),
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

    fn in_arenas(&self) -> [u64; 6] {
        [self.live, self.garbage, self.fragmentation, self.unreleased, self.stacks, self.unknown]
    }
}

/// Whether a collection was forced between the two. A proxy that answers `heap?gc=1` itself, or drops the `gc=1`, forces none.
fn was_collected(before: &GoMemory, after: &GoMemory) -> bool {
    before.num_forced_gc.zip(after.num_forced_gc).is_none_or(|(before, after)| after > before)
}

/// What a profile says is live: as of the last collection.
fn profiled(evidence: &Evidence) -> Option<u64> {
    evidence.heap_gc_inuse.or(evidence.heap_inuse).filter(|inuse| *inuse > 0)
}

/// HeapAlloc after the forced collection is what is live plus what was allocated between the collection and the reading. The
/// profile is of the collection's own moment but sampled: it is believed within what can have been allocated meanwhile.
fn live_after(before: &GoMemory, after: &GoMemory, profile: Option<u64>) -> u64 {
    let since = after.total_alloc.saturating_sub(before.total_alloc);
    let least = after.heap_alloc.saturating_sub(since);
    profile.filter(|inuse| *inuse > 0).map_or(after.heap_alloc, |inuse| inuse.clamp(least, after.heap_alloc))
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
    let told_apart = !missing.contains(&Missing::MemstatsGc) && !missing.contains(&Missing::MemstatsBefore);
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
    let (resident, rest) = looked.map_or((None, None), |(resident, rest)| (resident, Some(rest)));

    let mut anatomy = Anatomy {
        rss_bytes,
        parts: Parts::default(),
        missing,
        found: resident.map(|r| r.found),
        arena_rss: resident.map(|r| r.usage.rss),
        over_claim: 0,
        moved: 0,
        native: None,
        lazy_free: 0,
        huge: evidence.rollup.map(|r| r.huge).or(evidence.smaps.as_ref().map(|s| s.total.huge)).unwrap_or(0),
        swap: evidence.status.and_then(|s| s.swap).or(evidence.rollup.map(|r| r.swap)).unwrap_or(0),
        go,
        live_has_garbage,
        collected: claims.filter(|_| told_apart).map(|c| Collected { live: c.live, garbage: c.garbage }),
        allocated_between: evidence.memstats.zip(evidence.memstats_gc).map(|(a, b)| b.total_alloc.saturating_sub(a.total_alloc)),
    };
    match split {
        Some(split) => {
            anonymous(&mut anatomy, evidence, claims, plausible(split.anon), resident, rest.as_ref(), untouched);
            anatomy.parts.add(Bucket::FileMapped, signed(plausible(split.file)));
            anatomy.parts.add(Bucket::Shmem, signed(plausible(split.shmem)));
            anatomy.moved = anatomy.parts.sum().saturating_sub(signed(rss_bytes));
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
    let mut put = |bucket, bytes: u64| anatomy.parts.add(bucket, signed(bytes));
    let Some(resident) = resident else {
        let Some(claims) = claims else { return put(Bucket::Unexplained, anon) };
        if let Some(untouched) = untouched {
            let claimed = claims.in_arenas();
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
            let claimed = claims.in_arenas();
            let total = total(&claimed);
            let left = inside.saturating_sub(clamped(total));
            let divided = if total > u128::from(inside) { shares(inside, &claimed) } else { claimed.to_vec() };
            IN_ARENAS.into_iter().zip(divided).for_each(|(b, bytes)| put(b, bytes));
            // it belongs to no span in use and no idle one that is held: it was released, and is still there
            let released = left.min(claims.released);
            put(Bucket::HeapUnreleased, released);
            put(Bucket::Unexplained, left - released);
            // what is swapped out was touched
            anatomy.over_claim = clamped(total.saturating_sub(inside.into())).saturating_sub(resident.usage.swap);
            anatomy.lazy_free = resident.usage.lazy_free.min(released);
        }
    }
    let of = |kind| rest.map(|r| r.of(kind).anon).unwrap_or(0);
    // where the kernel names Go's mappings, their pages are the metadata; else they are among the nameless ones
    let metadata = match resident.found {
        Found::Named => of(Kind::GoRuntime),
        _ => claims.map_or(0, |c| c.metadata).min(of(Kind::OtherAnon)),
    }
    .min(outside);
    let mut put = |bucket, bytes: u64| anatomy.parts.add(bucket, signed(bytes));
    put(Bucket::RuntimeMetadata, metadata);
    put(Bucket::NativeAnon, outside - metadata);
    anatomy.native = rest.map(|rest| Native {
        malloc: of(Kind::Brk).saturating_add(of(Kind::MallocArena)),
        thread_stacks: of(Kind::ThreadStack).saturating_add(of(Kind::MainStack)),
        threads: rest.of(Kind::ThreadStack).mappings,
        globals: of(Kind::Globals).saturating_add(of(Kind::File)),
        mappings: if resident.found == Found::Named { of(Kind::OtherAnon) } else { of(Kind::OtherAnon).saturating_sub(metadata) },
    });
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
