//! Processes that memtrap cannot see, and those that stand in for the one that is meant: real mounts of /proc, real pid namespaces.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Idle, Memtrap, not_checked, wait_until};
use tempfile::TempDir;

const NOBODY: &str = "65534";

/// A directory that everybody may read, with the binary and a configuration of one target.
fn prepared(process: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    common::copy_program(env!("CARGO_BIN_EXE_memtrap"), dir.path().join("memtrap"));
    let (at, config) = (dir.path().display(), dir.path().join("m.toml"));
    let dirs = format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n");
    fs::write(&config, format!("{dirs}[[target]]\nname = \"svc\"\nprocess = {process}\npprof = \"off\"\nthreshold = \"1GiB\"\n")).unwrap();
    dir
}

/// `check` by this script, in which `$0` is the binary and `$@` its arguments; `None`, said aloud, where no namespace can be made.
fn checked(dir: &TempDir, unshare: &[&str], script: &str, arguments: &[&str]) -> Option<String> {
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        not_checked(&format!("what is hidden from memtrap: no namespace can be made by unshare {unshare:?}"));
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", script]).arg(dir.path().join("memtrap"));
    let output = command.arg("check").args(arguments).arg("-c").arg(dir.path().join("m.toml")).output().unwrap();
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn processes_that_hidepid_hides_are_said_to_be_hidden() {
    let idle = Idle::start(61);
    let dir = prepared(&Idle::selector(61));
    for hides in ["1", "2"] {
        let mount = format!(
            "mount -t proc -o hidepid={hides} proc /proc && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\" \"$@\""
        );
        for arguments in [&[][..], &["--probe"]] {
            let Some(said) = checked(&dir, &["--mount"], &mount, arguments) else { return };
            assert!(said.contains("hidepid=") && said.contains("CAP_SYS_PTRACE"), "{said}");
            assert!(arguments.is_empty() || said.contains("svc: no process: "), "{said}");
        }
        let root = format!("mount -t proc -o hidepid={hides} proc /proc && exec \"$0\" \"$@\"");
        let said = checked(&dir, &["--mount"], &root, &["--probe"]).unwrap();
        assert!(!said.contains("hidepid") && !said.contains("no process"), "root sees them: {said}");
    }
    drop(idle);
}

#[test]
fn a_pid_namespace_of_its_own_is_said_with_its_cure() {
    let _idle = Idle::start(62);
    let dir = prepared(&Idle::selector(62));
    for arguments in [&[][..], &["--probe"]] {
        let Some(said) = checked(&dir, &["--pid", "--fork", "--mount-proc"], "exec \"$0\" \"$@\"", arguments) else { return };
        assert!(said.contains("shareProcessNamespace") && said.contains("--pid=host"), "{said}");
    }
}

/// A process that sleeps, under another name; ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn start(mut command: Command) -> Sleeper {
        Sleeper(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_port_that_docker_proxy_holds_is_not_the_services() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    let proxy = dir.path().join("docker-proxy");
    common::copy_program("/bin/sleep", &proxy);
    // it inherits the socket, as docker's own does
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let mut command = Command::new(&proxy);
    command.arg("60").arg0("docker-proxy");
    let _proxy = Sleeper::start(command);
    drop(listener);
    let config =
        format!("[[target]]\nname = \"svc\"\nprocess = {{ listen = \"{addr}\" }}\npprof = \"off\"\nthreshold = \"1GiB\"\nfor = \"0s\"\n");
    let memtrap = Memtrap::start(&config);
    memtrap.wait_until(10, "it says so", |m| m.log().contains("docker-proxy (pid "));
    assert!(memtrap.log().contains("select the process in the container by exe, name or cmdline"), "{}", memtrap.log());
}

/// What `check --probe` says of this pid file.
fn probed(file: &Path) -> String {
    let dir = prepared(&format!("{{ pid_file = \"{}\" }}", file.display()));
    let mut command = Command::new(dir.path().join("memtrap"));
    let output = command.args(["check", "--probe", "-c"]).arg(dir.path().join("m.toml")).output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_pid_file_of_a_container_is_not_taken_for_one_of_this_host() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("svc.pid");
    // a process that another user's file names
    let idle = Idle::start(63);
    fs::write(&file, idle.pid().to_string()).unwrap();
    assert!(!probed(&file).contains("pid file"), "{}", probed(&file));
    if rustix::process::geteuid().is_root() {
        chown(&file, Some(65534), None).unwrap();
        let said = probed(&file);
        assert!(said.contains("runs as root") && said.contains("written in a container"), "{said}");
    } else {
        not_checked("a pid file of another user: only root can make one");
    }

    // older than the process that has the number here
    let old = memtrap::clock::wall_now() - Duration::from_secs(3_600);
    let root = dir.path().join("old.pid");
    fs::write(&root, idle.pid().to_string()).unwrap();
    fs::File::options().write(true).open(&root).unwrap().set_modified(old).unwrap();
    assert!(probed(&root).contains("is older than process"), "{}", probed(&root));

    let host = fs::read_link("/proc/self/ns/pid").unwrap();
    if host.as_os_str() != "pid:[4026531836]" {
        return not_checked("a pid file that names the host's init: this is a container");
    }
    let one = dir.path().join("one.pid");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "sh", "-c", "echo $$ > \"$0\"; exec sleep 60"]).arg(&one);
    let _inside = Sleeper::start(command);
    wait_until(Duration::from_secs(10), "its pid file", || fs::read_to_string(&one).is_ok_and(|text| text.trim() == "1"));
    let said = probed(&one);
    assert!(said.contains("this host's init") && said.contains("(sleep)"), "{said}");
}
