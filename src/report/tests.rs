use std::path::PathBuf;

use super::*;
use crate::bundle::Outcome;
use crate::bundle::timeline::TimelineRow;
use crate::layout::width;
use crate::trigger::Fired;
use crate::verdict::{Cause, Detail, Facts, Goroutines, TopLine};
use crate::{anatomy, verdict};

const MIB: u64 = 1 << 20;
const HOSTILE: &str = "main.<script>alert(1)</script>\u{1b}[31m\u{202e}\"'&";

/// What a hostile process could make of a bundle.
fn hostile() -> Analysis {
    hostile_in(Lang::En)
}

fn hostile_in(lang: Lang) -> Analysis {
    let evidence = anatomy::Evidence {
        rss_bytes: 300 * MIB,
        status: Some(anatomy::Split { anon: 280 * MIB, file: 15 * MIB, shmem: 5 * MIB, swap: None, threads: Some(9) }),
        ..anatomy::Evidence::default()
    };
    let group = Group {
        count: 9,
        state: Some(HOSTILE.into()),
        longest_wait_seconds: Some(600),
        stack: vec![HOSTILE.into()],
        place: Some(HOSTILE.into()),
    };
    let facts = Facts {
        goroutines: Some(Goroutines { total: 9, groups: vec![group], ..Goroutines::default() }),
        go_version: Some(HOSTILE.into()),
        ..Facts::default()
    };
    let mut verdict = verdict::decide(&anatomy::build(&evidence), &facts, lang);
    verdict.top.inuse_space = vec![TopLine { function: HOSTILE.into(), flat: 7 << 20, cum: 9 << 20 }];
    verdict.next = vec![format!("less '/{HOSTILE}'")];
    let manifest = Manifest {
        schema: 1,
        memtrap_version: "0".into(),
        incident_id: "i".into(),
        part: 1,
        target: HOSTILE.into(),
        instance: crate::bundle::Instance { label: "pid 7".into(), exe: Some(HOSTILE.into()), ..Default::default() },
        trigger: Fired::manual(300 * MIB, Some(512 * MIB), HOSTILE.into()),
        rules: None,
        host: HOSTILE.into(),
        boot_id: "b".into(),
        started: "2026-11-23T08:13:36.000Z".into(),
        finished: HOSTILE.into(),
        outcome: Outcome::Partial,
        slowed: None,
        warnings: vec![HOSTILE.into()],
        files: vec![FileEntry::skipped("mutex", "mutex.pb.gz", HOSTILE)],
    };
    let at = unix_ms(&manifest.started).unwrap();
    let timeline =
        (0..600).map(|s| TimelineRow { unix_ms: at - 600_000 + s * 1000, rss_bytes: (s + 1) * MIB / 2, during: false }).collect();
    Analysis {
        holders: None,
        path: PathBuf::from("/bundles").join(HOSTILE),
        lang,
        verdict,
        manifest: Some(manifest),
        process: None,
        timeline,
        heap: None,
        grown_during: Vec::new(),
    }
}

#[test]
fn nothing_from_the_process_becomes_markup_or_reaches_a_terminal_raw() {
    let written = write(hostile());
    assert!(!written.html.contains("<script"), "{}", written.html);
    assert!(written.html.contains("main.&#60;script&#62;"), "the name is still there, as text");
    for text in [&written.html, &written.text] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'));
    }
}

#[test]
fn the_page_is_self_contained_and_needs_no_script() {
    let page = html(&hostile());
    for foreign in ["src=", "href=", "url(", "@import", "http:", "https:"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn both_forms_say_the_summary_every_bucket_what_is_missing_and_the_reasons() {
    let analysis = hostile();
    let (text, page) = (text(&analysis), html(&analysis));
    let unwrapped = text.replace('\n', " ");
    assert!(unwrapped.contains(&analysis.verdict.summary), "{text}");
    for line in &analysis.verdict.anatomy {
        assert!(text.contains(line.bucket.name()) && page.contains(line.bucket.name()), "{}", line.bucket.name());
    }
    assert!(text.contains("mutex.pb.gz") && page.contains("mutex.pb.gz"));
    assert!(text.contains("10m") && page.contains("up to 10m"), "the longest wait");
    assert!(text.contains("RSS 512KiB ▁") && text.contains("█ 300MiB in 9m 59s"), "{text}");
}

#[test]
fn shares_below_one_percent_are_not_called_nothing() {
    assert_eq!([percent(0, 100), percent(1, 1000), percent(-1, 1000), percent(50, 100)], ["0%", "<1%", "<1%", "50%"]);
}

fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
}

#[test]
fn a_chinese_report_is_chinese_but_for_names() {
    let analysis = hostile_in(Lang::Zh);
    let (text, page) = (text(&analysis), html(&analysis));
    assert!(page.contains("<html lang=\"zh-CN\">"));
    for label in ["证据", "缺少的证据", "这意味着什么", "RSS 随时间变化", "采集"] {
        assert!(page.contains(label), "{label}");
    }
    for english in ["Evidence", "What is missing", "Usually", "baseline, part", "Grouped by", "the runtime's own", "high confidence"] {
        assert!(!page.contains(english) && !text.contains(english), "{english}");
    }
    let headings: Vec<&str> = page.split("<h2>").skip(1).filter_map(|rest| rest.split("</h2>").next()).collect();
    assert!(headings.len() >= 4 && headings.iter().all(|h| is_chinese(h)), "{headings:?}");
    assert!(text.lines().all(|line| width(line) <= 100 || line.contains("main.") || line.contains("less ")), "{text}");
}

#[test]
fn every_cause_has_its_guide_in_both_languages() {
    let causes = [
        Cause::LiveHeap,
        Cause::SmallObjects,
        Cause::AllocationChurn,
        Cause::UnreleasedHeap,
        Cause::GoroutinePileup,
        Cause::DeepStacks,
        Cause::NativeMemory,
        Cause::FileMappings,
        Cause::Shmem,
        Cause::ThreadPileup,
        Cause::RuntimeMetadata,
        Cause::GcThrash,
        Cause::CgroupShmem,
        Cause::CgroupNeighbours,
        Cause::CgroupKernel,
        Cause::Mixed,
        Cause::Unknown,
    ];
    let details = [Detail::HugePages, Detail::MadvFree].map(|detail| (Cause::UnreleasedHeap, Some(detail)));
    for (cause, detail) in causes.map(|cause| (cause, None)).into_iter().chain(details) {
        let (en, zh) = (guide::of(cause, detail, Lang::En), guide::of(cause, detail, Lang::Zh));
        assert_eq!((en.steps.len(), en.usual.len()), (zh.steps.len(), zh.usual.len()), "{cause:?}");
        // what has only names in it, like GODEBUG=madvdontneed=0, is the same in both
        let pairs = en.steps.iter().chain(en.usual).zip(zh.steps.iter().chain(zh.usual));
        for (en, zh) in pairs.chain([(&en.title, &zh.title), (&en.means, &zh.means)]) {
            assert!(!is_chinese(en) && (is_chinese(zh) || en == zh), "{cause:?}: {zh}");
        }
    }
}
