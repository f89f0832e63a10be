//! What is held, in `state_dir/brakes`: written and synced before the cgroup is touched, so that whatever becomes of memtrap and its guard, the next start puts it back.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::high::{FILE, HighFile};
use crate::disk::Dir;
use crate::error::chain;

pub const SCHEMA: u32 = 1;
const DIR: &str = "brakes";
/// More than were ever held at once.
const MOST: usize = 1_000;
const MAX_BYTES: u64 = 64 << 10;

/// One cgroup that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub schema: u32,
    pub cgroup: String,
    pub dir: PathBuf,
    /// Of the directory.
    pub inode: u64,
    pub boot_id: String,
    pub file: String,
    /// The text that is put back.
    pub before: String,
    /// What memtrap has written, bytes.
    pub new: u64,
    /// After this the guard has let go. RFC 3339.
    pub until: String,
    pub incident: String,
}

#[derive(Debug)]
pub struct Journal(Dir);

/// Of this state directory.
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join(DIR)
}

impl Journal {
    pub fn open(dir: &Path) -> io::Result<Journal> {
        Dir::make(dir).map(Journal)
    }

    /// On the disk when this returns; what it is called.
    pub fn note(&self, entry: &Entry) -> io::Result<String> {
        let name = format!("{}-{}.json", entry.inode, entry.new);
        let text = serde_json::to_vec(entry)?;
        self.0.replace(&name, |file| file.write_all(&text))?;
        self.0.sync()?;
        Ok(name)
    }

    /// What is left over is looked at, and found to be nobody's, at the next start.
    pub fn close(&self, name: &str) {
        if let Err(error) = self.0.remove_file(name).and_then(|()| self.0.sync()) {
            tracing::warn!(name, %error, "an entry of the journal of brakes could not be removed");
        }
    }

    fn read(&self, name: &str) -> io::Result<Entry> {
        let mut text = Vec::new();
        self.0.file(name)?.take(MAX_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// What became of an entry that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    PutBack,
    /// Of another boot, of a cgroup that is gone or was made anew, or set otherwise since.
    Nobodys,
}

/// Resolves what an earlier memtrap has left held: how many were put back. Blocks.
pub fn settle(dir: &Path, boot_id: &str) -> io::Result<usize> {
    if !dir.exists() {
        return Ok(0);
    }
    let journal = Journal::open(dir)?;
    let mut put_back = 0;
    for entry in journal.0.entries(MOST)? {
        let name = entry.name.to_string_lossy().into_owned();
        match journal.read(&name).and_then(|entry| Ok((settle_one(&entry, boot_id)?, entry.cgroup))) {
            Ok((settled, cgroup)) => {
                if settled == Settled::PutBack {
                    put_back += 1;
                    tracing::warn!(cgroup, "memory.high that an earlier memtrap had set is put back");
                }
                journal.close(&name);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                tracing::warn!(name, %error, "an entry of the journal of brakes cannot be understood, and is dropped");
                journal.close(&name);
            }
            Err(error) => tracing::error!(name, error = chain(&error), "what an earlier memtrap has held cannot be put back"),
        }
    }
    Ok(put_back)
}

fn settle_one(entry: &Entry, boot_id: &str) -> io::Result<Settled> {
    if entry.boot_id != boot_id || entry.file != FILE || entry.schema != SCHEMA {
        return Ok(Settled::Nobodys);
    }
    let file = match HighFile::open(&entry.dir) {
        Ok(file) => file,
        Err(e) if super::is_gone(&e) => return Ok(Settled::Nobodys),
        Err(e) => return Err(e),
    };
    if file.inode() != entry.inode {
        return Ok(Settled::Nobodys);
    }
    match file.put_back(entry.new, &entry.before) {
        Ok(true) => Ok(Settled::PutBack),
        Ok(false) => Ok(Settled::Nobodys),
        Err(e) if super::is_gone(&e) => Ok(Settled::Nobodys),
        Err(e) => Err(e),
    }
}
