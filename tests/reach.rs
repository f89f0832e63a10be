//! `pprof = "auto"` where the service is in another network namespace, as in a container: real namespaces, real Go services.

mod common;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Container, GoVersion, Memtrap, Space, Svc, bundles_in, entry, go_svc, not_checked, run, wait_until};
use rustix::process::Uid;
use tempfile::TempDir;

const WHAT: &str = "pprof in another network namespace";

/// A configuration of one target, and what memtrap makes of it.
struct Place {
    dir: TempDir,
    pid: u32,
}

impl Place {
    fn of(svc: &Svc) -> Place {
        Place { dir: TempDir::new().unwrap(), pid: svc.pid() }
    }

    fn config(&self, keys: &str) -> PathBuf {
        let (file, at) = (self.dir.path().join("memtrap.toml"), self.dir.path().display());
        let daemon = format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n");
        let target = format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\nthreshold = \"1TiB\"\nretries = 0\n{keys}\n", self.pid);
        fs::write(&file, daemon + &target).unwrap();
        file
    }

    fn probe(&self, keys: &str) -> Output {
        run(&["check", "--probe", "-c", self.config(keys).to_str().unwrap()])
    }

    /// What is said of a target whose pprof answers.
    fn answers(&self, keys: &str) -> String {
        let done = self.probe(keys);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
        said
    }

    /// Whether all is well, and what is said, where memtrap lacks a capability that root has.
    fn probed_with(&self, capabilities: &str, keys: &str) -> (bool, String) {
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set={capabilities}")).arg(format!("--inh-caps={capabilities}")).arg(env!("CARGO_BIN_EXE_memtrap"));
        let done = command.args(["check", "--probe", "-c"]).arg(self.config(keys)).output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// What is said by a memtrap of another user, with these capabilities (`+sys_ptrace`).
    fn probed_by_nobody(&self, capabilities: &str, keys: &str) -> String {
        let (dir, config) = (self.dir.path(), self.config(keys));
        fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
        common::copy_program(env!("CARGO_BIN_EXE_memtrap"), dir.join("memtrap"));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        if !capabilities.is_empty() {
            command.arg(format!("--inh-caps={capabilities}")).arg(format!("--ambient-caps={capabilities}"));
        }
        let done = command.arg(dir.join("memtrap")).args(["check", "--probe", "-c"]).arg(config).output().unwrap();
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
    }

    /// A bundle of the process, with pprof as it is found.
    fn capture(&self) -> PathBuf {
        let (pid, out) = (self.pid.to_string(), self.dir.path().join("captured"));
        let done = run(&["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", out.to_str().unwrap()]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        bundles_in(&out).pop().unwrap()
    }
}

/// What the unit grants.
const UNIT: &str = "+sys_ptrace,+dac_read_search";
/// Neither root nor memtrap's.
const SHOP: u32 = 65_533;

/// What runs the test service as the user of a shop: what `enter` does, then that.
fn shops(dir: &TempDir, enter: Command) -> Command {
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("svc");
    if !program.exists() {
        common::copy_program(go_svc(GoVersion::Newest), &program);
    }
    let mut command = enter;
    command.args([&format!("--reuid={SHOP}"), &format!("--regid={SHOP}"), "--clear-groups"]).arg(program);
    command
}

/// A probe that may have found other things wrong says that pprof answers there.
#[track_caller]
fn assert_found(said: &str, url: &str) {
    assert!(said.contains(url) && !said.contains("pprof:") && !said.contains("answered as"), "{said}");
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        not_checked("pprof of another user's process: this is not root");
    }
    is_root
}

fn port(svc: &Svc) -> &str {
    svc.address().rsplit_once(':').unwrap().1
}

#[test]
fn a_service_that_listens_on_any_address_of_another_namespace_is_asked_at_its_own() {
    let Some(space) = Space::with_address(WHAT) else { return };
    for addr in ["0.0.0.0:0", "[::]:0", &format!("{}:0", space.address())] {
        let svc = space.svc(&["-addr", addr]);
        let place = Place::of(&svc);
        let url = format!("http://{}:{}/debug/pprof", space.address(), port(&svc));
        assert!(place.answers("").contains(&url), "{addr}: {}", place.answers(""));
        let bundle = place.capture();
        for file in ["heap.pb.gz", "memstats.txt", "goroutine.txt"] {
            let entry = entry(&bundle, file);
            assert_eq!(entry["status"], "ok", "{addr}: {entry:#}");
            assert!(entry["source"].as_str().unwrap().starts_with(&url), "{addr}: {entry:#}");
        }
    }
}

#[test]
fn a_service_on_the_loopback_of_another_namespace_is_asked_from_within() {
    let Some(space) = Space::lonely(WHAT) else { return };
    for addr in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0", "127.0.0.9:0"] {
        let svc = space.svc(&["-addr", addr]);
        let place = Place::of(&svc);
        let whence = format!(" (in the network namespace of process {})", svc.pid());
        let said = place.answers("");
        assert!(said.contains(&format!(":{}/debug/pprof{whence}", port(&svc))), "{addr}: {said}");
        let bundle = place.capture();
        for file in ["heap.pb.gz", "memstats.txt", "goroutine.txt"] {
            let entry = entry(&bundle, file);
            let source = entry["source"].as_str().unwrap();
            assert!(entry["status"] == "ok" && source.starts_with("http://") && source.ends_with(&whence), "{addr}: {entry:#}");
        }
    }
}

#[test]
fn the_same_port_of_memtraps_own_loopback_is_not_asked() {
    let Some(space) = Space::lonely(WHAT) else { return };
    let svc = space.svc(&["-addr", "127.0.0.1:0"]);
    let mine = TcpListener::bind(("127.0.0.1", port(&svc).parse().unwrap())).unwrap();
    let said = Place::of(&svc).answers("");
    assert!(said.contains("in the network namespace of process"), "{said}");
    mine.set_nonblocking(true).unwrap();
    assert_eq!(mine.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody connected");
}

#[test]
fn no_thread_of_memtrap_stays_in_a_namespace_that_it_entered() {
    let Some(space) = Space::lonely(WHAT) else { return };
    let svc = space.svc(&["-addr", "127.0.0.1:0"]);
    let target = format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\nthreshold = \"4MiB\"\nfor = \"0s\"\nretries = 0\ncpu_seconds = 2\nread_memory = \"off\"\n",
        svc.pid()
    );
    let memtrap = Memtrap::start(&target);
    let bundle = memtrap.wait_for_bundles(30, 1).pop().unwrap();
    for file in ["heap.pb.gz", "profile.pb.gz"] {
        assert_eq!(entry(&bundle, file)["status"], "ok", "{:#}", entry(&bundle, file));
    }
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    for task in fs::read_dir(format!("/proc/{}/task", memtrap.pid())).unwrap() {
        let path = task.unwrap().path().join("ns/net");
        // one that ends at this moment is in none
        assert!(fs::read_link(&path).map_or(true, |link| link == own), "{}", path.display());
    }
}

#[test]
fn a_namespace_that_may_not_be_entered_is_said_with_what_it_takes_and_what_is_reached_is_reached() {
    let Some(space) = Space::with_address(WHAT) else { return };
    let (lonely, open) = (space.svc(&["-addr", "127.0.0.1:0"]), space.svc(&["-addr", "0.0.0.0:0"]));
    // as the unit has it: descriptors are seen, namespaces not entered
    let without = "-sys_admin";
    let said = Place::of(&lonely).probed_with(without, "read_memory = \"off\"").1;
    assert!(said.contains("memtrap may not enter the network namespace of process") && said.contains("CAP_SYS_ADMIN"), "{said}");
    assert!(said.contains("network-namespaces.conf"), "{said}");
    let (done, said) = Place::of(&open).probed_with(without, "");
    let url = format!("http://{}:{}/debug/pprof", space.address(), port(&open));
    assert!(done && said.contains(&url), "{said}");

    // the drop-in's, of a user who is not root
    let said = Place::of(&lonely).probed_by_nobody(&format!("{UNIT},+sys_admin"), "read_memory = \"off\"");
    assert_found(&said, &format!("http://{}/debug/pprof (in the network namespace of process {})", lonely.address(), lonely.pid()));
    let said = Place::of(&lonely).probed_by_nobody(UNIT, "read_memory = \"off\"");
    assert!(said.contains("memtrap may not enter the network namespace"), "{said}");
}

#[test]
fn where_no_way_is_open_the_memory_of_the_process_has_the_evidence() {
    let Some(space) = Space::lonely(WHAT) else { return };
    let svc = space.svc(&["-addr", "127.0.0.1:0"]);
    let (place, pid) = (Place::of(&svc), svc.pid().to_string());
    let out = place.dir.path().join("captured");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", env!("CARGO_BIN_EXE_memtrap")]);
    let done = command.args(["capture", "--pid", &pid, "--cpu-seconds", "0", "-o"]).arg(&out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bundle = bundles_in(&out).pop().unwrap();
    for file in ["heap.pb.gz", "memstats.txt", "goroutine.pb.gz"] {
        let entry = entry(&bundle, file);
        assert!(entry["status"] == "ok" && entry["source"] == "memory", "{entry:#}");
        assert!(entry["reason"].as_str().unwrap().contains("may not enter the network namespace"), "{entry:#}");
    }
}

#[test]
fn a_service_in_a_real_container_is_reached_on_its_loopback_and_on_its_unix_socket() {
    let (program, pid) = (go_svc(GoVersion::Newest), std::process::id());
    for (number, addr, shown) in
        [(1, "127.0.0.1:6060", "http://127.0.0.1:6060/debug/pprof"), (2, "unix:/dev/shm/svc.sock", "unix:///dev/shm/svc.sock:/debug/pprof")]
    {
        let id = format!("memtrap-reach-{pid}-{number}");
        let args = ["-addr", addr, "-exit-after", "5m"];
        let Some(container) = Container::start(&id, &program, &args, serde_json::json!({})) else { return };
        let place = Place { dir: TempDir::new().unwrap(), pid: container.pid };
        // it says nothing when it listens
        wait_until(Duration::from_secs(10), "it answers", || place.probe("read_memory = \"off\"").status.success());
        let said = place.answers("read_memory = \"off\"");
        assert!(said.contains(&format!("{shown} (")), "{said}");
        let bundle = place.capture();
        for file in ["heap.pb.gz", "memstats.txt", "goroutine.txt"] {
            let entry = entry(&bundle, file);
            assert!(entry["status"] == "ok" && entry["source"].as_str().unwrap().starts_with(shown), "{entry:#}");
        }
    }
}

/// A pod whose containers share their processes: of another user, without a right, in its pid and network namespaces.
#[test]
fn beside_a_service_of_roots_in_one_pod_it_is_found_without_any_right() {
    let namespaces = ["--pid", "--net", "--fork", "--mount-proc", "--kill-child=KILL"];
    if !Command::new("unshare").args(namespaces).arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return not_checked("a sidecar's pprof: no pid and network namespaces can be made here");
    }
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    common::copy_program(go_svc(GoVersion::Newest), dir.path().join("shop-svc"));
    common::copy_program(env!("CARGO_BIN_EXE_memtrap"), dir.path().join("memtrap"));
    let at = dir.path().display();
    let daemon = format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n");
    let target = "[[target]]\nname = \"svc\"\nprocess = { name = \"shop-svc\" }\nthreshold = \"1TiB\"\nread_memory = \"off\"\n";
    fs::write(dir.path().join("m.toml"), daemon + target).unwrap();
    let script = "ip link set lo up; ./shop-svc -addr 127.0.0.1:6060 -exit-after 2m > ready & until [ -s ready ]; do sleep 0.05; done; \
                  setpriv --reuid=65534 --regid=65534 --clear-groups ./memtrap check --probe -c m.toml";
    let done = Command::new("unshare").args(namespaces).args(["sh", "-c", script]).current_dir(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert_found(&said, "http://127.0.0.1:6060/debug/pprof");
}

#[test]
fn a_unix_socket_is_found_below_the_root_of_the_process_that_listens_on_it() {
    let can = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !can {
        return not_checked("a unix socket below another root: no mount namespace can be made here");
    }
    // with /proc/PID/root before it, it is too long for a socket's address
    let path = format!("/mnt/{}/svc.sock", "d".repeat(92));
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs tmpfs /mnt && mkdir \"$(dirname \"${2#unix:}\")\" && exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(go_svc(GoVersion::Newest)).args(["-addr", &format!("unix:{path}")]);
    let svc = Svc::start_in(command, &[]);
    assert!(!Path::new(&path).exists(), "it is in the process's own mount namespace");
    let url = format!("unix://{path}:/debug/pprof");
    let place = Place::of(&svc);
    assert!(place.answers("").contains(&url), "{}", place.answers(""));
    let bundle = place.capture();
    for file in ["heap.pb.gz", "memstats.txt", "goroutine.txt"] {
        let entry = entry(&bundle, file);
        let source = entry["source"].as_str().unwrap();
        assert!(
            entry["status"] == "ok" && source.starts_with(&url) && source.ends_with(&format!("(below the root of process {})", svc.pid())),
            "{entry:#}"
        );
    }
}

#[test]
fn a_unix_socket_that_memtraps_user_may_not_write_to_is_said_with_the_cure() {
    if !is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("svc.sock");
    let svc = Svc::start(GoVersion::Newest, &["-addr", &format!("unix:{}", socket.display())]);
    let place = Place::of(&svc);
    assert!(place.answers("").contains(&format!("unix://{}:/debug/pprof", socket.display())), "{}", place.answers(""));
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o700)).unwrap();
    let said = place.probed_by_nobody(UNIT, "read_memory = \"off\"");
    assert!(said.contains("memtrap's user may not connect to the socket") && said.contains("SupplementaryGroups="), "{said}");
}

#[test]
fn without_any_right_the_process_is_found_among_its_users_sockets_by_what_it_says_of_itself() {
    if !is_root() {
        return;
    }
    let Some(space) = Space::with_address(WHAT) else { return };
    let dir = TempDir::new().unwrap();
    // of the same user in the same namespace, where it is asked first
    let other = space.inside(|| {
        rustix::thread::set_thread_res_uid(Uid::from_raw(SHOP), Uid::from_raw(SHOP), Uid::from_raw(SHOP)).unwrap();
        TcpListener::bind("0.0.0.0:6060").unwrap()
    });
    let (tell, told) = channel();
    let asked = std::thread::spawn(move || {
        for connection in other.incoming().take_while(|_| told.try_recv().is_err()).map(Result::unwrap) {
            let mut reader = BufReader::new(&connection);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "GET /debug/pprof/cmdline HTTP/1.1\r\n");
            write!(&connection, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother").unwrap();
        }
    });
    let here = Svc::start_in(shops(&dir, Command::new("setpriv")), &[]);
    let there = Svc::start_in(shops(&dir, space.command("setpriv")), &["-addr", "0.0.0.0:0"]);
    let said = Place::of(&here).probed_by_nobody("", "read_memory = \"off\"");
    assert_found(&said, &here.pprof());
    let said = Place::of(&there).probed_by_nobody("", "read_memory = \"off\"");
    assert_found(&said, &format!("http://{}:{}/debug/pprof", space.address(), port(&there)));
    tell.send(()).unwrap();
    space.inside(|| TcpStream::connect("127.0.0.1:6060").map(drop)).unwrap();
    asked.join().unwrap();
}

#[test]
fn roots_ports_on_this_host_are_not_asked_on_suspicion() {
    if !is_root() {
        return;
    }
    if fs::read_link("/proc/self/ns/pid").unwrap().as_os_str() != "pid:[4026531836]" {
        return not_checked("that root's ports on a host are not asked on suspicion: this is a container");
    }
    let svc = Svc::start(GoVersion::Newest, &[]);
    let said = Place::of(&svc).probed_by_nobody("", "read_memory = \"off\"");
    assert!(said.contains("cannot see the sockets of this process") && said.contains("CAP_SYS_PTRACE"), "{said}");
}

#[test]
fn a_place_for_the_address_is_filled_with_the_processs_own() {
    let Some(space) = Space::with_address(WHAT) else { return };
    let there = space.svc(&["-addr", "0.0.0.0:0"]);
    let keys = |port: &str| format!("pprof = \"http://{{address}}:{port}/debug/pprof\"\nread_memory = \"off\"");
    let url = |svc: &Svc| format!("http://{}:{}/debug/pprof", space.address(), port(svc));
    let said = Place::of(&there).answers(&keys(port(&there)));
    assert!(said.contains(&url(&there)), "{said}");
    let here = Svc::start(GoVersion::Newest, &[]);
    let said = Place::of(&here).answers(&keys(port(&here)));
    assert!(said.contains(&here.pprof()), "{said}");

    // another of that namespace
    let other = space.svc(&["-addr", "0.0.0.0:0"]);
    let done = Place::of(&there).probe(&keys(port(&other)));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("is not served by process"), "{said}");
    // a namespace without an address
    let lonely = Space::lonely(WHAT).unwrap();
    let svc = lonely.svc(&["-addr", "0.0.0.0:0"]);
    let done = Place::of(&svc).probe(&keys(port(&svc)));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("has no address that is not this host's too"), "{said}");
}

#[test]
fn credentials_go_to_the_process_within_and_over_no_network() {
    let Some(space) = Space::with_address(WHAT) else { return };
    let svc = space.svc(&["-addr", "0.0.0.0:0", "-bearer", "s3cr3t-t0ken"]);
    let place = Place::of(&svc);
    let token = place.dir.path().join("token");
    fs::write(&token, "s3cr3t-t0ken").unwrap();
    let keys = format!("pprof = \"auto\"\nauth = {{ bearer_file = \"{}\" }}\nread_memory = \"off\"", token.display());
    let said = place.answers(&keys);
    assert!(said.contains("in the network namespace of process"), "{said}");
    let (done, said) = place.probed_with("-sys_admin", &keys);
    assert!(!done && said.contains("credentials are not sent to") && said.contains("write the address in `pprof`"), "{said}");
}

#[test]
fn another_network_with_the_same_address_is_sent_nothing() {
    let (Some(space), Some(other)) = (Space::lonely(WHAT), Space::with_address(WHAT)) else { return };
    space.add(other.address());
    let svc = space.svc(&["-addr", "0.0.0.0:0"]);
    // what leads there from here is another's
    let strangers = other.inside(|| TcpListener::bind(("0.0.0.0", port(&svc).parse().unwrap())).unwrap());
    let (done, said) = Place::of(&svc).probed_with("-sys_admin", "read_memory = \"off\"");
    assert!(!done && said.contains(&format!("is not in the network namespace of process {}", svc.pid())), "{said}");
    strangers.set_nonblocking(true).unwrap();
    let (mut connection, _) = strangers.accept().expect("it was connected to");
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut sent = Vec::new();
    connection.read_to_end(&mut sent).unwrap();
    assert_eq!(sent, b"");
}

#[test]
fn an_address_that_this_host_has_too_is_not_asked() {
    let (Some(space), Some(other)) = (Space::lonely(WHAT), Space::with_address(WHAT)) else { return };
    space.add(other.own_end());
    let svc = space.svc(&["-addr", "0.0.0.0:0"]);
    let mine = TcpListener::bind((other.own_end(), port(&svc).parse().unwrap())).unwrap();
    let (done, said) = Place::of(&svc).probed_with("-sys_admin", "read_memory = \"off\"");
    assert!(!done && said.contains("is in another network namespace"), "{said}");
    mine.set_nonblocking(true).unwrap();
    assert_eq!(mine.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody connected");
}
