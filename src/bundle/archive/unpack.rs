//! An exported bundle, `x.tar.gz`, unpacked where nobody else looks, to be analysed there.
//!
//! Only regular files below plain names are taken, within bounds; links, devices and names that lead elsewhere are not.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};
use tempfile::TempDir;

use super::ArchiveError;
use crate::bundle::MANIFEST;
use crate::units::ByteSize;

/// Of all files together; a bundle is smaller, or its analysis would end anyway.
const MAX_BYTES: u64 = 2 << 30;
const MAX_FILES: usize = 10_000;
/// Of a header of tar, its magic stands at 257.
const HEADER: usize = 512;

/// What was unpacked; gone once this is dropped.
#[derive(Debug)]
pub struct Unpacked {
    pub dir: PathBuf,
    /// What it is called in the archive.
    pub name: PathBuf,
    _all: TempDir,
}

/// Whether this file is a tar, gzipped or not. Reads its first bytes only.
pub fn is_archive(path: &Path) -> bool {
    let head = || -> io::Result<bool> {
        let mut head = Vec::new();
        opened(path)?.take(HEADER as u64).read_to_end(&mut head)?;
        Ok(head.get(257..262) == Some(b"ustar"))
    };
    head().unwrap_or(false)
}

fn opened(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    File::open(path)?.take(2).read_to_end(&mut magic)?;
    let file = io::BufReader::new(File::open(path)?);
    Ok(if magic == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Unpacks an archive below the directory for temporary files. What is taken for the bundle is the first directory that holds a manifest, else
/// the first that holds a file. Blocks on the disk.
pub fn unpack(path: &Path) -> Result<Unpacked, ArchiveError> {
    let failed = |source| ArchiveError::Unpack { path: path.to_owned(), source };
    let all = tempfile::Builder::new().prefix("memtrap-").tempdir().map_err(failed)?;
    let name = unpack_into(path, all.path()).map_err(failed)?;
    Ok(Unpacked { dir: all.path().join(&name), name, _all: all })
}

fn unpack_into(path: &Path, all: &Path) -> io::Result<PathBuf> {
    let mut archive = Archive::new(opened(path)?);
    let (mut bundle, mut first) = (None, None);
    let (mut left, mut files) = (MAX_BYTES, 0);
    for entry in archive.entries()? {
        let entry = entry?;
        let name = entry.path()?.into_owned();
        let is_plain = name.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if entry.header().entry_type() != EntryType::Regular || !is_plain {
            continue;
        }
        files += 1;
        if files > MAX_FILES {
            return Err(io::Error::other(format!("it holds more than {MAX_FILES} files")));
        }
        let dir = name.parent().unwrap_or(Path::new("")).to_owned();
        fs::create_dir_all(all.join(&dir))?;
        let mut file = File::create(all.join(&name))?;
        let copied = io::copy(&mut entry.take(left + 1), &mut file)?;
        left = left.checked_sub(copied).ok_or_else(|| io::Error::other(format!("it holds more than {}", ByteSize(MAX_BYTES))))?;
        if name.file_name().is_some_and(|n| n == MANIFEST) {
            bundle.get_or_insert(dir.clone());
        }
        first.get_or_insert(dir);
    }
    bundle.or(first).ok_or_else(|| io::Error::other("it holds no file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(dir: &Path, entries: &[(&str, EntryType)]) -> PathBuf {
        let path = dir.join("x.tar.gz");
        let gz = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        for (name, kind) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(if *kind == EntryType::Regular { 4 } else { 0 });
            // as a hostile writer would, past all checks
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, &b"{}\n\n"[..if *kind == EntryType::Regular { 4 } else { 0 }]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn a_bundle_in_an_archive_is_found_by_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let file = EntryType::Regular;
        let path = archive(dir.path(), &[("svc/b/baseline/heap.pb.gz", file), ("svc/b/manifest.json", file)]);
        assert!(is_archive(&path));
        let unpacked = unpack(&path).unwrap();
        assert_eq!(unpacked.name, Path::new("svc/b"));
        assert!(unpacked.dir.join("manifest.json").is_file() && unpacked.dir.join("baseline/heap.pb.gz").is_file());
        let gone = unpacked.dir.clone();
        drop(unpacked);
        assert!(!gone.exists());
    }

    #[test]
    fn what_leads_out_of_an_archive_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = EntryType::Regular;
        let path = archive(dir.path(), &[("../outside", file), ("/abs", file), ("a/link", EntryType::Symlink), ("a/manifest.json", file)]);
        let unpacked = unpack(&path).unwrap();
        let names: Vec<_> = fs::read_dir(&unpacked.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!((unpacked.name.as_path(), names), (Path::new("a"), vec!["manifest.json".into()]));
        assert!(!dir.path().join("outside").exists());
        let none = archive(dir.path(), &[("../outside", file)]);
        assert!(matches!(unpack(&none), Err(ArchiveError::Unpack { .. })));
    }

    #[test]
    fn a_profile_is_no_archive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heap.pb.gz");
        fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(!is_archive(&path) && !is_archive(dir.path()) && !is_archive(&dir.path().join("none")));
    }
}
