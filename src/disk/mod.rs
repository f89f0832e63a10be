//! Files where someone else may have put something.
//!
//! A [`Dir`] is held open, and whatever is opened from it lies below it: no symbolic link is followed on the way, no FIFO or device is waited
//! for, and only regular files are read. What is made is made anew, and takes the place of what was there in one rename. [`trust`] tells who
//! else could change a directory. Not here: what the files mean.

pub(crate) mod trust;

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::aside::may_block;

/// Names below a directory have one or two parts; whoever writes a manifest may write others.
const MOST_PARTS: usize = 16;
/// A bundle has two levels.
const DEEPEST: usize = 16;
/// Entries that are removed before the directory is looked at again.
const BATCH: usize = 4096;
const MOST_BATCHES: usize = 4096;
const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// To go on from: needs no right to list what is in it.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);
const PRIVATE_DIR: Mode = Mode::from_raw_mode(0o700);

/// A directory, held open. All names are relative to it, without `..`; an error of kind `InvalidInput` means that a name leads elsewhere, over a
/// link, or to what is no regular file.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
}

/// Something in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: OsString,
    pub kind: FileType,
}

impl Dir {
    /// Links in `path` are followed: it is what the operator wrote.
    pub fn open(path: &Path) -> io::Result<Dir> {
        may_block();
        Ok(Dir { fd: rustix::fs::openat(CWD, path, HANDLE, Mode::empty())? })
    }

    /// The same; makes it, and those above it, if they are not there (0700).
    pub fn make(path: &Path) -> io::Result<Dir> {
        DirBuilder::new().recursive(true).mode(PRIVATE_DIR.as_raw_mode()).create(path)?;
        Dir::open(path)
    }

    /// Another handle of this one.
    pub fn again(&self) -> io::Result<Dir> {
        Ok(Dir { fd: self.fd.try_clone()? })
    }

    /// A directory below this one.
    pub fn dir(&self, name: impl AsRef<Path>) -> io::Result<Dir> {
        Ok(Dir { fd: self.at(name.as_ref(), HANDLE, Mode::empty())? })
    }

    /// Opens a regular file below this directory for reading.
    pub fn file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        regular(self.at(name.as_ref(), OFlags::RDONLY, Mode::empty())?)
    }

    /// The same of memtrap's own files: what belongs to neither its user nor root was put there by someone else.
    pub fn own_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        own(self.file(name)?)
    }

    pub fn has_file(&self, name: impl AsRef<Path>) -> bool {
        self.file(name).is_ok()
    }

    /// Makes a file (0600) that was not there.
    pub fn create(&self, name: impl AsRef<Path>) -> io::Result<File> {
        regular(self.at(name.as_ref(), OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, PRIVATE_FILE)?)
    }

    /// The file of this name for locking it; made if it is not there.
    pub fn lock_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        own(regular(self.at(name.as_ref(), OFlags::RDWR | OFlags::CREATE, PRIVATE_FILE)?)?)
    }

    /// Makes a directory (0700) that was not there.
    pub fn make_dir(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let (within, last) = self.place(name.as_ref())?;
        Ok(rustix::fs::mkdirat(within.as_ref().unwrap_or(self), last, PRIVATE_DIR)?)
    }

    /// Removes a file, a link, a FIFO: anything but a directory.
    pub fn remove_file(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let (within, last) = self.place(name.as_ref())?;
        Ok(rustix::fs::unlinkat(within.as_ref().unwrap_or(self), last, AtFlags::empty())?)
    }

    /// The same, if it is there.
    pub fn clear(&self, name: impl AsRef<Path>) -> io::Result<()> {
        match self.remove_file(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: impl AsRef<Path>) -> io::Result<()> {
        let (within, last) = self.place(name.as_ref())?;
        Ok(rustix::fs::unlinkat(within.as_ref().unwrap_or(self), last, AtFlags::REMOVEDIR)?)
    }

    /// Removes a directory with all that is in it. One that is deeper than anything that memtrap makes stays in part, with an error.
    pub fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        self.remove_levels(single(name)?, DEEPEST)
    }

    fn remove_levels(&self, name: &OsStr, levels: usize) -> io::Result<()> {
        let Some(levels) = levels.checked_sub(1) else { return Err(io::Error::other("it is too deep to be memtrap's")) };
        let dir = self.dir(name)?;
        // in parts, and not for ever against someone who fills it meanwhile
        for _ in 0..MOST_BATCHES {
            let entries = dir.entries(BATCH)?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                match entry.kind {
                    FileType::Directory => dir.remove_levels(&entry.name, levels)?,
                    _ => dir.clear(&entry.name)?,
                }
            }
        }
        self.remove_dir(name)
    }

    /// Gives what is in this directory another name in it, in the place of a file of that name.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(self, single(from)?, self, single(to)?)?)
    }

    /// The same, with a name that is not taken.
    pub fn rename_new(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(self, single(from)?, self, single(to)?, RenameFlags::NOREPLACE) {
            // some network file systems know no flags
            Err(Errno::INVAL | Errno::NOSYS) if self.stat_of(to).is_err() => self.rename(from, to),
            done => Ok(done?),
        }
    }

    /// Writes a file anew and puts it, synced, in the place of the one of that name: after a crash one of the two is there, whole.
    pub fn replace(&self, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let fresh = format!("{name}.new");
        // what a killed one left, or a link that someone has put there: removed, and never written through
        self.clear(&fresh)?;
        let mut file = self.create(&fresh)?;
        write(&mut file)?;
        file.sync_all()?;
        self.rename(fresh.as_ref(), name.as_ref())?;
        self.sync()
    }

    /// What is in it, in no order, at most `most` of it.
    pub fn entries(&self, most: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::new(self.readable()?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() >= most {
                break;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.stat_of(name).map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                kind => kind,
            };
            entries.push(Entry { name: name.to_owned(), kind });
        }
        Ok(entries)
    }

    /// Directories in it, by name, at most `most` of what is looked at; names that are no text are passed over.
    pub fn subdirectories(&self, most: usize) -> io::Result<Vec<String>> {
        let dirs = self.entries(most)?.into_iter().filter(|entry| entry.kind == FileType::Directory);
        let mut names: Vec<String> = dirs.filter_map(|entry| entry.name.into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    pub fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self)?)
    }

    /// Of what has this name in it; a link's own.
    pub fn stat_of(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(rustix::fs::statat(self, single(name)?, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes what was made, renamed and removed in it outlive the host's crash.
    pub fn sync(&self) -> io::Result<()> {
        self.readable()?.sync_all()
    }

    /// The directory itself, for listing, locking and syncing.
    pub fn readable(&self) -> io::Result<File> {
        Ok(rustix::fs::openat(self, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Where a name is made or removed: its directory (`None`: this one) and its last part.
    fn place<'n>(&self, name: &'n Path) -> io::Result<(Option<Dir>, &'n OsStr)> {
        let last = parts(name)?.last().copied().unwrap_or_default();
        let within = name.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok((within.map(|parent| self.dir(parent)).transpose()?, last))
    }

    fn at(&self, name: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        may_block();
        let parts = parts(name)?;
        let flags = flags | OFlags::CLOEXEC;
        // what is there must not make the open wait, nor become this process's terminal
        let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NONBLOCK | OFlags::NOCTTY };
        match rustix::fs::openat2(self, name, flags, mode, BELOW) {
            // an old kernel, a filter of system calls, a rename elsewhere at this moment
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => by_steps(self.fd.as_fd(), &parts, flags, mode),
            Err(Errno::LOOP) => Err(over_a_link()),
            opened => Ok(opened?),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a file to read, by whatever path: what is there must not make the open wait, as a FIFO would.
pub(crate) fn open_at_once(path: &Path) -> io::Result<File> {
    may_block();
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

/// What [`ResolveFlags::NO_SYMLINKS`] does, one part after the other.
fn by_steps(from: BorrowedFd<'_>, parts: &[&OsStr], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let Some((last, above)) = parts.split_last() else { return Err(elsewhere()) };
    let mut at: Option<OwnedFd> = None;
    let step = |at: &Option<OwnedFd>, part: &OsStr, flags, mode| {
        let at = at.as_ref().map_or(from, AsFd::as_fd);
        rustix::fs::openat(at, part, flags | OFlags::NOFOLLOW, mode).map_err(|error| {
            // told as ENOTDIR where a directory is wanted
            let link =
                rustix::fs::statat(at, part, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink());
            if matches!(error, Errno::LOOP | Errno::NOTDIR) && link == Ok(true) { over_a_link() } else { error.into() }
        })
    };
    for part in above {
        at = Some(step(&at, part, HANDLE, Mode::empty())?);
    }
    step(&at, last, flags, mode)
}

/// Whether a name leads down and nowhere else.
pub(crate) fn is_below(name: &str) -> bool {
    parts(Path::new(name)).is_ok()
}

/// The parts of a name that leads down and nowhere else.
fn parts(name: &Path) -> io::Result<Vec<&OsStr>> {
    let part = |component| match component {
        Component::Normal(part) => Ok(part),
        _ => Err(elsewhere()),
    };
    let parts: Vec<&OsStr> = name.components().take(MOST_PARTS + 1).map(part).collect::<io::Result<_>>()?;
    if parts.is_empty() || parts.len() > MOST_PARTS { Err(elsewhere()) } else { Ok(parts) }
}

fn single(name: &OsStr) -> io::Result<&OsStr> {
    match parts(Path::new(name))?.as_slice() {
        [one] => Ok(one),
        _ => Err(elsewhere()),
    }
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode).is_file() {
        Ok(fd.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}

fn own(file: File) -> io::Result<File> {
    let uid = rustix::fs::fstat(&file)?.st_uid;
    if trust::User::own().is_or_root(uid) {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to user {uid}, and not to memtrap's")))
    }
}

fn elsewhere() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a plain relative path")
}

fn over_a_link() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is, or lies behind, a symbolic link, which is not followed here")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory with a secret beside it, and links in it that lead there.
    fn with_links() -> (tempfile::TempDir, Dir) {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for dir in ["bundle/proc", "elsewhere"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for (file, text) in [("elsewhere/status", "secret"), ("bundle/proc/status", "own")] {
            fs::write(at(file), text).unwrap();
        }
        symlink(at("elsewhere"), at("bundle/absolute")).unwrap();
        symlink("../elsewhere", at("bundle/relative")).unwrap();
        symlink("../elsewhere/status", at("bundle/file")).unwrap();
        symlink("proc", at("bundle/inside")).unwrap();
        let dir = Dir::open(&at("bundle")).unwrap();
        (home, dir)
    }

    fn text(file: io::Result<File>) -> String {
        let mut text = String::new();
        file.unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn no_link_is_followed_with_openat2_or_without() {
        let (_home, dir) = with_links();
        let without = |name: &str| by_steps(dir.as_fd(), &parts(Path::new(name))?, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        assert_eq!(text(dir.file("proc/status")), "own");
        assert_eq!(text(without("proc/status").map(File::from)), "own");
        for name in ["absolute/status", "relative/status", "inside/status", "file", "relative"] {
            for opened in [dir.file(name).map(drop), without(name).map(drop)] {
                let error = opened.unwrap_err();
                assert!(error.kind() == io::ErrorKind::InvalidInput && error.to_string().contains("symbolic link"), "{name}: {error}");
            }
        }
        assert!(dir.dir("relative").is_err() && dir.create("relative/new").is_err() && dir.remove_file("relative/status").is_err());
        assert!(dir.make_dir("absolute/new").is_err());
    }

    #[test]
    fn no_name_leads_up_or_out() {
        let (_home, dir) = with_links();
        for name in ["../elsewhere/status", "/etc/hostname", "", ".", "proc/../proc/status", &"a/".repeat(40), "proc/status\0"] {
            assert_eq!(dir.file(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
            assert_eq!(dir.create(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(dir.rename("proc".as_ref(), "../proc".as_ref()).is_err());
    }

    #[test]
    fn a_fifo_a_directory_and_a_socket_are_no_files_and_nobody_waits_for_them() {
        let (home, dir) = with_links();
        rustix::fs::mknodat(&dir, "fifo", FileType::Fifo, PRIVATE_FILE, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(home.path().join("bundle/socket")).unwrap();
        for name in ["fifo", "proc", "socket"] {
            assert!(dir.file(name).is_err(), "{name}");
            assert!(dir.lock_file(name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_made_is_private_and_never_what_was_there() {
        let (home, dir) = with_links();
        dir.create("proc/new").unwrap().write_all(b"x").unwrap();
        dir.make_dir("made").unwrap();
        let mode = |name: &str| fs::metadata(home.path().join("bundle").join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("proc/new"), mode("made")), (0o600, 0o700));
        for name in ["proc/new", "file", "relative"] {
            assert_eq!(dir.create(name).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(text(File::open(home.path().join("elsewhere/status"))), "secret");
    }

    #[test]
    fn a_planted_link_is_replaced_and_not_written_through() {
        let (home, dir) = with_links();
        let planted = home.path().join("bundle");
        symlink("../elsewhere/status", planted.join("state.json")).unwrap();
        symlink("../elsewhere/status", planted.join("state.json.new")).unwrap();
        dir.replace("state.json", |file| file.write_all(b"state")).unwrap();
        assert_eq!(text(dir.file("state.json")), "state");
        assert_eq!(text(File::open(home.path().join("elsewhere/status"))), "secret");
    }

    #[test]
    fn a_directory_that_was_moved_away_is_still_the_one_that_was_opened() {
        let (home, dir) = with_links();
        let bundle = home.path().join("bundle");
        fs::rename(&bundle, home.path().join("aside")).unwrap();
        symlink("elsewhere", &bundle).unwrap();
        assert_eq!(text(dir.file("proc/status")), "own");
        assert!(!dir.has_file("status"));
    }

    #[test]
    fn a_tree_is_removed_with_its_links_and_without_what_they_lead_to() {
        let (home, dir) = with_links();
        let bundles = Dir::open(home.path()).unwrap();
        bundles.remove_tree("bundle".as_ref()).unwrap();
        assert_eq!(bundles.subdirectories(10).unwrap(), ["elsewhere"]);
        assert_eq!(text(bundles.file("elsewhere/status")), "secret");
        drop(dir);
        let deep = "d/".repeat(DEEPEST + 1);
        fs::create_dir_all(home.path().join(&deep)).unwrap();
        assert!(bundles.remove_tree("d".as_ref()).unwrap_err().to_string().contains("too deep"));
    }

    #[test]
    fn a_rename_takes_no_place_that_is_taken() {
        let (_home, dir) = with_links();
        let taken = dir.rename_new("proc".as_ref(), "inside".as_ref()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        dir.rename_new("proc".as_ref(), "free".as_ref()).unwrap();
        assert_eq!(dir.subdirectories(100).unwrap(), ["free"], "links are none");
        assert_eq!(dir.entries(2).unwrap().len(), 2);
    }
}
