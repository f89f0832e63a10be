//! What outlives memtrap: incidents, cooldowns and the hourly budget, in `state_dir/state.json`.
//!
//! Written whole, atomically, off the polling thread. A file that cannot be understood is set aside, never trusted: the cost is
//! a forgotten cooldown, not a daemon that does not start.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock::Mono;
use crate::incident::SavedSlot;
use crate::writable;

const SCHEMA: u32 = 1;
/// Held by the memtrap that runs.
const LOCK: &str = "lock";
/// 10,000 open incidents are some 5 MB.
const MAX_BYTES: u64 = 64 << 20;

/// Everything that is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub schema: u32,
    /// Process start times and the monotonic clock mean something within one boot only.
    pub boot_id: String,
    pub mono: Mono,
    pub unix_ms: u64,
    /// How long ago the captures of the last hour had started.
    pub budget: Vec<Duration>,
    pub targets: BTreeMap<String, Vec<SavedSlot>>,
}

impl Saved {
    pub fn new(boot_id: &str, mono: Mono, wall: SystemTime) -> Saved {
        let unix_ms = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Saved { schema: SCHEMA, boot_id: boot_id.to_owned(), mono, unix_ms, budget: Vec::new(), targets: BTreeMap::new() }
    }

    /// Time passed since it was stored. Across a boot only the wall clock can tell; one that was set back tells nothing.
    pub fn elapsed(&self, boot_id: &str, mono: Mono, wall: SystemTime) -> Duration {
        if self.boot_id == boot_id {
            return mono.since(self.mono);
        }
        wall.duration_since(self.stored()).unwrap_or(Duration::ZERO)
    }

    /// When it was stored, by the wall clock of then.
    pub fn stored(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.unix_ms)
    }

    /// After a boot no stored process of this host can still be there.
    pub fn forget_processes(mut self, boot_id: &str) -> Saved {
        if self.boot_id != boot_id {
            self.targets.values_mut().flatten().for_each(|slot| slot.instance = slot.instance.take().filter(|id| id.process().is_none()));
        }
        self
    }
}

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use state_dir {path}: {source}; it must be a directory that memtrap's user may write to")]
    Dir { path: PathBuf, source: io::Error },
    #[error("another memtrap runs with state_dir {path}; stop it, or give this one a state_dir of its own")]
    Locked { path: PathBuf },
    #[error("writing {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates the directory (0700) if needed and locks it.
    pub fn open(dir: &Path) -> Result<Store, StateError> {
        let in_dir = |source| StateError::Dir { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(in_dir)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK)).map_err(in_dir)?;
        match lock.try_lock() {
            Ok(()) => Ok(Store { dir: dir.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::Locked { path: dir.to_owned() }),
            Err(fs::TryLockError::Error(e)) => Err(in_dir(e)),
        }
    }

    /// Whether a memtrap runs with this directory; an error if [`Store::open`] would fail even if none did. Makes nothing that stays.
    pub fn probe(dir: &Path) -> Result<bool, StateError> {
        let in_dir = |source| StateError::Dir { path: dir.to_owned(), source };
        writable::try_dir(dir).map_err(in_dir)?;
        let lock = match OpenOptions::new().write(true).open(dir.join(LOCK)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(in_dir)?,
        };
        match lock.try_lock() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(e)) => Err(in_dir(e)),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// What was stored last; `None` if nothing, or nothing that can be used (which is logged and set aside).
    pub fn load(&self) -> Option<Saved> {
        match self.read() {
            Ok(saved) => saved,
            Err(why) => {
                let aside = self.dir.join("state.json.unreadable");
                tracing::warn!(path = %self.path().display(), why, kept = %aside.display(), "stored state is unusable; starting without it");
                let _ = fs::rename(self.path(), aside);
                None
            }
        }
    }

    fn read(&self) -> Result<Option<Saved>, String> {
        let file = match File::open(self.path()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| e.to_string())?,
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(|e| e.to_string())?;
        let saved: Saved = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        if saved.schema == SCHEMA { Ok(Some(saved)) } else { Err(format!("schema {} is not {SCHEMA}", saved.schema)) }
    }

    /// Replaces the stored state. Blocks on the disk. After a crash at any moment the old or the new one is there, whole.
    pub fn save(&self, saved: &Saved) -> Result<(), StateError> {
        let path = self.path();
        self.replace(&path, saved).map_err(|source| StateError::Write { path, source })
    }

    fn replace(&self, path: &Path, saved: &Saved) -> io::Result<()> {
        let fresh = self.dir.join("state.json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn saved() -> Saved {
        let mut saved = Saved::new("boot-1", Mono::from_secs(100), wall(5_000));
        let slot =
            SavedSlot { instance: None, incident: None, capturing: false, retrying: false, cooldown_left: Some(Duration::from_secs(9)) };
        saved.targets.insert("checkout".into(), vec![slot]);
        saved
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load(), None);
        store.save(&saved()).unwrap();
        assert_eq!(store.load(), Some(saved()));
    }

    #[test]
    fn garbage_is_set_aside_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for garbage in ["", "{", "[]", r#"{"schema":99,"boot_id":"","mono":0,"unix_ms":0,"budget":[],"targets":{}}"#] {
            fs::write(store.path(), garbage).unwrap();
            assert_eq!(store.load(), None, "{garbage}");
            assert!(!store.path().exists());
        }
    }

    #[test]
    fn a_second_memtrap_is_turned_away() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StateError::Locked { .. })));
    }

    #[test]
    fn within_a_boot_the_monotonic_clock_counts_and_across_boots_the_wall() {
        let s = saved();
        assert_eq!(s.elapsed("boot-1", Mono::from_secs(160), wall(1)), Duration::from_secs(60), "the wall clock was set back");
        assert_eq!(s.elapsed("boot-2", Mono::from_secs(5), wall(5_100)), Duration::from_secs(100));
        assert_eq!(s.elapsed("boot-2", Mono::from_secs(5), wall(4_000)), Duration::ZERO);
    }
}
