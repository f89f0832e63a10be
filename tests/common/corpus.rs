//! Scenarios captured and judged: one run of each kind, with its row in the table.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use memtrap::lang::Lang;
use rustix::process::Signal;
use serde_json::Value;

use super::numbers::{deviations, differences};
use super::scenarios::Scenario;
use super::{Build, GoVersion, Memtrap, Svc, bundles_in, run};

/// A share of RSS. A program that is busy moves between the trigger's reading and those of the kernel and the runtime: more is
/// for few, and for none is it much.
const UNEXPLAINED: f64 = 0.05;

/// How a program is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By pprof, once it has grown.
    Plain,
    /// By pprof, with a baseline of its healthy time.
    Baseline,
    /// From its memory, once it has grown: it is asked for nothing, and has no symbols.
    Memory,
}

/// One scenario on one Go.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub scenario: &'static Scenario,
    pub version: GoVersion,
    pub kind: Kind,
}

impl Run {
    /// A name of its own, as a path: `1.27.3/baseline/http_lock`.
    pub fn path(&self) -> String {
        let kind = match self.kind {
            Kind::Plain => "plain",
            Kind::Baseline => "baseline",
            Kind::Memory => "memory",
        };
        format!("{}/{kind}/{}", self.version.number(), self.scenario.name)
    }

    /// Lets it grow by `mib` MiB, and moves the bundle of it to `to`.
    pub fn capture(&self, mib: u64, to: &Path) {
        match self.kind {
            Kind::Plain => self.capture_now(self.scenario, mib, to, Svc::pprof),
            Kind::Baseline => self.capture_grown(mib, to),
            Kind::Memory => self.capture_now(&self.scenario.built(Build::Stripped), mib, to, |_| "off".into()),
        }
    }

    /// Whether this version can show it, and its memory can be read.
    pub fn is_possible(&self) -> bool {
        self.scenario.is_for(self.version) && (self.kind != Kind::Memory || self.scenario.build != Build::Narrow)
    }

    fn has_baseline(&self) -> bool {
        self.kind == Kind::Baseline
    }

    fn capture_now(&self, scenario: &Scenario, mib: u64, to: &Path, pprof: impl Fn(&Svc) -> String) {
        let svc = scenario.start(self.version, mib);
        let dir = beside(to);
        let (pid, out) = (svc.pid().to_string(), dir.path().to_str().unwrap());
        let done = run(&["capture", "--pid", &pid, "--pprof", &pprof(&svc), "--cpu-seconds", "1", "-o", out]);
        assert!(done.status.success(), "{}: {}", self.path(), String::from_utf8_lossy(&done.stderr));
        fs::rename(bundles_in(dir.path()).remove(0), to).unwrap();
    }

    /// No rule fires while it grows: one that does when it has grown is read then.
    fn capture_grown(&self, mib: u64, to: &Path) {
        let svc = self.scenario.start_healthy(self.version, mib);
        let dir = beside(to);
        let target = |threshold: &str| {
            format!(
                "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nthreshold = \"{threshold}\"\nfor = \"0s\"\nwarmup = \"1s\"\ncpu_seconds = 1\n",
                svc.pid(),
                svc.pprof()
            )
        };
        let memtrap = Memtrap::start_in(dir.path(), &target("1TiB"));
        memtrap.wait_until(60, "a baseline", |m| m.log().contains("baseline taken"));
        svc.grow();
        memtrap.configure_in(dir.path(), &target("1MiB"));
        memtrap.signal(Signal::HUP);
        memtrap.wait_until(60, "a bundle", |_| !bundles_in(dir.path()).is_empty());
        fs::rename(bundles_in(dir.path()).remove(0), to).unwrap();
    }

    /// What the verdict on its bundle is worth.
    pub fn judge(&self, bundle: &Path) -> Row {
        let verdict = verdict_of(bundle, Lang::En);
        let deviations = [deviations(bundle, &verdict), differences(&verdict, &verdict_of(bundle, Lang::Zh))].concat();
        let word = |key: &str| verdict[key].as_str().unwrap().to_owned();
        let unexplained = verdict["anatomy"].as_array().unwrap().last().unwrap()["bytes"].as_i64().unwrap();
        let unexplained = unexplained.abs() as f64 / verdict["rss_bytes"].as_f64().unwrap();
        let answers = self.scenario.answers(self.has_baseline());
        let (cause, confidence, explains) = (word("cause"), word("confidence"), word("go_heap_explains"));
        let named = answers.causes.contains(&cause.as_str()) || confidence != "high" && answers.doubtful.contains(&cause.as_str());
        let right = named && answers.go_heap_explains.contains(&explains.as_str()) && unexplained < UNEXPLAINED;
        Row { run: *self, cause, confidence, explains, unexplained, summary: word("summary"), deviations, right }
    }
}

/// On the same file system, so that what is captured there can be renamed to `to`.
fn beside(to: &Path) -> tempfile::TempDir {
    let parent = to.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    tempfile::tempdir_in(parent).unwrap()
}

/// The verdict of a bundle, as it is now: decided anew, in this language.
pub fn verdict_of(bundle: &Path, lang: Lang) -> Value {
    let lang = match lang {
        Lang::En => "en",
        Lang::Zh => "zh",
    };
    let done = run(&["analyze", bundle.to_str().unwrap(), "--format", "json", "--lang", lang]);
    assert!(done.status.success(), "{}: {}", bundle.display(), String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub run: Run,
    pub cause: String,
    pub confidence: String,
    pub explains: String,
    pub unexplained: f64,
    pub summary: String,
    /// Numbers that are not in the bundle.
    pub deviations: Vec<String>,
    pub right: bool,
}

impl Row {
    pub fn is_wrong_and_sure(&self) -> bool {
        !self.right && self.confidence == "high"
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.run.scenario.answers(self.run.has_baseline());
        let expected = format!("{} ({})", answers.causes.join("|"), answers.go_heap_explains.join("|"));
        let got = format!("{} ({})", self.cause, self.explains);
        let judged = match (self.right, self.is_wrong_and_sure()) {
            (true, _) => "right",
            (_, false) => "wrong",
            (_, true) => "WRONG AND SURE",
        };
        write!(f, "{:<42} {expected:<44} {got:<28} {:<6} {judged}", self.run.path(), self.confidence)?;
        for why in &self.deviations {
            write!(f, "\n    NUMBERS: {why}")?;
        }
        if self.right { Ok(()) } else { write!(f, "\n    {:.0}% unexplained; {}", self.unexplained * 100.0, self.summary) }
    }
}

impl Run {
    /// What `judged` makes of it; a row that says so where it could not be captured or analysed, so that one of many hundreds costs no other.
    pub fn try_to(self, judged: impl Fn(Run) -> Row) -> Row {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judged(self))).unwrap_or_else(|why| {
            let why = why.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into());
            let none = || "-".to_owned();
            Row {
                run: self,
                cause: none(),
                confidence: none(),
                explains: none(),
                unexplained: 0.0,
                summary: why,
                deviations: Vec::new(),
                right: false,
            }
        })
    }
}

/// Does all of them, `at_once` beside each other and the loners last, each by itself.
pub fn each(runs: Vec<Run>, at_once: usize, judged: impl Fn(Run) -> Row + Sync) -> Vec<Row> {
    let (alone, together): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| run.scenario.alone);
    let rows = Mutex::new(Vec::new());
    for (runs, at_once) in [(together, at_once), (alone, 1)] {
        let queue = Mutex::new(runs.into_iter());
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let Some(run) = queue.lock().unwrap().next() else { break };
                        let row = judged(run);
                        rows.lock().unwrap().push(row);
                    }
                });
            }
        });
    }
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|row| row.run.path());
    rows
}

/// Where bundles of the whole corpus are kept.
pub fn kept() -> PathBuf {
    super::repo().join("target/corpus")
}
