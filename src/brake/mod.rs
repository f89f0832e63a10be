//! The brake: a cgroup that crosses a level of its target is held at the `memory.high` of that moment while the first evidence is taken, and let go. Opt-in.
//!
//! ```text
//!  tripped ─ decide ─> journalled ──> guarded ──> braked ──────────> released ──> closed
//!              │no        │no           │no         │ somebody else       ^          ^
//!              v          v             v           │ sets it: it is       │          │ memtrap's next start, or ExecStopPost=
//!           not braked: the capture goes on         │ theirs               │          │
//!                                                   └───────> captured, 10 s, or memtrap is gone (the guard)
//! ```
//!
//! A witness leaves the scene as it is: nothing but `memory.high` of cgroup v2 is ever written, only to a lower value than stands there, never below what was used when
//! it was decided, and what is put back is the very text that stood there, unless somebody else has set another meanwhile. Three things put it back, each without the others: the thread that
//! has set it, a guard process that outlives memtrap, and the journal. What goes wrong before the write leaves the cgroup alone.
//!
//! Here: the decisions, which are pure, and the thread. `high` is the one place that writes a file of a cgroup; [`journal`] and [`guard`] are what their names say.

pub mod guard;
mod high;
pub mod journal;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use self::high::HighFile;
use self::journal::Journal;
use crate::clock::{self, Mono};
use crate::error::chain;
use crate::host::ProcFs;
use crate::host::cgroup::{CgroupRef, Level, Version};
use crate::trigger::{Fired, Trigger};
use crate::units::ByteSize;

/// How long a cgroup is held at most.
pub const LONGEST: Duration = Duration::from_secs(10);
/// After this the guard lets go, whatever memtrap does.
pub const HARD: Duration = Duration::from_secs(30);
/// How long a capture waits for its brake.
const PATIENCE: Duration = Duration::from_secs(2);
/// Above the usage of the moment: what may be allocated until it is written.
const HEADROOM: u64 = 128;
const LEAST_HEADROOM: u64 = 1 << 20;
/// What grows while the guard starts and the journal reaches the disk may be above the value by this share of it: there the kernel makes
/// whoever allocates wait a quarter of a second for 256 KiB (64 s times the square of the share, mm/memcontrol.c).
const OVERTAKEN: u64 = 16;
/// A `memory.high` that is no further above the usage than this share of it does what the brake would.
const AS_GOOD: (u64, u64) = (203, 200);
/// `memory.high` is counted in these; larger pages than any kernel's of today.
const PAGE: u64 = 64 << 10;

/// Why a cgroup is not held.
#[derive(Debug, thiserror::Error)]
pub enum NoBrake {
    #[error("cgroup v1 has no memory.high")]
    V1,
    #[error("no cgroup of it has a memory.max that it could die of")]
    NoLimit,
    #[error("memtrap itself is in cgroup {0}, and would be slowed with it")]
    Own(String),
    #[error("memory.high of cgroup {cgroup} is {} already, and it uses {}", ByteSize(*.high), ByteSize(*.usage))]
    Slowed { cgroup: String, high: u64, usage: u64 },
    #[error("cgroup {cgroup} uses {} of its limit of {} already", ByteSize(*.usage), ByteSize(*.max))]
    TooLate { cgroup: String, usage: u64, max: u64 },
    #[error("{what} of cgroup {cgroup}: {source}{}", cure(.source))]
    File { what: &'static str, cgroup: String, source: std::io::Error },
    #[error("what it holds could not be noted in {path}: {source}; a cgroup that memtrap may forget is not held")]
    Journal { path: PathBuf, source: std::io::Error },
    #[error("no guard beside memtrap: {0}")]
    NoGuard(String),
    #[error("somebody else has set memory.high of cgroup {0} meanwhile")]
    Contended(String),
    #[error("it was not in place within {}", clock::human(PATIENCE))]
    Late,
    #[error("no thread for it: {0}")]
    NoThread(std::io::Error),
}

fn cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => "; systemd/drop-ins/brake.conf says what it takes",
        _ => "",
    }
}

/// What stands in a cgroup at one moment, bytes. `None`: `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub high: Option<u64>,
    pub usage: u64,
    /// The least `memory.max` of it and its ancestors; `u64::MAX` without one.
    pub max: u64,
}

impl Standing {
    /// Where it is held.
    pub fn decide(self, cgroup: &str) -> Result<u64, NoBrake> {
        let Standing { high, usage, max } = self;
        let slowed = |high| NoBrake::Slowed { cgroup: cgroup.to_owned(), high, usage };
        if let Some(high) = high.filter(|high| high / AS_GOOD.0 * AS_GOOD.1 <= usage) {
            return Err(slowed(high));
        }
        let above = usage.saturating_add((usage / HEADROOM).max(LEAST_HEADROOM));
        let new = above.div_ceil(PAGE).saturating_mul(PAGE);
        match high {
            _ if max == u64::MAX => Err(NoBrake::NoLimit),
            _ if new >= max => Err(NoBrake::TooLate { cgroup: cgroup.to_owned(), usage, max }),
            // it only ever lowers
            Some(high) if new >= high => Err(slowed(high)),
            _ => Ok(new),
        }
    }

    /// Whether it has grown too far above the value for that to be written still: far below what is used, each step of whoever allocates would
    /// take seconds.
    fn has_left_behind(self, new: u64) -> bool {
        self.usage > new.saturating_add(new / OVERTAKEN)
    }
}

/// Whether this is what a cgroup is held for: a level on the way to its limit, and not a person's wish or a slope far below.
pub fn is_wanted(fired: &Fired) -> bool {
    matches!(fired.trigger, Trigger::Threshold | Trigger::Eta)
}

/// What is to be held.
#[derive(Clone, Debug)]
pub struct Wish {
    pub cgroup: CgroupRef,
    /// The path of that level which fired, if it was a cgroup's charge.
    pub fired: Option<String>,
    pub incident: String,
    pub boot_id: String,
    /// Where the journal is.
    pub journal: PathBuf,
    pub procfs: ProcFs,
    /// The program that guards; this one.
    pub program: PathBuf,
}

/// A cgroup that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Braked {
    pub cgroup: String,
    pub high: u64,
    /// The text that stood there.
    pub before: String,
}

/// How it was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    pub held: Duration,
    /// False: somebody else had set it, and it is theirs.
    pub was_ours: bool,
}

/// A thread that holds a cgroup until it is told, for [`LONGEST`] at most. Dropping this lets go too.
#[derive(Debug)]
pub struct Holding {
    release: Sender<()>,
    released: oneshot::Receiver<Released>,
    pub braked: Braked,
}

impl Holding {
    /// Holds what is wished, or says why not: within two seconds, whatever a disk does. If the future is dropped, it is let go.
    pub async fn begin(wish: Wish) -> Result<Holding, NoBrake> {
        let ((release, told), (engaged, answer), (done, released)) = (channel(), oneshot::channel(), oneshot::channel());
        let work = move || hold(&wish, &told, engaged, done);
        std::thread::Builder::new().name("brake".into()).spawn(work).map_err(NoBrake::NoThread)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(Holding { release, released, braked: answer? }),
            // that it is not wanted any more is seen by the thread
            _ => Err(NoBrake::Late),
        }
    }

    /// Lets go. `None`: that takes long; the thread goes on with it, and the guard is there.
    pub async fn end(self) -> Option<Released> {
        drop(self.release);
        tokio::time::timeout(PATIENCE, self.released).await.ok()?.ok()
    }
}

/// Whether a process's cgroup could be held now: writes the value that stands there.
pub fn could_hold(cgroup: &CgroupRef) -> Result<(), NoBrake> {
    if cgroup.version == Version::V1 {
        return Err(NoBrake::V1);
    }
    let Level { name, dir } = cgroup.own();
    high::probe(dir).map_err(|source| NoBrake::File { what: "memory.high", cgroup: name.clone(), source })
}

/// The whole life of one hold, on a thread of its own.
fn hold(wish: &Wish, told: &Receiver<()>, engaged: oneshot::Sender<Result<Braked, NoBrake>>, done: oneshot::Sender<Released>) {
    let (held, braked, guard) = match engage(wish, told) {
        Ok(held) => held,
        Err(why) => {
            let _ = engaged.send(Err(why));
            return;
        }
    };
    let began = Mono::now();
    let cgroup = braked.cgroup.clone();
    tracing::warn!(cgroup, high = braked.high, before = braked.before, "the cgroup is held at memory.high for the first evidence");
    // nobody waits any more: it is let go at once
    let is_wanted = engaged.send(Ok(braked)).is_ok();
    if is_wanted && let Err(RecvTimeoutError::Timeout) = told.recv_timeout(LONGEST) {
        tracing::info!(cgroup, "the first evidence takes longer than the cgroup is held");
    }
    let was_ours = held.release();
    let released = Released { held: Mono::now().since(began), was_ours: matches!(was_ours, Ok(true)) };
    match was_ours {
        Ok(was_ours) => tracing::warn!(cgroup, was_ours, held = clock::human(released.held), "the cgroup is let go"),
        Err(error) => {
            tracing::error!(cgroup, error = chain(&error), "memory.high could not be put back: the guard, and the next start, try again")
        }
    }
    // it looks for itself, and finds nothing to do
    guard.end();
    let _ = done.send(released);
}

/// A cgroup that is held, with its entry in the journal.
struct Held {
    file: HighFile,
    before: String,
    new: u64,
    journal: Journal,
    entry: String,
}

impl Held {
    /// True if it was still ours to put back.
    fn release(&self) -> std::io::Result<bool> {
        let was_ours = self.file.put_back(self.new, &self.before);
        match &was_ours {
            // a cgroup that is gone takes everything with it
            Ok(_) => self.journal.close(&self.entry),
            Err(e) if is_gone(e) => {
                self.journal.close(&self.entry);
                return Ok(false);
            }
            Err(_) => {}
        }
        was_ours
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(error), Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV))
}

fn engage(wish: &Wish, told: &Receiver<()>) -> Result<(Held, Braked, guard::Guard), NoBrake> {
    let level = level_of(wish)?;
    let cgroup = level.name.clone();
    let failed = |what| {
        let cgroup = cgroup.clone();
        move |source| NoBrake::File { what, cgroup, source }
    };
    let file = HighFile::open(&level.dir).map_err(failed("memory.high"))?;
    let (before, standing) = stands(&file, wish).map_err(failed("its files"))?;
    let new = standing.decide(&cgroup)?;
    let inode = file.inode();
    let guard = guard::Guard::start(&wish.program, &level.dir, inode, &before, new).map_err(NoBrake::NoGuard)?;
    let noted = |source| NoBrake::Journal { path: wish.journal.clone(), source };
    let journal = Journal::open(&wish.journal).map_err(noted)?;
    let note = journal::Entry {
        schema: journal::SCHEMA,
        cgroup: cgroup.clone(),
        dir: level.dir.clone(),
        inode,
        boot_id: wish.boot_id.clone(),
        file: high::FILE.into(),
        before: before.clone(),
        new,
        until: clock::rfc3339_millis(clock::wall_now() + HARD),
        incident: wish.incident.clone(),
    };
    let entry = journal.note(&note).map_err(noted)?;
    let held = Held { file, before, new, journal, entry };
    // what took long may not be wanted any more, and what stood there may have changed
    let is_wanted = !matches!(told.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    let now = stands(&held.file, wish).map_err(failed("its files"));
    let placed = match now {
        _ if !is_wanted => Err(NoBrake::Late),
        Err(why) => Err(why),
        Ok((text, _)) if text != held.before => Err(NoBrake::Contended(cgroup.clone())),
        Ok((_, now)) if now.has_left_behind(new) => Err(NoBrake::TooLate { cgroup: cgroup.clone(), usage: now.usage, max: now.max }),
        Ok(_) => held.file.lower_to(new).map_err(failed("memory.high")).and_then(|is_ours| match is_ours {
            true => Ok(()),
            false => Err(NoBrake::Contended(cgroup.clone())),
        }),
    };
    if let Err(why) = placed {
        // if something was written, it is put back; and the guard looks after it
        let _ = held.release();
        guard.end();
        return Err(why);
    }
    let braked = Braked { cgroup, high: new, before: held.before.clone() };
    Ok((held, braked, guard))
}

/// Which cgroup is held: the one that fired, else the process's own.
fn level_of(wish: &Wish) -> Result<&Level, NoBrake> {
    if wish.cgroup.version == Version::V1 {
        return Err(NoBrake::V1);
    }
    let fired = wish.fired.as_ref().and_then(|name| wish.cgroup.levels().iter().find(|level| level.name == *name));
    let level = fired.unwrap_or(wish.cgroup.own());
    let own = CgroupRef::of(&wish.procfs, std::process::id()).ok().flatten();
    match own.is_some_and(|own| own.levels().iter().any(|own| own.dir == level.dir)) {
        true => Err(NoBrake::Own(level.name.clone())),
        false => Ok(level),
    }
}

/// The text of `memory.high`, and the numbers.
fn stands(file: &HighFile, wish: &Wish) -> std::io::Result<(String, Standing)> {
    let before = file.read()?;
    let max = wish.cgroup.levels().iter().filter_map(|level| level.number("memory.max")).min();
    let standing = Standing { high: before.parse().ok(), usage: file.usage()?, max: max.unwrap_or(u64::MAX) };
    Ok((before, standing))
}

#[cfg(test)]
mod tests;
