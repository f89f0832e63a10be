//! `memory.high` of one cgroup: the only file of a cgroup that memtrap writes, and the only place that does.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat};

/// The one name that is ever opened for writing.
pub const FILE: &str = "memory.high";
/// `CGROUP2_SUPER_MAGIC` of the kernel's `magic.h`.
const CGROUP_V2: rustix::fs::FsWord = 0x6367_7270;
const NUMBER: usize = 32;

/// Open for writing, in a directory that is held: whatever takes its name, this one is meant.
#[derive(Debug)]
pub struct HighFile {
    dir: OwnedFd,
    file: OwnedFd,
    inode: u64,
}

impl HighFile {
    /// A directory of the kernel's, which a container's view may not be.
    pub fn open(dir: &Path) -> io::Result<HighFile> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir, how, Mode::empty())?;
        // in tests, a directory of ordinary files stands for a cgroup
        if !cfg!(test) && fstatfs(&dir)?.f_type != CGROUP_V2 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no directory of cgroup v2"));
        }
        let file = openat(&dir, FILE, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let inode = fstat(&dir)?.st_ino;
        Ok(HighFile { dir, file, inode })
    }

    /// Of the directory: with the boot, what tells a cgroup from one that was made anew.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The text that stands there, without its line break.
    pub fn read(&self) -> io::Result<String> {
        number_of(&self.file)
    }

    /// What the cgroup uses, bytes.
    pub fn usage(&self) -> io::Result<u64> {
        let file = openat(&self.dir, "memory.current", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let text = number_of(&file)?;
        text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("memory.current is {text:?}")))
    }

    /// Lowers it; false if something else stands there afterwards, or stood there that is lower.
    pub fn lower_to(&self, bytes: u64) -> io::Result<bool> {
        if self.read()?.parse::<u64>().is_ok_and(|high| high <= bytes) {
            return Ok(false);
        }
        self.write(&bytes.to_string())?;
        Ok(self.read()? == bytes.to_string())
    }

    /// Writes the text that stood there before, if what stands there is still ours. False if it is not.
    pub fn put_back(&self, ours: u64, before: &str) -> io::Result<bool> {
        if self.read()? != ours.to_string() {
            return Ok(false);
        }
        self.write(before)?;
        Ok(true)
    }

    /// Writes what stands there: whether it may be written.
    fn touch(&self) -> io::Result<()> {
        self.write(&self.read()?)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // in tests, what is longer must not be left over
        if cfg!(test) {
            rustix::fs::ftruncate(&self.file, 0)?;
        }
        match rustix::io::pwrite(&self.file, text.as_bytes(), 0)? {
            n if n == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

fn number_of(file: &OwnedFd) -> io::Result<String> {
    let mut text = [0u8; NUMBER];
    let n = rustix::io::pread(file, &mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..n).unwrap_or_default()).trim().to_owned())
}

/// Whether the cgroup could be held now: opens its `memory.high`, and writes the value that stands there.
pub fn probe(dir: &Path) -> io::Result<()> {
    HighFile::open(dir)?.touch()
}
