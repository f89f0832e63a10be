//! Where the runtime describes its own program: the function table's header, and `runtime.firstmoduledata`, which points to it.

use super::Refused;
use super::image::{Image, Segment};
use super::layout::Layout;
use super::memory::{CHUNK, Reader};

/// `pcHeader.magic` since Go 1.20, and in 1.18 and 1.19 (`runtime/symtab.go`); then two zeros, the smallest instruction, a pointer's size.
const MAGIC: [[u8; 8]; 2] = [[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8], [0xf0, 0xff, 0xff, 0xff, 0, 0, 1, 8]];
/// Of all segments that are searched, together.
const MAX_SEARCHED: u64 = 512 << 20;

/// Real programs have a handful.
const MAX_PLUGINS: usize = 1000;

/// A range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    pub fn contains(self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// A table of the module: a slice in the target's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub address: u64,
    /// Of its elements.
    pub len: u64,
}

/// What `moduledata` tells.
#[derive(Clone, Debug)]
pub struct Module {
    pub text: Range,
    /// Initialized and zeroed globals, with pointers and without.
    pub data: Range,
    pub bss: Range,
    pub noptrdata: Range,
    pub noptrbss: Range,
    pub funcnametab: Table,
    pub cutab: Table,
    pub filetab: Table,
    pub pctab: Table,
    pub pclntable: Table,
    /// Functions, and one entry more that ends the last.
    pub ftab: Table,
    /// What the offsets of inlining trees count from.
    pub gofunc: u64,
    /// Which words of `data` and `bss` are pointers: a bit each.
    pub data_mask: Table,
    pub bss_mask: Table,
    pub types: Range,
    /// What the masks of stack objects count from.
    pub rodata: u64,
    /// The module of a plugin; 0 is none.
    pub next: u64,
}

impl Module {
    pub fn find(memory: &Reader, image: &Image, layout: &Layout) -> Result<Module, Refused> {
        let headers = match image.pclntab {
            Some(at) => vec![at],
            None => search(memory, image, &MAGIC, |segment| !segment.executable)?,
        };
        for header in &headers {
            for at in search(memory, image, &[header.to_le_bytes()], |segment| !segment.executable)? {
                if let Ok(Some(module)) = Module::at(memory, at, *header, layout) {
                    return Ok(module);
                }
            }
        }
        Err(Refused::new(match headers.is_empty() {
            true => "no function table was found in its executable",
            false => "nothing in its data describes the function table as this Go does",
        }))
    }

    /// `None` if it is none.
    fn at(memory: &Reader, address: u64, header: u64, layout: &Layout) -> Result<Option<Module>, Refused> {
        const OF: &str = "runtime.moduledata";
        let record = memory.record(address, layout.size(OF)?)?;
        let word = |field| record.get(layout.field(OF, field)?);
        let range = |from, to| Ok::<_, Refused>(Range { start: word(from)?, end: word(to)? });
        let table = |field| {
            let offset = u64::from(layout.field(OF, field)?.offset);
            Ok::<_, Refused>(Table { address: record.at(offset, 8)?, len: record.at(offset + 8, 8)? })
        };
        // a bitvector: how many bits, and where
        let mask = |field| {
            let offset = u64::from(layout.field(OF, field)?.offset);
            Ok::<_, Refused>(Table { address: record.at(offset + 8, 8)?, len: record.at(offset, 4)? })
        };
        let module = Module {
            text: range("text", "etext")?,
            data: range("data", "edata")?,
            bss: range("bss", "ebss")?,
            noptrdata: range("noptrdata", "enoptrdata")?,
            noptrbss: range("noptrbss", "enoptrbss")?,
            funcnametab: table("funcnametab")?,
            cutab: table("cutab")?,
            filetab: table("filetab")?,
            pctab: table("pctab")?,
            pclntable: table("pclntable")?,
            ftab: table("ftab")?,
            gofunc: word("gofunc")?,
            data_mask: mask("gcdatamask")?,
            bss_mask: mask("gcbssmask")?,
            types: range("types", "etypes")?,
            rodata: word("rodata")?,
            next: word("next")?,
        };
        let pcs = range("minpc", "maxpc")?;
        let Module { text, funcnametab, .. } = &module;
        // the linker puts the tables behind their header, and the functions into the text
        let fits = text.start <= pcs.start && pcs.start < pcs.end && pcs.end <= text.end.saturating_add(16) && funcnametab.address > header;
        Ok(fits.then_some(module))
    }

    /// The modules of plugins.
    pub fn others(&self, memory: &Reader, layout: &Layout) -> Vec<Module> {
        let mut others: Vec<Module> = Vec::new();
        let mut next = self.next;
        while next != 0 && others.len() < MAX_PLUGINS {
            match Module::at(memory, next, 0, layout) {
                Ok(Some(module)) => {
                    next = module.next;
                    others.push(module);
                }
                _ => break,
            }
        }
        others
    }

    /// Is this where a global variable may be?
    pub fn is_global(&self, address: u64) -> bool {
        [self.data, self.bss, self.noptrdata, self.noptrbss].iter().any(|range| range.contains(address))
    }
}

/// Addresses, aligned to 8, where one of the patterns stands in what the file gave to the chosen segments.
fn search(memory: &Reader, image: &Image, patterns: &[[u8; 8]], chosen: impl Fn(&Segment) -> bool) -> Result<Vec<u64>, Refused> {
    let mut found = Vec::new();
    let mut searched = 0;
    for segment in image.segments.iter().filter(|s| chosen(s)) {
        let Some(start) = segment.start.checked_next_multiple_of(8) else { continue };
        let end = segment.start.saturating_add(segment.in_file);
        let mut at = start;
        while at < end && searched < MAX_SEARCHED {
            let len = CHUNK.min(end - at);
            searched += len;
            // a page that was given back or protected does not end the search
            if let Ok(bytes) = memory.slice(at, len, CHUNK) {
                let words = bytes.as_chunks::<8>().0.iter().zip((at..).step_by(8));
                found.extend(words.filter(|(word, _)| patterns.contains(word)).map(|(_, address)| address));
            }
            at += len;
        }
    }
    Ok(found)
}
