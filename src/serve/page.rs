//! The status page: written here, whole at `/`, and at `/live` the part that a browser renews. Nothing of it is inline, so that its policy
//! allows no script and no style but memtrap's own two files.
//!
//! Bounded, whatever is watched: so many instances on a page, the most alarming first, and so many bundles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use serde::Deserialize;

use super::index::Caught;
use super::plot::{self, Beside, Plot};
use super::routes::{Asked, Instance, Misasked, Parameters, Shared, alone};
use super::view::{Unavailable, View};
use crate::charge::Charge;
use crate::clock::{self, Mono, human};
use crate::incident::State as Stand;
use crate::lang::{Lang, say};
use crate::poll::{History, InstanceStatus};
use crate::report;
use crate::text::one_line;
use crate::units::ByteSize;

pub(super) const STYLE: &str = include_str!("../../templates/status.css");
pub(super) const SCRIPT: &str = include_str!("../../templates/status.js");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";
/// Instances on one page.
const PAGE: usize = 48;
const BUNDLES: usize = 30;
const MAX_WORDS: usize = 400;

/// What of it is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Wanted {
    target: Option<String>,
    state: Option<Stand>,
    page: Option<usize>,
}

impl Parameters for Wanted {
    const ALLOWED: &'static str = "target=NAME, state=STATE, page=NUMBER, each once";
}

pub(super) async fn whole(state: Shared, wanted: Result<Asked<Wanted>, Misasked>) -> Response {
    let wanted = match wanted {
        Ok(Asked(wanted)) => wanted,
        Err(Misasked(why)) => return said(StatusCode::BAD_REQUEST, why),
    };
    match fill(&state.0, wanted, |live| html(StatusCode::OK, &Whole { live })).await {
        Ok(page) => page,
        Err(unavailable) => said(StatusCode::SERVICE_UNAVAILABLE, unavailable.to_string()),
    }
}

pub(super) async fn live(State(view): Shared, Asked(wanted): Asked<Wanted>) -> Result<Response, Unavailable> {
    fill(&view, wanted, |live| html(StatusCode::OK, &live)).await
}

/// A page that says one thing.
pub(super) fn said(status: StatusCode, words: String) -> Response {
    html(status, &Said { words })
}

pub(super) fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, [(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY))], Html(text)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Template)]
#[template(path = "status.html")]
struct Whole {
    live: Live,
}

#[derive(Template)]
#[template(path = "said.html")]
struct Said {
    words: String,
}

/// The part that changes.
#[derive(Template)]
#[template(path = "live.html")]
pub(super) struct Live {
    lang: Lang,
    version: &'static str,
    host: String,
    headline: String,
    /// The class of the headline: `calm` or `alarm`.
    mood: &'static str,
    time: String,
    chips: Vec<Chip>,
    /// What is shown of all, where that is not everything.
    only: String,
    loud: Vec<Card>,
    calm: Vec<Card>,
    earlier: Option<String>,
    later: Option<String>,
    place: String,
    bundles: Vec<Row>,
    more_bundles: usize,
    troubles: Vec<String>,
}

struct Chip {
    state: &'static str,
    words: &'static str,
    count: usize,
    is_chosen: bool,
    link: String,
}

struct Card {
    words: &'static str,
    /// Stays the same while the page lives.
    key: String,
    target: String,
    target_link: String,
    instance: String,
    state: &'static str,
    reason: String,
    /// Why its evidence could not be had.
    lacks: Option<String>,
    rss: String,
    of: String,
    class: &'static str,
    /// Percent of the bar.
    fill: Option<f64>,
    plot: Option<Plot>,
    facts: Vec<(&'static str, String)>,
    last: Option<Last>,
    capture: Option<String>,
}

struct Last {
    link: String,
    words: String,
}

struct Row {
    id: String,
    when: String,
    target: String,
    instance: String,
    trigger: &'static str,
    rss: String,
    verdict: String,
    /// `yes`, `no`, `partly`, `unknown`: a class.
    explains: &'static str,
    summary: String,
    report: Option<String>,
    contents: String,
    archive: String,
    size: String,
}

/// The more alarming, the smaller.
fn rank(i: &InstanceStatus) -> (u8, i64) {
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
fn is_loud(state: Stand) -> bool {
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

/// Sorting and writing are done aside: there may be thousands of instances.
async fn fill(view: &Arc<View>, wanted: Wanted, write: impl FnOnce(Live) -> Response + Send + 'static) -> Result<Response, Unavailable> {
    let lang = view.lang();
    let instances = view.instances().await?;
    let mut troubles: Vec<String> = view.reloads().failed.iter().map(|failed| failed.words(lang)).collect();
    if view.seen.meters.is_clock_doubted() {
        troubles.push(clock_words(lang));
    }
    let bundles = view.bundles().await.unwrap_or_else(|why| {
        troubles.push(why.to_string());
        Arc::default()
    });
    let (all, chosen) = (instances.clone(), wanted.clone());
    let place = view.render(move || Place::of(&all, &chosen)).await?;
    let histories = view.histories(place.on_page.iter().map(|i| (i.target.clone(), i.slot)).collect()).await?;
    let host = one_line(&view.seen.host, 100);
    view.render(move || write(fill_live(wanted, &instances, &bundles, place, &histories, (lang, host, troubles)))).await
}

/// What follows from a clock that has jumped.
pub(crate) fn clock_words(lang: Lang) -> String {
    say!(lang;
        "the wall clock may have jumped: nothing is deleted for its age before it has gone on steadily for a day";
        "系统时钟可能跳变过：在它稳定走满一天之前，不会因为过期删除任何东西"
    )
}

/// The part of the instances that is on a page.
struct Place {
    on_page: Vec<InstanceStatus>,
    page: usize,
    pages: usize,
    /// On all pages.
    shown: usize,
}

impl Place {
    fn of(instances: &[InstanceStatus], wanted: &Wanted) -> Place {
        let mut shown: Vec<&InstanceStatus> = instances
            .iter()
            .filter(|i| wanted.target.as_ref().is_none_or(|t| i.target == *t) && wanted.state.is_none_or(|s| i.state == s))
            .collect();
        shown.sort_by_cached_key(|i| (rank(i), i.target.clone(), i.slot));
        let pages = shown.len().div_ceil(PAGE).max(1);
        let page = wanted.page.unwrap_or(1).clamp(1, pages);
        let on_page = shown.iter().copied().skip((page - 1) * PAGE).take(PAGE).cloned().collect();
        Place { on_page, page, pages, shown: shown.len() }
    }
}

fn fill_live(
    wanted: Wanted,
    instances: &[InstanceStatus],
    bundles: &[Caught],
    place: Place,
    histories: &[History],
    (lang, host, troubles): (Lang, String, Vec<String>),
) -> Live {
    let Place { on_page, page, pages, shown } = place;
    let histories: BTreeMap<(&str, u32), &History> = histories.iter().map(|h| ((h.target.as_str(), h.slot), h)).collect();
    let alone = alone(instances);
    let now = (Mono::now(), clock::wall_now());
    let (mut loud, mut calm) = (Vec::new(), Vec::new());
    for status in &on_page {
        let instance = Instance::join(status, alone.contains(status.target.as_str()), bundles);
        let history = histories.get(&(status.target.as_str(), status.slot)).map_or(&[][..], |h| h.samples.as_slice());
        let card = card(&instance, history, bundles, now, lang);
        if is_loud(status.state) { loud.push(card) } else { calm.push(card) }
    }
    let link = |n: usize| wanted.link(wanted.target.as_deref(), wanted.state, n);
    let of_target: Vec<&Caught> = bundles.iter().filter(|b| wanted.target.as_ref().is_none_or(|t| b.target == *t)).collect();
    let (headline, mood) = headline(instances, lang);
    Live {
        lang,
        version: env!("CARGO_PKG_VERSION"),
        host,
        headline,
        mood,
        time: crate::clock::rfc3339_seconds(now.1).replace('T', " ").replace('Z', " UTC"),
        chips: chips(instances, &wanted, lang),
        only: wanted
            .target
            .iter()
            .map(|t| format!("{}{}", lang.pick("target ", "目标 "), one_line(t, 64)))
            .chain(wanted.state.map(|s| state_words(s, lang).to_owned()))
            .collect::<Vec<_>>()
            .join(", "),
        loud,
        calm,
        earlier: (page > 1).then(|| link(page - 1)),
        later: (page < pages).then(|| link(page + 1)),
        place: if pages > 1 {
            say!(lang;
                "page {page} of {pages}, {} instances, the most alarming first";
                "第 {page}/{pages} 页，共 {} 个实例，最紧急的在前",
                shown
            )
        } else {
            String::new()
        },
        more_bundles: of_target.len().saturating_sub(BUNDLES),
        bundles: of_target.into_iter().take(BUNDLES).map(|b| row(b, lang)).collect(),
        troubles,
    }
}

impl Wanted {
    fn link(&self, target: Option<&str>, state: Option<Stand>, page: usize) -> String {
        let mut query = Vec::new();
        query.extend(target.map(|t| format!("target={}", encoded(t))));
        query.extend(state.map(|s| format!("state={}", s.name())));
        query.extend((page > 1).then(|| format!("page={page}")));
        if query.is_empty() { "/".into() } else { format!("/?{}", query.join("&")) }
    }
}

fn headline(instances: &[InstanceStatus], lang: Lang) -> (String, &'static str) {
    let live = instances.iter().filter(|i| i.instance.is_some()).count();
    let targets = instances.iter().map(|i| i.target.as_str()).collect::<std::collections::HashSet<_>>().len();
    // a capture that a person asked for is no incident
    let alarms = |i: &&InstanceStatus| match i.state {
        Stand::Capturing => i.incident.is_some(),
        state => matches!(state, Stand::Throttled | Stand::Pending | Stand::Open),
    };
    let alarming = instances.iter().filter(alarms).count();
    let blind = instances.iter().filter(|i| i.state == Stand::Blind).count();
    let counted = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let (of_instances, of_targets) = (counted(live, "instance"), counted(targets, "target"));
    let watched = say!(lang; "Watching {of_instances} of {of_targets}"; "正在监视 {targets} 个目标的 {live} 个实例");
    let incidents = (alarming > 0).then(|| {
        let counted = counted(alarming, "incident");
        say!(lang; "{counted}"; "{alarming} 起事件")
    });
    let unread = (blind > 0).then(|| say!(lang; "{blind} cannot be read"; "{blind} 个读不到"));
    let lacking = instances.iter().filter(|i| i.lacks_evidence().is_some()).count();
    let lacking = (lacking > 0).then(|| say!(lang; "the evidence of {lacking} could not be had"; "{lacking} 个取不到证据"));
    let wrong: Vec<String> = incidents.into_iter().chain(unread).chain(lacking).collect();
    if wrong.is_empty() {
        return (say!(lang; "{watched}; nothing is wrong"; "{watched}；一切正常"), "calm");
    }
    let wrong = wrong.join(lang.pick(", ", "，"));
    (say!(lang; "{watched}; {wrong}"; "{watched}；{wrong}"), "alarm")
}

/// The name of the state, and in Chinese what it means before it.
fn state_words(state: Stand, lang: Lang) -> &'static str {
    let zh = match state {
        Stand::Capturing => "采集中 capturing",
        Stand::Throttled => "限流 throttled",
        Stand::Pending => "将触发 pending",
        Stand::Open => "未恢复 open",
        Stand::Blind => "读不到 blind",
        Stand::Cooldown => "冷却 cooldown",
        Stand::Warming => "预热 warming",
        Stand::Armed => "待命 armed",
        Stand::Waiting => "等进程 waiting",
    };
    lang.pick(state.name(), zh)
}

fn chips(instances: &[InstanceStatus], wanted: &Wanted, lang: Lang) -> Vec<Chip> {
    const ALL: [Stand; 9] = [
        Stand::Capturing,
        Stand::Throttled,
        Stand::Pending,
        Stand::Open,
        Stand::Blind,
        Stand::Cooldown,
        Stand::Warming,
        Stand::Armed,
        Stand::Waiting,
    ];
    let count = |state: Stand| instances.iter().filter(|i| i.state == state).count();
    let chip = |state: Stand| {
        let is_chosen = wanted.state == Some(state);
        // to choose it again is to choose all
        let link = wanted.link(wanted.target.as_deref(), (!is_chosen).then_some(state), 1);
        Chip { state: state.name(), words: state_words(state, lang), count: count(state), is_chosen, link }
    };
    ALL.into_iter().filter(|s| count(*s) > 0 || wanted.state == Some(*s)).map(chip).collect()
}

fn card(
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
        target: i.target.clone(),
        instance: label,
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

fn contents(b: &Caught) -> String {
    format!("/bundles/{}/", b.id)
}

fn row(b: &Caught, lang: Lang) -> Row {
    use crate::verdict::Explains;
    let when = b.started.get(..19).unwrap_or(&b.started).replace('T', " ");
    let explains = b.verdict.as_ref().map_or("unknown", |v| match v.go_heap_explains {
        Explains::Yes => "yes",
        Explains::Partly => "partly",
        Explains::No => "no",
        Explains::Unknown => "unknown",
    });
    Row {
        id: b.id.clone(),
        when,
        target: b.target.clone(),
        instance: b.instance.clone(),
        trigger: b.trigger.name(),
        rss: ByteSize(b.rss_bytes).to_string(),
        verdict: b.verdict.as_ref().map_or_else(
            || say!(lang; "no verdict, {}"; "没有结论，{}", b.outcome.name()),
            |v| match lang {
                Lang::En => format!("{} · {}", word(&v.cause), word(&v.confidence)),
                Lang::Zh => report::verdict_words(v.cause, v.confidence, lang),
            },
        ),
        explains,
        summary: b.verdict.as_ref().map_or_else(|| b.reason.clone(), |v| v.summary.clone()),
        report: b.report.clone(),
        contents: contents(b),
        archive: format!("/bundles/{}.tar.gz", b.id),
        size: ByteSize(b.bytes).to_string(),
    }
}

/// As in verdict.json, with blanks.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(|s| s.replace('_', " "))).unwrap_or_default()
}

/// Bytes per second as a person thinks of leaks: per minute.
pub(crate) fn words_of_slope(bytes_per_second: f64, lang: Lang) -> String {
    let per_minute = bytes_per_second * 60.0;
    if per_minute.abs() < 16.0 * 1024.0 {
        return lang.pick("flat", "平稳").into();
    }
    let (sign, size) = (if per_minute < 0.0 { '−' } else { '+' }, ByteSize(per_minute.abs() as u64));
    say!(lang; "{sign}{size}/min"; "{sign}{size}/分")
}

/// The time to the limit, where it is worth telling.
pub(crate) fn words_of_eta(seconds: Option<f64>) -> Option<String> {
    seconds.filter(|s| *s < 7.0 * 86_400.0).and_then(|s| Duration::try_from_secs_f64(s).ok()).map(human)
}

/// For a query or a path.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
