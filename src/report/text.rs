//! `report.txt`.

use std::fmt::Write;

use super::guide;
use super::labels;
use super::{clean, first_frames, growth, percent, process, size, title, troubles, wait, where_it_is, where_it_is_charged, word};
use crate::analysis::Analysis;
use crate::bundle::timeline::TimelineRow;
use crate::bundle::{Status, by_cause};
use crate::clock::human;
use crate::lang::{Lang, say};
use crate::layout::{columns, width, wrapped};
use crate::plot;
use crate::units::ByteSize;
use crate::verdict::{Group, TopLine, Verdict};

const WIDTH: usize = 100;
const ROWS: usize = 10;
const GROUPS: usize = 6;

/// The report in words.
pub fn text(analysis: &Analysis) -> String {
    let mut out = String::new();
    // writing to a String does not fail
    let _ = write(&mut out, analysis);
    out
}

fn write(out: &mut String, analysis: &Analysis) -> std::fmt::Result {
    let (v, lang) = (&analysis.verdict, analysis.lang);
    let t = labels::of(lang);
    writeln!(out, "{}\n", wrapped(&v.summary, WIDTH, ""))?;
    let guide = guide::of(v.cause, v.detail, lang);
    let facts = [
        (v.question.clone(), word(&v.go_heap_explains)),
        (lang.pick("cause", "原因").into(), say!(lang; "{} ({})"; "{}（{}）", v.cause.name(), guide.title)),
        (lang.pick("confidence", "置信度").into(), word(&v.confidence)),
    ];
    out.push_str(&columns(&facts.map(|(what, is)| vec![what, is])));

    captured(out, analysis)?;
    anatomy(out, v, lang)?;
    cgroup(out, v, lang)?;
    list(out, t.evidence, &v.evidence)?;
    list(out, t.missing, &v.missing)?;

    means(out, v, guide, lang)?;
    if !v.next.is_empty() {
        heading(out, t.next)?;
    }
    for command in &v.next {
        writeln!(out, "{}", clean(command))?;
    }

    tables(out, analysis)?;
    goroutines(out, v, lang)?;

    not_captured(out, analysis)
}

/// When and why it was captured, and of what.
fn captured(out: &mut String, analysis: &Analysis) -> std::fmt::Result {
    let lang = analysis.lang;
    heading(out, &title(analysis))?;
    if let Some(manifest) = &analysis.manifest {
        writeln!(out, "{}", wrapped(&format!("{}: {}", manifest.trigger.trigger.name(), clean(&manifest.trigger.reason)), WIDTH, ""))?;
        let (from, until, outcome) = (clean(&manifest.started), clean(&manifest.finished), manifest.outcome.name());
        writeln!(out, "{}", say!(lang; "captured {from} to {until}, {outcome}"; "采集：{from} 至 {until}，{outcome}"))?;
        for warning in &manifest.warnings {
            writeln!(out, "{}{}", lang.pick("warning: ", "警告："), wrapped(&clean(&warning.text), WIDTH, "         "))?;
        }
    }
    let known: Vec<Vec<String>> = process(analysis).into_iter().map(|(what, is)| vec![what.to_owned(), is]).collect();
    out.push_str(&columns(&known));
    if let Some(line) = sparkline(&analysis.timeline, lang) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What the cause usually is, and what to do.
fn means(out: &mut String, v: &Verdict, guide: &guide::Guide, lang: Lang) -> std::fmt::Result {
    let t = labels::of(lang);
    heading(out, t.means)?;
    writeln!(out, "{}", wrapped(guide.means, WIDTH, ""))?;
    if let Some(more) = guide::of_waiting(v, lang) {
        writeln!(out, "{}", wrapped(more, WIDTH, ""))?;
    }
    if !guide.steps.is_empty() {
        writeln!(out)?;
    }
    for (i, step) in guide.steps.iter().enumerate() {
        writeln!(out, "{}. {}", i + 1, wrapped(step, WIDTH, "   "))?;
    }
    if !guide.usual.is_empty() {
        writeln!(out, "\n{}{}", t.usual, lang.pick(":", "："))?;
    }
    for usual in guide.usual {
        writeln!(out, "  - {}", wrapped(usual, WIDTH, "    "))?;
    }
    Ok(())
}

/// Who has most.
fn tables(out: &mut String, analysis: &Analysis) -> std::fmt::Result {
    let (v, lang) = (&analysis.verdict, analysis.lang);
    table(out, lang.pick("Live bytes (inuse_space)", "存活字节 (inuse_space)"), &v.top.inuse_space, true, lang)?;
    table(out, lang.pick("Live objects (inuse_objects)", "存活对象 (inuse_objects)"), &v.top.inuse_objects, false, lang)?;
    table(out, lang.pick("Grown since the baseline (inuse_space)", "相对 baseline 的增长 (inuse_space)"), &v.top.growth, true, lang)?;
    table(out, lang.pick("Grown during the capture (inuse_space)", "采集期间的增长 (inuse_space)"), &analysis.grown_during, true, lang)?;
    table(out, lang.pick("Allocated since the start (alloc_space)", "启动以来的分配 (alloc_space)"), &v.top.alloc_space, true, lang)?;
    holders(out, analysis)?;
    if !v.top.inuse_space.is_empty() {
        writeln!(out)?;
        out.push_str(&columns(&guide::columns(lang).map(|(term, meaning)| vec![term.to_owned(), meaning.to_owned()])));
    }
    Ok(())
}

fn not_captured(out: &mut String, analysis: &Analysis) -> std::fmt::Result {
    let lang = analysis.lang;
    if let Some(manifest) = &analysis.manifest {
        let groups = by_cause(troubles(manifest));
        if !groups.is_empty() {
            heading(out, lang.pick("Not captured, and why", "未采集到的及原因"))?;
        }
        for group in groups {
            let names = group.iter().map(|f| clean(&f.name)).collect::<Vec<_>>().join(", ");
            let Some(first) = group.first() else { continue };
            let url = first.source.as_deref().map(|url| format!(" ({})", clean(url))).unwrap_or_default();
            let why = first.reason.as_deref().map(clean).unwrap_or_default();
            writeln!(out, "- {}", wrapped(&format!("{names}: {}: {why}{url}", first.status.name()), WIDTH, "  "))?;
        }
        let noted = manifest.files.iter().filter(|f| f.status == Status::Ok && f.reason.is_some());
        for file in noted {
            writeln!(out, "{}: {}", clean(&file.name), clean(file.reason.as_deref().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn heading(out: &mut String, text: &str) -> std::fmt::Result {
    writeln!(out, "\n{text}\n{}", "-".repeat(width(text)))
}

fn list(out: &mut String, title: &str, items: &[String]) -> std::fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    heading(out, title)?;
    items.iter().try_for_each(|item| writeln!(out, "- {}", wrapped(&clean(item), WIDTH, "  ")))
}

fn anatomy(out: &mut String, v: &Verdict, lang: Lang) -> std::fmt::Result {
    let t = labels::of(lang);
    heading(out, &where_it_is(v, lang))?;
    let base = v.baseline_rss_bytes.is_some();
    let header = [lang.pick("bucket", t.part), t.bytes, t.share, t.baseline, t.growth];
    let columns_shown = if base { 5 } else { 3 };
    let mut rows = vec![header.iter().take(columns_shown).map(|h| h.to_string()).collect::<Vec<_>>()];
    let whole = i64::try_from(v.whole_bytes()).unwrap_or(i64::MAX);
    for line in &v.anatomy {
        let mut row = match line.is_unseen() {
            true => vec![line.bucket.name().to_owned(), t.unknown.into(), String::new()],
            false => vec![line.bucket.name().to_owned(), size(line.bytes), percent(line.bytes, whole)],
        };
        if base {
            row.push(line.baseline_bytes.map(size).unwrap_or_default());
            row.push(line.growth_bytes.map(growth).unwrap_or_default());
        }
        row.push(guide::bucket(line.bucket, lang).to_owned());
        rows.push(row);
    }
    out.push_str(&columns(&rows));
    Ok(())
}

fn cgroup(out: &mut String, v: &Verdict, lang: Lang) -> std::fmt::Result {
    let Some(cgroup) = &v.cgroup else { return Ok(()) };
    heading(out, &where_it_is_charged(cgroup, lang))?;
    let whole = i64::try_from(cgroup.usage_bytes).unwrap_or(i64::MAX);
    let row = |name: &str, bytes: i64, words: &str| vec![name.to_owned(), size(bytes), percent(bytes, whole), words.to_owned()];
    let mut rows: Vec<Vec<String>> =
        cgroup.parts.iter().map(|line| row(line.part.name(), line.bytes, guide::charged(line.part, lang))).collect();
    rows.extend(cgroup.processes.iter().map(|member| {
        let bytes = i64::try_from(member.bytes).unwrap_or(i64::MAX);
        row(&format!("  pid {}", member.pid), bytes, &clean(&member.name))
    }));
    out.push_str(&columns(&rows));
    Ok(())
}

fn table(out: &mut String, title: &str, lines: &[TopLine], bytes: bool, lang: Lang) -> std::fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    heading(out, title)?;
    let number = |n: i64| if bytes { size(n) } else { n.to_string() };
    let mut rows = vec![["flat", "cum", labels::of(lang).function].map(str::to_owned).to_vec()];
    rows.extend(lines.iter().take(ROWS).map(|l| vec![number(l.flat), number(l.cum), clean(&l.function)]));
    out.push_str(&columns(&rows));
    Ok(())
}

fn holders(out: &mut String, analysis: &Analysis) -> std::fmt::Result {
    let Some(holders) = &analysis.holders else { return Ok(()) };
    let t = labels::of(analysis.lang);
    heading(out, t.holds)?;
    let has_growth = holders.holders.iter().any(|h| h.growth_bytes.is_some());
    let mut rows = vec![[t.retained, t.share, t.objects].map(str::to_owned).to_vec()];
    rows.iter_mut().for_each(|head| head.extend(has_growth.then(|| t.growth.to_owned()).into_iter().chain([t.holder.to_owned()])));
    for holder in holders.holders.iter().take(ROWS) {
        let share = super::part(holder.retained_bytes, holders.reached_bytes);
        let mut row = vec![ByteSize(holder.retained_bytes).to_string(), share, holder.objects.to_string()];
        row.extend(has_growth.then(|| holder.growth_bytes.map(growth).unwrap_or_default()));
        row.push(clean(&holder.title()));
        rows.push(row);
    }
    out.push_str(&columns(&rows));
    for holder in holders.holders.iter().take(ROWS).filter(|holder| !holder.path.is_empty()) {
        writeln!(out, "{}", wrapped(&clean(&format!("{} → {}", holder.title(), holder.path_text())), WIDTH, "  "))?;
    }
    holders.limits.iter().try_for_each(|limit| writeln!(out, "{}", wrapped(&clean(limit), WIDTH, "")))
}

fn goroutines(out: &mut String, v: &Verdict, lang: Lang) -> std::fmt::Result {
    let Some(goroutines) = &v.goroutines else { return Ok(()) };
    heading(out, &super::goroutines(goroutines.total, lang))?;
    out.push_str(&groups(&goroutines.groups, GROUPS, lang));
    Ok(())
}

/// The first of these groups as a table.
pub fn groups(groups: &[Group], count: usize, lang: Lang) -> String {
    let mut rows =
        vec![lang.pick(["count", "state", "longest wait", "in"], ["个数", "状态", "最长等待", "位置"]).map(str::to_owned).to_vec()];
    for group in groups.iter().take(count) {
        let state = group.state.as_deref().map(clean).unwrap_or_default();
        rows.push(vec![group.count.to_string(), state, wait(group).unwrap_or_default(), first_frames(group).join(" < ")]);
    }
    columns(&rows)
}

/// RSS over time in one line.
fn sparkline(timeline: &[TimelineRow], lang: Lang) -> Option<String> {
    const CELLS: usize = 48;
    let (first, last) = (timeline.first()?, timeline.last()?);
    let span = last.unix_ms.checked_sub(first.unix_ms).filter(|span| *span > 0)?;
    let highest = timeline.iter().map(|r| r.rss_bytes).max()?.max(1);
    let share = |r: &TimelineRow| r.unix_ms.saturating_sub(first.unix_ms) as f64 / span as f64;
    let cells = plot::columns(CELLS, timeline.iter().map(|r| (share(r), r.rss_bytes)));
    let line: String = cells
        .iter()
        .map(|rss| {
            // the least of it is seen
            let eighths = (u128::from(*rss) * 8 / u128::from(highest)).min(7) as usize + 1;
            plot::BARS.get(eighths).copied().unwrap_or(' ')
        })
        .collect();
    let took = human(std::time::Duration::from_millis(span));
    let (first, last, highest) = (ByteSize(first.rss_bytes), ByteSize(last.rss_bytes), ByteSize(highest));
    Some(say!(lang; "RSS {first} {line} {last} in {took}, at most {highest}"; "RSS {first} {line} {last}，历时 {took}，最高 {highest}"))
}
