//! The verdict in sentences: numbers first, one thought each.

mod cgroup;
mod evidence;
mod holding;
#[cfg(test)]
mod tests;

use super::facts::{Facts, SMALL_OBJECT, TopFunction};
use super::weigh::Weighed;
use super::{Cause, DOMINATES, Detail, Explains, LARGEST_TOLD, detail};
use crate::anatomy::{Anatomy, Bucket, Missing};
use crate::lang::{Lang, say};
use crate::text::one_line;
use crate::units::ByteSize;

pub(super) use evidence::evidence;

/// Names come from the process: its sentences must fit a ticket.
const MAX_NAME: usize = 160;
const MAX_SENTENCE: usize = 600;
/// Of a whole, a smaller part than one in so many is not worth its words.
const WORTH_ONE_IN: i64 = 100;

fn size(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", ByteSize(bytes.unsigned_abs()))
}

fn bytes(n: u64) -> String {
    ByteSize(n).to_string()
}

/// A name from outside, on one line and not too long.
pub(super) fn name(text: &str) -> String {
    one_line(text, MAX_NAME)
}

/// A sentence from outside: of a manifest.
pub(crate) fn line(text: &str) -> String {
    one_line(text, MAX_SENTENCE)
}

fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.01 { "<1%".into() } else { format!("{:.0}%", share * 100.0) }
}

/// One sentence for a ticket.
pub(super) fn summary(
    anatomy: &Anatomy,
    facts: &Facts,
    weighed: &Weighed,
    cause: Cause,
    explains: Explains,
    elsewhere: Option<Cause>,
    lang: Lang,
) -> String {
    let now = bytes(anatomy.rss_bytes);
    let rss = match facts.baseline.as_ref().filter(|_| weighed.growth) {
        Some(base) => {
            let grown = bytes(anatomy.rss_bytes.saturating_sub(base.rss_bytes));
            say!(lang; "RSS grew by {grown} to {now}"; "RSS 增长了 {grown}，达到 {now}")
        }
        None if facts.is_core => say!(lang; "The core file holds {now} of memory"; "core 文件存有 {now} 内存"),
        None => say!(lang; "RSS is {now}"; "RSS 为 {now}"),
    };
    let heap = match explains {
        Explains::Yes => lang.pick("the Go heap explains it", "Go 堆可以解释"),
        Explains::Partly => lang.pick("the Go heap explains it in part", "Go 堆只能解释一部分"),
        Explains::No => lang.pick("the Go heap does not explain it", "Go 堆无法解释"),
        Explains::Unknown => lang.pick("whether the Go heap explains it is unknown", "Go 堆能否解释尚不清楚"),
    };
    let ending = match facts.end {
        Some(end) if end.oom_killed == Some(true) => lang.pick("; the process was OOM-killed meanwhile", "；期间进程被 OOM 杀死"),
        Some(end) if end.gone => lang.pick("; the process ended meanwhile", "；期间进程已退出"),
        _ => "",
    };
    let whose = match (facts.foreign.is_empty(), facts.mistaken.is_empty()) {
        (true, true) => "",
        (true, false) => lang.pick("; the profiles may be of another process", "；这些 profile 可能属于另一个进程"),
        (false, _) => lang.pick("; the profiles are of another process and were left aside", "；这些 profile 属于另一个进程，未予采用"),
    };
    let because = because(anatomy, facts, weighed, cause, lang);
    let besides = besides(weighed, cause, lang).unwrap_or_default();
    let held = holding::clause(facts, weighed, cause, lang);
    let limit = facts.cgroup.as_ref().zip(elsewhere).map_or_else(String::new, |(cgroup, by)| cgroup::clause(cgroup, by, lang));
    say!(lang; "{limit}{rss} and {heap}: {because}{held}{besides}{ending}{whose}."; "{limit}{rss}，{heap}：{because}{held}{besides}{ending}{whose}。")
}

/// A second part that is nearly as heavy.
fn besides(weighed: &Weighed, cause: Cause, lang: Lang) -> Option<String> {
    let (second, amount) = *weighed.ranked().get(1)?;
    let named = !matches!(cause, Cause::Mixed | Cause::Unknown) && weighed.share(second) >= 0.25;
    let (what, amount, share) = (part(second, lang), size(amount), percent(weighed.share(second)));
    named.then(|| say!(lang; "; besides, {what} takes {amount} ({share})"; "；此外，{what}占 {amount}（{share}）"))
}

fn because(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) -> String {
    let amount = size(weighed.bytes(cause));
    let share = percent(weighed.share(cause));
    match cause {
        Cause::LiveHeap | Cause::SmallObjects => live(weighed, cause, lang),
        Cause::AllocationChurn if weighed.passed > weighed.bytes(cause) / 2 => {
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
        Cause::AllocationChurn => {
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
        Cause::UnreleasedHeap if weighed.sparse > weighed.bytes(cause) / 2 => {
            let sparse = size(weighed.sparse);
            say!(lang;
                "{amount} ({share}) were freed by Go and not returned to the kernel, {sparse} of it because live objects keep spans that are mostly empty";
                "{amount}（{share}）已被 Go 释放但未归还内核，其中 {sparse} 是因为存活对象占着大半为空的 span"
            )
        }
        Cause::UnreleasedHeap if detail(anatomy, weighed, cause) == Some(Detail::HugePages) => say!(lang;
            "{amount} ({share}) were freed by Go and returned to the kernel, and are resident nevertheless: the kernel makes huge pages of them (THP)";
            "{amount}（{share}）已被 Go 释放并归还内核，却仍然常驻：内核把它们合并成了大页（THP）"
        ),
        Cause::UnreleasedHeap if detail(anatomy, weighed, cause) == Some(Detail::MadvFree) => say!(lang;
            "{amount} ({share}) were freed by Go and given back with MADV_FREE: they count as resident until the kernel needs them";
            "{amount}（{share}）已被 Go 释放并以 MADV_FREE 归还：在内核需要之前仍计入 RSS"
        ),
        Cause::UnreleasedHeap => say!(lang;
            "{amount} ({share}) were freed by Go and not returned to the kernel yet";
            "{amount}（{share}）已被 Go 释放，尚未归还内核"
        ),
        Cause::GoroutinePileup => {
            let many = facts.goroutines.as_ref().map_or_else(
                || lang.pick("goroutines", "goroutine").to_owned(),
                |g| {
                    let leaked = g.leaked.filter(|l| *l > 0);
                    let leaked =
                        leaked.map(|l| say!(lang; " ({l} of them blocked for ever)"; "（其中 {l} 个永久阻塞）")).unwrap_or_default();
                    say!(lang; "{} goroutines{leaked}"; "{} 个 goroutine{leaked}", g.total)
                },
            );
            let at = standing(facts, weighed, lang).unwrap_or_default();
            let held = if weighed.held_by_goroutines > weighed.bytes(cause) / 10 {
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
        Cause::DeepStacks => {
            let stacks = bytes(anatomy.go.map_or(0, |g| g.stack_inuse));
            let many = facts.goroutines.as_ref().map_or_else(|| lang.pick("some", "若干").to_owned(), |g| g.total.to_string());
            let deepest = facts.deepest.as_ref().map(|deepest| name(&deepest.function));
            let deepest = deepest.map(|f| say!(lang; ", the deepest in {f}"; "，最深的在 {f}")).unwrap_or_default();
            say!(lang;
                "the stacks of {many} goroutines ({stacks} in use) and what they outgrew take {amount} ({share}){deepest}";
                "{many} 个 goroutine 的栈（在用 {stacks}）及其增长时留下的旧栈占 {amount}（{share}）{deepest}"
            )
        }
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
        Cause::Mixed | Cause::Unknown | Cause::CgroupShmem | Cause::CgroupNeighbours | Cause::CgroupKernel => {
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
    }
}

/// Live objects, and what belongs to them: the garbage that may pile up beside them and the room for it, and the gaps between them. Each number
/// is said for what it counts, so that the table below has the same.
fn live(weighed: &Weighed, cause: Cause, lang: Lang) -> String {
    let (whole, share) = (weighed.bytes(cause), percent(weighed.share(cause)));
    let (garbage, room) = (weighed.normal_garbage, if weighed.has_normal_room { weighed.room } else { 0 });
    let rest = whole.saturating_sub(garbage).saturating_sub(room).max(0);
    let objects = weighed.parts.get(Bucket::HeapLive).clamp(0, rest);
    let gaps = rest - objects;
    // an average over what else is live may be of something larger
    let small = match (cause, weighed.object_size.filter(|each| *each <= SMALL_OBJECT).map(bytes)) {
        (Cause::SmallObjects, None) => lang.pick(", many and small", "，多而小").to_owned(),
        (Cause::SmallObjects, Some(each)) => say!(lang; ", many and small of {each} on average"; "，多而小，平均每个 {each}"),
        _ => String::new(),
    };
    let from = match &weighed.holder {
        Some(holder) if holder.share >= DOMINATES => {
            let function = with_leaf(&holder.function, holder.leaf.as_deref(), lang);
            say!(lang; ", most of it from {function}"; "，大部分来自 {function}")
        }
        // who holds it cannot be told where all that is large may be what was never touched
        Some(holder) if holder.unsure && holder.share < LARGEST_TOLD => String::new(),
        Some(holder) => {
            let (function, part) = (with_leaf(&holder.function, holder.leaf.as_deref(), lang), percent(holder.share));
            say!(lang; ", the largest part ({part}) from {function}"; "，最大的一部分（{part}）来自 {function}")
        }
        None => String::new(),
    };
    let (amount, live) = (size(whole), size(objects));
    if live == amount {
        return say!(lang; "{amount} ({share}) are live objects{small}{from}"; "{amount}（{share}）是存活对象{small}{from}");
    }
    let beside = [
        (garbage, say!(lang; ", {} of garbage until the next collection"; "，等待下次 GC 的垃圾 {}", size(garbage))),
        (room, say!(lang; ", {} of room for more of it"; "，留给新垃圾的空间 {}", size(room))),
        (gaps, say!(lang; ", {} of gaps between them"; "，对象之间的空隙 {}", size(gaps))),
    ];
    let beside: String = beside.into_iter().filter(|(part, _)| *part >= whole / WORTH_ONE_IN).map(|(_, said)| said).collect();
    say!(lang;
        "{amount} ({share}) are the live heap: {live} of live objects{small}{from}{beside}";
        "{amount}（{share}）是存活的堆：存活对象 {live}{small}{from}{beside}"
    )
}

/// A function of the service's own, with the one that it called for the memory behind it.
fn with_leaf(function: &str, leaf: Option<&str>, lang: Lang) -> String {
    let plain = if function.is_empty() { lang.pick("an unnamed function", "无名函数").to_owned() } else { name(function) };
    match leaf.map(name) {
        Some(leaf) => say!(lang; "{plain} ({leaf})"; "{plain}（{leaf}）"),
        None => plain,
    }
}

fn share_of(top: &TopFunction, of: u64) -> f64 {
    top.flat as f64 / of.max(1) as f64
}

/// Where the goroutines stand: those that came since the baseline, where the growth decides.
fn standing(facts: &Facts, weighed: &Weighed, lang: Lang) -> Option<String> {
    if let Some(grown) = facts.goroutine_growth.as_ref().filter(|_| weighed.growth) {
        let (more, function) = (grown.more, name(&grown.function));
        return Some(say!(lang; ", {more} more in {function} than at the baseline"; "，其中 {function} 比 baseline 时多 {more} 个"));
    }
    let goroutines = facts.goroutines.as_ref()?;
    let group = goroutines.main_group()?;
    let function = name(group.stands_in()?);
    if group.count.saturating_mul(2) >= goroutines.total {
        return Some(say!(lang; ", most in {function}"; "，大多停在 {function}"));
    }
    let count = group.count;
    Some(say!(lang; ", {count} of them in {function}"; "，其中 {count} 个停在 {function}"))
}

/// A cause as a part of a whole.
fn part(cause: Cause, lang: Lang) -> &'static str {
    let (en, zh) = match cause {
        Cause::LiveHeap => ("live heap", "存活的堆"),
        Cause::SmallObjects => ("live heap of small objects", "小对象的存活堆"),
        Cause::AllocationChurn => ("garbage", "垃圾"),
        Cause::UnreleasedHeap => ("freed but not returned", "已释放未归还"),
        Cause::GoroutinePileup | Cause::DeepStacks => ("goroutines", "goroutine"),
        Cause::NativeMemory => ("native memory", "native 内存"),
        Cause::FileMappings => ("mapped files", "文件映射"),
        Cause::Shmem => ("shared memory", "共享内存"),
        Cause::ThreadPileup => ("OS threads", "OS 线程"),
        Cause::RuntimeMetadata => ("runtime metadata", "runtime 元数据"),
        Cause::CgroupShmem => ("tmpfs and shared memory of the cgroup", "cgroup 的 tmpfs 与共享内存"),
        Cause::CgroupNeighbours => ("other processes of the cgroup", "cgroup 的其他进程"),
        Cause::CgroupKernel => ("the kernel's own for the cgroup", "内核为 cgroup 占用的部分"),
        Cause::Mixed | Cause::Unknown => ("unexplained", "无法解释的部分"),
    };
    lang.pick(en, zh)
}

/// The largest part of native memory.
fn native(anatomy: &Anatomy, lang: Lang) -> String {
    let Some(native) = anatomy.native else { return String::new() };
    let copies = match anatomy.copied_file.as_deref().map(name) {
        Some(path) => say!(lang; "private copies of pages of {path}"; "{path} 的页的私有副本"),
        None => lang.pick("private copies of pages of files", "文件页的私有副本").to_owned(),
    };
    let parts = [
        (native.malloc, lang.pick("malloc in C", "C 的 malloc").to_owned()),
        (native.thread_stacks, lang.pick("stacks of OS threads", "OS 线程栈").to_owned()),
        (native.globals, lang.pick("global variables of the executable and its libraries", "可执行文件及其库的全局变量").to_owned()),
        (native.file_copies, copies),
        (native.mappings, lang.pick("anonymous mappings (mmap, large malloc)", "匿名映射（mmap、大块 malloc）").to_owned()),
    ];
    let lazy = match anatomy.native_lazy.saturating_mul(2) > anatomy.get(Bucket::NativeAnon).max(0).unsigned_abs() {
        true => {
            let lazy = bytes(anatomy.native_lazy);
            say!(lang; ", {lazy} of it given back with MADV_FREE until the kernel needs it"; "，其中 {lazy} 已用 MADV_FREE 归还、等内核需要时回收")
        }
        false => String::new(),
    };
    let largest = parts.iter().max_by_key(|(b, _)| *b).filter(|(b, _)| *b > 0);
    largest.map(|(b, what)| say!(lang; ", {} of it {what}{lazy}"; "，其中 {} 是{what}{lazy}", bytes(*b))).unwrap_or(lazy)
}
