//! A made-up host for tests: a directory with `proc/` and `sys/fs/cgroup/` in it. And a way to really lack permission.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::ProcFs;
use crate::identity::InstanceId;

pub(crate) struct FakeHost {
    dir: tempfile::TempDir,
}

impl FakeHost {
    pub fn new() -> FakeHost {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        FakeHost { dir }
    }

    pub fn procfs(&self) -> ProcFs {
        ProcFs::under(self.dir.path())
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &FakeHost {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    pub fn link(&self, path: &str, to: &str) -> &FakeHost {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&path);
        symlink(to, path).unwrap();
        self
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_dir_all(self.dir.path().join(path)).unwrap();
    }

    pub fn process<'a>(&'a self, pid: u32, comm: &'a str) -> FakeProcess<'a> {
        FakeProcess {
            host: self,
            pid,
            comm,
            start: u64::from(pid) * 10,
            state: 'S',
            parent: 1,
            flags: 0x0040_0000,
            vsize: 4096,
            exit_code: 0,
        }
    }
}

/// One process of a [`FakeHost`]; `write` puts down what it always has.
pub(crate) struct FakeProcess<'a> {
    host: &'a FakeHost,
    pid: u32,
    comm: &'a str,
    start: u64,
    state: char,
    parent: u32,
    flags: u64,
    vsize: u64,
    exit_code: i32,
}

impl FakeProcess<'_> {
    pub fn start(mut self, ticks: u64) -> Self {
        self.start = ticks;
        self
    }

    pub fn state(mut self, state: char) -> Self {
        self.state = state;
        self
    }

    pub fn parent(mut self, pid: u32) -> Self {
        self.parent = pid;
        self
    }

    /// By `fork` alone, without `exec`.
    pub fn forked_from(self, pid: u32) -> Self {
        let flags = self.flags | 0x40;
        FakeProcess { flags, ..self.parent(pid) }
    }

    /// Its memory is given back; `wait` will tell this of it.
    pub fn ending(self, exit_code: i32) -> Self {
        FakeProcess { flags: self.flags | 0x4, vsize: 0, exit_code, ..self }
    }

    pub fn kernel_thread(mut self) -> Self {
        self.flags = 0x0020_8040;
        self
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.host.file(&format!("proc/{}/{name}", self.pid), content);
        self
    }

    pub fn link(self, name: &str, to: &str) -> Self {
        self.host.link(&format!("proc/{}/{name}", self.pid), to);
        self
    }

    pub fn exe(self, path: &str) -> Self {
        self.link("exe", path)
    }

    pub fn cmdline(self, args: &[&str]) -> Self {
        let bytes = args.iter().flat_map(|a| a.bytes().chain([0])).collect::<Vec<u8>>();
        self.file("cmdline", bytes)
    }

    pub fn socket(self, fd: u32, inode: u64) -> Self {
        self.link(&format!("fd/{fd}"), &format!("socket:[{inode}]"))
    }

    pub fn write(self) -> InstanceId {
        let FakeProcess { pid, comm, state, parent, flags, start, vsize, exit_code, .. } = self;
        let stat = format!(
            "{pid} ({comm}) {state} {parent} {pid} {pid} 0 -1 {flags} 9 0 0 0 1 1 0 0 20 0 3 0 {start} {vsize} 1 18446744073709551615 1 1 1 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 {exit_code}\n"
        );
        let this = self.file("stat", stat).file("comm", format!("{comm}\n"));
        InstanceId { pid: this.pid, start_ticks: this.start }
    }
}

/// A row of `/proc/net/tcp`; `address` in the kernel's hexadecimal, state `0A` is LISTEN.
pub(crate) fn tcp_row(address: &str, state: &str, inode: u64) -> String {
    format!(
        "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )
}

pub(crate) fn tcp_table(rows: &[String]) -> String {
    format!("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n{}", rows.concat())
}

/// A process that the test may not look into. File modes of a fake tree mean nothing to root, so this is a real one.
pub(crate) struct Unprivileged {
    child: Option<std::process::Child>,
    pid: u32,
}

impl Unprivileged {
    /// As root: a child of root's, looked at by a thread that has become nobody. Else: process 1, if it is someone else's.
    pub fn stranger() -> Option<Unprivileged> {
        if rustix::process::geteuid().is_root() {
            let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            return Some(Unprivileged { pid: child.id(), child: Some(child) });
        }
        let readable = std::fs::read_link("/proc/1/exe").is_ok();
        if readable {
            eprintln!("NOT CHECKED: no process on this machine is closed to this user, so missing permission cannot be tried");
        }
        (!readable).then_some(Unprivileged { child: None, pid: 1 })
    }

    pub fn as_other_user<T: Send>(&self, look: impl FnOnce(&ProcFs, u32) -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if self.child.is_some() {
                    // of this thread only: the other tests keep their user
                    let nobody = rustix::process::Uid::from_raw(65534);
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                look(&ProcFs::host(), self.pid)
            });
            thread.join().unwrap()
        })
    }
}

/// What `make` makes as another user of this host; `None` where this user cannot become one, which is said.
pub(crate) fn as_user<T: Send>(uid: u32, make: impl FnOnce() -> T + Send) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT CHECKED: only root can make another user's sockets");
        return None;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // of this thread only
            let uid = rustix::process::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            make()
        });
        Some(thread.join().unwrap())
    })
}

impl Drop for Unprivileged {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
