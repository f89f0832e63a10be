//! What outlives memtrap: incidents, cooldowns and the hourly budget, in `state_dir/state.json`; the floors of RSS, in `floors.json` (see `floors`).
//!
//! Written whole, atomically, off the polling thread. A file that cannot be understood is set aside, never trusted: the cost is
//! a forgotten cooldown, not a daemon that does not start.

mod floors;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use floors::{FloorsOf, KeptFloors};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::aside::may_block;
use crate::budget::Spending;
use crate::clock::Mono;
use crate::disk::{Dir, trust};
use crate::incident::SavedSlot;
use crate::units::ByteSize;
use crate::writable;

const SCHEMA: u32 = 1;
/// Held by the memtrap that runs.
const LOCK: &str = "lock";
const STATE: &str = "state.json";
/// 10,000 open incidents are some 5 MB. What was made to fill memory takes ten times the bytes once it is parsed, and the unit has 256 MiB.
const MAX_BYTES: u64 = 8 << 20;

/// Everything that is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub schema: u32,
    /// Process start times and the monotonic clock mean something within one boot only.
    pub boot_id: String,
    pub mono: Mono,
    pub unix_ms: u64,
    /// The captures of the last hour.
    pub budget: Vec<Spending>,
    pub targets: BTreeMap<String, Vec<SavedSlot>>,
}

impl Saved {
    pub fn new(boot_id: &str, mono: Mono, wall: SystemTime) -> Saved {
        Saved { schema: SCHEMA, boot_id: boot_id.to_owned(), mono, unix_ms: unix_ms(wall), budget: Vec::new(), targets: BTreeMap::new() }
    }

    /// Time passed since it was stored. Across a boot only the wall clock can tell; one that was set back tells nothing.
    pub fn elapsed(&self, boot_id: &str, mono: Mono, wall: SystemTime) -> Duration {
        let stored = Moment { boot_id: &self.boot_id, mono: self.mono, unix_ms: self.unix_ms };
        stored.elapsed(boot_id, mono, wall)
    }

    /// When it was stored, by the wall clock of then.
    pub fn stored(&self) -> SystemTime {
        by_unix_ms(self.unix_ms)
    }

    /// After a boot no stored process of this host can still be there.
    pub fn forget_processes(mut self, boot_id: &str) -> Saved {
        if self.boot_id != boot_id {
            self.targets.values_mut().flatten().for_each(|slot| slot.instance = slot.instance.take().filter(|id| id.process().is_none()));
        }
        self
    }
}

/// When something was stored.
struct Moment<'s> {
    boot_id: &'s str,
    mono: Mono,
    unix_ms: u64,
}

impl Moment<'_> {
    /// See [`Saved::elapsed`].
    fn elapsed(&self, boot_id: &str, mono: Mono, wall: SystemTime) -> Duration {
        let within = (self.boot_id == boot_id).then(|| mono.since(self.mono));
        within.unwrap_or_else(|| wall.duration_since(by_unix_ms(self.unix_ms)).unwrap_or(Duration::ZERO))
    }
}

fn by_unix_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn unix_ms(wall: SystemTime) -> u64 {
    wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use state_dir {path}: {source}; it must be a directory that memtrap's user may write to")]
    Dir { path: PathBuf, source: io::Error },
    #[error("cannot trust state_dir {path}: {why}")]
    Untrusted { path: PathBuf, why: String },
    #[error("another memtrap runs with state_dir {path}; stop it, or give this one a state_dir of its own")]
    Locked { path: PathBuf },
    #[error("writing {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// The state directory, locked for this process, and held open: whatever becomes of its name, the state stays in it.
#[derive(Debug)]
pub struct Store {
    dir: Dir,
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates the directory (0700) if needed and locks it. One that someone else could change is refused.
    pub fn open(path: &Path) -> Result<Store, StateError> {
        may_block();
        let in_dir = |source| StateError::Dir { path: path.to_owned(), source };
        for doubt in judged(path, trust::settle(path, false))? {
            tracing::warn!(doubt, "who else may change state_dir");
        }
        let dir = Dir::make(path).map_err(in_dir)?;
        let lock = dir.lock_file(LOCK).map_err(in_dir)?;
        match lock.try_lock() {
            Ok(()) => Ok(Store { dir, path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(e)) => Err(in_dir(e)),
        }
    }

    /// Whether a memtrap runs with this directory, and what should be known of it; an error if [`Store::open`] would fail even if none did.
    /// Makes nothing that stays.
    pub fn probe(path: &Path) -> Result<(bool, Vec<String>), StateError> {
        let in_dir = |source| StateError::Dir { path: path.to_owned(), source };
        let notes = judged(path, trust::foresee(path, false))?;
        writable::try_dir(path).map_err(in_dir)?;
        let lock = match Dir::open(path).and_then(|dir| dir.file(LOCK)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((false, notes)),
            opened => opened.map_err(in_dir)?,
        };
        match lock.try_lock() {
            Ok(()) => Ok((false, notes)),
            Err(TryLockError::WouldBlock) => Ok((true, notes)),
            Err(TryLockError::Error(e)) => Err(in_dir(e)),
        }
    }

    /// What was stored last; `None` if nothing, or nothing that can be used (which is logged and set aside).
    pub fn load(&self) -> Option<Saved> {
        self.load_or_set_aside(STATE, MAX_BYTES, |saved: &Saved| saved.schema)
    }

    fn load_or_set_aside<T: DeserializeOwned>(&self, name: &str, most: u64, schema: fn(&T) -> u32) -> Option<T> {
        match self.read(name, most, schema) {
            Ok(saved) => saved,
            Err(why) => {
                let aside = format!("{name}.unreadable");
                let kept = self.path.join(&aside);
                tracing::warn!(path = %self.path.join(name).display(), why, kept = %kept.display(), "stored state is unusable; starting without it");
                if let Err(error) = self.dir.rename(name.as_ref(), aside.as_ref()) {
                    tracing::warn!(%error, "it could not be set aside");
                }
                None
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str, most: u64, schema: fn(&T) -> u32) -> Result<Option<T>, String> {
        let file = match self.dir.own_file(name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|e| e.to_string())?,
        };
        let bytes = file.metadata().map_err(|e| e.to_string())?.len();
        if bytes > most {
            return Err(format!("it has {}, more than any state that memtrap stores ({})", ByteSize(bytes), ByteSize(most)));
        }
        // parsed as it is read: never whole in memory as a text
        let saved: T = serde_json::from_reader(BufReader::new(file.take(most))).map_err(|e| e.to_string())?;
        let schema = schema(&saved);
        if schema == SCHEMA { Ok(Some(saved)) } else { Err(format!("schema {schema} is not {SCHEMA}")) }
    }

    /// Replaces the stored state. Blocks on the disk. After a crash at any moment the old or the new one is there, whole.
    pub fn save(&self, saved: &Saved) -> Result<(), StateError> {
        self.replace(STATE, MAX_BYTES, saved)
    }

    fn replace(&self, name: &str, most: u64, saved: &impl Serialize) -> Result<(), StateError> {
        let write = |file: &mut File| {
            let mut out = BufWriter::new(Bounded { out: file, most, left: most });
            serde_json::to_writer(&mut out, saved)?;
            out.flush()
        };
        self.dir.replace(name, write).map_err(|source| StateError::Write { path: self.path.join(name), source })
    }
}

fn judged(path: &Path, judged: io::Result<Result<Vec<String>, String>>) -> Result<Vec<String>, StateError> {
    let judged = judged.map_err(|source| StateError::Dir { path: path.to_owned(), source })?;
    judged.map_err(|why| StateError::Untrusted { path: path.to_owned(), why })
}

/// Takes so many bytes: what would not be read again must not be stored.
struct Bounded<'f> {
    out: &'f mut File,
    most: u64,
    left: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other(format!("it would be larger than {}", ByteSize(self.most))));
        }
        let written = self.out.write(bytes)?;
        self.left = self.left.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::budget::{Bounds, Budget};

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn saved() -> Saved {
        let mut saved = Saved::new("boot-1", Mono::from_secs(100), wall(5_000));
        let slot = SavedSlot { cooldown_left: Some(Duration::from_secs(9)), ..SavedSlot::default() };
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
            fs::write(dir.path().join(STATE), garbage).unwrap();
            assert_eq!(store.load(), None, "{garbage}");
            assert!(!dir.path().join(STATE).exists());
        }
    }

    #[test]
    fn more_than_any_state_is_set_aside_unread_and_never_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // sparse: to read it would take hours
        File::create(dir.path().join(STATE)).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(store.load(), None);
        assert_eq!(fs::metadata(dir.path().join("state.json.unreadable")).unwrap().len(), 1 << 40);
        store.save(&saved()).unwrap();
        let mut large = saved();
        large.targets.insert("x".repeat(MAX_BYTES as usize), Vec::new());
        assert!(store.save(&large).is_err());
        assert_eq!(store.load(), Some(saved()), "the one before stays");
    }

    #[test]
    fn absurd_times_in_the_state_are_taken_for_what_they_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut absurd = Saved::new("boot-1", Mono::from_nanos(u64::MAX), wall(u64::MAX / 2_000_000_000));
        absurd.budget = serde_json::from_str(&serde_json::to_string(&[Duration::MAX, Duration::from_secs(1)]).unwrap()).unwrap();
        let slot = SavedSlot { cooldown_left: Some(Duration::MAX), ..saved().targets["checkout"][0].clone() };
        absurd.targets.insert("checkout".into(), vec![slot]);
        absurd.unix_ms = u64::MAX;
        store.save(&absurd).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded, absurd);
        let now = Mono::from_secs(100);
        for boot in ["boot-1", "boot-2"] {
            let elapsed = loaded.elapsed(boot, now, wall(5_000));
            let mut budget = Budget::new(Bounds { concurrent: 1, per_hour: 2, targets: 1 });
            budget.restore(loaded.budget.clone(), elapsed, now);
            budget.restore(loaded.budget.clone(), Duration::MAX, now);
            let rules = crate::config::Rules::default();
            let slot = crate::incident::Slot::restore(loaded.targets["checkout"][0].clone(), elapsed, &rules, Duration::from_secs(1), now);
            let until = slot.cooldown_until(now).unwrap().since(now);
            assert!(until <= *crate::config::COOLDOWNS.end(), "{until:?}");
        }
    }

    #[test]
    fn what_was_planted_in_the_state_directory_is_neither_followed_nor_waited_for() {
        let (home, victim) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let dir = home.path().join("state");
        fs::create_dir(&dir).unwrap();
        let fifo = |name: &str| rustix::fs::mknodat(rustix::fs::CWD, dir.join(name), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(victim.path(), "precious").unwrap();
        fifo(LOCK);
        assert!(matches!(Store::open(&dir), Err(StateError::Dir { .. })));
        assert!(Store::probe(&dir).is_err());
        fs::remove_file(dir.join(LOCK)).unwrap();
        symlink(victim.path(), dir.join(LOCK)).unwrap();
        assert!(matches!(Store::open(&dir), Err(StateError::Dir { .. })));
        fs::remove_file(dir.join(LOCK)).unwrap();
        let store = Store::open(&dir).unwrap();
        fifo(STATE);
        assert_eq!(store.load(), None);
        symlink(victim.path(), dir.join("state.json.new")).unwrap();
        store.save(&saved()).unwrap();
        assert_eq!(store.load(), Some(saved()));
        fs::rename(dir.join(STATE), dir.join("elsewhere")).unwrap();
        symlink("elsewhere", dir.join(STATE)).unwrap();
        assert_eq!(store.load(), None, "not even over a link to a state of its own");
        assert_eq!(fs::read_to_string(victim.path()).unwrap(), "precious");
    }

    #[test]
    fn a_state_directory_that_others_may_write_is_taken_back_or_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Store::probe(&dir).unwrap().1[0].contains("0777"), "a probe says so");
        let mode = || fs::metadata(&dir).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o777, "and changes nothing");
        Store::open(&dir).unwrap();
        assert_eq!(mode(), 0o755);
        if !rustix::process::geteuid().is_root() {
            return; // gives nothing to another
        }
        std::os::unix::fs::chown(&dir, Some(12_345), None).unwrap();
        let refused = Store::open(&dir).unwrap_err().to_string();
        assert!(refused.contains("user 12345") && refused.contains("chown"), "{refused}");
        assert!(Store::probe(&dir).unwrap().1[0].contains("user 12345"), "it may be right for who runs memtrap");
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
