//! `pprof = "auto"` where the service is in another network namespace, as in a container: real namespaces, real Go services.

mod common;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use common::{Memtrap, Space, Svc, bundles_in, entry, run};
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

    /// A bundle of the process, with pprof as it is found.
    fn capture(&self) -> PathBuf {
        let (pid, out) = (self.pid.to_string(), self.dir.path().join("captured"));
        let done = run(&["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", out.to_str().unwrap()]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        bundles_in(&out).pop().unwrap()
    }
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
