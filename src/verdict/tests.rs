use super::*;
use crate::anatomy::tests::{MIB, evidence};
use crate::anatomy::{Evidence, GoMemory, Split, build};

fn goroutines(total: u64, function: &str) -> Option<Goroutines> {
    let stack = ["runtime.gopark", "runtime.chanrecv", function].map(String::from).to_vec();
    let groups = vec![Group { count: total.saturating_sub(4), stack, ..Group::default() }];
    Some(Goroutines { total, groups, ..Goroutines::default() })
}

/// A process that serves with a few goroutines and allocates little.
fn quiet() -> Facts {
    Facts {
        heap: Some(HeapProfile::default()),
        allocs: Some(Allocs::default()),
        goroutines: goroutines(6, "net/http.(*conn).serve"),
        threads: Some(8),
        age_seconds: Some(60.0),
        memstats_gap_seconds: Some(0.5),
        ..Facts::default()
    }
}

fn piled_up(total: u64) -> Facts {
    Facts { goroutines: goroutines(total, "main.handle"), ..quiet() }
}

/// A row of "Where the memory is", in MiB: anon, file, shm, HeapAlloc, HeapInuse, HeapIdle, Released, StackInuse, metadata.
fn row(mib: [u64; 9]) -> Evidence {
    let [anon, file, shmem, heap_alloc, heap_inuse, heap_idle, heap_released, stack_inuse, gc_sys] = mib.map(|m| m * MIB);
    let stats = GoMemory {
        heap_alloc,
        heap_inuse,
        heap_idle,
        heap_released,
        stack_inuse,
        gc_sys,
        heap_sys: heap_inuse + heap_idle,
        stack_sys: stack_inuse,
        heap_objects: 1000,
        total_alloc: heap_inuse + heap_idle,
        ..GoMemory::default()
    };
    Evidence {
        rss_bytes: anon + file + shmem,
        status: Some(Split { anon, file, shmem, swap: None, threads: None }),
        memstats: Some(stats),
        memstats_gc: Some(stats),
        ..Evidence::default()
    }
}

/// In Chinese there is the same number of sentences, each with the same numbers.
#[track_caller]
fn assert_says_the_same(english: &Verdict, chinese: &Verdict) {
    let said = |v: &Verdict| [vec![v.summary.clone()], v.evidence.clone(), v.missing.clone()].concat();
    let numbers = |text: &str| {
        let mut all: Vec<String> = text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|n| n.trim_matches('.').into()).collect();
        all.retain(|n: &String| !n.is_empty());
        all.sort();
        all
    };
    assert_eq!((english.cause, english.confidence, &english.anatomy), (chinese.cause, chinese.confidence, &chinese.anatomy));
    assert_eq!(said(english).len(), said(chinese).len());
    for (en, zh) in said(english).iter().zip(said(chinese)) {
        assert!(zh.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c)), "not in Chinese: {zh}");
        // thousands and 万 are not the same number
        assert!(numbers(en) == numbers(&zh) || en.contains(" objects, HeapInuse"), "{en}\n{zh}");
    }
}

#[track_caller]
fn assert_cause(evidence: &Evidence, facts: &Facts, cause: Cause, explains: Explains) -> Verdict {
    let verdict = decide(&build(evidence), facts, Lang::En);
    assert_eq!((verdict.cause, verdict.go_heap_explains), (cause, explains), "{verdict:#?}");
    assert_says_the_same(&verdict, &decide(&build(evidence), facts, Lang::Zh));
    verdict
}

#[test]
fn every_row_of_the_measured_table_has_its_cause_without_smaps() {
    let with_objects = |mut evidence: Evidence, objects| {
        for stats in [&mut evidence.memstats, &mut evidence.memstats_gc].into_iter().flatten() {
            stats.heap_objects = objects;
        }
        evidence
    };
    let small = with_objects(row([316, 7, 0, 300, 308, 4, 4, 0, 12]), 4_000_000);
    assert_cause(&small, &quiet(), Cause::SmallObjects, Explains::Yes);
    assert_cause(&row([306, 7, 0, 305, 305, 3, 3, 0, 4]), &quiet(), Cause::LiveHeap, Explains::Yes);
    assert_cause(&row([306, 7, 0, 1, 1, 307, 3, 0, 4]), &quiet(), Cause::UnreleasedHeap, Explains::No);
    assert_cause(&row([317, 7, 0, 10, 11, 241, 6, 120, 6]), &piled_up(15_000), Cause::GoroutinePileup, Explains::No);
    assert_cause(&row([413, 7, 0, 1, 1, 259, 3, 256, 4]), &quiet(), Cause::DeepStacks, Explains::No);
    assert_cause(&row([301, 7, 0, 1, 1, 3, 2, 0, 4]), &quiet(), Cause::NativeMemory, Explains::No);
    assert_cause(&row([2, 307, 0, 2, 2, 5, 5, 0, 4]), &quiet(), Cause::FileMappings, Explains::No);
    assert_cause(&row([2, 7, 300, 2, 2, 5, 5, 0, 4]), &quiet(), Cause::Shmem, Explains::No);

    let mut churn = row([166, 7, 0, 63, 65, 99, 5, 0, 11]);
    let (before, after) = (churn.memstats.as_mut().unwrap(), churn.memstats_gc.as_mut().unwrap());
    before.total_alloc = 9000 * MIB;
    (after.heap_alloc, after.total_alloc) = (8 * MIB, 9120 * MIB);
    let verdict = assert_cause(&churn, &quiet(), Cause::AllocationChurn, Explains::Yes);
    assert_eq!(verdict.confidence, Confidence::Medium, "no smaps: {verdict:#?}");
}

#[test]
fn every_recorded_process_has_its_cause_in_both_versions() {
    for version in ["1.21.13", "1.27.3"] {
        let check = |program, facts: &Facts, cause, explains| {
            let verdict = assert_cause(&evidence(version, program), facts, cause, explains);
            assert_eq!(verdict.confidence, Confidence::High, "{version} {program}: {verdict:#?}");
        };
        check("small", &quiet(), Cause::SmallObjects, Explains::Yes);
        check("lazy", &quiet(), Cause::UnreleasedHeap, Explains::No);
        check("stacks", &piled_up(15_000), Cause::GoroutinePileup, Explains::No);
        // most of it are stacks that may have been, and may have been a burst as well
        let shrunk = assert_cause(&evidence(version, "shrunk"), &piled_up(15_000), Cause::GoroutinePileup, Explains::No);
        assert_eq!(shrunk.confidence, Confidence::Medium, "{version}: {shrunk:#?}");
        check("deep", &quiet(), Cause::DeepStacks, Explains::No);
    }
    let check = |program, facts: &Facts, cause, explains| {
        let verdict = assert_cause(&evidence("1.27.3", program), facts, cause, explains);
        assert_eq!(verdict.confidence, Confidence::High, "{program}: {verdict:#?}");
    };
    check("freed", &quiet(), Cause::UnreleasedHeap, Explains::No);
    check("pools", &quiet(), Cause::LiveHeap, Explains::Yes);
    check("mmap", &quiet(), Cause::NativeMemory, Explains::No);
    check("cmalloc", &quiet(), Cause::NativeMemory, Explains::No);
    check("cthreads", &Facts { threads: Some(125), ..quiet() }, Cause::ThreadPileup, Explains::No);
    check("file", &quiet(), Cause::FileMappings, Explains::No);
    check("shm", &quiet(), Cause::Shmem, Explains::No);
    check("static", &quiet(), Cause::LiveHeap, Explains::Yes);
}

#[test]
fn churn_is_churn_whether_the_garbage_is_collected_or_not() {
    for version in ["1.21.13", "1.27.3"] {
        let mut evidence = evidence(version, "churn");
        let facts = Facts { gogc: Some(Gogc::Percent(400)), memstats_gap_seconds: Some(0.1), ..quiet() };
        for stats in [&mut evidence.memstats, &mut evidence.memstats_gc].into_iter().flatten() {
            stats.total_alloc = 20_000 * MIB;
        }
        evidence.memstats_gc.as_mut().unwrap().total_alloc += 100 * MIB;
        assert_cause(&evidence, &facts, Cause::AllocationChurn, Explains::Yes);
    }
}

#[test]
fn garbage_as_gogc_allows_it_is_not_churn() {
    let mut evidence = row([420, 7, 0, 400, 404, 4, 2, 0, 8]);
    evidence.memstats.as_mut().unwrap().next_gc = Some(410 * MIB);
    evidence.memstats_gc.as_mut().unwrap().heap_alloc = 205 * MIB;
    let verdict = assert_cause(&evidence, &quiet(), Cause::LiveHeap, Explains::Yes);
    assert!(verdict.evidence.iter().any(|e| e.contains("lets the heap grow to 410MiB")), "{:#?}", verdict.evidence);
    // it is not called live either
    assert!(verdict.summary.contains("205MiB of live objects, 195MiB of garbage"), "{}", verdict.summary);
}

#[test]
fn a_burst_is_not_churn() {
    let mut evidence = row([506, 7, 0, 5, 5, 500, 3, 0, 4]);
    // no more than memtrap's own requests, in a gap so short that it looks fast
    evidence.memstats_gc.as_mut().unwrap().total_alloc += 4 * MIB;
    let facts = Facts { memstats_gap_seconds: Some(0.01), age_seconds: Some(10.0), ..quiet() };
    // its whole life is that burst, and it may go on
    let verdict = assert_cause(&evidence, &facts, Cause::UnreleasedHeap, Explains::No);
    let watched = |bytes| Facts { allocated: Some(Allocated { bytes, seconds: 30.0, is_undisturbed: false }), ..facts.clone() };
    let certain = assert_cause(&evidence, &watched(4 * MIB), Cause::UnreleasedHeap, Explains::No);
    assert!(certain.confidence > verdict.confidence, "{certain:#?}");
    assert_cause(&evidence, &watched(900 * MIB), Cause::AllocationChurn, Explains::Yes);
}

#[test]
fn spans_that_a_few_objects_keep_are_freed_memory_and_no_live_heap() {
    let verdict = assert_cause(&row([206, 4, 0, 12, 190, 4, 2, 0, 4]), &quiet(), Cause::UnreleasedHeap, Explains::No);
    assert!(verdict.summary.contains("keep spans that are mostly empty"), "{}", verdict.summary);
}

/// A heap profile of one holder and others that have less.
fn held_by(function: &str, mib: u64, of: u64) -> Option<HeapProfile> {
    let holder = |function: &str, mib: u64| Holder { function: function.into(), bytes: mib * MIB, ..Holder::default() };
    let mut holders = vec![holder(function, mib)];
    let mut left = of - mib;
    while left > 0 {
        let part = left.min(mib / 2 + 1);
        holders.push(holder("main.another", part));
        left -= part;
    }
    Some(HeapProfile { inuse_space: of * MIB, holders, ..HeapProfile::default() })
}

/// What the goroutines in `main.handle` hold, of so many MiB.
fn held(linked: u64, alike: u64, of: u64) -> Option<Held> {
    Some(Held { of: of * MIB, linked: linked * MIB, alike: alike * MIB, function: Some("main.handle".into()), surely: 0, pointed_into: 0 })
}

#[test]
fn goroutines_that_hold_heap_are_called_a_pile_up() {
    let mut evidence = row([250, 8, 0, 206, 207, 4, 3, 39, 5]);
    evidence.rss_bytes = 258 * MIB;
    let verdict = assert_cause(&evidence, &Facts { heap: None, ..piled_up(20_000) }, Cause::GoroutinePileup, Explains::Yes);
    assert!(verdict.confidence < Confidence::High, "nothing but their number speaks for it");

    let linked = Facts { heap: held_by("main.handle", 190, 200), held: held(190, 0, 200), ..piled_up(20_000) };
    let verdict = assert_cause(&evidence, &linked, Cause::GoroutinePileup, Explains::Yes);
    assert!(verdict.evidence.iter().any(|e| e.contains("they may hold it")), "{:#?}", verdict.evidence);
    assert!(verdict.confidence < Confidence::High, "they may as well have put it into a cache: {verdict:#?}");
    let leaked = Facts { goroutines: linked.goroutines.map(|g| Goroutines { leaked: Some(g.total), ..g }), ..linked };
    let verdict = assert_cause(&evidence, &leaked, Cause::GoroutinePileup, Explains::Yes);
    assert!(verdict.evidence.iter().any(|e| e.contains("they hold it")), "{:#?}", verdict.evidence);
}

#[test]
fn idle_goroutines_are_not_blamed_for_what_grew_beside_them() {
    let now = row([270, 8, 0, 206, 207, 4, 3, 39, 5]);
    let facts = Facts { heap: held_by("main.remember", 195, 200), held: held(0, 0, 200), ..piled_up(20_000) };
    assert_cause(&now, &facts, Cause::LiveHeap, Explains::Yes);
    // nor with a baseline, however many came with it
    let base = build(&row([60, 8, 0, 6, 7, 4, 3, 35, 5]));
    let grown = held_by("main.remember", 195, 200);
    let facts =
        Facts { baseline: Some(base), baseline_goroutines: Some(10_000), heap_growth: grown, held_growth: held(0, 0, 200), ..facts };
    assert_cause(&now, &facts, Cause::LiveHeap, Explains::Yes);
}

#[test]
fn a_part_of_the_heap_may_be_the_goroutines_and_the_rest_another_s() {
    let now = row([270, 8, 0, 206, 207, 4, 3, 39, 5]);
    let facts = Facts { heap: held_by("main.remember", 150, 200), held: held(50, 0, 200), ..piled_up(20_000) };
    let verdict = assert_cause(&now, &facts, Cause::LiveHeap, Explains::Yes);
    assert!(verdict.evidence.iter().any(|e| e.contains("goroutines 90.")), "{:#?}", verdict.evidence);
}

#[test]
fn handlers_that_hang_are_named_and_not_what_the_server_reads_with_beside_them() {
    let group = |count, place: &str, state: &str| Group {
        count,
        state: Some(state.into()),
        stack: vec!["runtime.gopark".into(), place.into()],
        place: Some(place.into()),
        ..Group::default()
    };
    let groups = vec![group(2000, "net/http.(*connReader).backgroundRead", "IO wait"), group(1990, "main.checkout", "sync.Mutex.Lock")];
    let goroutines = Some(Goroutines { total: 4000, groups, ..Goroutines::default() });
    let verdict = assert_cause(&row([70, 8, 0, 3, 4, 4, 3, 60, 5]), &Facts { goroutines, ..quiet() }, Cause::GoroutinePileup, Explains::No);
    assert!(verdict.summary.contains("1990 of them in main.checkout"), "{}", verdict.summary);
    assert!(verdict.evidence.iter().any(|e| e.contains("in main.checkout, state: sync.Mutex.Lock")), "{:#?}", verdict.evidence);
    let advice = crate::report::advice_for_waiting(&verdict).unwrap();
    assert!(advice.contains("They wait for a lock"), "{advice}");
}

#[test]
fn a_pool_of_workers_is_not_blamed_for_what_they_put_into_a_cache() {
    let facts = Facts { heap: held_by("main.handle", 400, 400), held: held(0, 0, 400), ..piled_up(504) };
    assert_cause(&row([410, 8, 0, 400, 401, 4, 3, 1, 5]), &facts, Cause::LiveHeap, Explains::Yes);
}

#[test]
fn a_few_hundred_handlers_with_a_buffer_each_are_a_pile_but_never_for_certain() {
    let facts = Facts { heap: held_by("main.handle", 395, 400), held: held(395, 0, 400), ..piled_up(404) };
    let verdict = assert_cause(&row([410, 8, 0, 400, 401, 4, 3, 2, 5]), &facts, Cause::GoroutinePileup, Explains::Yes);
    assert!(verdict.confidence < Confidence::High, "{verdict:#?}");
}

#[test]
fn leaked_goroutines_are_not_blamed_for_a_heap_that_others_allocated() {
    let mut facts = piled_up(204);
    facts.goroutines.as_mut().unwrap().leaked = Some(200);
    facts.heap = held_by("main.loadCache", 600, 600);
    facts.held = held(0, 0, 600);
    let verdict = assert_cause(&row([610, 8, 0, 600, 601, 4, 3, 1, 5]), &facts, Cause::LiveHeap, Explains::Yes);
    assert!(verdict.evidence.iter().any(|e| e.contains("finds 200 goroutines blocked for ever")), "{:#?}", verdict.evidence);
}

#[test]
fn a_recursion_among_thousands_of_idle_goroutines_is_called_deep_stacks() {
    let base = build(&row([30, 8, 0, 4, 5, 4, 3, 17, 5]));
    let now = row([262, 8, 0, 4, 5, 4, 3, 248, 5]);
    let deepest = Some(Deepest { function: "main.recurse".into(), count: 1, frames: Some(200_000) });
    let facts = Facts { deepest, ..piled_up(10_007) };
    let verdict = assert_cause(&now, &facts, Cause::DeepStacks, Explains::No);
    assert!(verdict.summary.contains("the deepest in main.recurse") && verdict.confidence == Confidence::Low, "{verdict:#?}");
    let grown = Facts { baseline: Some(base), baseline_goroutines: Some(10_004), deepest: None, ..facts };
    let verdict = assert_cause(&now, &grown, Cause::DeepStacks, Explains::No);
    assert_eq!(verdict.confidence, Confidence::Medium, "no smaps, and no other doubt: {verdict:#?}");
}

#[test]
fn the_growth_is_named_after_who_grew() {
    let base = build(&row([320, 8, 0, 300, 305, 4, 3, 1, 5]));
    let (heap, heap_growth) = (held_by("main.loadCache", 300, 450), held_by("main.leakSessions", 150, 150));
    let facts = Facts { baseline: Some(base), heap, heap_growth, ..quiet() };
    let now = row([470, 8, 0, 450, 455, 4, 3, 1, 5]);
    let verdict = assert_cause(&now, &facts, Cause::LiveHeap, Explains::Yes);
    assert!(verdict.summary.contains("most of it from main.leakSessions"), "{}", verdict.summary);

    let base = build(&row([120, 8, 0, 4, 5, 4, 3, 80, 5]));
    let more = Some(GoroutineGrowth { function: "main.leakedWorker".into(), more: 9000 });
    let facts = Facts { baseline: Some(base), baseline_goroutines: Some(10_000), goroutine_growth: more, ..piled_up(19_000) };
    let verdict = assert_cause(&row([195, 8, 0, 4, 5, 4, 3, 155, 5]), &facts, Cause::GoroutinePileup, Explains::No);
    assert!(verdict.summary.contains("9000 more in main.leakedWorker than at the baseline"), "{}", verdict.summary);
}

#[test]
fn most_is_said_from_half_on() {
    let holders = vec![Holder { function: "main.site11".into(), bytes: 24 * MIB, ..Holder::default() }];
    let heap = Some(HeapProfile { inuse_space: 400 * MIB, holders, ..HeapProfile::default() });
    let verdict = assert_cause(&row([410, 8, 0, 400, 401, 4, 3, 1, 5]), &Facts { heap, ..quiet() }, Cause::LiveHeap, Explains::Yes);
    assert!(verdict.summary.contains("the largest part (6%) from main.site11"), "{}", verdict.summary);
}

#[test]
fn profiles_of_another_process_make_no_verdict_certain() {
    let why = "`pprof` at 127.0.0.1:6060 belongs to another process than 7";
    let evidence = row([306, 7, 0, 305, 305, 3, 3, 0, 4]);
    let sure = assert_cause(&evidence, &quiet(), Cause::LiveHeap, Explains::Yes);
    let verdict = decide(&build(&evidence), &Facts { mistaken: vec![why.into()], ..quiet() }, Lang::En);
    assert_eq!((sure.confidence, verdict.confidence), (Confidence::High, Confidence::Low));
    assert_eq!(verdict.missing[0], why);
    assert!(verdict.summary.ends_with("; the profiles may be of another process."), "{}", verdict.summary);
}

#[test]
fn without_procfs_memstats_tell_that_it_is_not_the_heap() {
    let evidence = Evidence { status: None, rss_bytes: 448 * MIB, ..row([448, 0, 0, 40, 41, 8, 6, 1, 5]) };
    let verdict = assert_cause(&evidence, &quiet(), Cause::Unknown, Explains::No);
    assert!(verdict.summary.contains("lie outside of what the Go runtime knows of"), "{}", verdict.summary);
    assert_eq!(verdict.confidence, Confidence::Low);
}

#[test]
fn a_ballast_costs_certainty() {
    // 1 GiB never touched, and 600 MiB of garbage; smaps tells how much is there, not which
    let mut evidence = evidence("1.27.3", "small");
    let smaps = build(&evidence).arena_rss.unwrap();
    for (stats, alloc) in [(&mut evidence.memstats, 1624 * MIB), (&mut evidence.memstats_gc, 1024 * MIB)] {
        let stats = stats.as_mut().unwrap();
        (stats.heap_alloc, stats.heap_inuse) = (alloc, 1624 * MIB);
    }
    let verdict = decide(&build(&evidence), &quiet(), Lang::En);
    assert!(smaps < 1024 * MIB && verdict.confidence == Confidence::Low, "{verdict:#?}");
}

#[test]
fn a_small_leak_of_goroutines_is_not_blamed_for_a_large_heap() {
    let mut facts = piled_up(110);
    facts.goroutines.as_mut().unwrap().leaked = Some(60);
    assert_cause(&row([1010, 8, 0, 1000, 1001, 4, 3, 1, 5]), &facts, Cause::LiveHeap, Explains::Yes);
}

#[test]
fn goroutines_that_come_to_those_that_are_always_there_are_a_pile_up() {
    let base = build(&row([150, 8, 0, 60, 65, 4, 3, 80, 5]));
    let facts = Facts { baseline: Some(base), baseline_goroutines: Some(10_000), ..piled_up(16_000) };
    let verdict = assert_cause(&row([280, 8, 0, 130, 135, 4, 3, 135, 5]), &facts, Cause::GoroutinePileup, Explains::Partly);
    assert!(
        verdict.evidence.iter().any(|e| e == "There are 16000 goroutines, 10000 at the baseline; their stacks take 8.64KiB on average.")
    );
}

#[test]
fn threads_in_blocking_calls_are_called_threads() {
    let facts = Facts { threads: Some(2010), ..piled_up(2020) };
    assert_cause(&row([70, 8, 0, 3, 4, 4, 3, 60, 5]), &facts, Cause::ThreadPileup, Explains::No);
}

#[test]
fn a_few_hundred_goroutines_that_the_collector_calls_leaked_are_the_cause() {
    let mut facts = Facts { heap: held_by("main.handle", 200, 200), held: held(200, 0, 200), ..piled_up(220) };
    facts.goroutines.as_mut().unwrap().leaked = Some(200);
    assert_cause(&row([230, 8, 0, 210, 211, 4, 3, 2, 5]), &facts, Cause::GoroutinePileup, Explains::Yes);
}

#[test]
fn many_goroutines_beside_a_leak_are_not_its_cause() {
    // 5,000 idle connections, as always, and a cache that grows
    let facts = |baseline| Facts { heap: None, baseline, baseline_goroutines: Some(5000), ..piled_up(5010) };
    let base = build(&row([150, 8, 0, 100, 105, 4, 3, 40, 5]));
    let now = row([1150, 8, 0, 1100, 1105, 4, 3, 40, 5]);
    assert_cause(&now, &facts(Some(base)), Cause::LiveHeap, Explains::Yes);
    assert_cause(&now, &Facts { heap: None, ..piled_up(5010) }, Cause::LiveHeap, Explains::Yes);
}

#[test]
fn the_growth_decides_where_there_is_a_baseline() {
    let base = build(&row([520, 8, 0, 500, 505, 4, 3, 1, 5]));
    let now = row([820, 8, 0, 500, 505, 4, 3, 1, 5]);
    let facts = Facts { baseline: Some(base), ..quiet() };
    let verdict = assert_cause(&now, &facts, Cause::NativeMemory, Explains::No);
    assert!(verdict.summary.starts_with("RSS grew by 300MiB to 828MiB"), "{}", verdict.summary);
    assert_cause(&now, &quiet(), Cause::LiveHeap, Explains::Partly);
}

#[test]
fn a_baseline_that_did_not_grow_decides_nothing() {
    let now = row([520, 8, 0, 500, 505, 4, 3, 1, 5]);
    let facts = Facts { baseline: Some(build(&now)), ..quiet() };
    assert_cause(&now, &facts, Cause::LiveHeap, Explains::Yes);
}

#[test]
fn without_memstats_the_heap_is_unknown_but_what_the_kernel_counts_is_not() {
    let blind = |program| Evidence { memstats: None, memstats_gc: None, ..evidence("1.27.3", program) };
    let nothing = Facts { threads: Some(6), ..Facts::default() };
    let verdict = assert_cause(&blind("small"), &nothing, Cause::Unknown, Explains::Unknown);
    assert_eq!(verdict.confidence, Confidence::Low);
    assert!(verdict.missing.iter().any(|m| m.starts_with("memstats.txt is missing")), "{:?}", verdict.missing);
    assert_cause(&blind("shm"), &nothing, Cause::Shmem, Explains::No);
    let verdict = assert_cause(&blind("cmalloc"), &nothing, Cause::NativeMemory, Explains::No);
    assert_eq!(verdict.confidence, Confidence::Medium);
}

#[test]
fn with_nothing_at_all_nothing_is_claimed() {
    let verdict = assert_cause(&Evidence { rss_bytes: MIB, ..Evidence::default() }, &Facts::default(), Cause::Unknown, Explains::Unknown);
    assert_eq!((verdict.confidence, verdict.missing.len()), (Confidence::Low, 3));
}

#[test]
fn halves_of_two_kinds_are_mixed() {
    let verdict = assert_cause(&row([360, 180, 0, 175, 176, 4, 3, 0, 5]), &quiet(), Cause::Mixed, Explains::Partly);
    assert!(verdict.summary.contains("no part dominates"), "{}", verdict.summary);
}

#[test]
fn an_oom_kill_is_in_the_summary() {
    let facts = Facts { end: Some(Ending { gone: true, oom_killed: Some(true) }), ..quiet() };
    let verdict = decide(&build(&row([306, 7, 0, 305, 305, 3, 3, 0, 4])), &facts, Lang::En);
    assert!(verdict.summary.ends_with("; the process was OOM-killed meanwhile."), "{}", verdict.summary);
}

#[test]
fn names_from_the_process_cannot_break_the_summary() {
    let heap = held_by(&format!("main.\u{1b}[31m\n{}", "é".repeat(10_000)), 300, 300);
    let verdict = decide(&build(&row([306, 7, 0, 305, 305, 3, 3, 0, 4])), &Facts { heap, ..quiet() }, Lang::En);
    assert!(verdict.summary.chars().count() < 400 && !verdict.summary.contains(['\n', '\u{1b}']), "{}", verdict.summary);
}

#[test]
fn the_file_has_the_names_of_the_contract() {
    let json = serde_json::to_value(decide(&build(&evidence("1.27.3", "mmap")), &quiet(), Lang::En)).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["question"], QUESTION);
    assert_eq!((&json["go_heap_explains"], &json["cause"], &json["confidence"]), (&"no".into(), &"native_memory".into(), &"high".into()));
    assert_eq!(json["anatomy"][6]["bucket"], "native_anon");
    for field in ["summary", "evidence", "missing", "rss_bytes", "top", "goroutines", "next"] {
        assert!(json.get(field).is_some(), "{field}");
    }
    for bucket in Bucket::ALL {
        assert_eq!(serde_json::to_value(bucket).unwrap(), bucket.name());
    }
}

#[test]
fn gogc_is_read_as_the_runtime_reads_it() {
    let cases =
        [("off", Gogc::Off), ("-1", Gogc::Off), ("400", Gogc::Percent(400)), ("", Gogc::Percent(100)), ("many", Gogc::Percent(100))];
    for (value, expected) in cases {
        assert_eq!(Gogc::parse(value), expected, "{value}");
    }
}

#[test]
fn only_the_room_up_to_the_heap_s_goal_is_churn_s() {
    // 500 MiB that a burst left, and a service that goes on allocating 30 MiB a second in a heap of 10 MiB
    let mut evidence = row([516, 7, 0, 10, 12, 500, 3, 0, 4]);
    evidence.memstats.as_mut().unwrap().next_gc = Some(16 * MIB);
    let busy = Facts { allocated: Some(Allocated { bytes: 900 * MIB, seconds: 30.0, is_undisturbed: false }), ..quiet() };
    let verdict = assert_cause(&evidence, &busy, Cause::UnreleasedHeap, Explains::No);
    // how fast it allocated over its life does not matter either
    assert_eq!(verdict.confidence, Confidence::Medium, "no smaps, and no other doubt: {verdict:#?}");
    let by_life = Facts { memstats_gap_seconds: None, age_seconds: Some(1.0), ..quiet() };
    assert_eq!(assert_cause(&evidence, &by_life, Cause::UnreleasedHeap, Explains::No).confidence, Confidence::Medium);
    // the same with a goal that high is the room of the next cycle
    evidence.memstats.as_mut().unwrap().next_gc = Some(520 * MIB);
    assert_cause(&evidence, &busy, Cause::AllocationChurn, Explains::Yes);
}

#[test]
fn stacks_that_never_grew_left_nothing_behind() {
    // 20,000 goroutines with the stacks that they began with, and 200 MiB that a burst left
    let verdict = assert_cause(&row([255, 8, 0, 4, 5, 204, 3, 40, 5]), &piled_up(20_000), Cause::UnreleasedHeap, Explains::No);
    assert!(verdict.evidence.iter().all(|e| !e.contains("old copies of stacks")), "{:#?}", verdict.evidence);
}

#[test]
fn a_pile_that_is_mostly_a_guess_is_never_certain() {
    // stacks of 4 KiB, which grew once, and four times as much free memory
    let now = row([420, 8, 0, 4, 5, 304, 3, 80, 5]);
    let verdict = decide(&build(&Evidence { smaps: None, ..now }), &piled_up(20_000), Lang::En);
    assert!(verdict.cause != Cause::GoroutinePileup || verdict.confidence < Confidence::High, "{verdict:#?}");
}

#[test]
fn what_was_never_touched_holds_nothing_that_is_resident() {
    // a slab of 1 GiB, of which nothing was touched, and 150 MiB of sessions
    let mut evidence = evidence("1.27.3", "small");
    for stats in [&mut evidence.memstats, &mut evidence.memstats_gc].into_iter().flatten() {
        (stats.heap_alloc, stats.heap_inuse) = (stats.heap_alloc + 1024 * MIB, stats.heap_inuse + 1024 * MIB);
    }
    let holder = |function: &str, bytes: u64, large: u64| Holder { function: function.into(), bytes, large, ..Holder::default() };
    let (slab, sessions) = (holder("main.newSlab", 1024 * MIB, 1024 * MIB), holder("main.open", 300 * MIB, 0));
    let sizes = Some(Sizes { surely_small: 300 * MIB, small: 300 * MIB, perhaps_small: 300 * MIB, large: 1024 * MIB });
    let heap = HeapProfile { inuse_space: 1324 * MIB, sizes, holders: vec![slab, sessions], ..HeapProfile::default() };
    let verdict = assert_cause(&evidence, &Facts { heap: Some(heap), ..quiet() }, Cause::SmallObjects, Explains::Yes);
    assert!(verdict.summary.contains("from main.open") && !verdict.summary.contains("newSlab"), "{}", verdict.summary);
    assert!(verdict.confidence < Confidence::High, "{verdict:#?}");
}

#[test]
fn near_the_border_of_small_objects_nothing_is_certain() {
    let now = row([410, 8, 0, 400, 401, 4, 3, 1, 5]);
    let of = |small: u64| {
        let sizes = Some(Sizes { surely_small: small * MIB, small: small * MIB, perhaps_small: small * MIB, large: 0 });
        let facts = Facts { heap: Some(HeapProfile { inuse_space: 400 * MIB, sizes, ..HeapProfile::default() }), ..quiet() };
        let verdict = decide(&build(&now), &facts, Lang::En);
        (verdict.cause, verdict.confidence)
    };
    assert_eq!((of(390), of(10)), ((Cause::SmallObjects, Confidence::High), (Cause::LiveHeap, Confidence::High)));
    assert_eq!((of(210), of(190)), ((Cause::SmallObjects, Confidence::Medium), (Cause::LiveHeap, Confidence::Medium)));
    // objects of 490 bytes are small, and as good as not
    let sizes = Some(Sizes { surely_small: 0, small: 400 * MIB, perhaps_small: 400 * MIB, large: 0 });
    let facts = Facts { heap: Some(HeapProfile { inuse_space: 400 * MIB, sizes, ..HeapProfile::default() }), ..quiet() };
    assert_eq!(decide(&build(&now), &facts, Lang::En).confidence, Confidence::Medium);
}

#[test]
fn sizes_are_those_of_what_grew_where_the_growth_decides() {
    let base = build(&row([320, 8, 0, 300, 305, 4, 3, 1, 5]));
    let of = |small: u64, all: u64| {
        let sizes = Some(Sizes { surely_small: small * MIB, small: small * MIB, perhaps_small: small * MIB, large: 0 });
        Some(HeapProfile { inuse_space: all * MIB, sizes, ..HeapProfile::default() })
    };
    let facts = Facts { baseline: Some(base), heap: of(0, 450), heap_growth: of(150, 150), ..quiet() };
    assert_cause(&row([470, 8, 0, 450, 455, 4, 3, 1, 5]), &facts, Cause::SmallObjects, Explains::Yes);
}

#[test]
fn what_a_later_collection_took_is_not_held_by_the_program() {
    let now = row([410, 8, 0, 400, 401, 4, 3, 1, 5]);
    let of = |mib: u64| Facts { heap: held_by("main.buffer", 390, 400), passing: Some(mib * MIB), ..quiet() };
    assert_eq!(assert_cause(&now, &of(4), Cause::LiveHeap, Explains::Yes).confidence, Confidence::High);
    let pooled = assert_cause(&now, &of(380), Cause::AllocationChurn, Explains::Yes);
    assert!(pooled.confidence < Confidence::High, "{pooled:#?}");
    assert!(pooled.summary.contains("a second collection to free"), "{}", pooled.summary);
    assert!(
        pooled.evidence.iter().any(|e| e.starts_with("95% of what was in use after the forced collection was gone")),
        "{:#?}",
        pooled.evidence
    );
}

#[test]
fn profiles_that_were_another_s_are_said_to_be_left_aside() {
    let now = Evidence { memstats: None, memstats_gc: None, ..evidence("1.27.3", "shm") };
    let facts = Facts { foreign: vec!["heap.pb.gz is of another process".into()], ..Facts::default() };
    let verdict = assert_cause_untranslated(&now, &facts);
    assert_eq!(verdict.cause, Cause::Shmem);
    assert!(verdict.summary.ends_with("; the profiles are of another process and were left aside."), "{}", verdict.summary);
    assert_eq!(verdict.missing[0], "heap.pb.gz is of another process");
}

/// What comes from a capture is in its own language.
fn assert_cause_untranslated(evidence: &Evidence, facts: &Facts) -> Verdict {
    decide(&build(evidence), facts, Lang::En)
}

#[test]
fn what_else_fills_the_limit_is_the_cause_unless_a_rule_about_rss_fired() {
    let text = "/a memory.max: 1000\n/a memory.current: 900\n/a memory.stat: anon 50\n/a memory.stat: file 800\n/a memory.stat: shmem 800\n\
                /a memory.stat: kernel 50\n/a memory.stat: active_file 0\n";
    let cgroup = crate::anatomy::Cgroup::read(text, "", Some(7), Some(50), None);
    let said = |by_charge, by_rss| {
        let facts = Facts { cgroup: cgroup.clone(), by_charge, by_rss, ..Facts::default() };
        let verdict = decide(&build(&Evidence { rss_bytes: 60, ..Evidence::default() }), &facts, Lang::En);
        (verdict.cause, verdict.summary.starts_with("Of the limit of cgroup /a, "))
    };
    assert_eq!((said(true, false), said(false, false)), ((Cause::CgroupShmem, true), (Cause::CgroupShmem, true)));
    let (cause, is_said) = said(false, true);
    assert!(cause != Cause::CgroupShmem && !is_said, "{cause:?}");
}

#[test]
fn collections_without_room_are_the_cause_where_they_were_asked_about_or_nothing_was() {
    let live = row([157, 7, 0, 150, 152, 4, 2, 0, 4]);
    let seen = Seen::ByRule { window_seconds: 30.0, live_bytes: 145 * MIB, goal_bytes: 148 * MIB, limit_bytes: Some(160 * MIB) };
    let thrash = Some(Thrash { seen, collections: 400, share: 0.52 });
    let fired = Facts { thrash, memory_limit: Some(160 * MIB), gogc: Some(Gogc::Percent(100)), ..quiet() };
    let verdict = assert_cause(&live, &fired, Cause::GcThrash, Explains::Yes);
    assert_eq!(verdict.confidence, Confidence::High);
    assert!(
        verdict.summary.starts_with(
            "The garbage collector takes 52% of the process's CPU, for the heap has next to no room beside 145MiB in use, under a memory limit of 160MiB; RSS is 164MiB and the Go heap explains it: "
        ),
        "{}",
        verdict.summary
    );
    let said = verdict.evidence.join("\n");
    assert!(
        said.contains(
            "400 collections took 52% of the process's CPU: 145MiB were in use, and the memory limit of 160MiB let the heap grow to 148MiB."
        ),
        "{said}"
    );
    assert!(said.contains("A memory limit of 160MiB is in force, which is not the environment's"), "{said}");
    // a rule about RSS asks why RSS is what it is
    let between = Some(Thrash { seen: Seen::Between { by_memory: false, room_at_most: 3 }, collections: 9, share: 0.4 });
    let by_rss = decide(&build(&live), &Facts { thrash: between, by_rss: true, ..quiet() }, Lang::En);
    assert!(
        by_rss.cause != Cause::GcThrash && by_rss.evidence.iter().any(|e| e.contains("9 collections, one of them memtrap's, took 40%")),
        "{by_rss:#?}"
    );
    assert_cause(&live, &Facts { thrash: between, ..quiet() }, Cause::GcThrash, Explains::Yes);
}
