//! Bounded readers of `/proc`, below a root that tests replace.
//!
//! [`ProcDir`] holds a descriptor of `/proc/PID`. The kernel binds it to that process: once the process is gone every
//! read through it fails, even if the pid has a new owner. So whatever is read through one `ProcDir` belongs to one process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use procfs_core::process::Stat;
use procfs_core::{FromRead, Uptime};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::obstacle;
use crate::identity::InstanceId;

/// Enough for `stat`, `status`, `cgroup` and other files that the kernel keeps short.
pub(crate) const SMALL: usize = 64 << 10;
/// Most of those files are shorter; a buffer that grows up to them asks the kernel several times.
const PAGE: usize = 4096;
const MAX_CMDLINE: usize = 64 << 10;
/// `/proc/stat` has a number per interrupt and a line per CPU.
const MAX_KERNEL_STAT: u64 = 4 << 20;
/// `PF_KTHREAD` of the kernel's `sched.h`, in field 9 of `stat`.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// `PF_EXITING`
const EXITING: u32 = 0x0000_0004;

/// Why something about a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    #[error("process {pid} does not exist (any more)")]
    Gone { pid: u32 },
    #[error("no permission to read {path}: {cure}")]
    Denied { path: PathBuf, cure: String },
    #[error("{path} is missing: this kernel does not provide it, or not for this process")]
    Absent { path: PathBuf },
    #[error("{path} cannot be understood: {why}")]
    Malformed { path: PathBuf, why: &'static str },
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: io::Error },
}

impl ProcError {
    pub(crate) fn from_io(path: PathBuf, source: io::Error) -> ProcError {
        match Errno::from_io_error(&source) {
            Some(Errno::ACCESS | Errno::PERM) => ProcError::Denied { cure: obstacle::cure_of_denial(&path), path },
            Some(Errno::NOENT | Errno::NOTDIR) => ProcError::Absent { path },
            _ => ProcError::Io { path, source },
        }
    }
}

/// Where the kernel's files are: `/proc` itself, and the root below which mount points (cgroups) are looked up.
#[derive(Clone, Debug)]
pub struct ProcFs {
    proc: PathBuf,
    fs: PathBuf,
}

/// `None` where fields are missing.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    // the crate slices beside the outermost parentheses without a look: it panics on `)(`, on ` (a) S` and on `7 (a)`
    let (open, close) = (text.iter().position(|b| *b == b'(')?, text.iter().rposition(|b| *b == b')')?);
    let before = text.get(..open)?;
    let is_framed = before.first()?.is_ascii_digit() && before.ends_with(b" ") && open < close;
    let has_state = matches!(text.get(close + 1..)?, [b' ', state, ..] if state.is_ascii_alphabetic());
    (is_framed && has_state).then(|| Stat::from_read(text).ok()).flatten()
}

/// Zombies and the dead have a stat file but no memory and nothing to capture. So has who is on its way there: the kernel takes the
/// memory first (`exit_mm`), by when the exit code stands, and the state becomes Z a while later.
pub fn is_dead(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x') || (stat.flags & EXITING != 0 && stat.vsize == 0)
}

pub(crate) fn is_kernel_thread(stat: &Stat) -> bool {
    stat.flags & KERNEL_THREAD != 0
}

/// What `/proc/PID/status` says about owner and memory; sizes in bytes, `None` where the kernel has no such line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Effective ids.
    pub uid: Option<u32>,
    /// Real, effective and saved.
    pub uids: Option<[u32; 3]>,
    /// It has a number in a pid namespace below that of this /proc: it is in a container.
    pub is_nested: bool,
    pub gid: Option<u32>,
    pub threads: Option<u64>,
    pub rss: Option<u64>,
    pub peak_rss: Option<u64>,
    pub rss_anon: Option<u64>,
    pub rss_file: Option<u64>,
    pub rss_shmem: Option<u64>,
    pub swap: Option<u64>,
    pub page_tables: Option<u64>,
    pub virtual_size: Option<u64>,
}

impl Status {
    pub fn parse(text: &str) -> Status {
        let mut status = Status::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let word = |n| value.split_ascii_whitespace().nth(n);
            let kib = || word(0)?.parse::<u64>().ok()?.checked_mul(1024);
            match key {
                "Uid" => {
                    let id = |n| word(n).and_then(|w| w.parse().ok());
                    status.uid = id(1);
                    status.uids = id(0).zip(id(1)).zip(id(2)).map(|((real, effective), saved)| [real, effective, saved]);
                }
                "NSpid" => status.is_nested = word(1).is_some(),
                "Gid" => status.gid = word(1).and_then(|w| w.parse().ok()),
                "Threads" => status.threads = word(0).and_then(|w| w.parse().ok()),
                "VmRSS" => status.rss = kib(),
                "VmHWM" => status.peak_rss = kib(),
                "RssAnon" => status.rss_anon = kib(),
                "RssFile" => status.rss_file = kib(),
                "RssShmem" => status.rss_shmem = kib(),
                "VmSwap" => status.swap = kib(),
                "VmPTE" => status.page_tables = kib(),
                "VmSize" => status.virtual_size = kib(),
                _ => {}
            }
        }
        status
    }
}

impl ProcFs {
    pub fn host() -> ProcFs {
        ProcFs::under("/")
    }

    /// `ROOT/proc`, with mount points named by it looked up below `ROOT` too.
    pub fn under(root: impl Into<PathBuf>) -> ProcFs {
        let fs = root.into();
        ProcFs { proc: fs.join("proc"), fs }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.proc.join(name)
    }

    pub(crate) fn fs_root(&self) -> &Path {
        &self.fs
    }

    /// The directory of whatever process has this pid now.
    pub fn dir(&self, pid: u32) -> Result<ProcDir, ProcError> {
        ProcDir::open_at(self.path(&pid.to_string()), pid)
    }

    /// The directory of this very process. `Gone` if it has exited, is a zombie, or the pid has another owner.
    pub fn dir_of(&self, id: InstanceId) -> Result<ProcDir, ProcError> {
        let dir = self.dir(id.pid)?;
        let stat = dir.stat()?;
        if stat.starttime != id.start_ticks || is_dead(&stat) { Err(ProcError::Gone { pid: id.pid }) } else { Ok(dir) }
    }

    /// Who has this pid now; zombies included.
    pub fn identity(&self, pid: u32) -> Result<InstanceId, ProcError> {
        Ok(InstanceId { pid, start_ticks: self.dir(pid)?.stat()?.starttime })
    }

    /// Whether this process still runs. A zombie does not; an unreadable /proc counts as not alive.
    pub fn is_alive(&self, id: InstanceId) -> bool {
        self.dir_of(id).is_ok()
    }

    /// How long ago the process started; time in suspend counts.
    pub fn age(&self, id: InstanceId) -> Result<Duration, ProcError> {
        let path = self.path("uptime");
        let text = read_path(&path, SMALL)?;
        match Uptime::from_read(&*text).ok().and_then(|up| Duration::try_from_secs_f64(up.uptime).ok()) {
            Some(up) => Ok(up.saturating_sub(since_boot(id))),
            None => Err(ProcError::Malformed { path, why: "these are no two numbers of seconds" }),
        }
    }

    /// When the process started, by the wall clock as it stands now; to about a second.
    pub fn started_at(&self, id: InstanceId) -> Result<SystemTime, ProcError> {
        let path = self.path("stat");
        let mut text = Vec::new();
        open_path(&path)?.take(MAX_KERNEL_STAT).read_to_end(&mut text).map_err(|e| ProcError::from_io(path.clone(), e))?;
        let boot =
            text.split(|b| *b == b'\n').find_map(|line| std::str::from_utf8(line.strip_prefix(b"btime ")?).ok()?.trim().parse().ok());
        let boot = boot.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        boot.and_then(|boot| boot.checked_add(since_boot(id))).ok_or(ProcError::Malformed { path, why: "no usable btime line" })
    }

    /// Random per boot; start times and monotonic times mean something only together with it.
    pub fn boot_id(&self) -> Result<String, ProcError> {
        let path = self.path("sys/kernel/random/boot_id");
        let text = String::from_utf8_lossy(&read_path(&path, SMALL)?).trim().to_owned();
        let plausible = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if plausible { Ok(text) } else { Err(ProcError::Malformed { path, why: "not an id of hexadecimal digits and dashes" }) }
    }

    /// The host's memory in bytes, or the container's where /proc/meminfo is made to say that.
    pub fn mem_total(&self) -> Result<u64, ProcError> {
        self.meminfo("MemTotal:", "no usable MemTotal line")
    }

    /// Swap that nobody uses, in bytes.
    pub fn swap_free(&self) -> Result<u64, ProcError> {
        self.meminfo("SwapFree:", "no usable SwapFree line")
    }

    fn meminfo(&self, key: &str, why: &'static str) -> Result<u64, ProcError> {
        let path = self.path("meminfo");
        let text = read_path(&path, SMALL)?;
        let kib = String::from_utf8_lossy(&text)
            .lines()
            .find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kib.and_then(|kib| kib.checked_mul(1024)).ok_or(ProcError::Malformed { path, why })
    }

    /// How a process ended, as `wait` would tell its parent: only until the parent has asked, and to who may read it.
    pub fn exit_status(&self, id: InstanceId) -> Option<ExitStatus> {
        let stat = parse_stat(&read_path(&self.path(&format!("{}/stat", id.pid)), SMALL).ok()?)?;
        (is_dead(&stat) && stat.starttime == id.start_ticks).then_some(stat.exit_code?).map(ExitStatus::from_raw)
    }

    /// The path of the executable, without the ` (deleted)` of one that was replaced while it runs.
    pub fn exe(&self, pid: u32) -> Result<PathBuf, ProcError> {
        self.dir(pid)?.exe()
    }

    /// The arguments, at most 64 KiB of them.
    pub fn cmdline(&self, pid: u32) -> Result<Vec<String>, ProcError> {
        self.dir(pid)?.cmdline()
    }

    /// The kernel's name of the process, at most 15 bytes; any byte may be in it.
    pub fn comm(&self, pid: u32) -> Result<Vec<u8>, ProcError> {
        self.dir(pid)?.comm()
    }

    /// `statm`, to keep and `pread`. It stays bound to this process: after its end reads fail.
    pub fn statm_file(&self, id: InstanceId) -> Result<File, ProcError> {
        self.dir_of(id)?.open("statm")
    }

    /// memtrap's own pid as this /proc counts pids; `None` where it does not show memtrap.
    pub(crate) fn own_pid(&self) -> Option<u32> {
        std::fs::read_link(self.path("self")).ok()?.to_str()?.parse().ok()
    }

    pub(crate) fn pids(&self) -> Result<impl Iterator<Item = u32> + use<>, ProcError> {
        let entries = std::fs::read_dir(&self.proc).map_err(|e| ProcError::from_io(self.proc.clone(), e))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
    }
}

fn since_boot(id: InstanceId) -> Duration {
    let hz = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_secs(id.start_ticks / hz) + Duration::from_millis(id.start_ticks % hz * 1000 / hz)
}

/// `/proc/PID`, held open.
#[derive(Debug)]
pub struct ProcDir {
    fd: OwnedFd,
    path: PathBuf,
    pid: u32,
}

impl ProcDir {
    fn open_at(path: PathBuf, pid: u32) -> Result<ProcDir, ProcError> {
        match rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(ProcDir { fd, path, pid }),
            Err(Errno::NOENT | Errno::SRCH) => Err(ProcError::Gone { pid }),
            Err(e) => Err(ProcError::from_io(path, e.into())),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of this process, for instance `smaps` or `net/tcp`.
    pub fn open(&self, name: &str) -> Result<File, ProcError> {
        // `exe` leads out of /proc: whatever is there must not make the open wait
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map(File::from).map_err(|e| self.error(name, e.into()))
    }

    /// What a link of this process leads to, for instance its `root`; nothing is read of it.
    pub(super) fn place(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(&self.fd, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// The first `cap` bytes of a file of this process.
    pub fn read(&self, name: &str, cap: usize) -> Result<Vec<u8>, ProcError> {
        let mut bytes = Vec::with_capacity(cap.min(PAGE));
        self.open(name)?.take(cap as u64).read_to_end(&mut bytes).map_err(|e| self.error(name, e))?;
        Ok(bytes)
    }

    /// Where a link of this process leads, for instance `exe` or `ns/net`.
    pub fn link(&self, name: &str) -> Result<OsString, ProcError> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).map_err(|e| self.error(name, e.into()))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Calls `each` with what every open descriptor leads to (`socket:[123]`, `/var/log/x`), until there are `max`.
    /// Returns whether that was all. Descriptors closed meanwhile are left out.
    pub fn fds(&self, max: usize, mut each: impl FnMut(&[u8])) -> Result<bool, ProcError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd_dir = rustix::fs::openat(&self.fd, "fd", flags, Mode::empty()).map_err(|e| self.error("fd", e.into()))?;
        let mut seen = 0;
        let mut buffer = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd_dir).map_err(|e| self.error("fd", e.into()))? {
            let entry = entry.map_err(|e| self.error("fd", e.into()))?;
            if !entry.file_name().to_bytes().first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            if seen == max {
                return Ok(false);
            }
            seen += 1;
            if let Ok(target) = rustix::fs::readlinkat(&fd_dir, entry.file_name(), std::mem::take(&mut buffer)) {
                each(target.as_bytes());
                buffer = target.into_bytes();
            }
        }
        Ok(true)
    }

    pub fn stat(&self) -> Result<Stat, ProcError> {
        let text = self.read("stat", SMALL).map_err(|e| match e {
            // every process has one
            ProcError::Absent { .. } => ProcError::Gone { pid: self.pid },
            e => e,
        })?;
        parse_stat(&text).ok_or_else(|| ProcError::Malformed { path: self.path.join("stat"), why: "fields are missing" })
    }

    pub fn status(&self) -> Result<Status, ProcError> {
        Ok(Status::parse(&String::from_utf8_lossy(&self.read("status", SMALL)?)))
    }

    /// See [`ProcFs::exe`].
    pub fn exe(&self) -> Result<PathBuf, ProcError> {
        let target = self.link("exe")?;
        let bytes = target.as_bytes();
        Ok(OsString::from_vec(bytes.strip_suffix(b" (deleted)").unwrap_or(bytes).to_vec()).into())
    }

    /// See [`ProcFs::cmdline`].
    pub fn cmdline(&self) -> Result<Vec<String>, ProcError> {
        let bytes = self.read("cmdline", MAX_CMDLINE)?;
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        Ok(bytes.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect())
    }

    /// See [`ProcFs::comm`].
    pub fn comm(&self) -> Result<Vec<u8>, ProcError> {
        let mut bytes = self.read("comm", SMALL)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        Ok(bytes)
    }

    /// Says whether a failed read means that the process is gone or that it has no such file.
    pub(crate) fn error(&self, name: &str, source: io::Error) -> ProcError {
        if Errno::from_io_error(&source) == Some(Errno::SRCH) {
            return ProcError::Gone { pid: self.pid };
        }
        let error = ProcError::from_io(self.path.join(name), source);
        let gone = matches!(error, ProcError::Absent { .. })
            && rustix::fs::accessat(&self.fd, "stat", rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_err();
        if gone { ProcError::Gone { pid: self.pid } } else { error }
    }
}

pub(super) fn open_path(path: &Path) -> Result<File, ProcError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map(File::from).map_err(|e| ProcError::from_io(path.to_owned(), e.into()))
}

/// The first `cap` bytes of a file that may not be what it should be: opening never waits.
pub(crate) fn read_path(path: &Path, cap: usize) -> Result<Vec<u8>, ProcError> {
    let mut bytes = Vec::with_capacity(cap.min(PAGE));
    open_path(path)?.take(cap as u64).read_to_end(&mut bytes).map_err(|e| ProcError::from_io(path.to_owned(), e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeHost, Unprivileged};
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        for comm in ["go app", "a) R 1 2", "x\n) Z (", ")", "", "((("] {
            let host = FakeHost::new();
            host.process(7, comm).start(4711).write();
            assert_eq!(host.procfs().identity(7).unwrap(), InstanceId { pid: 7, start_ticks: 4711 }, "{comm:?}");
        }
    }

    #[test]
    fn a_torn_stat_file_is_malformed_not_a_panic() {
        let host = FakeHost::new();
        for text in [
            "",
            "7",
            "7 (x",
            "7 (x)",
            "7 (x) S 1",
            "7 (x) S 1 1 1 0 -1 a 0 0 0 0 0 0 0 0 0 0 0 0 9 9",
            ")(",
            "7 )(",
            " (x) S 1",
            "(x) S 1",
            "7 (x) ",
            "é(x) S 1",
        ] {
            host.file("proc/7/stat", text);
            assert!(matches!(host.procfs().identity(7), Err(ProcError::Malformed { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_zombie_is_not_alive_and_a_reused_pid_is_someone_else() {
        let host = FakeHost::new();
        let procfs = host.procfs();
        let id = host.process(7, "app").start(100).write();
        assert!(procfs.is_alive(id));
        assert!(!procfs.is_alive(InstanceId { start_ticks: 101, ..id }));
        assert!(matches!(procfs.statm_file(InstanceId { start_ticks: 101, ..id }), Err(ProcError::Gone { pid: 7 })));
        host.process(7, "app").start(100).state('Z').write();
        assert!(!procfs.is_alive(id));
        assert_eq!(procfs.identity(7).unwrap(), id);
    }

    #[test]
    fn who_has_given_back_its_memory_has_ended_though_it_is_no_zombie_yet() {
        let host = FakeHost::new();
        let procfs = host.procfs();
        let id = host.process(7, "app").state('R').ending(9).write();
        assert!(!procfs.is_alive(id));
        assert_eq!(procfs.exit_status(id).and_then(|status| status.signal()), Some(9));
    }

    #[test]
    fn a_replaced_executable_keeps_its_path() {
        let host = FakeHost::new();
        host.process(7, "app").exe("/opt/app (deleted)").write();
        assert_eq!(host.procfs().exe(7).unwrap(), Path::new("/opt/app"));
    }

    #[test]
    fn arguments_are_split_at_nul_and_bounded() {
        let host = FakeHost::new();
        host.process(7, "app").cmdline(&["/opt/app", "", "-x=1 2"]).write();
        assert_eq!(host.procfs().cmdline(7).unwrap(), ["/opt/app", "", "-x=1 2"]);
        host.process(8, "app").cmdline(&["a".repeat(1 << 20).as_str()]).write();
        assert_eq!(host.procfs().cmdline(8).unwrap()[0].len(), MAX_CMDLINE);
    }

    #[test]
    fn age_and_start_come_from_the_clock_tick_of_the_start() {
        let host = FakeHost::new();
        let hz = rustix::param::clock_ticks_per_second();
        let id = host.process(7, "app").start(40 * hz + hz / 2).write();
        host.file("proc/uptime", "100.75 1.0\n").file("proc/stat", "cpu 1 2\nbtime 1000\nprocesses 1\n");
        assert_eq!(host.procfs().age(id).unwrap(), Duration::from_millis(60_250));
        assert_eq!(host.procfs().started_at(id).unwrap(), SystemTime::UNIX_EPOCH + Duration::from_millis(1_040_500));
        for bad in ["", "NaN", "-1", "x"] {
            host.file("proc/uptime", bad);
            assert!(matches!(host.procfs().age(id), Err(ProcError::Malformed { .. })), "{bad:?}");
        }
    }

    #[test]
    fn missing_kernel_files_are_typed_errors() {
        let host = FakeHost::new();
        host.process(7, "app").write();
        let procfs = host.procfs();
        assert!(matches!(procfs.boot_id(), Err(ProcError::Absent { .. })));
        assert!(matches!(procfs.mem_total(), Err(ProcError::Absent { .. })));
        assert!(matches!(procfs.dir(7).unwrap().read("smaps_rollup", 10), Err(ProcError::Absent { .. })));
        assert!(matches!(procfs.identity(8), Err(ProcError::Gone { pid: 8 })));
    }

    #[test]
    fn this_process_is_read_from_the_real_proc() {
        let procfs = ProcFs::host();
        let pid = std::process::id();
        let id = procfs.identity(pid).unwrap();
        assert!(procfs.is_alive(id));
        assert_eq!(procfs.own_pid(), Some(pid));
        assert!(procfs.age(id).unwrap() < Duration::from_secs(3600));
        assert_eq!(procfs.exe(pid).unwrap(), std::env::current_exe().unwrap());
        assert_eq!(procfs.cmdline(pid).unwrap(), std::env::args().collect::<Vec<_>>());
        assert_eq!(procfs.boot_id().unwrap().len(), 36);
        let status = procfs.dir(pid).unwrap().status().unwrap();
        assert!(status.rss.unwrap() < procfs.mem_total().unwrap());
        assert!(status.threads.unwrap() >= 1);
    }

    #[test]
    fn nothing_is_read_through_the_directory_of_a_process_that_was_reaped() {
        let procfs = ProcFs::host();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = procfs.identity(child.id()).unwrap();
        let dir = procfs.dir_of(id).unwrap();
        dir.read("status", SMALL).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!procfs.is_alive(id));
        for name in ["status", "stat", "smaps_rollup", "fd"] {
            assert!(matches!(dir.read(name, SMALL), Err(ProcError::Gone { .. })), "{name}");
        }
        assert!(matches!(dir.link("exe"), Err(ProcError::Gone { .. })));
    }

    #[test]
    fn a_foreign_executable_without_permission_names_the_remedy() {
        let Some(stranger) = Unprivileged::stranger() else { return };
        let error = stranger.as_other_user(|procfs, pid| procfs.exe(pid).unwrap_err());
        assert!(matches!(error, ProcError::Denied { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_SYS_PTRACE"), "{error}");
    }
}
