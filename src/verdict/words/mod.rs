//! The verdict in sentences: numbers first, one thought each.

mod because;
mod cgroup;
mod evidence;
mod holding;
mod thrash;
#[cfg(test)]
mod tests;

use super::facts::{Facts, SMALL_OBJECT, TopFunction, Whole};
use super::weigh::Weighed;
use super::{Cause, DOMINATES, Explains, LARGEST_TOLD};
use crate::anatomy::{Anatomy, Bucket};
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
        None if facts.whole == Whole::Core => say!(lang; "The core file holds {now} of memory"; "core 文件存有 {now} 内存"),
        None => say!(lang; "RSS is {now}"; "RSS 为 {now}"),
    };
    let heap = match explains {
        _ if facts.whole == Whole::Mapped => return of_mapped(anatomy, facts, weighed, cause, lang),
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
    let because = because::because(anatomy, facts, weighed, cause, lang);
    let besides = besides(weighed, cause, lang).unwrap_or_default();
    let held = holding::clause(facts, weighed, cause, lang);
    let limit = match (elsewhere, &facts.thrash, &facts.cgroup) {
        (Some(Cause::GcThrash), Some(thrash), _) => thrash::clause(thrash, lang),
        (Some(by), _, Some(cgroup)) => cgroup::clause(cgroup, by, lang),
        _ => String::new(),
    };
    say!(lang; "{limit}{rss} and {heap}: {because}{held}{besides}{ending}{whose}."; "{limit}{rss}，{heap}：{because}{held}{besides}{ending}{whose}。")
}

/// The same where nothing tells the RSS.
fn of_mapped(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) -> String {
    if anatomy.rss_bytes == 0 {
        let profile = facts.heap.as_ref().map(|heap| bytes(heap.inuse_space));
        let profile =
            profile.map(|all| say!(lang; "; the heap profile counts {all} in use"; "；heap profile 统计在用 {all}")).unwrap_or_default();
        return say!(lang;
            "The RSS and MemStats are unknown, and so is whether the Go heap explains the RSS{profile}.";
            "RSS 和 MemStats 均未知，因此 Go 堆能否解释 RSS 也不清楚{profile}。"
        );
    }
    let because = because::because(anatomy, facts, weighed, cause, lang);
    let held = holding::clause(facts, weighed, cause, lang);
    let mapped = bytes(anatomy.rss_bytes);
    say!(lang;
        "The RSS is unknown, and so is whether the Go heap explains it; of the {mapped} that Go has from the kernel, {because}{held}.";
        "RSS 未知，因此 Go 堆能否解释也不清楚；Go 从内核取得的 {mapped} 中，{because}{held}。"
    )
}

/// A second part that is nearly as heavy.
fn besides(weighed: &Weighed, cause: Cause, lang: Lang) -> Option<String> {
    let (second, amount) = *weighed.ranked().get(1)?;
    let named = !matches!(cause, Cause::Mixed | Cause::Unknown) && weighed.share(second) >= 0.25;
    let (what, amount, share) = (part(second, lang), size(amount), percent(weighed.share(second)));
    named.then(|| say!(lang; "; besides, {what} takes {amount} ({share})"; "；此外，{what}占 {amount}（{share}）"))
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
        Cause::GcThrash => ("collections without room", "空间不足的 GC"),
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
