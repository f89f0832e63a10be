//! Code and constants of a program, from the file of its executable. Read from the memory of a process, their pages would become resident
//! there, and count as its RSS.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use super::image::{Image, PAGE};

/// What is mapped from the file of an executable and cannot be written to.
#[derive(Debug)]
pub(super) struct Constants {
    file: File,
    parts: Vec<Part>,
}

/// Whole pages, as the kernel maps them.
#[derive(Debug)]
struct Part {
    start: u64,
    end: u64,
    /// In the file.
    at: u64,
}

impl Constants {
    pub fn of(file: File, image: &Image) -> Constants {
        let page = |address: u64| address - address % PAGE;
        let written: Vec<u64> = image.segments.iter().filter(|s| s.writable).map(|s| page(s.start)).collect();
        let part = |s: &super::image::Segment| {
            let start = page(s.start);
            let end = s.start.saturating_add(s.in_file).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            let end = written.iter().copied().filter(|at| (start..end).contains(at)).fold(end, u64::min);
            Part { start, end, at: s.at.saturating_sub(s.start - start) }
        };
        Constants { file, parts: image.segments.iter().filter(|s| !s.writable).map(part).collect() }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes there are from this address on.
    pub fn room(&self, address: u64) -> Option<u64> {
        Some(self.part(address)?.end - address)
    }

    /// Fills `buf` from `address`, within its part; `false` if the file does not have it.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        self.part(address).is_some_and(|part| read_mapped(&self.file, buf, part.at.saturating_add(address - part.start)))
    }

    fn part(&self, address: u64) -> Option<&Part> {
        self.parts.iter().find(|part| (part.start..part.end).contains(&address))
    }
}

/// As a mapping shows a file: zeros follow its end.
fn read_mapped(file: &File, buf: &mut [u8], at: u64) -> bool {
    let mut read = 0;
    while let Some(rest) = buf.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match FileExt::read_at(file, rest, at.saturating_add(read as u64)) {
            Ok(0) if read == 0 => return false,
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(n) => read += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    true
}
