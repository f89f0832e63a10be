//! From buckets to candidates: how many bytes speak for each cause.

use std::collections::BTreeMap;

use super::facts::{Allocated, Deepest, Facts, Goroutines, HeapProfile, MORE_GOROUTINES, SMALL_OBJECT};
use super::{Cause, PASSING};
use crate::anatomy::{Anatomy, Bucket, GoMemory, Missing, Parts};

/// Less growth than this says nothing: RSS counters lag, and every process breathes.
const MIN_GROWTH: u64 = 16 << 20;
/// So many goroutines are a pile where no baseline says what is usual.
const MANY_GOROUTINES: u64 = 1000;
/// A pile is made of few stacks.
const FEW_STACKS: usize = 5;
/// The average stack of a goroutine that recurses. What blocks in a handler needs 2 to 32 KiB, most often less than 8.
const DEEP_STACK: u64 = 64 << 10;
const FLAT_STACK: i64 = 8 << 10;
/// Frames of one stack that only a recursion makes.
const RECURSION: u64 = 10_000;
/// What a stack begins with.
const FIRST_STACK: i64 = 2 << 10;
/// A stack that doubles frees its old copies, and collections halve stacks that are not used: freed spans of up to so many times what
/// stacks have grown by were theirs. Measured: 1 to 4.
const OUTGROWN: i64 = 4;
/// Where nothing tells what goroutines hold: more memory for each than this is not laid at their door.
const HELD_EACH: u64 = 64 << 10;
/// A pile's stacks are at least this share of what it is blamed for then.
const PILE_SHARE: f64 = 0.1;
/// Garbage, and room for it, of up to so many times what is live is what GOGC=100 means; near that another reading would say otherwise.
const NORMAL_GARBAGE: f64 = 1.2;
const NEAR_NORMAL: std::ops::Range<f64> = 0.8..1.6;
/// The heap grows a little over its goal, and its spans are never full.
const OVER_GOAL: u64 = 10;
/// Of those that are small by less than this share, another reading would say otherwise.
const NEAR_HALF: std::ops::Range<f64> = 0.4..0.6;
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
    /// Most of what the pile of goroutines is blamed for may be another's.
    pub pile_is_a_guess: bool,
    /// Heap that is laid at the goroutines' door.
    pub held_by_goroutines: i64,
    /// Freed memory in spans that a few objects keep: it cannot be returned.
    pub sparse: i64,
    /// The part of what is free that the heap will fill before it is next collected.
    pub room: i64,
    /// More than half of what is free is beyond the goal of the heap: however fast the process allocates, it is not for that.
    pub is_beyond_goal: bool,
    /// Freed spans that were stacks.
    pub outgrown: i64,
    /// A function that allocated most of what is there to explain, and that most goroutines stand in.
    pub link: Option<String>,
    /// Few stacks of very many frames are among many: how much each takes is unknown.
    pub may_be_deep: bool,
    /// Garbage within GOGC, which belongs to the live heap, as does `room` then.
    pub normal_garbage: i64,
    pub has_normal_room: bool,
    /// Another reading might have told churn from a live heap otherwise, or small objects from large ones.
    pub near_churn: bool,
    pub near_small: bool,
    /// Who holds the heap, or what it grew by.
    pub holder: Option<Named>,
    /// The part of what was live that a later collection took.
    pub passing: f64,
    /// That as garbage: what only one collection more takes is held by nobody.
    pub passed: i64,
    /// Average size of a live object (of one that came since the baseline), in bytes.
    pub object_size: Option<u64>,
}

/// A holder by name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub function: String,
    pub leaf: Option<String>,
    /// Of what is in use, at least.
    pub share: f64,
    /// Another may hold more: what was never touched may be this one's.
    pub unsure: bool,
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

    /// The heap's share: objects, garbage and the gaps between them, with the room that it will fill.
    pub fn heap_share(&self) -> f64 {
        let part = |bucket| self.parts.get(bucket).max(0);
        let heap = part(Bucket::HeapLive) + part(Bucket::HeapGarbage) + part(Bucket::HeapFragmentation) + self.room - self.sparse;
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

    let live = part(Bucket::HeapLive);
    let garbage = part(Bucket::HeapGarbage);
    let gaps = part(Bucket::HeapFragmentation).min(live);
    let sparse = part(Bucket::HeapFragmentation) - gaps;
    let (stacks, unreleased) = (part(Bucket::GoroutineStacks), part(Bucket::HeapUnreleased));
    let (native, metadata) = (part(Bucket::NativeAnon), part(Bucket::RuntimeMetadata));
    let (file, shmem, unexplained) = (part(Bucket::FileMapped), part(Bucket::Shmem), part(Bucket::Unexplained));

    let base = facts.baseline.as_ref().filter(|_| weighed.growth);
    weighed.object_size = anatomy.go.and_then(|now| object_size(&now, base.and_then(|b| b.go)));

    // what stacks left behind comes first: the copies that they outgrew were there for certain, the others may be of a burst
    let pile = facts.goroutines.as_ref().filter(|g| is_pile(g, facts, weighed.growth));
    let average = facts.goroutines.as_ref().map_or(0, |g| average_stack(anatomy, g, facts, weighed.growth, stacks));
    let deep = average >= DEEP_STACK;
    let grown_by = stacks.saturating_sub(FIRST_STACK.saturating_mul(newcomers(facts, weighed.growth))).max(0);
    let copies = unreleased.min(grown_by);
    weighed.outgrown = if pile.is_some() || deep { unreleased.min(grown_by.saturating_mul(OUTGROWN)) } else { copies };
    let unreleased = unreleased - weighed.outgrown;

    // with GOGC=100 the heap grows to twice what is live, in each cycle: that garbage, and the free room for it, belongs to the live heap.
    // Where there is more, be it that GOGC allows it, garbage is what this process is made of. No further than to its goal the heap grows
    let free = unreleased.saturating_add(sparse);
    let ahead = ahead(anatomy).min(free);
    let Allocation { rate, fast, may_be_fast } = allocation(anatomy, facts, garbage.saturating_add(ahead));
    weighed.is_beyond_goal = ahead < free / 2;
    (weighed.alloc_rate, weighed.allocates_fast, weighed.may_allocate_fast) = (rate, fast, may_be_fast && !weighed.is_beyond_goal);
    let room = if fast { ahead } else { 0 };
    let churned = garbage.saturating_add(room);
    let turnover = churned as f64 / live.max(1) as f64;
    let is_normal = turnover <= NORMAL_GARBAGE;
    weighed.near_churn = NEAR_NORMAL.contains(&turnover) && fast;
    (weighed.room, weighed.has_normal_room) = (room.min(unreleased), is_normal);
    weighed.normal_garbage = if is_normal { garbage } else { 0 };
    weighed.sparse = sparse - (room - weighed.room);
    let freed = unreleased - weighed.room;

    let mut heap = live.saturating_add(gaps).saturating_add(if is_normal { churned } else { 0 });
    weighed.passing = facts.passing.zip(facts.heap.as_ref()).map_or(0.0, |(bytes, heap)| bytes as f64 / heap.inuse_space.max(1) as f64);
    if weighed.passing >= PASSING {
        let whole = anatomy.get(Bucket::HeapLive).max(0) as f64;
        weighed.passed = ((whole * weighed.passing) as i64).min(live);
        heap -= weighed.passed;
    }
    let (pile, goroutines) = pile_up(&mut weighed, facts, pile, &mut heap, stacks, copies);
    weighed.may_be_deep = hides_recursion(facts);
    let recurses = has_recursion(facts, stacks, newcomers(facts, weighed.growth));
    let are_deep = recurses || deep && !pile.is_some_and(|p| p.total >= MANY_GOROUTINES && average < 4 * DEEP_STACK);
    let threads = threads(anatomy, facts, native);
    weighed.give(of_stacks(facts, are_deep), goroutines);
    // what was untouched at the baseline is not what grew
    let then = base.map_or(0, |base| base.over_claim);
    let untouched = Some(anatomy.over_claim.saturating_sub(then)).filter(|bytes| *bytes > anatomy.rss_bytes / 20).unwrap_or(0);
    let profile = facts.heap_growth.as_ref().filter(|_| weighed.growth).or(facts.heap.as_ref());
    weighed.holder = profile.and_then(|profile| holder(profile, untouched));
    let (small, near_small) = small(profile, untouched, weighed.object_size);
    weighed.near_small = near_small;
    weighed.give(if small { Cause::SmallObjects } else { Cause::LiveHeap }, heap);
    weighed.give(Cause::AllocationChurn, weighed.passed.saturating_add(if is_normal { 0 } else { churned }));
    weighed.give(Cause::UnreleasedHeap, freed.saturating_add(weighed.sparse));
    weighed.give(Cause::ThreadPileup, threads);
    weighed.give(Cause::NativeMemory, native - threads);
    weighed.give(Cause::RuntimeMetadata, metadata);
    weighed.give(Cause::FileMappings, file);
    weighed.give(Cause::Shmem, shmem);
    weighed.give(Cause::Unknown, unexplained);
    weighed
}

/// The stacks, and the heap that goroutines hold, which is taken off it.
fn pile_up<'f>(
    weighed: &mut Weighed,
    facts: &'f Facts,
    pile: Option<&'f Goroutines>,
    heap: &mut i64,
    stacks: i64,
    copies: i64,
) -> (Option<&'f Goroutines>, i64) {
    let mut goroutines = stacks.saturating_add(weighed.outgrown);
    let held = if weighed.growth { facts.held_growth.as_ref() } else { facts.held.as_ref() };
    let is_linked = held.is_some_and(|held| held.of > 0 && held.surely.saturating_add(held.linked).saturating_mul(2) >= held.of);
    weighed.link = held.filter(|_| is_linked).and_then(|held| held.function.clone());
    // those that stand where most of the heap was allocated, and as many as it takes to hold it, are a pile sooner
    let pile = pile.or(facts.goroutines.as_ref().filter(|g| is_linked && g.total >= MORE_GOROUTINES));
    if let Some(pile) = pile {
        let usual = usual(pile, facts, weighed.growth);
        let more = pile.total.saturating_sub(usual.unwrap_or(0));
        let leak = pile.leaked.is_some_and(|leaked| is_leak(leaked, more));
        let of = |bytes: u64, all: u64| {
            i64::try_from(u128::from(heap.unsigned_abs()) * u128::from(bytes) / u128::from(all.max(1))).unwrap_or(*heap)
        };
        let (surely, linked, alike) = match held {
            Some(held) => {
                let linked = of(held.linked, held.of);
                let theirs = may_be_theirs(of(held.pointed_into, held.of), goroutines, more) - linked;
                (of(held.surely, held.of), linked, theirs.max(of(held.alike, held.of)))
            }
            None => (0, 0, may_be_theirs(*heap, goroutines, more)),
        };
        // nobody wakes them to let go of it
        let guessed = alike.saturating_add(if leak { 0 } else { linked }).saturating_add(weighed.outgrown - copies);
        weighed.held_by_goroutines = surely.saturating_add(linked).saturating_add(alike).min(*heap);
        goroutines = goroutines.saturating_add(weighed.held_by_goroutines);
        *heap -= weighed.held_by_goroutines;
        weighed.pile_is_a_guess = guessed.saturating_mul(2) > goroutines;
    }
    (pile, goroutines)
}

/// What stacks count for.
fn of_stacks(facts: &Facts, are_deep: bool) -> Cause {
    let busy_threads = facts
        .threads
        .zip(facts.goroutines.as_ref())
        .is_some_and(|(threads, goroutines)| threads >= MANY_THREADS && threads.saturating_mul(2) >= goroutines.total);
    match (are_deep, busy_threads) {
        (true, _) => Cause::DeepStacks,
        (false, true) => Cause::ThreadPileup,
        (false, false) => Cause::GoroutinePileup,
    }
}

/// Whether the growth since the baseline says more than the whole.
fn basis(now: &Anatomy, base: &Anatomy) -> Basis {
    let growth = now.rss_bytes.saturating_sub(base.rss_bytes);
    if growth < MIN_GROWTH.max(now.rss_bytes / 20) {
        return Basis::Little;
    }
    if now.tells_like(base) { Basis::Growth } else { Basis::Unlike }
}

fn object_size(now: &GoMemory, base: Option<GoMemory>) -> Option<u64> {
    let base = base.unwrap_or_default();
    let (bytes, objects) = (now.heap_alloc.checked_sub(base.heap_alloc)?, now.heap_objects.checked_sub(base.heap_objects)?);
    bytes.checked_div(objects)
}

/// Whether small objects are most of what is in use, and whether that is a close call. By the profile where it tells, since a few large
/// objects may hide behind many small ones in an average. What was never touched is taken to be of large ones.
fn small(profile: Option<&HeapProfile>, untouched: u64, average: Option<u64>) -> (bool, bool) {
    let profile = profile.filter(|heap| heap.inuse_space > 0);
    if let Some((sizes, all)) = profile.and_then(|heap| Some((heap.sizes?, heap.inuse_space))) {
        let all = all.saturating_sub(untouched.min(sizes.large)).max(1);
        let most = |bytes: u64| bytes.saturating_mul(2) >= all;
        let near = most(sizes.surely_small) != most(sizes.perhaps_small) || NEAR_HALF.contains(&(sizes.small as f64 / all as f64));
        return (most(sizes.small), near);
    }
    let size = average.or(profile.and_then(|heap| heap.inuse_space.checked_div(heap.inuse_objects)));
    (size.is_some_and(|size| size <= SMALL_OBJECT), size.is_some_and(|size| (SMALL_OBJECT / 4 * 3..=SMALL_OBJECT / 4 * 5).contains(&size)))
}

/// Who holds most for certain: what was never touched may be any large objects'.
fn holder(profile: &HeapProfile, untouched: u64) -> Option<Named> {
    let least = |holder: &super::Holder| holder.bytes.saturating_sub(holder.large.min(untouched));
    let best = profile.holders.iter().max_by_key(|holder| (least(holder), holder.bytes))?;
    let large = profile.sizes.map_or(0, |sizes| sizes.large);
    let all = profile.inuse_space.saturating_sub(large.min(untouched)).max(1);
    let others = profile.holders.iter().filter(|holder| holder.function != best.function);
    Some(Named {
        function: best.function.clone(),
        leaf: best.leaf.clone(),
        share: (least(best) as f64 / all as f64).min(1.0),
        unsure: untouched > 0 && others.map(|holder| holder.bytes).max().is_some_and(|most| most > least(best)),
    })
}

/// How much the heap grows yet before it is collected, by the goal that the runtime has set itself: GOGC, SetGCPercent and both kinds of
/// memory limit are in it.
fn ahead(anatomy: &Anatomy) -> i64 {
    let Some((go, goal)) = anatomy.go.and_then(|go| Some((go, go.next_gc.filter(|goal| *goal > 0)?))) else { return i64::MAX };
    let most = goal.saturating_add(goal / OVER_GOAL);
    i64::try_from(most.saturating_sub(go.heap_alloc)).unwrap_or(i64::MAX)
}

/// The goroutines whose stacks are to be explained.
fn newcomers(facts: &Facts, growth: bool) -> i64 {
    let more = |g: &Goroutines| g.total.saturating_sub(usual(g, facts, growth).unwrap_or(0));
    i64::try_from(facts.goroutines.as_ref().map_or(0, more)).unwrap_or(i64::MAX)
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
    if let Some(Allocated { bytes, seconds, is_undisturbed }) =
        facts.allocated.filter(|a| a.seconds.is_finite() && a.seconds >= LONG_ENOUGH)
    {
        return known(bytes.saturating_sub(if is_undisturbed { 0 } else { own }) as f64 / seconds);
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

/// Heap that nobody says who holds, or that variables hold and goroutines point into: so much may be the goroutines' if it is little for
/// each of so many, and their stacks are a part of it.
fn may_be_theirs(heap: i64, stacks: i64, goroutines: u64) -> i64 {
    let few_each = heap.unsigned_abs() / goroutines.max(1) <= HELD_EACH;
    if few_each && stacks as f64 / heap.saturating_add(stacks).max(1) as f64 >= PILE_SHARE { heap } else { 0 }
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
fn has_recursion(facts: &Facts, stacks: i64, goroutines: i64) -> bool {
    hides_recursion(facts) && stacks >= goroutines.saturating_mul(FLAT_STACK).saturating_mul(2)
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
    // one place is one stack, whatever lies on top of it
    let mut places: BTreeMap<Option<&str>, u64> = BTreeMap::new();
    for group in &goroutines.groups {
        let sum = places.entry(group.stands_in()).or_default();
        *sum = sum.saturating_add(group.count);
    }
    let mut counts: Vec<u64> = places.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let top = counts.iter().take(FEW_STACKS).fold(0u64, |sum, count| sum.saturating_add(*count));
    let usual = usual(goroutines, facts, growth);
    let more = goroutines.total.saturating_sub(usual.unwrap_or(0));
    let many = match usual {
        Some(usual) => more >= MORE_GOROUTINES && more.saturating_mul(4) >= usual,
        None => goroutines.total >= MANY_GOROUTINES,
    };
    let few_stacks = goroutines.groups.is_empty() || top.saturating_mul(2) >= goroutines.total;
    goroutines.leaked.is_some_and(|leaked| is_leak(leaked, more)) || (many && few_stacks)
}

/// The part of native memory that is stacks of threads.
fn threads(anatomy: &Anatomy, facts: &Facts, native: i64) -> i64 {
    let usual = facts.baseline_threads.unwrap_or(0);
    if facts.threads.unwrap_or(0).saturating_sub(usual) < MANY_THREADS {
        return 0;
    }
    let Some(parts) = anatomy.native else { return 0 };
    let all = [parts.malloc, parts.thread_stacks, parts.globals, parts.file_copies, parts.mappings];
    let all = all.into_iter().fold(0, u64::saturating_add).max(1);
    i64::try_from(i128::from(native) * i128::from(parts.thread_stacks) / i128::from(all)).unwrap_or(0)
}
