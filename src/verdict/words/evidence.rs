//! Sentences with numbers.

use std::time::Duration;

use super::super::facts::{Facts, Gogc, Whole};
use super::super::weigh::{Basis, Weighed};
use super::super::{Cause, Holder, PASSING};
use super::{bytes, holding, name, part, percent, size, thrash, with_leaf};
use crate::anatomy::{Anatomy, Bucket, Collected, Found};
use crate::lang::{Lang, say};

/// Parts below this are not worth a sentence.
const WORTH: u64 = 4 << 20;
/// A share of the CPU that collections rarely take in a healthy service.
const COSTLY_GC: f64 = 0.1;

pub(super) fn count(n: u64, lang: Lang) -> String {
    match (lang, n) {
        (_, 0..10_000) => n.to_string(),
        (Lang::En, 10_000..1_000_000) => format!("{} thousand", n / 1000),
        (Lang::En, _) => format!("{:.1} million", n as f64 / 1e6),
        (Lang::Zh, 10_000..100_000_000) => format!("{:.1} 万", n as f64 / 1e4),
        (Lang::Zh, _) => format!("{:.1} 亿", n as f64 / 1e8),
    }
}

pub(in crate::verdict) fn evidence(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(base) = &facts.baseline {
        let basis = match weighed.basis {
            Basis::Growth => lang.pick("the growth decides", "以增长量判断"),
            Basis::Little => lang.pick("too little to decide on: the whole RSS does", "增长太少，以整个 RSS 判断"),
            Basis::Unlike => lang.pick(
                "what was read then and now cannot be compared part by part: the whole RSS decides",
                "当时与现在读到的内容无法逐项比较，以整个 RSS 判断",
            ),
        };
        let grown = i64::try_from(anatomy.rss_bytes).unwrap_or(i64::MAX).saturating_sub(i64::try_from(base.rss_bytes).unwrap_or(i64::MAX));
        let (then, now) = (bytes(base.rss_bytes), bytes(anatomy.rss_bytes));
        let grown = if grown > 0 { format!("+{}", size(grown)) } else { size(grown) };
        said.push(say!(lang;
            "RSS went from {then} at the baseline to {now} ({grown}): {basis}.";
            "RSS 从 baseline 时的 {then} 变为 {now}（{grown}）：{basis}。"
        ));
    }
    said.extend(facts.thrash.as_ref().map(|thrash| thrash::sentence(thrash, lang)));
    let ranked = weighed.ranked();
    let ranked = ranked.iter().take(4).map(|(c, b)| {
        let (what, amount, share) = (part(*c, lang), size(*b), percent(weighed.share(*c)));
        say!(lang; "{what} {amount} ({share})"; "{what} {amount}（{share}）")
    });
    let ranked: Vec<String> = ranked.collect();
    if !ranked.is_empty() {
        let ranked = ranked.join(lang.pick(", ", "、"));
        said.push(say!(lang; "By weight: {ranked}."; "按大小排列：{ranked}。"));
    }
    go_says(&mut said, anatomy, facts, weighed, cause, lang);
    holding::sentences(&mut said, facts, lang);
    goroutines_say(&mut said, anatomy, facts, weighed, lang);
    kernel_says(&mut said, anatomy, facts, lang);
    facts.cgroup.iter().for_each(|cgroup| super::cgroup::sentences(&mut said, cgroup, lang));
    if let Some(end) = facts.end.filter(|e| e.gone) {
        let (en, zh) = match end.oom_killed {
            Some(true) => (
                "The process was killed by the kernel for lack of memory (oom_kill) during the capture.",
                "采集期间，进程因内存不足被内核杀死（oom_kill）。",
            ),
            Some(false) => (
                "The process ended during the capture; the kernel did not kill it for lack of memory.",
                "采集期间进程已退出，不是被内核因内存不足杀死的。",
            ),
            None => (
                "The process ended during the capture; whether the kernel killed it is unknown.",
                "采集期间进程已退出，是否被内核杀死未知。",
            ),
        };
        said.push(lang.pick(en, zh).into());
    }
    said
}

fn go_says(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) {
    let Some(go) = anatomy.go else { return };
    let (alloc, inuse, idle) = (bytes(go.heap_alloc), bytes(go.heap_inuse), bytes(go.heap_idle));
    let (released, stacks, objects) = (bytes(go.heap_released), bytes(go.stack_inuse), count(go.heap_objects, lang));
    said.push(say!(lang;
        "MemStats: HeapAlloc {alloc} in {objects} objects, HeapInuse {inuse}, HeapIdle {idle} of which {released} released, StackInuse {stacks}.";
        "MemStats：HeapAlloc {alloc}，共 {objects} 个对象；HeapInuse {inuse}；HeapIdle {idle}，其中已归还 {released}；StackInuse {stacks}。"
    ));
    collected(said, anatomy, cause, lang);
    if weighed.passing >= PASSING {
        let part = percent(weighed.passing);
        said.push(say!(lang;
            "{part} of what was in use after the forced collection was gone after a later one: a sync.Pool's, waiting for a finalizer, or of requests that have ended.";
            "强制 GC 后在用的部分有 {part} 在之后的 GC 中消失：sync.Pool 所有、等待 finalizer，或属于已结束的请求。"
        ));
    }
    goal(said, anatomy, facts, lang);
    settings(said, anatomy, facts, lang);
    rate(said, anatomy, weighed, lang);
    tops(said, anatomy, facts, lang);
    grown(said, facts, weighed, lang);
    allocated(said, facts, cause, lang);
}

/// GOGC and GOMEMLIMIT.
fn settings(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    match facts.gogc {
        Some(Gogc::Off) => said.push(
            lang.pick(
                "GOGC=off: the heap is collected only when GOMEMLIMIT is near, if one is set.",
                "GOGC=off：只有接近 GOMEMLIMIT（如果设置了）时才会 GC。",
            )
            .into(),
        ),
        Some(Gogc::Percent(p)) if p != 100 => said.push(say!(lang;
            "GOGC={p}: the heap may grow by {p}% of what is live before it is collected.";
            "GOGC={p}：堆可以在存活对象之上再增长 {p}% 才 GC。"
        )),
        _ => {}
    }
    let is_set = |gogc| match gogc {
        Gogc::Off => "off".to_owned(),
        Gogc::Percent(percent) => percent.to_string(),
    };
    if let Some((is, was)) = facts.gogc_in_force.zip(facts.gogc).filter(|(is, was)| is != was) {
        let (is, was) = (is_set(is), is_set(was));
        said.push(say!(lang;
            "In force is GOGC={is}, not GOGC={was} as the environment has it: debug.SetGCPercent sets it.";
            "实际生效的是 GOGC={is}，而非环境中的 GOGC={was}：由 debug.SetGCPercent 设定。"
        ));
    }
    if let Some(limit) = facts.memory_limit.filter(|limit| facts.gomemlimit != Some(*limit)) {
        let limit = bytes(limit);
        said.push(say!(lang;
            "A memory limit of {limit} is in force, which is not the environment's: debug.SetMemoryLimit sets it.";
            "实际生效的内存上限为 {limit}，与环境不符：由 debug.SetMemoryLimit 设定。"
        ));
    } else if let Some(limit) = facts.gomemlimit {
        let is_near = anatomy.rss_bytes > limit / 10 * 9;
        let near = if is_near { lang.pick(": RSS is near it or above", "，RSS 已接近或超过它") } else { "" };
        let limit = bytes(limit);
        said.push(say!(lang; "GOMEMLIMIT is {limit}{near}."; "GOMEMLIMIT 为 {limit}{near}。"));
    }
}

fn rate(said: &mut Vec<String>, anatomy: &Anatomy, weighed: &Weighed, lang: Lang) {
    if let Some(rate) = weighed.alloc_rate {
        let gcs = anatomy
            .go
            .and_then(|go| go.num_gc)
            .map(|n| say!(lang; "; {n} collections since the start"; "；启动以来 GC {n} 次"))
            .unwrap_or_default();
        said.push(match rate as u64 {
            0 => say!(lang;
                "The process allocated no more than it takes to answer memtrap's requests{gcs}.";
                "除应答 memtrap 的请求外，进程几乎没有分配{gcs}。"
            ),
            rate => {
                let rate = bytes(rate);
                say!(lang; "The process allocates about {rate} a second{gcs}."; "进程每秒约分配 {rate}{gcs}。")
            }
        });
    }
}

/// Who allocated most of what is in use.
fn tops(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    if let Some(heap) = &facts.heap {
        let by = |holder: Option<&Holder>, part: fn(&Holder) -> u64, of: u64, what: &str| {
            let holder = holder.filter(|holder| of > 0 && part(holder) > 0)?;
            let function = with_leaf(&holder.function, holder.leaf.as_deref(), lang);
            let share = percent(part(holder) as f64 / of as f64);
            Some(say!(lang; "{function} allocated {share} of {what} in use"; "在用{what}的 {share} 由 {function} 分配"))
        };
        let tops = [
            by(heap.holders.first(), |h| h.bytes, heap.inuse_space, lang.pick("the bytes", "字节")),
            // of what was allocated while the collection marked bytes are known, and objects are not
            by(
                heap.most_objects.as_ref().filter(|_| anatomy.floating == 0),
                |h| h.objects,
                heap.inuse_objects,
                lang.pick("the objects", "对象"),
            ),
        ];
        let tops: Vec<String> = tops.into_iter().flatten().collect();
        if !tops.is_empty() {
            let tops = tops.join(lang.pick("; ", "；"));
            said.push(say!(lang; "Heap profile: {tops}."; "heap profile：{tops}。"));
        }
    }
}

fn grown(said: &mut Vec<String>, facts: &Facts, weighed: &Weighed, lang: Lang) {
    if let Some((grown, holder)) = facts
        .heap_growth
        .as_ref()
        .filter(|grown| weighed.growth && grown.inuse_space > WORTH)
        .and_then(|grown| Some((grown, grown.holders.first()?)))
    {
        let function = with_leaf(&holder.function, holder.leaf.as_deref(), lang);
        let (part, whole) = (bytes(holder.bytes), bytes(grown.inuse_space));
        said.push(say!(lang;
            "Since the baseline inuse_space grew by {whole}, {part} of it from {function}.";
            "与 baseline 相比，inuse_space 增长了 {whole}，其中 {part} 来自 {function}。"
        ));
    }
}

fn allocated(said: &mut Vec<String>, facts: &Facts, cause: Cause, lang: Lang) {
    if let Some(allocs) = facts.allocs.as_ref().filter(|_| cause == Cause::AllocationChurn)
        && let Some(top) = &allocs.top_space
    {
        let (function, part, whole) = (name(&top.function), bytes(top.flat), bytes(allocs.alloc_space));
        said.push(say!(lang;
            "{function} allocated {part} of {whole} since the start.";
            "启动以来共分配 {whole}，其中 {part} 由 {function} 分配。"
        ));
    }
}

/// What the collection between the two MemStats tells, in the runtime's own numbers: untouched pages count in them.
fn collected(said: &mut Vec<String>, anatomy: &Anatomy, cause: Cause, lang: Lang) {
    let Some(Collected { live, garbage }) = anatomy.collected.filter(|c| c.garbage > 0) else { return };
    // a little garbage needs no excuse, and where garbage is the cause, the goal is none
    let goal = anatomy.go.filter(|_| garbage > WORTH && cause != Cause::AllocationChurn).and_then(|go| go.next_gc);
    let goal = goal.filter(|goal| live.saturating_add(garbage) <= *goal).map(bytes);
    let excuse =
        goal.map(|goal| say!(lang; "; the collector lets the heap grow to {goal}"; "；回收器允许堆长到 {goal}")).unwrap_or_default();
    let (live, garbage) = (bytes(live), bytes(garbage));
    let who = match anatomy.forced {
        true => lang.pick("A forced collection", "强制 GC 后"),
        false => lang.pick("A collection between the two MemStats", "两次 MemStats 之间的 GC 后"),
    };
    said.push(say!(lang;
        "{who} separates {live} live from {garbage} garbage, as MemStats counts them{excuse}.";
        "{who}，按 MemStats 计，存活 {live}，垃圾 {garbage}{excuse}。"
    ));
    if anatomy.floating > WORTH {
        let floating = bytes(anatomy.floating);
        said.push(say!(lang;
            "Up to {floating} more were allocated while that collection marked, and are counted as garbage: the profile has them as in use.";
            "该次 GC 标记期间最多又分配了 {floating}，profile 将其算作在用，这里计入垃圾。"
        ));
    }
}

/// How far the runtime lets the heap grow, where that is not what the environment says, and what collections cost.
fn goal(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    let Some(go) = anatomy.go else { return };
    let by_environment = match facts.gogc {
        Some(Gogc::Percent(percent)) if facts.gomemlimit.is_none() && facts.memory_limit.is_none() => Some(percent),
        _ => None,
    };
    if let Some((said_percent, is)) = by_environment.zip(anatomy.effective_gogc) {
        let goal = bytes(is.goal);
        let twice = u64::from(said_percent).saturating_mul(2);
        if is.least > twice {
            let least = is.least;
            said.push(say!(lang;
                "NextGC is {goal}, at least {least}% above what was live, not GOGC={said_percent} as the environment has it: debug.SetGCPercent sets it.";
                "NextGC 为 {goal}，比存活至少高 {least}%，与环境中的 GOGC={said_percent} 不符：由 debug.SetGCPercent 设定。"
            ));
        } else if is.most.saturating_mul(2) < said_percent.into() {
            let most = is.most;
            said.push(say!(lang;
                "NextGC is {goal}, at most {most}% above what was live, not GOGC={said_percent} as the environment has it: debug.SetGCPercent or a memory limit sets it.";
                "NextGC 为 {goal}，比存活最多高 {most}%，与环境中的 GOGC={said_percent} 不符：由 debug.SetGCPercent 或内存上限设定。"
            ));
        }
    }
    if let Some(fraction) = go.gc_cpu_fraction.filter(|fraction| *fraction >= COSTLY_GC) {
        let share = percent(fraction);
        said.push(say!(lang;
            "Collections have taken {share} of the CPU that the process may use since it started (GCCPUFraction).";
            "启动以来，GC 占用了进程可用 CPU 的 {share}（GCCPUFraction）。"
        ));
    }
}

fn goroutines_say(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, lang: Lang) {
    let Some(goroutines) = &facts.goroutines else { return };
    let base = goroutines.baseline_total.or(facts.baseline_goroutines);
    let base = base.map(|base| say!(lang; ", {base} at the baseline"; "，baseline 时 {base} 个")).unwrap_or_default();
    let each = anatomy.go.filter(|_| goroutines.total > 1).map(|go| bytes(go.stack_inuse / goroutines.total));
    let each = each.map(|each| say!(lang; "; their stacks take {each} on average"; "；栈平均 {each}")).unwrap_or_default();
    let total = goroutines.total;
    let there_are = if total == 1 { "is 1 goroutine".to_owned() } else { format!("are {total} goroutines") };
    said.push(say!(lang; "There {there_are}{base}{each}."; "共有 {total} 个 goroutine{base}{each}。"));
    if let Some(group) = goroutines.main_group().filter(|g| g.count >= 10) {
        let at = group.stands_in().map(name).map(|at| say!(lang; ", in {at}"; "，停在 {at}")).unwrap_or_default();
        let state = group.state.as_deref().map(name);
        let state = state.map(|state| say!(lang; ", state: {state}"; "，状态：{state}")).unwrap_or_default();
        let longest = group.longest_wait_seconds.map(|seconds| crate::clock::human(Duration::from_secs(seconds)));
        let longest = longest.map(|time| say!(lang; ", the longest for {time}"; "，最长已等待 {time}")).unwrap_or_default();
        said.push(say!(lang;
            "{} of them have the same stack{at}{state}{longest}.";
            "其中 {} 个的调用栈相同{at}{state}{longest}。",
            group.count
        ));
    }
    if let Some(leaked) = goroutines.leaked.filter(|l| *l > 0) {
        said.push(say!(lang;
            "The garbage collector finds {leaked} goroutines blocked for ever: nothing that could wake them is reachable.";
            "GC 判定有 {leaked} 个 goroutine 永久阻塞：能唤醒它们的对象已不可达。"
        ));
    }
    if let Some(grown) = facts.goroutine_growth.as_ref().filter(|grown| weighed.growth && grown.more >= 10) {
        let (more, function) = (grown.more, name(&grown.function));
        said.push(
            say!(lang; "Since the baseline {more} more stand in {function}."; "与 baseline 相比，停在 {function} 的多了 {more} 个。"),
        );
    }
    if let Some(deepest) = &facts.deepest {
        let (goroutines, function) = (deepest.count, name(&deepest.function));
        said.push(match deepest.frames {
            Some(frames) => say!(lang;
                "The deepest stack, of {goroutines} in {function}, has {frames} frames more than are printed.";
                "最深的栈有 {goroutines} 个，停在 {function}，未打印的帧有 {frames} 个。"
            ),
            None => say!(lang;
                "{goroutines} recurse in {function}, deeper than the profile shows.";
                "有 {goroutines} 个在 {function} 中递归，深度超出 profile 的记录。"
            ),
        });
    }
    if let Some(function) = weighed.link.as_deref().map(name) {
        said.push(if weighed.held_by_goroutines > 0 && !weighed.pile_is_a_guess {
            say!(lang;
                "{function} allocated most of that, and most goroutines stand in it: they hold it.";
                "这些内存大多由 {function} 分配，而多数 goroutine 正停在其中：是它们持有这些内存。"
            )
        } else {
            say!(lang;
                "{function} allocated most of what is live, and as many goroutines stand in it as would hold it: they may hold it.";
                "存活对象大多由 {function} 分配，而停在其中的 goroutine 数量也与之相符：可能是它们持有这些内存。"
            )
        });
    }
    if weighed.outgrown.unsigned_abs() > WORTH {
        let outgrown = size(weighed.outgrown);
        said.push(say!(lang;
            "Up to {outgrown} of the freed heap are old copies of stacks that grew.";
            "已释放的堆中，至多 {outgrown} 是栈增长后留下的旧副本。"
        ));
    }
}

fn kernel_says(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    arenas(said, anatomy, facts, lang);
    native(said, anatomy, facts, lang);
    pages(said, anatomy, facts, lang);
    moved(said, anatomy, lang);
}

fn arenas(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    let how = match anatomy.found {
        Some(Found::Named) => lang.pick("named by the kernel", "内核给出了名字"),
        Some(Found::KnownBase) => lang.pick("found at their usual address", "按惯常地址找到"),
        Some(Found::Shape) if anatomy.go.is_none() => lang.pick("found by shape and place", "按形状和位置找到"),
        Some(Found::Shape) => {
            lang.pick("found by shape and place, in agreement with what the runtime says", "按形状和位置找到，与 runtime 的说法一致")
        }
        None => "",
    };
    if let Some(arenas) = anatomy.arena_rss.map(bytes).filter(|_| facts.whole == Whole::Core) {
        said.push(say!(lang;
            "{arenas} of what the core file holds lie in Go's arenas.";
            "core 文件所存的内存中，{arenas} 在 Go 的 arena 里。"
        ));
    } else if let Some(arenas) = anatomy.arena_rss.map(bytes) {
        said.push(say!(lang; "smaps: {arenas} are resident in Go's arenas ({how})."; "smaps：Go 的 arena 中常驻 {arenas}（{how}）。"));
    }
    if anatomy.over_claim > WORTH {
        let more = bytes(anatomy.over_claim);
        said.push(if facts.whole == Whole::Core {
            say!(lang;
                "MemStats counts {more} more than the core file holds: never touched, or nothing but zeros. The parts are scaled down.";
                "MemStats 比 core 文件所存的多算了 {more}：从未触碰的页，或内容全为零。各部分已按比例缩小。"
            )
        } else {
            say!(lang;
                "MemStats counts {more} more than there is: reserved and never touched. The parts are scaled down.";
                "MemStats 比实际多算了 {more}：保留但从未触碰的页。各部分已按比例缩小。"
            )
        });
    }
}

/// Outside of the Go runtime.
fn native(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    if let Some(native) = anatomy.native.filter(|_| anatomy.get(Bucket::NativeAnon).unsigned_abs() > WORTH) {
        let parts = [
            (native.malloc, lang.pick("malloc in C", "C 的 malloc")),
            (native.thread_stacks, lang.pick("stacks of threads", "线程栈")),
            (native.globals, lang.pick("global variables", "全局变量")),
            (native.file_copies, lang.pick("private copies of pages of files", "文件页的私有副本")),
            (native.mappings, lang.pick("other anonymous mappings", "其他匿名映射")),
        ];
        let parts: Vec<String> = parts.iter().filter(|(b, _)| *b > 0).map(|(b, what)| format!("{what} {}", bytes(*b))).collect();
        let parts = parts.join(lang.pick(", ", "、"));
        said.push(say!(lang; "Native memory: {parts}."; "native 内存：{parts}。"));
    }
    if let Some(threads) = facts.threads.filter(|t| *t >= 50) {
        let base = facts.baseline_threads;
        let base = base.map(|b| say!(lang; ", {b} at the baseline"; "，baseline 时 {b} 个")).unwrap_or_default();
        said.push(say!(lang; "There are {threads} OS threads{base}."; "共有 {threads} 个 OS 线程{base}。"));
    }
}

/// What the kernel may take, has taken, or made larger.
fn pages(said: &mut Vec<String>, anatomy: &Anatomy, facts: &Facts, lang: Lang) {
    if anatomy.lazy_free > WORTH {
        let lazy = bytes(anatomy.lazy_free);
        said.push(say!(lang;
            "{lazy} of the freed heap are MADV_FREE pages: the kernel takes them as soon as it needs them.";
            "已释放的堆中有 {lazy} 是 MADV_FREE 页：内核需要时会立即回收。"
        ));
    }
    if anatomy.native_lazy > WORTH {
        let lazy = bytes(anatomy.native_lazy);
        said.push(say!(lang;
            "{lazy} outside of Go's arenas are MADV_FREE pages: their allocator gave them back, and the kernel takes them as soon as it needs them.";
            "Go 的 arena 之外有 {lazy} 是 MADV_FREE 页：分配器已归还，内核需要时会立即回收。"
        ));
    }
    if anatomy.huge > anatomy.rss_bytes / 4 && anatomy.huge > WORTH {
        let huge = bytes(anatomy.huge);
        said.push(say!(lang;
            "{huge} are transparent huge pages, which make untouched neighbours resident.";
            "{huge} 是透明大页（THP），会让未触碰的相邻页也常驻。"
        ));
    }
    let released = anatomy.released.saturating_sub(anatomy.lazy_free);
    if released > WORTH {
        let released = bytes(released);
        said.push(if facts.whole == Whole::Core {
            say!(lang;
                "{released} of the freed heap were returned by the runtime (HeapReleased), and the core file holds them nevertheless.";
                "已释放的堆中有 {released} 已由 runtime 归还（HeapReleased），但仍在 core 文件里。"
            )
        } else {
            say!(lang;
                "{released} of the freed heap were returned by the runtime (HeapReleased) and are resident nevertheless.";
                "已释放的堆中有 {released} 已由 runtime 归还（HeapReleased），却仍然常驻。"
            )
        });
    }
    if anatomy.swap > WORTH {
        let swap = bytes(anatomy.swap);
        said.push(say!(lang; "{swap} more are swapped out: they are not in RSS."; "另有 {swap} 已被换出，不计入 RSS。"));
    }
}

/// What changed between the trigger and the reading.
fn moved(said: &mut Vec<String>, anatomy: &Anatomy, lang: Lang) {
    if anatomy.returned > 0 {
        let fell = bytes(anatomy.returned);
        said.push(say!(lang;
            "RSS fell by {fell} between the trigger and the reading, and HeapReleased is at least as much: freed memory that Go was returning.";
            "从触发到读取，RSS 下降了 {fell}，HeapReleased 不小于此：是 Go 正在归还的已释放内存。"
        ));
    }
    let moved = anatomy.moved.saturating_add(i64::try_from(anatomy.returned).unwrap_or(i64::MAX));
    if moved.unsigned_abs() > anatomy.rss_bytes / 50 {
        let moved = size(moved);
        said.push(say!(lang;
            "RSS differed by {moved} from the trigger's when the evidence was read; the parts are scaled to it.";
            "读取证据时的 RSS 与触发时相差 {moved}；各部分已按触发时的 RSS 缩放。"
        ));
    }
}
