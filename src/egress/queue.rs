//! A queue of deliveries on disk: what is to be sent somewhere, until it has arrived.
//!
//! ```text
//!  push ──> KEY.job ──┬─ delivered ──> KEY.done    (rename: from now on the same key is not queued again)
//!                     ├─ failed ─────> KEY.job     (attempts + 1, next try later)
//!                     └─ abandoned ──> gone
//! ```
//!
//! One small file per job, replaced only by a rename of a synced file, so that a kill at any moment leaves the old or the new
//! state. What is delivered was delivered at least once: a kill between the arrival and the rename repeats it, so a delivery is to be
//! idempotent by its key. Jobs are independent; one that cannot be read is dropped with a line in the log.
//!
//! Blocks on the disk; the directory belongs to one process (it lies in the locked state_dir). Deliberately not here: what is
//! sent, to whom, and how a failure is told from success.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::disk::Dir;
use crate::error::chain;
use crate::text::one_line;

const SCHEMA: u32 = 1;
const JOB: &str = "job";
const DONE: &str = "done";
const FRESH: &str = "new";
/// A job says what to send, not what is sent.
const MAX_JOB: usize = 64 << 10;
const MAX_KEY: usize = 512;
/// Files looked at when the queue is opened.
const MAX_FILES: usize = 200_000;
/// Of all jobs that are taken up: a job has some hundred bytes, and the rest waits on the disk for the next start.
const MAX_BYTES: usize = 16 << 20;
const MAX_WHY: usize = 500;

const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// Why the queue could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("cannot {action} {path}; see that state_dir is a healthy disk with some space, which memtrap may write to")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} deliveries wait already, as many as the queue holds")]
    Full(usize),
    #[error("a delivery's key or content is too large: at most {MAX_KEY} and {MAX_JOB} bytes")]
    TooLarge,
}

/// What is to be delivered. `payload` is the deliverer's own; `key` says what counts as the same delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job<T> {
    schema: u32,
    pub key: String,
    pub payload: T,
    /// Failed ones.
    pub attempts: u32,
    /// Milliseconds since the epoch.
    pub queued_ms: u64,
    pub next_ms: u64,
    /// How the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// It waits already, or was delivered before.
    Known,
}

/// The queue of one kind of delivery.
#[derive(Debug)]
pub struct Queue<T> {
    dir: PathBuf,
    most: usize,
    jobs: BTreeMap<String, Job<T>>,
    done: BTreeSet<String>,
}

impl<T: Clone + Serialize + DeserializeOwned> Queue<T> {
    /// Takes up what lies in `dir`, which is made (0700) if it is not there. Holds at most `most` jobs; what was stored by a
    /// larger one is kept.
    pub fn open(dir: &Path, most: usize) -> Result<Queue<T>, QueueError> {
        let failed = |action, source| QueueError::Io { action, path: dir.to_owned(), source };
        let opened = Dir::make(dir).map_err(|e| failed("make", e))?;
        let mut queue = Queue { dir: dir.to_owned(), most, jobs: BTreeMap::new(), done: BTreeSet::new() };
        let (mut bytes, mut left) = (0, 0);
        for entry in opened.entries(MAX_FILES).map_err(|e| failed("list", e))? {
            let name = Path::new(&entry.name);
            match name.extension().and_then(|e| e.to_str()) {
                Some(JOB) if bytes > MAX_BYTES => left += 1,
                Some(JOB) => match read::<T>(&opened, name) {
                    Ok((job, size)) => {
                        bytes += size;
                        queue.jobs.insert(job.key.clone(), job);
                    }
                    Err(why) => {
                        tracing::error!(path = %dir.join(name).display(), why, "a queued delivery cannot be read; it is dropped");
                        discard(&opened, name);
                    }
                },
                Some(DONE) => match read::<T>(&opened, name) {
                    Ok((job, _)) => drop(queue.done.insert(job.key)),
                    Err(_) => discard(&opened, name),
                },
                // written, but not renamed, by a memtrap that was killed
                Some(FRESH) => discard(&opened, name),
                _ => {}
            }
        }
        if left > 0 {
            tracing::warn!(path = %dir.display(), left, "too many deliveries wait; these are taken up at a later start");
        }
        // killed between the arrival of a job and the removal of an older note of it
        let Queue { jobs, done, .. } = &mut queue;
        done.retain(|key| !jobs.contains_key(key));
        Ok(queue)
    }

    /// Adds a delivery that is due at once, unless its key is known. If it cannot be stored, it is in memory only.
    pub fn push(&mut self, key: &str, payload: T, now: SystemTime) -> Result<Pushed, QueueError> {
        if self.knows(key) {
            return Ok(Pushed::Known);
        }
        if self.jobs.len() >= self.most {
            return Err(QueueError::Full(self.jobs.len()));
        }
        let ms = unix_ms(now);
        let job = Job { schema: SCHEMA, key: key.to_owned(), payload, attempts: 0, queued_ms: ms, next_ms: ms, why: None };
        let written = self.write(&job, JOB);
        if !matches!(written, Err(QueueError::TooLarge)) {
            // in memory even if the disk is full: only a restart forgets it
            self.jobs.insert(key.to_owned(), job);
        }
        written.map(|()| Pushed::Queued)
    }

    /// Whether it waits, or was delivered.
    pub fn knows(&self, key: &str) -> bool {
        self.jobs.contains_key(key) || self.done.contains(key)
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The same of some of them.
    pub fn len_among(&self, wanted: impl Fn(&T) -> bool) -> usize {
        self.jobs.values().filter(|job| wanted(&job.payload)).count()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The job that has waited longest since it became due. One that fails goes to the back, and so blocks no other.
    pub fn due(&self, now: SystemTime) -> Option<&Job<T>> {
        self.due_among(now, |_| true)
    }

    /// The same among some of them.
    pub fn due_among(&self, now: SystemTime, wanted: impl Fn(&T) -> bool) -> Option<&Job<T>> {
        self.first_among(wanted).filter(|job| wait(job, now).is_zero())
    }

    /// How long until the next job is due; `None` if there is none.
    pub fn next_in(&self, now: SystemTime) -> Option<Duration> {
        self.next_in_among(now, |_| true)
    }

    /// The same among some of them.
    pub fn next_in_among(&self, now: SystemTime, wanted: impl Fn(&T) -> bool) -> Option<Duration> {
        self.first_among(wanted).map(|job| wait(job, now))
    }

    fn first_among(&self, wanted: impl Fn(&T) -> bool) -> Option<&Job<T>> {
        self.jobs.values().filter(|job| wanted(&job.payload)).min_by_key(|job| (job.next_ms, job.queued_ms))
    }

    /// How long a job has been waiting; zero if there is none of this key.
    pub fn age(&self, key: &str, now: SystemTime) -> Duration {
        self.jobs.get(key).map_or(Duration::ZERO, |job| Duration::from_millis(unix_ms(now).saturating_sub(job.queued_ms)))
    }

    /// How often it has failed.
    pub fn attempts(&self, key: &str) -> u32 {
        self.jobs.get(key).map_or(0, |job| job.attempts)
    }

    /// Drops the jobs that nobody wants any more; says how many there were.
    pub fn abandon_unless(&mut self, wanted: impl Fn(&T) -> bool) -> Result<usize, QueueError> {
        let stale: Vec<String> = self.jobs.iter().filter(|(_, job)| !wanted(&job.payload)).map(|(key, _)| key.clone()).collect();
        stale.iter().try_for_each(|key| self.abandon(key))?;
        Ok(stale.len())
    }

    /// It has arrived.
    pub fn delivered(&mut self, key: &str) -> Result<(), QueueError> {
        // in memory first: what cannot be noted must not be delivered again and again
        let Some(job) = self.jobs.remove(key) else { return Ok(()) };
        self.done.insert(key.to_owned());
        let (stored, done) = (name(key, JOB), name(key, DONE));
        let renamed = Dir::open(&self.dir).and_then(|dir| dir.rename(OsStr::new(&stored), OsStr::new(&done)).and_then(|()| dir.sync()));
        match renamed {
            // it was in memory only
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.write(&job, DONE),
            renamed => renamed.map_err(|source| QueueError::Io { action: "rename", path: self.dir.join(stored), source }),
        }
    }

    /// It has not arrived; the next try is after a pause that grows with the attempts. `spread` differs from memtrap to memtrap, so
    /// that a fleet does not come back all at once.
    pub fn failed(&mut self, key: &str, why: &str, spread: u64, now: SystemTime) -> Result<Duration, QueueError> {
        let Some(job) = self.jobs.get(key) else { return Ok(Duration::ZERO) };
        let pause = pause(job.attempts, spread);
        let next_ms = unix_ms(now).saturating_add(pause.as_millis() as u64);
        let job = Job { attempts: job.attempts.saturating_add(1), next_ms, why: Some(one_line(why, MAX_WHY)), ..job.clone() };
        // in memory even if the disk is full: a job that fails must not be tried without a pause
        self.jobs.insert(key.to_owned(), job.clone());
        self.write(&job, JOB)?;
        Ok(pause)
    }

    /// Something has changed: everything is due at once. Attempts still count, and a restart still finds the stored pauses.
    pub fn hurry(&mut self, now: SystemTime) {
        let now = unix_ms(now);
        self.jobs.values_mut().for_each(|job| job.next_ms = job.next_ms.min(now));
    }

    /// It cannot arrive any more.
    pub fn abandon(&mut self, key: &str) -> Result<(), QueueError> {
        self.jobs.remove(key);
        self.remove(key, JOB)
    }

    /// Forgets that these were delivered: notes are kept only of what could be queued again.
    pub fn forget_delivered(&mut self, keep: impl Fn(&str) -> bool) -> Result<(), QueueError> {
        let stale: Vec<String> = self.done.iter().filter(|key| !keep(key)).cloned().collect();
        for key in stale {
            self.remove(&key, DONE)?;
            self.done.remove(&key);
        }
        Ok(())
    }

    fn write(&self, job: &Job<T>, kind: &str) -> Result<(), QueueError> {
        let text = serde_json::to_vec(job).ok().filter(|text| text.len() <= MAX_JOB && job.key.len() <= MAX_KEY);
        let text = text.ok_or(QueueError::TooLarge)?;
        let name = name(&job.key, kind);
        let written = Dir::open(&self.dir).and_then(|dir| dir.replace(&name, |file| file.write_all(&text)));
        written.map_err(|source| QueueError::Io { action: "write", path: self.dir.join(name), source })
    }

    fn remove(&self, key: &str, kind: &str) -> Result<(), QueueError> {
        let name = name(key, kind);
        let removed = match Dir::open(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened.and_then(|dir| dir.clear(&name)),
        };
        removed.map_err(|source| QueueError::Io { action: "remove", path: self.dir.join(name), source })
    }
}

/// Keys may hold anything: the file is named after a part of their hash.
fn name(key: &str, kind: &str) -> String {
    format!("{}.{kind}", digest::short(key, 16))
}

/// A job and its size.
fn read<T: DeserializeOwned>(dir: &Dir, path: &Path) -> Result<(Job<T>, usize), String> {
    let mut text = Vec::new();
    let file = dir.own_file(path).map_err(|e| chain(&e))?;
    file.take(MAX_JOB as u64 + 1).read_to_end(&mut text).map_err(|e| chain(&e))?;
    let job: Job<T> = serde_json::from_slice(&text).map_err(|e| one_line(&e.to_string(), 200))?;
    if job.schema != SCHEMA {
        return Err(format!("its schema is {}, not {SCHEMA}", job.schema));
    }
    // under another name it would be found again once it is delivered
    let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if job.key.len() > MAX_KEY || path != Path::new(&name(&job.key, kind)) {
        return Err("its name is not that of its key".to_owned());
    }
    Ok((job, text.len()))
}

/// What stays is looked at again at the next start, and is in nobody's way.
fn discard(dir: &Dir, name: &Path) {
    if let Err(error) = dir.clear(name) {
        tracing::warn!(name = %name.display(), %error, "a file of the queue is of no use and stays");
    }
}

/// How long until it is due. A clock that was set back must not make it wait for longer than any pause.
fn wait<T>(job: &Job<T>, now: SystemTime) -> Duration {
    let left = Duration::from_millis(job.next_ms.saturating_sub(unix_ms(now)));
    if left > LONGEST_PAUSE + LONGEST_PAUSE / 2 { Duration::ZERO } else { left }
}

/// The pause after this many earlier failures: 5 s, doubled each time up to 15 min, and up to half of it more, by `spread`.
pub fn pause(failures: u32, spread: u64) -> Duration {
    let base = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    // any mixing will do: only its being different matters
    let mixed = (spread ^ u64::from(failures)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    base + base.mul_f64(mixed as f64 / (1u64 << 24) as f64 / 2.0)
}

fn unix_ms(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn now() -> SystemTime {
        at(0)
    }

    fn open(dir: &Path) -> Queue<u32> {
        Queue::open(dir, 3).unwrap()
    }

    fn files(dir: &Path) -> Vec<String> {
        let extension = |e: io::Result<fs::DirEntry>| e.unwrap().path().extension().unwrap().to_string_lossy().into_owned();
        let mut found: Vec<String> = fs::read_dir(dir).unwrap().map(extension).collect();
        found.sort();
        found
    }

    #[test]
    fn what_is_queued_survives_and_is_delivered_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        assert_eq!(queue.push("svc/a", 7, at(0)).unwrap(), Pushed::Queued);
        assert_eq!(queue.push("svc/a", 8, at(0)).unwrap(), Pushed::Known);
        let mut queue = open(dir.path());
        let job = queue.due(at(0)).unwrap().clone();
        assert_eq!((job.key.as_str(), job.payload, job.attempts), ("svc/a", 7, 0));
        queue.delivered("svc/a").unwrap();
        assert_eq!((queue.due(at(9)), queue.next_in(at(9))), (None, None));
        let mut queue = open(dir.path());
        assert_eq!(queue.push("svc/a", 7, at(9)).unwrap(), Pushed::Known, "it was delivered");
        queue.forget_delivered(|_| false).unwrap();
        assert_eq!(open(dir.path()).push("svc/a", 7, at(9)).unwrap(), Pushed::Queued);
    }

    #[test]
    fn attempts_and_the_next_try_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("a", 1, at(0)).unwrap();
        let pause = queue.failed("a", "connection refused", 3, at(0)).unwrap();
        assert!((FIRST_PAUSE..FIRST_PAUSE * 2).contains(&pause), "{pause:?}");
        let queue = open(dir.path());
        assert_eq!(queue.due(at(4)), None);
        assert_eq!(queue.next_in(at(0)), Some(Duration::from_millis(pause.as_millis() as u64)));
        let job = queue.due(at(10)).unwrap();
        assert_eq!((job.attempts, job.why.as_deref()), (1, Some("connection refused")));
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_differ_between_memtraps() {
        let pauses: Vec<Duration> = (0..40).map(|n| pause(n, 1)).collect();
        for (n, pause) in pauses.iter().enumerate() {
            let base = FIRST_PAUSE.saturating_mul(1 << n.min(20)).min(LONGEST_PAUSE);
            assert!((base..base * 3 / 2).contains(pause), "{n}: {pause:?}");
        }
        let first: BTreeSet<Duration> = (0..100).map(|spread| pause(0, spread)).collect();
        assert!(first.len() > 90, "{}", first.len());
        assert!(pause(u32::MAX, u64::MAX) < LONGEST_PAUSE * 2);
    }

    #[test]
    fn one_that_fails_blocks_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("bad", 1, at(0)).unwrap();
        queue.push("good", 2, at(1)).unwrap();
        assert_eq!(queue.due(at(2)).unwrap().key, "bad", "the first comes first");
        queue.failed("bad", "no", 0, at(2)).unwrap();
        assert_eq!(queue.due(at(100)).unwrap().key, "good");
    }

    #[test]
    fn a_change_makes_everything_due() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("a", 1, at(0)).unwrap();
        queue.failed("a", "no", 0, at(0)).unwrap();
        assert_eq!(queue.due(at(1)), None);
        queue.hurry(at(1));
        assert_eq!(queue.due(at(1)).unwrap().attempts, 1);
    }

    #[test]
    fn a_clock_set_back_does_not_hold_a_job_for_days() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("a", 1, at(86_400)).unwrap();
        assert_eq!(queue.due(at(0)).unwrap().key, "a");
    }

    #[test]
    fn a_kill_at_any_step_leaves_the_old_or_the_new_state() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("a", 1, at(0)).unwrap();
        // killed while the next state of it was being written: empty, half, whole but not renamed
        for torn in
            [&b""[..], br#"{"schema":1,"key":"a","#, br#"{"schema":1,"key":"a","payload":1,"attempts":9,"queued_ms":0,"next_ms":0}"#]
        {
            fs::write(dir.path().join(format!("{}.{FRESH}", name("a", JOB))), torn).unwrap();
            let again = open(dir.path());
            assert_eq!((again.due(at(0)).unwrap().attempts, files(dir.path())), (0, vec![JOB.to_owned()]));
        }
        // killed in the rename of an arrival: it is either of the two names, never both
        queue.delivered("a").unwrap();
        assert_eq!(files(dir.path()), [DONE]);
        // a key that was forgotten and queued anew while its old note came back from a torn directory
        fs::copy(dir.path().join(name("a", DONE)), dir.path().join(name("a", JOB))).unwrap();
        assert_eq!(open(dir.path()).due(at(0)).unwrap().key, "a", "delivered twice rather than never");
    }

    #[test]
    fn garbage_is_dropped_and_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).push("good", 5, at(0)).unwrap();
        for (n, garbage) in [&b""[..], b"\0\0\0", b"[]", b"{\"schema\":2}", &vec![b'x'; MAX_JOB * 2]].iter().enumerate() {
            fs::write(dir.path().join(format!("{n:032x}.job")), garbage).unwrap();
            fs::write(dir.path().join(format!("{n:032x}.done")), garbage).unwrap();
        }
        fs::write(dir.path().join("someone-elses.txt"), "kept").unwrap();
        let queue = open(dir.path());
        assert_eq!((queue.len(), queue.due(at(0)).unwrap().payload), (1, 5));
        assert_eq!(files(dir.path()), ["job", "txt"]);
    }

    #[test]
    fn what_was_planted_in_the_queue_is_neither_followed_nor_waited_for_nor_held_in_memory() {
        let (dir, victim) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let in_dir = |name: &str| dir.path().join(name);
        let of = |key: &str, payload: u32| {
            serde_json::to_vec(&Job { schema: SCHEMA, key: key.into(), payload, attempts: 0, queued_ms: 0, next_ms: u64::MAX, why: None })
                .unwrap()
        };
        rustix::fs::mknodat(rustix::fs::CWD, in_dir("fifo.job"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::write(victim.path(), of("a", 9)).unwrap();
        std::os::unix::fs::symlink(victim.path(), in_dir(&name("a", JOB))).unwrap();
        std::os::unix::fs::symlink(victim.path(), in_dir(&format!("{}.{FRESH}", name("b", JOB)))).unwrap();
        fs::write(in_dir("another's.job"), of("c", 9)).unwrap();
        let mut queue = open(dir.path());
        assert!(queue.is_empty() && files(dir.path()).is_empty(), "{queue:?}");
        queue.push("b", 2, now()).unwrap();
        assert_eq!(fs::read(victim.path()).unwrap(), of("a", 9));
        fs::write(in_dir(&name("d", JOB)), of("d", 4)).unwrap();
        assert_eq!(
            open(dir.path()).due_among(now(), |payload| *payload == 4).map(|job| job.key.as_str()),
            Some("d"),
            "no pause is so long"
        );

        let (many, padding) = (in_dir("many"), "x".repeat(MAX_JOB - 1_000));
        fs::create_dir(&many).unwrap();
        for n in 0..MAX_BYTES / padding.len() + 10 {
            let key = n.to_string();
            let job = Job { schema: SCHEMA, key: key.clone(), payload: &padding, attempts: 0, queued_ms: 0, next_ms: 0, why: None };
            fs::write(many.join(name(&key, JOB)), serde_json::to_vec(&job).unwrap()).unwrap();
        }
        let again: Queue<String> = Queue::open(&many, 3).unwrap();
        let held = again.len() * padding.len();
        assert!(held > MAX_BYTES / 2 && held < MAX_BYTES + 2 * MAX_JOB, "{held}");
        assert_eq!(files(&many).len(), MAX_BYTES / padding.len() + 10, "the rest is still there");
    }

    #[test]
    fn it_holds_so_many_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        for key in ["a", "b", "c"] {
            queue.push(key, 1, at(0)).unwrap();
        }
        assert!(matches!(queue.push("d", 1, at(0)), Err(QueueError::Full(3))));
        queue.abandon("b").unwrap();
        assert_eq!(queue.push("d", 1, at(0)).unwrap(), Pushed::Queued);
        queue.abandon("a").unwrap();
        assert!(matches!(queue.push(&"k".repeat(600), 1, at(0)), Err(QueueError::TooLarge)));
        assert_eq!((queue.len(), open(dir.path()).len()), (2, 2));
    }

    #[test]
    fn keys_may_hold_anything_and_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(&dir.path().join("q"));
        for key in ["../../etc/passwd", "a/b c\0\n", ""] {
            queue.push(key, 1, at(0)).unwrap();
        }
        assert_eq!(files(&dir.path().join("q")), ["job"; 3]);
        assert_eq!(open(&dir.path().join("q")).len(), 3);
    }

    #[test]
    fn a_disk_that_takes_nothing_still_makes_a_failing_job_wait() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("a", 1, at(0)).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(queue.failed("a", "no", 0, at(0)).is_err());
        assert_eq!(queue.due(at(1)), None);
    }

    #[test]
    fn a_disk_that_takes_nothing_keeps_nothing_from_being_delivered_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path());
        queue.push("a", 1, at(0)).unwrap();
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(queue.push("b", 2, at(0)).is_err());
        for _ in 0..2 {
            let key = queue.due(at(0)).unwrap().key.clone();
            assert!(queue.delivered(&key).is_err());
        }
        assert_eq!(queue.due(at(9_999)), None);
        assert_eq!(queue.push("b", 2, at(0)).unwrap(), Pushed::Known);
        // and once there is room, what was in memory only is noted
        fs::create_dir(dir.path()).unwrap();
        queue
            .jobs
            .insert("c".into(), Job { schema: SCHEMA, key: "c".into(), payload: 3, attempts: 0, queued_ms: 0, next_ms: 0, why: None });
        queue.delivered("c").unwrap();
        assert_eq!(files(dir.path()), [DONE]);
    }
}
