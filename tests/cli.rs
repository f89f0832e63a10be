//! What a person types, and what comes back.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::faulty::{Fault, Faulty};
use common::{GoVersion, Idle, Memtrap, Svc, bundles_in, manifest, repo, run};
use rustix::process::{Pid, Signal, kill_process};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(
        &file,
        "[daemon]\nmax_captures = 3\n\n[[target]]\nname = \"a/b\"\nprocess = { pid = 1 }\nthreshold = \"120%\"\nfor = 3\n",
    )
    .unwrap();
    let output = run(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    for (place, word) in [("2:1", "max_captures"), ("5:8", "name"), ("7:13", "120%"), ("8:7", "for")] {
        let start = format!("{}:{place}: ", file.display());
        let line = said.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("nothing at {place} in:\n{said}"));
        assert!(line.contains(word), "{line}");
    }
    assert_eq!(run(&["run", "-c", file.to_str().unwrap()]).status.code(), Some(78), "systemd must not restart it in a loop");
}

#[test]
fn the_daemon_may_open_as_many_descriptors_as_the_system_allows() {
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("memtrap.toml"), dir.path().join("log"));
    let at = dir.path().display();
    let target = "[[target]]\nname = \"t\"\nprocess = { pid = 1 }\nthreshold = \"1TiB\"\n";
    std::fs::write(&file, format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n{target}")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 256; exec \"$0\" run -c \"$1\"", env!("CARGO_BIN_EXE_memtrap")]).arg(&file);
    let mut child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    common::wait_until(Duration::from_secs(10), "memtrap watches", || log().contains("memtrap watches"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
}

#[test]
fn a_missing_configuration_says_what_to_do() {
    let output = run(&["check", "-c", "/nowhere/memtrap.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/nowhere/memtrap.toml"), "{}", stderr(&output));
}

#[test]
fn the_shipped_configurations_are_valid_and_the_readme_shows_the_minimal_one() {
    for entry in std::fs::read_dir(repo().join("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let output = run(&["check", "-c", path.to_str().unwrap()]);
            assert!(output.status.success(), "{}", stderr(&output));
        }
    }
    let readme = std::fs::read_to_string(repo().join("README.md")).unwrap();
    let minimal = std::fs::read_to_string(repo().join("config/minimal.toml")).unwrap();
    assert!(readme.contains(&format!("```toml\n{minimal}```")), "README's example is config/minimal.toml");
}

#[test]
fn the_documents_name_only_options_that_exist() {
    let docs = fs::read_dir(repo().join("docs")).unwrap().map(|page| page.unwrap().path()).filter(|path| path.is_file());
    let pages = ["README.md", "README.zh-CN.md"].map(|name| repo().join(name)).into_iter().chain(docs);
    let pages: String = pages.map(|page| fs::read_to_string(page).unwrap()).collect();
    let commands = pages.lines().filter_map(|l| l.strip_prefix("memtrap "));
    let mut seen = 0;
    for line in commands {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        let help = stdout(&run(&[words[0], "--help"]));
        for option in words.iter().filter(|w| w.starts_with("--")) {
            assert!(help.contains(option), "`memtrap {line}`: no {option} in its --help");
        }
        seen += 1;
    }
    assert!(seen > 5);
}

#[test]
fn a_probe_tells_what_could_not_be_captured() {
    let dir = tempfile::tempdir().unwrap();
    let svc = Svc::start(GoVersion::Newest, &[]);
    let file = dir.path().join("memtrap.toml");
    let probe = |config: &str| {
        let daemon = format!(
            "[daemon]\nbundle_dir = \"{0}/b\"\nstate_dir = \"{0}/s\"\n[retention]\nmin_free_disk = \"1MiB\"\n",
            dir.path().display()
        );
        std::fs::write(&file, daemon + config).unwrap();
        run(&["check", "--probe", "-c", file.to_str().unwrap()])
    };
    let target = |pid: u32, pprof: &str| {
        format!("[[target]]\nname = \"t{pid}\"\nprocess = {{ pid = {pid} }}\npprof = \"{pprof}\"\nthreshold = \"1GiB\"\n")
    };
    let good = probe(&target(svc.pid(), "auto"));
    assert!(good.status.success(), "{}", stderr(&good));
    assert!(stdout(&good).contains(svc.address()), "{}", stdout(&good));
    assert!(stdout(&good).contains("memory: can be read: go1."), "{}", stdout(&good));

    let bad = probe(&(target(svc.pid(), "http://127.0.0.1:1/debug/pprof") + &target(4_000_000, "auto")));
    assert_eq!(bad.status.code(), Some(1));
    let said = stderr(&bad);
    assert!(said.contains("pprof") && said.contains("t4000000: no process"), "{said}");
    assert!(said.contains("would come from its memory"), "which of both would serve: {said}");

    let without = target(svc.pid(), "off");
    let nothing_else = probe(&without);
    assert!(nothing_else.status.success(), "{}", stderr(&nothing_else));
    assert!(stderr(&nothing_else).contains("what its memory gives"), "{}", stderr(&nothing_else));
    let off = probe(&(without + "read_memory = \"off\"\n"));
    assert!(stdout(&off).contains("memory: off") && !stderr(&off).contains("its memory"), "{off:?}");
}

/// A target of an idle process, for which all is well.
fn idle_target(idle: &Idle) -> String {
    format!(
        "[retention]\nmin_free_disk = \"1MiB\"\n[[target]]\nname = \"t\"\nprocess = {{ pid = {} }}\npprof = \"off\"\nthreshold = \"1GiB\"\n",
        idle.pid()
    )
}

#[test]
fn a_probe_says_where_run_could_not_start_and_leaves_nothing_behind() {
    let (dir, idle) = (tempfile::tempdir().unwrap(), Idle::start(9));
    let (file, at) = (dir.path().join("memtrap.toml"), dir.path().display());
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(dir.path().join("plain"), "").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let configure = |state: &str, listen: &str| {
        let daemon = format!("[daemon]\nstate_dir = \"{at}/{state}\"\nbundle_dir = \"{at}/new/bundles\"\nlisten = \"{listen}\"\n");
        let upload = format!("[upload]\nurl = \"file://{at}/store\"\n");
        fs::write(&file, daemon + &upload + &idle_target(&idle)).unwrap();
    };
    let args = ["check", "--probe", "-c", file.to_str().unwrap()];
    configure("new/state", &format!("unix:{at}/socket"));
    let good = run(&args);
    assert!(good.status.success(), "{}", stderr(&good));
    assert!(stdout(&good).contains("/new/state (not there yet"), "{}", stdout(&good));
    let left: BTreeSet<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["memtrap.toml", "plain", "store"].map(Into::into).into());
    assert_eq!(fs::read_dir(dir.path().join("store")).unwrap().count(), 0);
    if let Some(closed) = run_unprivileged(&args, "a probe by another user") {
        assert_eq!(closed.status.code(), Some(1));
        let said = stderr(&closed);
        assert!(said.contains("cannot use state_dir") && said.contains("cannot listen") && said.contains("cannot write in"), "{said}");
    }

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    configure("plain", &taken.local_addr().unwrap().to_string());
    let bad = run(&args);
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("cannot use state_dir") && stderr(&bad).contains("cannot listen"), "{}", stderr(&bad));
}

#[test]
fn a_probe_beside_the_daemon_takes_its_address_for_its_own() {
    let (dir, idle) = (tempfile::tempdir().unwrap(), Idle::start(10));
    let listen = format!("listen = \"unix:{}/socket\"", dir.path().display());
    let mut memtrap = Memtrap::start_with(&listen, &idle_target(&idle));
    let file = memtrap.config_path();
    let probe = || run(&["check", "--probe", "-c", file.to_str().unwrap()]);
    let beside = probe();
    assert!(beside.status.success(), "{}", stderr(&beside));
    assert_eq!(stdout(&beside).matches(", in use by the memtrap that runs").count(), 2, "{}", stdout(&beside));
    // a socket that it left is no obstacle
    memtrap.stop(Signal::KILL);
    assert!(dir.path().join("socket").exists() && probe().status.success());
    let _other = Memtrap::start_with(&listen, &idle_target(&idle));
    let theirs = probe();
    assert!(!theirs.status.success() && stderr(&theirs).contains("cannot listen"), "another memtrap's: {}", stderr(&theirs));
}

/// A memtrap that runs beside the test, and no longer than it.
struct Beside(Option<Child>);

impl Beside {
    /// With these arguments and this stdout; `env` is told how it treats signals.
    fn start(env: &[&str], args: &[&str], stdout: Stdio) -> Beside {
        let mut command = Command::new("env");
        command.args(env).arg(env!("CARGO_BIN_EXE_memtrap")).args(args);
        Beside(Some(command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(self.0.as_ref().unwrap()), signal).unwrap();
    }

    fn end(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A pipe that nobody reads any more.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let idle = Idle::start(1);
    let (config, pid) = (repo().join("config/minimal.toml"), idle.pid().to_string());
    let capture = ["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", dir.path().to_str().unwrap()];
    for args in [&["check", "-c", config.to_str().unwrap()][..], &capture] {
        let gone = Beside::start(&[], args, unread()).end();
        assert!(gone.status.success(), "{args:?}: {}", stderr(&gone));
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let full = Beside::start(&[], args, full.into()).end();
        assert_eq!(full.status.code(), Some(1), "{args:?}: {}", stderr(&full));
        assert!(stderr(&full).contains("stdout: No space left"), "{args:?}: {}", stderr(&full));
    }
}

#[test]
fn watch_goes_on_when_nobody_reads_what_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let (pattern, out) = (Idle::pattern(2), dir.path().to_str().unwrap());
    let args = ["watch", "--cmdline", &pattern, "--threshold", "1MiB", "--for", "0s", "--cpu-seconds", "0", "-o", out];
    let _first = Idle::start(2);
    let _watch = Beside::start(&[], &args, unread());
    common::wait_until(Duration::from_secs(20), "a bundle", || bundles_in(dir.path()).len() == 1);
    let _second = Idle::start(2);
    common::wait_until(Duration::from_secs(20), "one more", || bundles_in(dir.path()).len() == 2);
}

#[test]
fn a_signal_ends_a_capture_with_a_bundle_and_its_own_code() {
    for (signal, code) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        let (dir, idle, server) = (tempfile::tempdir().unwrap(), Idle::start(3), Faulty::start(Fault::Hang, &[]));
        let (pid, out) = (idle.pid().to_string(), dir.path().to_str().unwrap());
        let args = ["capture", "--pid", &pid, "--pprof", &server.pprof(), "-o", out];
        let capture = Beside::start(&["--default-signal=HUP"], &args, Stdio::piped());
        common::wait_until(Duration::from_secs(10), "pprof is asked", || !server.seen().is_empty());
        capture.send(signal);
        let done = capture.end();
        assert_eq!(done.status.code(), Some(code), "{}", stderr(&done));
        let bundle = bundles_in(dir.path()).remove(0);
        assert_eq!(stdout(&done).trim(), bundle.to_str().unwrap());
        assert_eq!(manifest(&bundle)["outcome"], "interrupted");
    }
}

#[test]
fn a_lost_session_ends_watch_with_a_bundle_unless_nohup_started_it() {
    for (starter, stays) in [("--default-signal=HUP", false), ("--ignore-signal=HUP", true)] {
        let (dir, idle, server) = (tempfile::tempdir().unwrap(), Idle::start(4), Faulty::start(Fault::Hang, &[]));
        let (pid, out) = (idle.pid().to_string(), dir.path().to_str().unwrap());
        let args = ["watch", "--pid", &pid, "--threshold", "1MiB", "--for", "0s", "--pprof", &server.pprof(), "--once", "-o", out];
        let watch = Beside::start(&[starter], &args, Stdio::null());
        common::wait_until(Duration::from_secs(10), "pprof is asked", || !server.seen().is_empty());
        watch.send(Signal::HUP);
        if stays {
            std::thread::sleep(Duration::from_millis(500));
            assert!(bundles_in(dir.path()).is_empty(), "the capture goes on");
            watch.send(Signal::TERM);
        }
        let done = watch.end();
        assert_eq!(done.status.code(), Some(if stays { 143 } else { 129 }), "{}", stderr(&done));
        assert_eq!(manifest(&bundles_in(dir.path())[0])["outcome"], "interrupted");
    }
}

#[test]
fn usage_mistakes_exit_with_2_and_teach() {
    for (args, word) in [
        (&["watch", "--pid", "1"][..], "--threshold"),
        (&["watch", "--threshold", "1GiB"], "--pid"),
        (&["capture", "--listen", "nonsense"], "nonsense"),
        // the mistakes of a configuration file are mistakes here too
        (&["watch", "--pid", "1", "--threshold", "80"], "80B is below 1.00MiB"),
        (&["replay", "rss.csv", "--threshold", "20"], "20B is below 1.00MiB"),
        (&["watch", "--pid", "1", "--slope", "10KiB/10m"], "within the kernel's own inexactness"),
        (&["watch", "--pid", "1", "--slope", "1GiB/30d"], "is too long: at most 1day"),
        (&["watch", "--pid", "1", "--threshold", "1GiB", "--interval", "1ms"], "out of range: expected a time from 100ms to 1h"),
        (&["watch", "--pid", "1", "--threshold", "1GiB", "--cooldown", "1year"], "out of range: expected a time from 0s to 30days"),
        (&["bundles", "show"], "<ID>"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn bundles_are_listed_shown_and_found_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let svc = Svc::start(GoVersion::Newest, &[]);
    let (pid, out) = (svc.pid().to_string(), dir.path().to_str().unwrap());
    let done = run(&["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", out]);
    assert!(done.status.success(), "{}", stderr(&done));
    let bundle = stdout(&done).trim().to_owned();

    let list = stdout(&run(&["bundles", "--dir", out]));
    assert!(list.contains("manual") && list.contains("complete"), "{list}");
    let json: serde_json::Value = serde_json::from_str(&stdout(&run(&["bundles", "list", "--json", "--dir", out]))).unwrap();
    assert_eq!(json["bundles"][0]["path"], bundle);

    let shown = run(&["bundles", "show", "manual", "--dir", out]);
    assert!(shown.status.success() && stdout(&shown).contains("heap_gc.pb.gz"), "{}", stderr(&shown));

    std::fs::write(Path::new(&bundle).join("heap.pb.gz"), "x").unwrap();
    let damaged = run(&["bundles", "show", "manual", "--dir", out]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(stderr(&damaged).contains("heap.pb.gz"), "{}", stderr(&damaged));
}

#[test]
fn a_hostile_manifest_steers_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (idle, out) = (Idle::start(71), dir.path().to_str().unwrap());
    let done = run(&["capture", "--pid", &idle.pid().to_string(), "--cpu-seconds", "0", "-o", out]);
    let bundle = stdout(&done).trim().to_owned();
    let file = Path::new(&bundle).join("manifest.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{200b}\u{2028}\n\u{e0041}x";
    for key in ["started", "finished", "incident_id"] {
        value[key] = evil.into();
    }
    value["instance"]["label"] = evil.into();
    value["trigger"]["reason"] = evil.into();
    value["warnings"] = serde_json::json!([evil]);
    for entry in value["files"].as_array_mut().unwrap() {
        entry["reason"] = evil.into();
    }
    fs::write(&file, value.to_string()).unwrap();
    for args in [&["list"][..], &["show", "manual"], &["list", "--json"], &["show", "manual", "--json"]] {
        let done = run(&[&["bundles", "--dir", out], args].concat());
        let said = stdout(&done) + &stderr(&done);
        let hostile = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2066}\u{200b}\u{2028}\u{e0041}".contains(c);
        assert!(!said.contains(hostile), "{args:?}: {said:?}");
        if args.contains(&"--json") {
            assert!(said.contains("u202e"), "{said}");
            serde_json::from_str::<serde_json::Value>(&stdout(&done)).unwrap();
        }
    }
    let shown = stdout(&run(&["bundles", "show", "manual", "--dir", out]));
    assert!(shown.contains(r"\u{202e}"), "escaped, not dropped: {shown}");
}

#[test]
fn a_bundle_is_exported_as_one_archive_and_deleted_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let svc = Svc::start(GoVersion::Newest, &[]);
    let (pid, bundles, elsewhere) = (svc.pid().to_string(), dir.path().join("bundles"), dir.path().join("elsewhere"));
    let (out, there) = (bundles.to_str().unwrap(), elsewhere.to_str().unwrap());
    assert!(run(&["capture", "--pid", &pid, "--cpu-seconds", "0", "-o", out]).status.success());
    let json: serde_json::Value = serde_json::from_str(&stdout(&run(&["bundles", "list", "--json", "--dir", out]))).unwrap();
    let id = json["bundles"][0]["id"].as_str().unwrap();

    let file = dir.path().join("one.tar.gz");
    let exported = run(&["bundles", "export", id, "-o", file.to_str().unwrap(), "--dir", out]);
    assert!(exported.status.success(), "{}", stderr(&exported));
    assert_eq!(stdout(&exported).trim(), file.to_str().unwrap());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let piped = run(&["bundles", "export", "manual", "-o", "-", "--dir", out]);
    assert_eq!(piped.stdout, std::fs::read(&file).unwrap(), "the same bytes, wherever they go");

    // a person's tar makes a bundle directory of it again
    std::fs::create_dir(&elsewhere).unwrap();
    let tar = Command::new("tar").args(["xzf", file.to_str().unwrap(), "-C", there]).status().unwrap();
    assert!(tar.success());
    let shown = run(&["bundles", "show", id, "--dir", there]);
    assert!(shown.status.success(), "{}", stderr(&shown));

    let foreign = bundles.join("svc/20200101T000000Z-manual-1.00GiB");
    std::fs::create_dir_all(&foreign).unwrap();
    for unwanted in ["svc/20200101T000000Z-manual-1.00GiB", "manual", "../bundles"] {
        let refused = run(&["bundles", "rm", id, unwanted, "--dir", out]);
        assert_eq!(refused.status.code(), Some(1), "{unwanted}");
    }
    assert!(foreign.exists() && bundles.join(id).exists(), "all or nothing");
    let removed = run(&["bundles", "rm", id, "--dir", out]);
    assert!(removed.status.success(), "{}", stderr(&removed));
    assert!(!bundles.join(id).exists());
}

/// Runs a memtrap command as a user whom permissions bind. `None`, said aloud: this machine cannot.
fn run_unprivileged(args: &[&str], what: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        return Some(run(args));
    }
    // the build may lie where only root may look
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("memtrap");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    common::copy_program(env!("CARGO_BIN_EXE_memtrap"), &program);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program).args(args);
    let done = command.stdin(Stdio::null()).output();
    if done.is_err() {
        common::not_checked(&format!("{what}: this is root, and there is no setpriv"));
    }
    done.ok()
}

#[test]
fn bundles_that_cannot_be_looked_at_are_no_absence_of_bundles() {
    let dir = tempfile::tempdir().unwrap();
    let (bundles, idle) = (dir.path().join("bundles"), Idle::start(6));
    let out = bundles.to_str().unwrap();
    assert!(run(&["capture", "--pid", &idle.pid().to_string(), "--cpu-seconds", "0", "-o", out]).status.success());
    let bundle = bundles_in(&bundles).remove(0);
    let id = bundle.strip_prefix(&bundles).unwrap().to_str().unwrap();
    let target = bundle.parent().unwrap();

    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(dir.path(), 0o755);
    for (of_bundles, of_target, closed) in [(0o000, 0o755, &*bundles), (0o755, 0o000, target)] {
        mode(target, of_target);
        mode(&bundles, of_bundles);
        for args in [&["bundles", "list"][..], &["bundles", "show", "manual"], &["bundles", "show", id], &["bundles", "rm", id]] {
            let Some(done) = run_unprivileged(&[args, &["--dir", out]].concat(), "bundles that are closed to a user") else { return };
            let said = stderr(&done);
            assert_eq!(done.status.code(), Some(1), "{args:?}: {said}");
            assert!(said.contains(closed.to_str().unwrap()) && said.contains("Permission denied") && said.contains("or as root"), "{said}");
        }
        mode(&bundles, 0o755);
        mode(target, 0o755);
    }

    let nowhere = dir.path().join("nowhere").display().to_string();
    let missing = run(&["bundles", "--dir", &nowhere]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains(&format!("there is no directory {nowhere}")), "{}", stderr(&missing));
    let config = dir.path().join("memtrap.toml");
    fs::write(&config, format!("target = []\n[daemon]\nbundle_dir = \"{nowhere}\"\n")).unwrap();
    let not_yet = run(&["bundles", "-c", config.to_str().unwrap()]);
    assert!(not_yet.status.success() && stderr(&not_yet).contains("no bundles"), "{}", stderr(&not_yet));
}

#[test]
fn a_bundle_with_a_damaged_manifest_is_said_to_be_damaged() {
    let (dir, idle) = (tempfile::tempdir().unwrap(), Idle::start(7));
    let out = dir.path().to_str().unwrap();
    assert!(run(&["capture", "--pid", &idle.pid().to_string(), "--cpu-seconds", "0", "-o", out]).status.success());
    let bundle = bundles_in(dir.path()).remove(0);
    let id = bundle.strip_prefix(dir.path()).unwrap().to_str().unwrap();
    fs::write(bundle.join("manifest.json"), "{ \"schema\"").unwrap();

    let listed = run(&["bundles", "--dir", out]);
    assert!(listed.status.success() && listed.stdout.is_empty(), "{}", stderr(&listed));
    assert!(stderr(&listed).contains(&format!("{id} is damaged")), "{}", stderr(&listed));
    for args in [["show", id], ["show", "manual"], ["export", id], ["rm", id]] {
        let refused = run(&[&["bundles", "--dir", out], &args[..]].concat());
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        assert!(
            stderr(&refused).contains("manifest.json is no manifest that this memtrap can read: EOF"),
            "{args:?}: {}",
            stderr(&refused)
        );
    }
    assert!(bundle.exists());
}

#[test]
fn an_export_is_written_to_a_pipe_and_through_a_link_and_replaces_neither() {
    let dir = tempfile::tempdir().unwrap();
    let (path, idle) = (|name: &str| dir.path().join(name).display().to_string(), Idle::start(5));
    let out = path("bundles");
    assert!(run(&["capture", "--pid", &idle.pid().to_string(), "--cpu-seconds", "0", "-o", &out]).status.success());
    let export = |to: &str| run(&["bundles", "export", "manual", "-o", to, "--dir", &out]);
    let archive = export("-").stdout;
    assert!(!archive.is_empty());

    let fifo = path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    let piped = export(&fifo);
    assert!(piped.status.success() && piped.stdout.is_empty(), "{}", stderr(&piped));
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo(), "it is what it was");
    assert_eq!(reader.join().unwrap(), archive);

    // what /dev/stdout is
    symlink("/proc/self/fd/1", path("stdout")).unwrap();
    assert_eq!(export(&path("stdout")).stdout, archive);
    assert!(fs::symlink_metadata(path("stdout")).unwrap().is_symlink());

    fs::create_dir(path("there")).unwrap();
    fs::write(path("there/old.tar.gz"), "old").unwrap();
    symlink("there/old.tar.gz", path("link")).unwrap();
    assert!(export(&path("link")).status.success());
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert_eq!(fs::read(path("there/old.tar.gz")).unwrap(), archive);

    symlink("nowhere", path("broken")).unwrap();
    for to in ["there", "broken"] {
        let refused = export(&path(to));
        assert_eq!(refused.status.code(), Some(1), "{to}");
        assert!(stderr(&refused).contains("name another file with -o"), "{}", stderr(&refused));
    }
}

/// `systemd-analyze` with these arguments about the unit with one of the drop-ins, or none.
fn systemd_analyze(args: &[&str], drop_in: Option<&std::path::Path>) -> Option<Output> {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("memtrap.service");
    std::fs::copy(repo().join("systemd/memtrap.service"), &unit).unwrap();
    if let Some(file) = drop_in {
        let drop_ins = dir.path().join("memtrap.service.d");
        std::fs::create_dir(&drop_ins).unwrap();
        std::fs::copy(file, drop_ins.join(file.file_name().unwrap())).unwrap();
    }
    let done = Command::new("systemd-analyze").args(args).arg(unit).output();
    if done.is_err() {
        common::not_checked("systemd/: no systemd-analyze on this machine");
    }
    done.ok()
}

#[test]
fn the_systemd_unit_and_its_drop_ins_are_valid() {
    let drop_ins = std::fs::read_dir(repo().join("systemd/drop-ins")).unwrap().map(|e| Some(e.unwrap().path()));
    for drop_in in drop_ins.chain([None]) {
        let Some(output) = systemd_analyze(&["verify", "--man=no"], drop_in.as_deref()) else { return };
        let said: Vec<String> = stderr(&output)
            .lines()
            .filter(|l| l.contains("memtrap.service") && !l.contains("is not executable"))
            .map(str::to_owned)
            .collect();
        assert!(said.is_empty(), "{drop_in:?}: {said:?}");
    }
}

#[test]
fn the_systemd_unit_is_exposed_to_little() {
    let Some(output) = systemd_analyze(&["security", "--offline=yes", "--threshold=20", "--no-pager"], None) else { return };
    if stderr(&output).contains("unrecognized option") {
        return common::not_checked("the unit's exposure: systemd-analyze is older than 250");
    }
    assert!(output.status.success(), "{}", stdout(&output));
}

#[test]
fn the_packages_changelog_is_of_this_version() {
    let changelog = std::fs::read_to_string(repo().join("packaging/deb/changelog")).unwrap();
    assert!(changelog.starts_with(&format!("memtrap ({}-", env!("CARGO_PKG_VERSION"))), "{changelog}");
}

#[test]
fn the_package_brings_what_its_documents_name() {
    let read = |name: &str| fs::read_to_string(repo().join(name)).unwrap();
    let cargo: toml::Table = read("Cargo.toml").parse().unwrap();
    let assets = cargo["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let packaged = |name: &str| {
        assets
            .iter()
            .filter_map(|a| a[0].as_str())
            .any(|asset| asset == name || asset.split_once('*').is_some_and(|(dir, end)| name.starts_with(dir) && name.ends_with(end)))
    };
    let documents = ["README.md", "README.zh-CN.md", "SECURITY.md", "CHANGELOG.md", "packaging/deb/changelog"].map(read).concat();
    let words = documents.split(|c: char| c.is_whitespace() || "`()[]，。".contains(c)).map(|w| w.trim_end_matches(['.', ',', ':', ';']));
    let is_file = |w: &&str| {
        w.starts_with("config/") && w.contains('.') || w.starts_with("docs/") && w.contains('.') || w.ends_with(".md") && !w.contains('/')
    };
    let mut named: Vec<&str> = words.filter(is_file).filter(|w| repo().join(w).exists()).collect();
    named.sort();
    named.dedup();
    assert!(named.len() >= 13, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|w| !packaged(w)).collect();
    assert!(missing.is_empty(), "{missing:?} of {named:?}");
}

#[test]
fn a_recorded_series_is_replayed_with_the_rules_of_a_file_or_of_flags() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let lines: String = (0..120).map(|s| format!("{},{}MiB\n", 1_795_421_600 + s, 50 + s)).collect();
    fs::write(path("rss.csv"), lines).unwrap();
    fs::write(path("m.toml"), "[[target]]\nname = \"svc\"\nprocess = { pid = 1 }\nthreshold = \"50%\"\n").unwrap();
    let replayed = |args: &[&str]| {
        let output = run(&[&["replay", &path("rss.csv")], args].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, by_flags, said) = replayed(&["--threshold", "100MiB"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(
        by_flags.contains("2026-11-23T08:14:13Z  103MiB   FIRES threshold  RSS 103MiB at or above the threshold of 100MiB, for 3s"),
        "{by_flags}"
    );
    let (_, by_file, _) = replayed(&["-c", &path("m.toml"), "--target", "svc", "--limit", "200MiB", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&by_file).unwrap();
    assert_eq!((&json["schema"], &json["series"][0]["bundles"]), (&1.into(), &1.into()), "{json:#}");
    for (args, why) in [
        (&[][..], "give --threshold, --slope, --eta, --gc or --leak"),
        (&["-c", &path("m.toml"), "--target", "x"], "has no target `x`; there are: svc"),
        (&["-c", &path("m.toml"), "--target", "svc", "--eta", "1m"], "the rules come either from"),
    ] {
        let (code, _, said) = replayed(args);
        assert!(code == Some(2) && said.contains(why), "{args:?}: {said}");
    }
}

#[test]
fn a_pprof_that_does_not_answer_is_one_line_with_the_url_that_was_tried() {
    let (dir, idle) = (tempfile::tempdir().unwrap(), Idle::start(21));
    let out = dir.path().to_str().unwrap();
    let done = run(&["capture", "--pid", &idle.pid().to_string(), "--pprof", "http://127.0.0.1:1/debug/pprof", "-o", out]);
    let said = stderr(&done);
    assert_eq!(said.matches("connection refused").count(), 1, "{said}");
    assert!(said.contains("(http://127.0.0.1:1/debug/pprof/cmdline)") && said.contains("more for the same cause"), "{said}");
    let report = fs::read_to_string(bundles_in(dir.path())[0].join("report.txt")).unwrap();
    let listed = report.split("Not captured, and why").nth(1).unwrap();
    assert!(listed.contains("cmdline.txt, heap.pb.gz, memstats.txt,"), "{report}");
}

#[test]
fn the_answer_of_a_capture_comes_before_its_cpu_profile() {
    let (dir, svc) = (tempfile::tempdir().unwrap(), Svc::start(GoVersion::Newest, &[]));
    let (pid, url) = (svc.pid().to_string(), svc.pprof());
    let done = run(&["capture", "--pid", &pid, "--pprof", &url, "-o", dir.path().to_str().unwrap(), "--cpu-seconds", "8"]);
    let said = stderr(&done);
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("no `{what}` in:\n{said}"));
    assert!(at("so far: RSS is ") < at("profile.pb.gz"), "{said}");
    assert!(said.rfind("RSS is ").unwrap() > at("profile.pb.gz"), "{said}");
}
