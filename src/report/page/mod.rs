//! `report.html`: what the template shows, as plain text and numbers.

mod flame;
mod goroutines;
mod holders;
mod memory;
mod tables;

use askama::Template;

use super::guide::{self, Guide};
use super::labels::{self, Labels};
use super::plot::{self, Marks, Plot};
use super::{clean, process, title, unix_ms, where_it_is};
use crate::analysis::Analysis;
use crate::bundle::{Manifest, Status};
use crate::lang::{Lang, say};
use crate::pprof::flame::{Bounds, flame};
use crate::trigger::Trigger;
use crate::units::ByteSize;
use flame::{Picture, picture};
use goroutines::{Goroutines, GroupRow, goroutines, lead_group};
use holders::{HolderRow, holders};
use memory::{Bar, BucketRow, ChargedTable, bars, buckets, charged};
use tables::{Table, lead, tables};

/// Of the group that the verdict is about.
const LEAD_FRAMES: usize = 8;
/// Steps with at least this share of the plot's width have a name in it.
const NAMED_STEP: f64 = 14.0;

#[derive(Template)]
#[template(path = "report.html")]
struct Page {
    lang: Lang,
    t: &'static Labels,
    version: &'static str,
    title: String,
    when: String,
    fired: Option<(String, String)>,
    answer: &'static str,
    /// `yes`, `no`, …: a class.
    answer_word: String,
    /// The cause and what it is.
    chip: String,
    guide: &'static Guide,
    confidence: &'static str,
    summary: String,
    warnings: Vec<String>,
    process: Vec<(&'static str, String)>,
    /// What the cause is about: the functions, or the goroutines.
    lead: Option<Table>,
    lead_group: Option<GroupRow>,
    /// Headings with something in them.
    where_it_is: String,
    means: String,
    bars: Vec<Bar>,
    buckets: Vec<BucketRow>,
    has_baseline: bool,
    cgroup: Option<ChargedTable>,
    evidence: Vec<String>,
    missing: Vec<String>,
    plots: Vec<(&'static str, Plot)>,
    of_waiting: Option<&'static str>,
    next: Vec<String>,
    tables: Vec<Table>,
    columns: [(&'static str, &'static str); 4],
    holders: Vec<HolderRow>,
    limits: Vec<String>,
    flame: Option<Picture>,
    goroutines: Option<Goroutines>,
    steps: Vec<Step>,
    outcome: String,
}

struct Step {
    name: String,
    bytes: String,
    milliseconds: u64,
    attempts: u32,
    status: &'static str,
    reason: String,
}

/// The report as one self-contained page.
pub fn html(analysis: &Analysis) -> String {
    // rendering into a String fails only where a template's expression does, and these do not
    page(analysis).render().unwrap_or_else(|error| format!("<!doctype html><title>memtrap</title><p>The report could not be made: {error}"))
}

fn page(analysis: &Analysis) -> Page {
    let (v, lang) = (&analysis.verdict, analysis.lang);
    let t = labels::of(lang);
    let guide = guide::of(v.cause, v.detail, lang);
    let manifest = analysis.manifest.as_ref();
    let marks = manifest.map(|m| marks(m, lang)).unwrap_or_default();
    let timeline = &analysis.timeline;
    let mut plots = Vec::new();
    match plot::capture(timeline, &marks) {
        Some(enlarged) => {
            plots.extend(plot::whole(timeline, &marks).map(|p| ("", p)));
            plots.push((t.capture, enlarged));
        }
        None => plots.extend(plot::with_steps(timeline, &marks).map(|p| ("", p))),
    }
    Page {
        lang,
        t,
        version: env!("CARGO_PKG_VERSION"),
        title: title(analysis),
        when: manifest.map(|m| clean(&m.started).replace('T', " ").replace('Z', " UTC")).unwrap_or_default(),
        fired: manifest.map(|m| (m.trigger.trigger.name().to_owned(), clean(&m.trigger.reason))),
        answer: guide::answer(v, lang),
        answer_word: super::word(&v.go_heap_explains),
        chip: say!(lang; "{}: {}"; "{}：{}", v.cause.name(), guide.title),
        guide,
        confidence: guide::confidence(v.confidence, lang),
        summary: clean_long(&v.summary),
        warnings: manifest.map(|m| m.warnings.iter().map(|w| clean(&w.text)).collect()).unwrap_or_default(),
        process: process(analysis),
        lead: lead(analysis),
        lead_group: lead_group(v, lang),
        where_it_is: where_it_is(v, lang),
        means: say!(lang; "{}: {}"; "{}：{}", t.means, guide.title),
        bars: bars(v, lang),
        buckets: buckets(v, lang),
        has_baseline: v.baseline_rss_bytes.is_some(),
        cgroup: v.cgroup.as_ref().map(|cgroup| charged(cgroup, lang)),
        evidence: v.evidence.iter().map(|e| clean_long(e)).collect(),
        missing: v.missing.iter().map(|e| clean_long(e)).collect(),
        plots,
        of_waiting: guide::of_waiting(v, lang),
        next: next(analysis),
        tables: tables(analysis),
        columns: guide::columns(lang),
        holders: holders(analysis),
        limits: analysis.holders.iter().flat_map(|h| &h.limits).map(|limit| clean(limit)).collect(),
        flame: analysis.heap.as_ref().and_then(|heap| flame(heap, "inuse_space", &Bounds::default())).map(|f| picture(&f, t)),
        goroutines: goroutines(v, lang),
        steps: manifest.map(steps).unwrap_or_default(),
        outcome: manifest.map(|m| m.outcome.name().to_owned()).unwrap_or_default(),
    }
}

/// Sentences with names in them are longer than names.
fn clean_long(text: &str) -> String {
    crate::text::one_line(text, 2000)
}

fn marks(manifest: &Manifest, lang: Lang) -> Marks {
    let fired_at = unix_ms(&manifest.started);
    let mut at = fired_at.unwrap_or(0);
    // one step after the other, as they are listed
    let steps = manifest.files.iter().map(|f| {
        let begin = at;
        at = at.saturating_add(f.milliseconds);
        (clean(&f.name), begin, at)
    });
    let steps = steps.filter(|(_, begin, end)| end > begin).collect();
    let level = match manifest.trigger.trigger {
        Trigger::Threshold => Some(manifest.trigger.level_bytes),
        _ => None,
    };
    Marks { lang, fired_at, level, limit: manifest.trigger.limit_bytes, steps: if fired_at.is_some() { steps } else { Vec::new() } }
}

/// Commands to be run in the bundle's directory: its path stands once.
fn next(analysis: &Analysis) -> Vec<String> {
    let commands = &analysis.verdict.next;
    let at = format!("'{}/", analysis.path.display());
    if !commands.iter().any(|c| c.contains(&at)) {
        return commands.iter().map(|c| clean_long(c)).collect();
    }
    let cd = format!("cd {}", crate::text::shell(&analysis.path));
    let (before, inside): (Vec<&String>, Vec<&String>) = commands.iter().partition(|c| !c.contains(&at));
    let inside = inside.into_iter().map(|c| c.replace(&at, "'"));
    before.into_iter().cloned().chain([cd]).chain(inside).map(|c| clean_long(&c)).collect()
}

fn steps(manifest: &Manifest) -> Vec<Step> {
    let step = |f: &crate::bundle::FileEntry| Step {
        name: clean(&f.name),
        bytes: if f.has_file() { ByteSize(f.bytes).to_string() } else { String::new() },
        milliseconds: f.milliseconds,
        attempts: f.attempts,
        status: f.status.name(),
        reason: f.reason.as_deref().map(clean).unwrap_or_default(),
    };
    // what went wrong first
    let (mut bad, good): (Vec<_>, Vec<_>) = manifest.files.iter().partition(|f| f.status == Status::Failed);
    bad.extend(good);
    bad.into_iter().map(step).collect()
}
