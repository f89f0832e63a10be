//! A bundle while it is written: locked, journalled, and published in one rename.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::files::{self, Files, Sum};
use super::manifest::{FileEntry, MANIFEST, Manifest, Outcome, Status};
use super::warning::{Warning, WarningKind};
use super::{BundleError, is_plain_name, readme};
use crate::aside::may_block;
use crate::clock;
use crate::disk::Dir;
use crate::disk::trust::{self, Owned, User};
use crate::host::workload::file_safe;
use crate::text;
use crate::units::ByteSize;

pub(super) const SUFFIX: &str = ".partial";
/// The manifest as it would be if nothing more came: what an interrupted bundle is finished from.
pub(super) const DRAFT: &str = "capture.json";
/// What came since, a line each.
pub(super) const JOURNAL: &str = "journal.jsonl";
const README: &str = "README.md";

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    File(FileEntry),
    /// A note.
    Warning(String),
    Mistaken(String),
}

impl Line {
    fn of(warning: Warning) -> Line {
        match warning.kind {
            WarningKind::Note => Line::Warning(warning.text),
            WarningKind::Mistaken => Line::Mistaken(warning.text),
        }
    }
}

/// A line that is not in the journal yet.
#[derive(Debug)]
pub struct Note {
    journal: Journal,
    line: Line,
}

/// `None` once writing it failed: the capture goes on, only its interruption would be told less well.
pub(super) type Journal = Arc<Mutex<Option<File>>>;

impl Note {
    /// Blocks on the disk. Not synced: it must outlive memtrap, not the host.
    pub fn write(self) {
        may_block();
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(file), Ok(mut text)) = (journal.as_mut(), serde_json::to_vec(&self.line)) else { return };
        text.push(b'\n');
        if file.write_all(&text).is_err() {
            *journal = None;
        }
    }
}

/// A bundle that is being written. Dropped without [`Partial::publish`], it stays as it is, for
/// [`finish_all`](super::interrupted::finish_all) to find.
#[derive(Debug)]
pub struct Partial {
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(super) published: PathBuf,
    /// The bundle directory and the target's below it, in which the name changes.
    pub(super) place: Place,
    pub(super) files: Files,
    pub(super) manifest: Manifest,
    pub(super) journal: Journal,
    /// The directory itself, locked for as long as this lives.
    pub(super) _lock: File,
}

/// Where bundles of one target are.
#[derive(Debug)]
pub(super) struct Place {
    pub bundles: Dir,
    pub target: Dir,
}

/// A finished bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub id: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub manifest: Manifest,
}

impl Partial {
    /// Makes `BUNDLE_DIR/TARGET/STAMP-TRIGGER-RSS.partial` with the draft in it, with the workload before the trigger where there is one;
    /// directories on the way are made, 0700.
    /// Blocks on the disk. The draft's `files` are the plan: entries that stand until [`Partial::record`] replaces them.
    pub fn create(bundle_dir: &Path, started: SystemTime, draft: Manifest) -> Result<Partial, BundleError> {
        let target = draft.target.clone();
        if !is_plain_name(&target) || target.len() > 64 {
            return Err(BundleError::TargetName { name: crate::text::one_line(&target, 80) });
        }
        let place = Place::make(bundle_dir, &target)?;
        // README and manifest name this place: it must not depend on the working directory
        let parent = bundle_dir.canonicalize().map_err(|e| BundleError::io("resolve", bundle_dir, e))?.join(&target);
        let workload = draft.instance.workload.as_deref().map(file_safe).filter(|name| !name.is_empty());
        let stem = format!(
            "{}-{}{}-{}",
            clock::compact_utc(started),
            workload.map(|name| format!("{name}-")).unwrap_or_default(),
            draft.trigger.trigger.name(),
            ByteSize(draft.trigger.charge_bytes.unwrap_or(draft.trigger.rss_bytes))
        );
        for n in 1..=1000 {
            let name = if n == 1 { stem.clone() } else { format!("{stem}-{n}") };
            let partial = format!("{name}{SUFFIX}");
            let path = parent.join(&partial);
            match place.target.make_dir(&partial) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(BundleError::io("create", path, e)),
                Ok(()) => {}
            }
            // looked at after the partial exists: from now on nobody else can publish under this name
            if place.target.stat_of(name.as_ref()).is_ok() {
                place.target.remove_dir(&partial).map_err(|e| BundleError::io("remove", &path, e))?;
                continue;
            }
            return Partial::fill(format!("{target}/{name}"), path, parent.join(&name), place, draft);
        }
        Err(BundleError::NoFreeName { path: parent.join(stem) })
    }

    fn fill(id: String, path: PathBuf, published: PathBuf, place: Place, manifest: Manifest) -> Result<Partial, BundleError> {
        let name = path.file_name().unwrap_or_default();
        let dir = place.target.dir(name).map_err(|e| BundleError::io("open", &path, e))?;
        let begun = begin(&dir, &path, &manifest).inspect_err(|_| {
            let _ = dir.clear(DRAFT);
            let _ = place.target.remove_dir(name);
        });
        let (lock, journal) = begun?;
        let journal = Arc::new(Mutex::new(Some(journal)));
        Ok(Partial { id, path, published, place, files: Files::of(dir), manifest, journal, _lock: lock })
    }

    /// `TARGET/STAMP-TRIGGER-RSS`, as it will be listed.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is while it is written; absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will be once it is published; absolute.
    pub fn published_path(&self) -> &Path {
        &self.published
    }

    pub fn files(&self) -> Files {
        self.files.clone()
    }

    /// What is known so far.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Notes how a step ended, in the place of what was noted for it before. Writes a line to the disk.
    pub fn record(&mut self, entry: FileEntry) {
        self.note(entry).write();
    }

    /// The same, with the writing left to the caller: a full or slow disk can make even a line wait.
    #[must_use = "the line is to be written on a blocking thread"]
    pub fn note(&mut self, entry: FileEntry) -> Note {
        self.manifest.put(entry.clone());
        self.line(Line::File(entry))
    }

    /// Notes something that the reader of the bundle should know; see [`Partial::note`].
    #[must_use = "the line is to be written on a blocking thread"]
    pub fn warn(&mut self, warning: impl Into<Warning>) -> Note {
        let warning = warning.into();
        self.manifest.warnings.push(warning.clone());
        self.line(Line::of(warning))
    }

    fn line(&self, line: Line) -> Note {
        Note { journal: self.journal.clone(), line }
    }

    /// Writes a small file of memtrap's own and notes it as `ok`, or as `failed` with the reason.
    pub fn add(&mut self, step: &str, name: &str, content: &[u8]) {
        let written = self.files.write(name, content);
        self.record(own_entry(step, name, written));
    }

    /// README and manifest, everything synced, then the rename. Blocks on the disk.
    ///
    /// On an error the directory is left as it is: still a partial, to be finished at the next start.
    pub fn publish(mut self, outcome: Outcome, finished: SystemTime) -> Result<Published, BundleError> {
        self.manifest.outcome = outcome;
        self.manifest.finished = clock::rfc3339_millis(finished);
        let readme = readme::text(&self.manifest, &self.published);
        self.add("readme", README, readme.as_bytes());
        self.sync_files()?;
        let path = self.path.join(MANIFEST);
        let json = text::json_pretty(&self.manifest).map_err(|e| BundleError::io("write", &path, e.into()))?;
        self.files
            .write(MANIFEST, json.as_bytes())
            .and_then(|_| self.files.read(MANIFEST)?.sync_all())
            .map_err(|e| BundleError::io("write", &path, e))?;
        let bytes = self.manifest.bytes().saturating_add(json.len() as u64);
        self.rename()?;
        Ok(Published { id: self.id, path: self.published, bytes, manifest: self.manifest })
    }

    fn sync_files(&self) -> Result<(), BundleError> {
        let sync = || {
            let mut dirs = BTreeSet::new();
            for name in files::walk(self.files.dir())? {
                self.files.read(&name)?.sync_all()?;
                dirs.extend(name.rsplit_once('/').map(|(dir, _)| dir.to_owned()));
            }
            dirs.iter().try_for_each(|dir| self.files.dir().dir(dir)?.sync())
        };
        sync().map_err(|e| BundleError::io("sync", &self.path, e))
    }

    /// The last steps, once a manifest is safely in place.
    pub(super) fn rename(&self) -> Result<(), BundleError> {
        for name in [DRAFT, JOURNAL] {
            self.files.remove(name).map_err(|e| BundleError::io("remove", self.path.join(name), e))?;
        }
        let name = |path: &Path| path.file_name().unwrap_or_default().to_owned();
        let Place { bundles, target } = &self.place;
        self.files.dir().sync().map_err(|e| BundleError::io("sync", &self.path, e))?;
        let renamed = target.rename_new(&name(&self.path), &name(&self.published));
        renamed.map_err(|e| BundleError::io("rename to its final name", &self.path, e))?;
        // the target's directory may be new as well
        target.sync().and_then(|()| bundles.sync()).map_err(|e| BundleError::io("sync", &self.published, e))
    }
}

impl Place {
    /// Makes both (0700) if they are not there. Whoever owns the bundle directory may own what is in it; nobody else may.
    fn make(bundle_dir: &Path, target: &str) -> Result<Place, BundleError> {
        let path = bundle_dir.join(target);
        let bundles = Dir::make(bundle_dir).map_err(|e| BundleError::io("create", bundle_dir, e))?;
        match bundles.make_dir(target) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(BundleError::io("create", path, e)),
            _ => {}
        }
        let within = match bundles.dir(target) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Err(BundleError::Linked { path }),
            opened => opened.map_err(|e| BundleError::io("open", &path, e))?,
        };
        let (above, owned) =
            Owned::of(&bundles).and_then(|above| Ok((above, Owned::of(&within)?))).map_err(|e| BundleError::io("read", &path, e))?;
        let user = User::own();
        let user = if owned.uid == above.uid { User { uid: above.uid, ..user } } else { user };
        match trust::wrong(owned, user, false) {
            Some(why) => Err(BundleError::Untrusted { path, why }),
            None => Ok(Place { bundles, target: within }),
        }
    }
}

/// Locks a new partial and puts the draft in it; returns the lock and the journal.
fn begin(dir: &Dir, path: &Path, manifest: &Manifest) -> Result<(File, File), BundleError> {
    let lock = dir.readable().map_err(|e| BundleError::io("open", path, e))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| BundleError::io("lock", path, e.into()))?;
    let write = |name: &str, content: &[u8]| {
        let mut file = dir.create(name)?;
        file.write_all(content).map(|()| file)
    };
    let draft = serde_json::to_vec(manifest).map_err(io::Error::from).and_then(|draft| write(DRAFT, &draft));
    draft.map_err(|e| BundleError::io("write", path.join(DRAFT), e))?;
    let journal = write(JOURNAL, b"").map_err(|e| BundleError::io("create", path.join(JOURNAL), e))?;
    Ok((lock, journal))
}

/// The entry of a file that memtrap made of what it knew itself.
pub(crate) fn own_entry(step: &str, name: &str, written: io::Result<Sum>) -> FileEntry {
    let base = FileEntry::skipped(step, name, "");
    match written {
        Ok(sum) => FileEntry { bytes: sum.bytes, sha256: Some(sum.sha256), status: Status::Ok, reason: None, attempts: 1, ..base },
        Err(e) => FileEntry { status: Status::Failed, reason: Some(format!("cannot write it: {e}")), attempts: 1, ..base },
    }
}
