//! Does the Go heap explain the RSS, and if not, what does? Pure: an [`Anatomy`] and [`Facts`] in, a [`Verdict`] out.
//!
//! `weigh` turns buckets into candidates, one per cause, by what the runtime does: garbage within GOGC belongs to the live heap that
//! allows it, freed spans belong to the churn that will reuse them or to the stacks that outgrew them, and heap that piled-up
//! goroutines hold belongs to the goroutines. `words` says it. Not here: reading profiles (the caller gives totals), commands.

mod doubts;
mod facts;
mod weigh;
mod words;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub(crate) use facts::MORE_GOROUTINES;
pub use facts::{
    Allocated, Allocs, Deepest, Ending, Facts, Gogc, GoroutineGrowth, Goroutines, Group, HeapProfile, Held, Holder, SMALL_OBJECT, Seen,
    Sizes, Thrash, TopFunction, Whole,
};

use crate::anatomy::{Anatomy, Bucket, Cgroup, Charged, Missing};
use crate::lang::Lang;
use weigh::Weighed;
pub(crate) use words::line;

pub const SCHEMA: u32 = 1;
pub const QUESTION: &str = "does the Go heap explain the RSS?";
const QUESTION_ZH: &str = "Go 堆能解释 RSS 吗？";
const QUESTION_OF_CORE: &str = "does the Go heap explain what the core file holds?";
const QUESTION_OF_CORE_ZH: &str = "Go 堆能解释 core 文件中的内存吗？";

/// `verdict.json`, schema 1. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub schema: u32,
    pub question: String,
    pub go_heap_explains: Explains,
    pub cause: Cause,
    pub confidence: Confidence,
    /// What is special about it, where that changes what helps.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<Detail>,
    /// One sentence for a ticket.
    pub summary: String,
    /// Sentences with numbers, the strongest first.
    pub evidence: Vec<String>,
    /// What a better answer would need, and why.
    pub missing: Vec<String>,
    pub rss_bytes: u64,
    /// Of a core file, which knows no RSS (`rss_bytes` is 0): what it has in pages that hold anything but zeros. The anatomy adds up to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub core_bytes: Option<u64>,
    /// Where nothing tells the RSS (`rss_bytes` is 0): what Go's runtime has from the kernel and has not returned. The anatomy adds up to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mapped_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline_rss_bytes: Option<u64>,
    /// In the order of [`Bucket::ALL`]; the bytes add up to `rss_bytes`.
    pub anatomy: Vec<BucketLine>,
    /// What the process's cgroup is charged with, where one has a limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<Cgroup>,
    /// Filled by the caller.
    #[serde(default)]
    pub top: Top,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goroutines: Option<Goroutines>,
    /// Commands to go on with; filled by the caller.
    #[serde(default)]
    pub next: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketLine {
    pub bucket: Bucket,
    pub bytes: i64,
    /// Nothing that was seen tells its size, which is in `unexplained`.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub unknown: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth_bytes: Option<i64>,
}

impl Verdict {
    /// What the anatomy adds up to.
    pub fn whole_bytes(&self) -> u64 {
        self.core_bytes.or(self.mapped_bytes).unwrap_or(self.rss_bytes)
    }
}

impl BucketLine {
    /// There is no number to show.
    pub fn is_unseen(&self) -> bool {
        self.unknown && self.bytes == 0
    }
}

/// The heaviest functions by each sample type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Top {
    pub inuse_space: Vec<TopLine>,
    pub inuse_objects: Vec<TopLine>,
    pub alloc_space: Vec<TopLine>,
    pub alloc_objects: Vec<TopLine>,
    /// inuse_space since the baseline; empty without one.
    pub growth: Vec<TopLine>,
}

/// Bytes or objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopLine {
    pub function: String,
    pub flat: i64,
    pub cum: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Explains {
    Yes,
    Partly,
    No,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Live objects: few, large.
    LiveHeap,
    /// Live objects: by number.
    SmallObjects,
    /// Garbage, and the room that it takes.
    AllocationChurn,
    /// Freed, not returned to the kernel.
    UnreleasedHeap,
    /// Many goroutines: their stacks, and what they hold.
    GoroutinePileup,
    /// Few goroutines with large stacks.
    DeepStacks,
    /// cgo, mmap, foreign libraries.
    NativeMemory,
    FileMappings,
    Shmem,
    ThreadPileup,
    RuntimeMetadata,
    /// Collections take the CPU: what is live leaves the heap no room under its memory limit, or GOGC is too low.
    GcThrash,
    /// The cgroup's limit is filled by tmpfs and shared memory, not by this process.
    CgroupShmem,
    /// By other processes.
    CgroupNeighbours,
    /// By the kernel's own: page tables, slab, sockets.
    CgroupKernel,
    /// No part dominates.
    Mixed,
    /// The evidence that would tell is missing.
    Unknown,
}

impl Cause {
    /// Objects of the Go heap, live or garbage.
    pub const fn is_of_heap(self) -> bool {
        matches!(self, Cause::LiveHeap | Cause::SmallObjects | Cause::AllocationChurn | Cause::GcThrash)
    }

    /// As in `verdict.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::LiveHeap => "live_heap",
            Cause::SmallObjects => "small_objects",
            Cause::AllocationChurn => "allocation_churn",
            Cause::UnreleasedHeap => "unreleased_heap",
            Cause::GoroutinePileup => "goroutine_pileup",
            Cause::DeepStacks => "deep_stacks",
            Cause::NativeMemory => "native_memory",
            Cause::FileMappings => "file_mappings",
            Cause::Shmem => "shmem",
            Cause::ThreadPileup => "thread_pileup",
            Cause::RuntimeMetadata => "runtime_metadata",
            Cause::GcThrash => "gc_thrash",
            Cause::CgroupShmem => "cgroup_shmem",
            Cause::CgroupNeighbours => "cgroup_neighbours",
            Cause::CgroupKernel => "cgroup_kernel",
            Cause::Mixed => "mixed",
            Cause::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Freed and returned, and resident again because the kernel makes huge pages of it.
    HugePages,
    /// Freed and returned with MADV_FREE: resident until the kernel needs it.
    MadvFree,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    Low,
    Medium,
    High,
}

impl Confidence {
    fn lower(self) -> Confidence {
        match self {
            Confidence::High => Confidence::Medium,
            _ => Confidence::Low,
        }
    }
}

/// A part dominates from half of the whole on, and clearly from here on.
const DOMINATES: f64 = 0.5;
/// Less than this is no largest part that is worth a name, where others may hold more.
const LARGEST_TOLD: f64 = 0.1;
const CLEARLY: f64 = 0.65;
/// What a later collection took of what was live is worth a doubt from here on.
const PASSING: f64 = 0.25;
/// The heap explains the RSS from here on, and does not below the other.
const EXPLAINS: f64 = 0.7;
const EXPLAINS_NOT: f64 = 0.3;

/// Names the cause, and says why, in sentences of this language.
pub fn decide(anatomy: &Anatomy, facts: &Facts, lang: Lang) -> Verdict {
    let weighed = weigh::weigh(anatomy, facts);
    let cause = cause(anatomy, &weighed);
    let (missing, confidence) = doubts::of(anatomy, facts, &weighed, cause, lang);
    // why RSS is what it is does not matter where something else fills the limit
    let elsewhere = facts.cgroup.as_ref().filter(|_| !facts.by_rss).and_then(|cgroup| elsewhere(cgroup, facts.by_charge));
    // nor where the collector is what was asked about, or nothing was
    let elsewhere =
        facts.thrash.filter(|_| !facts.by_rss && !facts.by_charge).map(|thrash| (Cause::GcThrash, thrash.confidence())).or(elsewhere);
    let go_heap_explains = if facts.whole == Whole::Mapped { Explains::Unknown } else { explains(anatomy, &weighed) };
    let whole = |of| (facts.whole == of).then_some(anatomy.rss_bytes);
    let growth = facts.baseline.as_ref().map(|base| anatomy.growth(base));
    let line = |bucket| BucketLine {
        bucket,
        bytes: anatomy.get(bucket),
        unknown: anatomy.is_unknown(bucket),
        baseline_bytes: facts.baseline.as_ref().map(|b| b.get(bucket)),
        growth_bytes: growth.map(|g| g.get(bucket)),
    };
    Verdict {
        schema: SCHEMA,
        question: match facts.whole {
            Whole::Core => lang.pick(QUESTION_OF_CORE, QUESTION_OF_CORE_ZH),
            Whole::Rss | Whole::Mapped => lang.pick(QUESTION, QUESTION_ZH),
        }
        .into(),
        go_heap_explains,
        cause: elsewhere.map_or(cause, |(cause, _)| cause),
        confidence: elsewhere.map_or(confidence, |(_, confidence)| confidence),
        detail: detail(anatomy, &weighed, cause).filter(|_| elsewhere.is_none()),
        summary: words::summary(anatomy, facts, &weighed, cause, go_heap_explains, elsewhere.map(|(cause, _)| cause), lang),
        evidence: words::evidence(anatomy, facts, &weighed, cause, lang),
        missing,
        rss_bytes: whole(Whole::Rss).unwrap_or(0),
        core_bytes: whole(Whole::Core),
        mapped_bytes: whole(Whole::Mapped),
        baseline_rss_bytes: facts.baseline.as_ref().map(|b| b.rss_bytes),
        anatomy: Bucket::ALL.map(line).to_vec(),
        cgroup: facts.cgroup.clone(),
        top: Top::default(),
        goroutines: facts.goroutines.clone(),
        next: Vec::new(),
    }
}

/// What fills the cgroup's limit, where that is not this process: if the charge is what fired, or is half of the limit.
fn elsewhere(cgroup: &Cgroup, by_charge: bool) -> Option<(Cause, Confidence)> {
    let charge = cgroup.charge_bytes.max(1) as f64;
    let share = |part| cgroup.get(part).max(0) as f64 / charge;
    if !by_charge && cgroup.charge_bytes < cgroup.limit_bytes / 2 || share(Charged::ThisProcess) >= DOMINATES {
        return None;
    }
    let parts =
        [(Cause::CgroupShmem, Charged::Shmem), (Cause::CgroupNeighbours, Charged::OtherProcesses), (Cause::CgroupKernel, Charged::Kernel)];
    let (cause, most) = parts.into_iter().map(|(cause, part)| (cause, share(part))).max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let adds_up = cgroup.get(Charged::Unexplained).unsigned_abs() < cgroup.usage_bytes / 20;
    let confidence = if most >= CLEARLY && adds_up { Confidence::High } else { Confidence::Medium };
    (most >= DOMINATES).then_some((cause, confidence))
}

fn cause(anatomy: &Anatomy, weighed: &Weighed) -> Cause {
    let Some((first, share)) = weighed.heaviest() else { return Cause::Unknown };
    if share >= DOMINATES {
        return first;
    }
    // several known parts are a mixture; what is not known may be anything
    let unknown = weighed.share(Cause::Unknown);
    if anatomy.lacks(Missing::Memstats) || unknown > 1.0 - DOMINATES { Cause::Unknown } else { Cause::Mixed }
}

/// What most of the freed memory that was returned is still there for.
fn detail(anatomy: &Anatomy, weighed: &Weighed, cause: Cause) -> Option<Detail> {
    let freed = weighed.bytes(Cause::UnreleasedHeap).unsigned_abs();
    let most = |bytes: u64| cause == Cause::UnreleasedHeap && bytes > 0 && bytes.saturating_mul(2) > freed;
    if most(anatomy.lazy_free) {
        return Some(Detail::MadvFree);
    }
    (most(anatomy.released) && anatomy.arena_huge.saturating_mul(2) > anatomy.released).then_some(Detail::HugePages)
}

fn explains(anatomy: &Anatomy, weighed: &Weighed) -> Explains {
    let heap = weighed.heap_share();
    let unknown = weighed.unknown_share(anatomy);
    if anatomy.lacks(Missing::Memstats) {
        // live objects may be known from a profile, the rest of the arenas is not
        let outside = 1.0 - heap - unknown;
        return if outside >= EXPLAINS { Explains::No } else { Explains::Unknown };
    }
    match heap {
        heap if heap >= EXPLAINS => Explains::Yes,
        heap if heap + unknown < EXPLAINS_NOT => Explains::No,
        heap if heap >= EXPLAINS_NOT => Explains::Partly,
        _ => Explains::Unknown,
    }
}
