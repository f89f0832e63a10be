//! What the process's cgroup is charged with, in sentences.

use super::super::{Cause, Charged};
use super::{bytes, name, part, percent, size};
use crate::anatomy::{Cgroup, KernelKind};
use crate::lang::{Lang, say};

/// Others that are named.
const TOLD: usize = 3;
/// Parts below this are not worth words.
const WORTH: u64 = 1 << 20;

/// The beginning of a summary: what fills the limit.
pub(super) fn clause(cgroup: &Cgroup, by: Cause, lang: Lang) -> String {
    let of = match by {
        Cause::CgroupShmem => Charged::Shmem,
        Cause::CgroupNeighbours => Charged::OtherProcesses,
        _ => Charged::Kernel,
    };
    let amount = cgroup.get(of).max(0);
    let share = percent(amount as f64 / cgroup.charge_bytes.max(1) as f64);
    let (path, charge, limit) = (name(&cgroup.path), bytes(cgroup.charge_bytes), bytes(cgroup.limit_bytes));
    let (what, amount) = (part(by, lang), size(amount));
    say!(lang;
        "Of the limit of cgroup {path}, {limit}, {charge} are taken by what the kernel cannot drop, and {amount} ({share}) of that are {what}; ";
        "cgroup {path} 的上限 {limit} 中有 {charge} 不可回收，其中 {amount}（{share}）是{what}；"
    )
}

pub(super) fn sentences(said: &mut Vec<String>, cgroup: &Cgroup, lang: Lang) {
    let (path, usage, limit, charge) =
        (name(&cgroup.path), bytes(cgroup.usage_bytes), bytes(cgroup.limit_bytes), bytes(cgroup.charge_bytes));
    said.push(say!(lang;
        "Cgroup {path} uses {usage} of its limit of {limit}; the kernel cannot drop {charge} of it.";
        "cgroup {path} 用了上限 {limit} 中的 {usage}；其中 {charge} 内核无法回收。"
    ));
    let of = |part| size(cgroup.get(part));
    let (this, others, count, shmem) = (of(Charged::ThisProcess), of(Charged::OtherProcesses), cgroup.others, of(Charged::Shmem));
    let (cache, busy, kernel) = (of(Charged::PageCache), of(Charged::BusyCache), of(Charged::Kernel));
    let other = if count == 1 { "other" } else { "others" };
    said.push(say!(lang;
        "That usage is {this} of this process, {others} of {count} {other}, {shmem} of tmpfs and shared memory, {cache} of page cache that can be dropped and {busy} that cannot, and {kernel} of the kernel's own.";
        "这些用量包括：本进程 {this}，其他 {count} 个进程 {others}，tmpfs 与共享内存 {shmem}，可回收的 page cache {cache}、不可回收的 {busy}，内核自身 {kernel}。"
    ));
    let large = cgroup.processes.iter().take(TOLD).filter(|member| member.bytes >= WORTH);
    let large = large.map(|member| {
        let (who, pid, amount) = (name(&member.name), member.pid, bytes(member.bytes));
        say!(lang; "{who} (pid {pid}) {amount}"; "{who}（pid {pid}）{amount}")
    });
    let large: Vec<String> = large.collect();
    if !large.is_empty() {
        let large = large.join(lang.pick(", ", "、"));
        said.push(say!(lang; "The largest of the others: {large}."; "其他进程中最大的：{large}。"));
    }
    let kinds = cgroup.kernel.iter().filter(|line| line.bytes >= WORTH).map(|line| {
        let (what, amount) = (kind(line.kind, lang), bytes(line.bytes));
        say!(lang; "{amount} of {what}"; "{what} {amount}")
    });
    let kinds: Vec<String> = kinds.collect();
    if !kinds.is_empty() && cgroup.get(Charged::Kernel) >= (WORTH * 8) as i64 {
        let kinds = kinds.join(lang.pick(", ", "、"));
        said.push(say!(lang; "Of the kernel's own: {kinds}."; "内核自身的部分中：{kinds}。"));
    }
}

/// A kind of the kernel's own memory in words.
fn kind(kind: KernelKind, lang: Lang) -> &'static str {
    let (en, zh) = match kind {
        KernelKind::PageTables => ("page tables", "页表"),
        KernelKind::Stacks => ("stacks of threads", "线程的内核栈"),
        KernelKind::Slab => ("slab", "slab"),
        KernelKind::Sockets => ("socket buffers", "socket 缓冲区"),
    };
    lang.pick(en, zh)
}
