//! Readers of published bundles: bounded, and tolerant of whatever else lies in the directory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use super::files;
use super::manifest::{MANIFEST, Manifest};
use super::partial::SUFFIX;
use super::remove::REMOVED;
use super::{BundleError, is_plain_name};
use crate::disk::{self, Dir};
use crate::error::chain;

/// Of a manifest, in bytes: some hundred entries of some hundred bytes are usual.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Directories looked at per level.
pub(super) const MAX_ENTRIES: usize = 100_000;

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
        self.manifest.bytes()
    }

    /// Its directory, to open its files from: held open, it stays the same even if another takes its name.
    pub(crate) fn dir(&self) -> io::Result<Dir> {
        dir_at(&self.path)
    }

    /// Opens one of its files for reading; `InvalidInput` if the name leads out of the bundle, over a link, or to no regular file.
    pub fn file(&self, name: &str) -> io::Result<File> {
        self.dir()?.file(name)
    }
}

/// Opens the directory of a bundle. The last two parts of its path are memtrap's, and no links; what is before them is the operator's.
pub(super) fn dir_at(path: &Path) -> io::Result<Dir> {
    let here = Path::new(".");
    let split = path.ancestors().nth(2).and_then(|bundle_dir| Some((bundle_dir, path.strip_prefix(bundle_dir).ok()?)));
    match split {
        Some((bundle_dir, id)) => Dir::open(if bundle_dir.as_os_str().is_empty() { here } else { bundle_dir })?.dir(id),
        None => Dir::open(path),
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
    #[error("{name} is not what the manifest lists: its size differs")]
    Resized { name: String },
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
    let mut survey = Survey::default();
    let unread = |e| BundleError::io("read", bundle_dir, e);
    let dir = match Dir::open(bundle_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(survey),
        opened => opened.map_err(unread)?,
    };
    let mut targets: Vec<(String, FileType)> = dir
        .entries(MAX_ENTRIES)
        .map_err(unread)?
        .into_iter()
        .filter_map(|entry| Some((entry.name.into_string().ok()?, entry.kind)))
        .collect();
    targets.sort_by(|a, b| a.0.cmp(&b.0));
    for (target, kind) in targets.into_iter().filter(|(target, _)| is_plain_name(target)) {
        let path = bundle_dir.join(&target);
        let bundles = match kind {
            FileType::Directory => dir.dir(&target).and_then(|dir| published(&dir)).map_err(|e| BundleError::io("read", &path, e)),
            FileType::Symlink if path.is_dir() => Err(BundleError::Linked { path }),
            _ => continue,
        };
        let bundles = bundles.unwrap_or_else(|why| {
            survey.closed.push(why);
            Vec::new()
        });
        for id in bundles.iter().map(|name| format!("{target}/{name}")) {
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
    let unread = |e| BundleError::io("read", bundle_dir, e);
    let dir = match Dir::open(bundle_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(unread)?,
    };
    let mut ids = Vec::new();
    for target in dir.subdirectories(MAX_ENTRIES).map_err(unread)?.iter().filter(|target| is_plain_name(target)) {
        // one that cannot be looked into is told of by `survey`
        let names = dir.dir(target).and_then(|dir| published(&dir)).unwrap_or_default();
        ids.extend(names.iter().map(|name| format!("{target}/{name}")));
    }
    Ok(ids)
}

/// The published bundles of one target, oldest first.
pub fn list_of(bundle_dir: &Path, target: &str) -> Vec<Bundle> {
    if !is_plain_name(target) {
        return Vec::new();
    }
    Dir::open(bundle_dir).map_or_else(|_| Vec::new(), |dir| in_target(bundle_dir, &dir, target, |_| true).collect())
}

/// Of one target, by name, those whose directories are `wanted`.
fn in_target<'a>(
    bundle_dir: &'a Path,
    dir: &Dir,
    target: &'a str,
    wanted: impl Fn(&Dir) -> bool + 'a,
) -> impl Iterator<Item = Bundle> + 'a {
    let within = dir.dir(target).ok();
    let names = within.as_ref().and_then(|within| published(within).ok()).unwrap_or_default();
    names.into_iter().filter_map(move |name| {
        let own = within.as_ref()?.dir(&name).ok().filter(&wanted)?;
        let path = bundle_dir.join(target).join(&name);
        let manifest = read_manifest(&own, MANIFEST, &path).ok()?;
        Some(Bundle { id: format!("{target}/{name}"), path, manifest })
    })
}

/// The names of published bundles in a target's directory, in order.
fn published(target: &Dir) -> io::Result<Vec<String>> {
    let mut names = target.subdirectories(MAX_ENTRIES)?;
    names.retain(|n| is_plain_name(n) && !n.ends_with(SUFFIX) && !n.ends_with(REMOVED));
    Ok(names)
}

/// Calls `each` with bundles whose directories changed last at `since` or later, which is when they were published. Only their manifests are
/// read, one at a time.
pub fn each_since(bundle_dir: &Path, since: SystemTime, mut each: impl FnMut(Bundle)) {
    let Ok(dir) = Dir::open(bundle_dir) else { return };
    let is_new = move |own: &Dir| {
        let changed = |stat: Stat| Some(Duration::new(stat.st_mtime.try_into().ok()?, stat.st_mtime_nsec.try_into().ok()?));
        let at = own.stat().ok().and_then(changed).and_then(|at| SystemTime::UNIX_EPOCH.checked_add(at));
        at.is_some_and(|at| at >= since)
    };
    for target in dir.subdirectories(MAX_ENTRIES).unwrap_or_default().iter().filter(|target| is_plain_name(target)) {
        in_target(bundle_dir, &dir, target, is_new).for_each(&mut each);
    }
}

/// The bundle of this id, `TARGET/NAME`.
pub fn open(bundle_dir: &Path, id: &str) -> Result<Bundle, BundleError> {
    let plain = id.split_once('/').filter(|(target, name)| is_plain_name(target) && is_plain_name(name) && !name.ends_with(SUFFIX));
    let Some((target, name)) = plain else { return Err(BundleError::BadId { id: crate::text::one_line(id, 200) }) };
    let path = bundle_dir.join(target).join(name);
    let dir = Dir::open(bundle_dir).and_then(|dir| dir.dir(id)).map_err(|e| not_there(&path, e))?;
    let manifest = read_manifest(&dir, MANIFEST, &path)?;
    Ok(Bundle { id: id.into(), path, manifest })
}

/// Compares every file of a bundle with its manifest. Reads all of it; constant memory.
pub fn verify(path: &Path) -> Result<Verified, BundleError> {
    let dir = dir_at(path).map_err(|e| not_there(path, e))?;
    let manifest = read_manifest(&dir, MANIFEST, path)?;
    let mut result = Verified::default();
    let mut listed = BTreeSet::from([MANIFEST.to_owned()]);
    for entry in &manifest.files {
        let Some(sha256) = &entry.sha256 else { continue };
        // names come from outside, and are shown
        let (name, shown) = (entry.name.clone(), crate::text::one_line(&entry.name, 200));
        // a name that leads out of the bundle is none of its files
        if !disk::is_below(&name) {
            result.problems.push(Problem::Missing { name: shown });
            continue;
        }
        match dir.file(&name).and_then(|file| Ok((file.metadata()?.len(), file))) {
            // of another size, it need not be read: a file can be larger than any disk
            Ok((bytes, _)) if bytes != entry.bytes => result.problems.push(Problem::Resized { name: shown }),
            Ok((bytes, file)) => match files::sum(file, bytes) {
                Ok(sum) if sum.sha256 == *sha256 => result.good += 1,
                Ok(_) => result.problems.push(Problem::Changed { name: shown }),
                Err(e) => result.problems.push(Problem::Unreadable { name: shown, why: e.to_string() }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => result.problems.push(Problem::Missing { name: shown }),
            Err(e) => result.problems.push(Problem::Unreadable { name: shown, why: e.to_string() }),
        }
        listed.insert(name);
    }
    let present = files::walk(&dir).map_err(|e| BundleError::io("list", path, e))?;
    result.problems.extend(
        present.into_iter().filter(|n| !listed.contains(n)).map(|name| Problem::Unlisted { name: crate::text::one_line(&name, 200) }),
    );
    result.problems.sort();
    Ok(result)
}

fn not_there(path: &Path, e: io::Error) -> BundleError {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => BundleError::NotFound { path: path.into() },
        _ => BundleError::io("read", path, e),
    }
}

/// `name` is the manifest's in `dir`, which lies at `path`.
pub(super) fn read_manifest(dir: &Dir, name: &str, path: &Path) -> Result<Manifest, BundleError> {
    let path = path.join(name);
    let bad = |why: String| BundleError::BadManifest { path: path.clone(), why };
    let file = dir.file(name).map_err(|e| not_there(&path, e))?;
    let mut text = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut text).map_err(|e| BundleError::io("read", &path, e))?;
    if text.len() as u64 > MAX_MANIFEST {
        return Err(bad(format!("larger than {MAX_MANIFEST} bytes")));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| bad(crate::text::one_line(&e.to_string(), 200)))?;
    if manifest.schema == super::SCHEMA { Ok(manifest) } else { Err(bad(format!("its schema is {}, not 1", manifest.schema))) }
}

/// Directories in `dir`, by name; links are not followed, what cannot be read is passed over.
pub(crate) fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let names = Dir::open(dir).and_then(|opened| opened.subdirectories(MAX_ENTRIES)).unwrap_or_default();
    names.iter().map(|name| dir.join(name)).collect()
}

/// Opens a file that someone named on the command line. Of a bundle, only what is a file of it; else whatever it is, such as a pipe.
pub fn open_named(path: &Path) -> io::Result<File> {
    let parent = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    match (parent.and_then(|parent| Dir::open(parent).ok()).filter(|dir| dir.has_file(MANIFEST)), path.file_name()) {
        (Some(dir), Some(name)) => dir.file(name),
        _ => File::open(path),
    }
}
