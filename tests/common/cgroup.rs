//! A cgroup of a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{GoVersion, Svc, not_checked};

/// Of version 1 or 2, removed when dropped.
pub struct Cgroup(PathBuf);

/// The memory controller of this machine: where its groups are, and the names of its files.
struct Controller {
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
}

impl Controller {
    fn of_this_machine() -> Controller {
        match Path::new("/sys/fs/cgroup/memory").is_dir() {
            true => Controller { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes" },
            false => Controller { root: "/sys/fs/cgroup", limit: "memory.max", usage: "memory.current" },
        }
    }
}

impl Cgroup {
    /// A memory cgroup with a limit.
    pub fn new(limit: u64) -> Option<Cgroup> {
        let controller = Controller::of_this_machine();
        let path = Path::new(controller.root).join(format!("memtrap-test-{}-{limit}", std::process::id()));
        let made = fs::create_dir(&path).and_then(|()| fs::write(path.join(controller.limit), limit.to_string()));
        if let Err(e) = made {
            not_checked(&format!("a process in a memory cgroup near its limit: {}: {e}", path.display()));
            return None;
        }
        Some(Cgroup(path))
    }

    /// Whether memory is charged by version 2 of cgroups here.
    pub fn is_v2() -> bool {
        Controller::of_this_machine().usage == "memory.current"
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
        fs::write(self.0.join(Controller::of_this_machine().limit), limit.to_string()).unwrap();
    }

    /// Runs a shell inside.
    pub fn shell(&self, script: &str) -> Child {
        let script = format!("echo $$ > {}/cgroup.procs; {script}", self.0.display());
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// One below it, which has then no processes of its own (version 2 allows no others).
    pub fn below(&self, name: &str, limit: u64) -> Cgroup {
        if Cgroup::is_v2() {
            self.write("cgroup.subtree_control", "+memory");
        }
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join(Controller::of_this_machine().limit), limit.to_string()).unwrap();
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
        self.read(Controller::of_this_machine().usage).trim().parse().unwrap()
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
