//! The kernel's word that a cgroup has met a level, without being asked: `memory.events` of v2, and eventfds on the usage and on OOM kills of v1.
//!
//! ```text
//!  v2  memory.events           POLLPRI    memory.high or memory.max was met, or something killed; readable by everybody
//!  v1  memory.usage_in_bytes   eventfd    the usage has crossed a level        ┐ asked for in cgroup.event_control: the file system
//!  v1  memory.oom_control      eventfd    out of memory                        ┘ must not be mounted read-only for memtrap
//! ```
//!
//! What rings tells no more than that it is time to look: page cache rings all day, and does no harm. So a bell that has rung is silent for [`REST`]; the first
//! ring after that is told at once. What the kernel says meanwhile is not lost: the bell rings again at its end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;

use super::cgroup::{Level, Version};
use super::charge::usage_file;
use crate::clock::Mono;

/// Between two looks at a cgroup that goes on ringing.
pub const REST: Duration = Duration::from_millis(100);
/// `memory.events` has eight lines.
const EVENTS: usize = 1024;
/// What is taken from the kernel at once.
const AT_ONCE: usize = 64;
/// `CGROUP_SUPER_MAGIC` of the kernel's `magic.h`.
const CGROUP_V1: rustix::fs::FsWord = 0x27_e0eb;
/// The bell that ends the listening.
const END: BellId = BellId(0);

/// Tells bells apart; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BellId(u64);

impl BellId {
    #[cfg(test)]
    pub fn for_test(id: u64) -> BellId {
        BellId(id)
    }
}

/// What a ring says has happened since the bell was heard last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rang {
    /// A limit was met: the kernel reclaims, slows or kills. Of a cgroup or what is below it; v2 only.
    pub limit: bool,
    /// Something was killed for it.
    pub kill: bool,
}

impl Rang {
    pub fn and(self, other: Rang) -> Rang {
        Rang { limit: self.limit || other.limit, kill: self.kill || other.kill }
    }
}

/// The bells that are listened to. Dropping the last [`Hung`] of a cgroup takes its bell down.
#[derive(Debug)]
pub struct Bells {
    epoll: OwnedFd,
    end: OwnedFd,
    hung: Mutex<HashMap<u64, Arc<Bell>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// With what was counted when it was heard last.
    Events(Mutex<Counts>),
    Usage,
    Oom,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    met: u64,
    killed: u64,
}

/// A bell that hangs, and rings until this is dropped.
#[derive(Debug)]
pub struct Hung {
    pub id: BellId,
    bells: Arc<Bells>,
}

impl Drop for Hung {
    fn drop(&mut self) {
        // closed with it, which ends the waiting for it too
        self.bells.lock().remove(&self.id.0);
    }
}

impl Bells {
    pub fn new() -> io::Result<Arc<Bells>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &end, epoll::EventData::new_u64(END.0), epoll::EventFlags::IN)?;
        Ok(Arc::new(Bells { epoll, end, hung: Mutex::default(), next: AtomicU64::new(END.0 + 1) }))
    }

    /// Rings when a cgroup of v2, or one below it, meets a limit or is killed in.
    pub fn hang_events(self: &Arc<Bells>, level: &Level) -> io::Result<Hung> {
        let fd = open(level, "memory.events", OFlags::RDONLY)?;
        // what was before is nothing new; and a file that was never read rings at once
        let counts = Counts::read(fd.as_fd())?;
        self.hang(Bell { fd, kind: Kind::Events(Mutex::new(counts)) }, epoll::EventFlags::PRI)
    }

    /// Rings when the usage of a cgroup of v1 crosses so many bytes.
    pub fn hang_usage(self: &Arc<Bells>, level: &Level, bytes: u64) -> io::Result<Hung> {
        let fd = ask_for_events(level, usage_file(Version::V1), &bytes.to_string())?;
        self.hang(Bell { fd, kind: Kind::Usage }, epoll::EventFlags::IN)
    }

    /// Rings when a cgroup of v1 is out of memory.
    pub fn hang_oom(self: &Arc<Bells>, level: &Level) -> io::Result<Hung> {
        let fd = ask_for_events(level, "memory.oom_control", "")?;
        self.hang(Bell { fd, kind: Kind::Oom }, epoll::EventFlags::IN)
    }

    fn hang(self: &Arc<Bells>, bell: Bell, flags: epoll::EventFlags) -> io::Result<Hung> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        epoll::add(&self.epoll, &bell.fd, epoll::EventData::new_u64(id), flags | epoll::EventFlags::ONESHOT)?;
        self.lock().insert(id, Arc::new(bell));
        Ok(Hung { id: BellId(id), bells: self.clone() })
    }

    /// Files that are open for bells.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whoever listens hears no more.
    pub fn end(&self) {
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
    }

    /// Waits for rings and tells of each, until [`Bells::end`] or until `tell` says that nobody is interested. For a thread of its own.
    pub fn listen(&self, mut tell: impl FnMut(BellId, Rang) -> bool) {
        // until when, and what is told only then
        let mut resting: VecDeque<(Mono, u64, Option<Rang>)> = VecDeque::new();
        loop {
            let wait = resting.front().map(|(until, ..)| until.since(Mono::now()));
            let mut events = Vec::with_capacity(AT_ONCE);
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), wait.map(timespec).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cgroups are not listened to any more; they are polled as ever");
                    return;
                }
            }
            for id in events.iter().map(|event: &epoll::Event| event.data.u64()) {
                if id == END.0 {
                    return;
                }
                let Some(bell) = self.lock().get(&id).cloned() else { continue };
                // of a cgroup that is gone nothing more is to be heard
                let Ok(rang) = bell.hear() else { continue };
                // v1 rings before it kills
                let later = matches!(bell.kind, Kind::Oom);
                resting.push_back((Mono::now() + REST, id, later.then_some(rang)));
                if !later && !tell(BellId(id), rang) {
                    return;
                }
            }
            let now = Mono::now();
            let rested = resting.iter().take_while(|(until, ..)| *until <= now).count();
            for (_, id, later) in resting.drain(..rested) {
                if later.is_some_and(|rang| !tell(BellId(id), rang)) {
                    return;
                }
                if let Some(bell) = self.lock().get(&id).cloned() {
                    let flags = bell.flags() | epoll::EventFlags::ONESHOT;
                    // it was taken down meanwhile, if that fails
                    let _ = epoll::modify(&self.epoll, &bell.fd, epoll::EventData::new_u64(id), flags);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Bell>>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    fn flags(&self) -> epoll::EventFlags {
        match self.kind {
            Kind::Events(_) => epoll::EventFlags::PRI,
            Kind::Usage | Kind::Oom => epoll::EventFlags::IN,
        }
    }

    /// Takes note of the ring, which makes the next one one. `Err`: its cgroup is gone.
    fn hear(&self) -> io::Result<Rang> {
        match &self.kind {
            Kind::Events(before) => {
                let now = Counts::read(self.fd.as_fd())?;
                let before = std::mem::replace(&mut *before.lock().unwrap_or_else(PoisonError::into_inner), now);
                Ok(Rang { limit: now.met > before.met, kill: now.killed > before.killed })
            }
            Kind::Usage | Kind::Oom => {
                let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
                Ok(Rang { limit: false, kill: matches!(self.kind, Kind::Oom) })
            }
        }
    }
}

impl Counts {
    fn read(events: BorrowedFd<'_>) -> io::Result<Counts> {
        let mut text = [0u8; EVENTS];
        let n = rustix::io::pread(events, &mut text, 0)?;
        Ok(Counts::parse(std::str::from_utf8(text.get(..n).unwrap_or_default()).unwrap_or_default()))
    }

    fn parse(text: &str) -> Counts {
        let mut counts = Counts::default();
        for (key, n) in text.lines().filter_map(|line| line.split_once(' ')) {
            let n: u64 = n.trim().parse().unwrap_or(0);
            match key {
                "high" | "max" => counts.met = counts.met.saturating_add(n),
                "oom_kill" => counts.killed = counts.killed.saturating_add(n),
                _ => {}
            }
        }
        counts
    }
}

/// An eventfd that the kernel of v1 counts up. `argument` is the level, of the usage.
fn ask_for_events(level: &Level, file: &str, argument: &str) -> io::Result<OwnedFd> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let (watched, control) = (open(level, file, OFlags::RDONLY)?, open_control(level)?);
    rustix::io::write(&control, format!("{} {} {argument}", fd.as_raw_fd(), watched.as_raw_fd()).as_bytes())?;
    Ok(fd)
}

/// Why the crossings of this cgroup of v1 are polled for, and not heard; `None` if they can be heard.
pub fn why_deaf(level: &Level) -> Option<io::Error> {
    open_control(level).err()
}

/// Where a container shows what it likes, nothing but the kernel's own file is written to.
fn open_control(level: &Level) -> io::Result<OwnedFd> {
    let control = open(level, "cgroup.event_control", OFlags::WRONLY)?;
    if fstatfs(&control)?.f_type != CGROUP_V1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it is no file of a cgroup"));
    }
    Ok(control)
}

fn open(level: &Level, file: &str, how: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(CWD, level.dir.join(file), how | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?)
}

fn timespec(wait: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(wait.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// What rings, and a thread that listens until this is dropped.
    struct Heard(Arc<Bells>, Receiver<(BellId, Rang)>);

    impl Heard {
        fn new() -> Heard {
            let (bells, (tell, heard)) = (Bells::new().unwrap(), channel());
            let theirs = bells.clone();
            std::thread::spawn(move || theirs.listen(|id, rang| tell.send((id, rang)).is_ok()));
            Heard(bells, heard)
        }
    }

    impl Drop for Heard {
        fn drop(&mut self) {
            self.0.end();
        }
    }

    #[test]
    fn counts_are_of_limits_met_and_of_kills() {
        let text = "low 9\nhigh 3\nmax 4\noom 1\noom_kill 2\noom_group_kill 7\nsock_throttled 8\nmax\nmax x\n";
        assert_eq!(Counts::parse(text), Counts { met: 7, killed: 2 });
    }

    #[test]
    fn a_bell_that_cannot_be_hung_says_why() {
        let (dir, bells) = (tempfile::tempdir().unwrap(), Bells::new().unwrap());
        let level = Level { name: "/a".into(), dir: dir.path().into() };
        assert_eq!(bells.hang_events(&level).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(bells.hang_usage(&level, 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        // a file that is none of the kernel's cannot be waited for
        std::fs::write(dir.path().join("memory.events"), "high 1\n").unwrap();
        assert_eq!(bells.hang_events(&level).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!((bells.count(), why_deaf(&level).map(|e| e.kind())), (0, Some(io::ErrorKind::NotFound)));
    }

    #[test]
    fn a_usage_of_v1_rings_when_it_crosses_its_level_and_no_more_once_nobody_listens() {
        let dir = Path::new("/sys/fs/cgroup/memory").join(format!("memtrap-test-bell-{}", std::process::id()));
        if let Err(e) = std::fs::create_dir(&dir) {
            eprintln!("NOT CHECKED: the threshold eventfd of a v1 memory cgroup: {}: {e}", dir.display());
            return;
        }
        let level = Level { name: "/bell".into(), dir: dir.clone() };
        let heard = Heard::new();
        let hung = heard.0.hang_usage(&level, 8 << 20).unwrap();
        let _oom = heard.0.hang_oom(&level).unwrap();
        assert_eq!((heard.0.count(), why_deaf(&level).is_none()), (2, true));
        let fill = |mib: u32| {
            let script = format!("echo $$ > {}/cgroup.procs; head -c {mib}M /dev/zero | tail -c {mib}M > /dev/null", dir.display());
            std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        };
        fill(2);
        assert_eq!(heard.1.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout), "it is below");
        fill(32);
        assert_eq!(heard.1.recv_timeout(LONG), Ok((hung.id, Rang::default())));
        // what it said while it rested, and the way down
        while heard.1.recv_timeout(Duration::from_secs(1)).is_ok() {}
        drop(hung);
        fill(32);
        assert_eq!(heard.1.recv_timeout(Duration::from_millis(500)), Err(RecvTimeoutError::Timeout), "it was taken down");
        std::fs::remove_dir(&dir).unwrap();
    }
}
