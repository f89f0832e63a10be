//! Deleting a bundle in two steps, so that a crash in between leaves nothing that looks like one.

use std::fs;
use std::path::Path;

use super::read::{Bundle, subdirectories};
use super::{BundleError, is_plain_name};

/// A directory with this suffix is no bundle any more.
pub(super) const REMOVED: &str = ".removed";

/// Deletes a bundle, and its target's directory if that was the last. Blocks on the disk.
pub fn remove(bundle: &Bundle) -> Result<(), BundleError> {
    let mut doomed = bundle.path.clone().into_os_string();
    doomed.push(REMOVED);
    fs::rename(&bundle.path, &doomed).map_err(|e| BundleError::io("rename", &bundle.path, e))?;
    fs::remove_dir_all(&doomed).map_err(|e| BundleError::io("delete", &*doomed, e))?;
    if let Some(target) = bundle.path.parent() {
        // fails while it holds anything, which is what is wanted
        let _ = fs::remove_dir(target);
    }
    Ok(())
}

/// Finishes deletions that a killed memtrap began. What cannot be deleted stays.
pub(super) fn finish(target: &Path) {
    for path in subdirectories(target) {
        let doomed = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| is_plain_name(n) && n.ends_with(REMOVED));
        if doomed {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
