//! Which of the nameless anonymous mappings are the arenas of the Go heap.
//!
//! Arenas are multiples of 64 MiB, aligned to 64 MiB, with used and reserved parts side by side. Up to Go 1.25 they begin at a
//! known address; from 1.26 at a random one that is far below the kernel's mmap area. glibc's malloc arenas are aligned
//! alike, but in the mmap area. Whether a guess is right shows when its size is compared with what the runtime says.

use super::smaps::{Header, Kind, Mappings, Usage};

const ARENA: u64 = 64 << 20;
/// The first hints of the runtime's allocator: amd64 and most others, and arm64.
const KNOWN_BASES: [u64; 2] = [0xc0 << 32, 0x40 << 32];
/// Blocks that are kept until the end; a Go process has a few.
const MAX_BLOCKS: usize = 64;
const MAX_GUARD: u64 = 64 << 10;
/// glibc's smallest thread stack is 16 KiB; nobody has one larger than this.
const THREAD_STACK: std::ops::RangeInclusive<u64> = 16 << 10..=64 << 20;
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

/// The sums of the blocks of each [`Place`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arenas([Block; 3]);

/// A run of adjacent nameless mappings, in sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    start: u64,
    end: u64,
    whole: Usage,
    /// Size of the parts that may be used.
    open: u64,
    stacks: Usage,
    malloc: Usage,
}

impl Block {
    fn is_arenas(&self) -> bool {
        self.start.is_multiple_of(ARENA) && self.end.is_multiple_of(ARENA) && self.open > 0
    }

    /// Has what the C library makes for threads, which the runtime's arenas have not.
    fn is_of_threads(&self) -> bool {
        self.malloc.mappings > 0 || self.stacks.mappings > 0
    }

    fn add(&mut self, other: &Block) {
        self.whole.add(&other.whole);
        self.stacks.add(&other.stacks);
        self.malloc.add(&other.malloc);
        self.open = self.open.saturating_add(other.open);
    }

    /// What is in it if it is no arena.
    fn spill(&self, sums: &mut Mappings) {
        let mut rest = self.whole;
        for part in [&self.stacks, &self.malloc] {
            rest.take_off(part);
        }
        sums.add(Kind::ThreadStack, &self.stacks);
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
            is_stack = last.closed && last.size() <= MAX_GUARD && !header.closed && THREAD_STACK.contains(&header.size());
            if is_stack {
                self.run.stacks.add(&usage);
            } else if header.closed && !last.closed && last.start.is_multiple_of(ARENA) && size == ARENA {
                // it follows an arena that is almost full, not a guard page
                if was_stack {
                    self.run.stacks.take_off(&its);
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
        if run.is_arenas() && self.blocks.len() < MAX_BLOCKS { self.blocks.push(run) } else { run.spill(sums) }
    }

    pub fn finish(mut self, sums: &mut Mappings) {
        self.end_run(sums);
        let stack = self.stack_at.unwrap_or(USUAL_STACK);
        // random bases are below half of the address space, executables at two thirds of it, the mmap area below the stack
        let far = stack / 8 * 5;
        for block in &self.blocks {
            let place = if KNOWN_BASES.contains(&block.start) {
                Place::KnownBase
            } else if block.end <= far {
                Place::Far
            } else {
                Place::Near
            };
            match sums.arenas.0.get_mut(place as usize) {
                Some(sum) if place != Place::Near || !block.is_of_threads() => sum.add(block),
                _ => block.spill(sums),
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
        for (place, block) in Arenas::PLACES.iter().zip(&self.arenas.0) {
            if taken.is_none_or(|taken| !taken.contains(place)) {
                block.spill(&mut rest);
            }
        }
        let resident = match taken {
            Some(taken) => {
                let found = if taken.contains(&Place::KnownBase) { Found::KnownBase } else { Found::Shape };
                Some(Resident { found, usage: self.arenas.together(taken).whole })
            }
            None => (named.mappings > 0).then_some(Resident { found: Found::Named, usage: named }),
        };
        (resident, rest)
    }
}

impl Arenas {
    const PLACES: [Place; 3] = [Place::KnownBase, Place::Far, Place::Near];

    /// The places that the arenas are in: as one of the runtime's ways to find room, and in agreement with MemStats.
    fn pick(&self, expected: Option<u64>) -> Option<&'static [Place]> {
        const WAYS: [&[Place]; 5] =
            [&[Place::KnownBase], &[Place::KnownBase, Place::Far], &[Place::Far], &[Place::Near], &[Place::Far, Place::Near]];
        let plausible = WAYS.into_iter().filter(|way| {
            // in the mmap area anything may be aligned by chance
            let sure = !way.contains(&Place::Near);
            let first = self.together(way.get(..1).unwrap_or_default());
            first.open > 0 && expected.map_or(sure, |expected| fits(self.together(way).open, expected, sure))
        });
        match expected {
            Some(expected) => plausible.min_by_key(|way| self.together(way).open.abs_diff(expected)),
            None => plausible.min_by_key(|way| way.len()),
        }
    }

    fn together(&self, places: &[Place]) -> Block {
        let mut sum = Block::default();
        places.iter().filter_map(|place| self.0.get(*place as usize)).for_each(|block| sum.add(block));
        sum
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
}
