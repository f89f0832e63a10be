//! `/proc/PID/smaps` and `smaps_rollup`: how much of what is resident.
//!
//! One pass, sums only: a process may have a hundred thousand mappings. Which of them are Go's arenas is decided in
//! `arenas`, because where the kernel names none it takes the whole picture.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use super::arenas::{Arenas, Guarded, Plain};
use super::lines::Lines;

/// What a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The Go heap with the goroutine stacks in it.
    GoHeap,
    /// What else the kernel names as Go's.
    GoRuntime,
    /// `[heap]`: malloc's first arena in C.
    Brk,
    /// glibc's further arenas, or what the kernel names so.
    MallocArena,
    /// What the kernel names so, and what [`Mappings::settle`] takes for one.
    ThreadStack,
    /// `[stack]`
    MainStack,
    /// Zeroed globals of executables and libraries (bss). Their other globals are anonymous pages of `File`.
    Globals,
    /// Anonymous and none of the above: `mmap`, large `malloc`s, and Go's metadata where the kernel names nothing.
    OtherAnon,
    File,
    /// A private mapping of a file that is no program: its anonymous pages are copies that were written to.
    FileCopy,
    Shmem,
    /// `[vdso]` and the like.
    Special,
}

const KINDS: usize = Kind::Special as usize + 1;

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub mappings: u64,
    pub size: u64,
    pub rss: u64,
    /// Pages of no file, those of private file mappings that were written to included.
    pub anon: u64,
    /// Given back with MADV_FREE, not yet taken by the kernel; in `anon` too.
    pub lazy_free: u64,
    pub huge: u64,
    pub swap: u64,
}

impl Usage {
    pub(super) fn add(&mut self, other: &Usage) {
        self.mappings = self.mappings.saturating_add(other.mappings);
        self.size = self.size.saturating_add(other.size);
        self.rss = self.rss.saturating_add(other.rss);
        self.anon = self.anon.saturating_add(other.anon);
        self.lazy_free = self.lazy_free.saturating_add(other.lazy_free);
        self.huge = self.huge.saturating_add(other.huge);
        self.swap = self.swap.saturating_add(other.swap);
    }

    pub(super) fn take_off(&mut self, other: &Usage) {
        self.mappings = self.mappings.saturating_sub(other.mappings);
        self.size = self.size.saturating_sub(other.size);
        self.rss = self.rss.saturating_sub(other.rss);
        self.anon = self.anon.saturating_sub(other.anon);
        self.lazy_free = self.lazy_free.saturating_sub(other.lazy_free);
        self.huge = self.huge.saturating_sub(other.huge);
        self.swap = self.swap.saturating_sub(other.swap);
    }
}

/// The sums of a whole `smaps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    kinds: [Usage; KINDS],
    pub total: Usage,
    /// What may be Go's arenas where the kernel names none; not in `of(Kind::GoHeap)`.
    pub(super) arenas: Arenas,
    /// What may be stacks of threads; of no kind until [`Mappings::settle`].
    pub(super) guarded: Guarded,
    /// The file with the most copied pages, and their bytes.
    pub copied: Option<(String, u64)>,
    /// Where the kernel put its code for this process: by chance, and another place for each.
    pub vdso: Option<u64>,
}

impl Mappings {
    pub fn of(&self, kind: Kind) -> Usage {
        self.kinds.get(kind as usize).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, kind: Kind, usage: &Usage) {
        if let Some(sum) = self.kinds.get_mut(kind as usize) {
            sum.add(usage);
        }
    }
}

/// Reads a `smaps`. Lines that are none are passed over; a text that ends early gives the sums of its whole mappings.
/// `None` if there is not one mapping.
pub fn parse(input: impl BufRead) -> io::Result<Option<Mappings>> {
    let mut reader = Reader::default();
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        match Header::parse(line) {
            Some((header, name)) => reader.begin(header, name),
            None => reader.field(line),
        }
    }
    Ok(reader.finish())
}

/// `smaps_rollup`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollup {
    pub rss: u64,
    pub anon: u64,
    pub lazy_free: u64,
    pub huge: u64,
    pub swap: u64,
    pub pss_file: Option<u64>,
    pub pss_shmem: Option<u64>,
}

/// `None` if it has no `Rss` and no `Anonymous`.
pub fn parse_rollup(input: impl BufRead) -> io::Result<Option<Rollup>> {
    let (mut rollup, mut rss, mut anon) = (Rollup::default(), None, None);
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        let Some((key, bytes)) = field(line) else { continue };
        match key {
            "Rss" => rss = Some(bytes),
            "Anonymous" => anon = Some(bytes),
            "LazyFree" => rollup.lazy_free = bytes,
            "AnonHugePages" => rollup.huge = bytes,
            "Swap" => rollup.swap = bytes,
            "Pss_File" => rollup.pss_file = Some(bytes),
            "Pss_Shmem" => rollup.pss_shmem = Some(bytes),
            _ => {}
        }
    }
    Ok(rss.zip(anon).map(|(rss, anon)| Rollup { rss, anon, ..rollup }))
}

/// `Rss:   12 kB`, in bytes.
fn field(line: &[u8]) -> Option<(&str, u64)> {
    let (key, rest) = std::str::from_utf8(line).ok()?.split_once(':')?;
    let mut words = rest.split_ascii_whitespace();
    let kib: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then(|| (key, kib.saturating_mul(1024)))
}

/// The line that begins a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub start: u64,
    pub end: u64,
    /// Neither readable nor writable nor executable: reserved, or a guard.
    pub closed: bool,
    /// Private and writable, as the data segment of an executable is; other mappings of files end wherever the kernel put them.
    is_data: bool,
    is_code: bool,
    /// Device and inode.
    file: FileId,
    what: What,
}

type FileId = (u64, u64);

fn device(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(u64::from_str_radix(major, 16).ok()? << 32 | u64::from_str_radix(minor, 16).ok()?)
}

/// What the header alone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Known(Kind),
    /// Anonymous, private, without a name.
    Plain,
}

impl Header {
    /// `c000000000-c000400000 rw-p 00000000 00:00 0   [anon: Go: heap]`
    fn parse(line: &[u8]) -> Option<(Header, &str)> {
        // names may be any bytes; what tells them apart is ASCII
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(line.get(..e.valid_up_to())?).ok()?,
        };
        let mut rest = text;
        let mut word = || {
            let trimmed = rest.trim_start_matches(' ');
            let (word, after) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
            rest = after;
            (!word.is_empty()).then_some(word)
        };
        let (start, end) = word()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let perms = word()?;
        let (_offset, device_id, inode) = (word()?, word()?, word()?);
        let name = rest.trim();
        if end < start || perms.len() != 4 {
            return None;
        }
        let private = perms.ends_with('p');
        let what = named(name, private).or_else(|| (!private || inode != "0").then_some(Kind::File)).map_or(What::Plain, What::Known);
        let header = Header {
            start,
            end,
            closed: perms.starts_with("---"),
            is_data: private && perms.get(1..2) == Some("w"),
            is_code: perms.get(2..3) == Some("x"),
            file: (device(device_id).unwrap_or_default(), inode.parse().unwrap_or_default()),
            what,
        };
        Some((header, name))
    }

    pub fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// What names of shared memory begin with.
pub const SHARED_MEMORY: [&str; 5] = ["/dev/shm/", "/memfd:", "/SYSV", "/dev/zero (deleted)", "[anon_shmem:"];

/// What a name says; `None` for none.
fn named(name: &str, private: bool) -> Option<Kind> {
    if let Some(anon) = name.strip_prefix("[anon:").and_then(|n| n.strip_suffix(']')) {
        return Some(match anon.trim_start().strip_prefix("Go: ") {
            // with GODEBUG=harddecommit=1 freed and used again parts are named so
            Some("heap" | "heap reservation" | "used" | "unused") => Kind::GoHeap,
            Some(_) => Kind::GoRuntime,
            None if anon.contains("pthread stack") || anon.starts_with("stack_and_tls") => Kind::ThreadStack,
            None if anon.contains("malloc") => Kind::MallocArena,
            None => Kind::OtherAnon,
        });
    }
    Some(match name {
        "" if private => return None,
        "" => Kind::Shmem,
        "[heap]" => Kind::Brk,
        "[stack]" => Kind::MainStack,
        _ if SHARED_MEMORY.iter().any(|prefix| name.starts_with(prefix)) => Kind::Shmem,
        _ if name.starts_with("[stack:") => Kind::ThreadStack,
        _ if name.starts_with('[') => Kind::Special,
        _ => Kind::File,
    })
}

#[derive(Default)]
struct Reader {
    sums: Mappings,
    plain: Plain,
    current: Option<(Header, Usage)>,
    /// Where the last mapping ended, if it was a file's data segment: global variables that begin as zero follow it.
    data_end: Option<u64>,
    /// The last file with code: a program's segments lie side by side, code before data.
    program: Option<FileId>,
    /// The path of the current mapping, where it may be copied.
    path: String,
    copied: BTreeMap<String, u64>,
}

/// Files whose copied pages are summed up; who maps more has one store in many pieces.
const MAX_COPIED: usize = 64;

impl Reader {
    fn begin(&mut self, header: Header, name: &str) {
        self.end();
        self.path.clear();
        match header.what {
            What::Known(Kind::File) if header.is_code => self.program = Some(header.file),
            What::Known(Kind::File) if header.is_data => self.path.push_str(name),
            What::Known(Kind::Special) if name == "[vdso]" => self.sums.vdso = Some(header.start),
            _ => {}
        }
        self.current = Some((header, Usage { mappings: 1, size: header.size(), ..Usage::default() }));
    }

    fn field(&mut self, line: &[u8]) {
        let Some((_, usage)) = &mut self.current else { return };
        let Some((key, bytes)) = field(line) else { return };
        match key {
            "Rss" => usage.rss = bytes,
            "Anonymous" => usage.anon = bytes,
            "LazyFree" => usage.lazy_free = bytes,
            "AnonHugePages" => usage.huge = bytes,
            "Swap" => usage.swap = bytes,
            _ => {}
        }
    }

    fn end(&mut self) {
        let Some((header, usage)) = self.current.take() else { return };
        self.sums.total.add(&usage);
        let after_data = self.data_end.take() == Some(header.start);
        match header.what {
            What::Plain if after_data && !header.closed => self.sums.add(Kind::Globals, &usage),
            What::Plain => self.plain.push(&mut self.sums, header, usage),
            What::Known(kind) => {
                let of_program = self.program == Some(header.file);
                let kind = if kind == Kind::File && header.is_data && !of_program { Kind::FileCopy } else { kind };
                if kind == Kind::File && header.is_data {
                    self.data_end = Some(header.end);
                }
                if kind == Kind::FileCopy && usage.anon > 0 && (self.copied.len() < MAX_COPIED || self.copied.contains_key(&self.path)) {
                    let sum = self.copied.entry(std::mem::take(&mut self.path)).or_default();
                    *sum = sum.saturating_add(usage.anon);
                }
                if kind == Kind::MainStack {
                    self.plain.stack_at = Some(header.start);
                }
                self.sums.add(kind, &usage);
            }
        }
    }

    fn finish(mut self) -> Option<Mappings> {
        self.end();
        self.plain.finish(&mut self.sums);
        self.sums.copied = self.copied.into_iter().max_by_key(|(_, bytes)| *bytes);
        (self.sums.total.mappings > 0).then_some(self.sums)
    }
}
