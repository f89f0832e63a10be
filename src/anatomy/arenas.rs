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

/// Sums over a few kinds of blocks of nameless anonymous mappings, each block whole arenas in size and place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arenas {
    known: Block,
    far: Block,
    /// In the mmap area. The runtime goes there only when the kernel refuses its hints.
    near: Block,
}

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
            rest.mappings = rest.mappings.saturating_sub(part.mappings);
            rest.size = rest.size.saturating_sub(part.size);
            rest.rss = rest.rss.saturating_sub(part.rss);
            rest.anon = rest.anon.saturating_sub(part.anon);
            rest.lazy_free = rest.lazy_free.saturating_sub(part.lazy_free);
            rest.huge = rest.huge.saturating_sub(part.huge);
            rest.swap = rest.swap.saturating_sub(part.swap);
        }
        sums.add(Kind::ThreadStack, &self.stacks);
        sums.add(Kind::MallocArena, &self.malloc);
        sums.add(Kind::OtherAnon, &rest);
    }
}

/// Takes the nameless anonymous mappings in the order of their addresses.
#[derive(Default)]
pub(super) struct Plain {
    pub stack_at: Option<u64>,
    run: Block,
    last: Option<(Header, Usage)>,
    blocks: Vec<Block>,
}

impl Plain {
    pub fn push(&mut self, sums: &mut Mappings, header: Header, usage: Usage) {
        let before = self.last.take().filter(|(last, _)| last.end == header.start);
        if before.is_none() {
            self.end_run(sums);
            self.run.start = header.start;
        }
        if let Some((last, its)) = before {
            let size = last.size().saturating_add(header.size());
            let guarded = last.closed && last.size() <= MAX_GUARD && !header.closed && THREAD_STACK.contains(&header.size());
            if guarded {
                self.run.stacks.add(&usage);
            } else if header.closed && !last.closed && last.start.is_multiple_of(ARENA) && size == ARENA {
                self.run.malloc.add(&its);
            }
        }
        self.run.end = header.end;
        self.run.whole.add(&usage);
        if !header.closed {
            self.run.open = self.run.open.saturating_add(header.size());
        }
        self.last = Some((header, usage));
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
            if KNOWN_BASES.contains(&block.start) {
                sums.arenas.known.add(block);
            } else if block.end <= far {
                sums.arenas.far.add(block);
            } else if block.malloc.mappings > 0 || block.stacks.mappings > 0 {
                block.spill(sums);
            } else {
                sums.arenas.near.add(block);
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
        let Arenas { known, far, near } = &self.arenas;
        let together = |blocks: &[&Block]| {
            blocks.iter().fold(Block::default(), |mut sum, block| {
                sum.add(block);
                sum
            })
        };
        // the known base first, then what the runtime takes when there is no room left there
        let ways: [(Found, Vec<&Block>); 5] = [
            (Found::KnownBase, vec![known]),
            (Found::KnownBase, vec![known, far]),
            (Found::Shape, vec![far]),
            (Found::Shape, vec![near]),
            (Found::Shape, vec![far, near]),
        ];
        let pick = if named.mappings > 0 {
            None
        } else {
            ways.into_iter().find(|(found, blocks)| {
                let open = together(blocks).open;
                let first = blocks.first().is_some_and(|b| b.open > 0);
                // in the mmap area anything may be aligned by chance
                let sure = *found == Found::KnownBase || blocks.iter().all(|b| std::ptr::eq(*b, far));
                first && expected.map_or(sure, |e| fits(open, e))
            })
        };
        let taken = pick.as_ref().map(|(_, blocks)| blocks.as_slice()).unwrap_or_default();
        for block in [known, far, near] {
            if !taken.iter().any(|t| std::ptr::eq(*t, block)) {
                block.spill(&mut rest);
            }
        }
        let resident = match &pick {
            Some((found, blocks)) => Some(Resident { found: *found, usage: together(blocks).whole }),
            None => (named.mappings > 0).then_some(Resident { found: Found::Named, usage: named }),
        };
        (resident, rest)
    }
}

/// MemStats are read a little later than smaps, and the heap may have grown by some arenas meanwhile.
fn fits(open: u64, expected: u64) -> bool {
    open.abs_diff(expected) <= (expected / 8).max(ARENA)
}
