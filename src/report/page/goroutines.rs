//! Groups of goroutines.

use crate::lang::{Lang, say};
use crate::report::{clean, first_frames, wait};
use crate::verdict::{Cause, Group, Verdict};

const GROUPS: usize = 12;
/// Frames of a group that are shown.
const FRAMES: usize = 40;

pub(super) struct Goroutines {
    pub title: String,
    pub notes: Vec<String>,
    pub groups: Vec<GroupRow>,
    pub more: Option<String>,
}

pub(super) struct GroupRow {
    pub count: u64,
    pub share: f64,
    pub state: String,
    pub wait: String,
    pub at: String,
    pub stack: Vec<String>,
}

/// The goroutines that it is about: those of the function that the sentence names, else the most.
pub(super) fn lead_group(v: &Verdict, lang: Lang) -> Option<GroupRow> {
    let found = v.goroutines.as_ref().filter(|_| matches!(v.cause, Cause::GoroutinePileup | Cause::DeepStacks))?;
    let is_named = |g: &&Group| g.stack.iter().any(|frame| v.summary.contains(frame.as_str()));
    found.groups.iter().find(is_named).or(found.groups.first()).map(|g| group_row(g, found.total, lang))
}

pub(super) fn goroutines(v: &Verdict, lang: Lang) -> Option<Goroutines> {
    let found = v.goroutines.as_ref()?;
    let base = found.baseline_total.map(|n| say!(lang; "{n} at the baseline."; "baseline 时 {n} 个。"));
    let leaked = found.leaked.filter(|n| *n > 0);
    let leaked = leaked.map(|n| say!(lang; "{n} blocked for ever, by the garbage collector's finding."; "GC 判定其中 {n} 个永久阻塞。"));
    let more = Some(found.groups.len().saturating_sub(GROUPS)).filter(|n| *n > 0);
    Some(Goroutines {
        title: crate::report::goroutines(found.total, lang),
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
