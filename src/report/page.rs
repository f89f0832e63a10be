//! `report.html`: what the template shows, as plain text and numbers.

use askama::Template;

use super::guide::{self, Guide};
use super::labels::{self, Labels};
use super::plot::{self, Marks, Plot};
use super::{clean, first_frames, growth, percent, process, size, title, unix_ms, wait, where_it_is, where_it_is_charged};
use crate::analysis::Analysis;
use crate::anatomy::Cgroup;
use crate::bundle::{Manifest, Status};
use crate::holders::Holder;
use crate::lang::{Lang, say};
use crate::pprof::flame::{Bounds, Flame, flame};
use crate::trigger::Trigger;
use crate::units::ByteSize;
use crate::verdict::{Cause, Group, TopLine, Verdict};

const ROWS: usize = 12;
const GROUPS: usize = 12;
/// Frames of a group that are shown.
const FRAMES: usize = 40;
/// Of the group that the verdict is about.
const LEAD_FRAMES: usize = 8;
const LEAD_ROWS: usize = 5;
/// Call paths with less of the whole are not listed.
const LEAST_PATH: f64 = 3.0;
const PATHS: usize = 60;
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

/// A stacked bar; widths in percent of the widest.
struct Bar {
    label: &'static str,
    size: String,
    width: f64,
    parts: Vec<Part>,
}

struct Part {
    class: &'static str,
    flex: f64,
    title: String,
}

struct BucketRow {
    class: &'static str,
    words: &'static str,
    size: String,
    share: String,
    baseline: String,
    growth: String,
    is_nothing: bool,
}

/// What a cgroup's usage is made of.
struct ChargedTable {
    title: String,
    rows: Vec<ChargedRow>,
    /// Other processes, which one of the rows sums up.
    processes: Vec<ChargedRow>,
}

struct ChargedRow {
    words: String,
    size: String,
    share: String,
}

struct Table {
    title: &'static str,
    note: &'static str,
    rows: Vec<Row>,
}

struct Row {
    flat: String,
    cum: String,
    /// Of the largest flat value, for the bar behind the number.
    share: f64,
    function: String,
    /// Without the path of its package.
    short: String,
}

/// A flame graph; geometry in percent and rows.
struct Picture {
    words: String,
    rows: usize,
    frames: Vec<PictureFrame>,
    /// The same as a list, for narrow screens.
    paths: Vec<PathRow>,
}

struct PathRow {
    /// In rem: deeper only where paths part.
    indent: f64,
    share: f64,
    size: String,
    short: String,
}

struct PictureFrame {
    left: f64,
    width: f64,
    row: usize,
    /// By package, so that a library has one colour.
    colour: u8,
    short: String,
    title: String,
}

struct Goroutines {
    title: String,
    notes: Vec<String>,
    groups: Vec<GroupRow>,
    more: Option<String>,
}

/// A holder, with the way from it.
struct HolderRow {
    retained: String,
    share: String,
    /// Of all that is reached, in percent.
    width: f64,
    objects: u64,
    growth: String,
    title: String,
    type_name: String,
    path: Vec<PathStep>,
    also: String,
}

struct PathStep {
    indent: f64,
    what: String,
    objects: u64,
    own: String,
    retained: String,
}

struct GroupRow {
    count: u64,
    share: f64,
    state: String,
    wait: String,
    at: String,
    stack: Vec<String>,
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

fn holders(analysis: &Analysis) -> Vec<HolderRow> {
    let Some(holders) = &analysis.holders else { return Vec::new() };
    let row = |holder: &Holder| HolderRow {
        retained: ByteSize(holder.retained_bytes).to_string(),
        share: super::part(holder.retained_bytes, holders.reached_bytes),
        width: holder.share * 100.0,
        objects: holder.objects,
        growth: holder.growth_bytes.map(growth).unwrap_or_default(),
        title: clean(&holder.title()),
        type_name: holder.type_name.as_deref().map(clean).unwrap_or_default(),
        path: (0u32..)
            .zip(&holder.path)
            .map(|(depth, step)| PathStep {
                indent: f64::from(depth),
                what: clean(&step.what),
                objects: step.objects,
                own: ByteSize(step.own_bytes).to_string(),
                retained: ByteSize(step.retained_bytes).to_string(),
            })
            .collect(),
        also: holder.also.iter().map(|by| clean(by)).collect::<Vec<_>>().join(labels::of(analysis.lang).comma),
    };
    holders.holders.iter().take(ROWS).map(row).collect()
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

fn bars(v: &Verdict, lang: Lang) -> Vec<Bar> {
    let t = labels::of(lang);
    let now = v.anatomy.iter().map(|l| (l.bucket, l.bytes)).collect::<Vec<_>>();
    let then: Option<Vec<_>> = v.anatomy.iter().map(|l| Some((l.bucket, l.baseline_bytes?))).collect();
    let whole = v.whole_bytes().max(v.baseline_rss_bytes.unwrap_or(0)).max(1) as f64;
    let bar = |label, bytes: u64, parts: Vec<(crate::anatomy::Bucket, i64)>| Bar {
        label,
        size: ByteSize(bytes).to_string(),
        width: bytes as f64 / whole * 100.0,
        parts: parts
            .into_iter()
            .filter(|(_, part)| *part > 0)
            .map(|(bucket, part)| Part {
                class: bucket.name(),
                flex: part as f64 / bytes.max(1) as f64 * 1000.0,
                title: format!(
                    "{}: {} ({})",
                    guide::bucket(bucket, lang),
                    size(part),
                    percent(part, i64::try_from(bytes).unwrap_or(i64::MAX))
                ),
            })
            .collect(),
    };
    let mut bars = vec![bar(t.now, v.whole_bytes(), now)];
    bars.extend(v.baseline_rss_bytes.zip(then).map(|(bytes, parts)| bar(t.baseline, bytes, parts)));
    bars
}

fn buckets(v: &Verdict, lang: Lang) -> Vec<BucketRow> {
    let whole = i64::try_from(v.whole_bytes()).unwrap_or(i64::MAX);
    v.anatomy
        .iter()
        .map(|line| BucketRow {
            class: line.bucket.name(),
            words: guide::bucket(line.bucket, lang),
            size: if line.is_unseen() { labels::of(lang).unknown.into() } else { size(line.bytes) },
            share: if line.is_unseen() { String::new() } else { percent(line.bytes, whole) },
            baseline: line.baseline_bytes.map(size).unwrap_or_default(),
            growth: line.growth_bytes.map(growth).unwrap_or_default(),
            is_nothing: line.bytes == 0 && line.baseline_bytes.unwrap_or(0) == 0 && !line.unknown,
        })
        .collect()
}

fn charged(cgroup: &Cgroup, lang: Lang) -> ChargedTable {
    let whole = i64::try_from(cgroup.usage_bytes).unwrap_or(i64::MAX);
    let of = |words: String, bytes: i64| ChargedRow { words, size: size(bytes), share: percent(bytes, whole) };
    ChargedTable {
        title: where_it_is_charged(cgroup, lang),
        rows: cgroup.parts.iter().map(|line| of(guide::charged(line.part, lang).to_owned(), line.bytes)).collect(),
        processes: cgroup
            .processes
            .iter()
            .map(|member| of(format!("{} (pid {})", clean(&member.name), member.pid), i64::try_from(member.bytes).unwrap_or(i64::MAX)))
            .collect(),
    }
}

fn tables(analysis: &Analysis) -> Vec<Table> {
    let top = &analysis.verdict.top;
    let plans: [(&[TopLine], bool); 6] = [
        (&top.growth, true),
        (&top.inuse_space, true),
        (&top.inuse_objects, false),
        (&analysis.grown_during, true),
        (&top.alloc_space, true),
        (&top.alloc_objects, false),
    ];
    let words = analysis.lang.pick(
        [
            ("Grown since the baseline", "inuse_space now, less that of the healthy process"),
            ("Live bytes", "inuse_space, after the forced collection"),
            ("Live objects", "inuse_objects, after the forced collection"),
            ("Grown during the capture", "inuse_space between two forced collections"),
            ("Allocated bytes", "alloc_space, since the process started"),
            ("Allocated objects", "alloc_objects, since the process started"),
        ],
        [
            ("相对 baseline 的增长", "现在的 inuse_space 减去健康时的"),
            ("存活字节", "inuse_space，强制 GC 之后"),
            ("存活对象", "inuse_objects，强制 GC 之后"),
            ("采集期间的增长", "两次强制 GC 之间的 inuse_space"),
            ("分配字节", "alloc_space，进程启动以来"),
            ("分配对象", "alloc_objects，进程启动以来"),
        ],
    );
    plans
        .into_iter()
        .zip(words)
        .filter(|((lines, _), _)| !lines.is_empty())
        .map(|((lines, bytes), (title, note))| Table { title, note, rows: rows(lines, bytes, ROWS) })
        .collect()
}

fn rows(lines: &[TopLine], bytes: bool, count: usize) -> Vec<Row> {
    let number = |n: i64| if bytes { size(n) } else { n.to_string() };
    let largest = lines.iter().map(|l| l.flat).max().unwrap_or(1).max(1);
    let row = |l: &TopLine| {
        let function = clean(&l.function);
        let share = l.flat.max(0) as f64 / largest as f64 * 100.0;
        Row { flat: number(l.flat), cum: number(l.cum), share, short: short(&function).to_owned(), function }
    };
    lines.iter().take(count).map(row).collect()
}

/// The functions that the cause is about.
fn lead(analysis: &Analysis) -> Option<Table> {
    let (top, lang) = (&analysis.verdict.top, analysis.lang);
    let grown =
        (lang.pick("What grew", "增长的是什么"), lang.pick("live bytes since the baseline", "相对 baseline 的存活字节"), &top.growth, true);
    let live = (
        lang.pick("What holds it", "谁占着"),
        lang.pick("live bytes by the allocating function", "存活字节，按分配的函数"),
        &top.inuse_space,
        true,
    );
    let objects = (
        lang.pick("What holds it", "谁占着"),
        lang.pick("live objects by the allocating function", "存活对象，按分配的函数"),
        &top.inuse_objects,
        false,
    );
    let allocated = (
        lang.pick("What allocates", "谁在分配"),
        lang.pick("bytes allocated since the process started", "进程启动以来分配的字节"),
        &top.alloc_space,
        true,
    );
    let (title, note, lines, bytes) = match analysis.verdict.cause {
        Cause::LiveHeap | Cause::Mixed if !top.growth.is_empty() => grown,
        Cause::LiveHeap | Cause::Mixed => live,
        Cause::SmallObjects => objects,
        Cause::AllocationChurn | Cause::UnreleasedHeap => allocated,
        _ => return None,
    };
    // of itself: what only calls others holds nothing
    let own: Vec<TopLine> = lines.iter().filter(|line| line.flat != 0).take(LEAD_ROWS).cloned().collect();
    (!own.is_empty()).then(|| Table { title, note, rows: rows(&own, bytes, LEAD_ROWS) })
}

/// The goroutines that it is about: those of the function that the sentence names, else the most.
fn lead_group(v: &Verdict, lang: Lang) -> Option<GroupRow> {
    let found = v.goroutines.as_ref().filter(|_| matches!(v.cause, Cause::GoroutinePileup | Cause::DeepStacks))?;
    let is_named = |g: &&Group| g.stack.iter().any(|frame| v.summary.contains(frame.as_str()));
    found.groups.iter().find(is_named).or(found.groups.first()).map(|g| group_row(g, found.total, lang))
}

/// Commands to be run in the bundle's directory: its path stands once.
fn next(analysis: &Analysis) -> Vec<String> {
    let commands = &analysis.verdict.next;
    let at = format!("'{}/", analysis.path.display());
    if !commands.iter().any(|c| c.contains(&at)) {
        return commands.iter().map(|c| clean_long(c)).collect();
    }
    let cd = format!("cd {}", crate::analysis::quoted(&analysis.path));
    let (before, inside): (Vec<&String>, Vec<&String>) = commands.iter().partition(|c| !c.contains(&at));
    let inside = inside.into_iter().map(|c| c.replace(&at, "'"));
    before.into_iter().cloned().chain([cd]).chain(inside).map(|c| clean_long(&c)).collect()
}

fn picture(flame: &Flame, t: &Labels) -> Picture {
    let whole = flame.total.max(1) as f64;
    let frames: Vec<PictureFrame> = flame
        .frames
        .iter()
        .map(|f| {
            let function = clean(&f.function);
            PictureFrame {
                left: f.start as f64 / whole * 100.0,
                width: f.cum as f64 / whole * 100.0,
                row: f.depth,
                colour: colour(package(&function)),
                short: short(&function).to_owned(),
                title: format!("{function}\n{} ({}), itself {}", size(f.cum), percent(f.cum, flame.total), size(f.flat)),
            }
        })
        .collect();
    let words = format!("inuse_space, {}{}", size(flame.total), t.flame);
    Picture { words, rows: frames.iter().map(|f| f.row + 1).max().unwrap_or(0), paths: paths(flame), frames }
}

/// The heavy frames as a list, callers before callees; those of one path without a fork stand below each other.
fn paths(flame: &Flame) -> Vec<PathRow> {
    let whole = flame.total.max(1) as f64;
    let share = |cum: i64| cum as f64 / whole * 100.0;
    let mut heavy: Vec<_> = flame.frames.iter().filter(|f| share(f.cum) >= LEAST_PATH).collect();
    heavy.sort_by_key(|f| (f.start, f.depth));
    // forks above each depth of the path that is being walked
    let mut forks: Vec<usize> = Vec::new();
    let mut rows = Vec::new();
    for f in &heavy {
        let children = |depth: usize, start: i64, cum: i64| {
            heavy.iter().filter(|c| c.depth == depth + 1 && c.start >= start && c.start < start.saturating_add(cum)).count()
        };
        let above = f.depth.checked_sub(1).and_then(|parent| forks.get(parent)).copied().unwrap_or(0);
        forks.truncate(f.depth);
        forks.push(above + usize::from(children(f.depth, f.start, f.cum) > 1));
        rows.push(PathRow {
            indent: above.min(12) as f64 * 0.6,
            share: share(f.cum),
            size: size(f.cum),
            short: short(&clean(&f.function)).to_owned(),
        });
    }
    rows.truncate(PATHS);
    rows
}

/// `net/http` of `net/http.(*conn).serve`.
fn package(function: &str) -> &str {
    let last = function.rfind('/').map_or(0, |slash| slash + 1);
    let dot = function.get(last..).and_then(|name| name.find('.')).map(|dot| last + dot);
    dot.and_then(|dot| function.get(..dot)).unwrap_or(function)
}

/// `http.(*conn).serve` of it.
fn short(function: &str) -> &str {
    let name = package(function).rfind('/').map_or(0, |slash| slash + 1);
    function.get(name..).unwrap_or(function)
}

/// The runtime is 0; other packages share 1 to 7.
fn colour(package: &str) -> u8 {
    if package == "runtime" || package.starts_with("runtime/") || package.starts_with("internal/") {
        return 0;
    }
    let hash = package.bytes().fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % 7) as u8 + 1
}

fn goroutines(v: &Verdict, lang: Lang) -> Option<Goroutines> {
    let found = v.goroutines.as_ref()?;
    let base = found.baseline_total.map(|n| say!(lang; "{n} at the baseline."; "baseline 时 {n} 个。"));
    let leaked = found.leaked.filter(|n| *n > 0);
    let leaked = leaked.map(|n| say!(lang; "{n} blocked for ever, by the garbage collector's finding."; "GC 判定其中 {n} 个永久阻塞。"));
    let more = Some(found.groups.len().saturating_sub(GROUPS)).filter(|n| *n > 0);
    Some(Goroutines {
        title: super::goroutines(found.total, lang),
        notes: base.into_iter().chain(leaked).collect(),
        groups: found.groups.iter().take(GROUPS).map(|g| group_row(g, found.total, lang)).collect(),
        more: more.map(|n| say!(lang; "{n} more groups are in verdict.json."; "另有 {n} 组，见 verdict.json。")),
    })
}

fn group_row(g: &Group, total: u64, lang: Lang) -> GroupRow {
    GroupRow {
        count: g.count,
        share: g.count as f64 / total.max(1) as f64 * 100.0,
        state: g.state.as_deref().map(clean).unwrap_or_default(),
        wait: wait(g).map(|time| say!(lang; ", up to {time}"; "，最长 {time}")).unwrap_or_default(),
        at: first_frames(g).join(" < "),
        stack: g.stack.iter().take(FRAMES).map(|f| clean(f)).collect(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_shown_without_the_path_of_their_package() {
        for (function, name, of) in [
            ("net/http.(*conn).serve", "http.(*conn).serve", "net/http"),
            ("main.main", "main.main", "main"),
            ("example.com/shop/cart.(*Cart[go.shape.int]).Add", "cart.(*Cart[go.shape.int]).Add", "example.com/shop/cart"),
            ("gopkg.in/yaml%2ev3.Unmarshal", "yaml%2ev3.Unmarshal", "gopkg.in/yaml%2ev3"),
            ("malloc", "malloc", "malloc"),
            ("", "", ""),
        ] {
            assert_eq!((short(function), package(function)), (name, of), "{function}");
        }
    }

    #[test]
    fn a_package_has_one_colour_and_the_runtime_its_own() {
        assert_eq!(colour("runtime"), 0);
        assert_eq!(colour("main"), colour("main"));
        assert!((1..=7).contains(&colour("net/http")));
    }
}
