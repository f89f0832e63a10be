//! Which of the nameless anonymous mappings are the arenas of the Go heap.
//!
//! Arenas are multiples of 64 MiB, aligned to 64 MiB (4 MiB in a process of 32 bits), with used and reserved parts side by side. Up to Go
//! 1.25 they begin at a known address; from 1.26 at a random one that is far below the kernel's mmap area. glibc's malloc arenas are
//! aligned alike, but in the mmap area; other allocators reserve theirs far away, too. Whether a guess is right shows when its size is
//! compared with what the runtime says.

use std::collections::BTreeMap;

use super::smaps::{Header, Kind, Mappings, Usage};

const ARENA: u64 = 64 << 20;
/// All addresses of a process of 32 bits are below; so are its arenas, and malloc's are smaller as well.
const NARROW: u64 = 1 << 32;
const NARROW_ARENA: u64 = 4 << 20;
const NARROW_MALLOC: u64 = 1 << 20;
/// The first hints of the runtime's allocator: amd64 and most others, and arm64.
const KNOWN_BASES: [u64; 2] = [0xc0 << 32, 0x40 << 32];
/// Blocks that are kept until the end; a Go process has a few.
const MAX_BLOCKS: usize = 64;
const MAX_GUARD: u64 = 64 << 10;
/// glibc's smallest thread stack is 16 KiB; nobody has one larger than this.
const THREAD_STACK: std::ops::RangeInclusive<u64> = 16 << 10..=64 << 20;
/// What a thread gets where nobody asks for less or more.
const USUAL_THREAD_STACK: u64 = 8 << 20;
/// Stacks of threads that have ended, which the C library keeps: 40 MiB.
const KEPT_STACKS: u64 = 5;
/// Different sizes of mappings with guard pages that are told apart.
const MAX_SIZES: usize = 64;
/// Where the stack is if the text does not tell.
const USUAL_STACK: u64 = 1 << 47;

/// How the arenas were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The kernel names them.
    Named,
    /// At the address where Go up to 1.25 begins.
    KnownBase,
    /// By their shape, and their size fits MemStats.
    Shape,
}

/// The part of the arenas that is resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub found: Found,
    pub usage: Usage,
}

/// Where a block of nameless mappings lies that is whole arenas in size and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    KnownBase,
    /// Far below all of the kernel's own choices: random bases are there.
    Far,
    /// In the mmap area. The runtime goes there only when the kernel refuses all other places.
    Near,
}

/// The blocks that may be arenas, in the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arenas(Vec<(Place, Block)>);

/// Mappings above a guard page, as pthreads makes them, by size: stacks of threads, or someone's guarded buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Guarded(BTreeMap<u64, Usage>);

impl Guarded {
    /// False where there are too many sizes: no stacks.
    fn add(&mut self, usage: &Usage) -> bool {
        let size = usage.size / usage.mappings.max(1);
        let known = self.0.len() < MAX_SIZES || self.0.contains_key(&size);
        if known {
            self.0.entry(size).or_default().add(usage);
        }
        known
    }

    fn take_off(&mut self, usage: &Usage) {
        if let Some(sum) = self.0.get_mut(&usage.size) {
            sum.take_off(usage);
        }
        self.0.retain(|_, sum| sum.mappings > 0);
    }

    fn sum(&self) -> Usage {
        let mut sum = Usage::default();
        self.0.values().for_each(|usage| sum.add(usage));
        sum
    }
}

/// What is known of the threads of a process that may have stacks of the C library's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// All but the first, whose stack the kernel names; `None` where nobody counted. None can have one in a program without cgo.
    pub others: Option<u64>,
    /// The soft limit of a stack, which is the size that they get.
    pub stack_limit: Option<u64>,
}

impl Mappings {
    /// Takes as many of the mappings with guard pages for stacks of threads as there are threads, of sizes that stacks have; the others
    /// are someone's guarded memory.
    pub fn settle(&mut self, threads: Threads) {
        // some may have come between the two readings
        let most = |others: u64| if others == 0 { 0 } else { others.saturating_add(others / 8).saturating_add(KEPT_STACKS) };
        let mut left = threads.others.map(most);
        let mut sizes: Vec<(u64, Usage)> = std::mem::take(&mut self.guarded).0.into_iter().collect();
        sizes.sort_by_key(|(size, usage)| (std::cmp::Reverse(usage.mappings), *size));
        for (size, usage) in sizes {
            let usual = size <= USUAL_THREAD_STACK || threads.stack_limit == Some(size);
            let most = threads.others.is_some_and(|others| others > 0 && usage.mappings.saturating_mul(2) >= others);
            if (usual || most) && left.is_none_or(|left| usage.mappings <= left) {
                left = left.map(|left| left - usage.mappings);
                self.add(Kind::ThreadStack, &usage);
            } else {
                self.add(Kind::OtherAnon, &usage);
            }
        }
    }
}

/// A run of adjacent nameless mappings, in sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    start: u64,
    end: u64,
    whole: Usage,
    /// Size of the parts that may be used.
    open: u64,
    guarded: Guarded,
    malloc: Usage,
}

impl Block {
    /// Of whole arenas of this size.
    fn is_arenas(&self, size: u64) -> bool {
        self.start.is_multiple_of(size) && self.end.is_multiple_of(size) && self.open > 0
    }

    /// Has what the C library makes for threads, which the runtime's arenas have not.
    fn is_of_threads(&self) -> bool {
        self.malloc.mappings > 0 || !self.guarded.0.is_empty()
    }

    /// What is in it if it is no arena.
    fn spill(&self, sums: &mut Mappings) {
        let mut rest = self.whole;
        rest.take_off(&self.malloc);
        rest.take_off(&self.guarded.sum());
        for usage in self.guarded.0.values() {
            if !sums.guarded.add(usage) {
                rest.add(usage);
            }
        }
        sums.add(Kind::MallocArena, &self.malloc);
        sums.add(Kind::OtherAnon, &rest);
    }
}

/// The mapping before, and whether it was taken for a thread's stack.
type Last = (Header, Usage, bool);

/// Takes the nameless anonymous mappings in the order of their addresses.
#[derive(Default)]
pub(super) struct Plain {
    pub stack_at: Option<u64>,
    run: Block,
    last: Option<Last>,
    blocks: Vec<Block>,
}

impl Plain {
    pub fn push(&mut self, sums: &mut Mappings, header: Header, usage: Usage) {
        let before = self.last.take().filter(|(last, ..)| last.end == header.start);
        if before.is_none() {
            self.end_run(sums);
            self.run.start = header.start;
        }
        let mut is_stack = false;
        if let Some((last, its, was_stack)) = before {
            let size = last.size().saturating_add(header.size());
            let arena = if header.end <= NARROW { NARROW_MALLOC } else { ARENA };
            let guarded = last.closed && last.size() <= MAX_GUARD && !header.closed && THREAD_STACK.contains(&header.size());
            is_stack = guarded && self.run.guarded.add(&usage);
            if !guarded && header.closed && !last.closed && last.start.is_multiple_of(arena) && size == arena {
                // it follows an arena that is almost full, not a guard page
                if was_stack {
                    self.run.guarded.take_off(&its);
                }
                self.run.malloc.add(&its);
            }
        }
        self.run.end = header.end;
        self.run.whole.add(&usage);
        if !header.closed {
            self.run.open = self.run.open.saturating_add(header.size());
        }
        self.last = Some((header, usage, is_stack));
    }

    fn end_run(&mut self, sums: &mut Mappings) {
        let run = std::mem::take(&mut self.run);
        let arena = if run.end <= NARROW { NARROW_ARENA } else { ARENA };
        if run.is_arenas(arena) && self.blocks.len() < MAX_BLOCKS { self.blocks.push(run) } else { run.spill(sums) }
    }

    pub fn finish(mut self, sums: &mut Mappings) {
        self.end_run(sums);
        let stack = self.stack_at.unwrap_or(USUAL_STACK);
        // random bases are below half of the address space, executables at two thirds of it, the mmap area below the stack
        let far = stack / 8 * 5;
        let arena = if stack <= NARROW { NARROW_ARENA } else { ARENA };
        for block in self.blocks {
            let place = if KNOWN_BASES.contains(&block.start) {
                Place::KnownBase
            } else if block.end <= far {
                Place::Far
            } else {
                Place::Near
            };
            if !block.is_arenas(arena) || place == Place::Near && block.is_of_threads() {
                block.spill(sums);
            } else {
                sums.arenas.0.push((place, block));
            }
        }
    }
}

impl Mappings {
    /// The resident part of Go's arenas, and the kinds of all other mappings. `expected` is how much is mapped in them by
    /// MemStats: a guess that does not fit it is none. Without it only what is far from all other mappings is taken.
    pub fn arenas(&self, expected: Option<u64>) -> (Option<Resident>, Mappings) {
        let mut rest = self.clone();
        rest.arenas = Arenas::default();
        let named = self.of(Kind::GoHeap);
        let taken = if named.mappings > 0 { None } else { self.arenas.pick(expected) };
        for (i, (_, block)) in self.arenas.0.iter().enumerate() {
            if taken.as_ref().is_none_or(|taken| !taken.contains(&i)) {
                block.spill(&mut rest);
            }
        }
        let resident = match taken {
            Some(taken) => Some(self.arenas.resident(&taken)),
            None => (named.mappings > 0).then_some(Resident { found: Found::Named, usage: named }),
        };
        (resident, rest)
    }
}

impl Arenas {
    /// The blocks that are the arenas: one of the runtime's ways to find room, and in agreement with MemStats.
    fn pick(&self, expected: Option<u64>) -> Option<Vec<usize>> {
        let at = |places: &[Place]| -> Vec<usize> {
            self.0.iter().enumerate().filter(|(_, (place, _))| places.contains(place)).map(|(i, _)| i).collect()
        };
        let (known, far, near) = (at(&[Place::KnownBase]), at(&[Place::Far]), at(&[Place::Near]));
        let mut ways = vec![known.clone(), far.clone(), near.clone()];
        // the runtime goes on elsewhere when its first place is taken
        if !known.is_empty() {
            ways.push(at(&[Place::KnownBase, Place::Far]));
        }
        if !far.is_empty() {
            ways.push(at(&[Place::Far, Place::Near]));
        }
        // one of several is the runtime's, the others are those of another allocator
        let alone = [&far, &near].into_iter().filter(|blocks| blocks.len() > 1).flatten().map(|i| vec![*i]);
        ways.extend(alone);
        ways.retain(|way| self.open(way) > 0);
        let is_sure = |way: &[usize]| way.iter().all(|i| self.0.get(*i).is_some_and(|(place, _)| *place != Place::Near));
        let Some(expected) = expected else {
            // in the mmap area anything may be aligned by chance, and of several far away any may be another's
            let told = ways.into_iter().filter(|way| is_sure(way) && (*way == known || far.len() == 1));
            return told.min_by_key(Vec::len);
        };
        ways.retain(|way| fits(self.open(way), expected, is_sure(way)));
        ways.into_iter().min_by_key(|way| self.open(way).abs_diff(expected))
    }

    fn open(&self, blocks: &[usize]) -> u64 {
        blocks.iter().filter_map(|i| self.0.get(*i)).fold(0, |sum, (_, block)| sum.saturating_add(block.open))
    }

    fn resident(&self, blocks: &[usize]) -> Resident {
        let (mut found, mut usage) = (Found::Shape, Usage::default());
        for (place, block) in blocks.iter().filter_map(|i| self.0.get(*i)) {
            usage.add(&block.whole);
            if *place == Place::KnownBase {
                found = Found::KnownBase;
            }
        }
        Resident { found, usage }
    }
}

/// MemStats are read a little later than smaps, and the heap may have grown meanwhile: by a lot where the place is right
/// anyway. What is mapped does not shrink.
fn fits(open: u64, expected: u64, sure: bool) -> bool {
    let slack = (expected / 8).max(ARENA);
    let least = if sure { expected / 2 } else { expected.saturating_sub(slack) };
    open <= expected.saturating_add(slack) && open >= least.min(expected.saturating_sub(slack))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::smaps::parse;

    const MIB: u64 = 1 << 20;

    /// Mappings of (start, MiB, permissions), all resident.
    fn mappings(list: &[(u64, u64, &str)]) -> Mappings {
        let mut text = String::new();
        for (start, size, perms) in list {
            let (end, kib) = (start + size * MIB, if perms.starts_with("---") { 0 } else { size << 10 });
            text.push_str(&format!("{start:x}-{end:x} {perms} 00000000 00:00 0 \nRss: {kib} kB\nAnonymous: {kib} kB\n"));
        }
        parse(text.as_bytes()).unwrap().unwrap()
    }

    fn found(mappings: &Mappings, expected_mib: u64) -> Option<(Found, u64)> {
        mappings.arenas(Some(expected_mib * MIB)).0.map(|r| (r.found, r.usage.rss / MIB))
    }

    #[test]
    fn malloc_s_arenas_in_the_mmap_area_are_malloc_s() {
        let malloc = mappings(&[(0x7f6a_3c00_0000, 10, "rw-p"), (0x7f6a_3ca0_0000, 54, "---p")]);
        assert_eq!(found(&malloc, 10), None);
        assert_eq!(malloc.arenas(None).1.of(Kind::MallocArena).rss, 10 * MIB);
    }

    #[test]
    fn an_arena_of_malloc_after_one_that_is_almost_full_is_no_stack() {
        let at = 0x7f6a_3c00_0000u64;
        let full = at + 64 * MIB - (36 << 10);
        let (next, used) = (at + 64 * MIB, at + 64 * MIB + (132 << 10));
        let mapping = |start: u64, end: u64, perms: &str, kib: u64| {
            format!("{start:x}-{end:x} {perms} 00000000 00:00 0 \nRss: {kib} kB\nAnonymous: {kib} kB\n")
        };
        let text = [
            mapping(at, full, "rw-p", 5000),
            mapping(full, next, "---p", 0),
            mapping(next, used, "rw-p", 100),
            mapping(used, next + 64 * MIB, "---p", 0),
        ];
        let rest = parse(text.concat().as_bytes()).unwrap().unwrap().arenas(None).1;
        assert_eq!((rest.of(Kind::MallocArena).rss, rest.of(Kind::ThreadStack).mappings), (5100 << 10, 0));
    }

    #[test]
    fn the_same_shape_where_go_begins_is_go_s() {
        for base in [0xc0_0000_0000, 0x40_0000_0000] {
            assert_eq!(found(&mappings(&[(base, 10, "rw-p"), (base + 10 * MIB, 54, "---p")]), 10), Some((Found::KnownBase, 10)));
        }
    }

    #[test]
    fn arenas_that_the_kernel_moved_to_the_mmap_area_are_found_by_their_size() {
        let near = mappings(&[(0x7f6a_3c00_0000, 8, "---p"), (0x7f6a_3c80_0000, 500, "rw-p"), (0x7f6a_5bc0_0000, 4, "---p")]);
        assert_eq!(found(&near, 490), Some((Found::Shape, 500)));
        // a mapping of someone else's that is aligned by chance
        assert_eq!(found(&near, 20), None);
        assert_eq!(near.arenas(None).0, None);
    }

    #[test]
    fn arenas_beyond_the_first_place_belong_to_them() {
        let two = mappings(&[(0xc0_0000_0000, 640, "rw-p"), (0x1c0_0000_0000, 320, "rw-p")]);
        assert_eq!(found(&two, 960), Some((Found::KnownBase, 960)));
    }

    #[test]
    fn what_a_stranger_maps_far_away_is_not_go_s() {
        let two = mappings(&[(0xc0_0000_0000, 64, "rw-p"), (0x1000_0000_0000, 640, "rw-p")]);
        assert_eq!(found(&two, 64), Some((Found::KnownBase, 64)));
        assert_eq!(two.arenas(Some(64 * MIB)).1.of(Kind::OtherAnon).rss, 640 * MIB);
    }

    #[test]
    fn a_heap_that_grew_before_memstats_was_read_is_still_found() {
        assert_eq!(found(&mappings(&[(0x3d57_8800_0000, 640, "rw-p")]), 1000), Some((Found::Shape, 640)));
    }

    #[test]
    fn another_allocator_s_blocks_far_away_are_told_from_go_s_by_their_size() {
        let both = mappings(&[(0x42a_7400_0000, 256, "rw-p"), (0x3b12_d000_0000, 8, "rw-p"), (0x3b12_d080_0000, 56, "---p")]);
        assert_eq!(found(&both, 8), Some((Found::Shape, 8)));
        assert_eq!(both.arenas(Some(8 * MIB)).1.of(Kind::OtherAnon).rss, 256 * MIB);
        // without MemStats either may be
        assert_eq!(both.arenas(None).0, None);
    }

    #[test]
    fn arenas_of_a_process_of_32_bits_are_smaller() {
        let narrow = |stack: &str| {
            let mut text = String::new();
            for (from, to, perms, kib) in [("0b000000", "19000000", "rw-p", 226_076), ("19000000", "2b400000", "---p", 0)] {
                text.push_str(&format!("{from}-{to} {perms} 00000000 00:00 0 \nRss: {kib} kB\nAnonymous: {kib} kB\n"));
            }
            parse((text + stack).as_bytes()).unwrap().unwrap()
        };
        assert_eq!(found(&narrow("fff16000-fff37000 rw-p 00000000 00:00 0 [stack]\nRss: 16 kB\n"), 224), Some((Found::Shape, 220)));
        assert_eq!(found(&narrow("7ffd4c9d6000-7ffd4c9f7000 rw-p 00000000 00:00 0 [stack]\nRss: 16 kB\n"), 224), None);
    }
}
