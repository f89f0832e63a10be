//! `pprof = "auto"` where the service is in another network namespace, as in a container: real namespaces, real Go services.

mod common;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use common::{Space, Svc, bundles_in, entry, run};
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

    /// The line about a pprof that does not.
    fn trouble(&self, keys: &str) -> String {
        let done = self.probe(keys);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&done.stdout));
        said.lines().find(|l| l.contains("pprof:")).unwrap_or_else(|| panic!("nothing of pprof in:\n{said}")).to_owned()
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
fn another_network_with_the_same_address_is_sent_nothing() {
    let (Some(space), Some(other)) = (Space::lonely(WHAT), Space::with_address(WHAT)) else { return };
    space.add(other.address());
    let svc = space.svc(&["-addr", "0.0.0.0:0"]);
    // what leads there from here is another's
    let strangers = other.inside(|| TcpListener::bind(("0.0.0.0", port(&svc).parse().unwrap())).unwrap());
    let said = Place::of(&svc).trouble("read_memory = \"off\"");
    assert!(said.contains(&format!("is not in the network namespace of process {}", svc.pid())), "{said}");
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
    let said = Place::of(&svc).trouble("read_memory = \"off\"");
    assert!(said.contains("is in another network namespace"), "{said}");
    mine.set_nonblocking(true).unwrap();
    assert_eq!(mine.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody connected");
}
