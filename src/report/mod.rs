//! The analysis as people read it: [`text`] for a terminal, [`html`] as one self-contained page. Pure: an [`Analysis`] in, a text out.
//!
//! Names in it come from the process. They are cut to one line of printable characters here, and the page's template escapes them.
//! The page needs no scripts and loads nothing. Not here: what the numbers mean (`verdict`), where the files go (`bundle`).

mod guide;
mod labels;
mod page;
mod plot;
mod text;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use page::html;
pub use text::{groups, text};

use crate::analysis::Analysis;
use crate::anatomy::Cgroup;
use crate::bundle::{FileEntry, Manifest, Status};
use crate::clock::human;
use crate::lang::{Lang, say};
use crate::text::one_line;
use crate::units::ByteSize;
use crate::verdict::{Cause, Confidence, Group, Verdict};

/// What the child process hands to the capture that asked for it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Written {
    pub verdict: Verdict,
    pub text: String,
    pub html: String,
}

/// All forms of one analysis.
pub fn write(analysis: Analysis) -> Written {
    Written { text: text(&analysis), html: html(&analysis), verdict: analysis.verdict }
}

/// A name from outside, on one line.
fn clean(text: &str) -> String {
    one_line(text, 300)
}

fn size(bytes: i64) -> String {
    let sign = if bytes < 0 { "−" } else { "" };
    format!("{sign}{}", ByteSize(bytes.unsigned_abs()))
}

/// With its sign, whatever it is.
fn growth(bytes: i64) -> String {
    if bytes > 0 { format!("+{}", size(bytes)) } else { size(bytes) }
}

fn percent(part: i64, whole: i64) -> String {
    match part as f64 / whole.max(1) as f64 * 100.0 {
        share if share != 0.0 && share.abs() < 1.0 => "<1%".to_owned(),
        share => format!("{share:.0}%"),
    }
}

fn part(part: u64, whole: u64) -> String {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    percent(signed(part), signed(whole))
}

/// As in verdict.json.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn unix_ms(rfc3339: &str) -> Option<u64> {
    let at = humantime::parse_rfc3339(rfc3339).ok()?;
    u64::try_from(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn wait(group: &Group) -> Option<String> {
    group.longest_wait_seconds.filter(|s| *s > 0).map(|s| human(Duration::from_secs(s)))
}

/// The innermost frames, those that only say how it waits left out where others follow.
fn first_frames(group: &Group) -> Vec<String> {
    let at = group.stands_in().and_then(|own| group.stack.iter().position(|f| f == own)).unwrap_or(0);
    group.stack.iter().skip(at).take(3).map(|f| clean(f)).collect()
}

/// Steps that did not end well, with the reason.
fn troubles(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    manifest.files.iter().filter(|f| f.status != Status::Ok)
}

/// What is known about the process, in a few words each.
fn process(analysis: &Analysis) -> Vec<(&'static str, String)> {
    let lang = analysis.lang;
    let mut said = Vec::new();
    let mut say = |what, words: Option<String>| said.extend(words.map(|w| (what, clean(&w))));
    let facts = analysis.process.as_ref();
    if let Some(manifest) = &analysis.manifest {
        let exe = manifest.instance.exe.as_deref().map(|exe| format!(", {exe}")).unwrap_or_default();
        say(lang.pick("process", "进程"), Some(format!("{}{exe}", manifest.instance.label)));
    }
    let seconds = |s: f64| Duration::try_from_secs_f64(s).ok().map(human);
    say(lang.pick("up", "已运行"), facts.and_then(|p| p.age_seconds).and_then(seconds));
    say("Go", facts.and_then(|p| p.go.as_ref()).map(|go| go.go_version.trim_start_matches("go").to_owned()));
    let env = facts.and_then(|p| p.env.as_ref()).filter(|env| !env.is_empty());
    say(
        lang.pick("settings", "设置"),
        env.map(|env| env.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")),
    );
    let limit = facts.and_then(|p| p.limit.as_ref()).map(|l| format!("{} ({})", ByteSize(l.bytes), l.source));
    let fired = analysis.manifest.as_ref().and_then(|m| m.trigger.limit_bytes).map(|l| ByteSize(l).to_string());
    say(lang.pick("limit", "上限"), limit.or(fired));
    say(lang.pick("host", "主机"), analysis.manifest.as_ref().map(|m| m.host.clone()));
    said
}

fn where_it_is(v: &Verdict, lang: Lang) -> String {
    let rss = ByteSize(v.whole_bytes());
    match v.mapped_bytes {
        Some(_) => say!(lang; "What Go has from the kernel: {rss}"; "Go 从内核取得的内存：{rss}"),
        None => say!(lang; "Where the {rss} are"; "这 {rss} 在哪里"),
    }
}

fn where_it_is_charged(cgroup: &Cgroup, lang: Lang) -> String {
    let (path, usage, limit) = (clean(&cgroup.path), ByteSize(cgroup.usage_bytes), ByteSize(cgroup.limit_bytes));
    say!(lang; "What uses {usage} of the {limit} of cgroup {path}"; "cgroup {path} 的上限 {limit} 中的 {usage} 用在哪里")
}

fn goroutines(count: u64, lang: Lang) -> String {
    say!(lang; "{count} goroutines"; "{count} 个 goroutine")
}

/// Cause and confidence in a few words, where there is no room for the names.
pub fn verdict_words(cause: Cause, confidence: Confidence, lang: Lang) -> String {
    format!("{}{}{}", guide::of(cause, None, lang).title, lang.pick(", ", "，"), guide::confidence(confidence, lang))
}

/// The bundle's target and moment, or the directory's name.
fn title(analysis: &Analysis) -> String {
    match &analysis.manifest {
        Some(manifest) => clean(&manifest.target),
        None => clean(&analysis.path.file_name().unwrap_or(analysis.path.as_os_str()).to_string_lossy()),
    }
}

/// For tests of verdicts: what their report advises besides.
#[cfg(test)]
pub fn advice_for_waiting(verdict: &Verdict) -> Option<&'static str> {
    guide::of_waiting(verdict, Lang::En)
}

#[cfg(test)]
mod tests;
