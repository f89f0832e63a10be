//! SIGKILL at any moment: what was published stays whole, what was begun is finished, and one incident stays one bundle.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, UNIX_EPOCH};

use common::faulty::{Fault, Faulty};
use common::{Idle, Memtrap, bundles_in, manifest, wait_until};
use memtrap::bundle;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const LANES: u64 = 6;
const KILLS_PER_LANE: u32 = 34;
/// A start with a whole capture takes about half of this.
const LONGEST_LIFE: u64 = 900;
/// With each so many kills the watched process is replaced: a new incident.
const KILLS_PER_PROCESS: u32 = 3;

/// xorshift64*: enough to scatter kills, and told by one number.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        for (left, by) in [(false, 12), (true, 25), (false, 27)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// One memtrap with directories of its own, killed again and again.
struct Lane {
    dir: TempDir,
    /// Manifests of what was published, as they were first seen.
    published: BTreeMap<PathBuf, Vec<u8>>,
    /// Partials that a kill left, with the evidence in them.
    begun: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Lane {
    fn bundle_dir(&self) -> PathBuf {
        self.dir.path().join("bundles")
    }

    fn spawn(&self) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_memtrap"));
        command.args(["run", "-c"]).arg(self.dir.path().join("memtrap.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap()
    }

    /// What must be so while no memtrap runs.
    fn assert_sound(&mut self) {
        let mut of_process: BTreeMap<u64, PathBuf> = BTreeMap::new();
        let mut incidents = BTreeSet::new();
        for path in bundles_in(&self.bundle_dir()) {
            let verified = bundle::verify(&path).unwrap();
            assert!(verified.problems.is_empty(), "{}: {:?}", path.display(), verified.problems);
            let bytes = fs::read(path.join("manifest.json")).unwrap();
            assert_eq!(self.published.entry(path.clone()).or_insert_with(|| bytes.clone()), &bytes, "{} changed", path.display());
            let manifest = manifest(&path);
            assert!(incidents.insert(manifest["incident_id"].to_string()), "two bundles of {}", manifest["incident_id"]);
            let pid = manifest["instance"]["pid"].as_u64().unwrap();
            assert_eq!(of_process.insert(pid, path.clone()), None, "two bundles of one process, which never recovered: {}", path.display());
        }
        assert!(self.published.keys().all(|path| path.exists()), "a published bundle is gone");
        self.assert_begun_is_kept();
        if let Ok(text) = fs::read(self.dir.path().join("state/state.json")) {
            let state: serde_json::Value = serde_json::from_slice(&text).expect("state.json is whole");
            assert_eq!(state["schema"], 1);
        }
    }

    /// A partial is still one, or was finished with all that it held; it vanishes only if it held nothing.
    fn assert_begun_is_kept(&mut self) {
        for (partial, evidence) in &self.begun {
            if partial.exists() {
                continue;
            }
            let published = partial.with_extension("");
            assert!(published.exists() || evidence.is_empty(), "{} is gone, with {evidence:?}", partial.display());
            for file in evidence {
                assert!(published.join(file).exists(), "{file} of {} is gone", partial.display());
            }
        }
        for partial in partials(&self.bundle_dir()) {
            let evidence = files(&partial);
            self.begun.insert(partial, evidence);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- memtrap's log ---\n{}---", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
    }
}

fn partials(bundle_dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let all = entries(bundle_dir).into_iter().flat_map(|target| entries(&target));
    all.filter(|path| path.extension().is_some_and(|e| e == "partial")).collect()
}

/// What a partial holds besides memtrap's own notes, two levels deep.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|file| format!("{name}/{file}")));
        } else if !["capture.json", "journal.jsonl"].contains(&name.as_str()) {
            found.insert(name);
        }
    }
    found
}

/// Kills one memtrap many times; returns how many bundles it left, and how many of them were interrupted.
fn torment(lane: u64, seed: u64, server: &Faulty) -> (usize, usize) {
    let mut random = Random(seed.wrapping_add(lane.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
    let mut it = Lane { dir: TempDir::new().unwrap(), published: BTreeMap::new(), begun: BTreeMap::new() };
    let (dir, mark) = (it.dir.path().display().to_string(), lane as u32);
    let config = format!(
        "[daemon]\nstate_dir = \"{dir}/state\"\nbundle_dir = \"{dir}/bundles\"\nmax_captures_per_hour = 1000\n[retention]\n\
         max_bundles_per_target = 1000\n[[target]]\nname = \"idle\"\nprocess = {}\npprof = \"{}\"\nthreshold = \"1MiB\"\nfor = \"0s\"\n\
         interval = \"100ms\"\ncooldown = \"100ms\"\ncpu_seconds = 0\nretries = 0\n",
        Idle::selector(mark),
        server.pprof()
    );
    fs::write(it.dir.path().join("memtrap.toml"), config).unwrap();
    let mut watched = Idle::start(mark);
    for kill in 0..KILLS_PER_LANE {
        if kill % KILLS_PER_PROCESS == KILLS_PER_PROCESS - 1 {
            drop(watched);
            watched = Idle::start(mark);
        }
        let mut memtrap = it.spawn();
        sleep(Duration::from_millis(random.below(LONGEST_LIFE)));
        memtrap.kill().unwrap();
        assert_eq!(memtrap.wait().unwrap().signal(), Some(9), "it was killed, and did not end by itself");
        it.assert_sound();
    }
    // left in peace, it brings everything to its end
    let mut memtrap = it.spawn();
    let of_watched = |path: &PathBuf| manifest(path)["instance"]["pid"] == watched.pid();
    wait_until(Duration::from_secs(20), "the last process has its bundle", || bundles_in(&it.bundle_dir()).iter().any(of_watched));
    sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&memtrap), Signal::TERM).unwrap();
    assert!(memtrap.wait().unwrap().success());
    it.assert_sound();
    assert_eq!(partials(&it.bundle_dir()), Vec::<PathBuf>::new());
    let interrupted = it.published.keys().filter(|path| manifest(path)["outcome"] == "interrupted").count();
    (it.published.len(), interrupted)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a seed is any number")]
fn two_hundred_kills_at_random_moments_damage_and_lose_nothing() {
    let given = std::env::var("MEMTRAP_TEST_SEED").ok().map(|text| text.parse().expect("MEMTRAP_TEST_SEED is a number"));
    let seed = given.unwrap_or_else(|| std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    println!("again with MEMTRAP_TEST_SEED={seed}");
    let server = Faulty::start(Fault::Profile, &[("allocs", Fault::Text(1 << 20))]);
    let left: Vec<(usize, usize)> = std::thread::scope(|scope| {
        let server = &server;
        let running: Vec<_> = (0..LANES).map(|lane| scope.spawn(move || torment(lane, seed, server))).collect();
        running.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let (bundles, interrupted) = left.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("{} kills left {bundles} bundles, {interrupted} of them interrupted", LANES * u64::from(KILLS_PER_LANE));
    assert!(interrupted > 0 && bundles > interrupted, "the kills hit captures, and not all of them: {left:?}");
}

#[test]
fn a_kill_between_publishing_and_storing_the_state_is_still_one_bundle() {
    let server = Faulty::start(Fault::Profile, &[]);
    let mark = LANES as u32;
    let _watched = Idle::start(mark);
    let mut memtrap = Memtrap::start(&format!(
        "[[target]]\nname = \"idle\"\nprocess = {}\npprof = \"{}\"\nthreshold = \"1MiB\"\nfor = \"0s\"\ninterval = \"100ms\"\n\
         cooldown = \"100ms\"\ncpu_seconds = 0\n",
        Idle::selector(mark),
        server.pprof()
    ));
    memtrap.wait_for_bundles(20, 1);
    memtrap.stop(Signal::KILL);
    fs::remove_file(memtrap.dir().join("state/state.json")).unwrap();
    memtrap.start_again();
    memtrap.wait_until(10, "the incident is known", |m| m.log().contains("state=\"open\""));
    sleep(Duration::from_secs(1));
    assert_eq!(memtrap.bundles().len(), 1);
}
