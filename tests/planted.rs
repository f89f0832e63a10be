//! What someone else has put in the place of memtrap's files and directories: links, pipes, files larger than any disk; and too few open files.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::http::get;
use common::{Idle, Memtrap, bundles_in, entry, not_checked, run, wait_until};
use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::Signal;
use tempfile::TempDir;

const STRANGER: u32 = 54_321;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that must end, whatever it meets.
fn ends(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_memtrap"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut waits = 0;
    let ended = || {
        waits += 1;
        // what hangs is ended here, so that nothing outlives this test
        let done = child.try_wait().unwrap().is_some();
        if waits > 4_000 && !done {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        done
    };
    wait_until(Duration::from_secs(30), &format!("{args:?} ends"), ended);
    child.wait_with_output().unwrap()
}

/// A bundle directory with one bundle, of the kernel's side of an idle process.
struct Caught {
    home: TempDir,
    id: String,
}

impl Caught {
    fn new(mark: u32) -> Caught {
        let (home, idle) = (TempDir::new().unwrap(), Idle::start(mark));
        let dir = home.path().join("bundles");
        let done = run(&["capture", "--pid", &idle.pid().to_string(), "--cpu-seconds", "0", "-o", dir.to_str().unwrap()]);
        assert!(done.status.success(), "{}", stderr(&done));
        let path = bundles_in(&dir).remove(0);
        let id = path.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned();
        Caught { home, id }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("bundles")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir().join(&self.id).join(file)
    }

    fn bundles(&self, action: &[&str]) -> Output {
        ends(&[&["bundles", "--dir", self.dir().to_str().unwrap()], action].concat())
    }
}

fn fifo(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// Where a daemon listens.
fn address(memtrap: &Memtrap) -> String {
    let log = memtrap.log();
    let line = log.lines().rev().find(|l| l.contains("listening:")).unwrap();
    line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_directory_of_a_bundle_that_is_a_link_is_followed_by_no_command_and_not_by_the_server() {
    let caught = Caught::new(1);
    let status = fs::read_to_string(caught.path("proc/status")).unwrap();
    // even what fits the manifest to the last byte is not of the bundle
    fs::rename(caught.path("proc"), caught.home.path().join("elsewhere")).unwrap();
    symlink(caught.home.path().join("elsewhere"), caught.path("proc")).unwrap();

    let shown = caught.bundles(&["show", &caught.id]);
    assert!(
        shown.status.code() == Some(1) && stderr(&shown).contains("proc/status cannot be read: it is, or lies behind, a symbolic link"),
        "{}",
        stderr(&shown)
    );
    let exported = caught.bundles(&["export", &caught.id, "-o", caught.home.path().join("x.tar.gz").to_str().unwrap()]);
    assert_eq!(exported.status.code(), Some(1), "{}", stderr(&exported));
    assert!(!caught.home.path().join("x.tar.gz").exists());
    let analysed = ends(&["analyze", caught.path("").to_str().unwrap()]);
    let said = [analysed.stdout, analysed.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("symbolic link"), "{}", String::from_utf8_lossy(&said));

    let memtrap = Memtrap::start_in(
        &caught.dir(),
        &format!("listen = \"127.0.0.1:0\"\n[[target]]\nname = \"none\"\nprocess = {}\nthreshold = \"1GiB\"\n", Idle::selector(2)),
    );
    let served = get(&address(&memtrap), &format!("/bundles/{}/proc/status", caught.id));
    assert!(served.status != 200 && !served.text().contains(status.lines().next().unwrap()), "{}", served.text());
}

#[test]
fn pipes_links_and_boundless_files_in_a_bundle_hold_no_command_up() {
    let caught = Caught::new(3);
    // of another size, it is not read: that would take hours
    File::create(caught.path("proc/smaps")).unwrap().set_len(1 << 40).unwrap();
    for pipe in ["timeline.csv", "verdict.json", "proc/status", "memstats.txt"] {
        fifo(&caught.path(pipe));
    }
    let shown = caught.bundles(&["show", &caught.id]);
    let said = stderr(&shown);
    assert_eq!(shown.status.code(), Some(1));
    for (file, why) in [("proc/smaps", "its size differs"), ("proc/status", "no regular file"), ("timeline.csv", "no regular file")] {
        assert!(said.contains(&format!("{file} ")) && said.contains(why), "{file}: {said}");
    }
    assert!(caught.bundles(&["list"]).status.success());
    assert_eq!(caught.bundles(&["export", &caught.id, "-o", "-"]).status.code(), Some(1));
    ends(&["analyze", caught.path("").to_str().unwrap()]);
    let replayed = ends(&["replay", caught.path("timeline.csv").to_str().unwrap(), "--threshold", "1GiB"]);
    assert!(replayed.status.code() == Some(1) && stderr(&replayed).contains("no regular file"), "{}", stderr(&replayed));
    fifo(&caught.path("manifest.json"));
    for action in [&["list"][..], &["show", &caught.id], &["rm", &caught.id]] {
        caught.bundles(action);
    }
    assert!(caught.path("manifest.json").exists(), "what carries no manifest is not deleted");
}

#[test]
fn pipes_in_the_state_hold_up_neither_a_start_nor_its_end() {
    let (home, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (idle, server) = (Idle::start(4), Faulty::start(Fault::Profile, &[]));
    let config = format!(
        "[upload]\nurl = \"file://{}\"\n[[notify]]\nname = \"n\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/x\"\n[[target]]\nname = \"svc\"\nprocess = {}\npprof = \"{}\"\nbaseline = \"1m\"\nwarmup = \"1s\"\nthreshold = \"1GiB\"\n",
        to.path().display(),
        Idle::selector(4),
        server.pprof()
    );
    let text = format!("[daemon]\nstate_dir = \"{0}/state\"\nbundle_dir = \"{0}/bundles\"\n{config}", home.path().display());
    fs::write(home.path().join("memtrap.toml"), text).unwrap();
    for pipe in [
        "state.json",
        "state.json.new",
        "egress/name",
        "egress/upload/x.job",
        "egress/notify/x.done",
        "egress/notify/receivers.json",
        "baselines/.swept",
    ] {
        fifo(&home.path().join("state").join(pipe));
    }
    for pipe in ["svc/x/manifest.json", "svc/y.partial/capture.json", "svc/y.partial/journal.jsonl"] {
        fifo(&home.path().join("bundles").join(pipe));
    }
    let log = File::create(home.path().join("log")).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_memtrap"))
        .args(["run", "--log-level", "debug", "-c"])
        .arg(home.path().join("memtrap.toml"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(home.path().join("log")).unwrap();
    let watched =
        std::panic::catch_unwind(|| wait_until(Duration::from_secs(20), "a baseline is taken", || said().contains("baseline taken")));
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::TERM).unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until(Duration::from_secs(20), "SIGTERM ends it", || daemon.try_wait().unwrap().is_some());
    }));
    let _ = daemon.kill();
    let _ = daemon.wait();
    assert!(watched.is_ok() && ended.is_ok(), "{}", said());
    drop(idle);
    assert!(fs::metadata(home.path().join("state/state.json")).unwrap().is_file(), "{}", said());
}

#[test]
fn a_directory_of_a_target_that_is_a_link_is_said_and_not_written_through() {
    let (home, idle) = (TempDir::new().unwrap(), Idle::start(5));
    let (dir, elsewhere) = (home.path().join("bundles"), home.path().join("elsewhere"));
    for made in [&dir, &elsewhere] {
        fs::create_dir(made).unwrap();
    }
    symlink(&elsewhere, dir.join("svc")).unwrap();
    let config = home.path().join("memtrap.toml");
    let target = format!(
        "[[target]]\nname = \"svc\"\nprocess = {}\npprof = \"off\"\nthreshold = \"1MiB\"\nfor = \"0s\"\ncpu_seconds = 0\n",
        Idle::selector(5)
    );
    let target = target.replace("pprof = \"off\"\n", "");
    fs::write(
        &config,
        format!("[daemon]\nstate_dir = \"{0}/state\"\nbundle_dir = \"{1}\"\n{target}", home.path().display(), dir.display()),
    )
    .unwrap();
    let probed = ends(&["check", "--probe", "-c", config.to_str().unwrap()]);
    assert!(stderr(&probed).contains("svc is a symbolic link") && stderr(&probed).contains("mount --bind"), "{}", stderr(&probed));
    let memtrap = Memtrap::start_in(&dir, &target);
    memtrap.wait_until(20, "it says so when it captures", |m| m.log().matches("svc is a symbolic link").count() >= 2);
    let listed = ends(&["bundles", "--dir", dir.to_str().unwrap()]);
    assert!(listed.status.code() == Some(1) && stderr(&listed).contains("svc is a symbolic link"), "{}", stderr(&listed));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    drop(idle);
}

#[test]
fn with_few_open_files_a_capture_and_the_state_still_work_and_the_rest_is_blind() {
    let server = Faulty::start(Fault::Profile, &[]);
    let svc = Idle::start(6);
    let many: Vec<Idle> = (0..130).map(|_| Idle::start(7)).collect();
    let config = format!(
        "[[target]]\nname = \"svc\"\nprocess = {}\npprof = \"{}\"\nthreshold = \"1MiB\"\nfor = \"3s\"\ninterval = \"100ms\"\ncpu_seconds = 0\n\
         [[target]]\nname = \"many\"\nprocess = {}\nthreshold = \"1GiB\"\n",
        Idle::selector(6),
        server.pprof(),
        Idle::selector(7)
    );
    // half is kept back: some of these are not watched
    let mut memtrap = Memtrap::start_with_few_files(128, &config);
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    assert_eq!(entry(&bundle, "heap.pb.gz")["status"], "ok");
    assert_eq!(entry(&bundle, "verdict.json")["status"], "ok");
    let log = memtrap.log();
    assert!(log.contains("not every process can be watched"), "{log}");
    memtrap.stop(Signal::TERM);
    let state = fs::read_to_string(memtrap.dir().join("state/state.json")).unwrap();
    assert!(state.contains("\"svc\"") && !memtrap.log().contains("Too many open files"), "{state}\n{}", memtrap.log());
    drop((svc, many));
}

#[test]
fn an_export_goes_through_no_link_or_pipe_of_a_stranger() {
    let caught = Caught::new(8);
    let (precious, out) = (caught.home.path().join("precious"), caught.home.path().join("out.tar.gz"));
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, &out).unwrap();
    if lchown(&out, Some(STRANGER), None).is_err() {
        return not_checked("links and pipes of another user: only root can make them here");
    }
    let to_it = ["export", &caught.id, "-o", out.to_str().unwrap()];
    let refused = caught.bundles(&to_it);
    assert!(refused.status.code() == Some(1) && stderr(&refused).contains("a link of user 54321"), "{}", stderr(&refused));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    fifo(&out);
    lchown(&out, Some(STRANGER), None).unwrap();
    let refused = caught.bundles(&to_it);
    assert!(refused.status.code() == Some(1) && stderr(&refused).contains("a pipe or device of user 54321"), "{}", stderr(&refused));
}

#[test]
fn directories_that_another_user_owns_or_may_write_are_refused_or_taken_back() {
    let home = TempDir::new().unwrap();
    let config = home.path().join("memtrap.toml");
    let target = format!("[[target]]\nname = \"svc\"\nprocess = {}\nthreshold = \"1GiB\"\n", Idle::selector(9));
    fs::write(&config, format!("[daemon]\nstate_dir = \"{0}/state\"\nbundle_dir = \"{0}/bundles\"\n{target}", home.path().display()))
        .unwrap();
    for (theirs, named) in [("state", "state_dir"), ("bundles", "bundles")] {
        let dir = home.path().join(theirs);
        fs::create_dir_all(&dir).unwrap();
        if lchown(&dir, Some(STRANGER), None).is_err() {
            return not_checked("directories of another user: only root can make them here");
        }
        let refused = ends(&["run", "-c", config.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("user 54321") && stderr(&refused).contains(named), "{}", stderr(&refused));
        fs::remove_dir_all(&dir).unwrap();
        symlink("/etc", &dir).unwrap();
        lchown(&dir, Some(STRANGER), None).unwrap();
        let refused = ends(&["run", "-c", config.to_str().unwrap()]);
        assert!(stderr(&refused).contains("a link of user 54321"), "{}", stderr(&refused));
        fs::remove_file(&dir).unwrap();
    }
    assert!(!Path::new("/etc/lock").exists() && fs::metadata("/etc").unwrap().uid() == 0);
}
