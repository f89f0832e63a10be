//! What an executable begins with: as a file has it, and as a core has it of the program that ran.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::elf;
use object::pod::{from_bytes, slice_from_all_bytes};

use super::{E, Header, Program, is_elf};
use crate::goruntime::Refused;
use crate::goruntime::image::{PAGE, lowest};

/// What an executable begins with.
pub(super) struct Headers {
    /// As they are, but without sections.
    pub bytes: Vec<u8>,
    kind: elf::FileType,
    pub entry: u64,
    pub programs: Vec<Program>,
}

/// Of an executable; a core has more.
const MAX_PROGRAMS: u16 = 256;

impl Headers {
    /// `None`: they cannot be read, or are of no 64-bit program.
    pub fn read(read: &dyn Fn(u64, &mut [u8]) -> bool) -> Option<Headers> {
        let mut bytes = vec![0; size_of::<Header>()];
        if !read(0, &mut bytes) || !is_elf(&bytes) {
            return None;
        }
        // e_shoff and e_shnum: what they lead to is not loaded
        bytes.iter_mut().skip(40).take(8).for_each(|byte| *byte = 0);
        bytes.iter_mut().skip(60).take(2).for_each(|byte| *byte = 0);
        let (header, _) = from_bytes::<Header>(&bytes).ok()?;
        let count = header.e_phnum.get(E);
        if count > MAX_PROGRAMS || usize::from(header.e_phentsize.get(E)) != size_of::<Program>() {
            return None;
        }
        let mut table = vec![0; usize::from(count) * size_of::<Program>()];
        if !read(header.e_phoff.get(E), &mut table) {
            return None;
        }
        let programs = slice_from_all_bytes::<Program>(&table).ok()?.to_vec();
        let (kind, entry) = (header.e_type.get(E), header.e_entry.get(E));
        // where all linkers put them
        if header.e_phoff.get(E) == bytes.len() as u64 {
            bytes.extend(table);
        }
        Some(Headers { bytes, kind, entry, programs })
    }

    pub fn is_movable(&self) -> bool {
        self.kind == elf::ET_DYN
    }

    /// What was added to the addresses in it, by where its first page is.
    pub fn bias_at(&self, first: u64) -> Option<u64> {
        Some(if self.is_movable() { first.wrapping_sub(lowest(&self.programs)? & !(PAGE - 1)) } else { 0 })
    }
}

pub(super) fn elf_headers(file: &File) -> Result<Headers, Refused> {
    Headers::read(&|at, buf| file.read_exact_at(buf, at).is_ok()).ok_or_else(|| Refused::new("it is no 64-bit executable"))
}
