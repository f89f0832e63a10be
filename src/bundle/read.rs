//! Readers of published bundles: bounded, and tolerant of whatever else lies in the directory.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::{self, inside};
use super::manifest::{MANIFEST, Manifest};
use super::partial::SUFFIX;
use super::remove::REMOVED;
use super::{BundleError, is_plain_name};
use crate::error::chain;

/// Some hundred entries of some hundred bytes are usual.
const MAX_MANIFEST: u64 = 4 << 20;
/// Directories looked at per level.
const MAX_ENTRIES: usize = 100_000;

/// A published bundle, as its manifest describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// `TARGET/STAMP-TRIGGER-RSS`.
    pub id: String,
    pub path: PathBuf,
    pub manifest: Manifest,
}

impl Bundle {
    /// What the manifest says that the files occupy.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().fold(0, |sum, f| sum.saturating_add(f.bytes))
    }
}

/// What comparing a bundle with its manifest showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files whose size and sum are as listed.
    pub good: usize,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    #[error("{name} is not what the manifest lists: its SHA-256 differs")]
    Changed { name: String },
    #[error("{name} is listed in the manifest, but not there")]
    Missing { name: String },
    #[error("{name} is there, but not listed in the manifest")]
    Unlisted { name: String },
    #[error("{name} cannot be read: {why}")]
    Unreadable { name: String, why: String },
}

/// All published bundles, oldest first within each target, targets by name. What is no bundle is passed over.
pub fn list(bundle_dir: &Path) -> Result<Vec<Bundle>, BundleError> {
    each(bundle_dir).map(Iterator::collect)
}

/// All that lies in a bundle directory, for a person who asks: also what is wrong with it.
#[derive(Debug, Default)]
pub struct Survey {
    /// As [`list`] lists them.
    pub bundles: Vec<Bundle>,
    /// The ids of bundles whose manifests cannot be read, and why.
    pub damaged: Vec<(String, BundleError)>,
    /// Directories of targets that cannot be looked into.
    pub closed: Vec<BundleError>,
}

/// Looks at everything; a directory that is not there is empty. What has no manifest is none of memtrap's, and passed over.
pub fn survey(bundle_dir: &Path) -> Result<Survey, BundleError> {
    let look = |dir: &Path| match read_subdirectories(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        looked => looked.map_err(|e| BundleError::io("read", dir, e)),
    };
    let mut survey = Survey::default();
    for target in look(bundle_dir)? {
        let Some(target_name) = plain_name(&target) else { continue };
        let bundles = look(&target).unwrap_or_else(|why| {
            survey.closed.push(why);
            Vec::new()
        });
        for id in bundles.iter().filter_map(|path| Some(format!("{target_name}/{}", published_name(path)?))) {
            match open(bundle_dir, &id) {
                Ok(bundle) => survey.bundles.push(bundle),
                Err(BundleError::NotFound { .. }) => {}
                Err(why) => survey.damaged.push((id, why)),
            }
        }
    }
    Ok(survey)
}

/// What [`list`] lists, with one manifest in memory at a time: there may be thousands.
pub fn each(bundle_dir: &Path) -> Result<impl Iterator<Item = Bundle> + '_, BundleError> {
    let mut ids = ids(bundle_dir)?;
    ids.sort();
    Ok(ids.into_iter().filter_map(move |id| match open(bundle_dir, &id) {
        Err(error @ BundleError::BadManifest { .. }) => {
            tracing::warn!(bundle = id, error = chain(&error), "a damaged bundle is passed over");
            None
        }
        opened => opened.ok(),
    }))
}

/// The ids of all published bundles, without looking into them; each target's oldest first.
pub fn ids(bundle_dir: &Path) -> Result<Vec<String>, BundleError> {
    match fs::metadata(bundle_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BundleError::io("read", bundle_dir, e)),
        Ok(_) => {}
    }
    let named = |target: &PathBuf| {
        let target_name = plain_name(target).unwrap_or_default();
        let bundles = if target_name.is_empty() { Vec::new() } else { subdirectories(target) };
        bundles.into_iter().filter_map(move |path| Some(format!("{target_name}/{}", published_name(&path)?)))
    };
    Ok(subdirectories(bundle_dir).iter().flat_map(named).collect())
}

/// The published bundles of one target, oldest first.
pub fn list_of(bundle_dir: &Path, target: &str) -> Vec<Bundle> {
    if !is_plain_name(target) {
        return Vec::new();
    }
    let mut bundles = in_target(&bundle_dir.join(target));
    bundles.sort_by(|a, b| a.id.cmp(&b.id));
    bundles
}

fn in_target(target: &Path) -> Vec<Bundle> {
    in_target_where(target, |_| true)
}

fn in_target_where(target: &Path, wanted: impl Fn(&PathBuf) -> bool) -> Vec<Bundle> {
    let Some(target_name) = plain_name(target) else { return Vec::new() };
    let bundle = |path: PathBuf| {
        let name = published_name(&path)?;
        let manifest = read_manifest(&path.join(MANIFEST)).ok()?;
        Some(Bundle { id: format!("{target_name}/{name}"), path, manifest })
    };
    subdirectories(target).into_iter().filter(wanted).filter_map(bundle).collect()
}

fn plain_name(path: &Path) -> Option<String> {
    path.file_name().and_then(|n| n.to_str()).filter(|n| is_plain_name(n)).map(str::to_owned)
}

fn published_name(path: &Path) -> Option<String> {
    plain_name(path).filter(|n| !n.ends_with(SUFFIX) && !n.ends_with(REMOVED))
}

/// Bundles whose directories changed last at `since` or later, which is when they were published. Only their manifests are read.
pub fn list_since(bundle_dir: &Path, since: SystemTime) -> Vec<Bundle> {
    let is_new = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).is_ok_and(|at| at >= since);
    subdirectories(bundle_dir).iter().flat_map(|target| in_target_where(target, is_new)).collect()
}

/// The bundle of this id, `TARGET/NAME`.
pub fn open(bundle_dir: &Path, id: &str) -> Result<Bundle, BundleError> {
    let plain = id.split_once('/').filter(|(target, name)| is_plain_name(target) && is_plain_name(name) && !name.ends_with(SUFFIX));
    let Some((target, name)) = plain else { return Err(BundleError::BadId { id: super::one_line(id, 200) }) };
    let path = bundle_dir.join(target).join(name);
    let manifest = read_manifest(&path.join(MANIFEST))?;
    Ok(Bundle { id: id.into(), path, manifest })
}

/// Compares every file of a bundle with its manifest. Reads all of it; constant memory.
pub fn verify(path: &Path) -> Result<Verified, BundleError> {
    let manifest = read_manifest(&path.join(MANIFEST))?;
    let mut result = Verified::default();
    let mut listed = BTreeSet::from([MANIFEST.to_owned()]);
    for entry in &manifest.files {
        let Some(sha256) = &entry.sha256 else { continue };
        let name = entry.name.clone();
        // a name that leads out of the bundle is none of its files
        let Some(file) = inside(path, &name) else {
            result.problems.push(Problem::Missing { name: super::one_line(&name, 200) });
            continue;
        };
        match files::sum(&file) {
            Ok(sum) if sum.sha256 == *sha256 && sum.bytes == entry.bytes => result.good += 1,
            Ok(_) => result.problems.push(Problem::Changed { name: name.clone() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => result.problems.push(Problem::Missing { name: name.clone() }),
            Err(e) => result.problems.push(Problem::Unreadable { name: name.clone(), why: e.to_string() }),
        }
        listed.insert(name);
    }
    let present = files::walk(path).map_err(|e| BundleError::io("list", path, e))?;
    result.problems.extend(present.into_iter().filter(|n| !listed.contains(n)).map(|name| Problem::Unlisted { name }));
    result.problems.sort();
    Ok(result)
}

pub(super) fn read_manifest(path: &Path) -> Result<Manifest, BundleError> {
    let bad = |why: String| BundleError::BadManifest { path: path.into(), why };
    // whatever is there must not make the open wait
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => BundleError::NotFound { path: path.into() },
        _ => BundleError::io("read", path, e),
    })?;
    let mut text = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut text).map_err(|e| BundleError::io("read", path, e))?;
    if text.len() as u64 > MAX_MANIFEST {
        return Err(bad(format!("larger than {MAX_MANIFEST} bytes")));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| bad(super::one_line(&e.to_string(), 200)))?;
    if manifest.schema == super::SCHEMA { Ok(manifest) } else { Err(bad(format!("its schema is {}, not 1", manifest.schema))) }
}

/// Directories in `dir`, by name; links are not followed, what cannot be read is passed over.
pub(crate) fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    read_subdirectories(dir).unwrap_or_default()
}

fn read_subdirectories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_dir = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    let mut dirs: Vec<PathBuf> = fs::read_dir(dir)?.take(MAX_ENTRIES).flatten().filter(is_dir).map(|e| e.path()).collect();
    dirs.sort();
    Ok(dirs)
}
