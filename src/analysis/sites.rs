//! Allocation sites of a heap profile, by the function of their owner: who holds how much in objects of which size, what came and went
//! between two profiles, and what goroutines that stand somewhere hold.

use std::collections::{BTreeMap, HashMap};

use super::profiles::shown;
use crate::anatomy::SAMPLING;
use crate::pprof::own::{self, Whose};
use crate::pprof::{LabelValue, Profile, Sample};
use crate::verdict::{Allocs, HeapProfile, Held, Holder, SMALL_OBJECT, Sizes, TopFunction};

/// Holders that a verdict may choose from.
const MAX_HOLDERS: usize = 20;
/// Objects of so many bytes, in whole pages of their own, may never have been touched.
const LARGE_OBJECT: u64 = 32 << 10;
/// Sizes so near the border of small ones that another build or service would be on its other side.
const NEAR: u64 = SMALL_OBJECT / 4;
/// Small objects of one site that a goroutine holds; of large ones it has one.
const MOST_SMALL: f64 = 32.0;
const BUFFER: u64 = 64 << 10;
/// Fewer samples than these make a number that agrees with another by chance.
const ENOUGH_SAMPLES: f64 = 16.0;
/// What two numbers that agree differ by, besides what sampling does.
const AGREES: f64 = 0.05;

/// What is told apart: the owner's function, what it called for it, the size of the objects, and which places lie below, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Site<'a> {
    holder: &'a str,
    leaf: &'a str,
    size: u64,
    below: u8,
    /// Made to answer memtrap.
    ours: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    space: i64,
    objects: i64,
    allocated: i64,
}

/// A place where goroutines stand, and how many do.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub function: String,
    pub count: u64,
}

/// At most so many places are looked for, one bit each.
pub const MAX_PLACES: usize = 8;

#[derive(Clone, Debug, Default)]
pub struct Sites<'a>(HashMap<Site<'a>, Sums>);

impl<'a> Sites<'a> {
    /// `None` if it is no heap profile.
    pub fn of(profile: &'a Profile, module: Option<&str>, places: &[Place]) -> Option<Sites<'a>> {
        let index = |name| profile.sample_type_names().position(|n| n == name);
        let (space, objects, allocated) = (index("inuse_space")?, index("inuse_objects")?, index("alloc_space")?);
        let functions: Vec<(&str, Whose, bool, u8, bool)> = profile
            .functions
            .iter()
            .map(|f| {
                let name = profile.str(f.name);
                let place = places.iter().take(MAX_PLACES).position(|place| place.function == name);
                let ours = own::profiles(name);
                (name, own::whose(name, module), own::allocates(name), place.map_or(0, |bit| 1 << bit), ours)
            })
            .collect();
        let mut sites: HashMap<Site<'a>, Sums> = HashMap::new();
        for sample in profile.samples() {
            let value = |i: usize| sample.values.get(i).copied().unwrap_or(0).max(0);
            let (mut first, mut leaf, mut module, mut own, mut below, mut ours) = (None, None, None, None, 0, false);
            let lines = sample.locations.iter().filter_map(|l| profile.locations.get(*l as usize)).flat_map(|l| profile.lines(l));
            for (name, whose, allocates, bit, is_ours) in lines.filter_map(|line| functions.get(line.function as usize)) {
                first = first.or(Some(*name));
                leaf = leaf.or((!allocates).then_some(*name));
                own = own.or((*whose == Whose::Own).then_some(*name));
                module = module.or((*whose == Whose::Module).then_some(*name));
                below |= bit;
                ours |= is_ours;
            }
            let leaf = leaf.or(first).unwrap_or_default();
            let sums = Sums { space: value(space), objects: value(objects), allocated: value(allocated) };
            let site = Site { holder: own.or(module).unwrap_or(leaf), leaf, size: size(profile, &sample, &sums), below, ours };
            sites.entry(site).or_default().add(&sums);
        }
        Some(Sites(sites))
    }

    /// What there is more of than in `before`, and less, by site.
    pub fn minus(&self, before: &Sites<'a>) -> Sites<'a> {
        let mut sites = self.0.clone();
        for (site, its) in &before.0 {
            sites.entry(*site).or_default().take_off(its);
        }
        Sites(sites)
    }

    /// Takes off what each site allocated meanwhile, at the rate of `allocated`, times `factor`, up to all it has: objects that were allocated
    /// while a collection marked count as live until the next. Returns the bytes.
    pub fn sink(&mut self, allocated: &Sites<'a>, factor: f64) -> u64 {
        let mut sunk = 0;
        for (site, sums) in &mut self.0 {
            let rate = allocated.0.get(site).map_or(0, |its| its.allocated.max(0));
            let floating = ((rate as f64 * factor) as i64).min(sums.space).max(0);
            if floating > 0 {
                sums.objects -= (sums.objects as f64 * (floating as f64 / sums.space as f64)) as i64;
                sums.space -= floating;
                sunk += floating.unsigned_abs();
            }
        }
        sunk
    }

    /// Bytes that were in use here, and are not in `later`, by owner and leaf.
    pub fn went(&self, later: &Sites<'a>) -> u64 {
        let mut less: HashMap<(&str, &str), i64> = HashMap::new();
        for (site, its) in &self.0 {
            *less.entry((site.holder, site.leaf)).or_default() += its.space;
        }
        for (site, its) in &later.0 {
            *less.entry((site.holder, site.leaf)).or_default() -= its.space;
        }
        less.values().filter(|bytes| **bytes > 0).fold(0, |sum, bytes| sum.saturating_add(bytes.unsigned_abs()))
    }

    /// What was allocated since the start, and by whom.
    pub fn allocs(&self) -> Allocs {
        let mut holders: BTreeMap<&str, u64> = BTreeMap::new();
        let mut allocs = Allocs::default();
        for (site, sums) in &self.0 {
            let bytes = sums.allocated.max(0).unsigned_abs();
            allocs.alloc_space = allocs.alloc_space.saturating_add(bytes);
            let sum = holders.entry(site.holder).or_default();
            *sum = sum.saturating_add(if site.ours { 0 } else { bytes });
        }
        let most = holders.into_iter().max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes > 0);
        allocs.top_space = most.map(|(function, flat)| TopFunction { function: shown(function), flat });
        allocs
    }

    /// Of what has something: totals, sizes and holders. Of a difference, what a holder has less at one site is taken off what it has
    /// more at another; holders that shrank are not taken off what others grew by.
    pub fn heap(&self) -> HeapProfile {
        let mut net: HashMap<(&str, bool), i64> = HashMap::new();
        for (site, sums) in &self.0 {
            let its = net.entry((site.holder, site.ours)).or_default();
            *its = its.saturating_add(sums.space);
        }
        let inuse_space = net.values().map(|net| (*net).max(0).unsigned_abs()).fold(0, u64::saturating_add);
        let mut heap = HeapProfile { inuse_space, ..HeapProfile::default() };
        let mut sizes = Sizes::default();
        let mut holders: BTreeMap<&str, Holder> = BTreeMap::new();
        let mut leaves: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let has = |site: &Site<'_>| net.get(&(site.holder, site.ours)).is_some_and(|net| *net > 0);
        for (site, sums) in self.0.iter().filter(|(site, sums)| sums.space > 0 && has(site)) {
            let (space, objects) = (sums.space.unsigned_abs(), sums.objects.max(0).unsigned_abs());
            heap.inuse_objects = heap.inuse_objects.saturating_add(objects);
            for (sum, holds) in [
                (&mut sizes.surely_small, site.size <= SMALL_OBJECT - NEAR),
                (&mut sizes.small, site.size <= SMALL_OBJECT),
                (&mut sizes.perhaps_small, site.size <= SMALL_OBJECT + NEAR),
                (&mut sizes.large, site.size >= LARGE_OBJECT),
            ] {
                *sum = sum.saturating_add(if holds { space } else { 0 });
            }
            if site.ours {
                continue;
            }
            let holder = holders.entry(site.holder).or_default();
            holder.bytes = net.get(&(site.holder, false)).map_or(0, |net| net.unsigned_abs());
            holder.objects = holder.objects.saturating_add(objects);
            holder.large = holder.large.saturating_add(if site.size >= LARGE_OBJECT { space } else { 0 });
            let leaf = leaves.entry((site.holder, site.leaf)).or_default();
            *leaf = leaf.saturating_add(space);
        }
        for ((holder, leaf), bytes) in leaves {
            if let Some(its) = holders.get_mut(holder).filter(|its| bytes.saturating_mul(2) > its.bytes && leaf != holder) {
                its.leaf = Some(shown(leaf));
            }
        }
        let mut holders: Vec<Holder> = holders.into_iter().map(|(name, holder)| Holder { function: shown(name), ..holder }).collect();
        heap.most_objects = holders.iter().max_by_key(|holder| holder.objects).cloned();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
        holders.truncate(MAX_HOLDERS);
        heap.holders = holders;
        heap.sizes = Some(sizes);
        heap
    }

    /// What the goroutines of these places hold. Of what was allocated where they stand, or below, that which their number explains: of large
    /// objects each has one. Of what was allocated elsewhere, that which there is one or two of for each.
    pub fn held(&self, places: &[Place], blocked_for_ever: bool) -> Held {
        let mut held = Held::default();
        let mut by_place = [0u64; MAX_PLACES];
        for (site, sums) in self.0.iter().filter(|(_, sums)| sums.space > 0 && sums.objects > 0) {
            let (space, objects) = (sums.space.unsigned_abs(), sums.objects as f64);
            let samples = objects * (site.size as f64 / SAMPLING as f64).min(1.0);
            let slack = AGREES + 2.0 / samples.max(1.0).sqrt();
            let of = |place: &Place| objects / place.count.max(1) as f64;
            let near = |each: f64, times: f64| (each / times - 1.0).abs() <= slack;
            let linked = places.iter().take(MAX_PLACES).enumerate().filter(|(bit, _)| site.below & (1 << bit) != 0).find(|(_, place)| {
                let each = of(place);
                if site.size > BUFFER { near(each, 1.0) } else { each >= 0.5 && (blocked_for_ever || each <= MOST_SMALL) }
            });
            if let Some((bit, _)) = linked {
                held.linked = held.linked.saturating_add(space);
                if let Some(sum) = by_place.get_mut(bit) {
                    *sum = sum.saturating_add(space);
                }
            } else if samples >= ENOUGH_SAMPLES && places.iter().any(|place| [1.0, 2.0].iter().any(|times| near(of(place), *times))) {
                held.alike = held.alike.saturating_add(space);
            }
        }
        let most = by_place.iter().zip(places).max_by_key(|(bytes, _)| **bytes).filter(|(bytes, _)| **bytes > 0);
        held.function = most.map(|(_, place)| place.function.clone());
        held.of = self.0.values().map(|sums| sums.space.max(0).unsigned_abs()).fold(0, u64::saturating_add);
        held
    }
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.space = self.space.saturating_add(other.space);
        self.objects = self.objects.saturating_add(other.objects);
        self.allocated = self.allocated.saturating_add(other.allocated);
    }

    fn take_off(&mut self, other: &Sums) {
        self.space = self.space.saturating_sub(other.space);
        self.objects = self.objects.saturating_sub(other.objects);
        self.allocated = self.allocated.saturating_sub(other.allocated);
    }
}

/// Go says how large the objects of a sample are; else it is their average.
fn size(profile: &Profile, sample: &Sample<'_>, sums: &Sums) -> u64 {
    let said = sample.labels.iter().find_map(|label| match label.value {
        LabelValue::Number { value, .. } if profile.str(label.key) == "bytes" => u64::try_from(value).ok(),
        _ => None,
    });
    said.unwrap_or_else(|| sums.space.unsigned_abs().checked_div(sums.objects.unsigned_abs()).unwrap_or(0))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pprof::Limits;
    use crate::pprof::testing::profile;

    const TYPES: [(&str, &str); 4] =
        [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")];

    /// Stacks with what is in use, in objects of so many bytes.
    pub(in super::super) fn heap(stacks: &[(&[&str], i64, i64)]) -> Profile {
        let values: Vec<[i64; 4]> = stacks.iter().map(|(_, objects, size)| [*objects, objects * size, *objects, objects * size]).collect();
        let stacks: Vec<(&[&str], &[i64])> = stacks.iter().zip(&values).map(|((stack, ..), values)| (*stack, &values[..])).collect();
        Profile::parse(&profile(&TYPES, &stacks).0, &Limits::default()).unwrap()
    }

    fn places(function: &str, count: u64) -> [Place; 1] {
        [Place { function: function.into(), count }]
    }

    fn held(stacks: &[(&[&str], i64, i64)], place: &str, count: u64, for_ever: bool) -> (u64, u64) {
        let (profile, places) = (heap(stacks), places(place, count));
        let held = Sites::of(&profile, None, &places).unwrap().held(&places, for_ever);
        (held.linked, held.alike)
    }

    #[test]
    fn a_site_of_the_runtime_s_own_has_the_name_of_the_first_frame_past_the_allocator() {
        let profile = heap(&[(&["runtime.mallocgc", "runtime.newobject", "runtime.malg", "runtime.newproc1"], 1000, 480)]);
        let heap = Sites::of(&profile, None, &[]).unwrap().heap();
        assert_eq!(heap.holders[0].function, "runtime.malg");
    }

    #[test]
    fn what_a_holder_has_less_at_one_site_is_taken_off_what_it_has_more_at_another() {
        let before = heap(&[(&["main.load"], 10, 1 << 20), (&["main.shrink"], 30, 1 << 20)]);
        let now = heap(&[(&["main.load"], 4, 1 << 20), (&["main.load"], 40, 256 << 10), (&["main.shrink"], 1, 1 << 20)]);
        let grown = Sites::of(&now, None, &[]).unwrap().minus(&Sites::of(&before, None, &[]).unwrap()).heap();
        assert_eq!((grown.holders.len(), grown.holders[0].bytes, grown.inuse_space), (1, 4 << 20, 4 << 20));
    }

    #[test]
    fn the_holder_is_the_service_s_own_function_with_the_leaf_behind_it() {
        let profile = heap(&[(&["bytes.growSlice", "bytes.(*Buffer).Write", "main.render", "net/http.(*conn).serve"], 10, 4096)]);
        let heap = Sites::of(&profile, None, &[]).unwrap().heap();
        assert_eq!((heap.holders[0].function.as_str(), heap.holders[0].leaf.as_deref()), ("main.render", Some("bytes.growSlice")));
    }

    #[test]
    fn goroutines_hold_a_buffer_each_and_not_what_few_buffers_make() {
        let at: &[&str] = &["main.render", "main.handle"];
        assert_eq!(held(&[(at, 500, 1 << 20)], "main.handle", 500, false).0, 500 << 20);
        // 100 buffers of 4 MiB, and 10,000 goroutines that have none
        assert_eq!(held(&[(at, 100, 4 << 20)], "main.handle", 10_000, false), (0, 0));
        assert_eq!(held(&[(at, 100, 4 << 20)], "main.handle", 10_000, true), (0, 0));
        // what a pool of workers has put into a cache is no multiple of them
        assert_eq!(held(&[(at, 800, 1 << 20)], "main.handle", 500, false), (0, 0));
        assert_eq!(held(&[(at, 2_000_000, 100)], "main.handle", 500, false), (0, 0));
    }

    #[test]
    fn what_there_is_one_of_for_each_goroutine_may_be_theirs() {
        let state: &[&str] = &["main.withState", "net/http.(*Server).Serve"];
        assert_eq!(held(&[(state, 5100, 24 << 10)], "net/http.(*conn).serve", 5000, false), (0, 5100 * (24 << 10)));
        assert_eq!(held(&[(state, 12_500, 24 << 10)], "net/http.(*conn).serve", 5000, false), (0, 0));
    }

    #[test]
    fn what_was_allocated_while_the_collection_marked_is_taken_off_where_it_was_allocated() {
        let stack: [&[&str]; 2] = [&["main.serve"], &["main.load"]];
        let first = heap(&[(stack[0], 4000, 8192), (stack[1], 640, 65536)]);
        let mut now = Sites::of(&first, None, &[]).unwrap();
        let rates = Sites(
            now.0.iter().map(|(site, sums)| (*site, Sums { allocated: if site.size == 8192 { 1 << 30 } else { 0 }, ..*sums })).collect(),
        );
        assert_eq!(now.sink(&rates, 0.02), (1 << 30) / 50);
        let left = now.heap();
        assert_eq!(left.holders[0].function, "main.load");
        assert_eq!(left.holders[0].bytes, 40 << 20);
    }

    #[test]
    fn what_another_collection_took_is_told_by_site() {
        let (first, last) =
            (heap(&[(&["main.pool"], 100, 1 << 20), (&["main.keep"], 10, 1 << 20)]), heap(&[(&["main.keep"], 12, 1 << 20)]));
        let (first, last) = (Sites::of(&first, None, &[]).unwrap(), Sites::of(&last, None, &[]).unwrap());
        assert_eq!((first.went(&last), last.went(&first)), (100 << 20, 2 << 20));
    }
}
