//! Sentences that were untrue once.

use crate::anatomy::tests::{MIB, evidence};
use crate::anatomy::{Anatomy, Bucket, Evidence, build};
use crate::lang::Lang;
use crate::units::ByteSize;
use crate::verdict::{Cause, Facts, Goroutines, HeapProfile, Sizes, Verdict, decide};

const VERSIONS: [&str; 2] = ["1.21.13", "1.27.3"];

fn said(anatomy: &Anatomy, facts: &Facts) -> Verdict {
    decide(anatomy, facts, Lang::En)
}

#[track_caller]
fn sentence(verdict: &Verdict, with: &str) -> String {
    let found = verdict.evidence.iter().find(|s| s.contains(with));
    found.unwrap_or_else(|| panic!("no `{with}` in {:#?}", verdict.evidence)).clone()
}

#[test]
fn what_a_forced_collection_separates_is_in_the_runtime_s_own_numbers() {
    for version in VERSIONS {
        // what was never touched scales the parts down, and not what MemStats said
        let read = evidence(version, "deep");
        let whole = read.memstats.unwrap();
        let touched = Evidence { rss_bytes: read.rss_bytes / 2, ..read };
        let anatomy = build(&touched);
        let collected = anatomy.collected.unwrap();
        assert_eq!(collected.live + collected.garbage, whole.heap_alloc);
        let sentence = sentence(&said(&anatomy, &Facts::default()), "A forced collection");
        let (live, garbage) = (ByteSize(collected.live), ByteSize(collected.garbage));
        assert!(sentence.contains(&format!("separates {live} live from {garbage} garbage, as MemStats counts them")), "{sentence}");
    }
}

#[test]
fn garbage_is_excused_by_the_collector_s_own_goal_and_not_by_a_variable() {
    for version in VERSIONS {
        let mut read = evidence(version, "small");
        let stats = read.memstats.as_mut().unwrap();
        stats.heap_alloc += 20 * MIB;
        stats.heap_inuse += 20 * MIB;
        stats.next_gc = Some(stats.heap_alloc + MIB);
        let goal = ByteSize(stats.heap_alloc + MIB);
        let within = sentence(&said(&build(&read), &Facts::default()), "A forced collection");
        assert!(within.ends_with(&format!("the collector lets the heap grow to {goal}.")), "{within}");
        read.memstats.as_mut().unwrap().next_gc = Some(MIB);
        let beyond = sentence(&said(&build(&read), &Facts::default()), "A forced collection");
        assert!(!beyond.contains("lets the heap grow"), "{beyond}");
    }
}

#[test]
fn the_live_heap_of_the_summary_is_that_of_the_table() {
    for version in VERSIONS {
        let anatomy = build(&evidence(version, "small"));
        let verdict = said(&anatomy, &Facts::default());
        let live = ByteSize(anatomy.get(Bucket::HeapLive).unsigned_abs());
        assert!(verdict.summary.contains(&format!("{live} of live objects")), "{}\n{:?}", verdict.summary, verdict.anatomy);
    }
}

#[test]
fn arenas_agree_with_the_runtime_only_where_it_was_heard() {
    let read = evidence("1.27.3", "static");
    let shape = |read: &Evidence| sentence(&said(&build(read), &Facts::default()), "smaps:");
    assert!(shape(&read).contains("in agreement with what the runtime says"));
    let unheard = Evidence { memstats: None, memstats_gc: None, ..read };
    assert!(shape(&unheard).ends_with("(found by shape and place)."), "{}", shape(&unheard));
}

#[test]
fn a_growth_that_cannot_be_compared_is_not_called_little() {
    let read = evidence("1.27.3", "small");
    let base = |evidence: &Evidence| Facts { baseline: Some(build(evidence)), ..Facts::default() };
    let basis = |facts: &Facts| sentence(&said(&build(&read), facts), "at the baseline to");
    let without = base(&Evidence { rss_bytes: 20 * MIB, memstats: None, memstats_gc: None, ..read.clone() });
    assert!(basis(&without).ends_with("cannot be compared part by part: the whole RSS decides."), "{}", basis(&without));
    let same = base(&read);
    assert!(basis(&same).ends_with("too little to decide on: the whole RSS does."), "{}", basis(&same));
}

#[test]
fn one_goroutine_that_is_blocked_for_ever_is_said_like_any_number() {
    let goroutines =
        |leaked| Facts { goroutines: Some(Goroutines { total: 12, leaked: Some(leaked), ..Goroutines::default() }), ..Facts::default() };
    let anatomy = build(&evidence("1.27.3", "small"));
    let blocked = |leaked| said(&anatomy, &goroutines(leaked)).evidence.iter().any(|s| s.contains("blocked for ever"));
    assert!(blocked(1) && !blocked(0), "main's own is not among them: it is not counted");
}

#[test]
fn small_objects_are_not_said_to_be_large_on_average() {
    // most bytes in small objects, beside one that MemStats counts and the profile has not seen
    let mut read = evidence("1.27.3", "small");
    for stats in [&mut read.memstats, &mut read.memstats_gc].into_iter().flatten() {
        stats.heap_objects = 1000;
    }
    let heap = HeapProfile { inuse_space: 100 * MIB, inuse_objects: 3_000_000, ..HeapProfile::default() };
    let (small, large) = (100 * MIB, 0);
    let heap = HeapProfile { sizes: Some(Sizes { surely_small: small, small, perhaps_small: small, large }), ..heap };
    let verdict = said(&build(&read), &Facts { heap: Some(heap), ..Facts::default() });
    assert!(verdict.cause == Cause::SmallObjects && verdict.summary.contains(", many and small"), "{}", verdict.summary);
    assert!(!verdict.summary.contains("on average"), "{}", verdict.summary);
}
