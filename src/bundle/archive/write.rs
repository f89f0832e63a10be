//! A bundle as one `.tar.gz`: what its manifest lists, and the manifest.
//!
//! Deterministic: the same bundle makes the same bytes (of one version of memtrap), so that an upload can be repeated and
//! compared. Entries are `TARGET/NAME/FILE`: archives unpacked in one directory are a bundle directory again. Every file is
//! compared with the manifest while it is read, so that an archive is whole or is not made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::ArchiveError;
use crate::bundle::{Bundle, Hash, MANIFEST, MAX_MANIFEST};
use crate::disk::Dir;

/// Profiles are gzip already: more effort would only heat the host.
const LEVEL: Compression = Compression::fast();

/// Writes the archive of a bundle to `out`, from the first byte to the last, in constant memory; returns `out`, not flushed.
/// Blocks on the disk.
pub fn write<W: Write>(bundle: &Bundle, out: W) -> Result<W, ArchiveError> {
    let mtime = humantime::parse_rfc3339(&bundle.manifest.finished).ok();
    let mtime = mtime.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    let mut files: Vec<(&str, Option<(u64, &str)>)> = vec![(MANIFEST, None)];
    let listed = bundle.manifest.files.iter().filter(|f| f.name != MANIFEST);
    files.extend(listed.filter_map(|f| Some((f.name.as_str(), Some((f.bytes, f.sha256.as_deref()?))))));
    files.sort();
    files.dedup_by(|a, b| a.0 == b.0);

    // one and the same directory, whatever happens to its name meanwhile
    let opened = bundle.dir().map_err(|e| unreadable(&bundle.id, MANIFEST, e))?;
    let mut tar = Builder::new(GzEncoder::new(out, LEVEL));
    let mut made = "";
    directory(&mut tar, &bundle.id, mtime)?;
    for (name, sum) in files {
        let source = Source::open(&bundle.id, &opened, name, sum)?;
        if let Some((dir, _)) = name.rsplit_once('/')
            && dir != made
        {
            directory(&mut tar, &format!("{}/{dir}", bundle.id), mtime)?;
            made = dir;
        }
        source.append(&mut tar, mtime)?;
    }
    tar.into_inner().and_then(GzEncoder::finish).map_err(ArchiveError::Write)
}

fn directory<W: Write>(tar: &mut Builder<W>, path: &str, mtime: u64) -> Result<(), ArchiveError> {
    let mut header = header(EntryType::Directory, 0o700, 0, mtime);
    tar.append_data(&mut header, format!("{path}/"), io::empty()).map_err(ArchiveError::Write)
}

/// A file of the bundle, on its way into the archive.
struct Source<'b> {
    id: &'b str,
    name: &'b str,
    sha256: Option<&'b str>,
    bytes: u64,
    file: File,
}

impl<'b> Source<'b> {
    fn open(id: &'b str, dir: &Dir, name: &'b str, listed: Option<(u64, &'b str)>) -> Result<Source<'b>, ArchiveError> {
        let file = dir.file(name).map_err(|e| unreadable(id, name, e))?;
        let bytes = file.metadata().map_err(|e| unreadable(id, name, e))?.len();
        if listed.map_or(bytes > MAX_MANIFEST, |(listed, _)| listed != bytes) {
            return Err(damaged(id, name, "has another size than the manifest lists"));
        }
        Ok(Source { id, name, sha256: listed.map(|(_, sha256)| sha256), bytes, file })
    }

    fn append<W: Write>(self, tar: &mut Builder<W>, mtime: u64) -> Result<(), ArchiveError> {
        let Source { id, name, bytes, .. } = self;
        let mut header = header(EntryType::Regular, 0o600, bytes, mtime);
        let mut reader = Checked { source: self.file.take(bytes), hash: Hash::default(), failed: None };
        let appended = tar.append_data(&mut header, format!("{id}/{name}"), &mut reader);
        if let Some(error) = reader.failed {
            return Err(unreadable(id, name, error));
        }
        appended.map_err(ArchiveError::Write)?;
        let read = reader.hash.finish();
        if read.bytes != bytes {
            return Err(damaged(id, name, "became shorter while it was read"));
        }
        match self.sha256 {
            Some(listed) if listed != read.sha256 => Err(damaged(id, name, "is not what the manifest lists: its SHA-256 differs")),
            _ => Ok(()),
        }
    }
}

fn damaged(id: &str, name: &str, how: &'static str) -> ArchiveError {
    ArchiveError::Damaged { id: id.into(), name: crate::text::one_line(name, 200), how }
}

fn unreadable(id: &str, name: &str, source: io::Error) -> ArchiveError {
    match source.kind() {
        io::ErrorKind::NotFound => damaged(id, name, "is missing"),
        io::ErrorKind::InvalidInput => damaged(id, name, "is no file of a bundle"),
        _ => ArchiveError::Read { id: id.into(), name: crate::text::one_line(name, 200), source },
    }
}

fn header(kind: EntryType, mode: u32, bytes: u64, mtime: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(mtime);
    // whoever unpacks it owns it
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Hashes what is read, and keeps an error of its own apart from one of the archive.
struct Checked<R> {
    source: R,
    hash: Hash,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buf) {
            Ok(n) => {
                self.hash.update(buf.get(..n).unwrap_or_default());
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let told = io::Error::from(e.kind());
                self.failed = Some(e);
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    use flate2::read::MultiGzDecoder;

    use super::*;
    use crate::bundle;
    use crate::bundle::tests::publish_with;

    fn a_bundle(dir: &Path) -> Bundle {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_616);
        let published = publish_with(dir, "checkout", at, &[("heap.pb.gz", b"profile"), ("proc/status", b"VmRSS: 1 kB")]);
        bundle::open(dir, &published.id).unwrap()
    }

    fn entries(archive: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
        let mut tar = tar::Archive::new(MultiGzDecoder::new(archive));
        let read = |e: io::Result<tar::Entry<'_, _>>| {
            let mut entry: tar::Entry<'_, MultiGzDecoder<&[u8]>> = e.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.mtime().unwrap(), content)
        };
        tar.entries().unwrap().map(read).collect()
    }

    #[test]
    fn an_archive_holds_what_the_manifest_lists_and_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = a_bundle(dir.path());
        fs::write(bundle.path.join("core.dump"), "not listed").unwrap();
        let archive = write(&bundle, Vec::new()).unwrap();
        let found = entries(&archive);
        let root = format!("{}/", bundle.id);
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.strip_prefix(&root).unwrap()).collect();
        assert_eq!(names, ["", "README.md", "heap.pb.gz", "manifest.json", "proc/", "proc/status"]);
        for (name, mode, mtime, content) in &found {
            assert_eq!((*mode, *mtime), (if name.ends_with('/') { 0o700 } else { 0o600 }, 1_795_421_616), "{name}");
            if !name.ends_with('/') {
                assert_eq!(*content, fs::read(dir.path().join(name)).unwrap(), "{name}");
            }
        }
    }

    #[test]
    fn the_same_bundle_makes_the_same_bytes_wherever_it_lies() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bundle = a_bundle(one.path());
        let archive = write(&bundle, Vec::new()).unwrap();
        tar::Archive::new(MultiGzDecoder::new(&archive[..])).unpack(other.path()).unwrap();
        let unpacked = bundle::open(other.path(), &bundle.id).unwrap();
        assert_eq!(bundle::verify(&unpacked.path).unwrap().problems, []);
        assert_eq!(write(&unpacked, Vec::new()).unwrap(), archive);
    }

    #[test]
    fn a_damaged_bundle_makes_no_archive() {
        type Damage = fn(&Path);
        let cases: [(Damage, &str); 5] = [
            (|b| fs::remove_file(b.join("heap.pb.gz")).unwrap(), "heap.pb.gz is missing"),
            (|b| fs::write(b.join("heap.pb.gz"), "longer than it was").unwrap(), "heap.pb.gz has another size"),
            (|b| fs::write(b.join("heap.pb.gz"), "PROFILE").unwrap(), "heap.pb.gz is not what the manifest lists"),
            (
                |b| {
                    fs::remove_file(b.join("heap.pb.gz")).unwrap();
                    symlink("/etc/hostname", b.join("heap.pb.gz")).unwrap();
                },
                "heap.pb.gz",
            ),
            (
                |b| {
                    fs::remove_file(b.join("heap.pb.gz")).unwrap();
                    fs::create_dir(b.join("heap.pb.gz")).unwrap();
                },
                "heap.pb.gz is no file of a bundle",
            ),
        ];
        for (damage, what) in cases {
            let dir = tempfile::tempdir().unwrap();
            let bundle = a_bundle(dir.path());
            damage(&bundle.path);
            let error = write(&bundle, Vec::new()).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    #[test]
    fn a_manifest_that_names_files_elsewhere_makes_no_archive() {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = a_bundle(dir.path());
        for name in ["../../secret", "/etc/hostname"] {
            bundle.manifest.files[0] = bundle::FileEntry { sha256: Some(String::new()), ..bundle::FileEntry::skipped("x", name, "") };
            let error = write(&bundle, Vec::new()).unwrap_err().to_string();
            assert!(error.contains("is no file of a bundle"), "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_told_as_the_archives_not_the_bundles() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(write(&a_bundle(dir.path()), Full), Err(ArchiveError::Write(_))));
    }
}
