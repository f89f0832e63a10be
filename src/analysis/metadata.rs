//! What a bundle says of its process and of its capture, beside the evidence itself.

use std::time::SystemTime;

use super::core::{self, CoreFacts};
use super::files::Files;
use super::identity::{self, Identity};
use super::told::{self, InUse, Standing, Told};
use super::{profiles, thrash};
use crate::anatomy::{Anatomy, Cgroup, Evidence, GoMemory};
use crate::bundle::{FileEntry, Manifest, ProcessFacts, RemoteInstance};
use crate::host::buildinfo::BuildInfo;
use crate::lang::{Lang, say};
use crate::trigger::{Fired, Measure, Trigger, gc};
use crate::units::ByteSize;
use crate::verdict::{self, Cause, Facts, Gogc, Thrash, Whole};

pub(super) struct Metadata {
    pub manifest: Option<Manifest>,
    pub process: Option<ProcessFacts>,
    remote: Option<RemoteInstance>,
    core: Option<CoreFacts>,
}

/// Whose pprof's answers are.
pub(super) struct Provenance {
    /// They are this process's.
    is_proven: bool,
    /// Why they are not.
    pub foreign: Vec<String>,
}

/// That who holds the heap is not known.
pub(super) fn no_holders(why: &str, lang: Lang) -> String {
    let why = verdict::line(why);
    say!(lang; "who holds the heap is not known: {why}"; "不知道谁持有堆：{why}")
}

impl Metadata {
    /// `manifest`: of a bundle that is still being written.
    pub fn read(files: &mut Files, manifest: Option<Manifest>) -> Metadata {
        let manifest = manifest.or_else(|| files.json("manifest.json"));
        let remote = files.json("metrics.json");
        let process = files.json("proc/process.json");
        Metadata { manifest, remote, process, core: files.json(core::FILE) }
    }

    fn build(&self) -> Option<&BuildInfo> {
        self.process.as_ref()?.go.as_ref()
    }

    /// The path of the main module.
    pub fn module(&self) -> Option<&str> {
        self.build()?.module.as_deref()
    }

    pub fn threads(&self) -> Option<u64> {
        self.process.as_ref()?.threads
    }

    /// The kernel's side.
    pub fn evidence(&self, files: &mut Files) -> Evidence {
        let mut evidence = files.kernel("proc/");
        evidence.threads = self.threads();
        // what is built with cgo may use it or not
        evidence.cgo = self.build().and_then(|go| go.settings.get("CGO_ENABLED")).filter(|value| *value == "0").map(|_| false);
        evidence.rss_bytes = match (&self.manifest, &self.core) {
            (Some(manifest), _) => manifest.trigger.rss_bytes,
            (None, Some(core)) => core.stored_bytes,
            (None, None) => {
                let seen = evidence.status.map(|s| s.rss()).or(evidence.rollup.map(|r| r.rss));
                seen.or(self.remote.as_ref().map(|r| r.rss_bytes)).unwrap_or(0)
            }
        };
        evidence
    }

    /// What pprof said, where it is not proven to be of another process.
    pub fn whose(&self, told: Told, evidence: &Evidence, lang: Lang) -> (Told, Provenance) {
        let vdso = evidence.smaps.as_ref().and_then(|smaps| smaps.vdso);
        let rss = evidence.status.map(|s| s.rss()).or(self.remote.as_ref().map(|r| r.rss_bytes));
        match identity::of(&told.said(vdso, rss), lang) {
            Identity::Another(foreign) => (Told::default(), Provenance { is_proven: false, foreign }),
            Identity::Proven => (told, Provenance { is_proven: true, foreign: Vec::new() }),
            Identity::Unknown => (told, Provenance { is_proven: false, foreign: Vec::new() }),
        }
    }

    /// Go's side.
    pub fn add_told(&self, evidence: &mut Evidence, told: &Told, whose: &Provenance) {
        // what its metrics said is older by some seconds, and better than nothing
        let metrics = self.remote.as_ref().and_then(|r| r.go_memstats).filter(|_| whose.foreign.is_empty());
        evidence.memstats = told.memstats.or(metrics);
        evidence.memstats_gc = told.memstats_gc;
        evidence.heap_gc_inuse = told.heap_gc.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
        evidence.heap_inuse = told.heap.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
        evidence.sites = told.live().map(|p| p.samples().len() as u64);
    }

    /// What is to be explained. Where nothing tells the RSS, it is what Go itself says that it has.
    pub fn whole(&self, evidence: &mut Evidence) -> Whole {
        match (&self.core, evidence.rss_bytes) {
            (Some(_), _) => Whole::Core,
            (None, 0) => {
                evidence.rss_bytes = evidence.memstats.map_or(0, |memstats| memstats.mapped());
                Whole::Mapped
            }
            (None, _) => Whole::Rss,
        }
    }

    /// What fills the cgroup, and whether that is what fired.
    pub fn cgroup(&self, files: &mut Files, evidence: &Evidence) -> (Option<Cgroup>, bool) {
        let fired = self.manifest.as_ref().map(|m| &m.trigger);
        let by_charge = fired.is_some_and(|fired| fired.measure == Measure::Charge);
        let wanted = fired.filter(|_| by_charge).and_then(|fired| fired.charge_cgroup.as_deref());
        let (numbers, members) = (files.text("proc/cgroup.txt"), files.text("proc/cgroup_members.txt"));
        let pid = self.process.as_ref().map(|p| p.pid);
        (Cgroup::read(&numbers, &members, pid, evidence.status.map(|s| s.anon), wanted), by_charge)
    }

    /// With what pprof's answers come to.
    pub fn facts(&self, whose: Provenance, standing: Standing, in_use: InUse) -> Facts {
        let env = self.process.as_ref().and_then(|p| p.env.as_ref());
        let by_rss = |fired: &Fired| {
            fired.measure == Measure::Rss && fired.trigger.by_rule() && fired.trigger != Trigger::Gc && !fired.trigger.is_asked()
        };
        Facts {
            by_rss: self.manifest.as_ref().is_some_and(|m| by_rss(&m.trigger)),
            mistaken: self.mistaken(&whose),
            foreign: whose.foreign,
            baseline_goroutines: standing.goroutines.as_ref().and_then(|g| g.baseline_total),
            heap: in_use.heap,
            heap_growth: in_use.growth,
            held: in_use.held,
            held_growth: in_use.held_growth,
            passing: in_use.passing,
            allocs: in_use.allocs,
            goroutines: standing.goroutines,
            goroutine_growth: standing.growth,
            deepest: standing.deepest,
            go_version: self.build().map(|go| go.go_version.clone()),
            gogc: env.map(|env| env.get("GOGC").map_or(Gogc::Percent(100), |v| Gogc::parse(v))),
            gomemlimit: env.and_then(|env| env.get("GOMEMLIMIT")).and_then(|v| v.parse::<ByteSize>().ok()).map(|b| b.0),
            age_seconds: self.process.as_ref().and_then(|p| p.age_seconds).or(self.remote.as_ref().and_then(|r| r.age_seconds)),
            memstats_gap_seconds: self.gap(),
            ..Facts::default()
        }
    }

    /// Whether collections took the CPU for want of room.
    pub fn thrash(&self, evidence: &Evidence, anatomy: &Anatomy, memstats_after: Option<GoMemory>) -> Option<Thrash> {
        let by_rule = self.manifest.as_ref().and_then(|m| thrash::of_rule(&m.trigger));
        let of_two = || {
            let started = humantime::parse_rfc3339(self.process.as_ref()?.started_at.as_deref()?).ok()?;
            let started = started.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
            let before = evidence.memstats?;
            match (evidence.memstats_gc.zip(anatomy.effective_gogc), memstats_after) {
                (Some((after, room)), _) => thrash::of_pprof(&before, &after, started, &room),
                (None, Some(after)) => thrash::of_memory(&before, &after, started),
                (None, None) => None,
            }
        };
        by_rule.or_else(of_two)
    }

    /// What the runtime works towards, as the rule read it.
    fn told_of_heap(&self) -> Option<gc::Heap> {
        self.manifest.as_ref()?.trigger.gc?.heap
    }

    /// The GOGC in force.
    pub fn gogc_in_force(&self, evidence: &Evidence) -> Option<Gogc> {
        let percent = self.told_of_heap().and_then(|heap| heap.gogc).or(evidence.memstats.and_then(|go| go.gc_percent))?;
        Some(u32::try_from(percent).map_or(Gogc::Off, Gogc::Percent))
    }

    /// The memory limit in force.
    pub fn memory_limit(&self, evidence: &Evidence) -> Option<u64> {
        self.told_of_heap().and_then(|heap| heap.memory_limit_bytes).or(evidence.memstats.and_then(|go| go.memory_limit))
    }

    /// Why the answers may be of another process.
    fn mistaken(&self, whose: &Provenance) -> Vec<String> {
        // what was read from the process's memory is the process's
        if whose.is_proven || !whose.foreign.is_empty() || self.is_all_of_memory() {
            return Vec::new();
        }
        let warnings = self.manifest.iter().flat_map(|m| &m.warnings);
        warnings.filter(|warning| warning.is_mistaken()).map(|warning| warning.text.clone()).collect()
    }

    /// None of the evidence is what an address answered.
    fn is_all_of_memory(&self) -> bool {
        let Some(manifest) = &self.manifest else { return false };
        let mut told = manifest.files.iter().filter(|file| file.has_file() && told::FILES.contains(&file.name.as_str())).peekable();
        told.peek().is_some() && told.all(|file| file.source.as_deref() == Some("memory"))
    }

    /// Why who holds the heap could not be told, where it was wanted.
    pub fn unknown_holders(&self, cause: Cause, lang: Lang) -> Option<String> {
        let manifest = self.manifest.as_ref().filter(|_| cause.is_of_heap())?;
        let step = manifest.files.iter().find(|f| f.step == "holders" && !f.has_file() && f.attempts > 0)?;
        Some(no_holders(step.reason.as_deref()?, lang))
    }

    /// For how long the forced collection marked, in seconds: no longer than its profile took.
    pub fn marking(&self) -> Option<f64> {
        let step = self.manifest.as_ref()?.files.iter().find(|f| f.step == "heap_gc" && f.has_file())?;
        Some(step.milliseconds as f64 / 1000.0)
    }

    /// How long the steps took from one MemStats to the other.
    fn gap(&self) -> Option<f64> {
        let manifest = self.manifest.as_ref()?;
        let at = |step: &str| manifest.files.iter().position(|f| f.step == step && f.has_file());
        let (first, second) = (at("memstats")?, at("memstats_gc")?);
        let between: &[FileEntry] = manifest.files.get(first + 1..=second)?;
        Some(between.iter().map(|f| f.milliseconds as f64).sum::<f64>() / 1000.0)
    }
}
