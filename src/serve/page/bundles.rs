//! A bundle on the page.

use super::words::word;
use crate::lang::{Lang, say};
use crate::report;
use crate::serve::index::Caught;
use crate::units::ByteSize;

pub(super) struct Row {
    pub id: String,
    pub when: String,
    /// The target; of one that means many services, which of them.
    pub title: String,
    pub instance: String,
    pub trigger: &'static str,
    pub rss: String,
    pub verdict: String,
    /// `yes`, `no`, `partly`, `unknown`: a class.
    pub explains: &'static str,
    pub summary: String,
    pub report: Option<String>,
    pub contents: String,
    pub archive: String,
    pub size: String,
}

pub(super) fn contents(b: &Caught) -> String {
    format!("/bundles/{}/", b.id)
}

pub(super) fn row(b: &Caught, lang: Lang) -> Row {
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
        title: b.workload.clone().unwrap_or_else(|| b.target.clone()),
        instance: if b.workload.is_some() { format!("{}, {}", b.target, b.instance) } else { b.instance.clone() },
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
