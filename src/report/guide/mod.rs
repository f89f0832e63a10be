//! What a cause means and what to do about it: the words that a report adds to the numbers.

mod en;
mod zh;

use crate::anatomy::{Bucket, Charged};
use crate::lang::Lang;
use crate::verdict::{Cause, Confidence, Detail, Explains, Verdict};

/// For one cause.
#[derive(Debug)]
pub struct Guide {
    pub title: &'static str,
    pub means: &'static str,
    /// In the order of investigation.
    pub steps: &'static [&'static str],
    /// What it usually turns out to be.
    pub usual: &'static [&'static str],
}

/// The guide for a cause.
pub fn of(cause: Cause, detail: Option<Detail>, lang: Lang) -> &'static Guide {
    match (detail, lang) {
        (Some(detail), Lang::En) => en::of_detail(detail),
        (Some(detail), Lang::Zh) => zh::of_detail(detail),
        (None, Lang::En) => en::of(cause),
        (None, Lang::Zh) => zh::of(cause),
    }
}

/// What the states of the goroutines suggest besides, where there is a pile of them.
pub fn of_waiting(verdict: &Verdict, lang: Lang) -> Option<&'static str> {
    let group = verdict.goroutines.as_ref()?.main_group()?;
    if verdict.cause != Cause::GoroutinePileup {
        return None;
    }
    let state = group.state.as_deref()?;
    let is = |names: &[&str]| names.iter().any(|name| state.starts_with(name));
    let (en, zh) = if is(&["sync.Mutex", "sync.RWMutex", "semacquire"]) {
        (
            "They wait for a lock. mutex.pb.gz (if the service sets a mutex profile fraction) has who held it: flat is the lock itself, cum the way to it. In goroutine.txt, look for the one goroutine with the same mutex that is not waiting for it.",
            "它们在等锁。mutex.pb.gz（服务设置了 mutex profile fraction 时）记录了谁持锁：flat 是锁本身，cum 是通往它的路径。在 goroutine.txt 里找同一把锁上唯一不在等待的 goroutine。",
        )
    } else if is(&["chan", "select"]) {
        (
            "They wait for a channel. block.pb.gz (if the service sets a block profile rate) has where the waiting adds up; a nil channel or one whose other side has returned never wakes anybody.",
            "它们在等 channel。block.pb.gz（服务设置了 block profile rate 时）记录了等待累积在哪里；nil channel，或另一端已返回的 channel，永远不会唤醒任何人。",
        )
    } else if is(&["IO wait", "syscall"]) {
        (
            "They wait for the network or the disk: look for the missing deadline, and at what the other side is doing.",
            "它们在等网络或磁盘：找缺失的 deadline，并看对端在做什么。",
        )
    } else if is(&["sleep"]) {
        ("They sleep: look for retry loops without a bound.", "它们在 sleep：找没有上限的重试循环。")
    } else {
        return None;
    };
    Some(lang.pick(en, zh))
}

/// The answer in a heading.
pub fn answer(verdict: &Verdict, lang: Lang) -> &'static str {
    if verdict.core_bytes.is_some() {
        return answer_of_core(verdict.go_heap_explains, lang);
    }
    let (en, zh) = match verdict.go_heap_explains {
        Explains::Yes => ("Yes: the Go heap explains the RSS", "能：Go 堆可以解释 RSS"),
        Explains::Partly => ("Partly: the Go heap explains some of the RSS", "部分：Go 堆只能解释一部分 RSS"),
        Explains::No => ("No: the Go heap does not explain the RSS", "不能：Go 堆无法解释 RSS"),
        Explains::Unknown => {
            ("Unknown: the evidence does not tell whether the Go heap explains the RSS", "未知：现有证据无法判断 Go 堆能否解释 RSS")
        }
    };
    lang.pick(en, zh)
}

fn answer_of_core(explains: Explains, lang: Lang) -> &'static str {
    let (en, zh) = match explains {
        Explains::Yes => ("Yes: the Go heap explains what the core file holds", "能：Go 堆可以解释 core 文件中的内存"),
        Explains::Partly => {
            ("Partly: the Go heap explains some of what the core file holds", "部分：Go 堆只能解释 core 文件中的一部分内存")
        }
        Explains::No => ("No: the Go heap does not explain what the core file holds", "不能：Go 堆无法解释 core 文件中的内存"),
        Explains::Unknown => (
            "Unknown: the evidence does not tell whether the Go heap explains what the core file holds",
            "未知：现有证据无法判断 Go 堆能否解释 core 文件中的内存",
        ),
    };
    lang.pick(en, zh)
}

pub fn confidence(confidence: Confidence, lang: Lang) -> &'static str {
    let (en, zh) = match confidence {
        Confidence::High => ("high confidence", "置信度高"),
        Confidence::Medium => ("medium confidence", "置信度中"),
        Confidence::Low => ("low confidence", "置信度低"),
    };
    lang.pick(en, zh)
}

/// A bucket in words.
pub fn bucket(bucket: Bucket, lang: Lang) -> &'static str {
    let (en, zh) = match bucket {
        Bucket::HeapLive => ("live objects", "存活对象"),
        Bucket::HeapGarbage => ("garbage, not collected yet", "垃圾，尚未 GC"),
        Bucket::HeapFragmentation => ("gaps in heap spans", "span 内的空隙"),
        Bucket::HeapUnreleased => ("freed, not returned", "已释放未归还"),
        Bucket::GoroutineStacks => ("goroutine stacks", "goroutine 栈"),
        Bucket::RuntimeMetadata => ("the runtime's own", "runtime 自身"),
        Bucket::NativeAnon => ("native: cgo, mmap, threads", "native：cgo、mmap、线程"),
        Bucket::FileMapped => ("mapped files", "文件映射"),
        Bucket::Shmem => ("shared memory", "共享内存"),
        Bucket::Unexplained => ("unexplained", "无法解释"),
    };
    lang.pick(en, zh)
}

/// A part of a cgroup's usage in words.
pub fn charged(part: Charged, lang: Lang) -> &'static str {
    let (en, zh) = match part {
        Charged::ThisProcess => ("this process", "本进程"),
        Charged::OtherProcesses => ("other processes", "其他进程"),
        Charged::Shmem => ("tmpfs and shared memory", "tmpfs 与共享内存"),
        Charged::PageCache => ("page cache that can be dropped", "可回收的 page cache"),
        Charged::BusyCache => ("page cache that cannot: dirty, locked", "不可回收的 page cache：脏页、已锁定"),
        Charged::Kernel => ("the kernel's own: page tables, stacks, slab, sockets", "内核自身：页表、内核栈、slab、socket"),
        Charged::Unexplained => ("unexplained", "无法解释"),
    };
    lang.pick(en, zh)
}

/// What the columns of pprof's tables mean.
pub fn columns(lang: Lang) -> [(&'static str, &'static str); 4] {
    let meanings = lang.pick(
        [
            "what is live: bytes, and number of objects",
            "everything allocated since the process started, freed or not",
            "by the function itself",
            "by the function and all that it called",
        ],
        ["现在存活的：字节数和对象数", "进程启动以来分配的全部，无论是否已释放", "函数自身", "函数及其调用的全部"],
    );
    let mut terms = ["inuse_space, inuse_objects", "alloc_space, alloc_objects", "flat", "cum"].into_iter();
    meanings.map(|meaning| (terms.next().unwrap_or_default(), meaning))
}
