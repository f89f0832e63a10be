//! The status page: written here, whole at `/`, and at `/live` the part that a browser renews. Nothing of it is inline, so that its policy
//! allows no script and no style but memtrap's own two files.
//!
//! Bounded, whatever is watched: so many instances on a page, the most alarming first, and so many bundles.

mod bundles;
mod card;
mod words;

use std::collections::BTreeMap;

use super::index::Caught;
use super::routes::{Asked, Instance, Misasked, Parameters, Shared, alone};
use super::view::{Unavailable, View};
use crate::clock::{self, Mono};
use crate::incident::State as Stand;
use crate::lang::{Lang, say};
use crate::poll::{History, InstanceStatus};
use crate::text::one_line;
use askama::Template;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use bundles::{Row, row};
use card::{Card, card, is_loud, rank};
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use serde::Deserialize;
use std::sync::Arc;
use words::state_words;
pub(crate) use words::{word, words_of_eta, words_of_slope};

pub(super) const STYLE: &str = include_str!("../../../templates/status.css");
pub(super) const SCRIPT: &str = include_str!("../../../templates/status.js");
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
