//! Bounded reads of another process's memory.
//!
//! Everything read here is the target's word: an address may lead anywhere, a length may be absurd, a table may move between
//! two reads. [`Reader`] bounds each read and all reads together.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::Refused;
use super::constants::Constants;
use crate::units::ByteSize;

/// The words that bytes are.
pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + Clone {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// The same with their addresses, the first being `address`; a forged one may be the last that there is.
pub(super) fn words_at(address: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    words(bytes).zip(0u64..).map(move |(word, n)| (address.wrapping_add(n * 8), word))
}

/// An address space. Reads may be torn: the process goes on meanwhile.
pub trait Memory {
    /// Fills `buf` from `address`; `false` if not all of it is mapped and readable.
    fn read(&self, address: u64, buf: &mut [u8]) -> bool;
}

/// `/proc/PID/mem` of a process. The descriptor belongs to its address space: after its end, and after an exec, nothing can be read. Code and
/// constants come from the file of its executable, where that is at hand.
#[derive(Debug)]
pub struct LiveMemory {
    mem: File,
    constants: Option<Constants>,
}

impl LiveMemory {
    pub fn new(mem: File) -> LiveMemory {
        LiveMemory { mem, constants: None }
    }

    /// With the file of its own executable.
    pub(super) fn with(self, constants: Constants) -> LiveMemory {
        LiveMemory { constants: Some(constants), ..self }
    }
}

impl Memory for LiveMemory {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let is_whole = |constants: &&Constants| constants.room(address).is_some_and(|room| room >= buf.len() as u64);
        let constants = self.constants.as_ref().filter(is_whole);
        constants.is_some_and(|constants| constants.read(address, buf)) || self.mem.read_exact_at(buf, address).is_ok()
    }
}

/// A call of the kernel copies at most this much: longer ones were measured to delay the target (30 ms against 11 at 8 MiB).
pub(super) const CHUNK: u64 = 64 << 10;
/// Reads of a list that moves.
const TRIES: u32 = 3;
/// Of all reads of one reader together, unless it is made for more.
const MAX_BYTES: u64 = 2 << 30;
/// Tables that do not change are read in blocks of this size, and kept.
const BLOCK: u64 = 16 << 10;
/// 32 MiB: the tables of a program of 60,000 functions take half of it.
const MAX_BLOCKS: usize = 2048;

/// What all parts read through.
pub struct Reader<'m> {
    memory: &'m dyn Memory,
    max_bytes: u64,
    bytes: Cell<u64>,
    blocks: RefCell<HashMap<u64, Rc<[u8]>>>,
}

impl<'m> Reader<'m> {
    pub fn new(memory: &'m dyn Memory) -> Reader<'m> {
        Reader::within(memory, MAX_BYTES)
    }

    /// Reads up to `max_bytes` in all.
    pub fn within(memory: &'m dyn Memory, max_bytes: u64) -> Reader<'m> {
        Reader { memory, max_bytes, bytes: Cell::new(0), blocks: RefCell::default() }
    }

    /// Bytes asked for so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    fn fill(&self, address: u64, buf: &mut [u8]) -> Result<(), Refused> {
        let total = self.bytes.get().saturating_add(buf.len() as u64);
        if total > self.max_bytes {
            return Err(Refused::new(format!("reading it takes more than {} of reads", ByteSize(self.max_bytes))));
        }
        self.bytes.set(total);
        let mut at = address;
        for chunk in buf.chunks_mut(CHUNK as usize) {
            if !self.memory.read(at, chunk) {
                return Err(Refused::new(format!("its memory at {at:#x} cannot be read")));
            }
            at = at.wrapping_add(chunk.len() as u64);
        }
        Ok(())
    }

    /// `len` bytes, of which there may be `max` at most.
    pub fn slice(&self, address: u64, len: u64, max: u64) -> Result<Vec<u8>, Refused> {
        if len > max {
            return Err(Refused::new(format!("{len} bytes at {address:#x}, where at most {max} make sense")));
        }
        let mut bytes = vec![0; len as usize];
        self.fill(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buf`; `false` if not all of it can be read.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        self.fill(address, buf).is_ok()
    }

    /// A structure of the runtime, for its fields.
    pub fn record(&self, address: u64, size: u32) -> Result<Record, Refused> {
        self.slice(address, size.into(), 1 << 20).map(Record)
    }

    pub fn u64(&self, address: u64) -> Result<u64, Refused> {
        let mut word = [0; 8];
        self.fill(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// `count` words, of which there may be `max` at most.
    pub fn words(&self, address: u64, count: u64, max: u64) -> Result<Vec<u64>, Refused> {
        let bytes = self.slice(address, count.saturating_mul(8), max.saturating_mul(8))?;
        Ok(words(&bytes).collect())
    }

    /// The words of the slice whose header is at `at`, which the program appends to: it grows by moving. `of` names what is in it.
    pub fn list(&self, at: u64, max: u64, of: &str) -> Result<Vec<u64>, Refused> {
        let header = || Ok::<_, Refused>((self.u64(at)?, self.u64(at.wrapping_add(8))?));
        let mut last = header()?;
        for _ in 0..TRIES {
            let words = self.words(last.0, last.1, max);
            let now = header()?;
            if now.0 == last.0 {
                return words;
            }
            last = now;
        }
        Err(Refused::new(format!("its list of {of} moves faster than it can be read")))
    }

    /// Copies from memory that does not change while the program runs; what is near it is kept, for the next read.
    pub fn constant(&self, address: u64, buf: &mut [u8]) -> Result<(), Refused> {
        let mut done = 0;
        while done < buf.len() {
            let at = address.checked_add(done as u64).ok_or_else(|| Refused::new("an address beyond the end of memory"))?;
            let block = self.block(at - at % BLOCK)?;
            let from = block.get((at % BLOCK) as usize..).unwrap_or_default();
            let to = buf.get_mut(done..).unwrap_or_default();
            let n = from.len().min(to.len());
            if n == 0 {
                return Err(Refused::new(format!("its memory at {at:#x} cannot be read")));
            }
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            done += n;
        }
        Ok(())
    }

    fn block(&self, at: u64) -> Result<Rc<[u8]>, Refused> {
        let mut blocks = self.blocks.borrow_mut();
        if let Some(block) = blocks.get(&at) {
            return Ok(block.clone());
        }
        let mut bytes = vec![0; BLOCK as usize];
        if self.fill(at, &mut bytes).is_err() {
            // the last page of a mapping, most likely
            let mut readable = 0;
            for page in bytes.chunks_mut(4096) {
                if self.fill(at + readable as u64, page).is_err() {
                    break;
                }
                readable += page.len();
            }
            bytes.truncate(readable);
        }
        if blocks.len() >= MAX_BLOCKS {
            blocks.clear();
        }
        let block: Rc<[u8]> = bytes.into();
        blocks.insert(at, block.clone());
        Ok(block)
    }

    pub fn constant_u32(&self, address: u64) -> Result<u32, Refused> {
        let mut word = [0; 4];
        self.constant(address, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }
}

/// A copy of one of the runtime's structures. Fields are read by offset and size; beyond its end all is refused.
pub struct Record(Vec<u8>);

impl Record {
    /// An unsigned field of 1, 2, 4 or 8 bytes.
    pub fn get(&self, field: super::layout::Field) -> Result<u64, Refused> {
        self.at(field.offset.into(), field.size)
    }

    /// A structure within it.
    pub fn part(&self, offset: u64, size: u32) -> Result<Record, Refused> {
        let bytes = usize::try_from(offset).ok().and_then(|from| self.0.get(from..from.checked_add(size as usize)?));
        bytes.map(|bytes| Record(bytes.to_vec())).ok_or_else(|| Refused::new("a structure outside of what holds it"))
    }

    pub fn at(&self, offset: u64, size: u32) -> Result<u64, Refused> {
        let bytes = usize::try_from(offset).ok().and_then(|from| self.0.get(from..from.checked_add(size as usize)?));
        match bytes {
            Some(bytes) if bytes.len() <= 8 => Ok(bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))),
            _ => Err(Refused::new("a field outside of its structure: the layout does not fit this Go")),
        }
    }
}
