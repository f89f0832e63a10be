//! The notes of a core file: what the kernel told the program at its start, and which files it had mapped.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::goruntime::memory::words;

const MAX_PATH: usize = 4096;

/// Keys of the auxiliary vector (`elf.h`).
const AT_PHDR: u64 = 3;
const AT_ENTRY: u64 = 9;
const AT_RANDOM: u64 = 25;
const AT_SYSINFO_EHDR: u64 = 33;

/// A mapping of a file, by `NT_FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub start: u64,
    pub end: u64,
    /// In bytes.
    pub offset: u64,
    pub path: PathBuf,
}

/// What the kernel told the program at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Auxiliary {
    pub program_headers: Option<u64>,
    pub entry: Option<u64>,
    /// On the stack of the first thread.
    pub random: Option<u64>,
    pub vdso: Option<u64>,
}

pub(super) fn auxiliary(bytes: &[u8]) -> Auxiliary {
    let pairs = || words(bytes).step_by(2).zip(words(bytes).skip(1).step_by(2));
    let get = |key| pairs().find(|(k, _)| *k == key).map(|(_, value)| value);
    Auxiliary { program_headers: get(AT_PHDR), entry: get(AT_ENTRY), random: get(AT_RANDOM), vdso: get(AT_SYSINFO_EHDR) }
}

/// A count, the size of a page, then start, end and page of each, then their paths.
pub(super) fn mapped_files(bytes: &[u8]) -> Vec<Mapped> {
    let mut head = words(bytes);
    let (Some(count), Some(page)) = (head.next(), head.next()) else { return Vec::new() };
    let Some(paths) = usize::try_from(count).ok().and_then(|n| n.checked_mul(24)?.checked_add(16)).and_then(|at| bytes.get(at..)) else {
        return Vec::new();
    };
    let mut places = head;
    let mut mapped = Vec::new();
    for path in paths.split(|byte| *byte == 0).take(count as usize) {
        let (Some(start), Some(end), Some(offset)) = (places.next(), places.next(), places.next()) else { break };
        if path.len() <= MAX_PATH && start < end {
            let path = PathBuf::from(OsStr::from_bytes(path));
            mapped.push(Mapped { start, end, offset: offset.saturating_mul(page), path });
        }
    }
    mapped.sort_by_key(|file| file.start);
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn a_list_of_files_tells_no_more_than_it_has() {
        let list = |count: u64, places: &[[u64; 3]], paths: &[u8]| {
            let words = [count, PAGE].into_iter().chain(places.iter().flatten().copied());
            [words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>(), paths.to_vec()].concat()
        };
        let files = mapped_files(&list(2, &[[0x5000, 0x6000, 1], [0x1000, 0x2000, 0]], b"/b\0/a\0"));
        let told: Vec<(u64, u64, &str)> = files.iter().map(|file| (file.start, file.offset, file.path.to_str().unwrap())).collect();
        assert_eq!(told, [(0x1000, 0, "/a"), (0x5000, PAGE, "/b")]);
        assert_eq!(mapped_files(&list(u64::MAX, &[[1, 2, 3]], b"/a\0")), []);
        assert_eq!(mapped_files(&list(1000, &[[1, 2, 3]], b"/a\0")), []);
        assert_eq!(mapped_files(&list(1, &[[2, 1, 3]], b"/a\0")), []);
        assert_eq!(mapped_files(b""), []);
    }
}
