//! A bundle as one file, `x.tar.gz`: made for whoever wants it, and unpacked where nobody else looks.

mod unpack;
mod write;

use std::io;
use std::path::PathBuf;

pub use unpack::{Unpacked, is_archive, unpack};
pub use write::write;

/// Why there is no archive, or nothing in it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bundle is not what its manifest says.
    #[error("{id} is damaged: {name} {how}; see `memtrap bundles show`")]
    Damaged { id: String, name: String, how: &'static str },
    #[error("cannot read {name} of {id}")]
    Read { id: String, name: String, source: io::Error },
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    #[error("{path} cannot be unpacked: {source}")]
    Unpack { path: PathBuf, source: io::Error },
}
