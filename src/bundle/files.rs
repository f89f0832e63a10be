//! The files of a bundle that is being written: private modes, and sums that are known when the last byte is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};

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
    dir: Arc<PathBuf>,
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
    pub(crate) fn at(dir: PathBuf) -> Files {
        Files { dir: Arc::new(dir) }
    }

    /// Creates `name` anew, and the directory that it names. `name` is relative, without `..`.
    pub fn create(&self, name: &str) -> io::Result<BundleFile> {
        let path = self.path(name)?;
        if let Some(parent) = path.parent()
            && parent != self.dir.as_path()
        {
            match DirBuilder::new().mode(0o700).create(parent) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(BundleFile { file, hash: Hash::default() })
    }

    /// Writes a whole small file.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<Sum> {
        let mut file = self.create(name)?;
        file.write_all(content)?;
        Ok(file.finish())
    }

    pub fn read(&self, name: &str) -> io::Result<File> {
        File::open(self.path(name)?)
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
        match fs::remove_file(self.path(name)?) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        match inside(&self.dir, name) {
            Some(path) => Ok(path),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain relative path")),
        }
    }
}

/// `dir/name`, if that is below `dir`.
pub(super) fn inside(dir: &Path, name: &str) -> Option<PathBuf> {
    let plain = !name.is_empty() && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    plain.then(|| dir.join(name))
}

/// Opens a bundle's file for reading. A symbolic link is not followed, and whatever is there does not make the open wait.
/// `InvalidInput` if the name leads out of the bundle.
pub fn open_file(bundle: &Path, name: &str) -> io::Result<File> {
    let Some(path) = inside(bundle, name) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain relative path"));
    };
    let file = open_plain(&path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")) }
}

fn open_plain(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Reads a file once; constant memory. A symbolic link is not followed.
pub(super) fn sum(path: &Path) -> io::Result<Sum> {
    let mut file = open_plain(path)?;
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
pub(super) fn walk(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut todo = vec![(dir.to_path_buf(), String::new())];
    while let Some((path, prefix)) = todo.pop() {
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            if kind.is_dir() && prefix.is_empty() {
                todo.push((entry.path(), format!("{name}/")));
            } else if kind.is_file() && names.len() < 4096 {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_knows_its_sum_when_the_last_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let sum = Files::at(dir.path().into()).write("proc/status", b"abc").unwrap();
        assert_eq!(sum.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(super::sum(&dir.path().join("proc/status")).unwrap(), sum);
    }

    #[test]
    fn no_name_leads_out_of_the_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path().into());
        for name in ["../x", "/etc/x", "", "a/../../x", "."] {
            assert!(files.create(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_rejected_body_is_kept_only_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path().into());
        files.write("heap.pb.gz", &vec![7; 100_000]).unwrap();
        let (name, sum) = files.reject("heap.pb.gz", |bytes| bytes).unwrap();
        assert_eq!((name.as_str(), sum.bytes), ("heap.pb.gz.rejected", MAX_REJECTED));
        assert_eq!(walk(dir.path()).unwrap(), ["heap.pb.gz.rejected"]);
    }
}
