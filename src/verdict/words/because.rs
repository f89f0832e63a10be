//! Why the RSS is what it is, in one clause of the summary.

use super::{bytes, live, name, native, part, percent, share_of, size, standing, with_leaf};
use crate::anatomy::{Anatomy, Bucket, Missing};
use crate::lang::{Lang, say};
use crate::verdict::facts::Facts;
use crate::verdict::weigh::Weighed;
use crate::verdict::{Cause, DOMINATES, Detail, detail};

pub(super) fn because(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) -> String {
    let (amount, share) = (size(weighed.bytes(cause)), percent(weighed.share(cause)));
    match cause {
        Cause::LiveHeap | Cause::SmallObjects => live(weighed, cause, lang),
        Cause::AllocationChurn if weighed.passed > weighed.bytes(cause) / 2 => passing(weighed, &amount, &share, lang),
        Cause::AllocationChurn => churn(anatomy, facts, weighed, &amount, &share, lang),
        Cause::UnreleasedHeap => unreleased(anatomy, weighed, &amount, &share, lang),
        Cause::GoroutinePileup => pile(facts, weighed, &amount, &share, lang),
        Cause::DeepStacks => deep(anatomy, facts, &amount, &share, lang),
        Cause::NativeMemory => {
            let native = native(anatomy, lang);
            say!(lang; "{amount} ({share}) are native memory, outside of the Go runtime{native}"; "{amount}（{share}）是 Go runtime 之外的 native 内存{native}")
        }
        Cause::FileMappings => say!(lang; "{amount} ({share}) are pages of mapped files"; "{amount}（{share}）是 mmap 文件的页"),
        Cause::Shmem => say!(lang;
            "{amount} ({share}) are shared memory (tmpfs, memfd, shared anonymous mappings)";
            "{amount}（{share}）是共享内存（tmpfs、memfd、共享匿名映射）"
        ),
        Cause::ThreadPileup => {
            let threads = facts.threads.map_or_else(|| lang.pick("the", "大量").to_owned(), |t| t.to_string());
            say!(lang; "{threads} OS threads take {amount} ({share})"; "{threads} 个 OS 线程占 {amount}（{share}）")
        }
        Cause::RuntimeMetadata => {
            say!(lang; "{amount} ({share}) are the Go runtime's own metadata"; "{amount}（{share}）是 Go runtime 自身的元数据")
        }
        Cause::Unknown if anatomy.lacks(Missing::Kernel) && !anatomy.lacks(Missing::Memstats) => say!(lang;
            "{amount} ({share}) lie outside of what the Go runtime knows of: native memory, mapped files or shared memory, which only the kernel tells apart";
            "{amount}（{share}）在 Go runtime 所知之外：native 内存、文件映射或共享内存，只有内核能区分"
        ),
        // of RSS they are no part
        Cause::Mixed | Cause::Unknown | Cause::GcThrash | Cause::CgroupShmem | Cause::CgroupNeighbours | Cause::CgroupKernel => {
            parts(weighed, cause, lang)
        }
    }
}

/// Garbage of which a second collection frees more.
fn passing(weighed: &Weighed, amount: &str, share: &str, lang: Lang) -> String {
    let from = match &weighed.holder {
        Some(holder) => {
            let function = with_leaf(&holder.function, holder.leaf.as_deref(), lang);
            say!(lang; ", most of it from {function}"; "，大部分来自 {function}")
        }
        None => String::new(),
    };
    say!(lang;
        "{amount} ({share}) are garbage that it takes a second collection to free: a sync.Pool's, waiting for finalizers, or of requests that have ended{from}";
        "{amount}（{share}）是要再一次 GC 才能释放的垃圾：sync.Pool 所有、等待 finalizer，或属于已结束的请求{from}"
    )
}

fn churn(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, amount: &str, share: &str, lang: Lang) -> String {
    let rate = weighed.alloc_rate.filter(|_| weighed.allocates_fast).map(|r| bytes(r as u64));
    let rate = rate.map(|r| say!(lang; " while {r} a second are allocated"; "，每秒分配 {r}")).unwrap_or_default();
    let site = facts.allocs.as_ref().and_then(|a| Some((a.top_space.as_ref()?, a.alloc_space)));
    let site = site.map(|(top, of)| (name(&top.function), share_of(top, of)));
    let site = match site {
        Some((f, share)) if share >= DOMINATES => say!(lang; ", most by {f}"; "，大部分由 {f} 分配"),
        Some((f, share)) => {
            let share = percent(share);
            say!(lang; ", {f} more than others ({share})"; "，其中 {f} 分配最多（{share}）")
        }
        None => String::new(),
    };
    let live = size(anatomy.get(Bucket::HeapLive));
    say!(lang;
        "{amount} ({share}) are garbage and the room for it{rate}{site}; {live} are live";
        "{amount}（{share}）是垃圾及其占用的空间{rate}{site}；存活 {live}"
    )
}

fn unreleased(anatomy: &Anatomy, weighed: &Weighed, amount: &str, share: &str, lang: Lang) -> String {
    if weighed.sparse > weighed.bytes(Cause::UnreleasedHeap) / 2 {
        let sparse = size(weighed.sparse);
        return say!(lang;
            "{amount} ({share}) were freed by Go and not returned to the kernel, {sparse} of it because live objects keep spans that are mostly empty";
            "{amount}（{share}）已被 Go 释放但未归还内核，其中 {sparse} 是因为存活对象占着大半为空的 span"
        );
    }
    match detail(anatomy, weighed, Cause::UnreleasedHeap) {
        Some(Detail::HugePages) => say!(lang;
            "{amount} ({share}) were freed by Go and returned to the kernel, and are resident nevertheless: the kernel makes huge pages of them (THP)";
            "{amount}（{share}）已被 Go 释放并归还内核，却仍然常驻：内核把它们合并成了大页（THP）"
        ),
        Some(Detail::MadvFree) => say!(lang;
            "{amount} ({share}) were freed by Go and given back with MADV_FREE: they count as resident until the kernel needs them";
            "{amount}（{share}）已被 Go 释放并以 MADV_FREE 归还：在内核需要之前仍计入 RSS"
        ),
        None => say!(lang;
            "{amount} ({share}) were freed by Go and not returned to the kernel yet";
            "{amount}（{share}）已被 Go 释放，尚未归还内核"
        ),
    }
}

fn pile(facts: &Facts, weighed: &Weighed, amount: &str, share: &str, lang: Lang) -> String {
    let many = facts.goroutines.as_ref().map_or_else(
        || lang.pick("goroutines", "goroutine").to_owned(),
        |g| {
            let leaked = g.leaked.filter(|l| *l > 0);
            let leaked = leaked.map(|l| say!(lang; " ({l} of them blocked for ever)"; "（其中 {l} 个永久阻塞）")).unwrap_or_default();
            say!(lang; "{} goroutines{leaked}"; "{} 个 goroutine{leaked}", g.total)
        },
    );
    let at = standing(facts, weighed, lang).unwrap_or_default();
    let held = if weighed.held_by_goroutines > weighed.bytes(Cause::GoroutinePileup) / 10 {
        if weighed.pile_is_a_guess {
            lang.pick("their stacks and the heap that they may hold", "它们的栈和可能由它们持有的堆")
        } else {
            lang.pick("their stacks and the heap that they hold", "它们的栈和所持有的堆")
        }
    } else {
        lang.pick("their stacks", "它们的栈")
    };
    say!(lang; "{many}{at}, with {held}, take {amount} ({share})"; "{many}{at}，{held}共占 {amount}（{share}）")
}

fn deep(anatomy: &Anatomy, facts: &Facts, amount: &str, share: &str, lang: Lang) -> String {
    let stacks = bytes(anatomy.go.map_or(0, |g| g.stack_inuse));
    let many = facts.goroutines.as_ref().map_or_else(|| lang.pick("some", "若干").to_owned(), |g| g.total.to_string());
    let deepest = facts.deepest.as_ref().map(|deepest| name(&deepest.function));
    let deepest = deepest.map(|f| say!(lang; ", the deepest in {f}"; "，最深的在 {f}")).unwrap_or_default();
    say!(lang;
        "the stacks of {many} goroutines ({stacks} in use) and what they outgrew take {amount} ({share}){deepest}";
        "{many} 个 goroutine 的栈（在用 {stacks}）及其增长时留下的旧栈占 {amount}（{share}）{deepest}"
    )
}

/// The largest, where none decides.
fn parts(weighed: &Weighed, cause: Cause, lang: Lang) -> String {
    let parts: Vec<String> = weighed
        .ranked()
        .iter()
        .take(3)
        .map(|(c, b)| {
            let (amount, what, share) = (size(*b), part(*c, lang), percent(weighed.share(*c)));
            say!(lang; "{amount} {what} ({share})"; "{what} {amount}（{share}）")
        })
        .collect();
    let parts = parts.join(lang.pick(", ", "、"));
    if cause == Cause::Mixed {
        say!(lang; "no part dominates: {parts}"; "没有哪一部分占主导：{parts}")
    } else {
        say!(lang; "the evidence that would tell is missing: {parts}"; "缺少能说明问题的证据：{parts}")
    }
}
