//! What a limited cgroup is charged with, in parts that add up to its usage: the second table beside RSS's.

use serde::{Deserialize, Serialize};

use super::{plausible, signed};
use crate::charge::{Room, Stat, droppable, is_limit};

/// Processes that a table names.
const NAMED: usize = 10;

/// A cgroup's usage. Bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    pub path: String,
    pub limit_bytes: u64,
    /// All that it is charged with.
    pub usage_bytes: u64,
    /// What of it the kernel cannot drop.
    pub charge_bytes: u64,
    /// In the order of [`Charged::ALL`]; they add up to `usage_bytes`.
    pub parts: Vec<ChargedLine>,
    /// Other processes, the largest first.
    pub processes: Vec<Member>,
    /// How many of them there are.
    pub others: usize,
    /// The kernel's own by kind, where it tells.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub kernel: Vec<KernelLine>,
}

/// A part of a cgroup's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charged {
    /// Anonymous memory of the captured process.
    ThisProcess,
    /// Anonymous memory of others, running or just ended.
    OtherProcesses,
    /// tmpfs, shared memory.
    Shmem,
    /// Page cache that goes when room is needed.
    PageCache,
    /// Page cache that does not: dirty, being written, locked.
    BusyCache,
    /// Page tables, stacks, slab, sockets.
    Kernel,
    Unexplained,
}

impl Charged {
    pub const ALL: [Charged; 7] = [
        Charged::ThisProcess,
        Charged::OtherProcesses,
        Charged::Shmem,
        Charged::PageCache,
        Charged::BusyCache,
        Charged::Kernel,
        Charged::Unexplained,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Charged::ThisProcess => "this_process",
            Charged::OtherProcesses => "other_processes",
            Charged::Shmem => "shmem",
            Charged::PageCache => "page_cache",
            Charged::BusyCache => "busy_cache",
            Charged::Kernel => "kernel",
            Charged::Unexplained => "unexplained",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargedLine {
    pub part: Charged,
    pub bytes: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub pid: u32,
    pub name: String,
    /// Its anonymous memory.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLine {
    pub kind: KernelKind,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelKind {
    PageTables,
    Stacks,
    Slab,
    Sockets,
}

impl Cgroup {
    /// The table of one level: that which is `wanted`, else the one that is nearest to its limit. `numbers` is `proc/cgroup.txt`, `members` is
    /// `proc/cgroup_members.txt`; `anon` what the process itself has.
    pub fn read(numbers: &str, members: &str, pid: Option<u32>, anon: Option<u64>, wanted: Option<&str>) -> Option<Cgroup> {
        let levels: Vec<Numbers> = levels(numbers).into_iter().filter(|level| level.limit.is_some()).collect();
        let known = wanted.and_then(|wanted| levels.iter().find(|level| level.path == wanted));
        let share = |level: &&Numbers| u128::from(level.charge()) * 1_000_000 / u128::from(level.limit.unwrap_or(1).max(1));
        // of equals the nearest
        let level = known.or_else(|| levels.iter().rev().max_by_key(share))?;
        Some(level.table(&all_members(members), pid, anon))
    }

    pub fn get(&self, part: Charged) -> i64 {
        self.parts.iter().find(|line| line.part == part).map_or(0, |line| line.bytes)
    }
}

/// One level of `cgroup.txt`.
#[derive(Debug, Default)]
struct Numbers {
    path: String,
    limit: Option<u64>,
    usage: u64,
    stat: Stat,
    /// v1 counts it apart.
    kmem: Option<u64>,
}

struct Process {
    member: Member,
    cgroup: String,
    page_tables: u64,
}

fn levels(text: &str) -> Vec<Numbers> {
    let mut levels: Vec<(Numbers, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((path, rest)) = line.split_once(" memory.") else { continue };
        let Some((file, value)) = rest.split_once(": ") else { continue };
        if levels.last().is_none_or(|(level, _)| level.path != path) {
            levels.push((Numbers { path: path.to_owned(), ..Numbers::default() }, String::new()));
        }
        let Some((level, stat)) = levels.last_mut() else { continue };
        let number = || value.trim().parse::<u64>().ok();
        let lower = |limit: &mut Option<u64>, bytes: Option<u64>| {
            let real = bytes.filter(is_limit);
            *limit = [*limit, real].into_iter().flatten().min();
        };
        match file {
            "max" | "high" | "limit_in_bytes" => lower(&mut level.limit, number()),
            "current" | "usage_in_bytes" => level.usage = number().unwrap_or(0),
            "kmem.usage_in_bytes" => level.kmem = number(),
            "stat" => {
                if let Some(hidden) = value.strip_prefix("hierarchical_memory_limit ") {
                    lower(&mut level.limit, hidden.trim().parse().ok());
                }
                stat.push_str(value);
                stat.push('\n');
            }
            _ => {}
        }
    }
    let known = levels.into_iter().filter_map(|(level, stat)| Some(Numbers { stat: Stat::parse(&stat)?, ..level }));
    known.filter(|level| level.usage > 0).collect()
}

fn all_members(text: &str) -> Vec<Process> {
    let process = |line: &str| {
        let mut cells = line.split('\t');
        let pid = cells.next()?.parse().ok()?;
        let bytes = cells.next()?.parse().ok()?;
        let page_tables = cells.nth(3)?.parse().ok()?;
        let (cgroup, name) = (cells.next()?.to_owned(), cells.next()?.to_owned());
        Some(Process { member: Member { pid, name, bytes }, cgroup, page_tables })
    };
    text.lines().filter_map(process).collect()
}

impl Numbers {
    fn charge(&self) -> u64 {
        let room = Room { limit: self.limit.unwrap_or(0), ..Room::default() };
        self.usage.saturating_sub(droppable(&self.stat, room))
    }

    fn table(&self, members: &[Process], pid: Option<u32>, anon: Option<u64>) -> Cgroup {
        let stat = &self.stat;
        let is_here = |process: &&Process| {
            let below = process.cgroup.strip_prefix(self.path.trim_end_matches('/'));
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let here: Vec<&Process> = members.iter().filter(is_here).collect();
        let own = here.iter().find(|process| Some(process.member.pid) == pid).map(|process| process.member.bytes);
        let this = own.or(anon).unwrap_or(0).min(stat.anon);
        let kernel = match (stat.kernel, self.kmem) {
            (Some(kernel), _) => kernel.saturating_add(stat.sockets),
            (None, Some(kmem)) => kmem,
            (None, None) => stat.slab.saturating_add(stat.kernel_stack).saturating_add(stat.page_tables).saturating_add(stat.sockets),
        };
        let mut lines = [
            (Charged::ThisProcess, this),
            (Charged::OtherProcesses, stat.anon - this),
            (Charged::Shmem, stat.shmem.min(stat.file)),
            (Charged::PageCache, stat.clean_cache()),
            (Charged::BusyCache, stat.busy_cache()),
            (Charged::Kernel, kernel),
        ]
        .map(|(part, bytes)| ChargedLine { part, bytes: signed(plausible(bytes)) })
        .to_vec();
        let explained = lines.iter().fold(0i64, |sum, line| sum.saturating_add(line.bytes));
        lines.push(ChargedLine { part: Charged::Unexplained, bytes: signed(plausible(self.usage)).saturating_sub(explained) });
        let mut processes: Vec<Member> =
            here.iter().filter(|process| Some(process.member.pid) != pid).map(|process| process.member.clone()).collect();
        processes.sort_by_key(|member| (std::cmp::Reverse(member.bytes), member.pid));
        let others = processes.len();
        processes.truncate(NAMED);
        // v1 does not tell; the processes do
        let tables = here.iter().fold(0u64, |sum, process| sum.saturating_add(process.page_tables));
        let kinds = [
            (KernelKind::PageTables, if stat.page_tables > 0 { stat.page_tables } else { tables }),
            (KernelKind::Stacks, stat.kernel_stack),
            (KernelKind::Slab, stat.slab),
            (KernelKind::Sockets, stat.sockets),
        ];
        let kernel = kinds.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(kind, bytes)| KernelLine { kind, bytes }).collect();
        let limit_bytes = self.limit.unwrap_or(0);
        Cgroup {
            path: self.path.clone(),
            limit_bytes,
            usage_bytes: self.usage,
            charge_bytes: self.charge(),
            parts: lines,
            processes,
            others,
            kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: &str = "# memory cgroup v1, the process's own first, then its ancestors\n\
        /pod/app memory.limit_in_bytes: 1000\n/pod/app memory.usage_in_bytes: 500\n/pod/app memory.kmem.usage_in_bytes: 40\n\
        /pod/app memory.stat: total_cache 300\n/pod/app memory.stat: total_rss 158\n/pod/app memory.stat: total_shmem 250\n\
        /pod/app memory.stat: total_dirty 10\n/pod/app memory.stat: total_inactive_file 50\n\
        /pod memory.limit_in_bytes: 1000\n/pod memory.usage_in_bytes: 900\n/pod memory.stat: total_cache 0\n/pod memory.stat: total_rss 900\n\
        / memory.limit_in_bytes: 9223372036854771712\n/ memory.usage_in_bytes: 5000\n/ memory.stat: total_cache 0\n";
    const MEMBERS: &str = "pid\tanon\tfile\tshmem\tswap\tpage_tables\tcgroup\tname\n7\t100\t9\t0\t0\t4\t/pod/app\tapp\n\
        8\t50\t9\t0\t0\t2\t/pod/app\tchild\n9\t700\t9\t0\t0\t2\t/pod/side\tsidecar\n10\t5\t9\t0\t0\t2\t/podium\tother\n";

    #[test]
    fn the_parts_add_up_to_the_usage_of_the_level_that_is_wanted() {
        let table = Cgroup::read(NUMBERS, MEMBERS, Some(7), None, Some("/pod/app")).unwrap();
        let parts: Vec<i64> = table.parts.iter().map(|line| line.bytes).collect();
        assert_eq!(parts, [100, 58, 250, 40, 10, 40, 2]);
        assert_eq!((table.charge_bytes, table.limit_bytes, table.others), (460, 1000, 1));
        assert_eq!(table.kernel, [KernelLine { kind: KernelKind::PageTables, bytes: 6 }]);
    }

    #[test]
    fn else_it_is_the_level_that_is_nearest_to_its_limit_with_all_below_it() {
        let table = Cgroup::read(NUMBERS, MEMBERS, Some(7), None, None).unwrap();
        let names: Vec<(u32, &str)> = table.processes.iter().map(|m| (m.pid, m.name.as_str())).collect();
        assert_eq!((table.path.as_str(), table.get(Charged::OtherProcesses)), ("/pod", 800));
        assert_eq!(names, [(9, "sidecar"), (8, "child")]);
    }

    #[test]
    fn v2_counts_the_kernels_own_with_the_sockets() {
        let text = "/a memory.max: 1000\n/a memory.high: 800\n/a memory.current: 700\n/a memory.stat: anon 100\n/a memory.stat: file 50\n\
            /a memory.stat: kernel 500\n/a memory.stat: sock 50\n/a memory.stat: pagetables 400\n/a memory.stat: active_file 50\n";
        let table = Cgroup::read(text, "", Some(7), Some(90), None).unwrap();
        assert_eq!((table.limit_bytes, table.get(Charged::Kernel), table.get(Charged::Unexplained)), (800, 550, 0));
        assert_eq!((table.get(Charged::ThisProcess), table.charge_bytes), (90, 650));
    }

    #[test]
    fn without_a_limit_or_numbers_there_is_no_table() {
        for text in [
            "",
            "/a memory.max: max\n/a memory.current: 7\n/a memory.stat: file 1\n",
            "/a memory.max: 7\n/a memory.current: x\n",
            "garbage: : :",
        ] {
            assert_eq!(Cgroup::read(text, "", None, None, None), None, "{text}");
        }
    }
}
