//! What of a cgroup's memory its kernel cannot drop: the part for which it kills. Pure.
//!
//! A process may own none of it: tmpfs, other processes, page tables, socket buffers. And what it did read from files is charged, but goes when room is
//! needed. So neither RSS nor the usage tells how near the kill is:
//!
//! ```text
//!   usage = anon + shmem + kernel + slab + page cache
//!                                  │             └ clean and not locked: dropped when needed
//!                                  └ slab_reclaimable (v2): dropped when needed, unless something pins it
//! ```
//!
//! The field names are of `memory.stat` in the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`. Two traps: `file` (v1: `cache`) has shmem, dirty
//! and writeback in it; and inodes of a tmpfs are slab that counts as reclaimable and never goes. Measured in five kinds of programs, the kill came at 99.4 to
//! 100 % of the limit by this number, and page cache alone stood at 100 % of the limit for ever at 30 % of it.

use std::sync::Arc;

/// Page cache below this share of the limit is what is left after reclaim has tried.
const HARDLY_ANY: u64 = 50;

/// v1 writes "no limit" as the largest multiple of the page size; nothing real comes near.
pub const NO_LIMIT: u64 = 1 << 62;

/// Is it a limit, and not the kernel's way to say that there is none?
pub fn is_limit(bytes: &u64) -> bool {
    (1..NO_LIMIT).contains(bytes)
}

/// What of a limited cgroup cannot be dropped, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub bytes: u64,
    pub limit: u64,
    /// Its path in the hierarchy.
    pub cgroup: Arc<str>,
    /// The kernel has just met the limit: it reclaims, slows the processes or kills one.
    pub is_met: bool,
}

/// Of its limit so much must be what the kernel cannot drop, if meeting it is to be trouble: page cache meets limits all day.
const TROUBLE: (u64, u64) = (9, 10);

impl Charge {
    pub fn new(bytes: u64, limit: u64, cgroup: impl Into<Arc<str>>) -> Charge {
        Charge { bytes, limit, cgroup: cgroup.into(), is_met: false }
    }

    /// The limit is met, and not by what can be dropped: at `memory.high` the processes sleep from here on, at `memory.max` they die.
    pub fn is_trouble(&self) -> bool {
        self.is_met && self.bytes >= self.limit / TROUBLE.1 * TROUBLE.0
    }

    /// What it would be of another limit: the same share of it.
    pub fn against(&self, limit: u64) -> u64 {
        if limit == self.limit {
            return self.bytes;
        }
        u64::try_from(u128::from(self.bytes) * u128::from(limit) / u128::from(self.limit.max(1))).unwrap_or(u64::MAX)
    }
}

/// `memory.stat` of a cgroup and all below it. Bytes; what the kernel does not tell is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub anon: u64,
    /// Page cache, with shmem, dirty and writeback.
    pub file: u64,
    pub shmem: u64,
    pub dirty: u64,
    pub writeback: u64,
    /// Page cache on the lists that reclaim goes through: not what is locked, nor shmem.
    pub evictable_file: Option<u64>,
    /// Everything of the kernel's own (v2); v1 has a file of its own for it.
    pub kernel: Option<u64>,
    pub kernel_stack: u64,
    pub page_tables: u64,
    pub slab: u64,
    pub slab_reclaimable: u64,
    pub sockets: u64,
    pub swap: u64,
}

impl Stat {
    /// Of either version. `None` if it is no `memory.stat`.
    pub fn parse(text: &str) -> Option<Stat> {
        let fields =
            || text.lines().filter_map(|line| line.split_once(' ')).filter_map(|(key, n)| Some((key, n.trim().parse::<u64>().ok()?)));
        // v1 has each number twice, of the cgroup alone and of all below it
        let of_all = fields().any(|(key, _)| key == "total_cache");
        let mut stat = Stat::default();
        let mut known = false;
        for (key, bytes) in fields() {
            let key = match (key.strip_prefix("total_"), of_all) {
                (Some(key), true) => key,
                (None, false) => key,
                _ => continue,
            };
            let place = match key {
                "anon" | "rss" => &mut stat.anon,
                "file" | "cache" => &mut stat.file,
                "shmem" => &mut stat.shmem,
                "file_dirty" | "dirty" => &mut stat.dirty,
                "file_writeback" | "writeback" => &mut stat.writeback,
                "kernel" => stat.kernel.get_or_insert(0),
                "kernel_stack" => &mut stat.kernel_stack,
                "pagetables" | "sec_pagetables" => &mut stat.page_tables,
                "slab" => &mut stat.slab,
                "slab_reclaimable" => &mut stat.slab_reclaimable,
                "sock" => &mut stat.sockets,
                "swap" => &mut stat.swap,
                "active_file" | "inactive_file" => stat.evictable_file.get_or_insert(0),
                _ => continue,
            };
            *place = place.saturating_add(bytes);
            known |= matches!(key, "file" | "cache");
        }
        known.then_some(stat)
    }

    /// Page cache that goes when room is needed.
    pub fn clean_cache(&self) -> u64 {
        let busy = self.dirty.saturating_add(self.writeback);
        let clean = self.file.saturating_sub(self.shmem).saturating_sub(busy);
        self.evictable_file.map_or(clean, |evictable| clean.min(evictable.saturating_sub(busy)))
    }

    /// Page cache that does not: dirty, being written, or locked.
    pub fn busy_cache(&self) -> u64 {
        self.file.saturating_sub(self.shmem).saturating_sub(self.clean_cache())
    }
}

/// What else decides how much of the usage can go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Of the same cgroup.
    pub limit: u64,
    /// Swap that this cgroup may still take.
    pub swap_left: u64,
    /// Reclaim was tried since the last look, and the usage is at the limit nevertheless.
    pub is_pressed: bool,
}

/// What of `usage` goes when room is needed, in bytes: clean page cache, reclaimable slab unless reclaim has shown that it stays, and what
/// there is swap for. The rest reaches the limit just when the kernel kills.
pub fn droppable(stat: &Stat, room: Room) -> u64 {
    let cache = stat.clean_cache();
    let is_pinned = room.is_pressed && cache < room.limit / HARDLY_ANY;
    let slab = if is_pinned { 0 } else { stat.slab_reclaimable };
    let swappable = room.swap_left.min(stat.anon.saturating_add(stat.shmem));
    cache.saturating_add(slab).saturating_add(swappable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn v2(fields: &[(&str, u64)]) -> Stat {
        let text: String = fields.iter().map(|(key, mib)| format!("{key} {}\n", mib * MIB)).collect();
        Stat::parse(&text).unwrap()
    }

    fn charge(usage: u64, stat: &Stat, room: Room) -> u64 {
        (usage * MIB - droppable(stat, room)) / MIB
    }

    const ROOM: Room = Room { limit: 200 * MIB, swap_left: 0, is_pressed: false };

    #[test]
    fn a_limit_that_is_met_is_trouble_unless_it_is_by_what_can_go() {
        let met = |bytes| Charge { is_met: true, ..Charge::new(bytes, 285, "/a") }.is_trouble();
        assert_eq!((met(257), met(251), Charge::new(285, 285, "/a").is_trouble()), (true, false, false));
    }

    #[test]
    fn clean_page_cache_goes_and_tmpfs_dirty_and_locked_pages_stay() {
        let cache = v2(&[("anon", 58), ("file", 140), ("inactive_file", 100), ("active_file", 40), ("kernel", 2)]);
        assert_eq!(charge(200, &cache, ROOM), 60);
        let tmpfs = v2(&[("anon", 40), ("file", 158), ("shmem", 158), ("inactive_file", 0), ("active_file", 0), ("kernel", 2)]);
        assert_eq!(charge(200, &tmpfs, ROOM), 200);
        let dirty = v2(&[("anon", 40), ("file", 158), ("file_dirty", 50), ("file_writeback", 8), ("inactive_file", 158)]);
        assert_eq!(charge(200, &dirty, ROOM), 100);
        let locked = v2(&[("anon", 40), ("file", 158), ("inactive_file", 10), ("active_file", 8), ("unevictable", 140)]);
        assert_eq!((charge(200, &locked, ROOM), locked.busy_cache() / MIB), (182, 140));
    }

    #[test]
    fn slab_that_reclaim_did_not_take_stays() {
        let inodes = v2(&[("anon", 40), ("file", 1), ("inactive_file", 1), ("kernel", 159), ("slab_reclaimable", 20)]);
        assert_eq!(charge(200, &inodes, ROOM), 179);
        assert_eq!(charge(200, &inodes, Room { is_pressed: true, ..ROOM }), 199);
        // reclaim was tried for the page cache that is there
        let cache = v2(&[("anon", 40), ("file", 100), ("inactive_file", 100), ("slab_reclaimable", 20)]);
        assert_eq!(charge(200, &cache, Room { is_pressed: true, ..ROOM }), 80);
    }

    #[test]
    fn what_there_is_swap_for_can_go_and_no_more_than_can_be_swapped() {
        let heap = v2(&[("anon", 190), ("file", 0), ("kernel", 10)]);
        assert_eq!(charge(200, &heap, Room { swap_left: 64 * MIB, ..ROOM }), 136);
        assert_eq!(charge(200, &heap, Room { swap_left: 4096 * MIB, ..ROOM }), 10);
    }

    #[test]
    fn v1_counts_what_is_below_and_has_no_slab() {
        let text = "cache 5\nrss 7\nshmem 1\ntotal_cache 1000\ntotal_rss 70\ntotal_shmem 300\ntotal_dirty 50\ntotal_writeback 6\n\
                    total_inactive_file 500\ntotal_active_file 144\ninactive_file 3\ntotal_swap 9\nhierarchical_memory_limit 4096\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.anon, stat.file, stat.shmem, stat.swap, stat.kernel), (70, 1000, 300, 9, None));
        assert_eq!(stat.clean_cache(), 588);
        // a kernel without hierarchy has one set of them
        assert_eq!(Stat::parse("cache 5\nrss 7\nshmem 1\n").unwrap().clean_cache(), 4);
    }

    #[test]
    fn nonsense_is_no_stat_and_absurd_numbers_overflow_nothing() {
        for text in ["", "anon 5\n", "x\n", "file\n", "file -1\n", "file 99999999999999999999999\n"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
        let most = u64::MAX;
        let stat = Stat::parse(&format!(
            "file {most}\nanon {most}\nshmem 1\nfile_dirty {most}\nfile_writeback {most}\ninactive_file {most}\nactive_file 5\nslab_reclaimable {most}\n"
        ));
        assert_eq!(droppable(&stat.unwrap(), Room { limit: 0, swap_left: most, is_pressed: true }), most);
    }
}
