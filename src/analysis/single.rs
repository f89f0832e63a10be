//! One file alone: a profile, or one of the texts that `debug=` gives. It explains no RSS; its tables are what there is to say.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::goroutines;
use crate::anatomy::{GoMemory, memstats};
use crate::bundle::open_named;
use crate::pprof::{self, DecodeError, Limits, Profile, goroutine, top};
use crate::verdict::{Group, TopLine};

/// Why a file alone says nothing.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    #[error("{path} is a directory; name a profile in it, such as {example}")]
    Directory { path: PathBuf, example: PathBuf },
    #[error("{path} cannot be read: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no profile that can be read: {source}; {}", source.advice())]
    Profile { path: PathBuf, source: DecodeError },
    #[error("{path}: {source}")]
    Goroutines { path: PathBuf, source: goroutine::GoroutineError },
}

/// A file, read.
#[derive(Debug)]
pub struct Single {
    /// Of a text, what it counts.
    pub profile: Profile,
    /// Of a dump of goroutines as text.
    pub goroutines: Option<(u64, Vec<Group>)>,
    /// Of the whole text of `heap?debug=1`.
    pub memstats: Option<GoMemory>,
}

/// Reads a profile, gzipped or not, `heap?debug=1` or `goroutine?debug=1` or `2`. Blocks on the disk.
pub fn read(path: &Path) -> Result<Single, SingleError> {
    let limits = Limits::default();
    let owned = || path.to_owned();
    if path.is_dir() {
        return Err(SingleError::Directory { path: owned(), example: path.join("heap_gc.pb.gz") });
    }
    let mut bytes = Vec::new();
    let read = open_named(path).and_then(|file| file.take(limits.inflated_bytes + 1).read_to_end(&mut bytes));
    read.map_err(|source| SingleError::Read { path: owned(), source })?;
    let no_profile = |source| SingleError::Profile { path: owned(), source };
    if pprof::is_heap_text(&bytes) {
        let profile = pprof::heap_text(&bytes, &limits).map_err(no_profile)?;
        let memstats = memstats::parse(bytes.as_slice()).ok().flatten();
        return Ok(Single { profile, goroutines: None, memstats });
    }
    match Profile::parse(&bytes, &limits) {
        Ok(profile) => Ok(Single { profile, goroutines: None, memstats: None }),
        // whatever a log has put before it
        Err(DecodeError::Text { .. }) if goroutine::is_in(&bytes) => {
            let dump = goroutine::parse(bytes.as_slice(), &goroutine::Limits::default());
            let dump = dump.map_err(|source| SingleError::Goroutines { path: owned(), source })?;
            let profile = pprof::of_goroutines(&dump, &limits).map_err(no_profile)?;
            Ok(Single { profile, goroutines: Some((dump.total, goroutines::groups(&dump, None))), memstats: None })
        }
        Err(source) => Err(no_profile(source)),
    }
}

/// What `--format json` prints of it; docs/bundle.md documents it.
#[derive(Debug, Serialize)]
pub struct Told<'s> {
    schema: u32,
    kind: &'static str,
    path: &'s Path,
    sample_types: Vec<Counted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goroutines: Option<Goroutines<'s>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memstats: Option<&'s GoMemory>,
}

#[derive(Debug, Serialize)]
struct Counted {
    sample_type: String,
    unit: String,
    total: i64,
    top: Vec<TopLine>,
}

#[derive(Debug, Serialize)]
struct Goroutines<'s> {
    total: u64,
    groups: &'s [Group],
}

const SCHEMA: u32 = 1;
const ROWS: usize = 20;

impl Single {
    pub fn told<'s>(&'s self, path: &'s Path) -> Told<'s> {
        Told {
            schema: SCHEMA,
            kind: "profile",
            path,
            sample_types: self.tables().map(counted).collect(),
            goroutines: self.goroutines.as_ref().map(|(total, groups)| Goroutines { total: *total, groups }),
            memstats: self.memstats.as_ref(),
        }
    }

    /// Of each sample type.
    pub fn tables(&self) -> impl Iterator<Item = top::Table> {
        self.profile.sample_type_names().filter_map(|name| {
            let options = top::Options { sample_index: Some(name.to_owned()), node_count: Some(ROWS), ..Default::default() };
            top::rows(&self.profile, &options).ok()
        })
    }
}

fn counted(table: top::Table) -> Counted {
    let line = |row: top::Row| TopLine { function: row.name, flat: row.flat, cum: row.cum };
    Counted { sample_type: table.sample_type, unit: table.unit, total: table.total, top: table.rows.into_iter().map(line).collect() }
}
