//! The executable of a process: which parts of it are in memory where, and which Go built it.

use std::fs::File;

use object::read::elf::{ElfFile64, FileHeader};
use object::{LittleEndian, Object, ObjectSection, ReadCache, elf};

use super::Refused;
use crate::host::ProcDir;
use crate::host::buildinfo::{self, BuildInfo};

pub(super) const PAGE: u64 = 4096;
/// The program of a process is among the first of its mappings.
const MAX_MAPS: usize = 8 << 20;
const MAX_SEGMENTS: usize = 64;

/// A part of the executable, as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub start: u64,
    /// Bytes that come from the file; the rest is zeroed at the start.
    pub in_file: u64,
    /// Where they are in the file.
    pub at: u64,
    pub writable: bool,
    pub executable: bool,
}

/// A Go executable in the memory of a process.
#[derive(Debug)]
pub struct Image {
    /// As build info has it: `go1.27.3 X:greenteagc`.
    pub go_version: String,
    /// The path of the main module.
    pub main_module: Option<String>,
    pub segments: Vec<Segment>,
    /// What was added to the addresses in the file.
    pub bias: u64,
    /// Where the section of the function table is, in the builds that have one.
    pub pclntab: Option<u64>,
}

impl Image {
    /// Reads headers and sections of the executable, on demand, and where the kernel has put it.
    pub fn of(process: &ProcDir) -> Result<Image, Refused> {
        let cannot = |e: &dyn std::fmt::Display| Refused::new(format!("its executable cannot be read: {e}"));
        let exe = process.open("exe").map_err(|e| cannot(&e))?;
        let build = buildinfo::read(&exe).map_err(|e| cannot(&e))?;
        let maps = process.read("maps", MAX_MAPS).map_err(|e| cannot(&e))?;
        let path = process.link("exe").map_err(|e| cannot(&e))?;
        let first = first_mapping(&maps, path.as_encoded_bytes());
        let bias = |lowest: u64| {
            let first = first.ok_or_else(|| Refused::new("its executable is not among its mappings"))?;
            Ok(first.wrapping_sub(lowest & !(PAGE - 1)))
        };
        Image::parse(exe, build, bias)
    }

    /// The same of an executable that was somewhere: `bias` is what was added to the addresses in it.
    pub fn at(exe: File, build: BuildInfo, bias: u64) -> Result<Image, Refused> {
        Image::parse(exe, build, |_| Ok(bias))
    }

    /// `bias` by the lowest address of a file that could be put anywhere.
    fn parse(exe: File, build: BuildInfo, bias: impl FnOnce(u64) -> Result<u64, Refused>) -> Result<Image, Refused> {
        let damaged = |e: object::Error| Refused::new(format!("its executable is no 64-bit ELF file that can be read: {e}"));
        let cache = ReadCache::new(exe);
        let file: ElfFile64<'_, LittleEndian, _> = ElfFile64::parse(&cache).map_err(damaged)?;
        let endian = file.endian();
        if file.elf_header().e_machine(endian) != elf::EM_X86_64 {
            return Err(Refused::new("only x86-64 can be read so far"));
        }
        let programs = file.elf_program_headers();
        let bias = match file.elf_header().e_type(endian) {
            elf::ET_DYN => bias(lowest(programs).unwrap_or_default())?,
            _ => 0,
        };
        let section = [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| file.section_by_name(name));
        Image::of_headers(programs, build, bias, section.map(|s| s.address().wrapping_add(bias)))
    }

    /// By its program headers; without a section of the function table it is searched for.
    pub(super) fn of_headers(
        programs: &[elf::ProgramHeader64<LittleEndian>],
        build: BuildInfo,
        bias: u64,
        pclntab: Option<u64>,
    ) -> Result<Image, Refused> {
        let segments: Vec<Segment> = loaded(programs)
            .take(MAX_SEGMENTS)
            .map(|h| Segment {
                start: h.p_vaddr.get(LittleEndian).wrapping_add(bias),
                in_file: h.p_filesz.get(LittleEndian),
                at: h.p_offset.get(LittleEndian),
                writable: h.p_flags.get(LittleEndian).0 & elf::PF_W.0 != 0,
                executable: h.p_flags.get(LittleEndian).0 & elf::PF_X.0 != 0,
            })
            .collect();
        if segments.is_empty() {
            return Err(Refused::new("its executable has no segments"));
        }
        Ok(Image { go_version: build.go_version, main_module: build.module, segments, bias, pclntab })
    }
}

pub(super) fn loaded(programs: &[elf::ProgramHeader64<LittleEndian>]) -> impl Iterator<Item = &elf::ProgramHeader64<LittleEndian>> {
    programs.iter().filter(|h| h.p_type.get(LittleEndian) == elf::PT_LOAD)
}

/// Where the first of what is loaded would be, were nothing added.
pub(super) fn lowest(programs: &[elf::ProgramHeader64<LittleEndian>]) -> Option<u64> {
    loaded(programs).map(|h| h.p_vaddr.get(LittleEndian)).min()
}

/// Where the mapping of the file's first page begins.
fn first_mapping(maps: &[u8], path: &[u8]) -> Option<u64> {
    maps.split(|b| *b == b'\n').find_map(|line| {
        let mut words = line.splitn(6, |b| *b == b' ');
        let range = std::str::from_utf8(words.next()?).ok()?;
        let offset = std::str::from_utf8(words.nth(1)?).ok()?;
        let name = words.nth(2)?.trim_ascii_start();
        let is_first = u64::from_str_radix(offset, 16) == Ok(0) && name == path;
        is_first.then(|| u64::from_str_radix(range.split('-').next()?, 16).ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_page_of_the_executable_tells_where_it_is() {
        let maps = b"55d0c0000000-55d0c0100000 r--p 00000000 fe:00 1234                       /opt/a b\n\
                     55d0c0100000-55d0c0200000 r-xp 00100000 fe:00 1234                       /opt/a b\n";
        assert_eq!(first_mapping(maps, b"/opt/a b"), Some(0x55d0_c000_0000));
        assert_eq!(first_mapping(maps, b"/opt/a"), None);
        assert_eq!(first_mapping(b"", b""), None);
    }
}
