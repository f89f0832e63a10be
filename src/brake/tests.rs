//! Holding and letting go. A directory of ordinary files stands for the cgroup; the guard, and the memtrap that is killed, are processes of their own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::journal::{Entry, SCHEMA, settle};
use super::*;
use crate::host::fake::FakeHost;

const MIB: u64 = 1 << 20;
/// What a process of a test is told.
const TOLD: &str = "MEMTRAP_TEST_TOLD";

fn of(high: Option<u64>, usage: u64, max: u64) -> Result<u64, String> {
    Standing { high: high.map(|mib| mib * MIB), usage: usage * MIB, max: max * MIB }
        .decide("/a")
        .map(|new| new / MIB)
        .map_err(|e| e.to_string())
}

#[test]
fn it_is_held_a_little_above_what_it_uses_and_only_ever_lower_than_what_stands_there() {
    assert_eq!(of(None, 256, 300), Ok(258));
    assert_eq!(of(Some(285), 256, 300), Ok(258));
    assert!(of(Some(258), 256, 300).unwrap_err().contains("258MiB already"), "as good as the brake");
    assert!(of(Some(200), 256, 300).unwrap_err().contains("200MiB already"), "it is slowed down by that");
    assert!(of(None, 299, 300).unwrap_err().contains("uses 299MiB of its limit of 300MiB already"));
    let free = Standing { high: None, usage: MIB, max: u64::MAX };
    assert!(matches!(free.decide("/a"), Err(NoBrake::NoLimit)));
    for usage in (0..400).map(|n| n * 777_777) {
        let standing = Standing { high: None, usage, max: 1 << 40 };
        let new = standing.decide("/a").unwrap();
        assert!(new > usage && new.is_multiple_of(PAGE) && new - usage < usage / 100 + 2 * MIB, "{usage} {new}");
    }
}

#[test]
fn what_grows_a_little_while_the_brake_is_prepared_is_held_and_what_grows_far_is_not() {
    let now = |usage: u64| Standing { high: None, usage: usage * MIB, max: 300 * MIB };
    let new = now(240).decide("/a").unwrap();
    assert!(!now(240).has_left_behind(new) && !now(255).has_left_behind(new));
    assert!(now(260).has_left_behind(new));
}

/// A cgroup of ordinary files that uses 256 of 300 MiB, and a state directory.
struct Place {
    host: FakeHost,
    state: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.process(7, "shop").file("cgroup", "0::/shop\n").write();
        let place = Place { host, state: tempfile::tempdir().unwrap() };
        place.file("memory.max", &(300 * MIB).to_string());
        place.file("memory.current", &(256 * MIB).to_string());
        place.file("memory.high", "max");
        place
    }

    fn file(&self, name: &str, text: &str) {
        self.host.file(&format!("sys/fs/cgroup/shop/{name}"), format!("{text}\n"));
    }

    fn high(&self) -> String {
        fs::read_to_string(self.dir().join("memory.high")).unwrap().trim().to_owned()
    }

    fn dir(&self) -> PathBuf {
        self.host.root().join("sys/fs/cgroup/shop")
    }

    fn journal(&self) -> PathBuf {
        journal::dir(self.state.path())
    }

    fn noted(&self) -> usize {
        fs::read_dir(self.journal()).map_or(0, |entries| entries.count())
    }

    fn wish(&self) -> Wish {
        Wish {
            cgroup: CgroupRef::of(&self.host.procfs(), 7).unwrap().unwrap(),
            fired: None,
            incident: "shop-1".into(),
            boot_id: "b007".into(),
            journal: self.journal(),
            procfs: self.host.procfs(),
            program: program(self.state.path()),
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            schema: SCHEMA,
            cgroup: "/shop".into(),
            dir: self.dir(),
            inode: fs::metadata(self.dir()).unwrap().ino(),
            boot_id: "b007".into(),
            file: "memory.high".into(),
            before: "max".into(),
            new: 258 * MIB,
            until: String::new(),
            incident: "shop-1".into(),
        }
    }
}

/// This program as memtrap: what it is told stands in its environment, and what it says comes on descriptor 3.
fn program(dir: &Path) -> PathBuf {
    let (path, exe) = (dir.join("memtrap"), std::env::current_exe().unwrap());
    let script = format!(
        "#!/bin/sh\nexec 3>&1 >/dev/null 2>&1\n{TOLD}=\"$*\" exec {} --exact brake::tests::a_process_of_a_test --nocapture\n",
        exe.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Nothing, unless it was started by [`program`].
#[test]
fn a_process_of_a_test() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let mut say = fs::OpenOptions::new().write(true).open("/proc/self/fd/3").unwrap();
    let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied().unwrap();
    if words[0] == guard::COMMAND {
        let number = |name| after(name).parse().unwrap();
        let until = Mono::from_nanos(number("--until"));
        let args = guard::Args::of(Path::new(after("--dir")), number("--inode"), after("--before"), number("--new"), until);
        guard::run(&args, std::io::stdin(), say).unwrap();
        return;
    }
    // a memtrap that holds until it is killed
    let host = crate::host::ProcFs::under(Path::new(after("--root")));
    let wish = Wish {
        cgroup: CgroupRef::of(&host, 7).unwrap().unwrap(),
        fired: None,
        incident: "shop-1".into(),
        boot_id: "b007".into(),
        journal: after("--journal").into(),
        procfs: host,
        program: after("--program").into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let holding = runtime.block_on(Holding::begin(wish)).unwrap();
    std::io::Write::write_all(&mut say, b"held\n").unwrap();
    std::thread::sleep(Duration::from_secs(60));
    drop(holding);
}

/// Such a memtrap, once it holds.
fn memtrap(place: &Place) -> Child {
    let program = program(place.state.path());
    let mut child = Command::new(&program)
        .args(["hold", "--root", place.host.root().to_str().unwrap(), "--journal", place.journal().to_str().unwrap()])
        .args(["--program", program.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

fn within(seconds: u64, what: &str, is_so: impl Fn() -> bool) {
    let until = Mono::now() + Duration::from_secs(seconds);
    while !is_so() {
        assert!(Mono::now() < until, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The guards of this memtrap.
fn guards(of: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    // the thread that holds has started it
    let tasks = fs::read_dir(format!("/proc/{of}/task")).unwrap();
    let of_tasks = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
    let all: String = of_tasks.chain([children]).collect::<Vec<_>>().join(" ");
    all.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_cgroup_is_held_and_the_very_text_that_stood_there_is_put_back() {
    for before in ["max", "298000000"] {
        let place = Place::new();
        place.file("memory.high", before);
        let holding = Holding::begin(place.wish()).await.unwrap();
        assert_eq!(holding.braked, Braked { cgroup: "/shop".into(), high: 258 * MIB, before: before.into() });
        assert_eq!((place.high(), place.noted()), ((258 * MIB).to_string(), 1));
        let released = holding.end().await.unwrap();
        assert!(released.was_ours);
        assert_eq!((place.high().as_str(), place.noted()), (before, 0));
    }
}

#[tokio::test]
async fn what_somebody_else_has_set_meanwhile_is_theirs() {
    let place = Place::new();
    let holding = Holding::begin(place.wish()).await.unwrap();
    place.file("memory.high", "270000000");
    assert!(!holding.end().await.unwrap().was_ours);
    assert_eq!((place.high().as_str(), place.noted()), ("270000000", 0));
}

#[tokio::test]
async fn without_a_journal_a_guard_or_a_right_nothing_is_touched() {
    let place = Place::new();
    let why = |wish| async { Holding::begin(wish).await.unwrap_err().to_string() };
    fs::write(place.state.path().join("file"), "").unwrap();
    let no_journal = why(Wish { journal: place.state.path().join("file/brakes"), ..place.wish() }).await;
    assert!(no_journal.starts_with("what it holds could not be noted in "), "{no_journal}");
    let no_guard = why(Wish { program: "/nowhere".into(), ..place.wish() }).await;
    assert!(no_guard.starts_with("no guard beside memtrap: /nowhere"), "{no_guard}");
    let silent = why(Wish { program: "/bin/true".into(), ..place.wish() }).await;
    assert!(silent.starts_with("no guard beside memtrap: it does not say"), "{silent}");
    assert_eq!((place.high().as_str(), place.noted()), ("max", 0));
    fs::remove_file(place.dir().join("memory.high")).unwrap();
    let no_file = why(place.wish()).await;
    assert!(no_file.starts_with("memory.high of cgroup /shop: No such file"), "{no_file}");
}

#[test]
fn a_memtrap_that_is_killed_leaves_nothing_held() {
    let place = Place::new();
    for _ in 0..3 {
        let mut memtrap = memtrap(&place);
        assert_eq!(place.high(), (258 * MIB).to_string());
        memtrap.kill().unwrap();
        memtrap.wait().unwrap();
        within(20, "the guard puts it back", || place.high() == "max");
        assert_eq!(settle(&place.journal(), "b007").unwrap(), 0, "there was nothing left to do");
        assert_eq!(place.noted(), 0);
    }
}

#[test]
fn where_the_guard_is_killed_too_the_next_start_puts_it_back() {
    let place = Place::new();
    let mut memtrap = memtrap(&place);
    let guards = guards(memtrap.id());
    assert_eq!(guards.len(), 1);
    // its parent must not take its end for a reason to end itself
    kill(guards[0]);
    memtrap.kill().unwrap();
    memtrap.wait().unwrap();
    assert_eq!((place.high(), place.noted()), ((258 * MIB).to_string(), 1));
    assert_eq!(settle(&place.journal(), "b007").unwrap(), 1);
    assert_eq!((place.high().as_str(), place.noted()), ("max", 0));
}

#[test]
fn the_journal_puts_back_what_is_surely_its_own_and_drops_the_rest() {
    let ours = (258 * MIB).to_string();
    let settled = |change: fn(&mut Entry), stands: &str| {
        let place = Place::new();
        place.file("memory.high", stands);
        let mut entry = place.entry();
        change(&mut entry);
        Journal::open(&place.journal()).unwrap().note(&entry).unwrap();
        fs::write(place.journal().join("garbage.json"), "{").unwrap();
        let put_back = settle(&place.journal(), "b007").unwrap();
        assert_eq!(place.noted(), 0);
        (put_back, place.high())
    };
    assert_eq!(settled(|_| {}, &ours), (1, "max".into()));
    assert_eq!(settled(|_| {}, "270000000"), (0, "270000000".into()), "set otherwise since");
    assert_eq!(settled(|e| e.boot_id = "b008".into(), &ours), (0, ours.clone()), "of another boot");
    assert_eq!(settled(|e| e.inode += 1, &ours), (0, ours.clone()), "made anew");
    assert_eq!(settled(|e| e.dir = "/nowhere".into(), &ours), (0, ours.clone()), "gone");
    assert_eq!(settled(|e| e.file = "memory.max".into(), &ours), (0, ours.clone()), "another file than the one that is ever written");
    assert_eq!(settle(Path::new("/nowhere"), "b007").unwrap(), 0);
}

#[test]
fn the_guard_lets_go_at_its_deadline_though_memtrap_hangs() {
    let place = Place::new();
    place.file("memory.high", &(258 * MIB).to_string());
    let (pipe, _memtrap) = std::io::pipe().unwrap();
    let inode = place.entry().inode;
    let args = guard::Args::of(&place.dir(), inode, "max", 258 * MIB, Mono::now() + Duration::from_millis(100));
    assert!(guard::run(&args, pipe, Vec::new()).unwrap());
    assert_eq!(place.high(), "max");
    let (pipe, _memtrap) = std::io::pipe().unwrap();
    let other = guard::Args::of(&place.dir(), inode + 1, "max", 258 * MIB, Mono::now());
    assert!(guard::run(&other, pipe, Vec::new()).is_err(), "the cgroup was made anew");
}
