//! A cgroup of a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{GoVersion, Svc, not_checked};

/// Of version 1 or 2, removed when dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A v1 memory cgroup with a limit.
    pub fn new(limit: u64) -> Option<Cgroup> {
        let path = Path::new("/sys/fs/cgroup/memory").join(format!("memtrap-test-{}-{limit}", std::process::id()));
        let made = fs::create_dir(&path).and_then(|()| fs::write(path.join("memory.limit_in_bytes"), limit.to_string()));
        if let Err(e) = made {
            not_checked(&format!("a process in a memory cgroup near its limit: {}: {e}", path.display()));
            return None;
        }
        Some(Cgroup(path))
    }

    /// One in which processes can be frozen, of either version.
    pub fn freezer(hierarchy: &str, switch: &str) -> Option<Cgroup> {
        let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(format!("memtrap-test-{}", std::process::id()));
        let why = match fs::create_dir(&path) {
            Ok(()) if path.join(switch).exists() => return Some(Cgroup(path)),
            Ok(()) => {
                let _ = fs::remove_dir(&path);
                format!("it has no {switch}")
            }
            Err(e) => e.to_string(),
        };
        not_checked(&format!("a process in a frozen cgroup: {}: {why}", path.display()));
        None
    }

    pub fn write(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    pub fn set_limit(&self, limit: u64) {
        fs::write(self.0.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
    }

    /// Runs a shell inside.
    pub fn shell(&self, script: &str) -> Child {
        let script = format!("echo $$ > {}/cgroup.procs; {script}", self.0.display());
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// One below it.
    pub fn below(&self, name: &str, limit: u64) -> Cgroup {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
        Cgroup(path)
    }

    /// Ends whatever runs inside.
    pub fn kill_all(&self) {
        for pid in self.read("cgroup.procs").lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Bytes that it is charged with.
    pub fn usage(&self) -> u64 {
        self.read("memory.usage_in_bytes").trim().parse().unwrap()
    }

    /// Starts the service inside.
    pub fn start(&self, args: &[&str]) -> Svc {
        let mut command = Command::new("sh");
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.0.display());
        command.args(["-c", &script]).arg(super::go_svc(GoVersion::Newest));
        Svc::start_in(command, args)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.kill_all();
        }
        super::wait_until(Duration::from_secs(5), "the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}
