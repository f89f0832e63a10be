//! Where a body goes: to its file, as it comes, and what it then turns out to be.

use std::io::{self, Read, Write};

use crate::bundle::{BundleFile, Files, MAX_REJECTED, Sum};
use crate::pprof::DecodeError;
use crate::pprof::validate::{self, Summary};
use crate::units::ByteSize;

const MEMSTATS: &[u8] = b"# runtime.MemStats";
/// The part itself is some 6 kB.
const MAX_MEMSTATS: usize = 64 << 10;

/// What a body is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// A gzipped profile.
    Profile,
    /// The end of `heap?debug=1`: only that is kept.
    MemStats,
    GoroutineText,
    /// Any text but HTML.
    Text,
    /// Go's execution trace.
    Trace,
}

/// Takes one attempt's body. The file is made with the first byte, so that an attempt that gets none destroys nothing.
#[derive(Debug)]
pub(super) struct Sink {
    files: Files,
    name: String,
    file: Option<BundleFile>,
    memstats: Option<MemStats>,
}

impl Sink {
    pub fn new(files: Files, name: &str, body: Body) -> Sink {
        let memstats = (body == Body::MemStats).then(MemStats::default);
        Sink { files, name: name.into(), file: None, memstats }
    }

    /// Blocks on the disk.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(self.files.create(&self.name)?),
        };
        match &mut self.memstats {
            Some(filter) => filter.write(bytes, file),
            None => file.write_all(bytes),
        }
    }

    /// The sum of what was written; `None` if there was not a byte.
    pub fn finish(mut self) -> io::Result<Option<Sum>> {
        if let (Some(filter), Some(file)) = (&self.memstats, &mut self.file)
            && !filter.found
        {
            file.write_all(&filter.head)?;
        }
        Ok(self.file.map(BundleFile::finish))
    }
}

/// Lets through what follows a line that starts with [`MEMSTATS`].
#[derive(Debug, Default)]
struct MemStats {
    found: bool,
    /// The end of what was seen, as long as the marker is not found: it may be cut in two.
    tail: Vec<u8>,
    written: usize,
    /// The beginning of the body, to show what came if no such line does.
    head: Vec<u8>,
}

impl MemStats {
    fn write(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        if self.found {
            return self.pass(bytes, out);
        }
        let room = (MAX_REJECTED as usize).saturating_sub(self.head.len());
        self.head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if self.tail.is_empty() {
            // the first line follows no line break
            self.tail.push(b'\n');
        }
        self.tail.extend_from_slice(bytes);
        let at = self.tail.windows(MEMSTATS.len() + 1).position(|w| w.starts_with(b"\n") && w.ends_with(MEMSTATS));
        if let Some(at) = at {
            self.found = true;
            self.head = Vec::new();
            let text = std::mem::take(&mut self.tail);
            return self.pass(text.get(at + 1..).unwrap_or_default(), out);
        }
        let done = self.tail.len().saturating_sub(MEMSTATS.len());
        self.tail.drain(..done);
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        let bytes = bytes.get(..MAX_MEMSTATS.saturating_sub(self.written)).unwrap_or(bytes);
        self.written += bytes.len();
        out.write_all(bytes)
    }
}

/// Bytes that profiles may inflate to while they are looked through: what inflates costs the processor, however little of it was on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inflatable {
    /// Of one of them.
    one: u64,
    /// Of all that are still to come.
    left: u64,
}

impl Inflatable {
    /// One may take half of it.
    pub fn new(all: ByteSize) -> Inflatable {
        Inflatable { one: all.0 / 2, left: all.0 }
    }
}

/// What a complete body told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// Of a profile.
    pub summary: Option<Summary>,
}

/// Why a complete body is not what it should be, in words. What a profile inflates to is taken off `inflatable`. Blocks on the disk; constant
/// memory.
pub(super) fn judge(files: &Files, name: &str, body: Body, inflatable: &mut Inflatable) -> Result<Judged, String> {
    let unreadable = |e: io::Error| format!("the file just written cannot be read: {e}");
    let mut head = Vec::new();
    files.read(name).map_err(unreadable)?.take(512).read_to_end(&mut head).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&head);
    let html = text.trim_start().starts_with('<');
    let refused = |what: &str| Err(format!("the answer is {what}: is `pprof` the address of Go's /debug/pprof handlers?"));
    match body {
        _ if html => refused("an HTML or XML page"),
        Body::Profile => {
            let (share, left) = (inflatable.one.min(inflatable.left), inflatable.left);
            let mut rest = share;
            let checked = validate::check_within(files.read(name).map_err(unreadable)?, &mut rest);
            inflatable.left -= share - rest;
            match checked {
                Ok(summary) => Ok(Judged { summary: Some(summary) }),
                Err(DecodeError::TooLarge { .. }) if left < inflatable.one => {
                    let left = ByteSize(left);
                    Err(format!("the answer inflates to more than {left}, which is what is left for all profiles of this capture"))
                }
                Err(e) => Err(format!("the answer is no complete profile: {e}")),
            }
        }
        Body::MemStats if !head.starts_with(MEMSTATS) => refused("no heap profile in text form with its runtime.MemStats"),
        Body::GoroutineText if !head.starts_with(b"goroutine ") => refused("no text of goroutine stacks"),
        Body::Trace if !head.starts_with(b"go 1.") => refused("no Go execution trace"),
        _ => Ok(Judged::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut filter = MemStats::default();
        let mut out = Vec::new();
        chunks.iter().for_each(|chunk| filter.write(chunk, &mut out).unwrap());
        (out, filter.found)
    }

    #[test]
    fn only_the_memstats_part_is_kept_however_it_is_cut() {
        let text = b"heap profile: 1: 2 [3: 4]\n#\t0x1\tx # runtime.MemStats.not\n\n# runtime.MemStats\n# Alloc = 5\n";
        for cut in 0..text.len() {
            let (out, found) = filtered(&[&text[..cut], &text[cut..]]);
            assert!(found);
            assert_eq!(out, b"# runtime.MemStats\n# Alloc = 5\n", "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(filtered(&bytes).0, b"# runtime.MemStats\n# Alloc = 5\n");
    }

    #[test]
    fn an_endless_memstats_part_is_cut() {
        let (out, _) = filtered(&[MEMSTATS, &[b'x'; 200_000]]);
        assert_eq!(out.len(), MAX_MEMSTATS);
    }

    #[test]
    fn a_body_without_memstats_shows_its_beginning_instead() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path());
        let mut sink = Sink::new(files.clone(), "memstats.txt", Body::MemStats);
        sink.write(b"something else").unwrap();
        assert_eq!(sink.finish().unwrap().unwrap().bytes, 14);
        assert!(judge(&files, "memstats.txt", Body::MemStats, &mut Inflatable::new(ByteSize(0))).unwrap_err().contains("MemStats"));
    }
}
