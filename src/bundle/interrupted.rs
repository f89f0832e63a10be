//! Partials that a killed memtrap left behind are finished as `interrupted`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::files::{self, Files};
use super::manifest::{FileEntry, MANIFEST, Outcome, Status};
use super::partial::{DRAFT, JOURNAL, Journal, Line, Partial, Published, SUFFIX};
use super::read::{read_manifest, subdirectories};
use super::{BundleError, is_plain_name, remove};
use crate::clock;

const MAX_JOURNAL: u64 = 4 << 20;

/// Finishes every partial below `bundle_dir` that memtrap made and that no living memtrap is writing. Blocks on the disk.
///
/// A directory is memtrap's own if it holds the draft that is written first; of others only empty ones with memtrap's
/// kind of name are removed. One that cannot be finished is left as it is, with the reason.
pub fn finish_all(bundle_dir: &Path, now: SystemTime) -> Vec<Result<Published, BundleError>> {
    let mut done = Vec::new();
    for target in subdirectories(bundle_dir) {
        remove::finish(&target);
        for partial in subdirectories(&target) {
            let Some(name) = partial.file_name().and_then(|n| n.to_str()).filter(|n| is_plain_name(n)) else { continue };
            let Some(stem) = name.strip_suffix(SUFFIX) else { continue };
            let Some(id) = target.file_name().and_then(|t| t.to_str()).map(|t| format!("{t}/{stem}")) else { continue };
            done.extend(finish(id, &partial, target.join(stem), now).transpose());
        }
    }
    done
}

fn finish(id: String, path: &Path, published: PathBuf, now: SystemTime) -> Result<Option<Published>, BundleError> {
    let dir = File::open(path).map_err(|e| BundleError::io("open", path, e))?;
    if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let files = Files::at(path.into());
    if let Ok(manifest) = read_manifest(&path.join(MANIFEST)) {
        // the capture was over: only the rename is missing
        let bytes = manifest.files.iter().map(|f| f.bytes).sum();
        let partial = Partial {
            id: id.clone(),
            path: path.into(),
            published: published.clone(),
            files,
            manifest,
            journal: Journal::default(),
            _lock: dir,
        };
        partial.rename()?;
        return Ok(Some(Published { id, path: published, bytes, manifest: partial.manifest }));
    }
    let manifest = match read_manifest(&path.join(DRAFT)) {
        Ok(manifest) => manifest,
        Err(_) => {
            // killed before the draft was whole, or not ours; removes nothing that has another file in it
            if files::walk(path).is_ok_and(|names| names.iter().all(|n| n == DRAFT)) && is_stamped(&id) {
                let _ = files.remove(DRAFT);
                let _ = fs::remove_dir(path);
            }
            return Ok(None);
        }
    };
    let mut partial = Partial { id, path: path.into(), published, files, manifest, journal: Journal::default(), _lock: dir };
    replay(&path.join(JOURNAL), &mut partial);
    let at = clock::rfc3339_millis(now);
    let warning = format!("memtrap was killed or the host went down during this capture; it was finished at {at}");
    partial.manifest.warnings.push(warning);
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
fn replay(journal: &Path, partial: &mut Partial) {
    let Ok(file) = File::open(journal) else { return };
    for line in BufReader::new(file.take(MAX_JOURNAL)).lines() {
        match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
            Some(Line::File(entry)) => partial.manifest.put(entry),
            Some(Line::Warning(text)) => partial.manifest.warnings.push(text),
            None => return,
        }
    }
}

/// Makes the entries say what is on the disk, sums included.
fn reconcile(partial: &mut Partial) -> io::Result<()> {
    let names = files::walk(&partial.path)?;
    for entry in &mut partial.manifest.files {
        if entry.has_file() && !names.contains(&entry.name) {
            *entry = FileEntry {
                status: Status::Failed,
                ..FileEntry::skipped(&entry.step, &entry.name, "the file was lost in the interruption")
            };
        }
    }
    for name in names.iter().filter(|n| ![DRAFT, JOURNAL, MANIFEST].contains(&n.as_str())) {
        let sum = files::sum(&partial.path.join(name))?;
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
