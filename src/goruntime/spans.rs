//! The heap's spans: which object an address lies in (`runtime/mheap.go`, `findObject` in `runtime/mbitmap.go`).

use super::layout::{Field, Layout};
use super::memory::Record;
use super::{ARENA, Refused, Runtime};

pub(super) const PAGE: u64 = 8 << 10;
const PAGES_OF_ARENA: usize = (ARENA / PAGE) as usize;
/// Address space between the first span and the last: 16 TiB.
const MAX_ARENAS: u64 = 1 << 18;
/// 256 GiB of pages, each a span of its own.
const MAX_SPANS: u64 = 32 << 20;
/// `mSpanInUse`: objects of the heap, not stacks.
const IN_USE: u64 = 1;
/// `mspan`s lie in chunks of this size (`fixalloc`).
const BLOCK: u64 = 16 << 10;
/// Chunks that are kept for the next ones.
const BLOCKS: usize = 16;

/// Pages that hold objects of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub pages: u32,
    pub objects: u32,
    /// Bytes of each object.
    pub size: u64,
    /// Nothing in them is a pointer.
    pub is_noscan: bool,
    /// One large object, of a size class of its own.
    pub is_large: bool,
    /// The type of a large object, since Go 1.22.
    pub large_type: u64,
    /// Finalizers and the like.
    pub specials: u64,
    /// The number of its first slot; others follow.
    pub first_slot: u32,
}

impl Span {
    pub fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE
    }
}

/// All spans in use. Each place for an object is a *slot*, numbered through all spans in the order of their addresses.
#[derive(Debug, Default)]
pub struct Spans {
    spans: Vec<Span>,
    low: u64,
    high: u64,
    /// By arena from `low`'s on, and by page of it: the span's index and 1.
    pages: Vec<Option<Box<[u32]>>>,
    slots: u32,
}

impl Spans {
    /// Refused where the list is none, or has more than `max_slots` places for objects: these are then in the error's words.
    pub fn read(runtime: &Runtime, max_slots: u32) -> Result<Spans, Refused> {
        let list = runtime.memory.list(runtime.of_heap("allspans")?, MAX_SPANS, "spans")?;
        let at = At::of(&runtime.layout)?;
        let mut blocks = Blocks::new(runtime);
        let mut spans = Vec::new();
        for address in list {
            // freed meanwhile, or being made
            if let Ok(record) = blocks.record(address, at.size)
                && let Some(span) = at.read(&record)?
            {
                spans.push(span);
            }
        }
        Spans::new(spans, max_slots)
    }

    pub(super) fn new(mut spans: Vec<Span>, max_slots: u32) -> Result<Spans, Refused> {
        spans.sort_unstable_by_key(|span| span.start);
        // of two that overlap, one was read in the middle of a change
        let mut end = 0;
        spans.retain(|span| {
            let keep = span.start >= end;
            end = if keep { span.start + span.bytes() } else { end };
            keep
        });
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Ok(Spans::default()) };
        let (low, high) = (first.start - first.start % ARENA, last.start + last.bytes());
        let arenas = (high - low).div_ceil(ARENA);
        if arenas > MAX_ARENAS {
            return Err(Refused::new("its spans lie too far apart: the layout does not fit"));
        }
        let mut this = Spans { low, high, pages: vec![None; arenas as usize], ..Spans::default() };
        let slots: u64 = spans.iter().map(|span| u64::from(span.objects)).sum();
        if slots > max_slots.into() {
            return Err(Refused::new(format!("its heap has {slots} places for objects; {max_slots} fit into what may be used for them")));
        }
        for (index, span) in (1u32..).zip(&mut spans) {
            span.first_slot = this.slots;
            this.slots += span.objects;
            let first = (span.start - low) / PAGE;
            for page in first..first + u64::from(span.pages) {
                if let Some(arena) = this.pages.get_mut(page as usize / PAGES_OF_ARENA) {
                    let pages = arena.get_or_insert_with(|| vec![0; PAGES_OF_ARENA].into());
                    pages.get_mut(page as usize % PAGES_OF_ARENA).into_iter().for_each(|slot| *slot = index);
                }
            }
        }
        this.spans = spans;
        Ok(this)
    }

    pub fn all(&self) -> &[Span] {
        &self.spans
    }

    pub fn slots(&self) -> u32 {
        self.slots
    }

    fn span_at(&self, address: u64) -> Option<&Span> {
        if address < self.low || address >= self.high {
            return None;
        }
        let page = ((address - self.low) / PAGE) as usize;
        let index = *self.pages.get(page / PAGES_OF_ARENA)?.as_ref()?.get(page % PAGES_OF_ARENA)?;
        self.spans.get((index as usize).checked_sub(1)?)
    }

    /// The object that an address points into.
    pub fn slot_at(&self, address: u64) -> Option<u32> {
        let span = self.span_at(address)?;
        let index = (address - span.start) / span.size;
        // behind the last object there may be heap bits
        (index < span.objects.into()).then(|| span.first_slot + index as u32)
    }

    pub fn span_of(&self, slot: u32) -> Option<&Span> {
        let after = self.spans.partition_point(|span| span.first_slot <= slot);
        self.spans.get(after.checked_sub(1)?)
    }

    /// Where a slot's object begins.
    pub fn address_of(&self, slot: u32) -> Option<u64> {
        self.span_of(slot).map(|span| span.start + u64::from(slot - span.first_slot) * span.size)
    }

    pub fn size_of(&self, slot: u32) -> u64 {
        self.span_of(slot).map_or(0, |span| span.size)
    }
}

/// The fields of `runtime.mspan`.
struct At {
    size: u32,
    start: Field,
    pages: Field,
    objects: Field,
    element: Field,
    class: Field,
    state: Field,
    large_type: Option<Field>,
    specials: Field,
}

impl At {
    fn of(layout: &Layout) -> Result<At, Refused> {
        const SPAN: &str = "runtime.mspan";
        let field = |name| layout.field(SPAN, name);
        Ok(At {
            size: layout.size(SPAN)?,
            start: field("startAddr")?,
            pages: field("npages")?,
            objects: field("nelems")?,
            element: field("elemsize")?,
            class: field("spanclass")?,
            state: field("state")?,
            large_type: layout.find(SPAN, "largeType"),
            specials: field("specials")?,
        })
    }

    /// `None` if it holds no objects.
    fn read(&self, record: &Record) -> Result<Option<Span>, Refused> {
        // the state is an atomic of one byte
        if record.at(self.state.offset.into(), 1)? != IN_USE {
            return Ok(None);
        }
        let (start, pages, objects, size) =
            (record.get(self.start)?, record.get(self.pages)?, record.get(self.objects)?, record.get(self.element)?);
        let class = record.get(self.class)?;
        let bytes = pages.saturating_mul(PAGE);
        let is_sound = start.is_multiple_of(PAGE)
            && start > 0
            && start < 1 << 47
            && (1..1 << 31).contains(&pages)
            && objects > 0
            && size >= 8
            && size.is_multiple_of(8)
            && objects.saturating_mul(size) <= bytes;
        let (Ok(pages), Ok(objects), true) = (u32::try_from(pages), u32::try_from(objects), is_sound) else { return Ok(None) };
        let large_type = self.large_type.map(|field| record.get(field)).transpose()?.unwrap_or(0);
        Ok(Some(Span {
            start,
            pages,
            objects,
            size,
            is_noscan: class & 1 == 1,
            is_large: class >> 1 == 0,
            large_type,
            specials: record.get(self.specials)?,
            first_slot: 0,
        }))
    }
}

/// The chunks that records were read from last.
struct Blocks<'r> {
    runtime: &'r Runtime<'r>,
    kept: [Option<(u64, Record)>; BLOCKS],
}

impl<'r> Blocks<'r> {
    fn new(runtime: &'r Runtime<'r>) -> Blocks<'r> {
        Blocks { runtime, kept: [const { None }; BLOCKS] }
    }

    fn record(&mut self, address: u64, size: u32) -> Result<Record, Refused> {
        let start = address - address % BLOCK;
        if address - start + u64::from(size) <= BLOCK
            && let Some(kept) = self.kept.get_mut((start / BLOCK) as usize % BLOCKS)
        {
            if kept.as_ref().is_none_or(|(at, _)| *at != start) {
                *kept = self.runtime.memory.record(start, BLOCK as u32).ok().map(|record| (start, record));
            }
            if let Some((_, block)) = kept {
                return block.part(address - start, size);
            }
        }
        self.runtime.memory.record(address, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, pages: u32, size: u64) -> Span {
        let objects = (u64::from(pages) * PAGE / size) as u32;
        Span { start, pages, objects, size, is_noscan: false, is_large: false, large_type: 0, specials: 0, first_slot: 0 }
    }

    #[test]
    fn an_address_is_in_the_object_that_it_points_into() {
        let base = 0xc0_0000_0000;
        let spans = Spans::new(vec![span(base + 3 * PAGE, 1, 48), span(base, 1, 1024)], 1000).unwrap();
        assert_eq!(spans.slots(), 8 + 170);
        assert_eq!(spans.slot_at(base + 1023), Some(0));
        assert_eq!(spans.slot_at(base + 1024), Some(1));
        assert_eq!(spans.slot_at(base + 3 * PAGE + 47), Some(8));
        assert_eq!(spans.slot_at(base + 3 * PAGE + 170 * 48), None, "behind the last object");
        assert_eq!((spans.slot_at(base + PAGE), spans.slot_at(base - 1), spans.slot_at(base + 4 * PAGE)), (None, None, None));
        assert_eq!((spans.address_of(9), spans.size_of(9)), (Some(base + 3 * PAGE + 48), 48));
    }

    #[test]
    fn spans_that_overlap_or_are_too_many_are_not_believed() {
        let base = 0xc0_0000_0000;
        let spans = Spans::new(vec![span(base, 4, 1024), span(base + PAGE, 1, 8)], 1000).unwrap();
        assert_eq!(spans.all().len(), 1);
        assert!(Spans::new(vec![span(base, 4, 8)], 100).is_err());
        assert!(Spans::new(vec![span(base, 1, 8), span(1 << 46, 1, 8)], 10_000).is_err());
    }
}
