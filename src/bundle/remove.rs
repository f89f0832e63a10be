//! Deleting a bundle in two steps, so that a crash in between leaves nothing that looks like one.

use std::ffi::OsStr;
use std::path::Path;

use super::read::{Bundle, MAX_ENTRIES};
use super::{BundleError, is_plain_name};
use crate::disk::Dir;

/// A directory with this suffix is no bundle any more.
pub(super) const REMOVED: &str = ".removed";

/// Deletes a bundle, and its target's directory if that was the last. Blocks on the disk.
pub fn remove(bundle: &Bundle) -> Result<(), BundleError> {
    let path = &bundle.path;
    let gone = || BundleError::NotFound { path: path.clone() };
    let (target, name) = path.parent().zip(path.file_name()).ok_or_else(gone)?;
    let (bundle_dir, target_name) = target.parent().zip(target.file_name()).ok_or_else(gone)?;
    let mut doomed = name.to_owned();
    doomed.push(REMOVED);
    let bundles = Dir::open(bundle_dir).map_err(|e| BundleError::io("open", bundle_dir, e))?;
    let within = bundles.dir(target_name).map_err(|e| BundleError::io("open", target, e))?;
    within.rename(name, &doomed).map_err(|e| BundleError::io("rename", path, e))?;
    within.remove_tree(&doomed).map_err(|e| BundleError::io("delete", target.join(&doomed), e))?;
    // fails while it holds anything, which is what is wanted
    let _ = bundles.remove_dir(target_name);
    Ok(())
}

/// Finishes deletions that a killed memtrap began. What cannot be deleted stays, and is said.
pub(super) fn finish(target: &Dir, path: &Path) {
    for name in target.subdirectories(MAX_ENTRIES).unwrap_or_default() {
        if is_plain_name(&name)
            && name.ends_with(REMOVED)
            && let Err(error) = target.remove_tree(OsStr::new(&name))
        {
            tracing::warn!(path = %path.join(&name).display(), %error, "what is left of a deleted bundle cannot be removed");
        }
    }
}
