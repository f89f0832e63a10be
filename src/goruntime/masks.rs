//! Which words of an object are pointers: the collector's own masks (`runtime/mbitmap.go`, `runtime/type.go`).
//!
//! ```text
//!  Go 1.19           heapArena.bitmap    two bits a word: is a pointer; more pointers follow
//!  Go 1.20 and 1.21  heapArena.bitmap    a bit a word, and heapArena.noMorePtrs a bit for 64 words
//!  since Go 1.22     up to 512 bytes     bits at the end of the span, before 1.25's marks if it has them
//!                    up to 32 KiB        the type is the first word of the object
//!                    larger              mspan.largeType
//! ```
//!
//! Words that are no pointers are never looked at, and objects without any are not read.

use std::collections::HashMap;
use std::rc::Rc;

use super::layout::Field;
use super::memory::{words, words_at};
use super::spans::{PAGE, Span};
use super::{ARENA, Arenas, Refused, Runtime};

/// Objects up to this size have their bits in the span (`MinSizeForMallocHeader`).
pub(super) const IN_SPAN: u64 = 512;
/// `spanInlineMarkBits`, for objects from 16 bytes on.
const MARKS: usize = 128;
/// Large objects are read in pieces.
const PIECE: u64 = 256 << 10;
/// Bytes of one type's mask: a type of 1 GiB.
const MAX_MASK: u64 = 16 << 20;
/// Spans of small objects whose bits are kept: 8 MiB.
const MAX_SPANS: usize = 1 << 16;
/// Types whose masks are kept.
const MAX_TYPES: usize = 1 << 16;
/// `TFlagGCMaskOnDemand`, since Go 1.24.
const ON_DEMAND: u64 = 16;
/// `KindGCProg`, up to Go 1.23: what follows is a program that writes the mask.
const IS_PROGRAM: u64 = 64;

/// `internal/abi.Type`, the same in all releases.
pub(super) mod rtype {
    use crate::goruntime::layout::Field;

    pub const SIZE: u32 = 48;
    pub const BYTES: Field = Field { offset: 0, size: 8 };
    pub const POINTER_BYTES: Field = Field { offset: 8, size: 8 };
    pub const FLAGS: Field = Field { offset: 20, size: 1 };
    pub const KIND: Field = Field { offset: 23, size: 1 };
    pub const MASK: Field = Field { offset: 32, size: 8 };
    pub const NAME: Field = Field { offset: 40, size: 4 };
}

/// A type's pointers; an object holds one such or several in a row.
#[derive(Debug)]
struct TypeMask {
    words: u64,
    /// No word from here on is a pointer.
    pointer_words: u64,
    bits: Vec<u8>,
}

impl TypeMask {
    fn is_pointer(&self, word: u64) -> bool {
        let within = if self.words == 0 { word } else { word % self.words };
        within < self.pointer_words && bit(&self.bits, within)
    }
}

pub(super) fn bit(bits: &[u8], at: u64) -> bool {
    bits.get((at / 8) as usize).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

enum Scheme {
    TwoBits { bitmap: Field },
    OneBit { bitmap: Field, no_more: Field },
    InSpan { marks: Option<Field> },
}

/// Reads objects' pointers, span by span in the order of addresses.
pub struct Masks<'r> {
    runtime: &'r Runtime<'r>,
    scheme: Scheme,
    arenas: Arenas<'r>,
    types: HashMap<u64, Option<Rc<TypeMask>>>,
    /// The arena that was looked at last: its bitmap, and which bits have no more.
    arena: Option<(u64, Vec<u8>, Vec<u8>)>,
    buffer: Vec<u8>,
    /// Bits of spans whose objects were looked at one by one.
    of_spans: HashMap<u64, Box<[u8]>>,
    /// Spans that could not be read: freed meanwhile.
    pub unread: u64,
    /// Objects whose mask is not known: each word that leads to an object counts as a pointer.
    pub guessed: u64,
}

impl<'r> Masks<'r> {
    pub fn new(runtime: &'r Runtime<'r>) -> Result<Masks<'r>, Refused> {
        const HEAP_ARENA: &str = "runtime.heapArena";
        let layout = &runtime.layout;
        let scheme = match (layout.find(HEAP_ARENA, "bitmap"), layout.find(HEAP_ARENA, "noMorePtrs")) {
            (Some(bitmap), Some(no_more)) => Scheme::OneBit { bitmap, no_more },
            (Some(bitmap), None) => Scheme::TwoBits { bitmap },
            (None, _) => Scheme::InSpan { marks: layout.find(HEAP_ARENA, "pageUseSpanInlineMarkBits") },
        };
        let (types, buffer) = (HashMap::new(), Vec::new());
        Ok(Masks {
            runtime,
            scheme,
            arenas: runtime.arenas()?,
            types,
            arena: None,
            buffer,
            of_spans: HashMap::new(),
            unread: 0,
            guessed: 0,
        })
    }

    /// Calls `found` with the index of the object and the word, for each word of the span that is a pointer, in their order.
    pub fn pointers(&mut self, span: &Span, found: &mut impl FnMut(u32, u64)) {
        if span.is_noscan {
            return;
        }
        match span.is_large || span.bytes() > PIECE {
            true => self.pointers_of_large(span, found),
            false => self.pointers_of_small(span, found),
        }
    }

    fn read(&mut self, address: u64, len: u64) -> Option<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.resize(len as usize, 0);
        if self.runtime.memory.read(address, &mut bytes) {
            return Some(bytes);
        }
        self.buffer = bytes;
        self.unread += 1;
        None
    }

    fn pointers_of_small(&mut self, span: &Span, found: &mut impl FnMut(u32, u64)) {
        let Some(bytes) = self.read(span.start, span.bytes()) else { return };
        let per_object = span.size / 8;
        match self.scheme {
            Scheme::InSpan { marks } if span.size <= IN_SPAN => {
                let mut end = bytes.len();
                if span.size >= 16 && marks.is_some_and(|field| self.has_marks(span, field)) {
                    end = end.saturating_sub(MARKS);
                }
                let bits = bytes.get(end.saturating_sub(bytes.len() / 64)..end).unwrap_or_default();
                let all = per_object * u64::from(span.objects);
                for (at, word) in (0..all).zip(words(&bytes)).filter(|(at, word)| *word != 0 && bit(bits, *at)) {
                    found((at / per_object) as u32, word);
                }
            }
            Scheme::InSpan { .. } => {
                for (index, object) in (0..span.objects).zip(bytes.chunks(span.size as usize)) {
                    let mut object = words(object);
                    let mask = object.next().and_then(|of| self.mask(of));
                    for (_, word) in (0..).zip(object).filter(|(at, word)| *word != 0 && mask.as_ref().is_none_or(|m| m.is_pointer(*at))) {
                        found(index, word);
                    }
                }
            }
            Scheme::OneBit { .. } | Scheme::TwoBits { .. } => {
                for (index, object) in (0..span.objects).zip(bytes.chunks(span.size as usize)) {
                    let start = span.start + u64::from(index) * span.size;
                    self.by_bitmap(start, start, object, &mut |word| found(index, word));
                }
            }
        }
        self.buffer = bytes;
    }

    fn pointers_of_large(&mut self, span: &Span, found: &mut impl FnMut(u32, u64)) {
        let is_in_span = matches!(self.scheme, Scheme::InSpan { .. });
        if is_in_span && span.large_type == 0 {
            // allocated just now: the collector too sees no pointers in it yet
            return;
        }
        let mask = if is_in_span { self.mask(span.large_type) } else { None };
        let len = span.size.min(span.bytes());
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            if let Some(bytes) = self.read(span.start + done, piece) {
                if is_in_span {
                    let is_pointer = |at| mask.as_ref().is_none_or(|mask| mask.is_pointer(at));
                    (done / 8..).zip(words(&bytes)).filter(|(at, word)| *word != 0 && is_pointer(*at)).for_each(|(_, word)| found(0, word));
                } else if !self.by_bitmap(span.start, span.start + done, &bytes, &mut |word| found(0, word)) {
                    done = len;
                }
                self.buffer = bytes;
            }
            done += piece;
        }
    }

    /// The mask of a small object as it stands beside it: objects of different types may be told apart by it. 0 where there is none.
    pub fn of_object(&mut self, span: &Span, index: u32) -> u64 {
        if span.is_noscan || span.size > IN_SPAN || span.bytes() > PIECE {
            return 0;
        }
        if !self.of_spans.contains_key(&span.start) {
            let bits = self.bits_of_span(span).unwrap_or_default();
            if self.of_spans.len() >= MAX_SPANS {
                self.of_spans.clear();
            }
            self.of_spans.insert(span.start, bits.into());
        }
        let Some(bits) = self.of_spans.get(&span.start) else { return 0 };
        let words = span.size / 8;
        let first = u64::from(index) * words;
        (0..words.min(64)).filter(|at| bit(bits, first + at)).fold(0, |mask, at| mask | 1 << at)
    }

    fn bits_of_span(&mut self, span: &Span) -> Result<Vec<u8>, Refused> {
        let len = span.bytes() / 64;
        let at = match self.scheme {
            Scheme::InSpan { marks } => {
                let has_marks = span.size >= 16 && marks.is_some_and(|field| self.has_marks(span, field));
                span.start + span.bytes() - len - if has_marks { MARKS as u64 } else { 0 }
            }
            Scheme::OneBit { bitmap, .. } => self.arenas.at(span.start)?.wrapping_add(u64::from(bitmap.offset) + span.start % ARENA / 64),
            Scheme::TwoBits { .. } => return Ok(Vec::new()),
        };
        self.runtime.memory.slice(at, len, PIECE)
    }

    /// The part of an object at `from`, by the bitmap of its arena. False: no more pointers follow.
    fn by_bitmap(&mut self, object: u64, from: u64, bytes: &[u8], found: &mut impl FnMut(u64)) -> bool {
        for (address, word) in words_at(from, bytes) {
            if self.arena.as_ref().is_none_or(|(at, ..)| *at != address / ARENA) {
                self.arena = Some(self.bitmap_of(address));
            }
            let Some((_, bits, no_more)) = &self.arena else { return false };
            let at = address % ARENA / 8;
            let is_pointer = match self.scheme {
                // a byte is four words: their lower bits, then their upper ones
                Scheme::TwoBits { .. } => {
                    let byte = bits.get((at / 4) as usize).copied().unwrap_or(0) >> (at % 4);
                    if address > object + 8 && byte >> 4 & 1 == 0 {
                        return false;
                    }
                    byte & 1 == 1
                }
                _ => {
                    if address > object && at.is_multiple_of(64) && at > 0 && bit(no_more, (at - 1) / 64) {
                        return false;
                    }
                    bit(bits, at)
                }
            };
            if is_pointer && word != 0 {
                found(word);
            }
        }
        true
    }

    fn bitmap_of(&self, address: u64) -> (u64, Vec<u8>, Vec<u8>) {
        let part = |field: Field| {
            let meta = self.arenas.at(address)?;
            self.runtime.memory.slice(meta.wrapping_add(field.offset.into()), field.size.into(), 4 << 20)
        };
        let (bits, no_more) = match self.scheme {
            Scheme::TwoBits { bitmap } => (part(bitmap), Ok(Vec::new())),
            Scheme::OneBit { bitmap, no_more } => (part(bitmap), part(no_more)),
            Scheme::InSpan { .. } => (Ok(Vec::new()), Ok(Vec::new())),
        };
        (address / ARENA, bits.unwrap_or_default(), no_more.unwrap_or_default())
    }

    fn has_marks(&mut self, span: &Span, field: Field) -> bool {
        if self.arena.as_ref().is_none_or(|(at, ..)| *at != span.start / ARENA) {
            let read =
                || self.runtime.memory.slice(self.arenas.at(span.start)?.wrapping_add(field.offset.into()), field.size.into(), 1 << 16);
            self.arena = Some((span.start / ARENA, read().unwrap_or_default(), Vec::new()));
        }
        self.arena.as_ref().is_some_and(|(_, bits, _)| bit(bits, span.start % ARENA / PAGE))
    }

    /// `None`: not known, so that each word may be a pointer.
    fn mask(&mut self, address: u64) -> Option<Rc<TypeMask>> {
        let known = match self.types.get(&address) {
            Some(known) => known.clone(),
            None => {
                let mask = self.read_mask(address).ok().flatten().map(Rc::new);
                if self.types.len() < MAX_TYPES {
                    self.types.insert(address, mask.clone());
                }
                mask
            }
        };
        self.guessed += u64::from(known.is_none());
        known
    }

    fn read_mask(&self, address: u64) -> Result<Option<TypeMask>, Refused> {
        let memory = self.runtime.memory;
        let record = memory.record(address, rtype::SIZE)?;
        let (bytes, pointer_bytes) = (record.get(rtype::BYTES)?, record.get(rtype::POINTER_BYTES)?);
        let mut at = record.get(rtype::MASK)?;
        if !bytes.is_multiple_of(8) || !pointer_bytes.is_multiple_of(8) || pointer_bytes > bytes || bytes == 0 {
            return Ok(None);
        }
        match self.runtime.layout.minor {
            ..=23 if record.get(rtype::KIND)? & IS_PROGRAM != 0 => return Ok(None),
            24.. if record.get(rtype::FLAGS)? & ON_DEMAND != 0 => at = memory.u64(at)?,
            _ => {}
        }
        if at == 0 {
            // made when the collector first needs it
            return Ok(None);
        }
        let bits = memory.slice(at, (pointer_bytes / 8).div_ceil(8), MAX_MASK)?;
        Ok(Some(TypeMask { words: bytes / 8, pointer_words: pointer_bytes / 8, bits }))
    }
}
