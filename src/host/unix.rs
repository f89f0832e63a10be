//! Unix sockets of a process: which it listens on by a path, and connections to them, whatever its root directory is.
//!
//! A path of a process means what it means to that process: links in it are followed below the process's own root, never out of it. What is
//! connected to is the file that was opened, so neither its length nor a rename at that moment matters.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{ProcDir, ProcError};

/// About 500,000 rows.
const MAX_TABLE: u64 = 64 << 20;

/// The paths of those of these socket inodes that listen, sorted.
pub(super) fn listening(dir: &ProcDir, inodes: &BTreeSet<u64>) -> Result<Vec<PathBuf>, ProcError> {
    match dir.open("net/unix") {
        Err(ProcError::Absent { .. }) => Ok(Vec::new()),
        opened => read_table(opened?, inodes).map_err(|e| dir.error("net/unix", e)),
    }
}

fn read_table(table: impl Read, inodes: &BTreeSet<u64>) -> io::Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut table = BufReader::with_capacity(64 << 10, table.take(MAX_TABLE));
    let mut line = Vec::new();
    while table.read_until(b'\n', &mut line)? > 0 {
        found.extend(path_of(&line, inodes));
        line.clear();
    }
    Ok(found.into_iter().collect())
}

/// `ffff…: 00000002 00000000 00010000 0001 01 19873 /run/x.sock`: flags of who listens, and the type of streams. The path is the rest, blanks
/// and all; one that begins with `@` has no file.
fn path_of(line: &[u8], inodes: &BTreeSet<u64>) -> Option<PathBuf> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let slash = line.iter().position(|b| *b == b'/')?;
    let (head, path) = line.split_at_checked(slash)?;
    let words: Vec<&str> = std::str::from_utf8(head).ok()?.split_ascii_whitespace().collect();
    let [_, _, _, "00010000", "0001", _, inode] = words.as_slice() else { return None };
    inode.parse().ok().filter(|inode: &u64| inodes.contains(inode))?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// Connects to the socket at this path of a process. Never waits for who listens: a queue that is full is an error.
pub(super) fn connect_to(dir: &ProcDir, path: &Path) -> io::Result<UnixStream> {
    let root = dir.place("root")?;
    let below = path.strip_prefix("/").unwrap_or(path);
    let file = openat2(&root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket"));
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::super::ProcFs;
    use super::super::fake::FakeHost;
    use super::*;

    #[test]
    fn only_listening_streams_of_these_inodes_with_a_path_are_found() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/b.sock
0000000000000000: 00000002 00000000 00010000 0001 01 12 /run/a b.sock
0000000000000000: 00000003 00000000 00000000 0001 03 13 /run/connected.sock
0000000000000000: 00000002 00000000 00010000 0005 01 14 /run/packets.sock
0000000000000000: 00000002 00000000 00010000 0001 01 15 @/run/abstract
0000000000000000: 00000002 00000000 00010000 0001 01 16 relative.sock
0000000000000000: 00000003 00000000 00000000 0001 03 17
0000000000000000: 00000002 00000000 00010000 0001 01 99 /run/anothers.sock
garbage / \xff
";
        let found = read_table(&table[..], &(11..=17).collect()).unwrap();
        assert_eq!(found, [PathBuf::from("/run/a b.sock"), PathBuf::from("/run/b.sock")]);
    }

    #[test]
    fn a_path_is_below_the_processs_root_however_long_and_whatever_links_lead_there() {
        let root = tempfile::tempdir().unwrap();
        let long = "d".repeat(120);
        let dir = root.path().join("run").join(&long);
        std::fs::create_dir_all(&dir).unwrap();
        // by a short name: a socket's address has 108 bytes
        let short = tempfile::tempdir().unwrap();
        symlink(&dir, short.path().join("x")).unwrap();
        let listener = UnixListener::bind(short.path().join("x/s.sock")).unwrap();
        // absolute in the process's root, as /var/run is
        std::fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        symlink("/etc/passwd", root.path().join("out")).unwrap();
        let host = FakeHost::new();
        host.process(7, "app").link("root", root.path().to_str().unwrap()).write();
        let dir = host.procfs().dir(7).unwrap();
        for path in [format!("/run/{long}/s.sock"), format!("/var/run/{long}/s.sock"), format!("/../../var/run/{long}/s.sock")] {
            let _stream = connect_to(&dir, Path::new(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            listener.accept().unwrap();
        }
        assert_eq!(connect_to(&dir, Path::new("/out")).unwrap_err().kind(), io::ErrorKind::NotFound, "not this host's");
        assert!(connect_to(&dir, Path::new("/run")).unwrap_err().to_string().contains("no socket"));
    }

    #[test]
    fn a_real_socket_of_this_process_is_found_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let procfs = ProcFs::host();
        let own = procfs.dir(std::process::id()).unwrap();
        assert!(super::super::sockets::of_process(&own).unwrap().unix.contains(&path));
        connect_to(&own, &path).unwrap();
    }
}
