//! The verdict in sentences: numbers first, one thought each.

use std::fmt::Write;

use super::facts::{Facts, Gogc};
use super::weigh::Weighed;
use super::{Cause, Explains};
use crate::anatomy::{Anatomy, Bucket, Found};
use crate::units::ByteSize;

/// Names come from the process: its sentences must fit a ticket.
const MAX_NAME: usize = 160;
/// Parts below this are not worth a sentence.
const WORTH: u64 = 4 << 20;

fn size(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", ByteSize(bytes.unsigned_abs()))
}

fn bytes(n: u64) -> String {
    ByteSize(n).to_string()
}

/// A name from outside, on one line and not too long.
pub(super) fn name(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    if plain.len() < text.len() && text.chars().count() > MAX_NAME { format!("{plain}…") } else { plain }
}

fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.01 { "<1%".into() } else { format!("{:.0}%", share * 100.0) }
}

fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{} thousand", n / 1000),
        _ => format!("{:.1} million", n as f64 / 1e6),
    }
}

/// One sentence for a ticket.
pub(super) fn summary(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, explains: Explains) -> String {
    let rss = match facts.baseline.as_ref().filter(|_| weighed.growth) {
        Some(base) => {
            let grown = anatomy.rss_bytes.saturating_sub(base.rss_bytes);
            format!("RSS grew by {} to {}", bytes(grown), bytes(anatomy.rss_bytes))
        }
        None => format!("RSS is {}", bytes(anatomy.rss_bytes)),
    };
    let heap = match explains {
        Explains::Yes => "the Go heap explains it",
        Explains::Partly => "the Go heap explains it in part",
        Explains::No => "the Go heap does not explain it",
        Explains::Unknown => "whether the Go heap explains it is unknown",
    };
    let ending = match facts.end {
        Some(end) if end.oom_killed == Some(true) => "; the process was OOM-killed meanwhile",
        Some(end) if end.gone => "; the process ended meanwhile",
        _ => "",
    };
    let because = because(anatomy, facts, weighed, cause);
    let besides = besides(weighed, cause).unwrap_or_default();
    format!("{rss} and {heap}: {because}{besides}{ending}.")
}

/// A second part that is nearly as heavy.
fn besides(weighed: &Weighed, cause: Cause) -> Option<String> {
    let (second, amount) = *weighed.ranked().get(1)?;
    let named = !matches!(cause, Cause::Mixed | Cause::Unknown) && weighed.share(second) >= 0.25;
    named.then(|| format!("; besides, {} takes {} ({})", part(second), size(amount), percent(weighed.share(second))))
}

fn because(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause) -> String {
    let amount = size(weighed.bytes(cause));
    let share = percent(weighed.share(cause));
    let top = facts.heap.as_ref().and_then(|h| h.top_space.as_ref()).map(|t| format!(", most of it from {}", name(&t.function)));
    let top = top.unwrap_or_default();
    match cause {
        Cause::LiveHeap => format!("{amount} ({share}) are live objects{top}"),
        Cause::SmallObjects => {
            let each = weighed.object_size.map(|b| format!(" of {} on average", bytes(b))).unwrap_or_default();
            format!("{amount} ({share}) are live objects, many and small{each}{top}")
        }
        Cause::AllocationChurn => {
            let rate =
                weighed.alloc_rate.filter(|_| weighed.allocates_fast).map(|r| format!(" while {} a second are allocated", bytes(r as u64)));
            let site = facts.allocs.as_ref().and_then(|a| a.top_space.as_ref()).map(|t| format!(", most by {}", name(&t.function)));
            format!(
                "{amount} ({share}) are garbage and the room for it{}{}; {} are live after a collection",
                rate.unwrap_or_default(),
                site.unwrap_or_default(),
                size(anatomy.get(Bucket::HeapLive)),
            )
        }
        Cause::UnreleasedHeap if weighed.sparse > weighed.bytes(cause) / 2 => format!(
            "{amount} ({share}) were freed by Go and not returned to the kernel, {} of it because live objects keep spans that are mostly empty",
            size(weighed.sparse)
        ),
        Cause::UnreleasedHeap => format!("{amount} ({share}) were freed by Go and not returned to the kernel yet"),
        Cause::GoroutinePileup => {
            let many = facts.goroutines.as_ref().map_or("goroutines".into(), |g| {
                let leaked = g.leaked.filter(|l| *l > 0).map(|l| format!(" ({l} of them blocked for ever)"));
                format!("{} goroutines{}", g.total, leaked.unwrap_or_default())
            });
            let at = facts.goroutines.as_ref().and_then(|g| g.groups.first()).and_then(|g| g.stands_in());
            let held = if weighed.held_by_goroutines > weighed.bytes(cause) / 10 {
                "their stacks and the heap that they hold"
            } else {
                "their stacks"
            };
            format!("{many}{}, with {held}, take {amount} ({share})", at.map(|f| format!(", most in {}", name(f))).unwrap_or_default())
        }
        Cause::DeepStacks => {
            let stacks = anatomy.go.map_or(0, |g| g.stack_inuse);
            let many = facts.goroutines.as_ref().map_or("some".into(), |g| g.total.to_string());
            format!("the stacks of {many} goroutines ({} in use) and what they outgrew take {amount} ({share})", bytes(stacks))
        }
        Cause::NativeMemory => format!("{amount} ({share}) are native memory, not Go's{}", native(anatomy)),
        Cause::FileMappings => format!("{amount} ({share}) are pages of mapped files"),
        Cause::Shmem => format!("{amount} ({share}) are shared memory (tmpfs, memfd, shared anonymous mappings)"),
        Cause::ThreadPileup => {
            let threads = facts.threads.map_or("the".into(), |t| t.to_string());
            format!("{threads} OS threads take {amount} ({share})")
        }
        Cause::RuntimeMetadata => format!("{amount} ({share}) are the Go runtime's own metadata"),
        Cause::Mixed | Cause::Unknown => {
            let parts: Vec<String> = weighed
                .ranked()
                .iter()
                .take(3)
                .map(|(c, b)| format!("{} {} ({})", size(*b), part(*c), percent(weighed.share(*c))))
                .collect();
            let parts = parts.join(", ");
            if cause == Cause::Mixed {
                format!("no part dominates: {parts}")
            } else {
                format!("the evidence that would tell is missing: {parts}")
            }
        }
    }
}

/// A cause as a part of a whole.
fn part(cause: Cause) -> &'static str {
    match cause {
        Cause::LiveHeap => "live objects",
        Cause::SmallObjects => "small live objects",
        Cause::AllocationChurn => "garbage",
        Cause::UnreleasedHeap => "freed but not returned",
        Cause::GoroutinePileup | Cause::DeepStacks => "goroutines",
        Cause::NativeMemory => "native memory",
        Cause::FileMappings => "mapped files",
        Cause::Shmem => "shared memory",
        Cause::ThreadPileup => "OS threads",
        Cause::RuntimeMetadata => "runtime metadata",
        Cause::Mixed | Cause::Unknown => "unexplained",
    }
}

/// The largest part of native memory.
fn native(anatomy: &Anatomy) -> String {
    let Some(native) = anatomy.native else { return String::new() };
    let parts = [
        (native.malloc, "malloc in C"),
        (native.thread_stacks, "stacks of OS threads"),
        (native.globals, "global variables of the executable and its libraries"),
        (native.mappings, "anonymous mappings outside of the Go runtime (mmap, large malloc)"),
    ];
    parts
        .iter()
        .max_by_key(|(b, _)| *b)
        .filter(|(b, _)| *b > 0)
        .map(|(b, what)| format!(", {} of it {what}", bytes(*b)))
        .unwrap_or_default()
}

/// Sentences with numbers.
pub(super) fn evidence(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(base) = &facts.baseline {
        let basis = if weighed.growth { "the growth decides" } else { "too little to decide on: the whole RSS does" };
        let grown = i64::try_from(anatomy.rss_bytes).unwrap_or(i64::MAX).saturating_sub(i64::try_from(base.rss_bytes).unwrap_or(i64::MAX));
        said.push(format!(
            "RSS went from {} at the baseline to {} ({}): {basis}.",
            bytes(base.rss_bytes),
            bytes(anatomy.rss_bytes),
            if grown > 0 { format!("+{}", size(grown)) } else { size(grown) }
        ));
    }
    let ranked: Vec<String> =
        weighed.ranked().iter().take(4).map(|(c, b)| format!("{} {} ({})", part(*c), size(*b), percent(weighed.share(*c)))).collect();
    if !ranked.is_empty() {
        said.push(format!("By weight: {}.", ranked.join(", ")));
    }
    go_says(&mut said, anatomy, facts, weighed, cause);
    goroutines_say(&mut said, anatomy, facts, weighed);
    kernel_says(&mut said, anatomy, facts);
    if let Some(end) = facts.end.filter(|e| e.gone) {
        said.push(match end.oom_killed {
            Some(true) => "The process was killed by the kernel for lack of memory (oom_kill) during the capture.".into(),
            Some(false) => "The process ended during the capture; the kernel did not kill it for lack of memory.".into(),
            None => "The process ended during the capture; whether the kernel killed it is unknown.".into(),
        });
    }
    said
}

fn go_says(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause) {
    let Some(go) = anatomy.go else { return };
    let (live, garbage) = (anatomy.get(Bucket::HeapLive), anatomy.get(Bucket::HeapGarbage));
    said.push(format!(
        "MemStats: HeapAlloc {} in {} objects, HeapInuse {}, HeapIdle {} of which {} released, StackInuse {}.",
        bytes(go.heap_alloc),
        count(go.heap_objects),
        bytes(go.heap_inuse),
        bytes(go.heap_idle),
        bytes(go.heap_released),
        bytes(go.stack_inuse),
    ));
    if garbage > 0 {
        let mut text = format!("A forced collection separates {} live from {} garbage", size(live), size(garbage));
        // a little garbage needs no excuse
        if garbage.unsigned_abs() > WORTH && garbage <= live.saturating_add(live / 5) && cause != Cause::AllocationChurn {
            let gogc = match facts.gogc {
                None | Some(Gogc::Percent(100)) => "GOGC=100 lets the heap grow to twice what is live: that is normal",
                Some(Gogc::Percent(_) | Gogc::Off) => "that much is normal even with GOGC=100",
            };
            let _ = write!(text, "; {gogc}");
        }
        said.push(text + ".");
    }
    match facts.gogc {
        Some(Gogc::Off) => said.push("GOGC=off: the heap is collected only when GOMEMLIMIT is near, if one is set.".into()),
        Some(Gogc::Percent(p)) if p != 100 => {
            said.push(format!("GOGC={p}: the heap may grow by {p}% of what is live before it is collected."))
        }
        _ => {}
    }
    if let Some(limit) = facts.gomemlimit {
        let near = if anatomy.rss_bytes > limit / 10 * 9 { ": RSS is near it or above" } else { "" };
        said.push(format!("GOMEMLIMIT is {}{near}.", bytes(limit)));
    }
    if let Some(rate) = weighed.alloc_rate {
        let collected = go.num_gc.map(|n| format!("; {n} collections since the start")).unwrap_or_default();
        said.push(match rate as u64 {
            0 => format!("The process allocated no more than it takes to answer memtrap's requests{collected}."),
            rate => format!("The process allocates about {} a second{collected}.", bytes(rate)),
        });
    }
    if let Some(heap) = &facts.heap {
        let by = |top: &Option<super::TopFunction>, of: u64, what: &str| {
            let top = top.as_ref().filter(|t| of > 0 && t.flat > 0)?;
            Some(format!("{} holds {} of {what} in use", name(&tidy(&top.function)), percent(top.flat as f64 / of as f64)))
        };
        let tops = [by(&heap.top_space, heap.inuse_space, "the bytes"), by(&heap.top_objects, heap.inuse_objects, "the objects")];
        let tops: Vec<String> = tops.into_iter().flatten().collect();
        if !tops.is_empty() {
            said.push(format!("Heap profile: {}.", tops.join("; ")));
        }
    }
    if let Some(allocs) = facts.allocs.as_ref().filter(|_| cause == Cause::AllocationChurn)
        && let Some(top) = &allocs.top_space
    {
        said.push(format!("{} allocated {} of {} since the start.", name(&top.function), bytes(top.flat), bytes(allocs.alloc_space)));
    }
}

fn tidy(function: &str) -> String {
    if function.is_empty() { "an unnamed function".into() } else { function.into() }
}

fn goroutines_say(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, weighed: &Weighed) {
    let Some(goroutines) = &facts.goroutines else { return };
    let mut text = format!("There are {} goroutines", goroutines.total);
    if let Some(base) = goroutines.baseline_total.or(facts.baseline_goroutines) {
        let _ = write!(text, ", {base} at the baseline");
    }
    if let Some(go) = anatomy.go.filter(|_| goroutines.total > 0) {
        let _ = write!(text, "; their stacks take {} on average", bytes(go.stack_inuse / goroutines.total));
    }
    said.push(text + ".");
    if let Some(group) = goroutines.groups.first().filter(|g| g.count >= 10) {
        let mut text = format!("{} of them have the same stack", group.count);
        if let Some(at) = group.stands_in() {
            let _ = write!(text, ", in {}", name(at));
        }
        if let Some(state) = &group.state {
            let _ = write!(text, ", state: {}", name(state));
        }
        if let Some(seconds) = group.longest_wait_seconds {
            let _ = write!(text, ", the longest for {}", crate::clock::human(std::time::Duration::from_secs(seconds)));
        }
        said.push(text + ".");
    }
    // one alone is most often `main` itself, in `select {}`
    if let Some(leaked) = goroutines.leaked.filter(|l| *l > 1) {
        said.push(format!("The garbage collector finds {leaked} goroutines blocked for ever: nothing that could wake them is reachable."));
    }
    if let Some(function) = &weighed.link {
        said.push(format!(
            "{} allocated most of what is live, and the goroutines of the largest group are in it: they hold it.",
            name(function)
        ));
    }
    if weighed.outgrown.unsigned_abs() > WORTH {
        said.push(format!("Up to {} of the freed heap are old copies of stacks that grew.", size(weighed.outgrown)));
    }
}

fn kernel_says(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts) {
    let how = match anatomy.found {
        Some(Found::Named) => "named by the kernel",
        Some(Found::KnownBase) => "found at their usual address",
        Some(Found::Shape) => "found by shape and place, in agreement with what the runtime says",
        None => "",
    };
    if let Some(arenas) = anatomy.arena_rss {
        said.push(format!("smaps: {} are resident in Go's arenas ({how}).", bytes(arenas)));
    }
    if anatomy.over_claim > WORTH {
        let text = "MemStats counts {} more than is resident: reserved and never touched. The parts are scaled down.";
        said.push(text.replace("{}", &bytes(anatomy.over_claim)));
    }
    if let Some(native) = anatomy.native.filter(|_| anatomy.get(Bucket::NativeAnon).unsigned_abs() > WORTH) {
        let parts = [
            (native.malloc, "malloc in C"),
            (native.thread_stacks, "stacks of threads"),
            (native.globals, "global variables"),
            (native.mappings, "other anonymous mappings"),
        ];
        let parts: Vec<String> = parts.iter().filter(|(b, _)| *b > 0).map(|(b, what)| format!("{what} {}", bytes(*b))).collect();
        said.push(format!("Native memory: {}.", parts.join(", ")));
    }
    if let Some(threads) = facts.threads.filter(|t| *t >= 50) {
        let base = facts.baseline_threads.map(|b| format!(", {b} at the baseline")).unwrap_or_default();
        said.push(format!("There are {threads} OS threads{base}."));
    }
    if anatomy.lazy_free > WORTH {
        said.push(format!(
            "{} of the freed heap are MADV_FREE pages: the kernel takes them as soon as it needs them.",
            bytes(anatomy.lazy_free)
        ));
    }
    if anatomy.huge > anatomy.rss_bytes / 4 && anatomy.huge > WORTH {
        said.push(format!("{} are transparent huge pages, which make untouched neighbours resident.", bytes(anatomy.huge)));
    }
    if anatomy.swap > WORTH {
        said.push(format!("{} more are swapped out: they are not in RSS.", bytes(anatomy.swap)));
    }
    if anatomy.moved.unsigned_abs() > anatomy.rss_bytes / 50 {
        said.push(format!(
            "RSS differed by {} from the trigger's when the evidence was read; the parts are scaled to it.",
            size(anatomy.moved)
        ));
    }
}
