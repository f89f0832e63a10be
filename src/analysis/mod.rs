//! From the files of a bundle to its verdict: reads, bounded, what is there; says what could not be used.
//!
//! Works on a bundle (published or still partial) and on any directory with the same file names, whoever made it. It is run in a
//! process of its own, because profiles come from outside and memory that a big one took is not given back by every allocator. Not
//! here: what the numbers mean (`anatomy`, `verdict`), how they are shown (`report`).

pub mod core;
mod goroutines;
mod identity;
mod profiles;
pub mod single;
mod sites;
mod told;
#[cfg(test)]
mod cases;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::anatomy::{self, Anatomy, Cgroup, Evidence, memstats, smaps};
use crate::bundle::timeline::{self, TimelineRow};
use crate::bundle::{BaselineFacts, Bundle, End, FileEntry, Manifest, ProcessFacts, RemoteInstance};
use crate::disk::Dir;
use crate::error::chain;
use crate::holders::{self, Holders};
use crate::lang::{Lang, say};
use crate::pprof::{self, DecodeError, Profile, goroutine};
use crate::trigger::Measure;
use crate::units::ByteSize;
use crate::verdict::{self, Cause, Ending, Facts, Gogc, TopLine, Verdict};
use core::CoreFacts;
use identity::Identity;
use told::Told;

/// Of one file; real profiles and dumps stay far below.
const MAX_FILE: u64 = 1 << 30;
const MAX_JSON: u64 = 8 << 20;
/// Of one profile: a service with a million allocation sites, as `top` reads it; the defaults would let one hostile profile take all of the
/// child's memory.
const PROFILE: pprof::Limits = pprof::Limits {
    inflated_bytes: 128 << 20,
    strings: 1_000_000,
    mappings: 20_000,
    functions: 500_000,
    locations: 500_000,
    lines: 1_000_000,
    samples: 1_000_000,
    values: 4_000_000,
    frames: 24_000_000,
    labels: 1_000_000,
    comment_bytes: 1 << 20,
};
/// Of all profiles of a directory together, once they are decoded.
const PROFILES_MEMORY: usize = 256 << 20;
/// What they may inflate to, good or not.
const PROFILES_INFLATED: u64 = 256 << 20;
const TOP_ROWS: usize = 20;

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} holds nothing that could be analysed: {}",
        if problems.is_empty() {
            "no heap.pb.gz, heap_gc.pb.gz, memstats.txt, goroutine.pb.gz, goroutine.txt or proc/status".to_owned()
        } else {
            problems.join("; ")
        }
    )]
    Nothing {
        path: PathBuf,
        /// What was there, and why it is of no use.
        problems: Vec<String>,
    },
}

/// A verdict, and what a report shows beside it.
#[derive(Debug)]
pub struct Analysis {
    /// Where the bundle is, or will be.
    pub path: PathBuf,
    /// Of its sentences, and of the report.
    pub lang: Lang,
    pub verdict: Verdict,
    pub manifest: Option<Manifest>,
    pub process: Option<ProcessFacts>,
    pub timeline: Vec<TimelineRow>,
    /// The heap after the forced collection, else before it.
    pub heap: Option<Profile>,
    /// inuse_space that grew between the two forced collections of the capture.
    pub grown_during: Vec<TopLine>,
    /// By the object graph, compared with the baseline's.
    pub holders: Option<Holders>,
}

/// Analyses a directory. `shown` is the path that commands in the verdict name: where the bundle will be once it is published. `base` is
/// another bundle to compare with, instead of the baseline inside; `manifest` that of a bundle which is still being written; `lang` the language
/// of the sentences. Blocks on the
/// disk.
pub fn of_directory(
    dir: &Path,
    shown: &Path,
    base: Option<&Path>,
    manifest: Option<Manifest>,
    lang: Lang,
) -> Result<Analysis, AnalysisError> {
    let mut files = Files::open(dir, lang)?;
    let manifest = manifest.or_else(|| files.json("manifest.json"));
    let remote: Option<RemoteInstance> = files.json("metrics.json");
    let process: Option<ProcessFacts> = files.json("proc/process.json");
    let build = process.as_ref().and_then(|p| p.go.as_ref());
    let module = build.and_then(|go| go.module.as_deref());
    let mut evidence = files.kernel("proc/");
    evidence.threads = process.as_ref().and_then(|p| p.threads);
    // what is built with cgo may use it or not
    evidence.cgo = build.and_then(|go| go.settings.get("CGO_ENABLED")).filter(|value| *value == "0").map(|_| false);
    let core: Option<CoreFacts> = files.json(core::FILE);
    evidence.rss_bytes = match (&manifest, core) {
        (Some(manifest), _) => manifest.trigger.rss_bytes,
        (None, Some(core)) => core.stored_bytes,
        (None, None) => {
            let seen = evidence.status.map(|s| s.rss()).or(evidence.rollup.map(|r| r.rss));
            seen.or(remote.as_ref().map(|r| r.rss_bytes)).unwrap_or(0)
        }
    };

    let mut told = Told::read(&mut files);
    let vdso = evidence.smaps.as_ref().and_then(|smaps| smaps.vdso);
    let rss = evidence.status.map(|s| s.rss()).or(remote.as_ref().map(|r| r.rss_bytes));
    let (mut foreign, mut is_proven) = (Vec::new(), false);
    match identity::of(&told.said(vdso, rss), lang) {
        Identity::Another(why) => (told, foreign) = (Told::default(), why),
        Identity::Proven => is_proven = true,
        Identity::Unknown => {}
    }
    // what its metrics said is older by some seconds, and better than nothing
    evidence.memstats = told.memstats.or(remote.as_ref().and_then(|r| r.go_memstats).filter(|_| foreign.is_empty()));
    evidence.memstats_gc = told.memstats_gc;
    evidence.heap_gc_inuse = told.heap_gc.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
    evidence.heap_inuse = told.heap.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
    let mut held_by: Option<Holders> = files.json(holders::FILE);
    evidence.reached = held_by.as_ref().and_then(Holders::live_bytes);
    evidence.sites = told.live().map(|p| p.samples().len() as u64);

    let mut healthy = match base {
        Some(base) => Files::open(base, lang)?,
        None => files.below("baseline"),
    };
    (healthy.profiles, healthy.inflatable) = (files.profiles, files.inflatable);
    // another bundle may well be of another process
    let was_here = |profile: &Profile| base.is_some() || vdso.zip(identity::vdso(profile)).is_none_or(|(now, then)| now == then);
    let mut base_heap = base.and_then(|_| healthy.profile("heap_gc.pb.gz")).or_else(|| healthy.profile("heap.pb.gz"));
    let mut base_goroutines = healthy.profile("goroutine.pb.gz");
    let is_comparable = foreign.is_empty() && [&base_heap, &base_goroutines].into_iter().flatten().all(was_here);
    if !is_comparable {
        (base_heap, base_goroutines) = (None, None);
    }
    (files.profiles, files.inflatable) = (healthy.profiles, healthy.inflatable);

    let standing = told.standing(base_goroutines.as_ref(), module);
    let in_use = told.in_use(base_heap.as_ref(), &standing, module, manifest.as_ref().and_then(marking));
    evidence.floating = in_use.floating;
    evidence.large = in_use.heap.as_ref().and_then(|heap| heap.sizes).map_or(0, |sizes| sizes.large);
    let anatomy = anatomy::build(&evidence);
    let baseline = is_comparable.then(|| Baseline::read(&mut healthy, base.is_some(), base_heap.as_ref(), &anatomy)).flatten();

    let held_then: Option<Holders> = healthy.json(holders::FILE);
    if let Some((now, then)) = held_by.as_mut().zip(held_then.as_ref()) {
        now.compare(then);
    }

    let (mut held, mut held_growth) = (in_use.held, in_use.held_growth);
    if let Some((now, live)) = held_by.as_ref().and_then(|now| Some((now, now.live_bytes()?))) {
        let (surely, perhaps) = now.of_goroutines(verdict::MORE_GOROUTINES, |holder| holder.retained_bytes);
        held = Some(held.unwrap_or_default().by_graph(surely, perhaps, live));
        held_growth = held_growth.zip(held_then.as_ref().and_then(Holders::live_bytes)).map(|(grown, then)| {
            let growth = |holder: &holders::Holder| holder.growth_bytes.map_or(0, |bytes| u64::try_from(bytes).unwrap_or(0));
            let (surely, perhaps) = now.of_goroutines(verdict::MORE_GOROUTINES, growth);
            grown.by_graph(surely, perhaps, live.saturating_sub(then))
        });
    }

    let fired = manifest.as_ref().map(|m| &m.trigger);
    let by_charge = fired.is_some_and(|fired| fired.measure == Measure::Charge);
    let wanted = fired.filter(|_| by_charge).and_then(|fired| fired.charge_cgroup.as_deref());
    let (numbers, members) = (files.text("proc/cgroup.txt"), files.text("proc/cgroup_members.txt"));
    let pid = process.as_ref().map(|p| p.pid);
    let cgroup = Cgroup::read(&numbers, &members, pid, evidence.status.map(|s| s.anon), wanted);

    let env = process.as_ref().and_then(|p| p.env.as_ref());
    // what was read from the process's memory is the process's
    let may_be_foreign = !is_proven && foreign.is_empty() && !manifest.as_ref().is_some_and(is_all_of_memory);
    let warnings = manifest.iter().flat_map(|m| &m.warnings).filter(|_| may_be_foreign);
    let mistaken = warnings.filter(|warning| warning.is_mistaken()).map(|warning| warning.text.clone()).collect();
    let has_foreign = !foreign.is_empty();
    let facts = Facts {
        is_core: core.is_some(),
        mistaken,
        foreign,
        baseline_goroutines: standing.goroutines.as_ref().and_then(|g| g.baseline_total),
        baseline_threads: baseline.as_ref().and_then(|b| b.threads),
        baseline: baseline.map(|b| b.anatomy),
        heap: in_use.heap,
        heap_growth: in_use.growth,
        held,
        held_growth,
        passing: in_use.passing,
        allocs: in_use.allocs,
        goroutines: standing.goroutines,
        goroutine_growth: standing.growth,
        deepest: standing.deepest,
        threads: process.as_ref().and_then(|p| p.threads).or(evidence.status.and_then(|s| s.threads)),
        go_version: build.map(|go| go.go_version.clone()),
        gogc: env.map(|env| env.get("GOGC").map_or(Gogc::Percent(100), |v| Gogc::parse(v))),
        gomemlimit: env.and_then(|env| env.get("GOMEMLIMIT")).and_then(|v| v.parse::<ByteSize>().ok()).map(|b| b.0),
        age_seconds: process.as_ref().and_then(|p| p.age_seconds).or(remote.as_ref().and_then(|r| r.age_seconds)),
        memstats_gap_seconds: manifest.as_ref().and_then(gap),
        allocated: told.allocated(),
        end: files.json::<End>("end.json").map(|end| Ending { gone: end.gone, oom_killed: end.oom_killed }),
        holders: held_by,
        cgroup,
        by_charge,
    };
    if told.is_nothing() && !has_foreign && evidence.memstats.is_none() && evidence.status.is_none() {
        return Err(AnalysisError::Nothing { path: dir.to_owned(), problems: files.problems });
    }
    let mut verdict = verdict::decide(&anatomy, &facts, lang);
    if let Some(live) = told.live() {
        verdict.top.inuse_space = profiles::top(live, "inuse_space", TOP_ROWS);
        verdict.top.inuse_objects = profiles::top(live, "inuse_objects", TOP_ROWS);
    }
    if let Some(allocs) = told.allocs() {
        verdict.top.alloc_space = profiles::top(allocs, "alloc_space", TOP_ROWS);
        verdict.top.alloc_objects = profiles::top(allocs, "alloc_objects", TOP_ROWS);
    }
    if let Some((now, then)) = told.live().zip(base_heap.as_ref()) {
        verdict.top.growth = profiles::growth(now, then, TOP_ROWS);
    }
    let grown_during = told.heap_gc.as_ref().zip(told.after.as_ref());
    let grown_during = grown_during.map_or_else(Vec::new, |(gc, after)| profiles::growth(after, gc, TOP_ROWS));
    verdict.missing.extend(
        manifest
            .as_ref()
            .filter(|_| verdict.cause.is_of_heap())
            .and_then(unknown_holders)
            .map(|why| say!(lang; "who holds the heap is not known: {why}"; "不知道谁持有堆：{why}")),
    );
    verdict.missing.append(&mut files.problems);
    verdict.missing.append(&mut healthy.problems);
    verdict.next = next_commands(shown, &files, verdict.cause, has_go());
    let timeline = files.timeline();
    let heap = told.heap_gc.or(told.heap);
    let holders = facts.holders;
    Ok(Analysis { path: shown.to_owned(), lang, verdict, manifest, process, timeline, heap, grown_during, holders })
}

/// The verdict that a bundle holds; `None` without one that can be read. Blocks on the disk.
pub fn verdict_in(bundle: &Bundle) -> Option<Verdict> {
    Files::at(Some(bundle.dir().ok()?), Lang::En).json("verdict.json")
}

/// The same process while it was healthy.
struct Baseline {
    anatomy: Anatomy,
    threads: Option<u64>,
}

impl Baseline {
    /// `whole`: another bundle, with its kernel evidence where a bundle has it.
    fn read(files: &mut Files, whole: bool, heap: Option<&Profile>, now: &Anatomy) -> Option<Baseline> {
        let mut evidence = files.kernel(if whole { "proc/" } else { "" });
        evidence.memstats = files.memstats("memstats.txt");
        if whole {
            evidence.memstats_gc = files.memstats("memstats_gc.txt");
        }
        evidence.heap_inuse = heap.and_then(|p| profiles::total(p, "inuse_space"));
        evidence.reached = files.json::<Holders>(holders::FILE).as_ref().and_then(Holders::live_bytes);
        let said = match whole {
            true => files.json::<Manifest>("manifest.json").map(|m| m.trigger.rss_bytes),
            false => files.json::<BaselineFacts>("baseline.json").map(|b| b.rss_bytes),
        };
        evidence.rss_bytes = said.or(evidence.status.map(|s| s.rss()))?;
        Some(Baseline { threads: evidence.status.and_then(|s| s.threads), anatomy: anatomy::build_baseline(&evidence, now) })
    }
}

/// None of the evidence is what an address answered.
fn is_all_of_memory(manifest: &Manifest) -> bool {
    let mut told = manifest.files.iter().filter(|file| file.has_file() && told::FILES.contains(&file.name.as_str())).peekable();
    told.peek().is_some() && told.all(|file| file.source.as_deref() == Some("memory"))
}

/// Why it could not be told, where it was wanted.
fn unknown_holders(manifest: &Manifest) -> Option<String> {
    let step = manifest.files.iter().find(|f| f.step == "holders" && !f.has_file() && f.attempts > 0)?;
    Some(verdict::line(step.reason.as_deref()?))
}

/// For how long the forced collection marked, in seconds: no longer than its profile took.
fn marking(manifest: &Manifest) -> Option<f64> {
    let step = manifest.files.iter().find(|f| f.step == "heap_gc" && f.has_file())?;
    Some(step.milliseconds as f64 / 1000.0)
}

/// How long the steps took from one MemStats to the other.
fn gap(manifest: &Manifest) -> Option<f64> {
    let at = |step: &str| manifest.files.iter().position(|f| f.step == step && f.has_file());
    let (first, second) = (at("memstats")?, at("memstats_gc")?);
    let between: &[FileEntry] = manifest.files.get(first + 1..=second)?;
    Some(between.iter().map(|f| f.milliseconds as f64).sum::<f64>() / 1000.0)
}

/// How a file is looked at.
#[derive(Clone, Copy)]
enum Look {
    Top(&'static str),
    Traces,
    Page,
    Holders,
}

impl Look {
    /// `memtrap top` prints what `go tool pprof -top` does, where there is no Go.
    fn command(self, has_go: bool, path: &str) -> String {
        match (self, has_go) {
            (Look::Top(index), true) => format!("go tool pprof -top -sample_index={index} {path}"),
            (Look::Top(index), false) => format!("memtrap top --sample-index {index} {path}"),
            (Look::Traces, true) => format!("go tool pprof -traces {path}"),
            (Look::Traces, false) => format!("memtrap top {path}"),
            (Look::Page, _) => format!("less {path}"),
            (Look::Holders, _) => format!("memtrap holders {path}"),
        }
    }
}

fn has_go() -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("go").is_file()))
}

/// What to run next, in reading order, of what is there: what the cause is about comes first.
fn next_commands(shown: &Path, files: &Files, cause: Cause, has_go: bool) -> Vec<String> {
    const HEAP: &[(&str, Look)] = &[
        ("heap_gc.pb.gz", Look::Top("inuse_space")),
        ("heap_gc.pb.gz", Look::Top("inuse_objects")),
        ("heap.pb.gz", Look::Top("inuse_space")),
        ("heap.pb.gz", Look::Top("inuse_objects")),
        (holders::FILE, Look::Holders),
    ];
    const ALLOCS: &[(&str, Look)] = &[("allocs.pb.gz", Look::Top("alloc_space")), ("allocs.pb.gz", Look::Top("alloc_objects"))];
    const GOROUTINES: &[(&str, Look)] = &[("goroutine.pb.gz", Look::Traces), ("goroutine.txt", Look::Page)];
    const KERNEL: &[(&str, Look)] = &[("proc/smaps", Look::Page)];
    const CGROUP: &[(&str, Look)] = &[("proc/cgroup_members.txt", Look::Page), ("proc/cgroup.txt", Look::Page)];
    const RUNTIME: &[(&str, Look)] = &[("memstats.txt", Look::Page)];
    let order = match cause {
        Cause::AllocationChurn => [ALLOCS, HEAP, GOROUTINES, RUNTIME, KERNEL],
        Cause::UnreleasedHeap => [RUNTIME, ALLOCS, HEAP, GOROUTINES, KERNEL],
        Cause::GoroutinePileup | Cause::DeepStacks => [GOROUTINES, HEAP, ALLOCS, RUNTIME, KERNEL],
        Cause::ThreadPileup => [GOROUTINES, KERNEL, HEAP, ALLOCS, RUNTIME],
        Cause::CgroupShmem | Cause::CgroupNeighbours | Cause::CgroupKernel => [CGROUP, KERNEL, HEAP, GOROUTINES, RUNTIME],
        Cause::NativeMemory | Cause::FileMappings | Cause::Shmem => [KERNEL, RUNTIME, HEAP, ALLOCS, GOROUTINES],
        Cause::RuntimeMetadata => [RUNTIME, KERNEL, HEAP, ALLOCS, GOROUTINES],
        _ => [HEAP, ALLOCS, GOROUTINES, RUNTIME, KERNEL],
    };
    // the heap before the collection says nothing more than the one after it
    let is_older = |file: &str| file == "heap.pb.gz" && files.has("heap_gc.pb.gz");
    let there = order.into_iter().flatten().filter(|(file, _)| files.has(file) && !is_older(file));
    let mut commands: Vec<String> = there.map(|(file, look)| look.command(has_go, &quoted(&shown.join(file)))).collect();
    let heaps = ["heap_gc.pb.gz", "heap.pb.gz"];
    if files.has("baseline/heap.pb.gz")
        && let Some(heap) = heaps.into_iter().find(|heap| files.has(heap))
    {
        let (now, then) = (quoted(&shown.join(heap)), quoted(&shown.join("baseline/heap.pb.gz")));
        commands.push(match has_go {
            true => format!("go tool pprof -top -sample_index=inuse_space -diff_base={then} {now}"),
            false => format!("memtrap top --sample-index inuse_space --base {then} {now}"),
        });
    }
    commands
}

/// For a shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// A directory of evidence; remembers what of it could not be used.
struct Files {
    /// `None`: it is not there, and neither is anything in it.
    dir: Option<Dir>,
    lang: Lang,
    problems: Vec<String>,
    /// Bytes of the profiles that were decoded, here and in the baseline.
    profiles: usize,
    /// What the profiles may still inflate to, here and in the baseline.
    inflatable: u64,
}

impl Files {
    fn at(dir: Option<Dir>, lang: Lang) -> Files {
        Files { dir, lang, problems: Vec::new(), profiles: 0, inflatable: PROFILES_INFLATED }
    }

    fn open(dir: &Path, lang: Lang) -> Result<Files, AnalysisError> {
        match Dir::open(dir) {
            Ok(dir) => Ok(Files::at(Some(dir), lang)),
            Err(source) => Err(AnalysisError::Read { path: dir.to_owned(), source }),
        }
    }

    fn below(&self, name: &str) -> Files {
        let mut files = Files::at(None, self.lang);
        match self.dir.as_ref().map(|dir| dir.dir(name)) {
            Some(Ok(dir)) => files.dir = Some(dir),
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => files.say_useless(name, &e.to_string()),
            _ => {}
        }
        files
    }

    fn has(&self, name: &str) -> bool {
        self.dir.as_ref().is_some_and(|dir| dir.has_file(name))
    }

    fn say_useless(&mut self, name: &str, why: &str) {
        self.problems.push(say!(self.lang; "{name} cannot be used: {why}"; "{name} 无法使用：{why}"));
    }

    /// Parses a file, if it is there. One that is there and no good is a problem.
    fn parse<T>(&mut self, name: &str, max: u64, parse: impl FnOnce(io::Take<File>) -> Result<T, String>) -> Option<T> {
        let result = match self.dir.as_ref()?.file(name).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => Err(e.to_string()),
            Ok((bytes, _)) if bytes > max => Err(format!("it is larger than {}", ByteSize(max))),
            Ok((_, file)) => parse(file.take(max)),
        };
        result.map_err(|why| self.say_useless(name, &why)).ok()
    }

    fn profile(&mut self, name: &str) -> Option<Profile> {
        let (used, mut left) = (self.profiles, self.inflatable);
        let profile = self.parse(name, PROFILE.inflated_bytes, |mut file| {
            if used > PROFILES_MEMORY {
                return Err(format!("the other profiles take more than {} of memory", ByteSize(PROFILES_MEMORY as u64)));
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            let parsed = Profile::parse_within(&bytes, &PROFILE, &mut left);
            parsed.map_err(|e| match e {
                DecodeError::TooLarge { limit } if limit.0 < PROFILE.inflated_bytes => {
                    format!("all profiles together inflate to more than {}", ByteSize(PROFILES_INFLATED))
                }
                e => chain(&e),
            })
        });
        self.inflatable = left;
        let profile = profile?;
        self.profiles += profile.memory();
        Some(profile)
    }

    /// The samples of a `heap?debug=1`; memtrap's own memstats.txt has none.
    fn heap_text(&mut self, name: &str) -> Option<Profile> {
        let parsed = self.parse(name, MAX_FILE, |file| {
            let mut bytes = Vec::new();
            file.take(PROFILE.inflated_bytes).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            Ok(pprof::heap_text(&bytes, &PROFILE).ok().filter(|_| pprof::is_heap_text(&bytes)))
        });
        let profile = parsed.flatten()?;
        self.profiles += profile.memory();
        Some(profile).filter(|p| p.samples().len() > 0)
    }

    fn goroutines(&mut self, name: &str) -> Option<goroutine::Dump> {
        let limits = goroutine::Limits::default();
        self.parse(name, MAX_FILE, |file| goroutine::parse(BufReader::new(file), &limits).map_err(|e| chain(&e)))
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.parse(name, MAX_JSON, |file| serde_json::from_reader(BufReader::new(file)).map_err(|e| e.to_string()))
    }

    /// Empty where there is none.
    fn text(&mut self, name: &str) -> String {
        let text = self.parse(name, MAX_JSON, |mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        text.unwrap_or_default()
    }

    fn memstats(&mut self, name: &str) -> Option<memstats::GoMemory> {
        let parsed = self.parse(name, MAX_FILE, |file| memstats::parse(BufReader::new(file)).map_err(|e| e.to_string()))?;
        if parsed.is_none() {
            self.problems.push(
                say!(self.lang; "{name} cannot be used: it has no `# runtime.MemStats`"; "{name} 无法使用：其中没有 `# runtime.MemStats`"),
            );
        }
        parsed
    }

    fn kernel(&mut self, prefix: &str) -> Evidence {
        let error = |e: io::Error| e.to_string();
        let name = |file: &str| format!("{prefix}{file}");
        Evidence {
            status: self.parse(&name("status"), MAX_JSON, |f| anatomy::Split::of_status(BufReader::new(f)).map_err(error)).flatten(),
            rollup: self.parse(&name("smaps_rollup"), MAX_JSON, |f| smaps::parse_rollup(BufReader::new(f)).map_err(error)).flatten(),
            smaps: self.parse(&name("smaps"), MAX_FILE, |f| smaps::parse(BufReader::new(f)).map_err(error)).flatten(),
            stack_limit: self.parse(&name("limits"), MAX_JSON, |f| anatomy::stack_limit(BufReader::new(f)).map_err(error)).flatten(),
            ..Evidence::default()
        }
    }

    fn timeline(&mut self) -> Vec<TimelineRow> {
        let parsed = self.parse(timeline::FILE, MAX_JSON, |mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|e| e.to_string())?;
            Ok(timeline::parse(&text))
        });
        parsed.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_evidence_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("notes.txt"), "hello").unwrap();
        let error = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap_err();
        assert!(error.to_string().contains("holds nothing"), "{error}");
        assert!(matches!(of_directory(Path::new("/nowhere"), Path::new("/"), None, None, Lang::En), Err(AnalysisError::Read { .. })));
    }

    #[test]
    fn what_was_there_and_why_it_is_of_no_use_is_said() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("goroutine.txt"), "unauthorized\n").unwrap();
        std::fs::write(dir.path().join("memstats.txt"), "heap profile: 0: 0 [0: 0] @ heap/1048576\n").unwrap();
        let error = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap_err().to_string();
        assert!(error.contains("goroutine.txt cannot be used: no goroutine dump: it begins with `unauthorized`"), "{error}");
        assert!(error.contains("memstats.txt cannot be used: it has no `# runtime.MemStats`"), "{error}");
    }

    #[test]
    fn the_text_of_a_heap_is_a_heap_even_of_a_go_that_wrote_no_numbers_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let text = "heap profile: 1: 64 [1: 64] @ heap/2\n1: 64 [1: 64] @ 0x1\n#\t0x1\tmain.keep+0x1\t/x/main.go:9\n\n";
        std::fs::write(dir.path().join("memstats.txt"), text).unwrap();
        let verdict = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap().verdict;
        assert_eq!((verdict.top.inuse_space[0].function.as_str(), verdict.top.inuse_space[0].flat), ("main.keep", 64));
    }

    #[test]
    fn a_text_of_goroutines_alone_tells_their_number_and_stacks() {
        let states = "goroutine 7 [select]:\nmain.wait()\n\t/x/main.go:9 +0x1\n\n";
        let grouped = "goroutine profile: total 1\n1 @ 0x1\n#\t0x1\tmain.wait+0x1\t/x/main.go:9\n\n";
        for text in [states, grouped] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("goroutine.txt"), text).unwrap();
            let verdict = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap().verdict;
            let goroutines = verdict.goroutines.unwrap();
            assert_eq!((goroutines.total, goroutines.groups[0].stack[0].as_str()), (1, "main.wait"));
            assert_eq!(verdict.confidence, verdict::Confidence::Low);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_still_speaks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("heap_gc.pb.gz"), "<html>").unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("proc/status"), "RssAnon:\t  1024 kB\nRssFile:\t 512 kB\nRssShmem:\t 0 kB\nThreads:\t5\n").unwrap();
        let analysis = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap();
        assert_eq!(analysis.verdict.rss_bytes, 1536 << 10);
        assert!(analysis.verdict.missing.iter().any(|m| m.starts_with("heap_gc.pb.gz cannot be used")), "{:?}", analysis.verdict.missing);
        assert_eq!(analysis.verdict.confidence, verdict::Confidence::Low);
    }

    #[test]
    fn what_all_profiles_inflate_to_is_bounded() {
        use std::io::Write;
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..60).for_each(|_| bomb.write_all(&vec![0xff; 1 << 20]).unwrap());
        let bomb = bomb.finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let names = ["heap_gc.pb.gz", "heap.pb.gz", "goroutine.pb.gz", "goroutineleak.pb.gz", "heap_gc_after.pb.gz"];
        names.iter().for_each(|name| std::fs::write(dir.path().join(name), &bomb).unwrap());
        let mut files = Files::open(dir.path(), Lang::En).unwrap();
        for name in names {
            assert!(files.profile(name).is_none());
        }
        let said = "heap_gc_after.pb.gz cannot be used: all profiles together inflate to more than 256MiB";
        assert!(files.problems.iter().any(|p| p == said), "{:?}", files.problems);
        assert_eq!(files.problems.iter().filter(|p| p.contains("all profiles together")).count(), 1, "{:?}", files.problems);
    }

    #[test]
    fn sizes_beyond_all_numbers_do_not_overflow() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let kib = u64::MAX / 1024;
        std::fs::write(dir.path().join("proc/status"), format!("RssAnon: {kib} kB\nRssFile: {kib} kB\nRssShmem: {kib} kB\n")).unwrap();
        let verdict = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap().verdict;
        assert_eq!(verdict.anatomy.iter().map(|line| line.bytes).sum::<i64>(), verdict.rss_bytes as i64);
    }

    #[test]
    fn what_is_to_be_run_next_can_be_run_without_go() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["heap_gc.pb.gz", "goroutine.pb.gz"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let files = Files::open(dir.path(), Lang::En).unwrap();
        let next = |has_go| next_commands(Path::new("/b"), &files, Cause::GoroutinePileup, has_go);
        assert_eq!(
            next(true)[..2],
            ["go tool pprof -traces '/b/goroutine.pb.gz'", "go tool pprof -top -sample_index=inuse_space '/b/heap_gc.pb.gz'"]
        );
        assert_eq!(next(false)[..2], ["memtrap top '/b/goroutine.pb.gz'", "memtrap top --sample-index inuse_space '/b/heap_gc.pb.gz'"]);
    }

    #[test]
    fn a_path_is_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
