//! What is missing for a cause, and how sure one can be without it.
//!
//! Each doubt lowers the confidence by one step; most of them are said, in the order of the rooms below.

use super::facts::{Facts, Whole};
use super::weigh::Weighed;
use super::{CLEARLY, Cause, Confidence, words};
use crate::anatomy::{Anatomy, Bucket, Missing};
use crate::lang::{Lang, say};

/// The sentences, and the confidence that is left.
pub(super) fn of(anatomy: &Anatomy, facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) -> (Vec<String>, Confidence) {
    let mut doubts = Doubts::begin(anatomy, facts, weighed, cause, lang);
    doubts.what_the_kernel_or_go_did_not_tell();
    doubts.whose_the_large_stacks_are();
    doubts.what_was_reserved_and_never_touched();
    doubts.what_is_near_a_border();
    doubts.what_may_be_passing();
    doubts.which_functions_hold_it();
    doubts.how_fast_it_allocates();
    doubts.how_many_goroutines_wait();
    doubts.what_would_tell_more();
    doubts.end()
}

struct Doubts<'d> {
    anatomy: &'d Anatomy,
    facts: &'d Facts,
    weighed: &'d Weighed,
    cause: Cause,
    lang: Lang,
    missing: Vec<String>,
    confidence: Confidence,
}

impl<'d> Doubts<'d> {
    fn begin(anatomy: &'d Anatomy, facts: &'d Facts, weighed: &'d Weighed, cause: Cause, lang: Lang) -> Doubts<'d> {
        let missing = anatomy.missing.iter().map(|m| m.words(lang).into()).collect();
        let confidence = match (cause, weighed.heaviest()) {
            (Cause::Unknown, _) | (_, None) => Confidence::Low,
            (Cause::Mixed, _) => Confidence::Medium,
            (_, Some((_, share))) if share >= CLEARLY => Confidence::High,
            _ => Confidence::Medium,
        };
        Doubts { anatomy, facts, weighed, cause, lang, missing, confidence }
    }

    /// What is said elsewhere, or goes without saying.
    fn lower(&mut self, holds: bool) {
        if holds {
            self.confidence = self.confidence.lower();
        }
    }

    fn doubt(&mut self, holds: bool, words: &str) {
        self.lower(holds);
        self.note(holds, words);
    }

    /// What would be good to know, and makes nothing doubtful.
    fn note(&mut self, holds: bool, words: &str) {
        if holds {
            self.missing.push(words.into());
        }
    }

    fn is_of_live(&self) -> bool {
        matches!(self.cause, Cause::LiveHeap | Cause::SmallObjects)
    }

    fn is_of_goroutines(&self) -> bool {
        matches!(self.cause, Cause::GoroutinePileup | Cause::DeepStacks)
    }

    fn what_the_kernel_or_go_did_not_tell(&mut self) {
        let lacks = |missing| self.anatomy.lacks(missing);
        // the kernel counts file and shared memory by itself
        let of_kernel = matches!(self.cause, Cause::FileMappings | Cause::Shmem);
        let blind = lacks(Missing::Smaps) || lacks(Missing::Arenas);
        let over = self.anatomy.over_claim > self.anatomy.rss_bytes / 20;
        let doubts = [
            lacks(Missing::Memstats) && !of_kernel,
            lacks(Missing::Kernel),
            blind && !of_kernel && (over || !self.is_of_live()),
            blind && self.cause == Cause::ThreadPileup,
            (lacks(Missing::MemstatsGc) || lacks(Missing::Forced)) && self.cause.is_of_heap(),
            lacks(Missing::MemstatsBefore),
        ];
        doubts.into_iter().for_each(|holds| self.lower(holds));
    }

    fn whose_the_large_stacks_are(&mut self) {
        self.doubt(
            self.is_of_goroutines() && self.weighed.may_be_deep && !self.weighed.growth,
            self.lang.pick(
                "which goroutines have the large stacks is not told: a few recurse, and many wait",
                "无法得知大栈属于哪些 goroutine：少数在递归，多数在等待",
            ),
        );
    }

    fn what_was_reserved_and_never_touched(&mut self) {
        let anatomy = self.anatomy;
        let ballast = self.cause.is_of_heap() && anatomy.over_claim_decides();
        self.doubt(
            ballast,
            self.lang.pick("which parts of the heap were reserved and never touched is unknown: as much of each is taken to be, and if it is one, another is the largest", "不知道堆的哪一部分只保留而从未触碰：各部分按同样的比例折算；如果只是其中一部分，最大的就是另一部分"),
        );
        self.lower(ballast && anatomy.over_claim > anatomy.rss_bytes);
        let base = self.facts.baseline.as_ref().filter(|_| self.weighed.growth);
        self.doubt(
            base.is_some_and(|base| {
                base.lacks(Missing::Smaps) && anatomy.over_claim > anatomy.rss_bytes.saturating_sub(base.rss_bytes) / 4
            }),
            self.lang.pick(
                "the baseline has no smaps: what was reserved and never touched is taken to have been the same then",
                "baseline 没有 smaps：保留而从未触碰的部分按与现在相同计算",
            ),
        );
        // what fell because Go returned it is explained
        let moved = anatomy.moved.saturating_add(i64::try_from(anatomy.returned).unwrap_or(i64::MAX));
        self.lower(moved.unsigned_abs() > anatomy.rss_bytes / 10);
    }

    fn what_is_near_a_border(&mut self) {
        self.doubt(
            self.is_of_live() && self.weighed.near_small,
            self.lang.pick(
                "the objects are near the border of small and large ones: another reading might name the other",
                "对象处在小与大的分界附近：再读一次结论可能是另一个",
            ),
        );
        self.doubt(
            self.cause.is_of_heap() && self.weighed.near_churn,
            self.lang.pick(
                "garbage and the room for it are about as much as is live: another reading might call it live or garbage",
                "垃圾及其空间与存活对象大致相当：再读一次可能判为存活，也可能判为垃圾",
            ),
        );
        self.doubt(
            self.is_of_live() && self.weighed.holder.as_ref().is_some_and(|holder| holder.unsure),
            self.lang.pick(
                "what was reserved and never touched may be of the one that seems to hold most, or of others",
                "保留而从未触碰的部分可能属于看似占用最多者，也可能属于其他函数",
            ),
        );
    }

    fn what_may_be_passing(&mut self) {
        let of_heap = self.cause.is_of_heap();
        // requests that ended meanwhile look the same as a pool's buffers
        self.lower(of_heap && self.weighed.passed > 0);
        self.doubt(
            of_heap && self.anatomy.floating > self.anatomy.get(Bucket::HeapLive).max(0).unsigned_abs() / 2,
            self.lang.pick("the process allocates so fast that what it allocates while a collection marks is as much as what it keeps: live is an estimate", "进程分配得太快，GC 标记期间新分配的量与真正保留的量相当：存活大小是估计值"),
        );
    }

    fn which_functions_hold_it(&mut self) {
        self.doubt(
            self.facts.heap.is_none() && self.cause.is_of_heap(),
            self.lang
                .pick("heap_gc.pb.gz is missing: which functions hold the heap is unknown", "缺少 heap_gc.pb.gz：不知道哪些函数占着堆"),
        );
    }

    fn how_fast_it_allocates(&mut self) {
        let (weighed, cause) = (self.weighed, self.cause);
        let unknown = weighed.alloc_rate.is_none();
        self.doubt(
            unknown && (cause == Cause::AllocationChurn || cause == Cause::UnreleasedHeap && !weighed.is_beyond_goal),
            self.lang.pick(
                "the time between two MemStats is missing: how fast the process allocates is unknown",
                "缺少两次 MemStats 之间的时间：不知道进程分配得多快",
            ),
        );
        let passed = weighed.passed > weighed.bytes(cause) / 2;
        self.lower(cause == Cause::AllocationChurn && !unknown && !weighed.allocates_fast && !passed);
        self.doubt(
            cause == Cause::UnreleasedHeap && weighed.may_allocate_fast,
            self.lang.pick("the capture was too short to tell how fast the process allocates now: on average over its life, fast enough to fill anew what is free", "采集时间太短，看不出现在的分配速度；按进程一生的平均速度，足以把空闲部分重新填满"),
        );
    }

    fn how_many_goroutines_wait(&mut self) {
        let is_unknown = self.facts.goroutines.is_none();
        self.doubt(
            is_unknown && (self.is_of_goroutines() || self.cause == Cause::UnreleasedHeap),
            self.lang.pick(
                "goroutine.pb.gz is missing: how many goroutines there are, and where, is unknown",
                "缺少 goroutine.pb.gz：不知道有多少 goroutine，停在哪里",
            ),
        );
        self.lower(self.cause == Cause::GoroutinePileup && !is_unknown && self.weighed.pile_is_a_guess);
    }

    fn what_would_tell_more(&mut self) {
        let (facts, lang) = (self.facts, self.lang);
        self.note(
            facts.allocs.is_none() && self.cause == Cause::AllocationChurn,
            self.lang.pick("allocs.pb.gz is missing: which functions allocate is unknown", "缺少 allocs.pb.gz：不知道哪些函数在分配"),
        );
        let version = facts.go_version.as_ref().map(|v| words::name(v));
        let version = version.map(|v| say!(lang; " (this process: {v})"; "（本进程：{v}）")).unwrap_or_default();
        self.note(
            self.cause == Cause::GoroutinePileup && facts.goroutines.as_ref().is_some_and(|g| g.leaked.is_none()),
            &say!(lang;
                "goroutineleak.pb.gz is missing{version}: whether nothing can ever wake these goroutines is unknown; Go 1.27 and later tell";
                "缺少 goroutineleak.pb.gz{version}：不知道这些 goroutine 是否再也无法被唤醒；Go 1.27 起可以知道"
            ),
        );
        if facts.whole != Whole::Rss {
            self.confidence = self.confidence.min(Confidence::Medium);
        }
        self.note(
            facts.whole == Whole::Core,
            lang.pick(
                "a core file does not tell the RSS: what is explained are the pages in it that hold anything but zeros, and pages of files that it \
                 leaves out are not among them",
                "core 文件不含 RSS：解释的是其中内容不全为零的页，不包括它略去的文件页",
            ),
        );
        self.note(
            facts.whole == Whole::Mapped,
            lang.pick(
                "nothing tells the RSS: the parts are of what Go itself has from the kernel (MemStats, HeapReleased left out), touched or not; native memory \
                 and mapped files are not among them",
                "没有任何证据给出 RSS：各部分只是 Go 自己从内核取得的内存（MemStats，不含 HeapReleased），不论是否触碰过；native 内存和映射文件不在其中",
            ),
        );
        self.note(
            facts.baseline.is_none() && facts.whole == Whole::Rss,
            self.lang.pick(
                "there is no baseline: the verdict is about all of the RSS, not about what it grew by",
                "没有 baseline：结论针对整个 RSS，而不是它的增长",
            ),
        );
    }

    fn end(mut self) -> (Vec<String>, Confidence) {
        // the first thing to know of such a verdict
        let of_another = self.facts.foreign.iter().chain(&self.facts.mistaken);
        self.missing.splice(0..0, of_another.map(|why| words::line(why)));
        (self.missing, if self.facts.mistaken.is_empty() { self.confidence } else { Confidence::Low })
    }
}
