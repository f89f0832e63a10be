//! The files of a bundle that is being written: private modes, and sums that are known when the last byte is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use rustix::fs::FileType;

use crate::aside::may_block;
use crate::disk::Dir;

/// Far more than any bundle holds.
const MOST_FILES: usize = 4096;
/// What is kept of a body that turned out to be something else, in bytes.
pub const MAX_REJECTED: u64 = 64 << 10;

/// Size and SHA-256 of a finished file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    pub bytes: u64,
    pub sha256: String,
}

/// Makes files in one bundle directory. Cheap to clone and to hand to a blocking thread.
#[derive(Clone, Debug)]
pub struct Files {
    dir: Arc<Dir>,
}

/// A file that counts and hashes what is written to it.
#[derive(Debug)]
pub struct BundleFile {
    file: File,
    hash: Hash,
}

/// Counts and hashes bytes.
pub struct Hash {
    context: Context,
    bytes: u64,
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hash of {} bytes", self.bytes)
    }
}

impl Default for Hash {
    fn default() -> Hash {
        Hash { context: Context::new(&SHA256), bytes: 0 }
    }
}

impl Hash {
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    pub fn finish(self) -> Sum {
        let sha256 = crate::digest::hex(self.context.finish().as_ref());
        Sum { bytes: self.bytes, sha256 }
    }
}

impl Write for BundleFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        may_block();
        let n = self.file.write(buf)?;
        self.hash.update(buf.get(..n).unwrap_or(buf));
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BundleFile {
    pub fn bytes(&self) -> u64 {
        self.hash.bytes
    }

    /// The sum of all that was written. Nothing is synced yet: publishing does that for all files at once.
    pub fn finish(self) -> Sum {
        self.hash.finish()
    }
}

impl Files {
    pub(super) fn of(dir: Dir) -> Files {
        Files { dir: Arc::new(dir) }
    }

    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Files {
        Files::of(Dir::open(path).unwrap())
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Creates `name` anew, and the directory that it names. `name` is relative, without `..`. What was of that name is gone, also for who
    /// still writes it.
    pub fn create(&self, name: &str) -> io::Result<BundleFile> {
        if let Some(parent) = Path::new(name).parent().filter(|parent| !parent.as_os_str().is_empty()) {
            match self.dir.make_dir(parent) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.dir.clear(name)?;
        Ok(BundleFile { file: self.dir.create(name)?, hash: Hash::default() })
    }

    /// Writes a whole small file.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<Sum> {
        let mut file = self.create(name)?;
        file.write_all(content)?;
        Ok(file.finish())
    }

    pub fn read(&self, name: &str) -> io::Result<File> {
        self.dir.file(name)
    }

    /// Turns `name` into `name.rejected`: its beginning, as `clean` leaves it, cut to [`MAX_REJECTED`].
    pub fn reject(&self, name: &str, clean: impl FnOnce(Vec<u8>) -> Vec<u8>) -> io::Result<(String, Sum)> {
        let rejected = format!("{name}.rejected");
        let mut head = Vec::new();
        // some more than is kept, so that what `clean` looks for is not cut in two
        self.read(name)?.take(MAX_REJECTED + (4 << 10)).read_to_end(&mut head)?;
        let mut head = clean(head);
        head.truncate(MAX_REJECTED as usize);
        let sum = self.write(&rejected, &head)?;
        self.remove(name)?;
        Ok((rejected, sum))
    }

    /// Removes `name`, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.clear(name)
    }
}

/// Reads so many bytes of a file once; constant memory. A sum of fewer bytes: it has no more.
pub(super) fn sum(file: File, bytes: u64) -> io::Result<Sum> {
    let mut file = file.take(bytes);
    let mut hash = Hash::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finish()),
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Regular files below `dir`, as relative names, sorted: two levels, at most 4096. Links and devices are no part of a bundle.
pub(super) fn walk(dir: &Dir) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in dir.entries(MOST_FILES)? {
        let Ok(name) = entry.name.into_string() else { continue };
        match entry.kind {
            FileType::RegularFile => names.push(name),
            FileType::Directory => {
                let files = dir.dir(&name)?.entries(MOST_FILES)?.into_iter().filter(|entry| entry.kind == FileType::RegularFile);
                names.extend(files.filter_map(|entry| Some(format!("{name}/{}", entry.name.to_str()?))));
            }
            _ => {}
        }
        if names.len() > MOST_FILES {
            break;
        }
    }
    names.sort();
    names.truncate(MOST_FILES);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_knows_its_sum_when_the_last_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path());
        let sum = files.write("proc/status", b"abc").unwrap();
        assert_eq!(sum.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(super::sum(files.read("proc/status").unwrap(), 100).unwrap(), sum);
    }

    #[test]
    fn no_name_leads_out_of_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path());
        for name in ["../x", "/etc/x", "", "a/../../x", "."] {
            assert!(files.create(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_rejected_body_is_kept_only_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path());
        files.write("heap.pb.gz", &vec![7; 100_000]).unwrap();
        let (name, sum) = files.reject("heap.pb.gz", |bytes| bytes).unwrap();
        assert_eq!((name.as_str(), sum.bytes), ("heap.pb.gz.rejected", MAX_REJECTED));
        assert_eq!(walk(files.dir()).unwrap(), ["heap.pb.gz.rejected"]);
    }
}
