//! What a verdict wants of a decoded profile: totals, heaviest functions, groups of goroutines.

use std::collections::{BTreeMap, HashMap};

use super::sites::{MAX_PLACES, Place};
use crate::pprof::own;
use crate::pprof::top::{self, Options, Table};
use crate::pprof::{Profile, Sample};
use crate::text::one_line;
use crate::verdict::{Allocated, Deepest, GoroutineGrowth, Group, TopLine};

/// Groups of goroutines that are kept, and frames of each.
pub const MAX_GROUPS: usize = 50;
pub const MAX_FRAMES: usize = 64;
/// Frames of a stack that Go's profiles cut off: 128 since Go 1.23, minus some of its own that are hidden.
const CUT_STACK: usize = 120;
/// So many goroutines in one place may hold something that is worth a word.
const CROWD: u64 = 50;
/// Characters of a function's name; Go's own get to some hundred.
const MAX_NAME: usize = 500;

/// The sum of one sample type; `None` if the profile has no such type.
pub fn total(profile: &Profile, sample_type: &str) -> Option<u64> {
    let index = profile.sample_type_names().position(|n| n == sample_type)?;
    Some(sum(profile, index))
}

/// The sum of the first sample type: of a goroutine profile, their number.
pub fn first_total(profile: &Profile) -> u64 {
    sum(profile, 0)
}

/// How many the collector found to be blocked for ever, those in `select {}` left out: many a service ends its `main` in one, and that is
/// no leak. Go 1.27 has no frames of such a goroutine.
pub fn leaked(profile: &Profile) -> u64 {
    let waits_for_nothing = |sample: &Sample<'_>| {
        let mut stack = stack_of(profile, sample.locations).skip_while(|f| *f == "runtime.gopark");
        matches!(stack.next(), None | Some("runtime.block"))
    };
    let counts = profile.samples().filter(|sample| !waits_for_nothing(sample)).map(|s| s.values.first().copied().unwrap_or(0));
    counts.map(|count| count.max(0).unsigned_abs()).fold(0, u64::saturating_add)
}

fn sum(profile: &Profile, index: usize) -> u64 {
    profile.samples().map(|s| s.values.get(index).copied().unwrap_or(0).max(0).unsigned_abs()).fold(0, u64::saturating_add)
}

/// What was allocated between two profiles that were each taken with a forced collection.
pub fn allocated(first: &Profile, last: &Profile) -> Option<Allocated> {
    let nanoseconds = last.time_nanos.checked_sub(first.time_nanos).filter(|n| *n > 0 && first.time_nanos > 0)?;
    let bytes = total(last, "alloc_space")?.checked_sub(total(first, "alloc_space")?)?;
    Some(Allocated { bytes, seconds: nanoseconds as f64 / 1e9, is_undisturbed: false })
}

/// The heaviest functions by flat value; empty if the profile has no such sample type.
pub fn top(profile: &Profile, sample_type: &str, rows: usize) -> Vec<TopLine> {
    let options = Options { sample_index: Some(sample_type.into()), node_count: Some(rows), ..Options::default() };
    top::rows(profile, &options).map(lines).unwrap_or_default()
}

/// What grew in inuse_space, the most first. What memtrap's own questions take is no growth of the service.
pub fn growth(now: &Profile, then: &Profile, rows: usize) -> Vec<TopLine> {
    let (now, then) = (now.without(own::profiles), then.without(own::profiles));
    let mut lines = top::growth(&now, &then, Some("inuse_space")).map(lines).unwrap_or_default();
    lines.retain(|l| l.flat > 0);
    lines.truncate(rows);
    lines
}

/// Where most of the goroutines stand that came since the baseline: in someone's code, unless those of the library are far more.
pub fn goroutine_growth(now: &[Place], then: &[Place]) -> Option<GoroutineGrowth> {
    let grown = newcomers(now, then);
    let most = grown.first()?;
    let own = grown.iter().find(|place| own::whose(&place.function, None) < own::Whose::Library);
    let place = own.filter(|own| own.count.saturating_mul(4) >= most.count).unwrap_or(most);
    Some(GoroutineGrowth { function: place.function.clone(), more: place.count })
}

/// What each place has more than it had, the most first.
pub fn newcomers(now: &[Place], then: &[Place]) -> Vec<Place> {
    let then: HashMap<&str, u64> = then.iter().map(|place| (place.function.as_str(), place.count)).collect();
    let more = |place: &Place| place.count.saturating_sub(then.get(place.function.as_str()).copied().unwrap_or(0));
    let mut grown: Vec<Place> =
        now.iter().map(|place| Place { count: more(place), ..place.clone() }).filter(|place| place.count > 0).collect();
    grown.sort_by_key(|place| std::cmp::Reverse(place.count));
    grown
}

/// All places with how many stand there, the most first.
pub fn places(groups: &[Group]) -> Vec<Place> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for group in groups {
        if let Some(function) = group.stands_in() {
            let sum = counts.entry(function).or_default();
            *sum = sum.saturating_add(group.count);
        }
    }
    let mut places: Vec<Place> = counts.into_iter().map(|(function, count)| Place { function: function.to_owned(), count }).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.count));
    places
}

/// Places that so many stand in that they may hold something.
pub fn crowded(places: &[Place]) -> Vec<Place> {
    places.iter().filter(|place| place.count >= CROWD).take(MAX_PLACES).cloned().collect()
}

fn lines(table: Table) -> Vec<TopLine> {
    table.rows.into_iter().map(|row| TopLine { function: shown(&row.name), flat: row.flat, cum: row.cum }).collect()
}

/// Goroutines by identical stack of functions, the largest group first.
pub fn groups(profile: &Profile, module: Option<&str>) -> Vec<Group> {
    let mut counts: HashMap<&[u32], u64> = HashMap::new();
    for sample in profile.samples() {
        let sum = counts.entry(sample.locations).or_default();
        *sum = sum.saturating_add(sample.values.first().copied().unwrap_or(0).max(0).unsigned_abs());
    }
    // different lines of one function are one stack of functions
    let mut named: HashMap<Vec<&str>, u64> = HashMap::new();
    for (locations, count) in counts {
        let sum = named.entry(stack(profile, locations)).or_default();
        *sum = sum.saturating_add(count);
    }
    let mut groups: Vec<(Vec<&str>, u64)> = named.into_iter().collect();
    groups.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    groups.truncate(MAX_GROUPS);
    let group = |(stack, count): (Vec<&str>, u64)| Group {
        count,
        place: own::place(stack.iter().copied(), module).map(shown),
        stack: stack.into_iter().map(shown).collect(),
        ..Group::default()
    };
    groups.into_iter().map(group).collect()
}

/// Goroutines whose stacks are cut off by the profile, and of one function for the most part.
pub fn recursion(profile: &Profile) -> Option<Deepest> {
    let recurses = |sample: &Sample<'_>| {
        let of =
            |location: &u32| profile.locations.get(*location as usize).and_then(|l| profile.lines(l).first()).map(|line| line.function);
        let mut counts: HashMap<u32, usize> = HashMap::new();
        sample.locations.iter().filter_map(of).for_each(|function| *counts.entry(function).or_default() += 1);
        let (function, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (count * 2 > sample.locations.len()).then_some(function)
    };
    let cut = profile.samples().filter(|sample| sample.locations.len() >= CUT_STACK);
    let (function, count) = cut
        .filter_map(|sample| Some((recurses(&sample)?, sample.values.first().copied().unwrap_or(0).max(0).unsigned_abs())))
        .max_by_key(|(_, count)| *count)?;
    let function = profile.functions.get(function as usize).map(|f| shown(profile.str(f.name)))?;
    Some(Deepest { function, count, frames: None })
}

/// A name as a verdict has it: it may come from anyone, and goes to terminals and tickets.
pub fn shown(name: &str) -> String {
    one_line(name, MAX_NAME)
}

/// Function names, the innermost first.
pub fn stack<'a>(profile: &'a Profile, locations: &[u32]) -> Vec<&'a str> {
    stack_of(profile, locations).take(MAX_FRAMES).collect()
}

fn stack_of<'a>(profile: &'a Profile, locations: &[u32]) -> impl Iterator<Item = &'a str> {
    let lines = locations.iter().filter_map(|l| profile.locations.get(*l as usize)).flat_map(|l| profile.lines(l));
    lines.filter_map(|line| profile.functions.get(line.function as usize)).map(|f| profile.str(f.name))
}

#[cfg(test)]
mod tests {
    use super::super::sites::tests::heap;
    use super::*;
    use crate::pprof::Limits;

    #[test]
    fn what_memtraps_own_questions_take_is_no_growth() {
        let then = heap(&[(&["main.cache", "main.main"], 1, 1 << 20)]);
        let now = heap(&[
            (&["main.cache", "main.main"], 2, 1 << 20),
            (&["compress/flate.NewWriter", "runtime/pprof.newProfileBuilder", "runtime/pprof.profileWriter"], 9, 1 << 20),
            (&["runtime.mallocgc", "runtime/pprof.StartCPUProfile", "net/http/pprof.Profile", "net/http.(*conn).serve"], 7, 1 << 20),
        ]);
        let grown = growth(&now, &then, 10);
        assert!(grown.iter().any(|line| line.function == "main.cache"), "{grown:?}");
        assert!(grown.iter().all(|line| line.function.starts_with("main.")), "{grown:?}");
    }

    #[test]
    fn main_in_an_empty_select_is_not_called_leaked() {
        // of a program whose `main` ends in `select {}`, beside three goroutines that nothing can wake
        let bytes = include_bytes!("../../tests/data/goroutineleak_select.pb.gz");
        let profile = Profile::parse(bytes, &Limits::default()).unwrap();
        assert_eq!((first_total(&profile), leaked(&profile)), (4, 3));
    }
}
