//! From the files of a bundle to its verdict: reads, bounded, what is there; says what could not be used.
//!
//! Works on a bundle (published or still partial) and on any directory with the same file names, whoever made it. It is run in a
//! process of its own, because profiles come from outside and memory that a big one took is not given back by every allocator. Not
//! here: what the numbers mean (`anatomy`, `verdict`), how they are shown (`report`).

mod goroutines;
mod profiles;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::anatomy::{self, Anatomy, Evidence, memstats, smaps};
use crate::bundle::{ANOTHERS, Bundle, FileEntry, Manifest};
use crate::capture::{End, RemoteInstance, kernel::ProcessFacts};
use crate::disk::Dir;
use crate::error::chain;
use crate::lang::{Lang, say};
use crate::pprof::{self, DecodeError, Profile, goroutine};
use crate::units::ByteSize;
use crate::verdict::{self, Cause, Ending, Facts, Gogc, Goroutines, TopLine, Verdict};

/// Of one file; real profiles and dumps stay far below.
const MAX_FILE: u64 = 1 << 30;
const MAX_JSON: u64 = 8 << 20;
/// Of one profile. Ten times what the largest services have; the defaults would let one hostile profile take all of the child's memory.
const PROFILE: pprof::Limits = pprof::Limits {
    inflated_bytes: 64 << 20,
    strings: 1_000_000,
    mappings: 20_000,
    functions: 250_000,
    locations: 250_000,
    lines: 1_000_000,
    samples: 200_000,
    values: 2_000_000,
    frames: 6_000_000,
    labels: 1_000_000,
    comment_bytes: 1 << 20,
};
/// Of all profiles of a directory together, once they are decoded.
const PROFILES_MEMORY: usize = 192 << 20;
/// What they may inflate to, good or not.
const PROFILES_INFLATED: u64 = 256 << 20;
const TOP_ROWS: usize = 20;

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} holds nothing that could be analysed: no heap.pb.gz, heap_gc.pb.gz, memstats.txt, goroutine.pb.gz, goroutine.txt or proc/status{}",
        problems.iter().map(|problem| format!("; {problem}")).collect::<String>()
    )]
    Nothing {
        path: PathBuf,
        /// What is there and cannot be used.
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
    pub timeline: Vec<Reading>,
    /// The heap after the forced collection, else before it.
    pub heap: Option<Profile>,
    /// inuse_space that grew between the two forced collections of the capture.
    pub grown_during: Vec<TopLine>,
}

/// A line of `timeline.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub unix_ms: u64,
    pub rss_bytes: u64,
    pub during: bool,
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
    let heap_gc = files.profile("heap_gc.pb.gz");
    let heap = files.profile("heap.pb.gz");
    let mut evidence = files.kernel("proc/");
    evidence.memstats = files.memstats("memstats.txt");
    evidence.memstats_gc = files.memstats("memstats_gc.txt");
    let remote: Option<RemoteInstance> = files.json("metrics.json");
    // what its metrics said is older by some seconds, and better than nothing
    evidence.memstats = evidence.memstats.or(remote.as_ref().and_then(|r| r.go_memstats));
    evidence.heap_gc_inuse = heap_gc.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
    evidence.heap_inuse = heap.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
    evidence.rss_bytes = match &manifest {
        Some(manifest) => manifest.trigger.rss_bytes,
        None => {
            let seen = evidence.status.map(|s| s.rss()).or(evidence.rollup.map(|r| r.rss));
            seen.or(remote.as_ref().map(|r| r.rss_bytes)).unwrap_or(0)
        }
    };

    let mut healthy = match base {
        Some(base) => Files::open(base, lang)?,
        None => files.below("baseline"),
    };
    (healthy.profiles, healthy.inflatable) = (files.profiles, files.inflatable);
    let base_heap = base.and_then(|_| healthy.profile("heap_gc.pb.gz")).or_else(|| healthy.profile("heap.pb.gz"));
    let base_goroutines = healthy.profile("goroutine.pb.gz");
    let anatomy = anatomy::build(&evidence);
    let baseline = Baseline::read(&mut healthy, base.is_some(), base_heap.as_ref(), &anatomy);

    (files.profiles, files.inflatable) = (healthy.profiles, healthy.inflatable);
    let dump = files.goroutines("goroutine.txt");
    let counted = files.profile("goroutine.pb.gz");
    // states and waits are in the text only; one that Go cut off has not all that the profile counts
    let is_whole = |dump: &&goroutine::Dump| counted.as_ref().is_none_or(|p| dump.total >= profiles::first_total(p) / 10 * 9);
    let stated = dump.as_ref().filter(|dump| goroutines::tells_states(dump)).filter(is_whole).map(goroutines::groups);
    let total = counted.as_ref().map(profiles::first_total).or(dump.as_ref().map(|dump| dump.declared.unwrap_or(dump.total)));
    let goroutines = total.map(|total| Goroutines {
        total,
        baseline_total: base_goroutines.as_ref().map(profiles::first_total),
        leaked: files.profile("goroutineleak.pb.gz").as_ref().map(profiles::leaked),
        groups: stated.or(counted.as_ref().map(profiles::groups)).or(dump.as_ref().map(goroutines::groups)).unwrap_or_default(),
    });
    // what counts allocations is as of the last collection: the forced one, where there was one
    let allocs = if heap_gc.is_none() { files.profile("allocs.pb.gz") } else { None };
    let allocs = heap_gc.as_ref().or(allocs.as_ref()).or(heap.as_ref());
    let after = files.profile("heap_gc_after.pb.gz");
    let process: Option<ProcessFacts> = files.json("proc/process.json");
    let env = process.as_ref().and_then(|p| p.env.as_ref());
    let live = heap_gc.as_ref().or(heap.as_ref());
    let goroutine_growth = counted.as_ref().zip(base_goroutines.as_ref()).and_then(|(now, then)| profiles::goroutine_growth(now, then));
    let stands_in = goroutine_growth.as_ref().map(|grown| grown.function.as_str());
    let warnings = manifest.iter().flat_map(|m| &m.warnings);
    let mistaken = warnings.filter(|warning| warning.ends_with(ANOTHERS)).cloned().collect();
    let facts = Facts {
        // both are as of a collection: garbage is in neither
        heap_growth: live.zip(base_heap.as_ref()).and_then(|(now, then)| profiles::heap_growth(now, then, stands_in)),
        deepest: dump.as_ref().and_then(goroutines::deepest).or_else(|| counted.as_ref().and_then(profiles::recursion)),
        mistaken,
        baseline_goroutines: goroutines.as_ref().and_then(|g| g.baseline_total),
        baseline_threads: baseline.as_ref().and_then(|b| b.threads),
        baseline: baseline.map(|b| b.anatomy),
        heap: live.and_then(profiles::heap),
        allocs: allocs.and_then(profiles::allocs),
        goroutines,
        goroutine_growth,
        threads: process.as_ref().and_then(|p| p.threads).or(evidence.status.and_then(|s| s.threads)),
        go_version: process.as_ref().and_then(|p| p.go.as_ref()).map(|go| go.go_version.clone()),
        gogc: env.map(|env| env.get("GOGC").map_or(Gogc::Percent(100), |v| Gogc::parse(v))),
        gomemlimit: env.and_then(|env| env.get("GOMEMLIMIT")).and_then(|v| v.parse::<ByteSize>().ok()).map(|b| b.0),
        age_seconds: process.as_ref().and_then(|p| p.age_seconds).or(remote.as_ref().and_then(|r| r.age_seconds)),
        memstats_gap_seconds: manifest.as_ref().and_then(gap),
        allocated: heap_gc.as_ref().zip(after.as_ref()).and_then(|(first, last)| profiles::allocated(first, last)),
        end: files.json::<End>("end.json").map(|end| Ending { gone: end.gone, oom_killed: end.oom_killed }),
    };
    if live.is_none() && allocs.is_none() && facts.goroutines.is_none() && evidence.memstats.is_none() && evidence.status.is_none() {
        return Err(AnalysisError::Nothing { path: dir.to_owned(), problems: files.problems });
    }
    let mut verdict = verdict::decide(&anatomy, &facts, lang);
    if let Some(live) = live {
        verdict.top.inuse_space = profiles::top(live, "inuse_space", TOP_ROWS);
        verdict.top.inuse_objects = profiles::top(live, "inuse_objects", TOP_ROWS);
    }
    if let Some(allocs) = allocs {
        verdict.top.alloc_space = profiles::top(allocs, "alloc_space", TOP_ROWS);
        verdict.top.alloc_objects = profiles::top(allocs, "alloc_objects", TOP_ROWS);
    }
    if let Some((now, then)) = live.zip(base_heap.as_ref()) {
        verdict.top.growth = profiles::growth(now, then, TOP_ROWS);
    }
    let grown_during = heap_gc.as_ref().zip(after.as_ref()).map_or_else(Vec::new, |(gc, after)| profiles::growth(after, gc, TOP_ROWS));
    verdict.missing.append(&mut files.problems);
    verdict.missing.append(&mut healthy.problems);
    verdict.next = next_commands(shown, &files, verdict.cause);
    let timeline = files.timeline();
    Ok(Analysis { path: shown.to_owned(), lang, verdict, manifest, process, timeline, heap: heap_gc.or(heap), grown_during })
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

/// Of `baseline.json`.
#[derive(Deserialize)]
struct BaselineFacts {
    rss_bytes: u64,
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
        let said = match whole {
            true => files.json::<Manifest>("manifest.json").map(|m| m.trigger.rss_bytes),
            false => files.json::<BaselineFacts>("baseline.json").map(|b| b.rss_bytes),
        };
        evidence.rss_bytes = said.or(evidence.status.map(|s| s.rss()))?;
        Some(Baseline { threads: evidence.status.and_then(|s| s.threads), anatomy: anatomy::build_baseline(&evidence, now) })
    }
}

/// How long the steps took from one MemStats to the other.
fn gap(manifest: &Manifest) -> Option<f64> {
    let at = |step: &str| manifest.files.iter().position(|f| f.step == step && f.has_file());
    let (first, second) = (at("memstats")?, at("memstats_gc")?);
    let between: &[FileEntry] = manifest.files.get(first + 1..=second)?;
    Some(between.iter().map(|f| f.milliseconds as f64).sum::<f64>() / 1000.0)
}

/// What to run next, in reading order, of what is there: what the cause is about comes first.
fn next_commands(shown: &Path, files: &Files, cause: Cause) -> Vec<String> {
    const HEAP: &[(&str, &str)] = &[
        ("heap_gc.pb.gz", "go tool pprof -top -sample_index=inuse_space"),
        ("heap_gc.pb.gz", "go tool pprof -top -sample_index=inuse_objects"),
    ];
    const ALLOCS: &[(&str, &str)] = &[
        ("allocs.pb.gz", "go tool pprof -top -sample_index=alloc_space"),
        ("allocs.pb.gz", "go tool pprof -top -sample_index=alloc_objects"),
    ];
    const GOROUTINES: &[(&str, &str)] = &[("goroutine.pb.gz", "go tool pprof -traces"), ("goroutine.txt", "less")];
    const KERNEL: &[(&str, &str)] = &[("proc/smaps", "less")];
    const RUNTIME: &[(&str, &str)] = &[("memstats.txt", "less")];
    let order = match cause {
        Cause::AllocationChurn => [ALLOCS, HEAP, GOROUTINES, RUNTIME, KERNEL],
        Cause::UnreleasedHeap => [RUNTIME, ALLOCS, HEAP, GOROUTINES, KERNEL],
        Cause::GoroutinePileup | Cause::DeepStacks => [GOROUTINES, HEAP, ALLOCS, RUNTIME, KERNEL],
        Cause::ThreadPileup => [GOROUTINES, KERNEL, HEAP, ALLOCS, RUNTIME],
        Cause::NativeMemory | Cause::FileMappings | Cause::Shmem => [KERNEL, RUNTIME, HEAP, ALLOCS, GOROUTINES],
        Cause::RuntimeMetadata => [RUNTIME, KERNEL, HEAP, ALLOCS, GOROUTINES],
        _ => [HEAP, ALLOCS, GOROUTINES, RUNTIME, KERNEL],
    };
    let there = order.into_iter().flatten().filter(|(file, _)| files.has(file));
    let mut commands: Vec<String> = there.map(|(file, command)| format!("{command} {}", quoted(&shown.join(file)))).collect();
    let heaps = ["heap_gc.pb.gz", "heap.pb.gz"];
    if files.has("baseline/heap.pb.gz")
        && let Some(heap) = heaps.into_iter().find(|heap| files.has(heap))
    {
        let (now, then) = (quoted(&shown.join(heap)), quoted(&shown.join("baseline/heap.pb.gz")));
        commands.push(format!("go tool pprof -top -sample_index=inuse_space -diff_base={then} {now}"));
    }
    commands
}

/// For a shell.
fn quoted(path: &Path) -> String {
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

    fn goroutines(&mut self, name: &str) -> Option<goroutine::Dump> {
        let limits = goroutine::Limits::default();
        self.parse(name, MAX_FILE, |file| goroutine::parse(BufReader::new(file), &limits).map_err(|e| chain(&e)))
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.parse(name, MAX_JSON, |file| serde_json::from_reader(BufReader::new(file)).map_err(|e| e.to_string()))
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
            ..Evidence::default()
        }
    }

    fn timeline(&mut self) -> Vec<Reading> {
        let parsed = self.parse("timeline.csv", MAX_JSON, |mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|e| e.to_string())?;
            Ok(text.lines().skip(1).filter_map(reading).collect())
        });
        parsed.unwrap_or_default()
    }
}

fn reading(line: &str) -> Option<Reading> {
    let mut cells = line.split(',').skip(1);
    Some(Reading { unix_ms: cells.next()?.parse().ok()?, rss_bytes: cells.next()?.parse().ok()?, during: cells.next()? == "during" })
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
    fn a_path_is_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
