//! From buckets to candidates: how many bytes speak for each cause.

use super::facts::{Allocated, Deepest, Facts, Goroutines, SMALL_OBJECT};
use super::{Cause, DOMINATES};
use crate::anatomy::{Anatomy, Bucket, GoMemory, Missing, Parts};

/// Less growth than this says nothing: RSS counters lag, and every process breathes.
const MIN_GROWTH: u64 = 16 << 20;
/// So many goroutines are a pile where no baseline says what is usual.
const MANY_GOROUTINES: u64 = 1000;
/// So many more than usual are, and so many that stand where the heap was allocated are worth a word.
const MORE_GOROUTINES: u64 = 100;
/// A pile is made of few stacks.
const FEW_STACKS: usize = 5;
/// The average stack of a goroutine that recurses. What blocks in a handler needs 2 to 32 KiB, most often less than 8.
const DEEP_STACK: u64 = 64 << 10;
const FLAT_STACK: u64 = 8 << 10;
/// Frames of one stack that only a recursion makes.
const RECURSION: u64 = 10_000;
/// A stack that doubles frees its old copy, and collections halve stacks that are not used: freed spans of up to so many times
/// the stacks were theirs. Measured: 1 to 4.
const OUTGROWN: i64 = 4;
/// More memory per goroutine than this needs a better reason to be laid at its door than numbers alone, be it leaked or not.
const HELD_EACH: u64 = 64 << 10;
/// The same for goroutines that stand where the heap was allocated, and for such as are known to be leaked besides.
const LINKED_EACH: u64 = 1 << 20;
const LEAKED_EACH: u64 = 4 << 20;
/// A pile's stacks are at least this share of what it is blamed for, without better evidence.
const PILE_SHARE: f64 = 0.1;
/// Fast: fills anew within this time what garbage and freed spans take, and at least so much a second.
const REFILL_SECONDS: f64 = 30.0;
const FAST: f64 = (4 << 20) as f64;
/// What the requests between the two MemStats allocate by themselves. Measured: 3 to 5 MiB, and 600 bytes per goroutine.
const OWN_REQUESTS: u64 = 8 << 20;
const OWN_PER_GOROUTINE: u64 = 1 << 10;
/// In seconds. Over less, one request or one pause of the scheduler decides.
const LONG_ENOUGH: f64 = 0.5;
/// A heap that was allocated so many times over is churned.
const TURNOVERS: u64 = 8;
/// The runtime itself needs one per core and a few; blocking calls need one each.
const MANY_THREADS: u64 = 100;

/// What is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Basis {
    /// What came since the baseline.
    Growth,
    /// All: too little came since the baseline.
    #[default]
    Little,
    /// All: one of the two witnesses has said at one time what it has not at the other.
    Unlike,
}

/// Bytes for each cause, and what they rest on.
#[derive(Clone, Debug, Default)]
pub(super) struct Weighed {
    /// What is explained: the growth since the baseline, or all.
    pub growth: bool,
    /// Why, where there is a baseline.
    pub basis: Basis,
    pub parts: Parts,
    candidates: Vec<(Cause, i64)>,
    /// Bytes per second.
    pub alloc_rate: Option<f64>,
    pub allocates_fast: bool,
    /// It does on average over a life that may have been a single burst; how it is now could not be seen.
    pub may_allocate_fast: bool,
    /// The pile of goroutines is blamed for heap by its size alone.
    pub pile_is_a_guess: bool,
    /// Heap that is laid at the goroutines' door.
    pub held_by_goroutines: i64,
    /// Freed memory in spans that a few objects keep: it cannot be returned.
    pub sparse: i64,
    /// Freed spans that were stacks.
    pub outgrown: i64,
    /// A function that allocated most of what is there to explain, and that most goroutines stand in.
    pub link: Option<String>,
    /// Few stacks of very many frames are among many: how much each takes is unknown.
    pub may_be_deep: bool,
    /// Garbage within GOGC, which belongs to the live heap.
    pub normal_garbage: i64,
    /// Average size of a live object (of one that came since the baseline), in bytes.
    pub object_size: Option<u64>,
}

impl Weighed {
    fn whole(&self) -> f64 {
        self.candidates.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>().max(1.0)
    }

    fn give(&mut self, cause: Cause, bytes: i64) {
        if bytes <= 0 {
            return;
        }
        match self.candidates.iter_mut().find(|(c, _)| *c == cause) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.candidates.push((cause, bytes)),
        }
    }

    pub fn bytes(&self, cause: Cause) -> i64 {
        self.candidates.iter().find(|(c, _)| *c == cause).map_or(0, |(_, bytes)| *bytes)
    }

    /// Heaviest first.
    pub fn ranked(&self) -> Vec<(Cause, i64)> {
        let mut ranked = self.candidates.clone();
        ranked.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        ranked
    }

    /// The heap's share: objects, garbage and the gaps between them; with the room that churn needs, if that is the cause.
    pub fn heap_share(&self, churn: bool) -> f64 {
        let part = |bucket| self.parts.get(bucket).max(0);
        let room = if churn { part(Bucket::HeapUnreleased) } else { -self.sparse };
        let heap = part(Bucket::HeapLive) + part(Bucket::HeapGarbage) + part(Bucket::HeapFragmentation) + room;
        heap as f64 / self.whole()
    }

    /// The share that may be anything. Without the kernel's numbers, what MemStats does not claim lies outside of the runtime, but for what was
    /// released and may still be there.
    pub fn unknown_share(&self, anatomy: &Anatomy) -> f64 {
        let released = anatomy.go.filter(|_| anatomy.lacks(Missing::Kernel)).map(|go| go.heap_released as f64 / self.whole());
        released.map_or(1.0, |released| released.min(1.0)).min(self.share(Cause::Unknown))
    }

    /// The heaviest with its share.
    pub fn heaviest(&self) -> Option<(Cause, f64)> {
        let (cause, bytes) = self.ranked().first().copied()?;
        Some((cause, bytes as f64 / self.whole()))
    }

    pub fn share(&self, cause: Cause) -> f64 {
        self.bytes(cause) as f64 / self.whole()
    }
}

pub(super) fn weigh(anatomy: &Anatomy, facts: &Facts) -> Weighed {
    let basis = facts.baseline.as_ref().map_or(Basis::Little, |base| basis(anatomy, base));
    let growth = facts.baseline.as_ref().filter(|_| basis == Basis::Growth).map(|base| anatomy.growth(base));
    let mut weighed = Weighed { growth: growth.is_some(), basis, parts: growth.unwrap_or(anatomy.parts), ..Weighed::default() };
    let part = |bucket| weighed.parts.get(bucket).max(0);

    // with GOGC=100 the heap grows to twice what is live, in each cycle: that garbage belongs to the live heap. Where there is
    // more, be it that GOGC allows it, garbage is what this process is made of
    let live = part(Bucket::HeapLive);
    let garbage = part(Bucket::HeapGarbage);
    let normal = if garbage <= live.saturating_add(live / 5) { garbage } else { 0 };
    let garbage = garbage - normal;
    weighed.normal_garbage = normal;
    let gaps = part(Bucket::HeapFragmentation).min(live);
    let sparse = part(Bucket::HeapFragmentation) - gaps;
    let (stacks, unreleased) = (part(Bucket::GoroutineStacks), part(Bucket::HeapUnreleased));
    let (native, metadata) = (part(Bucket::NativeAnon), part(Bucket::RuntimeMetadata));
    let (file, shmem, unexplained) = (part(Bucket::FileMapped), part(Bucket::Shmem), part(Bucket::Unexplained));

    let base = facts.baseline.as_ref().filter(|_| weighed.growth);
    weighed.object_size = anatomy.go.and_then(|now| object_size(&now, base.and_then(|b| b.go)));
    let room = garbage.saturating_add(unreleased).saturating_add(sparse);
    let Allocation { rate, fast, may_be_fast } = allocation(anatomy, facts, room);
    weighed.sparse = sparse;
    (weighed.alloc_rate, weighed.allocates_fast, weighed.may_allocate_fast) = (rate, fast, may_be_fast);

    let mut heap = live.saturating_add(normal).saturating_add(gaps);
    let mut freed = unreleased;
    let pile = facts.goroutines.as_ref().filter(|g| is_pile(g, facts, weighed.growth));
    let average = facts.goroutines.as_ref().map_or(0, |g| average_stack(anatomy, g, facts, weighed.growth, stacks));
    let deep = average >= DEEP_STACK;
    weighed.link = facts.goroutines.as_ref().and_then(|g| link(g, facts, weighed.growth));
    weighed.outgrown = freed.min(stacks.saturating_mul(OUTGROWN));
    // a few small stacks among much freed heap did not leave it behind
    if pile.is_none() && !deep {
        weighed.outgrown = weighed.outgrown.min(stacks);
    }
    freed -= weighed.outgrown;
    let mut goroutines = stacks.saturating_add(weighed.outgrown);
    if let Some(pile) = pile {
        let all = (heap + goroutines + freed + garbage).max(1) as f64;
        let usual = usual(pile, facts, weighed.growth);
        let more = pile.total.saturating_sub(usual.unwrap_or(0));
        let each = |goroutines: u64| u64::try_from(heap).unwrap_or(0) / goroutines.max(1);
        let linked = weighed.link.is_some();
        let leak = pile.leaked.is_some_and(|leaked| is_leak(leaked, more) && each(leaked) <= if linked { LEAKED_EACH } else { HELD_EACH });
        let by_link = linked && (usual.is_some() || pile.total >= MANY_GOROUTINES) && each(more) <= LINKED_EACH;
        let by_size = each(more) <= HELD_EACH && (weighed.growth || goroutines as f64 / all >= PILE_SHARE);
        if leak || by_link || by_size {
            let came_together = by_link && usual.is_some();
            weighed.pile_is_a_guess = !leak && !came_together && (goroutines as f64) < all * DOMINATES;
            weighed.held_by_goroutines = heap;
            goroutines = goroutines.saturating_add(heap);
            heap = 0;
        }
    }
    let recurses = pile.is_none_or(|_| facts.goroutine_growth.is_none()) && has_recursion(facts, stacks);
    weighed.may_be_deep = hides_recursion(facts);
    let of_stacks = if recurses || deep && !pile.is_some_and(|p| p.total >= MANY_GOROUTINES && average < 4 * DEEP_STACK) {
        Cause::DeepStacks
    } else {
        Cause::GoroutinePileup
    };
    let threads = threads(anatomy, facts, native);
    let busy_threads = facts
        .threads
        .zip(facts.goroutines.as_ref())
        .is_some_and(|(threads, goroutines)| threads >= MANY_THREADS && threads.saturating_mul(2) >= goroutines.total);
    weighed.give(if busy_threads && of_stacks == Cause::GoroutinePileup { Cause::ThreadPileup } else { of_stacks }, goroutines);
    weighed.give(if small(facts, weighed.object_size) { Cause::SmallObjects } else { Cause::LiveHeap }, heap);
    weighed.give(Cause::AllocationChurn, garbage);
    let freed = freed.saturating_add(sparse);
    weighed.give(if weighed.allocates_fast { Cause::AllocationChurn } else { Cause::UnreleasedHeap }, freed);
    weighed.give(Cause::ThreadPileup, threads);
    weighed.give(Cause::NativeMemory, native - threads);
    weighed.give(Cause::RuntimeMetadata, metadata);
    weighed.give(Cause::FileMappings, file);
    weighed.give(Cause::Shmem, shmem);
    weighed.give(Cause::Unknown, unexplained);
    weighed
}

/// Whether the growth since the baseline says more than the whole.
fn basis(now: &Anatomy, base: &Anatomy) -> Basis {
    let growth = now.rss_bytes.saturating_sub(base.rss_bytes);
    let same = |missing| now.lacks(missing) == base.lacks(missing);
    let told_alike = now.live_has_garbage == base.live_has_garbage;
    if growth < MIN_GROWTH.max(now.rss_bytes / 20) {
        return Basis::Little;
    }
    if same(Missing::Memstats) && same(Missing::Kernel) && told_alike { Basis::Growth } else { Basis::Unlike }
}

fn object_size(now: &GoMemory, base: Option<GoMemory>) -> Option<u64> {
    let base = base.unwrap_or_default();
    let (bytes, objects) = (now.heap_alloc.checked_sub(base.heap_alloc)?, now.heap_objects.checked_sub(base.heap_objects)?);
    bytes.checked_div(objects)
}

/// By the profile where it tells, since a few large objects may hide behind many small ones in an average.
fn small(facts: &Facts, average: Option<u64>) -> bool {
    let profile = facts.heap.as_ref().filter(|h| h.inuse_space > 0);
    match profile.and_then(|h| Some((h.small_space?, h.inuse_space))) {
        Some((small, all)) => small.saturating_mul(2) >= all,
        None => average.or(profile.and_then(|h| h.inuse_space.checked_div(h.inuse_objects))).is_some_and(|size| size <= SMALL_OBJECT),
    }
}

/// How fast the process allocates, and whether that fills `room` anew before anyone would look twice.
///
/// While it was captured the process answered memtrap's own requests, which allocates too. The two ends of a capture tell if they
/// are far enough apart; else the two MemStats, if there was more between them than the requests alone; else its whole life: churn
/// has turned its heap over many times, a burst has not.
fn allocation(anatomy: &Anatomy, facts: &Facts, room: i64) -> Allocation {
    let goroutines = facts.goroutines.as_ref().map_or(0, |g| g.total);
    let own = OWN_REQUESTS.saturating_add(goroutines.saturating_mul(OWN_PER_GOROUTINE));
    let usable = |seconds: &f64| seconds.is_finite() && *seconds > 0.0;
    let fast = |rate: f64| rate >= FAST && rate * REFILL_SECONDS >= room as f64;
    let known = |rate: f64| Allocation { rate: Some(rate), fast: fast(rate), may_be_fast: false };
    if let Some(Allocated { bytes, seconds }) = facts.allocated.filter(|a| a.seconds.is_finite() && a.seconds >= LONG_ENOUGH) {
        return known(bytes.saturating_sub(own) as f64 / seconds);
    }
    if let Some((bytes, seconds)) = anatomy.allocated_between.zip(facts.memstats_gap_seconds.filter(usable)) {
        let rate = bytes.saturating_sub(own) as f64 / seconds;
        if bytes > own || !fast(bytes as f64 / seconds) {
            return known(rate);
        }
    }
    let Some((go, age)) = anatomy.go.zip(facts.age_seconds.filter(usable)) else { return Allocation::default() };
    let rate = go.total_alloc as f64 / age;
    let turned_over = go.total_alloc >= go.heap_sys.saturating_mul(TURNOVERS);
    Allocation { rate: Some(rate), fast: fast(rate) && turned_over, may_be_fast: fast(rate) && !turned_over }
}

#[derive(Clone, Copy, Debug, Default)]
struct Allocation {
    /// Bytes per second.
    rate: Option<f64>,
    fast: bool,
    may_be_fast: bool,
}

/// The average stack, in bytes; of those that came since the baseline where the growth decides. `stacks` is what is to be explained.
fn average_stack(anatomy: &Anatomy, goroutines: &Goroutines, facts: &Facts, growth: bool, stacks: i64) -> u64 {
    match usual(goroutines, facts, growth) {
        // few more, and what they have is next to nothing: no reason to call them deep
        Some(_) if stacks.unsigned_abs() < MIN_GROWTH => 0,
        Some(usual) => stacks.unsigned_abs() / goroutines.total.saturating_sub(usual).max(1),
        None => anatomy.go.map_or(0, |go| go.stack_inuse) / goroutines.total.max(1),
    }
}

/// A few goroutines that recurse hide behind thousands that wait: the average stack is small, and yet more than they need.
fn has_recursion(facts: &Facts, stacks: i64) -> bool {
    let flat = facts.goroutines.as_ref().map_or(0, |g| g.total.saturating_mul(FLAT_STACK));
    hides_recursion(facts) && stacks.unsigned_abs() >= flat.saturating_mul(2)
}

fn hides_recursion(facts: &Facts) -> bool {
    let total = facts.goroutines.as_ref().map_or(0, |g| g.total);
    // many that recurse are the pile itself
    let few = |deepest: &&Deepest| deepest.count.saturating_mul(10) <= total;
    facts.deepest.as_ref().filter(few).is_some_and(|deepest| deepest.frames.is_none_or(|frames| frames >= RECURSION))
}

/// How many goroutines there were when the process was healthy.
fn usual(goroutines: &Goroutines, facts: &Facts, growth: bool) -> Option<u64> {
    facts.baseline_goroutines.or(goroutines.baseline_total).filter(|_| growth)
}

/// The collector found so many blocked for ever that they are most of what is there to explain.
fn is_leak(leaked: u64, more: u64) -> bool {
    leaked >= MORE_GOROUTINES / 2 && leaked.saturating_mul(2) >= more
}

/// Many goroutines, or many more than usual, in few stacks.
fn is_pile(goroutines: &Goroutines, facts: &Facts, growth: bool) -> bool {
    let top: u64 = goroutines.groups.iter().take(FEW_STACKS).map(|g| g.count).fold(0, u64::saturating_add);
    let usual = usual(goroutines, facts, growth);
    let more = goroutines.total.saturating_sub(usual.unwrap_or(0));
    let many = match usual {
        Some(usual) => more >= MORE_GOROUTINES && more.saturating_mul(4) >= usual,
        None => goroutines.total >= MANY_GOROUTINES,
    };
    let few_stacks = goroutines.groups.is_empty() || top.saturating_mul(2) >= goroutines.total;
    goroutines.leaked.is_some_and(|leaked| is_leak(leaked, more)) || (many && few_stacks)
}

/// The function that the largest group of goroutines is in, and that allocated most of what is live, by itself or below it. Where the
/// growth decides, both are of what came since the baseline.
fn link(goroutines: &Goroutines, facts: &Facts, growth: bool) -> Option<String> {
    if let Some(((heap, group), usual)) =
        facts.heap_growth.as_ref().zip(facts.goroutine_growth.as_ref()).zip(usual(goroutines, facts, growth))
    {
        let more = goroutines.total.saturating_sub(usual).max(1);
        let most = heap.where_goroutines_stand.saturating_mul(2) >= heap.bytes && heap.bytes > 0;
        return (most && group.more >= MORE_GOROUTINES && group.more.saturating_mul(2) >= more).then(|| group.function.clone());
    }
    let heap = facts.heap.as_ref()?;
    let most = |bytes: u64| bytes > 0 && bytes.saturating_mul(2) >= heap.inuse_space;
    let largest = goroutines.groups.first().filter(|g| g.count >= MORE_GOROUTINES && g.count.saturating_mul(4) >= goroutines.total)?;
    let by_itself = heap.top_space.as_ref().filter(|top| most(top.flat) && !top.function.starts_with("runtime."));
    if let Some(top) = by_itself.filter(|top| largest.stack.contains(&top.function)) {
        return Some(top.function.clone());
    }
    // not any common frame: every request has those of its server
    let at = largest.stands_in().filter(|at| most(heap.top_stack_space) && heap.top_stack.iter().any(|f| f == at))?;
    Some(at.to_owned())
}

/// The part of native memory that is stacks of threads.
fn threads(anatomy: &Anatomy, facts: &Facts, native: i64) -> i64 {
    let usual = facts.baseline_threads.unwrap_or(0);
    if facts.threads.unwrap_or(0).saturating_sub(usual) < MANY_THREADS {
        return 0;
    }
    let Some(parts) = anatomy.native else { return 0 };
    let all = parts.malloc.saturating_add(parts.thread_stacks).saturating_add(parts.globals).saturating_add(parts.mappings).max(1);
    i64::try_from(i128::from(native) * i128::from(parts.thread_stacks) / i128::from(all)).unwrap_or(0)
}
