//! `[[notify]]`: whom to tell of a bundle, and in which words.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeTable;

use super::auth::{self, Uses};
use super::reader::{Read, Table, Value, duration, fault, list, secret_file, text};
use super::source::user;
use super::{Auth, Invalid, User, endpoint};

/// What `/metrics` calls the receiver of uploads, and so nobody else's name.
pub const UPLOAD: &str = "upload";

/// Someone who is told of each bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Notify {
    /// Unique; what is queued is queued for this name.
    pub name: String,
    pub how: Channel,
    /// `None`: of every target.
    pub targets: Option<Vec<String>>,
    pub message: Message,
    /// For one delivery.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Channel {
    /// memtrap's own JSON.
    Webhook(Receiver),
    /// An incoming webhook of Slack, or of what takes the same: `{"text": …}`.
    Slack(Receiver),
    /// The base URL of an Alertmanager, whose API v2 is used. With labels that every alert gets besides its own, for routing.
    Alertmanager(Receiver, Vec<(String, String)>),
    /// Program and arguments; no shell.
    Exec(Vec<String>),
}

impl Channel {
    pub const fn name(&self) -> &'static str {
        match self {
            Channel::Webhook(_) => "webhook",
            Channel::Slack(_) => "slack",
            Channel::Alertmanager(..) => "alertmanager",
            Channel::Exec(_) => "exec",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Receiver {
    pub url: ReceiverUrl,
    pub auth: Auth,
    /// Who may listen where it is on this host, besides root and memtrap's own user.
    pub user: Option<User>,
}

/// Whoever knows a chat's webhook may write there: the URL is never printed.
#[derive(Clone, PartialEq)]
pub enum ReceiverUrl {
    Inline(String),
    /// Read anew for each delivery.
    File(PathBuf),
}

impl std::fmt::Debug for ReceiverUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReceiverUrl::Inline(_) => f.write_str("Inline(…)"),
            ReceiverUrl::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Notify {
    pub fn is_for(&self, target: &str) -> bool {
        self.targets.as_ref().is_none_or(|targets| targets.iter().any(|t| t == target))
    }
}

/// A message with places for facts: `{summary}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Fact(&'static str),
}

/// What a message can name.
const FACTS: [&str; 15] = [
    "target",
    "instance",
    "host",
    "trigger",
    "reason",
    "rss",
    "limit",
    "outcome",
    "cause",
    "confidence",
    "summary",
    "link",
    "bundle",
    "path",
    "incident",
];
const MAX_MESSAGE: usize = 4_096;

impl Default for Message {
    /// `{target} ({instance} on {host}): {summary}`, and the link on a line of its own.
    fn default() -> Message {
        let text = |text: &str| Piece::Literal(text.into());
        let fact = Piece::Fact;
        let pieces = [
            fact("target"),
            text(" ("),
            fact("instance"),
            text(" on "),
            fact("host"),
            text("): "),
            fact("summary"),
            text("\n"),
            fact("link"),
        ];
        Message(pieces.into())
    }
}

impl FromStr for Message {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Message, Invalid> {
        if text.trim().is_empty() || text.len() > MAX_MESSAGE {
            return Err(Invalid(format!("a message has 1 to {MAX_MESSAGE} bytes")));
        }
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, from)) = rest.find(['{', '}']).and_then(|at| rest.split_at_checked(at)) {
            literal.push_str(before);
            if let Some((brace, after)) = from.strip_prefix("{{").map(|r| ('{', r)).or(from.strip_prefix("}}").map(|r| ('}', r))) {
                literal.push(brace);
                rest = after;
                continue;
            }
            let place = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let known = place.and_then(|(name, after)| Some((*FACTS.iter().find(|fact| **fact == name)?, after)));
            let Some((fact, after)) = known else {
                return Err(Invalid(format!("a message can name {{{}}}; write {{{{ and }}}} for braces", FACTS.join("}, {"))));
            };
            pieces.extend([Piece::Literal(std::mem::take(&mut literal)), Piece::Fact(fact)]);
            rest = after;
        }
        literal.push_str(rest);
        pieces.push(Piece::Literal(literal));
        pieces.retain(|piece| !matches!(piece, Piece::Literal(text) if text.is_empty()));
        Ok(Message(pieces))
    }
}

impl Message {
    /// The text with every fact in its place.
    pub fn fill(&self, fact: impl Fn(&str) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Fact(name) => fact(name),
        };
        self.0.iter().map(piece).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MAX_TARGETS: usize = 1_000;
const MAX_ARGUMENTS: usize = 64;
const MAX_LABELS: usize = 32;
const KINDS: [&str; 4] = ["webhook", "slack", "alertmanager", "exec"];
const KIND_HELP: &str = "one of \"webhook\", \"slack\", \"alertmanager\", \"exec\"";

/// What memtrap sets itself may not be overwritten: it is what tells one alert from another.
pub const OWN_LABELS: [&str; 9] = ["alertname", "target", "instance", "host", "trigger", "cause", "confidence", "incident", "part"];

/// Reads every `[[notify]]`; what is wrong is noted and left out. `targets` are the names that there are.
pub(super) fn read(root: &mut Table<'_, '_>, targets: &[String]) -> Vec<Notify> {
    let mut good: Vec<Notify> = Vec::new();
    let mut lines: Vec<(String, usize)> = Vec::new();
    for (index, (entries, at)) in root.tables("notify").unwrap_or_default().into_iter().enumerate() {
        let label = match name_in(entries) {
            Some(name) => format!("notify \"{name}\": "),
            None => format!("notify #{}: ", index + 1),
        };
        let mut table = root.nested(entries, at, label, "[[notify]]");
        let line = table.line(table.place().start);
        let found = read_one(&mut table, targets);
        if let Some(notify) = found {
            match lines.iter().find(|(name, _)| *name == notify.name) {
                Some((_, first)) => {
                    let at = table.place_of("name").unwrap_or(table.place());
                    table.error(
                        at,
                        format_args!("name: taken by the one of line {first}; names must differ, and without one it is the kind's"),
                    );
                }
                None => lines.push((notify.name.clone(), line)),
            }
            good.push(notify);
        }
        table.finish(&[]);
    }
    good
}

fn name_in<'t>(entries: &'t DeTable<'t>) -> Option<&'t str> {
    let name = entries.get("name").and_then(|v| v.get_ref().as_str())?;
    endpoint::parse_name(name).is_ok().then_some(name)
}

fn read_one(t: &mut Table<'_, '_>, targets: &[String]) -> Option<Notify> {
    let name = t.take("name", name);
    let kind = t.take("kind", kind);
    if !t.has("kind") {
        t.missing(format_args!("kind: missing; {KIND_HELP}"));
    }
    let inline = t.take("url", |v| parse_url(text(v, "a URL such as \"https://alerts.internal/hook\"")?).or_else(|why| fault(v, why)));
    let file = t.take("url_file", secret_file);
    let user = t.take("user", user);
    let command = t.take("command", command);
    let labels = t.table("labels", r#"{ severity = "page" }"#).map(labels).unwrap_or_default();
    let wanted = list("a list of targets' names such as [\"checkout\"]", MAX_TARGETS, |v| {
        let name = text(v, "the name of a target")?;
        if targets.iter().any(|t| t == name) { Ok(name.to_owned()) } else { fault(v, "there is no target of this name") }
    });
    let wanted = t.take("targets", wanted);
    let message = t.take("message", |v| {
        text(v, "a text with places for facts such as \"{target}: {summary}\"")?.parse::<Message>().or_else(|e| fault(v, e.to_string()))
    });
    let timeout = t.take("timeout", duration(SECOND..=SECOND * 300)).unwrap_or(SECOND * 10);
    if let (Some([]), Some(at)) = (wanted.as_deref(), t.place_of("targets")) {
        t.error(at, "targets: empty: nobody would be told of anything; leave it out for all targets");
    }
    let auth = auth::read(t, &Uses::url(inline.as_deref(), "url"));

    let kind = kind?;
    let foreign: &[&str] = match kind {
        "exec" => &["url", "url_file", "auth", "labels", "user"],
        "alertmanager" => &["command"],
        _ => &["command", "labels"],
    };
    for key in foreign {
        if let Some(at) = t.place_of(key) {
            t.error(at, format_args!("{key}: has no effect for kind = \"{kind}\"; remove it"));
        }
    }
    let name = if t.has("name") { name } else { Some(kind.to_owned()) };
    let how = if kind == "exec" {
        if !t.has("command") {
            t.missing("command: missing; write for example command = [\"/usr/local/bin/page-me\"]");
        }
        Channel::Exec(command?)
    } else {
        if let (true, Some(at)) = (t.has("url"), t.place_of("url_file")) {
            t.error(at, "url_file: conflicts with url; keep one");
        }
        if !t.has("url") && !t.has("url_file") {
            t.missing("url: missing; or url_file, for one that is a secret");
        }
        let receiver = Receiver { url: inline.map(ReceiverUrl::Inline).or(file.map(ReceiverUrl::File))?, auth, user };
        match kind {
            "slack" => Channel::Slack(receiver),
            "alertmanager" => Channel::Alertmanager(receiver, labels),
            _ => Channel::Webhook(receiver),
        }
    };
    Some(Notify { name: name?, how, targets: wanted, message: message.unwrap_or_default(), timeout })
}

fn name(value: &Value<'_>) -> Read<String> {
    match endpoint::parse_name(text(value, "a name such as \"oncall\"")?) {
        Ok(name) if name == UPLOAD => fault(value, "taken: in /metrics it is the receiver of uploads; choose another"),
        Ok(name) => Ok(name),
        Err(error) => fault(value, error.to_string()),
    }
}

fn kind(value: &Value<'_>) -> Read<&'static str> {
    let found = text(value, KIND_HELP)?;
    KINDS.into_iter().find(|kind| *kind == found).map_or_else(|| fault(value, format!("expected {KIND_HELP}")), Ok)
}

/// A receiver's URL, from the configuration or its file. Messages do not quote it.
pub fn parse_url(text: &str) -> Result<String, &'static str> {
    match reqwest::Url::parse(text.trim()) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => Err("not an http or https URL"),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("a URL with a user or password in it: use auth = { basic = { … } }")
        }
        Ok(url) if url.fragment().is_some() => Err("a URL with a fragment, which no server sees"),
        Ok(url) => Ok(url.into()),
        Err(_) => Err("not a URL"),
    }
}

fn command(value: &Value<'_>) -> Read<Vec<String>> {
    let argument = |v: &Value<'_>| match text(v, "a string")? {
        argument if argument.contains('\0') => fault(v, "an argument cannot hold a NUL character"),
        argument => Ok(argument.to_owned()),
    };
    let words = list("a list: the program's path and its arguments", MAX_ARGUMENTS, argument)(value)?;
    match words.first() {
        Some(program) if program.starts_with('/') => Ok(words),
        Some(_) => fault(value, "the program must be an absolute path; there is no shell in between"),
        None => fault(value, "empty; name a program"),
    }
}

fn labels(mut t: Table<'_, '_>) -> Vec<(String, String)> {
    let mut good = Vec::new();
    let entries = t.entries();
    if entries.is_empty() || entries.len() > MAX_LABELS {
        t.error_here(format_args!("expected 1 to {MAX_LABELS} labels"));
    }
    for (name, at, value) in entries.into_iter().take(MAX_LABELS) {
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let shown = crate::text::one_line(name, 64);
            t.error(at, format_args!("{shown}: not the name of a label: letters, digits and _ are allowed"));
        } else if OWN_LABELS.contains(&name) {
            t.error(at, format_args!("{name}: memtrap sets this label itself"));
        } else {
            match text(value, "a label's value") {
                Ok(value) => good.push((name.to_owned(), value.to_owned())),
                Err(faults) => faults.into_iter().for_each(|f| t.error(f.at, format_args!("{name}: {}", f.message))),
            }
        }
    }
    good
}
