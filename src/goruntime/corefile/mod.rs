//! The memory of a process in an ELF core file: what the kernel, systemd-coredump or `gcore` wrote when it ended or was asked.
//!
//! A core holds what was written to, and leaves out what lies in files all the same: the program's code and constants, unless
//! `coredump_filter` asks for them. Those are read from the executable, if it is the one that the core is of. What is in neither is
//! unreadable, never zero. Everything in a core is its author's word, and may be damaged, cut off or made up.

mod headers;
mod notes;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::elf::{self, FileHeader64, NoteHeader64, ProgramHeader64};
use object::pod::{from_bytes, slice_from_all_bytes};
use rustix::fs::{SeekFrom, seek};

use super::Refused;
use super::constants::Constants;
use super::image::{Image, PAGE, loaded, lowest};
use super::memory::Memory;
use crate::host::buildinfo::{self, BuildInfo, BuildInfoError};
use crate::units::ByteSize;
use headers::{Headers, elf_headers};
use notes::{Auxiliary, Mapped, auxiliary, mapped_files};

type Header = FileHeader64<LittleEndian>;
type Program = ProgramHeader64<LittleEndian>;
type Note = NoteHeader64<LittleEndian>;

const E: LittleEndian = LittleEndian;
/// A mapping each. The kernel allows 65,530 unless told otherwise.
const MAX_SEGMENTS: u64 = 1 << 20;
/// Some eight for each thread.
const MAX_NOTES: u64 = 4 << 20;
/// The kernel gives a list of mapped files 4 MiB.
const MAX_FILE_NOTE: u64 = 16 << 20;
const MAX_NOTE: u64 = 64 << 10;
/// Executables are smaller.
const MAX_EXECUTABLE: u64 = 8 << 30;
/// What is read at once where a whole core is.
const PIECE: u64 = 1 << 20;

/// Bytes that may be fewer than they say: a file, or a copy of one.
pub trait Stored {
    /// How many there are.
    fn size(&self) -> u64;
    /// Fills `buf` from `at`; `false` if not all of it is there.
    fn read_at(&self, buf: &mut [u8], at: u64) -> bool;
    /// Where bytes that take room on the disk begin, at `at` or beyond.
    fn data_from(&self, at: u64) -> u64 {
        at
    }
}

impl Stored for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |meta| meta.len())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> bool {
        self.read_exact_at(buf, at).is_ok()
    }

    fn data_from(&self, at: u64) -> u64 {
        match seek(self, SeekFrom::Data(at)) {
            Ok(data) => data.max(at),
            // none from here on
            Err(rustix::io::Errno::NXIO) => self.size(),
            Err(_) => at,
        }
    }
}

impl Stored for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> bool {
        let bytes = usize::try_from(at).ok().and_then(|from| self.get(from..from.checked_add(buf.len())?));
        bytes.map(|bytes| buf.copy_from_slice(bytes)).is_some()
    }
}

/// A mapping of the process, and the part of it that the core has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    start: u64,
    end: u64,
    /// In the file.
    at: u64,
    stored: u64,
    flags: u32,
}

/// The user's half of the address space ends here.
const USER_END: u64 = 1 << 47;

/// A part of the process's memory, and how much of it the core has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<'c> {
    pub start: u64,
    pub end: u64,
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// Bytes in pages that hold anything but zeros.
    pub bytes: u64,
    /// The file that it maps, or what the kernel calls it.
    pub name: Option<&'c Path>,
    pub is_of_file: bool,
}

/// The executable of a process, not in its core.
#[derive(Debug)]
pub struct Executable {
    pub file: File,
    pub path: PathBuf,
}

/// A core file of an x86-64 process, with the executable that completes it.
pub struct CoreFile {
    bytes: Box<dyn Stored>,
    /// In the order of their addresses; none overlaps another.
    segments: Vec<Segment>,
    files: Vec<Mapped>,
    auxiliary: Auxiliary,
    threads: u64,
    program: Option<(PathBuf, Constants)>,
}

/// Does a file begin as an ELF file does?
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&elf::ELFMAG)
}

/// What the machine of a core is called, where it is not the one that can be read.
fn other_machine(wide: bool, little: bool, machine: u16) -> Option<String> {
    let name = match (elf::Machine(machine), wide, little) {
        (elf::EM_X86_64, true, true) => return None,
        (elf::EM_X86_64, false, _) => "x32".to_owned(),
        (elf::EM_386, ..) => "i386".to_owned(),
        (elf::EM_AARCH64, ..) => "arm64".to_owned(),
        (elf::EM_ARM, ..) => "arm".to_owned(),
        (elf::EM_RISCV, ..) => "riscv".to_owned(),
        (elf::EM_PPC64, ..) => "ppc64".to_owned(),
        (elf::EM_S390, ..) => "s390x".to_owned(),
        (elf::EM_LOONGARCH, ..) => "loong64".to_owned(),
        (elf::EM_MIPS, ..) => "mips".to_owned(),
        (elf::Machine(other), ..) => format!("ELF number {other}"),
    };
    Some(name)
}

impl CoreFile {
    /// Refused, with what to do, where it is no core, one of another machine, cut off or damaged.
    pub fn parse(bytes: Box<dyn Stored>) -> Result<CoreFile, Refused> {
        let mut head = [0; size_of::<Header>()];
        let is_whole = bytes.read_at(&mut head, 0);
        if !is_elf(&head) {
            return Err(Refused::new("it is no ELF file, and so no core file"));
        }
        if !is_whole {
            return Err(Refused::new("it ends within its header: the core was cut off while it was written"));
        }
        // class, and the order of bytes
        let (is_wide, is_little) = (byte(&head, 4) == 2, byte(&head, 5) == 1);
        let machine = [byte(&head, 18), byte(&head, 19)];
        let machine = if is_little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
        if let Some(machine) = other_machine(is_wide, is_little, machine) {
            return Err(Refused::new(format!("it is of a process for {machine}: only those of x86-64 (amd64) can be read so far")));
        }
        let damaged = |what: &str| Refused::new(format!("it is a damaged core file: {what}"));
        let (header, _) = from_bytes::<Header>(&head).map_err(|()| damaged("its header cannot be read"))?;
        match header.e_type.get(E) {
            elf::ET_CORE => {}
            elf::ET_EXEC | elf::ET_DYN => {
                return Err(Refused::new("it is an executable or a library, no core file: name the core, and this one after --exe"));
            }
            _ => return Err(Refused::new("it is an object file, no core file")),
        }
        if usize::from(header.e_phentsize.get(E)) != size_of::<Program>() {
            return Err(damaged("its program headers have another size"));
        }
        let count = program_headers(&*bytes, header).ok_or_else(|| damaged("how many segments it has is not in it"))?;
        if count > MAX_SEGMENTS {
            return Err(damaged(&format!("it would have {count} segments")));
        }
        let mut table = vec![0; count as usize * size_of::<Program>()];
        if !bytes.read_at(&mut table, header.e_phoff.get(E)) {
            return Err(cut_off(bytes.size(), header.e_phoff.get(E).saturating_add(table.len() as u64)));
        }
        let table = slice_from_all_bytes::<Program>(&table).map_err(|()| damaged("its program headers cannot be read"))?;
        let mut segments = Vec::new();
        let (mut wanted, mut all) = (0, 0u64);
        for program in table {
            let (start, memory, at, stored) =
                (program.p_vaddr.get(E), program.p_memsz.get(E), program.p_offset.get(E), program.p_filesz.get(E));
            let in_file = at.checked_add(stored).ok_or_else(|| damaged("a segment lies beyond the end of all files"))?;
            wanted = wanted.max(if stored > 0 { in_file } else { 0 });
            all = all.saturating_add(stored);
            let end = start.checked_add(memory.max(stored)).ok_or_else(|| damaged("a segment lies beyond the end of memory"))?;
            if program.p_type.get(E) == elf::PT_LOAD && end > start {
                segments.push(Segment { start, end, at, stored, flags: program.p_flags.get(E).0 });
            }
        }
        if wanted > bytes.size() {
            return Err(cut_off(bytes.size(), wanted));
        }
        if all > bytes.size() {
            return Err(damaged("its segments hold more bytes than it has"));
        }
        segments.sort_unstable_by_key(|segment| segment.start);
        let overlaps = segments.iter().zip(segments.iter().skip(1)).find(|(one, next)| next.start < one.end);
        if let Some((one, next)) = overlaps {
            return Err(damaged(&format!("its segments at {:#x} and {:#x} overlap", one.start, next.start)));
        }
        if segments.iter().all(|segment| segment.stored == 0) {
            return Err(Refused::new("it holds no memory: coredump_filter, or whoever wrote it, left everything out"));
        }
        let mut core = CoreFile { bytes, segments, files: Vec::new(), auxiliary: Auxiliary::default(), threads: 0, program: None };
        for notes in table.iter().filter(|program| program.p_type.get(E) == elf::PT_NOTE) {
            core.read_notes(notes.p_offset.get(E), notes.p_filesz.get(E));
        }
        Ok(core)
    }

    /// How many threads it tells of.
    pub fn threads(&self) -> u64 {
        self.threads
    }

    /// Takes what can be had of the notes; a damaged one ends them.
    fn read_notes(&mut self, mut at: u64, len: u64) {
        let end = at.saturating_add(len);
        for _ in 0..MAX_NOTES {
            let mut head = [0; size_of::<Note>()];
            if at >= end || !self.bytes.read_at(&mut head, at) {
                return;
            }
            let Ok((note, _)) = from_bytes::<Note>(&head) else { return };
            let (name, size, kind) = (u64::from(note.n_namesz.get(E)), u64::from(note.n_descsz.get(E)), note.n_type.get(E));
            let from = at.saturating_add(head.len() as u64).saturating_add(name.next_multiple_of(4));
            at = from.saturating_add(size.next_multiple_of(4));
            if at > end.saturating_add(4) {
                return;
            }
            let read = |max: u64| {
                let mut bytes = vec![0; usize::try_from(size).ok().filter(|_| size <= max)?];
                self.bytes.read_at(&mut bytes, from).then_some(bytes)
            };
            match kind {
                // "CORE": names of other notes are longer or other numbers
                elf::NT_PRSTATUS if name == 5 => self.threads += 1,
                elf::NT_AUXV => self.auxiliary = read(MAX_NOTE).map(|bytes| auxiliary(&bytes)).unwrap_or_default(),
                elf::NT_FILE => self.files = read(MAX_FILE_NOTE).map(|bytes| mapped_files(&bytes)).unwrap_or_default(),
                _ => {}
            }
        }
    }

    fn segment(&self, address: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.start <= address);
        self.segments.get(after.checked_sub(1)?).filter(|segment| address < segment.end)
    }

    fn mapped(&self, address: u64) -> Option<&Mapped> {
        let after = self.files.partition_point(|file| file.start <= address);
        self.files.get(after.checked_sub(1)?).filter(|file| address < file.end)
    }

    /// The path of the executable, as the kernel knew it.
    pub fn executable(&self) -> Option<&Path> {
        let of = |address: Option<u64>| self.mapped(address?);
        let first = || self.files.iter().find(|file| file.offset == 0);
        of(self.auxiliary.program_headers).or_else(|| of(self.auxiliary.entry)).or_else(first).map(|file| file.path.as_path())
    }

    /// Completes the core with the executable, if that is the one it is of.
    pub fn complete(&mut self, exe: Executable) -> Result<Image, Refused> {
        let Executable { file, path } = &exe;
        let named = path.display();
        if file.size() > MAX_EXECUTABLE {
            return Err(Refused::new(format!("{named} is larger than {}: no executable", ByteSize(MAX_EXECUTABLE))));
        }
        let refused = |why: &dyn std::fmt::Display| Refused::new(format!("{named}: {why}"));
        let build = buildinfo::read(file).map_err(|e| refused(&not_go(&e)))?;
        let headers = elf_headers(file).map_err(|e| refused(&e))?;
        let bias = self.bias(&headers).ok_or_else(|| {
            Refused::new(format!("where {named} was in memory is not in the core: it has neither NT_AUXV nor NT_FILE of it"))
        })?;
        let has_other_build = self.build_in_memory(&headers, bias).is_ok_and(|there| there != build);
        if has_other_build || !self.is_of(&headers, file, bias) {
            return Err(Refused::new(format!(
                "{named} is another program than the core is of, or another build of it: their headers or build ids differ. Name the one that ran with --exe"
            )));
        }
        let reopened = file.try_clone().map_err(|e| refused(&e))?;
        let image = Image::at(reopened, build, bias).map_err(|e| refused(&e))?;
        let Executable { file, path } = exe;
        self.program = Some((path, Constants::of(file, &image)));
        Ok(image)
    }

    /// The executable that it was completed with.
    pub fn program(&self) -> Option<(&Path, &File)> {
        self.program.as_ref().map(|(path, constants)| (path.as_path(), constants.file()))
    }

    /// The program as its core alone has it: where the file is not at hand, and the core has code and constants.
    pub fn image(&self) -> Result<Image, Refused> {
        let base = self.auxiliary.program_headers.or(self.auxiliary.entry).and_then(|at| self.mapped(at));
        let first = base.and_then(|base| self.files.iter().find(|file| file.path == base.path && file.offset == 0)).map(|file| file.start);
        let first = first.or(self.auxiliary.program_headers.map(|at| at & !(PAGE - 1)));
        let first =
            first.ok_or_else(|| Refused::new("where the program was in memory is not in the core: name its executable with --exe"))?;
        let headers = |at: u64, buf: &mut [u8]| self.read(first.wrapping_add(at), buf);
        let headers = Headers::read(&headers).ok_or_else(|| {
            Refused::new(
                "the core leaves out the program's own headers, code and constants (coredump_filter): name its executable with --exe",
            )
        })?;
        let bias = headers.bias_at(first).unwrap_or_default();
        let build = self.build_in_memory(&headers, bias).map_err(|e| Refused::new(not_go(&e)))?;
        Image::of_headers(&headers.programs, build, bias, None)
    }

    fn build_in_memory(&self, headers: &Headers, bias: u64) -> Result<BuildInfo, BuildInfoError> {
        buildinfo::read_from(&|buf: &mut [u8], at: u64| Ok(self.read_as_file(headers, bias, buf, at)))
    }

    /// Bytes of the executable, as far as they were loaded: what lies behind the program headers is not, so it has no sections.
    fn read_as_file(&self, headers: &Headers, bias: u64, buf: &mut [u8], at: u64) -> usize {
        if let Some(from) = usize::try_from(at).ok().and_then(|at| headers.bytes.get(at..)).filter(|from| !from.is_empty()) {
            return buf.iter_mut().zip(from).map(|(to, from)| *to = *from).count();
        }
        let holds = |p: &&Program| {
            let from = p.p_offset.get(E);
            (from..from.saturating_add(p.p_filesz.get(E))).contains(&at)
        };
        let Some(program) = loaded(&headers.programs).find(holds) else { return 0 };
        let within = at - program.p_offset.get(E);
        let address = program.p_vaddr.get(E).wrapping_add(bias).wrapping_add(within);
        let len = usize::try_from(program.p_filesz.get(E) - within).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..len).unwrap_or_default();
        // the part of it that can be read, page by page
        let mut read = 0;
        while read < len {
            let page = (PAGE - address.wrapping_add(read as u64) % PAGE) as usize;
            let piece = buf.get_mut(read..len.min(read + page)).unwrap_or_default();
            if !self.read(address.wrapping_add(read as u64), piece) {
                break;
            }
            read += piece.len();
        }
        read
    }

    /// What was added to the addresses in the file.
    fn bias(&self, headers: &Headers) -> Option<u64> {
        if !headers.is_movable() {
            return Some(0);
        }
        let by_entry = self.auxiliary.entry.map(|entry| entry.wrapping_sub(headers.entry));
        let mapped = || {
            let path = self.executable()?;
            let first = self.files.iter().find(|file| file.path == path && file.offset == 0)?;
            headers.bias_at(first.start)
        };
        by_entry.or_else(mapped)
    }

    /// The entry point, the first page with headers and build ids, and the mappings of the file: whatever of them the core has is the same.
    fn is_of(&self, headers: &Headers, file: &File, bias: u64) -> bool {
        let Some(lowest) = lowest(&headers.programs) else { return false };
        let entry = self.auxiliary.entry.is_none_or(|entry| entry == headers.entry.wrapping_add(bias));
        let aligned = bias.is_multiple_of(PAGE);
        let (mut there, mut here) = (vec![0; PAGE as usize], vec![0; PAGE as usize]);
        // gcore writes all pages of a mapping or none
        let is_same_page =
            !self.read(lowest.wrapping_add(bias) & !(PAGE - 1), &mut there) || file.read_exact_at(&mut here, 0).is_ok() && here == there;
        let end = loaded(&headers.programs).map(|p| p.p_vaddr.get(E).wrapping_add(bias).saturating_add(p.p_filesz.get(E))).max();
        let within = lowest.wrapping_add(bias) & !(PAGE - 1)..end.unwrap_or_default();
        let fits = |mapped: &Mapped| {
            loaded(&headers.programs).any(|p| {
                let (start, offset) = (p.p_vaddr.get(E).wrapping_add(bias), p.p_offset.get(E));
                // the kernel maps whole pages, and may split a mapping
                let (start, offset) = (start & !(PAGE - 1), offset & !(PAGE - 1));
                let end = start.saturating_add(p.p_filesz.get(E)).saturating_add(2 * PAGE);
                mapped.start >= start && mapped.start < end && mapped.start - start == mapped.offset.wrapping_sub(offset)
            })
        };
        // a program may map its own executable elsewhere, too
        let is_mapped = self.files.iter().filter(|mapped| within.contains(&mapped.start)).all(fits);
        entry && aligned && is_same_page && is_mapped
    }

    /// All mappings with how much of each is stored. Reads the whole file, but for its holes; `split` are multiples of it at which a mapping
    /// of no file is told in parts.
    pub fn parts(&self, split: u64) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut buffer = vec![0; PIECE as usize];
        for segment in &self.segments {
            let file = self.mapped(segment.start);
            let name = file.map(|file| file.path.as_path()).or_else(|| self.special(segment).map(Path::new));
            let mut start = segment.start;
            while start < segment.end {
                let next =
                    if file.is_some() || start >= USER_END { u64::MAX } else { (start / split).saturating_add(1).saturating_mul(split) };
                let end = next.min(segment.end);
                let flag = |flag: u32| segment.flags & flag != 0;
                parts.push(Part {
                    start,
                    end,
                    readable: flag(elf::PF_R.0),
                    writable: flag(elf::PF_W.0),
                    executable: flag(elf::PF_X.0),
                    bytes: self.in_use(segment, start, end, &mut buffer),
                    name,
                    is_of_file: file.is_some(),
                });
                start = end;
            }
        }
        parts
    }

    fn special(&self, segment: &Segment) -> Option<&'static str> {
        let holds = |address: Option<u64>| address.is_some_and(|address| (segment.start..segment.end).contains(&address));
        match () {
            () if holds(self.auxiliary.random) => Some("[stack]"),
            () if holds(self.auxiliary.vdso) => Some("[vdso]"),
            // in the kernel's half
            () if segment.start >= USER_END => Some("[vsyscall]"),
            () => None,
        }
    }

    /// Bytes in pages that hold anything but zeros, of what is stored from `start` to `end`.
    fn in_use(&self, segment: &Segment, start: u64, end: u64, buffer: &mut [u8]) -> u64 {
        let stored = |address: u64| segment.at + (address - segment.start).min(segment.stored);
        let (mut at, until) = (stored(start), stored(end));
        let mut bytes = 0;
        while at < until {
            // pages of the process, whatever the alignment in the file
            let data = self.bytes.data_from(at).min(until);
            at += (data - at) / PAGE * PAGE;
            let len = (until - at).min(buffer.len() as u64) as usize;
            let Some(piece) = buffer.get_mut(..len).filter(|piece| !piece.is_empty()) else { break };
            if data < until && self.bytes.read_at(piece, at) {
                bytes += piece.chunks(PAGE as usize).filter(|page| !is_zero(page)).map(|page| page.len() as u64).sum::<u64>();
            }
            at += len as u64;
        }
        bytes
    }
}

fn is_zero(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<8>();
    words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

impl Memory for CoreFile {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = address.checked_add(done as u64) else { return false };
            let in_core = self.segment(at).filter(|segment| at - segment.start < segment.stored);
            let (len, is_read) = if let Some(segment) = in_core {
                let within = at - segment.start;
                let piece = part_of(rest, segment.stored - within);
                (piece.len(), self.bytes.read_at(piece, segment.at + within))
            } else if let Some((constants, room)) = self.program.as_ref().and_then(|(_, c)| Some((c, c.room(at)?))) {
                let next = self.segments.partition_point(|segment| segment.start <= at);
                let next = self.segments.get(next).map_or(u64::MAX, |segment| segment.start);
                let piece = part_of(rest, room.min(next - at));
                (piece.len(), constants.read(at, piece))
            } else {
                return false;
            };
            if !is_read {
                return false;
            }
            done += len;
        }
        true
    }
}

fn part_of(buf: &mut [u8], most: u64) -> &mut [u8] {
    let len = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
    buf.get_mut(..len).unwrap_or_default()
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn cut_off(has: u64, wanted: u64) -> Refused {
    Refused::new(format!(
        "it is cut off: it has {} of {}. The disk was full, or a limit was reached: `ulimit -c`, LimitCORE= of the unit, ExternalSizeMax= and \
         ProcessSizeMax= in coredump.conf",
        ByteSize(has),
        ByteSize(wanted)
    ))
}

fn not_go(error: &BuildInfoError) -> String {
    match error {
        BuildInfoError::NotGo => "it is no Go program, or its build info was removed".to_owned(),
        e => e.to_string(),
    }
}

/// `e_phnum`, or what stands for it where that is too small.
fn program_headers(bytes: &dyn Stored, header: &Header) -> Option<u64> {
    let count = header.e_phnum.get(E);
    if count != elf::PN_XNUM {
        return Some(count.into());
    }
    if header.e_shoff.get(E) == 0 {
        return None;
    }
    let mut section = [0; size_of::<elf::SectionHeader64<LittleEndian>>()];
    if !bytes.read_at(&mut section, header.e_shoff.get(E)) {
        return None;
    }
    from_bytes::<elf::SectionHeader64<LittleEndian>>(&section).ok().map(|(section, _)| section.sh_info.get(E).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, size in memory, and what is stored of it.
    type Load<'b> = (u64, u64, &'b [u8]);

    fn core(loads: &[Load]) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        let words =
            |out: &mut Vec<u8>, words: &[(u64, usize)]| words.iter().for_each(|(word, len)| out.extend(&word.to_le_bytes()[..*len]));
        let count = loads.len() as u64;
        words(&mut out, &[(4, 2), (62, 2), (1, 4), (0, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (count, 2), (0, 6)]);
        let mut at = 64 + 56 * count;
        for (address, size, stored) in loads {
            let len = stored.len() as u64;
            words(&mut out, &[(1, 4), (6, 4), (at, 8), (*address, 8), (0, 8), (len, 8), (*size, 8), (1, 8)]);
            at += len;
        }
        loads.iter().for_each(|(_, _, stored)| out.extend(*stored));
        out
    }

    fn parsed(bytes: Vec<u8>) -> Result<CoreFile, String> {
        CoreFile::parse(Box::new(bytes)).map_err(|why| why.to_string())
    }

    #[test]
    fn what_is_not_stored_is_unreadable_and_never_zero() {
        let core = parsed(core(&[(0x1000, 8, b"abcd"), (0x1008, 4, b"efgh"), (0x100c, 4, b"ijkl")])).unwrap();
        let read = |address, len| {
            let mut buf = vec![b'?'; len];
            core.read(address, &mut buf).then(|| String::from_utf8(buf).unwrap())
        };
        assert_eq!(read(0x1000, 4).as_deref(), Some("abcd"));
        assert_eq!(read(0x1009, 6).as_deref(), Some("fghijk"));
        // the rest of a segment, what lies between two, and what is beyond
        for (address, len) in [(0x1002, 4), (0x1004, 1), (0x100f, 2), (0xfff, 2), (0, 1), (u64::MAX, 1), (u64::MAX, 2)] {
            assert_eq!(read(address, len), None, "{address:#x}");
        }
        assert_eq!(read(0x5000, 0).as_deref(), Some(""));
    }

    #[test]
    fn pages_of_nothing_but_zeros_are_not_counted_as_stored() {
        let (mut pages, zeros) = (vec![0; 3 * PAGE as usize], vec![0; PAGE as usize]);
        pages[PAGE as usize + 7] = 1;
        let core = parsed(core(&[(0x10000, 4 * PAGE, &pages), (0x20000, PAGE, &zeros), (1 << 47, 1 << 62, b"x")])).unwrap();
        let bytes: Vec<(u64, u64)> = core.parts(1 << 26).iter().map(|part| (part.start, part.bytes)).collect();
        assert_eq!(bytes, [(0x10000, PAGE), (0x20000, 0), (1 << 47, 1)]);
    }

    #[test]
    fn a_mapping_is_told_in_parts_where_an_arena_ends() {
        let core = parsed(core(&[((1 << 26) - PAGE, 2 * PAGE, &[1; 2 * PAGE as usize])])).unwrap();
        let parts: Vec<(u64, u64, u64)> = core.parts(1 << 26).iter().map(|part| (part.start, part.end, part.bytes)).collect();
        assert_eq!(parts, [((1 << 26) - PAGE, 1 << 26, PAGE), (1 << 26, (1 << 26) + PAGE, PAGE)]);
    }

    #[test]
    fn more_segments_than_the_header_can_say_stand_in_a_section() {
        let mut bytes = core(&[(0x1000, 4, b"abcd")]);
        bytes[56..58].copy_from_slice(&[0xff; 2]);
        let section = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&section.to_le_bytes());
        bytes.extend([0; 44]);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend([0; 16]);
        assert_eq!(parsed(bytes.clone()).unwrap().segments.len(), 1);
        let at = section as usize + 44;
        bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
        assert_eq!(parsed(bytes).err().unwrap(), "it is a damaged core file: it would have 4294967295 segments");
    }

    #[test]
    fn segments_that_share_what_is_stored_are_damage() {
        let mut bytes = core(&[(0x1000, 4, b"abcd"), (0x2000, 4, b"efgh")]);
        // each is all that there is
        for n in 0..2 {
            bytes[64 + 56 * n + 8..][..8].copy_from_slice(&0u64.to_le_bytes());
            bytes[64 + 56 * n + 32..][..8].copy_from_slice(&184u64.to_le_bytes());
        }
        assert_eq!(parsed(bytes).err().unwrap(), "it is a damaged core file: its segments hold more bytes than it has");
    }
}
