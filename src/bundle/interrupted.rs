//! Partials that a killed memtrap left behind are finished as `interrupted`.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::files::{self, Files};
use super::manifest::{FileEntry, MANIFEST, Outcome, Status};
use super::partial::{DRAFT, JOURNAL, Journal, Line, Partial, Place, Published, SUFFIX};
use super::read::{MAX_ENTRIES, read_manifest};
use super::warning::{Warning, WarningKind};
use super::{BundleError, is_plain_name, remove};
use crate::clock;
use crate::disk::Dir;
use crate::disk::trust::User;

const MAX_JOURNAL: u64 = 4 << 20;
/// Far above any `max_file_size` that makes sense.
const MAX_FILE: u64 = 64 << 30;

/// Finishes every partial below `bundle_dir` that memtrap made, as this user, and that no living memtrap is writing. Blocks on the disk.
///
/// A directory is memtrap's own if it holds the draft that is written first; of others only empty ones with memtrap's
/// kind of name are removed. One that cannot be finished is left as it is, with the reason.
pub fn finish_all(bundle_dir: &Path, now: SystemTime) -> Vec<Result<Published, BundleError>> {
    let mut done = Vec::new();
    let Ok(bundles) = Dir::open(bundle_dir) else { return done };
    for target in bundles.subdirectories(MAX_ENTRIES).unwrap_or_default().iter().filter(|target| is_plain_name(target)) {
        let path = bundle_dir.join(target);
        let Ok(within) = bundles.dir(target) else { continue };
        remove::finish(&within, &path);
        for name in within.subdirectories(MAX_ENTRIES).unwrap_or_default().iter().filter(|name| is_plain_name(name)) {
            if let Some(stem) = name.strip_suffix(SUFFIX) {
                done.extend(finish(&bundles, target, &path, stem, now).transpose());
            }
        }
    }
    done
}

fn finish(bundles: &Dir, target: &str, parent: &Path, stem: &str, now: SystemTime) -> Result<Option<Published>, BundleError> {
    let (name, id) = (format!("{stem}{SUFFIX}"), format!("{target}/{stem}"));
    let (path, published) = (parent.join(&name), parent.join(stem));
    let open = || {
        let place = Place { bundles: bundles.again()?, target: bundles.dir(target)? };
        let dir = place.target.dir(&name)?;
        // what another user has made would be taken for memtrap's
        let is_own = [User::own().uid, bundles.stat()?.st_uid].contains(&dir.stat()?.st_uid);
        Ok((dir.readable()?, is_own, place, dir))
    };
    let (lock, is_own, place, dir) = open().map_err(|e| BundleError::io("open", &path, e))?;
    if !is_own || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    if let Ok(manifest) = read_manifest(&dir, MANIFEST, &path) {
        // the capture was over: only the rename is missing
        let (bytes, files, journal) = (manifest.bytes(), Files::of(dir), Journal::default());
        let partial = Partial { id: id.clone(), path, published: published.clone(), place, files, manifest, journal, _lock: lock };
        partial.rename()?;
        return Ok(Some(Published { id, path: published, bytes, manifest: partial.manifest }));
    }
    let manifest = match read_manifest(&dir, DRAFT, &path) {
        Ok(manifest) => manifest,
        Err(_) => {
            // killed before the draft was whole, or not ours; removes nothing that has another file in it
            if files::walk(&dir).is_ok_and(|names| names.iter().all(|n| n == DRAFT)) && is_stamped(&id) {
                let _ = dir.clear(DRAFT);
                let _ = place.target.remove_dir(&name);
            }
            return Ok(None);
        }
    };
    let (files, journal) = (Files::of(dir), Journal::default());
    let mut partial = Partial { id, path: path.clone(), published, place, files, manifest, journal, _lock: lock };
    replay(&mut partial);
    let at = clock::rfc3339_millis(now);
    let warning = format!("memtrap was killed or the host went down during this capture; it was finished at {at}");
    partial.manifest.warnings.push(warning.into());
    reconcile(&mut partial).map_err(|e| BundleError::io("read", path, e))?;
    partial.publish(Outcome::Interrupted, now).map(Some)
}

/// `TARGET/20261123T081336Z-…`: the shape that memtrap gives its names.
fn is_stamped(id: &str) -> bool {
    let stamp = id.rsplit('/').next().unwrap_or_default().as_bytes();
    stamp.iter().zip(b"00000000T000000Z-").all(|(c, shape)| if *shape == b'0' { c.is_ascii_digit() } else { c == shape })
        && stamp.len() > 17
}

/// Takes over what the journal says, up to a line that was cut off.
fn replay(partial: &mut Partial) {
    let Ok(file) = partial.files.read(JOURNAL) else { return };
    for line in BufReader::new(file.take(MAX_JOURNAL)).lines() {
        match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
            Some(Line::File(entry)) => partial.manifest.put(entry),
            Some(Line::Warning(text)) => partial.manifest.warnings.push(Warning::untold(text)),
            Some(Line::Mistaken(text)) => partial.manifest.warnings.push(Warning { kind: WarningKind::Mistaken, text }),
            None => return,
        }
    }
}

/// Makes the entries say what is on the disk, sums included.
fn reconcile(partial: &mut Partial) -> io::Result<()> {
    let names = files::walk(partial.files.dir())?;
    for entry in &mut partial.manifest.files {
        if entry.has_file() && !names.contains(&entry.name) {
            *entry = FileEntry {
                status: Status::Failed,
                ..FileEntry::skipped(&entry.step, &entry.name, "the file was lost in the interruption")
            };
        }
    }
    for name in names.iter().filter(|n| ![DRAFT, JOURNAL, MANIFEST].contains(&n.as_str())) {
        let file = partial.files.read(name)?;
        let bytes = file.metadata()?.len();
        if bytes > MAX_FILE {
            // no capture made it, and to hash it could take for ever
            continue;
        }
        let sum = files::sum(file, bytes)?;
        let known = partial.manifest.files.iter_mut().find(|e| e.name == *name);
        let same = known.as_ref().is_some_and(|e| e.sha256.as_deref() == Some(sum.sha256.as_str()));
        if same {
            continue;
        }
        let step = known.map_or_else(|| name.clone(), |e| e.step.clone());
        let reason = "memtrap ended while this file was being written; it may be incomplete";
        let entry = FileEntry::skipped(&step, name, reason);
        partial.manifest.put(FileEntry { bytes: sum.bytes, sha256: Some(sum.sha256), status: Status::Failed, attempts: 1, ..entry });
    }
    Ok(())
}
