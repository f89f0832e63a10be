//! Whether a directory could be made and written in; nothing stays of a trial.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Makes the directory if it is not there, writes in it, and removes what it made.
pub fn try_dir(dir: &Path) -> io::Result<()> {
    let missing = missing(dir);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    // has no name, or loses it at once
    let tried = made.and_then(|()| tempfile::tempfile_in(dir)).map(drop);
    remove_empty(&missing);
    tried
}

/// This directory and those above it, as far as they are not there; the deepest first.
pub fn missing(dir: &Path) -> Vec<PathBuf> {
    let is_missing = |dir: &&Path| fs::symlink_metadata(dir).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    dir.ancestors().take_while(is_missing).map(Path::to_path_buf).collect()
}

/// Removes those that are there and empty, in this order.
pub fn remove_empty(dirs: &[PathBuf]) {
    for dir in dirs {
        // what holds something is in use by now
        let _ = fs::remove_dir(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        try_dir(&dir.path().join("a/b/c")).unwrap();
        try_dir(dir.path()).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(try_dir(&dir.path().join("file")).is_err());
        assert!(try_dir(&dir.path().join("file/below")).is_err());
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
    }
}
