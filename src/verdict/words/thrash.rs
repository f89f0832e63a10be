//! What collections take for want of room, in sentences.

use super::super::facts::{Seen, Thrash};
use super::{bytes, percent};
use crate::lang::{Lang, say};

/// The beginning of a summary.
pub(super) fn clause(thrash: &Thrash, lang: Lang) -> String {
    let share = percent(thrash.share);
    match thrash.seen {
        Seen::ByRule { live_bytes, limit_bytes, .. } => {
            let (live, limit) = (bytes(live_bytes), limit_bytes.map(bytes));
            let limit = limit.map(|limit| say!(lang; ", under a memory limit of {limit}"; "，内存上限为 {limit}")).unwrap_or_default();
            say!(lang;
                "The garbage collector takes {share} of the process's CPU, for the heap has next to no room beside {live} in use{limit}; ";
                "GC 占用了进程 {share} 的 CPU，因为堆在在用的 {live} 之外几乎没有空间{limit}；"
            )
        }
        Seen::SinceStart { .. } => say!(lang;
            "The garbage collector has taken {share} of all CPU that the process could use since it started, and the heap has next to no room; ";
            "启动以来 GC 占用了进程可用 CPU 的 {share}，而堆几乎没有空间；"
        ),
        Seen::Between { .. } => say!(lang;
            "The garbage collector took {share} of all CPU that the process may use while it was captured, for the heap has next to no room; ";
            "采集期间 GC 占用了进程可用 CPU 的 {share}，因为堆几乎没有空间；"
        ),
    }
}

pub(super) fn sentence(thrash: &Thrash, lang: Lang) -> String {
    let (share, collections) = (percent(thrash.share), thrash.collections);
    match thrash.seen {
        Seen::ByRule { window_seconds, live_bytes, goal_bytes, limit_bytes } => {
            let (live, goal, window) = (bytes(live_bytes), bytes(goal_bytes), window_seconds as u64);
            let by = match limit_bytes.map(bytes) {
                Some(limit) => say!(lang; "the memory limit of {limit}"; "内存上限 {limit} "),
                None => lang.pick("GOGC", "GOGC ").into(),
            };
            say!(lang;
                "In the {window} s before it fired, {collections} collections took {share} of the process's CPU: {live} were in use, and {by} let the heap grow to {goal}.";
                "触发前 {window} 秒内，{collections} 次 GC 占用了进程 {share} 的 CPU：在用 {live}，{by}只让堆长到 {goal}。"
            )
        }
        Seen::SinceStart { room_at_most } => say!(lang;
            "Before memtrap asked for one, {collections} collections had taken {share} of all CPU that the process could use: the heap may grow by {room_at_most}% of what is live at most.";
            "在 memtrap 触发 GC 之前，{collections} 次 GC 已占用进程可用 CPU 的 {share}：堆最多只能在存活之上增长 {room_at_most}%。"
        ),
        Seen::Between { room_at_most, by_memory: true } => say!(lang;
            "Between two looks at its memory {collections} collections took {share} of all CPU that the process may use: the heap may grow by {room_at_most}% of what is live.";
            "两次读取其内存之间有 {collections} 次 GC，占用了进程可用 CPU 的 {share}：堆最多只能在存活之上增长 {room_at_most}%。"
        ),
        Seen::Between { room_at_most, by_memory: false } => say!(lang;
            "Between the two MemStats {collections} collections, one of them memtrap's, took {share} of all CPU that the process may use: the heap may grow by {room_at_most}% of what is live at most.";
            "两次 MemStats 之间有 {collections} 次 GC（其中一次由 memtrap 触发），占用了进程可用 CPU 的 {share}：堆最多只能在存活之上增长 {room_at_most}%。"
        ),
    }
}
