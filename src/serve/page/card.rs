//! An instance on the page.

use super::bundles::contents;
use super::words::{state_words, word, words_of_eta, words_of_slope};
use super::{MAX_WORDS, Wanted, encoded};
use crate::charge::Charge;
use crate::clock::Mono;
use crate::incident::State as Stand;
use crate::lang::{Lang, say};
use crate::poll::InstanceStatus;
use crate::report;
use crate::serve::index::Caught;
use crate::serve::plot::{self, Beside, Plot};
use crate::serve::routes::Instance;
use crate::text::one_line;
use crate::units::ByteSize;

pub(super) struct Card {
    pub words: &'static str,
    /// Stays the same while the page lives.
    pub key: String,
    /// The target; of one that means many services, which of them.
    pub title: String,
    pub target_link: String,
    pub instance: String,
    pub state: &'static str,
    pub reason: String,
    /// Why its evidence could not be had.
    pub lacks: Option<String>,
    pub rss: String,
    pub of: String,
    pub class: &'static str,
    /// Percent of the bar.
    pub fill: Option<f64>,
    pub plot: Option<Plot>,
    pub facts: Vec<(&'static str, String)>,
    pub last: Option<Last>,
    pub capture: Option<String>,
}

pub(super) struct Last {
    pub link: String,
    pub words: String,
}

/// The more alarming, the smaller.
pub(super) fn rank(i: &InstanceStatus) -> (u8, i64) {
    let state = match i.state {
        Stand::Capturing => 0,
        Stand::Throttled => 1,
        Stand::Pending => 2,
        Stand::Open => 3,
        Stand::Cooldown if is_over(i) => 3,
        Stand::Blind => 4,
        Stand::Cooldown => 5,
        Stand::Warming | Stand::Armed if i.lacks_evidence().is_some() => 4,
        Stand::Warming | Stand::Armed => 6,
        Stand::Waiting => 7,
    };
    let level = i.threshold_bytes.first().copied().or(i.limit_bytes).filter(|l| *l > 0);
    let share = most(i).zip(level).map_or(0.0, |(most, level)| most as f64 / level as f64);
    // in steps, so that cards do not change places all the time
    (state, -(share * 10.0) as i64)
}

/// Worth a large picture.
pub(super) fn is_loud(state: Stand) -> bool {
    !matches!(state, Stand::Warming | Stand::Armed | Stand::Waiting | Stand::Blind)
}

/// RSS, or the charge where that is more, as near to the instance's limit as it is to its own.
fn most(i: &InstanceStatus) -> Option<u64> {
    let charge = i.charge_bytes.zip(i.charge_limit_bytes).zip(i.limit_bytes);
    i.rss_bytes.max(charge.map(|((bytes, of), limit)| Charge::new(bytes, of, "").against(limit)))
}

fn is_over(i: &InstanceStatus) -> bool {
    most(i).zip(i.threshold_bytes.first()).is_some_and(|(most, threshold)| most >= *threshold)
}

pub(super) fn card(
    instance: &Instance,
    samples: &[crate::series::Sample],
    bundles: &[Caught],
    now: (Mono, std::time::SystemTime),
    lang: Lang,
) -> Card {
    let i = &instance.status;
    let limit = i.limit_bytes.filter(|l| *l > 0);
    let label = one_line(i.instance.as_deref().unwrap_or_default(), 120);
    let of_this = |b: &&Caught| b.target == i.target && i.instance.as_ref().is_some_and(|l| *l == b.instance);
    let taken = |b: &Caught| {
        let ago = now.1.duration_since(humantime::parse_rfc3339(&b.started).ok()?).ok()?;
        Some((now.0 - ago, format!("{} {}", b.trigger.name(), b.started), b.report.clone().unwrap_or_else(|| contents(b))))
    };
    let marks = bundles.iter().filter(of_this).take(20).filter_map(taken).collect();
    let plot = plot::draw(samples, &Beside { thresholds: &i.threshold_bytes, limit, lang, bundles: marks }, now.0);
    let mut facts = Vec::new();
    if let Some(limit) = limit {
        let source = i.limit_source.as_deref().map(|s| format!("{}{}", lang.pick(", ", "，"), one_line(s, 120))).unwrap_or_default();
        facts.push((lang.pick("limit", "上限"), format!("{}{source}", ByteSize(limit))));
    }
    if !i.threshold_bytes.is_empty() {
        facts.push((
            lang.pick("threshold", "阈值"),
            i.threshold_bytes.iter().map(|t| ByteSize(*t).to_string()).collect::<Vec<_>>().join(", "),
        ));
    }
    facts.extend(i.charge_bytes.zip(i.charge_cgroup.as_ref()).map(|(charge, cgroup)| {
        let (charge, cgroup) = (ByteSize(charge), one_line(cgroup, MAX_WORDS));
        let of = i.charge_limit_bytes.map_or_else(String::new, |limit| say!(lang; " of {}"; "（上限 {}）", ByteSize(limit)));
        (lang.pick("charge", "不可回收"), format!("{charge}{of}, {cgroup}"))
    }));
    facts.extend(i.slope_bytes_per_second.map(|slope| ("slope", words_of_slope(slope, lang))));
    facts.extend(words_of_eta(i.seconds_to_limit).map(|words| (lang.pick("to the limit", "距上限"), words)));
    facts.push((lang.pick("next capture", "下次采集"), i.next_capture.clone()));
    facts.extend(i.last_end.as_ref().map(|end| (lang.pick("last end", "上次结束"), one_line(end, MAX_WORDS))));
    // how far it is from firing, or else from the limit
    let full = i.threshold_bytes.first().copied().or(limit);
    let share = full.zip(most(i)).map(|(full, most)| most as f64 / full.max(1) as f64 * 100.0);
    let of = share.filter(|_| i.threshold_bytes.is_empty()).map(|percent| say!(lang; "{percent:.0}% of the limit"; "上限的 {percent:.0}%"));
    let last = i.last_bundle.as_ref().map(|id| {
        let known = bundles.iter().find(|b| b.id == *id);
        let words = instance.last_verdict.as_ref().map_or_else(
            || lang.pick("no verdict", "没有结论").to_owned(),
            |v| match lang {
                Lang::En => format!("{}, {} confidence", word(&v.cause), word(&v.confidence)),
                Lang::Zh => report::verdict_words(v.cause, v.confidence, lang),
            },
        );
        let link = known.and_then(|b| b.report.clone()).unwrap_or_else(|| format!("/bundles/{id}/"));
        Last { link, words }
    });
    let query = if label.is_empty() { String::new() } else { format!("?instance={}", encoded(i.instance.as_deref().unwrap_or_default())) };
    Card {
        words: state_words(i.state, lang),
        key: format!("i-{}-{}", i.target, i.slot),
        target_link: Wanted::default().link(Some(&i.target), None, 1),
        title: i.workload.as_ref().map_or_else(|| i.target.clone(), |workload| one_line(workload, 120)),
        instance: if i.workload.is_some() { format!("{}, {label}", i.target) } else { label },
        state: i.state.name(),
        reason: one_line(&i.reason, MAX_WORDS),
        lacks: i.lacks_evidence().map(|why| one_line(why, MAX_WORDS)),
        rss: i.rss_bytes.map_or_else(|| "–".into(), |rss| ByteSize(rss).to_string()),
        of: of.unwrap_or_default(),
        fill: share.map(|percent| percent.clamp(0.0, 100.0)),
        class: if is_over(i) { "over" } else { "" },
        plot,
        facts,
        last,
        capture: (i.instance.is_some() && i.state != Stand::Capturing).then(|| format!("/api/capture/{}{query}", encoded(&i.target))),
    }
}
