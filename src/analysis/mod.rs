//! From the files of a bundle to its verdict: reads, bounded, what is there; says what could not be used.
//!
//! Works on a bundle (published or still partial) and on any directory with the same file names, whoever made it. It is run in a
//! process of its own, because profiles come from outside and memory that a big one took is not given back by every allocator. Not
//! here: what the numbers mean (`anatomy`, `verdict`), how they are shown (`report`).

pub mod core;
mod files;
mod goroutines;
mod healthy;
mod identity;
mod metadata;
mod next;
mod profiles;
pub mod single;
mod sites;
mod thrash;
mod told;
#[cfg(test)]
mod cases;

use std::io;
use std::path::{Path, PathBuf};

use crate::anatomy;
use crate::bundle::timeline::TimelineRow;
use crate::bundle::{Bundle, End, Manifest, ProcessFacts};
use crate::holders::{self, Holders};
use crate::lang::Lang;
use crate::pprof::Profile;
use crate::verdict::{self, Ending, Facts, TopLine, Verdict, Whole};
use files::Files;
use healthy::Healthy;
use metadata::Metadata;
use told::Told;

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
/// of the sentences. Blocks on the disk.
pub fn of_directory(
    dir: &Path,
    shown: &Path,
    base: Option<&Path>,
    manifest: Option<Manifest>,
    lang: Lang,
) -> Result<Analysis, AnalysisError> {
    let mut files = Files::open(dir, lang)?;
    let metadata = Metadata::read(&mut files, manifest);
    let mut evidence = metadata.evidence(&mut files);
    let (told, whose) = metadata.whose(Told::read(&mut files), &evidence, lang);
    metadata.add_told(&mut evidence, &told, &whose);
    let whole = metadata.whole(&mut evidence);
    let mut holders: Option<Holders> = files.json(holders::FILE);
    evidence.reached = holders.as_ref().and_then(Holders::live_bytes);
    let mut healthy = Healthy::read(&mut files, base, &evidence, &whose)?;

    let standing = told.standing(healthy.goroutines.as_ref(), metadata.module());
    let mut in_use = told.in_use(healthy.heap.as_ref(), &standing, metadata.module(), metadata.marking());
    evidence.floating = in_use.floating;
    evidence.large = in_use.heap.as_ref().and_then(|heap| heap.sizes).map_or(0, |sizes| sizes.large);
    let anatomy = anatomy::build(&evidence);
    let baseline = healthy.baseline(&anatomy);
    healthy.compare(&mut holders);
    healthy.by_graph(&mut in_use, holders.as_ref());
    let (cgroup, by_charge) = metadata.cgroup(&mut files, &evidence);

    let facts = Facts {
        baseline_threads: baseline.as_ref().and_then(|b| b.threads),
        // what its RSS was is no measure for what is mapped now
        baseline: baseline.map(|b| b.anatomy).filter(|_| whole != Whole::Mapped),
        whole,
        threads: metadata.threads().or(evidence.status.and_then(|s| s.threads)),
        allocated: told.allocated(),
        end: files.json::<End>("end.json").map(|end| Ending { gone: end.gone, oom_killed: end.oom_killed }),
        holders,
        cgroup,
        by_charge,
        thrash: metadata.thrash(&evidence, &anatomy, told.memstats_after),
        gogc_in_force: metadata.gogc_in_force(&evidence),
        memory_limit: metadata.memory_limit(&evidence),
        ..metadata.facts(whose, standing, in_use)
    };
    if told.is_nothing() && facts.foreign.is_empty() && evidence.memstats.is_none() && evidence.status.is_none() {
        return Err(AnalysisError::Nothing { path: dir.to_owned(), problems: files.problems });
    }

    let mut verdict = verdict::decide(&anatomy, &facts, lang);
    verdict.top = told.top(healthy.heap.as_ref());
    verdict.missing.extend(metadata.unknown_holders(verdict.cause, lang));
    verdict.missing.append(&mut files.problems);
    verdict.missing.append(&mut healthy.files.problems);
    verdict.next = next::commands(shown, &files, verdict.cause, next::has_go());
    Ok(Analysis {
        path: shown.to_owned(),
        lang,
        verdict,
        timeline: files.timeline(),
        grown_during: told.grown_during(),
        heap: told.into_heap(),
        holders: facts.holders,
        manifest: metadata.manifest,
        process: metadata.process,
    })
}

/// The verdict that a bundle holds; `None` without one that can be read. Blocks on the disk.
pub fn verdict_in(bundle: &Bundle) -> Option<Verdict> {
    Files::at(Some(bundle.dir().ok()?), Lang::En).json("verdict.json")
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
    fn sizes_beyond_all_numbers_do_not_overflow() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let kib = u64::MAX / 1024;
        std::fs::write(dir.path().join("proc/status"), format!("RssAnon: {kib} kB\nRssFile: {kib} kB\nRssShmem: {kib} kB\n")).unwrap();
        let verdict = of_directory(dir.path(), dir.path(), None, None, Lang::En).unwrap().verdict;
        assert_eq!(verdict.anatomy.iter().map(|line| line.bytes).sum::<i64>(), verdict.rss_bytes as i64);
    }
}
