//! The bundle: one directory per incident part, and the only place that writes bundle paths.
//!
//! ```text
//!  Partial::create          record, record, …            publish
//!  NAME.partial/ ──────────────────────────────────> NAME/     (rename; never changes again)
//!   capture.json, journal.jsonl      │                          manifest.json
//!                                    │ memtrap killed
//!                                    └──> interrupted::finish_all, at the next start ──> NAME/ (outcome: interrupted)
//! ```
//!
//! A live partial is locked (`flock`) by the process that writes it, so that another memtrap on the same directory
//! leaves it alone. Not here: what to capture (`capture`), which bundles to delete (`retention`).

pub mod archive;
mod baseline;
mod end;
mod files;
pub mod interrupted;
mod manifest;
mod metrics;
mod partial;
mod process;
mod read;
mod readme;
mod remove;
mod warning;
pub mod timeline;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::{Path, PathBuf};

use crate::aside::may_block;
use crate::disk::{Dir, trust};
use crate::writable;

pub use baseline::BaselineFacts;
pub use end::End;
pub use files::{BundleFile, Files, Hash, MAX_REJECTED, Sum};
pub use manifest::{FileEntry, Instance, MANIFEST, Manifest, Outcome, RulesInForce, SCHEMA, Status, by_cause};
pub use metrics::RemoteInstance;
pub(crate) use partial::own_entry;
pub use partial::{Note, Partial, Published};
pub use process::{Fds, Memory, ProcessFacts};
pub(crate) use read::subdirectories;
pub use read::{Bundle, MAX_MANIFEST, Problem, Survey, Verified, each, each_since, ids, list, list_of, open, open_named, survey, verify};
pub use remove::remove;
pub use warning::{ANOTHERS, Warning, WarningKind};

/// Why a bundle could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("cannot {action} {path}; {remedy}")]
    Io { action: &'static str, path: PathBuf, remedy: &'static str, source: io::Error },
    #[error(
        "{path} is a symbolic link: bundles are neither written nor looked for behind it; put a directory in its place (one on another disk can be \
         mounted there with `mount --bind`), or set bundle_dir to where it leads"
    )]
    Linked { path: PathBuf },
    #[error("cannot trust {path}: {why}")]
    Untrusted { path: PathBuf, why: String },
    #[error("`{name}` is no usable target name: only letters, digits, `.`, `_` and `-`, not starting with a dot, at most 64 long")]
    TargetName { name: String },
    #[error("{path} already has a thousand bundles of this second; remove old ones")]
    NoFreeName { path: PathBuf },
    #[error("`{id}` is no bundle id; ids look like TARGET/20261123T081336Z-threshold-1.52GiB, see `memtrap bundles list`")]
    BadId { id: String },
    #[error("there is no bundle at {path}; see `memtrap bundles list`")]
    NotFound { path: PathBuf },
    #[error("{path} is no manifest that this memtrap can read: {why}; the files beside it may be good, and memtrap deletes none of them")]
    BadManifest { path: PathBuf, why: String },
}

impl BundleError {
    fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> BundleError {
        let remedy = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there, or set bundle_dir to a larger disk",
            io::ErrorKind::PermissionDenied if action == "read" => "run memtrap as the user that owns it, or as root",
            io::ErrorKind::PermissionDenied => "give memtrap's user write access there, or set bundle_dir elsewhere",
            io::ErrorKind::InvalidInput => {
                "put a directory or a regular file there: below bundle_dir, memtrap follows no links and waits for no pipes"
            }
            io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: remount it, or set bundle_dir elsewhere",
            _ => "see that bundle_dir is a healthy local disk that memtrap may write to",
        };
        BundleError::Io { action, path: path.into(), remedy, source }
    }
}

/// Bytes that memtrap may still write on the disk of this directory, or of what exists of its path; `None` if it cannot be asked. Blocks on the disk.
pub fn free_disk(dir: &Path) -> Option<u64> {
    may_block();
    let stat = dir.ancestors().find_map(|d| rustix::fs::statvfs(d).ok())?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes the bundle directory if it is not there, and tries to write in it.
pub fn try_dir(dir: &Path) -> Result<(), BundleError> {
    Dir::make(dir).map_err(|e| BundleError::io("make", dir, e))?;
    tempfile::tempfile_in(dir).map(drop).map_err(|e| BundleError::io("write in", dir, e))
}

/// Whether [`try_dir`] would succeed. Makes nothing that stays.
pub fn probe_dir(dir: &Path) -> Result<(), BundleError> {
    writable::try_dir(dir).map_err(|e| BundleError::io("write in", dir, e))
}

/// Whether the daemon may keep its bundles in this directory, by who else could change it; one of its own is mended. Returns what should be
/// known.
pub fn settle_dir(dir: &Path) -> Result<Vec<String>, BundleError> {
    judged(dir, trust::settle(dir, true))
}

/// See [`settle_dir`]; mends nothing.
pub fn foresee_dir(dir: &Path) -> Result<Vec<String>, BundleError> {
    judged(dir, trust::foresee(dir, true))
}

fn judged(dir: &Path, judged: io::Result<Result<Vec<String>, String>>) -> Result<Vec<String>, BundleError> {
    let judged = judged.map_err(|e| BundleError::io("read", dir, e))?;
    judged.map_err(|why| BundleError::Untrusted { path: dir.into(), why })
}

/// Whether bundles of this target can lie below the bundle directory: an error if there is a link in the way.
pub fn try_target(bundle_dir: &Path, target: &str) -> Result<(), BundleError> {
    match Dir::open(bundle_dir).and_then(|dir| dir.dir(target)) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(BundleError::Linked { path: bundle_dir.join(target) }),
        _ => Ok(()),
    }
}

/// Whether this is a single, plain path component of the kind that memtrap itself makes.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 160
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
